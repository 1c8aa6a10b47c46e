import { createHash, randomBytes } from 'node:crypto'

/** RFC 6455 section 1.3. */
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** RFC 6455 section 4.1. */
export function makeKey (): string {
  return randomBytes(16).toString('base64')
}

/** RFC 6455 section 4.2.2: what a server answers to a key. */
export function acceptOf (key: string): string {
  return createHash('sha1').update(key + GUID).digest('base64')
}

/** 16 bytes in base64. */
export function isKey (key: unknown): key is string {
  return typeof key === 'string' && /^[A-Za-z0-9+/]{21}[AQgw]==$/.test(key)
}
