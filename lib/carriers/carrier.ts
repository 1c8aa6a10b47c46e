import type { Readable, Writable } from 'node:stream'
import type { DetachedSocket } from '../../types/index.ts'

/**
 * What carries the pair of a connection: a socket, or an HTTP message. It knows the wire; it decides
 * nothing.
 */
export interface Carrier {
  readonly readable: Readable
  readonly writable: Writable
  /** The bytes that came with the head, which are in `readable` already. */
  readonly head: Buffer
  /** Bytes in each direction, of the pair alone: no head, no framing where it can be told apart. */
  readonly bytesRead: number
  readonly bytesWritten: number
  /**
   * Changes as bytes leave, and only then: what is written and has to wait changes nothing. It is no
   * number of bytes, since the stream counts a write until the kernel has taken all of it.
   */
  readonly sent: number
  /** The peer has ended its side. */
  readonly inputEnded: boolean
  /** Our side has ended and everything before its end has left. */
  readonly outputFlushed: boolean
  /** What the peer or the network did to the streams; errors of our own side are not kept here. */
  readonly peerError: Error | undefined
  /** What a stream of the pair was destroyed with, if not by the peer. */
  readonly localError: Error | undefined
  readonly closed: boolean
  /** Called when one of the sides has ended, and when all is over. */
  onProgress: () => void
  /** From now on nothing is accepted any more but the streams: set by acceptance. */
  start (): void
  /** Flush, then end. */
  end (): void
  /** The handler has returned, and nothing will tell when it has finished. */
  leave (): void
  /** Nobody reads any more: discard input, so that its end is seen. */
  discardInput (): void
  /** At once, and so that the peer cannot take it for an end. */
  breakOff (error: Error | undefined): void
  /** Gives the socket away. */
  detach (): DetachedSocket
}
