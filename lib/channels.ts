import diagnostics from 'node:diagnostics_channel'
import type { DuplexChannel, DuplexChannels } from '../types/index.ts'

/** What is published on it has a type that Node's own declaration does not know. */
function channel<T extends object> (name: string): DuplexChannel<T> {
  return diagnostics.channel(name) as unknown as DuplexChannel<T>
}

/** Where the plugin tells of every connection. It costs nothing where nobody subscribes. */
export const channels: DuplexChannels = {
  accept: channel('fastify-duplex:accept'),
  refuse: channel('fastify-duplex:refuse'),
  close: channel('fastify-duplex:close')
}
