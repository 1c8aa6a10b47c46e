import { KeySlots } from './key-slots.ts'
import type { AppGovernance } from './app-governance.ts'
import type { GovernanceSettings } from './options.ts'

/** The governance of a route: everything that each of its requests has to pass. */
export class RouteGovernance {
  readonly app: AppGovernance
  readonly settings: GovernanceSettings
  /** The limits per key of the route, and of the plugin. */
  readonly keys: readonly KeySlots[]

  /** @returns undefined for a route without governance */
  static of (app: AppGovernance, settings: GovernanceSettings): RouteGovernance | undefined {
    const { perKey, expires, labels } = settings
    const asks = perKey !== undefined || app.keys !== undefined || expires !== undefined || labels !== undefined
    return asks ? new RouteGovernance(app, settings) : undefined
  }

  private constructor (app: AppGovernance, settings: GovernanceSettings) {
    this.app = app
    this.settings = settings
    const own = settings.perKey && new KeySlots(settings.perKey.max, settings.perKey.key)
    this.keys = [own, app.keys].filter(keys => keys !== undefined)
  }
}
