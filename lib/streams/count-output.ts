import type { Writable } from 'node:stream'

type Write = (this: Writable, chunk?: unknown, encoding?: unknown, callback?: unknown) => boolean

/** On a stream: how its output is counted. */
const kCounting = Symbol('fastify-duplex.counting')

interface Counting {
  readonly of: { bytesWritten: number }
  readonly inBytes: boolean
  readonly write: Write
  readonly end: Write
}

interface Counted extends Writable {
  [kCounting]: Counting
}

/**
 * Adds the bytes that are written into a stream to `of.bytesWritten`, for streams that do not count them.
 *
 * @param inBytes strings are written as Buffers. Over HTTP/2, if an empty chunk is written together with a string before it,
 * Node (seen on 20 to 26) sends unrelated memory in place of that string. Buffers do not have this fault.
 */
export function countOutput (writable: Writable, of: { bytesWritten: number }, inBytes = false): void {
  const counting: Counting = { of, inBytes, write: writable.write as Write, end: writable.end as unknown as Write }
  Object.assign(writable, { [kCounting]: counting, write, end })
}

// The same functions for all streams: a closure for each would cost memory as long as the stream lives.
function write (this: Counted, chunk?: unknown, encoding?: unknown, callback?: unknown): boolean {
  return count(this, this[kCounting].write, chunk, encoding, callback)
}

function end (this: Counted, chunk?: unknown, encoding?: unknown, callback?: unknown): boolean {
  return count(this, this[kCounting].end, chunk, encoding, callback)
}

function count (stream: Counted, proceed: Write, chunk: unknown, encoding: unknown, callback: unknown): boolean {
  const { of, inBytes } = stream[kCounting]
  if (chunk instanceof Uint8Array) {
    of.bytesWritten += chunk.length
  } else if (typeof chunk === 'string') {
    const charset = typeof encoding === 'string' ? encoding as BufferEncoding : 'utf8'
    if (inBytes) {
      const bytes = Buffer.from(chunk, charset)
      of.bytesWritten += bytes.length
      return proceed.call(stream, bytes, typeof encoding === 'function' ? encoding : callback)
    }
    of.bytesWritten += Buffer.byteLength(chunk, charset)
  } else if (ArrayBuffer.isView(chunk)) {
    // Node 20 takes no other view than bytes, and throws.
    const more = proceed.call(stream, chunk, encoding, callback)
    of.bytesWritten += chunk.byteLength
    return more
  }
  return proceed.call(stream, chunk, encoding, callback)
}
