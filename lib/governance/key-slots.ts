import { FST_ERR_DUPLEX_INVALID_KEY } from '../errors.ts'
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
    if (typeof key !== 'string') throw new FST_ERR_DUPLEX_INVALID_KEY(shown(key))
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

/** Describes a wrong value for an error message. The value itself may be secret, so only its type is named. */
export function shown (value: unknown): string {
  if (value === null) return 'null'
  if (typeof (value as { then?: unknown } | undefined)?.then === 'function') {
    // Nobody waits for it, and a rejection that nobody handles would end the process.
    Promise.resolve(value).catch(() => {})
    return 'a promise'
  }
  return typeof value === 'object' ? Object.prototype.toString.call(value) : typeof value
}
