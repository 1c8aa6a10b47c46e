import type { FastifyRequest, RawRequestDefaultExpression, RawServerBase, RouteGenericInterface } from 'fastify'
import type { DuplexRouteBase } from './options.ts'
import type { DialCheck, DialTlsOptions } from './dial.ts'
import type { DuplexKind, Milliseconds } from './connection.ts'

/** A request that is forwarded, on whichever server it came in. */
export type ForwardedRequest = FastifyRequest<RouteGenericInterface, RawServerBase, RawRequestDefaultExpression<RawServerBase>>

/** An upstream that TCP leads to. */
export interface ForwardHost {
  /** A name, or an IP address without brackets. */
  readonly host: string
  /** 1 to 65535. */
  readonly port: number
  /** Speaks TLS to it: true, or options of `tls.connect()`. @default false */
  readonly tls?: boolean | DialTlsOptions | undefined
}

/** An upstream on a Unix socket, or on a named pipe of Windows. Its `Host` is `localhost`. */
export interface ForwardSocket {
  readonly socketPath: string
  /** Speaks TLS to it: true, or options of `tls.connect()`. @default false */
  readonly tls?: boolean | DialTlsOptions | undefined
}

/** Where a request is forwarded to: an origin, `http:` or `https:` and nothing behind the host and port, or its parts. */
export type ForwardTarget = string | URL | ForwardHost | ForwardSocket

/** An upstream, or a function that chooses one for each request. Undefined is answered with 404, `FST_ERR_DUPLEX_NO_UPSTREAM`. */
export type ForwardUpstream<Request = ForwardedRequest> = ForwardTarget | {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  choose (request: Request): ForwardTarget | undefined | Promise<ForwardTarget | undefined>
}['choose']

/** Fields by their lower-case names. Several fields of one name are a list. */
export type ForwardFields = Record<string, string | string[]>

/** Changes the fields that are sent on: in place, or by returning others. What it throws is answered as what a handler throws. */
export type ForwardFieldsChange<Request = ForwardedRequest> = {
  change (fields: ForwardFields, request: Request): ForwardFields | void
}['change']

/** How a request is forwarded. */
export interface ForwardOptions<Request = ForwardedRequest> {
  /**
   * The path and query to ask the upstream for: a string, or a function of what came, which begins with `/` or is `*`. Not for
   * a CONNECT.
   *
   * @default as it came
   */
  path?: string | { of (path: string, request: Request): string }['of'] | undefined
  /**
   * Changes the fields of the request, when those of its connection are off and `host` and `x-forwarded-*` are on. What frames or switches
   * stays the plugin's.
   */
  requestHeaders?: ForwardFieldsChange<Request> | undefined
  /** Changes the fields of the answer, whether it accepts or refuses. What frames or switches stays the plugin's. */
  acceptHeaders?: ForwardFieldsChange<Request> | undefined
  /**
   * What the upstream is told of the client by `x-forwarded-for`, `-host` and `-proto`. `append`: adds to what came, as far as the
   * app's `trustProxy` trusts who sent it. `replace`: the client is who connected. False: what came is left out, and nothing added.
   *
   * @default 'append'
   */
  forwarded?: 'append' | 'replace' | false | undefined
  /**
   * The tokens of `Upgrade` that may pass, without regard to case; `foo` also stands for `foo/2`.
   *
   * @default the `protocols` of the route, else all but `h2c`, `h2`, `HTTP/*` and `TLS/*`
   */
  protocols?: readonly string[] | undefined
  /**
   * The longest that connecting may take, with the handshake of TLS: then 504, `FST_ERR_DUPLEX_DIAL_TIMEOUT`. 0 is for ever.
   *
   * @default 10_000
   */
  connectTimeout?: Milliseconds | undefined
  /**
   * The longest that the upstream may take to answer, from its last byte of the request on: then 504,
   * `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT`. 0 is for ever.
   *
   * @default 60_000
   */
  responseTimeout?: Milliseconds | undefined
  /** Asked for every address of the upstream, as `dial()` asks it. */
  check?: DialCheck | undefined
  /**
   * The HTTP that the upstream speaks. 2 is without an upgrade, and over TLS by ALPN.
   *
   * @default '1.1'
   */
  version?: '1.1' | '2' | undefined
}

/** What `duplex: { forward }` is where there is more to say than where to. */
export interface ForwardRouteOptions<Request = ForwardedRequest> extends ForwardOptions<Request> {
  to: ForwardUpstream<Request>
}

/**
 * The `duplex` option of a route whose requests go to another server. Such a route has no handler; it takes every kind but `hijack`, and
 * HEAD, so that it is a whole reverse proxy for its URLs.
 */
export interface ForwardRouteSettings<Request = ForwardedRequest> extends DuplexRouteBase<Exclude<DuplexKind, 'hijack'>> {
  /** Where to, or `{ to, ...options }`. */
  forward: ForwardUpstream<Request> | ForwardRouteOptions<Request>
  accept?: undefined
}
