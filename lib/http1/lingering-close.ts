import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { bytesInFlight, goOnReading, type HttpSocket } from '../internals/sockets.ts'
import { InactivityWatch } from '../streams/inactivity-watch.ts'
import { LINGER, MOST_DISCARDED, UNREAD_FOR } from '../streams/unread-limits.ts'
import type { Milliseconds } from '../../types/index.ts'

/**
 * RFC 9112 section 9.6: to close while the client still sends resets the connection, and the client loses the part of
 * the response that it has not read. So our side is ended first, and the client gets time to read.
 */
export function linger (socket: Duplex): void {
  const timer = setTimeout(() => socket.destroy(), LINGER)
  socket.once('close', () => clearTimeout(timer))
  socket.end()
}

/**
 * Closes after a refusal, RFC 9112 section 9.6: it ends our side, throws away what still arrives, parses nothing of it,
 * and destroys the socket if the client does not close in time.
 */
export function lingeringClose (socket: Duplex): void {
  if (socket.destroyed) return
  let left = MOST_DISCARDED
  socket.on('data', (chunk: Buffer) => {
    left -= chunk.length
    if (left < 0) socket.destroy()
  })
  socket.resume()
  linger(socket)
}

/**
 * The same behind a response that is cut: those before it may still be on their way, and a reset would cost the client what it
 * has not read of them.
 */
export function closeBehindAnswers (socket: HttpSocket): void {
  // Node's parser would take what still arrives for requests.
  socket.removeAllListeners('data')
  goOnReading(socket)
  lingeringClose(socket)
}

/**
 * Destroys the socket if bytes wait for the client, and it takes none of them for `limit`. As long as nothing waits, because
 * the app has not written its answer yet, the limit does not run.
 *
 * @returns a watch to stop when the answer is taken, or the connection is gone
 */
export function closeUnlessRead (socket: HttpSocket, limit: Milliseconds): InactivityWatch {
  return new InactivityWatch(limit > 0 ? limit : UNREAD_FOR, () => {
    const waiting = socket.writableLength + bytesInFlight(socket)
    return waiting === 0 ? performance.now() : (socket as unknown as Socket).bytesWritten - waiting
  }, () => {
    socket.destroy()
    return true
  })
}
