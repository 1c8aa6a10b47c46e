import type { Readable, Writable } from 'node:stream'
import type { WebSocketClosed } from '../../types/index.ts'
import type { Codec } from './codec.ts'
import { Inbox, type InboxOwner, type Item } from './inbox.ts'
import { Outbox, type Outgoing, type OutboxOwner } from './outbox.ts'

/** The stream of bytes that carries the messages. */
export interface Bytes {
  readonly readable: Readable
  readonly writable: Writable
  /** Flushes the output, then ends our side. */
  end (): void
  /** Nobody reads any more. Input is thrown away, so that its end is seen. */
  discardInput (): void
  /** Ends the connection at once, such that the peer cannot take it for a clean end. */
  breakOff (error: Error | undefined, failed: boolean): void
  /** Ends the connection at once, when both sides have said everything. */
  cut (): void
}

/** The owner of the connection that carries the messages. */
export interface MessengerOwner {
  /** A message does not fit: see `InboxOwner`. */
  onInvalid (error: Error): unknown
  /** The messages have failed, and with them the connection. The owner calls `breakOff()`. */
  failed (reason: 'error' | 'destroyed' | 'abort' | 'fin', error: Error | undefined): void
}

export interface MessengerSettings {
  readonly codec: Codec
  readonly maxLength: number
  readonly highWaterMark: number
}

/** A pair of streams of messages on top of a pair of streams of bytes. */
export abstract class Messenger implements InboxOwner, OutboxOwner {
  readonly readable: Inbox
  readonly writable: Outbox
  protected readonly bytes: Bytes
  protected readonly owner: MessengerOwner
  /** Set when the connection is broken off. It has the reason. */
  protected breaking: { error: Error | undefined } | undefined
  /** Nobody wants further messages, so input is thrown away. */
  protected discarding = false
  protected closed = false

  constructor (bytes: Bytes, owner: MessengerOwner, { codec, highWaterMark }: MessengerSettings) {
    this.bytes = bytes
    this.owner = owner
    this.readable = new Inbox(codec, this, highWaterMark, this.readsAhead)
    this.writable = new Outbox(codec, this, highWaterMark)
  }

  /** Messages are decoded before a loop asks for them. */
  protected get readsAhead (): boolean { return true }

  /** How a WebSocket ended. Undefined for other framings. */
  get websocket (): WebSocketClosed | undefined { return undefined }
  /** See `Carrier`. */
  get closesSoon (): boolean { return false }
  /** What the peer did wrong, if the bytes alone do not show it. */
  get peerError (): Error | undefined { return undefined }
  /** How many bytes were written, and have not reached the stream of bytes yet. */
  get held (): number { return this.writable.held }
  /** Whether some input has arrived and was not read. Then the peer may have answered already, although it looks inactive. */
  abstract get paused (): boolean

  /** As many messages wait for a reader, outside of `readable`, as may wait in it. */
  get inputWaits (): boolean { return false }

  abstract wanted (): Item | undefined
  abstract frame (payload: string | Uint8Array): string | Uint8Array
  abstract sendNow (payload: string | Uint8Array): boolean
  abstract send (message: Outgoing, done: (error?: Error) => void): void
  abstract finish (done: () => void): void
  /** Sends a heartbeat. */
  abstract beat (): void

  onInvalid (error: Error): unknown { return this.owner.onInvalid(error) }

  failed (error: Error): void {
    if (!this.discarding) this.owner.failed('error', error)
    this.readable.destroy(error)
  }

  /** The app has destroyed a stream before it was over. */
  destroyed (error: Error | undefined): void {
    if (this.breaking !== undefined || this.closed || this.discarding) return
    this.owner.failed(error === undefined || error.name === 'AbortError' ? 'destroyed' : 'error', error)
  }

  /** Ends our side in order. */
  end (): void {
    if (!this.writable.writableEnded && !this.writable.destroyed) this.writable.end()
  }

  abstract discardInput (): void

  /** Lets the stream of bytes have what is held until the end of the tick. */
  flush (): void {}

  /** @param code the close code of a WebSocket, if the error does not decide it */
  breakOff (error: Error | undefined, failed: boolean, code?: number): void {
    if (this.breaking !== undefined) return
    this.breaking = { error }
    this.breakBytes(error, failed, code)
    this.destroyStreams(error)
  }

  /** @param _code the close code of a WebSocket */
  protected breakBytes (error: Error | undefined, failed: boolean, _code: number | undefined): void {
    this.bytes.breakOff(error, failed)
  }

  /** The connection is gone. */
  over (error: Error | undefined): void {
    if (this.closed) return
    this.closed = true
    this.destroyStreams(this.breaking === undefined ? error : this.breaking.error)
  }

  protected destroyStreams (error: Error | undefined): void {
    // If all input has arrived, the reader may still read it to its end.
    if (this.readable.over) this.readable.hurry()
    else this.readable.destroy(error)
    this.readable.over = true
    if (!this.writable.destroyed && !this.writable.writableFinished) this.writable.destroy(error)
  }
}
