import type { Writable } from 'node:stream'
import type { Carrier } from './carrier.ts'

type Write = (this: Writable, ...args: unknown[]) => boolean

/**
 * Calls back when more than `most` bytes wait for the peer. It checks one turn of the event loop after each write, because
 * bytes that the kernel takes at once do not count.
 */
export function boundOutput (carrier: Pick<Carrier, 'writable' | 'closed' | 'unsent'>, most: number, exceeded: () => void): void {
  const { writable } = carrier
  let looking = false
  const look = (): void => {
    looking = false
    if (!carrier.closed && carrier.unsent > most) exceeded()
  }
  const watched = (proceed: Write): Write => function (this: Writable, ...args: unknown[]) {
    const result = Reflect.apply(proceed, this, args)
    if (!looking && carrier.unsent > most) {
      looking = true
      setImmediate(look)
    }
    return result
  }
  Object.assign(writable, { write: watched(writable.write as Write), end: watched(writable.end as unknown as Write) })
}
