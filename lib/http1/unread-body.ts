import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { InactivityWatch } from '../streams/inactivity-watch.ts'
import { MOST_DISCARDED } from '../streams/unread-limits.ts'
import { linger } from './lingering-close.ts'
import type { Milliseconds } from '../../types/index.ts'

/**
 * Throws away the rest of a body, RFC 9110 section 10.1.1, and closes the connection if that is too much.
 *
 * @param answered whether the whole response was sent: it must not be cut
 * @param tooMuch called once, if the connection has to be closed
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
 * The same for a request that was refused. If the client stops sending for `inactivityLimit`, the socket is destroyed.
 */
export function discardRefused (req: IncomingMessage, socket: Socket, inactivityLimit: Milliseconds): void {
  discardBody(req, () => true, () => linger(socket))
  if (inactivityLimit === 0) return
  const watch = new InactivityWatch(inactivityLimit, () => socket.bytesRead, () => {
    socket.destroy()
    return true
  })
  req.once('close', () => watch.stop())
}
