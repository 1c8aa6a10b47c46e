import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { Server as TlsServer } from 'node:tls'
import type { FastifyInstance } from 'fastify'
import { FST_ERR_DUPLEX_NOT_ADOPTED, FST_ERR_DUPLEX_ROUTING_FAILED } from '../errors.ts'
import { Claim, claimOf, type ClaimFacts, type ClaimWatcher } from '../handshake/claim.ts'
import { writtenRefusal } from '../handshake/refusal.ts'
import { shareTexts, showAsItCame, tolerateHalfClose, unfinishedResponse } from '../internals/http-messages.ts'
import { nodesListeners, onRequestHead, sawUpgrade, speakHttp, takeOver, takeOverAfterBody } from '../internals/http-parser.ts'
import { intercept, override, type Interceptors } from '../internals/server-events.ts'
import { socketBeneath, type HttpSocket } from '../internals/sockets.ts'
import { say } from '../observability/log.ts'
import type { Registry } from '../shutdown/registry.ts'
import { UNREAD_FOR } from '../streams/unread-limits.ts'
import { LiveSet } from '../tools/live-set.ts'
import { BodyCarrier } from './body-carrier.ts'
import { Entrance } from './entrance.ts'
import type { Http1Gate, Verdict } from './gate.ts'
import { ACTED_ON, isNobodys, Judgement, kJudgement, wasRewritten, type JudgedRequest } from './judgement.ts'
import { Link, type LinkHost, type TakeoverEvent } from './link.ts'
import { afterEarlierResponses, forwardDrain } from './pipelining.ts'
import { originalHead } from './return-to-http.ts'
import { SecondParse } from './second-parse.ts'
import { SocketCarrier, watchErrors } from './socket-carrier.ts'

/**
 * Watches every connection of one HTTP server, and owns those that leave HTTP for a duplex route. What happens to a request is
 * decided in `#decide()`, when its head is parsed. Node emits 'upgrade' or 'connect' after that, and then the decision is carried out.
 */
export class Http1Server implements ClaimWatcher, LinkHost {
  readonly server: Server
  /** The second server of `localhost` passes 'upgrade' on to this one, the first. Other owners of 'upgrade' listen here alone. */
  readonly #main: Server
  readonly #app: FastifyInstance
  readonly #gate: Http1Gate
  readonly #registry: Registry
  readonly #links = new LiveSet<Link>({ get: link => link.placeInServer, set (link, place) { link.placeInServer = place } })
  /** Over TLS, connections whose handshake is not complete. */
  readonly #tlsHandshakes = new LiveSet<HttpSocket>()
  readonly #expect: (event: string | undefined) => void
  readonly #pass: (event: string, ...args: unknown[]) => boolean
  readonly #isPreceded: () => boolean
  readonly #undo: (() => void)[] = []
  readonly #secondParse: SecondParse
  readonly #entrance: Entrance
  /** Responses that were unfinished when a request with an ignored Upgrade came behind them. */
  readonly #beforeIgnored = new WeakSet<ServerResponse>()
  /** Requests without a connection of this server, which were left to other owners. */
  readonly #others = new WeakSet<object>()

  /** @param others further interceptors for the events of this server */
  constructor (
    server: Server, main: Server, app: FastifyInstance, gate: Http1Gate, registry: Registry, ignoredUpgrades: 'close' | 'keep', others: Interceptors
  ) {
    this.server = server
    this.#main = main
    this.#app = app
    this.#entrance = new Entrance(server, app, registry)
    this.#gate = gate
    this.#registry = registry
    this.#secondParse = new SecondParse(server, ignoredUpgrades)
    const connection = server instanceof TlsServer ? 'secureConnection' : 'connection'
    const elsewhere = (event: TakeoverEvent) => (req: IncomingMessage, socket: HttpSocket, head: Buffer): void => {
      if (req.httpVersionMajor === 2) others.connect?.(req, socket, head)
      else this.#onHeard(event, req, socket, head)
    }
    const { expect, pass, isPreceded, undo } = intercept(server, {
      ...others,
      request: (req, res, none) => this.#onRequest(req as IncomingMessage, res as ServerResponse) ?? others.request?.(req, res, none),
      upgrade: (req, socket, head) => this.#onTaken('upgrade', req as JudgedRequest, socket as HttpSocket, head as Buffer),
      connect: (req, socket, head) => (req as IncomingMessage).httpVersionMajor === 2
        ? others.connect?.(req, socket, head)
        : this.#onTaken('connect', req as JudgedRequest, socket as HttpSocket, head as Buffer),
      clientError: (error, socket) => this.#onClientError(error as Error, socket as HttpSocket)
    }, [
      { event: connection, listener: (socket: HttpSocket) => this.#onConnection(socket) },
      ...connection === 'connection' ? [] : [{ event: 'connection', listener: (socket: HttpSocket) => this.#onTlsHandshake(socket) }],
      { event: 'upgrade', listener: elsewhere('upgrade') },
      { event: 'connect', listener: elsewhere('connect') }
    ])
    this.#expect = expect
    this.#pass = pass
    this.#isPreceded = isPreceded
    this.#undo.push(undo)
    if (typeof server.closeAllConnections === 'function') {
      this.#undo.push(override(server, 'closeAllConnections', usual => () => { registry.draining ? this.#endIdle(true) : usual.call(server) }))
    }
  }

  /** The server closes. This ends the connections that carry nothing. */
  close (): void {
    this.#endIdle(false)
    for (const socket of this.#tlsHandshakes) socket.destroy()
  }

  /** The drain is over. */
  cut (): void {
    for (const link of this.#links) {
      const response = unfinishedResponse(link.socket)
      const waits = (response !== undefined && !link.parked && !this.#beforeIgnored.has(response)) || link.liveElsewhere
      if (link.live || !(waits || isOthers(link))) link.socket.destroy()
    }
  }

  /** Takes everything off the server that was put on it. */
  undo (): void {
    for (const undo of this.#undo) undo()
  }

  refused (claim: Claim): void {
    this.#registry.refused(claim)
  }

  ended (claim: Claim): void {
    this.#registry.ended(claim)
    const { carrier } = claim
    if (!(carrier instanceof BodyCarrier) || !this.#registry.draining || this.server.listening) return
    // A closing server ends idle connections once, and not those that become idle later.
    const { socket } = carrier.link
    if (unfinishedResponse(socket) === undefined) (socket as unknown as Socket).destroySoon?.()
  }

  /** @param forced also ends connections that wait for the answer of a plain route */
  #endIdle (forced: boolean): void {
    for (const link of this.#links) {
      if (link.live || link.liveElsewhere || isOthers(link)) continue
      if (forced || isUnused(link)) link.socket.destroy()
    }
  }

  readonly #hasOthers = (event: TakeoverEvent): boolean => {
    // Somebody may have kept an event from the interceptors.
    this.#expect(undefined)
    return (event === 'upgrade' ? this.#main : this.server).listenerCount(event) > 0
  }

  #onTlsHandshake (socket: HttpSocket): void {
    this.#tlsHandshakes.add(socket)
    socket.once('close', () => this.#tlsHandshakes.delete(socket))
  }

  #onConnection (socket: HttpSocket): void {
    const beneath = socketBeneath(socket)
    if (beneath !== undefined) this.#tlsHandshakes.delete(beneath)
    // A connection that speaks HTTP/2, on a port for both versions, has no such parser.
    if (socket.parser == null) return
    const link = new Link(socket, this.#linkClosed, this)
    this.#links.add(link)
    this.watch(link)
  }

  /** The same function for all connections. */
  readonly #linkClosed = (link: Link): void => {
    this.#links.delete(link)
    this.#registry.removeLink(link)
  }

  watch (link: Link): void {
    onRequestHead(link.socket, req => this.#decide(link, req))
  }

  #decide (link: Link, req: IncomingMessage): number | undefined {
    const original = SecondParse.takeOriginal(link)
    if (sawUpgrade(req)) shareTexts(req)
    const verdict = this.#readOn(link, req, this.#judge(req, original))
    if (original !== undefined) showAsItCame(req, original)
    const { socket } = link
    if (verdict.then === 'http') {
      if (verdict.facts === undefined) return undefined
      const takes = verdict.facts.kind === 'body'
      const { finTimeout } = verdict.facts.route.settings
      this.#claim(verdict.facts, new BodyCarrier(link, req, { inactivityLimit: finTimeout, takes, ofNode: true }))
      if (takes) link.toleratesHalfClose ??= tolerateHalfClose(socket, this.server, () => isAnswering(link))
      return undefined
    }
    if (link.hasNext && isNobodys(verdict)) return undefined
    // Node takes its own listeners off after this.
    link.toleratesHalfClose?.()
    link.toleratesHalfClose = undefined
    const nodes = unfinishedResponse(socket) === undefined ? undefined : nodesListeners(socket)
    if (verdict.then === 'take' || verdict.then === 'take-after-body') {
      const claim = this.#claimSocket(verdict.facts, link)
      ;(req as JudgedRequest)[kJudgement] = new Judgement(this, verdict, claim, nodes, req.url)
      if (verdict.then === 'take-after-body') return this.#startWithBody(link, claim)
    } else {
      (req as JudgedRequest)[kJudgement] = new Judgement(this, verdict, undefined, nodes, req.url)
    }
    watchErrors(socket)
    this.#expect(req.method === 'CONNECT' ? 'connect' : 'upgrade')
    return takeOver(req)
  }

  /** If an Upgrade is ignored, the same parser reads on where it can. */
  #readOn (link: Link, req: IncomingMessage, verdict: Verdict): Verdict {
    if (verdict.then !== 'ignore-upgrade' || (link.hasNext && isNobodys(verdict))) return verdict
    // Who has an `emit` of his own may wait for the event, to rewrite the URL.
    if (this.#isPreceded()) return verdict
    const without = this.#judge(req, undefined, true)
    if (without.then !== 'http' || !this.#secondParse.isNeedless(req)) return verdict
    const response = unfinishedResponse(link.socket)
    if (response !== undefined) this.#beforeIgnored.add(response)
    return without
  }

  #claim (facts: ClaimFacts, carrier: SocketCarrier | BodyCarrier): Claim {
    return new Claim(facts, carrier, this)
  }

  #claimSocket (facts: ClaimFacts, link: Link): Claim {
    const claim = this.#claim(facts, new SocketCarrier(link, facts.req, facts.route.settings.finTimeout))
    this.#registry.addLink(link)
    claim.startTimer()
    return claim
  }

  /**
   * @param before the same request as it came, with the Upgrade that was ignored
   * @param again its Upgrade is ignored now
   */
  #judge (req: IncomingMessage, before: IncomingMessage | undefined, again = false): Verdict {
    try {
      return again ? this.#gate.judgeWithoutUpgrade(req) : this.#gate.judge(req, this.#hasOthers, before)
    } catch (err) {
      // A constraint or the rewriteUrl of the app threw. An ordinary request gets the same error in its routing.
      say(this.#app.log, 'error', { err }, 'routing of a request head failed')
      return sawUpgrade(req) ? { then: 'refuse', error: new FST_ERR_DUPLEX_ROUTING_FAILED() } : { then: 'http' }
    }
  }

  /** The request of a duplex route that stays with Node. */
  #onRequest (req: IncomingMessage, res: ServerResponse): boolean | undefined {
    const claim = claimOf(req)
    if (claim === undefined || claim.res !== undefined || !(claim.carrier instanceof BodyCarrier)) return undefined
    if (claim.carrier.link.host !== this) return undefined
    this.#attach(claim, res)
    this.#pass('request', req, res)
    claim.routed()
    return true
  }

  reached (claim: Claim, res: ServerResponse): void {
    this.#attach(claim, res)
    claim.routed()
  }

  #attach (claim: Claim, res: ServerResponse): void {
    if (!(claim.carrier instanceof BodyCarrier)) return
    this.#registry.addClaim(claim)
    claim.carrier.attach(res)
    // Not before, because Node answers some requests itself, and then nothing would stop the timer.
    claim.startTimer()
  }

  /**
   * Node answers a parse error with a 400. That must not be written into a response that is being streamed, because the client
   * would take it for a part of the body. Nor may it follow a response whose request still arrives, because the client would
   * take it for the next response.
   */
  #onClientError (error: Error, socket: HttpSocket): boolean | undefined {
    const link = Link.at(socket, this)
    if (link === undefined) return undefined
    // Bytes after the last request are no error here. Fastify would answer them in the middle of the response.
    if (this.#secondParse.closes(socket) && (error as { code?: string }).code === 'HPE_CLOSED_CONNECTION') return true
    const answered = claimOf(unfinishedResponse(socket)?.req ?? {})
    const received = claimOf(link.latestBody?.req ?? {})
    if (answered?.accepted !== true && !(received?.accepted === true && !received.req.complete)) return undefined
    socket.destroy(error)
    return true
  }

  /** Node has let go of a connection, or somebody emitted that event. */
  #onTaken (event: TakeoverEvent, req: JudgedRequest, socket: HttpSocket, head: Buffer): boolean | undefined {
    const judgement = req[kJudgement]
    if (judgement === ACTED_ON) return true
    if (judgement === undefined || this.#isOfOtherServer(judgement)) {
      if (!this.#hasOthers(event) || this.#takes(req)) return this.#takeFromOtherServer(event, req, socket, head)
      this.#others.add(req)
      return undefined
    }
    const link = Link.at(socket, this)
    const isAgain = judgement.handed !== undefined
    if (isAgain || wasRewritten(req, judgement)) {
      if (link === undefined || !this.#judgeAgain(req, link, judgement)) return undefined
    } else if (judgement.host !== this) {
      // Another app of this server has decided it.
      return undefined
    } else if (link === undefined) {
      // Somebody has held the event back, and the connection has closed meanwhile.
      req[kJudgement] = ACTED_ON
      return judgement.verdict.then === 'hand-over' ? undefined : true
    }
    return this.#carryOut(event, req, link, head)
  }

  /** Whether somebody has passed on what no app of another server takes. */
  #isOfOtherServer ({ host, verdict }: Judgement): boolean {
    return host !== undefined && host.server !== this.server && verdict.then === 'hand-over'
  }

  /** Whether a duplex route takes a request that somebody passes on. */
  #takes (req: IncomingMessage): boolean {
    const verdict = this.#judge(req, undefined)
    return verdict.then === 'take' || verdict.then === 'take-after-body'
  }

  /**
   * Somebody has rewritten the URL, or got the request and emits the event once more.
   *
   * @returns whether it is for this app to decide
   */
  #judgeAgain (req: JudgedRequest, link: Link, before: Judgement): boolean {
    const { socket } = link
    if (socket.destroyed || (before.handed !== undefined && (socket as unknown as Socket).bytesWritten > before.handed)) return false
    const verdict = this.#judge(req, undefined)
    if (link.hasNext && isNobodys(verdict)) return false
    before.claim?.withdraw()
    const hosts = before.host === undefined ? undefined : Link.at(socket, before.host)
    if (hosts !== undefined) {
      hosts.handedOver = undefined
      hosts.takeover = undefined
    }
    const claim = verdict.then === 'take' ? this.#claimSocket(verdict.facts, link) : undefined
    req[kJudgement] = new Judgement(this, verdict, claim, before.nodes, req.url)
    return true
  }

  offer (event: TakeoverEvent, req: IncomingMessage, link: Link, head: Buffer): boolean {
    const judged = req as JudgedRequest
    const before = judged[kJudgement]
    if (before === undefined || before === ACTED_ON || !this.#judgeAgain(judged, link, before)) return false
    const after = judged[kJudgement] as Judgement
    if (after.verdict.then !== 'hand-over') return this.#carryOut(event, judged, link, head) === true
    after.handed = link.handedOver = before.handed
    return false
  }

  /** A listener that nobody sees has heard the event. */
  #onHeard (event: TakeoverEvent, req: JudgedRequest, socket: HttpSocket, head: Buffer): void {
    this.#expect(undefined)
    const judgement = req[kJudgement]
    if (judgement?.passing === true && judgement.host?.server === this.server) {
      if (judgement.host === this) judgement.passing = false
      return
    }
    // Somebody has emitted it past the interceptors.
    if (judgement === undefined || this.#isOfOtherServer(judgement)) {
      if (!this.#others.has(req) && (!this.#hasOthers(event) || this.#takes(req))) this.#takeFromOtherServer(event, req, socket, head)
    } else if (judgement.host === this) {
      if (judgement.handed !== undefined) Link.offer(event, req, socket, this.server, head)
      else if (judgement.verdict.then !== 'hand-over') this.#onTaken(event, req, socket, head)
    }
  }

  /**
   * Gives the request to the other owners of the event. One of them may only rewrite the URL, for the listeners behind it. If the
   * URL is a duplex route's then, and none of them has touched the connection, that route gets it.
   */
  #handOver (event: TakeoverEvent, req: JudgedRequest, link: Link, head: Buffer): boolean {
    const socket = link.socket as unknown as Socket
    const judgement = req[kJudgement] as Judgement
    link.handedOver = judgement.handed = socket.bytesWritten
    judgement.passing = true
    const untouched = traces(socket)
    const heard = this.#pass(event, req, socket, head)
    judgement.passing = false
    if (req[kJudgement] === judgement && wasRewritten(req, judgement) && traces(socket) === untouched) {
      Link.offer(event, req, link.socket, this.server, head)
    }
    return heard
  }

  /** Does what was decided for a connection that Node has let go of. */
  #carryOut (event: TakeoverEvent, req: JudgedRequest, link: Link, head: Buffer): boolean | undefined {
    const { socket } = link
    const { verdict, claim, nodes } = req[kJudgement] as Judgement
    if (verdict.then === 'hand-over') return this.#handOver(event, req, link, head)
    req[kJudgement] = ACTED_ON
    switch (verdict.then) {
      case 'take': {
        const carrier = (claim as Claim).carrier as SocketCarrier
        carrier.take(head)
        afterEarlierResponses(link, nodes, false, () => {
          ;(socket as unknown as Socket).setTimeout?.(0)
          this.#entrance.enter(claim as Claim)
        })
        carrier.holdEnd()
        return true
      }
      case 'take-after-body':
        if (claim === undefined) {
          // The body is for the parser of Node, which is gone.
          this.#secondParse.asItCame(link, req, head, nodes)
          return true
        }
        link.onReleased?.()
        this.#receiveAfterBody(claim, socket, head)
        return true
      case 'refuse':
      case 'unroutable': {
        this.#registry.addLink(link)
        const carrier = new SocketCarrier(link, req, UNREAD_FOR)
        carrier.take(head)
        afterEarlierResponses(link, nodes, false, () => this.#entrance.refuse(carrier, verdict.then === 'refuse' ? verdict.error : undefined))
        carrier.holdEnd()
        return true
      }
      case 'ignore-upgrade':
        this.#secondParse.withoutUpgrade(link, req, verdict.isBody, head, nodes)
        return true
    }
    return undefined
  }

  /** An upgrade with a body: Fastify starts with it now, and Node goes on to parse until the body ends. */
  #startWithBody (link: Link, claim: Claim): number {
    const nodes = nodesListeners(link.socket)
    const code = takeOverAfterBody(claim.req, () => {
      watchErrors(link.socket)
      this.#expect('upgrade')
    })
    link.onReleased = afterEarlierResponses(link, nodes, true, () => {
      const { socket } = link
      // Node takes the connection for idle, and has set the timeout for that.
      ;(socket as unknown as Socket).setTimeout?.((claim.carrier as SocketCarrier).leftHttp ? 0 : this.server.timeout)
      this.#entrance.enter(claim)
    })
    return code
  }

  #receiveAfterBody (claim: Claim, socket: HttpSocket, head: Buffer): void {
    const { carrier } = claim
    if (!(carrier instanceof SocketCarrier)) {
      // The chooser refused the upgrade, so this is a body. What follows it is never parsed.
      socket.on('error', () => {})
      forwardDrain(socket)
    } else if (claim.res?.writableEnded === true) {
      // It was answered while the body still arrived. The socket closes, and throws the rest away.
      socket.on('error', () => {})
      socket.resume()
    } else {
      carrier.take(head)
      carrier.holdEnd()
    }
  }

  /**
   * The parser of another server has read this head, and somebody emits the event here. The bytes are put back and go to
   * a parser of this server, as if they had arrived here.
   */
  #takeFromOtherServer (event: TakeoverEvent, req: IncomingMessage, socket: HttpSocket, head: Buffer): true {
    // Whatever happens to it, an error must not end the process.
    socket.on('error', () => {})
    if (socket.destroyed) return true
    // A head that was judged here must not come back for ever. And a body that another parser has read cannot be put back.
    const mayGoOn = claimOf(req) === undefined && req.socket === (socket as unknown as Socket) && Array.isArray(req.rawHeaders)
    if (!mayGoOn) {
      socket.end(writtenRefusal(new FST_ERR_DUPLEX_NOT_ADOPTED(event)))
      socket.resume()
      return true
    }
    ;(req as JudgedRequest)[kJudgement] = ACTED_ON
    if (head.length > 0) socket.unshift(head)
    socket.unshift(originalHead(req))
    speakHttp(this.server, socket)
    this.#onConnection(socket)
    return true
  }
}

/** What an owner of a connection changes first. */
function traces (socket: Socket): string {
  const { bytesWritten, destroyed, writableLength, writableEnded, readableLength, readableFlowing, timeout } = socket
  const listeners = socket.eventNames().reduce((count, event) => count + socket.listenerCount(event), 0)
  return [listeners, bytesWritten, writableLength, destroyed, writableEnded, readableLength, readableFlowing, timeout].join()
}

/** A connection that never sent anything. */
function isUnused ({ socket }: Link): boolean {
  return (socket as unknown as Socket).bytesRead === 0
}

/** Whether another owner has the connection, and has answered. */
function isOthers ({ handedOver, socket }: Link): boolean {
  return handedOver !== undefined && (socket as unknown as Socket).bytesWritten > handedOver
}

/** Whether a response of a duplex route is being sent on this connection. */
function isAnswering (link: Link): boolean {
  const current = claimOf(unfinishedResponse(link.socket)?.req ?? {})
  return [current, claimOf(link.latestBody?.req ?? {})].some(claim => claim?.kind === 'body' && claim.res?.writableFinished !== true)
}
