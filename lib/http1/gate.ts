import type { IncomingMessage } from 'node:http'
import { authorityPath, parseAuthority } from '../handshake/authority.ts'
import type { ClaimFacts } from '../handshake/claim.ts'
import type { DuplexRoute, DuplexRoutes } from '../routes/find.ts'
import {
  FST_ERR_DUPLEX_BAD_TARGET, FST_ERR_DUPLEX_BAD_UPGRADE, FST_ERR_DUPLEX_BODY_NOT_PARSED, FST_ERR_DUPLEX_CONNECT_BODY,
  FST_ERR_DUPLEX_EXPECTATION_FAILED, FST_ERR_DUPLEX_HEADERS_TOO_LARGE, FST_ERR_DUPLEX_LENGTH_REQUIRED, FST_ERR_DUPLEX_NO_HOST,
  FST_ERR_DUPLEX_NO_ROUTE
} from '../errors.ts'
import { mayHaveLostHeaders, sawUpgrade } from '../internals/http-parser.ts'
import { asksForOtherHttp, chooseToken, parseUpgrade } from '../handshake/tokens.ts'

/** What becomes of a connection after a request head. */
export type Verdict =
  /** Node goes on; a claim says that the request is a duplex route's all the same. */
  | { then: 'http', facts?: ClaimFacts }
  /** The connection leaves HTTP here, or after the request's body. */
  | { then: 'take', facts: ClaimFacts }
  | { then: 'take-after-body', facts: ClaimFacts }
  /** Answered without the app, and closed. */
  | { then: 'refuse', error: Error & { code: string, statusCode?: number } }
  /** The URL is malformed or too long for every route: the app's router answers that, and then it is closed. */
  | { then: 'unroutable' }
  /** The Upgrade is ignored: the request is an ordinary one. */
  | { then: 'ignore-upgrade' }
  /** Another owner of 'upgrade' or 'connect' on this server gets it. */
  | { then: 'hand-over' }

const ORDINARY: Verdict = { then: 'http' }

/** Methods whose body Fastify never parses, whatever the app adds. */
const BODYLESS = new Set(['GET', 'HEAD', 'TRACE'])

/** Decides, when a request head has been parsed and nothing after it was, whose the connection is. */
export class Http1Gate {
  readonly #routes: DuplexRoutes

  constructor (routes: DuplexRoutes) {
    this.#routes = routes
  }

  /**
   * @param hasOthers whether another owner listens for 'upgrade', or for 'connect', on this server
   * @param upgradeIsIgnored this was decided when the same head was read before
   */
  judge (req: IncomingMessage, hasOthers: (event: 'upgrade' | 'connect') => boolean, upgradeIsIgnored: boolean): Verdict {
    if (sawUpgrade(req)) {
      if (mayHaveLostHeaders(req)) return refusal(new FST_ERR_DUPLEX_HEADERS_TOO_LARGE())
      if (req.method === 'CONNECT') return this.#connect(req, hasOthers)
      return namesProtocols(req.headers.upgrade) ? this.#upgrade(req, hasOthers) : { then: 'ignore-upgrade' }
    }
    if (!this.#routes.mayMatch(req.url as string)) return ORDINARY
    // With a body it is a message: the parser, which stops behind the head alone, would go on behind the body.
    return !upgradeIsIgnored && asksForUpgrade(req) && !hasBody(req) && !mayHaveLostHeaders(req) ? this.#upgrade(req, () => false) : this.#plain(req)
  }

  #connect (req: IncomingMessage, hasOthers: (event: 'connect') => boolean): Verdict {
    const authority = parseAuthority(req.url as string)
    const path = authority && authorityPath(authority)
    const route = path === undefined ? undefined : this.#routes.find(req, 'CONNECT', path, route => route.settings.kinds.includes('connect') ? 'at-any-rate' : 'no')
    if (route === undefined && hasOthers('connect')) return { then: 'hand-over' }
    // RFC 9110 section 9.3.6: there is no content that such a message could have.
    if (declaresBody(req)) return refusal(new FST_ERR_DUPLEX_CONNECT_BODY())
    if (!hasOneHost(req)) return refusal(new FST_ERR_DUPLEX_NO_HOST())
    if (authority === undefined) return refusal(new FST_ERR_DUPLEX_BAD_TARGET())
    // Never a route of another kind, nor a notFound handler: a 2xx of theirs would be a tunnel.
    if (route === undefined) return refusal(new FST_ERR_DUPLEX_NO_ROUTE('this CONNECT'))
    // The router wants a path; request.originalUrl keeps the target as it was sent.
    ;(req as { originalUrl?: string | undefined }).originalUrl = req.url
    req.url = path as string
    return { then: 'take', facts: { route, req, kind: 'connect', authority } }
  }

  #upgrade (req: IncomingMessage, hasOthers: (event: 'upgrade') => boolean): Verdict {
    const header = req.headers.upgrade ?? ''
    const { offered, malformed } = parseUpgrade(header)
    const method = req.method as string
    const choice = (route: DuplexRoute): string | undefined => route.settings.kinds.includes('upgrade') && req.httpVersion !== '1.0'
      ? route.settings.chooser === undefined ? chooseToken(offered, route.settings.protocols) : offered[0]
      : undefined
    const foreign = hasOthers('upgrade') && !asksForOtherHttp(offered)
    // On a URL that a plain route shares, only a request that can be upgraded is the duplex route's.
    const route = method === 'HEAD'
      ? undefined
      : this.#routes.find(req, method, req.url as string, route => choice(route) !== undefined ? 'at-any-rate' : foreign ? 'no' : 'unless-plain')
    if (route === undefined) {
      return { then: foreign ? 'hand-over' : this.#routes.isUnroutable(req, method, req.url as string) ? 'unroutable' : 'ignore-upgrade' }
    }
    if (!hasOneHost(req)) return refusal(new FST_ERR_DUPLEX_NO_HOST())
    if (!expectationIsKnown(req)) return refusal(new FST_ERR_DUPLEX_EXPECTATION_FAILED())
    const protocol = choice(route)
    if (protocol === undefined) {
      // A body is a message's, and the Upgrade beside it is ignored; without one there is nothing to take.
      if (declaresBody(req) && route.settings.kinds.includes('body')) return { then: 'ignore-upgrade' }
      if (malformed) return refusal(new FST_ERR_DUPLEX_BAD_UPGRADE())
      return { then: 'take', facts: { route, req, kind: 'upgrade', instead: 'upgrade-required' } }
    }
    const facts: ClaimFacts = { route, req, kind: 'upgrade', offered, protocol }
    if (!hasBody(req)) return { then: 'take', facts }
    if (req.headers['transfer-encoding'] !== undefined && route.settings.chooser === undefined) {
      return refusal(new FST_ERR_DUPLEX_LENGTH_REQUIRED())
    }
    if (BODYLESS.has(method)) return refusal(new FST_ERR_DUPLEX_BODY_NOT_PARSED(method))
    return { then: 'take-after-body', facts: { ...facts, hasBody: true } }
  }

  /** A request without an Upgrade, at a URL that a duplex route may have. */
  #plain (req: IncomingMessage): Verdict {
    const method = req.method as string
    const route = this.#routes.find(req, method, req.url as string, () => 'unless-plain')
    if (route === undefined) return ORDINARY
    if (mayHaveLostHeaders(req)) return refusal(new FST_ERR_DUPLEX_HEADERS_TOO_LARGE())
    const { kinds } = route.settings
    if (method === 'HEAD') {
      const takes = kinds.includes('body') || kinds.includes('hijack')
      return { then: 'http', facts: { route, req, kind: 'hijack', instead: takes ? 'head' : 'upgrade-required' } }
    }
    const kind = declaresBody(req) ? 'body' : 'hijack'
    if (!kinds.includes(kind)) {
      const instead = kinds.includes('upgrade') && route.settings.protocols !== undefined ? 'upgrade-required' : 'not-found'
      return { then: 'http', facts: { route, req, kind, instead } }
    }
    if (kind === 'body') return { then: 'http', facts: { route, req, kind } }
    if (!hasOneHost(req)) return refusal(new FST_ERR_DUPLEX_NO_HOST())
    if (!expectationIsKnown(req)) return refusal(new FST_ERR_DUPLEX_EXPECTATION_FAILED())
    return { then: 'take', facts: { route, req, kind } }
  }
}

function refusal (error: Error & { code: string, statusCode?: number }): Verdict {
  return { then: 'refuse', error }
}

function declaresBody (req: IncomingMessage): boolean {
  return req.headers['content-length'] !== undefined || req.headers['transfer-encoding'] !== undefined
}

/** The parser takes a list of empty members for an Upgrade, and one without a value for none. RFC 9110 section 5.6.1: both are empty. */
function namesProtocols (upgrade = ''): boolean {
  return /[^\t ,]/.test(upgrade)
}

/** The parser overlooks the option where a tab follows it, which is white space like any other, RFC 9110 section 5.6.3. */
function asksForUpgrade ({ headers }: IncomingMessage): boolean {
  return namesProtocols(headers.upgrade) && (headers.connection ?? '').split(',').some(option => option.trim().toLowerCase() === 'upgrade')
}

/** `Content-Length: 0` is no body before an upgraded stream. */
function hasBody (req: IncomingMessage): boolean {
  return req.headers['transfer-encoding'] !== undefined || Number(req.headers['content-length'] ?? 0) > 0
}

/** `uri-host [":" port]`, RFC 9110 section 7.2; it may be empty. */
const HOST = /^(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?$/

/** RFC 9112 section 3.2; Node checks some of it, and only for requests that it answers itself. */
function hasOneHost (req: IncomingMessage): boolean {
  if (req.httpVersion === '1.0') return true
  let hosts = 0
  for (let at = 0; at < req.rawHeaders.length; at += 2) {
    const name = req.rawHeaders[at] as string
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++
  }
  return hosts === 1 && HOST.test(req.headers.host as string)
}

function expectationIsKnown (req: IncomingMessage): boolean {
  return req.headers.expect === undefined || req.httpVersion === '1.0' || /^100-continue$/i.test(req.headers.expect)
}
