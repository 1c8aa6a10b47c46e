import { EachSecond } from '../tools/each-second.ts'
import { LiveSet } from '../tools/live-set.ts'

/** A connection in a state in which its streams would not tell of a reset. */
export interface Watched {
  placeAmongWatched?: number | undefined
  /** Looks whether the peer is still there. */
  lookForPeer (): void
}

const watched = new LiveSet<Watched>({ get: one => one.placeAmongWatched, set (one, place) { one.placeAmongWatched = place } })
const looking = new EachSecond(() => {
  for (const one of watched) one.lookForPeer()
  return watched.size > 0
})

export function watchPeer (connection: Watched): void {
  watched.add(connection)
  looking.start()
}

export function unwatchPeer (connection: Watched): void {
  watched.delete(connection)
}
