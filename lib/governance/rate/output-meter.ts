import type { Writable } from 'node:stream'
import { defaultEncoding } from '../../internals/streams.ts'
import { Bucket } from './bucket.ts'
import type { Waiter, Wheel } from './wheel.ts'

type Done = (error?: Error | null) => void

interface Sink extends Writable {
  _write (chunk: unknown, encoding: BufferEncoding, done: Done): void
}

/** The methods that this puts on a stream, and removes again. */
const REPLACED = ['write', 'end', '_write', '_writev'] as const

/**
 * Lets a stream write no faster than its rate. Each write waits until its bytes may pass, and so does the writer. Long writes
 * are cut before they enter the stream, because an HTTP/2 stream sends one write as one unit.
 */
export class OutputMeter implements Waiter {
  slot = -1
  readonly #sink: Sink
  readonly #bucket: Bucket
  readonly #wheel: Wheel
  readonly #before: (PropertyDescriptor | undefined)[]
  #waiting: { length: number, chunk: unknown, encoding: BufferEncoding, done: Done } | undefined
  #over = false

  constructor (writable: Writable, rate: number, wheel: Wheel) {
    const sink = writable as Sink
    this.#sink = sink
    this.#bucket = new Bucket(rate)
    this.#wheel = wheel
    this.#before = REPLACED.map(name => Object.getOwnPropertyDescriptor(sink, name))
    const { write, end, _write } = sink
    const { portion } = this.#bucket
    Object.assign(sink, {
      write: (chunk: unknown, ...rest: unknown[]): boolean => {
        const bytes = bytesOf(sink, chunk, rest[0])
        if (bytes === undefined || bytes.length <= portion || sink.writableEnded || sink.destroyed) {
          return Reflect.apply(write, sink, [chunk, ...rest])
        }
        const last = bytes.length - portion
        let at = 0
        for (; at < last; at += portion) Reflect.apply(write, sink, [bytes.subarray(at, at + portion)])
        const done = rest.find(arg => typeof arg === 'function')
        return Reflect.apply(write, sink, done === undefined ? [bytes.subarray(at)] : [bytes.subarray(at), done])
      },
      end: (chunk: unknown, ...rest: unknown[]): Writable => {
        const bytes = bytesOf(sink, chunk, rest[0])
        if (bytes === undefined || bytes.length <= portion || sink.writableEnded) return Reflect.apply(end, sink, [chunk, ...rest])
        sink.write(bytes)
        return Reflect.apply(end, sink, rest.filter(arg => typeof arg === 'function'))
      },
      _write: (chunk: Uint8Array | string, encoding: BufferEncoding, done: Done): void => {
        const length = typeof chunk === 'string' ? Buffer.byteLength(chunk, encoding) : chunk.byteLength
        if (this.#over || this.#bucket.takeWhole(length)) {
          Reflect.apply(_write, sink, [chunk, encoding, done])
          return
        }
        this.#waiting = { length, chunk, encoding, done }
        this.#wait(length)
      },
      // Writes come one at a time, so that each can wait.
      _writev: null
    })
    this.#write = (chunk, encoding, done) => Reflect.apply(_write, sink, [chunk, encoding, done])
  }

  readonly #write: Sink['_write']

  resume (): void {
    const waiting = this.#waiting
    if (waiting === undefined) return
    if (!this.#sink.destroyed && !this.#bucket.takeWhole(waiting.length)) {
      this.#wait(waiting.length)
      return
    }
    this.#bucket.owed = false
    this.#go()
  }

  /** Removes the limit. */
  stop (): void {
    if (this.#over) return
    this.#over = true
    this.#wheel.leave(this)
    for (const [at, name] of REPLACED.entries()) {
      const before = this.#before[at]
      if (before === undefined) Reflect.deleteProperty(this.#sink, name)
      else Object.defineProperty(this.#sink, name, before)
    }
    this.#go()
  }

  #wait (length: number): void {
    this.#bucket.owed = true
    this.#wheel.wait(this, this.#bucket.delay(length))
  }

  #go (): void {
    const waiting = this.#waiting
    if (waiting === undefined) return
    this.#waiting = undefined
    const { chunk, encoding, done } = waiting
    // A write that has begun needs its callback, and nobody else calls it.
    if (this.#sink.destroyed) done(Object.assign(new Error('write ECANCELED'), { code: 'ECANCELED', syscall: 'write' }))
    else this.#write(chunk, encoding, done)
  }
}

/** The bytes of a chunk, if it can be cut. Undefined for a wrong type: the stream reports that itself. */
function bytesOf (sink: Writable, chunk: unknown, encoding: unknown): Uint8Array | undefined {
  if (chunk instanceof Uint8Array) return chunk
  if (typeof chunk !== 'string') return undefined
  return Buffer.from(chunk, typeof encoding === 'string' ? encoding as BufferEncoding : defaultEncoding(sink))
}
