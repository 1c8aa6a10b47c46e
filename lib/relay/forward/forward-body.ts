import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import type { FastifyReply } from 'fastify'
import type { Answer, Exchange } from '../../client/exchange.ts'
import { claimOf, type Claim } from '../../handshake/claim.ts'
import type { KindHead } from '../../handshake/kinds.ts'
import type { Connection } from '../../connection/connection.ts'
import { kAcceptNow, kIsDraining } from '../../symbols.ts'
import { Wait } from '../accept-and-join.ts'
import { announcedTrailer, fieldsFor, wantedUpgrade } from './answer.ts'
import { ask } from './ask.ts'
import { trailerFields } from './fields.ts'
import { joinBodies, type Answered } from './join-bodies.ts'
import type { ForwardSettings } from './options.ts'
import type { Outgoing } from './outgoing.ts'
import { ResponseTimeout } from './response-timeout.ts'
import { Pump } from './pump.ts'
import type { Target } from './target.ts'
import type { DuplexConnection, PendingDuplex, TunnelResult } from '../../../types/index.ts'

/** RFC 9110 section 9.2.2: such a request may be sent twice. */
const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE'])

/** Forwards a request and its answer. Both bodies are sent while they arrive. */
export async function forwardBody (
  pending: PendingDuplex<'body'>, target: Target, out: Outgoing, settings: ForwardSettings
): Promise<TunnelResult> {
  const wait = new Wait(pending)
  const sending = new Sending(pending, out, settings, wait)
  try {
    const asked = await sending.send(target)
    const accepting = accept(pending, asked.answer, settings)
    if (accepting !== undefined) await accepting
    wait.accepted()
    return await joinBodies(pending as unknown as DuplexConnection<'body'>, asked)
  } catch (error) {
    sending.abort(error)
    wait.stop(error)
    throw error
  } finally {
    wait.release()
  }
}

/** A request that is sent to the upstream until its answer has come. */
class Sending {
  readonly #pending: PendingDuplex<'body'>
  readonly #out: Outgoing
  readonly #settings: ForwardSettings
  readonly #wait: Wait
  readonly #trailers: () => readonly string[]
  #exchange: Exchange | undefined
  #timeout: ResponseTimeout | undefined
  #up: Pump | undefined

  constructor (pending: PendingDuplex<'body'>, out: Outgoing, settings: ForwardSettings, wait: Wait) {
    this.#pending = pending
    this.#out = out
    this.#settings = settings
    this.#wait = wait
    this.#trailers = out.streams ? hearTrailers(pending) : noTrailers
    // The answer then rejects.
    wait.onStop = reason => this.#exchange?.abort(reason as Error)
  }

  abort (error: unknown): void {
    this.#up?.stop()
    this.#exchange?.abort(error as Error)
  }

  /** Sends the request. If a kept connection was closing just then, the request is sent once more on a new one. */
  async send (target: Target): Promise<Answered> {
    const wait = this.#wait
    if (wait.stopped) throw wait.failure
    for (let fresh = false; ; fresh = true) {
      const asking = ask(this.#pending.reply.server, target, this.#out, this.#settings, fresh, wait)
      const asked = asking instanceof Promise ? await asking : asking
      this.#begin(asked.exchange)
      try {
        return { ...asked, answer: await asked.exchange.answer, up: this.#up }
      } catch (error) {
        this.#up?.stop()
        if (!asked.reused || wait.stopped || !this.#mayRepeat(asked.exchange, error)) throw error
      } finally {
        this.#timeout?.over()
      }
    }
  }

  #begin (exchange: Exchange): void {
    this.#exchange = exchange
    const timeout = this.#timeout = new ResponseTimeout(exchange, this.#settings.responseTimeout)
    if (this.#wait.stopped) {
      exchange.abort(this.#wait.failure as Error)
    } else if (exchange.body === undefined) {
      timeout.waits()
    } else {
      this.#up = new Pump(this.#pending.readable, exchange.body, {
        waits: () => timeout.waits(),
        flows: () => timeout.flows(),
        failed: error => exchange.abort(error),
        ends: () => {
          const trailers = trailerFields(this.#trailers())
          if (trailers.length > 0) exchange.addTrailers(trailers.flat())
        }
      }).start()
    }
  }

  #mayRepeat (exchange: Exchange, error: unknown): boolean {
    const { streams, method } = this.#out
    return (error as { code?: string }).code === 'FST_ERR_DUPLEX_UPSTREAM_LOST' && !exchange.heard && !streams && IDEMPOTENT.has(method)
  }
}

function noTrailers (): readonly string[] { return NONE }

const NONE: readonly string[] = []

/** The trailers of the client's request. They can be read once the body has ended. */
function hearTrailers ({ reply, readable }: PendingDuplex<'body'>): () => readonly string[] {
  const raw = reply.request.raw as IncomingMessage
  if (raw.httpVersionMajor < 2) return () => raw.rawTrailers
  let came: readonly string[] = []
  ;(readable as unknown as ServerHttp2Stream).once('trailers', ((_fields: unknown, _flags: number, rawTrailers: string[]) => { came = rawTrailers }) as never)
  return () => came
}

/** Holds writes back for one turn of the event loop, so that the head and the first bytes of the body leave together. */
function writeTogether ({ httpVersion, reply }: PendingDuplex<'body'>): void {
  const { socket } = reply.raw as ServerResponse
  if (httpVersion === '2.0' || socket === null) return
  socket.cork()
  setImmediate(() => socket.uncork())
}

/** Accepts the client's request with the upstream's answer, whatever its status is. The framing of the answer is kept. */
function accept (pending: PendingDuplex<'body'>, answer: Answer, settings: ForwardSettings): Promise<void> | void {
  const fields = fieldsFor(pending, answer, settings)
  const own: [string, string][] = []
  const { 'content-length': length } = fields
  const bodyless = answer.statusCode === 204 || answer.statusCode < 200
  if (length !== undefined && !bodyless) own.push(['Content-Length', String(length)])
  const trailer = announcedTrailer(answer)
  if (trailer !== undefined && length === undefined && !bodyless) own.push(['Trailer', trailer])
  const upgrade = wantedUpgrade(answer, pending)
  if (upgrade !== undefined) own.push(['Upgrade', upgrade], ['Connection', 'Upgrade'])
  const connection = pending as unknown as Connection
  if (upgrade === undefined && connection[kIsDraining] && pending.httpVersion !== '2.0') own.push(['Connection', 'close'])
  const head: KindHead = {
    kind: 'body',
    status: answer.statusCode,
    allows: () => true,
    fields: () => own,
    whileDraining: true,
    trailers: length === undefined && !bodyless && answer.statusCode !== 304
  }
  const claim = claimOf((pending.reply as FastifyReply).request.raw) as Claim
  head.trailers &&= claim.req.method !== 'HEAD'
  writeTogether(pending)
  return connection[kAcceptNow]({ statusCode: answer.statusCode, headers: fields }, head)
}
