import type { FastifyRequest, RawRequestDefaultExpression, RawServerBase, RouteGenericInterface } from 'fastify'
import type { DuplexRouteBase } from './options.ts'
import type { DialCheck, DialTlsOptions } from './dial.ts'
import type { DuplexKind, Milliseconds } from './connection.ts'

/** A forwarded request, on any server: HTTP/1, HTTPS or HTTP/2. */
export type ForwardedRequest = FastifyRequest<RouteGenericInterface, RawServerBase, RawRequestDefaultExpression<RawServerBase>>

/** An upstream, by host and port. */
export interface ForwardHost {
  /** A name, or an IP address without brackets. */
  readonly host: string
  /** 1 to 65535. */
  readonly port: number
  /**
   * Speaks TLS to the upstream: true, or options of `tls.connect()`.
   *
   * @default false
   */
  readonly tls?: boolean | DialTlsOptions | undefined
}

/** An upstream on a Unix socket, or on a named pipe of Windows. The field `Host` is `localhost`. */
export interface ForwardSocket {
  /** Its path. */
  readonly socketPath: string
  /**
   * Speaks TLS to the upstream: true, or options of `tls.connect()`.
   *
   * @default false
   */
  readonly tls?: boolean | DialTlsOptions | undefined
}

/** The upstream: an `http:` or `https:` URL without a path, or its parts. */
export type ForwardTarget = string | URL | ForwardHost | ForwardSocket

/**
 * An upstream, or a function that chooses one for each request. If the function returns undefined, the client gets a 404,
 * `FST_ERR_DUPLEX_NO_UPSTREAM`.
 */
export type ForwardUpstream<Request = ForwardedRequest> = ForwardTarget | {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  choose (request: Request): ForwardTarget | undefined | Promise<ForwardTarget | undefined>
}['choose']

/** Fields by their lower-case names. An array has one value for each field of that name. */
export type ForwardFields = Record<string, string | string[]>

/**
 * Changes the fields that are sent on. It may change the given object, or return another one. An error that it throws is
 * answered like an error of a handler.
 */
export type ForwardFieldsChange<Request = ForwardedRequest> = {
  change (fields: ForwardFields, request: Request): ForwardFields | void
}['change']

/** How a request is forwarded. */
export interface ForwardOptions<Request = ForwardedRequest> {
  /**
   * The path and query for the upstream: a string, or a function of the received one. It begins with `/`, or is `*`. It has no
   * effect on a CONNECT.
   *
   * @default the received path and query
   */
  path?: string | { of (path: string, request: Request): string }['of'] | undefined
  /**
   * Changes the fields of the request. It is called when the fields of the client's connection were removed, and `host` and
   * `x-forwarded-*` were set. It cannot set fields that frame the body or switch the protocol.
   */
  requestHeaders?: ForwardFieldsChange<Request> | undefined
  /**
   * Changes the fields of the answer, whether the answer accepts or refuses. It cannot set fields that frame the body or switch
   * the protocol.
   */
  acceptHeaders?: ForwardFieldsChange<Request> | undefined
  /**
   * What the upstream is told about the client, in `x-forwarded-for`, `x-forwarded-host` and `x-forwarded-proto`.
   *
   * - `append`: adds to the received fields, if the app's `trustProxy` trusts the peer. Otherwise it replaces them.
   * - `replace`: drops the received fields. The client is the peer.
   * - `false`: drops the received fields, and sets none.
   *
   * @default 'append'
   */
  forwarded?: 'append' | 'replace' | false | undefined
  /**
   * The tokens of `Upgrade` that may pass, in any case. `foo` also stands for `foo/2`.
   *
   * @default the `protocols` of the route, else all but `h2c`, `h2`, `HTTP/*` and `TLS/*`
   */
  protocols?: readonly string[] | undefined
  /**
   * How long connecting may take, TLS handshake included. After that the client gets a 504, `FST_ERR_DUPLEX_DIAL_TIMEOUT`. 0
   * switches it off.
   *
   * @default 10_000
   */
  connectTimeout?: Milliseconds | undefined
  /**
   * How long the upstream may take to answer. It counts from the last byte of the request that the upstream has taken. After
   * that the client gets a 504, `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT`. 0 switches it off.
   *
   * @default 60_000
   */
  responseTimeout?: Milliseconds | undefined
  /** Called for every address of the upstream, as by `dial()`. */
  check?: DialCheck | undefined
  /**
   * The version of HTTP that the upstream speaks. Over TLS, `2` is negotiated by ALPN. Without TLS it is spoken at once ("prior
   * knowledge").
   *
   * @default '1.1'
   */
  version?: '1.1' | '2' | undefined
}

/** The object form of `duplex: { forward }`: the upstream with options. */
export interface ForwardRouteOptions<Request = ForwardedRequest> extends ForwardOptions<Request> {
  /** The upstream, or a function that chooses one for each request. */
  to: ForwardUpstream<Request>
}

/**
 * The `duplex` option of a route whose requests go to another server. Such a route has no handler. It takes HEAD and every kind
 * but `hijack`, so it is a whole reverse proxy for its URLs.
 */
export interface ForwardRouteSettings<Request = ForwardedRequest> extends DuplexRouteBase<Exclude<DuplexKind, 'hijack'>> {
  /** The upstream, or `{ to, ...options }`. */
  forward: ForwardUpstream<Request> | ForwardRouteOptions<Request>
  /** The answer of the upstream accepts or refuses: there is nothing to choose here. */
  accept?: undefined
}
