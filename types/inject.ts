import type { HTTPMethods } from 'fastify'
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { MessageReadable } from './message-connection.ts'
import type { WebSocketClosed } from './messages.ts'

/**
 * A request on a connection in memory, over HTTP/2 if the server speaks that, else over HTTP/1.1. An option
 * that is not listed here rejects with `FST_ERR_DUPLEX_INVALID_INJECTION`.
 */
export interface InjectDuplexOptions {
  /** @default 'GET' */
  method?: HTTPMethods | 'CONNECT' | undefined
  /** The path and query. For CONNECT the target, `host:port`. It is sent unchanged. */
  url: string
  /**
   * `Host` is `localhost:80`, or for CONNECT the target, unless you give it. No other field is added.
   * `Transfer-Encoding: chunked`, or a `Content-Length`, without a `payload` declares a body that
   * you write to `writable`: that makes it a `body`. Over HTTP/2 `Host` is sent as `:authority`, and
   * `Transfer-Encoding` is left out. Other fields that are about a connection cannot be sent (RFC 9113 section 8.2.2).
   */
  headers?: OutgoingHttpHeaders | undefined
  /**
   * The tokens to offer as `Upgrade`, in order. Without them the request is no upgrade, unless `headers` make it one. Over
   * HTTP/2 it is one token, and makes the request an extended CONNECT (RFC 8441). The server has to offer that, and `method`
   * has to be `GET`.
   */
  protocol?: string | readonly string[] | undefined
  /**
   * The whole request body. It is sent with a `Content-Length` unless `headers` frame it, and an object is sent as
   * JSON. On an upgrade it comes before the stream. On any other request it makes a `body`. A CONNECT over
   * HTTP/2, extended or not, cannot have one.
   */
  payload?: string | Uint8Array | object | undefined
  /**
   * Bytes to send in one chunk with the request head (and the payload), before there is an answer. They are the
   * first of the stream, or of a body that `headers` declare. They cannot be sent with a `payload` that is a whole body, nor,
   * over HTTP/2, with a request that declares no body.
   */
  early?: string | Uint8Array | undefined
  /** When it aborts, the client goes away. If there was no answer yet, the promise rejects. */
  signal?: AbortSignal | undefined
}

/** The answer, as the client sees it: an acceptance, or a refusal with its status and body. */
export interface InjectDuplexResponse {
  /** Of the accept head, or of the refusal. */
  readonly statusCode: number
  /** In lower case, as Node parses them, without the pseudo-headers of HTTP/2. */
  readonly headers: IncomingHttpHeaders
  /**
   * What the server sends: after an accepted upgrade or CONNECT the connection, else the decoded response.
   * A stream that the server breaks off fails with an error (`ECONNRESET`), and never ends. An error
   * that nobody listens for is no uncaught exception here. `destroy()`, of this or of `writable`, resets the connection
   * if it comes before both sides have ended. Over HTTP/2 it resets the stream; `readable` and `writable` are one object there.
   */
  readonly readable: Readable
  /** What the server receives: the body, else the connection itself. `end()` is a half-close. */
  readonly writable: Writable
  /**
   * Reads `readable` to its end, then ends `writable`. It rejects if the stream breaks. Call it once, and
   * do not read `readable` in another way.
   */
  body (): Promise<Buffer>
  /**
   * Resolves when the connection is closed, and never rejects. As with any socket, that happens only when
   * everything was read, or when the connection breaks. A response that has an end of its own (a refusal, or a body
   * whose request is complete, too) is the last one on its connection, which then closes. Over HTTP/2 it resolves when
   * the stream is over, whether it was read or not, and then the connection closes.
   */
  readonly closed: Promise<InjectDuplexClosed>
}

/**
 * A request whose client reads and writes messages. Without `protocol` and `payload` it has an open body of lines, which
 * `send()` writes to.
 */
export type InjectMessagesOptions = InjectDuplexOptions & (
  | { /** In lines, or as Server-Sent Events where `Accept` says so. */ messages: true, websocket?: boolean | undefined }
  | { messages?: boolean | undefined, /** Over a WebSocket. */ websocket: true }
)

/** The client's side in messages, in the encoding of the route. A refusal has no `send`, and is read by `body()`. */
export interface InjectMessagesResponse<In = unknown, Out = unknown> extends Omit<InjectDuplexResponse, 'readable' | 'closed'> {
  /** The messages of the server, in object mode. */
  readonly readable: MessageReadable<In>
  /** Sends a message to the server, and resolves when there is room for the next one. */
  readonly send: (message: Out) => Promise<void>
  /** As of bytes, with how a WebSocket ended. */
  readonly closed: Promise<InjectDuplexClosed & { readonly websocket?: WebSocketClosed }>
}

/** How an injected connection ended. */
export interface InjectDuplexClosed {
  /** Whether the output of the server came to an orderly end. False after a reset, and after a body that was cut off. */
  readonly complete: boolean
  /** The error that broke the connection, if it is not complete. */
  readonly error?: Error
}
