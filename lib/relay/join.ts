import { receiveFrom, readOn, type Receiver } from '../internals/read-buffer.ts'
import type { HttpSocket } from '../internals/sockets.ts'
import { socketToRelay } from './past-streams.ts'
import { closedEarly } from './stream-errors.ts'
import type { End, EndOwner } from './end.ts'
import type { TunnelResult } from '../../types/index.ts'

/** Joins two ends until both directions are over. If one end breaks, both are broken off. */
export function join (client: End, upstream: End): Promise<TunnelResult> {
  return new Promise((resolve, reject) => new Joint(client, upstream, resolve, reject).start())
}

class Joint implements EndOwner {
  readonly #ends: readonly [End, End]
  readonly #up: Flow
  readonly #down: Flow
  readonly #resolve: (result: TunnelResult) => void
  readonly #reject: (error: Error) => void
  #over = false

  constructor (client: End, upstream: End, resolve: (result: TunnelResult) => void, reject: (error: Error) => void) {
    this.#ends = [client, upstream]
    this.#resolve = resolve
    this.#reject = reject
    this.#up = new Flow(client, upstream, this)
    this.#down = new Flow(upstream, client, this)
  }

  start (): void {
    for (const end of this.#ends) end.owner = this
    const broken = this.#ends.find(({ failure }) => failure !== undefined)?.failure
    if (broken !== undefined) {
      this.failed(broken)
      return
    }
    this.#up.start()
    if (!this.#over) this.#down.start()
  }

  failed (error: Error): void {
    if (this.#over) return
    this.#stop()
    for (const end of this.#ends) end.breakOff(error)
    this.#reject(error)
  }

  deafened (end: End): void {
    this.#to(end).deafened()
  }

  finished (end: End): void {
    this.#to(end).finished()
  }

  /** One direction is over. */
  done (): void {
    if (this.#over || !this.#up.over || !this.#down.over) return
    this.#stop()
    this.#resolve({ bytesToUpstream: this.#up.bytes, bytesFromUpstream: this.#down.bytes })
  }

  #to (end: End): Flow {
    return end === this.#up.to ? this.#up : this.#down
  }

  #stop (): void {
    this.#over = true
    this.#up.stop()
    this.#down.stop()
    for (const end of this.#ends) end.release()
  }
}

/** One direction of a tunnel. It is over when the destination has taken everything, and the end. */
class Flow implements Receiver {
  bytes = 0
  over = false
  readonly from: End
  readonly to: End
  readonly #joint: Joint
  /** The destination had been ended before the tunnel began. So any byte that comes is an error. */
  #shut = false
  /** The socket that is read past its stream. */
  #direct: HttpSocket | undefined
  /** It is not read until the destination has taken all. */
  #waits = false

  constructor (from: End, to: End, joint: Joint) {
    this.from = from
    this.to = to
    this.#joint = joint
  }

  start (): void {
    const { from, to } = this
    this.#shut = to.writable.writableEnded
    to.writable.on('drain', this.#onDrain)
    if (from.ended) {
      this.#onEnd()
      return
    }
    from.readable.on('end', this.#onEnd)
    if (to.deaf) {
      this.deafened()
      return
    }
    from.readable.on('data', this.#onData)
    // It may be paused, because its upstream was not there yet.
    if (to.writable.writableNeedDrain) from.readable.pause()
    else from.readable.resume()
    this.#direct = socketToRelay(from.readable, to.writable)
    if (this.#direct !== undefined) receiveFrom(this.#direct, this)
  }

  stop (): void {
    const { readable } = this.from
    this.#leaveDirect()
    readable.removeListener('data', this.#onData)
    readable.removeListener('end', this.#onEnd)
    this.to.writable.removeListener('drain', this.#onDrain)
  }

  finished (): void {
    if (this.from.ended) this.#done()
    // Somebody else has ended the destination, and more bytes may come for it.
    else if (!this.#shut) this.#joint.failed(closedEarly())
  }

  /** Reads the rest and throws it away, so that the end is seen. */
  deafened (): void {
    this.from.readable.removeListener('data', this.#onData)
    this.#leaveDirect()
    if (!this.from.ended) this.from.readable.resume()
    this.#done()
  }

  receive (chunk: Buffer): boolean {
    return this.#pass(chunk) || this.#taken()
  }

  borrow (chunk: Buffer): boolean {
    this.#pass(chunk, this.#onTaken)
    return this.#taken()
  }

  /** @returns whether the destination wants more */
  #pass (chunk: Buffer, taken?: () => void): boolean {
    this.bytes += chunk.length
    if (!this.#shut) return this.to.writable.write(chunk, taken as () => void)
    this.#joint.failed(closedEarly())
    return false
  }

  /** Whether the kernel has taken all that was written. */
  #taken (): boolean {
    this.#waits = this.to.writable.writableLength > 0
    return !this.#waits
  }

  #leaveDirect (): void {
    const socket = this.#direct
    if (socket === undefined) return
    this.#direct = undefined
    receiveFrom(socket, undefined)
    if (this.#waits) readOn(socket)
  }

  #done (): void {
    this.over = true
    this.#joint.done()
  }

  readonly #onData = (chunk: Buffer): void => {
    if (!this.#pass(chunk) && !this.#shut) this.from.readable.pause()
  }

  readonly #onDrain = (): void => {
    this.#onTaken()
    this.from.readable.resume()
  }

  readonly #onTaken = (): void => {
    if (!this.#waits || this.#direct === undefined || this.to.writable.writableLength > 0) return
    this.#waits = false
    readOn(this.#direct)
  }

  readonly #onEnd = (): void => {
    const { from, to } = this
    from.inputEnds()
    if (!from.ended) return
    if (to.finished || to.deaf) this.#done()
    else to.end()
  }
}
