import type { FastifyReply } from 'fastify'
import { copyReply } from '../internals/fastify.ts'
import { mutedStandIn } from '../internals/http-messages.ts'

/**
 * The reply with which a time limit is answered, hooks and error handler of the app included. Who holds the one that was
 * there, a handler or a hook, does not know yet that its time is over: what it sets and sends is nobody's any more, and
 * that reply says of itself that it was sent. So no part of its answer comes into this one.
 */
export function replaceReply (reply: FastifyReply): FastifyReply {
  const late = copyReply(reply)
  ;(reply as { raw: unknown }).raw = mutedStandIn(reply.raw)
  return late
}
