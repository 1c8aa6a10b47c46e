import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { allowSetEncoding, bytesInFlight, isPassedOn, peerIsGone, resetByPeer, socketBeneath, takeResetForEnd, tellResetFromEnd, type HttpSocket } from '../internals/sockets.ts'
import { holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import { unwatchPeer, watchPeer, type Watched } from './vanished-peers.ts'
import { serialiseHead, type HeadFields } from '../handshake/accept-head.ts'
import { kindsOverHttp1, type KindHead } from '../handshake/kinds/index.ts'
import { kCarrier } from '../handshake/symbols.ts'
import { isRead } from './unread-body.ts'
import type { DetachedSocket, Milliseconds } from '../../types/index.ts'
import { breakOff } from './break-off.ts'
import type { Carrier, Owner } from '../connection/carrier.ts'

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

interface Keeper {
  removeSocket (socket: HttpSocket): void
}

/**
 * A socket that left HTTP. From its first statement on errors have a listener: one without would end
 * the process. The bytes that came with the head go back in the same tick, before anything can read.
 */
export class SocketCarrier implements Carrier, Watched {
  readonly heads = kindsOverHttp1
  readonly socket: HttpSocket
  readonly head: Buffer
  peerError: Error | undefined
  localError: Error | undefined
  inputEnded = false
  outputFlushed = false
  closed = false
  owner: Owner | undefined
  /** Told first when the socket has closed. */
  keeper: Keeper | undefined
  readonly #readBefore: number
  #writtenBefore = 0
  #release: (() => void) | undefined
  #breaking: { error: Error | undefined } | undefined
  #givenAway = false

  constructor (socket: HttpSocket, head: Buffer) {
    ;(socket as Carried)[kCarrier] = this
    socket.on('error', onError)
    // One listener of ours on an event: an app that has as many as Node allows is not to be warned.
    raiseMaxListeners(socket, 1)
    this.socket = socket
    this.head = head.length === 0 ? NOTHING : head
    if (head.length > 0) socket.unshift(head)
    // Node gives TLS sockets no half-open state of their own: a late write would be lost.
    socket.allowHalfOpen = true
    const { bytesRead } = socket as unknown as Socket
    this.#readBefore = (bytesRead ?? 0) - head.length
    if ('setTimeout' in socket) (socket as unknown as Socket).setTimeout(0)
    tellResetFromEnd(socket, onReset)
    socket.on('end', onEnd)
    socket.on('finish', onFinish)
    socket.on('close', onClose)
    if (socketBeneath(socket) !== undefined) watchPeer(this)
  }

  get readable (): HttpSocket { return this.socket }
  get writable (): HttpSocket { return this.socket }
  get gone (): boolean { return this.socket.destroyed }

  get bytesRead (): number {
    return ((this.socket as unknown as Socket).bytesRead ?? 0) - this.#readBefore
  }

  get bytesWritten (): number {
    return ((this.socket as unknown as Socket).bytesWritten ?? 0) - this.#writtenBefore
  }

  get sent (): number {
    return this.bytesWritten - this.socket.writableLength - bytesInFlight(this.socket)
  }

  /** Waits with the end of input until there is a reader, unless there is one. */
  holdEnd (): void {
    const { socket } = this
    if (this.#release !== undefined || socket.readableFlowing !== null || socket.listenerCount('readable') > 0) return
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

  start (): void {
    const { socket } = this
    this.#writtenBefore = (socket as unknown as Socket).bytesWritten ?? 0
    allowSetEncoding(socket)
    iterateWithoutDestroying(socket)
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

  /** The socket goes back to HTTP as if it had never left. */
  letGo (): void {
    const { socket } = this
    this.#givenAway = true
    unwatchPeer(this)
    takeResetForEnd(socket, onReset)
    socket.removeListener('error', onError)
    socket.removeListener('end', onEnd)
    socket.removeListener('finish', onFinish)
    socket.removeListener('close', onClose)
    raiseMaxListeners(socket, -1)
  }

  complete (res: ServerResponse): void {
    res.emit('finish')
  }

  detach (): DetachedSocket {
    const { socket } = this
    this.#givenAway = true
    unwatchPeer(this)
    allowSetEncoding(socket)
    socket.removeListener('end', onEnd)
    socket.removeListener('finish', onFinish)
    // The new owner puts these bytes back itself; later ones may have joined them.
    const head = socket.readableLength > 0 ? socket.read() as Buffer : NOTHING
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
    this.inputEnded = true
    // From now on Node reads no more, and sees no reset.
    if (!this.closed && !this.#givenAway) watchPeer(this)
    this.#releaseWhatIsOver()
    this.owner?.progressed()
  }

  outputHasLeft (): void {
    this.outputFlushed = true
    this.#releaseWhatIsOver()
    this.owner?.progressed()
  }

  hasClosed (): void {
    this.closed = true
    unwatchPeer(this)
    this.#release = undefined
    this.keeper?.removeSocket(this.socket)
    this.owner?.progressed()
  }
}

interface Carried extends HttpSocket {
  [kCarrier]?: SocketCarrier
}

// The same functions for all sockets: such of their own would be kept for as long as their connections.
function carrierOf (socket: HttpSocket): SocketCarrier { return (socket as Carried)[kCarrier] as SocketCarrier }
function onError (this: HttpSocket, error: NetworkError): void { carrierOf(this).failed(error) }
function onReset (this: HttpSocket): void { carrierOf(this).peerHasVanished() }
function onEnd (this: HttpSocket): void { carrierOf(this).inputHasEnded() }
function onFinish (this: HttpSocket): void { carrierOf(this).outputHasLeft() }
function onClose (this: HttpSocket): void { carrierOf(this).hasClosed() }
function destroy (this: HttpSocket, error?: Error | null): HttpSocket { return carrierOf(this).destroy(error ?? undefined) }

function raiseMaxListeners (socket: HttpSocket, by: number): void {
  const most = socket.getMaxListeners()
  if (most > 0 && most < Infinity) socket.setMaxListeners(most + by)
}
