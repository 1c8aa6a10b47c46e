import type { FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_BAD_UPGRADE, FST_ERR_DUPLEX_UPSTREAM_INVALID } from '../../errors.ts'
import { claimOf, type Claim } from '../../handshake/claim.ts'
import { chooseToken, meantForRoute } from '../../syntax/upgrade-tokens.ts'
import { lowerCased, rawFields, requestFields } from './fields.ts'
import { sayForwarded } from './forwarded.ts'
import type { ForwardSettings } from './options.ts'
import { assertPath, originForm } from './path.ts'
import type { Target } from './target.ts'
import { acceptOf, isKey, makeKey } from '../../syntax/websocket-key.ts'
import type { ForwardFields, PendingDuplex } from '../../../types/index.ts'

/** The request for the upstream. */
export interface Outgoing {
  readonly method: string
  readonly target: string
  readonly headers: readonly string[]
  /** `headers` is all that an HTTP/1 connection needs. */
  readonly plain: boolean
  /** The tokens that the upstream may switch to. Undefined if the request is no upgrade. */
  readonly protocol: readonly string[] | undefined
  /** The body is sent while it arrives. */
  readonly streams: boolean
  /** The body was parsed, and is sent again as a whole. */
  readonly parsed: Buffer | undefined
  /** Set for a WebSocket between two versions of HTTP. It changes the fields of the accept head, or throws. */
  readonly translate: ((fields: ForwardFields) => void) | undefined
}

export function outgoing (pending: PendingDuplex, target: Target, settings: ForwardSettings): Outgoing {
  const request = pending.reply.request as FastifyRequest
  const { raw } = request
  const claim = claimOf(raw) as Claim
  const protocol = pending.kind === 'upgrade' ? passing(claim, settings) : undefined
  let fields = requestFields(raw.headers)
  fields.host = target.host
  sayForwarded(fields, request, settings.forwarded)
  if (settings.requestHeaders !== undefined) {
    fields = lowerCased(settings.requestHeaders(fields, request as never) ?? fields)
    for (const name of Object.keys(fields)) if (FRAMING.test(name)) Reflect.deleteProperty(fields, name)
  }
  const translate = protocol && translateWebSocket(fields, raw.headers, protocol, raw.httpVersionMajor, settings.version)
  const { streams, parsed } = body(fields, pending, request, claim)
  // It would need an entry in `Connection`.
  if (pending.kind !== 'body') delete fields.te
  if (pending.kind === 'connect') {
    const { host, port } = pending.authority
    const authority = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
    fields.host = authority
    return { method: 'CONNECT', target: authority, headers: rawFields(fields), plain: false, protocol, streams, parsed, translate }
  }
  const path = pathOf(request, settings)
  const method = raw.method as string
  const plain = pending.kind === 'body' && (streams || WITHOUT_BODY.has(method) || fields['content-length'] !== undefined)
  // RFC 9110 section 10.1.4: TE is a field of one connection.
  if (plain) fields.connection = fields.te === undefined ? 'keep-alive' : 'keep-alive, te'
  return { method, target: path, headers: rawFields(fields), plain, protocol, streams, parsed, translate }
}

/** Methods for which Node's client adds no `Transfer-Encoding`. */
const WITHOUT_BODY = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE'])

/** Fields that `requestHeaders` cannot set, because they frame the message or switch the connection. */
const FRAMING = /^(?:connection|upgrade|transfer-encoding|keep-alive|proxy-connection|content-length|expect|:.*)$/i

/** The client's tokens that may be sent on. There is at least one, because the route has taken the request. */
function passing (claim: Claim, { listed }: ForwardSettings): string[] {
  const { settings } = claim.route
  const list = listed ?? settings.listed
  const tokens = meantForRoute(claim.offered, list).filter(token => list === undefined || chooseToken([token], list) !== undefined)
  // A handler that calls `forward()` itself may have negotiated the protocol in another way.
  if (tokens.length === 0 && claim.protocol !== undefined && listed === undefined) tokens.push(claim.protocol)
  if (tokens.length === 0) throw new FST_ERR_DUPLEX_BAD_UPGRADE()
  return tokens
}

function pathOf (request: FastifyRequest, { path }: ForwardSettings): string {
  const came = originForm(request.originalUrl)
  if (path === undefined) return came
  return assertPath(typeof path === 'function' ? path(came, request as never) : path)
}

/** Sets the fields that frame the body. */
function body (fields: ForwardFields, pending: PendingDuplex, { raw, body }: FastifyRequest, claim: Claim): Pick<Outgoing, 'streams' | 'parsed'> {
  const { 'content-length': length, 'transfer-encoding': coding } = raw.headers
  if (pending.kind === 'body') {
    // A hook may have replaced the body by another stream.
    const asItCame = pending.readable === (raw as unknown) || raw.httpVersionMajor === 2
    if (length !== undefined && asItCame) {
      fields['content-length'] = length
    } else if (coding !== undefined || length !== undefined) {
      delete fields['content-length']
      fields['transfer-encoding'] = asItCame ? coding as string : 'chunked'
    } else if (raw.httpVersionMajor === 2 && !claim.carrier.inputEnded) {
      fields['transfer-encoding'] = 'chunked'
    }
    const streams = fields['transfer-encoding'] !== undefined || (fields['content-length'] !== undefined && Number(length) > 0)
    return { streams, parsed: undefined }
  }
  if (!claim.hasBody) {
    if (length !== undefined) fields['content-length'] = length
    return { streams: false, parsed: undefined }
  }
  if (body === undefined && claim.route.settings.rawBody) {
    fields['content-length'] = length as string
    return { streams: true, parsed: undefined }
  }
  const isText = typeof body === 'string' || Buffer.isBuffer(body)
  const parsed = isText ? Buffer.from(body) : Buffer.from(body === undefined ? '' : JSON.stringify(body))
  if (!isText && body !== undefined) fields['content-type'] = 'application/json'
  fields['content-length'] = String(parsed.length)
  return { streams: false, parsed }
}

/** RFC 8441 section 5: over HTTP/2 a WebSocket has no key, and no answer to a key. */
function translateWebSocket (
  fields: ForwardFields, came: ForwardFields | Record<string, unknown>, protocol: readonly string[], from: number, to: '1.1' | '2'
): ((fields: ForwardFields) => void) | undefined {
  if ((protocol[0] as string).toLowerCase() !== 'websocket') return undefined
  const sent = came['sec-websocket-key']
  if (from === 2 && to === '1.1') {
    const key = isKey(sent) ? sent : makeKey()
    fields['sec-websocket-key'] = key
    fields['sec-websocket-version'] ??= '13'
    return answer => {
      if (answer['sec-websocket-accept'] !== acceptOf(key)) throw new FST_ERR_DUPLEX_UPSTREAM_INVALID('its Sec-WebSocket-Accept is not for this key')
      if (!isKey(sent)) delete answer['sec-websocket-accept']
    }
  }
  if (from === 1 && to === '2') {
    if (!isKey(sent)) throw new FST_ERR_DUPLEX_BAD_UPGRADE()
    delete fields['sec-websocket-key']
    return answer => { answer['sec-websocket-accept'] = acceptOf(sent) }
  }
  return undefined
}
