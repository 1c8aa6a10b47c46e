import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2SecureServer, Http2Server, Http2ServerRequest, Http2ServerResponse, OutgoingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import { Server as TlsServer } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_NO_ROUTE, FST_ERR_DUPLEX_ROUTING_FAILED } from '../errors.ts'
import { Claim, claimOf } from '../handshake/claim.ts'
import { sendRefusal } from '../handshake/refusal.ts'
import type { Interceptors } from '../internals/server-events.ts'
import { say } from '../observability/log.ts'
import type { Registry } from '../shutdown/registry.ts'
import type { Http2Gate, StreamFacts, StreamVerdict } from './gate.ts'
import { Http2Sessions, type Http2Session } from './sessions.ts'
import { StreamCarrier } from './stream-carrier.ts'
import { cutUnlessTaken } from './unread-answer.ts'
import type { Milliseconds } from '../../types/index.ts'

export function speaksHttp2 (server: object): server is Http2Server | Http2SecureServer {
  return 'updateSettings' in server
}

/** The apps with the plugin on each server, the one that sees requests last first. */
const appsOf = new WeakMap<object, Http2Streams[]>()

/** Requests that were answered without an app. */
const refused = new WeakSet<object>()

/** Watches every stream of one HTTP/2 server, and claims those that are a duplex route's. */
export class Http2Streams {
  readonly #server: Http2Server | Http2SecureServer
  readonly #app: FastifyInstance
  readonly #gate: Http2Gate
  readonly #registry: Registry
  readonly #sessions: Http2Sessions
  readonly #unreadFor: Milliseconds

  /** @param unreadFor how long a client may take nothing of what waits for it, if there is no route with a finTimeout */
  constructor (
    server: Http2Server | Http2SecureServer, app: FastifyInstance, gate: Http2Gate, registry: Registry, unreadFor: Milliseconds
  ) {
    this.#server = server
    this.#app = app
    this.#gate = gate
    this.#registry = registry
    const forced = (app.initialConfig as { forceCloseConnections?: unknown }).forceCloseConnections === true
    this.#sessions = new Http2Sessions(server, server instanceof TlsServer, unreadFor, forced)
    this.#unreadFor = unreadFor
    const apps = appsOf.get(server) ?? []
    appsOf.set(server, [...apps, this])
  }

  /** Whether another app of the server sees requests after this one. */
  get #hasNext (): boolean {
    return appsOf.get(this.#server)?.[0] !== this
  }

  /** The interceptors for the server's events. They pass events of HTTP/1 on the same port on. */
  get interceptors (): Interceptors {
    const receive: Interceptors[string] = (req, res) => this.#receive(req as Http2ServerRequest, res as Http2ServerResponse)
    return {
      request: receive,
      connect: (req, res, none) => this.#isOver(req as Http2ServerRequest) ? true : receive(req, res, none)
    }
  }

  drain (): void {
    this.#sessions.close()
  }

  cut (): void {
    this.#sessions.cut()
  }

  reopen (): () => void {
    return this.#sessions.reopen()
  }

  /** Takes all off the server that was put on it. */
  undo (): void {
    appsOf.set(this.#server, (appsOf.get(this.#server) ?? []).filter(app => app !== this))
    this.#sessions.unwatch()
  }

  #receive (req: Http2ServerRequest, res: Http2ServerResponse): boolean | undefined {
    const session = req.httpVersionMajor === 2 ? this.#sessions.of(req.stream as ServerHttp2Stream) : undefined
    // A claimed request is emitted once more, for Fastify.
    if (session === undefined || claimOf(req) !== undefined) return undefined
    const verdict = this.#judge(req)
    switch (verdict.then) {
      case 'claim':
        this.#take(verdict.facts, res, session)
        return true
      case 'refuse':
        if (this.#hasNext && verdict.error instanceof FST_ERR_DUPLEX_NO_ROUTE) return undefined
        refused.add(req)
        cutUnlessTaken(res.stream as ServerHttp2Stream, session, this.#unreadFor)
        sendRefusal(res as unknown as ServerResponse, verdict.error)
        this.#registry.refusedUnclaimed(req as unknown as IncomingMessage, verdict.error.statusCode ?? 500)
        return true
    }
    return undefined
  }

  /** Whether a CONNECT that is emitted has its answer. A listener of 'stream' may have given it. */
  #isOver (req: Http2ServerRequest): boolean {
    if (req.httpVersionMajor !== 2) return false
    if (claimOf(req) !== undefined || refused.has(req)) return true
    return (req.stream as ServerHttp2Stream).headersSent && this.#server.listenerCount('connect') === 0
  }

  #judge (req: Http2ServerRequest): StreamVerdict {
    try {
      return this.#gate.judge(req, this.#server.listenerCount('connect') > 0)
    } catch (err) {
      // A constraint or the rewriteUrl of the app threw. An ordinary request gets the same error in its routing.
      say(this.#app.log, 'error', { err }, 'routing of a request head failed')
      return req.method === 'CONNECT' ? { then: 'refuse', error: new FST_ERR_DUPLEX_ROUTING_FAILED() } : { then: 'http' }
    }
  }

  #take (facts: StreamFacts, response: Http2ServerResponse, session: Http2Session): void {
    const stream = response.stream as ServerHttp2Stream
    const res = response as unknown as ServerResponse
    const carrier = new StreamCarrier(stream, res, session, facts.kind, facts.route.settings.finTimeout)
    const claim = new Claim(facts, carrier, this.#registry)
    guardStatus(stream, carrier)
    this.#registry.addClaim(claim)
    claim.startTimer()
    try {
      this.#server.emit('request', facts.req as never, res as never)
    } catch (err) {
      say(this.#app.log, 'error', { err }, 'routing of a stream failed')
      if (!stream.headersSent && !stream.destroyed) claim.refuseBare(new FST_ERR_DUPLEX_ROUTING_FAILED())
    }
    claim.routed()
  }
}

/** Every answer passes through `respond()`. This tells the claim of it, and refuses a status that only acceptance may send. */
function guardStatus (stream: ServerHttp2Stream, carrier: StreamCarrier): void {
  const { respond } = stream
  stream.respond = (headers?: OutgoingHttpHeaders, options?: object) => {
    const status = Number(headers?.[':status'] ?? 200)
    const said = carrier.impliesTakeover(status) ? { ...headers, ':status': 500 } : headers
    Reflect.apply(respond, stream, [said, options])
    carrier.listener?.answerBegins()
  }
}
