import { Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { readThroughShared } from '../internals/read-buffer.ts'
import { hasOtherPush, type HttpSocket } from '../internals/sockets.ts'

/**
 * The socket whose bytes can go into the destination past its own stream, so that they are in one place only. Both have to be
 * sockets as Node makes them: whatever else is written into may keep a chunk, and its memory is used again.
 */
export function socketToRelay (from: Readable, to: Writable): HttpSocket | undefined {
  if (!(from instanceof Socket) || !(to instanceof Socket) || !writesAtOnce(to)) return undefined
  const socket = from as unknown as HttpSocket
  if (from.readableEncoding !== null || hasOtherPush(socket) || !readThroughShared(socket)) return undefined
  return socket
}

/** Nobody stands between `write()` and the kernel. */
function writesAtOnce (socket: Socket): boolean {
  return (['write', '_write', '_writev'] as const).every(name => !Object.hasOwn(socket, name)) &&
    socket._write === Socket.prototype._write && socket._writev === Socket.prototype._writev
}
