import type { IncomingMessage, ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import type { Carrier, Handshake } from '../connection/carrier.ts'
import { FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT } from '../errors.ts'
import { clearFields, silence } from '../internals/http-messages.ts'
import type { DuplexRoute } from '../routes/route.ts'
import { takeReply } from './late-reply.ts'
import { sayClose, sendRefusal, type RefusalError } from './refusal.ts'
import { isUndecided, next, type HandshakeAction, type HandshakeEvent, type HandshakeState } from './state.ts'
import { kClaim } from './symbols.ts'
import type { DuplexAuthority, DuplexKind, Milliseconds } from '../../types/index.ts'

/** What a duplex route has to say to a request that it cannot take over. */
export type Instead = 'upgrade-required' | 'not-found' | 'head'

/** What the head of a request tells about it. */
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
}

/** Who hears of all claims. */
export interface ClaimWatcher {
  /** An answer that is no acceptance is on the wire. */
  refused (claim: Claim): void
  /** Nothing more comes of the request. */
  ended (claim: Claim): void
}

/**
 * A duplex route's hold on one request, from the request head to acceptance, an answer, or the end of its client.
 *
 * Whether it is answered, and by whom, is in one place: `state`, which only `step()` changes. Timers, the drain, late
 * replies and the connection ask it and nothing else.
 */
export class Claim implements Handshake {
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
  /** Known from the onRequest hook of the route on. */
  reply: FastifyReply | undefined
  /** The onSend hooks of the accept head run, and this ends them in favour of another answer. */
  hooks: { fail (error: Error): void } | undefined
  /** Called when it is decided that no connection comes of it. */
  onRefused: (() => void) | undefined
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
    this.offered = facts.offered ?? []
    this.protocol = facts.protocol
    this.authority = facts.authority
    this.hasBody = facts.hasBody ?? false
    this.carrier = carrier
    carrier.handshake = this
    ;(facts.req as unknown as { [kClaim]: Claim })[kClaim] = this
  }

  /** What it has come to. Answers that Fastify and its users make by themselves are noticed here. */
  get state (): HandshakeState {
    this.#look()
    return this.#state
  }

  get accepted (): boolean { return this.#state === 'accepted' }
  get gone (): boolean { return this.#state === 'gone' || this.carrier.gone }
  get res (): ServerResponse | undefined { return this.carrier.res }

  /** Whether a connection may still come of it. */
  get undecided (): boolean { return isUndecided(this.state) }

  /** What would be done about it now. */
  may (event: HandshakeEvent): HandshakeAction {
    return next(this.state, event).action
  }

  /** The one place where it changes. */
  step (event: HandshakeEvent): HandshakeAction {
    const { state, action } = next(this.#state, event)
    const wasUndecided = isUndecided(this.#state)
    this.#state = state
    if (isUndecided(state)) return action
    // An answer whose hooks do not come to an end is not waited for either.
    if (state !== 'late' && state !== 'answering') this.stopTimer()
    if (wasUndecided && state !== 'accepted') {
      if (state !== 'gone') this.carrier.refusing()
      this.onRefused?.()
    }
    return action
  }

  /** A reply that was hijacked, or whose head is out, is answered by somebody. */
  #look (): void {
    const { reply, res } = this
    switch (this.#state) {
      case 'claimed':
      case 'deciding':
        if (this.carrier.gone) {
          this.#leave()
          return
        }
        if (this.#state === 'claimed' && reply?.sent === true) this.step('head')
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

  /** The route's own hooks begin. Where Fastify's timer has struck in those before, its answer is on its way. */
  replied (reply: FastifyReply): void {
    this.reply = reply
    if (this.#timedOutByFastify) this.step('handler-timeout')
  }

  /** From now until acceptance: then the client gets a 503. */
  startTimer (): void {
    const { handshakeTimeout, handshakeYields } = this.route
    if (handshakeTimeout > 0 && !handshakeYields) this.#wait(handshakeTimeout)
  }

  /** Fastify has begun with the request, and with its handlerTimeout, which ends once a body was read. */
  routed (): void {
    const { handshakeTimeout, handshakeYields } = this.route
    if (handshakeTimeout === 0 || !handshakeYields || !this.undecided) return
    // Started later, with the same delay, it comes after Fastify's, which is the one to strike if it still runs.
    this.#timer = setTimeout(() => {
      // In hooks before those of the route no body was read yet, and only Fastify has the reply.
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
    const error = new FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT(delay)
    switch (this.step('timeout')) {
      case 'answer-late':
        // An error handler of the app that takes as long again is not waited for.
        this.#wait(delay)
        if (this.reply === undefined) {
          // Before the route's own hooks there is no reply: the answer goes out without the error handler.
          this.refuseBare(error)
        } else {
          const late = this.#takeReply(this.reply)
          sayClose(late)
          late.code(503).send(error)
        }
        break
      case 'interrupt':
        this.interrupt(error)
    }
  }

  #takeReply (reply: FastifyReply): FastifyReply {
    this.reply = takeReply(reply)
    return this.reply
  }

  /**
   * Fastify's own timer has struck. What it sends is sent in the same way.
   *
   * @returns the reply to send it with, or undefined where another answer was decided: then it goes out in the place of that
   */
  replyAfterTimeout (reply: FastifyReply, error: RefusalError): FastifyReply | undefined {
    switch (this.step('handler-timeout')) {
      case 'answer-late': return this.#takeReply(reply)
      case 'interrupt':
        this.interrupt(error)
        return undefined
      default: return reply
    }
  }

  /** An answer in place of one whose hooks are still running. They cannot run again, and nothing comes of them. */
  interrupt (error: RefusalError): void {
    this.hooks?.fail(error)
    this.refuseBare(error)
  }

  /** An answer without the app, and without what the app has set for another. Without a response it is for later. */
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
      silence(res)
    } catch {
      this.carrier.cut()
    }
  }

  /** What is answered as soon as there is a response to do it with. */
  refusal: RefusalError | undefined

  /** The chooser of an upgrade with a body wants none: the pair is that body and the response. */
  becomesBody (): void {
    this.kind = 'body'
    this.carrier = this.carrier.asBody()
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
    this.#leave()
    this.#watcher.ended(this)
  }

  #leave (): void {
    if (this.step('leave') === 'tell') this.carrier.tellGone()
  }
}

export function claimOf (req: object): Claim | undefined {
  return (req as { [kClaim]?: Claim })[kClaim]
}
