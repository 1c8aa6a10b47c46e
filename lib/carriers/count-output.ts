import type { Writable } from 'node:stream'

type Write = (chunk?: unknown, encoding?: unknown, callback?: unknown) => boolean

/**
 * Tells `add` how many bytes go into a stream that does not count them itself.
 *
 * @param inBytes strings go in as Buffers. Over HTTP/2 Node (seen on 20 to 26) sends memory that nobody meant
 * to send in place of a string that is written together with an empty chunk behind it; Buffers have no such fault.
 */
export function countOutput (writable: Writable, add: (bytes: number) => void, inBytes = false): void {
  const counted = (proceed: Write): Write => function (chunk, encoding, callback) {
    if (chunk instanceof Uint8Array) {
      add(chunk.length)
    } else if (typeof chunk === 'string') {
      const charset = typeof encoding === 'string' ? encoding as BufferEncoding : 'utf8'
      if (inBytes) {
        const bytes = Buffer.from(chunk, charset)
        add(bytes.length)
        return proceed.call(writable, bytes, typeof encoding === 'function' ? encoding : callback)
      }
      add(Buffer.byteLength(chunk, charset))
    }
    return proceed.call(writable, chunk, encoding, callback)
  }
  writable.write = counted(writable.write as Write)
  writable.end = counted(writable.end as unknown as Write) as unknown as typeof writable.end
}
