import type { DuplexKind } from '../../../types/index.ts'
import type { KindHead } from './kind.ts'
import { connect } from './connect.ts'
import { hijack } from './hijack.ts'
import { body } from './body.ts'
import { upgrade } from './upgrade.ts'

export const kindsOverHttp1: Readonly<Record<DuplexKind, KindHead>> = { upgrade, connect, hijack, body }
export { kindsOverHttp2 } from './over-http2.ts'
export type { KindHead } from './kind.ts'
