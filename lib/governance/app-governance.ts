import { FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_REVOKED } from '../errors.ts'
import { closeCodeOf, isCloseCode, REVOKED } from '../syntax/close-codes.ts'
import { RevokedLabels } from './revoked-labels.ts'
import { Expiries } from './expiries.ts'
import type { ConnectionGovernance } from './connection-governance.ts'
import { KeySlots } from './key-slots.ts'
import { checkLabel, LabelIndex } from './labels.ts'
import { checkRevocation, type GovernanceSettings } from './options.ts'
import { SharedDelays } from './shared-delays.ts'
import { Wheel } from './rate/wheel.ts'
import type { DuplexRevocation } from '../../types/index.ts'

/** The governance of all connections of an app. */
export class AppGovernance {
  readonly labels = new LabelIndex<ConnectionGovernance>()
  readonly revokedLabels = new RevokedLabels()
  readonly expiries = new Expiries()
  readonly delays = new SharedDelays()
  readonly wheel = new Wheel()
  /** The limit per key of the plugin, which counts all routes together. */
  readonly keys: KeySlots | undefined

  constructor ({ perKey }: Pick<GovernanceSettings, 'perKey'>) {
    this.keys = perKey && new KeySlots(perKey.max, perKey.key)
  }

  find (label: string): ConnectionGovernance[] {
    checkLabel(label)
    return this.labels.find(label)
  }

  close (label: string, options: DuplexRevocation = {}): number {
    checkRevocation(options)
    const { within = 0, code, error } = options
    if (code !== undefined && !isCloseCode(code)) throw new FST_ERR_DUPLEX_INVALID_OPTION(`code must be one of a WebSocket that may be sent, got ${code}`)
    if (error !== undefined && !(error instanceof Error)) throw new FST_ERR_DUPLEX_INVALID_OPTION('error must be an Error')
    const found = this.find(label)
    this.revokedLabels.close(label)
    if (found.length === 0) return 0
    const why = error ?? new FST_ERR_DUPLEX_REVOKED()
    const closeCode = code ?? closeCodeOf(why, false) ?? REVOKED
    const later = found.filter(one => one.revoke(why, closeCode, within))
    if (later.length > 0) this.delays.after(within, () => { for (const one of later) one.end('revoked', why, closeCode) })
    return found.length
  }
}
