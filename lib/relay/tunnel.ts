import { acceptAndJoin } from './accept-and-join.ts'
import { TunnelSide } from './tunnel-side.ts'
import { join } from './join.ts'
import type { DuplexAcceptOptions, DuplexKind, PendingDuplex, TunnelEnd, TunnelOpener, TunnelResult } from '../../types/index.ts'

/**
 * Joins two duplexes until both directions have ended.
 *
 * Both directions have backpressure. A half-close on one side becomes a half-close on the other, and the other direction goes
 * on. Both ends are made half-open, whatever options they were made with. An error or a reset on one side breaks off
 * both: by a reset on TCP, TLS and HTTP/2.
 *
 * If one end is two streams, such as `{ readable: child.stdout, writable: child.stdin }`, an EPIPE or a close of the
 * writable one ends that direction alone: the output of the process still arrives. Further input for the process is thrown away.
 *
 * @param connection a connection of this plugin, or anything with `readable` and `writable`
 * @param upstream a Duplex such as a `net.Socket`, or a pair
 * @returns the bytes that went each way; rejects with the error that ended the tunnel
 */
export function tunnel (connection: TunnelEnd, upstream: TunnelEnd): Promise<TunnelResult>
/**
 * Opens the upstream, accepts the connection, and joins the two.
 *
 * `open` is called first. Its upstream is watched from the tick in which it is known. If it fails, nothing is accepted. If the
 * connection cannot be accepted (the client has left, a hook throws, the server closes, `handshakeTimeout`), it is destroyed.
 * Bytes that it sends early stay in it until acceptance. A socket that is still connecting is waited for.
 *
 * Before acceptance it rejects
 *
 * - with the error of `open`;
 * - with `FST_ERR_DUPLEX_DIAL_FAILED` (502), if the upstream breaks;
 * - with the error of `accept()`;
 * - with the reason of `pending.signal`, if the client has left;
 * - with `FST_ERR_DUPLEX_ALREADY_SENT`, if a response was sent.
 *
 * If the handler returns this promise, the app's error handler answers. One case is different: if the upstream breaks while
 * the `onSend` hooks run, these cannot run again, and the 502 is sent without them.
 *
 * @param pending the pending connection of a handler with `accept: 'manual'`
 * @param open returns or promises the upstream. Its signal aborts when the client leaves, at `handshakeTimeout`, at the
 * end of the drain, and when the tunnel fails. An upstream that comes after that is destroyed
 * @param acceptOptions the options of `accept()`
 * @returns the bytes that went each way; rejects with the error that ended the tunnel
 */
export function tunnel<K extends DuplexKind, P extends string> (
  pending: PendingDuplex<K, P>, open: TunnelOpener, acceptOptions?: DuplexAcceptOptions<NoInfer<P>>
): Promise<TunnelResult>
export async function tunnel (
  first: TunnelEnd | PendingDuplex, second: TunnelEnd | TunnelOpener, acceptOptions?: DuplexAcceptOptions
): Promise<TunnelResult> {
  if (typeof second === 'function') return await acceptAndJoin(first as PendingDuplex, second, () => acceptOptions)
  const client = new TunnelSide(first as TunnelEnd)
  try {
    return await join(client, new TunnelSide(second))
  } finally {
    client.release()
  }
}
