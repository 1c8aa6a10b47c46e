import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { muteResponse } from '../internals/http-messages.ts'
import { asError } from '../tools/thrown.ts'

/**
 * Runs the onError hooks of the route, without the error handler, which would answer. Fastify runs them for a reply that
 * is not hijacked, so they get a stand-in for the reply. The plugin's own hook is the last, and stops there.
 */
export function runErrorHooks (reply: FastifyReply, error: unknown): void {
  const raw = Object.create(reply.raw) as ServerResponse
  muteResponse(raw)
  const shadow = Object.create(reply, { sent: { value: false }, raw: { value: raw } }) as FastifyReply
  shadow.send(asError(error))
}
