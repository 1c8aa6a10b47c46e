// Everything that this package knows of Fastify's insides, checked on Fastify 5.12. Each part is found by its name there. A
// part that is not found is reported at registration, and never guessed.
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
  /** Those that the constructor got. Those of `addConstraintStrategy` are in `strategiesOf`. */
  constraints: ConstraintStrategy[]
}

interface Seen {
  readonly strategies: ConstraintStrategy[]
  /** Duplex routes that the plugin's hook has not seen, by their options. */
  readonly unseen: Map<object, string>
  registered: boolean
  /** What the plugin does when the app is ready. */
  ready: () => void
  /** This package was loaded after the app was made, so it may have missed routes and strategies. */
  readonly late: boolean
}

/** By the root of the app, and not by its server, because an app may be started again on the server of another. */
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
  const onRoute = (route: RouteOptions): void => {
    const { duplex } = route as { duplex?: unknown }
    if (duplex !== undefined && duplex !== false) entry.unseen.set(route, `${String(route.method)} ${route.url}`)
  }
  // A scope gets copies of the hooks that are there when it is made.
  for (const scope of scopesOf(root)) scope.addHook('onRoute', onRoute)
  // One for all, and the first of the app: when a hook takes too long, Fastify's error has the name of the last one.
  root.addHook('onReady', done => {
    const known = seenByAny(root)
    const [, route] = [...entry.unseen].find(([options]) => !known.has(options)) ?? []
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

const SEEN = Symbol.for('fastify-duplex.seen')

/**
 * The duplex routes of an app that any copy of the plugin has seen. A process may have several copies, and each is told about
 * every app: Jest loads one for each test file. The copies in one realm share the diagnostics channels, but no global object.
 */
function seenByAny (root: FastifyInstance): WeakSet<object> {
  const marked = root as FastifyInstance & { [SEEN]?: WeakSet<object> }
  if (marked[SEEN] === undefined) Object.defineProperty(root, SEEN, { value: new WeakSet() })
  return marked[SEEN] as WeakSet<object>
}

const SCOPES = 'fastify.children'

/** The app and all scopes that have been made in it. */
function scopesOf (app: FastifyInstance): FastifyInstance[] {
  const children = valueNamed(app, SCOPES)
  return [app, ...Array.isArray(children) ? children.flatMap(scopesOf) : []]
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
  // Nobody knows whether these are duplex routes.
  return { again, tooEarly: app.printRoutes() === '(empty tree)' ? undefined : 'routes from before it was loaded (import it at the top of the file)' }
}

/** The plugin's hook has seen this route. */
export function markSeen (app: FastifyInstance, route: RouteOptions): void {
  seenOf(app).unseen.delete(route)
  seenByAny(rootOf(app)).add(route)
}

/** Whether the app may have added strategies that are not known here. */
export function wasLoadedLate (app: FastifyInstance): boolean {
  return seenOf(app).late
}

/**
 * Lets the app declare routes for CONNECT. Fastify's own `addHttpMethod` would also add CONNECT to the methods of `app.all()`,
 * and to the list that other plugins read.
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

/** What the functions of the app returned for a request, so that the second question gets the same answer. */
const answers = new WeakMap<object, Map<unknown, unknown>>()

function remember (req: object, asked: unknown, answer: unknown): void {
  const known = answers.get(req)
  if (known === undefined) answers.set(req, new Map([[asked, answer]]))
  else known.set(asked, answer)
}

/** Returns the answer and forgets it: a third question is asked on purpose. */
function recall (req: object, asked: unknown): { answer: unknown } | undefined {
  const known = answers.get(req)
  if (known?.has(asked) !== true) return undefined
  const answer = known.get(asked)
  known.delete(asked)
  return { answer }
}

/** Copies the answers to a request that was parsed for the second time. */
export function passAnswers (from: object, to: object): void {
  const known = answers.get(from)
  if (known !== undefined) answers.set(to, known)
}

/** The answers that the router got for the request that it is routing now. */
let routed: { req: object, answers: Map<unknown, unknown> } | undefined

const originals = new WeakMap<ConstraintStrategy, ConstraintStrategy['deriveConstraint']>()

/**
 * Asks a strategy of the app once for each request. Whether the plugin or the router asks first, the other gets the same
 * answer. If the route of a request is chosen already, as `isChosen` says, the router gets no value.
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
 * Asks the app's `rewriteUrl` once for each request. The function that Fastify keeps cannot be replaced. But Fastify calls it
 * by its `call` method, which can.
 */
export function rewriteOnce (rewriteUrl: NonNullable<RoutingOptions['rewriteUrl']>): (app: FastifyInstance, req: object) => unknown {
  const original = (app: unknown, req: unknown): unknown => Reflect.apply(rewriteUrl, app, [req])
  // The answer is for this URL. Somebody may change it before Fastify asks.
  const known = (req: { url?: string }): Rewritten | undefined => {
    const rewritten = recall(req, rewriteUrl)?.answer as Rewritten | undefined
    return rewritten?.url === req.url ? rewritten : undefined
  }
  if (!Object.hasOwn(rewriteUrl, 'call') && Object.isExtensible(rewriteUrl)) {
    Object.defineProperty(rewriteUrl, 'call', {
      configurable: true,
      value: (app: unknown, req: object) => {
        const rewritten = known(req)
        return rewritten === undefined ? original(app, req) : rewritten.answer
      }
    })
  }
  return (app, req) => {
    const rewritten = known(req) ?? { url: (req as { url?: string }).url, answer: original(app, req) }
    remember(req, rewriteUrl, rewritten)
    return rewritten.answer
  }
}

interface Rewritten {
  url: string | undefined
  answer: unknown
}

const REPLY_HEADERS = 'fastify.reply.headers'
const REPLY_FIELDS = [REPLY_HEADERS, 'fastify.reply.trailers']

/** @returns which part this Fastify keeps elsewhere, of those that are needed only later, or undefined */
export function missingParts (app: FastifyInstance): string | undefined {
  if (!Array.isArray(valueNamed(app, SCOPES))) return 'this Fastify does not show its scopes'
  const Reply = valueNamed(app, 'fastify.Reply')
  if (typeof Reply !== 'function') return 'this Fastify does not show its replies'
  const reply = Reflect.construct(Reply, [undefined, undefined, undefined]) as object
  const missing = REPLY_FIELDS.find(name => symbolNamed(reply, name) === undefined)
  return missing === undefined ? undefined : `its replies have no ${missing}`
}

/**
 * Tells of every reply that is hijacked. The hooks of the app run before those of the route, and have a reply that the plugin has
 * not seen yet.
 *
 * @param hijacked called with the request of the reply
 */
export function onHijack (app: FastifyInstance, hijacked: (req: object) => void): void {
  const { prototype } = valueNamed(app, 'fastify.Reply') as { prototype: FastifyReply }
  const { hijack } = prototype
  // Fastify uses the reply class of an app only if it was decorated.
  app.decorateReply('hijack', function (this: FastifyReply) {
    if (!this.sent) hijacked(this.request.raw)
    return hijack.call(this)
  })
}

const kRunning = Symbol('fastify-duplex.runningErrorHooks')
const kTold = Symbol('fastify-duplex.toldOfErrorHooks')

interface ReplyInError {
  [kRunning]?: boolean
  [kTold]?: (running: boolean) => void
}

/** Fastify marks a reply while its onError hooks run. The same functions for all replies. */
const ERROR_MARK: PropertyDescriptor & ThisType<ReplyInError> = {
  configurable: true,
  get () { return this[kRunning] },
  set (running: boolean) {
    this[kRunning] = running
    this[kTold]?.(running)
  }
}

let errorMark: symbol | false | undefined

/** A reply has this mark only once an error was sent with it. But its `send()` looks for it before anything else. */
function findErrorMark (reply: FastifyReply): symbol | false {
  let found: symbol | false = false
  const spy = new Proxy({}, {
    get (_target, name) {
      if (typeof name === 'symbol' && name.description === 'fastify.reply.isRunningOnErrorHook') found = name
      throw new Error('seen')
    }
  })
  try {
    (Object.getPrototypeOf(reply) as FastifyReply).send.call(spy as FastifyReply)
  } catch {}
  return found
}

/** Tells when the onError hooks of a reply begin, and when they are over. */
export function watchErrorHooks (reply: FastifyReply, told: (running: boolean) => void): void {
  errorMark ??= findErrorMark(reply)
  if (errorMark === false) return
  ;(reply as ReplyInError)[kTold] = told
  Object.defineProperty(reply, errorMark, ERROR_MARK)
}

/** Another reply to the same request, in the same state. What is set on one from now on is not set on the other. */
export function copyReply (reply: FastifyReply): FastifyReply {
  const copy = Object.create(Object.getPrototypeOf(reply) as object, Object.getOwnPropertyDescriptors(reply)) as FastifyReply
  for (const name of REPLY_FIELDS) {
    // It is there: that was looked for at registration.
    const symbol = symbolNamed(reply, name) as symbol
    const fields: unknown = Reflect.get(reply, symbol)
    if (fields !== null) Reflect.set(copy, symbol, { ...fields as object })
  }
  return copy
}

let replyHeaders: symbol | undefined

/** Whether neither the reply nor its response has a field. `getHeaders()` would put both together, and that costs as much as the rest. */
export function hasNoFields (reply: FastifyReply): boolean {
  replyHeaders ??= symbolNamed(reply, REPLY_HEADERS)
  if (replyHeaders === undefined || reply.raw.getHeaderNames().length > 0) return false
  return Object.keys(Reflect.get(reply, replyHeaders) as object).length === 0
}

let nextErrorHandler: symbol | undefined

/**
 * The last error handler of a reply may answer with what is no Error, because a hook has thrown that. If a hook then throws
 * again, Fastify looks for a further handler, finds none, and throws where nobody catches it. With this it answers without a handler,
 * as it does for an Error.
 */
export function answerWithoutErrorHandler (reply: FastifyReply, payload: unknown): void {
  if (payload instanceof Error) return
  nextErrorHandler ??= symbolNamed(reply, 'fastify.reply.nextErrorHandler')
  if (nextErrorHandler === undefined) return
  const next: unknown = Reflect.get(reply, nextErrorHandler)
  if (typeof next === 'object' && next !== null && (next as { func?: unknown }).func === undefined) Reflect.set(reply, nextErrorHandler, false)
}

export function symbolNamed (target: object, name: string): symbol | undefined {
  for (let object: object | null = target; object !== null; object = Object.getPrototypeOf(object)) {
    const found = Object.getOwnPropertySymbols(object).find(symbol => symbol.description === name)
    if (found !== undefined) return found
  }
  return undefined
}

function valueNamed (target: object, name: string): unknown {
  const symbol = symbolNamed(target, name)
  return symbol === undefined ? undefined : Reflect.get(target, symbol)
}

/** The options that the router was built with, or undefined if this Fastify keeps them elsewhere. */
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

/** The onSend hooks that a reply goes through. Undefined if this Fastify keeps them elsewhere. */
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
 * Calls back for each further server that `listen({ host: 'localhost' })` opens, one for each other address, as soon as it
 * listens. Fastify keeps them in an array, and tells nobody.
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

/** Whether the app wants log lines about this request: that is its `disableRequestLogging`, which may be a function. */
export function logsRequest ({ server, request }: FastifyReply): boolean {
  logController ??= symbolNamed(server, 'fastify.logController')
  const controller = logController === undefined
    ? undefined
    : (server as unknown as Record<symbol, { isLogDisabled?: (request: unknown) => unknown } | undefined>)[logController]
  return typeof controller?.isLogDisabled !== 'function' || controller.isLogDisabled(request) !== true
}
