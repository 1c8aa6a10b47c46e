import type { Readable, Writable } from 'node:stream'
import { FST_ERR_DUPLEX_EXPIRED } from '../errors.ts'
import { kDrain, kEndByGovernance, kUndrain } from '../symbols.ts'
import { momentOf, type Expiring } from './expiries.ts'
import type { AppGovernance } from './app-governance.ts'
import { InputMeter, type Push } from './rate/input-meter.ts'
import { Labels } from './labels.ts'
import { OutputMeter } from './rate/output-meter.ts'
import type { DuplexCloseReason, DuplexMoment, DuplexRate, Milliseconds } from '../../types/index.ts'

/** The reasons of `closed` that governance gives. */
export type GovernanceReason = Extract<DuplexCloseReason, 'expired' | 'revoked'>

/** What rates apply to: the input and the output of a connection. */
export interface Metered {
  /** Set if the input has a rate. It has the bytes that may not pass yet. */
  readonly inputMeter: InputMeter | undefined
  /** Puts a meter between what arrives and the stream. */
  meterInput (make: (stream: Readable, push: Push) => InputMeter): void
  /** Limits the stream that carries the output, as long as it carries this output. If all is over, `make` is not called. */
  meterOutput (make: (stream: Writable) => OutputMeter | undefined): void
}

/** What can expire and be revoked: a connection. */
export interface Revocable {
  readonly accepted: boolean
  [kDrain] (reason: Error, code?: number): void
  /** The connection was extended: it goes on after all. */
  [kUndrain] (reason: Error): void
  /** Breaks the connection off. A pending connection is answered with the error. */
  [kEndByGovernance] (reason: GovernanceReason, error: Error, code: number | undefined): void
}

/** The labels, the expiry and the rates of one connection. */
export class ConnectionGovernance implements Expiring {
  until = Infinity
  place = -1
  readonly #app: AppGovernance
  readonly #grace: Milliseconds
  readonly #meters: { stop (): void }[] = []
  #connection: Revocable | undefined
  #labels: Labels<ConnectionGovernance> | undefined
  /** The error that the connection has expired with. */
  #expired: Error | undefined
  #revoked = false

  /** @param connection undefined if the connection is over already */
  constructor (app: AppGovernance, connection: Revocable | undefined, grace: Milliseconds) {
    this.#app = app
    this.#connection = connection
    this.#grace = grace
  }

  get connection (): Revocable | undefined { return this.#connection }

  get labels (): Labels<ConnectionGovernance> {
    this.#labels ??= new Labels(this.#app.labels, this, this.#connection === undefined)
    return this.#labels
  }

  /** @param over the connection is being broken off. Nothing can stop that */
  extend (until: DuplexMoment | undefined, over = false): boolean {
    const moment = momentOf(until)
    if (this.#connection === undefined || this.#revoked || over) return false
    const { expiries } = this.#app
    this.until = moment
    if (moment <= Date.now()) {
      expiries.remove(this)
      this.expire()
      return true
    }
    if (this.#expired !== undefined) this.#connection[kUndrain](this.#expired)
    this.#expired = undefined
    if (moment === Infinity) expiries.remove(this)
    else expiries.set(this)
    return true
  }

  expire (): void {
    const connection = this.#connection
    if (connection === undefined || this.#expired !== undefined) return
    const error = new FST_ERR_DUPLEX_EXPIRED()
    this.#expired = error
    const goesOn = connection.accepted && this.#grace > 0
    connection[kDrain](error)
    if (!goesOn) this.end('expired', error, undefined)
    else this.#app.delays.after(this.#grace, () => { if (this.#expired === error) this.end('expired', error, undefined) })
  }

  /** @returns whether the connection goes on, until `end()` is called */
  revoke (error: Error, code: number, within: Milliseconds): boolean {
    this.#revoked = true
    const connection = this.#connection
    if (connection === undefined) return false
    const goesOn = connection.accepted && within > 0
    connection[kDrain](error, code)
    if (!goesOn) this.end('revoked', error, code)
    return goesOn
  }

  end (reason: GovernanceReason, error: Error, code: number | undefined): void {
    this.#connection?.[kEndByGovernance](reason, error, code)
  }

  /** Called at acceptance, when the handler gets the streams. */
  limit (carrier: Metered, { bytesIn, bytesOut }: DuplexRate): void {
    const { wheel } = this.#app
    if (carrier.inputMeter === undefined) this.limitInput(carrier, bytesIn)
    if (bytesOut !== undefined) {
      carrier.meterOutput((stream: Writable) => this.#connection && this.#added(new OutputMeter(stream, bytesOut, wheel)))
    }
  }

  /** Called earlier if a body is read before acceptance, as `forward` does. */
  limitInput (carrier: Metered, rate: number | undefined): void {
    if (rate === undefined) return
    carrier.meterInput((stream: Readable, push: Push) => this.#added(new InputMeter(stream, push, rate, this.#app.wheel)))
  }

  #added<M extends { stop (): void }> (meter: M): M {
    this.#meters.push(meter)
    return meter
  }

  /** The connection is over, or will never be accepted. */
  leave (): void {
    if (this.#connection === undefined) return
    this.#connection = undefined
    this.#labels?.leave()
    this.#app.expiries.remove(this)
    for (const meter of this.#meters) meter.stop()
  }
}
