import type { Writable } from 'node:stream'

type Done = (error?: Error | null) => void

/** Bytes that are held until the end of the tick. With more than this they are written at once. */
const MOST_HELD = 16 * 1024

/** A part of at least this size is not copied. */
const LARGE = 4 * 1024

/**
 * What a `Sender` of `ws` writes into. It writes the head and the payload of each frame apart. Here all frames of one tick
 * leave in one write.
 */
export class FrameOutput {
  readonly #stream: Writable
  #parts: (Uint8Array | string)[] = []
  #dones: Done[] | undefined
  #scheduled = false
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
    else if (!this.#scheduled) this.#schedule()
  }

  #schedule (): void {
    this.#scheduled = true
    process.nextTick(flushLater, this)
  }

  later (): void {
    this.#scheduled = false
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

function flushLater (output: FrameOutput): void {
  output.later()
}

function joined (parts: readonly (Uint8Array | string)[], size: number): Buffer {
  const whole = Buffer.allocUnsafe(size)
  let at = 0
  for (const part of parts) {
    if (typeof part === 'string') {
      at += whole.write(part, at)
    } else {
      whole.set(part, at)
      at += part.length
    }
  }
  return whole
}
