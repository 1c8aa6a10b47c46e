/** Which handlers are for a host, as the router's own store has it: an exact host goes before the first expression that matches. */
export class HostStore {
  readonly #exact = new Map<unknown, number>()
  readonly #patterns: { pattern: RegExp, mask: number }[] = []

  set (host: unknown, mask: number): void {
    // With these flags a regular expression remembers where its last match ended.
    if (host instanceof RegExp) this.#patterns.push({ pattern: new RegExp(host.source, host.flags.replace(/[gy]/g, '')), mask })
    else this.#exact.set(host, mask)
  }

  get (host: unknown): number {
    return this.#exact.get(host) ?? this.#patterns.find(({ pattern }) => pattern.test(String(host)))?.mask ?? 0
  }
}
