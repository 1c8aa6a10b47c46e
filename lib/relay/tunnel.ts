import { acceptAndJoin } from './accept-and-join.ts'
import { End } from './end.ts'
import { join } from './join.ts'
import type { DuplexAcceptOptions, DuplexKind, PendingDuplex, TunnelEnd, TunnelOpener, TunnelResult } from '../../types/index.ts'

/**
 * Joins two duplexes until both directions have ended.
 *
 * Each direction has the other's backpressure, and its end is passed on as an end: a half-close on
 * one side becomes a half-close on the other, and what is still under way in the other direction
 * arrives. Both ends are made half-open, whatever they were made with. An error or a reset on either side destroys
 * both, once; where there is such a thing (TCP, TLS, HTTP/2), as a reset.
 *
 * Where one end is two streams, such as `{ readable: child.stdout, writable: child.stdin }`, an EPIPE or a close of the
 * writable one ends that direction alone: the output of the process still arrives. What comes for it then is read and thrown away.
 *
 * @param connection a connection of this plugin, or anything with `readable` and `writable`
 * @param upstream a Duplex such as a `net.Socket`, or such a pair
 * @returns the bytes that went each way; rejects with the error that tore the tunnel down
 */
export function tunnel (connection: TunnelEnd, upstream: TunnelEnd): Promise<TunnelResult>
/**
 * Opens the upstream, accepts the connection, and joins the two.
 *
 * `open` is called first. What it gives is watched from that tick on: nothing is accepted when it fails, and it is destroyed
 * when the connection cannot be accepted (the client has left, a hook throws, the server closes, `handshakeTimeout`).
 * What it sends early stays in it until the connection is accepted. A socket that is still connecting is waited for.
 *
 * Rejects, before acceptance, with what `open` throws; with `FST_ERR_DUPLEX_DIAL_FAILED` (502) when the upstream breaks
 * before acceptance; with what `accept()` rejects with; with the reason of `pending.signal` when the client has left; and with
 * `FST_ERR_DUPLEX_ALREADY_SENT` when a response was sent. All that can be answered is answered by the app's error handler
 * when the handler passes it on, except an upstream that breaks while the `onSend` hooks run: they cannot run again, and its 502
 * is sent without them.
 *
 * @param pending what a handler with `accept: 'manual'` got
 * @param open gives the upstream, or promises it. Its signal aborts when the client leaves, at `handshakeTimeout`, at the
 * end of the drain, and when the tunnel fails: an upstream that comes later is destroyed
 * @param acceptOptions what `accept()` gets
 * @returns the bytes that went each way; rejects with the error that tore the tunnel down
 */
export function tunnel<K extends DuplexKind, P extends string> (
  pending: PendingDuplex<K, P>, open: TunnelOpener, acceptOptions?: DuplexAcceptOptions<NoInfer<P>>
): Promise<TunnelResult>
export async function tunnel (
  first: TunnelEnd | PendingDuplex, second: TunnelEnd | TunnelOpener, acceptOptions?: DuplexAcceptOptions
): Promise<TunnelResult> {
  if (typeof second === 'function') return await acceptAndJoin(first as PendingDuplex, second, () => acceptOptions)
  const client = new End(first as TunnelEnd)
  try {
    return await join(client, new End(second))
  } finally {
    client.release()
  }
}
