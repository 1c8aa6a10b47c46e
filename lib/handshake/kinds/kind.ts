import type { DuplexKind } from '../../../types/index.ts'

/** What is particular to the accept head of a kind on one version of HTTP. */
export interface KindHead {
  readonly kind: DuplexKind
  /** The status, unless the app chose another that the kind allows. */
  readonly status: number
  allows (status: number): boolean
  /** The fields of the head that are the plugin's and never the app's. */
  fields (protocol: string | undefined): readonly (readonly [string, string])[]
  /** Over HTTP/2: fields may follow the body, and whoever owns it sends them. */
  trailers?: boolean
}

/** 204, 205 and 206 would say something about a body that is none. */
export function isPlainSuccess (status: number): boolean {
  return Number.isInteger(status) && status >= 200 && status < 300 && status !== 204 && status !== 205 && status !== 206
}
