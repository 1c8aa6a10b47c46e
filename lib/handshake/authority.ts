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

const kIsRouted = Symbol('fastify-duplex.isRouted')

interface Routed extends IncomingMessage {
  [kIsRouted]?: () => void
  originalUrl?: string | undefined
}

/**
 * The router wants a path, and reads it off the request. Behind it everybody sees the target as it was sent, logs among them.
 */
export function routeBy (req: IncomingMessage, path: string): void {
  const target = req.url ?? req.headers[':authority']
  let url = path
  let state: 'before' | 'routing' | 'behind' = 'before'
  ;(req as Routed).originalUrl = target as string
  ;(req as Routed)[kIsRouted] = () => { if (state === 'before') state = 'routing' }
  Object.defineProperty(req, 'url', {
    configurable: true,
    enumerable: true,
    get () {
      if (state === 'behind') return target
      if (state === 'routing') state = 'behind'
      return url
    },
    set (value: string) {
      url = value
    }
  })
}

/** The next who reads the URL of this request is the router. */
export function isRouted (req: IncomingMessage): void {
  (req as Routed)[kIsRouted]?.()
}
