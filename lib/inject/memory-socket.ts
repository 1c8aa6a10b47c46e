import { Socket } from 'node:net'

/** Kept here: a test may put a clock of its own in its place, and connections do not stand still for that. */
const inALaterTurn = setImmediate

/** The most that one read gives, and that is on its way, as in the buffers of a kernel, before its writer has to wait. */
const CAPACITY = 64 * 1024

/**
 * One end of a connection in memory, with the manners of TCP: a write has left when it is on its way, what
 * was written before one end is destroyed still arrives, bytes that nobody will read any more are answered
 * with a reset, and nothing arrives in the turn in which it was sent. It is a `net.Socket`, as HTTP and the
 * handlers of an app expect; one without a handle, so that Node has nothing of its own to say about it.
 */
export class MemorySocket extends Socket {
  override bytesRead = 0
  /** What the `bytesWritten` of Node counts, to which it adds what waits in the stream. */
  _bytesDispatched = 0
  override readonly pending = false
  override readonly remoteAddress = '127.0.0.1'
  override readonly remoteFamily = 'IPv4'
  override readonly localAddress = '127.0.0.1'
  override readonly localFamily = 'IPv4'
  readonly encrypted: boolean
  /** A `destroy()` before both sides have ended is a reset, and not, as on TCP, an end. */
  abrupt = false
  /** The next read gives all that is there, however much that is. */
  readsAll = false
  /** Called when the other side has ended, whatever of what it sent was read by then. */
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

  /** Bytes for which there was no room yet, of the write that is under way. */
  get bytesInFlight (): number { return Math.max(0, this.#other.#incomingLength - CAPACITY) }

  /** The other side has ended. */
  get peerEnding (): boolean { return this.#end !== 'open' }

  /** The other side has ended in order, and all that it sent has arrived. */
  get peerEnded (): boolean { return this.#end === 'here' }

  override _read (): void {
    this.#wanted = true
    this.#deliverLater()
  }

  override _write (chunk: Buffer | string, encoding: BufferEncoding, done: (error?: Error) => void): void {
    // A copy, since the buffer is its writer's again as soon as the write has left.
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

  /** One read; or the end, which so comes in a turn of its own. */
  #deliver (): void {
    if (this.#incomingLength === 0) {
      if (this.#end !== 'coming') return
      this.#end = 'here'
      this.push(null)
      // As Node does it: the end of a stream that is empty is told at once.
      this.read(0)
      return
    }
    const bytes = this.#take(this.readsAll ? this.#incomingLength : CAPACITY)
    this.readsAll = false
    this.#wanted = false
    this.bytesRead += bytes.length
    this.#active()
    // Noted before a reader can react, who may want more at once.
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

  /** A reset has come. What a reader waits for was there before it. */
  #breakOff (): void {
    if (this.destroyed) return
    if (this.#wanted && this.#incomingLength > 0) {
      this.#deliver()
      inALaterTurn(() => this.#breakOff())
    } else {
      this.destroy(networkError('read', 'ECONNRESET'))
    }
  }

  /** Node's timer of silence begins anew. */
  #active (): void {
    if (this.timeout !== undefined && this.timeout > 0) this.setTimeout(this.timeout)
  }
}

function networkError (syscall: string, code: string): Error {
  return Object.assign(new Error(`${syscall} ${code}`), { code, syscall })
}
