import type { EventEmitter } from 'node:events'

/** The same function for all streams. */
function ignore (): void {}

/** An error of a stream that has no listener for it ends the process. This one stays, since an error may come at any time. */
export function ownErrors (stream: EventEmitter): void {
  if (!stream.listeners('error').includes(ignore)) stream.on('error', ignore)
}

/** A stream that was over before both of its sides had ended. */
export function closedEarly (): Error {
  return Object.assign(new Error('The tunnel was closed before both sides ended'), { code: 'ERR_STREAM_PREMATURE_CLOSE' })
}
