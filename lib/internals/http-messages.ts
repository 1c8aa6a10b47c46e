// Requests and responses of Node's HTTP/1. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import diagnostics from 'node:diagnostics_channel'
import { ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { clientLeft, type HttpSocket } from './sockets.ts'

/**
 * Removes all fields from a response that is not sent yet. When a framing field is removed, Node remembers that no
 * framing is wanted. This resets that, too.
 */
export function clearFields (res: ServerResponse): void {
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  Object.assign(res, { _removedConnection: false, _removedContLen: false, _removedTE: false })
}

/** The response that owns the socket now, if an earlier request is not answered yet. */
export function unfinishedResponse (socket: HttpSocket): ServerResponse | undefined {
  return socket._httpMessage ?? undefined
}

type Handler = (this: unknown, ...args: unknown[]) => void

/** Whether a message has begun to arrive, and is not complete. */
function isCutShort (socket: Duplex): boolean {
  return (socket as { parser?: { incoming?: { complete: boolean } | null } | null }).parser?.incoming?.complete === false
}

/** Node's own listener for the end of a connection that speaks HTTP. */
const SOCKET_ON_END = 'bound socketOnEnd'

/**
 * Node ends the connection, and with it the response, when a client half-closes. With this Node goes on to send as long as
 * `applies` returns true. The server has an undocumented switch for that, but it would change all routes. So it is on only
 * while Node's listener runs. In the middle of a message an end is always an error. Deno reports that error only with the switch off.
 *
 * @returns a function that undoes it. If the client has half-closed meanwhile, Node then does what it does for others, and
 * tells the requests that still wait
 */
export function tolerateHalfClose (socket: Duplex, server: object, applies: () => boolean): () => void {
  const nodes = (socket.listeners('end') as Handler[]).find(({ name }) => name === SOCKET_ON_END)
  if (nodes === undefined) return () => {}
  const switches = server as { httpAllowHalfOpen?: boolean }
  const { allowHalfOpen } = socket
  let tolerated = false
  const ours: Handler = function (...args) {
    const before = switches.httpAllowHalfOpen
    tolerated = applies() && !isCutShort(socket)
    if (tolerated) switches.httpAllowHalfOpen = true
    try {
      Reflect.apply(nodes, this, args)
    } finally {
      switches.httpAllowHalfOpen = before as boolean
    }
  }
  socket.allowHalfOpen = true
  socket.removeListener('end', nodes)
  socket.on('end', ours)
  return () => {
    if (!socket.listeners('end').includes(ours)) return
    socket.removeListener('end', ours)
    socket.on('end', nodes)
    socket.allowHalfOpen = allowHalfOpen
    if (tolerated && !socket.destroyed) nodes.call(socket)
  }
}

/**
 * When a response is over, Node takes its request for over, too: it throws away input that nobody has begun to
 * read, and after the last response of a connection it destroys the socket. With this the request goes
 * on to its own end. A response that only the end of the socket ends is still ended.
 *
 * @param applies asked when the response is over
 * @param finished called when Node is done with the response
 * @returns a function to call when the whole request has arrived
 */
export function outliveResponse (
  req: IncomingMessage, res: ServerResponse, socket: Socket, applies: () => boolean, finished: () => void = () => {}
): () => void {
  const destroySoon = Object.getOwnPropertyDescriptor(socket, 'destroySoon')
  let last = false
  const restore = (): void => {
    if (destroySoon === undefined) Reflect.deleteProperty(socket, 'destroySoon')
    else Object.defineProperty(socket, 'destroySoon', destroySoon)
  }
  const outlive = (): void => {
    (req as unknown as { _dump: () => void })._dump = () => {}
    if (req.complete) return
    socket.destroySoon = () => {
      last = true
      if (!res.chunkedEncoding) socket.end()
    }
  }
  // Node decides in its own listener. So this listener calls Node's, and acts before and after it.
  const nodes = res.listeners('finish') as Handler[]
  for (const listener of nodes) res.removeListener('finish', listener as () => void)
  res.prependOnceListener('finish', function (this: ServerResponse) {
    if (applies()) outlive()
    try {
      for (const listener of nodes) listener.call(this)
    } finally {
      restore()
      finished()
    }
  })
  return () => { if (last) socket.destroySoon() }
}

/** On a message: a function to call when the whole message has arrived, and the previous `push()`. */
const kWhole = Symbol('fastify-duplex.whole')

interface Arriving extends IncomingMessage {
  [kWhole]: { arrived: (() => void) | undefined, push: IncomingMessage['push'] }
}

/** Calls back once, when the whole message has arrived, whether anybody reads it or not. */
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

const MUTED: PropertyDescriptorMap = {
  headersSent: { value: true },
  writableEnded: { value: true },
  writeHead: { value: itself },
  // Up to Node 24 this is another name for writeHead().
  writeHeader: { value: itself },
  flushHeaders: { value: nothing },
  writeContinue: { value: nothing },
  writeProcessing: { value: nothing },
  writeEarlyHints: { value: nothing },
  writeInformation: { value: nothing },
  addTrailers: { value: nothing },
  write: { value: () => false },
  end: { value: itself }
}

const MUTED_NAMES = Object.keys(MUTED)

function itself (this: ServerResponse): ServerResponse { return this }

function nothing (): void {}

/**
 * Stands in for a response, for code that must not answer any more. It shows the state of the response, and ignores everything
 * that is written.
 */
export function mutedStandIn<T extends ServerResponse> (res: T): T {
  const kept = (name: 'statusCode' | 'statusMessage'): PropertyDescriptor => ({ get: () => res[name], set: nothing })
  const fields = Object.fromEntries(['setHeader', 'setHeaders', 'appendHeader', 'removeHeader'].map(name => [name, { value: itself }]))
  return Object.create(res, { ...MUTED, ...fields, statusCode: kept('statusCode'), statusMessage: kept('statusMessage') }) as T
}

/** Prototypes of muted responses, by the prototype of Node's that they extend. */
const mutedPrototypes = new WeakMap<object, object>()

/**
 * From now on nothing that is sent through this response reaches the wire or stays in memory. Node has no way to do that.
 * Changing the prototype costs less than eleven properties on each response.
 */
export function muteResponse (res: ServerResponse): void {
  const own = res as ServerResponse & { mute?: () => void }
  if (own.mute !== undefined) {
    own.mute()
  } else {
    const prototype = Object.getPrototypeOf(res) as object
    let muted = mutedPrototypes.get(prototype)
    if (muted === undefined) {
      muted = Object.create(prototype, MUTED) as object
      mutedPrototypes.set(prototype, muted)
    }
    Object.setPrototypeOf(res, muted)
  }
  // Middleware may have replaced Node's methods on the response itself.
  for (const name of MUTED_NAMES) if (Object.hasOwn(res, name)) Object.defineProperty(res, name, MUTED[name] as PropertyDescriptor)
}

const start = diagnostics.channel('http.server.request.start')
const finish = diagnostics.channel('http.server.response.finish')

/** Tells tracers that a request has begun. Node does that only for requests that it emits itself. */
export function publishStart (res: ServerResponse, server: object): void {
  if (!start.hasSubscribers && !finish.hasSubscribers) return
  const about = { request: res.req, response: res, socket: res.req.socket, server }
  published.set(res, about)
  if (start.hasSubscribers) start.publish(about)
}

/** Tells tracers that a response is over, once for each that was told to begin. */
export function publishFinish (res: ServerResponse): void {
  const about = published.get(res)
  if (about === undefined) return
  published.delete(res)
  if (finish.hasSubscribers) finish.publish(about)
}

const published = new WeakMap<ServerResponse, object>()

const NO_OUTPUT: readonly never[] = Object.freeze([])

/** An object without properties, inherited ones included, that takes as little memory as an object can. */
const NoListeners = function (this: object) {} as unknown as new () => object
NoListeners.prototype = Object.create(null)

/**
 * Frees what a request and its response keep for what cannot come any more. The connection has left HTTP, and the response is
 * muted, so it never has output. And each has an empty table of listeners, with room for many.
 */
export function shedWeight (req: IncomingMessage, res: ServerResponse): void {
  ;(res as unknown as { outputData: readonly never[] }).outputData = NO_OUTPUT
  shrinkEmptyTable(req)
  shrinkEmptyTable(res)
}

function shrinkEmptyTable (emitter: object): void {
  const { _eventsCount: count } = emitter as { _eventsCount?: number }
  if (count === 0) (emitter as { _events?: object | undefined })._events = new NoListeners()
}

/** How many texts of a head are compared, and how long they may be. */
const MOST_TEXTS = 64
const LONGEST_TEXT = 256

/** The texts of the latest head, each at its place. */
const texts: string[] = []
let url: string | undefined

/**
 * Most heads of a server have most texts in common. Texts that are equal to those of the head before are shared, so that they
 * take memory once, and not once for each connection. It has to come before `req.headers` is made of them.
 */
export function shareTexts (req: IncomingMessage): void {
  const { rawHeaders } = req
  const most = Math.min(rawHeaders.length, MOST_TEXTS)
  for (let at = 0; at < most; at++) {
    const text = rawHeaders[at] as string
    const before = texts[at]
    if (text === before) rawHeaders[at] = before
    else if (text.length <= LONGEST_TEXT) texts[at] = text
  }
  if (req.url === url) req.url = url as string
  else if (req.url !== undefined && req.url.length <= LONGEST_TEXT) url = req.url
  // Node puts this together for each request.
  if (req.httpVersion === '1.1') req.httpVersion = '1.1'
}

/** Closes a response, as Node does after every response that it has sent. */
export function closeResponse (res: ServerResponse): void {
  if (res.closed) return
  const closing = res as unknown as { destroyed: boolean, _closed: boolean }
  closing.destroyed = true
  closing._closed = true
  res.emit('close')
}

/** Aborts a request, as Node does when its client has left. */
export function abortRequest (req: IncomingMessage): void {
  req.destroy(clientLeft())
}

/** Destroys a request and not its connection. Node destroys both, unless the request has no socket then. */
export function destroyOnlyRequest<T> (req: IncomingMessage, destroy: () => T): T {
  const { socket } = req
  const request = req as { socket: Socket | null }
  request.socket = null
  try {
    return destroy()
  } finally {
    request.socket = socket
  }
}

/**
 * Replaces the `destroy()` of a socket by one that does nothing.
 *
 * @returns a function that undoes it
 */
function spare (socket: Duplex): () => void {
  const before = Object.getOwnPropertyDescriptor(socket, 'destroy')
  socket.destroy = () => socket
  return () => {
    if (before === undefined) Reflect.deleteProperty(socket, 'destroy')
    else Object.defineProperty(socket, 'destroy', before)
  }
}

/** Destroys a response and not its connection. Node destroys both. */
export function destroyOnlyResponse<T> (socket: Duplex, destroy: () => T): T {
  const restore = spare(socket)
  try {
    return destroy()
  } finally {
    restore()
  }
}

/**
 * Calls back when it is the turn of a response that was destroyed before its turn. Up to Node 22 Node would destroy the
 * connection then.
 */
export function onTurnOfDestroyed (res: ServerResponse, turn: () => void): void {
  res.prependOnceListener('socket', (socket: Socket) => {
    process.nextTick(spare(socket))
    turn()
  })
}

/**
 * Ends a request whose connection left HTTP, so that hooks which clean up get its 'close'. Such a request would never
 * end. It is not destroyed, because that would mean that it was aborted.
 */
export function endRequest (req: IncomingMessage): void {
  if (req.destroyed) return
  req.complete = true
  req.push(null)
  // With nothing to read, that alone emits 'end', and makes no reader of the request.
  if (req.readableLength === 0 && req.readableFlowing === null) req.read(0)
  else req.resume()
}

/** The class that the server makes its responses of. Whoever made the server may have chosen it. */
export function responseClass (server: object): typeof ServerResponse {
  const symbol = Object.getOwnPropertySymbols(server).find(symbol => symbol.description === 'ServerResponse')
  const chosen: unknown = symbol === undefined ? undefined : Reflect.get(server, symbol)
  return typeof chosen === 'function' ? chosen as typeof ServerResponse : ServerResponse
}

/**
 * Calls the 'finish' listeners of a response that was cut, except Node's own, which would go on to the next response.
 *
 * @param nodes Node's own listeners
 */
export function tellFinish (res: ServerResponse, nodes: readonly unknown[]): void {
  for (const listener of res.rawListeners('finish') as ((this: ServerResponse) => void)[]) {
    if (!nodes.includes((listener as { listener?: unknown }).listener ?? listener)) listener.call(res)
  }
}

/** The property of a request in which Node counts the entries of `rawHeaders`. */
let kHeadersCount: symbol | undefined

/**
 * Gives a request the header fields of another. Node makes `headersDistinct` of `rawHeaders` when somebody asks for it, as many as
 * it has counted. The parser has read fewer of them, so the count is set, too.
 */
export function showAsItCame (req: IncomingMessage, original: IncomingMessage): void {
  req.rawHeaders = original.rawHeaders
  req.headers = original.headers
  kHeadersCount ??= Object.getOwnPropertySymbols(req).find(({ description }) => description === 'kHeadersCount')
  if (kHeadersCount !== undefined) Reflect.set(req, kHeadersCount, original.rawHeaders.length)
  // Where this Node counts in another way, or somebody has asked before.
  else req.headersDistinct = original.headersDistinct
}
