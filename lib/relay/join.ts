import { receiveFrom, receiveNoMore, type Receiver } from '../internals/read-buffer.ts'
import { startReading, type HttpSocket } from '../internals/sockets.ts'
import { directSource } from './direct-source.ts'
import { closedEarly } from './closed-early.ts'
import type { TunnelSide, TunnelSideOwner } from './tunnel-side.ts'
import type { TunnelResult } from '../../types/index.ts'

/** Joins two sides until both directions are over. If one side breaks, both are broken off. */
export function join (client: TunnelSide, upstream: TunnelSide): Promise<TunnelResult> {
  return new Promise((resolve, reject) => new JoinedSides(client, upstream, resolve, reject).start())
}

class JoinedSides implements TunnelSideOwner {
  readonly #sides: readonly [TunnelSide, TunnelSide]
  readonly #up: Direction
  readonly #down: Direction
  readonly #resolve: (result: TunnelResult) => void
  readonly #reject: (error: Error) => void
  #over = false

  constructor (client: TunnelSide, upstream: TunnelSide, resolve: (result: TunnelResult) => void, reject: (error: Error) => void) {
    this.#sides = [client, upstream]
    this.#resolve = resolve
    this.#reject = reject
    this.#up = new Direction(client, upstream, this)
    this.#down = new Direction(upstream, client, this)
  }

  start (): void {
    for (const side of this.#sides) side.owner = this
    const broken = this.#sides.find(({ failure }) => failure !== undefined)?.failure
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
    for (const side of this.#sides) side.breakOff(error)
    this.#reject(error)
  }

  readerHasGone (side: TunnelSide): void {
    this.#to(side).readerHasGone()
  }

  finished (side: TunnelSide): void {
    this.#to(side).finished()
  }

  /** One direction is over. */
  done (): void {
    if (this.#over || !this.#up.over || !this.#down.over) return
    this.#stop()
    this.#resolve({ bytesToUpstream: this.#up.bytes, bytesFromUpstream: this.#down.bytes })
  }

  #to (side: TunnelSide): Direction {
    return side === this.#up.to ? this.#up : this.#down
  }

  #stop (): void {
    this.#over = true
    this.#up.stop()
    this.#down.stop()
    for (const side of this.#sides) side.release()
  }
}

/** One direction of a tunnel. It is over when the destination has taken everything, including the end. */
class Direction implements Receiver {
  bytes = 0
  smallReads = 0
  readIn = 0
  timesLeft = 0
  over = false
  readonly from: TunnelSide
  readonly to: TunnelSide
  readonly #joined: JoinedSides
  /** The destination was ended before the tunnel began. So any byte for it is an error. */
  #shut = false
  /** The socket that is read without its stream. */
  #direct: HttpSocket | undefined
  /** Reading has stopped until the destination takes more. */
  #stopped = false
  /** How many writes are under way whose chunks will be overwritten. */
  #lent = 0

  constructor (from: TunnelSide, to: TunnelSide, joined: JoinedSides) {
    this.from = from
    this.to = to
    this.#joined = joined
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
    if (to.readerGone) {
      this.readerHasGone()
      return
    }
    from.readable.on('data', this.#onData)
    // The source may be paused, because it had to wait for the upstream.
    if (to.writable.writableNeedDrain) from.readable.pause()
    else from.readable.resume()
    this.#direct = directSource(from.readable, to.writable)
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
    else if (!this.#shut) this.#joined.failed(closedEarly())
  }

  /** Reads the rest and throws it away, so that the end is seen. */
  readerHasGone (): void {
    this.from.readable.removeListener('data', this.#onData)
    this.#leaveDirect()
    if (!this.from.ended) this.from.readable.resume()
    this.#done()
  }

  get needsBorrowed (): boolean { return this.#lent > 0 }

  receive (chunk: Buffer): boolean {
    // If the kernel took the write at once, 'drain' still follows. But nothing has to wait for it.
    this.#stopped = !this.#pass(chunk) && this.to.writable.writableLength > 0
    return !this.#stopped
  }

  borrow (chunk: Buffer): boolean {
    this.#lent++
    this.#pass(chunk, this.#onTaken)
    this.#stopped = this.to.writable.writableLength > 0
    return !this.#stopped
  }

  /** @returns whether the destination wants more */
  #pass (chunk: Buffer, taken?: () => void): boolean {
    this.bytes += chunk.length
    if (!this.#shut) return this.to.writable.write(chunk, taken as () => void)
    this.#joined.failed(closedEarly())
    return false
  }

  /** Reads on without the stream. */
  #readOn (): void {
    if (!this.#stopped || this.#lent > 0 || this.#direct === undefined) return
    this.#stopped = false
    startReading(this.#direct)
  }

  #leaveDirect (): void {
    const socket = this.#direct
    if (socket === undefined) return
    this.#direct = undefined
    receiveNoMore(socket)
    if (this.#stopped) startReading(socket)
  }

  #done (): void {
    this.over = true
    this.#joined.done()
  }

  readonly #onData = (chunk: Buffer): void => {
    if (!this.#pass(chunk) && !this.#shut) this.from.readable.pause()
  }

  readonly #onDrain = (): void => {
    this.#readOn()
    this.from.readable.resume()
  }

  readonly #onTaken = (): void => {
    this.#lent--
    this.#readOn()
  }

  readonly #onEnd = (): void => {
    const { from, to } = this
    from.inputEnds()
    if (!from.ended) return
    if (to.finished || to.readerGone) this.#done()
    else to.end()
  }
}
