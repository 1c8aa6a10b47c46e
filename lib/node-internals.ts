// Everything this package knows of Node's insides. Checked on Node 20.20, 22.23, 24.21 and 26.10;
// `assertNodeInternals` runs at registration and test/node-internals.test.ts on every version.
import { executionAsyncId, executionAsyncResource } from 'node:async_hooks'
import { Server, type ClientRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { Http2Stream, ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { constants } from 'node:os'
import { Duplex, Readable } from 'node:stream'

/**
 * Called when a request head is parsed, before the body. `req.upgrade` says that the parser saw
 * `Connection: upgrade` with `Upgrade`, or CONNECT, and so stops at the end of this message.
 */
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
  _handle?: { writeQueueSize?: number, getpeername?: (into: object) => number, getAsyncId?: () => number } | null
}

interface UpgradableRequest {
  upgrade: boolean
}

/** What a head hook may answer. */
export const TAKE_OVER = 2
export const PARSE_BODY = 0

/**
 * Runs `hook` for every request head on this socket, which decides what follows it, or leaves that to Node with no answer.
 * There is no public way to see a head before Node decides.
 */
export function onRequestHead (socket: HttpSocket, hook: (req: IncomingMessage) => number | undefined): boolean {
  const parser = socket.parser
  const original = parser?.onIncoming
  if (parser == null || typeof original !== 'function') return false
  parser.onIncoming = function (req, keepAlive) {
    return hook(req) ?? original.call(parser, req, keepAlive)
  }
  return true
}

/** Ends HTTP on the connection with this head: Node emits 'upgrade' or 'connect' with all that follows it. */
export function takeOver (req: IncomingMessage): number {
  (req as unknown as UpgradableRequest).upgrade = true
  return TAKE_OVER
}

/**
 * The same after the body: Node parses it as usual, then emits 'upgrade' with what follows it.
 * Not for chunked bodies, whose errors the parser then swallows.
 */
export function takeOverAfterBody (req: IncomingMessage): number {
  const request = req as unknown as UpgradableRequest
  request.upgrade = false
  const push = Readable.prototype.push
  req.push = function (this: IncomingMessage, chunk: unknown, encoding?: BufferEncoding) {
    if (chunk === null) {
      request.upgrade = true
      req.push = push
    }
    return push.call(this, chunk, encoding)
  }
  return PARSE_BODY
}

/** Whether the parser saw an Upgrade (or CONNECT) in this head. */
export function sawUpgrade (req: IncomingMessage): boolean {
  return (req as unknown as UpgradableRequest).upgrade
}

/**
 * Node 20 drops header fields above a limit without an error, Content-Length among them; later
 * versions refuse the request. A head at the limit can be no base for a takeover.
 */
export function mayHaveLostHeaders (req: IncomingMessage): boolean {
  const limit = (req.socket as unknown as HttpSocket | null)?.parser?.maxHeaderPairs ?? 0
  return limit > 0 && req.rawHeaders.length >= limit
}

/**
 * Takes all fields off a response that is not sent. Node understands the removal of a field that frames
 * as the wish to have no framing; this takes that back, too.
 */
export function clearFields (res: ServerResponse): void {
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  Object.assign(res, { _removedConnection: false, _removedContLen: false, _removedTE: false })
}

/** The response that owns the socket now, if an earlier request is not answered yet. */
export function unfinishedResponse (socket: HttpSocket): ServerResponse | undefined {
  return socket._httpMessage ?? undefined
}

const tolerant = new WeakSet<Duplex>()

/**
 * Node ends the connection, and with it the response, as soon as a client half-closes. This makes it
 * send what is being sent while `applies` says so, and end then. There is a switch for it on the
 * server, which is not documented and would change all routes: it is on while one event is emitted.
 */
export function tolerateHalfClose (socket: Duplex, server: object, applies: () => boolean): void {
  if (tolerant.has(socket)) return
  tolerant.add(socket)
  const switches = server as { httpAllowHalfOpen?: boolean }
  let before: boolean | undefined
  socket.allowHalfOpen = true
  socket.prependListener('end', () => {
    before = switches.httpAllowHalfOpen
    if (applies()) switches.httpAllowHalfOpen = true
  })
  socket.on('end', () => {
    if (before !== undefined) switches.httpAllowHalfOpen = before
  })
}

/**
 * Node takes the end of a response for the end of its request: it throws away what nobody has begun to
 * read, and behind the last response of a connection it destroys the socket. With this the request goes
 * on to its own end. A response that has no other end than the socket's is ended all the same.
 *
 * @param applies asked when the response is over
 * @returns what is to be called when the request has arrived whole
 */
export function outliveResponse (req: IncomingMessage, res: ServerResponse, socket: Socket, applies: () => boolean): () => void {
  const { destroySoon } = socket
  let last = false
  // Node decides in its own listener, which stands between these two.
  res.prependOnceListener('finish', () => {
    if (!applies()) return
    ;(req as unknown as { _dump: () => void })._dump = () => {}
    if (req.complete) return
    socket.destroySoon = () => {
      last = true
      if (!res.chunkedEncoding) socket.end()
    }
  })
  res.once('finish', () => { socket.destroySoon = destroySoon })
  return () => { if (last) socket.destroySoon() }
}

/** Node tells a request that its client has vanished, but only until the response is over. From then on this does. */
export function watchVanishing (req: IncomingMessage, socket: Socket): void {
  if (req.complete || socket.destroyed) return
  const vanished = (): void => { if (!req.complete) req.destroy(Object.assign(new Error('aborted'), { code: 'ECONNRESET' })) }
  socket.once('close', vanished)
  req.once('close', () => socket.removeListener('close', vanished))
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
function endIsReset (socket: Telling): boolean {
  const number = socket[kChunk]
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
  if ((socket as Telling)[kOnReset] === onReset) (socket as Telling)[kOnReset] = undefined
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

/** Reads from a Duplex until the end without destroying it, which would cost the other half. */
export function iterateWithoutDestroying (readable: Readable): void {
  (readable as { [Symbol.asyncIterator]: unknown })[Symbol.asyncIterator] = iterate
}

function iterate (this: Readable): NodeJS.AsyncIterator<unknown> {
  return this.iterator({ destroyOnReturn: false })
}

/** Whether the end of input is behind what is buffered: known before it is read, and told by no property. */
export function hasEnd (readable: Readable): boolean {
  return (readable as unknown as { _readableState: { ended: boolean } })._readableState.ended
}

/** A stream of HTTP/2 listens for its own end, by a method that only a symbol names, when the end has come. */
function isNodesOwn (stream: object, listener: unknown): boolean {
  for (let object: object | null = Object.getPrototypeOf(stream); object !== null; object = Object.getPrototypeOf(object)) {
    for (const symbol of Object.getOwnPropertySymbols(object)) {
      if (Object.getOwnPropertyDescriptor(object, symbol)?.value === listener) return true
    }
  }
  return false
}

/**
 * The end of input, held back until somebody reads: an 'end' without a listener is lost, and a
 * stream past its end refuses `unshift`. Nothing is held when a reader is there already.
 */
export function holdEnd (socket: Duplex, onHeld: () => void): () => void {
  let held = false
  let holding = true
  const readers = (event: string | symbol, listener: unknown): void => {
    if (event === 'data' || event === 'readable' || (event === 'end' && !isNodesOwn(socket, listener))) process.nextTick(release)
  }
  const push = socket.push as (chunk: unknown, encoding?: BufferEncoding) => boolean
  socket.push = function (this: Duplex, chunk: unknown, encoding?: BufferEncoding) {
    if (chunk !== null || !holding || endIsReset(this)) return push.call(this, chunk, encoding)
    held = true
    onHeld()
    return false
  }
  socket.on('newListener', readers)
  socket.on('resume', release)
  function release (): void {
    if (!holding) return
    holding = false
    socket.removeListener('newListener', readers)
    socket.removeListener('resume', release)
    socket.push = push
    if (held && !socket.destroyed) {
      socket.push(null)
      socket.read(0)
    }
  }
  return release
}

/**
 * Node's client takes every response to a CONNECT for an established tunnel. This makes it read those that
 * are none as it reads other responses: 1xx are passed over, and a body is decoded.
 */
export function decodeRefusals (req: ClientRequest): void {
  Object.defineProperty(req, 'method', {
    get () {
      const status = (req as unknown as { res?: IncomingMessage | null }).res?.statusCode
      return status === undefined || (status >= 200 && status < 300) ? 'CONNECT' : 'GET'
    }
  })
}

/** When the server has ended its side of the connection Node's client ends, or destroys, its own. Now it does not. */
export function outliveServerEnd (socket: Duplex): void {
  const { end, destroy } = socket
  // Node's own listener stands between these two.
  socket.prependListener('end', () => { socket.end = socket.destroy = () => socket })
  socket.on('end', () => { Object.assign(socket, { end, destroy }) })
}

/** On a message: who is told when it has arrived whole, and the `push()` that was there before. */
const kWhole = Symbol('fastify-duplex.whole')

interface Arriving extends IncomingMessage {
  [kWhole]: { arrived: (() => void) | undefined, push: IncomingMessage['push'] }
}

/** Calls once when a message has arrived whole, whether or not anybody reads it. */
export function onWhole (message: IncomingMessage, arrived: () => void): void {
  const whole = (message as Partial<Arriving>)[kWhole]
  if (whole === undefined) {
    (message as Arriving)[kWhole] = { arrived, push: message.push }
    message.push = pushUntilWhole
  } else {
    const { arrived: others } = whole
    whole.arrived = () => {
      others?.()
      arrived()
    }
  }
}

/** The same function for all messages. */
function pushUntilWhole (this: Arriving, chunk: unknown, encoding?: BufferEncoding): boolean {
  const whole = this[kWhole]
  if (chunk === null) {
    const { arrived } = whole
    whole.arrived = undefined
    if (this.complete) arrived?.()
  }
  return whole.push.call(this, chunk, encoding)
}

/**
 * Calls once when the peer has ended a stream of HTTP/2, when all that it sent is there to be read. Node pushes the
 * same end into a stream that it tears down.
 */
export function onEndStream (stream: Http2Stream, came: () => void): void {
  const { push } = stream
  stream.push = (chunk: unknown, encoding?: BufferEncoding) => {
    const end = chunk === null && !stream.closed && !stream.destroyed
    const more = push.call(stream, chunk, encoding)
    if (end) {
      stream.push = push
      came()
    }
    return more
  }
}

/** RST_STREAM alone. Node would end the output first, and send END_STREAM with it: the peer could take that for the end. */
export function resetStream (stream: Http2Stream, code: number): void {
  if (stream.closed || stream.destroyed) return
  stream.end = (() => stream) as typeof stream.end
  stream.close(code)
  Reflect.deleteProperty(stream, 'end')
  stream.destroy()
}

/** On a connection without a handle a session of HTTP/2 has a socket of Node's, which knows nothing of the peer. */
export function lendAddress (session: ServerHttp2Session, socket: Socket & { encrypted: boolean }): void {
  Object.assign(session.socket, {
    _peername: { address: socket.remoteAddress, family: socket.remoteFamily, port: socket.remotePort },
    encrypted: socket.encrypted
  })
}

/** One of the objects that `process.nextTick()` makes, each of which is the async resource of its callback. */
const ticks: object[] = []

/**
 * V8 knows the shape of these objects for as long as there are any. A full collection that finds none, before `nextTick()` has
 * been compiled, leaves it to be compiled without their shape: then each call takes several times as long, and every chunk of
 * a stream takes some, until the process ends. Which processes are hit is chance, and more of them where an app has much to
 * load. One that is kept keeps the shape; it has to be before that collection.
 */
export function keepTickShape (): void {
  if (ticks.length === 0) process.nextTick(() => ticks.push(executionAsyncResource()))
}

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
