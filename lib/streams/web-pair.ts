import { finished, type FinishedOptions, type Readable, type Writable } from 'node:stream'
import { errorOf } from '../tools/thrown.ts'
import type { DuplexWebPair } from '../../types/index.ts'

/** Makes a chunk of a web stream from a chunk of a Node stream. */
type ChunkOf = (chunk: never) => Uint8Array<ArrayBuffer>

/**
 * Converts each half on its own. `Readable.toWeb()` and `Writable.toWeb()` wait until both halves of a
 * socket have ended: on Node 20 and 22 a read is not done before that, and on all versions `close()` is not.
 */
export function webPair (readable: Readable, writable: Writable, chunkOf: ChunkOf = bytesOf): DuplexWebPair {
  return { readable: webReadable(readable, chunkOf), writable: webWritable(writable) }
}

/**
 * An HTTP/2 stream may be over on the wire while bytes of it are still to be read. `finished()` would take that for a premature
 * close. So it asks when the stream is really closed.
 */
function whenOver (stream: Readable | Writable, sides: FinishedOptions, over: (error?: Error | null) => void): void {
  if (stream.closed && !stream.destroyed) stream.once('close', () => finished(stream, sides, over))
  else finished(stream, sides, over)
}

/** Reads only when asked to. Cancelling it destroys the stream. */
function webReadable (readable: Readable, chunkOf: ChunkOf): DuplexWebPair['readable'] {
  const chunks = readable.iterator({ destroyOnReturn: false }) as AsyncIterator<never>
  return new ReadableStream({
    start (controller) {
      whenOver(readable, { writable: false }, error => { if (error != null) controller.error(error) })
    },
    async pull (controller) {
      const { done, value } = await chunks.next()
      if (done === true) controller.close()
      else controller.enqueue(chunkOf(value))
    },
    cancel (reason) { readable.destroy(errorOf(reason)) }
  }, { highWaterMark: 0 })
}

/** Text comes from a stream that was given an encoding. */
function bytesOf (chunk: Buffer<ArrayBuffer> | string): Uint8Array<ArrayBuffer> {
  const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** A write is done when the kernel has it, and `close()` when the end has left. Aborting it destroys the stream. */
function webWritable (writable: Writable): DuplexWebPair['writable'] {
  const ended = new Promise<void>((resolve, reject) => {
    whenOver(writable, { readable: false }, error => error == null ? resolve() : reject(error))
  })
  return new WritableStream({
    start (controller) { ended.catch(error => controller.error(error)) },
    write: chunk => new Promise((resolve, reject) => {
      writable.write(chunk, error => error == null ? resolve() : reject(error))
    }),
    close () {
      writable.end()
      return ended
    },
    abort (reason) { writable.destroy(errorOf(reason)) }
  })
}
