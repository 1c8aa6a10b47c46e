import {
  connect, constants, type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders, type OutgoingHttpHeaders
} from 'node:http2'
import type { Duplex } from 'node:stream'
import {
  FST_ERR_DUPLEX_NO_EXTENDED_CONNECT, FST_ERR_DUPLEX_UPSTREAM_INVALID, FST_ERR_DUPLEX_UPSTREAM_LOST, FST_ERR_DUPLEX_UPSTREAM_TIMEOUT
} from '../errors.ts'
import { ownErrors } from '../streams/own-errors.ts'
import { ClientStream } from './client-stream.ts'
import type { Answer, Exchange, ExchangeEnd, ExchangeRequest } from './exchange.ts'
import { fieldsOf } from './fields.ts'
import { MOST_INFORMATIONAL } from './http1.ts'
import { breakConnection } from './own-socket.ts'
import type { Milliseconds } from '../../types/index.ts'

const NOTHING = Buffer.alloc(0)

/** RFC 9113 section 8.2.2: fields of an HTTP/1 connection. */
const OF_A_CONNECTION = ['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'host']

/** Characters that Node's HTTP/1 client refuses in a target. */
const NOT_IN_A_TARGET = /[^\u0021-\u00ff]/

/** HTTP/2 by node:http2. */
export function exchangeHttp2 (session: ClientHttp2Session, request: ExchangeRequest): Exchange {
  return new Http2Exchange(session, request)
}

class Http2Exchange implements Exchange {
  readonly body: ClientStream | undefined
  readonly answer: Promise<Answer>
  readonly over: Promise<ExchangeEnd>
  readonly #request: ExchangeRequest
  readonly #own: ClientStream
  readonly #stream: ClientHttp2Stream
  #resolve!: (answer: Answer) => void
  #reject!: (error: Error) => void
  #timer: NodeJS.Timeout | undefined
  #error: Error | undefined
  #heard = false
  #answered = false
  #informational = 0
  #trailers: readonly string[] = []
  #lastFields: OutgoingHttpHeaders = {}

  constructor (session: ClientHttp2Session, request: ExchangeRequest) {
    request.signal?.throwIfAborted()
    this.#request = request
    const tunnel = request.method === 'CONNECT' || (request.protocol ?? []).length > 0
    const headers = headersOf(session, request)
    if (session.closed || session.destroyed) throw new FST_ERR_DUPLEX_UPSTREAM_LOST()
    const { body = false, early } = request
    const written = tunnel || body === true
    this.#stream = session.request(headers, { endStream: !written && body === false, waitForTrailers: body === true })
    this.#own = new ClientStream(this.#stream)
    this.body = body === true ? this.#own : undefined
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.answer.catch(() => {})
    this.#listen()
    this.over = this.#own.over.then(end => {
      this.#stop()
      this.#lost(end.error)
      return { ...end, reusable: !session.closed && !session.destroyed }
    })
    if (!written) this.#own.end(body === false ? undefined : body)
    else if (early !== undefined) this.#own.write(early)
  }

  get heard (): boolean { return this.#heard }

  addTrailers (rawTrailers: readonly string[]): void {
    for (const [name, { values }] of fieldsOf(rawTrailers)) this.#lastFields[name] = values
  }

  abort (error: Error): void {
    this.#error ??= error
    this.#reject(this.#error)
    this.#own.destroy(this.#error)
  }

  #listen (): void {
    const { signal, timeout = 0 } = this.#request
    const stream = this.#stream
    stream.on('headers', (headers, _flags, raw?: string[]) => this.#informed(headers, raw))
    stream.once('response', (headers, _flags, raw?: string[]) => this.#response(headers, raw))
    stream.once('trailers', (headers, _flags, raw?: string[]) => { this.#trailers = rawOf(headers, raw) })
    stream.once('wantTrailers', () => stream.sendTrailers(this.#lastFields))
    if (timeout > 0) this.#timer = setTimeout(() => this.abort(new FST_ERR_DUPLEX_UPSTREAM_TIMEOUT(timeout)), timeout)
    signal?.addEventListener('abort', this.#onAbort)
  }

  #informed (headers: IncomingHttpHeaders, raw: string[] | undefined): void {
    this.#heard = true
    if (++this.#informational >= MOST_INFORMATIONAL) {
      this.abort(new FST_ERR_DUPLEX_UPSTREAM_INVALID('no end of informational answers'))
    } else {
      this.#request.onInformation?.({ statusCode: Number(headers[':status']), statusMessage: '', rawHeaders: rawOf(headers, raw) })
    }
  }

  #response (head: IncomingHttpHeaders, raw: string[] | undefined): void {
    const { method, protocol = [] } = this.#request
    const statusCode = Number(head[':status'])
    this.#heard = this.#answered = true
    clearTimeout(this.#timer)
    const accepted = statusCode >= 200 && statusCode < 300
    const kind = !accepted ? 'body' : protocol.length > 0 ? 'upgrade' : method === 'CONNECT' ? 'connect' : 'body'
    this.#resolve({
      kind,
      httpVersion: '2.0',
      statusCode,
      statusMessage: '',
      headers: Object.fromEntries(Object.entries(head).filter(([name]) => !name.startsWith(':'))),
      rawHeaders: rawOf(head, raw),
      protocol: kind === 'upgrade' ? protocol[0] : undefined,
      head: NOTHING,
      readable: this.#own,
      writable: this.#own,
      rawTrailers: () => this.#trailers
    })
  }

  /** The stream closed before an answer. */
  #lost (cause: Error | undefined): void {
    if (this.#answered) return
    // RFC 9113 section 8.7: with this code the server says that it has not begun with the request.
    this.#heard = this.#stream.rstCode !== constants.NGHTTP2_REFUSED_STREAM
    this.#reject(this.#error ?? new FST_ERR_DUPLEX_UPSTREAM_LOST({ cause }))
  }

  #stop (): void {
    clearTimeout(this.#timer)
    this.#request.signal?.removeEventListener('abort', this.#onAbort)
  }

  readonly #onAbort = (): void => {
    const reason: unknown = (this.#request.signal as AbortSignal).reason
    this.abort(reason instanceof Error ? reason : new Error(String(reason)))
  }
}

function headersOf (session: ClientHttp2Session, request: ExchangeRequest): OutgoingHttpHeaders {
  const { method, target, scheme = 'http', protocol = [] } = request
  const [token] = protocol
  const fields = fieldsOf(token === undefined ? request.headers : [...request.headers, 'x', token])
  if (token !== undefined) fields.delete('x')
  if (NOT_IN_A_TARGET.test(target)) throw new TypeError('The target has characters that no target has')
  const authority = fields.get('host')?.values[0] ?? target
  for (const name of OF_A_CONNECTION) fields.delete(name)
  const headers: OutgoingHttpHeaders = {}
  for (const [name, { values }] of fields) headers[name] = values.length === 1 ? values[0] : values
  if (token === undefined && method === 'CONNECT') return { ...headers, ':method': method, ':authority': target }
  const common = { ...headers, ':scheme': scheme, ':authority': authority, ':path': target }
  if (token === undefined) return { ...common, ':method': method }
  if (session.remoteSettings.enableConnectProtocol !== true) throw new FST_ERR_DUPLEX_NO_EXTENDED_CONNECT()
  return { ...common, ':method': 'CONNECT', ':protocol': token }
}

/** The fields without HTTP/2's pseudo-header fields. */
function rawOf (headers: IncomingHttpHeaders, raw: string[] | undefined): readonly string[] {
  const all = raw ?? Object.entries(headers).flatMap(([name, value]) => [value].flat().flatMap(one => [name, String(one)]))
  const fields: string[] = []
  for (let at = 0; at < all.length; at += 2) {
    if (!(all[at] as string).startsWith(':')) fields.push(all[at] as string, all[at + 1] as string)
  }
  return fields
}

export interface SessionOptions {
  readonly scheme?: 'http' | 'https' | undefined
  readonly signal?: AbortSignal | undefined
  /** 0 is no limit. */
  readonly timeout?: Milliseconds | undefined
  /** Also waits until the server has acknowledged our settings, so that nothing of its own is on the way. */
  readonly settled?: boolean | undefined
}

/**
 * Makes an HTTP/2 session of a connection, and waits for the server's SETTINGS. These say whether the server knows extended
 * CONNECT. If it rejects, it has the codes of `Exchange.answer`, and the connection is destroyed.
 *
 * @returns a session with an 'error' listener. Its opener closes it. Then the connection ends when all streams are over
 */
export function openSession (connection: Duplex, options: SessionOptions = {}): Promise<ClientHttp2Session> {
  const { scheme = 'http', signal, timeout = 0, settled = false } = options
  signal?.throwIfAborted()
  ownErrors(connection)
  // Node's session does not notice the end of a half-open connection.
  connection.allowHalfOpen = false
  return new Promise((resolve, reject) => {
    const session = connect(`${scheme}://localhost`, { createConnection: () => connection, settings: { enablePush: false } })
    ownErrors(session)
    const fail = (error: Error): void => {
      stop()
      reject(error)
      breakConnection(connection, error)
      session.destroy()
    }
    const onAbort = (): void => fail((signal as AbortSignal).reason as Error)
    const onError = (error: Error & { code?: string }): void => fail(error.code === 'ERR_HTTP2_ERROR'
      ? new FST_ERR_DUPLEX_UPSTREAM_INVALID('it is not HTTP/2', { cause: error })
      : new FST_ERR_DUPLEX_UPSTREAM_LOST({ cause: error }))
    const onClose = (): void => fail(new FST_ERR_DUPLEX_UPSTREAM_LOST())
    let missing = settled ? 2 : 1
    const onSettings = (): void => {
      if (--missing > 0) return
      stop()
      resolve(session)
    }
    const timer = timeout > 0 ? setTimeout(() => fail(new FST_ERR_DUPLEX_UPSTREAM_TIMEOUT(timeout)), timeout) : undefined
    const stop = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      session.removeListener('error', onError)
      session.removeListener('close', onClose)
      session.removeListener('remoteSettings', onSettings)
      session.removeListener('localSettings', onSettings)
    }
    signal?.addEventListener('abort', onAbort)
    session.on('error', onError)
    session.on('close', onClose)
    session.once('remoteSettings', onSettings)
    if (settled) session.once('localSettings', onSettings)
  })
}
