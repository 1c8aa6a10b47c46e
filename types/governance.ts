import type { DuplexConnection, DuplexKind, Milliseconds, PendingDuplex } from './connection.ts'
import type { DuplexRequest } from './options.ts'

/** `maxConnections` with a key. */
export interface DuplexMaxConnections {
  /** How many there may be at once: with a `key` of each key, else of all together. A whole number from 0, or Infinity. */
  max: number
  /**
   * Whose connection it is, such as the user or `request.ip`. It is asked once for each request, behind the `onRequest` hooks
   * and before a body is parsed. From then on the request counts, pending or not, until it is refused or `closed` settles. The
   * one above `max` gets a 429, `FST_ERR_DUPLEX_MAX_PER_KEY`, with `Retry-After`.
   *
   * What it throws is answered as what a hook throws; anything but a string is a 500, `FST_ERR_DUPLEX_INVALID_KEY`.
   */
  key?: DuplexKey | undefined
  /**
   * How many one route may have at once, whosever they are: of that route, or, given to the plugin, of every route that has no
   * `maxConnections` of its own. Above it a 503, as with a number.
   */
  route?: number | undefined
}

export type DuplexKey = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  key (request: DuplexRequest): string
}['key']

/** A moment by the clock on the wall: a Date, or milliseconds as `Date.now()` has them. A token tells seconds: `exp * 1000`. */
export type DuplexMoment = Date | number

/** When a connection expires; undefined for never. */
export type DuplexExpiry = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  expires (request: DuplexRequest): DuplexMoment | undefined
}['expires']

/** The labels that a connection begins with. */
export type DuplexLabeller = {
  // A method, so that a request annotated for the app's own server or route generics is accepted.
  labels (request: DuplexRequest): Iterable<string>
}['labels']

/** Bytes a second of one connection: whole numbers above 0. What is above is made to wait, and never dropped. */
export interface DuplexRate {
  /** What the peer may send. */
  bytesIn?: number | undefined
  /** What is sent to the peer. */
  bytesOut?: number | undefined
}

/** How connections that last stay governed. Given to the plugin these are the defaults of all routes. */
export interface DuplexGovernance {
  /**
   * How many connections there may be at once. A whole number from 0, or Infinity: given to the plugin, of
   * all routes together; given to a route, of that route. A slot is taken before the handler is entered. It is free again when
   * `closed` settles, or, of a request that is refused, when that is decided. The one above the limit gets a 503,
   * `FST_ERR_DUPLEX_MAX_CONNECTIONS`, with `Retry-After`. An object gives a limit for each key: see {@link DuplexMaxConnections}.
   * The one of the plugin and the one of the route hold both.
   *
   * @default Infinity
   */
  maxConnections?: number | DuplexMaxConnections | undefined
  /**
   * When the connection ends, such as the end of the token that opened it. It is asked when the handler is about to be entered,
   * behind all hooks. Then `draining` aborts with `FST_ERR_DUPLEX_EXPIRED`; `expiryGrace` later the connection is broken off, and
   * `closed` says `expired`. One that is not accepted by then is answered with 401, as is one that has expired before.
   *
   * Moments are those of the wall clock, as in a token: when it is set, expiries move with it, and no other time limit does.
   * They are looked for together, so that one comes up to about 20 ms late, and up to a second after the clock was set forward.
   *
   * What it throws is answered as what a hook throws; anything but a moment, the seconds of a token among them, is a 500,
   * `FST_ERR_DUPLEX_INVALID_EXPIRY`.
   */
  expires?: DuplexExpiry | undefined
  /**
   * How long a connection may go on once it has expired.
   *
   * @default 0
   */
  expiryGrace?: Milliseconds | undefined
  /**
   * Names by which `app.duplex.find()` and `app.duplex.close()` know the connection. It is asked when the handler is about to be
   * entered, behind all hooks. Where one of them was closed since the request came, the request is refused: 403,
   * `FST_ERR_DUPLEX_REVOKED`.
   *
   * What it throws is answered as what a hook throws; anything but strings is a 500, `FST_ERR_DUPLEX_INVALID_LABEL`.
   */
  labels?: DuplexLabeller | undefined
  /** How fast a connection may be: see {@link DuplexRate}. */
  rate?: DuplexRate | undefined
}

/** The labels of one connection. When it is over they can still be read, and `find()` does not know it any more. */
export interface DuplexLabels extends Iterable<string> {
  readonly size: number
  has (label: string): boolean
  /** Throws `FST_ERR_DUPLEX_INVALID_LABEL` for what is no string. */
  add (label: string): this
  /** @returns whether it had it */
  delete (label: string): boolean
}

/** What every duplex request has to be governed by, before and after it was accepted. */
export interface GovernedDuplex {
  /** By what `app.duplex.find()` and `close()` know it. */
  readonly labels: DuplexLabels
  /**
   * Moves the end of the connection, or sets one where the route has none; undefined takes it away. During `expiryGrace` it
   * brings the connection back: `draining` is another signal then, which has not aborted. A moment that has passed is taken as
   * one, and ends it.
   *
   * Throws `FST_ERR_DUPLEX_INVALID_EXPIRY` for what is no moment, and for the seconds of a token.
   *
   * @returns false where it comes too late: the connection is over, or about to be for another reason
   */
  extend (until: DuplexMoment | undefined): boolean
}

/** How `app.duplex.close()` ends connections. */
export interface DuplexRevocation {
  /**
   * How long they may go on after `draining` has aborted. Those that are not accepted are refused at once.
   *
   * @default 0
   */
  within?: Milliseconds | undefined
  /**
   * The close code of those that are WebSockets: 1000 to 1003, 1007 to 1014, or 3000 to 4999.
   *
   * @default the `closeCode` of `error`, or 4403
   */
  code?: number | undefined
  /**
   * What `draining`, `signal` and `closed.error` tell, and what is answered to those that are not accepted.
   *
   * @default FST_ERR_DUPLEX_REVOKED, 403
   */
  error?: Error | undefined
}

/** What of `app.duplex` is about labels. */
export interface DuplexLabelled {
  /** The live connections with this label, pending ones included, as they are now. */
  find (label: string): (DuplexConnection | (PendingDuplex<DuplexKind> & { readonly accepted: false }))[]
  /**
   * Ends all connections with this label, `closed` says `revoked`. Also those whose request is on its way through hooks,
   * as soon as their labels are known. Its cost is that of the matches. Closed twice, a connection ends at the sooner of the two
   * moments. Throws `FST_ERR_DUPLEX_INVALID_OPTION` for options that are none.
   *
   * @returns how many it found, those on their way not counted
   */
  close (label: string, options?: DuplexRevocation): number
}
