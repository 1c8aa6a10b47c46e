import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Readable, type Writable } from 'node:stream'
import type { Carrier, Handshake, Owner } from '../connection/carrier.ts'
import type { SilenceWatch } from '../connection/silence-watch.ts'
import { kProgressed } from '../connection/symbols.ts'
import { countOutput } from '../connection/count-output.ts'
import { FST_ERR_DUPLEX_CANNOT_DETACH } from '../errors.ts'
import type { InputMeter, Push } from '../governance/input-meter.ts'
import type { OutputMeter } from '../governance/output-meter.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import { kindsOverHttp1, type KindHead } from '../handshake/kinds/index.ts'
import { abortRequest, clearFields, outliveResponse, tellFinish } from '../internals/http-messages.ts'
import { bytesInFlight, peerIsGone, resetByPeer, type HttpSocket } from '../internals/sockets.ts'
import { iterateWithoutDestroying } from '../internals/streams.ts'
import type { Milliseconds } from '../../types/index.ts'
import { breakOff } from './break-off.ts'
import { closeUnlessRead } from './lingering-close.ts'
import type { Link, Waiting } from './link.ts'
import { MOST_DISCARDED, discardBody, discardRefused, linger } from './unread-body.ts'
import { unwatchPeer, watchPeer, type Watched } from './vanished-peers.ts'
import { isRead } from '../connection/reading.ts'

const NOTHING = Buffer.alloc(0)

const kBody = Symbol('fastify-duplex.body')

interface Carried extends IncomingMessage {
  [kBody]?: BodyCarrier
}

export interface BodySettings {
  /** How long a client is waited for that neither takes an answer nor sends the rest of its body, in milliseconds. */
  readonly silentFor: Milliseconds
  /** The request is a duplex route's, and is taken as a pair of bodies if it is accepted. */
  readonly takes: boolean
  /** The response is Node's, which goes on with the connection behind it. */
  readonly ofNode: boolean
}

/**
 * A request body and the response that is sent while it arrives, on a connection that stays Node's. It watches the
 * connection as well: the response to a pipelined request has no socket yet, and is not told when that closes.
 */
export class BodyCarrier implements Carrier, Waiting, Watched {
  readonly heads = kindsOverHttp1
  readonly head = NOTHING
  readonly link: Link
  readonly req: IncomingMessage
  handshake: Handshake | undefined
  owner: Owner | undefined
  res!: ServerResponse
  readable: Readable
  bytesRead = 0
  bytesWritten = 0
  /** As the response told: up to Node 22 one that was destroyed, and ended then, says of itself that it has finished. */
  outputFlushed = false
  /** The request has arrived whole, whoever read of it. A utility that lets go of it may have destroyed it before. */
  inputEnded = false
  closed = false
  inputMeter: InputMeter | undefined
  peerError: Error | undefined
  localError: Error | undefined
  /** What `push()` was before ours, which is on the prototype unless somebody has put another there. */
  usualPush: IncomingMessage['push'] | undefined
  readonly #settings: BodySettings
  /** Kept here: a `pipeline` that fails sets the `socket` of the request to null. */
  readonly #socket: Socket
  #accepted = false
  #discarding = false
  #lingering = false
  #refusing = false
  #unread: SilenceWatch | undefined
  #broken = false
  #over = false
  #dropped = 0
  #destroyedHere = false
  #arrived: (() => void) | undefined
  /** Who listened for the end of the response before anybody else could. */
  #nodes: readonly unknown[] = []
  /** What the socket's timeout was before it stopped to apply. */
  #timeout: number | undefined

  constructor (link: Link, req: IncomingMessage, settings: BodySettings) {
    this.link = link
    this.req = req
    this.readable = req
    this.#settings = settings
    this.#socket = link.socket as unknown as Socket
  }

  /** This is its response, and from here on there is something to watch. */
  attach (res: ServerResponse): void {
    const { req, link } = this
    this.res = res
    link.add(this)
    if (this.#settings.takes) {
      link.latestBody = this
    }
    if (this.#settings.takes && this.#settings.ofNode) {
      // Node would read without bound what is left of the body of a refused request, or reset what it has not read.
      this.#arrived = outliveResponse(req, res, this.#socket, () => this.#accepted || !isRead(this.readable), this.#onFinish)
    }
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
  }

  get writable (): ServerResponse { return this.res }
  get gone (): boolean { return this.#broken || this.#socket.destroyed }

  get unsent (): number { return this.res.writableLength }

  get sent (): number {
    const socket = this.#socket
    return socket.bytesWritten - socket.writableLength - bytesInFlight(socket as unknown as HttpSocket)
  }

  impliesTakeover (): boolean { return false }

  /** Node has sent it. */
  promise100 (): void {}

  refusing (): void {
    if (this.#refusing) return
    this.#refusing = true
    const watch = (): void => {
      if (!this.outputFlushed && !this.gone) this.#unread = closeUnlessRead(this.link.socket, this.#settings.silentFor)
    }
    // Behind others it has no socket, and what they have to say is not its own.
    if (this.res.socket == null) this.res.once('socket', watch)
    else watch()
  }

  tellGone (): void {
    abortRequest(this.req)
  }

  /** Answered without acceptance, in a row with others: Node does the rest. */
  leaveHttp (): void {}

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
    // Not as an argument of writeHead(): on Node 20 the last of several fields would win there.
    for (const [name, value] of fields) res.appendHeader(name, value)
    for (const [name, value] of head.fields(undefined)) if (!set.has(name.toLowerCase())) res.appendHeader(name, value)
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

  /** As Node does it: what nobody has begun to read when the response is over, nobody wants. */
  leave (): void {
    if (this.outputFlushed) this.discardInput()
    else this.res.once('finish', () => this.discardInput())
  }

  discardInput (): void {
    const { req } = this
    if (req.readableEnded || req.destroyed) return
    if (this.#discarding) {
      // A handler that pauses what it has closed would leave the rest on the wire.
      if (!this.#lingering) req.resume()
      return
    }
    if (isRead(this.readable)) return
    this.#discarding = true
    discardBody(req, () => this.outputFlushed, () => this.#linger())
  }

  /** The last chunk is never sent. What others have to say before this response is not cut short. */
  breakOff (error: Error | undefined): void {
    if (this.#broken) return
    this.#broken = true
    this.#destroyedHere = true
    const { res } = this
    const isNext = res.socket != null || this.outputFlushed
    if (this.readable !== this.req) this.readable.destroy(error)
    if (!isNext) this.#cutInItsTurn()
    res.destroy(error)
    if (isNext && !this.#socket.destroyed) this.#socket.destroy()
    this.closed = true
    this.#check()
  }

  complete (): void {
    // Behind a response that was cut short Node has no 'finish', on which the end of the request hangs.
    if (!this.outputFlushed) tellFinish(this.res, this.#nodes)
  }

  detach (): never {
    throw new FST_ERR_DUPLEX_CANNOT_DETACH()
  }

  /** A client that has half-closed behind its request is read no further, so that Node sees no reset. */
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

  /** A utility let go of the request and spared the connection. The rest is still on the wire, in front of what follows. */
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
    if (this.#settings.takes && !this.outputFlushed && !this.gone) watchPeer(this)
  }

  /** The connection is gone before all was said. */
  #lose (): void {
    if (this.closed || (this.outputFlushed && this.inputEnded)) return
    if (!this.#destroyedHere) this.peerError ??= Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
    this.closed = true
  }

  /** The one place where it ends. */
  #check (): void {
    if (this.outputFlushed && this.inputEnded) this.closed = true
    if (this.closed && !this.#over) {
      this.#over = true
      this.#unread?.stop()
      unwatchPeer(this)
      this.link.remove(this)
      this.handshake?.carrierEnds()
    }
    this.owner?.[kProgressed]()
  }

  readonly #onRequestError = (error: Error & { code?: string }): void => {
    // A utility that lets go of a request takes its socket from it first: nothing is broken by that.
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
      this.handshake?.answerEnds()
      if (this.#arrived !== undefined && !this.inputEnded && !this.req.destroyed && !isRead(this.readable)) {
        discardRefused(this.req, this.#socket, this.#settings.silentFor)
      }
    } else if (!this.inputEnded) {
      // Node has set the timeout of an idle connection, which this one is not yet.
      this.#stopTimeout()
    } else {
      this.#restoreTimeout()
    }
    this.#check()
  }

  readonly #onRequestClose = (): void => {
    const { req } = this
    // A stream between the body and its reader does not learn by itself that the body broke off.
    if (this.readable !== req && (!req.complete || req.aborted)) {
      this.readable.destroy(this.peerError ?? this.localError ?? Object.assign(new Error('aborted'), { code: 'ECONNRESET' }))
    }
    this.#check()
  }

  /** Behind others it has no socket yet; up to Node 22 Node itself destroys that as soon as there is one. */
  #cutInItsTurn (): void {
    this.res.once('socket', () => this.#socket.destroy())
  }

  readonly #onResponseClose = (): void => {
    if (!this.outputFlushed && !this.closed && this.res.socket == null && !this.gone) this.#cutInItsTurn()
    if (!this.outputFlushed) this.#lose()
    this.#check()
  }

  /** The timers of HTTP do not apply to what was taken over. */
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

  /** Tells a stream that the app destroyed from one that the peer broke: then its socket is gone already. */
  #watchDestroy (): void {
    const { res, readable } = this
    const socket = this.#socket
    for (const stream of new Set<Readable | ServerResponse>([res, readable, this.req])) {
      const destroy = stream.destroy as (error?: Error) => never
      stream.destroy = (error?: Error) => {
        // A stream that has been read to its end destroys itself.
        const letGo = stream === this.req && this.req.socket === null
        if (!letGo && !this.closed && !socket.destroyed && (stream as { readableEnded?: boolean }).readableEnded !== true) {
          this.#destroyedHere = true
          this.localError ??= error
        }
        return Reflect.apply(destroy, stream, error === undefined ? [] : [error])
      }
    }
    if (res.chunkedEncoding) return
    // HTTP/1.0 has no chunks: the end of the connection is the end of the response, and must not come before it.
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
