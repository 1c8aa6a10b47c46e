import { FST_ERR_DUPLEX_UPSTREAM_TIMEOUT } from '../../errors.ts'
import type { Exchange } from '../../client/exchange.ts'
import type { PumpWatcher } from './pump.ts'
import type { Milliseconds } from '../../../types/index.ts'

/** Breaks an exchange off if the upstream neither answers nor reads. The timer runs only while the upstream has to act. */
export class ResponseTimeout implements PumpWatcher {
  readonly #exchange: Exchange
  readonly #delay: Milliseconds
  #timer: NodeJS.Timeout | undefined
  #answered = false

  constructor (exchange: Exchange, delay: Milliseconds) {
    this.#exchange = exchange
    this.#delay = delay
  }

  /** The answer is there, or will never come. */
  over (): void {
    this.#answered = true
    this.flows()
  }

  waits (): void {
    if (this.#delay === 0 || this.#answered) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#exchange.abort(new FST_ERR_DUPLEX_UPSTREAM_TIMEOUT(this.#delay)), this.#delay)
  }

  flows (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  failed (error: Error): void {
    this.#exchange.abort(error)
  }
}
