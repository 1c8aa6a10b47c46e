import type { Readable } from 'node:stream'

export const CLOSE = 8

/** RFC 6455 section 5.2, as far as an echo needs it: whole frames, which clients mask. */
export async function * frames (readable: Readable): AsyncGenerator<{ opcode: number, payload: Buffer }> {
  let data = Buffer.alloc(0)
  for await (const chunk of readable as AsyncIterable<Buffer>) {
    data = Buffer.concat([data, chunk])
    for (;;) {
      const short = (data[1] ?? 0) & 0x7f
      const start = short < 126 ? 2 : short === 126 ? 4 : 10
      if (data.length < start + 4) break
      const length = short < 126 ? short : short === 126 ? data.readUInt16BE(2) : Number(data.readBigUInt64BE(2))
      const end = start + 4 + length
      if (data.length < end) break
      const mask = data.subarray(start, start + 4)
      const payload = Buffer.from(data.subarray(start + 4, end).map((byte, index) => byte ^ (mask[index % 4] as number)))
      yield { opcode: (data[0] as number) & 0x0f, payload }
      data = data.subarray(end)
    }
  }
}

export function frame (opcode: number, payload: Buffer): Buffer {
  const { length } = payload
  const head = Buffer.alloc(length < 126 ? 2 : length < 65536 ? 4 : 10)
  head[0] = 0x80 | opcode
  head[1] = length < 126 ? length : length < 65536 ? 126 : 127
  if (head.length === 4) head.writeUInt16BE(length, 2)
  else if (head.length === 10) head.writeBigUInt64BE(BigInt(length), 2)
  return Buffer.concat([head, payload])
}
