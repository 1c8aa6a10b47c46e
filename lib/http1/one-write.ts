import type { HttpSocket } from '../internals/sockets.ts'

/** On a socket: whether its writes are held back by us. */
const kHeld = Symbol('fastify-duplex.held')

interface Held extends HttpSocket {
  [kHeld]?: boolean
}

/** Lets what is written until the end of this tick leave in one write: the accept head, and what the handler writes first. */
export function writeAtOnce (socket: HttpSocket): void {
  if ((socket as Held)[kHeld] === true) return
  (socket as Held)[kHeld] = true
  socket.cork()
  process.nextTick(letGo, socket)
}

/** Lets it leave now, because the socket is about to be destroyed. */
export function letGo (socket: HttpSocket): void {
  if ((socket as Held)[kHeld] !== true) return
  (socket as Held)[kHeld] = false
  socket.uncork()
}
