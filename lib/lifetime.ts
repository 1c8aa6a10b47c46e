import type { Carrier } from './carriers/carrier.ts'
import {
  FST_ERR_DUPLEX_FIN_TIMEOUT, FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT, FST_ERR_DUPLEX_IDLE_TIMEOUT, FST_ERR_DUPLEX_MAX_LIFETIME
} from './errors.ts'
import type { Limits } from './options.ts'
import type { DuplexCloseReason } from '../types/index.ts'

/** How often silence is looked for within the time that it may last. */
const LOOKS = 8

/**
 * Counts silence by looking at a byte counter now and then: traffic itself costs nothing. What arrives while
 * the event loop stands still is seen by nobody, since timers come before input when it goes on: so as much
 * silence as the limit is as many looks, each in a turn of its own, that saw nothing.
 */
class SilenceWatch {
  readonly #timer: NodeJS.Timeout
  readonly #counter: () => number
  #last: number
  #since = performance.now()
  #quietLooks = 0

  constructor (limit: number, counter: () => number, expired: () => void) {
    this.#counter = counter
    this.#last = counter()
    this.#timer = setTimeout(() => {
      const now = this.#counter()
      if (now !== this.#last) {
        this.#last = now
        this.#since = performance.now()
        this.#quietLooks = 0
      } else if (++this.#quietLooks >= LOOKS && performance.now() - this.#since >= limit) {
        expired()
        return
      }
      this.#timer.refresh()
    }, Math.max(1, Math.ceil(limit / LOOKS)))
  }

  stop (): void {
    clearTimeout(this.#timer)
  }
}

interface Mortal {
  expired (reason: DuplexCloseReason, error: Error): void
}

/** The time limits of one connection, from acceptance to its end. */
export class Lifetime {
  readonly #limits: Limits
  readonly #carrier: Carrier
  readonly #connection: Mortal
  readonly #idle: SilenceWatch | undefined
  #fin: SilenceWatch | undefined
  #halfOpen: SilenceWatch | undefined
  readonly #whole: NodeJS.Timeout | undefined
  #ours = false

  constructor (limits: Limits, carrier: Carrier, connection: Mortal) {
    this.#limits = limits
    this.#carrier = carrier
    this.#connection = connection
    const { idleTimeout, maxLifetime } = limits
    if (idleTimeout > 0) {
      this.#idle = new SilenceWatch(idleTimeout, () => this.#moved(), () => {
        connection.expired('idle', new FST_ERR_DUPLEX_IDLE_TIMEOUT(idleTimeout))
      })
    }
    if (maxLifetime > 0) {
      this.#whole = setTimeout(() => connection.expired('lifetime', new FST_ERR_DUPLEX_MAX_LIFETIME(maxLifetime)), maxLifetime)
    }
  }

  /** Our side ends now. */
  ending (): void {
    this.#ours = true
    this.#halfOpen?.stop()
    const { finTimeout } = this.#limits
    if (finTimeout > 0 && this.#fin === undefined && !this.#carrier.closed) {
      // Until the last byte has left, the peer's reading of it is progress too.
      this.#fin = new SilenceWatch(finTimeout, () => this.#moved(), () => {
        this.#connection.expired('fin', new FST_ERR_DUPLEX_FIN_TIMEOUT(finTimeout))
      })
    }
  }

  /** One of the sides has ended, maybe. */
  progress (): void {
    const { inputEnded, outputFlushed } = this.#carrier
    const { halfOpenTimeout } = this.#limits
    if (outputFlushed && !inputEnded && !this.#ours) this.ending()
    if (inputEnded && !this.#ours && halfOpenTimeout > 0 && this.#halfOpen === undefined) {
      this.#halfOpen = new SilenceWatch(halfOpenTimeout, () => this.#carrier.sent, () => {
        this.#connection.expired('half-open', new FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT(halfOpenTimeout))
      })
    }
  }

  stop (): void {
    this.#idle?.stop()
    this.#fin?.stop()
    this.#halfOpen?.stop()
    clearTimeout(this.#whole)
  }

  #moved (): number {
    const { bytesRead, sent } = this.#carrier
    return bytesRead + sent
  }
}
