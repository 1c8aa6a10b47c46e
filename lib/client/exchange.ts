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
   * Name and value in turn, as `rawHeaders` has them, `Host` among them; spelling and repetitions are kept. Nothing is added but
   * what `protocol` and `body` stand for. Over HTTP/2 `Host` becomes `:authority`, and what belongs to a connection of
   * HTTP/1 is left out (RFC 9113 section 8.2.2).
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
   * The request's body, when one was declared. It can be written to before and after the answer, until its own `end()`, also when
   * the response is over first. Once that is whole and the server takes no more, what is written is thrown away without an error.
   * Destroying it breaks the exchange off.
   */
  readonly body: Writable | undefined
  /**
   * Rejects, and nothing is left then, with `FST_ERR_DUPLEX_UPSTREAM_INVALID` (502: no HTTP, a 101 that nobody asked for or
   * with another token, too many 1xx), `FST_ERR_DUPLEX_UPSTREAM_LOST` (502: closed or reset before the answer; `cause`),
   * `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT` (504), or the reason of `signal` or `abort()`.
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
   * What the server made of it. `upgrade`: 101, or 2xx to an extended CONNECT. `connect`: 2xx to a CONNECT. `hijack`: 2xx on
   * HTTP/1, to a request without a body, of which nothing but the connection's end is the end. `body`: every other
   * answer, refusals included.
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
   * Where `kind` is not `body`: the taken over Duplex, the same as `writable`: the `net.Socket`, or a Duplex for a stream of
   * HTTP/2. Half-open: the server's FIN or END_STREAM is its end, and a reset is an error. `destroy()` of it before
   * both ends is a reset.
   * Where it is `body`: the decoded response body. It ends when that is whole, and fails when that is cut off.
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
 * Sends one request, by Node's own clients. The link is the exchange's until `over`; a session stays its opener's.
 *
 * Throws, before anything is sent, what Node throws for a method, target or field that HTTP does not allow; the reason of an aborted
 * `signal`; `FST_ERR_DUPLEX_UPSTREAM_LOST` where the link is over; `FST_ERR_DUPLEX_NO_EXTENDED_CONNECT` (502) where the server of a
 * session does not offer that. The link is untouched then, and the caller's.
 */
export function exchange (link: Link, request: ExchangeRequest): Exchange {
  return 'remoteSettings' in link ? exchangeHttp2(link, request) : exchangeHttp1(link, request)
}
