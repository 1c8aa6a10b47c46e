import type { IncomingHttpHeaders } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { DuplexKind, DuplexWebPair, Milliseconds } from './connection.ts'
import type { DialTlsOptions } from './dial.ts'
import type { MessageEncoding, MessageFraming, WebSocketClosed } from './messages.ts'

/** The fields of a request by name. An array sends one field for each value. */
export type ClientHeaders = Readonly<Record<string, string | number | readonly string[] | undefined>>

/** What `connect()` sends, and how. */
export interface ConnectOptions {
  /**
   * The protocols to upgrade to, the most wanted first. Over HTTP/2 there can be only one (extended CONNECT). Without
   * `protocol` and `target` the request is a plain one.
   */
  protocol?: string | readonly string[] | undefined
  /** @default 'CONNECT' with `target`, 'POST' with `body`, else 'GET' */
  method?: string | undefined
  /** `host:port`. The server of the URL is asked for a tunnel to it, by CONNECT. */
  target?: string | undefined
  /**
   * Further fields. `Host`, and the fields that other options need, are added. Credentials in the URL become `Authorization:
   * Basic`.
   */
  headers?: ClientHeaders | undefined
  /**
   * The body of the request. Give text or bytes, a stream to send, or `true` to write it yourself to `writable`. `writable`
   * exists only after the server has answered. So if the server reads the whole body first, do not use `true`.
   */
  body?: true | string | Uint8Array | Readable | undefined
  /**
   * Bytes to send together with the head of the request, before there is an answer. Not possible with `body: true`, nor with any
   * other body if there is no `protocol`. A plain request with early bytes has no form in HTTP/2.
   */
  early?: string | Uint8Array | undefined
  /**
   * `true`: HTTP/2 only; for `http:` URLs without negotiation ("prior knowledge"). `false`: HTTP/1.1 only. By default the
   * server chooses over TLS (ALPN), and `http:` is HTTP/1.1. An upgrade that the server's HTTP/2 cannot take uses HTTP/1.1.
   */
  http2?: boolean | undefined
  /**
   * A proxy, as an `http://` or `https://` URL. It is asked for a tunnel by CONNECT. Credentials in the URL become
   * `Proxy-Authorization: Basic`. Not possible with `socketPath`.
   */
  proxy?: string | URL | undefined
  /** Connects to this Unix socket, and not to the host of the URL. */
  socketPath?: string | undefined
  /** Options of `tls.connect()`, for `https:`. */
  tls?: DialTlsOptions | undefined
  /**
   * How long everything may take until the answer is there. 0 switches it off.
   *
   * @default 30_000
   */
  timeout?: Milliseconds | undefined
  /** Aborts the request, or the connection when there is one. */
  signal?: AbortSignal | undefined
  /** The pair carries messages in place of bytes. */
  messages?: true | ClientMessageOptions | undefined
  /** Opens a WebSocket. Its messages are strings and Buffers, unless `messages` sets another encoding. */
  websocket?: true | ClientWebSocketOptions | undefined
}

/** How the messages of a connection are written. The route must have the same options. */
export interface ClientMessageOptions {
  /**
   * The framing of what is sent, if this is no WebSocket. It is also used for reading, unless the answer is
   * `text/event-stream`.
   *
   * @default 'lines'
   */
  framing?: 'lines' | MessageFraming | undefined
  /** @default 'json' */
  encoding?: 'json' | 'text' | 'binary' | MessageEncoding | undefined
  /**
   * The longest message, in bytes.
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

/** How `connect()` opens a WebSocket. */
export interface ClientWebSocketOptions {
  /** The subprotocols that are offered to the server, the most wanted first. */
  subprotocols?: readonly string[] | undefined
}

/** Why a connection of a client is over. */
export type ClientCloseReason = 'end' | 'abort' | 'error' | 'destroyed'

/** How a connection of a client ended: what `closed` and `close()` resolve with. */
export interface ClientClosed {
  /**
   * - `end`: both sides ended, and everything was sent.
   * - `abort`: the server went away. It reset the connection, or closed it in the middle of a body, or closed a WebSocket
   *   without a close frame.
   * - `error`: a stream was destroyed with an error, a message was invalid, or `signal` aborted.
   * - `destroyed`: `destroy()` was called.
   */
  readonly reason: ClientCloseReason
  /** What was wrong. Absent when the connection ended in order. */
  readonly error?: Error
  /** From the head of the request to the end. */
  readonly duration: Milliseconds
  /** How a WebSocket ended; absent on others. */
  readonly websocket?: WebSocketClosed
}

/** A connection that the server has accepted. It has the same shape as a `DuplexConnection` on the server. */
export interface ClientConnection {
  /**
   * How the server answered. `hijack`: an HTTP/1 answer to a plain request that only the end of the connection ends. `body`: an
   * answer with an end of its own, and every HTTP/2 answer to a plain request.
   */
  readonly kind: DuplexKind
  /** Every byte that the server sends after its head. If the connection breaks, this stream fails. It never ends then. */
  readonly readable: Readable
  /** What the server receives. `end()` is a half-close. It has ended already if the request had no body and the answer is a `body`. */
  readonly writable: Writable
  /** Of the answer: 101, or a 2xx. Any other answer rejects `connect()` with `DuplexRefused`. */
  readonly statusCode: number
  /** Of the answer, in lower case, without the pseudo-headers of HTTP/2. */
  readonly headers: IncomingHttpHeaders
  /** Of the answer. */
  readonly httpVersion: '1.0' | '1.1' | '2.0'
  /** The protocol of an upgrade, as the server spells it. Undefined on other kinds. */
  readonly protocol: string | undefined
  /** The bytes that came together with the head of the answer. They are for information: `readable` begins with them. */
  readonly head: Buffer
  /** Aborts when the connection is over without an orderly end. */
  readonly signal: AbortSignal
  /** Resolves when the connection is over. It never rejects. */
  readonly closed: Promise<ClientClosed>
  /**
   * Sends what was written, ends our side, and waits until the server ends its side. If the server takes nothing for 30
   * seconds, or does not end its side within 30 seconds, the connection is broken off. Input that nobody reads is thrown away.
   * `code` and `reason` are for the close frame of a WebSocket.
   */
  close (options?: { code?: number | undefined, reason?: string | undefined }): Promise<ClientClosed>
  /** Breaks the connection off at once. The server never sees a clean end. */
  destroy (error?: Error): void
  /** The pair as web streams. Use them or the Node streams, not both. */
  web (): DuplexWebPair
  /** `close()`, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/** A connection whose pair carries messages. */
export interface ClientMessageConnection<In = unknown, Out = unknown> extends Omit<ClientConnection, 'readable'> {
  /** The messages from the server, in object mode. */
  readonly readable: Readable & AsyncIterable<In>
  /** Sends a message, and resolves when there is room for the next one. */
  send (message: Out): Promise<void>
  /** The subprotocol of a WebSocket. Undefined if there is none. */
  readonly subprotocol: string | undefined
}
