import type { Milliseconds } from '../../types/index.ts'

/** A shared timer may be late by this part of its delay. */
const PARTS = 64

interface Batch {
  readonly from: number
  readonly due: (() => void)[]
}

/** Timers for many equal delays. Calls that are due within the same sixty-fourth of their delay share one timer. */
export class SharedDelays {
  readonly #latest = new Map<Milliseconds, Batch>()

  /** Calls after this delay, at most a sixty-fourth of it late. */
  after (delay: Milliseconds, call: () => void): void {
    const now = performance.now()
    const slack = delay / PARTS
    let batch = this.#latest.get(delay)
    if (batch === undefined || now - batch.from > slack) {
      const made: Batch = { from: now, due: [] }
      batch = made
      this.#latest.set(delay, made)
      // Timers cannot wait longer than that, and options allow no longer delay.
      setTimeout(() => {
        if (this.#latest.get(delay) === made) this.#latest.delete(delay)
        for (const call of made.due) call()
      }, Math.min(delay + Math.ceil(slack), 2 ** 31 - 1)).unref()
    }
    batch.due.push(call)
  }
}
