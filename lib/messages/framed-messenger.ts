import type { MessageDecoder, MessageFraming } from '../../types/index.ts'
import { asError, codeOf } from '../tools/thrown.ts'
import { checked, invalid, unserialisable } from './codec.ts'
import { LAST_WORDS, type Incoming, type Item } from './inbox.ts'
import { Messenger, type Bytes, type MessengerOwner, type MessengerSettings } from './messenger.ts'
import type { Outgoing } from './outbox.ts'

export interface Framings {
  /** The framing of the input. Undefined if there is no input. */
  readonly in: MessageFraming | undefined
  readonly out: MessageFraming
  /** Messages that were read before acceptance. */
  readonly before?: readonly unknown[] | undefined
}

const NOTHING = Buffer.alloc(0)

/** Messages in a stream of bytes or in a body: every framing but WebSocket. */
export class FramedMessenger extends Messenger {
  readonly #decoder: MessageDecoder | undefined
  readonly #out: MessageFraming
  readonly #before: unknown[]
  /** The rest of the latest chunk. */
  #left: Iterator<Uint8Array | Error> | undefined
  #reading = false
  #paused = false
  #inputOver = false
  /** The input has ended. `#left` has what its end has given. */
  #ended = false
  #room: ((error?: Error) => void) | undefined
  /** A wrong message has come. What was sent before it leaves first. */
  #saysLast = false
  #closesSoon = false

  constructor (bytes: Bytes, owner: MessengerOwner, settings: MessengerSettings, framings: Framings) {
    super(bytes, owner, settings)
    this.#decoder = framings.in?.decoder?.({ maxLength: settings.maxLength })
    this.#out = framings.out
    this.#before = [...framings.before ?? []]
    // The stream may break before anybody reads it.
    bytes.readable.on('error', this.#onError)
    bytes.writable.on('drain', this.#onDrain)
  }

  override get closesSoon (): boolean { return this.#closesSoon }
  override get paused (): boolean { return this.#paused || !this.#reading }

  override wanted (): Item | undefined {
    if (this.#before.length > 0) return { value: this.#before.shift() }
    if (this.#decoder === undefined) return 'end'
    for (;;) {
      if (this.#left === undefined && this.#inputOver && !this.#ended) {
        this.#ended = true
        this.#left = endOf(this.#decoder)
      }
      if (this.#left === undefined) {
        this.#readOn()
        return undefined
      }
      let next: IteratorResult<Uint8Array | Error>
      try {
        next = this.#left.next()
      } catch (error) {
        this.#left = undefined
        return { failure: coded(error) }
      }
      if (next.done !== true) {
        const { value } = next
        if (value instanceof Error) return { unreadable: coded(value) }
        if (!(value instanceof Uint8Array)) return { failure: invalid('the framing gave no bytes') }
        return this.#ended ? { payload: value, last: true } satisfies Incoming : { payload: value }
      }
      this.#left = undefined
      if (this.#ended) return 'end'
    }
  }

  #readOn (): void {
    const { readable } = this.bytes
    if (!this.#reading) {
      this.#reading = true
      readable.on('end', this.#onEnd)
      readable.on('data', this.#onData)
    } else if (this.#paused) {
      this.#paused = false
      readable.resume()
    }
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.discarding) return
    this.#left = messagesIn(this.#decoder as MessageDecoder, chunk)
    this.readable.pump()
    if (this.#left !== undefined && !this.discarding) {
      this.#paused = true
      this.bytes.readable.pause()
    }
  }

  readonly #onEnd = (): void => {
    if (this.discarding) return
    // Node emits 'end' even if the stream is paused. The rest of the latest chunk comes first.
    this.#inputOver = true
    this.readable.pump()
  }

  readonly #onError = (error: Error): void => {
    this.over(error)
  }

  override frame (payload: string | Uint8Array): string | Uint8Array {
    try {
      return checked(this.#out.encode(payload))
    } catch (error) {
      throw unserialisable(error)
    }
  }

  override sendNow (payload: string | Uint8Array): boolean {
    const { writable } = this.bytes
    if (writable.writableNeedDrain) return false
    writable.write(payload)
    return true
  }

  override send (message: Outgoing, done: (error?: Error) => void): void {
    const { writable } = this.bytes
    if (writable.write(message.payload)) done()
    else this.#room = done
  }

  readonly #onDrain = (): void => {
    const done = this.#room
    this.#room = undefined
    done?.()
  }

  override finish (done: () => void): void {
    this.bytes.end()
    done()
  }

  override discardInput (): void {
    if (this.discarding) return
    // If somebody reads the stream, the reader sees the end of it.
    if (this.readable.loops > 0 || this.readable.listenerCount('readable') > 0 || this.readable.readableFlowing === true) return
    this.discarding = true
    const { readable } = this.bytes
    readable.removeListener('data', this.#onData)
    if (this.#reading) readable.pause()
    if (!this.readable.over) this.readable.destroy()
    this.bytes.discardInput()
  }

  override failed (error: Error): void {
    this.#saysLast = true
    super.failed(error)
  }

  /** Over TLS and HTTP/2 a reset overtakes what was sent before it. So it waits until that has left. */
  protected override breakBytes (error: Error | undefined, failed: boolean): void {
    const { bytes } = this
    const { readable, writable } = bytes
    const waits = writable.writableLength > 0 || this.writable.held > 0
    if (!this.#saysLast || !waits || writable.destroyed || writable.writableEnded) {
      bytes.breakOff(error, failed)
      return
    }
    this.#closesSoon = true
    this.discarding = true
    if (this.#reading) readable.pause()
    const timer = setTimeout(() => bytes.breakOff(error, failed), LAST_WORDS)
    for (const { payload } of this.writable.takeQueue()) writable.write(payload)
    writable.write(NOTHING, () => {
      clearTimeout(timer)
      bytes.breakOff(error, failed)
    })
  }

  override beat (): void {
    const { heartbeat } = this.#out
    const { writable } = this.bytes
    // If output still waits, it will show the peer as much as a heartbeat would.
    if (heartbeat !== undefined && writable.writableLength === 0 && !writable.writableEnded) writable.write(heartbeat)
  }
}

function coded (thrown: unknown): Error {
  const code = codeOf(thrown)
  const isOurs = thrown instanceof Error && typeof code === 'string' && code.startsWith('FST_ERR_DUPLEX_')
  return isOurs ? thrown : invalid(asError(thrown).message, thrown)
}

// As generators, so that what they throw comes with the first message.
function * messagesIn (decoder: MessageDecoder, chunk: Buffer): Generator<Uint8Array | Error> {
  yield * decoder.decode(chunk)
}

function * endOf (decoder: MessageDecoder): Generator<Uint8Array | Error> {
  yield * decoder.end()
}
