import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import type { FastifyReply } from 'fastify'
import type { Answer } from '../../client/exchange.ts'
import { claimOf, type Claim } from '../../handshake/claim.ts'
import type { KindHead } from '../../handshake/kinds/index.ts'
import type { Connection } from '../../connection/connection.ts'
import { kAcceptNow } from '../../symbols.ts'
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
  const lateTrailers = hearTrailers(pending)
  let asked: Answered | undefined
  try {
    const asking = once(pending, target, out, settings, lateTrailers, wait.signal)
    asking.catch(() => {})
    asked = await Promise.race([asking, wait.over])
    const connection = await accept(pending, asked.answer, settings)
    wait.accepted()
    return await joinBodies(connection, asked)
  } catch (error) {
    asked?.up?.stop()
    asked?.exchange.abort(error as Error)
    wait.stop(error)
    throw error
  } finally {
    wait.release()
  }
}

/** Sends the request. If a kept connection was closing just then, the request is sent once more on a new one. */
async function once (
  pending: PendingDuplex<'body'>, target: Target, out: Outgoing, settings: ForwardSettings, lateTrailers: () => readonly string[], signal: AbortSignal
): Promise<Answered> {
  for (let fresh = false; ; fresh = true) {
    const asked = await ask(pending.reply.server, target, out, settings, true, fresh, signal)
    const { exchange, reused } = asked
    const timeout = new ResponseTimeout(exchange, settings.responseTimeout)
    let up: Pump | undefined
    if (exchange.body === undefined) {
      timeout.waits()
    } else {
      up = new Pump(pending.readable, exchange.body, {
        waits: () => timeout.waits(),
        flows: () => timeout.flows(),
        failed: error => exchange.abort(error),
        ends: () => {
          const trailers = trailerFields(lateTrailers())
          if (trailers.length > 0) exchange.addTrailers(trailers.flat())
        }
      }).start()
    }
    try {
      return { ...asked, answer: await exchange.answer, up }
    } catch (error) {
      up?.stop()
      const code = (error as { code?: string }).code
      const repeatable = reused && code === 'FST_ERR_DUPLEX_UPSTREAM_LOST' && !exchange.heard && !out.streams && IDEMPOTENT.has(out.method)
      if (!repeatable || signal.aborted) throw error
    }
  }
}

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
async function accept (pending: PendingDuplex<'body'>, answer: Answer, settings: ForwardSettings): Promise<DuplexConnection<'body'>> {
  const fields = fieldsFor(pending, answer, settings)
  const own: [string, string][] = []
  const { 'content-length': length } = fields
  const bodyless = answer.statusCode === 204 || answer.statusCode < 200
  if (length !== undefined && !bodyless) own.push(['Content-Length', String(length)])
  const trailer = announcedTrailer(answer)
  if (trailer !== undefined && length === undefined && !bodyless) own.push(['Trailer', trailer])
  const upgrade = wantedUpgrade(answer, pending)
  if (upgrade !== undefined) own.push(['Upgrade', upgrade], ['Connection', 'Upgrade'])
  const head: KindHead = {
    kind: 'body',
    status: answer.statusCode,
    allows: () => true,
    fields: () => own,
    trailers: length === undefined && !bodyless && answer.statusCode !== 304
  }
  const claim = claimOf((pending.reply as FastifyReply).request.raw) as Claim
  head.trailers &&= claim.req.method !== 'HEAD'
  const connection = pending as unknown as Connection
  writeTogether(pending)
  await connection[kAcceptNow]({ statusCode: answer.statusCode, headers: fields }, head)
  return connection as unknown as DuplexConnection<'body'>
}
