import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Readable, type Writable } from 'node:stream'
import type { Carrier, CarrierListener, ProgressListener } from '../connection/carrier.ts'
import { FST_ERR_DUPLEX_CANNOT_DETACH } from '../errors.ts'
import type { InputMeter, Push } from '../governance/rate/input-meter.ts'
import type { OutputMeter } from '../governance/rate/output-meter.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import { kindsOverHttp1, type KindHead } from '../handshake/kinds.ts'
import { abortRequest, clearFields, destroyOnlyRequest, destroyOnlyResponse, onTurnOfDestroyed, outliveResponse, tellFinish } from '../internals/http-messages.ts'
import { bytesInFlight, clientLeft, peerIsGone, resetByPeer, type HttpSocket } from '../internals/sockets.ts'
import { iterateWithoutDestroying } from '../internals/streams.ts'
import { breakOff } from '../streams/break-off.ts'
import { countOutput } from '../streams/count-output.ts'
import type { InactivityWatch } from '../streams/inactivity-watch.ts'
import { isRead } from '../streams/is-read.ts'
import { MOST_DISCARDED } from '../streams/unread-limits.ts'
import { unwatchPeer, watchPeer, type Watched } from '../streams/vanished-peers.ts'
import { kProgressed } from '../symbols.ts'
import { closeBehindAnswers, closeUnlessRead, linger } from './lingering-close.ts'
import type { Link, Waiting } from './link.ts'
import { holdWrites, releaseAllWrites, releaseWrites } from './one-write.ts'
import { discardBody, discardRefused } from './unread-body.ts'
import type { Milliseconds } from '../../types/index.ts'

const NOTHING = Buffer.alloc(0)

const kBody = Symbol('fastify-duplex.body')

interface Carried extends IncomingMessage {
  [kBody]?: BodyCarrier
}

export interface BodySettings {
  /** How many milliseconds a client may neither take the answer nor send the rest of its body. */
  readonly inactivityLimit: Milliseconds
  /** The route takes the kind `body`. Otherwise it only answers the request. */
  readonly takes: boolean
  /** The response is Node's own, and Node goes on with the connection after it. */
  readonly ofNode: boolean
}

/**
 * The carrier of a request body and of the response that is sent meanwhile, on a connection that Node keeps. It watches the
 * connection, too: the response to a pipelined request has no socket yet, and is not told when the connection closes.
 */
export class BodyCarrier implements Carrier, Waiting, Watched {
  readonly heads = kindsOverHttp1
  readonly head = NOTHING
  readonly link: Link
  readonly req: IncomingMessage
  listener: CarrierListener | undefined
  owner: ProgressListener | undefined
  res!: ServerResponse
  readable: Readable
  bytesRead = 0
  bytesWritten = 0
  /** Set by 'finish' alone: up to Node 22 `writableFinished` is true of a response that was destroyed and then ended. */
  outputFlushed = false
  /** The whole request has arrived, whether it was read or not. A utility may have destroyed the request before. */
  inputEnded = false
  closed = false
  inputMeter: InputMeter | undefined
  peerError: Error | undefined
  localError: Error | undefined
  /** The `push()` that ours replaces. */
  usualPush: IncomingMessage['push'] | undefined
  readonly #settings: BodySettings
  /** Kept here, because a `pipeline()` that fails sets `request.socket` to null. */
  readonly #socket: Socket
  #accepted = false
  #discarding = false
  #lingering = false
  #refusing = false
  #unread: InactivityWatch | undefined
  #broken = false
  #over = false
  #dropped = 0
  #destroyedHere = false
  #arrived: (() => void) | undefined
  /** Other responses were sent on the connection before this one, or will be. Nobody knows whether the client has received them. */
  #isBehind = false
  #awaitsTurn = false
  /** Node's own listeners for the end of the response. */
  #nodes: readonly unknown[] = []
  /** The timeout of the socket, while it does not apply. */
  #timeout: number | undefined

  constructor (link: Link, req: IncomingMessage, settings: BodySettings) {
    this.link = link
    this.req = req
    this.readable = req
    this.#settings = settings
    this.#socket = link.socket as unknown as Socket
  }

  /** Gives it its response, and starts to watch both. */
  attach (res: ServerResponse): void {
    const { req, link } = this
    this.res = res
    link.add(this)
    if (this.#settings.takes) {
      link.latestBody = this
      link.watchOutput()
      this.#noteDestroy(req)
      this.#noteDestroy(res)
    }
    if (this.#settings.takes && this.#settings.ofNode) {
      // After a refusal Node would read the rest of the body without bound, or reset the connection.
      this.#arrived = outliveResponse(req, res, this.#socket, () => this.#accepted || !isRead(this.readable), this.#onFinish)
    }
    this.#isBehind = res.socket == null || this.#socket.bytesWritten > 0
    if (this.#isBehind) this.#keepAnswersBefore()
    ;(req as Carried)[kBody] = this
    this.inputEnded = req.complete
    if (!this.inputEnded) {
      this.usualPush = req.push
      req.push = push
    }
    req.on('error', this.#onRequestError)
    req.on('close', this.#onRequestClose)
    res.on('error', this.#onError)
    this.#nodes = res.listeners('finish')
    if (this.#arrived === undefined) res.on('finish', this.#onFinish)
    res.on('close', this.#onResponseClose)
    if (this.inputEnded) this.#watchPeer()
    // Somebody has held the request back, and the connection has closed meanwhile.
    if (this.#socket.closed) process.nextTick(() => this.linkClosed())
  }

  get takes (): boolean { return this.#settings.takes }
  get writable (): ServerResponse { return this.res }
  get gone (): boolean { return this.#broken || this.#socket.destroyed }

  get unsent (): number { return this.res.writableLength }

  get sent (): number {
    const socket = this.#socket
    return socket.bytesWritten - socket.writableLength - bytesInFlight(socket as unknown as HttpSocket)
  }

  impliesTakeover (): boolean { return false }

  /** Node has sent it. */
  sendContinue (): void {}

  refusing (): void {
    if (this.#refusing) return
    this.#refusing = true
    const watch = (): void => {
      if (!this.outputFlushed && !this.gone && !this.#over) this.#unread = closeUnlessRead(this.link.socket, this.#settings.inactivityLimit)
    }
    // Behind other responses it has no socket yet, and their bytes do not count.
    if (this.res.socket == null) this.res.once('socket', watch)
    else watch()
  }

  reportDisconnect (): void {
    const { req } = this
    // To abort it would destroy the connection, and responses before this one are still to be sent.
    if (this.res.socket == null && !this.#socket.destroyed) this.#socket.once('close', () => abortRequest(req))
    else abortRequest(req)
  }

  /** Node goes on with the response. */
  releaseResponse (): void {}

  cut (): void {
    this.#socket.destroy()
  }

  asBody (): Carrier { return this }

  readFrom (body: Readable): void {
    iterateWithoutDestroying(this.req)
    if (body === this.req) return
    this.readable = body
    iterateWithoutDestroying(body)
    body.on('error', this.#onError)
  }

  writeHead (status: number, fields: HeadFields, head: KindHead): void {
    const { res } = this
    clearFields(res)
    const set = new Set(fields.map(([name]) => name.toLowerCase()))
    // Not as an argument of writeHead(), where on Node 20 the last of several fields with one name wins.
    for (const [name, value] of fields) res.appendHeader(name, value)
    for (const [name, value] of head.fields(undefined)) if (!set.has(name.toLowerCase())) res.appendHeader(name, value)
    // Behind another response it has no socket yet.
    if (res.socket === this.#socket) holdWrites(this.link.socket)
    res.writeHead(status)
    res.flushHeaders()
  }

  start (): void {
    this.#accepted = true
    countOutput(this.res, this)
    this.#watchDestroy()
    this.#stopTimeout()
  }

  meterInput (make: (stream: Readable, push: Push) => InputMeter): void {
    // All of it is there.
    if (this.usualPush === undefined) return
    const meter = make(this.req, this.usualPush as Push)
    this.inputMeter = meter
    this.usualPush = (chunk, encoding) => meter.push(chunk as Uint8Array | null, encoding)
  }

  /** The socket, while it is this response's. */
  meterOutput (make: (stream: Writable) => OutputMeter | undefined): void {
    const { res } = this
    const start = (): void => {
      // The accept head does not count.
      releaseWrites(this.link.socket)
      const meter = make(this.#socket)
      res.once('finish', () => meter?.stop())
    }
    if (res.socket == null) res.once('socket', start)
    else start()
  }

  keepAlive (delay: Milliseconds): void {
    this.#socket.setKeepAlive(true, delay)
  }

  end (): void {
    const { res } = this
    if (!res.writableEnded && !res.destroyed) res.end()
  }

  /** When the response is over and nobody has begun to read, the rest is thrown away, as Node does it. */
  handlerReturned (): void {
    if (this.outputFlushed) this.discardInput()
    else this.res.once('finish', () => this.discardInput())
  }

  discardInput (): void {
    const { req } = this
    if (req.readableEnded || req.destroyed) return
    if (this.#discarding) {
      // If the handler has paused the stream, the rest would stay on the wire.
      if (!this.#lingering) req.resume()
      return
    }
    if (isRead(this.readable)) return
    this.#discarding = true
    discardBody(req, () => this.outputFlushed, () => this.#linger())
  }

  /** Cuts the response, so that its last chunk is never sent. Responses before it are sent whole. */
  breakOff (error: Error | undefined): void {
    if (this.#broken) return
    this.#broken = true
    this.#destroyedHere = true
    const { res } = this
    const isNext = res.socket != null || this.outputFlushed
    if (this.readable !== this.req) this.readable.destroy(error)
    if (!isNext) this.#cutInItsTurn()
    // What was written before the failure leaves before the connection does.
    if (isNext) releaseAllWrites(res, this.link.socket)
    res.destroy(error)
    if (isNext) this.#closeCutResponse()
    this.closed = true
    this.#check()
  }

  complete (): void {
    // Node emits no 'finish' for a response that was cut, and Fastify completes the request by that event.
    if (!this.outputFlushed) tellFinish(this.res, this.#nodes)
  }

  detach (): never {
    throw new FST_ERR_DUPLEX_CANNOT_DETACH()
  }

  /** Node does not read from a client that has half-closed, and so does not see its reset. */
  lookForPeer (): void {
    const socket = this.link.socket
    if (peerIsGone(socket)) socket.destroy(resetByPeer())
  }

  linkClosed (): void {
    this.#lose()
    this.closed = true
    const { req } = this
    // Node tells a request that its client has vanished, but only until the response is over.
    if (!req.complete && !req.destroyed) abortRequest(req)
    this.#check()
  }

  /** @returns whether the reader wants more */
  inputHasCome (chunk: Buffer, encoding: BufferEncoding | undefined): boolean {
    const { req } = this
    if (req.destroyed) return this.#drop(chunk.length)
    this.bytesRead += chunk.length
    return (this.usualPush as IncomingMessage['push']).call(req, chunk, encoding)
  }

  /** A utility has destroyed the request and left the connection. The rest of the body still comes, and the next request behind it. */
  #drop (bytes: number): boolean {
    this.#dropped += bytes
    if (this.#dropped <= MOST_DISCARDED) return true
    if (this.outputFlushed) this.#linger()
    else this.res.once('finish', () => this.#linger())
    return false
  }

  #linger (): void {
    if (this.#lingering) return
    this.#destroyedHere = true
    this.#lingering = true
    linger(this.#socket)
  }

  inputHasArrived (): void {
    if (this.inputEnded || !this.req.complete) return
    this.inputEnded = true
    this.#arrived?.()
    if (this.#timeout !== undefined && this.outputFlushed) this.#restoreTimeout()
    this.#watchPeer()
    // 'end' comes with the last byte read.
    process.nextTick(() => this.#check())
  }

  #watchPeer (): void {
    if (this.#settings.takes && !this.outputFlushed && !this.gone && !this.#over) watchPeer(this)
  }

  /** The connection is gone before both sides had ended. */
  #lose (): void {
    if (this.closed || (this.outputFlushed && this.inputEnded)) return
    if (!this.#destroyedHere) this.peerError ??= clientLeft()
    this.closed = true
  }

  /** The only function that ends the carrier. */
  #check (): void {
    if (this.outputFlushed && this.inputEnded) this.closed = true
    if (this.closed && !this.#over) {
      this.#over = true
      this.#unread?.stop()
      unwatchPeer(this)
      this.link.remove(this)
      this.listener?.carrierEnds()
    }
    this.owner?.[kProgressed]()
  }

  readonly #onRequestError = (error: Error & { code?: string }): void => {
    // A utility that destroys a request sets its socket to null first. The connection is not broken then.
    if (this.req.socket !== null) this.#onError(error)
  }

  readonly #onError = (error: Error & { code?: string }): void => {
    if (!isAbort(error)) this.localError ??= error
    else if (!this.#destroyedHere) this.peerError ??= error
    this.#check()
  }

  readonly #onFinish = (): void => {
    this.outputFlushed = true
    this.#unread?.stop()
    unwatchPeer(this)
    if (!this.#accepted) {
      this.listener?.answerEnds()
      if (this.#arrived !== undefined && !this.inputEnded && !this.req.destroyed && !isRead(this.readable)) {
        discardRefused(this.req, this.#socket, this.#settings.inactivityLimit)
      }
    } else if (!this.inputEnded) {
      // Node has set the timeout for idle connections, but the request still arrives.
      this.#stopTimeout()
    } else {
      this.#restoreTimeout()
    }
    this.#check()
  }

  readonly #onRequestClose = (): void => {
    const { req } = this
    // A stream between the body and its reader is not told that the body broke off.
    if (this.readable !== req && (!req.complete || req.aborted)) {
      this.readable.destroy(this.peerError ?? this.localError ?? clientLeft())
    }
    this.#check()
  }

  /** Behind other responses it has no socket yet. */
  #cutInItsTurn (): void {
    if (this.#awaitsTurn) return
    this.#awaitsTurn = true
    const { socket } = this.link
    // Nothing of it was sent, whatever its head would say of its length.
    onTurnOfDestroyed(this.res, () => { if (!socket.destroyed && !socket.writableEnded) closeBehindAnswers(socket) })
  }

  /** Closes the connection after the part of the response that was sent. */
  #closeCutResponse (): void {
    const { res } = this
    const socket = this.#socket
    if (socket.destroyed || socket.writableEnded) return
    // Without a length or chunks, the end of the connection would be the end of the response.
    const isSeen = !res.headersSent || res.chunkedEncoding || res.hasHeader('content-length')
    if (this.#isBehind && isSeen) closeBehindAnswers(this.link.socket)
    else socket.destroy()
  }

  /** Node destroys the connection together with the response. This does not, because earlier responses may still be on their way. */
  #keepAnswersBefore (): void {
    const { res } = this
    const { destroy } = res
    res.destroy = (error?: Error) => {
      if (res.destroyed) return res
      if (res.socket == null) {
        if (!this.outputFlushed) this.#cutInItsTurn()
        return destroy.call(res, error)
      }
      destroyOnlyResponse(this.#socket, () => destroy.call(res, error))
      this.#closeCutResponse()
      return res
    }
  }

  readonly #onResponseClose = (): void => {
    if (!this.outputFlushed && !this.closed && !this.gone) {
      if (this.res.socket == null) this.#cutInItsTurn()
      // The response was destroyed before its turn, and its turn came before this event. Since Node 24 nobody destroys the socket then.
      else if (this.res.destroyed) this.#closeCutResponse()
    }
    if (!this.outputFlushed) this.#lose()
    this.#check()
  }

  /** The timeouts of HTTP do not apply after acceptance. */
  #stopTimeout (): void {
    const socket = this.#socket
    if (socket.timeout === undefined || socket.timeout === 0) return
    this.#timeout = socket.timeout
    socket.setTimeout(0)
  }

  #restoreTimeout (): void {
    const socket = this.#socket
    if (this.#timeout !== undefined && (socket.timeout ?? 0) === 0 && !socket.destroyed) socket.setTimeout(this.#timeout)
    this.#timeout = undefined
  }

  /** Before acceptance, too, the app may destroy one of them, and Node tells nobody who did it. */
  #noteDestroy (stream: IncomingMessage | ServerResponse): void {
    const destroy = stream.destroy as (error?: Error) => never
    stream.destroy = (error?: Error) => {
      // Node sets the socket to null before a utility destroys a request.
      if (!this.#accepted && !this.closed && !this.#socket.destroyed && stream.socket != null) {
        this.#destroyedHere = true
        this.localError ??= error
      }
      return Reflect.apply(destroy, stream, error === undefined ? [] : [error])
    }
  }

  /** Notes who destroyed a stream. If the peer broke it, its socket is gone before that. */
  #watchDestroy (): void {
    const { res, readable } = this
    const socket = this.#socket
    for (const stream of new Set<Readable | ServerResponse>([res, readable, this.req])) {
      const destroy = stream.destroy as (error?: Error) => never
      stream.destroy = (error?: Error) => {
        // A stream destroys itself after its end was read.
        const letGo = stream === this.req && this.req.socket === null
        const proceed = (): never => Reflect.apply(destroy, stream, error === undefined ? [] : [error])
        if (letGo || socket.destroyed || (stream as { readableEnded?: boolean }).readableEnded === true) return proceed()
        if (!this.closed) {
          this.#destroyedHere = true
          this.localError ??= error
        }
        // The connection is still that of the responses before this one.
        if (stream !== this.req || this.outputFlushed || (res.socket != null && !this.#isBehind)) return proceed()
        if (!this.closed) {
          if (res.socket == null) this.#cutInItsTurn()
          else this.#closeCutResponse()
        }
        return destroyOnlyRequest(this.req, proceed)
      }
    }
    if (res.chunkedEncoding) return
    // HTTP/1.0 has no chunks. There the end of the connection ends the response, so a cut one needs a reset.
    const { destroy } = socket
    socket.destroy = (error?: Error) => {
      socket.destroy = destroy
      if (res.writableFinished) return socket.destroy(error)
      breakOff(socket, error)
      return socket
    }
  }
}

/** The same function for all requests. */
function push (this: Carried, chunk: unknown, encoding?: BufferEncoding): boolean {
  const carrier = this[kBody] as BodyCarrier
  if (chunk === null) {
    carrier.inputHasArrived()
    return (carrier.usualPush as IncomingMessage['push']).call(this, null)
  }
  return carrier.inputHasCome(chunk as Buffer, encoding)
}

/** Node destroys a request with this when its connection is gone or its body is malformed. */
function isAbort (error: Error & { code?: string }): boolean {
  return error.code === 'ECONNRESET' || error.code === 'EPIPE'
}
