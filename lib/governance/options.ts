import type { Loose } from '../check-options.ts'
import { FST_ERR_DUPLEX_INVALID_OPTION } from '../errors.ts'
import type { DuplexExpiry, DuplexKey, DuplexLabeller, DuplexMaxConnections, DuplexRate, Milliseconds } from '../../types/index.ts'

/** The governance options of a route. */
export interface GovernanceSettings {
  perKey: { readonly max: number, readonly key: DuplexKey } | undefined
  expires: DuplexExpiry | undefined
  expiryGrace: Milliseconds
  labels: DuplexLabeller | undefined
  rate: DuplexRate | undefined
}

/** Limits on how many connections there are at once. */
export interface ConnectionLimits extends Pick<GovernanceSettings, 'perKey'> {
  /** The limit of the plugin in all, or of the route, without regard to keys. */
  maxConnections: number
  /** Set by the plugin: the limit of each route that sets none. */
  maxPerRoute: number
}

export const GOVERNANCE_DEFAULTS: GovernanceSettings = {
  perKey: undefined,
  expires: undefined,
  expiryGrace: 0,
  labels: undefined,
  rate: undefined
}

export const GOVERNANCE_NAMES = ['expires', 'expiryGrace', 'labels', 'rate'] as const

type Invalid = (name: string, expected: string, value: unknown) => Error

/** Reads the governance options. Durations are checked together with all other durations. */
export function governanceSettings (given: Loose, invalid: Invalid): Partial<GovernanceSettings> {
  const settings: Loose = {}
  for (const name of ['expires', 'labels'] as const) {
    const value = given[name]
    if (value === undefined) continue
    if (typeof value !== 'function') throw invalid(name, 'a function of the request', value)
    settings[name] = value
  }
  if (given.expiryGrace !== undefined) settings.expiryGrace = given.expiryGrace
  if (given.rate !== undefined) settings.rate = rateOf(given.rate, invalid)
  return settings
}

/** @param ofRoute whether the option was set on a route */
export function connectionLimits (given: unknown, ofRoute: boolean, invalid: Invalid): Partial<ConnectionLimits> {
  if (given === undefined) return {}
  if (isLimit(given)) return { maxConnections: given, perKey: undefined }
  if (!isObject(given)) throw invalid('maxConnections', 'an integer of at least 0, Infinity, or an object { max, key, route }', given)
  const other = otherThan(given, ['max', 'key', 'route'])
  if (other !== undefined) throw invalid('maxConnections', `an object { max, key, route }, without ${other}`, given)
  const { max, key, route = Infinity } = given as unknown as DuplexMaxConnections
  if (!isLimit(max)) throw invalid('maxConnections.max', 'an integer of at least 0 or Infinity', max)
  if (!isLimit(route)) throw invalid('maxConnections.route', 'an integer of at least 0 or Infinity', route)
  if (key !== undefined && typeof key !== 'function') throw invalid('maxConnections.key', 'a function of the request', key)
  const perKey = key && { max, key }
  if (!ofRoute) return { maxConnections: key === undefined ? max : Infinity, perKey, maxPerRoute: route }
  return { maxConnections: key === undefined ? Math.min(max, route) : route, perKey }
}

/** What was given to `app.duplex.close()`, by code that types may not have checked. */
export function checkRevocation (given: unknown): void {
  const expected = 'close(label, options) needs an object { within, code, error }'
  if (!isObject(given)) throw new FST_ERR_DUPLEX_INVALID_OPTION(`${expected}, got ${given === null ? 'null' : typeof given}`)
  const other = otherThan(given, ['within', 'code', 'error'])
  if (other !== undefined) throw new FST_ERR_DUPLEX_INVALID_OPTION(`${expected}, without ${other}`)
}

function rateOf (given: unknown, invalid: Invalid): DuplexRate | undefined {
  if (!isObject(given)) throw invalid('rate', 'an object { bytesIn, bytesOut }', given)
  const other = otherThan(given, ['bytesIn', 'bytesOut'])
  if (other !== undefined) throw invalid('rate', `an object { bytesIn, bytesOut }, without ${other}`, given)
  for (const name of ['bytesIn', 'bytesOut'] as const) {
    const value = given[name]
    if (value !== undefined && !(Number.isSafeInteger(value) && value as number > 0)) {
      throw invalid(`rate.${name}`, 'a whole number of bytes a second, above 0', value)
    }
  }
  const { bytesIn, bytesOut } = given as DuplexRate
  return bytesIn === undefined && bytesOut === undefined ? undefined : { bytesIn, bytesOut }
}

function isLimit (value: unknown): value is number {
  return value === Infinity || (Number.isSafeInteger(value) && (value as number) >= 0)
}

function isObject (value: unknown): value is Loose {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function otherThan (names: Loose, known: readonly string[]): string | undefined {
  return Object.keys(names).find(name => !known.includes(name))
}
