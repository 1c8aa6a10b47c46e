/** Limits how many connections there are at once. */
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

/** Takes a slot of each, or of none. */
export function takeSlots (one: Slots, other: Slots): boolean {
  if (!one.take()) return false
  if (other.take()) return true
  one.free()
  return false
}
