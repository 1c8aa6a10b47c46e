import type { Writable } from 'node:stream'

type Done = (error?: Error | null) => void

/** How many bytes are held. With more than this they are written at once. */
const MOST_HELD = 16 * 1024

/** Those that hold frames. They write when this turn of the event loop has read what there was to read. */
let waiting: FrameOutput[] = []

/** The head of a frame without a mask. */
const LONGEST_HEAD = 10

/** A part of at least this size is not copied. */
const LARGE = 4 * 1024

/**
 * What a `Sender` of `ws` writes into. It writes the head and the payload of each frame apart. Here all frames of one turn of
 * the event loop leave in one write. A write wakes the peer, so the writes of many connections cost less if they follow one another.
 */
export class FrameOutput {
  readonly #stream: Writable
  #parts: (Uint8Array | string)[] = []
  #dones: Done[] | undefined
  #waits = false
  #copies = true
  /** How many bytes are held. */
  size = 0

  constructor (stream: Writable) {
    this.#stream = stream
  }

  get destroyed (): boolean { return this.#stream.destroyed }

  cork (): void {}
  uncork (): void {}

  write (chunk: Uint8Array | string, done?: Done): void {
    const isText = typeof chunk === 'string'
    const size = isText ? Buffer.byteLength(chunk) : chunk.length
    if (!isText && size >= LARGE) this.#copies = false
    this.#parts.push(chunk)
    this.size += size
    if (done !== undefined) (this.#dones ??= []).push(done)
    // While the accept head is held back, the first frames leave with it.
    if (this.size >= MOST_HELD || this.#stream.writableCorked > 0) this.flush()
    else if (!this.#waits) this.#wait()
  }

  #wait (): void {
    this.#waits = true
    if (waiting.push(this) === 1) setImmediate(writeAll)
  }

  /** Writes what has waited for its turn. */
  takeTurn (): void {
    this.#waits = false
    this.flush()
  }

  /** Writes what is held. */
  flush (): void {
    const { size } = this
    if (size === 0) return
    const parts = this.#parts
    const dones = this.#dones
    const copies = this.#copies
    this.#parts = []
    this.#dones = undefined
    this.#copies = true
    this.size = 0
    const done = dones === undefined ? undefined : (error?: Error | null): void => { for (const one of dones) one(error) }
    const stream = this.#stream
    if (stream.writableEnded) {
      done?.(new Error('write after end'))
    } else if (copies) {
      stream.write(joined(parts, size), done)
    } else {
      stream.cork()
      const last = parts.pop() as Uint8Array | string
      for (const part of parts) stream.write(part)
      stream.write(last, done)
      stream.uncork()
    }
  }
}

function writeAll (): void {
  const all = waiting
  waiting = []
  let at = 0
  try {
    for (; at < all.length; at++) (all[at] as FrameOutput).takeTurn()
  } finally {
    // One has thrown. The others have their turn all the same.
    const rest = all.slice(at + 1)
    if (rest.length > 0 && waiting.push(...rest) === rest.length) setImmediate(writeAll)
  }
}

function joined (parts: readonly (Uint8Array | string)[], size: number): Buffer {
  const whole = Buffer.allocUnsafe(size)
  let at = 0
  for (const part of parts) {
    if (typeof part === 'string') {
      at += whole.write(part, at)
    } else if (part.length > LONGEST_HEAD) {
      whole.set(part, at)
      at += part.length
    } else {
      for (const byte of part) whole[at++] = byte
    }
  }
  return whole
}
