import { LiveSet } from '../shutdown/live-set.ts'
import type { Milliseconds } from '../../types/index.ts'
import { kLasts } from './symbols.ts'

/** A connection that gets its keep-alive when it has lasted. */
export interface Young {
  [kLasts] (): void
}

const EVERY: Milliseconds = 1000

// Two sets, so that each member is in one of them for a whole interval, and there is no timer for each.
let fresh = new LiveSet<Young>()
let waiting = new LiveSet<Young>()
let timer: NodeJS.Timeout | undefined

/**
 * TCP keep-alive finds peers that vanish within minutes. To set it costs four system calls, so a connection gets it one to two
 * seconds after acceptance, and one that is over by then never does.
 */
export function keepAliveLater (connection: Young): void {
  fresh.add(connection)
  timer ??= setInterval(look, EVERY).unref()
}

export function noKeepAlive (connection: Young): void {
  if (!fresh.delete(connection)) waiting.delete(connection)
}

function look (): void {
  for (const connection of waiting) {
    waiting.delete(connection)
    connection[kLasts]()
  }
  ;[fresh, waiting] = [waiting, fresh]
  if (waiting.size > 0) return
  clearInterval(timer)
  timer = undefined
}
