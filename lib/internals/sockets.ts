// Sockets: what the kernel knows of them, and how Node tells it. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import { executionAsyncId } from 'node:async_hooks'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { constants } from 'node:os'
import { Duplex, Readable } from 'node:stream'

/** Called when a request head is parsed, before the body. */
type OnIncoming = (req: IncomingMessage, keepAlive: boolean) => number

interface Parser {
  onIncoming: OnIncoming | null
  maxHeaderPairs?: number
}

export interface HttpSocket extends Duplex {
  parser?: Parser | null
  _httpMessage?: ServerResponse | null
  _parent?: unknown
  /** On a connection in memory, which has no handle. */
  bytesInFlight?: number
  _handle?: { writeQueueSize?: number, getpeername?: (into: object) => number, getAsyncId?: () => number, reading?: boolean, readStart?: () => number } | null
}

/** The TCP socket beneath a TLS socket. */
export function socketBeneath (socket: Duplex): HttpSocket | undefined {
  const parent = (socket as HttpSocket)._parent
  return parent instanceof Duplex ? parent as HttpSocket : undefined
}

/** Where an address goes that nobody asked for. */
const ADDRESS = {}

/**
 * Whether the kernel has no peer for this socket any more. After the peer's FIN Node reads no further,
 * and does not see a reset; over TLS, after its close_notify, even a write never comes back.
 */
export function peerIsGone (socket: HttpSocket): boolean {
  const handle = (socketBeneath(socket) ?? socket)._handle
  return typeof handle?.getpeername === 'function' && handle.getpeername(ADDRESS) !== 0
}

/** On a socket: the number of its latest chunk among those of all sockets. */
const kChunk = Symbol('fastify-duplex.chunk')
let chunks = 0

/** Small integers need no memory. */
function nextChunk (): number {
  chunks = (chunks + 1) & 0x3fffffff
  return chunks
}

/**
 * Before our own end the kernel has a peer for this socket, unless that has reset it. To ask the kernel costs as much
 * as a read: where another socket was read since, the end was found in a poll of its own, and is one. Over TLS that
 * tells nothing, since what was read last may have been less than gives a chunk.
 */
export function endIsReset (socket: HttpSocket): boolean {
  const number = (socket as Telling)[kChunk]
  if (number !== undefined && number !== chunks && socketBeneath(socket) === undefined) return false
  return !socket.writableEnded && peerIsGone(socket)
}

/** A reset as Node tells it, errno included: by that a connection in memory knows the errors of others. */
export function resetByPeer (): Error {
  return Object.assign(new Error('read ECONNRESET'), { errno: -constants.errno.ECONNRESET, code: 'ECONNRESET', syscall: 'read' })
}

/** On a socket: who is told of a reset. It stays when nobody is any more, for the socket may go back to HTTP and come again. */
const kOnReset = Symbol('fastify-duplex.onReset')

interface Telling extends HttpSocket {
  [kOnReset]?: ((this: HttpSocket) => void) | undefined
  [kChunk]?: number
}

/**
 * Up to Node 22 libuv takes a reset for an end when it is found in the same poll as the last bytes, and what was
 * cut off there would pass for a whole. With this `onReset` is called, and the input does not end.
 */
export function tellResetFromEnd (socket: HttpSocket, onReset: (this: HttpSocket) => void): void {
  if (!Object.hasOwn(socket, kOnReset)) socket.push = pushUnlessReset
  ;(socket as Telling)[kOnReset] = onReset
  // What HTTP has read came with no push, and the end may be in the same poll.
  ;(socket as Telling)[kChunk] = nextChunk()
}

/** Ends that, unless somebody else is told by now. */
export function takeResetForEnd (socket: HttpSocket, onReset: (this: HttpSocket) => void): void {
  if ((socket as Telling)[kOnReset] !== onReset) return
  ;(socket as Telling)[kOnReset] = undefined
  if (Object.getOwnPropertyDescriptor(socket, 'push')?.value !== pushUnlessReset) return
  Reflect.deleteProperty(socket, 'push')
  Reflect.deleteProperty(socket, kOnReset)
}

/** The same function for all sockets. */
function pushUnlessReset (this: Telling, chunk: unknown, encoding?: BufferEncoding): boolean {
  if (chunk === null && this[kOnReset] !== undefined && endIsReset(this)) {
    this[kOnReset]()
    return false
  }
  if (chunk !== null) this[kChunk] = nextChunk()
  return (Object.getPrototypeOf(this) as HttpSocket).push.call(this, chunk, encoding)
}

/**
 * HTTP stops reading behind a response that its client does not take, and goes on by a listener that is gone once the
 * socket has left HTTP. The stream believes that it is being read, and would not ask again.
 */
export function goOnReading (socket: HttpSocket): void {
  const handle = socket._handle
  const { reading } = (socket as unknown as { _readableState: { reading: boolean } })._readableState
  if (handle?.reading !== false || !reading || handle.readStart === undefined) return
  handle.reading = true
  handle.readStart()
}

/** Bytes the kernel did not take yet, of the write that is under way. TLS has taken all of them at once. */
export function bytesInFlight (socket: HttpSocket): number {
  return (socketBeneath(socket) ?? socket)._handle?.writeQueueSize ?? socket.bytesInFlight ?? 0
}

/**
 * Whether an error that the socket is being destroyed with was passed on to it from elsewhere. The reset
 * of another socket looks like its own, which Node reports from the socket's handle, or by its writes.
 */
export function isPassedOn (socket: HttpSocket, error: Error): boolean {
  const handle = socket._handle?.getAsyncId?.()
  // A connection in memory has no errors of the system.
  if (handle === undefined) return 'errno' in error
  return handle !== executionAsyncId() && socket.errored !== error
}

/** HTTP forbids `setEncoding` on its sockets and does not lift that after an upgrade. */
export function allowSetEncoding (socket: HttpSocket): void {
  if (Object.hasOwn(socket, 'setEncoding')) socket.setEncoding = Readable.prototype.setEncoding as HttpSocket['setEncoding']
}
