import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { Server as TlsServer } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import { claimOf, type Claim } from '../handshake/claim.ts'
import { SocketCarrier } from './socket-carrier.ts'
import { FST_ERR_DUPLEX_ROUTING_FAILED } from '../errors.ts'
import type { Http1Gate, Verdict } from './gate.ts'
import { giveBack, headWithoutUpgrade } from './give-back.ts'
import { lingeringClose } from './lingering-close.ts'
import { onRequestHead, sawUpgrade, takeOver, takeOverAfterBody } from '../internals/http-parser.ts'
import { tolerateHalfClose, unfinishedResponse } from '../internals/http-messages.ts'
import { type HttpSocket } from '../internals/sockets.ts'
import { afterEarlierResponses, forwardDrain } from './pipelining.ts'
import { refuse, RefusalResponse, sendRefusal } from './response.ts'
import type { Registry } from '../shutdown/registry.ts'

/** On a raw request: what to do with its connection, which Node is about to let go of. */
const kVerdict = Symbol('fastify-duplex.verdict')

interface Leaving extends IncomingMessage {
  [kVerdict]?: Verdict | undefined
}

/** Watches every connection of one HTTP server, and owns those that leave HTTP for a duplex route. */
export function watchHttp1 (server: Server, main: Server, app: FastifyInstance, gate: Http1Gate, registry: Registry): void {
  const tls = server instanceof TlsServer
  const standIn = (): void => {}
  // Node asks for a listener before it emits: without one it destroys the socket.
  server.on('connect', standIn)
  server.on('upgrade', standIn)
  // The second server of `localhost` passes 'upgrade' on to the first, and has no owners of its own.
  const hasOthers = (event: 'upgrade' | 'connect'): boolean =>
    (event === 'upgrade' ? main : server).listenerCount(event) > 1

  server.on(tls ? 'secureConnection' : 'connection', (socket: HttpSocket) => { onRequestHead(socket, decide) })

  function decide (req: IncomingMessage): number | undefined {
    const verdict = judge(req)
    const socket = req.socket as unknown as HttpSocket
    switch (verdict.then) {
      case 'http':
        if (verdict.claim?.kind === 'body') {
          tolerateHalfClose(socket, server, () => [claimOf(unfinishedResponse(socket)?.req ?? {}), latest.get(socket)]
            .some(claim => claim?.kind === 'body' && claim.res?.writableFinished !== true))
        }
        return undefined
      case 'take-after-body':
        ;(req as Leaving)[kVerdict] = verdict
        return startWithBody(app, registry, verdict.claim, socket, server.timeout)
      default:
        ;(req as Leaving)[kVerdict] = verdict
        return takeOver(req)
    }
  }

  function judge (req: IncomingMessage): Verdict {
    try {
      return gate.judge(req, hasOthers)
    } catch (err) {
      // A constraint or rewriteUrl of the app threw; an ordinary request meets that again in its routing.
      app.log.error({ err }, 'routing of a request head failed')
      return sawUpgrade(req) ? { then: 'refuse', error: new FST_ERR_DUPLEX_ROUTING_FAILED() } : { then: 'http' }
    }
  }

  // An error page in the middle of a response that is being streamed would be taken for its body, and one
  // behind it, while the request still comes, for the response to another request.
  const latest = new WeakMap<Duplex, Claim>()
  server.prependListener('clientError', (error: Error, socket: Duplex) => {
    const answered = claimOf(unfinishedResponse(socket as HttpSocket)?.req ?? {})
    const received = latest.get(socket)
    if (answered?.accepted === true || (received?.accepted === true && !received.req.complete)) socket.destroy(error)
  })

  // Node emits what left HTTP to all listeners alike; those of others must not see what is ours. Every request of the
  // server comes by here: V8 passes `arguments` on without making an array of them.
  const emit = server.emit as (...all: unknown[]) => boolean
  server.emit = function (this: Server, event: string | symbol, first?: unknown, second?: unknown, third?: unknown) {
    if (event === 'request') {
      const claim = claimOf(first as IncomingMessage)
      // A stream of HTTP/2 on the same port is not for us.
      if (claim !== undefined && claim.req.httpVersionMajor === 1) {
        follow(claim, second as ServerResponse)
        emit.apply(this, arguments as unknown as unknown[])
        claim.routed()
        return true
      }
    } else if (event === 'upgrade' || event === 'connect') {
      const req = first as Leaving
      const verdict = req[kVerdict]
      if (verdict !== undefined && verdict.then !== 'hand-over') {
        req[kVerdict] = undefined
        receive(verdict, req, second as HttpSocket, third as Buffer)
        return true
      }
    }
    return emit.apply(this, arguments as unknown as unknown[])
  } as typeof server.emit

  /** The request of a duplex route that stays with Node, from here on until it is over. */
  function follow (claim: Claim, res: ServerResponse): void {
    const { socket } = claim.req
    latest.set(socket, claim)
    registry.addRequest(claim)
    claim.answerOn(res, () => {
      if (!registry.removeRequest(claim)) return
      // A closing server ends connections that are idle, but not those that become so later.
      if (registry.draining && !server.listening && unfinishedResponse(socket) === undefined) socket.destroySoon?.()
    })
  }

  function receive (verdict: Verdict, req: IncomingMessage, socket: HttpSocket, head: Buffer): void {
    switch (verdict.then) {
      case 'take': {
        const carrier = verdict.claim.take(socket, head)
        track(registry, carrier)
        park(carrier, () => {
          route(app, verdict.claim, socket)
          carrier.holdEnd()
        })
        break
      }
      case 'take-after-body':
        receiveAfterBody(registry, verdict.claim, socket, head)
        break
      case 'refuse': {
        const carrier = new SocketCarrier(socket, head)
        track(registry, carrier)
        park(carrier, () => {
          carrier.releaseEnd()
          refuse(socket, req, verdict.error)
          registry.refusedUnclaimed(req, verdict.error.statusCode ?? 500)
        })
        break
      }
      case 'unroutable': {
        const carrier = new SocketCarrier(socket, head)
        track(registry, carrier)
        park(carrier, () => {
          carrier.releaseEnd()
          lifecycle(app, req, new RefusalResponse(req, socket, {
            answered (socket, res) {
              registry.refusedUnclaimed(req, res.statusCode)
              lingeringClose(socket)
            }
          }))
        })
        break
      }
      case 'ignore-upgrade': {
        const carrier = new SocketCarrier(socket, Buffer.concat([headWithoutUpgrade(req), head]))
        park(carrier, () => {
          carrier.letGo()
          giveBack(server, socket as unknown as Socket, tls)
        })
      }
    }
  }

  function park (carrier: SocketCarrier, proceed: () => void): void {
    if (unfinishedResponse(carrier.socket) === undefined) {
      proceed()
    } else {
      afterEarlierResponses(carrier.socket, () => {
        ;(carrier.socket as unknown as Socket).setTimeout?.(0)
        proceed()
      })
    }
    carrier.holdEnd()
  }
}

function track (registry: Registry, carrier: SocketCarrier): void {
  registry.addSocket(carrier.socket)
  carrier.keeper = registry
}

function route (app: FastifyInstance, claim: Claim, socket: HttpSocket): void {
  const res = claim.respondOn(socket)
  if (claim.late !== undefined) {
    sendRefusal(res, claim.late)
    return
  }
  lifecycle(app, claim.req, res)
  claim.routed()
}

/** Runs the Fastify lifecycle for a request that Node has no response for. */
function lifecycle (app: FastifyInstance, req: IncomingMessage, res: RefusalResponse): void {
  try {
    app.routing(req, res)
  } catch (err) {
    app.log.error({ err }, 'routing of a takeover failed')
    if (!res.headersSent && res.socket?.destroyed === false) sendRefusal(res, new FST_ERR_DUPLEX_ROUTING_FAILED())
  }
}

/** An upgrade with a body: the lifecycle begins now, and the parser goes on until the body ends. */
function startWithBody (app: FastifyInstance, registry: Registry, claim: Claim, socket: HttpSocket, timeout: number): number {
  registry.addSocket(socket)
  const code = takeOverAfterBody(claim.req)
  // Node knows nothing of this request, so that it cannot tell it of a vanished client.
  claim.whileBodyComes(socket, () => registry.removeSocket(socket))
  afterEarlierResponses(socket, () => {
    // Node thinks that the connection is idle now, and has set the timeout of those.
    ;(socket as unknown as Socket).setTimeout?.(claim.carrier === undefined ? timeout : 0)
    route(app, claim, socket)
  })
  return code
}

function receiveAfterBody (registry: Registry, claim: Claim, socket: HttpSocket, head: Buffer): void {
  if (claim.kind === 'body') {
    // The chooser wanted no upgrade. The response goes on; what follows is never parsed.
    socket.on('error', () => {})
    forwardDrain(socket)
    claim.bodyHasArrived()
  } else if (claim.res?.writableEnded === true) {
    // Answered while the body still came: the socket is closing, and discards.
    socket.on('error', () => {})
    socket.resume()
  } else {
    const carrier = claim.take(socket, head)
    track(registry, carrier)
    carrier.holdEnd()
  }
}
