import type { FastifyInstance } from 'fastify'
import { invalidOption, type Loose } from '../check-options.ts'
import type { RouteSettings } from '../options.ts'
import { forwardHandler } from '../relay/forward/forward.ts'
import { forwardRoute } from '../relay/forward/options.ts'
import { meantForRoute } from '../syntax/upgrade-tokens.ts'
import type { DuplexKind } from '../../types/index.ts'

/**
 * The kinds that can be forwarded. An upstream has no answer for a `hijack`: such a request is forwarded as a `body` without a
 * body.
 */
const FORWARDABLE: readonly DuplexKind[] = ['upgrade', 'connect', 'body']

/** The settings of a route with the option `forward`. It takes every kind that can be forwarded. */
export function forwarding (settings: RouteSettings, duplex: unknown, hasBodySchema: boolean, route: string): RouteSettings {
  const given = (duplex as Loose).forward
  if (given === undefined) return settings
  const { accept } = duplex as Loose
  if (accept !== undefined) throw invalidOption('accept', 'left out beside forward, whose upstream accepts', accept, { route })
  if (settings.kindsNamed && settings.kinds.includes('hijack')) {
    throw invalidOption('kinds', 'without hijack beside forward, which takes such a request for a body', settings.kinds, { route })
  }
  const kinds = settings.kinds.filter(kind => FORWARDABLE.includes(kind))
  const forward = forwardRoute(given, { route })
  const takesUpgrades = kinds.includes('upgrade')
  const { listed, protocols } = settings.protocols === undefined ? forward.settings : settings
  const asAnyPasses = takesUpgrades && protocols === undefined && settings.chooser === undefined
  return {
    ...settings,
    kinds,
    protocols,
    listed,
    // If no list restricts the protocols, the upstream chooses one.
    chooser: asAnyPasses ? offered => meantForRoute(offered, undefined)[0] ?? false : settings.chooser,
    manual: true,
    forward,
    rawBody: takesUpgrades && !hasBodySchema
  }
}

const SHORTHANDS = ['get', 'head', 'post', 'put', 'delete', 'options', 'patch', 'trace', 'all', 'connect'] as const

type Declare = (this: FastifyInstance, ...args: unknown[]) => FastifyInstance

/** Fastify wants every route to have a handler, before any hook hears of the route. */
export function letForwardRoutesHaveNoHandler (app: FastifyInstance): void {
  const methods = app as unknown as Record<string, Declare>
  const { route } = methods
  methods.route = function (options, ...rest) {
    return (route as Declare).call(this, withHandler(options, undefined), ...rest)
  }
  for (const name of SHORTHANDS) {
    const usual = methods[name]
    if (usual === undefined) continue
    methods[name] = function (url, options, handler, ...rest) {
      return usual.call(this, url, withHandler(options, handler), handler, ...rest)
    }
  }
}

function withHandler (options: unknown, handler: unknown): unknown {
  if (typeof options !== 'object' || options === null) return options
  const { duplex, handler: inside } = options as { duplex?: unknown, handler?: unknown }
  if (typeof duplex !== 'object' || duplex === null || (duplex as Loose).forward === undefined) return options
  if (handler !== undefined || inside !== undefined) throw invalidOption('forward', 'left out where the route has a handler', (duplex as Loose).forward)
  return { ...options, handler: forwardHandler }
}
