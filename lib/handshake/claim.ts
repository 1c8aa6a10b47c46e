import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import type { Carrier, CarrierListener } from '../connection/carrier.ts'
import { kRefused } from '../symbols.ts'
import { FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT } from '../errors.ts'
import { RequestGovernance } from '../governance/request-governance.ts'
import { clearFields, muteResponse } from '../internals/http-messages.ts'
import type { DuplexRoute } from '../routes/route.ts'
import { kClaim } from '../symbols.ts'
import { replaceReply } from './late-reply.ts'
import { addConnectionClose, sendRefusal, type RefusalError } from './refusal.ts'
import { isUndecided, next, type HandshakeAction, type HandshakeEvent, type HandshakeState } from './state.ts'
import type { DuplexAuthority, DuplexKind, Milliseconds } from '../../types/index.ts'

const NONE: readonly string[] = []

/** How a duplex route answers a request that it cannot take over. */
export type Instead = 'upgrade-required' | 'not-found' | 'answer-head-request'

/** What the head of a request tells about it. */
export interface ClaimFacts {
  route: DuplexRoute
  req: IncomingMessage
  kind: DuplexKind
  /** The request belongs to the route, but gets an ordinary answer. */
  instead?: Instead
  offered?: readonly string[]
  protocol?: string | undefined
  authority?: DuplexAuthority
  /** An upgrade whose body the parser reads before the stream starts. */
  hasBody?: boolean
}

/** The onSend hooks of an accept head, while they run. */
export interface AcceptHooks {
  /** The `send()` that runs them has been called. */
  begun: boolean
  /** All of them have run, and Fastify writes what they have made. */
  done: boolean
  /** Drops the accept head, so that another answer can be sent. */
  fail (error: Error): void
}

/** What the claim tells the connection that may be made of it. */
export interface Pending {
  /** The request will not become a connection. */
  [kRefused] (): void
}

/** Told about every claim. */
export interface ClaimWatcher {
  /** A request that stays with Node has reached its route, and nothing before has told of its response. */
  reached? (claim: Claim, res: ServerResponse): void
  /** A refusal is on the wire. */
  refused (claim: Claim): void
  /** The request is over. */
  ended (claim: Claim): void
}

/**
 * A claim ties one request to its duplex route: from the request head until the request is accepted or answered, or
 * its client leaves.
 *
 * Only `state` says whether the request is answered, and only `step()` changes it. Timers, the drain, late
 * replies and the connection all ask it.
 */
export class Claim implements CarrierListener {
  readonly route: DuplexRoute
  readonly req: IncomingMessage
  kind: DuplexKind
  readonly instead: Instead | undefined
  readonly offered: readonly string[]
  protocol: string | undefined
  readonly authority: DuplexAuthority | undefined
  readonly hasBody: boolean
  readonly since = performance.now()
  carrier: Carrier
  /** Known once the onRequest hook of the route has run. */
  reply: FastifyReply | undefined
  /** The governance of this request, until it is refused or its connection is over. */
  readonly governance: RequestGovernance | undefined
  /** Set while the onSend hooks of the accept head run. */
  hooks: AcceptHooks | undefined
  /** Those that have failed, while the onError hooks run for that. */
  failing: AcceptHooks | undefined
  /** The handler of the route has been called. */
  entered = false
  /** The onError hooks have run for an answer, and the error handler is called next. */
  failed = false
  /** The connection that the request may become. */
  pending: Pending | undefined
  readonly #watcher: ClaimWatcher
  #state: HandshakeState = 'claimed'
  #timer: NodeJS.Timeout | undefined
  #told = false

  constructor (facts: ClaimFacts, carrier: Carrier, watcher: ClaimWatcher) {
    this.#watcher = watcher
    this.route = facts.route
    this.req = facts.req
    this.kind = facts.kind
    this.instead = facts.instead
    this.offered = facts.offered ?? NONE
    this.protocol = facts.protocol
    this.authority = facts.authority
    this.hasBody = facts.hasBody ?? false
    this.carrier = carrier
    this.governance = facts.route.governance && new RequestGovernance(facts.route.governance)
    carrier.listener = this
    ;(facts.req as unknown as { [kClaim]: Claim })[kClaim] = this
  }

  /** The current state. To read it may change it: answers that Fastify or the app made on their own are noticed here. */
  get state (): HandshakeState {
    this.#look()
    return this.#state
  }

  get accepted (): boolean { return this.#state === 'accepted' }
  get gone (): boolean { return this.#state === 'gone' || this.carrier.gone }
  get res (): ServerResponse | undefined { return this.carrier.res }

  /** Whether the request may still become a connection. Reading it may change the state, as `state` does. */
  get undecided (): boolean { return isUndecided(this.state) }

  /** What the event would lead to now, without changing the state. */
  actionFor (event: HandshakeEvent): HandshakeAction {
    return next(this.state, event).action
  }

  /** The only function that changes the state. */
  step (event: HandshakeEvent): HandshakeAction {
    const { state, action } = next(this.#state, event)
    const wasUndecided = isUndecided(this.#state)
    this.#state = state
    if (isUndecided(state)) return action
    // While the hooks of an answer still run, the timer stays: they may never end.
    if (state !== 'late' && state !== 'answering') this.stopTimer()
    if (wasUndecided && state !== 'accepted') {
      if (state !== 'gone') this.carrier.refusing()
      this.governance?.release()
      this.pending?.[kRefused]()
    }
    return action
  }

  /** A reply that was hijacked, or whose head is sent, has its answer from somebody. */
  #look (): void {
    const { reply, res } = this
    switch (this.#state) {
      case 'claimed':
      case 'deciding':
        if (this.carrier.gone) {
          this.#clientLeft()
          return
        }
        if (this.#state === 'claimed' && reply?.sent === true) this.step('hijack')
        break
      case 'accepted':
        return
    }
    if (this.hooks === undefined && res?.headersSent === true) this.step('head')
    // Node ends the response to a HEAD over HTTP/2 before anybody has answered.
    if (this.hooks === undefined && res?.headersSent === true && res.writableFinished) this.step('end')
  }

  get #timedOutByFastify (): boolean {
    const { handshakeYields, handshakeTimeout } = this.route
    if (!handshakeYields || handshakeTimeout === 0 || this.reply === undefined) return false
    return (this.reply.request.signal.reason as { code?: string } | undefined)?.code === 'FST_ERR_HANDLER_TIMEOUT'
  }

  /** The request has reached its route. Whoever passed it on may have done so past the event 'request'. */
  reached (res: ServerResponse): void {
    if (this.res === undefined) this.#watcher.reached?.(this, res)
  }

  /** The route's own hooks begin. If Fastify's timer has struck during earlier hooks, its answer is on its way. */
  ownHooksBegin (reply: FastifyReply): void {
    this.reply = reply
    if (this.#timedOutByFastify) this.step('handler-timeout')
  }

  /** Starts the time limit of the handshake. When it is over, the client gets a 503. */
  startTimer (): void {
    const { handshakeTimeout, handshakeYields } = this.route
    if (handshakeTimeout > 0 && !handshakeYields) this.#wait(handshakeTimeout)
  }

  /** Fastify has started to handle the request, and its handlerTimeout runs. Fastify stops that timer once a body was read. */
  routed (): void {
    const { handshakeTimeout, handshakeYields } = this.route
    if (handshakeTimeout === 0 || !handshakeYields || !this.undecided) return
    // This timer started after Fastify's, with the same delay. So Fastify's fires first if it still runs.
    this.#timer = setTimeout(() => {
      // Without a reply the hooks before those of the route still run: no body was read, so Fastify's timer still runs.
      if (this.reply !== undefined) setImmediate(() => { if (this.undecided || this.#state === 'answering') this.#strike(handshakeTimeout) })
    }, handshakeTimeout)
  }

  #wait (delay: Milliseconds): void {
    this.#timer = setTimeout(() => this.#strike(delay), delay)
  }

  stopTimer (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #strike (delay: Milliseconds): void {
    this.#look()
    this.#answerInPlace(new FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT(delay), delay)
  }

  /** The request was revoked. The client gets this error, even if somebody is about to answer or accept. */
  refuse (error: RefusalError): void {
    if (this.undecided) this.#answerInPlace(error, 0)
  }

  /** @param again the error handler of the app gets this time, and no more. 0 sets no limit */
  #answerInPlace (error: RefusalError, again: Milliseconds): void {
    switch (this.step('timeout')) {
      case 'answer-late':
        if (again > 0) this.#wait(again)
        this.#answer(error)
        break
      case 'interrupt':
        this.interrupt(error)
    }
  }

  #answer (error: RefusalError): void {
    if (this.reply === undefined) {
      // Before the route's own hooks there is no reply: the answer is sent without the error handler.
      this.refuseBare(error)
    } else {
      const late = this.#replaceReply(this.reply)
      addConnectionClose(late)
      late.code(error.statusCode ?? 503).send(error)
    }
  }

  #replaceReply (reply: FastifyReply): FastifyReply {
    this.reply = replaceReply(reply)
    return this.reply
  }

  /**
   * Fastify's own timer has struck. Its answer is sent in the same way.
   *
   * @returns the reply to send it with. Undefined if another answer was decided before: then this one has been sent in its
   * place
   */
  replyAfterTimeout (reply: FastifyReply, error: RefusalError): FastifyReply | undefined {
    switch (this.step('handler-timeout')) {
      case 'answer-late': return this.#replaceReply(reply)
      case 'interrupt':
        this.interrupt(error)
        return undefined
      default: return reply
    }
  }

  /** Answers in place of an answer whose hooks are still running. They cannot run again, and their result is dropped. */
  interrupt (error: RefusalError): void {
    ;(this.hooks ?? this.failing)?.fail(error)
    this.refuseBare(error)
  }

  /** Answers without the app, and without the fields that the app has set. If there is no response yet, the answer waits for it. */
  refuseBare (error: RefusalError): void {
    this.step('answer')
    const { res } = this
    if (res === undefined) {
      this.refusal = error
      return
    }
    try {
      clearFields(res)
      sendRefusal(res, error)
      muteResponse(res)
    } catch {
      this.carrier.cut()
    }
  }

  /** The error to answer with as soon as there is a response. */
  refusal: RefusalError | undefined

  /** The chooser refused an upgrade that has a body: it becomes a `body`. */
  becomesBody (): void {
    this.kind = 'body'
    this.carrier = this.carrier.asBody()
  }

  /** The URL has been rewritten before the app knew of the request. It is judged again, as if there had been no claim. */
  withdraw (): void {
    this.stopTimer()
    this.governance?.release()
    this.carrier.listener = undefined
    delete (this.req as { [kClaim]?: Claim })[kClaim]
  }

  answerBegins (): void {
    this.step('head')
  }

  answerEnds (): void {
    if (this.#state === 'accepted' || this.#told) return
    this.#told = true
    this.step('end')
    this.#watcher.refused(this)
  }

  carrierEnds (): void {
    this.stopTimer()
    this.#clientLeft()
    this.#watcher.ended(this)
  }

  #clientLeft (): void {
    if (this.step('disconnect') === 'report-disconnect') this.carrier.reportDisconnect()
  }
}

export function claimOf (req: object): Claim | undefined {
  return (req as { [kClaim]?: Claim })[kClaim]
}
