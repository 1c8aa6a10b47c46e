import type { Http2ServerRequest } from 'node:http2'
import type { IncomingMessage } from 'node:http'
import {
  FST_ERR_DUPLEX_BAD_TARGET, FST_ERR_DUPLEX_BAD_UPGRADE, FST_ERR_DUPLEX_CONNECT_BODY, FST_ERR_DUPLEX_NO_ROUTE
} from '../errors.ts'
import { authorityPath, parseAuthority, routeBy } from '../handshake/authority.ts'
import type { ClaimFacts } from '../handshake/claim.ts'
import { unsupportedProtocol } from '../handshake/upgrade-required.ts'
import type { DuplexRoutes } from '../routes/find.ts'
import { Rank } from '../routes/rank.ts'
import type { DuplexRoute } from '../routes/route.ts'
import { chooseToken, parseUpgrade } from '../syntax/upgrade-tokens.ts'

/** What happens to a stream of HTTP/2. */
export type StreamVerdict =
  /** An ordinary request. */
  | { then: 'http' }
  /** A duplex route gets it. The URL of the request was set for its routing. */
  | { then: 'claim', facts: StreamFacts }
  /** Answered without the app. */
  | { then: 'refuse', error: Error & { code: string, statusCode?: number } }
  /** Another owner of 'connect' on this server gets it. */
  | { then: 'hand-over' }

export type StreamFacts = Omit<ClaimFacts, 'kind'> & { kind: 'upgrade' | 'connect' | 'body' }

const ORDINARY: StreamVerdict = { then: 'http' }

/** Decides who gets a stream of HTTP/2, in the first tick of its request. */
export class Http2Gate {
  readonly #routes: DuplexRoutes

  constructor (routes: DuplexRoutes) {
    this.#routes = routes
  }

  /** @param hasOthers whether another owner listens for 'connect' on this server */
  judge (request: Http2ServerRequest, hasOthers: boolean): StreamVerdict {
    // Fastify, its router and all code from here on know one type of request.
    const req = request as unknown as IncomingMessage
    if (request.method !== 'CONNECT') return this.#plain(req)
    const protocol = request.headers[':protocol']
    return protocol === undefined ? this.#connect(req, hasOthers) : this.#extended(req, String(protocol), hasOthers)
  }

  /** RFC 9113 section 8.5. Node has checked that there is an authority, and no scheme or path. */
  #connect (req: IncomingMessage, hasOthers: boolean): StreamVerdict {
    const authority = parseAuthority(String(req.headers[':authority'] ?? ''))
    const path = authority && authorityPath(authority)
    const route = path === undefined ? undefined : this.#routes.find(req, 'CONNECT', path, route => route.settings.kinds.includes('connect') ? Rank.AT_ANY_RATE : Rank.NO)
    if (typeof route !== 'object' && hasOthers) return { then: 'hand-over' }
    if (declaresBody(req)) return refusal(new FST_ERR_DUPLEX_CONNECT_BODY())
    if (authority === undefined) return refusal(new FST_ERR_DUPLEX_BAD_TARGET())
    // It never reaches a route of another kind, or a notFound handler: a 2xx of these would open a tunnel.
    if (typeof route !== 'object') return refusal(new FST_ERR_DUPLEX_NO_ROUTE('this CONNECT'))
    routeBy(req, path as string)
    return { then: 'claim', facts: { route, req, kind: 'connect', authority } }
  }

  /** RFC 8441: the path names the resource, and the authority its host. It is routed as the GET that it replaces. */
  #extended (req: IncomingMessage, protocol: string, hasOthers: boolean): StreamVerdict {
    const { offered } = parseUpgrade(protocol)
    const choice = ({ settings: { kinds, listed, chooser } }: DuplexRoute): string | undefined => kinds.includes('upgrade')
      ? chooser === undefined ? chooseToken(offered, listed) : offered[0]
      : undefined
    const route = this.#routes.find(req, 'GET', req.url as string, route =>
      choice(route) !== undefined ? Rank.AT_ANY_RATE : route.settings.kinds.includes('upgrade') ? Rank.REFUSES : Rank.NO)
    const taking = typeof route === 'object' && choice(route) !== undefined
    if (!taking && hasOthers) return { then: 'hand-over' }
    if (declaresBody(req)) return refusal(new FST_ERR_DUPLEX_CONNECT_BODY())
    // It has one token, and not a list.
    if (offered.length !== 1) return refusal(new FST_ERR_DUPLEX_BAD_UPGRADE())
    if (typeof route !== 'object') return refusal(new FST_ERR_DUPLEX_NO_ROUTE('this CONNECT'))
    if (!taking) return refusal(unsupportedProtocol(route, offered))
    req.method = 'GET'
    return { then: 'claim', facts: { route, req, kind: 'upgrade', offered, protocol: choice(route) } }
  }

  #plain (req: IncomingMessage): StreamVerdict {
    const method = req.method as string
    const route = this.#routes.find(req, method, req.url as string, ({ settings }) =>
      settings.kinds.includes('body') ? Rank.UNLESS_PLAIN : Rank.REFUSES)
    if (typeof route !== 'object') return ORDINARY
    const takes = route.settings.kinds.includes('body')
    const instead = !takes ? 'not-found' : method === 'HEAD' && route.settings.forward === undefined ? 'answer-head-request' : undefined
    return { then: 'claim', facts: { route, req, kind: 'body', ...(instead === undefined ? {} : { instead }) } }
  }
}

function refusal (error: Error & { code: string, statusCode?: number }): StreamVerdict {
  return { then: 'refuse', error }
}

/** Node would enforce a Content-Length in the middle of a tunnel. HTTP/2 has no Transfer-Encoding. */
function declaresBody (req: IncomingMessage): boolean {
  return Number(req.headers['content-length'] ?? 0) > 0
}
