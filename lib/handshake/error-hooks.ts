import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { FST_ERR_DUPLEX_HANDLER_FAILED } from '../errors.ts'
import { silence } from '../internals/http-messages.ts'

/**
 * The onError hooks of the route, without the error handler that would answer: a reply that has not
 * been hijacked runs them, and the plugin's own hook, which is the last, goes no further.
 */
export function runErrorHooks (reply: FastifyReply, error: unknown): void {
  const raw = Object.create(reply.raw) as ServerResponse
  silence(raw)
  const shadow = Object.create(reply, { sent: { value: false }, raw: { value: raw } }) as FastifyReply
  shadow.send(error instanceof Error ? error : new FST_ERR_DUPLEX_HANDLER_FAILED())
}
