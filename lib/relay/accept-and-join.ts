import type { ServerResponse } from 'node:http'
import type { EventEmitter } from 'node:events'
import { FST_ERR_DUPLEX_ALREADY_SENT, FST_ERR_DUPLEX_DIAL_FAILED } from '../errors.ts'
import { claimOf } from '../handshake/claim.ts'
import { End } from './end.ts'
import { join } from './join.ts'
import type { DuplexAcceptOptions, PendingDuplex, TunnelEnd, TunnelOpener, TunnelResult } from '../../types/index.ts'

/**
 * Opens the upstream, accepts, joins. Whatever becomes of it, nothing that was opened is left behind.
 *
 * @param options asked for when the upstream is there
 */
export async function acceptAndJoin (
  pending: PendingDuplex, open: TunnelOpener, options: () => DuplexAcceptOptions | undefined
): Promise<TunnelResult> {
  // Nothing is opened for a client that has its answer. accept() says which.
  if (pending.accepted || pending.reply.sent) await pending.accept(options())
  const wait = new Wait(pending)
  let upstream: End | undefined
  try {
    upstream = await opened(open, wait)
    wait.watch(upstream)
    upstream.hold()
    await Promise.race([upstream.ready(), wait.over])
    upstream.lookForPeer()
    // What it has found is told in the next tick.
    if (upstream.failure !== undefined || upstream.gone) await wait.over
    if (wait.failure !== undefined) throw wait.failure
    wait.accepting = true
    const connection = await pending.accept(options())
    wait.accepted()
    upstream.unhold()
    const result = await join(new End(connection), upstream)
    upstream.close()
    return result
  } catch (error) {
    upstream?.discard()
    wait.stop(error)
    throw error
  } finally {
    wait.release()
    upstream?.release()
  }
}

/** What is opened after nobody waits for it any more is destroyed at once. */
async function opened (open: TunnelOpener, wait: Wait): Promise<End> {
  wait.signal.throwIfAborted()
  const opening = open(wait.signal)
  if (!isThenable(opening)) return new End(opening)
  const known = Promise.resolve(opening).then(given => {
    const end = new End(given)
    if (!wait.signal.aborted) return end
    end.discard()
    throw wait.signal.reason
  })
  return await Promise.race([known, wait.over])
}

function isThenable (value: TunnelEnd | PromiseLike<TunnelEnd>): value is PromiseLike<TunnelEnd> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}

/** From the call to the end of the tunnel: who may end it before it has begun. */
export class Wait {
  /** Set while the accept head is made: only then an upstream that breaks has to interrupt it. */
  accepting = false
  /** What has ended it. */
  failure: unknown
  /** Rejects with that. */
  readonly over: Promise<never>
  readonly #pending: PendingDuplex
  readonly #abort = new AbortController()
  /** What tells that a response has been sent; over HTTP/2 the response itself tells when its stream is closed. */
  readonly #answer: EventEmitter
  readonly #reject: (error: unknown) => void
  #upstream: End | undefined

  constructor (pending: PendingDuplex) {
    let rejectOver!: (error: unknown) => void
    this.over = new Promise((_resolve, reject) => { rejectOver = reject })
    this.over.catch(() => {})
    this.#reject = rejectOver
    this.#pending = pending
    const raw = pending.reply.raw as ServerResponse & { stream?: EventEmitter }
    this.#answer = raw.stream ?? raw
    this.#answer.on('finish', this.#onAnswer)
    pending.signal.addEventListener('abort', this.#onGone)
    if (pending.signal.aborted) this.#onGone()
  }

  get signal (): AbortSignal { return this.#abort.signal }

  watch (upstream: End): void {
    this.#upstream = upstream
    upstream.owner = {
      failed: cause => this.#lost(cause),
      deafened: () => {},
      finished: () => {}
    }
    if (upstream.failure !== undefined) this.#lost(upstream.failure)
  }

  accepted (): void {
    this.accepting = false
    this.#answer.removeListener('finish', this.#onAnswer)
  }

  stop (reason: unknown): void {
    if (this.failure === undefined) {
      this.failure = reason
      this.#reject(reason)
    }
    if (!this.signal.aborted) this.#abort.abort(reason)
  }

  release (): void {
    this.accepted()
    this.#pending.signal.removeEventListener('abort', this.#onGone)
  }

  #lost (cause: Error): void {
    if (this.failure !== undefined) return
    const error = new FST_ERR_DUPLEX_DIAL_FAILED({ cause })
    // Otherwise it is the handler's to answer.
    if (this.accepting) claimOf(this.#pending.reply.request.raw)?.interrupt(error)
    this.stop(error)
  }

  readonly #onGone = (): void => this.#end(this.#pending.signal.reason)

  /** Node says the same of a response whose client has left: of that the connection's signal tells. */
  readonly #onAnswer = (): void => { if (this.#pending.reply.sent) this.#end(new FST_ERR_DUPLEX_ALREADY_SENT()) }

  /** Nobody is there any more to be accepted. While the accept head is made, accept() will say so. */
  #end (reason: unknown): void {
    this.stop(reason)
    if (this.accepting) this.#upstream?.discard()
  }
}
