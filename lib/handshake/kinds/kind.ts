import type { DuplexKind } from '../../../types/index.ts'

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
