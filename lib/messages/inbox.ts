import { Readable } from 'node:stream'
import { FST_ERR_DUPLEX_MESSAGE_CUT, FST_ERR_DUPLEX_MESSAGE_INVALID } from '../errors.ts'
import { isThenable } from '../tools/thenable.ts'
import { asError } from '../tools/thrown.ts'
import { kLooped } from '../streams/is-read.ts'
import type { Codec } from './codec.ts'
import { Loop, type Result } from './loop.ts'

/** A payload that has arrived. */
export interface Incoming {
  readonly payload: Uint8Array
  readonly isText?: boolean | undefined
  /** The end of the input is the only thing that says that this payload is complete. */
  readonly last?: boolean
}

/** What comes next: a payload, a message that cannot be read, a value, the end, or an error that ends the stream. */
export type Item = Incoming | { readonly unreadable: Error } | Failure | { readonly value: unknown } | 'end'

export interface Failure {
  readonly failure: Error
  /** The peer is gone, so nobody waits for an answer. */
  readonly gone?: boolean
}

/**
 * A close frame, or a message that cannot be read, has come. For this many milliseconds a handler may still answer what came before.
 * Output that has to leave before a reset gets the same time.
 */
export const LAST_WORDS = 2000

export interface InboxOwner {
  /** Called when a reader wants more. Returns the next item, or undefined if there is none yet. */
  wanted (): Item | undefined
  /**
   * Called for a message that does not fit. If this throws, the stream ends with that error. Otherwise the message is left out.
   * A promise is waited for.
   */
  onInvalid (error: Error): unknown
  /** The stream has failed. Everything before the error was read, or nobody reads. */
  failed (error: Error): void
  /** The stream was destroyed, so nobody wants the rest. */
  destroyed (error: Error | undefined): void
}

/** The readable half of the pair. It decodes a message only when a reader wants one. */
export class Inbox extends Readable {
  readonly #codec: Codec
  readonly #owner: InboxOwner
  #wants = false
  /** An asynchronous validator, or an asynchronous function of the app, is at work. */
  #busy = false
  #failure: Error | undefined
  /** Tells the failure if the reader does not ask for more. */
  #failing: NodeJS.Timeout | undefined
  /** The latest `read()` has given a message, and the reader has not come back for more. */
  #inHand = false
  /** Somebody has begun to read. */
  begun = false
  /** No further message will come. */
  over = false
  /** How many loops read this stream directly, past its buffer. */
  loops = 0
  /** The loop that waits for a message. */
  #waiting: Loop | undefined
  #next: Promise<Result> | undefined
  #resolve: ((result: Result | Promise<Result>) => void) | undefined
  /** Messages for a loop are taken ahead, too. */
  readonly #ahead: boolean

  constructor (codec: Codec, owner: InboxOwner, highWaterMark: number, ahead: boolean) {
    super({ objectMode: true, highWaterMark })
    this.#codec = codec
    this.#owner = owner
    this.#ahead = ahead
    // Readers have listeners of their own. Without a reader, an error must not end the process.
    this.on('error', nothing)
  }

  get [kLooped] (): boolean { return this.loops > 0 }

  /** A loop that leaves the stream alive at its end. */
  override [Symbol.asyncIterator] (): NodeJS.AsyncIterator<unknown> { return new Loop(this) as unknown as NodeJS.AsyncIterator<unknown> }

  /** Whether a loop may take the next message past the buffer: nobody else reads, and neither the end nor an error has come. */
  get takesDirectly (): boolean {
    return this.readableFlowing === null && !this.over && !this.destroyed && this.#waiting === undefined
  }

  takeFor (loop: Loop): Promise<Result> {
    if (this.readableLength > 0) return Promise.resolve({ done: false, value: this.read() })
    const next = new Promise<Result>(resolve => { this.#resolve = resolve })
    this.#waiting = loop
    this.#next = next
    this.begun = true
    if (this.#ahead) this.#wants = true
    this.pump()
    return next
  }

  /** What this loop waits for. */
  nextOf (loop: Loop): Promise<Result> | undefined {
    return this.#waiting === loop ? this.#next : undefined
  }

  /** The loop was left. */
  leave (loop: Loop): void {
    if (this.#waiting === loop) this.#answer({ done: true, value: undefined })
    if (this.#failure !== undefined && !this.#hasReader) setImmediate(() => this.#fail())
  }

  #give (message: unknown): void {
    if (this.#waiting === undefined) this.#wants = this.push(message)
    else this.#answer({ done: false, value: message })
  }

  #answer (result: Result | Promise<Result>): void {
    const resolve = this.#resolve
    this.#waiting = undefined
    this.#next = undefined
    this.#resolve = undefined
    resolve?.(result)
  }

  /** The stream is over. The loop that waits gets that from the stream. */
  #release (): void {
    if (this.#waiting !== undefined) this.#answer(this.#waiting.goOn())
  }

  override _read (): void {
    this.begun = true
    this.#wants = true
    this.pump()
  }

  /** An error waits until all messages before it were read, and until the reader comes back for more. */
  override read (size?: number): unknown {
    const message: unknown = super.read(size)
    // Node asks with 0, whether anybody wants a message or not.
    if (size !== 0) this.#inHand = message !== null
    if (this.#failure !== undefined && this.readableLength === 0) {
      if (this.#inHand && this.#hasReader) this.#failLater()
      else process.nextTick(() => this.#fail())
    }
    return message
  }

  /** Whether a reader takes one message after the other, and asks for each. */
  get #hasReader (): boolean { return this.loops > 0 || this.listenerCount('readable') > 0 }

  /** Something has arrived. */
  pump (): void {
    while (this.idle && !this.destroyed) {
      const item = this.#owner.wanted()
      if (item === undefined) return
      this.receive(item)
    }
  }

  /** Whether an item would be taken at once. */
  get idle (): boolean { return (this.#wants || this.#waiting !== undefined) && !this.#busy && !this.over }

  /** Whether the end, or an error that ends the stream, would be taken at once. */
  get takesEnd (): boolean { return this.begun && !this.#busy && !this.over && !this.destroyed }

  receive (item: Item): void {
    if (item === 'end') {
      this.over = true
      this.push(null)
      this.#release()
    } else if ('failure' in item) {
      this.#end(item.failure, item.gone)
    } else if ('unreadable' in item) {
      this.#leaveOut(item.unreadable)
    } else if ('value' in item) {
      this.#give(item.value)
    } else {
      this.#decode(item)
    }
  }

  #decode ({ payload, isText, last }: Incoming): void {
    let message: unknown
    try {
      message = this.#codec.decode(payload, isText)
    } catch (error) {
      this.#leaveOut(cut(error as Error, last))
      return
    }
    if (isThenable(message)) {
      this.#wait(message, value => this.#give(value), error => this.#leaveOut(cut(error as Error, last)))
    } else {
      this.#give(message)
    }
  }

  #leaveOut (error: Error): void {
    let decided: unknown
    try {
      decided = this.#owner.onInvalid(error)
    } catch (thrown) {
      this.#end(thrown)
      return
    }
    if (isThenable(decided)) this.#wait(decided, () => {}, error => this.#end(error))
  }

  #wait (promise: PromiseLike<unknown>, then: (value: unknown) => void, otherwise: (error: unknown) => void): void {
    this.#busy = true
    const go = (next: () => void): void => {
      this.#busy = false
      if (this.over || this.destroyed) return
      next()
      this.pump()
    }
    promise.then(value => go(() => then(value)), (error: unknown) => go(() => otherwise(error)))
  }

  #end (thrown: unknown, gone = false): void {
    this.over = true
    this.#failure = asError(thrown)
    if (this.readableLength === 0 || !this.begun) {
      if (this.#waiting !== undefined || !this.begun || !this.#isAtWork) this.#fail()
      else if (gone) setImmediate(() => this.#fail())
      else this.#failLater()
    }
    this.#release()
  }

  /** A reader has a message in hand, and may still answer it. */
  get #isAtWork (): boolean { return this.loops > 0 || (this.#inHand && this.#hasReader) }

  #failLater (): void {
    this.#failing ??= setTimeout(() => this.#fail(), LAST_WORDS).unref()
  }

  /** Nobody can be answered any more. So a failure does not wait for a reader that is still at work. */
  hurry (): void {
    if (this.#failing !== undefined) this.#fail()
  }

  #fail (): void {
    const error = this.#failure
    if (error === undefined) return
    clearTimeout(this.#failing)
    this.#failure = undefined
    this.#owner.failed(error)
  }

  override _destroy (error: Error | null, done: (error?: Error | null) => void): void {
    const early = !this.readableEnded && !this.over
    this.over = true
    if (early) this.#owner.destroyed(error ?? undefined)
    else this.hurry()
    done(error)
    this.#release()
  }
}

function nothing (): void {}

function cut (error: Error, last: boolean | undefined): Error {
  return last === true && error instanceof FST_ERR_DUPLEX_MESSAGE_INVALID ? new FST_ERR_DUPLEX_MESSAGE_CUT({ cause: error }) : error
}
