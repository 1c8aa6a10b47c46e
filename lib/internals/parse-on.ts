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

interface ParserClass {
  new (): Parser
  readonly kOnExecute?: number
  readonly REQUEST?: number
  readonly kLenientAll?: number
  readonly prototype: { execute?: (bytes: Buffer) => Result, finish?: () => Error | undefined }
}

/** The part of Node's parser that is used here. A number is the place of a callback. */
interface Parser {
  readonly constructor: ParserClass
  /** The parser reads the socket itself, and not by its 'data' events. */
  _consumed?: boolean
  socket?: object | null
  execute?: (bytes: Buffer) => Result
  /** Tells the parser that the input has ended. */
  finish?: () => Error | undefined
  /** A copy of what it reads at the moment. */
  getCurrentBuffer?: () => Buffer
  initialize?: (type: number, resource: object, maxHeaderSize: number, lenient: number) => void
  free?: () => void
  close?: () => void
  [kStops]?: boolean
  [kIsSilent]?: boolean
  [callback: number]: Executed | null | undefined
}

interface Unfinished {
  pieces: Buffer[]
  length: number
  /** There was more than is kept. */
  isTooLong: boolean
}

/** By its socket: what a silent parser has read of the next head. */
const unfinished = new WeakMap<object, Unfinished>()
/** Sockets whose parser has read on behind an ignored Upgrade. */
const readOn = new WeakSet<object>()
/** Sockets whose bytes come by 'data' events: those without a handle, and those on which bytes were put back, at first. */
const byEvents = new WeakSet<object>()
/** It has memory. The parser would take one without for the end of input. */
const NOTHING = Buffer.alloc(1).subarray(1)
/** Our callbacks. */
const ours = new WeakSet<Executed>()

/** Told of a socket before a new parser gets bytes that were put back on it. */
export function bytesArePutBack (socket: HttpSocket): void {
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
  const silent = parser as Parser
  if (silent[kIsSilent] !== true) return
  silent[kIsSilent] = false
  if (silent.socket != null) unfinished.delete(silent.socket)
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
  readOn.add(socket)
  parser.finish = finish
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
  // Where the head begins that is not complete.
  let from = 0
  while (typeof result === 'number') {
    read += result
    if (parser[kStops] !== true) break
    parser[kStops] = false
    from = read
    result = read < bytes.length && parser.socket != null ? nodesExecute(parser, bytes.subarray(read)) : 0
  }
  if (typeof result !== 'number') return countedFrom(result, read)
  if (parser[kIsSilent] !== true || parser.socket == null) return read
  const behind = bytes.subarray(from)
  if (hasFailed(parser, bytes.length - read)) return parseError(parser, parser.socket, bytes, behind)
  keep(parser.socket, behind)
  return read
}

/** The parser does not tell that it has failed. But it reads no more: of nothing it claims to have read something. */
function hasFailed (parser: Parser, unread: number): boolean {
  return unread !== 0 || nodesExecute(parser, NOTHING) !== 0
}

function nodesExecute (parser: Parser, bytes: Buffer): Result {
  return (parser.constructor.prototype.execute as (bytes: Buffer) => Result).call(parser, bytes)
}

function headLimit (socket: object): number {
  return (socket as { server?: { maxHeaderSize?: number } }).server?.maxHeaderSize ?? maxHeaderSize
}

/** So many pieces are joined: the object of one that has a single byte takes a hundred. */
const MOST_PIECES = 64

/** The parser does not limit white space in a head. So more than any head that it accepts is not kept. */
function keep (socket: object, bytes: Buffer): void {
  if (bytes.length === 0) return
  const kept = unfinished.get(socket) ?? { pieces: [], length: 0, isTooLong: false }
  unfinished.set(socket, kept)
  kept.length += bytes.length
  if (kept.length > 2 * headLimit(socket)) kept.isTooLong = true
  // The bytes may be a small part of a large buffer.
  if (kept.isTooLong) kept.pieces = []
  else kept.pieces.push(Buffer.from(bytes))
  if (kept.pieces.length >= MOST_PIECES) kept.pieces = [Buffer.concat(kept.pieces)]
}

/**
 * What the parser would have told.
 *
 * @param bytes what was read at once
 * @param behind the part of it that belongs to this head
 */
function parseError (parser: Parser, socket: object, bytes: Buffer, behind: Buffer): Error {
  const { error, length } = readAgain(parser, socket, behind, false)
  if (error !== undefined) return countedFrom(error, bytes.length - length)
  const reason = 'Expected a request'
  return Object.assign(new Error(`Parse Error: ${reason}`), { code: 'HPE_INVALID_CONSTANT', reason, bytesParsed: bytes.length })
}

/** Stands for the method of a parser. */
function finish (this: Parser): Error | undefined {
  const { socket } = this
  const error = this.constructor.prototype.finish?.call(this)
  // Node has put the parser away, and has taken it for another connection.
  if (socket == null || !readOn.has(socket)) {
    delete this.finish
    return error
  }
  const told = error ?? (this[kIsSilent] === true ? readAgain(this, socket, NOTHING, true).error : undefined)
  // The parser would count from where it stopped last.
  return told && Object.assign(told, { bytesParsed: 0 })
}

/** Another parser reads what the silent one has read of a head, and tells of its errors. */
function readAgain (
  { constructor: Parser }: Parser, socket: object, behind: Buffer, ends: boolean
): { error: Error | undefined, length: number } {
  const before = unfinished.get(socket)
  unfinished.delete(socket)
  const head = Buffer.concat([...before?.pieces ?? [], behind])
  const isLenient = (socket as { server?: { insecureHTTPParser?: boolean } }).server?.insecureHTTPParser === true
  const other = new Parser()
  other.initialize?.(Parser.REQUEST ?? 1, {}, headLimit(socket), isLenient ? Parser.kLenientAll ?? 0 : 0)
  let result: Result | undefined
  // Of a head that is too long only the end is here.
  if (before?.isTooLong !== true && head.length > 0) result = nodesExecute(other, head)
  if (ends && typeof result === 'number') result = other.finish?.()
  other.free?.()
  other.close?.()
  return { error: typeof result === 'number' ? undefined : result, length: head.length }
}

/** An error tells where it is. Node counts from the beginning of what was read at once. */
function countedFrom (error: Error & { bytesParsed?: number }, more: number): Error {
  if (error.bytesParsed !== undefined) error.bytesParsed += more
  return error
}
