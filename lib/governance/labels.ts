import { FST_ERR_DUPLEX_INVALID_LABEL } from '../errors.ts'
import { typeOf } from './wrong-value.ts'
import type { DuplexLabels } from '../../types/index.ts'

/** All labels of one app, with their connections. A label without a connection is not stored. */
export class LabelIndex<T extends object> {
  /** A label of only one connection has no Set, because most labels are such. */
  readonly #members = new Map<string, T | Set<T>>()

  /** How many labels are in use. */
  get size (): number { return this.#members.size }

  /** The connections that have this label now. */
  find (label: string): T[] {
    const members = this.#members.get(label)
    return members === undefined ? [] : members instanceof Set ? [...members] : [members]
  }

  add (label: string, member: T): void {
    const members = this.#members.get(label)
    if (members instanceof Set) members.add(member)
    else this.#members.set(label, members === undefined || members === member ? member : new Set([members, member]))
  }

  delete (label: string, member: T): void {
    const members = this.#members.get(label)
    if (members instanceof Set ? members.delete(member) && members.size === 0 : members === member) this.#members.delete(label)
  }
}

/** The labels of one connection. They are in the index as long as it lives. */
export class Labels<T extends object> implements DuplexLabels {
  readonly #own = new Set<string>()
  readonly #index: LabelIndex<T>
  readonly #member: T
  #over: boolean

  constructor (index: LabelIndex<T>, member: T, over: boolean) {
    this.#index = index
    this.#member = member
    this.#over = over
  }

  get size (): number { return this.#own.size }

  has (label: string): boolean { return this.#own.has(label) }

  add (label: string): this {
    checkLabel(label)
    this.#own.add(label)
    if (!this.#over) this.#index.add(label, this.#member)
    return this
  }

  delete (label: string): boolean {
    this.#index.delete(label, this.#member)
    return this.#own.delete(label)
  }

  [Symbol.iterator] (): IterableIterator<string> { return this.#own.values() }

  /** The connection is over. Its labels can still be read, for example by a logger. */
  leave (): void {
    if (this.#over) return
    this.#over = true
    for (const label of this.#own) this.#index.delete(label, this.#member)
  }
}

export function checkLabel (label: unknown): asserts label is string {
  if (typeof label !== 'string') throw new FST_ERR_DUPLEX_INVALID_LABEL('A label must be a string', typeOf(label))
}

/** Checks what `labels` of a route returned. */
export function labelsOf (given: unknown): string[] {
  const iterable = typeof given === 'object' && given !== null && Symbol.iterator in given
  if (!iterable) throw new FST_ERR_DUPLEX_INVALID_LABEL('The function labels must give a list of strings', typeOf(given))
  const labels = [...given as Iterable<unknown>]
  for (const label of labels) checkLabel(label)
  return labels as string[]
}
