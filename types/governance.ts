import type { DuplexConnection, DuplexKind, Milliseconds, PendingDuplex } from './connection.ts'
import type { DuplexRequest } from './options.ts'

/** The object form of `maxConnections`, with a limit for each key. */
export interface DuplexMaxConnections {
  /** How many connections there may be at once: for each key, if `key` is given, else in all. A whole number from 0, or Infinity. */
  max: number
  /**
   * Says whose connection this is, such as the user or `request.ip`. It is called once for each request, after the `onRequest`
   * hooks and before a body is parsed.
   *
   * A request counts from then on, accepted or not, until it is refused or `closed` resolves. A request above `max` gets a 429,
   * `FST_ERR_DUPLEX_MAX_PER_KEY`, with `Retry-After`.
   *
   * An error that it throws is answered like an error of a hook. If it returns anything but a string, the client gets a 500,
   * `FST_ERR_DUPLEX_INVALID_KEY`.
   */
  key?: DuplexKey | undefined
  /**
   * How many connections one route may have at once, whatever their keys are. On the plugin it holds for every route that has
   * no `maxConnections` of its own. A request above it gets a 503, as with a plain number.
   */
  route?: number | undefined
}

/** Says whose connection this is: a string, for which `max` holds. See {@link DuplexMaxConnections}. */
export type DuplexKey = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  key (request: DuplexRequest): string
}['key']

/** A moment of the wall clock: a Date, or milliseconds like `Date.now()`. A JWT counts seconds, so use `exp * 1000`. */
export type DuplexMoment = Date | number

/** Says when a connection expires. Undefined means never. */
export type DuplexExpiry = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  expires (request: DuplexRequest): DuplexMoment | undefined
}['expires']

/** Gives the labels that a connection begins with. */
export type DuplexLabeller = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  labels (request: DuplexRequest): Iterable<string>
}['labels']

/** Rates of one connection in bytes a second: whole numbers above 0. Faster data has to wait. Nothing is dropped. */
export interface DuplexRate {
  /** How fast the peer may send. */
  bytesIn?: number | undefined
  /** How fast is sent to the peer. */
  bytesOut?: number | undefined
}

/** Limits and names of connections. On the plugin these are the defaults of all routes. */
export interface DuplexGovernance {
  /**
   * How many connections there may be at once: on the plugin in all, on a route for that route. A whole number from 0, or
   * Infinity.
   *
   * A connection takes a slot before its handler is entered. The slot is free again when `closed` resolves, or when a pending
   * connection is refused. A request above the limit gets a 503, `FST_ERR_DUPLEX_MAX_CONNECTIONS`, with `Retry-After`.
   *
   * An object sets a limit for each key: see {@link DuplexMaxConnections}. The limits of the plugin and of the route hold both.
   *
   * @default Infinity
   */
  maxConnections?: number | DuplexMaxConnections | undefined
  /**
   * Says when the connection has to end, for example when the token of its user expires. It is called after all hooks, right
   * before the handler is entered.
   *
   * When the connection expires, `draining` aborts with `FST_ERR_DUPLEX_EXPIRED`. After `expiryGrace` the connection is broken
   * off, and `closed` says `expired`. A connection that is not accepted by then, or that has expired before, gets a 401.
   *
   * Expiry follows the wall clock, as tokens do. If the clock is set, expiry moves with it. No other time limit does. It may
   * come up to 20 ms late, and up to a second late after the clock was set forward.
   *
   * An error that it throws is answered like an error of a hook. If it returns anything but a moment, such as the seconds of a
   * token, the client gets a 500, `FST_ERR_DUPLEX_INVALID_EXPIRY`.
   */
  expires?: DuplexExpiry | undefined
  /**
   * How long a connection may go on after it has expired.
   *
   * @default 0
   */
  expiryGrace?: Milliseconds | undefined
  /**
   * Names for the connection, for `app.duplex.find()` and `app.duplex.close()`. It is called after all hooks, right before the
   * handler is entered. If one of these labels was closed since the request came, the request gets a 403,
   * `FST_ERR_DUPLEX_REVOKED`.
   *
   * An error that it throws is answered like an error of a hook. If it returns anything but strings, the client gets a 500,
   * `FST_ERR_DUPLEX_INVALID_LABEL`.
   */
  labels?: DuplexLabeller | undefined
  /** How fast a connection may send and receive: see {@link DuplexRate}. */
  rate?: DuplexRate | undefined
}

/** The labels of one connection. After its end they can still be read, but `find()` does not find it any more. */
export interface DuplexLabels extends Iterable<string> {
  /** How many there are. */
  readonly size: number
  /** @returns whether the connection has the label */
  has (label: string): boolean
  /** Throws `FST_ERR_DUPLEX_INVALID_LABEL` for anything but a string. */
  add (label: string): this
  /** @returns whether the connection had the label */
  delete (label: string): boolean
}

/** The members of a duplex request that concern labels and expiry, before and after acceptance. */
export interface GovernedDuplex {
  /** The names by which `app.duplex.find()` and `app.duplex.close()` know the connection. */
  readonly labels: DuplexLabels
  /**
   * Moves the expiry of the connection, or sets one. Undefined removes it. During `expiryGrace` it saves the connection: from
   * then on `draining` is a new signal, which has not aborted. With a moment in the past the connection expires at once.
   *
   * Throws `FST_ERR_DUPLEX_INVALID_EXPIRY` for anything but a moment, such as the seconds of a token.
   *
   * @returns false if it comes too late: the connection is over, or is being ended for another reason
   */
  extend (until: DuplexMoment | undefined): boolean
}

/** Options of `app.duplex.close()`. */
export interface DuplexRevocation {
  /**
   * How long the connections may go on after `draining` has aborted. Pending connections are refused at once.
   *
   * @default 0
   */
  within?: Milliseconds | undefined
  /**
   * The close code for WebSockets: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
   *
   * @default the `closeCode` of `error`, or 4403
   */
  code?: number | undefined
  /**
   * The reason of `draining` and `signal`, and the error of `closed`. Pending connections are answered with it.
   *
   * @default FST_ERR_DUPLEX_REVOKED, 403
   */
  error?: Error | undefined
}

/** The methods of `app.duplex` that concern labels. */
export interface DuplexLabelled {
  /** The live connections with this label at this moment, pending ones included. */
  find (label: string): (DuplexConnection | (PendingDuplex<DuplexKind> & { readonly accepted: false }))[]
  /**
   * Ends all connections with this label. `closed` says `revoked`. A request whose hooks still run is refused, if it turns out
   * to have the label. The cost depends only on the number of matches. If a connection is closed twice, the earlier end counts.
   * Throws `FST_ERR_DUPLEX_INVALID_OPTION` for unknown options.
   *
   * @returns how many connections were found, without the requests whose hooks still run
   */
  close (label: string, options?: DuplexRevocation): number
}
