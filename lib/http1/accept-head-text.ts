import { STATUS_CODES } from 'node:http'
import type { HeadFields } from '../handshake/accept-head.ts'
import type { KindHead } from '../handshake/kinds.ts'

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
