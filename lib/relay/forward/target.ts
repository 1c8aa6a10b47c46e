import { isIPv6 } from 'node:net'
import { FST_ERR_DUPLEX_INVALID_OPTION } from '../../errors.ts'
import type { DialTarget, DialTlsOptions, ForwardTarget } from '../../../types/index.ts'

/** An upstream: how it is dialled, and what is sent to it. */
export interface Target {
  readonly dial: DialTarget
  readonly tls: DialTlsOptions | undefined
  /** The value of the field `Host`. */
  readonly host: string
  readonly scheme: 'http' | 'https'
}

const PORTS = { http: 80, https: 443 } as const

const known = new Map<string, Target>()
/** An app has few upstreams. But it may make each of them up from the request. */
const MOST_KNOWN = 256

/** Parses the text of an origin only once. */
export function knownTarget (given: ForwardTarget): Target {
  if (typeof given !== 'string') return targetOf(given)
  let target = known.get(given)
  if (target === undefined) {
    target = targetOf(given)
    if (known.size >= MOST_KNOWN) known.clear()
    known.set(given, target)
  }
  return target
}

/** Throws if this is no upstream. A client must never be able to choose one, so nothing is guessed. */
export function targetOf (given: ForwardTarget): Target {
  if (typeof given === 'string' || given instanceof URL) return ofOrigin(given)
  const { host, port, socketPath, tls } = (typeof given === 'object' && given !== null ? given : {}) as Record<string, unknown>
  const isTls = tls === undefined || typeof tls === 'boolean' || (typeof tls === 'object' && tls !== null)
  if (isTls && typeof socketPath === 'string' && socketPath !== '' && host === undefined && port === undefined) {
    return target({ path: socketPath }, tls as boolean, 'localhost')
  }
  const isPort = Number.isInteger(port) && (port as number) > 0 && (port as number) <= 65535
  if (isTls && typeof host === 'string' && /^[^\s/?#@\\[\]]+$/.test(host) && isPort && socketPath === undefined) {
    return target({ host, port: port as number }, tls as boolean, hostField(host, port as number, isOn(tls)))
  }
  throw invalid(given)
}

function ofOrigin (given: string | URL): Target {
  let url: URL
  try {
    url = new URL(given)
  } catch {
    throw invalid(given)
  }
  const { protocol, hostname, pathname, search, hash, username, password, port } = url
  const scheme = protocol.slice(0, -1)
  const isOrigin = hostname !== '' && pathname === '/' && search === '' && hash === '' && username === '' && password === ''
  if (!isOrigin || (scheme !== 'http' && scheme !== 'https')) throw invalid(given)
  const host = hostname.startsWith('[') ? hostname.slice(1, -1) : hostname
  const number = port === '' ? PORTS[scheme] : Number(port)
  return target({ host, port: number }, scheme === 'https', hostField(host, number, scheme === 'https'))
}

function target (dial: DialTarget, tls: boolean | DialTlsOptions | undefined, host: string): Target {
  const options = tls === true ? {} : tls === false ? undefined : tls
  return { dial, tls: options, host, scheme: options === undefined ? 'http' : 'https' }
}

function isOn (tls: unknown): boolean {
  return tls !== undefined && tls !== false
}

function hostField (host: string, port: number, tls: boolean): string {
  const name = isIPv6(host) ? `[${host}]` : host
  return port === PORTS[tls ? 'https' : 'http'] ? name : `${name}:${port}`
}

function invalid (given: unknown): Error {
  const shown = typeof given === 'string' ? JSON.stringify(given) : given instanceof URL ? given.href : JSON.stringify(given) ?? String(given)
  return new FST_ERR_DUPLEX_INVALID_OPTION(
    `the upstream of forward must be an origin such as "http://host:port", { host, port, tls? } or { socketPath, tls? }, got ${shown}`)
}
