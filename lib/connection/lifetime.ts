import type { Carrier } from './carrier.ts'
import {
  FST_ERR_DUPLEX_FIN_TIMEOUT, FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT, FST_ERR_DUPLEX_IDLE_TIMEOUT, FST_ERR_DUPLEX_MAX_LIFETIME
} from '../errors.ts'
import { hasEnd } from '../internals/streams.ts'
import type { Limits } from '../options.ts'
import { SilenceWatch } from './silence-watch.ts'
import type { DuplexCloseReason } from '../../types/index.ts'

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
  /** The handler is done with it. */
  #over = false

  constructor (limits: Limits, carrier: Carrier, connection: Mortal) {
    this.#limits = limits
    this.#carrier = carrier
    this.#connection = connection
    const { idleTimeout, maxLifetime } = limits
    if (idleTimeout > 0) {
      this.#idle = new SilenceWatch(idleTimeout, () => this.#moved(), () => {
        connection.expired('idle', new FST_ERR_DUPLEX_IDLE_TIMEOUT(idleTimeout))
        return true
      })
    }
    if (maxLifetime > 0) {
      this.#whole = setTimeout(() => connection.expired('lifetime', new FST_ERR_DUPLEX_MAX_LIFETIME(maxLifetime)), maxLifetime)
    }
  }

  /** Our side ends now, and nobody reads any more. */
  ending (): void {
    this.#over = true
    this.#halfOpen?.stop()
    this.#watchFin()
  }

  #watchFin (): void {
    const { finTimeout } = this.#limits
    if (finTimeout === 0 || this.#fin !== undefined || this.#carrier.closed) return
    // Until the last byte has left, the peer's reading of it is progress too.
    this.#fin = new SilenceWatch(finTimeout, () => this.#moved(), () => {
      // A handler reads at its own pace what is there.
      if (!this.#over && this.#isBeingRead()) return false
      this.#connection.expired('fin', new FST_ERR_DUPLEX_FIN_TIMEOUT(finTimeout))
      return true
    })
  }

  /** All has come, and somebody has begun to read it. */
  #isBeingRead (): boolean {
    const { inputEnded, readable } = this.#carrier
    return (inputEnded || hasEnd(readable)) && (readable.readableFlowing !== null || readable.listenerCount('readable') > 0)
  }

  /** One of the sides has ended, maybe. */
  progress (): void {
    const { inputEnded, outputFlushed } = this.#carrier
    const { halfOpenTimeout } = this.#limits
    if (outputFlushed) {
      this.#halfOpen?.stop()
      if (!this.#isBeingRead()) this.#watchFin()
    } else if (inputEnded && !this.#over && halfOpenTimeout > 0 && this.#halfOpen === undefined) {
      this.#halfOpen = new SilenceWatch(halfOpenTimeout, () => this.#carrier.sent, () => {
        this.#connection.expired('half-open', new FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT(halfOpenTimeout))
        return true
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
