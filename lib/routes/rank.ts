import type { DuplexRoute } from './route.ts'

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
