import type { ServerResponse } from 'node:http'
import { constants, type OutgoingHttpHeaders, type ServerHttp2Stream } from 'node:http2'
import type { Readable } from 'node:stream'
import type { HeadFields } from '../handshake/accept-head.ts'
import { FST_ERR_DUPLEX_CANNOT_DETACH, FST_ERR_DUPLEX_TRAILERS } from '../errors.ts'
import type { Http2Session } from './sessions.ts'
import { OutputProgress } from './output-progress.ts'
import { cutUnlessTaken } from './unread-answer.ts'
import { kindsOverHttp2, type KindHead } from '../handshake/kinds/index.ts'
import { silence } from '../internals/http-messages.ts'
import { bytesInFlight, type HttpSocket } from '../internals/sockets.ts'
import { hasEnd, holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import type { Carrier, Handshake, Owner } from '../connection/carrier.ts'
import { kProgressed } from '../connection/symbols.ts'
import { chunks } from './chunks.ts'
import { countOutput } from '../connection/count-output.ts'
import { isRead } from '../connection/reading.ts'
import type { Milliseconds } from '../../types/index.ts'

const { NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR } = constants

const NOTHING = Buffer.alloc(0)

/** How much of a body that was answered whole is read and thrown away. */
const MOST_DISCARDED = 1024 * 1024

/** What is added here, and where this is used, for one event. */
const OWN_LISTENERS = 6

/** How often is looked whether a stream that is over has been sent, in milliseconds. */
const FLUSH_LOOK = 100

/**
 * One stream of an HTTP/2 session, from the tick of its request on. Its end of input is held back until
 * there is a reader, and only END_STREAM is one: Node ends a stream that was reset as if it were whole.
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
  peerError: Error | undefined
  localError: Error | undefined
  handshake: Handshake | undefined
  owner: Owner | undefined
  readonly res: ServerResponse
  /** What `push()` was before ours, which is on the prototype unless somebody has put another there. */
  readonly usualPush: ServerHttp2Stream['push']
  /** RFC 9113 section 8.5: the stream is a tunnel, which has no trailers and whose far end may fail. */
  readonly #tunnel: boolean
  readonly #far: boolean
  readonly #session: Http2Session
  readonly #patience: Milliseconds
  readonly #output: OutputProgress
  #accepted = false
  #left = false
  #breaking = false
  /** Our reset is being made, and not yet with Node's session. */
  #resetting = false
  /** Of a body, how many bytes may have come before the rest is nobody's. */
  #mostRead = Infinity
  #release: (() => void) | undefined
  #flushing: NodeJS.Timeout | undefined

  /**
   * @param kind what the stream would be accepted as
   * @param patience how long its client may take nothing of an answer, or of what is left when all is over
   */
  constructor (
    stream: ServerHttp2Stream, res: ServerResponse, session: Http2Session, kind: 'upgrade' | 'connect' | 'body', patience: Milliseconds
  ) {
    stream.on('error', this.#onError)
    // Ours are not the app's: with Node's own, and those of a pipeline() both ways, the usual number is exceeded.
    const most = stream.getMaxListeners()
    if (most > 0) stream.setMaxListeners(most + OWN_LISTENERS)
    this.stream = stream
    this.res = res
    this.readable = stream
    this.#session = session
    this.#patience = patience
    this.#output = new OutputProgress(stream, session, () => this.bytesWritten - stream.writableLength)
    this.#tunnel = kind !== 'body'
    this.#far = kind === 'connect'
    // What comes with the handshake of TLS, Node reads to its end before it tells of the request.
    this.inputEnded = stream.endAfterHeaders || hasEnd(stream)
    this.bytesRead = stream.readableLength
    // A body may be read before it is accepted.
    Object.assign(stream, { iterator: () => chunks(stream), [Symbol.asyncIterator]: () => chunks(stream) })
    ;(stream as Carried)[kCarrier] = this
    this.usualPush = stream.push
    stream.push = push
    if (!this.inputEnded) this.#release = holdEnd(stream, this.#onInputEnd)
    else if (!stream.endAfterHeaders && stream.readableLength === 0) this.#release = holdEndEvent(stream)
    stream.on('finish', this.#onFinish)
    stream.on('close', this.#onClose)
    stream.on('aborted', this.#onAborted)
    if (this.#tunnel) stream.on('trailers', this.#onTrailers)
    stream.destroy = (error?: Error) => this.#destroy(error)
    // Acceptance has a way of its own, so that this is an answer in its place.
    stream.respond = (headers?: OutgoingHttpHeaders, options?: object) => {
      Reflect.apply(prototypeOf(stream).respond, stream, [headers, options])
      cutUnlessTaken(stream, session, patience)
    }
  }

  /** RFC 9113 section 8.5: a 2xx is a tunnel, and no answer but acceptance may say so. */
  impliesTakeover (status: number): boolean { return this.#tunnel && status >= 200 && status < 300 }

  /** Node sends it where it was asked for, and a tunnel has no content that would wait for it. */
  promise100 (): void {}

  refusing (): void {}

  /** Node tells the request and its response. */
  tellGone (): void {}

  leaveHttp (status: number): void {
    this.res.statusCode = status
    silence(this.res)
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

  /** @param body what the last preParsing hook made of the request */
  readFrom (body: Readable): void {
    // The request is Node's reader of the stream, which is the pair itself.
    if (body === (this.res.req as unknown)) return
    this.readable = body
    body.on('error', this.#onError)
    // A stream between the stream and its reader does not learn by itself that it broke off.
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
      const before = own.delete(key) ? undefined : headers[key]
      headers[key] = before === undefined ? value : [before, value].flat() as string[]
    }
    const { stream } = this
    // The stream's own method may be guarded against an answer that would say the same as acceptance.
    Reflect.apply(prototypeOf(stream).respond, stream, [headers, { waitForTrailers: head.trailers === true }])
  }

  start (): void {
    const { stream } = this
    this.#accepted = true
    if (this.readable !== stream) iterateWithoutDestroying(this.readable)
    countOutput(stream, this, true)
    // Node throws away what comes on a stream that was answered to its end before anybody has begun to read it.
    // Where nothing can come any more, a read would only tell of the end before anybody listens.
    if (!this.inputEnded || stream.readableLength > 0) {
      stream.read(0)
      if (this.inputEnded) stream._read(0)
    }
    this.#session.takeover(stream, this.#patience)
  }

  keepAlive (delay: number): void {
    this.#session.socket.setKeepAlive?.(true, delay)
  }

  end (): void {
    if (!this.stream.writableEnded) this.stream.end()
  }

  leave (): void {
    this.#left = true
    this.#endWhatWasLeft()
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
    // Node would end the output first, and send END_STREAM with it: the peer could take that for the end.
    stream.end = (() => stream) as typeof stream.end
    // It emits 'aborted' before there is a reset, and a pipeline() destroys the stream for that: then there never is one.
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
    // Node has ended our side itself where the peer reset the stream before we had.
    if (error === undefined && this.outputFlushed && !stream.aborted && (this.inputEnded || !this.#accepted)) return proceed(undefined)
    if (error === undefined && this.#accepted && this.#maybeFlushing) {
      this.#awaitFlush(proceed)
      return stream
    }
    if (this.#brokenByPeer) {
      this.peerError ??= error ?? aborted(stream.rstCode)
      // Readers and writers are to hear of it: without an error they would see an end.
      return proceed(this.#accepted ? this.peerError : error)
    }
    this.localError = error
    this.#reset(error, this.#code(error !== undefined && error.name !== 'AbortError'))
    return stream
  }

  get #brokenByPeer (): boolean {
    const { stream } = this
    return stream.closed || stream.session === undefined || stream.session.destroyed || this.#session.socket.destroyed
  }

  /**
   * Both sides have ended, and the stream with them. Node destroys it before it has told the writer that
   * the last chunk has left: what is written in order would fail, and look cut short.
   */
  get #maybeFlushing (): boolean {
    const { stream } = this
    return this.inputEnded && stream.writableEnded && !stream.aborted && stream.closed && stream.rstCode === 0 &&
      !this.#session.socket.destroyed
  }

  #awaitFlush (proceed: (cause: Error | undefined) => void): void {
    if (this.#flushing !== undefined) return
    // It never comes if the peer has reset the stream, with the code that means no error.
    const look = (): void => {
      if (this.stream.destroyed) return
      if (this.outputFlushed) proceed(undefined)
      else if (bytesInFlight(this.#session.socket as unknown as HttpSocket) === 0) proceed(this.peerError = aborted(0))
      else this.#flushing = setTimeout(look, FLUSH_LOOK)
    }
    this.#flushing = setTimeout(look, FLUSH_LOOK)
  }

  /** @returns whether the end that Node has found is one */
  inputHasEnded (): boolean {
    this.#onInputEnd()
    return this.inputEnded
  }

  inputHasCome (chunk: Buffer): void {
    this.bytesRead += chunk.length
    if (this.bytesRead <= this.#mostRead || !this.outputFlushed || this.#breaking) return
    this.#breaking = true
    // RFC 9113 section 8.1: the response is whole, and its client is asked to stop sending.
    this.stream.close(NGHTTP2_NO_ERROR)
  }

  #releaseEnd (): void {
    this.#release?.()
    this.#release = undefined
  }

  /**
   * Both sides have ended, and an end of input that is held for a reader has none to wait for but bytes. Those of a
   * message that nobody has begun to read when the response is over, nobody wants: as Node does it over HTTP/1. Nor
   * those before a refusal: Node closes such a stream while its client still sends, but waits for a reader of the rest.
   */
  #endWhatWasLeft (): void {
    if (!this.outputFlushed) return
    const unwanted = this.#accepted ? this.#left && !this.#tunnel : this.inputEnded
    if (unwanted || (this.inputEnded && this.stream.readableLength === 0)) this.discardInput()
  }

  readonly #onInputEnd = (): void => {
    if (this.inputEnded) return
    if (this.gone) {
      // What Node pushes when it tears a stream down is no END_STREAM. After a reset with the code that means
      // no error it would wait for its being read.
      process.nextTick(() => this.stream.destroy())
      return
    }
    this.inputEnded = true
    this.#endWhatWasLeft()
    process.nextTick(() => this.owner?.[kProgressed]())
  }

  readonly #onFinish = (): void => {
    if (!this.#accepted && this.stream.headersSent && !this.stream.aborted) this.handshake?.answerEnds()
    // Nobody will read what was refused.
    if (!this.#accepted) this.#releaseEnd()
    this.#endWhatWasLeft()
    this.owner?.[kProgressed]()
  }

  readonly #onTrailers = (): void => {
    this.peerError ??= new FST_ERR_DUPLEX_TRAILERS()
    this.#reset(this.peerError, NGHTTP2_PROTOCOL_ERROR)
  }

  /** The peer has reset the stream before our side had ended. With the code that means no error Node waits for a reader. */
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
    this.handshake?.carrierEnds()
    this.owner?.[kProgressed]()
  }
}

/** The end that Node is about to tell of, when it had come before the request was told of. */
function holdEndEvent (stream: ServerHttp2Stream): () => void {
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
  return release
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
