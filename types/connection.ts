import type { FastifyReply, RawReplyDefaultExpression, RawRequestDefaultExpression, RawServerBase, RouteGenericInterface } from 'fastify'
import type { OutgoingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex, Readable, Writable } from 'node:stream'
import type { WebSocketClosed } from './messages.ts'

/** A time span in milliseconds. */
export type Milliseconds = number

/**
 * How the client opened the connection.
 *
 * - `upgrade`: `Connection: Upgrade` with an `Upgrade` token (RFC 9110 section 7.8), or an extended
 *   CONNECT over HTTP/2 (RFC 8441). Accepted with 101, over HTTP/2 with 200.
 * - `connect`: `CONNECT host:port` (RFC 9110 section 9.3.6). Accepted with 200 and no framing headers.
 * - `hijack`: any other HTTP/1 request that declares no body. Accepted with 200 and
 *   `Connection: close`; the bytes that follow are the handler's, in both directions.
 * - `body`: any other request that declares a body, and every plain HTTP/2 request. Accepted with
 *   200; the streams are the request body and the response body, framed by HTTP as usual.
 */
export type DuplexKind = 'upgrade' | 'connect' | 'hijack' | 'body'

/** The reply of a duplex request, on whichever server it came in: HTTP/1, HTTPS or HTTP/2. */
export type DuplexReply = FastifyReply<RouteGenericInterface, RawServerBase,
  RawRequestDefaultExpression<RawServerBase>, RawReplyDefaultExpression<RawServerBase>>

/** The target of a CONNECT, RFC 9110 section 9.3.6. */
export interface DuplexAuthority {
  /** In lower case; an IPv6 address comes without its brackets. */
  readonly host: string
  /** 1 to 65535. */
  readonly port: number
}

/**
 * Why a connection is over.
 *
 * - `end`: both sides ended, everything was flushed.
 * - `abort`: the peer went away: reset, or closed in the middle of a body.
 * - `idle`: no byte in either direction for `idleTimeout`, or none from the peer for `readTimeout`.
 * - `fin`: our side had ended, and the peer neither ended its own nor sent a byte for `finTimeout`.
 * - `half-open`: the peer had ended, and nothing was written for `halfOpenTimeout`.
 * - `lifetime`: `maxLifetime` was over.
 * - `slow`: more than `maxBuffered` was written and not taken by the peer.
 * - `shutdown`: the server closed, and `drainTimeout` was over.
 * - `error`: the handler failed after acceptance, or a stream did.
 * - `destroyed`: `destroy()` was called, or one of the streams was destroyed.
 * - `detached`: the socket had been handed over by `detach()` and is closed.
 */
export type DuplexCloseReason =
  | 'end'
  | 'abort'
  | 'idle'
  | 'fin'
  | 'half-open'
  | 'lifetime'
  | 'slow'
  | 'shutdown'
  | 'error'
  | 'destroyed'
  | 'detached'

/** How a connection ended: what `closed` and `close()` resolve with. */
export interface DuplexClosed {
  readonly reason: DuplexCloseReason
  /**
   * What was wrong; absent when the connection ended in order. Errors of this plugin carry a code,
   * such as `FST_ERR_DUPLEX_IDLE_TIMEOUT`; those of the handler and of the streams are passed on.
   */
  readonly error?: Error
  /** Bytes received from the peer, early ones included. */
  readonly bytesRead: number
  /** Bytes sent to the peer after the accept head. */
  readonly bytesWritten: number
  /** From the request head to the end. */
  readonly duration: Milliseconds
  /** How a WebSocket with messages ended; absent on others. */
  readonly websocket?: WebSocketClosed
}

/** What `accept()` may add to the accept head. */
export interface DuplexAcceptOptions<P extends string = string> {
  /**
   * A 2xx except 204, 205 and 206. An HTTP/1 upgrade is 101, always. Anything else throws
   * `FST_ERR_DUPLEX_INVALID_STATUS`.
   *
   * @default 101 for an HTTP/1 upgrade, else what `reply.code()` was given, else 200
   */
  statusCode?: number | undefined
  /**
   * Fields for the accept head, beside those set on `reply`. `Content-Length`, `Transfer-Encoding`,
   * `Connection` and `Upgrade` are ignored: they are the plugin's. CR, LF or NUL in a value throws
   * `FST_ERR_DUPLEX_INVALID_HEADER` and nothing is sent.
   */
  headers?: OutgoingHttpHeaders | undefined
  /**
   * The protocol to accept, for an `upgrade` only. One that the client did not offer throws
   * `FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED`.
   *
   * @default what was negotiated
   */
  protocol?: P | undefined
}

/**
 * A chunk of a web stream: `Uint8Array<ArrayBuffer>`, spelt so that TypeScript before 5.7 has it too.
 * The DOM library's `TextDecoderStream` and others take no chunk that might be over shared memory.
 */
export type DuplexChunk = ReturnType<Uint8Array['slice']>

/** The pair as web streams. The global types, so that `new Response(readable)` accepts it. */
export interface DuplexWebPair {
  readonly readable: ReadableStream<DuplexChunk>
  readonly writable: WritableStream<Uint8Array>
}

/** A connection that was handed over whole, by `detach()`. */
export interface DetachedSocket {
  /** The socket, with nothing written to it yet: the new owner sends the response head too. */
  readonly socket: Socket
  /** What has been read of the stream so far. It is not on the socket: pass it on. */
  readonly head: Buffer
}

/** What every duplex request has, before and after it was accepted. */
export interface ClaimedDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> {
  /**
   * The reply of the request. Before acceptance it answers as on any route, and headers set on it
   * land on the accept head. After acceptance nothing sent through it reaches the wire.
   */
  readonly reply: Reply
  /** How the client opened it. Narrowing `kind` narrows `protocol` and `authority`. */
  readonly kind: K
  /** The protocol in the spelling of the route's list, with the version that was offered; undefined unless `kind` is `upgrade`. */
  readonly protocol: K extends 'upgrade' ? P : undefined
  /** The target that the client asks for; undefined unless `kind` is `connect`. */
  readonly authority: K extends 'connect' ? DuplexAuthority : undefined
  /** `1.0`, `1.1` or `2.0`. */
  readonly httpVersion: string
  /**
   * The bytes that came in with the request head, for information: they are at the front of
   * `readable` already. Empty when there were none.
   */
  readonly head: Buffer
  /**
   * Aborts when the connection is dead: reset by the peer, timed out, failed, destroyed, or at the
   * end of the drain. Its reason is a coded error. The peer's FIN alone does not abort it.
   */
  readonly signal: AbortSignal
  /**
   * Aborts with `FST_ERR_DUPLEX_SHUTDOWN` when the server begins to close, whoever closes it, or `app.duplex.drain()` is
   * called. The streams still work, for at most `drainTimeout`.
   */
  readonly draining: AbortSignal
  /** Resolves once, when the connection is over, for whatever reason. It never rejects. */
  readonly closed: Promise<DuplexClosed>
  /** Bytes received from the peer so far. */
  readonly bytesRead: number
  /** Bytes sent to the peer so far, after the accept head. */
  readonly bytesWritten: number
  /**
   * Ends the connection at once. The peer sees a broken stream and never a clean end: a TCP reset, a
   * `body` without its last chunk, or RST_STREAM.
   *
   * @param error what `signal` aborts with and `closed` tells; `FST_ERR_DUPLEX_DESTROYED` if left out
   */
  destroy (error?: Error): void
}

/** One kind of {@link DuplexConnection}. */
export interface AcceptedDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply>
  extends ClaimedDuplex<K, P, Reply> {
  /**
   * What the client sends, from the first byte after the request head: bytes that came early are at
   * the front, once and in order. It ends when the client ends its side, and `writable` stays open.
   *
   * The socket itself, over HTTP/2 the stream itself; on a `body` the request body. Ending or
   * leaving a `for await` loop over it does not touch `writable`; after a `break` the rest can
   * still be read.
   */
  readonly readable: K extends 'body' ? Readable : Duplex
  /**
   * What the client receives, after the accept head. `write()` returns false when the client is too
   * slow; `end()` sends a FIN, and `readable` stays open.
   *
   * The same object as `readable`, unless this is a `body`: then it is the response body.
   */
  readonly writable: K extends 'body' ? Writable : Duplex
  readonly accepted: true
  /**
   * Flushes, ends `writable` and waits for the peer to end its side, for `finTimeout` at most. What
   * happens by itself when the promise of the handler resolves.
   *
   * @returns the same as `closed`
   */
  close (): Promise<DuplexClosed>
  /** The pair as web streams, half-close correct in both directions. Use them or the Node streams, not both. */
  web (): DuplexWebPair
  /** `close()`, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/**
 * `accept()` of a pending connection. It reads the kinds off the object that it is called on, so that
 * there is one promise of a connection of any kind, and not a union of promises.
 */
export type DuplexAccept<P extends string = string, Reply = DuplexReply> = {
  // A method, whose parameters are compared both ways: a helper for any `PendingDuplex` takes those of a route with protocols.
  accept<Pending extends { readonly kind: DuplexKind }> (
    this: Pending,
    options?: DuplexAcceptOptions<P>
  ): Promise<DuplexConnection<Pending['kind'], P, Reply>>
}['accept']

/** One kind of {@link PendingDuplex}. */
export interface UnacceptedDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply>
  extends ClaimedDuplex<K, P, Reply> {
  /** False until `accept()` has resolved. */
  readonly accepted: boolean
  /**
   * On a `body`: what the client sends, which can be read before it is accepted, so that the answer may depend on it. What
   * is left of it is there after acceptance. Undefined on other kinds: there it would be no request any more.
   */
  readonly readable: K extends 'body' ? Readable : undefined
  /**
   * Runs the `onSend` hooks of the route, sends the accept head and hands over the pair. From then
   * on nothing of Fastify writes to the connection.
   *
   * Rejects with `FST_ERR_DUPLEX_ALREADY_ACCEPTED` on a second call, with
   * `FST_ERR_DUPLEX_ALREADY_SENT` after a response, with `FST_ERR_DUPLEX_ABORTED` when the client is
   * gone, with `FST_ERR_DUPLEX_SHUTDOWN` when the server closes, and with what a hook throws. None of
   * these touches the wire: what was sent first stays valid.
   */
  readonly accept: DuplexAccept<P, Reply>
  /**
   * Hands over the bare socket to a library that writes its own response head, such as `ws`. The
   * plugin then only counts it and ends it at shutdown: no timeouts, no flush, no close. `allowHalfOpen` is as Node had it.
   *
   * Throws `FST_ERR_DUPLEX_CANNOT_DETACH` on a `body`, which has no connection of its own, and
   * as `accept()` does when it comes too late.
   */
  detach (): DetachedSocket
}

/**
 * A connection that a handler owns.
 *
 * It is accepted: the response head is sent, and nothing of HTTP or Fastify reads or writes any more
 * (on a `body`, HTTP still frames both bodies). It is yours until the promise of your handler
 * settles. Resolved: what was written is flushed, the writable side ended, and the peer has
 * `finTimeout` to end its own. Rejected: logged, and destroyed, so that the peer sees a broken stream.
 * A handler that returns no promise leaves the streams to run until both sides have ended.
 *
 * @typeParam K the kinds that the route takes
 * @typeParam P the protocols that the route lists
 * @typeParam Reply the reply of the route
 */
export type DuplexConnection<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> =
  K extends DuplexKind ? AcceptedDuplex<K, P, Reply> : never

/**
 * A connection that is not accepted yet: what the handler of a route with `accept: 'manual'` gets.
 *
 * Until `accept()` the handler is an ordinary one: throw, return a value or use `reply`, and the client
 * gets an ordinary response. A handler that does none of these is answered for with a 500,
 * `FST_ERR_DUPLEX_NOT_ACCEPTED`.
 *
 * @typeParam K the kinds that the route takes
 * @typeParam P the protocols that the route lists
 * @typeParam Reply the reply of the route
 */
export type PendingDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> =
  K extends DuplexKind ? UnacceptedDuplex<K, P, Reply> : never
