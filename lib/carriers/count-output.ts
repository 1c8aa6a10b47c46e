import type { Writable } from 'node:stream'

type Arguments = [chunk?: unknown, encoding?: unknown, callback?: unknown]

/**
 * Tells `add` how many bytes go into a stream that does not count them itself.
 *
 * @param inBytes strings go in as Buffers. Over HTTP/2 Node (seen on 20 to 26) sends memory that nobody meant
 * to send in place of a string that is written together with an empty chunk behind it; Buffers have no such fault.
 */
export function countOutput (writable: Writable, add: (bytes: number) => void, inBytes = false): void {
  const { write, end } = writable
  const count = (args: Arguments): Arguments => {
    const [chunk, encoding] = args
    if (typeof chunk === 'string') {
      const charset = typeof encoding === 'string' ? encoding as BufferEncoding : 'utf8'
      if (!inBytes) {
        add(Buffer.byteLength(chunk, charset))
        return args
      }
      const bytes = Buffer.from(chunk, charset)
      add(bytes.length)
      return [bytes, typeof encoding === 'function' ? encoding : args[2]]
    }
    if (chunk instanceof Uint8Array) add(chunk.length)
    return args
  }
  writable.write = ((...args: Arguments) => Reflect.apply(write, writable, count(args))) as typeof write
  writable.end = ((...args: Arguments) => Reflect.apply(end, writable, count(args))) as typeof end
}
