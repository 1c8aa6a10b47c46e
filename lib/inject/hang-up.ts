/** While the app closes, an injected client ends its side if the server has ended its own: its test may have forgotten that. */
export class Farewell {
  readonly #clients = new Set<() => void>()
  #closing = false

  say (): void {
    this.#closing = true
    for (const hangUp of this.#clients) hangUp()
  }

  /**
   * @param over resolves when nothing is left of the connection
   * @param hangUp called several times. It ends the client's side if the server has ended its own
   * @returns a function to call when the server may have ended its side
   */
  hear (over: Promise<unknown>, hangUp: () => void): () => void {
    const look = (): void => { if (this.#closing) hangUp() }
    this.#clients.add(hangUp)
    void over.then(() => this.#clients.delete(hangUp))
    look()
    return look
  }
}
