import diagnostics from 'node:diagnostics_channel'
import type { DuplexChannel, DuplexChannels } from '../../types/index.ts'

/** Gives a channel the type of its messages, which Node's own declaration does not have. */
function channel<T extends object> (name: string): DuplexChannel<T> {
  return diagnostics.channel(name) as unknown as DuplexChannel<T>
}

/** The channels that tell of every connection. They cost nothing if nobody subscribes. */
export const channels: DuplexChannels = {
  accept: channel('fastify-duplex:accept'),
  refuse: channel('fastify-duplex:refuse'),
  close: channel('fastify-duplex:close')
}
