import type { ServerResponse } from 'node:http'
import type { HttpSocket } from '../internals/sockets.ts'

/** On a socket: whether this file holds its writes back. */
const kHeld = Symbol('fastify-duplex.held')

interface Held extends HttpSocket {
  [kHeld]?: boolean
}

/** Holds writes back until the end of this tick. So the accept head, and the first bytes of the handler, leave in one write. */
export function holdWrites (socket: HttpSocket): void {
  if ((socket as Held)[kHeld] === true) return
  (socket as Held)[kHeld] = true
  socket.cork()
  process.nextTick(releaseWrites, socket)
}

/** Lets held writes leave now, because the socket is about to be destroyed. */
export function releaseWrites (socket: HttpSocket): void {
  if ((socket as Held)[kHeld] !== true) return
  (socket as Held)[kHeld] = false
  socket.uncork()
}

/** The same for writes of a response, which Node holds back until the end of the tick: in the socket, or since Node 26 in the response. */
export function releaseAllWrites (res: ServerResponse, socket: HttpSocket): void {
  releaseWrites(socket)
  while (res.writableCorked > 0) res.uncork()
  while (socket.writableCorked > 0) socket.uncork()
}
