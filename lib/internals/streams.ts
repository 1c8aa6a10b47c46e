// Streams. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { Duplex, Readable, Writable } from 'node:stream'
import { endIsReset } from './sockets.ts'

/** Makes `for await` leave the stream alive at its end. Node would destroy a Duplex, with its other half. */
export function iterateWithoutDestroying (readable: Readable): void {
  (readable as { [Symbol.asyncIterator]: unknown })[Symbol.asyncIterator] = iterate
}

function iterate (this: Readable): NodeJS.AsyncIterator<unknown> {
  return this.iterator({ destroyOnReturn: false })
}

/** Whether the end of input has arrived, behind bytes that are still to be read. No public property tells that. */
export function hasEnd (readable: Readable): boolean {
  return (readable as unknown as { _readableState: { ended: boolean } })._readableState.ended
}

/** Whether the stream is piped into others. No public property tells that. */
export function isPiped (readable: Readable): boolean {
  return (readable as unknown as { _readableState: { pipes: readonly unknown[] } })._readableState.pipes.length > 0
}

/** The encoding of strings that are written without one. `setDefaultEncoding()` sets it, and nothing public tells it. */
export function defaultEncoding (writable: Writable): BufferEncoding {
  return (writable as unknown as { _writableState: { defaultEncoding?: BufferEncoding } })._writableState?.defaultEncoding ?? 'utf8'
}

/** Whether the listener is Node's own: an HTTP/2 stream listens for its own end, with a method whose name is a symbol. */
function isNodesOwn (stream: object, listener: unknown): boolean {
  for (let object: object | null = Object.getPrototypeOf(stream); object !== null; object = Object.getPrototypeOf(object)) {
    for (const symbol of Object.getOwnPropertySymbols(object)) {
      if (Object.getOwnPropertyDescriptor(object, symbol)?.value === listener) return true
    }
  }
  return false
}

/** On a stream: what holds its end of input back. */
const kHeldEnd = Symbol('fastify-duplex.heldEnd')

interface Holding extends Duplex {
  [kHeldEnd]?: HeldEnd | undefined
}

type Push = (this: Duplex, chunk: unknown, encoding?: BufferEncoding) => boolean

/** The end of input of a stream, from when it is held back until it is let go. */
class HeldEnd {
  readonly #stream: Holding
  readonly #below: HeldEnd | undefined
  readonly #onHeld: (this: Duplex) => void
  /** The own `push()` that the stream had, if it had one. */
  readonly #own: Push | undefined
  #arrived = false
  #over = false

  constructor (stream: Duplex, onHeld: (this: Duplex) => void) {
    this.#stream = stream
    this.#onHeld = onHeld
    this.#below = (stream as Holding)[kHeldEnd]
    this.#own = Object.hasOwn(stream, 'push') ? stream.push as Push : undefined
    ;(stream as Holding)[kHeldEnd] = this
    stream.push = pushUnlessEnd
    stream.on('newListener', onListener)
    stream.on('resume', onResume)
  }

  push (chunk: unknown, encoding?: BufferEncoding): boolean {
    const stream = this.#stream
    if (chunk === null && !this.#over && !endIsReset(stream)) {
      this.#arrived = true
      this.#onHeld.call(stream)
      return false
    }
    if (this.#below !== undefined) return this.#below.push(chunk, encoding)
    const push = this.#own ?? (Object.getPrototypeOf(stream) as { push: Push }).push
    return push.call(stream, chunk, encoding)
  }

  /** Lets go of it. If the end has arrived, it follows. */
  release (): void {
    if (this.#over) return
    this.#over = true
    const stream = this.#stream
    if (stream[kHeldEnd] === this) stream[kHeldEnd] = this.#below
    stream.removeListener('newListener', onListener)
    stream.removeListener('resume', onResume)
    if (this.#own === undefined) Reflect.deleteProperty(stream, 'push')
    else stream.push = this.#own
    if (!this.#arrived || stream.destroyed) return
    stream.push(null)
    stream.read(0)
  }
}

// The same functions for all streams: closures for each would cost memory as long as the stream lives.
function pushUnlessEnd (this: Holding, chunk: unknown, encoding?: BufferEncoding): boolean {
  const end = this[kHeldEnd]
  return end === undefined ? (Object.getPrototypeOf(this) as { push: Push }).push.call(this, chunk, encoding) : end.push(chunk, encoding)
}

function onListener (this: Holding, event: string | symbol, listener: unknown): void {
  if (event !== 'data' && event !== 'readable' && (event !== 'end' || isNodesOwn(this, listener))) return
  if (this[kHeldEnd] !== undefined) process.nextTick(letGo, this[kHeldEnd])
}

/** The event may be that of a reader before, whose turn is over. */
function onResume (this: Holding): void {
  if (this.readableFlowing === true) this[kHeldEnd]?.release()
}

function letGo (end: HeldEnd): void {
  end.release()
}

export type { HeldEnd }

/**
 * Holds the end of input back until somebody reads. Otherwise an 'end' without a listener is lost, and a
 * stream past its end refuses `unshift()`.
 *
 * @param onHeld called when the end has arrived, and is held back
 */
export function holdEnd (stream: Duplex, onHeld: (this: Duplex) => void): HeldEnd {
  return new HeldEnd(stream, onHeld)
}

/** What holds the end of input of this stream back now. */
export function heldEnd (stream: Duplex): HeldEnd | undefined {
  return (stream as Holding)[kHeldEnd]
}

/**
 * What a request of Node's HTTP, and a stream of its HTTP/2, does when it is read for the first time. Until then the stream asks for
 * nothing more after a `push()`. Whoever replaces its `_read()` has to call this at the first call.
 */
export function beginReading (stream: Readable): void {
  const message = stream as unknown as { _consuming?: boolean, _readableState: { readingMore: boolean } }
  if (message._consuming !== undefined) message._consuming = true
  message._readableState.readingMore = false
}
