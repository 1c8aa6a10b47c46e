import type { Readable } from 'node:stream'

/** Whether somebody reads this stream, and so will see its end. */
export function isRead (readable: Readable): boolean {
  return readable.readableFlowing === true || readable.listenerCount('readable') > 0 || readable.listenerCount('data') > 0
}
