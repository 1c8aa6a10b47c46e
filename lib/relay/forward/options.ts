import { checkDuration, checkNames, invalidOption, tokens as tokensOf, type Loose, type Place } from '../../check-options.ts'
import { listProtocols, type ListedProtocols } from '../../syntax/upgrade-tokens.ts'
import { targetOf } from './target.ts'
import type {
  ForwardedRequest, ForwardFieldsChange, ForwardOptions, ForwardRouteOptions, ForwardTarget, ForwardUpstream, Milliseconds
} from '../../../types/index.ts'

/** The options of `forward`, with defaults filled in. */
export interface ForwardSettings {
  readonly path: string | ((path: string, request: ForwardedRequest) => string) | undefined
  readonly requestHeaders: ForwardFieldsChange | undefined
  readonly acceptHeaders: ForwardFieldsChange | undefined
  readonly forwarded: 'append' | 'replace' | false
  readonly protocols: readonly string[] | undefined
  readonly listed: ListedProtocols | undefined
  readonly connectTimeout: Milliseconds
  readonly responseTimeout: Milliseconds
  readonly check: ForwardOptions['check']
  readonly version: '1.1' | '2'
}

/** The upstream of a route, and how its requests are forwarded. */
export interface ForwardRoute {
  readonly upstream: ForwardUpstream
  readonly settings: ForwardSettings
}

const NAMES = [
  'path', 'requestHeaders', 'acceptHeaders', 'forwarded', 'protocols', 'connectTimeout', 'responseTimeout', 'check', 'version'
] as const

/** Throws `FST_ERR_DUPLEX_INVALID_OPTION`. */
export function forwardSettings (options: ForwardOptions | undefined, place: Place = {}): ForwardSettings {
  return settingsOf((options ?? {}) as Loose, place)
}

function settingsOf (given: Loose, place: Place): ForwardSettings {
  checkNames(given, NAMES, [], place)
  const { path, requestHeaders, acceptHeaders, forwarded, protocols, connectTimeout, responseTimeout, check, version } = given
  if (path !== undefined && typeof path !== 'function' && !(typeof path === 'string' && path.startsWith('/'))) {
    throw invalidOption('forward.path', 'a function, or a string that begins with "/"', path, place)
  }
  for (const [name, value] of Object.entries({ requestHeaders, acceptHeaders, check })) {
    if (value !== undefined && typeof value !== 'function') throw invalidOption(`forward.${name}`, 'a function', value, place)
  }
  if (forwarded !== undefined && forwarded !== 'append' && forwarded !== 'replace' && forwarded !== false) {
    throw invalidOption('forward.forwarded', '"append", "replace" or false', forwarded, place)
  }
  if (version !== undefined && version !== '1.1' && version !== '2') throw invalidOption('forward.version', '"1.1" or "2"', version, place)
  checkDuration('forward.connectTimeout', connectTimeout, place)
  checkDuration('forward.responseTimeout', responseTimeout, place)
  const tokens = tokensOf(protocols, place, 'forward.protocols', 'a list of upgrade tokens')
  return {
    path: path as ForwardSettings['path'],
    requestHeaders: requestHeaders as ForwardFieldsChange | undefined,
    acceptHeaders: acceptHeaders as ForwardFieldsChange | undefined,
    forwarded: forwarded ?? 'append',
    protocols: tokens,
    listed: tokens && listProtocols(tokens),
    connectTimeout: (connectTimeout as Milliseconds | undefined) ?? 10_000,
    responseTimeout: (responseTimeout as Milliseconds | undefined) ?? 60_000,
    check: check as ForwardOptions['check'],
    version: version ?? '1.1'
  }
}

/** The option `forward` of a route: an upstream, or `{ to, ...options }`. */
export function forwardRoute (given: unknown, place: Place): ForwardRoute {
  const isWhole = typeof given === 'object' && given !== null && 'to' in given
  const { to, ...options } = isWhole ? given as ForwardRouteOptions : { to: given as ForwardUpstream }
  const settings = forwardSettings(options, place)
  return { upstream: typeof to === 'function' ? to : fixed(to, place), settings }
}

/** A target that does not depend on the request is checked once, at boot. */
function fixed (to: ForwardTarget, place: Place): ForwardTarget {
  try {
    targetOf(to)
  } catch {
    throw invalidOption('forward', 'a function, an origin such as "http://host:port", { host, port, tls? }, { socketPath, tls? } or { to, ...options }', to, place)
  }
  return to
}
