/** How many labels each of the two halves remembers. */
const HALF = 5000

/**
 * Remembers labels that `app.duplex.close()` has closed, for requests that are under way and whose labels are not known yet. If
 * there is no such request, nothing is remembered.
 */
export class RevokedLabels {
  /**
   * For each label the number of its latest closing. The older half is forgotten as a whole, because a Map is slow to delete
   * its oldest entry.
   */
  #older = new Map<string, number>()
  #newer = new Map<string, number>()
  #closings = 0
  /** Closings up to this number may have been forgotten. */
  #forgotten = 0
  /** The number of the last closing in the older half. */
  #turned = 0
  #waiting = 0

  /** How many are remembered. */
  get size (): number { return this.#older.size + this.#newer.size }

  /**
   * A request has come, and its labels are not known.
   *
   * @returns the number of closings so far, for `closedSince()`
   */
  wait (): number {
    this.#waiting++
    return this.#closings
  }

  /** The labels of a request are known, or the request is over. */
  waitNoMore (): void {
    if (--this.#waiting > 0) return
    this.#older = new Map()
    this.#newer = new Map()
    this.#forgotten = 0
    this.#turned = 0
  }

  close (label: string): void {
    this.#closings++
    if (this.#waiting === 0) return
    if (this.#newer.size >= HALF) {
      this.#older = this.#newer
      this.#newer = new Map()
      this.#forgotten = this.#turned
      this.#turned = this.#closings - 1
    }
    this.#newer.set(label, this.#closings)
  }

  /** Whether one of these labels was closed after `place`. A closing that may have been forgotten counts. */
  closedSince (place: number, labels: readonly string[]): boolean {
    if (labels.length === 0) return false
    const closedAt = (label: string): number => this.#newer.get(label) ?? this.#older.get(label) ?? 0
    return place < this.#forgotten || labels.some(label => closedAt(label) > place)
  }
}
