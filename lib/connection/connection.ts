import { AsyncResource } from 'node:async_hooks'
import type { ServerResponse } from 'node:http'
import type { FastifyBaseLogger, FastifyReply } from 'fastify'
import { appFields, type HeadFields } from '../handshake/accept-head.ts'
import { runSendHooks } from '../handshake/send-hooks.ts'
import type { Carrier, Owner } from './carrier.ts'
import type { Claim } from '../handshake/claim.ts'
import {
  FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_ALREADY_ACCEPTED, FST_ERR_DUPLEX_ALREADY_SENT, FST_ERR_DUPLEX_DESTROYED,
  FST_ERR_DUPLEX_HANDLER_FAILED, FST_ERR_DUPLEX_INVALID_STATUS, FST_ERR_DUPLEX_NOT_ACCEPTED, FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED,
  FST_ERR_DUPLEX_SHUTDOWN
} from '../errors.ts'
import { Lifetime } from './lifetime.ts'
import { sayClose, silence } from '../http1/response.ts'
import type { Registry } from '../shutdown/registry.ts'
import { wasOffered } from '../handshake/tokens.ts'
import { webPair } from './web-pair.ts'
import type {
  DetachedSocket, DuplexAcceptOptions, DuplexAuthority, DuplexCloseReason, DuplexClosed, DuplexKind, DuplexWebPair
} from '../../types/index.ts'

/**
 * `pending`: the handler decides, or the onSend hooks run. `open`: accepted, the pair is the
 * handler's. `ending`: our side is ended or about to be, the peer's is waited for. `closed`: over.
 */
type State = 'pending' | 'open' | 'ending' | 'detached' | 'closed'

/** Why a connection will be over, known before it is. */
interface Cause {
  reason: DuplexCloseReason
  error: Error
}

/** One takeover, from the moment the handler is entered: what handlers know as `DuplexConnection` and `PendingDuplex`. */
export class Connection implements Owner {
  readonly kind: DuplexKind
  readonly reply: FastifyReply
  /** The pair, from acceptance on. */
  readable: Carrier['readable'] | undefined
  writable: Carrier['writable'] | undefined
  readonly #claim: Claim
  readonly #carrier: Carrier
  readonly #registry: Registry
  /** Made when there is something to watch: mostly that is not before one side has ended. */
  #lifetime: Lifetime | undefined
  /** The request's async context, for what happens at the end: the event that tells of it has another. */
  readonly #scope = new AsyncResource('DuplexConnection')
  #state: State = 'pending'
  #cause: Cause | undefined
  #result: DuplexClosed | undefined
  #signal: AbortController | undefined
  #draining: AbortController | undefined
  #closed: Promise<DuplexClosed> | undefined
  #resolveClosed: ((result: DuplexClosed) => void) | undefined
  /** There is an answer on its way, or nobody who could get one: an error of accept() is not to be answered again. */
  #answered = false
  /** The accept head is being made: a second accept() would make another. */
  #deciding = false
  /** The handler has returned, and no promise. */
  #left = false
  /** Settles, and never rejects, when the onSend hooks of an accept() are through that is waiting for them. */
  deciding: Promise<void> | undefined

  constructor (claim: Claim, reply: FastifyReply, carrier: Carrier, registry: Registry) {
    this.kind = claim.kind
    this.reply = reply
    this.#claim = claim
    this.#carrier = carrier
    this.#registry = registry
    carrier.owner = this
    registry.add(this)
  }

  get protocol (): string | undefined { return this.kind === 'upgrade' ? this.#claim.protocol : undefined }
  get authority (): DuplexAuthority | undefined { return this.#claim.authority }
  get httpVersion (): string { return this.#claim.req.httpVersion }
  get head (): Buffer { return this.#carrier.head }
  get accepted (): boolean { return this.#claim.accepted }
  get bytesRead (): number { return this.#carrier.bytesRead }
  get bytesWritten (): number { return this.accepted ? this.#carrier.bytesWritten : 0 }

  /** Plugins that wrap the handlers of all routes take their first argument for a request. */
  get raw (): unknown { return this.#claim.req }

  get signal (): AbortSignal {
    if (this.#signal === undefined) {
      this.#signal = new AbortController()
      if (this.#cause !== undefined) this.#signal.abort(this.#cause.error)
    }
    return this.#signal.signal
  }

  get answered (): boolean { return this.#answered || this.#claim.over }
  get gone (): boolean { return this.#claim.gone }

  get draining (): AbortSignal {
    if (this.#draining === undefined) {
      this.#draining = new AbortController()
      if (this.#registry.draining) this.#draining.abort(new FST_ERR_DUPLEX_SHUTDOWN())
    }
    return this.#draining.signal
  }

  get closed (): Promise<DuplexClosed> {
    this.#closed ??= this.#result !== undefined
      ? Promise.resolve(this.#result)
      : new Promise(resolve => { this.#resolveClosed = resolve })
    return this.#closed
  }

  async accept (options: DuplexAcceptOptions = {}): Promise<this> {
    await this.acceptNow(options)
    return this
  }

  /** Accepts without waiting when no hook makes it wait: then the pair is live when this returns. */
  acceptNow (options: DuplexAcceptOptions): void | Promise<void> {
    const claim = this.#claim
    this.#assertUndecided()
    const status = this.#status(options.statusCode)
    if (options.protocol !== undefined && this.kind === 'upgrade') {
      if (!wasOffered(options.protocol, claim.offered)) throw new FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED(options.protocol)
      claim.protocol = options.protocol
    }
    if (options.headers !== undefined) {
      appFields(options.headers)
      for (const [name, value] of Object.entries(options.headers)) if (value !== undefined) this.reply.header(name, value)
    }
    this.#deciding = true
    try {
      const fields = runSendHooks(this.reply, status)
      if (fields instanceof Promise) {
        const opening = fields.then(all => this.#openOrRefuse(status, all)).catch(error => this.#undecided(error))
        const decided = (): void => { this.deciding = undefined }
        this.deciding = opening.then(decided, decided)
        return opening
      }
      this.#openOrRefuse(status, fields)
    } catch (error) {
      this.#undecided(error)
    }
  }

  close (): Promise<DuplexClosed> {
    this.#end()
    return this.closed
  }

  destroy (error?: Error): void {
    this.#breakOff({ reason: 'destroyed', error: error ?? new FST_ERR_DUPLEX_DESTROYED() })
  }

  web (): DuplexWebPair {
    if (this.readable === undefined || this.writable === undefined) throw new FST_ERR_DUPLEX_NOT_ACCEPTED()
    return webPair(this.readable, this.writable)
  }

  detach (): DetachedSocket {
    this.#assertUndecided()
    const detached = this.#carrier.detach()
    // Its new owner writes the head; this is what it will say if all goes well.
    this.#leaveHttp(this.#carrier.heads[this.kind].status)
    this.#state = 'detached'
    this.#registry.accepted(this)
    return detached
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    await this.close()
  }

  /** The server is going away. */
  drain (reason: Error): void {
    this.#draining?.abort(reason)
  }

  /** The drain is over. */
  shutDown (): void {
    this.#breakOff({ reason: 'shutdown', error: new FST_ERR_DUPLEX_SHUTDOWN() })
  }

  /** One of the time limits is over. */
  expired (reason: DuplexCloseReason, error: Error): void {
    this.#breakOff({ reason, error })
  }

  /** A reply was sent. While the accept head is made it is that. */
  replying (): void {
    if (!this.#deciding) this.#answered = true
  }

  /** The handler's promise resolved. */
  handlerDone (): void {
    if (this.#state === 'open') this.#end()
    // A message is over as soon as it has arrived; what of it was not read is in nobody's way then.
    else if (this.#state !== 'detached') this.#carrier.discardInput()
  }

  /** The handler returned no promise. */
  handlerLeft (): void {
    this.#left = true
    // It may still accept.
    if (this.accepted) this.#carrier.leave()
  }

  /** The handler threw, or its promise was rejected, after acceptance. */
  handlerFailed (error: unknown): void {
    const { log } = this.reply
    // A pipeline() that failed has destroyed the streams with the error of the handler, before it rejects with that.
    const own = this.#cause?.reason === 'error' && this.#cause.error === error
    if (!own && (this.#cause !== undefined || this.#carrier.peerError !== undefined || this.#state === 'closed')) {
      // The streams broke under the handler: `closed` tells, and this is only the echo.
      say(log, 'debug', { err: error }, 'duplex handler failed after its connection was over')
      return
    }
    say(log, 'error', { err: error }, 'duplex handler failed')
    try {
      runErrorHooks(this.reply, error as Error)
    } catch (err) {
      say(log, 'error', { err }, 'onError hooks of a duplex handler failed')
    }
    this.#breakOff({ reason: 'error', error: error instanceof Error ? error : new FST_ERR_DUPLEX_HANDLER_FAILED() })
  }

  #assertUndecided (): void {
    if (this.accepted || this.#deciding || this.#state === 'detached') throw new FST_ERR_DUPLEX_ALREADY_ACCEPTED()
    if (this.reply.sent) throw new FST_ERR_DUPLEX_ALREADY_SENT()
    if (this.#state === 'closed' || this.#claim.gone) throw this.#cause?.error ?? new FST_ERR_DUPLEX_ABORTED()
    if (this.answered) throw new FST_ERR_DUPLEX_ALREADY_SENT()
    if (this.#registry.draining) {
      sayClose(this.reply)
      throw new FST_ERR_DUPLEX_SHUTDOWN()
    }
  }

  /** An onSend hook failed: Fastify answers that. */
  #undecided (error: unknown): never {
    this.#deciding = false
    this.#answered = true
    throw error
  }

  #status (wanted: number | undefined): number {
    const kind = this.#carrier.heads[this.kind]
    if (wanted === undefined) {
      const set = this.reply.statusCode
      return kind.allows(set) ? set : kind.status
    }
    if (!kind.allows(wanted)) throw new FST_ERR_DUPLEX_INVALID_STATUS(wanted, this.kind)
    return wanted
  }

  /** The hooks are through, so that Fastify has no answer any more to a head that Node does not take. */
  #openOrRefuse (status: number, fields: HeadFields): void {
    try {
      this.#open(status, fields)
    } catch (error) {
      if (!this.#claim.gone) {
        say(this.reply.log, 'error', { err: error }, 'duplex accept head failed')
        this.#claim.refuseBare(error as Error & { code: string })
      }
      throw error
    }
  }

  /** The one place where a connection becomes accepted: the head is written, and Fastify writes no more. */
  #open (status: number, fields: HeadFields): void {
    const claim = this.#claim
    const carrier = this.#carrier
    if (claim.gone) throw new FST_ERR_DUPLEX_ABORTED()
    carrier.writeHead(status, fields, carrier.heads[this.kind], claim.protocol)
    this.#leaveHttp(status)
    carrier.start()
    this.readable = carrier.readable
    this.writable = carrier.writable
    this.#state = 'open'
    this.#registry.accepted(this)
    const { tcpKeepAlive, idleTimeout, maxLifetime } = claim.route.settings
    if (tcpKeepAlive > 0) carrier.keepAlive(tcpKeepAlive)
    if (idleTimeout > 0 || maxLifetime > 0 || carrier.inputEnded || carrier.outputFlushed) this.#watched.progress()
    if (this.#left) carrier.leave()
  }

  get #watched (): Lifetime {
    this.#lifetime ??= new Lifetime(this.#claim.route.settings, this.#carrier, this)
    return this.#lifetime
  }

  /** From now on nothing sent through the reply reaches the wire, and no timer of Fastify strikes. */
  #leaveHttp (status: number): void {
    const claim = this.#claim
    claim.accepted = true
    claim.stopHandshakeTimer()
    this.reply.hijack()
    claim.leaveHttp(status)
  }

  #end (): void {
    if (this.#state !== 'open') return
    this.#state = 'ending'
    this.#carrier.end()
    this.#carrier.discardInput()
    this.#watched.ending()
  }

  #breakOff (cause: Cause): void {
    if (this.#state === 'closed' || this.#cause !== undefined) return
    this.#cause = cause
    this.#signal?.abort(cause.error)
    this.#carrier.breakOff(cause.error, cause.reason === 'error')
  }

  progressed (): void {
    if (this.#state === 'closed') return
    const { closed, outputFlushed } = this.#carrier
    // Once a message was refused, its connection is HTTP's alone, whatever becomes of the body.
    if (closed || (this.kind === 'body' && !this.accepted && outputFlushed)) this.#scope.runInAsyncScope(this.#settle, this)
    else if (this.#state === 'open' || this.#state === 'ending') this.#watched.progress()
  }

  /** The one place where a connection becomes closed. */
  #settle (): void {
    const cause = this.#cause ?? this.#causeOnTheWire()
    const detached = this.#state === 'detached'
    this.#state = 'closed'
    this.#lifetime?.stop()
    const claim = this.#claim
    if (cause !== undefined) {
      this.#cause = cause
      this.#signal?.abort(cause.error)
    }
    const facts: DuplexClosed = {
      reason: detached ? 'detached' : cause?.reason ?? 'end',
      bytesRead: this.bytesRead,
      bytesWritten: this.bytesWritten,
      duration: performance.now() - claim.since
    }
    this.#result = cause === undefined ? facts : { ...facts, error: cause.error }
    claim.route.slots.free()
    this.#registry.slots.free()
    try {
      if (claim.accepted) this.#logEnd(this.#result)
      else claim.socketClosed()
    } finally {
      // Whatever a logger, or a listener on the response, may throw. Who waits for `closed` comes before who waits for the drain.
      this.#resolveClosed?.(this.#result)
      this.#registry.closed(this, this.#result)
    }
  }

  /** The request is completed now: its onResponse hooks hang on this event, as does its last log line. */
  #logEnd (result: DuplexClosed): void {
    const { kind, protocol } = this
    const { reason, error, bytesRead, bytesWritten, duration } = result
    const duplex = { kind, protocol, reason, bytesRead, bytesWritten, duration }
    say(this.reply.log, 'info', error === undefined ? { duplex } : { duplex, err: error }, 'duplex connection closed')
    this.#carrier.complete(this.reply.raw as ServerResponse, error)
  }

  #causeOnTheWire (): Cause | undefined {
    const { inputEnded, outputFlushed, peerError, localError } = this.#carrier
    if (localError !== undefined) return { reason: 'error', error: localError }
    if (peerError !== undefined) return { reason: 'abort', error: new FST_ERR_DUPLEX_ABORTED({ cause: peerError }) }
    // How a detached socket ends in order is its new owner's business, and a refusal is an end too.
    if ((inputEnded && outputFlushed) || this.#state === 'detached' || (!this.accepted && this.reply.raw.writableFinished)) return undefined
    return { reason: 'destroyed', error: new FST_ERR_DUPLEX_DESTROYED() }
  }
}

/** An error that the logger cannot serialise must not cost more than its details: nobody is there to catch another. */
function say (log: FastifyBaseLogger, level: 'debug' | 'info' | 'error', facts: Record<string, unknown>, message: string): void {
  try {
    log[level](facts, message)
  } catch {
    log[level](message)
  }
}

/**
 * The onError hooks of the route, without the error handler that would answer: a reply that has not
 * been hijacked runs them, and the plugin's own hook, which is the last, goes no further.
 */
function runErrorHooks (reply: FastifyReply, error: Error): void {
  const raw = Object.create(reply.raw) as ServerResponse
  silence(raw)
  const shadow = Object.create(reply, { sent: { value: false }, raw: { value: raw } }) as FastifyReply
  shadow.send(error instanceof Error ? error : new FST_ERR_DUPLEX_HANDLER_FAILED())
}
