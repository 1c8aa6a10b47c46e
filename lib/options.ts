import { checkDuration, checkNames, invalidOption, tokens, type Loose, type Place } from './check-options.ts'
import {
  connectionLimits, GOVERNANCE_DEFAULTS, GOVERNANCE_NAMES, governanceSettings, type GovernanceSettings
} from './governance/options.ts'
import { appFields } from './handshake/accept-head.ts'
import { messageSettings, type MessageSettings } from './messages/options.ts'
import { listProtocols, type ListedProtocols } from './syntax/upgrade-tokens.ts'
import type { ForwardRoute } from './relay/forward/options.ts'
import type { DuplexHeaders, DuplexKind, DuplexProtocolChooser, FastifyDuplexOptions, Milliseconds } from '../types/index.ts'

export const KINDS: readonly DuplexKind[] = ['upgrade', 'connect', 'hijack', 'body']

/** The limits of one connection, with defaults filled in. */
export interface Limits extends GovernanceSettings {
  handshakeTimeout: Milliseconds | undefined
  idleTimeout: Milliseconds
  finTimeout: Milliseconds
  halfOpenTimeout: Milliseconds
  tcpKeepAlive: Milliseconds
  maxLifetime: Milliseconds
  readTimeout: Milliseconds
  /** In bytes, 0 for no limit. */
  maxBuffered: number
  maxConnections: number
}

export interface PluginSettings extends Limits {
  kinds: readonly DuplexKind[]
  /** The limit of a route that sets none. */
  maxPerRoute: number
  drainTimeout: Milliseconds
  drainSpread: Milliseconds
  extendedConnect: boolean
  ignoredUpgrades: 'close' | 'keep'
}

export interface RouteSettings extends Limits {
  kinds: readonly DuplexKind[]
  /** Whether the route itself has `kinds`. */
  kindsNamed: boolean
  protocols: readonly string[] | undefined
  /** The same protocols, as a map to look up the client's offer. */
  listed: ListedProtocols | undefined
  chooser: DuplexProtocolChooser<string> | undefined
  headers: DuplexHeaders | undefined
  manual: boolean
  /** The upstream of the route. Then it has no handler, and takes what `forwarding()` in routes/ says. */
  forward: ForwardRoute | undefined
  /** Whether the body of an upgrade stays unparsed. */
  rawBody: boolean
  messages: MessageSettings | undefined
}

const DEFAULTS: PluginSettings = {
  ...GOVERNANCE_DEFAULTS,
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
  maxPerRoute: Infinity,
  drainTimeout: 10_000,
  drainSpread: 0,
  extendedConnect: false,
  ignoredUpgrades: 'keep'
}

const TIMEOUTS = [
  'handshakeTimeout', 'idleTimeout', 'finTimeout', 'halfOpenTimeout', 'tcpKeepAlive', 'maxLifetime', 'readTimeout', 'expiryGrace'
] as const
const SHARED = [...TIMEOUTS, ...GOVERNANCE_NAMES, 'kinds', 'maxConnections', 'maxBuffered'] as const
const PLUGIN_ONLY = ['drainTimeout', 'drainSpread', 'extendedConnect', 'ignoredUpgrades'] as const
const ROUTE_ONLY = ['protocols', 'accept', 'headers', 'forward', 'messages', 'websocket'] as const

export function pluginSettings (options: FastifyDuplexOptions): PluginSettings {
  const given = options as Loose
  for (const name of ROUTE_ONLY) if (given[name] !== undefined) throw invalidOption(name, 'set on a route', given[name])
  // `prefix` and the log options are for register(), and come in the same object.
  checkNames(given, [...SHARED, ...PLUGIN_ONLY], ['prefix', 'logLevel', 'logSerializers'], {})
  checkDuration('drainTimeout', given.drainTimeout)
  checkDuration('drainSpread', given.drainSpread)
  const { extendedConnect, ignoredUpgrades } = given
  if (extendedConnect !== undefined && typeof extendedConnect !== 'boolean') {
    throw invalidOption('extendedConnect', 'a boolean', extendedConnect)
  }
  if (ignoredUpgrades !== undefined && ignoredUpgrades !== 'close' && ignoredUpgrades !== 'keep') {
    throw invalidOption('ignoredUpgrades', '"close" or "keep"', ignoredUpgrades)
  }
  return {
    ...DEFAULTS,
    ...limits(given, {}),
    ...connectionLimits(given.maxConnections, false, invalidOption),
    ...pick(given, 'drainTimeout'),
    ...pick(given, 'drainSpread'),
    ...pick(given, 'extendedConnect'),
    ...pick(given, 'ignoredUpgrades'),
    kinds: kinds(given.kinds, {}) ?? DEFAULTS.kinds
  }
}

/** @param route its method and URL */
export function routeSettings (duplex: unknown, plugin: PluginSettings, route: string): RouteSettings {
  const place = { route }
  if (duplex !== true && (typeof duplex !== 'object' || duplex === null || Array.isArray(duplex))) {
    throw invalidOption('duplex', 'true or an object', duplex, place)
  }
  const given: Loose = duplex === true ? {} : duplex as Loose
  for (const name of PLUGIN_ONLY) if (given[name] !== undefined) throw invalidOption(name, 'set on the plugin', given[name], place)
  checkNames(given, [...SHARED, ...ROUTE_ONLY], [], place)
  const { protocols, accept, headers } = given
  if (accept !== undefined && accept !== 'auto' && accept !== 'manual') throw invalidOption('accept', '"auto" or "manual"', accept, place)
  checkHeaders(headers, place)
  const named = kinds(given.kinds, place)
  const messages = messageSettings(given, route)
  const listed = typeof protocols === 'function' ? undefined : withWebSocket(tokens(protocols, place), messages)
  return {
    handshakeTimeout: plugin.handshakeTimeout,
    idleTimeout: plugin.idleTimeout,
    finTimeout: plugin.finTimeout,
    halfOpenTimeout: plugin.halfOpenTimeout,
    tcpKeepAlive: plugin.tcpKeepAlive,
    maxLifetime: plugin.maxLifetime,
    readTimeout: plugin.readTimeout,
    maxBuffered: plugin.maxBuffered,
    maxConnections: plugin.maxPerRoute,
    perKey: undefined,
    expires: plugin.expires,
    expiryGrace: plugin.expiryGrace,
    labels: plugin.labels,
    rate: plugin.rate,
    ...limits(given, place),
    ...connectionLimits(given.maxConnections, true, (name, expected, value) => invalidOption(name, expected, value, place)),
    kinds: named ?? kindsOf(messages) ?? plugin.kinds,
    kindsNamed: named !== undefined,
    protocols: listed,
    listed: listed && listProtocols(listed),
    chooser: typeof protocols === 'function' ? protocols as DuplexProtocolChooser<string> : undefined,
    headers: headers as DuplexHeaders | undefined,
    manual: accept === 'manual',
    forward: undefined,
    rawBody: false,
    messages
  }
}

/** The kinds of a route with messages that has no `kinds`. No method allows all of these. */
function kindsOf (messages: MessageSettings | undefined): readonly DuplexKind[] | undefined {
  if (messages === undefined) return undefined
  const { streams, sse } = messages
  if (streams.length > 0) return ['upgrade', 'connect', 'body']
  return sse ? ['upgrade', 'body'] : ['upgrade']
}

function withWebSocket (listed: readonly string[] | undefined, messages: MessageSettings | undefined): readonly string[] | undefined {
  if (messages?.websocket === undefined || listed?.some(token => token.toLowerCase() === 'websocket') === true) return listed
  return ['websocket', ...listed ?? []]
}

function limits (given: Loose, place: Place): Partial<Limits> {
  const { maxBuffered } = given
  if (maxBuffered !== undefined && !isCount(maxBuffered)) throw invalidOption('maxBuffered', 'a whole number of bytes', maxBuffered, place)
  let result: Partial<Limits> = {
    ...pick(given, 'maxBuffered'),
    ...governanceSettings(given, (name, expected, value) => invalidOption(name, expected, value, place))
  }
  for (const name of TIMEOUTS) {
    checkDuration(name, given[name], place)
    result = { ...result, ...pick(given, name) }
  }
  return result
}

function isCount (value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function pick<N extends keyof PluginSettings> (given: Loose, name: N): Partial<Pick<PluginSettings, N>> {
  return given[name] === undefined ? {} : { [name]: given[name] } as Pick<PluginSettings, N>
}

function kinds (value: unknown, place: Place): readonly DuplexKind[] | undefined {
  if (value === undefined) return undefined
  if (!Array.isArray(value) || value.length === 0 || !value.every(kind => (KINDS as unknown[]).includes(kind))) {
    throw invalidOption('kinds', `a list of ${KINDS.join(', ')}`, value, place)
  }
  return [...new Set(value as DuplexKind[])]
}

function checkHeaders (value: unknown, place: Place): void {
  if (value === undefined || typeof value === 'function') return
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalidOption('headers', 'an object or a function of the request', value, place)
  }
  try {
    appFields(value as Record<string, string>)
  } catch (error) {
    throw invalidOption('headers', `an object of header fields (${(error as Error).message})`, value, place)
  }
}
