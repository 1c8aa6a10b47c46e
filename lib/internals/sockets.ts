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
  /** HTTP has stopped reading, and goes on when the responses are sent. */
  _paused?: boolean
  /** On a connection in memory, which has no handle. */
  bytesInFlight?: number
  _handle?: {
    writeQueueSize?: number
    getpeername?: (into: object) => number
    getAsyncId?: () => number
    reading?: boolean
    readStart?: () => number
    readStop?: () => number
  } | null
}

/** The TCP socket beneath a TLS socket. */
export function socketBeneath (socket: Duplex): HttpSocket | undefined {
  const parent = (socket as HttpSocket)._parent
  return parent instanceof Duplex ? parent as HttpSocket : undefined
}

/** `getpeername()` writes the address here. Nobody reads it. */
const ADDRESS = {}

/**
 * Whether the kernel no longer has a peer for this socket. After the peer's FIN Node does not read,
 * and does not see a reset. Over TLS, after the peer's close_notify, not even a write fails.
 */
export function peerIsGone (socket: HttpSocket): boolean {
  const handle = (socketBeneath(socket) ?? socket)._handle
  return typeof handle?.getpeername === 'function' && handle.getpeername(ADDRESS) !== 0
}

/** On a socket: the number of its latest chunk among those of all sockets. */
const kChunk = Symbol('fastify-duplex.chunk')
let chunks = 0

/** A chunk has been read past `push()`. */
export function countChunk (socket: HttpSocket): void {
  (socket as ResetWatched)[kChunk] = nextChunk()
}

/** The number stays small, because V8 stores small integers without memory of their own. */
function nextChunk (): number {
  chunks = (chunks + 1) & 0x3fffffff
  return chunks
}

/**
 * Whether this end of input is a reset. Before our side has ended, the kernel has a peer for the socket unless the peer has
 * reset it. To ask the kernel costs as much as a read. So it is not asked if another socket was read since the last chunk: then
 * the end was found in a poll of its own, and is a real end. Over TLS that proves nothing, because the last read may have been
 * too short for a chunk.
 */
export function endIsReset (socket: HttpSocket): boolean {
  const number = (socket as ResetWatched)[kChunk]
  if (number !== undefined && number !== chunks && socketBeneath(socket) === undefined) return false
  return !socket.writableEnded && peerIsGone(socket)
}

/** The error of a reset, as Node makes it. It has an `errno`, by which connections in memory tell errors of the network. */
export function resetByPeer (): Error {
  return Object.assign(new Error('read ECONNRESET'), { errno: -constants.errno.ECONNRESET, code: 'ECONNRESET', syscall: 'read' })
}

/** The error that Node aborts a request with, whose client has left. */
export function clientLeft (): Error {
  return Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
}

/** On a socket: the function that is told of a reset. The property stays, because the socket may go back to HTTP and return. */
const kOnReset = Symbol('fastify-duplex.onReset')

/** On a socket: what stands in place of its usual push. */
const kBeneath = Symbol('fastify-duplex.beneath')

type Push = (this: HttpSocket, chunk: unknown, encoding?: BufferEncoding) => boolean

interface ResetWatched extends HttpSocket {
  [kOnReset]?: ((this: HttpSocket) => void) | undefined
  [kChunk]?: number
  [kBeneath]?: Push | undefined
}

/** What stands in place of the usual push. */
export function replacedPush (socket: HttpSocket): Push | undefined {
  return (socket as ResetWatched)[kBeneath]
}

/** Puts another push in place of the usual one, or none, beneath all that is told of a reset or waits for a reader. */
export function replacePush (socket: HttpSocket, push: Push | undefined): void {
  (socket as ResetWatched)[kBeneath] = push
}

/**
 * Up to Node 22 libuv reports a reset as an end if it finds the reset in the same poll as the last bytes. A cut stream would
 * look complete. With this, `onReset` is called, and the input does not end.
 */
export function watchReset (socket: HttpSocket, onReset: (this: HttpSocket) => void): void {
  if (!(kOnReset in socket)) socket.push = pushUnlessReset
  ;(socket as ResetWatched)[kOnReset] = onReset
  // HTTP's own reads do not call push(), and the end may be in the same poll as the last of them.
  countChunk(socket)
}

/** Undoes watchReset(), unless another function is told meanwhile. */
export function unwatchReset (socket: HttpSocket, onReset: (this: HttpSocket) => void): void {
  if ((socket as ResetWatched)[kOnReset] !== onReset) return
  ;(socket as ResetWatched)[kOnReset] = undefined
  if (Object.getOwnPropertyDescriptor(socket, 'push')?.value !== pushUnlessReset) return
  Reflect.deleteProperty(socket, 'push')
  Reflect.deleteProperty(socket, kOnReset)
}

/** The same function for all sockets. */
function pushUnlessReset (this: ResetWatched, chunk: unknown, encoding?: BufferEncoding): boolean {
  if (chunk === null && this[kOnReset] !== undefined && endIsReset(this)) {
    this[kOnReset]()
    return false
  }
  if (chunk !== null) countChunk(this)
  return (this[kBeneath] ?? usualPush(this)).call(this, chunk, encoding)
}

export function usualPush (socket: HttpSocket): HttpSocket['push'] {
  return (Object.getPrototypeOf(socket) as HttpSocket).push
}

/**
 * HTTP stops reading when a client does not take its response. It goes on by a listener that is gone after the socket has left
 * HTTP. The stream believes that it is being read, and would never ask again. And when the response is sent, HTTP lets the
 * socket flow, even without a reader: everything that came meanwhile would be lost.
 */
export function goOnReading (socket: HttpSocket): void {
  if (socket._paused === true) socket._paused = false
  if ((socket as unknown as { _readableState: { reading: boolean } })._readableState.reading) startReading(socket)
}

/** Lets the handle read, if it was stopped. Its stream does not hear of that. */
export function startReading ({ _handle: handle }: HttpSocket): void {
  if (handle?.reading !== false || handle.readStart === undefined) return
  handle.reading = true
  handle.readStart()
}

/** The bytes of the current write that the kernel has not taken yet. They are at the TCP socket, because TLS takes all at once. */
export function bytesInFlight (socket: HttpSocket): number {
  return (socketBeneath(socket) ?? socket)._handle?.writeQueueSize ?? socket.bytesInFlight ?? 0
}

/**
 * Whether the error that a socket is destroyed with belongs to another stream. The reset of another socket looks the same.
 * But Node reports the socket's own errors from its handle, or by its writes.
 */
export function isPassedOn (socket: HttpSocket, error: Error): boolean {
  const handle = socket._handle?.getAsyncId?.()
  // A connection in memory has no errors of the system.
  if (handle === undefined) return 'errno' in error
  // Deno's callbacks of handles have no async id to compare. So the error is taken for the socket's own.
  if ('deno' in process.versions) return false
  return handle !== executionAsyncId() && socket.errored !== error
}

/** HTTP forbids `setEncoding()` on its sockets, and does not allow it again after an upgrade. */
export function allowSetEncoding (socket: HttpSocket): void {
  if (Object.hasOwn(socket, 'setEncoding')) socket.setEncoding = Readable.prototype.setEncoding as HttpSocket['setEncoding']
}
