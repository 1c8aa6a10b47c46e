import { Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { readThroughShared } from '../internals/read-buffer.ts'
import { replacedPush, type HttpSocket } from '../internals/sockets.ts'

/**
 * Returns the socket whose bytes can go to the destination without passing its own stream, so that no byte is stored twice.
 * Both ends have to be plain sockets of Node. Any other destination might keep a chunk, whose memory is used again.
 */
export function directSource (from: Readable, to: Writable): HttpSocket | undefined {
  if (!(from instanceof Socket) || !(to instanceof Socket) || !hasNodesWrites(to)) return undefined
  const socket = from as unknown as HttpSocket
  if (from.readableEncoding !== null || !readThroughShared(socket) || replacedPush(socket) !== undefined) return undefined
  return socket
}

/** Whether nothing stands between `write()` and the kernel. */
function hasNodesWrites (socket: Socket): boolean {
  return (['write', '_write', '_writev'] as const).every(name => !Object.hasOwn(socket, name)) &&
    socket._write === Socket.prototype._write && socket._writev === Socket.prototype._writev
}
