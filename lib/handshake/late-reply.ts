import type { FastifyReply } from 'fastify'
import { copyReply } from '../internals/fastify.ts'
import { mutedStandIn } from '../internals/http-messages.ts'

/**
 * Makes the reply for the answer of a time limit, with hooks and the error handler of the app.
 *
 * A handler or a hook may still hold the old reply, and not know that its time is over. The old reply then says that it was
 * sent, and what is set on it has no effect. So no part of a late answer gets into this one.
 */
export function replaceReply (reply: FastifyReply): FastifyReply {
  const late = copyReply(reply)
  ;(reply as { raw: unknown }).raw = mutedStandIn(reply.raw)
  return late
}
