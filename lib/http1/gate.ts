import type { IncomingMessage } from 'node:http'
import {
  FST_ERR_DUPLEX_BAD_TARGET, FST_ERR_DUPLEX_BAD_UPGRADE, FST_ERR_DUPLEX_BODY_NOT_PARSED, FST_ERR_DUPLEX_CONNECT_BODY,
  FST_ERR_DUPLEX_EXPECTATION_FAILED, FST_ERR_DUPLEX_HEADERS_TOO_LARGE, FST_ERR_DUPLEX_LENGTH_REQUIRED, FST_ERR_DUPLEX_NO_HOST,
  FST_ERR_DUPLEX_NO_ROUTE
} from '../errors.ts'
import { authorityPath, parseAuthority, routeBy } from '../handshake/authority.ts'
import type { ClaimFacts } from '../handshake/claim.ts'
import { hasLostFields, sawUpgrade, upgradeCallback } from '../internals/http-parser.ts'
import type { DuplexRoutes } from '../routes/find.ts'
import { Rank, type AnyRank } from '../routes/rank.ts'
import type { DuplexRoute } from '../routes/route.ts'
import { asksForOtherHttp, chooseToken, meantForRoute, parseUpgrade, type OfferedTokens } from '../syntax/upgrade-tokens.ts'
import type { DuplexKind } from '../../types/index.ts'

/** What happens to a connection after a request head. */
export type Verdict =
  /** Node goes on. With facts, the request is a duplex route's, and is claimed. */
  | { then: 'http', facts?: ClaimFacts }
  /** The connection leaves HTTP behind the head, or behind the request's body. */
  | { then: 'take', facts: ClaimFacts }
  | { then: 'take-after-body', facts: ClaimFacts }
  /** Answered without the app, and closed. */
  | { then: 'refuse', error: Error & { code: string, statusCode?: number } }
  /** The URL is malformed, or too long. The app's router answers, and the connection closes. */
  | { then: 'unroutable' }
  /** The Upgrade is ignored. What is left of the request is the `body` of a duplex route, or an ordinary one. */
  | { then: 'ignore-upgrade', isBody: boolean }
  /** Another owner of 'upgrade' or 'connect' on this server gets it. */
  | { then: 'hand-over' }

const ORDINARY: Verdict = { then: 'http' }
const IGNORE: Verdict = { then: 'ignore-upgrade', isBody: false }
const IGNORE_BESIDE_BODY: Verdict = { then: 'ignore-upgrade', isBody: true }
const HAND_OVER: Verdict = { then: 'hand-over' }

/** Methods whose body Fastify never parses, whatever the app adds. */
const BODYLESS = new Set(['GET', 'HEAD', 'TRACE'])

/** How one route sees an Upgrade. */
type Offer =
  /** The route takes it. If a function chooses, the first token stands for its choice. */
  | { for: 'taking', protocol: string }
  /** The route could take such an Upgrade, and does not take this one. */
  | { for: 'refusing' }
  /** The route can never take it. So it is ignored, RFC 9110 section 7.8. */
  | { for: 'nothing' }

/** Decides who owns a connection, when a request head is parsed, and nothing after it. */
export class Http1Gate {
  readonly #routes: DuplexRoutes
  readonly #wantsHost: boolean

  /** @param wantsHost the server's requireHostHeader */
  constructor (routes: DuplexRoutes, wantsHost: boolean) {
    this.#routes = routes
    this.#wantsHost = wantsHost
  }

  /**
   * @param hasOthers whether another owner listens for 'upgrade', or for 'connect', on this server
   * @param before the same request with its Upgrade, which was ignored
   */
  judge (req: IncomingMessage, hasOthers: (event: 'upgrade' | 'connect') => boolean, before?: IncomingMessage): Verdict {
    if (before !== undefined && this.#routes.knownAsPlain(req, before)) return ORDINARY
    if (sawUpgrade(req)) {
      if (req.method === 'CONNECT') return this.#connect(req, hasOthers)
      // Node's parser reads Proxy-Connection like Connection.
      return asksForUpgrade(req) ? this.#upgrade(req, hasOthers) : ignore(req)
    }
    // If the parser has not seen this Upgrade, it would go on after a body. So such a request with a body is a `body`.
    return asksForUpgrade(req) && !hasBody(req) ? this.#upgrade(req, () => false) : this.#plain(req)
  }

  /** Judges a request once more, of which only the Upgrade is ignored. */
  judgeWithoutUpgrade (req: IncomingMessage): Verdict {
    return this.#routes.knownAsPlain(req, req) ? ORDINARY : this.#plain(req)
  }

  #connect (req: IncomingMessage, hasOthers: (event: 'connect') => boolean): Verdict {
    const authority = parseAuthority(req.url as string)
    const path = authority && authorityPath(authority)
    const route = path === undefined ? undefined : this.#routes.find(req, 'CONNECT', path, takesConnect)
    if (typeof route !== 'object' && hasOthers('connect')) return HAND_OVER
    if (hasLostFields(req)) return refusal(new FST_ERR_DUPLEX_HEADERS_TOO_LARGE())
    // RFC 9110 section 9.3.6: a CONNECT has no content.
    if (hasBody(req)) return refusal(new FST_ERR_DUPLEX_CONNECT_BODY())
    if (!this.#hasValidHost(req)) return refusal(new FST_ERR_DUPLEX_NO_HOST())
    if (authority === undefined) return refusal(new FST_ERR_DUPLEX_BAD_TARGET())
    // It never reaches a route of another kind, or a notFound handler: a 2xx of these would open a tunnel.
    if (typeof route !== 'object') return refusal(new FST_ERR_DUPLEX_NO_ROUTE('this CONNECT'))
    routeBy(req, path as string)
    return { then: 'take', facts: { route, req, kind: 'connect', authority } }
  }

  #upgrade (req: IncomingMessage, hasOthers: (event: 'upgrade') => boolean): Verdict {
    const method = req.method as string
    const tokens = parseUpgrade(req.headers.upgrade as string)
    const route = method === 'HEAD'
      ? undefined
      : this.#routes.find(req, method, req.url as string, route => {
        const offer = offerTo(route, req, tokens)
        if (offer.for === 'taking') return Rank.AT_ANY_RATE
        const kind = offer.for === 'nothing' ? kindWithoutUpgrade(route, req) : bodyBesideUpgrade(route, req)
        return kind === undefined ? Rank.REFUSES : Rank.UNLESS_PLAIN
      })
    const offer: Offer = typeof route === 'object' ? offerTo(route, req, tokens) : NOTHING
    if (offer.for !== 'taking' && isForOthers(req, tokens, hasOthers)) return HAND_OVER
    if (hasLostFields(req)) return refusal(new FST_ERR_DUPLEX_HEADERS_TOO_LARGE())
    if (route === 'unroutable') return { then: 'unroutable' }
    if (route === undefined) return IGNORE
    if (offer.for === 'nothing') {
      const kind = kindWithoutUpgrade(route, req)
      if (kind === 'hijack') return this.#hijack(route, req)
      return kind === 'body' ? IGNORE_BESIDE_BODY : IGNORE
    }
    if (!this.#hasValidHost(req)) return refusal(new FST_ERR_DUPLEX_NO_HOST())
    if (!expectationIsKnown(req)) return refusal(new FST_ERR_DUPLEX_EXPECTATION_FAILED())
    const { offered, malformed } = tokens
    if (offer.for === 'refusing') {
      if (bodyBesideUpgrade(route, req) !== undefined) return IGNORE_BESIDE_BODY
      if (malformed) return refusal(new FST_ERR_DUPLEX_BAD_UPGRADE())
      return { then: 'take', facts: { route, req, kind: 'upgrade', offered, instead: 'upgrade-required' } }
    }
    const facts: ClaimFacts = { route, req, kind: 'upgrade', offered, protocol: offer.protocol }
    if (!hasBody(req)) return { then: 'take', facts }
    if (req.headers['transfer-encoding'] !== undefined && route.settings.chooser === undefined) {
      return refusal(new FST_ERR_DUPLEX_LENGTH_REQUIRED())
    }
    if (BODYLESS.has(method) && !route.settings.rawBody) return refusal(new FST_ERR_DUPLEX_BODY_NOT_PARSED(`the body of a ${method} is not parsed`))
    return { then: 'take-after-body', facts: { ...facts, hasBody: true } }
  }

  /** A request without an Upgrade. */
  #plain (req: IncomingMessage): Verdict {
    const method = req.method as string
    const route = this.#routes.find(req, method, req.url as string,
      route => kindWithoutUpgrade(route, req) === undefined ? Rank.REFUSES : Rank.UNLESS_PLAIN)
    if (typeof route !== 'object') return ORDINARY
    if (hasLostFields(req)) return refusal(new FST_ERR_DUPLEX_HEADERS_TOO_LARGE())
    const { kinds, protocols } = route.settings
    const kind = kindWithoutUpgrade(route, req)
    if (kind === undefined || (method === 'HEAD' && route.settings.forward === undefined)) {
      const refuses = kinds.includes('upgrade') && protocols !== undefined ? 'upgrade-required' : 'not-found'
      const asked = declaresBody(req) ? 'body' : 'hijack'
      return { then: 'http', facts: { route, req, kind: asked, instead: kind === undefined ? refuses : 'answer-head-request' } }
    }
    return kind === 'body' ? { then: 'http', facts: { route, req, kind } } : this.#hijack(route, req)
  }

  #hijack (route: DuplexRoute, req: IncomingMessage): Verdict {
    if (!this.#hasValidHost(req)) return refusal(new FST_ERR_DUPLEX_NO_HOST())
    if (!expectationIsKnown(req)) return refusal(new FST_ERR_DUPLEX_EXPECTATION_FAILED())
    return { then: 'take', facts: { route, req, kind: 'hijack' } }
  }

  /**
   * RFC 9112 section 3.2 demands a 400 where Host is missing, repeated or malformed. Node checks a part of that, and only for requests
   * that do not leave HTTP.
   */
  #hasValidHost (req: IncomingMessage): boolean {
    if (req.httpVersion === '1.0') return true
    let hosts = 0
    for (let at = 0; at < req.rawHeaders.length; at += 2) {
      const name = req.rawHeaders[at] as string
      if (name.length === 4 && name.toLowerCase() === 'host') hosts++
    }
    if (hosts === 0) return !this.#wantsHost
    return hosts === 1 && HOST.test(req.headers.host as string)
  }
}

function takesConnect ({ settings }: DuplexRoute): AnyRank {
  return settings.kinds.includes('connect') ? Rank.AT_ANY_RATE : Rank.NO
}

const NOTHING: Offer = { for: 'nothing' }

/** The latest offer to each route. Most clients of a route offer the same. */
const offers = new WeakMap<DuplexRoute, { tokens: OfferedTokens, offer: Offer }>()

function offerTo (route: DuplexRoute, req: IncomingMessage, tokens: OfferedTokens): Offer {
  if (req.httpVersion === '1.0') return NOTHING
  let latest = offers.get(route)
  if (latest?.tokens !== tokens) {
    latest = { tokens, offer: makeOffer(route, tokens) }
    offers.set(route, latest)
  }
  return latest.offer
}

function makeOffer ({ settings }: DuplexRoute, { offered, malformed }: OfferedTokens): Offer {
  const { kinds, listed, chooser } = settings
  if (!kinds.includes('upgrade')) return NOTHING
  const meant = meantForRoute(offered, listed)
  const protocol = chooser === undefined ? chooseToken(meant, listed) : meant[0]
  if (protocol !== undefined) return { for: 'taking', protocol }
  return { for: meant.length > 0 || malformed ? 'refusing' : 'nothing' }
}

/** The kind of a request that is no upgrade for the route. An empty body and no body are the same. */
function kindWithoutUpgrade ({ settings: { kinds } }: DuplexRoute, req: IncomingMessage): DuplexKind | undefined {
  // A HEAD is no takeover, whatever it declares.
  if (req.method === 'HEAD') return kinds.find(kind => kind === 'body' || kind === 'hijack')
  const [declared, other] = declaresBody(req) ? ['body', 'hijack'] as const : ['hijack', 'body'] as const
  if (kinds.includes(declared)) return declared
  return kinds.includes(other) && !hasBody(req) ? other : undefined
}

/** An Upgrade that the route does not take is ignored if the request has a body that the route takes. Else it is refused. */
function bodyBesideUpgrade ({ settings: { kinds } }: DuplexRoute, req: IncomingMessage): 'body' | undefined {
  return declaresBody(req) && kinds.includes('body') ? 'body' : undefined
}

/**
 * Whether another owner of 'upgrade' gets an Upgrade that no duplex route takes. If the app has a `shouldUpgradeCallback` of
 * its own, that decides. Otherwise they get all but those that ask for another version of HTTP.
 */
function isForOthers (req: IncomingMessage, { offered }: OfferedTokens, hasOthers: (event: 'upgrade') => boolean): boolean {
  if (!hasOthers('upgrade')) return false
  const decide = upgradeCallback(req)
  return decide === undefined ? !asksForOtherHttp(offered) : decide(req)
}

function refusal (error: Error & { code: string, statusCode?: number }): Verdict {
  return { then: 'refuse', error }
}

/** To ignore an Upgrade, the head is written again without it. That is impossible if fields were lost. */
function ignore (req: IncomingMessage): Verdict {
  return hasLostFields(req) ? refusal(new FST_ERR_DUPLEX_HEADERS_TOO_LARGE()) : IGNORE
}

function declaresBody ({ headers }: IncomingMessage): boolean {
  return headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined
}

/**
 * The parser's own answer differs in two cases. It takes a list of empty members for an Upgrade, and RFC 9110 section 5.6.1
 * says that such a list is empty. And it overlooks the option of Connection if a tab follows it, which is white space, RFC 9110
 * section 5.6.3.
 */
function asksForUpgrade ({ headers: { upgrade, connection } }: IncomingMessage): boolean {
  if (upgrade === undefined || connection === undefined || !/[^\t ,]/.test(upgrade)) return false
  return UPGRADE.test(connection)
}

const UPGRADE = /(?:^|,)[\t ]*upgrade[\t ]*(?:,|$)/i

/** `Content-Length: 0` is no body. */
export function hasBody ({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0
}

/** `uri-host [":" port]`, RFC 9110 section 7.2; it may be empty. */
const HOST = /^(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?$/

function expectationIsKnown ({ headers: { expect }, httpVersion }: IncomingMessage): boolean {
  return expect === undefined || httpVersion === '1.0' || /^100-continue$/i.test(expect)
}
