import { FST_ERR_DUPLEX_BAD_PATH, FST_ERR_DUPLEX_INVALID_OPTION } from '../../errors.ts'

/**
 * RFC 9112 section 3.2.2: a client may send a whole URL as its target. The client must not choose the server that is asked, so
 * scheme and authority are removed.
 */
const ABSOLUTE = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i

/**
 * A request target that cannot break out of its line. Node's own clients accept nothing else. No target has a `#` (RFC 9112
 * section 3.2): the router stops reading there, and the upstream might read on.
 */
const PATH = /^(?:\/[\u0021\u0022\u0024-\u00ff]*|\*)$/

/** The router of Fastify may begin a path at the first slash, even if that is within the query. */
const NO_PATH = /^\?.*\//

/**
 * A path with a segment `.` or `..`, also if it is encoded. The router takes such a segment as it is, and the upstream may resolve
 * it (RFC 3986 section 5.2.4), and so leave the path of the route. Some servers take `%2f`, `\` and `%5c` for a `/`.
 */
const DOTS = /^[^?]*?(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?:[/\\?]|%2f|%5c|$)/i

/** The path and query of any request target. */
export function originForm (url: string): string {
  const path = url.replace(ABSOLUTE, '')
  const rooted = path === '' || path.startsWith('?') ? `/${path}` : path
  if (!PATH.test(rooted) || NO_PATH.test(path) || DOTS.test(rooted)) throw new FST_ERR_DUPLEX_BAD_PATH()
  return rooted
}

/** A wrong path is a fault of the app's function, and not of the client. */
export function assertPath (path: unknown): string {
  if (typeof path === 'string' && PATH.test(path)) return path
  throw new FST_ERR_DUPLEX_INVALID_OPTION(`the path of forward must begin with "/", got ${JSON.stringify(path)}`)
}
