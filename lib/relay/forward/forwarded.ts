import type { FastifyRequest } from 'fastify'
import type { ForwardFields } from '../../../types/index.ts'

/** The fields in which proxies describe the client. Servers that speak CGI cannot tell `_` from `-` in a name. */
const SAID = /^(?:forwarded|x[-_]forwarded[-_].*|x[-_]real[-_]ip)$/

/**
 * Tells the upstream who the client is. Fastify's `trustProxy` decides which of the received fields are believed: `request.ips`
 * goes from the peer to the first address that is not trusted. `request.host` and `request.protocol` come from a trusted proxy,
 * or else from the request itself.
 */
export function sayForwarded (fields: ForwardFields, request: FastifyRequest, how: 'append' | 'replace' | false): void {
  const { ips } = request
  const said: [name: string, value: string | string[]][] = []
  for (const name of Object.keys(fields)) {
    if (!SAID.test(name)) continue
    said.push([name, fields[name] as string])
    Reflect.deleteProperty(fields, name)
  }
  if (how === false) return
  const { socket } = request
  const address = socket?.remoteAddress
  if (how === 'append' && ips !== undefined && trusts(request)) {
    // A trusted proxy may have sent more, such as the port, a prefix, or a `Forwarded` field (RFC 7239).
    for (const [name, value] of said) fields[name] = value
    fields['x-forwarded-for'] = [...ips].reverse().join(', ')
    fields['x-forwarded-host'] = request.host
    fields['x-forwarded-proto'] = request.protocol
  } else {
    if (address !== undefined) fields['x-forwarded-for'] = address
    const host = request.raw.headers.host ?? request.raw.headers[':authority']
    if (host !== undefined) fields['x-forwarded-host'] = String(host)
    fields['x-forwarded-proto'] = (socket as { encrypted?: boolean } | null)?.encrypted === true ? 'https' : 'http'
  }
}

/** Whether `trustProxy` trusts the peer. If it does, `ips` also has the address of a forwarded field. */
function trusts (request: FastifyRequest): boolean {
  const { raw: { socket } } = request
  const asked = Object.create(request, { raw: { value: { socket, headers: { 'x-forwarded-for': '192.0.2.1' } } } }) as FastifyRequest
  return asked.ips !== undefined && asked.ips.length > 1
}
