import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Carrier, Handshake, Owner } from '../connection/carrier.ts'
import type { SilenceWatch } from '../connection/silence-watch.ts'
import { kProgressed } from '../connection/symbols.ts'
import { serialiseHead, type HeadFields } from '../handshake/accept-head.ts'
import { kindsOverHttp1, type KindHead } from '../handshake/kinds/index.ts'
import { abortRequest, endRequest, silence } from '../internals/http-messages.ts'
import {
  allowSetEncoding, bytesInFlight, goOnReading, isPassedOn, peerIsGone, resetByPeer, socketBeneath, takeResetForEnd, tellResetFromEnd, type HttpSocket
} from '../internals/sockets.ts'
import { holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import type { DetachedSocket, Milliseconds } from '../../types/index.ts'
import { BodyCarrier } from './body-carrier.ts'
import { breakOff } from './break-off.ts'
import { closeUnlessRead, lingeringClose } from './lingering-close.ts'
import { Link } from './link.ts'
import { takeoverResponse, type TakeoverResponse } from './response.ts'
import { unwatchPeer, watchPeer, type Watched } from './vanished-peers.ts'
import { isRead } from '../connection/reading.ts'

const NOTHING = Buffer.alloc(0)

interface NetworkError extends Error {
  code?: string
  syscall?: string
}

/** What comes from the kernel or from TLS, and not from a `destroy(error)` of the app. */
function isNetworkError (error: NetworkError): boolean {
  return error.syscall !== undefined || error.code === 'ECONNRESET' || error.code === 'EPIPE' ||
    /^ERR_(?:SSL|TLS|OSSL)/.test(error.code ?? '')
}

/**
 * A socket that leaves HTTP, with the response for everything short of acceptance. From the statement on in which it has
 * left, errors have a listener: one without would end the process. The bytes that came with the head go back in the same
 * tick, before anything can read.
 */
export class SocketCarrier implements Carrier, Watched {
  readonly heads = kindsOverHttp1
  readonly socket: HttpSocket
  readonly req: IncomingMessage
  readonly link: Link
  head: Buffer = NOTHING
  handshake: Handshake | undefined
  owner: Owner | undefined
  res: TakeoverResponse | undefined
  peerError: Error | undefined
  localError: Error | undefined
  inputEnded = false
  outputFlushed = false
  closed = false
  /** Of a client that does not take a refusal, in milliseconds. */
  readonly #unreadFor: Milliseconds
  #readBefore = 0
  #writtenBefore = 0
  #release: (() => void) | undefined
  #breaking: { error: Error | undefined } | undefined
  #unread: SilenceWatch | undefined
  #left = false
  #givenAway = false

  constructor (link: Link, req: IncomingMessage, unreadFor: Milliseconds) {
    this.link = link
    this.socket = link.socket
    this.req = req
    this.#unreadFor = unreadFor
    link.takeover = this
  }

  get readable (): HttpSocket { return this.socket }
  get writable (): HttpSocket { return this.socket }
  get gone (): boolean { return this.socket.destroyed }

  /** Whether HTTP is behind it, and all that comes is the stream's. */
  get hasLeft (): boolean { return this.#left }

  get bytesRead (): number {
    return ((this.socket as unknown as Socket).bytesRead ?? 0) - this.#readBefore
  }

  get bytesWritten (): number {
    return ((this.socket as unknown as Socket).bytesWritten ?? 0) - this.#writtenBefore
  }

  /** A write that is under way counts until the kernel has all of it. */
  get unsent (): number { return this.socket.writableLength }

  get sent (): number {
    return this.bytesWritten - this.socket.writableLength - bytesInFlight(this.socket)
  }

  /** The socket has left HTTP, with the bytes that followed the head. */
  take (head: Buffer): void {
    const { socket } = this
    this.#left = true
    listen(this.link)
    this.head = head.length === 0 ? NOTHING : head
    if (head.length > 0) socket.unshift(head)
    // Node gives TLS sockets no half-open state of their own: a late write would be lost.
    socket.allowHalfOpen = true
    const { bytesRead } = socket as unknown as Socket
    this.#readBefore = (bytesRead ?? 0) - head.length
    if ('setTimeout' in socket) (socket as unknown as Socket).setTimeout(0)
    tellResetFromEnd(socket, onReset)
    if (socketBeneath(socket) !== undefined) watchPeer(this)
    goOnReading(socket)
  }

  /** The response, once it is the turn of this request. */
  respond (base: typeof ServerResponse): TakeoverResponse {
    const Response = takeoverResponse(base)
    this.res = new Response(this.req, this.socket, this)
    return this.res
  }

  answerBegins (): void {
    this.refusing()
    this.handshake?.answerBegins()
  }

  answerEnds (): void {
    this.handshake?.answerEnds()
    this.owner?.[kProgressed]()
    this.releaseEnd()
    // Where a body is still being parsed, what is left of it is thrown away within the same bounds.
    if (!this.#left) this.req.resume()
    lingeringClose(this.socket)
  }

  refusing (): void {
    if (!this.closed && !this.gone) this.#unread ??= closeUnlessRead(this.socket, this.#unreadFor)
  }

  impliesTakeover (status: number): boolean {
    return this.res?.impliesTakeover(status) === true
  }

  promise100 (): void {
    const { expect } = this.req.headers
    if (expect !== undefined && /^100-continue$/i.test(expect)) this.res?.writeContinue()
  }

  readFrom (): void {}

  /** Waits with the end of input until there is a reader, unless there is one. */
  holdEnd (): void {
    const { socket } = this
    if (this.#release !== undefined || this.#givenAway || socket.readableFlowing !== null || socket.listenerCount('readable') > 0) return
    this.#release = holdEnd(socket, () => this.inputHasEnded())
  }

  /** Reads no more but to see the end; for sockets that nobody took over. */
  releaseEnd (): void {
    this.#release?.()
    this.#release = undefined
  }

  writeHead (status: number, fields: HeadFields, head: KindHead, protocol: string | undefined): void {
    this.socket.write(serialiseHead(status, fields, head, protocol), 'latin1')
  }

  leaveHttp (status: number): void {
    const { res } = this
    if (res === undefined) return
    res.release(status)
    silence(res)
  }

  start (): void {
    const { socket } = this
    this.#writtenBefore = (socket as unknown as Socket).bytesWritten ?? 0
    allowSetEncoding(socket)
    iterateWithoutDestroying(socket)
    goOnReading(socket)
    socket.destroy = destroy
  }

  keepAlive (delay: Milliseconds): void {
    (this.socket as unknown as Partial<Socket>).setKeepAlive?.(true, delay)
  }

  end (): void {
    if (!this.socket.writableEnded) this.socket.end()
  }

  leave (): void {}

  /** Both sides have ended, and an end of input that is held for a reader has none to wait for but bytes. */
  #releaseWhatIsOver (): void {
    if (this.inputEnded && this.outputFlushed && this.socket.readableLength === 0) this.releaseEnd()
  }

  discardInput (): void {
    const { socket } = this
    this.releaseEnd()
    // A reader that is still there sees the end itself; resuming would take its backpressure away.
    if (isRead(socket)) return
    socket.resume()
  }

  breakOff (error: Error | undefined): void {
    const { socket } = this
    if (socket.destroyed) return
    this.#breaking = { error }
    breakOff(socket, error)
  }

  cut (): void {
    this.socket.destroy()
  }

  asBody (): Carrier {
    const body = new BodyCarrier(this.link, this.req, { silentFor: this.#unreadFor, takes: true, ofNode: false })
    body.handshake = this.handshake
    this.handshake = undefined
    body.attach(this.res as ServerResponse)
    return body
  }

  lookForPeer (): void {
    const { socket } = this
    // Only where Node does not read any more, or where TLS may have swallowed a reset after close_notify.
    const unseen = this.inputEnded || (socket.writableLength > 0 && socketBeneath(socket) !== undefined)
    if (!unseen || this.outputFlushed || socket.destroyed || !peerIsGone(socket)) return
    this.peerHasVanished()
  }

  peerHasVanished (): void {
    this.peerError = resetByPeer()
    this.socket.destroy(this.peerError)
  }

  tellGone (): void {
    const { req, res } = this
    abortRequest(req)
    if (res === undefined) return
    // What was not accepted is not to be logged as if it had been.
    if (!res.headersSent) res.statusCode = CLIENT_CLOSED_REQUEST
    // Not before, for with its response Fastify takes a request for over, and its signal would never abort.
    if (req.closed) res.complete()
    else req.once('close', () => res.complete())
  }

  complete (error: Error | undefined): void {
    const { req, res } = this
    res?.complete()
    // The request of a takeover has no end of its own: hooks that clean up wait for its 'close'.
    if (error !== undefined && this.peerError !== undefined) abortRequest(req)
    else endRequest(req)
  }

  /** Nothing of ours stays on it but that errors have a listener, and that its end is heard. */
  detach (): DetachedSocket {
    const { socket } = this
    this.#givenAway = true
    unwatchPeer(this)
    allowSetEncoding(socket)
    // The new owner puts these bytes back itself; later ones may have joined them.
    const head = socket.readableLength > 0 ? socket.read() as Buffer : NOTHING
    this.releaseEnd()
    takeResetForEnd(socket, onReset)
    if (![...carriersOf(socket)].some(carrier => !carrier.#givenAway)) {
      socket.removeListener('end', onEnd)
      socket.removeListener('finish', onFinish)
    }
    return { socket: socket as unknown as Socket, head }
  }

  /** Every `destroy()` of the socket, ours, the app's and Node's, arrives here. */
  destroy (error: Error | undefined): HttpSocket {
    const { socket } = this
    const proceed = Object.getPrototypeOf(socket).destroy as (error?: Error) => HttpSocket
    if (this.#breaking !== undefined) return proceed.call(socket, this.#breaking.error)
    const ofPeer = error !== undefined && isNetworkError(error) && (error === this.peerError || !isPassedOn(socket, error))
    const failed = error === undefined ? !socket.writableFinished : !ofPeer
    if (socket.destroyed || !failed) return proceed.call(socket, error)
    this.localError = error
    this.breakOff(error)
    return socket
  }

  failed (error: NetworkError): void {
    if (this.#breaking !== undefined) return
    if (isNetworkError(error)) this.peerError ??= error
    else this.localError ??= error
  }

  inputHasEnded (): void {
    if (this.#givenAway) return
    this.inputEnded = true
    // From now on Node reads no more, and sees no reset.
    if (!this.closed) watchPeer(this)
    this.#releaseWhatIsOver()
    this.owner?.[kProgressed]()
  }

  outputHasLeft (): void {
    if (this.#givenAway) return
    this.outputFlushed = true
    this.#releaseWhatIsOver()
    this.owner?.[kProgressed]()
  }

  linkClosed (): void {
    this.closed = true
    this.#unread?.stop()
    unwatchPeer(this)
    this.#release = undefined
    this.handshake?.carrierEnds()
    this.owner?.[kProgressed]()
  }
}

/** Not of any RFC; logs know it for a client that did not wait for its answer. */
const CLIENT_CLOSED_REQUEST = 499

/** Ours are heard once on a socket, however many own it. */
function listen (link: Link): void {
  const { socket } = link
  if (socket.listeners('finish').includes(onFinish)) return
  // One listener of ours on an event: an app that has as many as Node allows is not to be warned.
  const most = socket.getMaxListeners()
  if (most > 0 && most < Infinity) socket.setMaxListeners(most + 1)
  if (!socket.listeners('error').includes(onError)) socket.on('error', onError)
  socket.on('end', onEnd)
  socket.on('finish', onFinish)
}

function * carriersOf (socket: HttpSocket): Generator<SocketCarrier> {
  for (let link = Link.of(socket); link !== undefined; link = link.below) if (link.takeover !== undefined) yield link.takeover
}

/** Who of them has it now. */
function latest (socket: HttpSocket): SocketCarrier {
  return carriersOf(socket).next().value as SocketCarrier
}

// The same functions for all sockets: such of their own would be kept for as long as their connections.
function onError (this: HttpSocket, error: NetworkError): void { for (const carrier of carriersOf(this)) carrier.failed(error) }
function onEnd (this: HttpSocket): void { for (const carrier of carriersOf(this)) carrier.inputHasEnded() }
function onFinish (this: HttpSocket): void { for (const carrier of carriersOf(this)) carrier.outputHasLeft() }
function onReset (this: HttpSocket): void { latest(this).peerHasVanished() }
function destroy (this: HttpSocket, error?: Error | null): HttpSocket { return latest(this).destroy(error ?? undefined) }
