// Constraint stores for hosts and versions. They behave like those of the router. Duplex routes need stores of their own.

/** The store of a constraint, as find-my-way defines it. A mask has one bit for each route. */
export interface ConstraintStore {
  get (value: unknown): unknown
  set (value: unknown, mask: number): void
}

/** An exact host comes first, then the first expression that matches. */
export class HostStore implements ConstraintStore {
  readonly #exact = new Map<unknown, number>()
  readonly #patterns: { pattern: RegExp, mask: number }[] = []

  set (host: unknown, mask: number): void {
    // With these flags a regular expression remembers where its last match ended.
    if (host instanceof RegExp) this.#patterns.push({ pattern: new RegExp(host.source, host.flags.replace(/[gy]/g, '')), mask })
    else this.#exact.set(host, mask)
  }

  get (host: unknown): number {
    return this.#exact.get(host) ?? this.#patterns.find(({ pattern }) => pattern.test(String(host)))?.mask ?? 0
  }
}

/**
 * A client may leave out the last numbers of a version, or write `x` for them. Then it gets the highest version that begins
 * with its numbers. Among equal versions, the last one that was declared counts.
 */
export class VersionStore implements ConstraintStore {
  readonly #masks = new Map<unknown, number>()
  readonly #highest = new Map<string, number>()

  set (version: unknown, mask: number): void {
    const given = String(version).split('.', 3)
    const numbers = [0, 1, 2].map(at => Number(given[at] ?? 0) || 0)
    for (let named = 0; named <= 3; named++) {
      const prefix = numbers.slice(0, named)
      const key = prefix.join('.')
      const next = numbers[named] ?? 0
      if (next < (this.#highest.get(key) ?? 0)) continue
      this.#highest.set(key, next)
      if (named === 0) this.#masks.set('*', mask)
      for (let length = named === 3 ? 3 : named + 1; length <= 3; length++) {
        this.#masks.set([...prefix, ...Array<string>(length - named).fill('x')].join('.'), mask)
      }
    }
  }

  get (version: unknown): number {
    return this.#masks.get(version) ?? 0
  }
}
