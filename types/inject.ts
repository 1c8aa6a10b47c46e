import type { HTTPMethods } from 'fastify'
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import type { MessageReadable } from './message-connection.ts'
import type { WebSocketClosed } from './messages.ts'

/**
 * A request on a connection in memory, over HTTP/2 where the server speaks that, else over HTTP/1.1. Anything else than
 * what is listed rejects with `FST_ERR_DUPLEX_INVALID_INJECTION`.
 */
export interface InjectDuplexOptions {
  /** @default 'GET' */
  method?: HTTPMethods | 'CONNECT' | undefined
  /** The path and query; for CONNECT the target, `host:port`. It is sent as it is. */
  url: string
  /**
   * `Host` is `localhost:80`, for CONNECT the target, unless it is given; no other field is added.
   * `Transfer-Encoding: chunked`, or a `Content-Length`, without a `payload` declares a body that
   * is written to `writable`: the request of a `body`. Over HTTP/2 `Host` is sent as `:authority` and
   * `Transfer-Encoding` is left out; other fields that are about a connection cannot be sent (RFC 9113 section 8.2.2).
   */
  headers?: OutgoingHttpHeaders | undefined
  /**
   * What to offer as `Upgrade`, in order. With none the request is no upgrade, unless `headers` say so. Over HTTP/2 it is
   * one token, and makes the request an extended CONNECT (RFC 8441), which the server has to offer; `method` is `GET` then.
   */
  protocol?: string | readonly string[] | undefined
  /**
   * The whole request body, sent with a `Content-Length` unless `headers` frame it. Objects are sent as
   * JSON. The body of an upgrade comes before its stream; on any other request it makes a `body`. Not with a CONNECT of
   * HTTP/2, extended or not.
   */
  payload?: string | Uint8Array | object | undefined
  /**
   * Bytes to send in one chunk with the request head (and the payload), before there is an answer: the
   * first of the stream, or of a body that `headers` declare. Not with a payload that is all of a body, nor, over HTTP/2,
   * on a request that declares no body.
   */
  early?: string | Uint8Array | undefined
  /** The client goes away when it aborts, with or without an answer; without one the promise rejects. */
  signal?: AbortSignal | undefined
}

/** The answer, as the client sees it. A refusal is one too: it resolves with its status and body. */
export interface InjectDuplexResponse {
  readonly statusCode: number
  /** In lower case, as Node parses them, without the pseudo-headers of HTTP/2. */
  readonly headers: IncomingHttpHeaders
  /**
   * What the server sends: the connection of an upgrade or CONNECT that was accepted, else the response,
   * decoded. A stream that the server breaks off ends with an error (`ECONNRESET`), never with an end. Errors
   * that nobody listens for are no uncaught exceptions here. `destroy()`, of this or of `writable`, before
   * both sides have ended resets the connection. Over HTTP/2 it is the stream that is reset, and `readable` and `writable`
   * are one.
   */
  readonly readable: Readable
  /** What the server receives: a body, else the connection itself. `end()` is half of a close. */
  readonly writable: Writable
  /**
   * Reads `readable` to its end, then ends `writable`, as a client does that has heard everything. It
   * rejects where the stream breaks. Call it once, and do not read `readable` beside it.
   */
  body (): Promise<Buffer>
  /**
   * Resolves when the connection is closed, and never rejects. As with any socket that is only after
   * what has arrived was read, or when it breaks. A response with an end of its own (a refusal, a body
   * whose request is complete too) is the last on its connection, which then closes by itself. Over HTTP/2 it resolves when
   * the stream is over, whether or not it was read; the connection closes behind it.
   */
  readonly closed: Promise<InjectDuplexClosed>
}

/** A request whose client is to have messages. Without `protocol` and `payload` it has an open body of lines, which `send()` writes to. */
export type InjectMessagesOptions = InjectDuplexOptions & (
  | { /** In lines, or as Server-Sent Events where `Accept` says so. */ messages: true, websocket?: boolean | undefined }
  | { messages?: boolean | undefined, /** Over a WebSocket. */ websocket: true }
)

/** The client's side in messages, encoded as the route has it. A refusal has no `send`, and is read by `body()`. */
export interface InjectMessagesResponse<In = unknown, Out = unknown> extends Omit<InjectDuplexResponse, 'readable' | 'closed'> {
  readonly readable: MessageReadable<In>
  readonly send: (message: Out) => Promise<void>
  readonly closed: Promise<InjectDuplexClosed & { readonly websocket?: WebSocketClosed }>
}

/** How an injected connection ended. */
export interface InjectDuplexClosed {
  /** What the server sent came to its end in order: false after a reset, and after a body without its end. */
  readonly complete: boolean
  /** What broke it, where it is not complete. */
  readonly error?: Error
}
