import { FST_ERR_DUPLEX_BAD_PATH, FST_ERR_DUPLEX_INVALID_OPTION } from '../../errors.ts'

/** RFC 9112 section 3.2.2: a server takes a target with a scheme and an authority; who is asked for it, is not the client's to say. */
const ABSOLUTE = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i

/** A request target that goes on a line of its own. Node's own clients take no other. */
const PATH = /^(?:\/[\u0021-\u00ff]*|\*)$/

/** The path and query of a target in whatever form, to ask another server for. */
export function originForm (url: string): string {
  const path = url.replace(ABSOLUTE, '')
  const rooted = path === '' || path.startsWith('?') ? `/${path}` : path
  if (!PATH.test(rooted)) throw new FST_ERR_DUPLEX_BAD_PATH()
  return rooted
}

/** What a function of the app makes of it is the app's to get right. */
export function assertPath (path: unknown): string {
  if (typeof path === 'string' && PATH.test(path)) return path
  throw new FST_ERR_DUPLEX_INVALID_OPTION(`the path of forward must begin with "/", got ${JSON.stringify(path)}`)
}
