import { Rank, type AnyRank, type Ranking } from './rank.ts'
import type { DuplexRoute } from './route.ts'
import type { ConstraintStore } from './constraint-stores.ts'

/** The constraint that only duplex routes have. The router finds a plain route only if no value is derived for it. */
export const DUPLEX_CONSTRAINT = 'fastifyDuplex'
/** The constraint that no route has. The router reads its value last, and only if a route of the node matches. */
export const MATCH_CONSTRAINT = 'fastifyDuplexMatched'

/** The values if no route of the app has constraints. */
export const NO_VALUES: Readonly<Record<string, unknown>> = {}

/** A symbol and no string, because a look-up has the app's constraints as properties, and these may have any name. */
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
