/** A bound on connections that are open at once. */
export class Slots {
  readonly #limit: number
  #taken = 0

  constructor (limit: number) {
    this.#limit = limit
  }

  get taken (): number {
    return this.#taken
  }

  take (): boolean {
    if (this.#taken >= this.#limit) return false
    this.#taken++
    return true
  }

  free (): void {
    this.#taken--
  }
}

/** Both or none. */
export function takeSlots (one: Slots, other: Slots): boolean {
  if (!one.take()) return false
  if (other.take()) return true
  one.free()
  return false
}
