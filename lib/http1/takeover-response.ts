import { ServerResponse, type IncomingMessage, type OutgoingHttpHeader, type OutgoingHttpHeaders } from 'node:http'
import { closeResponse, publishFinish } from '../internals/http-messages.ts'
import type { HttpSocket } from '../internals/sockets.ts'

/** It is told what happens to such a response. */
export interface Answerer {
  /** The head of a refusal is on the wire. */
  answerBegins (): void
  /** The whole refusal is on the wire. */
  answerEnds (): void
}

/**
 * A response on a connection that left HTTP, for every answer that is no acceptance. Nothing that follows
 * the request is ever parsed. So it always says `Connection: close`, and the connection always closes: a
 * proxy may have joined its two connections when it saw the request (RFC 9931).
 */
export interface TakeoverResponse extends ServerResponse {
  /** Whether the client would take this status for an acceptance. */
  impliesTakeover (status: number): boolean
  /** The handler has the socket now: this response writes nothing to it any more. */
  release (statusCode: number): void
  /** The connection is over: emits 'finish' and then 'close', as every response does. */
  complete (): void
  /** From now on it writes nothing to the wire. What is sent through it is dropped. */
  mute (): void
}

type Constructor = new (req: IncomingMessage, socket: HttpSocket, answerer: Answerer) => TakeoverResponse

const classes = new WeakMap<object, Constructor>()

/** The class of such responses. It extends the class that the app's server uses. */
export function takeoverResponse (base: typeof ServerResponse): Constructor {
  let made = classes.get(base)
  if (made === undefined) {
    made = extend(base)
    classes.set(base, made)
  }
  return made
}

const kAnswerer = Symbol('fastify-duplex.answerer')
/** A symbol and no private field, so that objects derived from a muted response are muted, too. */
const kMuted = Symbol('fastify-duplex.muted')
const kCompleted = Symbol('fastify-duplex.completed')

function extend (Base: typeof ServerResponse): Constructor {
  class Response extends Base implements TakeoverResponse {
    [kAnswerer]: Answerer | undefined;
    [kMuted] = false;
    [kCompleted] = false

    constructor (req: IncomingMessage, socket: HttpSocket, answerer: Answerer) {
      super(req)
      this[kAnswerer] = answerer
      this.shouldKeepAlive = false
      this.assignSocket(socket as never)
      this.on('finish', onFinish)
    }

    impliesTakeover (status: number): boolean {
      return status < 200 || (status < 300 && this.req.method === 'CONNECT')
    }

    release (statusCode: number): void {
      this[kAnswerer] = undefined
      this.removeListener('finish', onFinish)
      this.detachSocket(this.socket as never)
      this.statusCode = statusCode
      this[kMuted] = true
    }

    mute (): void {
      this[kMuted] = true
    }

    complete (): void {
      if (this[kCompleted]) return
      this[kCompleted] = true
      this[kMuted] = true
      this[kAnswerer] = undefined
      this.emit('finish')
      publishFinish(this)
      closeResponse(this)
    }

    override writeHead (statusCode: number, ...rest: unknown[]): this {
      if (this[kMuted]) return this
      const refused = this.impliesTakeover(statusCode)
      if (refused) this.statusMessage = ''
      const headers = closingHeaders(this, rest.find(argument => typeof argument === 'object' && argument !== null) as OutgoingHttpHeaders | undefined)
      const reason = typeof rest[0] === 'string' && !refused ? rest[0] : undefined
      const status = refused ? 500 : statusCode
      if (reason === undefined) super.writeHead(status, headers)
      else super.writeHead(status, reason, headers)
      this[kAnswerer]?.answerBegins()
      return this
    }

    /** Up to Node 24 this is another name for writeHead(), which would not call ours. */
    writeHeader (statusCode: number, ...rest: unknown[]): this {
      return this.writeHead(statusCode, ...rest)
    }

    override write (...args: unknown[]): boolean {
      if (this[kMuted]) return false
      const more = Reflect.apply(super.write as () => boolean, this, args)
      if (!more) tellDrain(this)
      return more
    }

    override end (...args: unknown[]): this {
      return this[kMuted] ? this : Reflect.apply(super.end as () => this, this, args)
    }

    override flushHeaders (): void {
      if (!this[kMuted]) super.flushHeaders()
    }

    override addTrailers (...args: Parameters<ServerResponse['addTrailers']>): void {
      if (!this[kMuted]) super.addTrailers(...args)
    }

    override writeContinue (...args: Parameters<ServerResponse['writeContinue']>): void {
      if (!this[kMuted]) super.writeContinue(...args)
    }

    override writeProcessing (...args: Parameters<ServerResponse['writeProcessing']>): void {
      if (!this[kMuted]) super.writeProcessing(...args)
    }

    override writeEarlyHints (...args: Parameters<ServerResponse['writeEarlyHints']>): void {
      if (!this[kMuted]) super.writeEarlyHints(...args)
    }

    /** Since Node 26. */
    writeInformation (...args: unknown[]): void {
      const written = (Base.prototype as { writeInformation?: (...args: unknown[]) => void }).writeInformation
      if (!this[kMuted] && written !== undefined) Reflect.apply(written, this, args)
    }
  }
  // These are accessors in Node, but TypeScript declares them as fields, which a class cannot override.
  return withAccessors(Response as never, Base) as unknown as Constructor
}

interface MutedResponse {
  [kMuted]: boolean
  [kCompleted]: boolean
}

/** The state that a muted response, or one that is complete without a socket, shows. */
function withAccessors<T extends typeof ServerResponse> (Response: T, Base: typeof ServerResponse): T {
  const said = (name: string, when: (res: MutedResponse) => boolean): PropertyDescriptor => {
    const usual = getterOf(Base.prototype, name)
    return { configurable: true, get (this: MutedResponse): unknown { return when(this) || usual.call(this) } }
  }
  Object.defineProperties(Response.prototype, {
    headersSent: said('headersSent', res => res[kMuted]),
    writableEnded: said('writableEnded', res => res[kMuted]),
    writableFinished: said('writableFinished', res => res[kCompleted])
  })
  return Response
}

/** Found once, because to look an accessor up costs more than to call it. */
function getterOf (prototype: object, name: string): (this: unknown) => unknown {
  for (let object: object | null = prototype; object !== null; object = Object.getPrototypeOf(object)) {
    const descriptor = Object.getOwnPropertyDescriptor(object, name)
    if (descriptor?.get !== undefined) return descriptor.get
  }
  return function (this: unknown) { return Reflect.get(prototype, name, this) }
}

type Headers = OutgoingHttpHeaders | OutgoingHttpHeader[]

/** The fields of a refusal, which say that its connection closes. */
function closingHeaders (res: ServerResponse, headers: Headers | undefined): Headers {
  let upgrade = res.hasHeader('upgrade')
  res.removeHeader('connection')
  if (Array.isArray(headers)) {
    const pairs: OutgoingHttpHeader[] = []
    for (let at = 0; at < headers.length; at += 2) {
      const name = String(headers[at]).toLowerCase()
      if (name === 'upgrade') upgrade = true
      if (name !== 'connection') pairs.push(headers[at] as OutgoingHttpHeader, headers[at + 1] as OutgoingHttpHeader)
    }
    return [...pairs, 'Connection', upgrade ? 'Upgrade, close' : 'close']
  }
  const fields: OutgoingHttpHeaders = {}
  for (const [name, value] of Object.entries(headers ?? {})) {
    if (name.toLowerCase() === 'upgrade') upgrade = true
    if (name.toLowerCase() !== 'connection') fields[name] = value
  }
  return { ...fields, Connection: upgrade ? 'Upgrade, close' : 'close' }
}

const kTellsDrain = Symbol('fastify-duplex.tellsDrain')

/** Node has let go of this socket, so it does not tell the response of 'drain' any more. */
function tellDrain (res: ServerResponse & { [kTellsDrain]?: boolean }): void {
  const { socket } = res
  if (socket === null || res[kTellsDrain] === true) return
  res[kTellsDrain] = true
  socket.once('drain', () => {
    res[kTellsDrain] = false
    if (res.socket === socket && !res.writableEnded) res.emit('drain')
  })
}

/** The same function for all responses. */
function onFinish (this: ServerResponse): void {
  const response = this as ServerResponse & { [kAnswerer]: Answerer | undefined, [kCompleted]: boolean }
  const answerer = response[kAnswerer]
  response[kAnswerer] = undefined
  if (answerer === undefined) return
  response[kCompleted] = true
  publishFinish(this)
  answerer.answerEnds()
  // Node does the same after every response.
  process.nextTick(closeResponse, this)
}
