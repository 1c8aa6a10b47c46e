import { FST_ERR_DUPLEX_INVALID_EXPIRY } from '../errors.ts'
import { typeOf } from './wrong-value.ts'
import type { Milliseconds } from '../../types/index.ts'

/**
 * The longest wait before the next look at the clock. The clock may be set meanwhile, and timers cannot wait longer than 2 **
 * 31 ms.
 */
const LONGEST_SLEEP: Milliseconds = 1000

/** The shortest wait, so that moments close together are looked at together. */
const REST: Milliseconds = 20

/** What expires. */
export interface Expiring {
  /** When it expires, like `Date.now()`. */
  until: number
  /** Its place in the heap. Only `Expiries` uses it. -1 means none. */
  place: number
  expire (): void
}

/**
 * Calls each member at its moment of the wall clock. All share one timer. They are in a heap, so a change costs only the
 * logarithm of their number.
 */
export class Expiries {
  /** A heap with the soonest member first: no member is later than its two children. */
  readonly #heap: Expiring[] = []
  #timer: NodeJS.Timeout | undefined
  /** When the timer fires, in the time of `performance.now()`. */
  #lookAt = Infinity
  #looked = -Infinity

  get size (): number { return this.#heap.length }

  /** Adds a member, or moves it if its moment has changed. */
  set (one: Expiring): void {
    if (one.place === -1) this.#put(one, this.#heap.length)
    this.#up(one)
    this.#down(one)
    this.#wait()
  }

  remove (one: Expiring): void {
    const { place } = one
    if (place === -1) return
    one.place = -1
    const last = this.#heap.pop() as Expiring
    if (last !== one) {
      this.#put(last, place)
      this.#up(last)
      this.#down(last)
    }
    if (this.#heap.length === 0) this.#stop()
  }

  #stop (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#lookAt = Infinity
  }

  #wait (): void {
    const soonest = this.#heap[0]
    if (soonest === undefined) return
    const now = performance.now()
    const rest = this.#looked + REST - now
    const delay = Math.min(LONGEST_SLEEP, Math.max(0, rest, soonest.until - Date.now()))
    if (now + delay >= this.#lookAt) return
    this.#stop()
    this.#lookAt = now + delay
    // No process waits for it: connections keep it alive themselves.
    this.#timer = setTimeout(() => this.#look(), delay).unref()
  }

  #look (): void {
    this.#stop()
    this.#looked = performance.now()
    const now = Date.now()
    const over: Expiring[] = []
    for (let soonest = this.#heap[0]; soonest !== undefined && soonest.until <= now; soonest = this.#heap[0]) {
      this.remove(soonest)
      over.push(soonest)
    }
    for (const one of over) one.expire()
    this.#wait()
  }

  #put (one: Expiring, place: number): void {
    this.#heap[place] = one
    one.place = place
  }

  #up (one: Expiring): void {
    for (;;) {
      const parent = this.#heap[(one.place - 1) >> 1]
      if (one.place === 0 || parent === undefined || parent.until <= one.until) return
      this.#swap(one, parent)
    }
  }

  #down (one: Expiring): void {
    for (;;) {
      const left = this.#heap[2 * one.place + 1]
      const right = this.#heap[2 * one.place + 2]
      const sooner = right !== undefined && right.until < (left as Expiring).until ? right : left
      if (sooner === undefined || sooner.until >= one.until) return
      this.#swap(one, sooner)
    }
  }

  #swap (one: Expiring, other: Expiring): void {
    const { place } = one
    this.#put(one, other.place)
    this.#put(other, place)
  }
}

/** In 1973 as milliseconds, and in the year 5138 as seconds. A clock that is faked for a test may be before it. */
const SECONDS = 100_000_000_000

/** Reads what `expires` returned, or `extend()` got. Undefined becomes Infinity, which is never. */
export function momentOf (given: unknown): number {
  if (given === undefined) return Infinity
  const moment = given instanceof Date ? given.getTime() : given
  if (typeof moment !== 'number' || Number.isNaN(moment)) {
    throw new FST_ERR_DUPLEX_INVALID_EXPIRY(given instanceof Date ? 'an invalid Date' : Number.isNaN(given) ? 'NaN' : typeOf(given))
  }
  if (moment > 0 && moment < SECONDS && Date.now() >= SECONDS) throw new FST_ERR_DUPLEX_INVALID_EXPIRY('what seems to be seconds: a token needs exp * 1000')
  return moment
}
