import type { MemorySocket } from './memory-socket.ts'

/** While the app closes, an injected client hangs up where the server has done so: its test may have forgotten it. */
export class Farewell {
  readonly #clients = new Set<() => void>()
  #closing = false

  say (): void {
    this.#closing = true
    for (const hangUp of this.#clients) hangUp()
  }

  /**
   * @param hangUp called again and again, for it to see whether the server has ended its side
   * @returns what is to be called when the server may have done that
   */
  hear (client: MemorySocket, hangUp: () => void): () => void {
    const look = (): void => { if (this.#closing) hangUp() }
    this.#clients.add(hangUp)
    client.once('close', () => this.#clients.delete(hangUp))
    look()
    return look
  }
}
