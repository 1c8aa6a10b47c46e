import { Socket } from 'node:net'
import { constants, type ClientHttp2Stream } from 'node:http2'
import type { Duplex, Readable, Writable } from 'node:stream'
import { FST_ERR_DUPLEX_INVALID_OPTION } from '../errors.ts'
import { keepHalfOpen, readyEvent, resetWhenClosed } from '../internals/half-open.ts'
import { onEndStream, resetStream } from '../internals/http2.ts'
import { peerIsGone, resetByPeer, socketBeneath, unwatchReset, watchReset, type HttpSocket } from '../internals/sockets.ts'
import { hasEnd } from '../internals/streams.ts'
import { breakOff } from '../streams/break-off.ts'
import { ownErrors } from '../streams/own-errors.ts'
import { unwatchPeer, watchPeer } from '../streams/vanished-peers.ts'
import { closedEarly } from './closed-early.ts'
import type { TunnelEnd } from '../../types/index.ts'

/** What a tunnel is told about one of its two ends. */
export interface TunnelSideOwner {
  /** The end broke. Called once. */
  failed (error: Error): void
  /** Nobody reads the output of this end any more. That is not an error. */
  readerHasGone (side: TunnelSide): void
  /** Everything that was written has left, including the end. */
  finished (side: TunnelSide): void
}

/** One of the two ends of a tunnel. It is watched from the tick in which it is known. */
export class TunnelSide {
  readonly readable: Readable
  readonly writable: Writable
  owner: TunnelSideOwner | undefined
  /** The error that broke it. */
  failure: Error | undefined
  /** The input has ended. */
  ended: boolean
  /** The output has ended, and has left completely. */
  finished: boolean
  /** Nobody reads the output any more. */
  readerGone = false
  /**
   * Whether losing the reader of the output is no error. That is so for the stdin of a process: the process may close it, and
   * still write its whole output.
   */
  readonly #mayLoseReader: boolean
  /** Set for a socket that is no connection of the plugin. Up to Node 22 a reset of it may look like an end. */
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
    // A `body` is two streams, too, but of one connection.
    this.#mayLoseReader = readable as unknown !== writable && isForeign(writable) && !('accepted' in given)
    for (const stream of this.#streams) ownErrors(stream)
    if (readable as unknown === writable) keepHalfOpen(readable as Duplex)
    this.#socket = isForeign(readable) && readable instanceof Socket ? readable : undefined
    this.#stream = isForeign(readable) && isHttp2(readable) ? readable : undefined
    if (this.#socket !== undefined) watchReset(this.#socket as unknown as HttpSocket, onReset)
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

  /** Resolves when this end can be written to. If it fails before that, the owner is told. */
  async ready (): Promise<void> {
    const { readable } = this
    const event = readable instanceof Socket ? readyEvent(readable) : undefined
    if (event !== undefined) await new Promise(resolve => readable.once(event, resolve))
  }

  /** Without this, Node throws away the output of a child process that exits before anybody has begun to read. */
  hold (): void {
    if (this.readable as unknown !== this.writable) this.readable.on('readable', nothing)
  }

  /** Undoes hold(), because the stream is read from now on. */
  unhold (): void {
    this.readable.removeListener('readable', nothing)
  }

  /** The input was destroyed before it had ended. */
  get gone (): boolean { return this.readable.destroyed && !this.readable.readableEnded }

  /** Looks for a reset that Node has not seen: Node does not read if nobody reads, and not after the end of input. */
  lookForPeer (): void {
    const socket = this.#socket
    if (socket === undefined || socket.destroyed || socket.writableEnded) return
    if (peerIsGone(socket as unknown as HttpSocket)) socket.destroy(resetByPeer())
  }

  /** The stream has emitted 'end'. Node emits that for an HTTP/2 stream that was reset, too. */
  inputEnds (): void {
    if (!this.#endStream) this.#fail(resetByPeer())
    else this.ended = true
    if (this.ended && this.#socket !== undefined && !this.finished) watchPeer(this)
  }

  /** Ends the output. */
  end (): void {
    const { writable } = this
    this.#endedHere = true
    if (!writable.writableEnded) writable.end()
  }

  /** Ends both streams at once, such that the peer sees no clean end. */
  breakOff (error: Error): void {
    for (const stream of this.#streams) breakStream(stream, error)
  }

  /** Destroys an end that was never used. */
  discard (): void {
    for (const stream of this.#streams) stream.destroy()
  }

  /** Both directions are over. This destroys a stream that has not destroyed itself. */
  close (): void {
    const { readable, writable } = this
    if (readable as unknown === writable && this.#stream === undefined) readable.destroy()
  }

  /** Takes all listeners off. */
  release (): void {
    const { readable, writable } = this
    this.owner = undefined
    unwatchPeer(this)
    if (this.#socket !== undefined) unwatchReset(this.#socket as unknown as HttpSocket, onReset)
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

  #loseReader (): void {
    if (this.readerGone) return
    this.readerGone = true
    this.owner?.readerHasGone(this)
  }

  readonly #onReadableError = (error: Error): void => this.#fail(error)

  readonly #onReadableClose = (): void => { if (!this.ended && !this.readable.readableEnded) this.#fail(closedEarly()) }

  readonly #onWritableError = (error: Error & { code?: string }): void => {
    if (this.#mayLoseReader && error.code === 'EPIPE') this.#loseReader()
    else this.#fail(error)
  }

  readonly #onWritableClose = (): void => {
    if (this.finished) return
    const { errored } = this.writable as { errored?: (Error & { code?: string }) | null }
    // Node may close an HTTP/2 stream before it reports that the last chunk has left.
    const inOrder = this.#stream?.rstCode === constants.NGHTTP2_NO_ERROR && this.#endStream
    if (errored != null) this.#onWritableError(errored)
    else if (this.#mayLoseReader || inOrder) this.#loseReader()
    else this.#fail(closedEarly())
  }

  readonly #onFinish = (): void => {
    // RFC 9113 section 8.1: by RST_STREAM without an error a peer says that it wants no more. Node then ends the output.
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

/** Whether it is no stream of a connection of the plugin. These have a `destroy()` of their own, which breaks off. */
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
    // RFC 9113 section 8.5. Node's own destroy() would end the output first, with END_STREAM.
    resetStream(stream, stream.sentHeaders?.[':method'] === 'CONNECT' ? constants.NGHTTP2_CONNECT_ERROR : constants.NGHTTP2_INTERNAL_ERROR)
  } else if (stream instanceof Socket) {
    if (socketBeneath(stream) === undefined) resetWhenClosed(stream)
    breakOff(stream, error)
  } else {
    stream.destroy(error)
  }
}
