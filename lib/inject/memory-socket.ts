import { Socket } from 'node:net'

/** Kept here, because fake timers of a test may replace it, and connections must go on. */
const inALaterTurn = setImmediate

/** How many bytes one read gives at most, and how many may be on their way before the writer has to wait, as in a kernel. */
const CAPACITY = 64 * 1024

/**
 * One end of a connection in memory, which behaves like TCP:
 *
 * - A write is complete when it is on its way.
 * - Bytes that were written before an end is destroyed still arrive.
 * - Bytes for an end that nobody reads any more are answered with a reset.
 * - Nothing arrives in the turn of the event loop in which it was sent.
 *
 * It is a `net.Socket`, as HTTP and the handlers of an app expect. It has no handle, so that Node leaves it alone.
 */
export class MemorySocket extends Socket {
  override bytesRead = 0
  /** Node's `bytesWritten` reads this, and adds the bytes that wait in the stream. */
  _bytesDispatched = 0
  override readonly pending = false
  override readonly remoteAddress = '127.0.0.1'
  override readonly remoteFamily = 'IPv4'
  override readonly localAddress = '127.0.0.1'
  override readonly localFamily = 'IPv4'
  readonly encrypted: boolean
  /** Whether a `destroy()` before both sides have ended is a reset. On TCP it would be an end. */
  abrupt = false
  /** The next read gives everything that is there, without a limit. */
  readsAll = false
  /** Called when the other side has ended, whether its bytes were read or not. */
  onPeerEnding = (): void => {}
  #other!: MemorySocket
  /** On their way to this end. */
  #incoming: Buffer[] = []
  #incomingLength = 0
  #end: 'open' | 'coming' | 'here' = 'open'
  /** Somebody reads. */
  #wanted = false
  #delivering = false
  /** The write that waits for room. */
  #waiting: ((error?: Error) => void) | undefined
  #resetting = false

  private constructor (encrypted: boolean) {
    super({ allowHalfOpen: true, readableHighWaterMark: CAPACITY, writableHighWaterMark: CAPACITY } as object)
    this.encrypted = encrypted
  }

  /** Two ends of one connection. */
  static pair (encrypted: boolean): { client: MemorySocket, server: MemorySocket } {
    const client = new MemorySocket(encrypted)
    const server = new MemorySocket(encrypted)
    client.#other = server
    server.#other = client
    return { client, server }
  }

  /** The bytes of the current write that had no room yet. */
  get bytesInFlight (): number { return Math.max(0, this.#other.#incomingLength - CAPACITY) }

  /** The other side has ended. */
  get peerEnding (): boolean { return this.#end !== 'open' }

  /** The other side has ended in order, and all of its bytes have arrived. */
  get peerEnded (): boolean { return this.#end === 'here' }

  override _read (): void {
    this.#wanted = true
    this.#deliverLater()
  }

  override _write (chunk: Buffer | string, encoding: BufferEncoding, done: (error?: Error) => void): void {
    // A copy, because the writer may use the buffer again when the write is complete.
    this.#send(typeof chunk === 'string' ? Buffer.from(chunk, encoding) : Buffer.from(chunk), done)
  }

  override _writev (chunks: { chunk: Buffer | string, encoding: BufferEncoding }[], done: (error?: Error) => void): void {
    this.#send(Buffer.concat(chunks.map(({ chunk, encoding }) => typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk)), done)
  }

  override _final (done: () => void): void {
    inALaterTurn(() => {
      this.#other.#endComes()
      done()
    })
  }

  override _destroy (error: Error | null, done: (error?: Error | null) => void): void {
    const other = this.#other
    const unread = this.#incomingLength > 0
    const over = this.writableFinished && this.#end !== 'open'
    const written = other.#waiting
    other.#waiting = undefined
    if (written !== undefined) process.nextTick(written, error ?? networkError('write', 'ECANCELED'))
    this.#incoming = []
    this.#incomingLength = 0
    if (this.#resetting || unread || (this.abrupt && !over)) inALaterTurn(() => other.#breakOff())
    else other.#endComes()
    super._destroy(error, done)
  }

  override resetAndDestroy (): this {
    this.#resetting = true
    return this.destroy()
  }

  override setKeepAlive (): this { return this }
  override setNoDelay (): this { return this }
  override ref (): this { return this }
  override unref (): this { return this }
  override address (): { address: string, family: string, port: number } {
    return { address: this.localAddress, family: this.localFamily, port: 0 }
  }

  #send (bytes: Buffer, done: (error?: Error) => void): void {
    const other = this.#other
    this._bytesDispatched += bytes.length
    this.#active()
    if (other.destroyed) {
      inALaterTurn(() => done(networkError('write', 'EPIPE')))
      return
    }
    if (bytes.length > 0) other.#incoming.push(bytes)
    other.#incomingLength += bytes.length
    if (other.#incomingLength <= CAPACITY) done()
    else other.#waiting = done
    other.#deliverLater()
  }

  #deliverLater (): void {
    if (!this.#wanted || this.#delivering || (this.#incomingLength === 0 && this.#end !== 'coming')) return
    this.#delivering = true
    inALaterTurn(() => {
      this.#delivering = false
      if (!this.destroyed) this.#deliver()
    })
  }

  /** One read, or the end, which gets a turn of its own. */
  #deliver (): void {
    if (this.#incomingLength === 0) {
      if (this.#end !== 'coming') return
      this.#end = 'here'
      this.push(null)
      // As in Node: an empty stream emits its end at once.
      this.read(0)
      return
    }
    const bytes = this.#take(this.readsAll ? this.#incomingLength : CAPACITY)
    this.readsAll = false
    this.#wanted = false
    this.bytesRead += bytes.length
    this.#active()
    // This comes before push(), because a reader may ask for more within it.
    const written = this.#incomingLength <= CAPACITY ? this.#waiting : undefined
    if (written !== undefined) this.#waiting = undefined
    this.push(bytes)
    written?.()
  }

  #take (most: number): Buffer {
    const chunks: Buffer[] = []
    for (let left = Math.min(most, this.#incomingLength); left > 0;) {
      const first = this.#incoming[0] as Buffer
      chunks.push(first.length <= left ? first : first.subarray(0, left))
      if (first.length <= left) this.#incoming.shift()
      else this.#incoming[0] = first.subarray(left)
      left -= Math.min(left, first.length)
    }
    const bytes = chunks.length === 1 ? chunks[0] as Buffer : Buffer.concat(chunks)
    this.#incomingLength -= bytes.length
    return bytes
  }

  #endComes (): void {
    if (this.#end !== 'open') return
    this.#end = 'coming'
    this.onPeerEnding()
    this.#deliverLater()
  }

  /** A reset has arrived. The bytes before it go to the reader first. */
  #breakOff (): void {
    if (this.destroyed) return
    if (this.#wanted && this.#incomingLength > 0) {
      this.#deliver()
      inALaterTurn(() => this.#breakOff())
    } else {
      this.destroy(networkError('read', 'ECONNRESET'))
    }
  }

  /** Restarts the socket timeout of Node. */
  #active (): void {
    if (this.timeout !== undefined && this.timeout > 0) this.setTimeout(this.timeout)
  }
}

function networkError (syscall: string, code: string): Error {
  return Object.assign(new Error(`${syscall} ${code}`), { code, syscall })
}
