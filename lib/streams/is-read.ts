import type { Readable } from 'node:stream'

/** On a stream: whether a loop reads it without any listener. */
export const kLooped = Symbol('fastify-duplex.looped')

/** Whether somebody reads this stream, and so will see its end. */
export function isRead (readable: Readable): boolean {
  return readable.readableFlowing === true || readable.listenerCount('readable') > 0 || readable.listenerCount('data') > 0 ||
    (readable as { [kLooped]?: boolean })[kLooped] === true
}
