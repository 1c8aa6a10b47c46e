import type { FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_NO_UPSTREAM } from '../../errors.ts'
import { claimOf, type Claim } from '../../handshake/claim.ts'
import { forwardBody } from './forward-body.ts'
import { forwardStream } from './forward-stream.ts'
import { forwardSettings, type ForwardSettings } from './options.ts'
import { outgoing } from './outgoing.ts'
import { targetOf } from './target.ts'
import type { DuplexKind, ForwardOptions, ForwardUpstream, PendingDuplex, TunnelResult } from '../../../types/index.ts'

/**
 * Sends a request on to another server, and its answer back: what that accepts is joined with the client, and what it refuses
 * is the client's answer.
 *
 * The connection is accepted only when the upstream has: with 101, with 2xx to a CONNECT, with 200 to an extended CONNECT, or, of a
 * `body`, with any answer. Until then no byte of the client goes up but the request and its body. A refusal goes through `reply`,
 * with its status, fields and body.
 *
 * Rejects, before acceptance, with `FST_ERR_DUPLEX_NO_UPSTREAM` (404) where `upstream` gives undefined; with what `dial()` rejects
 * with; with `FST_ERR_DUPLEX_UPSTREAM_INVALID` (502), `FST_ERR_DUPLEX_UPSTREAM_LOST` (502) or `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT` (504); with
 * `FST_ERR_DUPLEX_BAD_PATH` (400) for a target that cannot be sent on; with `FST_ERR_DUPLEX_INVALID_OPTION` (500). All of
 * these are answered by the app's error handler when the handler passes them on.
 *
 * @param pending what a handler with `accept: 'manual'` got
 * @param upstream where to, or a function that says it for this request
 * @returns the bytes that went each way, when all is over; undefined where the upstream refused, and the refusal is on its way.
 * Rejects with the error that tore it down
 */
export async function forward<K extends DuplexKind, P extends string> (
  pending: PendingDuplex<K, P>, upstream: ForwardUpstream, options?: ForwardOptions
): Promise<TunnelResult | undefined> {
  return await run(pending as PendingDuplex, upstream, forwardSettings(options))
}

/** The handler of a route with `duplex: { forward }`. */
export async function forwardHandler (pending: PendingDuplex): Promise<TunnelResult | undefined> {
  const claim = claimOf(pending.reply.request.raw) as Claim
  const { upstream, settings } = claim.route.settings.forward as NonNullable<Claim['route']['settings']['forward']>
  return await run(pending, upstream, settings)
}

async function run (pending: PendingDuplex, upstream: ForwardUpstream, settings: ForwardSettings): Promise<TunnelResult | undefined> {
  const request = pending.reply.request as FastifyRequest
  const given = typeof upstream === 'function' ? await upstream(request as never) : upstream
  if (given === undefined) throw new FST_ERR_DUPLEX_NO_UPSTREAM()
  const target = targetOf(given)
  const out = outgoing(pending, target, settings)
  return pending.kind === 'body'
    ? await forwardBody(pending, target, out, settings)
    : await forwardStream(pending, target, out, settings)
}
