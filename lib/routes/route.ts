import type { RouteGovernance } from '../governance/route-governance.ts'
import type { Slots } from '../governance/slots.ts'
import type { MessagePlan } from '../messages/plan.ts'
import type { RouteSettings } from '../options.ts'

/** A duplex route as it was declared. */
export interface DuplexRoute {
  readonly url: string
  readonly methods: readonly string[]
  /** The app's own constraints on the route. */
  readonly constraints: Readonly<Record<string, unknown>>
  readonly settings: RouteSettings
  readonly slots: Slots
  /** The governance of its requests. Undefined if the route has none. */
  readonly governance: RouteGovernance | undefined
  /** Set if the pairs of the route carry messages. */
  readonly messages: MessagePlan | undefined
  /** In milliseconds, 0 for none. */
  readonly handshakeTimeout: number
  /** The time limit is the `handlerTimeout` of the route. Fastify watches it, too. */
  readonly handshakeYields: boolean
}
