import { isPlainSuccess, type KindHead } from './kind.ts'

/** A response without framing, which only the end of the connection ends: RFC 9112 section 6.3, rule 8. */
export const hijack: KindHead = {
  kind: 'hijack',
  status: 200,
  allows: isPlainSuccess,
  fields: () => [['Connection', 'close']]
}
