// Reading into a buffer of our own, in the way of the public option `onread` of net.connect(). Checked on Node 20.20, 22.23,
// 24.21 and 26.12.
import { Duplex, type Readable } from 'node:stream'
import { Socket } from 'node:net'
import { EachSecond } from '../tools/each-second.ts'
import { LiveSet } from '../tools/live-set.ts'
import { countChunk, replacePush, replacedPush, usualPush, type HttpSocket } from './sockets.ts'

/**
 * Takes bytes directly from a socket, without the socket's own stream. Each method returns whether more may be read. If not,
 * `startReading()` has to be called later.
 */
export interface Receiver {
  /** The receiver may keep these bytes. */
  receive (bytes: Buffer): boolean
  /** The receiver must not keep these bytes: the next read overwrites them. */
  borrow (bytes: Buffer): boolean
  /** Whether bytes that it has borrowed are still on their way. As long as they are, nobody may get their buffer. */
  readonly needsBorrowed: boolean
  /** Kept here by this file. The receiver starts all of them at 0, and lets them be: how many small reads came one after the other; */
  smallReads: number
  /** the second of the latest read; */
  readIn: number
  /** and how many times the socket has left its buffer because nothing came. */
  timesLeft: number
}

/** Takes each chunk directly from a socket, without the socket's own stream. To get no more it pauses that stream. */
export interface ChunkTaker {
  takeChunk (chunk: Buffer): void
}

const kReceiver = Symbol('fastify-duplex.receiver')
const kTaker = Symbol('fastify-duplex.taker')

interface Handle {
  reading?: boolean
  readStart?: () => number
  useUserBuffer?: (buffer: Uint8Array) => unknown
}

interface ReadInto extends Socket {
  [kReceiver]?: Receiver | undefined
  [kTaker]?: ChunkTaker | undefined
  _handle?: Handle | null
}

/**
 * Node's own keys on a socket: for the buffer that it reads into, for the function that is called then, and for the function
 * that gives the next buffer.
 */
interface Keys {
  readonly buffer: symbol
  readonly called: symbol
  readonly next: symbol
}

function keysOf (): Keys | undefined {
  const symbols = Object.getOwnPropertySymbols(new Socket())
  const [buffer, called, next] = ['kBuffer', 'kBufferCb', 'kBufferGen'].map(name => symbols.find(({ description }) => description === name))
  return buffer === undefined || called === undefined || next === undefined ? undefined : { buffer, called, next }
}

const keys = keysOf()

/** The size of a buffer for one read, as in Node. */
const WINDOW = 64 * 1024
/** A chunk of at least this size is not copied: its buffer is handed out. */
const LARGE = 32 * 1024
/** The size of the buffer of a relay that has filled a whole WINDOW. */
const WIDE = 256 * 1024
/**
 * A relay that has read more than this at once gets a buffer of its own. It gives the buffer back after a number of reads in a
 * row that were no larger: large messages often have small ends.
 */
const SMALL = 4 * 1024
const MOST_SMALL_READS = 16

/** The buffer that all sockets share. Every chunk is copied out of it before anything else can be read. */
let shared: Buffer | undefined

/**
 * From now on this socket reads into a buffer that all sockets share. A small chunk is copied out of it, so it does not cost a
 * new buffer of 64 KiB. Large chunks are read into buffers of their own, which are handed out. It cannot be undone.
 *
 * @returns false if this Node cannot do that, or if the socket is not one of the system
 */
export function readThroughShared (socket: HttpSocket): boolean {
  const one = socket as unknown as ReadInto
  const handle = one._handle
  if (isPostponed(socket)) replacePush(socket, undefined)
  if (keys === undefined || typeof handle?.useUserBuffer !== 'function') return false
  // TLS copies each record into memory of its own anyway. And it does not stop while it has decrypted bytes left.
  if ('encrypted' in socket) return false
  const target = one as unknown as Record<symbol, unknown>
  if (target[keys.called] === onBytes) return true
  // Somebody else already uses this way of reading.
  if (target[keys.buffer] !== null) return false
  shared ??= Buffer.allocUnsafeSlow(WINDOW)
  target[keys.buffer] = shared
  target[keys.called] = onBytes
  target[keys.next] = nextBuffer
  // Without this, net's own methods would start and stop the handle, because a socket with `onread` has no stream.
  one.read = Duplex.prototype.read as ReadInto['read']
  one.pause = Duplex.prototype.pause as ReadInto['pause']
  one.resume = Duplex.prototype.resume as ReadInto['resume']
  handle.useUserBuffer(shared)
  return true
}

/** The same from the third chunk on, because an idle connection, or one with a single message, has no use for it. */
export function readThroughSharedLater (socket: HttpSocket): void {
  const { useUserBuffer } = (socket as unknown as ReadInto)._handle ?? {}
  if (useUserBuffer !== undefined && !('encrypted' in socket) && replacedPush(socket) === undefined) replacePush(socket, pushFirst)
}

/** Whether the socket is to read through the shared buffer, and does not yet. */
function isPostponed (socket: HttpSocket): boolean {
  const push = replacedPush(socket)
  return push === pushFirst || push === pushSecond
}

function pushFirst (this: HttpSocket, chunk: unknown, encoding?: BufferEncoding): boolean {
  replacePush(this, pushSecond)
  return usualPush(this).call(this, chunk, encoding)
}

function pushSecond (this: HttpSocket, chunk: unknown, encoding?: BufferEncoding): boolean {
  if (chunk !== null) readThroughShared(this)
  return usualPush(this).call(this, chunk, encoding)
}

/**
 * From now on the receiver gets the bytes. The stream still gets them if it has unread bytes, is paused, or has another reader.
 */
export function receiveFrom (socket: HttpSocket, receiver: Receiver): void {
  (socket as unknown as ReadInto)[kReceiver] = receiver
}

/** The stream gets the bytes again. */
export function receiveNoMore (socket: HttpSocket): void {
  const one = socket as unknown as ReadInto
  const receiver = one[kReceiver]
  one[kReceiver] = undefined
  if (receiver === undefined || receiver.needsBorrowed || keys === undefined) return
  // Into the buffer of a socket that is over nothing is read any more.
  if (!socket.destroyed && !socket.readableEnded) return
  const target = one as unknown as Record<symbol, unknown>
  const buffer = target[keys.buffer] as Buffer | null
  if (buffer === null || buffer === shared) return
  target[keys.buffer] = shared
  owners.delete(one)
  giveBack(buffer)
}

/**
 * From now on the taker gets the chunks. The stream still gets them if it has unread bytes, is paused, is metered, or has another
 * reader. The taker is undefined: the stream gets them again.
 */
export function takeChunksFrom (stream: Readable, taker: ChunkTaker | undefined): void {
  if (stream instanceof Socket) (stream as ReadInto)[kTaker] = taker
}

/** Passes the next buffer from onBytes() to nextBuffer(). Node calls nextBuffer() right after onBytes(), without `this`. */
let next: Buffer | undefined

function nextBuffer (): Buffer | undefined {
  const buffer = next
  next = undefined
  return buffer
}

function onBytes (this: ReadInto, count: number, buffer: Buffer): boolean {
  const receiver = this[kReceiver]
  if (receiver !== undefined && hasOneReader(this)) {
    countChunk(this as unknown as HttpSocket)
    return relay(this, receiver, count, buffer)
  }
  if (buffer === shared) {
    const chunk = copyOf(buffer, count)
    const more = give(this, chunk)
    if (count === buffer.length) next = Buffer.allocUnsafeSlow(WINDOW)
    return more
  }
  if (count < LARGE) {
    const more = give(this, copyOf(buffer, count))
    next = shared
    return more
  }
  const more = give(this, count === buffer.length ? buffer : buffer.subarray(0, count))
  next = Buffer.allocUnsafeSlow(WINDOW)
  return more
}

function hasOneReader (socket: ReadInto): boolean {
  return socket.readableFlowing === true && socket.readableLength === 0 && socket.listenerCount('data') === 1
}

function give (socket: ReadInto, chunk: Buffer): boolean {
  const taker = socket[kTaker]
  if (taker === undefined || !hasOneReader(socket) || replacedPush(socket as unknown as HttpSocket) !== undefined) return socket.push(chunk)
  countChunk(socket as unknown as HttpSocket)
  taker.takeChunk(chunk)
  return true
}

function relay (socket: ReadInto, receiver: Receiver, count: number, buffer: Buffer): boolean {
  receiver.readIn = second
  if (buffer === shared) {
    const more = receiver.receive(copyOf(buffer, count))
    if (count > SMALL) {
      next = windows.take()
      owners.add(socket)
      idling.start()
    }
    return more
  }
  receiver.smallReads = count > SMALL ? 0 : receiver.smallReads + 1
  if (receiver.smallReads === MOST_SMALL_READS) {
    const more = receiver.receive(copyOf(buffer, count))
    if (!receiver.needsBorrowed) giveBack(buffer)
    next = shared
    owners.delete(socket)
    return more
  }
  const more = receiver.borrow(count === buffer.length ? buffer : buffer.subarray(0, count))
  if (count === WINDOW && buffer.length === WINDOW) next = wides.take()
  return more
}

/** Sockets of relays that have a buffer of their own. */
const owners = new LiveSet<ReadInto>()
let second = 0
const idling = new EachSecond(() => {
  second++
  for (const socket of owners) leaveIfIdle(socket)
  return owners.size > 0
})

/** Each time that a socket changes its buffer between two reads, Node keeps some fifty bytes more until the socket closes. */
const MOST_TIMES_LEFT = 100
/** On Windows the system has the buffer for the next read already. */
const CAN_LEAVE = process.platform !== 'win32'

/** A relay on which nothing came for a second gives its buffer back. */
function leaveIfIdle (socket: ReadInto): void {
  const receiver = socket[kReceiver]
  const handle = socket._handle
  if (receiver === undefined || keys === undefined || shared === undefined || typeof handle?.useUserBuffer !== 'function') {
    owners.delete(socket)
    return
  }
  const idle = receiver.readIn < second - 1 && !receiver.needsBorrowed
  if (!idle || !CAN_LEAVE || receiver.timesLeft === MOST_TIMES_LEFT) return
  owners.delete(socket)
  const target = socket as unknown as Record<symbol, unknown>
  const buffer = target[keys.buffer] as Buffer
  if (buffer === shared) return
  receiver.timesLeft++
  receiver.smallReads = 0
  target[keys.buffer] = shared
  handle.useUserBuffer(shared)
  giveBack(buffer)
}

/** At most so many bytes wait for the next relay. */
const MOST_SPARE = 4 * 1024 * 1024

/**
 * Buffers of relays that are not used now. Made anew for each burst of bytes they would be garbage of many megabytes. Those
 * that were not needed for a second are freed.
 */
class Spares {
  readonly #size: number
  readonly #buffers: Buffer[] = []
  /** How many were left at the least, since the last look. */
  #unused = 0
  readonly #looking = new EachSecond(() => {
    this.#buffers.length -= this.#unused
    this.#unused = this.#buffers.length
    return this.#unused > 0
  })

  constructor (size: number) {
    this.#size = size
  }

  take (): Buffer {
    const buffer = this.#buffers.pop()
    this.#unused = Math.min(this.#unused, this.#buffers.length)
    return buffer ?? Buffer.allocUnsafeSlow(this.#size)
  }

  give (buffer: Buffer): void {
    if (this.#buffers.length * this.#size >= MOST_SPARE) return
    this.#buffers.push(buffer)
    this.#looking.start()
  }
}

const windows = new Spares(WINDOW)
const wides = new Spares(WIDE)

function giveBack (buffer: Buffer): void {
  if (buffer.length === WINDOW) windows.give(buffer)
  else if (buffer.length === WIDE) wides.give(buffer)
}

/** The pool for small chunks. If somebody keeps one chunk, this much memory stays in use. */
const POOL = 8 * 1024
let pool: Buffer | undefined
let used = POOL

function copyOf (source: Buffer, count: number): Buffer {
  if (count > POOL / 4) {
    const copy = Buffer.allocUnsafeSlow(count)
    source.copy(copy, 0, 0, count)
    return copy
  }
  if (pool === undefined || used + count > POOL) {
    pool = Buffer.allocUnsafeSlow(POOL)
    used = 0
  }
  source.copy(pool, used, 0, count)
  const copy = pool.subarray(used, used + count)
  // Chunks begin at multiples of eight, because typed arrays over them need aligned memory.
  used += (count + 7) & ~7
  return copy
}
