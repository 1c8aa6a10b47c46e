// Everything this package knows of Fastify's insides, checked on Fastify 5.12. Each part is found by
// what it is called there; what cannot be found is reported at registration, never guessed.
import diagnostics from 'node:diagnostics_channel'
import type { Server } from 'node:http'
import type { FastifyInstance, FastifyReply, RouteOptions } from 'fastify'
import { FST_ERR_DUPLEX_NOT_REGISTERED } from '../errors.ts'

/** A routing constraint of the app, as find-my-way defines it. */
export interface ConstraintStrategy {
  name: string
  mustMatchWhenDerived?: boolean
  validate? (value: unknown): void
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
  readonly strategies: ConstraintStrategy[]
  /** Duplex routes that no hook of the plugin has seen, by their options. */
  readonly unseen: Map<object, string>
  registered: boolean
  /** What the plugin does when the app is ready. */
  ready: () => void
  /** This package was loaded when the app was there already, so that it may have missed something. */
  readonly late: boolean
}

/** By the root of the app. Not by its server: an app that takes the place of another one may have the same. */
const seen = new WeakMap<object, Seen>()

/** The instance that all the others of an app inherit from. */
export function rootOf (app: FastifyInstance): FastifyInstance {
  let root = app
  while (!Object.hasOwn(root, 'routing') && 'routing' in Object.getPrototypeOf(root)) root = Object.getPrototypeOf(root) as FastifyInstance
  return root
}

function seenOf (app: FastifyInstance): Seen {
  const root = rootOf(app)
  return seen.get(root) ?? watch(root, true)
}

function watch (root: FastifyInstance, late: boolean): Seen {
  const entry: Seen = { strategies: [], unseen: new Map(), registered: false, ready: () => {}, late }
  seen.set(root, entry)
  root.addHook('onRoute', (route: RouteOptions) => {
    const { duplex } = route as { duplex?: unknown }
    if (duplex !== undefined && duplex !== false) entry.unseen.set(route, `${String(route.method)} ${route.url}`)
  })
  // One for all, and the first of the app: when a hook takes too long, Fastify's error has the name of the last one.
  root.addHook('onReady', done => {
    const [route] = entry.unseen.values()
    if (route === undefined) entry.ready()
    done(route === undefined ? undefined : new FST_ERR_DUPLEX_NOT_REGISTERED(route))
  })
  const addConstraintStrategy = root.addConstraintStrategy
  root.addConstraintStrategy = function (strategy) {
    const result = addConstraintStrategy.call(this, strategy)
    entry.strategies.push(strategy as unknown as ConstraintStrategy)
    return result
  }
  return entry
}

diagnostics.subscribe('fastify.initialization', message => {
  watch((message as { fastify: FastifyInstance }).fastify, false)
})

/**
 * `register` succeeds once for each app. Tells the duplex route, or whatever else, that was declared too early.
 *
 * @param ready called when the app is ready
 */
export function markRegistered (app: FastifyInstance, ready: () => void): { again: boolean, tooEarly: string | undefined } {
  const entry = seenOf(app)
  const again = entry.registered
  if (!again) entry.ready = ready
  entry.registered = true
  const [tooEarly] = entry.unseen.values()
  if (tooEarly !== undefined || !entry.late) return { again, tooEarly }
  // What these routes are there is no telling.
  return { again, tooEarly: app.printRoutes() === '(empty tree)' ? undefined : 'routes from before it was loaded (import it at the top of the file)' }
}

/** The plugin's hook has come by this route. */
export function markSeen (app: FastifyInstance, route: RouteOptions): void {
  seenOf(app).unseen.delete(route)
}

/** Strategies that the app added before may not be known. */
export function wasLoadedLate (app: FastifyInstance): boolean {
  return seenOf(app).late
}

/**
 * Lets the app declare routes for CONNECT. Fastify's own `addHttpMethod` would also add it to what `app.all()` is for,
 * and to what other plugins take for all methods.
 */
export function allowConnect (app: FastifyInstance): boolean {
  if (app.supportedMethods.includes('CONNECT')) return true
  app.addHttpMethod('CONNECT')
  const symbol = symbolNamed(app, 'fastify.acceptedHTTPMethods')
  const methods = symbol && (app as unknown as Record<symbol, { bodyless?: unknown } | undefined>)[symbol]?.bodyless
  if (!(methods instanceof Set)) return false
  methods.delete('CONNECT')
  methods.has = method => method === 'CONNECT' || Set.prototype.has.call(methods, method)
  return !app.supportedMethods.includes('CONNECT')
}

/** What the app's functions said of a request, for the second time that they are asked. */
const answers = new WeakMap<object, Map<unknown, unknown>>()

function remember (req: object, asked: unknown, answer: unknown): void {
  const known = answers.get(req)
  if (known === undefined) answers.set(req, new Map([[asked, answer]]))
  else known.set(asked, answer)
}

/** Takes the answer away: who asks a third time has a reason. */
function recall (req: object, asked: unknown): { answer: unknown } | undefined {
  const known = answers.get(req)
  if (known?.has(asked) !== true) return undefined
  const answer = known.get(asked)
  known.delete(asked)
  return { answer }
}

/** For a request that is parsed once more. */
export function passAnswers (from: object, to: object): void {
  const known = answers.get(from)
  if (known !== undefined) answers.set(to, known)
}

/** What the router found out about the request that it is routing now. */
let routed: { req: object, answers: Map<unknown, unknown> } | undefined

const originals = new WeakMap<ConstraintStrategy, ConstraintStrategy['deriveConstraint']>()

/**
 * A strategy of the app is asked once for each request, by us or by the router, and the other one gets the same answer.
 * For a request of which `isChosen` says that its route is known the router gets no value.
 */
export function askOnce (strategy: ConstraintStrategy, isChosen: (req: object) => boolean): (req: object) => unknown {
  let derive = originals.get(strategy)
  if (derive === undefined) {
    const original = derive = strategy.deriveConstraint
    originals.set(strategy, original)
    // find-my-way asks the strategy for this function at each request.
    strategy.deriveConstraint = function (req, context) {
      if (isChosen(req as object)) return undefined
      const known = recall(req as object, strategy)
      if (known !== undefined) return known.answer
      const answer: unknown = original.call(strategy, req, context)
      if (routed?.req === req) routed?.answers.set(strategy, answer)
      else routed = { req: req as object, answers: new Map([[strategy, answer]]) }
      return answer
    }
  }
  return req => {
    if (routed?.req === req && routed.answers.has(strategy)) return routed.answers.get(strategy)
    const known = recall(req, strategy)
    const answer: unknown = known === undefined ? derive.call(strategy, req, undefined) : known.answer
    remember(req, strategy, answer)
    return answer
  }
}

/**
 * The app's `rewriteUrl`, asked once for each request. Fastify keeps the function where nobody can get at it, and calls it by
 * its `call`.
 */
export function rewriteOnce (rewriteUrl: NonNullable<RoutingOptions['rewriteUrl']>): (app: FastifyInstance, req: object) => unknown {
  const original = (app: unknown, req: unknown): unknown => Reflect.apply(rewriteUrl, app, [req])
  if (!Object.hasOwn(rewriteUrl, 'call') && Object.isExtensible(rewriteUrl)) {
    Object.defineProperty(rewriteUrl, 'call', {
      configurable: true,
      value: (app: unknown, req: object) => {
        const known = recall(req, rewriteUrl)
        return known === undefined ? original(app, req) : known.answer
      }
    })
  }
  return (app, req) => {
    const known = recall(req, rewriteUrl)
    const answer = known === undefined ? original(app, req) : known.answer
    remember(req, rewriteUrl, answer)
    return answer
  }
}

/** Another reply to the same request, in the same state. What is set on one from now on is not set on the other. */
export function copyReply (reply: FastifyReply): FastifyReply {
  const copy = Object.create(Object.getPrototypeOf(reply) as object, Object.getOwnPropertyDescriptors(reply)) as FastifyReply
  for (const name of ['fastify.reply.headers', 'fastify.reply.trailers']) {
    const symbol = symbolNamed(reply, name)
    if (symbol === undefined) continue
    const fields: unknown = Reflect.get(reply, symbol)
    if (fields !== null) Reflect.set(copy, symbol, { ...fields as object })
  }
  return copy
}

export function symbolNamed (target: object, name: string): symbol | undefined {
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
