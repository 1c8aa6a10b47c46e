import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import type { Carrier, CarrierListener, ProgressListener } from '../connection/carrier.ts'
import type { InputMeter, Push } from '../governance/rate/input-meter.ts'
import type { OutputMeter } from '../governance/rate/output-meter.ts'
import type { HeadFields } from '../handshake/accept-head.ts'
import { kindsOverHttp1, type KindHead } from '../handshake/kinds.ts'
import { endAsNode, endBetweenReads, giveEndListener, takeEndListener } from '../internals/half-open.ts'
import { abortRequest, endRequest, muteResponse, shedWeight } from '../internals/http-messages.ts'
import { readThroughShared, readThroughSharedLater } from '../internals/read-buffer.ts'
import {
  allowSetEncoding, bytesInFlight, goOnReading, isPassedOn, peerIsGone, replacePush, resetByPeer, socketBeneath, unwatchReset,
  watchReset, usualPush, type HttpSocket
} from '../internals/sockets.ts'
import { heldEnd, holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import { breakOff } from '../streams/break-off.ts'
import { hasUnread } from '../streams/has-unread.ts'
import type { InactivityWatch } from '../streams/inactivity-watch.ts'
import { isRead } from '../streams/is-read.ts'
import { isNetworkError, type NetworkError } from '../streams/network-error.ts'
import { unwatchPeer, watchPeer, type Watched } from '../streams/vanished-peers.ts'
import { kProgressed } from '../symbols.ts'
import { BodyCarrier } from './body-carrier.ts'
import { closeUnlessRead, lingeringClose } from './lingering-close.ts'
import { Link } from './link.ts'
import { holdWrites, releaseWrites } from './one-write.ts'
import { takeoverResponse, type TakeoverResponse } from './takeover-response.ts'
import { serialiseHead } from './accept-head-text.ts'
import type { DetachedSocket, Milliseconds } from '../../types/index.ts'

const NOTHING = Buffer.alloc(0)

/**
 * The carrier of a socket that leaves HTTP, with its response for every answer that is no acceptance. From the moment when it
 * leaves, errors have a listener: an error without one would end the process. Early bytes are put back in the same
 * tick, before anybody can read.
 */
export class SocketCarrier implements Carrier, Watched {
  readonly heads = kindsOverHttp1
  readonly socket: HttpSocket
  readonly req: IncomingMessage
  readonly link: Link
  head: Buffer = NOTHING
  listener: CarrierListener | undefined
  owner: ProgressListener | undefined
  res: TakeoverResponse | undefined
  peerError: Error | undefined
  localError: Error | undefined
  inputMeter: InputMeter | undefined
  inputEnded = false
  outputFlushed = false
  closed = false
  placeAmongWatched: number | undefined
  /** How many milliseconds a client may take nothing of a refusal. */
  readonly #unreadFor: Milliseconds
  /** How many listeners for the end of input the socket had when it left HTTP. */
  #endListeners = 0
  #readBefore = 0
  #writtenBefore = 0
  #breaking: { error: Error | undefined } | undefined
  #unread: InactivityWatch | undefined
  #leftHttp = false
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

  /** Whether the socket has left HTTP, so that everything that comes belongs to the stream. */
  get leftHttp (): boolean { return this.#leftHttp }

  get bytesRead (): number {
    return ((this.socket as unknown as Socket).bytesRead ?? 0) - this.#readBefore
  }

  get bytesWritten (): number {
    return ((this.socket as unknown as Socket).bytesWritten ?? 0) - this.#writtenBefore
  }

  /** A write counts as unsent until the kernel has all of it. */
  get unsent (): number { return this.socket.writableLength }

  get sent (): number {
    return this.bytesWritten - this.socket.writableLength - bytesInFlight(this.socket)
  }

  /** The socket has left HTTP, with the bytes that followed the head. */
  take (head: Buffer): void {
    const { socket } = this
    this.#leftHttp = true
    listen(this.link)
    this.#endListeners = socket.listenerCount('end')
    this.head = head.length === 0 ? NOTHING : head
    if (head.length > 0) socket.unshift(head)
    // TLS sockets are not half-open in Node, and a late write would be lost.
    socket.allowHalfOpen = true
    const { bytesRead } = socket as unknown as Socket
    this.#readBefore = (bytesRead ?? 0) - head.length
    if ('setTimeout' in socket) (socket as unknown as Socket).setTimeout(0)
    watchReset(socket, onReset)
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
    this.listener?.answerBegins()
  }

  answerEnds (): void {
    this.listener?.answerEnds()
    this.owner?.[kProgressed]()
    this.releaseEnd()
    // If a body is still being parsed, its rest is thrown away, within the same bounds.
    if (!this.#leftHttp) this.req.resume()
    lingeringClose(this.socket)
  }

  refusing (): void {
    if (!this.closed && !this.gone) this.#unread ??= closeUnlessRead(this.socket, this.#unreadFor)
  }

  impliesTakeover (status: number): boolean {
    return this.res?.impliesTakeover(status) === true
  }

  sendContinue (): void {
    const { expect } = this.req.headers
    if (expect !== undefined && /^100-continue$/i.test(expect)) this.res?.writeContinue()
  }

  readFrom (): void {}

  /** Holds the end of input back until there is a reader, unless there is one already. */
  holdEnd (): void {
    const { socket } = this
    if (heldEnd(socket) !== undefined || this.#givenAway || socket.readableFlowing !== null || socket.listenerCount('readable') > 0) return
    if (socket.listenerCount('end') > this.#endListeners) return
    holdEnd(socket, onHeldEnd)
  }

  /** Lets go of the end of input that was held back. */
  releaseEnd (): void {
    heldEnd(this.socket)?.release()
  }

  writeHead (status: number, fields: HeadFields, head: KindHead, protocol: string | undefined): void {
    holdWrites(this.socket)
    this.socket.write(serialiseHead(status, fields, head, protocol), 'latin1')
  }

  releaseResponse (status: number): void {
    const { res } = this
    if (res === undefined) return
    res.release(status)
    muteResponse(res)
    shedWeight(this.req, res)
  }

  start (): void {
    const { socket } = this
    this.#writtenBefore = (socket as unknown as Socket).bytesWritten ?? 0
    allowSetEncoding(socket)
    iterateWithoutDestroying(socket)
    readThroughSharedLater(socket)
    goOnReading(socket)
    if (socketBeneath(socket) !== undefined) endBetweenReads(socket)
    socket.destroy = destroy
  }

  meterInput (make: (stream: Readable, push: Push) => InputMeter): void {
    const { socket } = this
    readThroughShared(socket)
    const meter = make(socket, usualPush(socket) as Push)
    this.inputMeter = meter
    replacePush(socket, (chunk, encoding) => meter.push(chunk as Uint8Array | null, encoding))
  }

  meterOutput (make: (stream: Writable) => OutputMeter | undefined): void {
    // The accept head does not count.
    releaseWrites(this.socket)
    make(this.socket)
  }

  keepAlive (delay: Milliseconds): void {
    (this.socket as unknown as Partial<Socket>).setKeepAlive?.(true, delay)
  }

  end (): void {
    if (!this.socket.writableEnded) this.socket.end()
  }

  handlerReturned (): void {}

  /** If both sides have ended and no byte is left to read, the end of input need not wait for a reader. */
  #releaseWhatIsOver (): void {
    if (this.inputEnded && this.outputFlushed && !hasUnread(this.socket, this.inputMeter)) this.releaseEnd()
  }

  discardInput (): void {
    const { socket } = this
    this.releaseEnd()
    // A reader that is still there sees the end itself. To resume would take its backpressure away.
    if (isRead(socket)) return
    socket.resume()
  }

  breakOff (error: Error | undefined): void {
    const { socket } = this
    if (socket.destroyed) return
    this.#breaking = { error }
    releaseWrites(socket)
    breakOff(socket, error)
  }

  cut (): void {
    this.socket.destroy()
  }

  asBody (): Carrier {
    const body = new BodyCarrier(this.link, this.req, { inactivityLimit: this.#unreadFor, takes: true, ofNode: false })
    body.listener = this.listener
    this.listener = undefined
    body.attach(this.res as ServerResponse)
    return body
  }

  lookForPeer (): void {
    const { socket } = this
    // Only if Node does not read any more, or if TLS may have swallowed a reset after close_notify.
    const unseen = this.inputEnded || (socket.writableLength > 0 && socketBeneath(socket) !== undefined)
    if (!unseen || this.outputFlushed || socket.destroyed || !peerIsGone(socket)) return
    this.peerHasVanished()
  }

  peerHasVanished (): void {
    this.peerError = resetByPeer()
    this.socket.destroy(this.peerError)
  }

  reportDisconnect (): void {
    const { req, res } = this
    abortRequest(req)
    if (res === undefined) return
    // Without this the log would say 200 for a request that was not accepted.
    if (!res.headersSent) res.statusCode = CLIENT_CLOSED_REQUEST
    // Not before 'close' of the request: Fastify takes a request with a complete response for finished, and its signal would never abort.
    if (req.closed) res.complete()
    else req.once('close', () => res.complete())
  }

  complete (error: Error | undefined): void {
    const { req, res } = this
    res?.complete()
    // The request of a takeover never ends on its own, and hooks that clean up wait for its 'close'.
    if (error !== undefined && this.peerError !== undefined) abortRequest(req)
    else endRequest(req)
  }

  /** Takes everything of ours off the socket, except the listeners for errors and for its close. */
  detach (): DetachedSocket {
    const { socket } = this
    this.#givenAway = true
    unwatchPeer(this)
    allowSetEncoding(socket)
    // The new owner puts these bytes back. More of them may have arrived since the head.
    const head = socket.readableLength > 0 ? socket.read() as Buffer : NOTHING
    this.releaseEnd()
    unwatchReset(socket, onReset)
    if (!isKept(socket, carrier => carrier.#givenAway)) {
      giveEndListener(socket, onEnd)
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
    // From now on Node does not read, and does not see a reset.
    if (!this.closed) watchPeer(this)
    this.#releaseWhatIsOver()
    this.owner?.[kProgressed]()
  }

  outputWasFlushed (): void {
    if (this.#givenAway) return
    this.outputFlushed = true
    this.#releaseWhatIsOver()
    this.owner?.[kProgressed]()
  }

  linkClosed (): void {
    this.closed = true
    this.#unread?.stop()
    unwatchPeer(this)
    this.listener?.carrierEnds()
    this.owner?.[kProgressed]()
  }
}

/** It is in no RFC. In logs it is usual for a client that did not wait for its answer. */
const CLIENT_CLOSED_REQUEST = 499

/** Adds our listeners, once for each socket, however many carriers it has. */
function listen (link: Link): void {
  const { socket } = link
  if (socket.listenerCount('finish', onFinish) > 0) return
  // We add one listener to each event. An app that has as many as Node allows must not be warned because of it.
  const most = socket.getMaxListeners()
  if (most > 0 && most < Infinity) socket.setMaxListeners(most + 1)
  watchErrors(socket)
  takeEndListener(socket, onEnd)
  socket.on('finish', onFinish)
}

/**
 * Node has taken its own listener off by the time that it tells of a socket that leaves HTTP. Who gets the event may hold it back, or
 * never listen, and a reset must not end the process.
 */
export function watchErrors (socket: HttpSocket): void {
  if (socket.listenerCount('error', onError) === 0) socket.on('error', onError)
}

export function leaveErrors (socket: HttpSocket): void {
  socket.removeListener('error', onError)
}

/** The carrier that has the socket now. None has it once it has closed. */
function latest (socket: HttpSocket): SocketCarrier | undefined {
  let link = Link.of(socket)
  while (link !== undefined && link.takeover === undefined) link = link.below
  return link?.takeover
}

/** Whether a carrier other than those that gave the socket away is on it. */
function isKept (socket: HttpSocket, isAway: (carrier: SocketCarrier) => boolean): boolean {
  for (let link = Link.of(socket); link !== undefined; link = link.below) {
    if (link.takeover !== undefined && !isAway(link.takeover)) return true
  }
  return false
}

// The same functions for all sockets: closures for each would cost memory as long as the connection lives.
function onError (this: HttpSocket, error: NetworkError): void {
  for (let link = Link.of(this); link !== undefined; link = link.below) link.takeover?.failed(error)
}

function onEnd (this: HttpSocket): void {
  endAsNode(this)
  for (let link = Link.of(this); link !== undefined; link = link.below) link.takeover?.inputHasEnded()
}

function onFinish (this: HttpSocket): void {
  for (let link = Link.of(this); link !== undefined; link = link.below) link.takeover?.outputWasFlushed()
}

function onHeldEnd (this: HttpSocket): void { latest(this)?.inputHasEnded() }
function onReset (this: HttpSocket): void { latest(this)?.peerHasVanished() }
function destroy (this: HttpSocket, error?: Error | null): HttpSocket { return latest(this)?.destroy(error ?? undefined) ?? this }
