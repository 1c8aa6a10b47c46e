import type { DuplexRoute } from './route.ts'
import type { ConstraintStore } from './stores.ts'

/** The constraint that only duplex routes have. The router finds a plain route only if no value is derived for it. */
export const DUPLEX_CONSTRAINT = 'fastifyDuplex'
/** The constraint that no route has. The router reads its value last, and only if a route of the node matches. */
export const MATCH_CONSTRAINT = 'fastifyDuplexMatched'

/** The values if no route of the app has constraints. */
export const NO_VALUES: Readonly<Record<string, unknown>> = {}

/** A symbol and no string, because {@link Lookup} has the app's constraints as properties, and these may have any name. */
export const kVisitNode = Symbol('visit')

/** The value of {@link DUPLEX_CONSTRAINT} for a request. At each node that the router visits, it says which routes may be found. */
export interface NodeVisitor {
  [kVisitNode] (node: NodeRoutes): number
}

/** The value of {@link DUPLEX_CONSTRAINT} on a duplex route. To the router it looks like the constraints of the route. */
export class DuplexConstraint implements NodeVisitor {
  readonly #text: string
  readonly route: DuplexRoute

  constructor (route: DuplexRoute) {
    this.route = route
    this.#text = textOf(route.constraints)
  }

  [kVisitNode] (node: NodeRoutes): number { return node.bitOf(this.route) }

  /** The router compares the constraints of two routes by this. */
  valueOf (): string { return this.#text }
  toJSON (): string { return this.#text }
}

export function textOf (constraints: DuplexRoute['constraints']): string {
  const sorted = Object.keys(constraints).sort().map(name => [name, constraints[name]])
  return JSON.stringify(Object.fromEntries(sorted), (_name, value: unknown) => value instanceof RegExp ? String(value) : value)
}

/** A constraint of the app, for choosing among duplex routes. */
export interface Constraint {
  /** If a request has a value, only routes with this constraint match. */
  readonly must: boolean
  storage (): ConstraintStore
  derive (req: object): unknown
}

/** How much a route wants a request. No enum, so that Node runs this file from its source. */
export const Rank = {
  /** It leaves the request to others. */
  NO: 0,
  /** It refuses the request. */
  REFUSES: 1,
  /** It takes the request, unless a plain route at the same URL is there to serve it. */
  UNLESS_PLAIN: 2,
  /** It takes an upgrade or a CONNECT, which no plain route can. */
  AT_ANY_RATE: 3
} as const

export type AnyRank = typeof Rank[keyof typeof Rank]

export type Ranking = (route: DuplexRoute) => AnyRank

interface Index {
  /** In the order of their number of constraints, most last. */
  routes: DuplexRoute[]
  stores: Store[]
}

interface Store {
  name: string
  must: boolean
  /** The routes without this constraint. */
  free: number
  store: ConstraintStore | undefined
}

/** The duplex routes at one node of the router's tree, for one method. */
export class NodeRoutes {
  readonly #constraints: ReadonlyMap<string, Constraint>
  readonly #bits = new Map<DuplexRoute, number>()
  #index: Index | undefined

  constructor (constraints: ReadonlyMap<string, Constraint>) {
    this.#constraints = constraints
  }

  // The router uses it as the store of the constraint.
  set ({ route }: DuplexConstraint, mask: number): void { this.#bits.set(route, mask) }
  get (visitor: NodeVisitor): number { return visitor[kVisitNode](this) }

  bitOf (route: DuplexRoute): number { return this.#bits.get(route) ?? 0 }

  get plainRoutes (): number {
    let mask = 0
    for (const bit of this.#bits.values()) mask |= bit
    return ~mask
  }

  /** The matching route with the highest rank. Among equal ranks, the one with the most constraints; then the last one. */
  choose (values: Readonly<Record<string, unknown>>, ranking: Ranking): { route: DuplexRoute | undefined, rank: AnyRank } {
    this.#index ??= this.#build()
    const { routes, stores } = this.#index
    let matching = -1
    for (const { name, must, free, store } of stores) {
      const value = values[name]
      const matches = value === undefined ? 0 : Number(store?.get(value) ?? 0)
      matching &= must && value !== undefined ? matches : matches | free
    }
    let chosen: DuplexRoute | undefined
    let highest: AnyRank = Rank.NO
    for (let at = routes.length - 1; at >= 0; at--) {
      if ((matching & (1 << at)) === 0) continue
      const route = routes[at] as DuplexRoute
      const rank = ranking(route)
      if (rank <= highest) continue
      chosen = route
      highest = rank
    }
    return { route: chosen, rank: highest }
  }

  #build (): Index {
    const count = ({ constraints }: DuplexRoute): number => Object.keys(constraints).length
    const routes = [...this.#bits.keys()].sort((a, b) => count(a) - count(b))
    const stores: Store[] = []
    for (const [name, { must, storage }] of this.#constraints) {
      const having = routes.filter(({ constraints }) => name in constraints)
      if (having.length === 0 && !must) continue
      const store = having.length === 0 ? undefined : storage()
      let free = -1
      for (const route of having) {
        const bit = 1 << routes.indexOf(route)
        const value = route.constraints[name]
        free &= ~bit
        store?.set(value, Number(store.get(value) ?? 0) | bit)
      }
      stores.push({ name, must, free, store })
    }
    return { routes, stores }
  }
}

/**
 * One look-up in the app's router. The router finds nothing by it, but visits the nodes for a URL, the most specific first. The
 * properties that the router reads at each node tell whether a plain route matches there. The duplex routes of the
 * node tell which of them matches.
 */
export class Lookup implements NodeVisitor {
  readonly #values: Readonly<Record<string, unknown>>
  readonly #ranking: Ranking
  readonly #plainCounts: boolean
  #found: DuplexRoute | undefined
  /** The router has read the value, and has visited no routes: so the node has no duplex route. */
  #readAlone = false
  #metPlain = false
  /** Nodes that the router visits from now on are less specific, and count no more. */
  #decided = false

  /**
   * @param values what was derived from the request
   * @param derived the part of the values by which plain routes are chosen
   * @param plainCounts whether a plain route can have the request
   */
  constructor (
    values: Readonly<Record<string, unknown>>, derived: Readonly<Record<string, unknown>>, ranking: Ranking, plainCounts: boolean
  ) {
    // The router reads these like any others that it has derived.
    if (derived !== NO_VALUES) Object.assign(this, derived)
    this.#values = values
    this.#ranking = ranking
    this.#plainCounts = plainCounts
  }

  get [DUPLEX_CONSTRAINT] (): NodeVisitor {
    this.#leaveNode()
    this.#readAlone = true
    return this
  }

  get [MATCH_CONSTRAINT] (): true {
    // A plain route matches, because kVisitNode lets no duplex route match. The value makes the router go on without it.
    if (!this.#decided) this.#meetPlain()
    return true
  }

  [kVisitNode] (node: NodeRoutes): number {
    this.#readAlone = false
    if (this.#decided) return 0
    const { route, rank } = node.choose(this.#values, this.#ranking)
    this.#found = route
    if (rank === Rank.AT_ANY_RATE) {
      this.#decided = true
      return 0
    }
    return this.#plainCounts ? node.plainRoutes : 0
  }

  #leaveNode (): void {
    if (this.#decided) return
    if (this.#found !== undefined) this.#decided = true
    else if (this.#readAlone && this.#plainCounts) this.#meetPlain()
  }

  #meetPlain (): void {
    this.#decided = true
    this.#found = undefined
    this.#metPlain = true
  }

  /** Whether a plain route matched. */
  static metPlain (lookup: Lookup): boolean { return lookup.#metPlain }

  /**
   * @param ask looks up with these constraints, and returns whether the router answers the URL itself
   * @returns 'unroutable' if it does
   */
  static run (lookup: Lookup, ask: (constraints: object) => boolean): DuplexRoute | 'unroutable' | undefined {
    const unroutable = ask(lookup)
    lookup.#leaveNode()
    if (lookup.#decided) return lookup.#found
    return unroutable ? 'unroutable' : undefined
  }
}
