import { LiveSet } from '../shutdown/live-set.ts'

/** How often peers that may have vanished unseen are looked for, in milliseconds. */
const EVERY = 1000

/** Something with a peer, which says when it is in a state in which the streams would not tell of a reset. */
export interface Watched {
  /** Looks, where there is reason to. */
  lookForPeer (): void
}

const watched = new LiveSet<Watched>()
let timer: NodeJS.Timeout | undefined

/** One timer for all of them, as long as there are any. */
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
