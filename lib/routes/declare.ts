import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { FST_ERR_DUPLEX_BODY_SCHEMA, FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_NOT_ACCEPTED } from '../errors.ts'
import { claimOf } from '../handshake/claim.ts'
import { negotiate } from '../handshake/negotiate.ts'
import { enter, type Handler } from '../handshake/run-handler.ts'
import { dropPayload } from '../handshake/send-hooks.ts'
import { routeSettings, type PluginSettings, type RouteSettings } from '../options.ts'
import type { Registry } from '../shutdown/registry.ts'
import type { DuplexRoutes } from './find.ts'
import { Slots } from './slots.ts'

/** Turns the declaration of a duplex route into a Fastify route with the plugin's hooks around it. */
export function declareRoute (
  app: FastifyInstance, options: RouteOptions, plugin: PluginSettings, routes: DuplexRoutes, registry: Registry
): void {
  const settings = kindsForBody(routeSettings((options as { duplex?: unknown }).duplex, plugin), options)
  const methods = [options.method].flat().map(method => method.toUpperCase())
  assertReachable(settings, methods)
  const handlerTimeout = options.handlerTimeout ?? (app.initialConfig as { handlerTimeout?: number }).handlerTimeout
  const route = routes.add({
    url: options.url,
    methods,
    constraints: { ...options.constraints },
    settings,
    slots: new Slots(settings.maxConnections),
    handshakeTimeout: settings.handshakeTimeout ?? handlerTimeout ?? 0,
    handshakeYields: settings.handshakeTimeout === undefined
  })
  options.constraints = routes.constraintsFor(route) as never
  const handler = options.handler as unknown as Handler
  options.handler = function (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply) {
    return enter(this, handler, request, reply, registry)
  } as RouteOptions['handler']
  // Last among the hooks of the route: after those that other plugins add to it for this declaration.
  app.after(() => addHooks(options, settings, registry))
}

/** A route that no request can reach is a mistake of its declaration. */
function assertReachable ({ kinds, protocols, chooser }: RouteSettings, methods: readonly string[]): void {
  const tunnels = methods.map(method => method === 'CONNECT')
  if (!kinds.some(kind => tunnels.includes(kind === 'connect'))) {
    throw new FST_ERR_DUPLEX_INVALID_OPTION('kinds', `such that ${methods.join(', ')} can have one`, JSON.stringify(kinds))
  }
  if (!kinds.includes('upgrade') && (protocols ?? chooser) !== undefined) {
    throw new FST_ERR_DUPLEX_INVALID_OPTION('protocols', 'left out where no upgrade is taken', JSON.stringify(protocols) ?? 'a function')
  }
}

function hasBodySchema (options: RouteOptions): boolean {
  return (options.schema as { body?: unknown } | undefined)?.body !== undefined
}

/** schema.body is for the body parser, and a message's body does not go there. */
function kindsForBody (settings: RouteSettings, options: RouteOptions): RouteSettings {
  if (!hasBodySchema(options)) return settings
  if (settings.kindsNamed) {
    const wrong = settings.kinds.find(kind => kind === 'body' || kind === 'hijack')
    if (wrong !== undefined) throw new FST_ERR_DUPLEX_BODY_SCHEMA(options.url, `"${wrong}"`)
    return settings
  }
  return { ...settings, kinds: ['upgrade'] }
}

function addHooks (options: RouteOptions, { kinds }: RouteSettings, registry: Registry): void {
  const append = (name: 'onRequest' | 'preParsing' | 'onSend' | 'onError', hook: unknown): void => {
    const hooks = [options[name] ?? []].flat()
    ;(options as unknown as Record<string, unknown>)[name] = [...hooks, hook]
  }
  append('onRequest', (request: FastifyRequest, reply: FastifyReply, done: (error?: Error) => void) => negotiate(request, reply, registry, done))
  if (kinds.includes('body')) append('preParsing', keepBody)
  append('onSend', (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: (error: Error | null, payload?: unknown) => void) => {
    const claim = claimOf(request.raw)
    // A 2xx to a CONNECT is a tunnel, and 101 a switch: no answer but acceptance may say so.
    if (claim !== undefined && claim.hooks === undefined && claim.carrier.impliesTakeover(reply.raw.statusCode)) {
      done(new FST_ERR_DUPLEX_NOT_ACCEPTED())
    } else {
      done(null, dropPayload(claim, payload))
    }
  })
  append('onError', (request: FastifyRequest, reply: FastifyReply, error: Error & { code: string, statusCode?: number }, done: () => void) => {
    const claim = claimOf(request.raw)
    // After acceptance there is nobody to answer: the hooks were all that was wanted.
    if (claim?.accepted === true) return
    if (claim?.hooks !== undefined) {
      if (error.code === 'FST_ERR_HANDLER_TIMEOUT') {
        claim.interrupt(error)
        return
      }
      claim.hooks.fail(error)
    }
    done()
  })
}

/** The last preParsing hook: on a message the stream that it gets is the body, and nothing parses it. */
function keepBody (
  request: FastifyRequest, _reply: FastifyReply, payload: Readable, done: (error: Error | null, payload: Readable) => void
): void {
  const claim = claimOf(request.raw)
  if (claim?.kind === 'body') {
    claim.carrier.readFrom(payload)
    // Fastify looks for a body once, right after this, and then everybody sees the headers again.
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
