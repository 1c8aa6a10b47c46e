import type { FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_EXPIRED, FST_ERR_DUPLEX_MAX_PER_KEY, FST_ERR_DUPLEX_REVOKED } from '../errors.ts'
import { momentOf } from './expiries.ts'
import type { ConnectionGovernance } from './connection-governance.ts'
import type { RouteGovernance } from './route-governance.ts'
import type { KeySlots } from './key-slots.ts'
import { labelsOf } from './labels.ts'

/** The governance of one request, from its head until it is refused or its connection is over. */
export class RequestGovernance {
  readonly #route: RouteGovernance
  readonly #taken: [slots: KeySlots, key: string][] = []
  /** How many labels were closed before this request came. Undefined once its own labels are known. */
  #place: number | undefined
  #over = false

  constructor (route: RouteGovernance) {
    this.#route = route
    if (route.settings.labels !== undefined) this.#place = route.app.revokedLabels.wait()
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
  ask (request: FastifyRequest): ((connection: ConnectionGovernance) => void) | undefined {
    const { expires, labels } = this.#route.settings
    if (expires === undefined && labels === undefined) return undefined
    const names = labels === undefined ? [] : labelsOf(labels(request as never))
    const until = expires === undefined ? Infinity : momentOf(expires(request as never))
    if (until <= Date.now()) throw new FST_ERR_DUPLEX_EXPIRED()
    if (this.#place !== undefined && this.#route.app.revokedLabels.closedSince(this.#place, names)) throw new FST_ERR_DUPLEX_REVOKED()
    return connection => {
      this.#known()
      for (const name of names) connection.labels.add(name)
      if (until !== Infinity) connection.extend(until)
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
    this.#route.app.revokedLabels.waitNoMore()
  }

  #free (): void {
    for (const [slots, key] of this.#taken.splice(0)) slots.free(key)
  }
}
