import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import type { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { forgetAcceptStatus, interruptSendHooks } from './send-hooks.ts'
import { Http2Carrier } from '../http2/stream-carrier.ts'
import { SocketCarrier } from '../http1/socket-carrier.ts'
import type { DuplexRoute } from '../routes/find.ts'
import { FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT } from '../errors.ts'
import { lingeringClose } from '../http1/lingering-close.ts'
import { clearFields, onWhole, outliveResponse, watchVanishing } from '../internals/http-messages.ts'
import { peerIsGone, resetByPeer, type HttpSocket } from '../internals/sockets.ts'
import { RefusalResponse, sayClose, sendRefusal, silence } from '../http1/response.ts'
import { kClaim } from './symbols.ts'
import { discardRefused, isRead } from '../http1/unread-body.ts'
import { unwatchPeer, watchPeer, type Watched } from '../http1/vanished-peers.ts'
import type { DuplexAuthority, DuplexKind } from '../../types/index.ts'

/** What a duplex route has to say to a request that it cannot take over. */
export type Instead = 'upgrade-required' | 'not-found' | 'head'

export interface ClaimFacts {
  route: DuplexRoute
  req: IncomingMessage
  kind: DuplexKind
  /** The request is the route's, but is answered and not taken over. */
  instead?: Instead
  offered?: readonly string[]
  protocol?: string | undefined
  authority?: DuplexAuthority
  /** An upgrade whose body the parser reads before the stream starts. */
  hasBody?: boolean
  /** Over HTTP/2, the stream of the request. */
  carrier?: Http2Carrier
}

/**
 * A duplex route's hold on one request, from the request head to the handler: what was negotiated,
 * who owns the socket, and whether an answer was given.
 */
export class Claim {
  readonly route: DuplexRoute
  readonly req: IncomingMessage
  kind: DuplexKind
  readonly instead: Instead | undefined
  readonly offered: readonly string[]
  protocol: string | undefined
  readonly authority: DuplexAuthority | undefined
  readonly hasBody: boolean
  readonly since = performance.now()
  /** The socket, once it has left HTTP, which that of a message never does; over HTTP/2 the stream. */
  carrier: SocketCarrier | Http2Carrier | undefined
  /** The response, until acceptance. */
  res: ServerResponse | undefined
  /** Known from the onRequest hook of the route on. */
  reply: FastifyReply | undefined
  accepted = false
  /** What the last preParsing hook made of the request: itself, or decompressed. */
  body: Readable
  /** The time for the handshake is over, and this is or will be the answer. */
  late: InstanceType<typeof FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT> | undefined
  readonly #refused: (claim: Claim) => void
  /** Kept here: a `pipeline` that fails, in a preParsing hook, sets the `socket` of the request to null. */
  readonly #socket: { readonly destroyed: boolean, destroy (): unknown }
  #timer: NodeJS.Timeout | undefined
  #onBodyBroken: (() => void) | undefined
  #wasTold = false
  /** For a client that has vanished behind its message. */
  #looking: Watched | undefined

  constructor (facts: ClaimFacts, refused: (claim: Claim) => void) {
    this.#refused = refused
    this.route = facts.route
    this.req = facts.req
    this.body = facts.req
    this.carrier = facts.carrier
    this.#socket = facts.carrier?.stream ?? facts.req.socket
    this.kind = facts.kind
    this.instead = facts.instead
    this.offered = facts.offered ?? []
    this.protocol = facts.protocol
    this.authority = facts.authority
    this.hasBody = facts.hasBody ?? false
    ;(facts.req as unknown as { [kClaim]: Claim })[kClaim] = this
  }

  /** Whether somebody answered, or nobody is there to be answered any more. */
  get over (): boolean {
    return this.accepted || this.gone || this.late !== undefined || this.#timedOutByFramework || this.res?.writableEnded === true
  }

  /** The handlerTimeout of the route is over, and Fastify is making the answer. */
  get #timedOutByFramework (): boolean {
    const { handshakeYields, handshakeTimeout } = this.route
    if (!handshakeYields || handshakeTimeout === 0 || this.reply === undefined) return false
    return (this.reply.request.signal.reason as { code?: string } | undefined)?.code === 'FST_ERR_HANDLER_TIMEOUT'
  }

  get gone (): boolean {
    return this.carrier?.gone ?? this.#socket.destroyed
  }

  /** From now until acceptance: then the client gets a 503. */
  startHandshakeTimer (): void {
    const { handshakeTimeout, handshakeYields } = this.route
    if (handshakeTimeout > 0 && !handshakeYields) this.#timer = setTimeout(() => this.#strike(handshakeTimeout), handshakeTimeout)
  }

  /** Fastify has begun with the request, and with its handlerTimeout, which ends once a body was read. */
  routed (): void {
    const { handshakeTimeout, handshakeYields } = this.route
    if (handshakeTimeout === 0 || !handshakeYields || this.over) return
    // Started later, with the same delay, it comes after Fastify's, which is the one to strike if it still runs.
    this.#timer = setTimeout(() => {
      // In hooks before those of the route no body was read yet, and only Fastify has the reply.
      if (this.reply !== undefined) setImmediate(() => this.#strike(handshakeTimeout))
    }, handshakeTimeout)
  }

  stopHandshakeTimer (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  /** The body is still with the parser: a client that vanishes now breaks it off. */
  whileBodyComes (socket: HttpSocket, closed: () => void): void {
    this.#onBodyBroken = () => {
      closed()
      this.socketClosed()
    }
    socket.once('close', this.#onBodyBroken)
  }

  /** The socket has left HTTP, with the bytes that followed the head. */
  take (socket: HttpSocket, head: Buffer): SocketCarrier {
    if (this.#onBodyBroken !== undefined) socket.removeListener('close', this.#onBodyBroken)
    const carrier = new SocketCarrier(socket, head)
    this.carrier = carrier
    carrier.owner = this
    return carrier
  }

  /** Until there is a connection, which then is the owner. */
  progressed (): void {
    if (this.carrier?.closed === true) this.socketClosed()
  }

  /** The response for everything short of acceptance. */
  respondOn (socket: HttpSocket): RefusalResponse {
    const res = new RefusalResponse(this.req, socket, this, this.route.settings.finTimeout)
    this.res = res
    return res
  }

  /** The request stays with Node, and this is its response. `ended` is called when both are over. */
  answerOn (res: ServerResponse, ended: () => void): void {
    const { req } = this
    const check = (): void => {
      // The response to a pipelined request has no socket yet, and is not told when that closes.
      if (!this.gone && !(res.writableFinished && req.complete)) return
      this.stopHandshakeTimer()
      this.#stopLooking()
      ended()
    }
    this.res = res
    const { socket } = req
    // Node would read without bound what is left of the body of a refused message, or reset what it has not read.
    const isOurs = (): boolean => this.accepted || !isRead(this.body)
    const whole = this.kind === 'body' ? outliveResponse(req, res, socket, isOurs) : undefined
    res.once('finish', () => {
      watchVanishing(req, socket)
      this.#told()
      if (whole !== undefined && !this.accepted && !req.complete && !req.destroyed && !isRead(this.body)) {
        discardRefused(req, socket, this.route.settings.finTimeout)
      }
    })
    res.once('close', check)
    req.once('close', check)
    // A request that has arrived, and that its handler paused and never reads, does not close.
    onWhole(req, () => {
      whole?.()
      check()
      this.bodyHasArrived()
    })
  }

  /** A client that has half-closed behind its message is read no further, so that Node sees no reset. */
  bodyHasArrived (): void {
    if (this.kind !== 'body' || this.#wasTold || this.gone) return
    const socket = this.#socket as HttpSocket
    this.#looking = { lookForPeer () { if (peerIsGone(socket)) socket.destroy(resetByPeer()) } }
    watchPeer(this.#looking)
  }

  #stopLooking (): void {
    if (this.#looking !== undefined) unwatchPeer(this.#looking)
    this.#looking = undefined
  }

  /** The request is a stream of HTTP/2, which is its response too. `ended` is called when it is over. */
  answerOnStream (res: ServerResponse, stream: ServerHttp2Stream, ended: () => void): void {
    this.res = res
    stream.once('close', () => {
      this.stopHandshakeTimer()
      if (!this.accepted && res.writableEnded) this.#refused(this)
      ended()
    })
  }

  /** Whether an answer with this status would tell the client of a takeover. */
  impliesTakeover (status: number): boolean {
    const { res, carrier, kind } = this
    if (carrier instanceof Http2Carrier) return kind !== 'body' && status >= 200 && status < 300
    return res instanceof RefusalResponse && res.impliesTakeover(status)
  }

  /** Acceptance: nothing that is sent through the response reaches the wire any more. */
  leaveHttp (status: number): void {
    const { res, carrier } = this
    if (carrier instanceof Http2Carrier && res !== undefined) {
      res.statusCode = status
      silence(res)
    } else if (res instanceof RefusalResponse && this.kind !== 'body') {
      res.release(status)
    }
  }

  /** At the end of a drain, whatever became of the request. */
  cut (): void {
    this.#socket.destroy()
  }

  /** An answer without the app, and without what the app has set for another. */
  refuseBare (error: Error & { code: string }): void {
    const { res, carrier } = this
    if (res === undefined) return
    try {
      clearFields(res)
      sendRefusal(res, error)
      silence(res)
    } catch {
      if (carrier instanceof Http2Carrier) carrier.breakOff(error, true)
      else this.cut()
    }
  }

  #abortRequest (): void {
    this.req.destroy(Object.assign(new Error('aborted'), { code: 'ECONNRESET' }))
  }

  /** A response has ended. One to nobody, which only ends the request, refuses nobody. */
  #told (): void {
    this.#wasTold = true
    this.stopHandshakeTimer()
    this.#stopLooking()
    if (!this.accepted && !this.gone) this.#refused(this)
  }

  /** The answer, which was no acceptance, is on the wire. */
  answered (socket: HttpSocket): void {
    this.#told()
    if (this.carrier instanceof SocketCarrier) this.carrier.releaseEnd()
    // Where a body is still being parsed, what is left of it is thrown away within the same bounds.
    if (this.hasBody) this.req.resume()
    lingeringClose(socket)
  }

  #strike (delay: number): void {
    if (this.over) return
    const error = new FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT(delay)
    this.late = error
    if (this.res !== undefined && interruptSendHooks(this.res, error)) return
    if (this.reply !== undefined && !this.reply.sent) {
      sayClose(this.reply)
      this.reply.send(error)
    } else if (this.res !== undefined) {
      // Before the route's own hooks there is no reply: the answer goes out without the error handler.
      sendRefusal(this.res, error)
    }
  }

  /** The socket is gone; if nobody answered, nobody will. */
  socketClosed (): void {
    this.stopHandshakeTimer()
    this.#stopLooking()
    // Over HTTP/2 Node tells the request and its response.
    if (this.carrier instanceof Http2Carrier) return
    // An answer that was given, but to a socket that was gone by then, ends nothing.
    if (!this.accepted && !this.#wasTold) {
      // As on a plain route: request.signal aborts and the onRequestAbort hooks run.
      this.#abortRequest()
      // And as at every end: the onResponse hooks run and the request is logged. Not before, for with its response
      // Fastify takes a request for over, and its signal would never abort.
      const { req, res } = this
      if (res !== undefined) forgetAcceptStatus(res)
      if (res instanceof RefusalResponse) req.closed ? res.emit('finish') : req.once('close', () => res.emit('finish'))
    }
  }
}

export function claimOf (req: object): Claim | undefined {
  return (req as { [kClaim]?: Claim })[kClaim]
}
