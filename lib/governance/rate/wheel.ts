import type { Milliseconds } from '../../../types/index.ts'

/** How much time one step of the wheel takes. */
const STEP: Milliseconds = 20

/** How many steps the wheel has. A waiter with a longer delay is woken earlier, and waits again. */
const SLOTS = 64

/** Somebody who waits on the wheel. */
export interface Waiter {
  /** The slot where it waits. Only `Wheel` uses it. -1 means none. */
  slot: number
  /** Called when the delay may be over. */
  resume (): void
}

/** One timer for everybody who waits for a rate. It runs only while somebody waits. */
export class Wheel {
  readonly #slots: Set<Waiter>[] = Array.from({ length: SLOTS }, () => new Set())
  #now = 0
  #waiting = 0
  #timer: NodeJS.Timeout | undefined
  #at = 0

  get waiting (): number { return this.#waiting }

  wait (waiter: Waiter, delay: Milliseconds): void {
    if (waiter.slot !== -1) return
    const steps = Math.min(SLOTS - 1, Math.max(1, Math.ceil(delay / STEP)))
    waiter.slot = (this.#now + steps) % SLOTS
    ;(this.#slots[waiter.slot] as Set<Waiter>).add(waiter)
    if (this.#waiting++ > 0) return
    this.#at = performance.now()
    // This timer keeps the process alive. A socket that nobody reads, because its rate is used up, does not.
    this.#timer = setInterval(() => this.#turn(), STEP)
  }

  leave (waiter: Waiter): void {
    if (waiter.slot === -1) return
    ;(this.#slots[waiter.slot] as Set<Waiter>).delete(waiter)
    this.#left(waiter)
  }

  #left (waiter: Waiter): void {
    waiter.slot = -1
    if (--this.#waiting > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  /** Makes as many steps as time has passed. */
  #turn (): void {
    const steps = Math.min(SLOTS, Math.max(1, Math.round((performance.now() - this.#at) / STEP)))
    this.#at = performance.now()
    const ready: Waiter[] = []
    for (let step = 0; step < steps; step++) {
      this.#now = (this.#now + 1) % SLOTS
      const slot = this.#slots[this.#now] as Set<Waiter>
      for (const waiter of slot) {
        ready.push(waiter)
        this.#left(waiter)
      }
      slot.clear()
    }
    for (const waiter of ready) {
      try {
        waiter.resume()
      } catch (error) {
        // A listener of the app has thrown, as it could in an event of its socket. The others have still to go on.
        queueMicrotask(() => { throw error })
      }
    }
  }
}
