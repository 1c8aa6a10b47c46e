// Reading into memory of our own, as the public `onread` of net.connect() does. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import { Duplex } from 'node:stream'
import { Socket } from 'node:net'
import { countChunk, type HttpSocket } from './sockets.ts'

/**
 * Takes what a socket has read, past the socket's own stream. Each returns whether more may be read. If not, `readOn()` is to be
 * called later.
 */
export interface Receiver {
  /** The bytes are the receiver's own. */
  receive (bytes: Buffer): boolean
  /** The bytes are lent: they are overwritten once more may be read. */
  borrow (bytes: Buffer): boolean
}

const kReceiver = Symbol('fastify-duplex.receiver')

interface Handle {
  reading?: boolean
  readStart?: () => number
  useUserBuffer?: (buffer: Uint8Array) => unknown
}

interface ReadInto extends Socket {
  [kReceiver]?: Receiver | undefined
  _handle?: Handle | null
}

/** Node's own keys: of the buffer that a socket reads into, of what is called then, and of what gives the next buffer. */
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

/** Node reads as much at once. */
const WINDOW = 64 * 1024
/** A chunk of this size or more is handed out in the memory that it was read into. */
const LARGE = 32 * 1024
/** A relay that has filled a window reads as much at once. */
const WIDE = 256 * 1024
/** From here on a relay has a buffer of its own. A connection that is quiet for long ends with less, and gives it back. */
const SMALL = 4 * 1024

/** All sockets read into this one. It is copied out of it before anything else can be read. */
let shared: Buffer | undefined

/**
 * From now on the socket reads through a buffer that all sockets share. What is small is copied out of it, so that a small chunk
 * does not cost a new buffer of 64 KiB. What is large is read into buffers of its own, which are handed out. It cannot be undone.
 *
 * @returns whether it does, because this Node can, and the socket is one of the system's
 */
export function readThroughShared (socket: HttpSocket): boolean {
  const one = socket as unknown as ReadInto
  const handle = one._handle
  if (keys === undefined || typeof handle?.useUserBuffer !== 'function') return false
  // TLS copies each record into memory of its own size anyway, and does not stop in the middle of what it has decrypted.
  if ('encrypted' in socket) return false
  const target = one as unknown as Record<symbol, unknown>
  if (target[keys.called] === onBytes) return true
  // Somebody else reads it in this way.
  if (target[keys.buffer] !== null) return false
  shared ??= Buffer.allocUnsafeSlow(WINDOW)
  target[keys.buffer] = shared
  target[keys.called] = onBytes
  target[keys.next] = nextBuffer
  // For sockets with `onread`, which have no stream, net's own methods start and stop the handle.
  one.read = Duplex.prototype.read as ReadInto['read']
  one.pause = Duplex.prototype.pause as ReadInto['pause']
  one.resume = Duplex.prototype.resume as ReadInto['resume']
  handle.useUserBuffer(shared)
  return true
}

/**
 * From now on the bytes go to the receiver, unless the stream has some left, is paused, or has another reader. Undefined: they go
 * into the stream again.
 */
export function receiveFrom (socket: HttpSocket, receiver: Receiver | undefined): void {
  (socket as unknown as ReadInto)[kReceiver] = receiver
}

/** Goes on with reading. */
export function readOn (socket: HttpSocket): void {
  const handle = (socket as unknown as ReadInto)._handle
  if (handle == null || handle.reading !== false) return
  handle.reading = true
  handle.readStart?.()
}

/** Set by onBytes() for nextBuffer(), which is called right behind it, and without `this`. */
let next: Buffer | undefined

function nextBuffer (): Buffer | undefined {
  const buffer = next
  next = undefined
  return buffer
}

function onBytes (this: ReadInto, count: number, buffer: Buffer): boolean {
  const receiver = this[kReceiver]
  if (receiver !== undefined && this.readableFlowing === true && this.readableLength === 0 && this.listenerCount('data') === 1) {
    countChunk(this as unknown as HttpSocket)
    return relay(receiver, count, buffer)
  }
  if (buffer === shared) {
    const chunk = copyOf(buffer, count)
    const more = this.push(chunk)
    if (count === buffer.length) next = Buffer.allocUnsafeSlow(WINDOW)
    return more
  }
  if (count < LARGE) {
    const more = this.push(copyOf(buffer, count))
    next = shared
    return more
  }
  const more = this.push(count === buffer.length ? buffer : buffer.subarray(0, count))
  next = Buffer.allocUnsafeSlow(WINDOW)
  return more
}

function relay (receiver: Receiver, count: number, buffer: Buffer): boolean {
  if (buffer === shared) {
    const more = receiver.receive(copyOf(buffer, count))
    if (count > SMALL) next = Buffer.allocUnsafeSlow(WINDOW)
    return more
  }
  const more = receiver.borrow(count === buffer.length ? buffer : buffer.subarray(0, count))
  if (count <= SMALL) next = shared
  else if (count === WINDOW && buffer.length === WINDOW) next = Buffer.allocUnsafeSlow(WIDE)
  return more
}

/** The pool of small chunks. Whoever holds one holds as much memory as this. */
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
  // Typed arrays over it may want to be aligned.
  used += (count + 7) & ~7
  return copy
}
