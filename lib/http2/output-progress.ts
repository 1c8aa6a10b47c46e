import type { ServerHttp2Stream } from 'node:http2'
import type { Http2Session } from './sessions.ts'

/** What a session may move before the turn of a stream comes: a frame. */
const FRAME = 16 * 1024

/**
 * Whether the output of a stream moves. Node tells that a chunk has left when all of it has. Until then that the
 * session moves has to do, but no further than it would if this stream had its share: a client may ask for other
 * things all the time, and give this stream no window.
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

  /** Grows as bytes leave, as far as can be told, and only then. It is no number of bytes. */
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
