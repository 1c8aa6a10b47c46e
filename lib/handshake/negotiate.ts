import type { ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import {
  FST_ERR_DUPLEX_LENGTH_REQUIRED, FST_ERR_DUPLEX_MAX_PER_KEY, FST_ERR_DUPLEX_NO_CONNECTION, FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED,
  FST_ERR_DUPLEX_ROUTING_FAILED
} from '../errors.ts'
import { answerWithoutErrorHandler } from '../internals/fastify.ts'
import type { DuplexRoute } from '../routes/route.ts'
import { chooseToken, meantForRoute, offeredAs, parseUpgrade } from '../syntax/upgrade-tokens.ts'
import { codeOf } from '../tools/thrown.ts'
import { claimOf, type Claim } from './claim.ts'
import { RETRY_AFTER, shutdownError, type RefusalError } from './refusal.ts'
import { discardPayload, warnOfLateReply } from './send-hooks.ts'
import { upgradeRequired } from './upgrade-required.ts'

type Done = (error?: Error) => void

/**
 * The last onRequest hook. It decides what the request head alone could not decide.
 *
 * @param app whether the app drains
 */
export function negotiate (
  route: DuplexRoute, request: FastifyRequest, reply: FastifyReply, app: { readonly draining: boolean }, done: Done
): void {
  const claim = claimOf(request.raw)
  // Somebody may have rewritten the URL of another route's request.
  if (claim === undefined || claim.route !== route) {
    done(unclaimed(route, request, reply))
    return
  }
  claim.reached(reply.raw)
  claim.ownHooksBegin(reply)
  watchReplies(reply)
  if (app.draining) {
    done(shutdownError(reply))
    return
  }
  if (claim.instead !== undefined) claim.step('answer')
  switch (claim.instead) {
    case 'answer-head-request':
      reply.code(200).send()
      return
    case 'not-found':
      reply.callNotFound()
      return
    case 'upgrade-required':
      done(refusedUpgrade(claim, reply))
      return
  }
  try {
    claim.governance?.count(request)
  } catch (error) {
    if (error instanceof FST_ERR_DUPLEX_MAX_PER_KEY) reply.header('retry-after', RETRY_AFTER)
    done(failure(error))
    return
  }
  const failed = (error: unknown): void => done(failure(error))
  if (claim.kind === 'upgrade' && claim.route.settings.chooser !== undefined) {
    choose(claim, request, reply).then(() => route.messages?.prepare(request, reply)).then(() => done(), failed)
  } else if (route.messages !== undefined) {
    route.messages.prepare(request, reply).then(() => {
      sendContinue(claim)
      done()
    }, failed)
  } else {
    sendContinue(claim)
    done()
  }
}

/**
 * An error that a function of the app has thrown. If it has thrown undefined, Fastify would go on, so there is an error in its
 * place.
 */
function failure (error: unknown): Error {
  return (error ?? new FST_ERR_DUPLEX_ROUTING_FAILED()) as Error
}

/** On an upgrade with a body the plugin sends the 100 that the client waits for. On a `body` Node does. */
function sendContinue ({ kind, carrier }: Claim): void {
  if (kind === 'upgrade') carrier.sendContinue()
}

async function choose (claim: Claim, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const { chooser, kinds } = claim.route.settings
  const choice = await (chooser as NonNullable<typeof chooser>)([...claim.offered], request as never)
  if (choice !== false) {
    const protocol = typeof choice === 'string' ? offeredAs(choice, claim.offered) : undefined
    if (protocol === undefined) throw new FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED(String(choice))
    // Only now it is known that a stream follows this body. So the body needs an exact length.
    if (claim.req.headers['transfer-encoding'] !== undefined) throw new FST_ERR_DUPLEX_LENGTH_REQUIRED()
    claim.protocol = protocol
    sendContinue(claim)
  } else if (claim.hasBody && kinds.includes('body')) {
    sendContinue(claim)
    claim.becomesBody()
  } else {
    throw refusedUpgrade(claim, reply)
  }
}

/** A request that the plugin has not seen on a connection: `app.inject()` made it, or another owner of 'upgrade' passed it on. */
function unclaimed (route: DuplexRoute, { raw }: FastifyRequest, reply: FastifyReply): Error {
  const { upgrade } = raw.headers
  const { kinds, listed, chooser } = route.settings
  if (upgrade !== undefined && kinds.includes('upgrade') && chooser === undefined) {
    const { offered } = parseUpgrade(upgrade)
    const meant = meantForRoute(offered, listed)
    if (meant.length > 0 && chooseToken(meant, listed) === undefined) return upgradeRequired(route, offered, reply, false)
  }
  return new FST_ERR_DUPLEX_NO_CONNECTION()
}

/** Whether the connection persists after the refusal decides which `Connection` field it needs. */
function refusedUpgrade ({ route, offered, req }: Claim, reply: FastifyReply): Error {
  const persists = (reply.raw as ServerResponse).shouldKeepAlive && req.httpVersion !== '1.0'
  return upgradeRequired(route, offered, reply, persists)
}

/** A reply that was sent may wait for slow hooks, and nothing shows that. So `send()` and `hijack()` tell the claim. */
function watchReplies (reply: FastifyReply): void {
  reply.send = send
  reply.hijack = hijack
}

// The same functions for all replies.
function send (this: FastifyReply, payload?: unknown): FastifyReply {
  const claim = this.sent ? undefined : claimOf(this.request.raw)
  if (claim === undefined) return withoutOurs(this).send.call(this, payload)
  if (isHandlerTimeout(this, payload)) {
    const reply = claim.replyAfterTimeout(this, payload)
    return reply === undefined ? this : withoutOurs(reply).send.call(reply, payload)
  }
  if (claim.hooks?.begun === false) {
    // This runs the hooks of the accept head.
    claim.hooks.begun = true
  } else if (claim.step('answer') === 'already-accepted') {
    warnOfLateReply(this)
    discardPayload(payload)
    return this
  }
  if (claim.failed) answerWithoutErrorHandler(this, payload)
  return withoutOurs(this).send.call(this, payload)
}

function hijack (this: FastifyReply): FastifyReply {
  if (!this.sent && claimOf(this.request.raw)?.step('hijack') === 'already-accepted') {
    warnOfLateReply(this)
    return this
  }
  return withoutOurs(this).hijack.call(this)
}

function isHandlerTimeout ({ request }: FastifyReply, payload: unknown): payload is RefusalError {
  return codeOf(payload) === 'FST_ERR_HANDLER_TIMEOUT' && request.signal.reason === payload
}

/** The reply as Fastify made it, with its own `send()` and `hijack()`. */
function withoutOurs (reply: FastifyReply): FastifyReply {
  let prototype = Object.getPrototypeOf(reply) as FastifyReply
  // The error hooks run on a stand-in for a reply, whose prototype has our functions, too.
  while (Object.hasOwn(prototype, 'send') && prototype.send === send) prototype = Object.getPrototypeOf(prototype) as FastifyReply
  return prototype
}
