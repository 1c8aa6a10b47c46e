import type { FastifyReply, FastifyRequest } from 'fastify'
import { Connection } from '../connection/connection.ts'
import { kAcceptNow, kDrain, kEndBecause, kHandlerDone, kHandlerFailed } from '../symbols.ts'
import { webPair } from '../streams/web-pair.ts'
import {
  FST_ERR_DUPLEX_CANNOT_HAND_OVER, FST_ERR_DUPLEX_DESTROYED, FST_ERR_DUPLEX_HEARTBEAT, FST_ERR_DUPLEX_INVALID_OPTION,
  FST_ERR_DUPLEX_MESSAGE_NOT_SENT, FST_ERR_DUPLEX_NOT_ACCEPTED
} from '../errors.ts'
import type { Claim } from '../handshake/claim.ts'
import { say } from '../observability/log.ts'
import type { Registry } from '../shutdown/registry.ts'
import type { DuplexAcceptOptions, DuplexClosed, DuplexWebPair, MessageEncoding, Milliseconds } from '../../types/index.ts'
import { invalid, type Codec } from './codec.ts'
import { MessageCarrier, type MessageCarrierSettings } from './message-carrier.ts'
import { FramedMessenger } from './framed-messenger.ts'
import { single } from './framing.ts'
import type { Bytes, Messenger } from './messenger.ts'
import type { MessagePlan, Transfer } from './plan.ts'
import { closeCodeOf, GOING_AWAY, isCloseCode, NORMAL, reasonOf } from '../syntax/close-codes.ts'
import { WebSocketMessenger, type CloseFrame, type WebSocketOwner } from './websocket/messenger.ts'
import type { WholeWebSocket } from './websocket/parts.ts'

/** The encoding of the route, for the client's side of an injected connection. */
export const kEncoding = Symbol('fastify-duplex.encoding')

/** How many milliseconds a peer may take to answer a close frame, if `finTimeout` is off. */
const CLOSE_TIMEOUT = 30_000

/** A connection whose pair is one of messages. */
export class MessageConnection extends Connection {
  readonly #plan: MessagePlan
  readonly #transfer: Transfer
  readonly #request: FastifyRequest
  readonly #messages: MessageCarrier
  readonly #owner: WebSocketOwner
  readonly #closeTimeout: number
  /** Set at acceptance. */
  #codec: Codec | undefined
  /** Messages that were read before acceptance. */
  #before: unknown[] = []
  #closing: CloseFrame | undefined
  /** The close code for a connection that ends because it was told to drain. */
  #drainCode: number | undefined
  /** The error that ended the messages. */
  #failure: Error | undefined

  /** What the carrier and the messenger call. As closures these would cost memory for each connection. */
  static readonly #Owner = class implements MessageCarrierSettings, WebSocketOwner {
    readonly heartbeat: Milliseconds
    connection: MessageConnection | undefined

    constructor (heartbeat: Milliseconds) {
      this.heartbeat = heartbeat
    }

    makeMessenger (bytes: Bytes): Messenger { return this.#its.#makeMessenger(bytes) }
    heartbeatMissed (): void { this.#its[kEndBecause]('idle', new FST_ERR_DUPLEX_HEARTBEAT(this.heartbeat)) }
    onInvalid (error: Error): unknown { return this.#its.#onInvalid(error) }
    failed (reason: 'error' | 'destroyed' | 'abort' | 'fin', error?: Error): void { this.#its.#failed(reason, error) }
    closing (): CloseFrame { return this.#its.#closeFrame() }

    get #its (): MessageConnection { return this.connection as MessageConnection }
  }

  constructor (claim: Claim, reply: FastifyReply, registry: Registry, plan: MessagePlan, transfer: Transfer) {
    const owner = new MessageConnection.#Owner(plan.settings.heartbeat)
    const carrier = new MessageCarrier(claim.carrier, owner)
    super(claim, reply, registry, carrier)
    owner.connection = this
    this.#owner = owner
    this.#plan = plan
    this.#transfer = transfer
    this.#request = reply.request
    this.#messages = carrier
    this.#closeTimeout = claim.route.settings.finTimeout || CLOSE_TIMEOUT
  }

  override get readable (): Messenger['readable'] | undefined { return this.accepted ? this.#messages.readable : undefined }
  override get writable (): Messenger['writable'] | undefined { return this.accepted ? this.#messages.writable : undefined }

  get [kEncoding] (): MessageEncoding { return this.#plan.settings.encoding }

  get subprotocol (): string | undefined { return this.#transfer.by === 'websocket' ? this.#transfer.opening.subprotocol : undefined }

  /** Bound to the connection, so that a handler may take it off the object. */
  readonly send = (message: unknown): Promise<void> => {
    const { messenger } = this.#messages
    if (messenger !== undefined) return messenger.writable.send(message)
    return Promise.reject(new FST_ERR_DUPLEX_NOT_ACCEPTED())
  }

  override web (): DuplexWebPair {
    const { readable, writable } = this
    if (readable === undefined || writable === undefined) throw new FST_ERR_DUPLEX_NOT_ACCEPTED()
    return webPair(readable, writable, message => message as never)
  }

  override close (options: Partial<CloseFrame> = {}): Promise<DuplexClosed> {
    const { code, reason = '' } = options
    if (code !== undefined && !isCloseCode(code)) {
      throw new FST_ERR_DUPLEX_INVALID_OPTION(`close({ code }) must be one that RFC 6455 section 7.4 lets an endpoint send, got ${code}`)
    }
    if (code !== undefined || reason !== '') this.#closing ??= { code: code ?? NORMAL, reason: reasonOf(reason) }
    return super.close()
  }

  asWs (): WholeWebSocket {
    const { messenger } = this.#messages
    if (!(messenger instanceof WebSocketMessenger)) {
      throw new FST_ERR_DUPLEX_CANNOT_HAND_OVER(this.#transfer.by === 'websocket' ? 'it is not accepted yet' : 'this client speaks no WebSocket')
    }
    return messenger.handOver()
  }

  override [kAcceptNow] (options: DuplexAcceptOptions): void | Promise<void> {
    const { reply } = this
    // A function that gives a schema may throw, and that can still be answered.
    this.#codec ??= this.#plan.codecFor(this.#request)
    if (this.#transfer.by === 'websocket') {
      reply.headers(this.#transfer.opening.fields)
      return super[kAcceptNow](options)
    }
    const { in: into, contentType } = this.#transfer.choice
    if (into !== single || this.accepted) {
      this.#setType(contentType)
      return super[kAcceptNow](options)
    }
    // A body that is one message is read before acceptance, so that it can still be refused.
    return this.#readWhole().then(messages => {
      this.#before = messages
      this.#setType(contentType)
      return super[kAcceptNow](options)
    })
  }

  #setType (contentType: string | undefined): void {
    const { reply } = this
    if (contentType === undefined) return
    if (!reply.hasHeader('content-type')) reply.header('content-type', contentType)
    if (contentType === 'text/event-stream' && !reply.hasHeader('cache-control')) reply.header('cache-control', 'no-cache')
  }

  async #readWhole (): Promise<unknown[]> {
    const { maxLength } = this.#plan.settings
    const codec = this.#codec as Codec
    const decoder = single.decoder?.({ maxLength })
    if (decoder === undefined) return []
    for await (const chunk of this.#messages.inner.readable.iterator({ destroyOnReturn: false })) decoder.decode(chunk as Buffer)
    const messages: unknown[] = []
    for (const payload of decoder.end()) messages.push(await codec.decode(payload as Buffer))
    // Some clients name a type in each request. Only a GET has no body as a rule.
    if (messages.length === 0 && this.#request.method !== 'GET') throw invalid('the body is empty')
    return messages
  }

  #makeMessenger (bytes: Bytes): Messenger {
    const { maxLength, highWaterMark } = this.#plan.settings
    const settings = { codec: this.#codec as Codec, maxLength, highWaterMark }
    if (this.#transfer.by === 'websocket') {
      const { opening } = this.#transfer
      return new WebSocketMessenger(bytes, this.#owner, settings, { ...opening, closeTimeout: this.#closeTimeout })
    }
    const { in: into, out } = this.#transfer.choice
    return new FramedMessenger(bytes, this.#owner, settings, { in: into === single ? undefined : into, out, before: this.#before })
  }

  #onInvalid (error: Error): unknown {
    const { onInvalid } = this.#plan.settings
    if (onInvalid === 'close') throw error
    return onInvalid === 'skip' ? undefined : onInvalid(error, this)
  }

  #failed (reason: 'error' | 'destroyed' | 'abort' | 'fin', error: Error = new FST_ERR_DUPLEX_DESTROYED()): void {
    this.#failure ??= error
    this[kEndBecause](reason, error)
  }

  /** The close frame of an orderly end. */
  #closeFrame (): CloseFrame {
    if (this.#closing !== undefined) return this.#closing
    const { draining } = this
    if (!draining.aborted) return { code: NORMAL, reason: '' }
    return { code: this.#drainCode ?? closeCodeOf(draining.reason as Error, false) ?? GOING_AWAY, reason: '' }
  }

  override [kDrain] (reason: Error, code?: number): void {
    this.#drainCode ??= code
    super[kDrain](reason)
  }

  override [kHandlerFailed] (error: unknown): void {
    const { messenger } = this.#messages
    // The peer is at fault, and `closed` tells that. The handler has only passed the same error on.
    if (error === this.#failure && error !== undefined) {
      say(this.reply.log, 'debug', { err: error }, 'duplex handler failed after its messages had')
    } else if (error instanceof FST_ERR_DUPLEX_MESSAGE_NOT_SENT && messenger?.websocket !== undefined && messenger.writable.writableEnded) {
      say(this.reply.log, 'debug', { err: error }, 'duplex handler wrote to a WebSocket that was closed')
      this[kHandlerDone]()
    } else {
      super[kHandlerFailed](error)
    }
  }
}
