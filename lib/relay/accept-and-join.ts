import type { ServerResponse } from 'node:http'
import type { EventEmitter } from 'node:events'
import { FST_ERR_DUPLEX_ALREADY_SENT, FST_ERR_DUPLEX_DIAL_FAILED } from '../errors.ts'
import type { Connection } from '../connection/connection.ts'
import { kHearEnd, kUnhearEnd } from '../symbols.ts'
import { isThenable } from '../tools/thenable.ts'
import { claimOf } from '../handshake/claim.ts'
import { TunnelSide } from './tunnel-side.ts'
import { join } from './join.ts'
import type { DuplexAcceptOptions, PendingDuplex, TunnelOpener, TunnelResult } from '../../types/index.ts'

/**
 * Opens the upstream, accepts the connection, and joins the two. If any of this fails, everything that was opened is destroyed.
 *
 * @param options called when the upstream is there
 */
export async function acceptAndJoin (
  pending: PendingDuplex, open: TunnelOpener, options: () => DuplexAcceptOptions | undefined
): Promise<TunnelResult> {
  // If the client has its answer already, nothing is opened, and accept() rejects with the right error.
  if (pending.accepted || pending.reply.sent) await pending.accept(options())
  const wait = new Wait(pending)
  let upstream: TunnelSide | undefined
  try {
    upstream = await opened(open, wait)
    wait.watch(upstream)
    upstream.hold()
    await Promise.race([upstream.ready(), wait.over])
    upstream.lookForPeer()
    // If `lookForPeer()` has found a reset, the error is emitted in the next tick.
    if (upstream.failure !== undefined || upstream.gone) await wait.over
    if (wait.failure !== undefined) throw wait.failure
    wait.accepting = true
    const connection = await pending.accept(options())
    wait.accepted()
    upstream.unhold()
    const result = await join(new TunnelSide(connection), upstream)
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

/** Waits for the upstream. An upstream that comes too late is destroyed at once. */
async function opened (open: TunnelOpener, wait: Wait): Promise<TunnelSide> {
  wait.signal.throwIfAborted()
  const opening = open(wait.signal)
  if (!isThenable(opening)) return new TunnelSide(opening)
  const known = Promise.resolve(opening).then(given => {
    const end = new TunnelSide(given)
    if (!wait.signal.aborted) return end
    end.discard()
    throw wait.signal.reason
  })
  return await Promise.race([known, wait.over])
}

/** Watches for everything that may end a tunnel before it has begun. */
export class Wait {
  /** Set while the accept head is made. If the upstream breaks then, the making has to be interrupted. */
  accepting = false
  /** The error that ended the wait. */
  failure: unknown
  /** Told at once when the wait is stopped. */
  onStop: ((reason: unknown) => void) | undefined
  readonly #pending: PendingDuplex
  /** Made when somebody asks for the signal. */
  #abort: AbortController | undefined
  #stopped = false
  /**
   * Emits 'finish' when a response was sent. Over HTTP/2 this is the stream, because the response emits 'finish' whenever the
   * stream closes.
   */
  readonly #answer: EventEmitter
  #over: Promise<never> | undefined
  #reject: ((error: unknown) => void) | undefined
  #upstream: TunnelSide | undefined

  constructor (pending: PendingDuplex) {
    this.#pending = pending
    const raw = pending.reply.raw as ServerResponse & { stream?: EventEmitter }
    this.#answer = raw.stream ?? raw
    this.#answer.on('finish', this.#onAnswer)
    ;(pending as unknown as Connection)[kHearEnd](this.#end)
  }

  /** Rejects with `failure`. */
  get over (): Promise<never> {
    if (this.#over === undefined) {
      this.#over = new Promise((_resolve, reject) => { this.#reject = reject })
      this.#over.catch(() => {})
      if (this.failure !== undefined) this.#reject?.(this.failure)
    }
    return this.#over
  }

  /** Aborts when the wait is stopped, for any reason. */
  get signal (): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.#stopped) this.#abort.abort(this.failure)
    }
    return this.#abort.signal
  }

  get stopped (): boolean { return this.#stopped }

  watch (upstream: TunnelSide): void {
    this.#upstream = upstream
    upstream.owner = {
      failed: cause => this.#lost(cause),
      readerHasGone: () => {},
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
      this.#reject?.(reason)
    }
    if (this.#stopped) return
    this.#stopped = true
    this.#abort?.abort(reason)
    this.onStop?.(reason)
  }

  release (): void {
    this.accepted()
    ;(this.#pending as unknown as Connection)[kUnhearEnd](this.#end)
  }

  #lost (cause: Error): void {
    if (this.failure !== undefined) return
    const error = new FST_ERR_DUPLEX_DIAL_FAILED({ cause })
    // At any other time the handler answers.
    if (this.accepting) claimOf(this.#pending.reply.request.raw)?.interrupt(error)
    this.stop(error)
  }

  /** Node emits the same event if the client has left. Then no reply was sent, and the signal of the connection tells that. */
  readonly #onAnswer = (): void => { if (this.#pending.reply.sent) this.#end(new FST_ERR_DUPLEX_ALREADY_SENT()) }

  /** The client is gone, or has its answer. If the accept head is being made, accept() rejects. */
  readonly #end = (reason: unknown): void => {
    this.stop(reason)
    if (this.accepting) this.#upstream?.discard()
  }
}
