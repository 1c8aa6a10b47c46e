/** A number of things that may be done in one turn of the event loop. */
export class PerTurn {
  readonly #most: number
  #left: number

  constructor (most: number) {
    this.#most = this.#left = most
  }

  /** Whether one more may be done in this turn. */
  take (): boolean {
    if (this.#left === this.#most) setImmediate(() => { this.#left = this.#most })
    if (this.#left === 0) return false
    this.#left--
    return true
  }
}
