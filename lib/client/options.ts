import { validateHeaderValue } from 'node:http'
import { isIP } from 'node:net'
import type { Readable } from 'node:stream'
import { checkDuration } from '../check-options.ts'
import { FST_ERR_DUPLEX_INVALID_OPTION } from '../errors.ts'
import { isToken } from '../syntax/upgrade-tokens.ts'
import type { ClientHeaders, ConnectOptions, DialTarget } from '../../types/index.ts'

const KNOWN = [
  'protocol', 'method', 'target', 'headers', 'body', 'early', 'http2', 'proxy', 'socketPath', 'tls', 'timeout', 'signal', 'messages', 'websocket'
]

const OF_WEBSOCKET = ['sec-websocket-key', 'sec-websocket-version', 'sec-websocket-protocol', 'sec-websocket-extensions']

/** The server to connect to, and the request to send. */
export interface Plan {
  readonly to: DialTarget
  readonly secure: boolean
  /** `host:port` of the server, to ask a proxy for. */
  readonly through: string
  readonly host: string
  readonly method: string
  readonly target: string
  /** The fields as they are sent, as name and value in turn. */
  readonly headers: readonly string[]
  readonly protocol: readonly string[]
  readonly body: boolean | Buffer
  /** The stream that is sent as the body, right after the head. */
  readonly source: Readable | undefined
  readonly early: Buffer | undefined
  readonly proxy: URL | undefined
  /** It has no form in HTTP/2. */
  readonly http1Alone: boolean
}

const SCHEMES: Readonly<Record<string, boolean>> = { 'http:': false, 'ws:': false, 'https:': true, 'wss:': true }

/** Reads the arguments of `connect()`. The caller's code may not be typed. */
export function planOf (address: string | URL, options: ConnectOptions): Plan {
  if (!isObject(options)) throw invalid(`the options of connect() must be an object, got ${options === null ? 'null' : typeof options}`)
  for (const name of Object.keys(options)) if (!KNOWN.includes(name)) throw invalid(`there is no option ${name} of connect()`)
  checkDuration('timeout', options.timeout)
  const url = urlOf(address, 'url')
  const secure = SCHEMES[url.protocol]
  if (secure === undefined) throw invalid(`a URL of http:, https:, ws: or wss: is needed, got ${url.protocol}`)
  const { target, socketPath, websocket, http2, tls } = options
  if (http2 !== undefined && typeof http2 !== 'boolean') throw invalid('http2 must be true, false or undefined')
  if (tls !== undefined && !isObject(tls)) throw invalid('tls must be an object')
  const body = bodyOf(options.body)
  const protocol = websocket === undefined ? protocolOf(options.protocol) : ['websocket']
  if (websocket === undefined && url.protocol.startsWith('ws')) throw invalid(`a URL of ${url.protocol} needs websocket: true`)
  if (websocket !== undefined && options.protocol !== undefined) throw invalid('a WebSocket has websocket: { subprotocols } in place of protocol')
  if (target !== undefined && (protocol.length > 0 || body !== false)) throw invalid('a CONNECT has no protocol and no body')
  if (target !== undefined && !/^[!-"$-.0-9:-?A-~]+:\d+$/.test(target)) throw invalid(`target must be host:port, got ${JSON.stringify(target)}`)
  const { signal } = options
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalid('signal is no AbortSignal')
  const method = options.method ?? (target !== undefined ? 'CONNECT' : body !== false && protocol.length === 0 ? 'POST' : 'GET')
  if (!isToken(method) || method.includes('/')) throw invalid(`method is none: ${JSON.stringify(method)}`)
  if ((method === 'CONNECT') !== (target !== undefined)) throw invalid('a CONNECT needs a target, and only a CONNECT has one')
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const port = Number(url.port) || (secure ? 443 : 80)
  const early = bytesOf(options.early)
  if (early === undefined && options.early !== undefined) throw invalid('early must be a string or bytes')
  if (early !== undefined && body === true) throw invalid('early bytes of a body are written to writable')
  if (early !== undefined && body !== false && protocol.length === 0) throw invalid('early bytes have no place behind a body')
  if (socketPath !== undefined && options.proxy !== undefined) throw invalid('socketPath and proxy exclude one another')
  const http1Alone = noFormInHttp2(method, protocol, body, early)
  if (http1Alone !== undefined && options.http2 === true) throw invalid(`http2: ${http1Alone} has no form in HTTP/2`)
  return {
    to: socketPath === undefined ? { host, port } : { path: socketPath },
    secure,
    through: `${isIP(host) === 6 ? `[${host}]` : host}:${port}`,
    host,
    method,
    target: target ?? url.pathname + url.search,
    headers: headersOf(target ?? url.host, url, options.headers ?? {}, protocol),
    protocol,
    body,
    source: isReadable(options.body) ? options.body : undefined,
    early,
    proxy: options.proxy === undefined ? undefined : proxyOf(options.proxy),
    http1Alone: http1Alone !== undefined
  }
}

/** An extended CONNECT has one token, no method of its own and no body. A GET over HTTP/2 has ended with its head. */
function noFormInHttp2 (
  method: string, protocol: readonly string[], body: boolean | Buffer, early: Buffer | undefined
): string | undefined {
  if (protocol.length === 0) return early !== undefined && method !== 'CONNECT' ? 'a plain request with early bytes' : undefined
  if (method !== 'GET') return `an upgrade by ${method}`
  if (protocol.length > 1) return 'an upgrade to one of several protocols'
  return body === false ? undefined : 'an upgrade with a body'
}

function urlOf (address: unknown, name: string): URL {
  const url = parsed(address, name)
  if (url.port === '0') throw invalid(`${name} has port 0`)
  return url
}

function parsed (address: unknown, name: string): URL {
  try {
    return new URL(String(address))
  } catch {
    // The URL may hold a password, so the error does not show it.
    throw invalid(`${name} is no URL: ${JSON.stringify(String(address).replace(/[^/]*@/, '...@'))}`)
  }
}

function isObject (value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

function proxyOf (address: string | URL): URL {
  const url = urlOf(address, 'proxy')
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw invalid(`a proxy is http: or https:, got ${url.protocol}`)
  return url
}

function bodyOf (body: unknown): boolean | Buffer {
  if (body === undefined) return false
  if (body === true || isReadable(body)) return true
  const bytes = bytesOf(body)
  if (bytes === undefined) throw invalid('body must be true, a string, bytes or a Readable')
  return bytes
}

function bytesOf (given: unknown): Buffer | undefined {
  if (typeof given === 'string') return Buffer.from(given)
  return given instanceof Uint8Array ? Buffer.from(given.buffer, given.byteOffset, given.byteLength) : undefined
}

function protocolOf (given: unknown): string[] {
  if (given === undefined) return []
  const tokens = [given].flat()
  if (tokens.length > 0 && tokens.every((token): token is string => typeof token === 'string' && isToken(token))) return tokens
  throw invalid(`protocol must be an upgrade token or a list of them, got ${JSON.stringify(given)}`)
}

/** Accepts streams of other libraries, because only their events are used. */
function isReadable (body: unknown): body is Readable {
  return typeof (body as Readable | null | undefined)?.pipe === 'function' && typeof (body as Readable).pause === 'function'
}

function headersOf (host: string, url: URL, given: ClientHeaders, protocol: readonly string[]): string[] {
  const headers: string[] = []
  // The fields of a Headers, of a Map or of a list of pairs are no properties, and would be left out.
  if (!isObject(given) || Symbol.iterator in given) throw invalid('headers must be an object with names and values')
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined) continue
    checkName(name, protocol)
    for (const one of [value].flat() as unknown[]) headers.push(name, checked(name, one))
  }
  const names = Object.keys(given).map(name => name.toLowerCase())
  if (!names.includes('host')) headers.unshift('Host', host)
  const credentials = basic(url)
  if (credentials !== undefined && !names.includes('authorization')) headers.push('Authorization', credentials)
  return headers
}

/** What another option stands for cannot be said in another way beside it. */
function checkName (name: string, protocol: readonly string[]): void {
  if (!isToken(name) || name.includes('/')) throw invalid(`headers: ${JSON.stringify(name)} is no name of a field`)
  const lower = name.toLowerCase()
  if (lower === 'upgrade') throw invalid('headers: Upgrade is said by protocol')
  if (protocol.length === 0) return
  if (lower === 'connection') throw invalid('headers: Connection is said by protocol')
  if (protocol[0] === 'websocket' && OF_WEBSOCKET.includes(lower)) throw invalid(`headers: ${name} is said by websocket`)
}

/** Its message does not tell the value, which may be a secret. */
function checked (name: string, given: unknown): string {
  if (typeof given !== 'string' && typeof given !== 'number') throw invalid(`headers: the value of ${name} must be text, a number or a list of these`)
  const value = String(given)
  try {
    validateHeaderValue(name, value)
    return value
  } catch {
    throw invalid(`headers: ${name} has characters that HTTP does not allow`)
  }
}

/** RFC 7617. */
export function basic ({ username, password }: URL): string | undefined {
  if (username === '' && password === '') return undefined
  return `Basic ${Buffer.from(`${decoded(username)}:${decoded(password)}`).toString('base64')}`
}

/** A URL may have a `%` that encodes nothing. */
function decoded (text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

export function invalid (why: string): Error {
  return new FST_ERR_DUPLEX_INVALID_OPTION(why)
}
