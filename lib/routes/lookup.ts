import { DUPLEX_CONSTRAINT, kVisitNode, MATCH_CONSTRAINT, NO_VALUES, type NodeRoutes, type NodeVisitor } from './node-routes.ts'
import { Rank, type Ranking } from './rank.ts'
import type { DuplexRoute } from './route.ts'

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
    // The router reads this only where a route of the node matches. That is a plain one, because kVisitNode lets no duplex route match.
    // No route has the value `true`, so the router rejects the match and goes on.
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
