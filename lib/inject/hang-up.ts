import type { MemorySocket } from './memory-socket.ts'

/** While the app closes, an injected client ends its side if the server has ended its own: its test may have forgotten that. */
export class Farewell {
  readonly #clients = new Set<() => void>()
  #closing = false

  say (): void {
    this.#closing = true
    for (const hangUp of this.#clients) hangUp()
  }

  /**
   * @param hangUp called several times. It ends the client's side if the server has ended its own
   * @returns a function to call when the server may have ended its side
   */
  hear (client: MemorySocket, hangUp: () => void): () => void {
    const look = (): void => { if (this.#closing) hangUp() }
    this.#clients.add(hangUp)
    client.once('close', () => this.#clients.delete(hangUp))
    look()
    return look
  }
}
