import { constants, type ClientHttp2Stream } from 'node:http2'
import { Duplex } from 'node:stream'
import { FST_ERR_DUPLEX_ABORTED } from '../errors.ts'
import { onEndStream, resetStream } from '../internals/http2.ts'
import { iterateWithoutDestroying } from '../internals/streams.ts'
import { ownErrors } from '../streams/own-errors.ts'

const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR, NGHTTP2_CONNECT_ERROR } = constants

type Done = (error?: Error | null) => void

/** How a stream ended on the wire. */
export interface StreamEnd {
  readonly complete: boolean
  readonly error?: Error
}

/**
 * The client's side of one HTTP/2 stream.
 *
 * Node's own stream ends in the same way whether the server has ended or reset it, and loses unread bytes when its session
 * closes. This stream ends only at END_STREAM, and keeps bytes that have arrived for the reader. `injectDuplex()` uses it, too.
 */
export class ClientStream extends Duplex {
  readonly stream: ClientHttp2Stream
  /** END_STREAM has come. */
  complete = false
  onEnd: () => void = () => {}
  /** Resolves when the stream is over, whether it was read or not. */
  readonly over: Promise<StreamEnd>
  /** The server has answered and wants no more. */
  #refused = false
  #broken: Error | undefined

  constructor (stream: ClientHttp2Stream) {
    super()
    this.stream = stream
    iterateWithoutDestroying(this)
    ownErrors(this)
    stream.on('data', (chunk: Buffer) => { if (!this.push(chunk)) stream.pause() })
    onEndStream(stream, () => this.#ended())
    let cause: Error | undefined
    stream.on('error', (error: Error) => { cause = error })
    this.over = new Promise(resolve => {
      stream.once('close', () => {
        this.#broken = reset(stream.rstCode, cause)
        if (this.complete) resolve({ complete: true })
        else resolve({ complete: false, error: this.errored ?? (this.destroyed ? new FST_ERR_DUPLEX_ABORTED() : this.#broken) })
        this.#over(this.#broken)
      })
    })
  }

  /** RFC 9113 section 8.1: after a refusal nobody wants the rest of the request. */
  refuse (): void {
    this.#refused = true
    if (this.complete) this.#stop()
  }

  override _read (): void {
    this.stream.resume()
  }

  override _write (chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    const { stream } = this
    if (stream.closed || stream.destroyed) this.#unsent(done)
    else stream.write(chunk, error => error == null ? done() : this.#unsent(done))
  }

  override _final (done: Done): void {
    const { stream } = this
    if (stream.closed || stream.destroyed) done()
    else stream.end(() => done())
  }

  override _destroy (error: Error | null, done: Done): void {
    if (!this.complete || !this.writableFinished) {
      // RFC 9113 section 8.5: a tunnel that breaks is reset with CONNECT_ERROR.
      const tunnel = this.stream.sentHeaders?.[':method'] === 'CONNECT' && error !== null
      resetStream(this.stream, tunnel ? NGHTTP2_CONNECT_ERROR : NGHTTP2_CANCEL)
    }
    done(error)
  }

  #ended (): void {
    const { stream } = this
    this.complete = true
    // Bytes that wait in Node's stream would be lost with it. This reads them. They are at most one window.
    while (stream.read() !== null);
    this.push(null)
    if (this.#refused) this.#stop()
    this.onEnd()
  }

  #stop (): void {
    if (this.writableLength > 0) resetStream(this.stream, NGHTTP2_CANCEL)
    if (!this.writableEnded) this.end()
  }

  /** The stream is over on the wire. */
  #over (broken: Error): void {
    if (this.#nothingMissing) return
    if (!this.complete || this.readableEnded) this.destroy(broken)
    else this.once('end', () => this.destroy(broken))
  }

  /** After a complete answer the server may refuse further input. That is no error, RFC 9113 section 8.1. */
  get #nothingMissing (): boolean {
    return this.complete && (this.#refused || this.stream.rstCode === NGHTTP2_NO_ERROR)
  }

  #unsent (done: Done): void {
    done(this.#nothingMissing ? null : this.#broken ?? reset(this.stream.rstCode, undefined))
  }
}

function reset (code: number | undefined, cause: Error | undefined): Error {
  return Object.assign(new Error(`the stream was broken off with code ${code ?? 0}`, { cause }), { code: 'ECONNRESET' })
}
