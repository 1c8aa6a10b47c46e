import type { Readable } from 'node:stream'

/** Whether somebody is there who sees the end of it himself, at his own pace. */
export function isRead (readable: Readable): boolean {
  return readable.readableFlowing === true || readable.listenerCount('readable') > 0 || readable.listenerCount('data') > 0
}
