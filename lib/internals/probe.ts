// Whether this Node has what the others here need, asked at registration.
import { Server } from 'node:http'
import { Duplex } from 'node:stream'
import { onRequestHead } from './http-parser.ts'
import type { HttpSocket } from './sockets.ts'

/** What is missing, for an error at registration rather than with the first lost byte. */
export function assertNodeInternals (): string | undefined {
  const server = new Server()
  const socket: HttpSocket = new Duplex({ read () {}, write (_chunk, _encoding, done) { done() } })
  server.emit('connection', socket)
  const missing = onRequestHead(socket, () => undefined)
    ? undefined
    : 'its HTTP server has no parser.onIncoming on the socket'
  socket.destroy()
  return missing
}
