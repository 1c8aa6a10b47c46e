import type { DuplexKind } from '../../types/index.ts'

/** How a kind is accepted on one version of HTTP. */
export interface KindHead {
  readonly kind: DuplexKind
  /** The status, unless the app has chosen another one that is allowed. */
  readonly status: number
  allows (status: number): boolean
  /** The fields that the plugin sets on the accept head. The app cannot set them. */
  fields (protocol: string | undefined): readonly (readonly [string, string])[]
  /** Over HTTP/2: trailers may follow the body, and the owner of the connection sends them. */
  trailers?: boolean
  /** A drain does not refuse it: another server has worked for this request already. */
  whileDraining?: boolean
}

/** 204, 205 and 206 describe a body that a takeover does not have. */
export function isPlainSuccess (status: number): boolean {
  return Number.isInteger(status) && status >= 200 && status < 300 && status !== 204 && status !== 205 && status !== 206
}

/** RFC 9110 section 7.8: 101, naming the protocol; one `Upgrade` and one `Connection: Upgrade`. */
const upgrade: KindHead = {
  kind: 'upgrade',
  status: 101,
  allows: status => status === 101,
  fields: protocol => [['Connection', 'Upgrade'], ['Upgrade', protocol as string]]
}

/** RFC 9110 section 9.3.6: any 2xx, and no field that frames a body. */
const connect: KindHead = {
  kind: 'connect',
  status: 200,
  allows: isPlainSuccess,
  fields: () => []
}

/** A response without framing, which only the end of the connection ends: RFC 9112 section 6.3, rule 8. */
const hijack: KindHead = {
  kind: 'hijack',
  status: 200,
  allows: isPlainSuccess,
  fields: () => [['Connection', 'close']]
}

/** HTTP frames it as usual. The fields tell intermediaries to pass the response on while it arrives. */
const body: KindHead = {
  kind: 'body',
  status: 200,
  allows: isPlainSuccess,
  fields: () => [['X-Accel-Buffering', 'no'], ['Incremental', '?1']]
}

export const kindsOverHttp1: Readonly<Record<DuplexKind, KindHead>> = { upgrade, connect, hijack, body }

/**
 * RFC 8441 section 5 and RFC 9113 section 8.5: any 2xx, whatever is accepted, and none of the fields
 * that are about a connection.
 */
function overHttp2 (kind: DuplexKind): KindHead {
  return { kind, status: 200, allows: isPlainSuccess, fields: () => [] }
}

export const kindsOverHttp2: Readonly<Record<DuplexKind, KindHead>> = {
  upgrade: overHttp2('upgrade'),
  connect: overHttp2('connect'),
  // HTTP/2 has no connection that a plain request could own.
  hijack: overHttp2('hijack'),
  body: { ...overHttp2('body'), fields: body.fields }
}
