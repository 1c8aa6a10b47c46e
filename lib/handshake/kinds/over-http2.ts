import type { DuplexKind } from '../../../types/index.ts'
import { isPlainSuccess, type KindHead } from './kind.ts'
import { body } from './body.ts'

/**
 * RFC 8441 section 5 and RFC 9113 section 8.5: any 2xx, whatever is accepted, and none of the fields
 * that are about a connection.
 */
function accepted (kind: DuplexKind): KindHead {
  return { kind, status: 200, allows: isPlainSuccess, fields: () => [] }
}

export const kindsOverHttp2: Readonly<Record<DuplexKind, KindHead>> = {
  upgrade: accepted('upgrade'),
  connect: accepted('connect'),
  // HTTP/2 has no connection that a plain request could own.
  hijack: accepted('hijack'),
  body: { ...accepted('body'), fields: body.fields }
}
