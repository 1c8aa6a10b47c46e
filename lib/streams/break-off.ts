import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { socketBeneath } from '../internals/sockets.ts'

/**
 * Destroys a socket with a TCP reset, so that the peer cannot take it for a clean end. A plain
 * `destroy(error)` looks like a clean end. Sockets without a reset, such as Unix sockets, are closed.
 */
export function breakOff (socket: Duplex, error: Error | undefined): void {
  if (socket.destroyed) return
  // While a FIN is being sent, the kernel refuses a reset with EINVAL, and Node then never closes the socket.
  if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) {
    socket.once('finish', () => breakOff(socket, error))
    return
  }
  const beneath = socketBeneath(socket)
  if (beneath instanceof Socket) {
    // On TLS a reset works only on the TCP socket beneath. TLS destroys that socket itself, and waits until
    // it is closed. If it were gone before that, OpenSSL's state would disappear in the middle of a read.
    beneath.destroy = () => {
      beneath.destroy = Socket.prototype.destroy
      reset(beneath)
      return beneath.destroy()
    }
  } else if (socket instanceof Socket) {
    reset(socket)
  }
  if (!socket.destroyed) socket.destroy(error)
}

function reset (socket: Socket): void {
  try {
    socket.resetAndDestroy()
  } catch {
    // Only TCP has a reset; a Unix socket is closed by the destroy that follows.
  }
}
