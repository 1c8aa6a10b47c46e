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
  [kTarget]?: string | undefined
}

/** The router needs a path. It has read it when it reaches the route of the request, and then the target is put back. */
export function routeBy (req: IncomingMessage, path: string): void {
  (req as Targeted)[kTarget] = req.url ?? String(req.headers[':authority'])
  req.url = path
}

/** Logs, hooks and handlers see the target of a CONNECT as it was sent, as `url` and as `originalUrl`. */
export function showTarget (req: IncomingMessage): void {
  const target = (req as Targeted)[kTarget]
  if (target === undefined) return
  req.url = (req as Targeted).originalUrl = target
  ;(req as Targeted)[kTarget] = undefined
}
