import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { FST_ERR_DUPLEX_CANNOT_DETACH } from '../errors.ts'
import { bytesInFlight, iterateWithoutDestroying, type HttpSocket } from '../node-internals.ts'
import type { Carrier } from './carrier.ts'

const NOTHING = Buffer.alloc(0)

/** How much of a request body is read and thrown away, so that its connection can serve again. */
const MOST_DISCARDED = 1024 * 1024

/** A request body and the response that is sent while it arrives, on a connection that stays Node's. */
export class MessageCarrier implements Carrier {
  readonly head = NOTHING
  readonly readable: Readable
  readonly writable: ServerResponse
  bytesRead = 0
  bytesWritten = 0
  peerError: Error | undefined
  localError: Error | undefined
  onProgress: () => void = () => {}
  readonly #req: IncomingMessage
  /** Kept here: a `pipeline` that fails sets the `socket` of the request to null. */
  readonly #socket: Socket
  #discarding = false
  #aborted = false
  #destroyedHere = false

  /** @param body what the last preParsing hook made of the request: itself, or decompressed */
  constructor (req: IncomingMessage, res: ServerResponse, body: Readable) {
    this.#req = req
    this.#socket = req.socket
    this.readable = body
    this.writable = res
    const progress = (): void => this.onProgress()
    const failed = (error: Error): void => {
      if (!isAbort(error)) this.localError ??= error
      progress()
    }
    req.on('error', failed)
    req.on('end', progress)
    req.on('close', progress)
    if (body !== req) {
      body.on('error', failed)
      // A stream between the body and its reader does not learn by itself that the body broke off.
      req.on('close', () => { if (!req.complete || req.aborted) body.destroy(this.peerError) })
    }
    res.on('error', failed)
    res.on('finish', progress)
    const gone = (): void => {
      if (!res.writableFinished) {
        if (!this.#destroyedHere) this.peerError ??= Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
        this.#aborted = true
      }
      progress()
    }
    res.on('close', gone)
    // The response to a pipelined request has no socket yet, and is not told when that closes.
    req.on('close', () => { if (this.#socket.destroyed) gone() })
  }

  get unsent (): number {
    const { writableLength } = this.writable
    return Math.min(writableLength, bytesInFlight(this.#socket as unknown as HttpSocket) || writableLength)
  }

  get inputEnded (): boolean { return this.#req.complete }
  get outputFlushed (): boolean { return this.writable.writableFinished }

  get closed (): boolean {
    return this.#aborted || (this.writable.writableFinished && (this.#req.complete || this.#req.destroyed))
  }

  start (): void {
    iterateWithoutDestroying(this.readable)
    if (this.readable !== this.#req) iterateWithoutDestroying(this.#req)
    this.#countInput()
    this.#countOutput()
    this.#watchDestroy()
  }

  end (): void {
    if (!this.writable.writableEnded) this.writable.end()
  }

  discardInput (): void {
    const req = this.#req
    if (this.#discarding || req.complete || req.destroyed) return
    this.#discarding = true
    const limit = this.bytesRead + MOST_DISCARDED
    req.unpipe()
    req.on('data', () => {
      if (this.bytesRead > limit && this.outputFlushed) this.#socket.destroy()
    })
    req.resume()
  }

  breakOff (error: Error | undefined): void {
    this.#aborted = true
    const { writable } = this
    const socket = this.#socket
    // The last chunk is never sent. Where the end of the connection is the end of the message, it is reset.
    if (this.#req.httpVersionMinor === 0 && 'resetAndDestroy' in socket) resetQuietly(socket)
    if (this.readable !== this.#req) this.readable.destroy(error)
    writable.destroy(error)
    if (!socket.destroyed) socket.destroy()
    this.onProgress()
  }

  detach (): never {
    throw new FST_ERR_DUPLEX_CANNOT_DETACH()
  }

  #countInput (): void {
    const req = this.#req
    const push = Readable.prototype.push
    // What came before acceptance is in the buffer already.
    this.bytesRead = req.readableLength
    req.push = (chunk: unknown, encoding?: BufferEncoding) => {
      if (chunk !== null) this.bytesRead += (chunk as Buffer).length
      return push.call(req, chunk, encoding)
    }
  }

  #countOutput (): void {
    const { writable } = this
    const { write, end } = ServerResponse.prototype
    type Arguments = [chunk: unknown, encoding?: unknown, callback?: unknown]
    const count = (chunk: unknown, encoding: unknown): void => {
      if (typeof chunk === 'string') this.bytesWritten += Buffer.byteLength(chunk, typeof encoding === 'string' ? encoding as BufferEncoding : 'utf8')
      else if (chunk instanceof Uint8Array) this.bytesWritten += chunk.length
    }
    writable.write = ((...args: Arguments) => {
      count(args[0], args[1])
      return Reflect.apply(write, writable, args)
    }) as typeof write
    writable.end = ((...args: Arguments) => {
      count(args[0], args[1])
      return Reflect.apply(end, writable, args)
    }) as typeof end
  }

  /**
   * Tells a stream that the app destroyed from one that the peer broke. HTTP/1.0 has no chunks: the end
   * of the connection is the end of the response, so that a failure has to be a reset there.
   */
  #watchDestroy (): void {
    const { writable, readable } = this
    for (const stream of new Set<Readable | ServerResponse>([writable, readable, this.#req])) {
      const destroy = stream.destroy as (error?: Error) => never
      stream.destroy = (error?: Error) => {
        if (error === undefined ? !this.closed : !isAbort(error)) this.#destroyedHere = true
        if (this.#req.httpVersionMinor === 0 && stream === writable && !writable.writableFinished) resetQuietly(this.#socket)
        return Reflect.apply(destroy, stream, error === undefined ? [] : [error])
      }
    }
  }
}

/** Node destroys a request with this when its connection is gone or its body is malformed. */
function isAbort (error: Error & { code?: string }): boolean {
  return error.code === 'ECONNRESET' || error.code === 'EPIPE'
}

function resetQuietly (socket: { resetAndDestroy?: () => unknown }): void {
  try {
    socket.resetAndDestroy?.()
  } catch {
    // Not TCP: closed by the destroy that follows.
  }
}
