import type { Duplex, Readable, Writable } from 'node:stream'

/** A side of a tunnel that comes as two streams; a `DuplexConnection` is one. */
export interface StreamPair {
  readonly readable: Readable
  readonly writable: Writable
}

/** One side of a tunnel: a connection, any pair of Node streams, or a Node duplex such as a socket. */
export type TunnelEnd = StreamPair | Duplex

/**
 * Gives `tunnel()` its upstream, such as `signal => dial(pending.authority, { signal })`.
 *
 * @param signal aborts when the client leaves, at `handshakeTimeout`, at the end of the drain, and when the tunnel fails.
 * It stays valid for as long as the tunnel: `spawn(command, { signal })` ends with its client
 */
export type TunnelOpener = (signal: AbortSignal) => TunnelEnd | PromiseLike<TunnelEnd>

/** What went through a tunnel, in bytes. */
export interface TunnelResult {
  /** From the connection to the upstream, early bytes included. */
  readonly bytesToUpstream: number
  /** From the upstream to the connection. */
  readonly bytesFromUpstream: number
}
