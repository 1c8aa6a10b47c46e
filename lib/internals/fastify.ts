// Everything this package knows of Fastify's insides, checked on Fastify 5.12. Each part is found by
// what it is called there; what cannot be found is reported at registration, never guessed.
import diagnostics from 'node:diagnostics_channel'
import { IncomingMessage, type Server } from 'node:http'
import type { FastifyInstance, FastifyReply, RouteOptions } from 'fastify'

/** A routing constraint of the app, as find-my-way defines it. */
export interface ConstraintStrategy {
  name: string
  mustMatchWhenDerived?: boolean
  storage (): { get (value: unknown): unknown, set (value: unknown, store: unknown): void }
  deriveConstraint (req: unknown, context: unknown, done?: unknown): unknown
}

export interface RoutingOptions {
  rewriteUrl: ((this: FastifyInstance, req: unknown) => string) | undefined
  caseSensitive: boolean
  /** Of the constructor; those of `addConstraintStrategy` are in `strategiesOf`. */
  constraints: ConstraintStrategy[]
}

interface Seen {
  strategies: ConstraintStrategy[]
  /** The first duplex route that was declared while the plugin was not there. */
  tooEarly: string | undefined
  registered: boolean
}

const seen = new WeakMap<object, Seen>()

/** `app.server` is the one object that an instance and all its encapsulated children share. */
function seenOf (app: FastifyInstance): Seen {
  let entry = seen.get(app.server)
  if (entry === undefined) {
    entry = { strategies: [], tooEarly: undefined, registered: false }
    seen.set(app.server, entry)
  }
  return entry
}

diagnostics.subscribe('fastify.initialization', (message) => {
  const { fastify } = message as { fastify: FastifyInstance }
  const entry = seenOf(fastify)
  fastify.addHook('onRoute', (route: RouteOptions) => {
    const { duplex } = route as { duplex?: unknown }
    if (duplex !== undefined && duplex !== false && !entry.registered) {
      entry.tooEarly ??= `${String(route.method)} ${route.url}`
    }
  })
  const addConstraintStrategy = fastify.addConstraintStrategy
  fastify.addConstraintStrategy = function (strategy) {
    const result = addConstraintStrategy.call(this, strategy)
    entry.strategies.push(strategy as unknown as ConstraintStrategy)
    return result
  }
})

/** The duplex route that was declared too early, if any; `register` succeeds once per server. */
export function markRegistered (app: FastifyInstance): { again: boolean, tooEarly: string | undefined } {
  const entry = seenOf(app)
  const again = entry.registered
  entry.registered = true
  return { again, tooEarly: entry.tooEarly }
}

function symbolNamed (target: object, name: string): symbol | undefined {
  for (let object: object | null = target; object !== null; object = Object.getPrototypeOf(object)) {
    const found = Object.getOwnPropertySymbols(object).find(symbol => symbol.description === name)
    if (found !== undefined) return found
  }
  return undefined
}

/** What the router is built with, or undefined where this Fastify hides it elsewhere. */
export function routingOptions (app: FastifyInstance): RoutingOptions | undefined {
  const symbol = symbolNamed(app, 'fastify.options')
  if (symbol === undefined) return undefined
  const options = (app as unknown as Record<symbol, {
    rewriteUrl?: RoutingOptions['rewriteUrl']
    routerOptions?: { caseSensitive?: boolean, constraints?: Record<string, ConstraintStrategy> }
  }>)[symbol]
  if (options === undefined || typeof options !== 'object') return undefined
  return {
    rewriteUrl: options.rewriteUrl,
    caseSensitive: options.routerOptions?.caseSensitive ?? true,
    constraints: Object.values(options.routerOptions?.constraints ?? {})
  }
}

let routeContext: symbol | undefined

/** The onSend hooks that a reply goes through, of the instance and of the route; undefined where this Fastify hides them elsewhere. */
export function sendHooks ({ request }: FastifyReply): unknown[] | undefined {
  routeContext ??= symbolNamed(request, 'fastify.context')
  if (routeContext === undefined) return undefined
  const context = (request as unknown as Record<symbol, { onSend?: unknown } | undefined>)[routeContext]
  return Array.isArray(context?.onSend) ? context.onSend : undefined
}

/**
 * Whether `findRoute` found no route, but what answers a malformed URL or an over-long parameter: the
 * parameters of a route are an object without a prototype, and those of an answer are an empty literal.
 */
export function isRoutersOwnAnswer (found: { params: object }): boolean {
  return Object.getPrototypeOf(found.params) === Object.prototype
}

/** Whether `app.inject` made this request, which then has no connection. */
export function isInjected (req: { httpVersion?: string }): boolean {
  return !(req instanceof IncomingMessage) && req.httpVersion === '1.1'
}

/** Strategies that were added after the instance was made. */
export function strategiesOf (app: FastifyInstance): ConstraintStrategy[] {
  return seenOf(app).strategies
}

/**
 * The further servers that `listen({ host: 'localhost' })` opens, one for each other address, as soon as each of them
 * listens: Fastify keeps them in an array, and tells nobody.
 */
export function onSecondaryServer (app: FastifyInstance, opened: (server: Server) => void): void {
  const symbol = symbolNamed(app, 'fastify.serverBindings')
  const bindings = symbol === undefined ? undefined : (app as unknown as Record<symbol, Server[]>)[symbol]
  if (!Array.isArray(bindings)) return
  for (const server of bindings) opened(server)
  bindings.push = function (...servers: Server[]) {
    for (const server of servers) opened(server)
    return Array.prototype.push.apply(this, servers)
  }
}

let logController: symbol | undefined

/** Whether the app wants lines about this request at all: its `disableRequestLogging`, which may be a function. */
export function logsRequest ({ server, request }: FastifyReply): boolean {
  logController ??= symbolNamed(server, 'fastify.logController')
  const controller = logController === undefined
    ? undefined
    : (server as unknown as Record<symbol, { isLogDisabled?: (request: unknown) => unknown } | undefined>)[logController]
  return typeof controller?.isLogDisabled !== 'function' || controller.isLogDisabled(request) !== true
}
