import type { FastifyReply, FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE, FST_ERR_DUPLEX_WEBSOCKET_ORIGIN, FST_ERR_DUPLEX_WEBSOCKET_VERSION } from '../../errors.ts'
import { acceptOf, isKey } from '../../syntax/websocket-key.ts'
import type { WebSocketSettings } from '../../../types/index.ts'
import { loadedParts, type Extensions } from './parts.ts'

/** What client and server have agreed on. */
export interface Opening {
  readonly subprotocol: string | undefined
  readonly extensions: Extensions
  /** Makes the same extensions again, without any state. */
  readonly renewed: () => Extensions
  /** Further fields of the answer (RFC 6455 section 4.2.2). */
  readonly fields: Readonly<Record<string, string>>
}

/** Checks the handshake: RFC 6455 section 4.2.1, over HTTP/2 RFC 8441 section 5. Throws the error that the client is answered with. */
export async function openWebSocket (
  settings: WebSocketSettings, maxLength: number, request: FastifyRequest, reply: FastifyReply
): Promise<Opening> {
  const { headers, httpVersionMajor } = request.raw
  if (request.method !== 'GET') throw new FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE(`the method is ${request.method}, and not GET`)
  if (headers['sec-websocket-version'] !== '13') {
    reply.header('sec-websocket-version', '13')
    throw new FST_ERR_DUPLEX_WEBSOCKET_VERSION()
  }
  const key = headers['sec-websocket-key']
  if (key === undefined ? httpVersionMajor < 2 : !isKey(key)) {
    throw new FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE('Sec-WebSocket-Key has to be 16 bytes in base64')
  }
  await checkOrigin(settings.origin, request)
  const fields: Record<string, string> = {}
  // Over HTTP/2 the client sends no key as a rule. If it does, it may look for the answer.
  if (key !== undefined) fields['sec-websocket-accept'] = acceptOf(key)
  const subprotocol = await chooseSubprotocol(settings.subprotocols, request)
  if (subprotocol !== undefined) fields['sec-websocket-protocol'] = subprotocol
  const renewed = (): Extensions => extensionsOf(settings.perMessageDeflate, maxLength, headers['sec-websocket-extensions'], fields)
  return { subprotocol, extensions: renewed(), renewed, fields }
}

/** RFC 6455 section 10.2: a browser sends the user's cookies for any page that opens a WebSocket. So the origin has to be checked. */
async function checkOrigin (allowed: WebSocketSettings['origin'] = 'same', request: FastifyRequest): Promise<void> {
  const { origin } = request.headers
  if (origin === undefined || allowed === false) return
  if (!await isAllowed(allowed, origin, request)) throw new FST_ERR_DUPLEX_WEBSOCKET_ORIGIN(JSON.stringify(origin.slice(0, 200)))
}

function isAllowed (
  allowed: Exclude<WebSocketSettings['origin'], false | undefined>, origin: string, request: FastifyRequest
): boolean | Promise<boolean> {
  if (typeof allowed === 'function') return allowed(origin, request as never)
  if (typeof allowed === 'object') return allowed.includes(origin)
  // A proxy that ends TLS hides the scheme, and with it the default port. `request.host` respects the proxies that the app trusts.
  const host = /^https?:\/\/([^/]+)$/.exec(origin)?.[1]?.toLowerCase()
  const own = request.host.toLowerCase()
  return host !== undefined && (host === own || withoutPort(host, origin) === withoutPort(own, origin))
}

/** Removes the port if it is the default port of the scheme. */
function withoutPort (host: string, origin: string): string {
  return host.replace(origin.startsWith('https:') ? /:443$/ : /:80$/, '')
}

async function chooseSubprotocol (choice: WebSocketSettings['subprotocols'], request: FastifyRequest): Promise<string | undefined> {
  const header = request.headers['sec-websocket-protocol']
  if (header === undefined) return undefined
  let offered: string[]
  try {
    offered = [...loadedParts().subprotocol.parse(header)]
  } catch (error) {
    throw new FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE(`Sec-WebSocket-Protocol is malformed (${(error as Error).message})`)
  }
  if (typeof choice !== 'function') return choice?.find(name => offered.includes(name))
  const chosen = await choice([...offered], request as never)
  if (chosen === false) return undefined
  // RFC 6455 section 4.1: the client would have to fail the connection.
  if (!offered.includes(chosen)) throw new TypeError(`the client did not offer the subprotocol ${JSON.stringify(chosen)}`)
  return chosen
}

/** An offer that cannot be accepted is ignored (RFC 7692 section 5). */
function extensionsOf (
  deflate: WebSocketSettings['perMessageDeflate'], maxLength: number, header: string | undefined, fields: Record<string, string>
): Extensions {
  if (deflate === undefined || deflate === false || header === undefined) return {}
  const { PerMessageDeflate, extension } = loadedParts()
  const { extensionName } = PerMessageDeflate
  let offers: Record<string, object[]>
  try {
    offers = extension.parse(header)
  } catch (error) {
    throw new FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE(`Sec-WebSocket-Extensions is malformed (${(error as Error).message})`)
  }
  const offer = offers[extensionName]
  if (offer === undefined) return {}
  const agreed = new PerMessageDeflate({
    serverNoContextTakeover: true,
    clientNoContextTakeover: true,
    threshold: 1024,
    ...deflate === true ? {} : deflate,
    isServer: true,
    maxPayload: maxLength
  })
  try {
    agreed.accept(offer)
  } catch {
    return {}
  }
  fields['sec-websocket-extensions'] = extension.format({ [extensionName]: [agreed.params] })
  return { [extensionName]: agreed }
}
