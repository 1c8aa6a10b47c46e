import type { Readable, Writable } from 'node:stream'

export interface PumpWatcher {
  /** The destination has to act now: its buffer is full, or it has everything. */
  waits? (): void
  /** The destination has taken what was in its buffer. */
  flows? (): void
  /** Everything was read, and the destination is ended next. */
  ends? (): void
  /** The source broke. */
  failed? (error: Error): void
}

/** Sends everything from one stream to another, with backpressure, and then ends the destination. */
export class Pump {
  bytes = 0
  /** Whether the end was passed on. */
  ended = false
  readonly #from: Readable
  readonly #to: Writable
  readonly #watcher: PumpWatcher

  constructor (from: Readable, to: Writable, watcher: PumpWatcher = {}) {
    this.#from = from
    this.#to = to
    this.#watcher = watcher
  }

  start (): this {
    const from = this.#from
    from.on('error', this.#onError)
    from.on('end', this.#onEnd)
    from.on('data', this.#onData)
    this.#to.on('drain', this.#onDrain)
    if (from.readableEnded) this.#onEnd()
    else from.resume()
    return this
  }

  /** Stops the pump. Bytes that were not read stay in the source. */
  stop (): void {
    const from = this.#from
    from.removeListener('data', this.#onData)
    from.removeListener('end', this.#onEnd)
    this.#to.removeListener('drain', this.#onDrain)
    if (!this.ended) from.pause()
  }

  readonly #onData = (chunk: Buffer): void => {
    this.bytes += chunk.length
    if (this.#to.write(chunk)) return
    this.#from.pause()
    this.#watcher.waits?.()
  }

  readonly #onDrain = (): void => {
    if (this.ended) return
    this.#watcher.flows?.()
    this.#from.resume()
  }

  readonly #onEnd = (): void => {
    if (this.ended) return
    this.ended = true
    this.stop()
    this.#watcher.ends?.()
    this.#to.end()
    this.#watcher.waits?.()
  }

  readonly #onError = (error: Error): void => { this.#watcher.failed?.(error) }
}
