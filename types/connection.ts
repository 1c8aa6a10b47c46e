import type { FastifyReply, RawReplyDefaultExpression, RawRequestDefaultExpression, RawServerBase, RouteGenericInterface } from 'fastify'
import type { OutgoingHttpHeaders } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex, Readable, Writable } from 'node:stream'
import type { GovernedDuplex } from './governance.ts'
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
 *   `Connection: close`. The bytes that follow belong to the handler, in both directions.
 * - `body`: any other request that declares a body, and every plain HTTP/2 request. Accepted with
 *   200. The streams are the request body and the response body, and HTTP frames them as usual.
 */
export type DuplexKind = 'upgrade' | 'connect' | 'hijack' | 'body'

/** The reply of a duplex request, on any server: HTTP/1, HTTPS or HTTP/2. */
export type DuplexReply = FastifyReply<RouteGenericInterface, RawServerBase,
  RawRequestDefaultExpression<RawServerBase>, RawReplyDefaultExpression<RawServerBase>>

/** The target of a CONNECT, RFC 9110 section 9.3.6. */
export interface DuplexAuthority {
  /** In lower case. An IPv6 address has no brackets here. */
  readonly host: string
  /** 1 to 65535. */
  readonly port: number
}

/**
 * Why a connection is over.
 *
 * - `end`: both sides ended, and everything was flushed.
 * - `abort`: the peer went away: it reset the connection, or closed it in the middle of a body.
 * - `idle`: no byte in either direction for `idleTimeout`, or none from the peer for `readTimeout`.
 * - `fin`: our side had ended. For `finTimeout` the peer neither ended its side nor sent a byte.
 * - `half-open`: the peer had ended, and nothing was written for `halfOpenTimeout`.
 * - `lifetime`: `maxLifetime` was over.
 * - `slow`: more than `maxBuffered` bytes waited for the peer to take them.
 * - `expired`: what `expires` or `extend()` said was over, and `expiryGrace` too.
 * - `revoked`: `app.duplex.close()` was called for one of its labels.
 * - `shutdown`: the server closed, and `drainTimeout` was over.
 * - `error`: the handler failed after acceptance, or a stream did.
 * - `destroyed`: `destroy()` was called, or one of the streams was destroyed.
 * - `detached`: `detach()` had given the socket away, and it is closed.
 */
export type DuplexCloseReason =
  | 'end'
  | 'abort'
  | 'idle'
  | 'fin'
  | 'half-open'
  | 'lifetime'
  | 'slow'
  | 'expired'
  | 'revoked'
  | 'shutdown'
  | 'error'
  | 'destroyed'
  | 'detached'

/** How a connection ended: what `closed` and `close()` resolve with. */
export interface DuplexClosed {
  /** Why it is over. `end` is the only one that needs no attention: see {@link DuplexCloseReason}. */
  readonly reason: DuplexCloseReason
  /**
   * What was wrong. Absent when the connection ended in order. An error of this plugin has a code,
   * such as `FST_ERR_DUPLEX_IDLE_TIMEOUT`. An error of the handler or of a stream is passed on as it is.
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
   * A 2xx except 204, 205 and 206. For an HTTP/1 upgrade it is always 101. Any other status throws
   * `FST_ERR_DUPLEX_INVALID_STATUS`.
   *
   * @default 101 for an HTTP/1 upgrade, else the status of `reply.code()`, else 200
   */
  statusCode?: number | undefined
  /**
   * Fields for the accept head, in addition to those on `reply`. `Content-Length`, `Transfer-Encoding`,
   * `Connection` and `Upgrade` are ignored, because the plugin sets them. CR, LF or NUL in a value throws
   * `FST_ERR_DUPLEX_INVALID_HEADER`, and nothing is sent.
   */
  headers?: OutgoingHttpHeaders | undefined
  /**
   * The protocol to accept, for an `upgrade` only. A protocol that the client did not offer throws
   * `FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED`.
   *
   * @default the protocol that was negotiated
   */
  protocol?: P | undefined
}

/**
 * A chunk of a web stream: `Uint8Array<ArrayBuffer>`, written in a way that TypeScript before 5.7 understands.
 * `TextDecoderStream` and others of the DOM library refuse a chunk that might be in shared memory.
 */
export type DuplexChunk = ReturnType<Uint8Array['slice']>

/** The pair as web streams. They have the global types, so that `new Response(readable)` accepts them. */
export interface DuplexWebPair {
  /** What the peer sends. `cancel()` breaks the connection off. */
  readonly readable: ReadableStream<DuplexChunk>
  /** What the peer receives. `close()` is a half-close; `abort()` breaks the connection off. */
  readonly writable: WritableStream<Uint8Array>
}

/** A socket that `detach()` gave away. */
export interface DetachedSocket {
  /** The socket. Nothing was written to it yet: the new owner sends the response head, too. */
  readonly socket: Socket
  /** The bytes of the stream that were read so far. They are not on the socket: pass them on. */
  readonly head: Buffer
}

/** What every duplex request has, before and after acceptance. */
export interface ClaimedDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> extends GovernedDuplex {
  /**
   * The reply of the request. Before acceptance it answers as on any route, and its headers are sent with the
   * accept head. After acceptance nothing that is sent through it reaches the wire, and the log says so once.
   */
  readonly reply: Reply
  /** How the client opened the connection. Narrowing `kind` narrows `protocol` and `authority`. */
  readonly kind: K
  /**
   * The protocol, as the route's list spells it. Undefined unless `kind` is `upgrade`.
   *
   * An entry without a version takes any version, and keeps the one that the client offered: where the list says `SPDY`, this may be
   * `SPDY/3.1`. The type has the entry alone.
   */
  readonly protocol: K extends 'upgrade' ? P : undefined
  /** The target that the client asks for. Undefined unless `kind` is `connect`. */
  readonly authority: K extends 'connect' ? DuplexAuthority : undefined
  /** The version of HTTP that the request came in: `1.0`, `1.1` or `2.0`. */
  readonly httpVersion: string
  /**
   * The early bytes: those that came with the request head. They are for information, because they are at the front of
   * `readable`, too. Empty if there were none.
   */
  readonly head: Buffer
  /**
   * Aborts when the connection is dead: the peer reset it, a time limit was over, it failed, it was destroyed, or
   * the drain ended. Its reason is a coded error. The peer's FIN alone does not abort it.
   */
  readonly signal: AbortSignal
  /**
   * Aborts with `FST_ERR_DUPLEX_SHUTDOWN` when the server begins to close, whoever closes it, or `app.duplex.drain()` is
   * called. The streams still work, for at most `drainTimeout`. With `FST_ERR_DUPLEX_EXPIRED` when the connection has expired, for
   * `expiryGrace`; with `FST_ERR_DUPLEX_REVOKED` when `app.duplex.close()` ends it. It may have aborted before you look: use
   * `addAbortListener()` of `node:events`, which then calls at once.
   */
  readonly draining: AbortSignal
  /** Resolves once, when the connection is over, whatever the reason is. It never rejects. */
  readonly closed: Promise<DuplexClosed>
  /** Bytes received from the peer so far. */
  readonly bytesRead: number
  /** Bytes sent to the peer so far, after the accept head. */
  readonly bytesWritten: number
  /**
   * Breaks the connection off at once. The peer never sees a clean end: it sees a TCP reset, a
   * `body` without its last chunk, or RST_STREAM.
   *
   * @param error the reason of `signal`, and the error of `closed`; `FST_ERR_DUPLEX_DESTROYED` if left out
   */
  destroy (error?: Error): void
}

/** One kind of {@link DuplexConnection}. */
export interface AcceptedDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply>
  extends ClaimedDuplex<K, P, Reply> {
  /**
   * What the client sends, from the first byte after the request head. Early bytes are at
   * the front, once and in order. It ends when the client ends its side; `writable` stays open then.
   *
   * It is the socket itself, over HTTP/2 the stream itself, and on a `body` the request body. The end of a
   * `for await` loop over it, or a `break`, leaves `writable` as it is. After a `break` the rest can still be read.
   */
  readonly readable: K extends 'body' ? Readable : Duplex
  /**
   * What the client receives, after the accept head. `write()` returns false when the client is too
   * slow. `end()` sends a FIN; `readable` stays open then.
   *
   * It is the same object as `readable`, except on a `body`, where it is the response body.
   */
  readonly writable: K extends 'body' ? Writable : Duplex
  /** Tells it from a pending connection. */
  readonly accepted: true
  /**
   * Flushes, ends `writable`, and waits until the peer ends its side, for `finTimeout` at most. The same
   * happens when the promise of the handler resolves.
   *
   * @returns the same as `closed`
   */
  close (): Promise<DuplexClosed>
  /** The pair as web streams, with half-close in both directions. Use them or the Node streams, not both. */
  web (): DuplexWebPair
  /** `close()`, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/**
 * `accept()` of a pending connection. It takes the kinds from the object that it is called on. So it returns
 * one promise of a connection of any kind, and not a union of promises.
 */
export type DuplexAccept<P extends string = string, Reply = DuplexReply> = {
  // A method, because TypeScript compares its parameters both ways: so a helper for any `PendingDuplex` takes one with protocols.
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
   * On a `body`: what the client sends. It can be read before acceptance, so that the answer may depend on it. The
   * rest can be read after acceptance. Undefined on other kinds.
   */
  readonly readable: K extends 'body' ? Readable : undefined
  /**
   * Runs the `onSend` hooks of the route, sends the accept head, and resolves with the pair. From then
   * on Fastify writes nothing to the connection.
   *
   * It rejects with `FST_ERR_DUPLEX_ALREADY_ACCEPTED` on a second call, with
   * `FST_ERR_DUPLEX_ALREADY_SENT` after a response, with `FST_ERR_DUPLEX_ABORTED` when the client is
   * gone, with `FST_ERR_DUPLEX_SHUTDOWN` when the server closes, and with what a hook throws. A rejection
   * sends nothing: what was sent before stays valid.
   */
  readonly accept: DuplexAccept<P, Reply>
  /**
   * Gives the bare socket to a library that writes its own response head, such as `ws`. After that the
   * plugin only counts the socket, and ends it at shutdown. It has no time limits, and is not flushed or closed by the plugin.
   * `allowHalfOpen` is as Node had set it.
   *
   * Throws `FST_ERR_DUPLEX_CANNOT_DETACH` on a `body` and over HTTP/2, where there is no connection of its own. When it
   * is called too late, it throws what `accept()` rejects with.
   */
  detach (): DetachedSocket
}

/** A connection whose socket was handed over by `detach()`, as the `channels` tell of it: its streams are its new owner's. */
export interface DetachedDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply>
  extends ClaimedDuplex<K, P, Reply> {
  /** Its new owner answers the request. */
  readonly accepted: true
  /** Tells it from a connection that has its streams. */
  readonly readable: undefined
  /** As `readable`. */
  readonly writable: undefined
}

/**
 * A connection that a handler owns.
 *
 * It is accepted: the response head is sent, and neither HTTP nor Fastify reads or writes any more
 * (on a `body`, HTTP still frames both bodies). It is yours until the promise of your handler settles:
 *
 * - The promise resolves: what was written is flushed, our side ends, and the peer has `finTimeout` to end its side.
 * - The promise rejects: the error is logged, and the connection is broken off, so that the peer never sees a clean end.
 * - There is no promise: the streams run until both sides have ended.
 *
 * @typeParam K the kinds that the route takes
 * @typeParam P the protocols that the route lists
 * @typeParam Reply the reply of the route
 */
export type DuplexConnection<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> =
  K extends DuplexKind ? AcceptedDuplex<K, P, Reply> : never

/**
 * A connection that is not accepted yet. The handler of a route with `accept: 'manual'` gets it.
 *
 * Until `accept()` the handler is an ordinary one: it may throw, return a value or use `reply`, and the client
 * gets an ordinary response. If it does none of these, the client gets a 500, `FST_ERR_DUPLEX_NOT_ACCEPTED`.
 *
 * @typeParam K the kinds that the route takes
 * @typeParam P the protocols that the route lists
 * @typeParam Reply the reply of the route
 */
export type PendingDuplex<K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> =
  K extends DuplexKind ? UnacceptedDuplex<K, P, Reply> : never
