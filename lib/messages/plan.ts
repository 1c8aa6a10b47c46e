import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME } from '../errors.ts'
import { claimOf, type Claim } from '../handshake/claim.ts'
import { compilersOf, type Compilers, type Serialise, type Validate } from '../internals/schemas.ts'
import type { MessageEncoding } from '../../types/index.ts'
import type { Registry } from '../shutdown/registry.ts'
import { chooseFramings, type Choice } from './choose-framings.ts'
import { Codec } from './codec.ts'
import { decodeSafely, json } from './encoding.ts'
import { MessageConnection } from './message-connection.ts'
import type { MessageSettings } from './options.ts'
import { openWebSocket, type Opening } from './websocket/handshake.ts'
import { loadParts } from './websocket/parts.ts'

/** How one request carries its messages. */
export type Transfer = { readonly by: 'websocket', readonly opening: Opening } | { readonly by: 'framing', readonly choice: Choice }

const kTransfer = Symbol('fastify-duplex.transfer')

interface Carried {
  [kTransfer]?: Transfer
}

/** Everything about the messages of one route: it is prepared at boot, and used for each request. */
export class MessagePlan {
  readonly settings: MessageSettings
  /** The instance that the route was declared on. */
  readonly app: FastifyInstance
  readonly #route: string
  readonly #validators = new WeakMap<object, Validate>()
  readonly #serialisers = new WeakMap<object, Serialise>()
  readonly #decode: MessageEncoding['decode'] | undefined
  #compilers: Compilers | undefined
  #codec: Codec | undefined

  constructor (app: FastifyInstance, options: RouteOptions, settings: MessageSettings, route: string) {
    this.settings = settings
    this.app = app
    this.#route = route
    const { onProtoPoisoning: proto = 'error', onConstructorPoisoning: constructor = 'error' } = app.initialConfig
    if (settings.encoding === json) this.#decode = decodeSafely({ proto, constructor })
    app.addHook('onReady', async () => {
      if (settings.websocket !== undefined) await loadParts()
      this.#compile(app, options)
    })
  }

  #compile (app: FastifyInstance, options: RouteOptions): void {
    this.#compilers = compilersOf(app, options)
    if (this.#compilers === undefined) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME('this Fastify does not show how it compiles schemas')
    const { in: into, out, encoding, maxLength } = this.settings
    const fixed = typeof into !== 'function' && typeof out !== 'function'
    const validate = typeof into === 'function' ? undefined : this.#validatorOf(into)
    const serialise = typeof out === 'function' ? undefined : this.#serialiserOf(out)
    if (fixed) this.#codec = new Codec(encoding, maxLength, validate, serialise, this.#decode)
  }

  #validatorOf (schema: unknown): Validate | undefined {
    return this.#compiled('in', schema, this.#validators, compilers => compilers.validator(schema))
  }

  #serialiserOf (schema: unknown): Serialise | undefined {
    return this.#compiled('out', schema, this.#serialisers, compilers => compilers.serialiser(schema))
  }

  #compiled<T> (name: string, schema: unknown, known: WeakMap<object, T>, compile: (compilers: Compilers) => T): T | undefined {
    if (schema === undefined) return undefined
    const key = typeof schema === 'object' && schema !== null ? schema : undefined
    let compiled = key && known.get(key)
    if (compiled !== undefined) return compiled
    try {
      compiled = compile(this.#compilers as Compilers)
    } catch (error) {
      throw new FST_ERR_DUPLEX_INVALID_OPTION(`the schema messages.${name} of route ${this.#route} cannot be compiled: ${(error as Error).message}`)
    }
    if (key !== undefined) known.set(key, compiled)
    return compiled
  }

  /** The codec for one connection. */
  codecFor (request: FastifyRequest): Codec {
    if (this.#codec !== undefined) return this.#codec
    const { in: into, out, encoding, maxLength } = this.settings
    const schemaOf = (schema: unknown): unknown => typeof schema === 'function' ? (schema as (request: FastifyRequest) => unknown)(request) : schema
    return new Codec(encoding, maxLength, this.#validatorOf(schemaOf(into)), this.#serialiserOf(schemaOf(out)), this.#decode)
  }

  /** Runs after the other `onRequest` hooks. It refuses a wrong WebSocket handshake, and a body that the route cannot read. */
  async prepare (request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const claim = claimOf(request.raw) as Claim
    const { websocket, maxLength } = this.settings
    const transfer: Transfer = websocket !== undefined && claim.kind === 'upgrade' && claim.protocol?.toLowerCase() === 'websocket'
      ? { by: 'websocket', opening: await openWebSocket(websocket, maxLength, request, reply) }
      : { by: 'framing', choice: chooseFramings(this.settings, claim.kind, request) }
    ;(request as Carried)[kTransfer] = transfer
  }

  connection (claim: Claim, request: FastifyRequest, reply: FastifyReply, registry: Registry): MessageConnection {
    const transfer = (request as Carried)[kTransfer] as Transfer
    return new MessageConnection(claim, reply, registry, this, transfer)
  }
}
