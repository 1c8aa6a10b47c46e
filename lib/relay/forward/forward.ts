import type { FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_NO_UPSTREAM } from '../../errors.ts'
import { claimOf, type Claim } from '../../handshake/claim.ts'
import { forwardBody } from './forward-body.ts'
import { forwardStream } from './forward-stream.ts'
import { forwardSettings, type ForwardSettings } from './options.ts'
import { outgoing } from './outgoing.ts'
import { knownTarget } from './target.ts'
import type { DuplexKind, ForwardOptions, ForwardUpstream, PendingDuplex, TunnelResult } from '../../../types/index.ts'

/**
 * Sends a request on to another server (the upstream), and its answer back to the client. If the upstream accepts, the two
 * connections are joined. If it refuses, the client gets that refusal.
 *
 * The connection is accepted only after the upstream has answered: an upgrade with 101, a CONNECT with 2xx, an extended CONNECT
 * with 200, a `body` with any answer. Until then only the request and its body are sent to the upstream. A refusal goes through
 * `reply`, with its status, fields and body.
 *
 * Before acceptance it rejects
 * - with `FST_ERR_DUPLEX_NO_UPSTREAM` (404), if `upstream` returns undefined;
 * - with an error of `dial()`;
 * - with `FST_ERR_DUPLEX_UPSTREAM_INVALID` (502), `FST_ERR_DUPLEX_UPSTREAM_LOST` (502) or `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT`
 *   (504);
 * - with `FST_ERR_DUPLEX_BAD_PATH` (400), for a target that cannot be sent on;
 * - with `FST_ERR_DUPLEX_INVALID_OPTION` (500).
 *
 * If the handler returns this promise, the app's error handler answers.
 *
 * @param pending the pending connection of a handler with `accept: 'manual'`
 * @param upstream where to send the request, or a function that chooses that for each request
 * @returns the bytes that went each way, when both directions are over. Undefined if the upstream refused: then the refusal is
 * on its way. Rejects with the error that ended the connection
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
  const target = knownTarget(given)
  const out = outgoing(pending, target, settings)
  return pending.kind === 'body'
    ? await forwardBody(pending, target, out, settings)
    : await forwardStream(pending, target, out, settings)
}
