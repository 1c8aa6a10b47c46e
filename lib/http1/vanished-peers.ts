import { LiveSet } from '../shutdown/live-set.ts'

/** How many milliseconds lie between two looks for peers that have vanished. */
const EVERY = 1000

/** A connection in a state in which its streams would not tell of a reset. */
export interface Watched {
  /** Looks whether the peer is still there. */
  lookForPeer (): void
}

const watched = new LiveSet<Watched>()
let timer: NodeJS.Timeout | undefined

/** There is one timer for all of them, as long as there are any. */
export function watchPeer (connection: Watched): void {
  watched.add(connection)
  timer ??= setInterval(() => {
    for (const one of watched) one.lookForPeer()
    if (watched.size > 0) return
    clearInterval(timer)
    timer = undefined
  }, EVERY).unref()
}

export function unwatchPeer (connection: Watched): void {
  watched.delete(connection)
}
