import type { ServerResponse } from 'node:http'
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2'
import type { Readable, Writable } from 'node:stream'
import type { Carrier, CarrierListener, ProgressListener } from '../connection/carrier.ts'
import { FST_ERR_DUPLEX_CANNOT_DETACH, FST_ERR_DUPLEX_TRAILERS } from '../errors.ts'
import type { InputMeter, Push } from '../governance/rate/input-meter.ts'
import type { OutputMeter } from '../governance/rate/output-meter.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import { kindsOverHttp2, type KindHead } from '../handshake/kinds.ts'
import { muteResponse } from '../internals/http-messages.ts'
import { countAsRead, isOverOnTheWire } from '../internals/http2.ts'
import { bytesInFlight, type HttpSocket } from '../internals/sockets.ts'
import { hasEnd, holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import { countOutput } from '../streams/count-output.ts'
import { hasUnread } from '../streams/has-unread.ts'
import { isRead } from '../streams/is-read.ts'
import { MOST_DISCARDED } from '../streams/unread-limits.ts'
import { kProgressed } from '../symbols.ts'
import type { Http2Session } from './sessions.ts'
import { OutputProgress } from './output-progress.ts'
import { cutUnlessTaken } from './unread-answer.ts'
import { chunks } from './stream-iterator.ts'
import type { Milliseconds } from '../../types/index.ts'

const { NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR } = constants

const NOTHING = Buffer.alloc(0)

/** How many listeners the plugin adds for one event. */
const OWN_LISTENERS = 6

/** How many milliseconds lie between two looks whether a stream that is over has been sent. */
const FLUSH_LOOK = 100

/**
 * The carrier of one HTTP/2 stream, from the tick of its request on. The end of input is held back until
 * there is a reader. Only END_STREAM counts as the end: Node ends a stream that was reset as if it were complete.
 */
export class StreamCarrier implements Carrier {
  readonly heads = kindsOverHttp2
  readonly head = NOTHING
  readonly stream: ServerHttp2Stream
  readable: Readable
  bytesRead = 0
  bytesWritten = 0
  inputEnded: boolean
  closed = false
  inputMeter: InputMeter | undefined
  peerError: Error | undefined
  localError: Error | undefined
  listener: CarrierListener | undefined
  owner: ProgressListener | undefined
  readonly res: ServerResponse
  /** The `push()` that ours replaces. */
  usualPush: ServerHttp2Stream['push']
  /** RFC 9113 section 8.5: the stream is a tunnel, which has no trailers. `#far`: its upstream may fail. */
  readonly #tunnel: boolean
  readonly #far: boolean
  readonly #session: Http2Session
  readonly #unreadFor: Milliseconds
  readonly #output: OutputProgress
  #accepted = false
  #handlerReturned = false
  #breaking = false
  /** Our reset is being made, and Node's session does not have it yet. */
  #resetting = false
  /** How many bytes of a body may arrive before the rest is refused. */
  #mostRead = Infinity
  #held: { release (): void } | undefined
  #flushing: NodeJS.Timeout | undefined

  /**
   * @param kind the kind of the connection, if it is accepted
   * @param unreadFor how long the client may take nothing of a refusal, or of the last bytes
   */
  constructor (
    stream: ServerHttp2Stream, res: ServerResponse, session: Http2Session, kind: 'upgrade' | 'connect' | 'body', unreadFor: Milliseconds
  ) {
    stream.on('error', this.#onError)
    // Ours must not make Node warn the app: together with Node's own and those of a pipeline() they exceed the default.
    const most = stream.getMaxListeners()
    if (most > 0) stream.setMaxListeners(most + OWN_LISTENERS)
    this.stream = stream
    this.res = res
    this.readable = stream
    this.#session = session
    this.#unreadFor = unreadFor
    this.#output = new OutputProgress(stream, session, () => this.bytesWritten - stream.writableLength)
    this.#tunnel = kind !== 'body'
    this.#far = kind === 'connect'
    // If the request comes together with the TLS handshake, Node reads it to its end before it emits it.
    this.inputEnded = stream.endAfterHeaders || hasEnd(stream)
    this.bytesRead = stream.readableLength
    // A body may be read before it is accepted.
    Object.assign(stream, { iterator: () => chunks(stream), [Symbol.asyncIterator]: () => chunks(stream) })
    ;(stream as Carried)[kCarrier] = this
    this.usualPush = stream.push
    stream.push = push
    if (!this.inputEnded) this.#held = holdEnd(stream, this.#onInputEnd)
    else if (!stream.endAfterHeaders && stream.readableLength === 0) this.#held = holdEndEvent(stream)
    stream.on('finish', this.#onFinish)
    stream.on('close', this.#onClose)
    stream.on('aborted', this.#onAborted)
    if (this.#tunnel) stream.on('trailers', this.#onTrailers)
    stream.destroy = (error?: Error) => this.#destroy(error)
    // Acceptance does not use this method, so whoever calls it sends a refusal.
    stream.respond = (headers?: OutgoingHttpHeaders, options?: object) => {
      Reflect.apply(prototypeOf(stream).respond, stream, [headers, options])
      cutUnlessTaken(stream, session, unreadFor)
    }
  }

  /** RFC 9113 section 8.5: a 2xx opens a tunnel, so only acceptance may send one. */
  impliesTakeover (status: number): boolean { return this.#tunnel && status >= 200 && status < 300 }

  /** Node sends a 100 if it was asked for. A tunnel has no content that would wait for one. */
  sendContinue (): void {}

  refusing (): void {}

  /** Node tells the request and its response itself. */
  reportDisconnect (): void {}

  releaseResponse (status: number): void {
    this.res.statusCode = status
    muteResponse(this.res)
  }

  cut (): void {
    this.stream.destroy()
  }

  asBody (): Carrier { return this }

  get unsent (): number { return this.stream.writableLength }
  get writable (): ServerHttp2Stream { return this.stream }
  get gone (): boolean { return this.stream.destroyed || this.stream.closed }
  get outputFlushed (): boolean { return this.stream.writableFinished }

  get sent (): number { return this.#output.moved }

  /** @param body the stream that the last preParsing hook returned */
  readFrom (body: Readable): void {
    // The request only reads from the stream. The pair is the stream itself.
    if (body === (this.res.req as unknown)) return
    this.readable = body
    body.on('error', this.#onError)
    // A stream between this one and its reader is not told that this one broke off.
    this.stream.on('close', () => { if (!this.inputEnded) body.destroy(this.peerError ?? this.localError) })
  }

  writeHead (status: number, fields: HeadFields, head: KindHead): void {
    const headers: OutgoingHttpHeaders = { ':status': status }
    for (const [name, value] of head.fields(undefined)) headers[name.toLowerCase()] = value
    const own = new Set(Object.keys(headers))
    for (const [name, value] of fields) {
      const key = name.toLowerCase()
      // RFC 9113 section 8.2.2: fields that are about an HTTP/1 connection.
      if (key === 'proxy-connection' || key === 'http2-settings' || key === 'te') continue
      // A field may be called `constructor`.
      const before = own.delete(key) || !Object.hasOwn(headers, key) ? undefined : headers[key]
      headers[key] = before === undefined ? value : [before, value].flat() as string[]
    }
    const { stream } = this
    // Not the stream's own method, which refuses a status that only acceptance may send.
    Reflect.apply(prototypeOf(stream).respond, stream, [headers, { waitForTrailers: head.trailers === true }])
  }

  start (): void {
    const { stream } = this
    this.#accepted = true
    if (this.readable !== stream) iterateWithoutDestroying(this.readable)
    countOutput(stream, this, true)
    // If the input has ended and is empty, a read would emit 'end' before anybody listens.
    if (!this.inputEnded || hasUnread(stream, this.inputMeter)) {
      // That reads nothing if the buffer is full, or if a rate has to be waited for. It counts all the same.
      stream.read(0)
      countAsRead(stream)
    }
    this.#session.takeover(stream, this.#unreadFor)
  }

  meterInput (make: (stream: Readable, push: Push) => InputMeter): void {
    const meter = make(this.stream, this.usualPush as Push)
    this.inputMeter = meter
    this.usualPush = (chunk, encoding) => meter.push(chunk as Uint8Array | null, encoding)
  }

  meterOutput (make: (stream: Writable) => OutputMeter | undefined): void {
    make(this.stream)
  }

  keepAlive (delay: number): void {
    this.#session.socket.setKeepAlive?.(true, delay)
  }

  end (): void {
    if (!this.stream.writableEnded) this.stream.end()
  }

  handlerReturned (): void {
    this.#handlerReturned = true
    this.#discardUnwanted()
  }

  discardInput (): void {
    const { stream, readable } = this
    this.#releaseEnd()
    if (isRead(readable)) return
    if (readable !== stream) readable.unpipe()
    if (!this.#tunnel) this.#mostRead = Math.min(this.#mostRead, this.bytesRead + MOST_DISCARDED)
    stream.resume()
  }

  /** RFC 9113 section 7: RST_STREAM, which ends this stream alone. */
  breakOff (error: Error | undefined, failed: boolean): void {
    this.#reset(error, this.#code(failed))
  }

  #code (failed: boolean): number {
    return !failed ? NGHTTP2_CANCEL : this.#far ? NGHTTP2_CONNECT_ERROR : NGHTTP2_INTERNAL_ERROR
  }

  /** Node has emitted 'finish' on the response when the stream closed. */
  complete (): void {}

  detach (): never {
    throw new FST_ERR_DUPLEX_CANNOT_DETACH()
  }

  #reset (error: Error | undefined, code: number): void {
    const { stream } = this
    if (this.#breaking || stream.destroyed) return
    this.#breaking = true
    if (this.readable !== stream) this.readable.destroy(error)
    // Node would end the output first, and send END_STREAM, which the peer could take for the end.
    stream.end = (() => stream) as typeof stream.end
    // close() emits 'aborted' before it sends the reset. A pipeline() then destroys the stream, and no reset would be sent.
    this.#resetting = true
    stream.close(code)
    this.#resetting = false
    Reflect.apply(prototypeOf(stream).destroy, stream, [error])
  }

  /** Every `destroy()` of the stream, ours, the app's and Node's, arrives here. */
  #destroy (error: Error | undefined): ServerHttp2Stream {
    const { stream } = this
    if (this.#resetting) return stream
    const proceed = (cause: Error | undefined): ServerHttp2Stream => Reflect.apply(prototypeOf(stream).destroy, stream, [cause])
    if (this.#breaking || stream.destroyed) return proceed(error)
    // If the peer resets the stream before our side has ended, Node ends our side.
    if (error === undefined && this.outputFlushed && !stream.aborted && (this.inputEnded || !this.#accepted)) return proceed(undefined)
    if (error === undefined && this.#maybeFlushing) {
      this.#awaitFlush(proceed)
      return stream
    }
    if (this.#brokenByPeer) return proceed(this.#lost(error))
    this.localError = error
    this.#reset(error, this.#code(error !== undefined && error.name !== 'AbortError'))
    return stream
  }

  /** @returns the error to destroy the stream with. Without one, readers of the pair would take the loss for an end */
  #lost (error?: Error): Error | undefined {
    this.peerError ??= error ?? aborted(this.stream.rstCode)
    return this.#accepted ? this.peerError : error
  }

  get #brokenByPeer (): boolean {
    const { stream } = this
    return stream.closed || stream.session === undefined || stream.session.destroyed || this.#session.socket.destroyed
  }

  /**
   * Both sides have ended, and so has the stream. Node destroys it before it tells the writer that
   * the last chunk has left. Without this, a complete output would fail, and look cut.
   */
  get #maybeFlushing (): boolean {
    const { stream } = this
    return this.inputEnded && stream.writableEnded && !stream.aborted && stream.closed && stream.rstCode === 0 &&
      !this.#session.socket.destroyed
  }

  #awaitFlush (proceed: (cause: Error | undefined) => void): void {
    if (this.#flushing !== undefined) return
    // 'finish' never comes if the peer has reset the stream with the code for no error.
    const look = (): void => {
      if (this.stream.destroyed) return
      if (this.outputFlushed) proceed(undefined)
      else if (bytesInFlight(this.#session.socket as unknown as HttpSocket) === 0) proceed(this.#lost())
      else this.#flushing = setTimeout(look, FLUSH_LOOK)
    }
    this.#flushing = setTimeout(look, FLUSH_LOOK)
  }

  /** @returns whether the end that Node has found is a real end */
  inputHasEnded (): boolean {
    this.#onInputEnd()
    return this.inputEnded
  }

  inputHasCome (chunk: Buffer): void {
    this.bytesRead += chunk.length
    if (this.bytesRead <= this.#mostRead || !this.outputFlushed || this.#breaking) return
    this.#breaking = true
    // RFC 9113 section 8.1: the response is complete, and this asks the client to stop sending.
    this.stream.close(NGHTTP2_NO_ERROR)
  }

  #releaseEnd (): void {
    this.#held?.release()
    this.#held = undefined
  }

  /**
   * If both sides have ended, the end of input waits for a reader only as long as bytes are left to read. If nobody has begun to
   * read a body when its response is over, these bytes are thrown away, as Node does it over HTTP/1. So are those
   * of a refused request: Node closes such a stream while its client still sends, but then waits for a reader.
   */
  #discardUnwanted (): void {
    if (!this.outputFlushed) return
    const unwanted = this.#accepted ? this.#handlerReturned && !this.#tunnel : this.inputEnded
    if (unwanted || (this.inputEnded && !hasUnread(this.stream, this.inputMeter))) this.discardInput()
  }

  readonly #onInputEnd = (): void => {
    if (this.inputEnded) {
      // A second end means that the stream is closed on the wire. Output that waits for flow-control window will never be sent.
      if (!this.outputFlushed && isOverOnTheWire(this.stream)) process.nextTick(() => this.stream.destroy())
      return
    }
    if (this.gone) {
      // Node also pushes an end when it tears a stream down. That is no END_STREAM. After a reset with the code for
      // no error Node would wait until the stream is read.
      process.nextTick(() => this.stream.destroy())
      return
    }
    this.inputEnded = true
    this.#discardUnwanted()
    process.nextTick(() => this.owner?.[kProgressed]())
  }

  readonly #onFinish = (): void => {
    if (!this.#accepted && this.stream.headersSent && !this.stream.aborted) this.listener?.answerEnds()
    // Nobody will read what was refused.
    if (!this.#accepted) this.#releaseEnd()
    this.#discardUnwanted()
    this.owner?.[kProgressed]()
  }

  readonly #onTrailers = (): void => {
    this.peerError ??= new FST_ERR_DUPLEX_TRAILERS()
    this.#reset(this.peerError, NGHTTP2_PROTOCOL_ERROR)
  }

  /** The peer has reset the stream before our side had ended. After a reset with the code for no error Node waits for a reader. */
  readonly #onAborted = (): void => {
    if (this.#breaking) return
    this.peerError ??= aborted(this.stream.rstCode)
    process.nextTick(() => this.stream.destroy())
  }

  readonly #onError = (error: Error): void => {
    if (!this.#breaking && !this.stream.destroyed) this.localError ??= error
  }

  readonly #onClose = (): void => {
    this.closed = true
    clearTimeout(this.#flushing)
    this.listener?.carrierEnds()
    this.owner?.[kProgressed]()
  }
}

/** Holds the event 'end' back, if the end of input came before the request was emitted. */
function holdEndEvent (stream: ServerHttp2Stream): { release (): void } {
  const emit = stream.emit as (event: string | symbol, ...args: unknown[]) => boolean
  const nodes = stream.listenerCount('end')
  let held = false
  stream.emit = (event: string | symbol, ...args: unknown[]) => {
    if (event !== 'end' || stream.listenerCount('end') > nodes) return Reflect.apply(emit, stream, [event, ...args])
    held = true
    return true
  }
  const readers = (event: string | symbol): void => {
    if (event === 'data' || event === 'readable' || event === 'end') process.nextTick(release)
  }
  function release (): void {
    stream.removeListener('newListener', readers)
    stream.removeListener('resume', release)
    Reflect.deleteProperty(stream, 'emit')
    if (held) stream.emit('end')
    held = false
  }
  stream.on('newListener', readers)
  stream.on('resume', release)
  return { release }
}

const kCarrier = Symbol('fastify-duplex.carrier')

interface Carried extends ServerHttp2Stream {
  [kCarrier]?: StreamCarrier
}

/** The same function for all streams. */
function push (this: Carried, chunk: unknown, encoding?: BufferEncoding): boolean {
  const carrier = this[kCarrier] as StreamCarrier
  if (chunk !== null) carrier.inputHasCome(chunk as Buffer)
  else if (!carrier.inputHasEnded()) return false
  return carrier.usualPush.call(this, chunk, encoding)
}

type Methods = Pick<ServerHttp2Stream, 'respond' | 'destroy'>

function prototypeOf (stream: ServerHttp2Stream): Methods {
  return Object.getPrototypeOf(stream) as Methods
}

function aborted (code: number | undefined): Error {
  return Object.assign(new Error(`the peer reset the stream with code ${code ?? 0}`), { code: 'ECONNRESET' })
}
