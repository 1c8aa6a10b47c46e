import type { IncomingHttpHeaders } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { DuplexKind, DuplexWebPair, Milliseconds } from './connection.ts'
import type { DialTlsOptions } from './dial.ts'
import type { MessageEncoding, MessageFraming, WebSocketClosed } from './messages.ts'

/** The fields of a request: one value, or one for each line of a field that is repeated. */
export type ClientHeaders = Readonly<Record<string, string | number | readonly string[] | undefined>>

/** What `connect()` sends, and how. */
export interface ConnectOptions {
  /**
   * What to upgrade to, the most wanted first; over HTTP/2, by an extended CONNECT, one. Without it, and without `target`, the
   * request is plain.
   */
  protocol?: string | readonly string[] | undefined
  /** @default 'CONNECT' with `target`, 'POST' with `body`, else 'GET' */
  method?: string | undefined
  /** `host:port`, for a CONNECT to it through the server of the URL. */
  target?: string | undefined
  /** `Host`, and what the other options stand for, are added. Credentials in the URL become `Authorization: Basic`. */
  headers?: ClientHeaders | undefined
  /**
   * The body of the request: these bytes, what this stream yields, or `true` for what is written to `writable`. A server that reads
   * the whole body before it answers needs one of the former: with `true` there is a `writable` only when it has answered.
   */
  body?: true | string | Uint8Array | Readable | undefined
  /** Bytes that leave with the head of the request, before there is an answer. Not with HTTP/1 and `body: true`. */
  early?: string | Uint8Array | undefined
  /**
   * `true`: HTTP/2 alone, on `http:` by prior knowledge. `false`: HTTP/1.1 alone. By default, over TLS, what the server
   * chooses (ALPN), and HTTP/1.1 where an upgrade is not possible over its HTTP/2.
   */
  http2?: boolean | undefined
  /** A proxy that is asked with CONNECT: `http://` or `https://`, with credentials if it wants any (`Proxy-Authorization: Basic`). */
  proxy?: string | URL | undefined
  /** Connects to this Unix socket, whatever host the URL says. */
  socketPath?: string | undefined
  /** Options of `tls.connect()`, for `https:`. */
  tls?: DialTlsOptions | undefined
  /**
   * How long everything up to the answer may take; 0 is for ever.
   *
   * @default 30_000
   */
  timeout?: Milliseconds | undefined
  /** Calls it off, before and after the answer. */
  signal?: AbortSignal | undefined
  /** Messages in place of bytes, in both directions. */
  messages?: true | ClientMessageOptions | undefined
  /** A WebSocket: its frames are the messages, strings and bytes, or what `messages` says they hold. */
  websocket?: true | ClientWebSocketOptions | undefined
}

/** What the messages of a connection are, as of a route's. */
export interface ClientMessageOptions {
  /**
   * Of a connection that is no WebSocket. What comes as `text/event-stream` is read as such.
   *
   * @default 'lines'
   */
  framing?: 'lines' | MessageFraming | undefined
  /** @default 'json' */
  encoding?: 'json' | 'text' | 'binary' | MessageEncoding | undefined
  /**
   * Of one message, in bytes.
   *
   * @default 65_536
   */
  maxLength?: number | undefined
  /**
   * How many messages wait in each of the two streams before the other side is held back.
   *
   * @default 16
   */
  highWaterMark?: number | undefined
}

export interface ClientWebSocketOptions {
  /** Offered to the server, the most wanted first. */
  subprotocols?: readonly string[] | undefined
}

/** Why a connection of a client is over. */
export type ClientCloseReason = 'end' | 'abort' | 'error' | 'destroyed'

export interface ClientClosed {
  /**
   * - `end`: both sides ended, and everything was sent.
   * - `abort`: the server went away: reset, or closed in the middle of a body or without the close of a WebSocket.
   * - `error`: a stream was destroyed with an error, a message did not fit, or `signal` aborted.
   * - `destroyed`: `destroy()` was called.
   */
  readonly reason: ClientCloseReason
  readonly error?: Error
  /** From the head of the request on, until the end. */
  readonly duration: Milliseconds
  readonly websocket?: WebSocketClosed
}

/** A connection that the server has accepted: the shape that it has at the other end. */
export interface ClientConnection {
  /**
   * What the server made of the request. `hijack` is an answer of HTTP/1 to a plain request that nothing but its connection ends; `body` is
   * an answer that says where it ends, and every answer to a plain request of HTTP/2.
   */
  readonly kind: DuplexKind
  /** Every byte that the server sent behind its head. A connection that breaks is an error, and never the end. */
  readonly readable: Readable
  /** Half of a close is its `end()`. It has ended where a plain request without a body was answered with a `body`. */
  readonly writable: Writable
  readonly statusCode: number
  readonly headers: IncomingHttpHeaders
  readonly httpVersion: '1.0' | '1.1' | '2.0'
  /** Of an upgrade, as the server spells it. */
  readonly protocol: string | undefined
  /** What came with the head of the answer, for information: `readable` begins with it. */
  readonly head: Buffer
  /** Aborts when the connection is over and did not end in order. */
  readonly signal: AbortSignal
  /** Never rejects. */
  readonly closed: Promise<ClientClosed>
  /**
   * Sends what was written, ends, and waits up to 30 seconds for the server to end. What still comes is thrown away unless somebody
   * reads. `code` and `reason` are those of a WebSocket.
   */
  close (options?: { code?: number | undefined, reason?: string | undefined }): Promise<ClientClosed>
  /** At once, and so that the server cannot take it for an end. */
  destroy (error?: Error): void
  web (): DuplexWebPair
  [Symbol.asyncDispose] (): Promise<void>
}

/** A connection whose pair is one of messages. */
export interface ClientMessageConnection<In = unknown, Out = unknown> extends Omit<ClientConnection, 'readable'> {
  /** In object mode: `In`. */
  readonly readable: Readable & AsyncIterable<In>
  /** Resolves when there is room for the next one. */
  send (message: Out): Promise<void>
  /** Of a WebSocket. */
  readonly subprotocol: string | undefined
}
