import type { Milliseconds } from '../../types/index.ts'

/** What shares a timer is late by up to this part of its delay. */
const PARTS = 64

interface Batch {
  readonly from: number
  readonly due: (() => void)[]
}

/** Delays of which many are the same: a timer for each sixty-fourth of one, and not for each that waits. */
export class SharedDelays {
  readonly #latest = new Map<Milliseconds, Batch>()

  /** Calls after this delay, or a sixty-fourth later. */
  after (delay: Milliseconds, call: () => void): void {
    const now = performance.now()
    const slack = delay / PARTS
    let batch = this.#latest.get(delay)
    if (batch === undefined || now - batch.from > slack) {
      const made: Batch = { from: now, due: [] }
      batch = made
      this.#latest.set(delay, made)
      // The longest delay of a timer is that of the option already.
      setTimeout(() => {
        if (this.#latest.get(delay) === made) this.#latest.delete(delay)
        for (const call of made.due) call()
      }, Math.min(delay + Math.ceil(slack), 2 ** 31 - 1)).unref()
    }
    batch.due.push(call)
  }
}
