/** Who is shown that it lives, and is looked at whether it does. */
export interface Beating {
  /** One interval is over. */
  beat (): void
}

/** In how many parts of an interval the connections have their turn, so that they do not all have it at once. */
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

  /** @returns what takes it out again. Its first turn comes when the interval is over. */
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

/** @returns what ends it */
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
