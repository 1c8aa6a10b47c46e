// Fastify's schema compilers. A request has public methods for them. Here they are needed at boot, when there is no request
// yet. Checked on Fastify 5.12.
import type { FastifyInstance, RouteOptions } from 'fastify'
import { symbolNamed } from './fastify.ts'

/** What Fastify's validators return: true or nothing, false with `errors` on the function, an error, or another value. */
export type Validate = ((data: unknown) => unknown) & { errors?: readonly unknown[] | null }
export type Serialise = (data: unknown) => string

export interface Compilers {
  validator (schema: unknown): Validate
  serialiser (schema: unknown): Serialise
}

type Compile<T> = (input: {
  schema: unknown, method: string, url: string, httpPart?: string, httpStatus?: string, contentType?: string
}) => T

interface SchemaController {
  validatorCompiler?: Compile<Validate>
  serializerCompiler?: Compile<Serialise>
  setupValidator (options: unknown): void
  setupSerializer (options: unknown): void
}

/** The compilers of the route, or else of its instance. Undefined if this Fastify keeps them elsewhere. */
export function compilersOf (app: FastifyInstance, route: RouteOptions): Compilers | undefined {
  const hidden = app as unknown as Record<symbol, unknown>
  const symbol = symbolNamed(app, 'fastify.schemaController')
  const options = symbolNamed(app, 'fastify.options')
  const controller = symbol && hidden[symbol] as SchemaController | undefined
  if (controller === undefined || options === undefined || typeof controller.setupValidator !== 'function') return undefined
  const of = { method: [route.method].flat()[0] as string, url: route.url }
  return {
    validator (schema) {
      controller.setupValidator(hidden[options])
      const compile = (route.validatorCompiler ?? controller.validatorCompiler) as Compile<Validate>
      return compile({ schema, ...of, httpPart: 'body' })
    },
    serialiser (schema) {
      controller.setupSerializer(hidden[options])
      const compile = (route.serializerCompiler ?? controller.serializerCompiler) as Compile<Serialise>
      return compile({ schema, ...of, httpStatus: '200', contentType: 'application/json' })
    }
  }
}
