import { ServerResponse, STATUS_CODES, type IncomingMessage, type OutgoingHttpHeader, type OutgoingHttpHeaders } from 'node:http'
import type { FastifyReply } from 'fastify'
import { closeUnlessRead, lingeringClose } from './lingering-close.ts'
import type { HttpSocket } from '../internals/sockets.ts'
import type { Milliseconds } from '../../types/index.ts'

interface RefusalError extends Error {
  code: string
  statusCode?: number
}

/** Where no route says how long it waits for the end of its peers. */
const UNREAD_FOR: Milliseconds = 30_000

/** The body of an error, as Fastify's own handler writes it. */
export function errorBody (error: RefusalError): string {
  const statusCode = error.statusCode ?? 500
  return JSON.stringify({ statusCode, code: error.code, error: STATUS_CODES[statusCode], message: error.message })
}

/** On a response: nothing reaches the wire by it any more. */
const kSilent = Symbol('fastify-duplex.silent')

interface Answerer {
  /** An answer is on the wire, which was no acceptance. */
  answered (socket: HttpSocket, res: ServerResponse): void
}

/**
 * A response on a connection that left HTTP, for everything short of acceptance. Nothing that follows
 * the request is ever parsed, so it always says `Connection: close` and is always followed by it: a
 * proxy may have opened its pipe on the mere intent (RFC 9931).
 */
export class RefusalResponse extends ServerResponse {
  readonly #connect: boolean
  readonly #unreadFor: Milliseconds
  #answerer: Answerer | undefined
  /** What is derived from a response is silent with it, which a private field would not be. */
  [kSilent] = false

  /** @param unreadFor how long a client may take nothing of it */
  constructor (req: IncomingMessage, socket: HttpSocket, answerer: Answerer, unreadFor = UNREAD_FOR) {
    super(req)
    this.#unreadFor = unreadFor
    this.#connect = req.method === 'CONNECT'
    this.#answerer = answerer
    this.shouldKeepAlive = false
    this.assignSocket(socket as never)
    this.on('finish', this.#onFinish)
  }

  override writeHead (statusCode: number, ...rest: unknown[]): this {
    let status = statusCode
    let headers = rest.find(argument => typeof argument === 'object' && argument !== null) as OutgoingHttpHeaders | OutgoingHttpHeader[] | undefined
    if (this.impliesTakeover(status)) {
      this.statusMessage = ''
      status = 500
    }
    let upgrade = this.hasHeader('upgrade')
    this.removeHeader('connection')
    if (Array.isArray(headers)) {
      const pairs: OutgoingHttpHeader[] = []
      for (let at = 0; at < headers.length; at += 2) {
        const name = String(headers[at]).toLowerCase()
        if (name === 'upgrade') upgrade = true
        if (name !== 'connection') pairs.push(headers[at] as OutgoingHttpHeader, headers[at + 1] as OutgoingHttpHeader)
      }
      headers = [...pairs, 'Connection', upgrade ? 'Upgrade, close' : 'close']
    } else {
      const fields: OutgoingHttpHeaders = {}
      for (const [name, value] of Object.entries(headers ?? {})) {
        if (name.toLowerCase() === 'upgrade') upgrade = true
        if (name.toLowerCase() !== 'connection') fields[name] = value
      }
      headers = { ...fields, Connection: upgrade ? 'Upgrade, close' : 'close' }
    }
    if (this.socket !== null) closeUnlessRead(this.socket as unknown as HttpSocket, this.#unreadFor)
    const reason = typeof rest[0] === 'string' && status === statusCode ? rest[0] : undefined
    return reason === undefined ? super.writeHead(status, headers) : super.writeHead(status, reason, headers)
  }

  /** Whether this status would tell the client of a takeover, which is acceptance's alone to do. */
  impliesTakeover (status: number): boolean {
    return status < 200 || (status < 300 && this.#connect)
  }

  /** The socket is the stream's now: nothing of this response reaches it any more. */
  release (statusCode: number): void {
    this.#answerer = undefined
    this.detachSocket(this.socket as never)
    this.statusCode = statusCode
    silence(this)
  }

  /** The same function for all responses. */
  #onFinish (): void {
    const answerer = this.#answerer
    this.#answerer = undefined
    answerer?.answered(this.socket as unknown as HttpSocket, this)
  }
}

function itself (this: ServerResponse): ServerResponse { return this }

function nothing (): void {}

const SILENT: PropertyDescriptorMap = {
  headersSent: { value: true },
  writableEnded: { value: true },
  writeHead: { value: itself },
  flushHeaders: { value: nothing },
  writeContinue: { value: nothing },
  writeProcessing: { value: nothing },
  writeEarlyHints: { value: nothing },
  addTrailers: { value: nothing },
  write: { value: () => false },
  end: { value: itself }
}

const SILENCED = Object.keys(SILENT)

// Every upgrade is accepted on one of these: a look at a field costs less than another prototype for each.
for (const name of SILENCED) {
  const silent: unknown = SILENT[name]?.value
  const loud = Object.getOwnPropertyDescriptor(RefusalResponse.prototype, name)?.value as unknown
  const usual = (res: RefusalResponse): unknown => loud ?? Reflect.get(ServerResponse.prototype, name, res)
  Object.defineProperty(RefusalResponse.prototype, name, typeof silent !== 'function'
    ? { configurable: true, get (this: RefusalResponse) { return this[kSilent] ? silent : usual(this) } }
    : {
        configurable: true,
        writable: true,
        value (this: RefusalResponse, ...args: unknown[]): unknown {
          return Reflect.apply(this[kSilent] ? silent : usual(this) as () => unknown, this, args)
        }
      })
}

/** By the prototype of a response of Node's: one that is silent. */
const silentPrototypes = new WeakMap<object, object>()

/** A late `reply.raw.write()` must not become stream bytes, nor be kept until the connection ends. */
export function silence (res: ServerResponse): void {
  if (res instanceof RefusalResponse) res[kSilent] = true
  else Object.setPrototypeOf(res, silentPrototype(Object.getPrototypeOf(res) as object))
  // What middleware has put there in place of Node's methods.
  for (const name of SILENCED) if (Object.hasOwn(res, name)) Object.defineProperty(res, name, SILENT[name] as PropertyDescriptor)
}

/** Ten properties for each response would cost more than all else that an acceptance does to it. */
function silentPrototype (prototype: object): object {
  let silent = silentPrototypes.get(prototype)
  if (silent === undefined) {
    silent = Object.create(prototype, SILENT) as object
    silentPrototypes.set(prototype, silent)
  }
  return silent
}

/** Answers without the app: for requests that name no route, or name none that can be told. */
export function refuse (socket: HttpSocket, req: IncomingMessage, error: RefusalError): void {
  const res = new RefusalResponse(req, socket, { answered: lingeringClose })
  sendRefusal(res, error)
}

/** The connection serves nobody any more after this reply; over HTTP/2 that is not for a reply to say. */
export function sayClose (reply: FastifyReply): void {
  if (reply.request.raw.httpVersionMajor < 2) reply.header('connection', 'close')
}

export function sendRefusal (res: ServerResponse, error: RefusalError): void {
  const body = errorBody(error)
  res.writeHead(error.statusCode ?? 500, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    ...(res.req.httpVersionMajor < 2 ? { Connection: 'close' } : {})
  })
  res.end(body)
}
