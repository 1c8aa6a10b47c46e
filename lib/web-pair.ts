import { Readable, Writable } from 'node:stream'
import type { DuplexWebPair } from '../types/index.ts'

/** Each half by itself: `Duplex.toWeb` does not report the end of a half on Node 20 and 22. */
export function webPair (readable: Readable, writable: Writable): DuplexWebPair {
  return {
    readable: Readable.toWeb(readable) as DuplexWebPair['readable'],
    writable: Writable.toWeb(writable) as DuplexWebPair['writable']
  }
}
