import { STATUS_CODES, validateHeaderName, validateHeaderValue, type OutgoingHttpHeader, type OutgoingHttpHeaders } from 'node:http'
import { FST_ERR_DUPLEX_INVALID_HEADER } from '../errors.ts'
import type { KindHead } from './kinds/index.ts'

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

let latest: { status: number, kind: KindHead, protocol: string | undefined, date: string, head: string } | undefined

/** The accept head of HTTP/1, as text. Without fields of the app it does not change within a second, so it is kept that long. */
export function serialiseHead (status: number, fields: HeadFields, kind: KindHead, protocol: string | undefined): string {
  if (fields.length > 0) return headOf(status, fields, kind, protocol)
  if (latest?.date !== date() || latest.kind !== kind || latest.protocol !== protocol || latest.status !== status) {
    latest = { status, kind, protocol, date: date(), head: headOf(status, fields, kind, protocol) }
  }
  return latest.head
}

function headOf (status: number, fields: HeadFields, kind: KindHead, protocol: string | undefined): string {
  let head = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'OK'}\r\n`
  let dated = false
  for (const [name, value] of fields) {
    head += `${name}: ${value}\r\n`
    if (name.length === 4 && name.toLowerCase() === 'date') dated = true
  }
  if (!dated) head += `Date: ${date()}\r\n`
  for (const [name, value] of kind.fields(protocol)) head += `${name}: ${value}\r\n`
  return `${head}\r\n`
}

let cached: string | undefined

/** The date, made at most once a second. */
function date (): string {
  if (cached === undefined) {
    const now = new Date()
    cached = now.toUTCString()
    setTimeout(() => { cached = undefined }, 1000 - now.getMilliseconds()).unref()
  }
  return cached
}
