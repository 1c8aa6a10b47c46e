import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Http2SecureServer, Http2Server, Http2ServerRequest, Http2ServerResponse, OutgoingHttpHeaders, ServerHttp2Stream } from 'node:http2'
import { Server as TlsServer } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import { Http2Carrier } from './stream-carrier.ts'
import { Claim } from '../handshake/claim.ts'
import { FST_ERR_DUPLEX_ROUTING_FAILED } from '../errors.ts'
import { Http2Sessions, type Http2Session } from './sessions.ts'
import type { Http2Gate, StreamFacts, StreamVerdict } from './gate.ts'
import { cutUnlessTaken } from './unread-answer.ts'
import { sendRefusal } from '../http1/response.ts'
import type { PluginSettings } from '../options.ts'
import type { Registry } from '../shutdown/registry.ts'

export function speaksHttp2 (server: object): server is Http2Server | Http2SecureServer {
  return 'updateSettings' in server
}

/** Watches every stream of one HTTP/2 server, and claims those that are a duplex route's. */
export function watchHttp2 (
  server: Http2Server | Http2SecureServer, app: FastifyInstance, gate: Http2Gate, registry: Registry, settings: PluginSettings
): void {
  const { finTimeout } = settings
  if (settings.extendedConnect) server.updateSettings({ enableConnectProtocol: true })
  const sessions = new Http2Sessions(server, server instanceof TlsServer, finTimeout)
  registry.onShutdown(() => sessions.close(), () => sessions.cut())

  const emit = server.emit as (event: string | symbol, ...args: unknown[]) => boolean
  const proceed = (...args: unknown[]): boolean => Reflect.apply(emit, server, args)
  server.emit = function (event: string | symbol, ...args: unknown[]) {
    if (event === 'request' || event === 'connect') {
      const [req, res] = args as [Http2ServerRequest, Http2ServerResponse]
      const session = req.httpVersionMajor === 2 ? sessions.of(req.stream as ServerHttp2Stream) : undefined
      if (session !== undefined) return receive(req, res, session, () => proceed(event, req, res))
    }
    return proceed(event, ...args)
  }

  function receive (req: Http2ServerRequest, res: Http2ServerResponse, session: Http2Session, handOver: () => boolean): boolean {
    const verdict = judge(req)
    switch (verdict.then) {
      case 'claim':
        take(verdict.facts, res, session)
        return true
      case 'refuse':
        cutUnlessTaken(res.stream as ServerHttp2Stream, session, finTimeout)
        sendRefusal(res as unknown as ServerResponse, verdict.error)
        registry.refusedUnclaimed(req as unknown as IncomingMessage, verdict.error.statusCode ?? 500)
        return true
      default:
        return handOver()
    }
  }

  function judge (req: Http2ServerRequest): StreamVerdict {
    try {
      // One is the plugin's own, for HTTP/1.
      return gate.judge(req, server.listenerCount('connect') > 1)
    } catch (err) {
      // A constraint or rewriteUrl of the app threw; an ordinary request meets that again in its routing.
      app.log.error({ err }, 'routing of a request head failed')
      return req.method === 'CONNECT' ? { then: 'refuse', error: new FST_ERR_DUPLEX_ROUTING_FAILED() } : { then: 'http' }
    }
  }

  function take (facts: StreamFacts, response: Http2ServerResponse, session: Http2Session): void {
    const stream = response.stream as ServerHttp2Stream
    const res = response as unknown as ServerResponse
    const carrier = new Http2Carrier(stream, session, facts.kind, facts.route.settings.finTimeout)
    const claim = new Claim({ ...facts, carrier }, claim => registry.refused(claim))
    claim.startHandshakeTimer()
    guardStatus(stream, claim)
    registry.addRequest(claim)
    claim.answerOnStream(res, stream, () => registry.removeRequest(claim))
    try {
      app.routing(facts.req, res)
    } catch (err) {
      app.log.error({ err }, 'routing of a stream failed')
      if (!stream.headersSent && !stream.destroyed) claim.refuseBare(new FST_ERR_DUPLEX_ROUTING_FAILED())
    }
    claim.routed()
  }
}

/** RFC 9113 section 8.5: a 2xx is a tunnel, and no answer but acceptance may say so. */
function guardStatus (stream: ServerHttp2Stream, claim: Claim): void {
  const { respond } = stream
  stream.respond = (headers?: OutgoingHttpHeaders, options?: object) => {
    const status = Number(headers?.[':status'] ?? 200)
    const said = claim.impliesTakeover(status) ? { ...headers, ':status': 500 } : headers
    Reflect.apply(respond, stream, [said, options])
  }
}
