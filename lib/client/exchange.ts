import type { IncomingHttpHeaders } from 'node:http'
import type { ClientHttp2Session } from 'node:http2'
import type { Duplex, Readable, Writable } from 'node:stream'
import { exchangeHttp1 } from './http1.ts'
import { exchangeHttp2 } from './http2.ts'
import type { DuplexKind, Milliseconds } from '../../types/index.ts'

/**
 * The connection for a request: one that carries nothing else now, or an HTTP/2 session of `openSession()`, which carries many
 * requests.
 */
export type Transport = Duplex | ClientHttp2Session

/** One request, the same for every version of HTTP. */
export interface ExchangeRequest {
  /** `CONNECT` for a tunnel to `target`. An upgrade may have any method over HTTP/1, and only GET over HTTP/2. */
  readonly method: string
  /** The request target as it is sent: the path and query, `*`, or `host:port` for a CONNECT. */
  readonly target: string
  /**
   * The fields, as name and value in turn, like `rawHeaders`. They include `Host`. Spelling and repetitions are kept. Only
   * fields that `protocol` and `body` need are added. Over HTTP/2 `Host` becomes `:authority`, and fields of an HTTP/1
   * connection are left out (RFC 9113 section 8.2.2).
   */
  readonly headers: readonly string[]
  /**
   * The tokens to upgrade to. HTTP/1: they are sent as `Upgrade`, with `Connection: Upgrade` unless `headers` has a
   * `Connection`. HTTP/2: the one token is the `:protocol` of an extended CONNECT.
   */
  readonly protocol?: readonly string[] | undefined
  /**
   * The body: these bytes, or true for what is written to `exchange.body`. Over HTTP/1 it is framed by `Content-Length` or
   * `Transfer-Encoding` of `headers`, otherwise by `Transfer-Encoding: chunked`.
   */
  readonly body?: boolean | Buffer | undefined
  /** Bytes to send in the same write as the head of an upgrade, a CONNECT or a hijack, before there is an answer. */
  readonly early?: Buffer | undefined
  /** The `:scheme` of an HTTP/2 request. */
  readonly scheme?: 'http' | 'https' | undefined
  /** How long the head of the answer may take, from this call on. 0 is no limit. */
  readonly timeout?: Milliseconds | undefined
  /** Breaks the exchange off, before or after the answer. */
  readonly signal?: AbortSignal | undefined
  /**
   * HTTP/1: keeps the connection open after the exchange, if the server does. Then `over` says `reusable`. Otherwise the
   * connection is closed.
   */
  readonly keepAlive?: boolean | undefined
  /**
   * HTTP/1: `headers` are sent as they are. They have a `Connection` and all that frames the body. The request is no upgrade and
   * no CONNECT, and every answer to it is a `body`.
   */
  readonly plain?: boolean | undefined
  /** Called for every 1xx answer but 101. After a hundred of them the answer is invalid. */
  readonly onInformation?: ((information: Information) => void) | undefined
}

export interface Information {
  readonly statusCode: number
  readonly statusMessage: string
  readonly rawHeaders: readonly string[]
}

/** A request under way. */
export interface Exchange {
  /**
   * The body of the request, if one was declared. It can be written to before and after the answer, also when the response is
   * over first. If the server has answered completely and takes no more, further writes are dropped without an error.
   * Destroying it breaks the exchange off.
   */
  readonly body: Writable | undefined
  /**
   * The answer. If it rejects, nothing is left open. It rejects
   * - with `FST_ERR_DUPLEX_UPSTREAM_INVALID` (502): no valid HTTP, a 101 that nobody asked for or with another token, or too
   *   many 1xx;
   * - with `FST_ERR_DUPLEX_UPSTREAM_LOST` (502): closed or reset before the answer. See `cause`;
   * - with `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT` (504);
   * - with the reason of `signal` or `abort()`.
   */
  readonly answer: Promise<Answer>
  /**
   * Resolves when the exchange no longer uses its connection: the connection is closed or reusable, or the HTTP/2 stream is
   * closed. It never rejects.
   */
  readonly over: Promise<ExchangeEnd>
  /** The server may have begun with the request, so it must not be repeated. */
  readonly heard: boolean
  /** Sets the trailers of the request. Call it before `end()` of the body. HTTP/1 sends them only after a chunked body. */
  addTrailers (rawTrailers: readonly string[]): void
  /** Breaks the exchange off, by a TCP reset or RST_STREAM, so that the server sees no clean end. */
  abort (error: Error): void
}

/** The head of the final answer, with its streams. */
export interface Answer {
  /**
   * How the server has answered.
   *
   * - `upgrade`: 101, or 2xx to an extended CONNECT.
   * - `connect`: 2xx to a CONNECT.
   * - `hijack`: over HTTP/1, 2xx to a request without a body, if only the end of the connection ends the answer.
   * - `body`: every other answer, refusals included.
   */
  readonly kind: DuplexKind
  readonly httpVersion: '1.0' | '1.1' | '2.0'
  readonly statusCode: number
  /** Empty over HTTP/2. */
  readonly statusMessage: string
  readonly headers: IncomingHttpHeaders
  /** Name and value in turn; without `:status`. */
  readonly rawHeaders: readonly string[]
  /** The protocol of an upgrade, as the server spells it, or the `:protocol`. */
  readonly protocol: string | undefined
  /** The bytes that came together with the head of a takeover. They are for information: `readable` begins with them. */
  readonly head: Buffer
  /**
   * What the server sends.
   *
   * If `kind` is not `body`: the connection itself, the same object as `writable`. It is the `net.Socket`, or a Duplex for an
   * HTTP/2 stream. It is half-open: it ends at FIN or END_STREAM, and fails at a reset. `destroy()` before both sides have
   * ended is a reset.
   *
   * If `kind` is `body`: the decoded body of the response. It ends when that is complete, and fails when it is cut off.
   */
  readonly readable: Readable
  /** What the server receives. If `kind` is `body`, this is the body of the request, or a stream that has ended if there is none. */
  readonly writable: Writable
  /** The trailers of a `body`, as name and value in turn. Call it after the end of the body. */
  rawTrailers (): readonly string[]
}

export interface ExchangeEnd {
  /** Whether the server's side came to an orderly end. */
  readonly complete: boolean
  /** Whether the connection can carry another request. It is always true for an HTTP/2 session that is not closing. */
  readonly reusable: boolean
  /** Why it is not `complete`. */
  readonly error?: Error
}

/**
 * Sends one request, with Node's own clients. The connection belongs to the exchange until `over`. A session still belongs to
 * its opener.
 *
 * If it throws, nothing was sent, and the transport is still the caller's. It throws
 * - what Node throws for a method, target or field that HTTP does not allow;
 * - the reason of an aborted `signal`;
 * - `FST_ERR_DUPLEX_UPSTREAM_LOST`, if the transport is over;
 * - `FST_ERR_DUPLEX_NO_EXTENDED_CONNECT` (502), if the server of a session does not offer it.
 */
export function exchange (transport: Transport, request: ExchangeRequest): Exchange {
  return 'remoteSettings' in transport ? exchangeHttp2(transport, request) : exchangeHttp1(transport, request)
}
