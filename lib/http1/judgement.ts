import type { IncomingMessage } from 'node:http'
import { FST_ERR_DUPLEX_NO_ROUTE } from '../errors.ts'
import type { Claim } from '../handshake/claim.ts'
import type { NodesListeners } from '../internals/http-parser.ts'
import type { Verdict } from './gate.ts'
import type { LinkHost } from './link.ts'

/** On a raw request: what its gate has decided for its URL. It is done when Node lets go of the connection. */
export const kJudgement = Symbol('fastify-duplex.judgement')

export interface JudgedRequest extends IncomingMessage {
  [kJudgement]?: Judgement | undefined
}

/**
 * A class and no object literal: V8 soon allocates such literals in the old generation, where they keep a dead connection in
 * memory.
 */
export class Judgement {
  /** The app that has decided it. */
  readonly host: LinkHost | undefined
  readonly verdict: Verdict
  readonly claim: Claim | undefined
  readonly nodes: NodesListeners | undefined
  readonly url: string | undefined
  /** Set when other owners got the request: how many bytes had been written to its connection by then. */
  handed: number | undefined
  /** The event is on its way to the listeners, and our hidden one has not heard it yet. */
  passing = false

  constructor (host: LinkHost | undefined, verdict: Verdict, claim?: Claim, nodes?: NodesListeners, url?: string) {
    this.host = host
    this.verdict = verdict
    this.claim = claim
    this.nodes = nodes
    this.url = url
  }
}

/** The decision was carried out. If somebody emits the event once more, nobody gets it. */
export const ACTED_ON = new Judgement(undefined, { then: 'http' })

/** Whether somebody has rewritten the URL since it was judged. If the body of an upgrade has come, the app knows it already. */
export function wasRewritten ({ url }: IncomingMessage, judgement: Judgement): boolean {
  return url !== judgement.url && judgement.verdict.then !== 'take-after-body'
}

/** Whether the app has no route for the request. Another app of the server may have one. */
export function isNobodys (verdict: Verdict): boolean {
  switch (verdict.then) {
    case 'ignore-upgrade': return !verdict.isBody
    case 'refuse': return verdict.error instanceof FST_ERR_DUPLEX_NO_ROUTE
    default: return verdict.then === 'hand-over' || verdict.then === 'unroutable'
  }
}
