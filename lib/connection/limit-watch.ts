import {
  FST_ERR_DUPLEX_FIN_TIMEOUT, FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT, FST_ERR_DUPLEX_IDLE_TIMEOUT, FST_ERR_DUPLEX_MAX_BUFFERED,
  FST_ERR_DUPLEX_MAX_LIFETIME, FST_ERR_DUPLEX_READ_TIMEOUT
} from '../errors.ts'
import { hasEnd } from '../internals/streams.ts'
import type { Limits } from '../options.ts'
import { InactivityWatch } from '../streams/inactivity-watch.ts'
import { isRead } from '../streams/is-read.ts'
import { kEndBecause } from '../symbols.ts'
import { boundOutput } from './bound-output.ts'
import type { Carrier } from './carrier.ts'
import type { DuplexCloseReason } from '../../types/index.ts'

/** What a time limit can end. */
export interface Expirable {
  [kEndBecause] (reason: DuplexCloseReason, error: Error): void
}

/** Watches the limits of one connection, from acceptance to its end: of time, and of bytes that wait for the peer. */
export class LimitWatch {
  readonly #limits: Limits
  readonly #carrier: Carrier
  readonly #connection: Expirable
  readonly #idle: InactivityWatch | undefined
  readonly #read: InactivityWatch | undefined
  #fin: InactivityWatch | undefined
  #halfOpen: InactivityWatch | undefined
  readonly #whole: NodeJS.Timeout | undefined
  /** The handler has finished. */
  #over = false

  /** Whether there is something to watch while both sides are open. */
  static watchesFromTheStart ({ idleTimeout, readTimeout, maxLifetime, maxBuffered }: Limits): boolean {
    return idleTimeout > 0 || readTimeout > 0 || maxLifetime > 0 || maxBuffered > 0
  }

  constructor (limits: Limits, carrier: Carrier, connection: Expirable) {
    this.#limits = limits
    this.#carrier = carrier
    this.#connection = connection
    const { idleTimeout, readTimeout, maxLifetime, maxBuffered } = limits
    if (idleTimeout > 0) {
      this.#idle = new InactivityWatch(idleTimeout, () => this.#moved(), () => {
        if (carrier.inputMeter?.waits === true) return false
        connection[kEndBecause]('idle', new FST_ERR_DUPLEX_IDLE_TIMEOUT(idleTimeout))
        return true
      })
    }
    if (readTimeout > 0) {
      this.#read = new InactivityWatch(readTimeout, () => carrier.bytesRead - (carrier.inputMeter?.held ?? 0), () => {
        if (carrier.inputMeter?.waits === true) return false
        // The peer is not inactive if its bytes wait for a reader, or if it has ended its side.
        const { inputEnded, inputWaits, readable } = carrier
        if (inputEnded || inputWaits === true || readable.readableLength >= readable.readableHighWaterMark) return false
        connection[kEndBecause]('idle', new FST_ERR_DUPLEX_READ_TIMEOUT(readTimeout))
        return true
      })
    }
    if (maxLifetime > 0) {
      this.#whole = setTimeout(() => connection[kEndBecause]('lifetime', new FST_ERR_DUPLEX_MAX_LIFETIME(maxLifetime)), maxLifetime)
    }
    if (maxBuffered > 0) {
      boundOutput(carrier, maxBuffered, () => connection[kEndBecause]('slow', new FST_ERR_DUPLEX_MAX_BUFFERED(maxBuffered)))
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
    // As long as output has to leave, the peer makes progress by taking it.
    this.#fin = new InactivityWatch(finTimeout, () => this.#moved(), () => {
      // A handler may take its time to read what has arrived.
      if (!this.#over && this.#isBeingRead()) return false
      this.#connection[kEndBecause]('fin', new FST_ERR_DUPLEX_FIN_TIMEOUT(finTimeout))
      return true
    })
  }

  /** Whether the whole input has arrived, and somebody reads it. */
  #isBeingRead (): boolean {
    const { inputEnded, readable } = this.#carrier
    return (inputEnded || hasEnd(readable)) && (readable.readableFlowing !== null || isRead(readable))
  }

  /** One of the sides may have ended. */
  progress (): void {
    const { inputEnded, outputFlushed } = this.#carrier
    const { halfOpenTimeout } = this.#limits
    if (outputFlushed) {
      this.#halfOpen?.stop()
      if (!this.#isBeingRead()) this.#watchFin()
    } else if (inputEnded && !this.#over && halfOpenTimeout > 0 && this.#halfOpen === undefined) {
      this.#halfOpen = new InactivityWatch(halfOpenTimeout, () => this.#carrier.sent, () => {
        this.#connection[kEndBecause]('half-open', new FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT(halfOpenTimeout))
        return true
      })
    }
  }

  stop (): void {
    this.#idle?.stop()
    this.#read?.stop()
    this.#fin?.stop()
    this.#halfOpen?.stop()
    clearTimeout(this.#whole)
  }

  #moved (): number {
    const { bytesRead, sent, inputMeter } = this.#carrier
    // Bytes that the input meter holds count as progress when it lets them through.
    return bytesRead + sent - (inputMeter?.held ?? 0)
  }
}
