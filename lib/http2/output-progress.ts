import type { ServerHttp2Stream } from 'node:http2'
import type { Http2Session } from './sessions.ts'

/** How many bytes a session may move for another stream before this one's turn: a frame. */
const FRAME = 16 * 1024

/**
 * Whether the output of a stream makes progress. Node reports a write as flushed only when the whole chunk is. Until then,
 * traffic of the session counts as progress, up to the share of this stream. Without that bound, a client could keep a stream
 * alive that it gives no window, by asking for other things.
 */
export class OutputProgress {
  readonly #stream: ServerHttp2Stream
  readonly #session: Http2Session
  readonly #left: () => number
  #leftBefore = -1
  #settled = 0
  #from = 0
  #part = 0

  /** @param left changes with every chunk that has left */
  constructor (stream: ServerHttp2Stream, session: Http2Session, left: () => number) {
    this.#stream = stream
    this.#session = session
    this.#left = left
  }

  /** Grows when bytes leave, as far as can be told, and only then. It is not a number of bytes. */
  get moved (): number {
    const { taken, openStreams } = this.#session
    const waiting = this.#stream.writableLength
    const left = this.#left()
    if (left !== this.#leftBefore) {
      this.#leftBefore = left
      this.#settled += this.#part + 1
      this.#part = 0
      this.#from = taken
    } else if (waiting === 0) {
      this.#from = taken
    } else {
      const most = (waiting + FRAME) * (openStreams + 1)
      this.#part = Math.max(this.#part, Math.min(taken - this.#from, most))
    }
    return this.#settled + this.#part
  }
}
