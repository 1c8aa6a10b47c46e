import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { SilenceWatch } from '../connection/silence-watch.ts'
import type { Milliseconds } from '../../types/index.ts'

/** How much of a request body is read and thrown away, so that its connection can serve again. */
export const MOST_DISCARDED = 1024 * 1024

/** How long a client that sends more than that has to read the response, in milliseconds. */
const LINGER = 2000

/**
 * Throws away what still arrives of a body, RFC 9110 section 10.1.1, and closes where that is too much.
 *
 * @param answered whether the response is out, which is not cut short
 * @param tooMuch called once, where the connection has to be closed
 */
export function discardBody (req: IncomingMessage, answered: () => boolean, tooMuch: () => void): void {
  let discarded = 0
  const discard = (chunk: Buffer): void => {
    discarded += chunk.length
    if (discarded <= MOST_DISCARDED || !answered()) return
    req.removeListener('data', discard)
    req.pause()
    tooMuch()
  }
  req.unpipe()
  req.on('data', discard)
  req.resume()
}

/**
 * RFC 9112 section 9.6: to close while the client still sends is to reset, and that would take from it
 * what it has not read yet of the response. Our side is ended first, and it gets time to read.
 */
export function linger (socket: Socket): void {
  const timer = setTimeout(() => socket.destroy(), LINGER)
  socket.once('close', () => clearTimeout(timer))
  socket.end()
}

/**
 * The same for a request that was refused. A client that is silent as long as `silentFor` before its body has come
 * is not waited for.
 */
export function discardRefused (req: IncomingMessage, socket: Socket, silentFor: Milliseconds): void {
  discardBody(req, () => true, () => linger(socket))
  if (silentFor === 0) return
  const watch = new SilenceWatch(silentFor, () => socket.bytesRead, () => {
    socket.destroy()
    return true
  })
  req.once('close', () => watch.stop())
}
