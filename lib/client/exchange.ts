import type { IncomingHttpHeaders } from 'node:http'
import type { ClientHttp2Session } from 'node:http2'
import type { Duplex, Readable, Writable } from 'node:stream'
import { exchangeHttp1 } from './http1.ts'
import { exchangeHttp2 } from './http2.ts'
import type { DuplexKind, Milliseconds } from '../../types/index.ts'

/** Where a request goes: a connection that carries nothing else now, or a session of `openSession()`, which carries many. */
export type Link = Duplex | ClientHttp2Session

/** One request, the same for every version of HTTP. */
export interface ExchangeRequest {
  /** `CONNECT` for a tunnel to `target`. An upgrade has its own method; over HTTP/2 that must be GET. */
  readonly method: string
  /** As it goes on the wire: the path and query, `*`, or `host:port` of a CONNECT. */
  readonly target: string
  /**
   * The fields, as name and value in turn, like `rawHeaders`. They include `Host`. Spelling and repetitions are kept. Only
   * fields that `protocol` and `body` need are added. Over HTTP/2 `Host` becomes `:authority`, and fields of an HTTP/1
   * connection are left out (RFC 9113 section 8.2.2).
   */
  readonly headers: readonly string[]
  /**
   * The tokens to upgrade to. HTTP/1: `Upgrade`, and `Connection: Upgrade` if there is no `Connection` in `headers`.
   * HTTP/2: `:protocol` of an extended CONNECT, one token.
   */
  readonly protocol?: readonly string[] | undefined
  /**
   * A body follows the head: these bytes, or what is written to `exchange.body`. HTTP/1: it is framed as `Content-Length` or
   * `Transfer-Encoding` of `headers` say, by `Transfer-Encoding: chunked` if there is neither.
   */
  readonly body?: boolean | Buffer | undefined
  /** Bytes right behind the head of an upgrade, a CONNECT or a hijack, in the same write, before there is an answer. */
  readonly early?: Buffer | undefined
  /** Of HTTP/2. */
  readonly scheme?: 'http' | 'https' | undefined
  /** The most that the head of the answer may take, from this call on; 0 is no limit. */
  readonly timeout?: Milliseconds | undefined
  /** Breaks the exchange off, before and after the answer. */
  readonly signal?: AbortSignal | undefined
  /**
   * HTTP/1: leaves the connection open when both messages are over and the server does not close it; `over` then says `reusable`. Otherwise
   * it is closed.
   */
  readonly keepAlive?: boolean | undefined
  /** Every 1xx answer but 101. A hundred of them, and the answer is invalid. */
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
   * Resolves when nothing of the exchange is on the wire any more: the connection is closed or reusable, the stream
   * of HTTP/2 closed. Never rejects.
   */
  readonly over: Promise<ExchangeEnd>
  /** A byte of an answer has come, or may have: the request is not to be repeated. */
  readonly heard: boolean
  /** Fields behind the request's body, name and value in turn; to be called before its `end()`. HTTP/1 sends them behind chunks only. */
  addTrailers (rawTrailers: readonly string[]): void
  /** In such a way that the server cannot take it for an end: TCP reset, RST_STREAM. */
  abort (error: Error): void
}

/** The head of the final answer, and what follows it. */
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
  /** What was upgraded to, as the server spells it, or `:protocol`. */
  readonly protocol: string | undefined
  /** The bytes that came with the head of a takeover, for information: they are at the front of `readable`. */
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
  /** Where `kind` is `body`: the request's body; one that has ended, if there is none. */
  readonly writable: Writable
  /** Behind the end of a `body`: the fields that came after it, name and value in turn. */
  rawTrailers (): readonly string[]
}

export interface ExchangeEnd {
  /** The server's side came to its end in order. */
  readonly complete: boolean
  /** The connection can carry the next request. Always true of a session of HTTP/2 that is not closing. */
  readonly reusable: boolean
  /** Why not `complete`. */
  readonly error?: Error
}

/**
 * Sends one request, with Node's own clients. The connection belongs to the exchange until `over`. A session still belongs to
 * its opener.
 *
 * If it throws, nothing was sent, and the link is still the caller's. It throws
 * - what Node throws for a method, target or field that HTTP does not allow;
 * - the reason of an aborted `signal`;
 * - `FST_ERR_DUPLEX_UPSTREAM_LOST`, if the link is over;
 * - `FST_ERR_DUPLEX_NO_EXTENDED_CONNECT` (502), if the server of a session does not offer it.
 */
export function exchange (link: Link, request: ExchangeRequest): Exchange {
  return 'remoteSettings' in link ? exchangeHttp2(link, request) : exchangeHttp1(link, request)
}
