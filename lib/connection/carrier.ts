import type { ServerResponse } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { HeadFields } from '../handshake/accept-head.ts'
import type { KindHead } from '../handshake/kinds/index.ts'
import type { kProgressed } from './symbols.ts'
import type { DetachedSocket, DuplexClosed, DuplexKind, Milliseconds } from '../../types/index.ts'

/** What a carrier tells the claim that it was made for. */
export interface Handshake {
  /** The head of an answer that is no acceptance went onto the wire. */
  answerBegins (): void
  /** The last byte of it did. */
  answerEnds (): void
  /** Nothing more comes of this request: both its messages are over, or its client is gone. */
  carrierEnds (): void
}

/** What a carrier tells the connection that was made of the claim. */
export interface Owner {
  /** One of the sides has ended, or all is over. */
  [kProgressed] (): void
}

/**
 * What carries one request and the pair that may become of it: a socket, a request and its response, or a stream of
 * HTTP/2. It is made together with the claim, watches all that it is made of, and is the only one to do so. It knows
 * the wire and decides nothing.
 */
export interface Carrier {
  /** Who hears of the answer, and of the end. */
  handshake: Handshake | undefined
  /** Who hears of the two sides. An object, not a function: one for each connection would be kept for as long as that. */
  owner: Owner | undefined

  // Before acceptance

  /** The response, for everything short of acceptance. */
  readonly res: ServerResponse | undefined
  /** The client left, or the connection was destroyed. */
  readonly gone: boolean
  /** Whether an answer with this status would tell the client of a takeover. */
  impliesTakeover (status: number): boolean
  /** RFC 9110 section 10.1.1: sends the 100 that the client waits for, where Node has not. */
  promise100 (): void
  /** An answer that is no acceptance was decided. A client that does not take it is not waited for. */
  refusing (): void
  /** The client left before there was an answer: the request, its hooks and its response hear of it. */
  tellGone (): void
  /** At the end of a drain, whatever became of the request. */
  cut (): void
  /** What carries the bodies of the request and the response in its place, where an upgrade was not wanted. */
  asBody (): Carrier

  // Acceptance

  /** How each kind is accepted on this version of HTTP. */
  readonly heads: Readonly<Record<DuplexKind, KindHead>>
  /** Reads from this in place of the request body: what the last preParsing hook made of it. */
  readFrom (body: Readable): void
  /** Sends the accept head; what throws has sent nothing. */
  writeHead (status: number, fields: HeadFields, head: KindHead, protocol: string | undefined): void
  /** Nothing that is sent through the response reaches the wire any more. */
  leaveHttp (status: number): void
  /** From now on nothing is accepted any more but the streams: set by acceptance. */
  start (): void
  /** Gives the socket away. */
  detach (): DetachedSocket

  // The pair

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
  /** Bytes that are written and that the peer has not taken. */
  readonly unsent: number
  /** The peer has ended its side. */
  readonly inputEnded: boolean
  /** Our side has ended and everything before its end has left. */
  readonly outputFlushed: boolean
  /** What the peer or the network did to the streams; errors of our own side are not kept here. */
  readonly peerError: Error | undefined
  /** What a stream of the pair was destroyed with, if not by the peer. */
  readonly localError: Error | undefined
  readonly closed: boolean
  /** What `closed` tells beside the usual. */
  readonly closedFacts?: Pick<DuplexClosed, 'websocket'>
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
  complete (error: Error | undefined): void
}
