import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Answer } from '../../client/exchange.ts'
import type { Connection } from '../../connection/connection.ts'
import { kHearEnd, kUnhearEnd } from '../../symbols.ts'
import { claimOf, type Claim } from '../../handshake/claim.ts'
import { closedEarly } from '../closed-early.ts'
import type { Asked } from './ask.ts'
import { trailerFields } from './fields.ts'
import { Pump } from './pump.ts'
import type { DuplexConnection, Milliseconds, TunnelResult } from '../../../types/index.ts'

/** The client has ended its side. If no byte comes for it for this time, the upstream is told. */
const QUIET: Milliseconds = 1_000

/** A request to the upstream, with the head of its answer. */
export interface Answered extends Asked {
  answer: Answer
  /** Sends the client's body to the upstream. It runs already. */
  up: Pump | undefined
}

/**
 * Sends the body of the answer to the client, while the body of the request is still sent to the upstream. It ends when both
 * are over. If one side breaks, the other is broken off, too.
 */
export function joinBodies (connection: DuplexConnection<'body'>, asked: Answered): Promise<TunnelResult> {
  return new Promise((resolve, reject) => new BodyJoint(connection, asked, resolve, reject).start())
}

class BodyJoint {
  readonly #connection: DuplexConnection<'body'>
  readonly #exchange: Answered['exchange']
  readonly #halfClose: Answered['halfClose']
  readonly #client: Socket | undefined
  readonly #answer: Answer
  readonly #up: Pump | undefined
  readonly #down: Pump
  readonly #resolve: (result: TunnelResult) => void
  readonly #reject: (error: unknown) => void
  readonly #inactivityLimit: number
  #over = false
  #answered = false
  #inactivityTimer: NodeJS.Timeout | undefined
  #quiet: NodeJS.Timeout | undefined
  #seen = 0

  constructor (
    connection: DuplexConnection<'body'>, { exchange, answer, up, halfClose }: Answered,
    resolve: (result: TunnelResult) => void, reject: (error: unknown) => void
  ) {
    this.#connection = connection
    this.#exchange = exchange
    this.#halfClose = halfClose
    this.#client = connection.httpVersion === '2.0' ? undefined : connection.reply.request.raw.socket
    this.#answer = answer
    this.#up = up
    this.#resolve = resolve
    this.#reject = reject
    this.#inactivityLimit = (claimOf(connection.reply.request.raw) as Claim).route.settings.finTimeout
    this.#down = new Pump(answer.readable, connection.writable, {
      ends: () => this.#addTrailers(),
      // Over HTTP/2 the response to a HEAD has finished long before.
      waits: () => { if (this.#down.ended && connection.writable.writableFinished) this.#onFinish() },
      failed: error => this.#fail(error)
    })
  }

  start (): void {
    const { writable } = this.#connection
    const { readable } = this.#answer
    writable.on('finish', this.#onFinish)
    readable.on('close', this.#onClose)
    ;(this.#connection as unknown as Connection)[kHearEnd](this.#fail)
    if (this.#over) return
    this.#down.start()
    if (readable.errored != null) this.#fail(readable.errored)
    else if (readable.destroyed) this.#onClose()
    this.#client?.on('end', this.#onClientEnd)
    if (this.#client?.readableEnded === true) this.#onClientEnd()
    void this.#exchange.over.then(() => this.#check(true))
  }

  get #trailers (): [string, string][] { return trailerFields(this.#answer.rawTrailers()) }

  #addTrailers (): void {
    const { kind, readable } = this.#answer
    // Only the end of its connection has ended this body. So our side of that connection is still open.
    if (kind === 'hijack') (readable as Duplex).end()
    const { writable, reply } = this.#connection
    if ('sendTrailers' in writable) sendTrailersBehind(reply.raw as unknown as LateFields, this.#trailers)
    else if ((writable as unknown as ServerResponse).chunkedEncoding) (writable as unknown as ServerResponse).addTrailers(this.#trailers)
  }

  readonly #onFinish = (): void => {
    this.#answered = true
    this.#check(false)
  }

  /** The answer was cut off. */
  readonly #onClose = (): void => {
    if (!this.#down.ended) this.#fail(closedEarly())
  }

  /**
   * A client sends a FIN when it leaves, or when it has no more requests. The wire shows the difference only when something is
   * sent to it. If nothing is sent for a while, the FIN is passed on to the upstream.
   */
  readonly #onClientEnd = (): void => {
    let seen = -1
    this.#quiet ??= setInterval(() => {
      if (this.#down.bytes === seen && this.#up?.ended !== false) this.#passEnd()
      seen = this.#down.bytes
    }, QUIET / 2)
  }

  #passEnd (): void {
    clearInterval(this.#quiet)
    this.#halfClose?.()
  }

  /** @param over the upstream takes nothing more, so the rest of the client's body has nowhere to go */
  #check (over: boolean): void {
    if (this.#over || !this.#answered) return
    const up = this.#up
    if (up === undefined || up.ended || over) this.#done()
    else this.#watchInactivity(up)
  }

  /**
   * The answer is complete, but the upstream may still read the request. The wait ends when the upstream reads nothing for
   * `finTimeout`.
   */
  #watchInactivity (up: Pump): void {
    if (this.#inactivityLimit === 0 || this.#inactivityTimer !== undefined) return
    this.#seen = up.bytes
    this.#inactivityTimer = setInterval(() => {
      if (up.ended || up.bytes === this.#seen) this.#done()
      this.#seen = up.bytes
    }, this.#inactivityLimit)
  }

  #done (): void {
    if (this.#over) return
    this.#stop()
    if (this.#up?.ended === false) this.#exchange.abort(closedEarly())
    this.#resolve({ bytesToUpstream: this.#up?.bytes ?? 0, bytesFromUpstream: this.#down.bytes })
  }

  readonly #fail = (error: Error): void => {
    if (this.#over) return
    this.#stop()
    this.#exchange.abort(error)
    this.#connection.destroy(error)
    this.#reject(error)
  }

  #stop (): void {
    this.#over = true
    clearInterval(this.#inactivityTimer)
    clearInterval(this.#quiet)
    this.#client?.removeListener('end', this.#onClientEnd)
    this.#up?.stop()
    this.#down.stop()
    ;(this.#connection as unknown as Connection)[kUnhearEnd](this.#fail)
    this.#connection.writable.removeListener('finish', this.#onFinish)
    this.#answer.readable.removeListener('close', this.#onClose)
  }
}

/** A method of `Http2ServerResponse` that Node's types do not declare. */
interface LateFields {
  setTrailer (name: string, value: string[]): void
}

/** Node's response sends these when its stream asks for trailers. */
function sendTrailersBehind (res: LateFields, trailers: readonly [string, string][]): void {
  const fields: Record<string, string[]> = {}
  for (const [name, value] of trailers) (fields[name.toLowerCase()] ??= []).push(value)
  for (const [name, values] of Object.entries(fields)) res.setTrailer(name, values)
}
