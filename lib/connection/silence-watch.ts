import type { Milliseconds } from '../../types/index.ts'

/** For a client that does not take a refusal, where no route says how long it waits for the end of its peers. */
export const UNREAD_FOR: Milliseconds = 30_000

/** How often silence is looked for within the time that it may last. */
const LOOKS = 8

/**
 * Counts silence by looking at a byte counter now and then: traffic itself costs nothing. Time is what the looks take, and no
 * clock is read. So what arrives while the event loop stands still is seen before it is missed, and a test that sets
 * the timers forward sets the silence forward with them. A limit may be overrun by an eighth of its length.
 */
export class SilenceWatch {
  readonly #timer: NodeJS.Timeout
  readonly #counter: () => number
  #last: number
  #quietLooks = 0
  #over = false

  /** @param expired called when it is time; false where it is not, and silence is counted anew */
  constructor (limit: number, counter: () => number, expired: () => boolean) {
    const every = Math.max(1, Math.ceil(limit / LOOKS))
    this.#counter = counter
    this.#last = counter()
    // An interval, of which the fake timers of a test make up for every one that passed; their refresh() does nothing.
    this.#timer = setInterval(() => {
      // Fake timers may not let an interval end within its own call.
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
