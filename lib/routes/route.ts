import type { RouteTerms } from '../governance/terms.ts'
import type { MessagePlan } from '../messages/plan.ts'
import type { RouteSettings } from '../options.ts'
import type { Slots } from '../governance/slots.ts'

/** A duplex route as it was declared. */
export interface DuplexRoute {
  readonly url: string
  readonly methods: readonly string[]
  /** The app's own constraints on the route. */
  readonly constraints: Readonly<Record<string, unknown>>
  readonly settings: RouteSettings
  readonly slots: Slots
  /** What it asks of its requests, if anything. */
  readonly terms: RouteTerms | undefined
  /** Of a route whose pairs are of messages. */
  readonly messages: MessagePlan | undefined
  /** In milliseconds, 0 for none. */
  readonly handshakeTimeout: number
  /** It is the handlerTimeout of the route, which Fastify watches as well. */
  readonly handshakeYields: boolean
}
