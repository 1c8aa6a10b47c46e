import type { FastifyReply } from 'fastify'
import { FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL, FST_ERR_DUPLEX_UPGRADE_REQUIRED } from '../errors.ts'
import type { DuplexRoute } from '../routes/route.ts'

/** The protocols of a route, as text for a client that asked for another. */
function spokenBy ({ settings: { protocols, chooser } }: DuplexRoute): string {
  if (protocols !== undefined) return protocols.join(', ')
  return chooser === undefined ? 'any protocol but websocket, h2c, h2, HTTP/* and TLS/*' : 'the protocol that it chooses'
}

/** The offer of the client, cut to one line. */
function inOneLine (offered: readonly string[]): string {
  const text = offered.length === 0 ? 'none' : offered.join(', ')
  return text.length > 200 ? `${text.slice(0, 200)}...` : text
}

type UnsupportedProtocol = InstanceType<typeof FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL>

export function unsupportedProtocol (route: DuplexRoute, offered: readonly string[]): UnsupportedProtocol {
  return new FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL(spokenBy(route), inOneLine(offered))
}

/** Whether the route lists protocols: RFC 9110 section 15.5.22 demands them in a 426. */
export function canRequireUpgrade ({ settings: { kinds, protocols } }: DuplexRoute): boolean {
  return kinds.includes('upgrade') && protocols !== undefined
}

/** The error for a request that is no upgrade for the route. `persists`: the connection stays open after it. */
export function upgradeRequired (route: DuplexRoute, offered: readonly string[], reply: FastifyReply, persists: boolean): Error {
  // RFC 9113 section 8.6: HTTP/2 has no Upgrade, which a 426 would have to name.
  if (reply.request.raw.httpVersionMajor > 1 || !canRequireUpgrade(route)) return unsupportedProtocol(route, offered)
  const protocols = (route.settings.protocols as readonly string[]).join(', ')
  reply.header('upgrade', protocols).header('connection', persists ? 'Upgrade' : 'Upgrade, close')
  return new FST_ERR_DUPLEX_UPGRADE_REQUIRED(protocols, inOneLine(offered))
}
