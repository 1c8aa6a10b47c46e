import type { IncomingHttpHeaders } from 'node:http'
import type { ForwardFields } from '../../../types/index.ts'

/** The fields of RFC 9110 section 7.6.1, and others that concern one connection only. */
const HOP_BY_HOP = new Set([
  'connection', 'proxy-connection', 'keep-alive', 'te', 'transfer-encoding', 'upgrade', 'trailer', 'http2-settings'
])

/** Fields that are meant for this app, and not for the upstream (RFC 9110 sections 10.1.1 and 11.7.2). */
const NEVER_FORWARDED = new Set(['host', 'expect', 'proxy-authorization'])

/**
 * A client might name these in `Connection`, so that a proxy removes them. Then the two servers would read the message
 * differently. So they are never removed that way.
 */
const NEVER_NAMED = new Set(['content-length', 'host'])

const NONE: ReadonlySet<string> = new Set()

/** The names in `Connection`, in lower case. It may leave out names that are never sent on anyway. */
function namedByConnection (connection: unknown): ReadonlySet<string> {
  if (connection === undefined || connection === 'keep-alive' || connection === 'close' || connection === 'Keep-Alive') return NONE
  const named = new Set<string>()
  for (const value of [connection ?? []].flat()) {
    for (const option of String(value).split(',')) {
      const name = option.trim().toLowerCase()
      if (!NEVER_NAMED.has(name)) named.add(name)
    }
  }
  return named
}

/** The client's fields that go on to the upstream, as the hooks of the app have left them. */
export function requestFields (headers: IncomingHttpHeaders): ForwardFields {
  const fields: ForwardFields = {}
  const named = namedByConnection(headers.connection)
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || name.startsWith(':') || HOP_BY_HOP.has(name) || NEVER_FORWARDED.has(name) || named.has(name)) continue
    fields[name] = value
  }
  // RFC 9110 section 10.1.4: this is the only option of TE that may be sent on.
  if (/(?:^|,)[ \t]*trailers[ \t]*(?:;|,|$)/i.test(String(headers.te ?? ''))) fields.te = 'trailers'
  return fields
}

/**
 * The upstream's fields that go on to the client.
 *
 * @param raw name and value in turn
 */
export function answerFields (raw: readonly string[]): ForwardFields {
  const fields: ForwardFields = {}
  const connection: string[] = []
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = (raw[at] as string).toLowerCase()
    if (name === 'connection') connection.push(raw[at + 1] as string)
    else if (!name.startsWith(':') && !HOP_BY_HOP.has(name)) add(fields, name, raw[at + 1] as string)
  }
  const named = namedByConnection(connection.length === 0 ? undefined : connection.join())
  if (named.size > 0) for (const name of Object.keys(fields)) if (named.has(name)) Reflect.deleteProperty(fields, name)
  return fields
}

/** The trailers that may be sent on. A field that frames, routes or switches must not come after a body (RFC 9110 section 6.5.1). */
export function trailerFields (raw: readonly string[]): [name: string, value: string][] {
  const fields: [string, string][] = []
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = (raw[at] as string).toLowerCase()
    if (name.startsWith(':') || HOP_BY_HOP.has(name) || NEVER_FORWARDED.has(name) || NEVER_LATE.has(name)) continue
    fields.push([raw[at] as string, raw[at + 1] as string])
  }
  return fields
}

const NEVER_LATE = new Set([
  'content-length', 'content-encoding', 'content-type', 'content-range', 'authorization', 'cookie', 'set-cookie', 'cache-control',
  'max-forwards', 'range'
])

function add (fields: ForwardFields, name: string, value: string): void {
  // A field may be called `constructor`.
  const before = Object.hasOwn(fields, name) ? fields[name] : undefined
  fields[name] = before === undefined ? value : [before, value].flat()
}

/** The fields as a list of name and value in turn. */
export function rawFields (fields: ForwardFields): string[] {
  const raw: string[] = []
  for (const name of Object.keys(fields)) {
    const value: unknown = fields[name]
    if (Array.isArray(value)) for (const one of value) raw.push(name, String(one))
    else if (value !== undefined) raw.push(name, String(value))
  }
  return raw
}

/** The fields by lower-case names. An app may write `Host` where `host` is there already: the last one counts. */
export function lowerCased (fields: ForwardFields): ForwardFields {
  const lower: ForwardFields = {}
  for (const name of Object.keys(fields)) {
    const key = name.toLowerCase()
    // A field that was set to undefined was removed.
    if (fields[name] === undefined) Reflect.deleteProperty(lower, key)
    else lower[key] = fields[name]
  }
  return lower
}
