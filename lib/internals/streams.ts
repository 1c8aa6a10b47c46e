// Streams. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { Duplex, Readable, Writable } from 'node:stream'
import { endIsReset } from './sockets.ts'

/** Makes `for await` leave the stream alive at its end. Node would destroy a Duplex, with its other half. */
export function iterateWithoutDestroying (readable: Readable): void {
  (readable as { [Symbol.asyncIterator]: unknown })[Symbol.asyncIterator] = iterate
}

function iterate (this: Readable): NodeJS.AsyncIterator<unknown> {
  return this.iterator({ destroyOnReturn: false })
}

/** Whether the end of input has arrived, behind bytes that are still to be read. No public property tells that. */
export function hasEnd (readable: Readable): boolean {
  return (readable as unknown as { _readableState: { ended: boolean } })._readableState.ended
}

/** Whether the stream is piped into others. No public property tells that. */
export function isPiped (readable: Readable): boolean {
  return (readable as unknown as { _readableState: { pipes: readonly unknown[] } })._readableState.pipes.length > 0
}

/** The encoding of strings that are written without one. `setDefaultEncoding()` sets it, and nothing public tells it. */
export function defaultEncoding (writable: Writable): BufferEncoding {
  return (writable as unknown as { _writableState: { defaultEncoding?: BufferEncoding } })._writableState?.defaultEncoding ?? 'utf8'
}

/** Whether the listener is Node's own: an HTTP/2 stream listens for its own end, with a method whose name is a symbol. */
function isNodesOwn (stream: object, listener: unknown): boolean {
  for (let object: object | null = Object.getPrototypeOf(stream); object !== null; object = Object.getPrototypeOf(object)) {
    for (const symbol of Object.getOwnPropertySymbols(object)) {
      if (Object.getOwnPropertyDescriptor(object, symbol)?.value === listener) return true
    }
  }
  return false
}

/**
 * Holds the end of input back until somebody reads. Otherwise an 'end' without a listener is lost, and a
 * stream past its end refuses `unshift()`.
 *
 * @returns a function that lets go of it
 */
export function holdEnd (socket: Duplex, onHeld: () => void): () => void {
  let held = false
  let holding = true
  const readers = (event: string | symbol, listener: unknown): void => {
    if (event === 'data' || event === 'readable' || (event === 'end' && !isNodesOwn(socket, listener))) process.nextTick(release)
  }
  const before = Object.getOwnPropertyDescriptor(socket, 'push')
  const push = socket.push as (chunk: unknown, encoding?: BufferEncoding) => boolean
  const holdingPush = function (this: Duplex, chunk: unknown, encoding?: BufferEncoding) {
    if (chunk !== null || !holding || endIsReset(this)) return push.call(this, chunk, encoding)
    held = true
    onHeld()
    return false
  }
  socket.push = holdingPush
  socket.on('newListener', readers)
  // The event may be that of a reader before, whose turn is over.
  const onResume = (): void => { if (socket.readableFlowing === true) release() }
  socket.on('resume', onResume)
  function release (): void {
    if (!holding) return
    holding = false
    socket.removeListener('newListener', readers)
    socket.removeListener('resume', onResume)
    if (before === undefined) Reflect.deleteProperty(socket, 'push')
    else socket.push = push
    if (held && !socket.destroyed) {
      socket.push(null)
      socket.read(0)
    }
  }
  return release
}

/**
 * What a request of Node's HTTP does when it is read for the first time. Until then its stream asks for nothing more after a
 * `push()`. Whoever replaces its `_read()` has to call this.
 */
export function beginReading (stream: Readable): void {
  const message = stream as unknown as { _consuming?: boolean, _readableState: { readingMore: boolean } }
  if (message._consuming !== false) return
  message._consuming = true
  message._readableState.readingMore = false
}
