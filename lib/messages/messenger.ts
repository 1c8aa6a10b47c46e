import type { Readable, Writable } from 'node:stream'
import type { WebSocketClosed } from '../../types/index.ts'
import type { Codec } from './codec.ts'
import { Inbox, type InboxOwner, type Item } from './inbox.ts'
import { Outbox, type Outgoing, type OutboxOwner } from './outbox.ts'

/** The bytes that messages travel in. */
export interface Bytes {
  readonly readable: Readable
  readonly writable: Writable
  /** Ends our side, flushed. */
  end (): void
  /** Nobody reads any more: input is discarded, so that its end is seen. */
  discardInput (): void
  /** At once, and so that the peer cannot take it for an end. */
  breakOff (error: Error | undefined, failed: boolean): void
  /** At once, where all was said. */
  cut (): void
}

/** Who owns the connection that messages travel on. */
export interface MessengerOwner {
  /** A message does not fit: see `InboxOwner`. */
  onInvalid (error: Error): unknown
  /** The messages cannot go on, and so the connection cannot: it calls `breakOff()`. */
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
  /** Why the connection is broken off, or was. */
  protected breaking: { error: Error | undefined } | undefined
  /** Nobody wants messages any more, and none is lost that somebody would. */
  protected discarding = false
  protected closed = false

  constructor (bytes: Bytes, owner: MessengerOwner, { codec, highWaterMark }: MessengerSettings) {
    this.bytes = bytes
    this.owner = owner
    this.readable = new Inbox(codec, this, highWaterMark)
    this.writable = new Outbox(codec, this, highWaterMark)
  }

  /** Of WebSocket alone. */
  get websocket (): WebSocketClosed | undefined { return undefined }
  /** It was broken off, and its close frame is on its way: it closes by itself soon. */
  get closesSoon (): boolean { return false }
  /** What the peer did, where the bytes do not show it. */
  get peerError (): Error | undefined { return undefined }
  /** Bytes that were written, and wait above the bytes. */
  get held (): number { return this.writable.held }
  /** Not everything that has arrived was read. So an inactive peer may have sent its answer already. */
  abstract get paused (): boolean

  abstract wanted (): Item | undefined
  abstract frame (payload: string | Uint8Array): string | Uint8Array
  abstract send (message: Outgoing, done: (error?: Error) => void): void
  abstract finish (done: () => void): void
  /** Shows the peer that the connection lives. */
  abstract beat (): void

  onInvalid (error: Error): unknown { return this.owner.onInvalid(error) }

  failed (error: Error): void {
    this.owner.failed('error', error)
    this.readable.destroy(error)
  }

  /** A stream was destroyed by whoever has it, before it was over. */
  destroyed (error: Error | undefined): void {
    if (this.breaking !== undefined || this.closed || this.discarding) return
    this.owner.failed(error === undefined || error.name === 'AbortError' ? 'destroyed' : 'error', error)
  }

  /** Our side ends, in order. */
  end (): void {
    if (!this.writable.writableEnded && !this.writable.destroyed) this.writable.end()
  }

  abstract discardInput (): void

  /** @param code what a WebSocket is closed with, where that does not follow from the error */
  breakOff (error: Error | undefined, failed: boolean, code?: number): void {
    if (this.breaking !== undefined) return
    this.breaking = { error }
    this.breakBytes(error, failed, code)
    this.destroyStreams(error)
  }

  /** @param _code of a WebSocket */
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
    // One that has all that came is read to its end.
    if (!this.readable.over) this.readable.destroy(error)
    this.readable.over = true
    if (!this.writable.destroyed && !this.writable.writableFinished) this.writable.destroy(error)
  }
}
