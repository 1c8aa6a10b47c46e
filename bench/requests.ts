// What the load sends.

export const head = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`
export const UPGRADE = head('/echo')
export const WEBSOCKET = 'GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
export const POST = 'POST /message HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n'
export const GET = 'GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n'

export const text = (size: number): string => 'x'.repeat(size)

export const chunk = (size: number): string => `${size.toString(16)}\r\n${text(size)}\r\n`

/** A binary message with a mask of zeros, RFC 6455 section 5.2; the answer has none. */
export function frame (size: number): { payload: Buffer, reply: number } {
  const extended = Buffer.alloc(8)
  extended.writeBigUInt64BE(BigInt(size))
  // The shortest form of the length: the answer has it, and its size is counted.
  const length = size < 126 ? [size] : size < 65536 ? [126, ...extended.subarray(6)] : [127, ...extended]
  const header = Buffer.from([0x82, (length[0] as number) | 0x80, ...length.slice(1), 0, 0, 0, 0])
  return { payload: Buffer.concat([header, Buffer.from(text(size))]), reply: header.length - 4 + size }
}
