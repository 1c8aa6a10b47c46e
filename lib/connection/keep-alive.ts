import { LiveSet } from '../shutdown/live-set.ts'
import { EachSecond } from './each-second.ts'
import { kLasts } from './symbols.ts'

/** A connection that gets its keep-alive when it has lasted. */
export interface Young {
  [kLasts] (): void
}

// Two sets, so that each member is in one of them for a whole second, and there is no timer for each.
let fresh = new LiveSet<Young>()
let waiting = new LiveSet<Young>()

const aging = new EachSecond(() => {
  for (const connection of waiting) {
    waiting.delete(connection)
    connection[kLasts]()
  }
  ;[fresh, waiting] = [waiting, fresh]
  return waiting.size > 0
})

/**
 * TCP keep-alive finds peers that vanish within minutes. To set it costs four system calls, so a connection gets it one to two
 * seconds after acceptance, and one that is over by then never does.
 */
export function keepAliveLater (connection: Young): void {
  fresh.add(connection)
  aging.start()
}

export function noKeepAlive (connection: Young): void {
  if (!fresh.delete(connection)) waiting.delete(connection)
}
