type Member = Record<symbol, number | undefined>

/**
 * A set whose members come and go all the time. After a number of removals V8 gives a `Set` a new table. The old table still
 * refers to its members, and to the new table. Once one table is in the old generation, all later tables survive young
 * collections, with every member that they had, until the next full collection.
 */
export class LiveSet<T extends object> implements ReadonlySet<T> {
  readonly #members: T[] = []
  /** The property of a member that has its place in this set. */
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

  /** Iterates over the current members. A member that is removed before its turn is skipped. */
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

/** A read-only view of such a set. */
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

// The further methods of a Set on this Node. None of them changes the set.
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
