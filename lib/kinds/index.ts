import type { DuplexKind } from '../../types/index.ts'
import type { KindHead } from './kind.ts'
import { connect } from './connect.ts'
import { hijack } from './hijack.ts'
import { message } from './message.ts'
import { upgrade } from './upgrade.ts'

export const kinds: Readonly<Record<DuplexKind, KindHead>> = { upgrade, connect, hijack, message }
export type { KindHead } from './kind.ts'
