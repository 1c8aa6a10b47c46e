/** mulberry32: the same seed, the same choices. */
export class Dice {
  #state: number

  constructor (...seeds: number[]) {
    this.#state = seeds.reduce((state, seed) => Math.imul(state ^ seed, 0x9E3779B1) + 0x6D2B79F5, 1) | 0
  }

  /** A whole number, at least 0 and less than this. */
  below (limit: number): number {
    this.#state = (this.#state + 0x6D2B79F5) | 0
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % limit
  }

  between (least: number, most: number): number {
    return least + this.below(most - least + 1)
  }

  /** True so many times in a hundred. */
  chance (percent: number): boolean {
    return this.below(100) < percent
  }

  /** One that stands there several times comes more often. */
  pick<T> (values: readonly T[]): T {
    return values[this.below(values.length)] as T
  }
}

/** After so many bytes a pattern begins again. */
const PERIOD = 65_536
const base = Buffer.alloc(PERIOD, 0).map((_zero, place) => (place * 31 + (place >> 8) * 7) & 0xff)

/** Bytes that tell where they belong: from the stream of this id, beginning there. */
export function pattern (id: number, from: number, count: number): Buffer {
  const bytes = Buffer.allocUnsafe(count)
  const first = Math.min(count, PERIOD)
  for (let at = 0; at < first; at++) bytes[at] = ((base[(from + at) % PERIOD] as number) + id * 17) & 0xff
  for (let done = first; done < count; done *= 2) bytes.copy(bytes, done, 0, Math.min(done, count - done))
  return bytes
}
