import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyRequest, RawRequestDefaultExpression, RawServerBase, RouteGenericInterface } from 'fastify'
import type { DuplexKind, Milliseconds } from './connection.ts'
import type { DuplexGovernance } from './governance.ts'

/**
 * Limits of a connection. Options of the plugin are the defaults of all routes, and a route overrides
 * them one by one. A time is a whole number of milliseconds up to 2 ** 31 - 1; 0 switches it
 * off. Any other value, and any other name, fails at boot with `FST_ERR_DUPLEX_INVALID_OPTION`.
 *
 * Timeouts are checked every eighth of their length, so they may fire up to 12.5 % late.
 *
 * The HTTP timers of Node and Fastify (`requestTimeout`, `headersTimeout`, `keepAliveTimeout`,
 * `connectionTimeout`) and `bodyLimit` do not apply to an accepted connection, except `requestTimeout` to a `body`.
 */
export interface DuplexLimits extends DuplexGovernance {
  /**
   * How long a request may take from its head to acceptance, hooks and body included. After that the client gets a 503,
   * `FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT`. The handler is not entered, or its `accept()` rejects.
   *
   * @default the route's `handlerTimeout`, else 0: off
   */
  handshakeTimeout?: Milliseconds | undefined
  /**
   * How long there may be no byte in either direction. After that the connection is broken off with
   * `FST_ERR_DUPLEX_IDLE_TIMEOUT`, and `closed` says `idle`.
   *
   * @default 0: off
   */
  idleTimeout?: Milliseconds | undefined
  /**
   * How long the peer may send nothing when our side has ended and its side has not. After that the connection is broken off
   * with `FST_ERR_DUPLEX_FIN_TIMEOUT`, and `closed` says `fin`. A peer that still sends is waited for.
   *
   * It is also how long a client may take nothing of a refusal before its connection is cut. If it is 0, that is 30 s.
   *
   * @default 30_000
   */
  finTimeout?: Milliseconds | undefined
  /**
   * How long nothing may be written when the peer has ended its side and the handler still works. After that the connection
   * is broken off with `FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT`, and `closed` says `half-open`.
   *
   * @default 0: off
   */
  halfOpenTimeout?: Milliseconds | undefined
  /**
   * The delay of the first TCP keep-alive probe (`socket.setKeepAlive`, RFC 9293 section 3.8.4). It is set
   * one to two seconds after acceptance, and finds peers that have vanished.
   *
   * @default 60_000
   */
  tcpKeepAlive?: Milliseconds | undefined
  /**
   * How long a connection may live, whatever it does. After that it is broken off with
   * `FST_ERR_DUPLEX_MAX_LIFETIME`, and `closed` says `lifetime`.
   *
   * @default 0: off
   */
  maxLifetime?: Milliseconds | undefined
  /**
   * How long the peer may send nothing, whatever we send. After that the connection is broken off with
   * `FST_ERR_DUPLEX_READ_TIMEOUT`, and `closed` says `idle`. It does not fire while bytes of the peer wait for a reader, nor
   * after the peer has ended its side.
   *
   * @default 0: off
   */
  readTimeout?: Milliseconds | undefined
  /**
   * How many bytes may wait for the peer to take them, a whole number. Above it the connection is broken off
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
 * `:protocol`, RFC 8441) in the client's order and spelling, reserved ones included. It returns one
 * of them, or false to refuse. A token that was not offered is a 500,
 * `FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED`. An error that it throws is answered like an error of a hook.
 */
export type DuplexProtocolChooser<P extends string = string> = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  choose (offered: string[], request: DuplexRequest): P | false | Promise<P | false>
}['choose']

/**
 * Fields of the accept head, or a function of the request that returns them. A field that is already on the reply
 * is kept. An error that the function throws is answered like an error of a hook.
 */
export type DuplexHeaders = OutgoingHttpHeaders | {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  fields (request: DuplexRequest): OutgoingHttpHeaders
}['fields']

/** What a route takes, whether it accepts by itself or not. */
export interface DuplexRouteBase<K extends DuplexKind = DuplexKind, P extends string = string> extends DuplexLimits {
  /**
   * The kinds of request that the route takes, among those that its method allows: a CONNECT is always
   * `connect`, and no other method is. A request of another kind gets a 426 if the route
   * lists protocols for upgrades, else the app's 404. A request without a body, or with an empty one, can be
   * `hijack` or `body`: if the route takes only one of them, it is that one.
   *
   * A route with `schema.body` takes `upgrade` only. To name `body` or `hijack` there fails at
   * boot with `FST_ERR_DUPLEX_BODY_SCHEMA`.
   *
   * @default the `kinds` of the plugin, else all
   */
  kinds?: readonly K[] | undefined
  /**
   * The protocols of an upgrade. As a list: the first token that the client offers and that is in the list is
   * taken, without regard to case. `foo` also stands for `foo/2`. The 101 and
   * `connection.protocol` have the spelling of the list, with the version that the client offered. As a function: see
   * {@link DuplexProtocolChooser}. Only the first 32 tokens of a request are looked at.
   *
   * `websocket`, `h2c`, `h2`, `HTTP/*` and `TLS/*` have handshakes of their own: they are taken only
   * if they are listed or chosen. `h2c`, `h2`, `HTTP/*` and `TLS/*` are ignored by a route that does not list them. Any other
   * token that the route does not take is refused, unless the request is a `body` that the route takes: with a 426, or with
   * a 400, `FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL`, if the route lists no protocols.
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
 * `kinds` and `protocols` are inferred as literals, and give the connection its type. A wrong value, such as an
 * empty list, fails at boot with `FST_ERR_DUPLEX_INVALID_OPTION`.
 */
export interface DuplexRouteSettings<K extends DuplexKind = DuplexKind, P extends string = string>
  extends DuplexRouteBase<K, P> {
  /**
   * `auto`: the `onSend` hooks run, the accept head is sent, and then the handler gets a
   * `DuplexConnection`. `manual`: the handler gets a `PendingDuplex` and decides.
   *
   * @default 'auto'
   */
  accept?: 'auto' | undefined
}

/** The `duplex` option of a route whose handler accepts the connection itself. */
export interface ManualDuplexRouteSettings<K extends DuplexKind = DuplexKind, P extends string = string>
  extends DuplexRouteBase<K, P> {
  /**
   * The handler gets a `PendingDuplex`. It calls `accept()`, or answers as on any route. If it does
   * neither, the client gets a 500, `FST_ERR_DUPLEX_NOT_ACCEPTED`.
   */
  accept: 'manual'
}

/** The options of `app.register(duplex, options)`. */
export interface FastifyDuplexOptions extends DuplexLimits {
  /**
   * The kinds that a route takes if it names none.
   *
   * @default all: ['upgrade', 'connect', 'hijack', 'body']
   */
  kinds?: readonly DuplexKind[] | undefined
  /**
   * How long the handlers have to finish, in milliseconds, after `draining` has aborted. Then
   * every connection that is left is broken off with `FST_ERR_DUPLEX_SHUTDOWN`.
   *
   * @default 10_000
   */
  drainTimeout?: Milliseconds | undefined
  /**
   * Spreads `draining` evenly over this time, so that the clients do not all connect again at once. Each connection then has
   * `drainTimeout`, from the moment when it is told. New and pending connections are refused at once.
   *
   * @default 0
   */
  drainSpread?: Milliseconds | undefined
  /**
   * Offers extended CONNECT (RFC 8441, SETTINGS_ENABLE_CONNECT_PROTOCOL) on HTTP/2 servers. It is off by
   * default, because browsers that see the offer move their WebSockets to HTTP/2.
   *
   * @default false
   */
  extendedConnect?: boolean | undefined
  /**
   * What happens to a connection whose `Upgrade` was ignored, because neither a duplex route nor another owner takes it.
   * `close` answers the request and then closes. Use it behind a proxy that joins the two connections when it sees an
   * `Upgrade`, whatever the answer is.
   *
   * @default 'keep'
   */
  ignoredUpgrades?: 'close' | 'keep' | undefined
}
