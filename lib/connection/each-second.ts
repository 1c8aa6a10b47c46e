import type { Milliseconds } from '../../types/index.ts'

/** Taken when this file is loaded: a timer that was started while a test fakes timers would never fire once the test is over. */
const { setInterval: start, clearInterval: stop } = globalThis

const EVERY: Milliseconds = 1000

/** Calls `look` each second, as long as it returns true, and does not keep the process alive. */
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
