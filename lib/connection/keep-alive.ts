import { kSetKeepAlive } from '../symbols.ts'
import { EachSecond } from '../tools/each-second.ts'
import { LiveSet } from '../tools/live-set.ts'

/** A connection that gets TCP keep-alive when it is one to two seconds old. */
export interface KeepAliveTarget {
  [kSetKeepAlive] (): void
}

// Each member spends at least one whole second in one of the two sets. So one timer is enough for all.
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
 * TCP keep-alive finds vanished peers within minutes. Setting it costs four system calls. So a connection gets it one to two
 * seconds after acceptance. A connection that is over by then never gets it.
 */
export function keepAliveLater (connection: KeepAliveTarget): void {
  fresh.add(connection)
  aging.start()
}

export function noKeepAlive (connection: KeepAliveTarget): void {
  if (!fresh.delete(connection)) waiting.delete(connection)
}
