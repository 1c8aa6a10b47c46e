import { Writable } from 'node:stream'
import { FST_ERR_DUPLEX_MESSAGE_NOT_SENT } from '../errors.ts'
import type { Codec } from './codec.ts'

/** A message that is encoded, and not sent yet. */
export class Outgoing {
  readonly payload: string | Uint8Array
  /** In bytes. */
  readonly size: number

  constructor (payload: string | Uint8Array) {
    this.payload = payload
    this.size = typeof payload === 'string' ? Buffer.byteLength(payload) : payload.length
  }
}

export interface OutboxOwner {
  /** Adds the framing. Throws if the framing cannot hold the payload. */
  frame (payload: string | Uint8Array): string | Uint8Array
  /** Sends a framed message if there is room. If it returns false, nothing was sent. */
  sendNow (payload: string | Uint8Array): boolean
  /** @param done called when there is room again */
  send (message: Outgoing, done: (error?: Error) => void): void
  /** Ends our side after everything that was sent. */
  finish (done: () => void): void
  destroyed (error: Error | undefined): void
}

type Done = (error?: Error | null) => void

const SENT = Promise.resolve()

/** The writable half of the pair. `write()` encodes the message at once, so that later changes to the object do not matter. */
export class Outbox extends Writable {
  readonly #codec: Codec
  readonly #owner: OutboxOwner
  #waiting: { resolve: () => void, reject: (error: Error) => void }[] = []
  /** The messages that wait in this stream. */
  #queue: Set<Outgoing> | undefined
  /** How many bytes these have. */
  held = 0

  constructor (codec: Codec, owner: OutboxOwner, highWaterMark: number) {
    super({ objectMode: true, highWaterMark })
    this.#codec = codec
    this.#owner = owner
    this.on('error', nothing)
    this.on('drain', resolveAll)
    this.on('close', refuseAll)
    this.on('finish', resolveAll)
  }

  /** Sends a message. Resolves when there is room for more. Rejects if the message cannot be sent. The caller need not handle that. */
  send (message: unknown): Promise<void> {
    if (this.writableEnded || this.destroyed) return rejected(this.#notSent())
    let payload: string | Uint8Array
    try {
      payload = this.#framed(message)
    } catch (error) {
      return rejected(error as Error)
    }
    // If nothing waits in this stream, its machinery is not needed. A limit of what may wait looks at each write().
    const direct = this.writableLength === 0 && this.writableCorked === 0 && this.write === Outbox.prototype.write
    if (direct && this.#owner.sendNow(payload)) return SENT
    if (this.write(new Outgoing(payload))) return SENT
    if (this.destroyed) return rejected(this.#notSent())
    const room = new Promise<void>((resolve, reject) => { this.#waiting.push({ resolve, reject }) })
    room.catch(() => {})
    return room
  }

  override write (message: unknown, encoding?: unknown, callback?: unknown): boolean {
    let outgoing: unknown = message
    if (!(message instanceof Outgoing)) {
      try {
        outgoing = this.#encode(message)
      } catch (error) {
        // The stream fails with this error when it is the turn of this message.
        outgoing = error
      }
    }
    if (outgoing instanceof Outgoing && !this.writableEnded) {
      this.held += outgoing.size
      this.#queue ??= new Set()
      this.#queue.add(outgoing)
    }
    return super.write(outgoing, encoding as BufferEncoding, callback as Done)
  }

  override _write (message: unknown, _encoding: BufferEncoding, done: Done): void {
    let outgoing: unknown = message
    if (outgoing instanceof Outgoing) {
      this.held -= outgoing.size
      this.#queue?.delete(outgoing)
    } else if (!(outgoing instanceof Error)) {
      // `end(message)` comes here without passing `write()`.
      try {
        outgoing = this.#encode(message)
      } catch (error) {
        outgoing = error
      }
    }
    if (outgoing instanceof Outgoing) this.#owner.send(outgoing, done)
    else done(outgoing as Error)
  }

  /** Takes the messages that wait, because the stream is about to be destroyed. */
  takeQueue (): Outgoing[] {
    this.held = 0
    const queue = this.#queue ?? []
    this.#queue = undefined
    return [...queue]
  }

  override _final (done: Done): void {
    this.#owner.finish(done)
  }

  override _destroy (error: Error | null, done: Done): void {
    this.takeQueue()
    if (!this.writableFinished) this.#owner.destroyed(error ?? undefined)
    done(error)
  }

  #framed (message: unknown): string | Uint8Array {
    return this.#owner.frame(this.#codec.encode(message))
  }

  #encode (message: unknown): Outgoing {
    return new Outgoing(this.#framed(message))
  }

  #notSent (): Error {
    return this.errored == null ? new FST_ERR_DUPLEX_MESSAGE_NOT_SENT() : new FST_ERR_DUPLEX_MESSAGE_NOT_SENT({ cause: this.errored })
  }

  resolveAll (): void {
    for (const { resolve } of this.#waiting.splice(0)) resolve()
  }

  refuseAll (): void {
    if (this.#waiting.length === 0) return
    const error = this.#notSent()
    for (const { reject } of this.#waiting.splice(0)) reject(error)
  }
}

// The same functions for all streams: a closure for each would cost memory as long as the stream lives.
function nothing (): void {}
function resolveAll (this: Outbox): void { this.resolveAll() }
function refuseAll (this: Outbox): void { this.refuseAll() }

/** A rejection that nobody handles must not end the process. */
function rejected (error: Error): Promise<never> {
  const promise = Promise.reject<never>(error)
  promise.catch(() => {})
  return promise
}
