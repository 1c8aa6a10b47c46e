/** A connection that sends heartbeats, and checks that its peer still answers. */
export interface Beating {
  /** Called once in each interval. */
  beat (): void
}

/** An interval has this many parts. Each connection belongs to one part, so that they do not all beat at once. */
const PARTS = 8

/** One timer for all connections with the same interval. */
class Heart {
  readonly #parts: Set<Beating>[] = Array.from({ length: PARTS }, () => new Set())
  readonly #timer: NodeJS.Timeout
  #next = 0
  size = 0

  constructor (interval: number) {
    this.#timer = setInterval(() => this.#beat(), Math.max(1, Math.round(interval / PARTS)))
    this.#timer.unref()
  }

  /**
   * Adds a connection. It beats for the first time when one interval is over.
   *
   * @returns a function that removes the connection
   */
  add (one: Beating): () => void {
    const part = this.#parts[(this.#next + PARTS - 1) % PARTS] as Set<Beating>
    part.add(one)
    this.size++
    return () => { if (part.delete(one)) this.size-- }
  }

  #beat (): void {
    const part = this.#parts[this.#next] as Set<Beating>
    this.#next = (this.#next + 1) % PARTS
    for (const one of part) one.beat()
  }

  stop (): void {
    clearInterval(this.#timer)
  }
}

const hearts = new Map<number, Heart>()

/**
 * Calls `one.beat()` once in each interval.
 *
 * @returns a function that stops this
 */
export function startBeating (interval: number, one: Beating): () => void {
  const heart = hearts.get(interval) ?? new Heart(interval)
  hearts.set(interval, heart)
  const remove = heart.add(one)
  return () => {
    remove()
    if (heart.size > 0 || hearts.get(interval) !== heart) return
    hearts.delete(interval)
    heart.stop()
  }
}
