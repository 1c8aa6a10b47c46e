import type { Readable } from 'node:stream'
import { beginReading } from '../../internals/streams.ts'
import { Bucket } from './bucket.ts'
import type { Waiter, Wheel } from './wheel.ts'

/** The `push()` of the stream, beneath all that the plugin has put on top. */
export type Push = (this: Readable, chunk: unknown, encoding?: BufferEncoding) => boolean

/**
 * Lets a stream read no faster than its rate. Bytes that were read too early wait here: at most one read, or the window of an
 * HTTP/2 stream. The rest is not read yet.
 */
export class InputMeter implements Waiter {
  slot = -1
  readonly #stream: Readable
  readonly #usual: Push
  readonly #bucket: Bucket
  readonly #wheel: Wheel
  /** The chunks that wait. Null is the end. */
  readonly #held: (Uint8Array | null)[] = []
  #bytes = 0
  /** The stream wants more: its `_read()` was called. */
  #wanted = false
  /** The stream has said that it wants no more for now. */
  #full = false
  #running = false
  #over = false
  #begun = false

  /** @param usual the `push()` that gives a chunk to the stream */
  constructor (stream: Readable, usual: Push, rate: number, wheel: Wheel) {
    this.#stream = stream
    this.#usual = usual
    this.#bucket = new Bucket(rate)
    // The stream already has these bytes, from before acceptance.
    this.#bucket.owe(stream.readableLength)
    this.#wheel = wheel
    stream._read = () => {
      if (!this.#begun) beginReading(stream)
      this.#begun = true
      this.#wanted = true
      this.#full = false
      if (this.slot === -1) this.resume()
    }
  }

  /** We have stopped reading. So if nothing arrives, that is no inactivity of the peer. */
  get waits (): boolean { return this.slot !== -1 }

  /** How many bytes have arrived and still wait here. */
  get held (): number { return this.#bytes }

  /** Replaces the `push()` of the stream. */
  push (chunk: Uint8Array | null, encoding?: BufferEncoding): boolean {
    if (this.#over) return this.#usual.call(this.#stream, chunk, encoding)
    if (chunk === null && this.#held.length === 0) return this.#usual.call(this.#stream, null)
    this.#held.push(chunk)
    this.#bytes += chunk?.length ?? 0
    if (this.slot !== -1 || this.#full || this.#running) return false
    return this.#pass() && this.#held.length === 0
  }

  resume (): void {
    this.#pass()
    if (this.#over || this.#held.length > 0 || this.slot !== -1 || !this.#wanted || this.#stream.destroyed) return
    const { portion } = this.#bucket
    // This waits until a whole portion may pass. Otherwise a large read would follow for a few bytes.
    const delay = this.#bucket.delay(portion)
    if (delay > 0) {
      this.#wait(delay)
      return
    }
    this.#bucket.owed = false
    this.#wanted = false
    this.#readUsual()
  }

  /** Removes the limit. */
  stop (): void {
    if (this.#over) return
    this.#over = true
    this.#wheel.leave(this)
    const stream = this.#stream
    Reflect.deleteProperty(stream, '_read')
    while (this.#held.length > 0 && !stream.destroyed) this.#usual.call(stream, this.#held.shift())
    this.#held.length = 0
    this.#bytes = 0
    if (this.#wanted && !stream.destroyed) stream._read(stream.readableHighWaterMark)
  }

  /** @returns whether the stream wants more */
  #pass (): boolean {
    if (this.#running) return false
    this.#running = true
    const stream = this.#stream
    let more = true
    try {
      while (this.#held.length > 0 && !stream.destroyed && !this.#over && !this.#full) {
        const chunk = this.#held[0] as Uint8Array | null
        const may = chunk === null ? 0 : this.#bucket.take(chunk.length)
        if (chunk !== null && may === 0 && chunk.length > 0) {
          this.#wait(this.#bucket.delay(chunk.length))
          break
        }
        if (chunk === null || may === chunk.length) this.#held.shift()
        else this.#held[0] = chunk.subarray(may)
        const part = chunk === null || may === chunk.length ? chunk : chunk.subarray(0, may)
        this.#bytes -= part?.length ?? 0
        // The stream may call _read() within this push, which says that it wants more.
        this.#wanted = false
        more = this.#usual.call(stream, part)
        if (!more && !this.#wanted) this.#full = true
      }
    } finally {
      // A listener of the app may have thrown.
      this.#running = false
    }
    return more
  }

  #wait (delay: number): void {
    this.#bucket.owed = true
    this.#wheel.wait(this, delay)
  }

  #readUsual (): void {
    (Object.getPrototypeOf(this.#stream) as Readable)._read.call(this.#stream, this.#stream.readableHighWaterMark)
  }
}
