import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { bytesInFlight, type HttpSocket } from '../internals/sockets.ts'
import { SilenceWatch, UNREAD_FOR } from '../connection/silence-watch.ts'
import type { Milliseconds } from '../../types/index.ts'

/** How much of what still arrives is read and thrown away, and for how long, before the socket goes. */
const MOST_BYTES = 1024 * 1024
const LONGEST = 2000

/**
 * Closes after a refusal, RFC 9112 section 9.6: our side is ended, what still arrives is discarded
 * and never parsed, and a client that does not close in its turn is not waited for.
 */
export function lingeringClose (socket: Duplex): void {
  if (socket.destroyed) return
  let left = MOST_BYTES
  const timer = setTimeout(() => socket.destroy(), LONGEST)
  socket.once('close', () => clearTimeout(timer))
  socket.on('data', (chunk: Buffer) => {
    left -= chunk.length
    if (left < 0) socket.destroy()
  })
  socket.resume()
  socket.end()
}

/**
 * A client that takes nothing of what waits for it, for as long as this, is not waited for. An answer that its
 * app has not made yet is not the client's silence.
 *
 * @returns what is to be stopped when the answer is taken, or the connection gone
 */
export function closeUnlessRead (socket: HttpSocket, limit: Milliseconds): SilenceWatch {
  return new SilenceWatch(limit > 0 ? limit : UNREAD_FOR, () => {
    const waiting = socket.writableLength + bytesInFlight(socket)
    return waiting === 0 ? performance.now() : (socket as unknown as Socket).bytesWritten - waiting
  }, () => {
    socket.destroy()
    return true
  })
}
