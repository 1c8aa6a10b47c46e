import type { IncomingMessage } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_ASYNC_CONSTRAINT, FST_ERR_DUPLEX_DUPLICATED_ROUTE } from './errors.ts'
import { isInjected, isRoutersOwnAnswer, strategiesOf, type ConstraintStrategy, type RoutingOptions } from './fastify-internals.ts'
import { constraintCheck } from './constraint-check.ts'
import type { RouteSettings } from './options.ts'
import type { Slots } from './slots.ts'

/** The name of the routing constraint that only duplex routes have. */
export const CONSTRAINT = 'fastifyDuplex'

export interface DuplexRoute {
  /** The value of the constraint. */
  readonly id: string
  readonly url: string
  readonly methods: readonly string[]
  /** The app's own constraints on the route. */
  readonly constraints: Readonly<Record<string, unknown>>
  readonly settings: RouteSettings
  readonly slots: Slots
  /** The methods for which a plain route has the same URL and constraints. */
  readonly shared: ReadonlySet<string>
  /** In milliseconds, 0 for none. */
  readonly handshakeTimeout: number
  /** It is the handlerTimeout of the route, which Fastify watches as well. */
  readonly handshakeYields: boolean
}

interface Entry {
  route: DuplexRoute
  holds: (derived: Record<string, unknown>) => boolean
}

/** Asks the app's router, at header time, which duplex route a head is for. */
interface Probe {
  take (route: DuplexRoute): boolean
}

/** A request that a duplex route has already claimed, on its way through the app's router. */
export interface Claimed {
  readonly route: DuplexRoute
}

/** Selects handlers on one node of the router's tree; find-my-way makes one for each. */
class ConstraintStore {
  readonly #masks = new Map<string, number>()
  readonly #routes: ReadonlyMap<string, Entry>

  constructor (routes: ReadonlyMap<string, Entry>) {
    this.#routes = routes
  }

  set (id: string, mask: number): void {
    this.#masks.set(id, mask)
  }

  get (asked: string | Claimed | Probe): number {
    if (typeof asked === 'string') return this.#masks.get(asked) ?? 0
    if ('route' in asked) return this.#masks.get(asked.route.id) ?? 0
    let matching = 0
    this.#masks.forEach((mask, id) => {
      const entry = this.#routes.get(id)
      if (entry !== undefined && asked.take(entry.route)) matching |= mask
    })
    return matching
  }
}

/** All duplex routes of a server, found by method, URL and constraints like any other route. */
export class DuplexRoutes {
  readonly #app: FastifyInstance
  readonly #options: RoutingOptions
  readonly #entries = new Map<string, Entry>()
  readonly #keys = new Set<string>()
  #custom = new Map<string, ConstraintStrategy>()
  /** Whether the app's router asks for these at all. */
  #host = false
  #version = false
  #mayMatch: RegExp | undefined

  constructor (app: FastifyInstance, options: RoutingOptions, claimOf: (req: IncomingMessage) => Claimed | undefined) {
    this.#app = app
    this.#options = options
    const entries = this.#entries
    // An injected request is nobody's claim. It is routed here all the same, to be told what it lacks.
    const injected = ({ method }: IncomingMessage): Probe => ({ take: route => !route.shared.has(method as string) })
    app.addConstraintStrategy({
      name: CONSTRAINT,
      storage: () => new ConstraintStore(entries) as never,
      deriveConstraint: ((req: IncomingMessage) => claimOf(req) ?? (isInjected(req) ? injected(req) : undefined)) as never,
      validate () {}
    })
  }

  add (route: Omit<DuplexRoute, 'id' | 'shared'>): DuplexRoute {
    const id = `duplex-${this.#entries.size + 1}`
    for (const method of route.methods) {
      const key = `${method} ${route.url} ${JSON.stringify(route.constraints, showRegExp)}`
      if (this.#keys.has(key)) throw new FST_ERR_DUPLEX_DUPLICATED_ROUTE(method, route.url)
      this.#keys.add(key)
    }
    const added: DuplexRoute = { ...route, id, shared: new Set() }
    this.#entries.set(id, { route: added, holds: () => true })
    return added
  }

  /** Every route is declared: see which share their URL with a plain one, and prepare the cheap test. */
  seal (): void {
    this.#custom = new Map([...this.#options.constraints, ...strategiesOf(this.#app)]
      .filter(strategy => strategy.name !== CONSTRAINT).map(strategy => [strategy.name, strategy]))
    this.#host = this.#app.hasConstraintStrategy('host')
    this.#version = this.#app.hasConstraintStrategy('version')
    for (const entry of this.#entries.values()) {
      const { route } = entry
      for (const name of Object.keys(route.constraints)) {
        if (this.#custom.get(name)?.deriveConstraint.length === 3) throw new FST_ERR_DUPLEX_ASYNC_CONSTRAINT(name, route.url)
      }
      const holds = constraintCheck(route.constraints, this.#custom)
      const exactHosts = this.#exactHostsBeside(route)
      entry.holds = derived => !exactHosts.has(derived.host) && holds(derived)
      for (const method of route.methods) {
        const shared = this.#app.hasRoute({ method: method as 'GET', url: route.url, constraints: route.constraints as never })
        if (shared) (route.shared as Set<string>).add(method)
      }
    }
    this.#mayMatch = this.#cheapTest()
  }

  /** Whether any route takes request bodies as streams. */
  get takeMessages (): boolean {
    return [...this.#entries.values()].some(({ route }) => route.settings.kinds.includes('message') && route.methods.some(method => method !== 'CONNECT'))
  }

  /** False only when no duplex route can have this URL. It is all that a request for another route pays. */
  mayMatch (url: string): boolean {
    return this.#options.rewriteUrl !== undefined || (this.#mayMatch !== undefined && this.#mayMatch.test(url))
  }

  /** The duplex route that the app's router would choose for this head, among those that are wanted. */
  find (req: IncomingMessage, method: string, url: string, wanted: (route: DuplexRoute) => boolean): DuplexRoute | undefined {
    const derived = this.#derive(req)
    let chosen: DuplexRoute | undefined
    // The router stops at the first node that matches, so the last route taken is the one it chose.
    const probe: Probe = {
      take: route => {
        if (!wanted(route) || this.#entries.get(route.id)?.holds(derived) !== true) return false
        chosen = route
        return true
      }
    }
    const found = this.#app.findRoute({
      method: method as 'GET', url: this.#rewrite(req, url), constraints: { ...derived, [CONSTRAINT]: probe } as never
    })
    return found === null ? undefined : chosen
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
    const derived: Record<string, unknown> = {}
    const { headers } = req
    if (this.#host) derived.host = headers.host ?? headers[':authority']
    if (this.#version) derived.version = headers['accept-version']
    for (const strategy of this.#custom.values()) {
      if (strategy.deriveConstraint.length !== 3) derived[strategy.name] = strategy.deriveConstraint(req, undefined)
    }
    return derived
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

  /** The router asks for an exact host first, and where one is found for no regular expression any more. */
  #exactHostsBeside ({ url, methods, constraints }: DuplexRoute): Set<unknown> {
    const hosts = new Set<unknown>()
    if (!(constraints.host instanceof RegExp)) return hosts
    for (const { route } of this.#entries.values()) {
      const { host } = route.constraints
      if (typeof host === 'string' && route.url === url && route.methods.some(method => methods.includes(method))) hosts.add(host)
    }
    return hosts
  }

  #cheapTest (): RegExp | undefined {
    const prefixes = new Set<string>()
    for (const { route } of this.#entries.values()) {
      if (route.methods.every(method => method === 'CONNECT')) continue
      const constant = route.url.split(/[:*(]/, 1)[0] as string
      const escaped = constant.replace(/\/$/, '').replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
      prefixes.add(constant === route.url ? `${escaped}\\/?(?:[?#;]|$)` : escaped)
    }
    if (prefixes.size === 0) return undefined
    // A URL in another form (absolute, escaped, with doubled slashes) is for the router to tell.
    return new RegExp(`^(?:${[...prefixes].join('|')})|^[^/]|^[^?#]*(?:%|\\/\\/)`, this.#options.caseSensitive ? '' : 'i')
  }
}

function showRegExp (_key: string, value: unknown): unknown {
  return value instanceof RegExp ? String(value) : value
}
