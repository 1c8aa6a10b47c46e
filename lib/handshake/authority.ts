import { isIPv6 } from 'node:net'
import type { IncomingMessage } from 'node:http'
import type { DuplexAuthority } from '../../types/index.ts'

const AUTHORITY = /^(?:\[([^\]]*)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})$/

/**
 * The target of a CONNECT, RFC 9110 section 9.3.6: `host:port` and nothing else. Undefined for any
 * other form: a scheme, a path, userinfo, percent signs, no port, port 0 or above 65535.
 */
export function parseAuthority (target: string): DuplexAuthority | undefined {
  const match = AUTHORITY.exec(target)
  if (match === null) return undefined
  const [, bracketed, name, digits] = match
  const port = Number(digits)
  if (port < 1 || port > 65535) return undefined
  if (bracketed !== undefined) {
    return isIPv6(bracketed) && !bracketed.includes('%') ? { host: bracketed.toLowerCase(), port } : undefined
  }
  return { host: (name as string).toLowerCase(), port }
}

/** The path under which a CONNECT is routed, so that `/:host/:port` sees what `authority` says. */
export function authorityPath ({ host, port }: DuplexAuthority): string {
  return `/${encodeURIComponent(host)}/${port}`
}

const kTarget = Symbol('fastify-duplex.target')

interface Targeted extends IncomingMessage {
  originalUrl?: string
  [kTarget]?: string
}

/** The router and the hooks of plugins need a path. `request.originalUrl` keeps the target as it was sent. */
export function routeBy (req: IncomingMessage, path: string): void {
  const targeted: Targeted = req
  targeted.originalUrl = targeted[kTarget] = req.url ?? String(req.headers[':authority'])
  req.url = path
}

/** The target of a CONNECT as it was sent. */
export function connectTarget (req: object): string | undefined {
  return (req as Targeted)[kTarget]
}
