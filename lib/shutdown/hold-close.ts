import type { Server } from 'node:net'
import type { Registry } from './registry.ts'

/**
 * Node emits a server's 'close' when its last sockets are destroyed, before they have closed: onClose
 * hooks and the end of app.close() would overtake `closed`, the onResponse hooks and the log line of
 * these connections.
 */
export function holdCloseUntilDrained (server: Server, registry: Registry): void {
  // Not before: a server emits for every connection and every request.
  registry.onDrain(() => {
    const emit = server.emit as (event: string | symbol, ...args: unknown[]) => boolean
    server.emit = function (this: Server, event: string | symbol, ...args: unknown[]) {
      if (event !== 'close') return emit.call(this, event, ...args)
      void registry.drained.then(() => emit.call(this, event, ...args))
      return true
    }
  })
}
