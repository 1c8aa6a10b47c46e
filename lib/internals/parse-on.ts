// How Node's parser goes on behind an Upgrade that nobody takes. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import { maxHeaderSize, type IncomingMessage } from 'node:http'
import type { HttpSocket } from './sockets.ts'

type Executed = (result: unknown, ...rest: unknown[]) => unknown
/** How many bytes the parser has read, or an error. */
type Result = number | Error

/** On a parser: the message at hand has an Upgrade that is ignored. The parser stops behind it. */
const kStops = Symbol('fastify-duplex.stops')
/**
 * On a parser: it believes that an Upgrade has succeeded, until it has read the next head. Meanwhile it stops at an error without
 * a word.
 */
const kIsSilent = Symbol('fastify-duplex.silent')

/** The part of Node's parser that is used here. A number is the place of a callback. */
interface Parser {
  readonly constructor: { kOnExecute?: number, prototype: { execute?: (bytes: Buffer) => Result } }
  /** The parser reads the socket itself, and not by its 'data' events. */
  _consumed?: boolean
  socket?: object | null
  execute?: (bytes: Buffer) => Result
  /** A copy of what it reads at the moment. */
  getCurrentBuffer?: () => Buffer
  [kStops]?: boolean
  [kIsSilent]?: boolean
  [callback: number]: Executed | null | undefined
}

/** Sockets whose bytes come by 'data' events: those without a handle, and those on which bytes were put back, at first. */
const byEvents = new WeakSet<object>()
/** It has memory. The parser would take one without for the end of input. */
const NOTHING = Buffer.alloc(1).subarray(1)
/** Our callbacks. */
const ours = new WeakSet<Executed>()

/** Told of a socket before a new parser gets bytes that were put back on it. */
export function readsPutBack (socket: HttpSocket): void {
  byEvents.add(socket)
}

/** Called for a parser that is new on this socket, before it reads. Node uses parsers again. */
export function prepareParser (socket: HttpSocket): void {
  const parser = socket.parser as unknown as Parser
  headIsRead(parser)
  if (parser._consumed !== true) byEvents.add(socket)
  if (byEvents.has(socket) && typeof parser.execute === 'function') parser.execute = execute
}

/** Called for each head. */
export function headIsRead (parser: object): void {
  if ((parser as Parser)[kIsSilent] === true) (parser as Parser)[kIsSilent] = false
}

/**
 * Lets Node serve a request without a body as if it had no Upgrade. The parser stops behind such a request all the same, and Node
 * would drop what was read with it. So the parser is given the rest.
 *
 * @returns false if the connection is not read in a way in which that can be done
 */
export function parseOnBehind (req: IncomingMessage): boolean {
  // Deno's parser has the same names, and does not go on.
  if ('deno' in process.versions) return false
  const socket = req.socket as unknown as HttpSocket
  const parser = socket.parser as unknown as Parser | null | undefined
  const place = parser?.constructor.kOnExecute
  if (parser == null || place === undefined) return false
  const callback = parser[place]
  if (typeof callback !== 'function' || typeof parser.execute !== 'function' || typeof parser.getCurrentBuffer !== 'function') return false
  if (byEvents.has(socket) ? parser.execute !== execute : parser._consumed !== true) return false
  if (!ours.has(callback)) parser[place] = wrap(parser, callback)
  parser[kStops] = parser[kIsSilent] = true
  ;(req as unknown as { upgrade: boolean }).upgrade = false
  return true
}

/** The callback of a parser that reads the socket itself. */
function wrap (parser: Parser, usual: Executed): Executed {
  const wrapped: Executed = (result, ...rest) => {
    if (parser[kIsSilent] !== true) return usual(result, ...rest)
    const bytes = (parser.getCurrentBuffer as () => Buffer)()
    const read = goOn(parser, bytes, result as Result)
    // Node asks for these bytes behind a takeover or an error.
    parser.getCurrentBuffer = () => bytes
    try {
      return usual(read, ...rest)
    } finally {
      delete parser.getCurrentBuffer
    }
  }
  ours.add(wrapped)
  return wrapped
}

/** Stands for the method of a parser that is fed by 'data' events. */
function execute (this: Parser, bytes: Buffer): Result {
  // Node has put the parser away, and has taken it for another connection.
  if (this.socket == null || !byEvents.has(this.socket)) {
    delete this.execute
    return nodesExecute(this, bytes)
  }
  const result = nodesExecute(this, bytes)
  return this[kIsSilent] === true ? goOn(this, bytes, result) : result
}

/** @returns how many bytes were read in all */
function goOn (parser: Parser, bytes: Buffer, first: Result): Result {
  let read = 0
  let result = first
  while (typeof result === 'number') {
    read += result
    if (parser[kStops] !== true) break
    parser[kStops] = false
    result = read < bytes.length && parser.socket != null ? nodesExecute(parser, bytes.subarray(read)) : 0
  }
  if (typeof result !== 'number') return result
  return parser[kIsSilent] === true && parser.socket != null && hasFailed(parser, bytes.length - read) ? parseError(read, parser) : read
}

/** The parser does not tell that it has failed. But it reads no more: of nothing it claims to have read something. */
function hasFailed (parser: Parser, unread: number): boolean {
  return unread !== 0 || nodesExecute(parser, NOTHING) !== 0
}

function nodesExecute (parser: Parser, bytes: Buffer): Result {
  return (parser.constructor.prototype.execute as (bytes: Buffer) => Result).call(parser, bytes)
}

/** Like the parser's own error. */
function parseError (read: number, { socket }: Parser): Error {
  const { server } = socket as { server?: { maxHeaderSize?: number } }
  const isTooLong = read >= (server?.maxHeaderSize ?? maxHeaderSize)
  const [code, reason] = isTooLong ? ['HPE_HEADER_OVERFLOW', 'Header overflow'] : ['HPE_INVALID_CONSTANT', 'Expected a request']
  return Object.assign(new Error(`Parse Error: ${reason}`), { code, reason, bytesParsed: read })
}
