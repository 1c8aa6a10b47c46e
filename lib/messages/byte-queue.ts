/** Chunks up to this size, in bytes, are joined. */
const SMALL = 4096

/** Bytes that have arrived and were not taken yet. */
export class ByteQueue {
  length = 0
  readonly #chunks: Buffer[] = []
  /** How many bytes of the first chunk were taken already. */
  #from = 0

  push (chunk: Buffer): void {
    if (chunk.length === 0) return
    const { length } = this.#chunks
    const latest = this.#chunks[length - 1]
    // Small chunks are joined: a message that arrives byte by byte would be as many objects.
    const joins = latest !== undefined && length > 1 && latest.length + chunk.length <= SMALL
    if (joins) this.#chunks[length - 1] = Buffer.concat([latest, chunk])
    else this.#chunks.push(chunk)
    this.length += chunk.length
  }

  /** The byte at `index`. The queue must have it. */
  at (index: number): number {
    let left = index + this.#from
    for (const chunk of this.#chunks) {
      if (left < chunk.length) return chunk[left] as number
      left -= chunk.length
    }
    throw new RangeError(`byte ${index} of ${this.length}`)
  }

  /** Takes `count` bytes, which the queue must have. They are copied only if they lie in several chunks. */
  take (count: number): Buffer {
    const [first] = this.#chunks
    if (first === undefined || count === 0) return Buffer.alloc(0)
    const end = this.#from + count
    if (end <= first.length) {
      const taken = first.subarray(this.#from, end)
      this.skip(count)
      return taken
    }
    const taken = Buffer.allocUnsafe(count)
    for (let filled = 0; filled < count;) {
      const chunk = this.#chunks[0] as Buffer
      const size = Math.min(count - filled, chunk.length - this.#from)
      chunk.copy(taken, filled, this.#from, this.#from + size)
      filled += size
      this.skip(size)
    }
    return taken
  }

  /** Drops up to `count` bytes, and returns how many it dropped. */
  skip (count: number): number {
    const skipped = Math.min(count, this.length)
    this.length -= skipped
    let left = skipped + this.#from
    while (this.#chunks.length > 0 && left >= (this.#chunks[0] as Buffer).length) left -= (this.#chunks.shift() as Buffer).length
    this.#from = left
    return skipped
  }
}
