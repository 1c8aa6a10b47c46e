import { request as send, type ClientRequest, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Writable, type Duplex } from 'node:stream'
import {
  FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_UPSTREAM_INVALID, FST_ERR_DUPLEX_UPSTREAM_LOST, FST_ERR_DUPLEX_UPSTREAM_TIMEOUT
} from '../errors.ts'
import { parseUpgrade } from '../syntax/upgrade-tokens.ts'
import { keepConnection, outliveEnd, takeOverWhere } from '../internals/http-client.ts'
import { onWhole } from '../internals/http-messages.ts'
import { resetByPeer } from '../internals/sockets.ts'
import { hasEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import { ownErrors } from '../streams/own-errors.ts'
import type { Answer, Exchange, ExchangeEnd, ExchangeRequest } from './exchange.ts'
import { fieldsOf, type Fields } from './fields.ts'
import { breakConnection, prepare, takeSocket, type Taken } from './own-socket.ts'
import { RequestBody, type BodyOwner } from './request-body.ts'
import type { DuplexKind } from '../../types/index.ts'

/** Over HTTP/2 as well: more 1xx answers than this are an invalid answer. */
export const MOST_INFORMATIONAL = 100

const NOTHING = Buffer.alloc(0)
const NONE: readonly string[] = []

/** HTTP/1.1 by node:http. */
export function exchangeHttp1 (connection: Duplex, request: ExchangeRequest): Exchange {
  return new Http1Exchange(connection, request)
}

class Http1Exchange implements Exchange, BodyOwner {
  readonly body: RequestBody | undefined
  readonly answer: Promise<Answer>
  readonly over: Promise<ExchangeEnd>
  readonly #connection: Duplex
  readonly #request: ExchangeRequest
  readonly #offered: readonly string[]
  readonly #req: ClientRequest
  readonly #readBefore: number | undefined
  /** Whether the server leaves the connection open. Asked once, when its response is there. */
  readonly #stays: () => boolean
  #resolve!: (answer: Answer) => void
  #reject!: (error: Error) => void
  #end!: (end: ExchangeEnd) => void
  #timer: NodeJS.Timeout | undefined
  #informational = 0
  #res: IncomingMessage | undefined
  #taken: Taken | undefined
  #ended = false
  /** Undoes what was changed on Node's client. */
  #restore = (): void => {}
  /** The response has arrived whole. */
  #whole = false
  #reusable = false
  #error: Error | undefined
  #aborted = false

  constructor (connection: Duplex, request: ExchangeRequest) {
    request.signal?.throwIfAborted()
    if (connection.destroyed || hasEnd(connection)) throw new FST_ERR_DUPLEX_UPSTREAM_LOST({ cause: connection.errored ?? undefined })
    const fields = request.plain === true ? undefined : fieldsFor(request)
    this.#connection = connection
    this.#request = request
    this.#offered = fields?.has('upgrade') === true ? parseUpgrade((fields.get('upgrade') as { values: string[] }).values.join(',')).offered : NONE
    this.#readBefore = (connection as Partial<Socket>).bytesRead
    this.#req = fields === undefined ? plainRequestOn(connection, request) : requestOn(connection, request, fields)
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.answer.catch(() => {})
    this.over = new Promise(resolve => { this.#end = resolve })
    prepare(connection)
    this.#stays = keepConnection(this.#req)
    if (fields !== undefined) takeOverWhere(this.#req, res => this.#isTakeover(res))
    const length = fields === undefined ? lengthIn(request.headers) : lengthOf(fields)
    this.body = request.body === true ? new RequestBody(this.#req, this, length) : undefined
    this.#listen()
    this.#dispatch()
  }

  get heard (): boolean {
    const { bytesRead } = this.#connection as Partial<Socket>
    return bytesRead === undefined || bytesRead > (this.#readBefore as number)
  }

  get unwanted (): boolean { return this.#whole && this.#ended }

  addTrailers (rawTrailers: readonly string[]): void {
    if (this.body !== undefined) this.body.trailers = [...this.body.trailers, ...rawTrailers]
  }

  abort (error: Error): void {
    if (this.#ended) return
    this.#aborted = true
    this.#error ??= error
    this.#answered()
    this.#reject(this.#error)
    this.#restore()
    breakConnection(this.#connection, this.#error)
    this.#res?.destroy(this.#error)
  }

  #listen (): void {
    const { signal, timeout = 0 } = this.#request
    const req = this.#req
    const connection = this.#connection
    req.on('error', error => this.#failed(error))
    req.once('socket', () => {
      if (this.#ended) return
      this.#restore = outliveEnd(connection)
      // This listener runs after Node's own. For Node the end of input may be the end of the response.
      connection.on('end', this.#onEnd)
    })
    req.on('information', information => this.#informed(information))
    req.once('upgrade', (res, _socket, head) => this.#takenOver(res, head))
    if (this.#request.plain !== true) req.once('connect', (res, _socket, head) => this.#takenOver(res, head))
    req.once('response', res => this.#response(res))
    connection.prependListener('error', this.#onError)
    connection.on('close', this.#onClose)
    if (timeout > 0) this.#timer = setTimeout(() => this.abort(new FST_ERR_DUPLEX_UPSTREAM_TIMEOUT(timeout)), timeout)
    signal?.addEventListener('abort', this.#onAbort)
  }

  #dispatch (): void {
    const { body, early } = this.#request
    const req = this.#req
    // What was written through the request leaves right after this event.
    if (early !== undefined) req.once('socket', () => process.nextTick(() => this.#connection.write(early)))
    if (body === true) req.flushHeaders()
    else if (body === undefined || body === false) req.end()
    else req.end(body)
  }

  /** RFC 9112 section 6.3: a response without framing ends only with its connection. That makes a hijack. */
  #isTakeover ({ statusCode, headers }: IncomingMessage): boolean {
    const { method, body = false } = this.#request
    const accepted = statusCode !== undefined && statusCode >= 200 && statusCode < 300
    if (!accepted || method === 'CONNECT') return accepted
    return body === false && method !== 'HEAD' && statusCode !== 204 &&
      headers['content-length'] === undefined && headers['transfer-encoding'] === undefined
  }

  #informed (information: { statusCode: number, statusMessage: string, rawHeaders: string[] }): void {
    if (++this.#informational >= MOST_INFORMATIONAL) this.abort(new FST_ERR_DUPLEX_UPSTREAM_INVALID('no end of informational answers'))
    else this.#request.onInformation?.(information)
  }

  #takenOver (res: IncomingMessage, head: Buffer): void {
    const wrong = res.statusCode === 101 ? this.#wrongWith(res) : undefined
    if (wrong !== undefined) {
      this.abort(new FST_ERR_DUPLEX_UPSTREAM_INVALID(wrong))
      return
    }
    if (this.#error !== undefined) return
    this.#answered()
    this.#restore()
    this.#connection.removeListener('end', this.#onEnd)
    this.#taken = takeSocket(this.#connection, head)
    const kind = res.statusCode === 101 ? 'upgrade' : this.#request.method === 'CONNECT' ? 'connect' : 'hijack'
    this.#resolve(this.#answerOf(res, kind, head))
  }

  /** RFC 9110 section 15.2.2: what is wrong with a 101. Undefined if it is right. */
  #wrongWith ({ headers }: IncomingMessage): string | undefined {
    const { offered, malformed } = parseUpgrade(headers.upgrade ?? '')
    if (malformed || offered.length === 0) return '101 without a protocol'
    const stranger = offered.find(token => !this.#offered.some(one => one.toLowerCase() === token.toLowerCase()))
    if (stranger !== undefined) return `101 with a protocol that was not offered: ${stranger}`
    if (headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) !== 0) return '101 with a body'
    if (this.#request.body === true && !this.#req.writableEnded) return '101 before the body of the request was there'
    return undefined
  }

  #response (res: IncomingMessage): void {
    const stays = this.#stays()
    this.#res = res
    ownErrors(res)
    iterateWithoutDestroying(res)
    if ((res.statusCode as number) < 200) {
      this.abort(new FST_ERR_DUPLEX_UPSTREAM_INVALID(res.statusCode === 101 ? '101 that upgrades nothing' : `the status ${res.statusCode}`))
      return
    }
    this.#reusable = this.#request.keepAlive === true && stays
    onWhole(res, () => {
      // Node's client takes a reset for the end, if nothing else ends the response.
      if (this.#error !== undefined) return
      this.#whole = true
      this.#progressed()
    })
    if (this.#reusable) this.#connection.once('free', this.#onFree)
    this.#req.once('finish', () => this.#progressed())
    this.#answered()
    this.#resolve(this.#answerOf(res, 'body', NOTHING))
  }

  #answerOf (res: IncomingMessage, kind: DuplexKind, head: Buffer): Answer {
    const body = kind === 'body'
    return {
      kind,
      httpVersion: res.httpVersion as '1.0' | '1.1',
      statusCode: res.statusCode as number,
      statusMessage: res.statusMessage ?? '',
      headers: res.headers,
      rawHeaders: res.rawHeaders,
      protocol: kind === 'upgrade' ? res.headers.upgrade : undefined,
      head,
      readable: body ? res : this.#connection,
      writable: body ? this.body ?? endedBody() : this.#connection,
      rawTrailers: () => res.rawTrailers
    }
  }

  /** The head of the answer is there, or will never come. */
  #answered (): void {
    clearTimeout(this.#timer)
  }

  /** If both messages are over, closes the connection or leaves it open. */
  #progressed (): void {
    if (!this.#whole || !this.#req.writableFinished || this.#reusable || this.#ended) return
    const connection = this.#connection as Partial<Socket> & Duplex
    if (connection.destroySoon !== undefined) connection.destroySoon()
    else connection.end(() => connection.destroy())
  }

  /** Node's client could not go on. */
  #failed (error: Error & { code?: unknown, reason?: string }): void {
    if (this.#res !== undefined || this.#taken !== undefined || this.#aborted) return
    // The code of a DOMException is a number.
    this.#error = String(error.code).startsWith('HPE_')
      ? new FST_ERR_DUPLEX_UPSTREAM_INVALID(error.reason ?? error.message, { cause: error })
      : new FST_ERR_DUPLEX_UPSTREAM_LOST({ cause: error })
    this.abort(this.#error)
  }

  #over (reusable: boolean): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#timer)
    this.#request.signal?.removeEventListener('abort', this.#onAbort)
    const connection = this.#connection
    connection.removeListener('error', this.#onError)
    connection.removeListener('close', this.#onClose)
    connection.removeListener('end', this.#onEnd)
    connection.removeListener('free', this.#onFree)
    this.#restore()
    const complete = this.#taken === undefined ? this.#whole : this.#error === undefined && this.#taken.inputEnded
    const error = complete ? undefined : this.#error ?? connection.errored ?? this.#res?.errored ?? new FST_ERR_DUPLEX_ABORTED()
    this.body?.release(error)
    this.#end(error === undefined ? { complete, reusable } : { complete, reusable, error })
  }

  readonly #onError = (error: Error): void => {
    this.#error ??= error
    if (this.#res !== undefined && !this.#whole) this.#res.destroy(error)
  }

  readonly #onClose = (): void => {
    this.#failed(this.#connection.errored ?? resetByPeer())
    this.#over(false)
  }

  readonly #onEnd = (): void => {
    // The end of input has ended the answer. While Node's listener ran, our side could not be ended.
    if (this.#whole) this.#progressed()
    // Without an answer Node reports the end itself.
    if (this.#whole || this.#res === undefined) return
    const error = resetByPeer()
    this.#res?.destroy(error)
    breakConnection(this.#connection, error)
  }

  readonly #onFree = (): void => this.#over(!this.#connection.destroyed)

  readonly #onAbort = (): void => {
    const reason: unknown = (this.#request.signal as AbortSignal).reason
    this.abort(reason instanceof Error ? reason : new Error(String(reason)))
  }
}

/** Makes the fields, and checks them before Node can send anything. */
function fieldsFor ({ headers, protocol = [], body = false }: ExchangeRequest): Fields {
  const fields = fieldsOf(protocol.length > 0 ? [...headers, 'Upgrade', protocol.join(', ')] : headers)
  if (protocol.length > 0 && !fields.has('connection')) fields.set('connection', { name: 'Connection', values: ['Upgrade'] })
  if (body !== false && !fields.has('transfer-encoding') && !fields.has('content-length')) {
    if (body === true) fields.set('transfer-encoding', { name: 'Transfer-Encoding', values: ['chunked'] })
    else fields.set('content-length', { name: 'Content-Length', values: [String(body.length)] })
  }
  // Node sends trailers only after chunks.
  if (!/\bchunked\b/i.test(fields.get('transfer-encoding')?.values.join() ?? '')) fields.delete('trailer')
  return fields
}

function requestOn (connection: Duplex, { method, target }: ExchangeRequest, fields: Fields): ClientRequest {
  const req = send({ method, path: target, setHost: false, createConnection: () => connection })
  // Without this Node adds fields of its own. One of them would close the connection after the response.
  for (const name of ['connection', 'content-length', 'transfer-encoding']) if (!fields.has(name)) req.removeHeader(name)
  for (const { name, values } of fields.values()) req.setHeader(name, values.length === 1 ? values[0] as string : values)
  return req
}

/** The fields are written at once, as they are. */
function plainRequestOn (connection: Duplex, { method, target, headers }: ExchangeRequest): ClientRequest {
  return send({ method, path: target, setHost: false, headers: headers as string[], createConnection: () => connection })
}

/** The `Content-Length`, if it frames the body. */
function lengthOf (fields: Fields): number | undefined {
  const length = fields.get('content-length')?.values[0]
  return length === undefined || fields.has('transfer-encoding') ? undefined : Number(length)
}

function lengthIn (headers: readonly string[]): number | undefined {
  const at = headers.indexOf('content-length')
  return at === -1 ? undefined : Number(headers[at + 1])
}

/** The body of a request that has none, or whose body was sent as a whole. */
function endedBody (): Writable {
  return new Writable().end()
}
