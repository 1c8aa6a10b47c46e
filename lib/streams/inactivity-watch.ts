/** How many times the counter is read within the limit. */
const LOOKS = 8

/**
 * Notices when a byte counter does not change for the whole limit. The counter is read eight times within the limit, so traffic
 * itself costs nothing. The limit is counted in these reads and not by a clock. So bytes that arrive while the event loop is blocked
 * are seen before the limit fires, and fake timers of a test move the limit, too. It may fire up to an eighth of the limit late.
 */
export class InactivityWatch {
  readonly #timer: NodeJS.Timeout
  readonly #counter: () => number
  #last: number
  #quietLooks = 0
  #over = false

  /** @param expired called when the limit is over. If it returns false, the inactivity does not count, and the limit begins again */
  constructor (limit: number, counter: () => number, expired: () => boolean) {
    const every = Math.max(1, Math.ceil(limit / LOOKS))
    this.#counter = counter
    this.#last = counter()
    // An interval and no timeout with refresh(): fake timers run each interval that passed, and ignore refresh().
    this.#timer = setInterval(() => {
      // Fake timers may call an interval again after it was cleared within its own call.
      if (this.#over) return
      const now = this.#counter()
      if (now !== this.#last) {
        this.#last = now
        this.#quietLooks = 0
      } else if (++this.#quietLooks >= LOOKS) {
        this.#quietLooks = 0
        if (expired()) this.stop()
      }
    }, every)
  }

  stop (): void {
    this.#over = true
    clearInterval(this.#timer)
  }
}
