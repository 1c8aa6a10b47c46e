import type { Writable } from 'node:stream'
import type { Carrier } from './carrier.ts'

type Write = (this: Writable, ...args: unknown[]) => boolean

/**
 * Calls when more than `most` bytes are written that the peer has not taken. What the kernel takes at once is never
 * counted: a look comes one turn behind each write.
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
