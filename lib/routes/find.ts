import type { IncomingMessage } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_ASYNC_CONSTRAINT, FST_ERR_DUPLEX_LATE_REGISTRATION, FST_ERR_DUPLEX_UNKNOWN_CONSTRAINT } from '../errors.ts'
import { askOnce, passAnswers, rewriteOnce, strategiesOf, wasLoadedLate, type ConstraintStrategy, type RoutingOptions } from '../internals/fastify.ts'
import { Lookup } from './lookup.ts'
import {
  DUPLEX_CONSTRAINT, DuplexConstraint, kVisitNode, MATCH_CONSTRAINT, NO_VALUES, NodeRoutes, textOf, type Constraint, type NodeVisitor
} from './node-routes.ts'
import { Rank, type Ranking } from './rank.ts'
import type { DuplexRoute } from './route.ts'
import { HostStore, VersionStore } from './constraint-stores.ts'

/** A request that a duplex route has claimed, on its way through the app's router. */
export interface Claimed {
  readonly route: DuplexRoute
}

type Known = IncomingMessage & Record<symbol, string | undefined>

/** The app of each route. Several apps may have the same constraint strategy, which asks for it. */
const appOf = new WeakMap<DuplexRoute, DuplexRoutes>()

/** All duplex routes of an app. They are in the app's own router. One look-up finds them when a request head is read. */
export class DuplexRoutes {
  readonly #app: FastifyInstance
  readonly #options: RoutingOptions
  readonly #claimOf: (req: object) => Claimed | undefined
  readonly #routes = new Map<DuplexRoute, DuplexConstraint>()
  readonly #constraints = new Map<string, Constraint>()
  readonly #findRoute: FastifyInstance['findRoute']
  /** On a request that no duplex route takes: the URL that was looked up. Somebody may rewrite the URL afterwards. */
  readonly #kPlain = Symbol('fastify-duplex.plain')
  /** The same on a request that a duplex route takes. Each app has symbols of its own: several may see a request. */
  readonly #kTaken = Symbol('fastify-duplex.taken')
  readonly #rewrite: ((app: FastifyInstance, req: object) => unknown) | undefined
  #mayMatch: RegExp | undefined
  #takeConnects = false
  /** Plain routes have versions, so the router derives one from every request. */
  #plainVersions = false

  constructor (app: FastifyInstance, options: RoutingOptions, claimOf: (req: object) => Claimed | undefined) {
    this.#app = app
    this.#options = options
    this.#claimOf = claimOf
    this.#findRoute = app.findRoute
    this.#rewrite = options.rewriteUrl === undefined ? undefined : rewriteOnce(options.rewriteUrl)
  }

  get all (): Iterable<DuplexRoute> { return this.#routes.keys() }

  /** Declares a route. @returns the constraints that the router gets for it */
  add (route: DuplexRoute): Record<string, unknown> {
    this.#validate(route)
    if (this.#routes.size === 0) this.#prepareRouter()
    const value = new DuplexConstraint(route)
    this.#routes.set(route, value)
    appOf.set(route, this)
    return { [DUPLEX_CONSTRAINT]: value }
  }

  /** Called for the first duplex route. An app without one has its router unchanged. */
  #prepareRouter (): void {
    const strategy = (name: string, deriveConstraint: (req: object) => unknown): never =>
      ({ name, storage: () => new NodeRoutes(this.#constraints), validate () {}, mustMatchWhenDerived: true, deriveConstraint }) as never
    this.#app.addConstraintStrategy(strategy(DUPLEX_CONSTRAINT, req => this.#visitorFor(req as IncomingMessage)))
    this.#app.addConstraintStrategy(strategy(MATCH_CONSTRAINT, () => undefined))
  }

  /** Checks constraints as the router does for a plain route. */
  #validate ({ url, constraints }: DuplexRoute): void {
    const strategies = this.#strategies()
    for (const [name, value] of Object.entries(constraints)) {
      const strategy = strategies.get(name)
      if (strategy !== undefined) strategy.validate?.(value)
      else if (name !== 'host' && name !== 'version') throw new FST_ERR_DUPLEX_UNKNOWN_CONSTRAINT(name, url)
      else if (typeof value !== 'string' && !(name === 'host' && value instanceof RegExp)) throw new FST_ERR_DUPLEX_UNKNOWN_CONSTRAINT(name, url)
    }
  }

  /**
   * The route of a claimed request, for the app's router. A request that no gate has judged also gets one, so that its error
   * explains what is wrong.
   */
  #visitorFor (req: IncomingMessage): NodeVisitor | undefined {
    const claim = this.#claimAtItsRoute(req)
    if (claim !== undefined) return new ClaimedVisitor(req, claim.route)
    if ((req as Known)[this.#kPlain] === req.url) return undefined
    const found = this.#lookUp(req, req.method as string, req.url as string, () => Rank.UNLESS_PLAIN)
    return typeof found === 'object' ? this.#routes.get(found) : undefined
  }

  /** The claim of a request whose URL still leads to the route of the claim. A listener of 'request' may have rewritten it. */
  #claimAtItsRoute (req: IncomingMessage): Claimed | undefined {
    const claim = this.#claimOf(req)
    const { url } = req as { url: string }
    if (claim === undefined || (req as Known)[this.#kTaken] === url) return claim
    if ((req as Known)[this.#kPlain] === url) return undefined
    showVersion(req.headers)
    const found = this.#lookUp(req, req.method as string, url, route => route === claim.route ? Rank.AT_ANY_RATE : Rank.UNLESS_PLAIN)
    if (found === claim.route) {
      ;(req as Known)[this.#kTaken] = url
      return claim
    }
    if (typeof found !== 'object') (req as Known)[this.#kPlain] = url
    return undefined
  }

  /** Throws if a route, duplex or plain, has a constraint that the plugin has not seen. */
  assertKnown (url: string, constraints: object): void {
    if (!wasLoadedLate(this.#app)) return
    const known = this.#strategies()
    for (const name of Object.keys(constraints)) {
      if (name !== DUPLEX_CONSTRAINT && name !== 'host' && name !== 'version' && !known.has(name)) {
        throw new FST_ERR_DUPLEX_LATE_REGISTRATION(`the constraint ${name} of route ${url}`)
      }
    }
  }

  /** Called when all routes are declared. Prepares their constraints, and the quick test of URLs. */
  seal (): void {
    if (this.#routes.size === 0) return
    const app = this.#app
    const used = new Set([...this.all].flatMap(({ constraints }) => Object.keys(constraints)))
    const strategies = this.#strategies()
    this.#plainVersions = !strategies.has('version') && app.hasConstraintStrategy('version')
    if (!strategies.has('host') && (used.has('host') || app.hasConstraintStrategy('host'))) {
      this.#constraints.set('host', { must: false, storage: () => new HostStore(), derive: hostOf as Constraint['derive'] })
    }
    if (!strategies.has('version') && (used.has('version') || this.#plainVersions)) {
      const derive = (req: object): unknown => (req as IncomingMessage).headers['accept-version']
      this.#constraints.set('version', { must: true, storage: () => new VersionStore(), derive })
    }
    for (const [name, strategy] of strategies) {
      const must = strategy.mustMatchWhenDerived === true
      if (strategy.deriveConstraint.length === 3) {
        for (const { constraints, url } of this.all) {
          if (name in constraints || must) throw new FST_ERR_DUPLEX_ASYNC_CONSTRAINT(name, url)
        }
      } else {
        const claimOf = this.#claimOf
        const derive = askOnce(strategy, req => {
          const claim = claimOf(req)
          const app = claim && appOf.get(claim.route)
          return app !== undefined && app.#claimAtItsRoute(req as IncomingMessage) !== undefined
        })
        this.#constraints.set(name, { must, storage: () => strategy.storage() as never, derive })
      }
    }
    this.#takeConnects = [...this.all].some(({ methods }) => methods.includes('CONNECT'))
    this.#mayMatch = this.#cheapTest()
  }

  /** Whether any route takes request bodies as streams. */
  get takeBodies (): boolean {
    return [...this.all].some(({ settings, methods }) => settings.kinds.includes('body') && methods.some(method => method !== 'CONNECT'))
  }

  /**
   * Finds the duplex route for a request head. This costs one look-up in the router, or none if no duplex route can have the
   * URL.
   *
   * Only the most specific URL counts. There the first of these is chosen: a duplex route that takes the request at any rate, a
   * plain route, another duplex route. Constraints choose among equals.
   *
   * @returns 'unroutable' if the router itself answers the URL, because it is malformed or too long
   */
  find (req: IncomingMessage, method: string, url: string, ranking: Ranking): DuplexRoute | 'unroutable' | undefined {
    if (method === 'CONNECT' ? !this.#takeConnects : this.#mayMatch === undefined) return undefined
    // The URL may have been rewritten since it was looked up before.
    if (this.#plainVersions) showVersion(req.headers)
    const path = this.#rewritten(req, url)
    const found = this.#lookUp(req, method, path, ranking)
    if (typeof found !== 'object') {
      ;(req as Known)[this.#kPlain] = path
    } else {
      if ((req as Known)[this.#kPlain] !== undefined) (req as Known)[this.#kPlain] = undefined
      ;(req as Known)[this.#kTaken] = path
      if (this.#plainVersions) hideVersion(req)
    }
    return found
  }

  /**
   * A request whose Upgrade was ignored is parsed for the second time. The functions of the app are not asked again.
   *
   * @returns whether it is known that no duplex route takes it
   */
  knownAsPlain (req: IncomingMessage, before: IncomingMessage): boolean {
    passAnswers(before, req)
    const path = (before as Known)[this.#kPlain]
    if (path === undefined) return false
    ;(req as Known)[this.#kPlain] = path
    return true
  }

  #lookUp (req: IncomingMessage, method: string, path: string, ranking: Ranking): DuplexRoute | 'unroutable' | undefined {
    const connect = method === 'CONNECT'
    if (!connect && this.#mayMatch?.test(path) !== true) return undefined
    const values = this.#derive(req)
    // No plain route can have a CONNECT.
    return this.#runLookup(method, path, values, ranking, !connect)
  }

  #runLookup (
    method: string, path: string, values: Readonly<Record<string, unknown>>, ranking: Ranking, plainCounts: boolean
  ): DuplexRoute | 'unroutable' | undefined {
    const ask = (constraints: object): boolean => this.#askRouter(method, path, constraints) !== null
    if (values === NO_VALUES) return Lookup.run(new Lookup(values, values, ranking, plainCounts), ask)
    const { version, ...rest } = values
    const derived = version === undefined || this.#plainVersions ? values : rest
    let musts: Record<string, undefined> | undefined
    for (const [name, { must }] of this.#constraints) {
      if (must && derived[name] !== undefined) musts = { ...musts, [name]: undefined }
    }
    if (musts === undefined || !plainCounts) {
      return Lookup.run(new Lookup(values, musts === undefined ? derived : { ...derived, ...musts }, ranking, plainCounts), ask)
    }
    // If no plain route of a node has such a value, the router leaves the node before it reaches the duplex routes. So duplex and plain
    // routes are looked up separately. It is the only case with two look-ups.
    const found = Lookup.run(new Lookup(values, { ...derived, ...musts }, ranking, false), ask)
    if (typeof found !== 'object' || ranking(found) === Rank.AT_ANY_RATE) return found
    // Less specific plain routes do not count.
    const plain = new Lookup(values, derived, route => route === found ? Rank.UNLESS_PLAIN : Rank.NO, true)
    Lookup.run(plain, ask)
    return Lookup.metPlain(plain) ? undefined : found
  }

  #askRouter (method: string, url: string, constraints: object): ReturnType<FastifyInstance['findRoute']> | null {
    return this.#findRoute.call(this.#app, { method: method as 'GET', url, constraints: constraints as never })
  }

  /** `findRoute` of the app. The router alone would not find a duplex route without the plugin's constraint. */
  findRoute (options: { method: string, url: string, constraints?: Record<string, unknown> }): ReturnType<FastifyInstance['findRoute']> | null {
    const { method, url, constraints = NO_VALUES } = options
    if (this.#routes.size === 0) return this.#findRoute.call(this.#app, options as never)
    const found = this.#runLookup(method.toUpperCase(), url, constraints, () => Rank.UNLESS_PLAIN, method.toUpperCase() !== 'CONNECT')
    if (typeof found !== 'object') return this.#findRoute.call(this.#app, options as never)
    return this.#askRouter(method.toUpperCase(), url, { [DUPLEX_CONSTRAINT]: this.#routes.get(found) })
  }

  /** The values of {@link DUPLEX_CONSTRAINT} on the routes with these constraints. */
  withConstraints (constraints: Record<string, unknown>): object[] {
    const text = textOf(constraints)
    return [...this.#routes.values()].filter(value => value.valueOf() === text).map(value => ({ [DUPLEX_CONSTRAINT]: value }))
  }

  /** The values that the app's router derives from a request. It gets no value for a strategy that it does not use. */
  #derive (req: IncomingMessage): Readonly<Record<string, unknown>> {
    if (this.#constraints.size === 0) return NO_VALUES
    const values: Record<string, unknown> = {}
    for (const [name, { derive }] of this.#constraints) values[name] = derive(req)
    return values
  }

  #strategies (): Map<string, ConstraintStrategy> {
    return new Map([...this.#options.constraints, ...strategiesOf(this.#app)]
      .filter(({ name }) => name !== DUPLEX_CONSTRAINT && name !== MATCH_CONSTRAINT).map(strategy => [strategy.name, strategy]))
  }

  /** The URL as the app's router will see it. */
  #rewritten (req: IncomingMessage, url: string): string {
    if (this.#rewrite === undefined) return url
    const request = req as IncomingMessage & { originalUrl?: string | undefined }
    const { url: target } = request
    // A CONNECT is routed by a path that is made of its target.
    request.url = request.originalUrl = url
    try {
      const rewritten = this.#rewrite(this.#app, req)
      return typeof rewritten === 'string' ? rewritten : url
    } finally {
      request.url = target as string
    }
  }

  #cheapTest (): RegExp | undefined {
    const whole = new Set<string>()
    const prefixes = new Set<string>()
    for (const route of this.all) {
      if (route.methods.every(method => method === 'CONNECT')) continue
      const constant = route.url.split(/[:*(]/, 1)[0] as string
      // The router may treat several slashes as one, in routes and in requests.
      const escaped = constant.replace(/\/+/g, '/').replace(/\/$/, '').replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
      ;(constant === route.url ? whole : prefixes).add(escaped)
    }
    if (whole.size + prefixes.size === 0) return undefined
    // V8 compares common prefixes once, as long as each alternative is plain text.
    const urls = [...prefixes]
    if (whole.size > 0) urls.push(`(?:${[...whole].join('|')})\\/?(?:[?#;]|$)`)
    // A URL in another form (absolute, escaped, with doubled slashes) always goes to the router.
    return new RegExp(`^(?:${urls.join('|')})|^[^/]|^[^?#]*(?:%|\\/\\/)`, this.#options.caseSensitive ? '' : 'i')
  }
}

/** The host, as the app's router derives it. */
function hostOf ({ headers }: IncomingMessage): unknown {
  return headers.host || headers[':authority']
}

const kVersion = Symbol('fastify-duplex.version')

type Versioned = IncomingMessage['headers'] & { [kVersion]?: string | undefined }

/**
 * If plain routes have versions, the router reads this field itself, and then finds no route without a version.
 * A claimed request has its route already. So the field is hidden until the router has reached that route.
 */
function hideVersion ({ headers }: { headers: Versioned }): void {
  const version = headers['accept-version'] as string | undefined
  if (version === undefined) return
  headers[kVersion] = version
  headers['accept-version'] = undefined
}

function showVersion (headers: Versioned): void {
  if (headers[kVersion] === undefined) return
  headers['accept-version'] = headers[kVersion]
  delete headers[kVersion]
}

/** The visitor of a claimed request. When the router reaches the node of its route, the hidden field is put back. */
class ClaimedVisitor implements NodeVisitor {
  readonly #req: IncomingMessage
  readonly #route: DuplexRoute

  constructor (req: IncomingMessage, route: DuplexRoute) {
    this.#req = req
    this.#route = route
  }

  [kVisitNode] (node: NodeRoutes): number {
    showVersion(this.#req.headers)
    return node.bitOf(this.#route)
  }
}
