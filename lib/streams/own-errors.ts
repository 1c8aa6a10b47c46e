import type { EventEmitter } from 'node:events'

/** The same function for all streams. */
function ignore (): void {}

/** Adds a listener for errors, because an error without one ends the process. It stays, because an error may come at any time. */
export function ownErrors (stream: EventEmitter): void {
  if (!stream.listeners('error').includes(ignore)) stream.on('error', ignore)
}
