import type { Duplex, Readable, Writable } from 'node:stream'

/** One side of a tunnel, as two streams. A `DuplexConnection` is one. */
export interface StreamPair {
  /** What comes from that side. */
  readonly readable: Readable
  /** What goes to that side. */
  readonly writable: Writable
}

/** One side of a tunnel: a connection, any pair of Node streams, or a Node duplex such as a socket. */
export type TunnelEnd = StreamPair | Duplex

/**
 * Opens the upstream of a `tunnel()`, such as `signal => dial(pending.authority, { signal })`.
 *
 * @param signal aborts when the client leaves, at `handshakeTimeout`, at the end of the drain, and when the tunnel fails.
 * It is valid as long as the tunnel lives: so `spawn(command, { signal })` ends with its client
 */
export type TunnelOpener = (signal: AbortSignal) => TunnelEnd | PromiseLike<TunnelEnd>

/** What went through a tunnel, in bytes. */
export interface TunnelResult {
  /** From the connection to the upstream, early bytes included. */
  readonly bytesToUpstream: number
  /** From the upstream to the connection. */
  readonly bytesFromUpstream: number
}
