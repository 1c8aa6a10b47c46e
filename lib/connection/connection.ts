import { AsyncResource } from 'node:async_hooks'
import type { FastifyReply } from 'fastify'
import {
  FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_ALREADY_ACCEPTED, FST_ERR_DUPLEX_ALREADY_SENT, FST_ERR_DUPLEX_DESTROYED,
  FST_ERR_DUPLEX_INVALID_STATUS, FST_ERR_DUPLEX_NOT_ACCEPTED, FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED,
  FST_ERR_DUPLEX_REVOKED, FST_ERR_DUPLEX_SHUTDOWN
} from '../errors.ts'
import { ConnectionGovernance, type GovernanceReason, type Revocable } from '../governance/connection-governance.ts'
import { appFields, type HeadFields } from '../handshake/accept-head.ts'
import type { Claim, Pending } from '../handshake/claim.ts'
import type { KindHead } from '../handshake/kinds.ts'
import { shutdownError, type RefusalError } from '../handshake/refusal.ts'
import { addRouteHeaders, runSendHooks } from '../handshake/send-hooks.ts'
import type { HandshakeAction } from '../handshake/state.ts'
import { say, sayClosed } from '../observability/log.ts'
import { warnOfLateHead, warnOfReader, warnOfSend, warnOfValue } from '../observability/warnings.ts'
import type { Registry } from '../shutdown/registry.ts'
import { webPair } from '../streams/web-pair.ts'
import {
  kAcceptNow, kAgingPlace, kDeciding, kDrain, kEndBecause, kEndByGovernance, kGovernance, kHandlerDone, kHandlerFailed, kHandlerReturned,
  kHearEnd, kIsDraining, kPlace, kProgressed, kRefused, kSetKeepAlive, kShutDown, kUndrain, kUnhearEnd
} from '../symbols.ts'
import { offeredAs } from '../syntax/upgrade-tokens.ts'
import { asError } from '../tools/thrown.ts'
import { runErrorHooks } from './error-hooks.ts'
import type { Carrier, ProgressListener } from './carrier.ts'
import { keepAliveLater, noKeepAlive, type KeepAliveTarget } from './keep-alive.ts'
import { LimitWatch, type Expirable } from './limit-watch.ts'
import type {
  DetachedSocket, DuplexAcceptOptions, DuplexAuthority, DuplexCloseReason, DuplexClosed, DuplexKind, DuplexLabels, DuplexMoment,
  DuplexWebPair
} from '../../types/index.ts'

/**
 * `pending`: the handshake goes on, and its claim has the details. `open`: accepted, and the handler has the pair. `ending`: our
 * side has ended or is about to end, and the peer's end is waited for. `detached`: the socket was given away. `closed`: over.
 */
type State = 'pending' | 'open' | 'ending' | 'detached' | 'closed'

type EndListener = (reason: Error) => void

/** Why a connection is being ended. It is known before the connection is closed. */
interface Cause {
  reason: DuplexCloseReason
  error: Error
  /** The close code of a WebSocket, if one was given. */
  code?: number | undefined
}

/** What few connections have. To make a field costs time and memory for each connection, even if it stays undefined. */
class Rare {
  signal: AbortController | undefined
  endListeners: EndListener[] | undefined
  draining: AbortController | undefined
  closed: Promise<DuplexClosed> | undefined
  resolveClosed: ((result: DuplexClosed) => void) | undefined
  /** Why the connection was told to end. Set once the drain has begun. */
  drainReason: Error | undefined
}

/** One connection, from when its handler is entered. Handlers know it as `DuplexConnection` and `PendingDuplex`. */
export class Connection implements ProgressListener, Pending, Expirable, Revocable, KeepAliveTarget {
  readonly kind: DuplexKind
  readonly #reply: FastifyReply
  readonly #claim: Claim
  readonly #carrier: Carrier
  readonly #registry: Registry
  /** Made when there is a limit to watch. Most connections need none until one side has ended. */
  #limits: LimitWatch | undefined
  /** The async context of the request. The end runs in it: the event that tells of the end has another context. */
  readonly #scope = new AsyncResource('DuplexConnection')
  #state: State = 'pending'
  #cause: Cause | undefined
  #result: DuplexClosed | undefined
  #rare: Rare | undefined
  #governance: ConnectionGovernance | undefined
  /** It holds a slot of its route and one of the plugin. */
  #holdsSlots = true
  /** The handler has returned, without a promise. */
  #handlerReturned = false
  // Not made with the object, because each field costs time and memory, and most connections never have the first.
  declare [kDeciding]: Promise<void> | undefined
  declare [kPlace]: number | undefined
  declare [kAgingPlace]: number | undefined

  /** @param carrier the carrier of the pair, if it is not that of the claim */
  constructor (claim: Claim, reply: FastifyReply, registry: Registry, carrier: Carrier = claim.carrier) {
    this.kind = claim.kind
    this.#reply = reply
    this.#claim = claim
    this.#carrier = carrier
    this.#registry = registry
    carrier.owner = this
    claim.pending = this
    registry.add(this)
    const { rate } = claim.route.settings
    if (this.kind === 'body' && rate !== undefined) this[kGovernance].limitInput(carrier, rate.bytesIn)
  }

  /** The pair, from acceptance on. The input of a body can be read before. */
  get readable (): Carrier['readable'] | undefined { return this.#isOpen || this.kind === 'body' ? this.#carrier.readable : undefined }
  get writable (): Carrier['writable'] | undefined { return this.#isOpen ? this.#carrier.writable : undefined }

  /** A handler that uses the reply of an accepted connection gets a warning if it sets something too late, or sends something. */
  get reply (): FastifyReply {
    const { route } = this.#claim
    if (route.settings.manual || this.accepted) warnOfSend(this.#claim, this.#reply)
    if (this.#state === 'open' && !route.settings.manual) warnOfLateHead(route, this.#reply)
    return this.#reply
  }

  get protocol (): string | undefined { return this.kind === 'upgrade' ? this.#claim.protocol : undefined }
  get authority (): DuplexAuthority | undefined { return this.#claim.authority }
  get httpVersion (): string { return this.#claim.req.httpVersion }
  get head (): Buffer { return this.#carrier.head }
  get accepted (): boolean { return this.#claim.accepted }
  get bytesRead (): number { return this.#carrier.bytesRead }
  get bytesWritten (): number { return this.accepted ? this.#carrier.bytesWritten : 0 }

  /** Some plugins wrap the handlers of all routes. They take the first argument for a request, and read this. */
  get raw (): unknown { return this.#claim.req }

  get signal (): AbortSignal {
    const rare = this.#makeRare()
    if (rare.signal === undefined) {
      rare.signal = new AbortController()
      if (this.#cause !== undefined) rare.signal.abort(this.#cause.error)
    }
    return rare.signal.signal
  }

  get draining (): AbortSignal {
    const rare = this.#makeRare()
    if (rare.draining === undefined) {
      rare.draining = new AbortController()
      if (rare.drainReason !== undefined) rare.draining.abort(rare.drainReason)
    }
    return rare.draining.signal
  }

  get closed (): Promise<DuplexClosed> {
    const rare = this.#makeRare()
    rare.closed ??= this.#result !== undefined
      ? Promise.resolve(this.#result)
      : new Promise(resolve => { rare.resolveClosed = resolve })
    return rare.closed
  }

  get labels (): DuplexLabels { return this[kGovernance].labels }

  extend (until: DuplexMoment | undefined): boolean {
    return this[kGovernance].extend(until, this.#cause !== undefined)
  }

  /** Made when somebody asks for it: most connections have none. */
  get [kGovernance] (): ConnectionGovernance {
    const { governance } = this.#registry
    this.#governance ??= new ConnectionGovernance(governance, this.#holdsSlots ? this : undefined, this.#claim.route.settings.expiryGrace)
    return this.#governance
  }

  async accept (options: DuplexAcceptOptions = {}): Promise<this> {
    await this[kAcceptNow](options)
    return this
  }

  close (): Promise<DuplexClosed> {
    this.#end()
    return this.closed
  }

  destroy (error?: Error): void {
    this.#breakOff({ reason: 'destroyed', error: error === undefined ? new FST_ERR_DUPLEX_DESTROYED() : asError(error) })
  }

  web (): DuplexWebPair {
    const { readable, writable } = this
    if (readable === undefined || writable === undefined) throw new FST_ERR_DUPLEX_NOT_ACCEPTED()
    return webPair(readable, writable)
  }

  detach (): DetachedSocket {
    this.#mayGoOn(this.#claim.actionFor('detach'))
    const detached = this.#carrier.detach()
    this.#claim.step('detach')
    this.#state = 'detached'
    // Its new owner writes the head. This is the status that it will have if all goes well.
    this.#releaseReply(this.#carrier.heads[this.kind].status)
    return detached
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  /** @param head the accept head, if it is not that of the kind */
  [kAcceptNow] (options: DuplexAcceptOptions, head: KindHead = this.#carrier.heads[this.kind]): void | Promise<void> {
    const claim = this.#claim
    this.#mayGoOn(claim.actionFor('accept'), head.whileDraining)
    const status = this.#status(options.statusCode, head)
    if (options.protocol !== undefined && this.kind === 'upgrade') {
      const protocol = offeredAs(options.protocol, claim.offered)
      if (protocol === undefined) throw new FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED(options.protocol)
      claim.protocol = protocol
    }
    addRouteHeaders(this.#reply, claim.route.settings.headers)
    if (options.headers !== undefined) {
      for (const [name, values] of byName(appFields(options.headers))) this.#reply.header(name, values)
    }
    claim.step('accept')
    const fields = this.#runHooks(status)
    if (!(fields instanceof Promise)) {
      this.#openOrRefuse(status, fields, head)
      return
    }
    const opening = fields.then(all => this.#openOrRefuse(status, all, head), error => this.#hooksFailed(error))
    const decided = (): void => { this[kDeciding] = undefined }
    this[kDeciding] = opening.then(decided, decided)
    return opening
  }

  /** @param _code the close code of a WebSocket */
  [kDrain] (reason: Error, _code?: number): void {
    const rare = this.#makeRare()
    rare.drainReason ??= reason
    rare.draining?.abort(reason)
  }

  [kUndrain] (reason: Error): void {
    const rare = this.#rare
    if (rare === undefined || rare.drainReason !== reason || this[kIsDraining]) return
    rare.drainReason = undefined
    rare.draining = undefined
  }

  [kEndByGovernance] (reason: GovernanceReason, error: Error, code: number | undefined): void {
    if (this.accepted) {
      this.#breakOff({ reason, error, code })
    } else if (this.#cause === undefined && this.#claim.undecided) {
      this.#cause = { reason, error }
      this.#claim.refuse(answerFor(error))
      this.#tellAbort(error)
    }
  }

  /** @returns the claim, if last words are on their way and the connection ends by itself soon */
  [kShutDown] (): Claim | undefined {
    this.#breakOff({ reason: 'shutdown', error: new FST_ERR_DUPLEX_SHUTDOWN() })
    return this.#carrier.closesSoon === true && this.#state !== 'closed' ? this.#claim : undefined
  }

  [kRefused] (): void {
    this.#freeSlots()
    this.#registry.remove(this)
  }

  [kEndBecause] (reason: DuplexCloseReason, error: Error): void {
    this.#breakOff({ reason, error })
  }

  [kHearEnd] (listener: EndListener): void {
    if (this.#cause !== undefined) listener(this.#cause.error)
    else (this.#makeRare().endListeners ??= []).push(listener)
  }

  [kUnhearEnd] (listener: EndListener): void {
    const listeners = this.#rare?.endListeners
    const at = listeners?.indexOf(listener) ?? -1
    if (at >= 0) listeners?.splice(at, 1)
  }

  get [kIsDraining] (): boolean { return this.#registry.isDraining(this) }

  [kSetKeepAlive] (): void {
    this.#carrier.keepAlive(this.#claim.route.settings.tcpKeepAlive)
  }

  /** @param value what the handler has given */
  [kHandlerDone] (value?: unknown): void {
    warnOfValue(this.#claim.route, value, this.#reply)
    if (this.#state === 'open') {
      warnOfReader(this.#claim.route, this.#carrier, this.#reply)
      this.#end()
    } else if (this.#state !== 'detached' && this.#state !== 'closed') {
      // The rest of a body is read and thrown away, because its connection goes on behind it.
      this.#carrier.discardInput()
    }
  }

  [kHandlerReturned] (value?: unknown): void {
    this.#handlerReturned = true
    // It may still accept.
    if (!this.accepted) return
    this.#carrier.handlerReturned()
    warnOfValue(this.#claim.route, value, this.#reply)
  }

  [kHandlerFailed] (error: unknown): void {
    const { log } = this.#reply
    // A pipeline() destroys the streams with the handler's error before it rejects with that error.
    const own = this.#cause?.reason === 'error' && this.#cause.error === error
    if (!own && (this.#cause !== undefined || this.#carrier.peerError !== undefined || this.#state === 'closed')) {
      // The handler failed because its streams broke. `closed` has told that already.
      say(log, 'debug', { err: error }, 'duplex handler failed after its connection was over')
      return
    }
    // This comes first, because a hook may throw.
    this.#breakOff({ reason: 'error', error: asError(error) })
    say(log, 'error', { err: error }, 'duplex handler failed')
    try {
      runErrorHooks(this.#reply, error)
    } catch (err) {
      say(log, 'error', { err }, 'onError hooks of a duplex handler failed')
    }
  }

  #makeRare (): Rare {
    this.#rare ??= new Rare()
    return this.#rare
  }

  get #isOpen (): boolean { return this.accepted && this.#state !== 'detached' }

  /** Throws for what accept() and detach() cannot do any more. */
  #mayGoOn (action: HandshakeAction, whileDraining = false): void {
    switch (action) {
      case 'already-accepted':
        throw new FST_ERR_DUPLEX_ALREADY_ACCEPTED()
      case 'already-sent':
        throw this.#cause?.error ?? new FST_ERR_DUPLEX_ALREADY_SENT()
      case 'aborted':
        throw this.#cause?.error ?? new FST_ERR_DUPLEX_ABORTED()
    }
    if (this.#cause !== undefined) throw this.#cause.error
    if (this[kIsDraining] && !whileDraining) {
      throw shutdownError(this.#reply)
    }
  }

  #status (wanted: number | undefined, kind: KindHead): number {
    if (wanted === undefined) {
      const set = this.#reply.statusCode
      return kind.allows(set) ? set : kind.status
    }
    if (!kind.allows(wanted)) throw new FST_ERR_DUPLEX_INVALID_STATUS(wanted, this.kind)
    return wanted
  }

  #runHooks (status: number): HeadFields | Promise<HeadFields> {
    try {
      return runSendHooks(this.#claim, this.#reply, status)
    } catch (error) {
      return this.#hooksFailed(error)
    }
  }

  /** Fastify answers this error. */
  #hooksFailed (error: unknown): never {
    this.#claim.step('fail')
    throw error
  }

  /** If Node refuses the head, Fastify cannot answer that any more, because the hooks have run. */
  #openOrRefuse (status: number, fields: HeadFields, head: KindHead): void {
    const claim = this.#claim
    this.#mayOpen(claim.actionFor('open'))
    const carrier = this.#carrier
    try {
      carrier.writeHead(status, fields, head, claim.protocol)
    } catch (error) {
      if (!claim.gone) {
        say(this.#reply.log, 'error', { err: error }, 'duplex accept head failed')
        claim.step('fail')
        claim.refuseBare(error as RefusalError)
      }
      throw error
    }
    this.#open(status)
  }

  #mayOpen (action: HandshakeAction): void {
    if (action === 'already-sent') throw this.#cause?.error ?? new FST_ERR_DUPLEX_ALREADY_SENT()
    if (action !== 'proceed') throw this.#cause?.error ?? new FST_ERR_DUPLEX_ABORTED()
  }

  /** The one place where a connection becomes accepted: the head is written, and Fastify writes no more. */
  #open (status: number): void {
    const claim = this.#claim
    const carrier = this.#carrier
    claim.step('open')
    this.#state = 'open'
    this.#releaseReply(status)
    carrier.start()
    const { settings } = claim.route
    if (settings.rate !== undefined) this[kGovernance].limit(carrier, settings.rate)
    if (settings.tcpKeepAlive > 0) keepAliveLater(this)
    if (LimitWatch.watchesFromTheStart(settings) || carrier.inputEnded || carrier.outputFlushed) this.#watched.progress()
    if (this.#handlerReturned) carrier.handlerReturned()
  }

  get #watched (): LimitWatch {
    this.#limits ??= new LimitWatch(this.#claim.route.settings, this.#carrier, this)
    return this.#limits
  }

  /** From now on nothing sent through the reply reaches the wire, and no timer of Fastify strikes. */
  #releaseReply (status: number): void {
    this.#reply.hijack()
    this.#carrier.releaseResponse(status)
    this.#registry.accepted(this)
  }

  #end (): void {
    if (this.#state !== 'open') return
    this.#state = 'ending'
    this.#carrier.end()
    this.#carrier.discardInput()
    this.#watched.ending()
  }

  #breakOff (cause: Cause): void {
    if (this.#cause !== undefined || this.#state === 'closed') return
    this.#cause = cause
    this.#tellAbort(cause.error)
    this.#carrier.breakOff(cause.error, cause.reason === 'error', cause.code)
  }

  #tellAbort (error: Error): void {
    const rare = this.#rare
    if (rare === undefined) return
    rare.signal?.abort(error)
    const listeners = rare.endListeners
    rare.endListeners = undefined
    if (listeners !== undefined) for (const listener of listeners) listener(error)
  }

  [kProgressed] (): void {
    if (this.#state === 'closed') return
    // After a refusal the connection belongs to HTTP, and what happens to it does not matter here.
    const refused = !this.accepted && this.#claim.state === 'answered'
    if (this.#carrier.closed || refused) this.#scope.runInAsyncScope(this.#settle, this)
    else if (this.#state === 'open' || this.#state === 'ending') this.#watched.progress()
  }

  /** The one place where a connection becomes closed. */
  #settle (): void {
    const cause = this.#cause ?? this.#causeOnTheWire()
    const detached = this.#state === 'detached'
    this.#state = 'closed'
    this.#limits?.stop()
    noKeepAlive(this)
    const claim = this.#claim
    if (cause !== undefined) {
      this.#cause = cause
      this.#tellAbort(cause.error)
    }
    const result: DuplexClosed & { error?: Error } = this.#result = {
      reason: detached ? 'detached' : cause?.reason ?? 'end',
      bytesRead: this.bytesRead,
      bytesWritten: this.bytesWritten,
      duration: Math.round((performance.now() - claim.since) * 10) / 10
    }
    const { closedFacts } = this.#carrier
    if (closedFacts !== undefined) Object.assign(result, closedFacts)
    if (cause !== undefined) result.error = cause.error
    this.#freeSlots()
    try {
      if (claim.accepted) this.#tellEnd(result)
    } finally {
      // A logger, or a listener on the response, may have thrown. `closed` resolves before the drain does.
      this.#rare?.resolveClosed?.(result)
      this.#registry.closed(this, result)
    }
  }

  #freeSlots (): void {
    if (!this.#holdsSlots) return
    this.#holdsSlots = false
    this.#governance?.leave()
    this.#claim.governance?.release()
    this.#claim.route.slots.free()
    this.#registry.slots.free()
  }

  /** Completes the request: the onResponse hooks and the last log line depend on an event of `complete()`. */
  #tellEnd (result: DuplexClosed): void {
    sayClosed(this.#reply, this, result)
    this.#carrier.complete(result.error)
  }

  #causeOnTheWire (): Cause | undefined {
    const { inputEnded, outputFlushed, peerError, localError } = this.#carrier
    if (localError !== undefined) return { reason: 'error', error: localError }
    // The handler is done, and all of its output has left. It does not matter how the peer goes after that.
    if ((this.#state === 'ending' || this.#handlerReturned) && outputFlushed) return undefined
    if (peerError !== undefined) return { reason: 'abort', error: new FST_ERR_DUPLEX_ABORTED({ cause: peerError }) }
    // The new owner of a detached socket decides how it ends, and a refusal is an end, too.
    if ((inputEnded && outputFlushed) || this.#state === 'detached' || (!this.accepted && this.#claim.state === 'answered')) return undefined
    return { reason: 'destroyed', error: new FST_ERR_DUPLEX_DESTROYED() }
  }
}

/** The error that a refused client gets. An error of the app without an HTTP status was not meant for the client. */
function answerFor (error: Error): RefusalError {
  const { statusCode } = error as RefusalError
  const isStatus = Number.isInteger(statusCode) && statusCode as number >= 400 && statusCode as number <= 599
  return isStatus ? error as RefusalError : new FST_ERR_DUPLEX_REVOKED({ cause: error })
}

function byName (fields: HeadFields): Map<string, string | string[]> {
  const values = new Map<string, string | string[]>()
  for (const [name, value] of fields) {
    const before = values.get(name)
    values.set(name, before === undefined ? value : [before, value].flat())
  }
  return values
}
