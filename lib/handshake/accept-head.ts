import { validateHeaderName, validateHeaderValue, type OutgoingHttpHeader, type OutgoingHttpHeaders } from 'node:http'
import { FST_ERR_DUPLEX_INVALID_HEADER } from '../errors.ts'

/** Fields that frame a body or switch the protocol: on an accept head only the plugin sets them. */
const OURS = /^(?:connection|upgrade|content-length|transfer-encoding|keep-alive|trailer)$/i

/** The fields in order. A list of values becomes one field for each value. */
export type HeadFields = [name: string, value: string][]

/**
 * The fields of the app that may be on an accept head. They are checked: a name or value with CR, LF, NUL or
 * anything else that HTTP does not allow throws, before anything is on the wire (RFC 9112 section 11.1).
 */
export function appFields (headers: OutgoingHttpHeaders): HeadFields {
  const fields: HeadFields = []
  for (const name of Object.keys(headers)) {
    if (OURS.test(name)) continue
    const value: OutgoingHttpHeader | undefined = headers[name]
    if (value === undefined) continue
    for (const one of Array.isArray(value) ? value : [value]) {
      // It is converted only once, because the `toString()` of an object may return another text the next time.
      const text = String(one)
      try {
        validateHeaderName(name)
        validateHeaderValue(name, text)
      } catch {
        throw new FST_ERR_DUPLEX_INVALID_HEADER(JSON.stringify(name))
      }
      fields.push([name, text])
    }
  }
  return fields
}
