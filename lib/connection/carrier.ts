import type { ServerResponse } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { HeadFields } from '../handshake/accept-head.ts'
import type { KindHead } from '../handshake/kinds/index.ts'
import type { DetachedSocket, DuplexKind, Milliseconds } from '../../types/index.ts'

export interface Owner {
  /** One of the sides has ended, or all is over. */
  progressed (): void
}

/**
 * What carries the pair of a connection: a socket, an HTTP message, or a stream of HTTP/2. It knows the wire; it decides
 * nothing.
 */
export interface Carrier {
  /** How each kind is accepted on this version of HTTP. */
  readonly heads: Readonly<Record<DuplexKind, KindHead>>
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
  /** Who is told of the ends. An object, not a function: one for each connection would be kept for as long as that. */
  owner: Owner | undefined
  /** Sends the accept head; what throws has sent nothing. */
  writeHead (status: number, fields: HeadFields, head: KindHead, protocol: string | undefined): void
  /** From now on nothing is accepted any more but the streams: set by acceptance. */
  start (): void
  /** Asks the kernel to look for a peer that has vanished. */
  keepAlive (delay: Milliseconds): void
  /** Flush, then end. */
  end (): void
  /** The handler has returned, and nothing will tell when it has finished. */
  leave (): void
  /** Nobody reads any more: discard input, so that its end is seen. */
  discardInput (): void
  /** At once, and so that the peer cannot take it for an end. `failed`: our side is at fault. */
  breakOff (error: Error | undefined, failed: boolean): void
  /** All is over: Fastify takes the request for completed when its response tells. */
  complete (res: ServerResponse, error: Error | undefined): void
  /** Gives the socket away. */
  detach (): DetachedSocket
}
