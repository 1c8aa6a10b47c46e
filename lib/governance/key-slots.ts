import { FST_ERR_DUPLEX_INVALID_KEY } from '../errors.ts'
import { typeOf } from './wrong-value.ts'
import type { DuplexKey } from '../../types/index.ts'

/** Limits how many connections each key has. A key without connections is not stored. */
export class KeySlots {
  readonly #most: number
  readonly #key: DuplexKey
  readonly #taken = new Map<string, number>()

  constructor (most: number, key: DuplexKey) {
    this.#most = most
    this.#key = key
  }

  /** How many keys have connections. */
  get size (): number { return this.#taken.size }

  keyOf (request: unknown): string {
    const key: unknown = this.#key(request as never)
    if (typeof key !== 'string') throw new FST_ERR_DUPLEX_INVALID_KEY(typeOf(key))
    return key
  }

  take (key: string): boolean {
    const taken = this.#taken.get(key) ?? 0
    if (taken >= this.#most) return false
    this.#taken.set(key, taken + 1)
    return true
  }

  free (key: string): void {
    const left = (this.#taken.get(key) ?? 0) - 1
    if (left > 0) this.#taken.set(key, left)
    else this.#taken.delete(key)
  }
}
