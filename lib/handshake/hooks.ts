import type { Readable } from 'node:stream'
import type { FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { FST_ERR_DUPLEX_NOT_ACCEPTED } from '../errors.ts'
import type { DuplexRoute } from '../routes/route.ts'
import { asError, codeOf } from '../tools/thrown.ts'
import { claimOf } from './claim.ts'
import { negotiate } from './negotiate.ts'
import type { RefusalError } from './refusal.ts'
import { dropPayload } from './send-hooks.ts'

/**
 * Puts the plugin's hooks behind those of a duplex route.
 *
 * @param app whether the app drains
 */
export function addHooks (options: RouteOptions, route: DuplexRoute, app: { readonly draining: boolean }): void {
  const append = (name: 'onRequest' | 'preParsing' | 'onSend' | 'onError', hook: unknown): void => {
    const hooks = [options[name] ?? []].flat()
    ;(options as unknown as Record<string, unknown>)[name] = [...hooks, hook]
  }
  append('onRequest', (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void) => negotiate(route, request, reply, app, done))
  if (route.settings.rawBody || route.settings.kinds.some(kind => kind === 'body' || kind === 'hijack')) append('preParsing', keepBody)
  append('onSend', (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: (error: Error | null, payload?: unknown) => void) => {
    const claim = claimOf(request.raw)
    // If no accept head is being made, this is an answer, whoever sent it.
    if (claim !== undefined && claim.hooks === undefined) claim.step('answer')
    // A 2xx opens the tunnel of a CONNECT, and a 101 switches protocols: only acceptance may send these.
    if (claim !== undefined && claim.hooks === undefined && claim.carrier.impliesTakeover(reply.raw.statusCode)) {
      done(new FST_ERR_DUPLEX_NOT_ACCEPTED())
    } else {
      done(null, dropPayload(claim, payload))
    }
  })
  append('onError', (request: FastifyRequest, reply: FastifyReply, error: Error & { code: string, statusCode?: number }, done: () => void) => {
    const claim = claimOf(request.raw)
    // After acceptance nothing is sent here. Fastify only runs the hooks.
    if (claim?.accepted === true) return
    const failing = claim?.hooks ?? claim?.failing
    // An earlier hook may have hijacked the reply.
    if (claim !== undefined && failing !== undefined && !reply.sent) {
      if (codeOf(error) === 'FST_ERR_HANDLER_TIMEOUT') {
        claim.interrupt(error)
        return
      }
      // Fastify cannot answer with what is no error, or cannot be read.
      if (asError(error) !== error) {
        claim.interrupt(asError(error) as RefusalError)
        return
      }
    }
    failing?.fail(error)
    if (claim !== undefined) claim.failed = true
    done()
  })
}

/**
 * The last preParsing hook. It keeps the body parser away from a `body`, whose stream is the handler's, and from a hijack, which
 * has no body, whatever its Content-Type says.
 */
function keepBody (
  request: FastifyRequest, _reply: FastifyReply, payload: Readable, done: (error: Error | null, payload: Readable) => void
): void {
  const claim = claimOf(request.raw)
  if (claim?.kind === 'body' || claim?.kind === 'hijack' || claim?.route.settings.rawBody === true) {
    if (claim.kind === 'body') claim.carrier.readFrom(payload)
    // Fastify looks at these fields once, right after this hook. Then everybody sees the real headers again.
    const headers = request as { headers: unknown }
    headers.headers = {
      get 'content-type' () {
        headers.headers = undefined
        return undefined
      },
      'content-length': undefined,
      'transfer-encoding': undefined
    }
  }
  done(null, payload)
}
