import type { IncomingMessage } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_ASYNC_CONSTRAINT, FST_ERR_DUPLEX_DUPLICATED_ROUTE } from '../errors.ts'
import { isInjected, isRoutersOwnAnswer, strategiesOf, type ConstraintStrategy, type RoutingOptions } from '../internals/fastify.ts'
import { HostStore } from './host-store.ts'
import type { RouteSettings } from '../options.ts'
import type { Slots } from './slots.ts'

/** The constraints that only duplex routes have, both with the id of the route. */
const PLACE = 'fastifyDuplexPlace'
const ONLY = 'fastifyDuplex'
/** What stands in for the constraint `host`. */
const HOST = 'fastifyDuplexHost'

export interface DuplexRoute {
  /** The value of its own constraints. */
  readonly id: string
  readonly url: string
  readonly methods: readonly string[]
  /** The app's own constraints on the route. */
  readonly constraints: Readonly<Record<string, unknown>>
  readonly settings: RouteSettings
  readonly slots: Slots
  /** In milliseconds, 0 for none. */
  readonly handshakeTimeout: number
  /** It is the handlerTimeout of the route, which Fastify watches as well. */
  readonly handshakeYields: boolean
}

/**
 * Whether a route wants a request: at any rate (it can be negotiated), or unless a plain route with as
 * many constraints is there to serve it.
 */
export type Wish = 'at-any-rate' | 'unless-plain' | 'no'

/** A request that a duplex route has already claimed, on its way through the app's router. */
export interface Claimed {
  readonly route: DuplexRoute
}

/** What a request brings for a constraint: asked by the router, it says which handlers are to be found. */
type Question = (place: Place) => number

/** The duplex routes at one node of the router's tree, each with its bit in the masks that find-my-way selects handlers by. */
class Place {
  readonly bits = new Map<string, number>()
  /** One of them; where no route has constraints, the only one. */
  one: DuplexRoute | undefined
  readonly #routes: ReadonlyMap<string, DuplexRoute>

  constructor (routes: ReadonlyMap<string, DuplexRoute>) {
    this.#routes = routes
  }

  set (id: string, bit: number): void {
    const route = this.#routes.get(id) as DuplexRoute
    // The router takes their ids for different constraints. Of two that differ in the names of parameters alone one would get no request.
    for (const other of this.bits.keys()) {
      if (other !== id && textOf((this.#routes.get(other) as DuplexRoute).constraints) === textOf(route.constraints)) {
        throw new FST_ERR_DUPLEX_DUPLICATED_ROUTE(route.methods.join(', '), route.url)
      }
    }
    this.bits.set(id, bit)
    this.one = route
  }

  get (asked: string | Question): number {
    return typeof asked === 'string' ? this.bits.get(asked) ?? 0 : asked(this)
  }
}

const ALL: Question = () => -1

/** Where no route of the app has constraints. */
const NONE: Readonly<Record<string, unknown>> = {}

/** What the router finds at one node for one request. */
class Choice {
  readonly #place: Place
  readonly #derived: Record<string, unknown>
  readonly #ask: (questions: Record<string, unknown>) => boolean

  constructor (place: Place, derived: Record<string, unknown>, ask: (questions: Record<string, unknown>) => boolean) {
    this.#place = place
    this.#derived = derived
    this.#ask = ask
  }

  /** Of the handlers in a mask, the one that the router chooses: the last that it finds, in the order of their bits. */
  last (mask: number): number {
    if (mask === 0 || !this.#finds(mask)) return 0
    let at = 0
    for (const step of [16, 8, 4, 2, 1]) {
      const upper = mask & (-1 << (at + step))
      if (upper === 0 || (upper !== mask && !this.#finds(upper))) continue
      mask = upper
      at += step
    }
    return 1 << at
  }

  /** How many constraints the plain route has that the router chooses, or -1 without one. */
  plainConstraints (): number {
    const bit = this.last(~[...this.#place.bits.values()].reduce((mask, bit) => mask | bit, 0))
    if (bit === 0) return -1
    const derived = this.#derived
    // It has those without whose values it is not found.
    return Object.keys(derived).filter(name => derived[name] !== undefined && !this.#finds(bit, { ...derived, [name]: undefined })).length
  }

  #finds (mask: number, derived = this.#derived): boolean {
    // The router asks both constraints at each node, in this order.
    let at: Place | undefined
    const here = (place: Place): number => {
      at = place
      return -1
    }
    return this.#ask({ ...derived, [PLACE]: here, [ONLY]: () => at === this.#place ? mask : 0 })
  }
}

/** All duplex routes of a server, found by method, URL and constraints like any other route. */
export class DuplexRoutes {
  readonly #app: FastifyInstance
  readonly #options: RoutingOptions
  readonly #routes = new Map<string, DuplexRoute>()
  /** How the app's router derives the values of all constraints that a route has. */
  readonly #derivers = new Map<string, (req: IncomingMessage) => unknown>()
  #mayMatch: RegExp | undefined

  constructor (app: FastifyInstance, options: RoutingOptions, claimOf: (req: IncomingMessage) => Claimed | undefined) {
    this.#app = app
    this.#options = options
    const claimed = (req: IncomingMessage): Question | undefined => {
      // An injected request is nobody's claim. It is routed here all the same, to be told what it lacks.
      const route = claimOf(req)?.route ??
        (isInjected(req) ? this.#choose(req, req.method as string, req.url as string, () => 'unless-plain') : undefined)
      return route && (place => place.get(route.id))
    }
    const strategy = (name: string, storage: () => unknown, deriveConstraint: (req: IncomingMessage) => unknown): object =>
      ({ name, storage, deriveConstraint, validate () {} })
    app.addConstraintStrategy(strategy(PLACE, () => new Place(this.#routes), () => ALL) as never)
    // Where a value is derived for it no plain route is found, and where none is, no duplex route.
    app.addConstraintStrategy({ ...strategy(ONLY, () => new Place(this.#routes), claimed), mustMatchWhenDerived: true } as never)
    app.addConstraintStrategy(strategy(HOST, () => new HostStore(), hostOf) as never)
  }

  add (route: Omit<DuplexRoute, 'id'>): DuplexRoute {
    const id = `duplex-${this.#routes.size + 1}`
    const added: DuplexRoute = { ...route, id }
    this.#routes.set(id, added)
    return added
  }

  /**
   * What the router gets for the constraints of a route. It finds only the first of the regular expressions that
   * match a host: in a store of their own, those of duplex routes and of plain ones do not hide each other.
   */
  constraintsFor ({ id, constraints }: DuplexRoute): Record<string, unknown> {
    const host = this.#custom().has('host') ? 'host' : HOST
    const own = Object.entries(constraints).map(([name, value]) => [name === 'host' ? host : name, value])
    return { ...Object.fromEntries(own), [PLACE]: id, [ONLY]: id }
  }

  /** Every route is declared: see what their constraints need, and prepare the cheap test. */
  seal (): void {
    const app = this.#app
    const derivers = this.#derivers
    if (app.hasConstraintStrategy('host')) derivers.set('host', hostOf)
    if (app.hasConstraintStrategy('version')) derivers.set('version', req => req.headers['accept-version'])
    const custom = this.#custom()
    for (const [name, strategy] of custom) {
      if (strategy.deriveConstraint.length === 3) derivers.delete(name)
      else derivers.set(name, req => strategy.deriveConstraint(req, undefined))
    }
    for (const { constraints, url } of this.#routes.values()) {
      for (const [name, { deriveConstraint, mustMatchWhenDerived }] of custom) {
        if (deriveConstraint.length !== 3) continue
        if (name in constraints || mustMatchWhenDerived === true) throw new FST_ERR_DUPLEX_ASYNC_CONSTRAINT(name, url)
      }
      if ('host' in constraints && !custom.has('host')) derivers.set(HOST, hostOf)
    }
    this.#mayMatch = this.#cheapTest()
  }

  /** Whether any route takes request bodies as streams. */
  get takeBodies (): boolean {
    return [...this.#routes.values()].some(route => route.settings.kinds.includes('body') && route.methods.some(method => method !== 'CONNECT'))
  }

  /** False only when no duplex route can have this URL. It is all that a request for another route pays. */
  mayMatch (url: string): boolean {
    return this.#options.rewriteUrl !== undefined || (this.#mayMatch !== undefined && this.#mayMatch.test(url))
  }

  /**
   * The duplex route that this head is for: that which the app's router finds and which has the most constraints,
   * unless a plain route that it finds has more.
   */
  find (req: IncomingMessage, method: string, url: string, wish: (route: DuplexRoute) => Wish): DuplexRoute | undefined {
    return this.#choose(req, method, this.#rewrite(req, url), wish)
  }

  #choose (req: IncomingMessage, method: string, url: string, wish: (route: DuplexRoute) => Wish): DuplexRoute | undefined {
    const derived = this.#derive(req)
    // The nodes for this URL, as far as the first at which a plain route is found.
    const places: Place[] = []
    this.#ask(method, url, {
      ...derived,
      [PLACE]: (place: Place) => {
        places.push(place)
        return 0
      }
    })
    for (const place of places) {
      const route = derived === NONE
        ? onlyOneAt(place, wish)
        : this.#chosenAt(place, new Choice(place, derived, questions => this.#ask(method, url, questions)), wish)
      if (route !== 'none-here') return route
    }
    return undefined
  }

  #ask (method: string, url: string, questions: Record<string, unknown>): boolean {
    const found = this.#app.findRoute({ method: method as 'GET', url, constraints: questions as never })
    return found !== null && !isRoutersOwnAnswer(found)
  }

  #chosenAt (place: Place, choice: Choice, wish: (route: DuplexRoute) => Wish): DuplexRoute | undefined | 'none-here' {
    const routes = [...place.bits].map(([id, bit]) => {
      const route = this.#routes.get(id) as DuplexRoute
      return { route, bit, wish: wish(route) }
    })
    const last = (...wishes: Wish[]): DuplexRoute | undefined => {
      const found = choice.last(routes.reduce((mask, { bit, wish }) => wishes.includes(wish) ? mask | bit : mask, 0))
      return routes.find(({ bit }) => bit === found)?.route
    }
    const first = last('at-any-rate', 'unless-plain')
    if (first === undefined) return 'none-here'
    const rival = choice.plainConstraints()
    if (constraintsOf(first) > rival) return first
    const second = last('at-any-rate')
    return second !== undefined && constraintsOf(second) >= rival ? second : undefined
  }

  /** Whether the router would answer this URL itself, without looking for a route. */
  isUnroutable (req: IncomingMessage, method: string, url: string): boolean {
    if (!this.mayMatch(url)) return false
    const found = this.#app.findRoute({
      method: method as 'GET', url: this.#rewrite(req, url), constraints: this.#derive(req) as never
    })
    return found !== null && isRoutersOwnAnswer(found)
  }

  /** The values the app's router derives from a request. It gets no value for a strategy that it does not use. */
  #derive (req: IncomingMessage): Record<string, unknown> {
    if (this.#derivers.size === 0) return NONE
    const derived: Record<string, unknown> = {}
    for (const [name, derive] of this.#derivers) derived[name] = derive(req)
    return derived
  }

  #custom (): Map<string, ConstraintStrategy> {
    return new Map([...this.#options.constraints, ...strategiesOf(this.#app)]
      .filter(({ name }) => name !== PLACE && name !== ONLY && name !== HOST).map(strategy => [strategy.name, strategy]))
  }

  /** As the app's router will see the URL. Fastify calls rewriteUrl again, with the URL that it gets here. */
  #rewrite (req: IncomingMessage, url: string): string {
    const { rewriteUrl } = this.#options
    if (rewriteUrl === undefined) return url
    const request = req as IncomingMessage & { originalUrl?: string | undefined }
    const { url: target } = request
    // A CONNECT is routed, here as there, by a path that is made of its target.
    request.url = request.originalUrl = url
    try {
      const rewritten = rewriteUrl.call(this.#app, req)
      return typeof rewritten === 'string' ? rewritten : url
    } finally {
      request.url = target as string
    }
  }

  #cheapTest (): RegExp | undefined {
    const whole = new Set<string>()
    const prefixes = new Set<string>()
    for (const route of this.#routes.values()) {
      if (route.methods.every(method => method === 'CONNECT')) continue
      const constant = route.url.split(/[:*(]/, 1)[0] as string
      // Doubled slashes may be one to the router, in a route as in a request.
      const escaped = constant.replace(/\/+/g, '/').replace(/\/$/, '').replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
      ;(constant === route.url ? whole : prefixes).add(escaped)
    }
    if (whole.size + prefixes.size === 0) return undefined
    // What many URLs have in common is compared once, as long as each alternative is nothing but text.
    const urls = [...prefixes]
    if (whole.size > 0) urls.push(`(?:${[...whole].join('|')})\\/?(?:[?#;]|$)`)
    // A URL in another form (absolute, escaped, with doubled slashes) is for the router to tell.
    return new RegExp(`^(?:${urls.join('|')})|^[^/]|^[^?#]*(?:%|\\/\\/)`, this.#options.caseSensitive ? '' : 'i')
  }
}

function textOf (constraints: DuplexRoute['constraints']): string {
  return JSON.stringify(constraints, (_name, value: unknown) => value instanceof RegExp ? String(value) : value)
}

/** As the app's router has it. */
function hostOf ({ headers }: IncomingMessage): unknown {
  return headers.host || headers[':authority']
}

/** The same where no route has constraints. */
function onlyOneAt ({ one, bits }: Place, wish: (route: DuplexRoute) => Wish): DuplexRoute | undefined | 'none-here' {
  const route = one as DuplexRoute
  const wished = wish(route)
  if (wished === 'no') return 'none-here'
  // The first bit is that of a route without any constraint: of a plain one, if there is one.
  return wished === 'at-any-rate' || bits.get(route.id) === 1 ? route : undefined
}

/** How specific a route is, to the router. */
function constraintsOf ({ constraints }: DuplexRoute): number {
  return Object.keys(constraints).length
}
