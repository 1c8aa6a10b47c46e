import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { finished } from 'node:stream/promises'
import { FST_ERR_DUPLEX_UPSTREAM_INVALID } from '../../errors.ts'
import type { Answer, Exchange } from '../../client/exchange.ts'
import { isPlainSuccess } from '../../handshake/kinds.ts'
import { acceptAndJoin } from '../accept-and-join.ts'
import { fieldsFor, wantedUpgrade } from './answer.ts'
import { askAlone } from './ask.ts'
import type { ForwardSettings } from './options.ts'
import type { Outgoing } from './outgoing.ts'
import { ResponseTimeout } from './response-timeout.ts'
import { Pump } from './pump.ts'
import type { Target } from './target.ts'
import type { DuplexAcceptOptions, ForwardFields, PendingDuplex, TunnelResult } from '../../../types/index.ts'

/** The upstream has answered, and has not accepted. */
class Refused extends Error {
  readonly answer: Answer
  readonly exchange: Exchange

  constructor (answer: Answer, exchange: Exchange) {
    super(`The upstream answered ${answer.statusCode}`)
    this.answer = answer
    this.exchange = exchange
  }
}

/** Forwards an upgrade or a CONNECT. The client's connection is accepted after the upstream has accepted. */
export async function forwardStream (
  pending: PendingDuplex, target: Target, out: Outgoing, settings: ForwardSettings
): Promise<TunnelResult | undefined> {
  let options: DuplexAcceptOptions = {}
  try {
    return await acceptAndJoin(pending, async signal => {
      const answer = await answerOf(pending, target, out, settings, signal)
      try {
        options = acceptance(pending, answer, out, settings)
      } catch (error) {
        answer.readable.destroy()
        throw error
      }
      return answer.readable as Duplex
    }, () => options)
  } catch (error) {
    if (!(error instanceof Refused)) throw error
    refuse(pending, error, settings)
    return undefined
  }
}

async function answerOf (
  pending: PendingDuplex, target: Target, out: Outgoing, settings: ForwardSettings, signal: AbortSignal
): Promise<Answer> {
  const leaving = new AbortController()
  // A refusal ends the tunnel. But its body is still to come from the upstream, so this does not break the exchange off.
  signal.addEventListener('abort', () => { if (!(signal.reason instanceof Refused)) leaving.abort(signal.reason) }, { once: true })
  const { exchange } = await askAlone(pending.reply.server, target, out, settings, leaving.signal)
  const timeout = new ResponseTimeout(exchange, settings.responseTimeout)
  const up = sendBody(pending.reply.request.raw as IncomingMessage, exchange, out, timeout)
  try {
    const answer = await exchange.answer
    if (answer.kind === 'body' || answer.kind === 'hijack') throw new Refused(answer, exchange)
    // RFC 9110 section 7.8: the stream begins after the whole request.
    await up?.whole
    return answer
  } finally {
    timeout.over()
    up?.pump.stop()
  }
}

/** Sends the body of an upgrade while it arrives. */
function sendBody (
  req: IncomingMessage, exchange: Exchange, out: Outgoing, timeout: ResponseTimeout
): { pump: Pump, whole: Promise<void> } | undefined {
  if (!out.streams || exchange.body === undefined) {
    timeout.waits()
    return undefined
  }
  const pump = new Pump(req, exchange.body, timeout).start()
  // The connection leaves HTTP in the tick in which the body ends. `whole` resolves after that.
  const whole = finished(req, { writable: false })
  whole.catch(() => {})
  return { pump, whole }
}

/** The accept head for the client, made of the upstream's answer. */
function acceptance (pending: PendingDuplex, answer: Answer, out: Outgoing, settings: ForwardSettings): DuplexAcceptOptions {
  const headers = fieldsFor(pending, answer, settings)
  out.translate?.(headers)
  if (pending.kind === 'connect') return { headers, ...isPlainSuccess(answer.statusCode) ? { statusCode: answer.statusCode } : {} }
  const protocol = answer.protocol
  const offered = out.protocol?.some(token => token.toLowerCase() === protocol?.toLowerCase()) === true
  if (protocol === undefined || !offered) {
    throw new FST_ERR_DUPLEX_UPSTREAM_INVALID(`it switches to ${JSON.stringify(protocol)}, which was not offered`)
  }
  return { headers, protocol }
}

/** Sends the upstream's answer to the client through `reply`, with all hooks. */
function refuse (pending: PendingDuplex, { answer, exchange }: Refused, settings: ForwardSettings): void {
  const { reply } = pending
  const { statusCode, readable } = answer
  readable.on('error', () => {})
  // The rest of the request never comes. The upstream might wait for it, with its own side ended.
  if (exchange.body?.writableFinished === false) readable.once('close', () => exchange.abort(new Error('The upgrade was refused')))
  let fields: ForwardFields
  try {
    // RFC 8441 section 5: over HTTP/2 this status would mean acceptance.
    if (pending.httpVersion === '2.0' && statusCode < 300) throw new FST_ERR_DUPLEX_UPSTREAM_INVALID(`it answers an upgrade with ${statusCode}`)
    fields = fieldsFor(pending, answer, settings)
  } catch (error) {
    readable.destroy()
    throw error
  }
  for (const [name, value] of Object.entries(fields)) reply.header(name, value)
  const upgrade = wantedUpgrade(answer, pending)
  if (upgrade !== undefined) reply.header('upgrade', upgrade)
  reply.code(statusCode)
  if (answer.kind === 'hijack') readable.once('end', () => (readable as Duplex).end())
  void reply.send(readable)
}
