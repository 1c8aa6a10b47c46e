import type { FastifyInstance } from 'fastify'
import { rootOf } from '../internals/fastify.ts'
import type { DuplexRoutes } from './find.ts'
import { DUPLEX_CONSTRAINT } from './node-routes.ts'

/** Makes an app show its duplex routes like plain ones, without the plugin's own constraint. */
export function showLikePlainRoutes (app: FastifyInstance, routes: DuplexRoutes): void {
  const root = rootOf(app)
  const { hasRoute, printRoutes } = root
  root.findRoute = (options => routes.findRoute(options as never)) as FastifyInstance['findRoute']
  root.hasRoute = function (options) {
    if (hasRoute.call(this, options)) return true
    return routes.withConstraints({ ...options.constraints })
      .some(constraints => hasRoute.call(this, { ...options, constraints: constraints as never }))
  }
  const printed = new RegExp(` \\{"${DUPLEX_CONSTRAINT}":("(?:[^"\\\\]|\\\\.)*")\\}`, 'g')
  root.printRoutes = function (options) {
    return printRoutes.call(this, options).replace(printed, (_all, text: string) => {
      const constraints = JSON.parse(text) as string
      return constraints === '{}' ? '' : ` ${constraints}`
    })
  }
}
