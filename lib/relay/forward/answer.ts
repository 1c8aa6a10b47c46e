import type { Answer } from '../../client/exchange.ts'
import { answerFields } from './fields.ts'
import type { ForwardSettings } from './options.ts'
import type { ForwardFields, PendingDuplex } from '../../../types/index.ts'

/** The fields of an answer for the client, as the app wants them; its length and framing among them. */
export function fieldsFor (pending: PendingDuplex, { rawHeaders }: Answer, { acceptHeaders }: ForwardSettings): ForwardFields {
  const fields = answerFields(rawHeaders)
  const length = fields['content-length']
  const changed = acceptHeaders?.(fields, pending.reply.request as never) ?? fields
  // It says how long the body is that comes, which no function of the app knows better.
  delete changed['content-length']
  if (length !== undefined) changed['content-length'] = length
  return changed
}

/** What an answer says behind its body, if anything, RFC 9110 section 6.6.2. */
export function announcedTrailer ({ headers }: Answer): string | undefined {
  const { trailer } = headers
  return trailer === undefined || trailer === '' ? undefined : trailer
}

/** RFC 9110 section 15.5.22: it must say to what. */
export function wantedUpgrade ({ statusCode, headers }: Answer, { httpVersion }: PendingDuplex): string | undefined {
  return statusCode === 426 && httpVersion !== '2.0' ? headers.upgrade : undefined
}
