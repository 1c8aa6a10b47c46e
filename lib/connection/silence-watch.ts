/** How often silence is looked for within the time that it may last. */
const LOOKS = 8

/**
 * Counts silence by looking at a byte counter now and then: traffic itself costs nothing. What arrives while
 * the event loop stands still is seen by nobody, since timers come before input when it goes on: so as much
 * silence as the limit is as many looks, each in a turn of its own, that saw nothing.
 */
export class SilenceWatch {
  readonly #timer: NodeJS.Timeout
  readonly #counter: () => number
  #last: number
  #since = performance.now()
  #quietLooks = 0

  /** @param expired called when it is time; false where it is not, and silence is counted anew */
  constructor (limit: number, counter: () => number, expired: () => boolean) {
    this.#counter = counter
    this.#last = counter()
    this.#timer = setTimeout(() => {
      const now = this.#counter()
      const expires = now === this.#last && ++this.#quietLooks >= LOOKS && performance.now() - this.#since >= limit
      if (expires && expired()) return
      if (expires || now !== this.#last) {
        this.#last = now
        this.#since = performance.now()
        this.#quietLooks = 0
      }
      this.#timer.refresh()
    }, Math.max(1, Math.ceil(limit / LOOKS)))
  }

  stop (): void {
    clearTimeout(this.#timer)
  }
}
