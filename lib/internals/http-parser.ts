// The parser of Node's HTTP/1 server. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { HttpSocket } from './sockets.ts'

/**
 * Called when a request head is parsed, before the body. `req.upgrade` says that the parser saw
 * `Connection: upgrade` with `Upgrade`, or CONNECT, and so stops at the end of this message.
 */
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
