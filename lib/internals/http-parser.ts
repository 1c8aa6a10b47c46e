// The parser of Node's HTTP/1 server. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import http, { Server, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { bytesArePutBack, headIsRead, prepareParser } from './parse-on.ts'
import { countingRequests, nodeCountsAnew } from './request-count.ts'
import type { HttpSocket } from './sockets.ts'

/**
 * `req.upgrade` is true if the parser saw `Connection: upgrade` with `Upgrade`, or CONNECT. The parser then stops at the end of
 * this message.
 */
interface UpgradableRequest {
  upgrade: boolean
}

/** What a hook may return: stop behind the head, or parse the body. */
const TAKE_OVER = 2
const PARSE_BODY = 0

/** On a function that runs a hook. A `WeakSet` of them would cost more time for each connection, and more of the collector's. */
const kHooked = Symbol('fastify-duplex.hooked')

/**
 * Runs `hook` for every request head on this socket. The hook decides what happens to the bytes behind the head. If it returns
 * nothing, Node decides. There is no public way to see a head before Node decides.
 */
export function onRequestHead (socket: HttpSocket, hook: (req: IncomingMessage) => number | undefined): boolean {
  const parser = socket.parser
  const original = parser?.onIncoming
  if (parser == null || typeof original !== 'function') return false
  prepareParser(socket)
  // Several apps may watch one connection.
  const next = Object.hasOwn(original, kHooked) ? original : countingRequests(socket, original)
  const onIncoming: typeof original & { [kHooked]?: true } = function (req, keepAlive) {
    headIsRead(parser)
    return hook(req) ?? next.call(parser, req, keepAlive)
  }
  onIncoming[kHooked] = true
  parser.onIncoming = onIncoming
  return true
}

/** Ends HTTP on the connection behind this head: Node emits 'upgrade' or 'connect', with all bytes that follow. */
export function takeOver (req: IncomingMessage): number {
  (req as unknown as UpgradableRequest).upgrade = true
  return TAKE_OVER
}

/**
 * The same behind the body: Node parses the body as usual, and then emits 'upgrade' with the bytes that follow.
 * It is not for chunked bodies, because the parser would swallow their errors.
 *
 * @param complete called when the body has arrived, before Node emits
 */
export function takeOverAfterBody (req: IncomingMessage, complete: () => void): number {
  const request = req as unknown as UpgradableRequest
  request.upgrade = false
  const push = Readable.prototype.push
  req.push = function (this: IncomingMessage, chunk: unknown, encoding?: BufferEncoding) {
    if (chunk === null) {
      request.upgrade = true
      req.push = push
      complete()
    }
    return push.call(this, chunk, encoding)
  }
  return PARSE_BODY
}

/** Whether the parser saw an Upgrade (or CONNECT) in this head. */
export function sawUpgrade (req: IncomingMessage): boolean {
  return (req as unknown as UpgradableRequest).upgrade
}

/** Node 20 drops header fields above a limit without an error, even Content-Length. Later versions refuse the request. */
const LOSES_FIELDS = Number.parseInt(process.versions.node, 10) < 22

/** How many entries of `rawHeaders` the parser gives in one batch. */
const BATCH = 62

/** Whether header fields were lost: then nobody knows where the request ends. A head with exactly as many as allowed lost none. */
export function hasLostFields ({ socket, rawHeaders }: IncomingMessage): boolean {
  if (!LOSES_FIELDS) return false
  const limit = (socket as unknown as HttpSocket | null)?.parser?.maxHeaderPairs ?? 0
  if (limit <= 0 || rawHeaders.length < limit) return false
  // The last batch of a head is not full. So a full one means that another would have followed.
  return rawHeaders.length > limit || rawHeaders.length % BATCH === 0
}

type UpgradeCallback = (req: IncomingMessage) => boolean

interface AskingServer {
  shouldUpgradeCallback?: UpgradeCallback
}

/** The source of Node's own callback, if this Node has one (from 22.21 and 24.9 on). */
const usual = String((new Server() as AskingServer).shouldUpgradeCallback)

let latest: { callback: UpgradeCallback, own: boolean } | undefined

/** The `shouldUpgradeCallback` that the app gave to the server of a request, if it did. */
export function upgradeCallback (req: IncomingMessage): UpgradeCallback | undefined {
  const { server } = req.socket as unknown as { server?: AskingServer }
  const callback = server?.shouldUpgradeCallback
  if (callback === undefined) return undefined
  if (latest?.callback !== callback) latest = { callback, own: String(callback) !== usual }
  return latest.own ? req => Boolean(callback.call(server, req)) : undefined
}

interface ConnectionListener {
  _connectionListener: (this: Server, socket: HttpSocket) => void
}

/**
 * Gives a socket to Node's HTTP/1 server, as if the server had accepted it. The event 'connection' would do that, too, but tell
 * everybody who listens, and they know this connection. Node exports this function without documenting it.
 */
export function speakHttp (server: Server, socket: HttpSocket): void {
  bytesArePutBack(socket)
  // The timeout of an idle connection may run, and would strike this request. Node replaces it only if the server has a timeout.
  if (timeoutOf(socket) > 0) (socket as unknown as Socket).setTimeout(server.timeout)
  nodeCountsAnew(socket)
  ;(http as unknown as ConnectionListener)._connectionListener.call(server, socket)
}

function timeoutOf (socket: HttpSocket): number {
  return (socket as unknown as Socket).timeout ?? 0
}

/** Bun has a server of HTTP that is not made of sockets. */
export function canSpeakHttp (): boolean {
  return typeof (http as unknown as Partial<ConnectionListener>)._connectionListener === 'function'
}

type Handler = (...args: unknown[]) => void

/** Node's own listeners on a socket that speaks HTTP. */
export interface NodesListeners {
  close: Handler[]
  timeout: Handler[]
}

/**
 * Node's own listeners, before Node takes them off. It does that when a socket leaves HTTP, although earlier requests may still
 * wait for their answers. Without the listeners nobody tells them that their client has left, and no timeout ends the connection.
 */
export function nodesListeners (socket: HttpSocket): NodesListeners {
  return { close: socket.listeners('close') as Handler[], timeout: socket.listeners('timeout') as Handler[] }
}

/** Puts back the listeners that Node has taken off. @returns a function that takes them off again */
export function restoreListeners (socket: HttpSocket, { close, timeout }: NodesListeners, timeouts: boolean): () => void {
  const missing: [event: string, listener: Handler][] = []
  for (const [event, listeners] of [['close', close], ...timeouts ? [['timeout', timeout] as const] : []] as const) {
    const present = new Set(socket.listeners(event))
    for (const listener of listeners) if (!present.has(listener)) missing.push([event, listener])
  }
  for (const [event, listener] of missing) socket.on(event, listener)
  return () => { for (const [event, listener] of missing) socket.removeListener(event, listener) }
}
