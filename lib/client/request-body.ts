import type { ClientRequest } from 'node:http'
import { Writable } from 'node:stream'
import { ownErrors } from '../streams/own-errors.ts'

type Done = (error?: Error | null) => void

/** The exchange of a body. */
export interface BodyOwner {
  /** Whether the answer is complete and the connection gone. Then nobody takes the rest of the body. */
  readonly unwanted: boolean
  abort (error: Error): void
}

/**
 * The body of an HTTP/1 request. Node's own stream has three faults here. After the response it no longer tells when there is
 * room. It closes with the response. And the body may be shorter or longer than `Content-Length`.
 */
export class RequestBody extends Writable {
  trailers: readonly string[] = []
  readonly #req: ClientRequest
  readonly #owner: BodyOwner
  /** How many bytes of `Content-Length` are left. */
  #left: number | undefined
  /** The callback of a write that waits. */
  #waiting: Done | undefined

  /** @param length the `Content-Length`, if it frames the body */
  constructor (req: ClientRequest, owner: BodyOwner, length: number | undefined) {
    super()
    this.#req = req
    this.#owner = owner
    this.#left = length
    ownErrors(this)
  }

  override _write (chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    if (this.#left !== undefined && (this.#left -= chunk.length) < 0) done(mismatch())
    else this.#send(sent => this.#req.write(chunk, sent), done, true)
  }

  override _final (done: Done): void {
    if (this.#left !== undefined && this.#left > 0 && !this.#owner.unwanted) {
      done(mismatch())
      return
    }
    this.#send(sent => {
      const { trailers } = this
      if (trailers.length > 0) this.#req.addTrailers(pairs(trailers))
      this.#req.end(sent)
    }, done)
  }

  override _destroy (error: Error | null, done: Done): void {
    if (!this.writableFinished && !this.#owner.unwanted) this.#owner.abort(error ?? new Error('The body of the request was destroyed'))
    done(error)
  }

  /** The connection is gone. The callback of the last write may never come, so this ends it. */
  release (error: Error | undefined): void {
    if (error !== undefined) {
      this.destroy(error)
    } else {
      const waiting = this.#waiting
      this.#waiting = undefined
      waiting?.()
    }
  }

  /** @param early it is done as soon as there is room for more */
  #send (write: (sent: (error?: Error | null) => void) => boolean | void, done: Done, early = false): void {
    if (this.#owner.unwanted) {
      done()
      return
    }
    this.#waiting = done
    const sent = (error?: Error | null): void => {
      if (this.#waiting !== done) return
      // Only when the connection has closed it is known whether the body is still wanted.
      if (error != null) return
      this.#waiting = undefined
      done()
    }
    if (write(sent) === true && early) sent()
  }
}

function mismatch (): Error {
  return Object.assign(new Error('The body has another length than Content-Length says'), { code: 'ERR_HTTP_CONTENT_LENGTH_MISMATCH' })
}

function pairs (raw: readonly string[]): [string, string][] {
  return Array.from({ length: raw.length / 2 }, (_, at) => [raw[at * 2] as string, raw[at * 2 + 1] as string])
}
