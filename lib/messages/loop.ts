import type { Inbox } from './inbox.ts'

export type Result = IteratorResult<unknown, undefined>

const DONE: Result = Object.freeze({ done: true, value: undefined })

/**
 * The iterator of a `for await` loop over messages. Node's own costs several events and promises for each message. This one takes
 * a message directly when it comes. For everything else, such as errors, the end and other readers, Node's own goes on.
 */
export class Loop implements AsyncIterableIterator<unknown> {
  readonly #inbox: Inbox
  #rest: NodeJS.AsyncIterator<unknown> | undefined
  #state: 'new' | 'running' | 'left' = 'new'

  constructor (inbox: Inbox) {
    this.#inbox = inbox
  }

  next (): Promise<Result> {
    if (this.#rest !== undefined) return this.#rest.next() as Promise<Result>
    if (this.#state === 'left') return Promise.resolve(DONE)
    const inbox = this.#inbox
    if (this.#state === 'new') {
      this.#state = 'running'
      inbox.loops++
    }
    if (inbox.takesDirectly) return inbox.takeFor(this)
    const before = inbox.nextOf(this)
    if (before === undefined) return this.goOn()
    const again = (): Promise<Result> => this.next()
    return before.then(again, again)
  }

  /** Lets Node's own iterator go on. It leaves the stream alive at its end. */
  goOn (): Promise<Result> {
    this.#rest ??= this.#inbox.iterator({ destroyOnReturn: false })
    this.#leave()
    return this.#rest.next() as Promise<Result>
  }

  async return (): Promise<Result> {
    this.#leave()
    await this.#rest?.return?.()
    this.#inbox.leave(this)
    return DONE
  }

  async throw (error: unknown): Promise<Result> {
    await this.return()
    throw error
  }

  [Symbol.asyncIterator] (): this { return this }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.return()
  }

  #leave (): void {
    if (this.#state === 'running') this.#inbox.loops--
    this.#state = 'left'
  }
}
