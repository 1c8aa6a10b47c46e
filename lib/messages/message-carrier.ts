import type { ServerResponse } from 'node:http'
import type { Readable } from 'node:stream'
import type { Carrier, CarrierListener, ProgressListener } from '../connection/carrier.ts'
import { kProgressed } from '../symbols.ts'
import { FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_CANNOT_DETACH } from '../errors.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import type { KindHead } from '../handshake/kinds.ts'
import type { DetachedSocket, DuplexClosed, DuplexKind, Milliseconds } from '../../types/index.ts'
import { startBeating, type Beating } from './heartbeat.ts'
import type { Bytes, Messenger } from './messenger.ts'

export interface MessageCarrierSettings {
  readonly heartbeat: Milliseconds
  /** Called when the connection is accepted. */
  makeMessenger (bytes: Bytes): Messenger
  /** Called when the peer has missed two heartbeats in a row. */
  heartbeatMissed (): void
}

/** A carrier whose pair carries messages. It wraps the carrier of the bytes. */
export class MessageCarrier implements Carrier, ProgressListener, Beating {
  readonly inner: Carrier
  readonly #settings: MessageCarrierSettings
  #owner: ProgressListener | undefined
  messenger: Messenger | undefined
  #stopBeating: (() => void) | undefined
  /** The byte count at the latest heartbeat. `#missedHeartbeats` says for how many heartbeats it has not changed. */
  #seen = -1
  #missedHeartbeats = 0

  constructor (inner: Carrier, settings: MessageCarrierSettings) {
    this.inner = inner
    this.#settings = settings
  }

  get owner (): ProgressListener | undefined { return this.#owner }
  set owner (owner: ProgressListener | undefined) {
    this.#owner = owner
    this.inner.owner = this
  }

  get listener (): CarrierListener | undefined { return this.inner.listener }
  set listener (listener: CarrierListener | undefined) { this.inner.listener = listener }
  get res (): ServerResponse | undefined { return this.inner.res }
  get gone (): boolean { return this.inner.gone }
  get heads (): Readonly<Record<DuplexKind, KindHead>> { return this.inner.heads }
  get head (): Buffer { return this.inner.head }
  get bytesRead (): number { return this.inner.bytesRead }
  get bytesWritten (): number { return this.inner.bytesWritten }
  get sent (): number { return this.inner.sent }
  get unsent (): number { return this.inner.unsent + (this.messenger?.held ?? 0) }
  get inputEnded (): boolean { return this.inner.inputEnded }
  get outputFlushed (): boolean { return this.inner.outputFlushed }
  get peerError (): Error | undefined { return this.inner.peerError ?? this.messenger?.peerError }
  get localError (): Error | undefined { return this.inner.localError }
  get closed (): boolean { return this.inner.closed }
  get inputMeter (): Carrier['inputMeter'] { return this.inner.inputMeter }

  impliesTakeover (status: number): boolean { return this.inner.impliesTakeover(status) }
  sendContinue (): void { this.inner.sendContinue() }
  refusing (): void { this.inner.refusing() }
  reportDisconnect (): void { this.inner.reportDisconnect() }
  cut (): void {
    this.messenger?.flush()
    this.inner.cut()
  }

  asBody (): Carrier { return this.inner.asBody() }
  readFrom (body: Readable): void { this.inner.readFrom(body) }
  releaseResponse (status: number): void { this.inner.releaseResponse(status) }
  keepAlive (delay: Milliseconds): void { this.inner.keepAlive(delay) }
  handlerReturned (): void { this.inner.handlerReturned() }
  complete (error: Error | undefined): void { this.inner.complete(error) }

  writeHead (status: number, fields: HeadFields, head: KindHead, protocol: string | undefined): void {
    this.inner.writeHead(status, fields, head, protocol)
  }

  meterInput (make: Parameters<Carrier['meterInput']>[0]): void { this.inner.meterInput(make) }
  meterOutput (make: Parameters<Carrier['meterOutput']>[0]): void { this.inner.meterOutput(make) }

  detach (): DetachedSocket {
    throw new FST_ERR_DUPLEX_CANNOT_DETACH()
  }

  // There is no pair before acceptance, and nobody asks for one before that.
  get readable (): Messenger['readable'] { return this.messenger?.readable as Messenger['readable'] }
  get writable (): Messenger['writable'] { return this.messenger?.writable as Messenger['writable'] }

  start (): void {
    const { inner } = this
    inner.start()
    this.messenger = this.#settings.makeMessenger(inner)
    const { heartbeat } = this.#settings
    if (heartbeat > 0) this.#stopBeating = startBeating(heartbeat, this)
  }

  end (): void {
    if (this.messenger === undefined) this.inner.end()
    else this.messenger.end()
  }

  discardInput (): void {
    if (this.messenger === undefined) this.inner.discardInput()
    else this.messenger.discardInput()
  }

  breakOff (error: Error | undefined, failed: boolean, code?: number): void {
    if (this.messenger === undefined) this.inner.breakOff(error, failed)
    else this.messenger.breakOff(error, failed, code)
  }

  get closesSoon (): boolean { return this.messenger?.closesSoon === true }

  get inputWaits (): boolean { return this.messenger?.inputWaits === true }

  get closedFacts (): Pick<DuplexClosed, 'websocket'> {
    const websocket = this.messenger?.websocket
    return websocket === undefined ? {} : { websocket }
  }

  [kProgressed] (): void {
    if (this.inner.closed) {
      this.#stopBeating?.()
      this.#stopBeating = undefined
      this.messenger?.over(this.inner.localError ?? this.inner.peerError ?? new FST_ERR_DUPLEX_ABORTED())
    }
    this.#owner?.[kProgressed]()
  }

  beat (): void {
    const { inner, messenger } = this
    if (inner.closed || messenger === undefined) return
    // A WebSocket peer answers pings. Other peers answer nothing: they only show that they live by taking what is sent.
    const answers = messenger.websocket !== undefined
    const now = answers ? inner.bytesRead : inner.bytesRead + inner.sent
    if (now !== this.#seen || (answers ? messenger.paused : inner.unsent === 0)) {
      this.#seen = now
      this.#missedHeartbeats = 0
    } else if (++this.#missedHeartbeats >= 2) {
      this.#settings.heartbeatMissed()
      return
    }
    messenger.beat()
  }
}
