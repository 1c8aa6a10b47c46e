import { LiveSet } from './live-set.ts'
import { EachSecond } from './each-second.ts'
import { kSetKeepAlive } from './symbols.ts'

/** A connection that gets its keep-alive once it is one to two seconds old. */
export interface KeepAliveTarget {
  [kSetKeepAlive] (): void
}

// Two sets, so that each member is in one of them for a whole second, and there is no timer for each.
let fresh = new LiveSet<KeepAliveTarget>()
let waiting = new LiveSet<KeepAliveTarget>()

const aging = new EachSecond(() => {
  for (const connection of waiting) {
    waiting.delete(connection)
    connection[kSetKeepAlive]()
  }
  ;[fresh, waiting] = [waiting, fresh]
  return waiting.size > 0
})

/**
 * TCP keep-alive finds peers that vanish within minutes. To set it costs four system calls, so a connection gets it one to two
 * seconds after acceptance, and one that is over by then never does.
 */
export function keepAliveLater (connection: KeepAliveTarget): void {
  fresh.add(connection)
  aging.start()
}

export function noKeepAlive (connection: KeepAliveTarget): void {
  if (!fresh.delete(connection)) waiting.delete(connection)
}
