import type { ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import {
  FST_ERR_DUPLEX_LENGTH_REQUIRED, FST_ERR_DUPLEX_NO_CONNECTION, FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED, FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL,
  FST_ERR_DUPLEX_UPGRADE_REQUIRED
} from '../errors.ts'
import type { DuplexRoute } from '../routes/find.ts'
import type { Registry } from '../shutdown/registry.ts'
import { claimOf, type Claim } from './claim.ts'
import { shutDown } from './run-handler.ts'
import { wasOffered } from './tokens.ts'

type Done = (error?: Error) => void

/** The last onRequest hook: what the head alone could not decide. */
export function negotiate (request: FastifyRequest, reply: FastifyReply, registry: Registry, done: Done): void {
  const claim = claimOf(request.raw)
  if (claim === undefined) {
    done(new FST_ERR_DUPLEX_NO_CONNECTION())
    return
  }
  claim.reply = reply
  if (registry.draining) {
    done(shutDown(reply))
    return
  }
  switch (claim.instead) {
    case 'head':
      reply.code(200).send()
      return
    case 'not-found':
      reply.callNotFound()
      return
    case 'upgrade-required':
      done(upgradeRequired(claim.route, reply))
      return
  }
  if (claim.kind === 'upgrade' && claim.route.settings.chooser !== undefined) {
    choose(claim, request, reply).then(() => done(), done)
  } else {
    promise100(claim)
    done()
  }
}

/** Where the stream comes after a request body, that is waited for; a body is Node's, and so is its 100. */
function promise100 ({ kind, carrier }: Claim): void {
  if (kind === 'upgrade') carrier.promise100()
}

async function choose (claim: Claim, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const { chooser, kinds } = claim.route.settings
  const choice = await (chooser as NonNullable<typeof chooser>)([...claim.offered], request as never)
  if (choice !== false) {
    if (typeof choice !== 'string' || !wasOffered(choice, claim.offered)) throw new FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED(String(choice))
    // Only now is it known that this body stands before a stream, which needs its exact length.
    if (claim.req.headers['transfer-encoding'] !== undefined) throw new FST_ERR_DUPLEX_LENGTH_REQUIRED()
    claim.protocol = choice
    promise100(claim)
  } else if (claim.hasBody && kinds.includes('body')) {
    promise100(claim)
    claim.becomesBody()
  } else {
    throw upgradeRequired(claim.route, reply)
  }
}

function upgradeRequired (route: DuplexRoute, reply: FastifyReply): Error {
  // RFC 9113 section 8.6: HTTP/2 has no Upgrade, which a 426 would have to name.
  if (reply.request.raw.httpVersionMajor > 1) return new FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL()
  const { protocols } = route.settings
  // RFC 9110 section 15.5.22 wants the protocols named; a route that takes any has none to name.
  if (protocols !== undefined) {
    // Node closes for a client that wants it only where its own or this field says so.
    const { httpVersion } = reply.request.raw
    const persists = (reply.raw as ServerResponse).shouldKeepAlive && httpVersion !== '1.0'
    reply.header('upgrade', protocols.join(', ')).header('connection', persists ? 'Upgrade' : 'Upgrade, close')
  }
  return new FST_ERR_DUPLEX_UPGRADE_REQUIRED()
}
