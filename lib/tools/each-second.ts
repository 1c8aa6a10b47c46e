import type { Milliseconds } from '../../types/index.ts'

/** Taken when this file is loaded. A timer of a test's fake timers would never fire after the test. */
const { setInterval: start, clearInterval: stop } = globalThis

const EVERY: Milliseconds = 1000

/** Calls `look` every second, as long as that returns true. It does not keep the process alive. */
export class EachSecond {
  readonly #look: () => boolean
  #timer: NodeJS.Timeout | undefined

  constructor (look: () => boolean) {
    this.#look = look
  }

  start (): void {
    this.#timer ??= start(() => {
      if (this.#look()) return
      stop(this.#timer)
      this.#timer = undefined
    }, EVERY).unref()
  }
}
