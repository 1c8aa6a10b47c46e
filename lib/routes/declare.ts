import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { invalidOption } from '../check-options.ts'
import { runHandler, type Handler } from '../connection/run-handler.ts'
import { FST_ERR_DUPLEX_BODY_SCHEMA, FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_PLAIN_CONNECT } from '../errors.ts'
import { RouteGovernance } from '../governance/route-governance.ts'
import { Slots } from '../governance/slots.ts'
import { addHooks } from '../handshake/hooks.ts'
import { MessagePlan } from '../messages/plan.ts'
import { logTarget } from '../observability/log-target.ts'
import { routeSettings, type PluginSettings, type RouteSettings } from '../options.ts'
import type { Registry } from '../shutdown/registry.ts'
import type { DuplexRoutes } from './find.ts'
import { forwarding } from './forward-routes.ts'
import type { DuplexRoute } from './route.ts'

/** Turns the declaration of a duplex route into a Fastify route with the plugin's hooks around it. */
export function declareRoute (
  app: FastifyInstance, options: RouteOptions, plugin: PluginSettings, routes: DuplexRoutes, registry: Registry
): void {
  const methods = [options.method].flat().map(method => method.toUpperCase())
  const name = `${methods.join(', ')} ${options.url}`
  const duplex = (options as { duplex?: unknown }).duplex
  const settings = forwarding(kindsForBody(routeSettings(duplex, plugin, name), options), duplex, hasBodySchema(options), name)
  assertReachable(settings, methods, name)
  if (methods.includes('CONNECT')) assertPath(options.url)
  assertNoWebSocket(options, name)
  const handlerTimeout = options.handlerTimeout ?? (app.initialConfig as { handlerTimeout?: number }).handlerTimeout
  const route: DuplexRoute = {
    url: options.url,
    methods,
    constraints: { ...options.constraints },
    settings,
    slots: new Slots(settings.maxConnections),
    governance: RouteGovernance.of(registry.governance, settings),
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

/** The router asserts this, too, but does not say how the target of a CONNECT is written. */
function assertPath (url: string): void {
  if (/^[/*]/.test(url)) return
  throw new FST_ERR_DUPLEX_INVALID_OPTION(
    `the url of a CONNECT route must begin with "/" or "*", got "${url}". The target host:port has the path "/${url.replace(/:(?=[^:]*$)/, '/')}"`)
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
