import type { IncomingHttpHeaders } from 'node:http'
import { Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import { FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_DESTROYED, FST_ERR_DUPLEX_FIN_TIMEOUT } from '../errors.ts'
import { bytesInFlight, type HttpSocket } from '../internals/sockets.ts'
import { InactivityWatch } from '../streams/inactivity-watch.ts'
import { isRead } from '../streams/is-read.ts'
import { isNetworkError } from '../streams/network-error.ts'
import { webPair } from '../streams/web-pair.ts'
import type { Answer, Exchange, ExchangeEnd } from './exchange.ts'
import type { Opened } from './open.ts'
import type { ClientClosed, ClientConnection, ClientCloseReason, DuplexKind, DuplexWebPair, Milliseconds } from '../../types/index.ts'

/** How many milliseconds `close()` waits for a server that has taken everything, or that takes nothing more. */
const FIN_TIMEOUT: Milliseconds = 30_000

/** An accepted connection whose pair carries bytes. */
export class ByteConnection implements ClientConnection {
  readonly closed: Promise<ClientClosed>
  protected readonly answer: Answer
  readonly #exchange: Exchange
  readonly #dead = new AbortController()
  readonly #since = performance.now()
  /** Why the connection was broken off here: by `destroy()`, or by the error of a stream. */
  protected cause: { reason: ClientCloseReason, error: Error | undefined } | undefined

  constructor ({ exchange, answer }: Opened) {
    this.#exchange = exchange
    this.answer = answer
    this.closed = exchange.over.then(end => this.#closed(end))
  }

  get kind (): DuplexKind { return this.answer.kind }
  get readable (): Readable { return this.answer.readable }
  get writable (): Writable { return this.answer.writable }
  get statusCode (): number { return this.answer.statusCode }
  get headers (): IncomingHttpHeaders { return this.answer.headers }
  get httpVersion (): Answer['httpVersion'] { return this.answer.httpVersion }
  get protocol (): string | undefined { return this.answer.protocol }
  get head (): Buffer { return this.answer.head }
  get signal (): AbortSignal { return this.#dead.signal }

  close (): Promise<ClientClosed> {
    this.endOutput()
    this.discardInput()
    const watch = new InactivityWatch(FIN_TIMEOUT, () => this.#unsent, () => {
      this.destroy(new FST_ERR_DUPLEX_FIN_TIMEOUT(FIN_TIMEOUT))
      return true
    })
    void this.closed.then(() => watch.stop())
    return this.closed
  }

  destroy (error?: Error): void {
    this.breakOff(error === undefined ? 'destroyed' : 'error', error)
  }

  web (): DuplexWebPair { return webPair(this.readable, this.writable) }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  protected endOutput (): void {
    const { writable } = this.answer
    if (!writable.writableEnded) writable.end()
  }

  protected discardInput (): void {
    const { readable } = this.answer
    if (!isRead(readable)) readable.resume()
  }

  protected breakOff (reason: ClientCloseReason, error: Error | undefined): void {
    this.cause ??= { reason, error }
    this.#exchange.abort(error ?? new FST_ERR_DUPLEX_DESTROYED())
  }

  protected facts (): Pick<ClientClosed, 'websocket'> { return {} }

  /** How many bytes wait for the server. */
  get #unsent (): number {
    const { writable } = this.answer
    return writable.writableLength + (writable instanceof Socket ? bytesInFlight(writable as HttpSocket) : 0)
  }

  #closed ({ complete, error }: ExchangeEnd): ClientClosed {
    const { readable, writable } = this.answer
    const whole = complete && (writable.writableFinished || writable.destroyed === false)
    const failure = error ?? readable.errored
    const ofPeer = failure != null && isNetworkError(failure)
    const reason = this.cause?.reason ?? (whole ? 'end' : ofPeer ? 'abort' : error === undefined ? 'destroyed' : 'error')
    const why = reason === 'end' ? undefined : this.cause?.error ?? error ?? writable.errored ?? new FST_ERR_DUPLEX_ABORTED()
    if (why !== undefined) this.#dead.abort(why)
    const duration = Math.round(performance.now() - this.#since)
    return { reason, ...why === undefined ? {} : { error: why }, duration, ...this.facts() }
  }
}
