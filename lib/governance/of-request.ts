import type { FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_EXPIRED, FST_ERR_DUPLEX_MAX_PER_KEY, FST_ERR_DUPLEX_REVOKED } from '../errors.ts'
import { momentOf } from './expiries.ts'
import type { Governance } from './of-app.ts'
import type { Governed } from './of-connection.ts'
import { KeySlots } from './key-slots.ts'
import { labelsOf } from './labels.ts'
import type { GovernanceSettings } from './options.ts'

/** The governance of a route: everything that each of its requests has to pass. */
export class RouteTerms {
  readonly governance: Governance
  readonly settings: GovernanceSettings
  /** The limits per key of the route, and of the plugin. */
  readonly keys: readonly KeySlots[]

  /** @returns undefined for a route without governance */
  static of (governance: Governance, settings: GovernanceSettings): RouteTerms | undefined {
    const { perKey, expires, labels } = settings
    const asks = perKey !== undefined || governance.keys !== undefined || expires !== undefined || labels !== undefined
    return asks ? new RouteTerms(governance, settings) : undefined
  }

  private constructor (governance: Governance, settings: GovernanceSettings) {
    this.governance = governance
    this.settings = settings
    const own = settings.perKey && new KeySlots(settings.perKey.max, settings.perKey.key)
    this.keys = [own, governance.keys].filter(keys => keys !== undefined)
  }
}

/** The governance of one request, from its head until it is refused or its connection is over. */
export class Terms {
  readonly #route: RouteTerms
  readonly #taken: [slots: KeySlots, key: string][] = []
  /** How many labels were closed before this request came. Undefined once its own labels are known. */
  #place: number | undefined
  #over = false

  constructor (route: RouteTerms) {
    this.#route = route
    if (route.settings.labels !== undefined) this.#place = route.governance.closedLabels.wait()
  }

  /** Counts the request for its keys. If this throws, it counts for none. */
  count (request: FastifyRequest): void {
    if (this.#over) return
    const { keys } = this.#route
    const asked = keys.map(slots => [slots, slots.keyOf(request)] as const)
    for (const [slots, key] of asked) {
      if (!slots.take(key)) {
        this.#free()
        throw new FST_ERR_DUPLEX_MAX_PER_KEY()
      }
      this.#taken.push([slots, key])
    }
  }

  /**
   * Called after all hooks, right before the handler is entered.
   *
   * @returns a function that gives the connection its labels and its expiry
   */
  ask (request: FastifyRequest): ((governed: Governed) => void) | undefined {
    const { expires, labels } = this.#route.settings
    if (expires === undefined && labels === undefined) return undefined
    const names = labels === undefined ? [] : labelsOf(labels(request as never))
    const until = expires === undefined ? Infinity : momentOf(expires(request as never))
    if (until <= Date.now()) throw new FST_ERR_DUPLEX_EXPIRED()
    if (this.#place !== undefined && this.#route.governance.closedLabels.closedSince(this.#place, names)) throw new FST_ERR_DUPLEX_REVOKED()
    return governed => {
      this.#known()
      for (const name of names) governed.labels.add(name)
      if (until !== Infinity) governed.extend(until)
    }
  }

  release (): void {
    if (this.#over) return
    this.#over = true
    this.#known()
    this.#free()
  }

  #known (): void {
    if (this.#place === undefined) return
    this.#place = undefined
    this.#route.governance.closedLabels.waitNoMore()
  }

  #free (): void {
    for (const [slots, key] of this.#taken.splice(0)) slots.free(key)
  }
}
