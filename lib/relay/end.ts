import { Socket } from 'node:net'
import { constants, type ClientHttp2Stream } from 'node:http2'
import type { Duplex, Readable, Writable } from 'node:stream'
import { FST_ERR_DUPLEX_INVALID_OPTION } from '../errors.ts'
import { breakOff } from '../http1/break-off.ts'
import { unwatchPeer, watchPeer } from '../http1/vanished-peers.ts'
import { keepHalfOpen, readyEvent, resetWhenClosed } from '../internals/half-open.ts'
import { onEndStream, resetStream } from '../internals/http2.ts'
import { peerIsGone, resetByPeer, socketBeneath, takeResetForEnd, tellResetFromEnd, type HttpSocket } from '../internals/sockets.ts'
import { hasEnd } from '../internals/streams.ts'
import { closedEarly, ownErrors } from './stream-errors.ts'
import type { TunnelEnd } from '../../types/index.ts'

/** Who is told of what becomes of an end. */
export interface EndOwner {
  /** It broke. Called once. */
  failed (error: Error): void
  /** Nobody reads any more what is written to it, and that is no error. */
  deafened (end: End): void
  /** All that was written has left, and then the end. */
  finished (end: End): void
}

/** One end of a tunnel, from the tick on in which it is known. */
export class End {
  readonly readable: Readable
  readonly writable: Writable
  owner: EndOwner | undefined
  /** What it broke with. */
  failure: Error | undefined
  /** The input has come to its end. */
  ended: boolean
  /** The output has. */
  finished: boolean
  /** Nobody reads the output any more. */
  deaf = false
  /** A process that reads no more closes its stdin; what it writes is whole all the same. */
  readonly #mayGoDeaf: boolean
  /** Up to Node 22 a reset may look like an end. The streams of a connection see to that themselves. */
  readonly #socket: Socket | undefined
  readonly #stream: ClientHttp2Stream | undefined
  /** END_STREAM has come. */
  #endStream = true
  #endedHere = false

  constructor (given: TunnelEnd) {
    const { readable, writable } = pairOf(given)
    this.readable = readable
    this.writable = writable
    this.ended = readable.readableEnded
    this.finished = writable.writableFinished
    // The request and the response of a body are one connection.
    this.#mayGoDeaf = readable as unknown !== writable && isForeign(writable) && !('accepted' in given)
    for (const stream of this.#streams) ownErrors(stream)
    if (readable as unknown === writable) keepHalfOpen(readable as Duplex)
    this.#socket = isForeign(readable) && readable instanceof Socket ? readable : undefined
    this.#stream = isForeign(readable) && isHttp2(readable) ? readable : undefined
    if (this.#socket !== undefined) tellResetFromEnd(this.#socket as unknown as HttpSocket, onReset)
    if (this.#stream !== undefined && !this.ended) this.#awaitEndStream(this.#stream)
    readable.on('error', this.#onReadableError)
    readable.on('close', this.#onReadableClose)
    writable.on('error', this.#onWritableError)
    writable.on('close', this.#onWritableClose)
    writable.on('finish', this.#onFinish)
    if (readable.errored != null) this.#fail(readable.errored)
    else if (readable.destroyed && !this.ended) this.#fail(closedEarly())
    else if (writable.destroyed && !this.finished) this.#onWritableClose()
  }

  get #streams (): Set<Readable | Writable> { return new Set([this.readable, this.writable]) }

  /** Resolves when it can be written to. A failure until then is told to the owner. */
  async ready (): Promise<void> {
    const { readable } = this
    const event = readable instanceof Socket ? readyEvent(readable) : undefined
    if (event !== undefined) await new Promise(resolve => readable.once(event, resolve))
  }

  /** When a child process has exited, Node throws away what nobody has begun to read of its output. */
  hold (): void {
    if (this.readable as unknown !== this.writable) this.readable.on('readable', nothing)
  }

  /** It will be read now. */
  unhold (): void {
    this.readable.removeListener('readable', nothing)
  }

  /** It is destroyed, and had not ended. */
  get gone (): boolean { return this.readable.destroyed && !this.readable.readableEnded }

  /** A reset that Node has not seen: it does not read where nobody does, and not behind the end of input. */
  lookForPeer (): void {
    const socket = this.#socket
    if (socket === undefined || socket.destroyed || socket.writableEnded) return
    if (peerIsGone(socket as unknown as HttpSocket)) socket.destroy(resetByPeer())
  }

  /** The input says that it is at its end. Node says so of a stream of HTTP/2 that was reset, too. */
  inputEnds (): void {
    if (!this.#endStream) this.#fail(resetByPeer())
    else this.ended = true
    if (this.ended && this.#socket !== undefined && !this.finished) watchPeer(this)
  }

  /** What was written is all. */
  end (): void {
    const { writable } = this
    this.#endedHere = true
    if (!writable.writableEnded) writable.end()
  }

  /** In such a way that the peer cannot take it for an end. */
  breakOff (error: Error): void {
    for (const stream of this.#streams) breakStream(stream, error)
  }

  /** Nothing has gone through it. */
  discard (): void {
    for (const stream of this.#streams) stream.destroy()
  }

  /** Both directions are over. Most streams have destroyed themselves by now. */
  close (): void {
    const { readable, writable } = this
    if (readable as unknown === writable && this.#stream === undefined) readable.destroy()
  }

  /** It is no end of a tunnel any more. */
  release (): void {
    const { readable, writable } = this
    this.owner = undefined
    unwatchPeer(this)
    if (this.#socket !== undefined) takeResetForEnd(this.#socket as unknown as HttpSocket, onReset)
    readable.removeListener('error', this.#onReadableError)
    readable.removeListener('close', this.#onReadableClose)
    writable.removeListener('error', this.#onWritableError)
    writable.removeListener('close', this.#onWritableClose)
    writable.removeListener('finish', this.#onFinish)
  }

  #awaitEndStream (stream: ClientHttp2Stream): void {
    this.#endStream = hasEnd(stream) && !stream.closed && !stream.destroyed
    if (!this.#endStream) onEndStream(stream, () => { this.#endStream = true })
  }

  #fail (error: Error): void {
    if (this.failure !== undefined) return
    this.failure = error
    this.owner?.failed(error)
  }

  #deafen (): void {
    if (this.deaf) return
    this.deaf = true
    this.owner?.deafened(this)
  }

  readonly #onReadableError = (error: Error): void => this.#fail(error)

  readonly #onReadableClose = (): void => { if (!this.ended && !this.readable.readableEnded) this.#fail(closedEarly()) }

  readonly #onWritableError = (error: Error & { code?: string }): void => {
    if (this.#mayGoDeaf && error.code === 'EPIPE') this.#deafen()
    else this.#fail(error)
  }

  readonly #onWritableClose = (): void => {
    if (this.finished) return
    const { errored } = this.writable as { errored?: (Error & { code?: string }) | null }
    // Node may close a stream of HTTP/2 before it says that the last chunk has left.
    const inOrder = this.#stream?.rstCode === constants.NGHTTP2_NO_ERROR && this.#endStream
    if (errored != null) this.#onWritableError(errored)
    else if (this.#mayGoDeaf || inOrder) this.#deafen()
    else this.#fail(closedEarly())
  }

  readonly #onFinish = (): void => {
    // RFC 9113 section 8.1: with RST_STREAM, and no error, a peer says that it wants no more. Node ends the output then.
    if (this.#stream?.closed === true && !this.#endedHere) {
      this.#onWritableClose()
      return
    }
    this.finished = true
    this.owner?.finished(this)
  }
}

function nothing (): void {}

function onReset (this: HttpSocket): void {
  this.destroy(resetByPeer())
}

function pairOf (given: TunnelEnd): { readable: Readable, writable: Writable } {
  const { readable, writable, write, on } = (given ?? {}) as { readable?: unknown, writable?: unknown, write?: unknown, on?: unknown }
  if (isStream(readable) && isStream(writable)) return { readable: readable as Readable, writable: writable as Writable }
  if (typeof write === 'function' && typeof on === 'function') return { readable: given as Duplex, writable: given as Duplex }
  throw new FST_ERR_DUPLEX_INVALID_OPTION(`an end of a tunnel must be a Duplex or a { readable, writable } pair, got ${String(given)}`)
}

function isStream (value: unknown): boolean {
  return typeof (value as { on?: unknown } | null | undefined)?.on === 'function'
}

/** The streams of a connection break off by themselves, as its kind wants it, and know a reset. */
function isForeign (stream: Readable | Writable): boolean {
  return !Object.hasOwn(stream, 'destroy')
}

function isHttp2 (stream: object): stream is ClientHttp2Stream {
  return 'rstCode' in stream && 'sentHeaders' in stream
}

function breakStream (stream: Readable | Writable, error: Error): void {
  if (!isForeign(stream)) {
    stream.destroy(error)
  } else if (isHttp2(stream)) {
    // RFC 9113 section 8.5. Node's own destroy() would end the output first.
    resetStream(stream, stream.sentHeaders?.[':method'] === 'CONNECT' ? constants.NGHTTP2_CONNECT_ERROR : constants.NGHTTP2_INTERNAL_ERROR)
  } else if (stream instanceof Socket) {
    if (socketBeneath(stream) === undefined) resetWhenClosed(stream)
    breakOff(stream, error)
  } else {
    stream.destroy(error)
  }
}
