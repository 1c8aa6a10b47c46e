import type { Milliseconds } from '../../types/index.ts'

/** The most steps that the time is divided into. */
const STEPS = 100

/**
 * Tells many members, evenly over a time. If the event loop is blocked, a step still counts for at most three. So the rest is
 * told later, and not all at once.
 */
export class DrainSpread<T> {
  readonly #members: readonly T[]
  readonly #spread: Milliseconds
  readonly #tell: (members: readonly T[], last: boolean) => void
  readonly #step: Milliseconds
  #timer: NodeJS.Timeout | undefined
  #told = 0
  #passed = 0
  #at = performance.now()

  /** @param tell called in each step, with the members whose turn it is */
  constructor (members: readonly T[], spread: Milliseconds, tell: (members: readonly T[], last: boolean) => void) {
    this.#members = members
    this.#spread = spread
    this.#tell = tell
    this.#step = Math.max(1, spread / STEPS)
    this.#timer = setInterval(() => this.#look(), this.#step)
  }

  /** The members that were told. */
  get told (): readonly T[] { return this.#members.slice(0, this.#told) }

  get over (): boolean { return this.#timer === undefined }

  stop (): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #look (): void {
    // With fake timers an interval may call once more after it was cleared.
    if (this.#timer === undefined) return
    const now = performance.now()
    // Fake timers do not move the clock, so a step counts at least once.
    this.#passed += Math.min(3 * this.#step, Math.max(this.#step, now - this.#at))
    this.#at = now
    const over = this.#passed >= this.#spread
    if (over) this.stop()
    const due = over ? this.#members.length : Math.floor(this.#members.length * this.#passed / this.#spread)
    const turn = this.#members.slice(this.#told, due)
    this.#told = due
    if (turn.length > 0 || over) this.#tell(turn, over)
  }
}
