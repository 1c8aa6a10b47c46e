import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { FST_ERR_DUPLEX_BODY_SCHEMA, FST_ERR_DUPLEX_NOT_ACCEPTED, FST_ERR_DUPLEX_PLAIN_CONNECT } from '../errors.ts'
import { RouteTerms } from '../governance/terms.ts'
import { claimOf } from '../handshake/claim.ts'
import { negotiate } from '../handshake/negotiate.ts'
import type { RefusalError } from '../handshake/refusal.ts'
import { runHandler, type Handler } from '../handshake/run-handler.ts'
import { dropPayload } from '../handshake/send-hooks.ts'
import { invalidOption } from '../check-options.ts'
import { routeSettings, type PluginSettings, type RouteSettings } from '../options.ts'
import { MessagePlan } from '../messages/plan.ts'
import type { Registry } from '../shutdown/registry.ts'
import { asError, codeOf } from '../thrown.ts'
import type { DuplexRoutes } from './find.ts'
import { forwarding } from './forward-routes.ts'
import { logTarget } from './log-target.ts'
import type { DuplexRoute } from './route.ts'
import { Slots } from '../governance/slots.ts'

/** Turns the declaration of a duplex route into a Fastify route with the plugin's hooks around it. */
export function declareRoute (
  app: FastifyInstance, options: RouteOptions, plugin: PluginSettings, routes: DuplexRoutes, registry: Registry
): void {
  const methods = [options.method].flat().map(method => method.toUpperCase())
  const name = `${methods.join(', ')} ${options.url}`
  const duplex = (options as { duplex?: unknown }).duplex
  const settings = forwarding(kindsForBody(routeSettings(duplex, plugin, name), options), duplex, hasBodySchema(options), name)
  assertReachable(settings, methods, name)
  assertNoWebSocket(options, name)
  const handlerTimeout = options.handlerTimeout ?? (app.initialConfig as { handlerTimeout?: number }).handlerTimeout
  const route: DuplexRoute = {
    url: options.url,
    methods,
    constraints: { ...options.constraints },
    settings,
    slots: new Slots(settings.maxConnections),
    terms: RouteTerms.of(registry.governance, settings),
    messages: settings.messages && new MessagePlan(app, options, settings.messages, name),
    handshakeTimeout: settings.handshakeTimeout ?? handlerTimeout ?? 0,
    handshakeYields: settings.handshakeTimeout === undefined
  }
  if (methods.includes('CONNECT')) logTarget(options)
  options.constraints = routes.add(route) as never
  // An OpenAPI document would describe it like a plain route, and has no place for a CONNECT.
  options.schema = { hide: true, ...options.schema } as NonNullable<RouteOptions['schema']>
  const handler = options.handler as unknown as Handler
  options.handler = function (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply) {
    return runHandler(this, handler, request, reply, registry)
  } as RouteOptions['handler']
  // Later, so that they come after the hooks that other plugins add to this route.
  app.after(() => addHooks(options, route, registry))
}

/** A plain route cannot serve CONNECT: only acceptance may answer a CONNECT with a 2xx. */
export function checkPlainRoute (options: RouteOptions): void {
  if (options.method === 'CONNECT') throw new FST_ERR_DUPLEX_PLAIN_CONNECT(options.url)
  if (!Array.isArray(options.method) || !options.method.includes('CONNECT')) return
  const others = options.method.filter(method => method !== 'CONNECT')
  if (others.length === 0) throw new FST_ERR_DUPLEX_PLAIN_CONNECT(options.url)
  // The route is for all methods of an app, and the app has CONNECT among them.
  options.method = others
}

/** Throws for a route that no request can reach. */
function assertReachable ({ kinds, protocols, chooser }: RouteSettings, methods: readonly string[], route: string): void {
  const tunnels = methods.map(method => method === 'CONNECT')
  if (!kinds.some(kind => tunnels.includes(kind === 'connect'))) {
    throw invalidOption('kinds', `such that ${methods.join(', ')} can have one`, kinds, { route })
  }
  if (!kinds.includes('upgrade') && (protocols ?? chooser) !== undefined) {
    throw invalidOption('protocols', 'left out where no upgrade is taken', protocols ?? chooser, { route })
  }
}

/** @fastify/websocket and this plugin cannot share a handler. */
function assertNoWebSocket (options: RouteOptions, route: string): void {
  const { websocket, wsHandler } = options as { websocket?: unknown, wsHandler?: unknown }
  if ((websocket ?? false) !== false || wsHandler !== undefined) {
    throw invalidOption('duplex', 'left out beside the option websocket of @fastify/websocket', (options as { duplex?: unknown }).duplex, { route })
  }
}

function hasBodySchema (options: RouteOptions): boolean {
  return (options.schema as { body?: unknown } | undefined)?.body !== undefined
}

/** schema.body needs the body parser, and the kind `body` does not go through it. */
function kindsForBody (settings: RouteSettings, options: RouteOptions): RouteSettings {
  if (!hasBodySchema(options)) return settings
  if (settings.kindsNamed) {
    const wrong = settings.kinds.find(kind => kind === 'body' || kind === 'hijack')
    if (wrong !== undefined) throw new FST_ERR_DUPLEX_BODY_SCHEMA(options.url, `"${wrong}"`)
    return settings
  }
  return { ...settings, kinds: ['upgrade'] }
}

function addHooks (options: RouteOptions, route: DuplexRoute, registry: Registry): void {
  const append = (name: 'onRequest' | 'preParsing' | 'onSend' | 'onError', hook: unknown): void => {
    const hooks = [options[name] ?? []].flat()
    ;(options as unknown as Record<string, unknown>)[name] = [...hooks, hook]
  }
  append('onRequest', (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void) => negotiate(route, request, reply, registry, done))
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
    if (claim?.hooks !== undefined) {
      if (codeOf(error) === 'FST_ERR_HANDLER_TIMEOUT') {
        claim.interrupt(error)
        return
      }
      // Fastify cannot answer with what is no error, or cannot be read.
      if (asError(error) !== error) {
        claim.interrupt(asError(error) as RefusalError)
        return
      }
      claim.hooks.fail(error)
    }
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
