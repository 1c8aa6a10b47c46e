import type { RouteOptions } from 'fastify'
import { connectTarget } from '../handshake/authority.ts'

type Serializer = (value: unknown) => unknown

/** What pino calls `symbols.serializersSym`. */
const SERIALIZERS = Symbol.for('pino.serializers')

/** The log has the target of a CONNECT. The request itself has the path by which it is routed, which the hooks of plugins need. */
export function logTarget (options: RouteOptions): void {
  const given = options.childLoggerFactory
  options.childLoggerFactory = function (logger, bindings, childOptions, raw) {
    const make = given ?? this.childLoggerFactory
    const target = connectTarget(raw as object)
    const usual = childOptions.serializers?.req ?? (logger as unknown as Record<symbol, { req?: Serializer } | undefined>)[SERIALIZERS]?.req
    if (target === undefined || usual === undefined) return make.call(this, logger, bindings, childOptions, raw)
    const req: Serializer = value => {
      const shown = usual(value)
      return typeof shown === 'object' && shown !== null && 'url' in shown ? { ...shown, url: target } : shown
    }
    return make.call(this, logger, bindings, { ...childOptions, serializers: { ...childOptions.serializers, req } }, raw)
  }
}
