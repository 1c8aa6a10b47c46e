import type { OutgoingHttpHeader } from 'node:http'
import { FST_ERR_DUPLEX_INVALID_INJECTION } from '../errors.ts'
import type { InjectDuplexResponse } from '../../types/index.ts'

const KNOWN = new Set(['messages', 'websocket', 'method', 'url', 'headers', 'protocol', 'payload', 'early', 'signal'])

/** A request as `injectDuplex` sends it. */
export interface Injection {
  readonly method: string
  readonly target: string
  /** By lower-case name. */
  readonly headers: ReadonlyMap<string, OutgoingHttpHeader>
  /** The protocols to upgrade to, in order. */
  readonly offer: readonly string[]
  /** The whole body, if it is known. */
  readonly payload: Buffer | undefined
  /** The head declares a body that is written afterwards. */
  readonly open: boolean
  /** Only a body follows the head, so the client frames what is written. */
  readonly framed: boolean
  readonly early: Buffer | undefined
  readonly signal: AbortSignal | undefined
}

/** The answer, as each version of HTTP gives it. */
export type Injected = Omit<InjectDuplexResponse, 'body'>

/** Checks the options of `injectDuplex`: the caller's code may not be typed. */
export function injection (options: unknown): Injection {
  if (typeof options !== 'object' || options === null) throw invalid('its options are no object')
  const given = options as Record<string, unknown>
  for (const name of Object.keys(given)) {
    if (!KNOWN.has(name) && given[name] !== undefined) throw invalid(`there is no option ${name}`)
  }
  const { method = 'GET', url, headers = {}, signal } = given
  if (typeof method !== 'string') throw invalid('method is no string')
  if (typeof url !== 'string' || url === '') throw invalid('url is no path')
  if (typeof headers !== 'object' || headers === null || Array.isArray(headers)) throw invalid('headers are no object')
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalid('signal is no AbortSignal')
  const connect = method.toUpperCase() === 'CONNECT'
  const fields = new Map<string, OutgoingHttpHeader>([['host', connect ? url : 'localhost:80']])
  for (const [name, value] of Object.entries(headers as Record<string, OutgoingHttpHeader | undefined>)) {
    if (value !== undefined) fields.set(name.toLowerCase(), value)
  }
  const offer = protocols(given.protocol)
  const payload = payloadOf(given.payload, fields)
  const declared = fields.has('transfer-encoding') || fields.has('content-length')
  if (payload !== undefined && !declared) fields.set('content-length', String(payload.length))
  const early = given.early === undefined ? undefined : bytesOf(given.early)
  if (given.early !== undefined && early === undefined) throw invalid('early is no text and no bytes')
  const framed = !connect && (declared || payload !== undefined)
  if (early !== undefined && framed && payload !== undefined && offer.length === 0 && !fields.has('upgrade')) {
    throw invalid('early bytes cannot follow a payload that is the whole message')
  }
  return {
    method: method.toUpperCase(),
    target: url,
    headers: fields,
    offer,
    payload,
    open: payload === undefined && declared && Number(fields.get('content-length') ?? 1) > 0,
    framed,
    early,
    signal
  }
}

function protocols (value: unknown): string[] {
  if (value === undefined) return []
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (!list.every((token): token is string => typeof token === 'string' && token !== '')) throw invalid('protocol is no token and no list of them')
  return list
}

function payloadOf (value: unknown, fields: Map<string, OutgoingHttpHeader>): Buffer | undefined {
  if (value === undefined) return undefined
  const bytes = bytesOf(value)
  if (bytes !== undefined) return bytes
  if (typeof value !== 'object' || value === null || typeof (value as { pipe?: unknown }).pipe === 'function') {
    throw invalid('payload is no text, no bytes and no object; a stream is written to writable')
  }
  if (!fields.has('content-type')) fields.set('content-type', 'application/json')
  return Buffer.from(json(value))
}

function json (value: object): string {
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (error) {
    throw invalid(`payload has no JSON: ${(error as Error).message}`, error)
  }
  if (text === undefined) throw invalid('payload has no JSON')
  return text
}

function bytesOf (value: unknown): Buffer | undefined {
  if (typeof value === 'string') return Buffer.from(value)
  return value instanceof Uint8Array ? Buffer.from(value) : undefined
}

export function invalid (why: string, cause?: unknown): Error {
  return cause === undefined ? new FST_ERR_DUPLEX_INVALID_INJECTION(why) : new FST_ERR_DUPLEX_INVALID_INJECTION(why, { cause })
}
