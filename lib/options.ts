import { FST_ERR_DUPLEX_INVALID_OPTION } from './errors.ts'
import { isToken } from './handshake/tokens.ts'
import type { DuplexKind, DuplexProtocolChooser, FastifyDuplexOptions, Milliseconds } from '../types/index.ts'

export const KINDS: readonly DuplexKind[] = ['upgrade', 'connect', 'hijack', 'body']

/** The limits of one connection, every one of them set. */
export interface Limits {
  handshakeTimeout: Milliseconds | undefined
  idleTimeout: Milliseconds
  finTimeout: Milliseconds
  halfOpenTimeout: Milliseconds
  tcpKeepAlive: Milliseconds
  maxLifetime: Milliseconds
  readTimeout: Milliseconds
  maxBuffered: number
  maxConnections: number
}

export interface PluginSettings extends Limits {
  kinds: readonly DuplexKind[]
  drainTimeout: Milliseconds
  extendedConnect: boolean
}

export interface RouteSettings extends Limits {
  kinds: readonly DuplexKind[]
  /** The kinds were named on the route itself. */
  kindsNamed: boolean
  protocols: readonly string[] | undefined
  chooser: DuplexProtocolChooser<string> | undefined
  manual: boolean
}

const DEFAULTS: PluginSettings = {
  kinds: KINDS,
  handshakeTimeout: undefined,
  idleTimeout: 0,
  finTimeout: 30_000,
  halfOpenTimeout: 0,
  tcpKeepAlive: 60_000,
  maxLifetime: 0,
  readTimeout: 0,
  maxBuffered: 0,
  maxConnections: Infinity,
  drainTimeout: 10_000,
  extendedConnect: false
}

/** The longest delay of a timer: longer ones fire at once. */
const LONGEST = 2 ** 31 - 1

const TIMEOUTS = ['handshakeTimeout', 'idleTimeout', 'finTimeout', 'halfOpenTimeout', 'tcpKeepAlive', 'maxLifetime'] as const
const PLUGIN_ONLY = ['drainTimeout', 'extendedConnect'] as const
const ROUTE_ONLY = ['protocols', 'accept'] as const

type Loose = Record<string, unknown>

export function pluginSettings (options: FastifyDuplexOptions): PluginSettings {
  const given = options as Loose
  for (const name of ROUTE_ONLY) if (given[name] !== undefined) throw invalid(name, 'set on a route', given[name])
  // `prefix` and the log options belong to register() and are in the same object.
  checkNames(given, [...TIMEOUTS, ...PLUGIN_ONLY, 'kinds', 'maxConnections', 'prefix', 'logLevel', 'logSerializers'])
  checkDuration('drainTimeout', given.drainTimeout)
  if (given.extendedConnect !== undefined && typeof given.extendedConnect !== 'boolean') {
    throw invalid('extendedConnect', 'a boolean', given.extendedConnect)
  }
  return {
    ...DEFAULTS,
    ...limits(given),
    ...pick(given, 'drainTimeout'),
    ...pick(given, 'extendedConnect'),
    kinds: kinds(given.kinds) ?? DEFAULTS.kinds
  }
}

export function routeSettings (duplex: unknown, plugin: PluginSettings): RouteSettings {
  if (duplex !== true && (typeof duplex !== 'object' || duplex === null || Array.isArray(duplex))) {
    throw invalid('duplex', 'true or an object', duplex)
  }
  const given: Loose = duplex === true ? {} : duplex as Loose
  for (const name of PLUGIN_ONLY) if (given[name] !== undefined) throw invalid(name, 'set on the plugin', given[name])
  checkNames(given, [...TIMEOUTS, ...ROUTE_ONLY, 'kinds', 'maxConnections'])
  const { protocols, accept } = given
  if (accept !== undefined && accept !== 'auto' && accept !== 'manual') throw invalid('accept', '"auto" or "manual"', accept)
  const named = kinds(given.kinds)
  return {
    handshakeTimeout: plugin.handshakeTimeout,
    idleTimeout: plugin.idleTimeout,
    finTimeout: plugin.finTimeout,
    halfOpenTimeout: plugin.halfOpenTimeout,
    tcpKeepAlive: plugin.tcpKeepAlive,
    maxLifetime: plugin.maxLifetime,
    readTimeout: plugin.readTimeout,
    maxBuffered: plugin.maxBuffered,
    maxConnections: Infinity,
    ...limits(given),
    kinds: named ?? plugin.kinds,
    kindsNamed: named !== undefined,
    protocols: typeof protocols === 'function' ? undefined : tokens(protocols),
    chooser: typeof protocols === 'function' ? protocols as DuplexProtocolChooser<string> : undefined,
    manual: accept === 'manual'
  }
}

function limits (given: Loose): Partial<Limits> {
  const { maxConnections } = given
  if (maxConnections !== undefined && maxConnections !== Infinity &&
    !(Number.isInteger(maxConnections) && (maxConnections as number) >= 0)) {
    throw invalid('maxConnections', 'an integer of at least 0 or Infinity', maxConnections)
  }
  let result: Partial<Limits> = pick(given, 'maxConnections')
  for (const name of TIMEOUTS) {
    checkDuration(name, given[name])
    result = { ...result, ...pick(given, name) }
  }
  return result
}

function pick<N extends keyof PluginSettings> (given: Loose, name: N): Partial<Pick<PluginSettings, N>> {
  return given[name] === undefined ? {} : { [name]: given[name] } as Pick<PluginSettings, N>
}

function kinds (value: unknown): readonly DuplexKind[] | undefined {
  if (value === undefined) return undefined
  if (!Array.isArray(value) || value.length === 0 || !value.every(kind => (KINDS as unknown[]).includes(kind))) {
    throw invalid('kinds', `a list of ${KINDS.join(', ')}`, value)
  }
  return [...new Set(value as DuplexKind[])]
}

function tokens (value: unknown): readonly string[] | undefined {
  if (value === undefined) return undefined
  if (!Array.isArray(value) || value.length === 0 || !value.every(token => typeof token === 'string' && isToken(token))) {
    throw invalid('protocols', 'a function or a list of upgrade tokens', value)
  }
  return value as string[]
}

export function checkDuration (name: string, value: unknown): void {
  if (value === undefined) return
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > LONGEST) {
    throw invalid(name, `a whole number of milliseconds from 0 to ${LONGEST}`, value)
  }
}

function checkNames (given: Loose, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (!known.includes(name) && given[name] !== undefined) throw invalid(name, 'left out, as it is not known', given[name])
  }
}

function invalid (name: string, expected: string, value: unknown): Error {
  const shown = typeof value === 'function' ? 'a function' : JSON.stringify(value) ?? String(value)
  return new FST_ERR_DUPLEX_INVALID_OPTION(name, expected, shown)
}
