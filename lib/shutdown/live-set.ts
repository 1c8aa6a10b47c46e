type Member = Record<symbol, number | undefined>

/**
 * A set of what comes and goes all the time. V8 gives a `Set` another table after so many removals. The old one goes on
 * holding what was in it, and the new one as well: as soon as one of them has grown old, all that come after it outlive
 * the scavenges, with every member they have had, until the next collection of everything.
 */
export class LiveSet<T extends object> implements ReadonlySet<T> {
  readonly #members: T[] = []
  /** On a member: its place in this set. */
  readonly #kPlace = Symbol('fastify-duplex.place')

  /** The same set, for reading. */
  readonly view: ReadonlySet<T> = new View(this)

  get size (): number { return this.#members.length }

  has (member: T): boolean {
    const place = (member as unknown as Member)[this.#kPlace]
    return place !== undefined && this.#members[place] === member
  }

  add (member: T): void {
    if (this.has(member)) return
    (member as unknown as Member)[this.#kPlace] = this.#members.push(member) - 1
  }

  /** @returns whether it was there */
  delete (member: T): boolean {
    if (!this.has(member)) return false
    const place = (member as unknown as Member)[this.#kPlace] as number
    const last = this.#members.pop() as T
    if (last !== member) {
      this.#members[place] = last
      ;(last as unknown as Member)[this.#kPlace] = place
    }
    (member as unknown as Member)[this.#kPlace] = undefined
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

/** What others may have of such a set. */
class View<T extends object> implements ReadonlySet<T> {
  readonly #set: ReadonlySet<T>

  constructor (set: ReadonlySet<T>) {
    this.#set = set
  }

  get size (): number { return this.#set.size }
  has (member: T): boolean { return this.#set.has(member) }
  values (): SetIterator<T> { return this.#set.values() }
  keys (): SetIterator<T> { return this.#set.keys() }
  entries (): SetIterator<[T, T]> { return this.#set.entries() }
  [Symbol.iterator] (): SetIterator<T> { return this.#set.values() }

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
  Object.defineProperty(View.prototype, name, {
    configurable: true,
    writable: true,
    value (this: View<object>, other: unknown): unknown { return method.call(new Set(this), other) }
  })
}
