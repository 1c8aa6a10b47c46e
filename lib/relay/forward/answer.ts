import type { Answer } from '../../client/exchange.ts'
import { FST_ERR_DUPLEX_UPSTREAM_INVALID } from '../../errors.ts'
import { answerFields, lowerCased } from './fields.ts'
import type { ForwardSettings } from './options.ts'
import type { ForwardFields, PendingDuplex } from '../../../types/index.ts'

/** The fields of the upstream's answer for the client, after `acceptHeaders` of the app. `Content-Length` stays among them. */
export function fieldsFor (pending: PendingDuplex, answer: Answer, { acceptHeaders }: ForwardSettings): ForwardFields {
  const { statusCode, headers, rawHeaders } = answer
  // RFC 9110 section 15: there are no such status codes. Neither Fastify nor Node's HTTP/2 sends them.
  if (statusCode > 599) throw new FST_ERR_DUPLEX_UPSTREAM_INVALID(`the status ${statusCode}`)
  const { 'transfer-encoding': coding } = headers
  // Only chunks are decoded here, and the client would not be told of the rest.
  if (coding !== undefined && !/^(?:chunked|identity)$/i.test(coding)) {
    throw new FST_ERR_DUPLEX_UPSTREAM_INVALID(`its Transfer-Encoding is ${JSON.stringify(coding)}`)
  }
  const fields = answerFields(rawHeaders)
  if (acceptHeaders === undefined) return fields
  const length = fields['content-length']
  const changed = lowerCased(acceptHeaders(fields, pending.reply.request as never) ?? fields)
  // The length is a fact about the body that follows, so `acceptHeaders` cannot change it.
  delete changed['content-length']
  if (length !== undefined) changed['content-length'] = length
  return changed
}

/** The names of trailers that the answer announces (RFC 9110 section 6.6.2). */
export function announcedTrailer ({ headers }: Answer): string | undefined {
  const { trailer } = headers
  return trailer === undefined || trailer === '' ? undefined : trailer
}

/** RFC 9110 section 15.5.22: a 426 must name a protocol to upgrade to. */
export function wantedUpgrade ({ statusCode, headers }: Answer, { httpVersion }: PendingDuplex): string | undefined {
  return statusCode === 426 && httpVersion !== '2.0' ? headers.upgrade : undefined
}
