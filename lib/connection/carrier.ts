import type { ServerResponse } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { Metered } from '../governance/connection-governance.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import type { KindHead } from '../handshake/kinds.ts'
import type { kProgressed } from '../symbols.ts'
import type { DetachedSocket, DuplexClosed, DuplexKind, Milliseconds } from '../../types/index.ts'

/** What a carrier tells the claim that it was made for. */
export interface CarrierListener {
  /** The head of an answer that is no acceptance went onto the wire. */
  answerBegins (): void
  /** The last byte of that answer went onto the wire. */
  answerEnds (): void
  /** This request is over: its request and its response have ended, or its client is gone. */
  carrierEnds (): void
}

/** What a carrier tells the connection that was made of the claim. */
export interface ProgressListener {
  /** One of the sides may have ended, or the connection is over. */
  [kProgressed] (): void
}

/**
 * A carrier stands for what a request came in on, and for the pair of its connection: a socket, a request with its response,
 * or a stream of HTTP/2. It is made for the claim. `asBody()` may replace it, and messages put their own carrier around it. Only the
 * carrier listens to these objects. It knows the wire and decides nothing.
 */
export interface Carrier extends Metered {
  /** The claim, or whoever refuses a request without one. The carrier tells it of the answer, and of the end. */
  listener: CarrierListener | undefined
  /**
   * The connection. The carrier tells it what the two sides do. It is an object and no function, because a function for each
   * connection would cost memory.
   */
  owner: ProgressListener | undefined

  // Before acceptance

  /** The response, for every answer that is no acceptance. */
  readonly res: ServerResponse | undefined
  /** The client left, or the connection was destroyed. */
  readonly gone: boolean
  /** Whether an answer with this status would tell the client of a takeover. */
  impliesTakeover (status: number): boolean
  /** RFC 9110 section 10.1.1: sends the 100 that the client waits for, where Node has not. */
  sendContinue (): void
  /** A refusal was decided. If the client does not read it, the connection is cut after a while. */
  refusing (): void
  /** The client left before there was an answer. This tells the request, its hooks and its response. */
  reportDisconnect (): void
  /** Ends the connection at the end of a drain, in whatever state the request is. */
  cut (): void
  /** The carrier that takes over from this one if the chooser refused the upgrade of a request with a body. */
  asBody (): Carrier

  // Acceptance

  /** How each kind is accepted on this version of HTTP. */
  readonly heads: Readonly<Record<DuplexKind, KindHead>>
  /** From now on `readable` is this stream: the last preParsing hook returned it in place of the request body. */
  readFrom (body: Readable): void
  /** Sends the accept head. If it throws, nothing was sent. */
  writeHead (status: number, fields: HeadFields, head: KindHead, protocol: string | undefined): void
  /** From now on nothing that is sent through the response reaches the wire. */
  releaseResponse (status: number): void
  /** The connection is accepted: prepares the streams for the handler. */
  start (): void
  /** Gives the socket away. */
  detach (): DetachedSocket

  // The pair

  readonly readable: Readable
  readonly writable: Writable
  /** The bytes that came with the head, which are in `readable` already. */
  readonly head: Buffer
  /** The bytes of the pair in each direction. The heads do not count, nor does framing where it can be told apart. */
  readonly bytesRead: number
  readonly bytesWritten: number
  /**
   * Changes when bytes leave, and only then. A write that has to wait does not change it. It is not a
   * number of bytes, because a stream counts a write as waiting until the kernel has taken all of it.
   */
  readonly sent: number
  /** Bytes that are written and that the peer has not taken. */
  readonly unsent: number
  /** The peer has ended its side. */
  readonly inputEnded: boolean
  /** Our side has ended, and everything that was written has left. */
  readonly outputFlushed: boolean
  /** The error that the peer or the network caused. Errors of our own side are in `localError`. */
  readonly peerError: Error | undefined
  /** The error that our side destroyed a stream of the pair with. */
  readonly localError: Error | undefined
  readonly closed: boolean
  /** Much input has arrived, and waits for a reader outside of `readable`. */
  readonly inputWaits?: boolean
  /** Further members of `closed`. */
  readonly closedFacts?: Pick<DuplexClosed, 'websocket'>
  /** Switches TCP keep-alive on, which finds a peer that has vanished. */
  keepAlive (delay: Milliseconds): void
  /** Flush, then end. */
  end (): void
  /** The handler has returned no promise, so nothing tells when it has finished. */
  handlerReturned (): void
  /** Nobody reads any more: throws input away, so that its end is seen. */
  discardInput (): void
  /**
   * Ends the connection at once, such that the peer sees no clean end. A WebSocket gets a close frame first.
   *
   * @param failed our side is at fault
   * @param code the close code of a WebSocket, if the error does not decide it
   */
  breakOff (error: Error | undefined, failed: boolean, code?: number): void
  /** The connection was broken off, and a close frame, or what was sent before a wrong message, is on its way. It closes by itself soon. */
  readonly closesSoon?: boolean
  /** The connection is over. The response emits its last events, by which Fastify completes the request. */
  complete (error: Error | undefined): void
}
