import { FST_ERR_DUPLEX_INVALID_LABEL } from '../errors.ts'
import { shown } from './key-slots.ts'
import type { DuplexLabels } from '../../types/index.ts'

/** All labels of one app, and who has them. A label that nobody has is not kept. */
export class LabelIndex<T extends object> {
  /** A set only where there is more than one: most labels are somebody's alone. */
  readonly #members = new Map<string, T | Set<T>>()

  /** How many labels there are. */
  get size (): number { return this.#members.size }

  /** Those that are there now. */
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

/** The labels of one connection, in the index for as long as it lives. */
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

  /** The connection is over. Whoever logs that may still read them. */
  leave (): void {
    if (this.#over) return
    this.#over = true
    for (const label of this.#own) this.#index.delete(label, this.#member)
  }
}

export function checkLabel (label: unknown): asserts label is string {
  if (typeof label !== 'string') throw new FST_ERR_DUPLEX_INVALID_LABEL('A label must be a string', shown(label))
}

/** What `labels` of a route gave. */
export function labelsOf (given: unknown): string[] {
  const iterable = typeof given === 'object' && given !== null && Symbol.iterator in given
  if (!iterable) throw new FST_ERR_DUPLEX_INVALID_LABEL('The function labels must give a list of strings', shown(given))
  const labels = [...given as Iterable<unknown>]
  for (const label of labels) checkLabel(label)
  return labels as string[]
}
