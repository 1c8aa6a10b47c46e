import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyRequest, RawRequestDefaultExpression, RawServerBase, RouteGenericInterface } from 'fastify'
import type { DuplexKind, Milliseconds } from './connection.ts'
import type { DuplexGovernance } from './governance.ts'

/**
 * Limits of a connection. Given to the plugin they are the defaults of all routes; a route overrides
 * them one by one. Every time is a whole number of milliseconds up to 2 ** 31 - 1, and 0 switches it
 * off. Anything else, and any name that is not listed, fails at boot with
 * `FST_ERR_DUPLEX_INVALID_OPTION`.
 *
 * The HTTP timers of Node and Fastify (`requestTimeout`, `headersTimeout`, `keepAliveTimeout`,
 * `connectionTimeout`) and `bodyLimit` do not apply to an accepted connection.
 */
export interface DuplexLimits extends DuplexGovernance {
  /**
   * From the request head to acceptance, hooks and body included. Then the client gets a 503,
   * `FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT`, and the handler is not entered, or its `accept()` rejects.
   *
   * @default the route's `handlerTimeout`, else 0: off
   */
  handshakeTimeout?: Milliseconds | undefined
  /**
   * No byte in either direction for this long: `signal` aborts with `FST_ERR_DUPLEX_IDLE_TIMEOUT`, the
   * connection is destroyed, and `closed` says `idle`.
   *
   * @default 0: off
   */
  idleTimeout?: Milliseconds | undefined
  /**
   * Our side has ended, the peer's has not, and it sent no byte for this long: destroyed with
   * `FST_ERR_DUPLEX_FIN_TIMEOUT`, and `closed` says `fin`. A peer that still sends is waited for. A refusal of which its client
   * takes nothing for this long is cut; after 30 s where this is 0.
   *
   * @default 30_000
   */
  finTimeout?: Milliseconds | undefined
  /**
   * The peer has ended its side, the handler still works, and no byte was written for this long:
   * destroyed with `FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT`, and `closed` says `half-open`.
   *
   * @default 0: off
   */
  halfOpenTimeout?: Milliseconds | undefined
  /**
   * The delay of the first TCP keep-alive probe (`socket.setKeepAlive`, RFC 9293 section 3.8.4), set
   * when the connection is taken over, so that peers which vanished are found.
   *
   * @default 60_000
   */
  tcpKeepAlive?: Milliseconds | undefined
  /**
   * The longest that a connection may live, whatever it does: then it is destroyed with
   * `FST_ERR_DUPLEX_MAX_LIFETIME`, and `closed` says `lifetime`.
   *
   * @default 0: off
   */
  maxLifetime?: Milliseconds | undefined
  /**
   * No byte came from the peer for this long, whatever we sent: destroyed with `FST_ERR_DUPLEX_READ_TIMEOUT`, and `closed`
   * says `idle`. What has come and waits for a reader, or an end of the peer, is no silence.
   *
   * @default 0: off
   */
  readTimeout?: Milliseconds | undefined
  /**
   * How many bytes may be written that the peer has not taken, a whole number. Above it the connection is destroyed
   * with `FST_ERR_DUPLEX_MAX_BUFFERED`, and `closed` says `slow`.
   *
   * @default 0: off
   */
  maxBuffered?: number | undefined
}

/** A request as a {@link DuplexProtocolChooser} sees it: before its body is parsed and validated. */
export type DuplexRequest = FastifyRequest<RouteGenericInterface, RawServerBase, RawRequestDefaultExpression<RawServerBase>>

/**
 * Chooses the protocol of an upgrade, after the `onRequest` hooks and before the body is parsed.
 *
 * It gets the well-formed tokens of the `Upgrade` header (RFC 9110 section 7.8; over HTTP/2 the
 * `:protocol`, RFC 8441) in the client's order and spelling, reserved ones included, and returns one
 * of them, or false to refuse. A token that was not offered is a 500,
 * `FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED`; what it throws is answered as what a hook throws.
 */
export type DuplexProtocolChooser<P extends string = string> = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  choose (offered: string[], request: DuplexRequest): P | false | Promise<P | false>
}['choose']

/**
 * Fields of the accept head, or a function of the request that returns them. A field that was set on the reply by then
 * stays as it is. What the function throws is answered as what a hook throws.
 */
export type DuplexHeaders = OutgoingHttpHeaders | {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  fields (request: DuplexRequest): OutgoingHttpHeaders
}['fields']

/** What a route takes, whether it accepts by itself or not. */
export interface DuplexRouteBase<K extends DuplexKind = DuplexKind, P extends string = string> extends DuplexLimits {
  /**
   * The kinds of request that the route takes, of those that its method allows: CONNECT is always
   * `connect`, and no other method is. Others are answered with 426 where the route
   * takes upgrades with listed protocols, else with the app's 404. A request that declares no body, or an empty one, may be
   * `hijack` or `body`: where the route takes one of them alone, it is that.
   *
   * A route with `schema.body` takes `upgrade` only; naming `body` or `hijack` beside it fails at
   * boot with `FST_ERR_DUPLEX_BODY_SCHEMA`.
   *
   * @default the `kinds` of the plugin, else all
   */
  kinds?: readonly K[] | undefined
  /**
   * The protocols of an upgrade. As a list: the first token that the client offers and the list
   * has, without regard to case, is taken; `foo` also stands for `foo/2`. The 101 and
   * `connection.protocol` have the spelling of the list, with the version that was offered. As a function: see
   * {@link DuplexProtocolChooser}. No more than 32 tokens of a request are looked at.
   *
   * `websocket`, `h2c`, `h2`, `HTTP/*` and `TLS/*` have handshakes of their own: they are taken only
   * when they are listed or chosen. Another HTTP, and TLS, are no offer to a route that does not list them: the request is
   * what it is without them. What the route could take and does not is refused, unless there is a body for it: with 426, or
   * with 400, `FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL`, where no protocols are listed.
   *
   * @default the first well-formed token offered that is not one of those
   */
  protocols?: readonly P[] | DuplexProtocolChooser<P> | undefined
  /** Fields of the accept head: see {@link DuplexHeaders}. */
  headers?: DuplexHeaders | undefined
}

/**
 * The `duplex` option of a route whose connections are accepted before the handler is entered.
 *
 * `kinds` and `protocols` are inferred as literals, and type the connection. Wrong values, empty lists
 * among them, fail at boot with `FST_ERR_DUPLEX_INVALID_OPTION`.
 */
export interface DuplexRouteSettings<K extends DuplexKind = DuplexKind, P extends string = string>
  extends DuplexRouteBase<K, P> {
  /**
   * `auto`: the `onSend` hooks run and the accept head is sent, then the handler gets a
   * `DuplexConnection`. `manual`: it gets a `PendingDuplex` and decides.
   *
   * @default 'auto'
   */
  accept?: 'auto' | undefined
}

/** The `duplex` option of a route whose handler accepts the connection itself. */
export interface ManualDuplexRouteSettings<K extends DuplexKind = DuplexKind, P extends string = string>
  extends DuplexRouteBase<K, P> {
  /**
   * The handler gets a `PendingDuplex`: it calls `accept()`, or answers as on any route. Done with
   * neither: a 500, `FST_ERR_DUPLEX_NOT_ACCEPTED`.
   */
  accept: 'manual'
}

/** The options of `app.register(duplex, options)`. */
export interface FastifyDuplexOptions extends DuplexLimits {
  /**
   * The kinds that routes take which do not say.
   *
   * @default all: ['upgrade', 'connect', 'hijack', 'body']
   */
  kinds?: readonly DuplexKind[] | undefined
  /**
   * How long the handlers have to finish, in milliseconds, from the moment `draining` aborts. Then
   * every connection left is destroyed with `FST_ERR_DUPLEX_SHUTDOWN`.
   *
   * @default 10_000
   */
  drainTimeout?: Milliseconds | undefined
  /**
   * Over how long a time `draining` reaches the connections, evenly, so that their clients do not all connect again at once.
   * `drainTimeout` counts for each from when it is told. New connections, and those that are not accepted, are refused at once.
   *
   * @default 0
   */
  drainSpread?: Milliseconds | undefined
  /**
   * Advertise extended CONNECT (RFC 8441, SETTINGS_ENABLE_CONNECT_PROTOCOL) on HTTP/2 servers. Off by
   * default, because browsers that see it move their WebSockets to HTTP/2.
   *
   * @default false
   */
  extendedConnect?: boolean | undefined
  /**
   * What becomes of a connection whose `Upgrade` was ignored, because neither a duplex route nor another owner takes it. `close`
   * answers the request and closes: for apps behind a proxy that joins the connections as soon as it sees an `Upgrade`,
   * whatever the answer is.
   *
   * @default 'keep'
   */
  ignoredUpgrades?: 'close' | 'keep' | undefined
}
