/**
 * The clients of injected connections that are open. While the app closes, a client ends its side if the server has ended its own:
 * its test may have forgotten that.
 */
export class InjectedClients {
  readonly #clients = new Set<() => void>()
  #closing = false

  /** The app closes. */
  endAll (): void {
    this.#closing = true
    for (const endSide of this.#clients) endSide()
  }

  /**
   * @param over resolves when nothing is left of the connection
   * @param endSide called several times. It ends the client's side if the server has ended its own
   * @returns a function to call when the server may have ended its side
   */
  add (over: Promise<unknown>, endSide: () => void): () => void {
    const look = (): void => { if (this.#closing) endSide() }
    this.#clients.add(endSide)
    void over.then(() => this.#clients.delete(endSide))
    look()
    return look
  }
}
