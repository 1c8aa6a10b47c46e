import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_ROUTING_FAILED } from '../errors.ts'
import type { Claim } from '../handshake/claim.ts'
import { sendRefusal, type RefusalError } from '../handshake/refusal.ts'
import { publishStart, responseClass } from '../internals/http-messages.ts'
import { say } from '../observability/log.ts'
import type { Registry } from '../shutdown/registry.ts'
import type { SocketCarrier } from './socket-carrier.ts'

/** Gives requests that left HTTP a response, and hands them to Fastify, once the responses before them are sent. */
export class Entrance {
  readonly #server: Server
  readonly #app: FastifyInstance
  readonly #registry: Registry
  readonly #responseClass: ReturnType<typeof responseClass>

  constructor (server: Server, app: FastifyInstance, registry: Registry) {
    this.#server = server
    this.#app = app
    this.#registry = registry
    this.#responseClass = responseClass(server)
  }

  /** Begins the request of a duplex route. */
  enter (claim: Claim): void {
    const carrier = claim.carrier as SocketCarrier
    const res = carrier.respond(this.#responseClass)
    publishStart(res, this.#server)
    if (claim.refusal !== undefined) {
      sendRefusal(res, claim.refusal)
      return
    }
    if (!this.#lifecycle(claim.req, res)) claim.refuseBare(new FST_ERR_DUPLEX_ROUTING_FAILED())
    claim.routed()
  }

  /** Hands the request to Fastify, by the event that tracers and the app listen to. */
  #lifecycle (req: IncomingMessage, res: ServerResponse): boolean {
    try {
      this.#server.emit('request', req, res)
      return true
    } catch (err) {
      say(this.#app.log, 'error', { err }, 'routing of a takeover failed')
      return res.headersSent || res.socket?.destroyed !== false
    }
  }

  /** Refuses a request without a route. The plugin answers, or the app's router if no route can have the URL. */
  refuse (carrier: SocketCarrier, error: RefusalError | undefined): void {
    const { req } = carrier
    carrier.releaseEnd()
    const res = carrier.respond(this.#responseClass)
    publishStart(res, this.#server)
    carrier.listener = {
      answerBegins () {},
      answerEnds: () => { this.#registry.refusedUnclaimed(req, res.statusCode) },
      carrierEnds () {}
    }
    if (error !== undefined) {
      sendRefusal(res, error)
      say(this.#app.log, 'info', { req, res, err: error }, 'duplex request refused')
    } else if (!this.#lifecycle(req, res)) {
      sendRefusal(res, new FST_ERR_DUPLEX_ROUTING_FAILED())
    }
  }
}
