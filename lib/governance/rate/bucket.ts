import type { Milliseconds } from '../../../types/index.ts'

/** How many seconds of the rate may add up: of bytes that nobody sent (SAVED), and while somebody waits (OWED). */
const SAVED = 0.1
const OWED = 1

/** How many seconds of the rate pass at once, and the most bytes of that. */
const PORTION = 0.05
const LARGEST_PORTION = 16 * 1024

/** Counts how many bytes may pass at this rate. */
export class Bucket {
  readonly #rate: number
  /** How many bytes pass together. A longer chunk is cut. */
  readonly portion: number
  #bytes: number
  #at = performance.now()
  /** Set while somebody waits. Then the time since counts in full, however late the timer comes. */
  owed = false

  constructor (rate: number) {
    this.#rate = rate
    this.portion = Math.max(1, Math.min(LARGEST_PORTION, Math.floor(rate * PORTION)))
    this.#bytes = this.portion
  }

  #fill (): void {
    const now = performance.now()
    const most = Math.max(this.portion, this.#rate * (this.owed ? OWED : SAVED))
    this.#bytes = Math.min(Math.max(most, this.#bytes), this.#bytes + (now - this.#at) / 1000 * this.#rate)
    this.#at = now
  }

  /**
   * Takes as many of these bytes as may pass now.
   *
   * @returns how many
   */
  take (length: number): number {
    this.#fill()
    const taken = Math.max(0, Math.min(length, Math.floor(this.#bytes)))
    this.#bytes -= taken
    return taken
  }

  /** Takes all of these bytes, or none. A chunk that is longer than a portion and cannot be cut needs only a portion. */
  takeWhole (length: number): boolean {
    this.#fill()
    if (this.#bytes < Math.min(length, this.portion)) return false
    this.#bytes -= length
    return true
  }

  /** Counts bytes that have passed already. */
  owe (length: number): void {
    this.#bytes -= length
  }

  /** How long it takes until so many bytes may pass. A portion is enough. */
  delay (length: number): Milliseconds {
    this.#fill()
    return Math.max(0, (Math.min(length, this.portion) - this.#bytes) / this.#rate * 1000)
  }
}
