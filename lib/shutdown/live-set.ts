/** On a member: its place. Nothing is in two such sets at a time. */
const kPlace = Symbol('fastify-duplex.place')

interface Member {
  [kPlace]?: number | undefined
}

/**
 * A set of what comes and goes all the time. V8 gives a `Set` another table after so many removals. The old one goes on
 * holding what was in it, and the new one as well: as soon as one of them has grown old, all that come after it outlive
 * the scavenges, with every member they have had, until the next collection of everything.
 */
export class LiveSet<T extends object> implements ReadonlySet<T> {
  readonly #members: T[] = []

  get size (): number { return this.#members.length }

  has (member: T): boolean {
    const place = (member as Member)[kPlace]
    return place !== undefined && this.#members[place] === member
  }

  add (member: T): void {
    if (this.has(member)) return
    if ((member as Member)[kPlace] !== undefined) throw new TypeError('it is in another set')
    ;(member as Member)[kPlace] = this.#members.push(member) - 1
  }

  /** @returns whether it was there */
  delete (member: T): boolean {
    if (!this.has(member)) return false
    const place = (member as Member)[kPlace] as number
    const last = this.#members.pop() as T
    if (last !== member) {
      this.#members[place] = last
      ;(last as Member)[kPlace] = place
    }
    (member as Member)[kPlace] = undefined
    return true
  }

  /** Those that are there now; one that is gone by its turn has none. */
  * values (): SetIterator<T> {
    for (const member of [...this.#members]) if (this.has(member)) yield member
  }

  * entries (): SetIterator<[T, T]> {
    for (const member of this) yield [member, member]
  }

  keys (): SetIterator<T> {
    return this.values()
  }

  [Symbol.iterator] (): SetIterator<T> {
    return this.values()
  }

  forEach (callback: (value: T, key: T, set: ReadonlySet<T>) => void, thisArg?: unknown): void {
    for (const member of this) callback.call(thisArg, member, member, this)
  }

  get [Symbol.toStringTag] (): string { return 'Set' }
}

// What a Set of this Node can do besides, all of which makes a set of its own or none.
const sets = Set.prototype as unknown as Record<string, ((other: unknown) => unknown) | undefined>
for (const name of ['union', 'intersection', 'difference', 'symmetricDifference', 'isSubsetOf', 'isSupersetOf', 'isDisjointFrom']) {
  const method = sets[name]
  if (method === undefined) continue
  Object.defineProperty(LiveSet.prototype, name, {
    configurable: true,
    writable: true,
    value (this: LiveSet<object>, other: unknown): unknown { return method.call(new Set(this), other) }
  })
}
