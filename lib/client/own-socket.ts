import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { breakOff } from '../http1/break-off.ts'
import { unwatchPeer, watchPeer, type Watched } from '../http1/vanished-peers.ts'
import { keepHalfOpen, resetWhenClosed } from '../internals/half-open.ts'
import { allowSetEncoding, isPassedOn, peerIsGone, resetByPeer, socketBeneath, watchReset, type HttpSocket } from '../internals/sockets.ts'
import { hasEnd, holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import { ownErrors } from '../relay/stream-errors.ts'

/** Before it speaks HTTP: half-open, with a listener for errors, and a reset is never an end. */
export function prepare (connection: Duplex): void {
  ownErrors(connection)
  keepHalfOpen(connection)
  if (isSocket(connection)) watchReset(connection as HttpSocket, onReset)
}

/** In such a way that the other end cannot take it for an end. */
export function breakConnection (connection: Duplex, error: Error): void {
  if (connection.destroyed) return
  const socket = connection as HttpSocket
  Reflect.deleteProperty(socket, 'destroy')
  if (!isSocket(connection)) {
    connection.destroy(error)
    return
  }
  // Node resets without an error, and who reads would not know why.
  socket.destroy = () => {
    Reflect.deleteProperty(socket, 'destroy')
    return socket.destroy(error)
  }
  if (socketBeneath(socket) === undefined) resetWhenClosed(connection)
  breakOff(socket, error)
}

export interface Taken {
  /** The server has ended its side, whoever has read that. */
  readonly inputEnded: boolean
}

/**
 * Takes a connection that has left HTTP. The bytes that came with the head are put in front. The end of input waits for a
 * reader. A `destroy()` before both sides have ended is a reset, as on the server.
 */
export function takeOver (connection: Duplex, head: Buffer): Taken {
  const socket = connection as HttpSocket
  const taken = new TakenSocket(socket)
  if (head.length > 0) socket.unshift(head)
  // Before the end is held, since whoever listens for it from then on is a reader.
  socket.once('end', () => taken.end())
  holdEnd(socket, () => taken.end())
  iterateWithoutDestroying(socket)
  if (isSocket(connection)) {
    connection.setTimeout(0)
    allowSetEncoding(socket)
    socket.destroy = destroy
    if (socketBeneath(socket) !== undefined) watchPeer(taken)
  }
  return taken
}

/** Node reads no more behind the end of input, and sees no reset. */
class TakenSocket implements Taken, Watched {
  inputEnded = false
  readonly #socket: HttpSocket

  constructor (socket: HttpSocket) {
    this.#socket = socket
    socket.once('close', () => unwatchPeer(this))
  }

  end (): void {
    this.inputEnded = true
    if (!this.#socket.destroyed) watchPeer(this)
  }

  lookForPeer (): void {
    const socket = this.#socket
    const unseen = this.inputEnded || (socket.writableLength > 0 && socketBeneath(socket) !== undefined)
    if (unseen && !socket.writableFinished && !socket.destroyed && peerIsGone(socket)) socket.destroy(resetByPeer())
  }
}

function isSocket (connection: Duplex): connection is Socket {
  return connection instanceof Socket
}

/** The same functions for all sockets. */
function onReset (this: HttpSocket): void { this.destroy(resetByPeer()) }

function destroy (this: HttpSocket, error?: Error | null): HttpSocket {
  const ofPeer = error != null && isNetworkError(error) && !isPassedOn(this, error)
  const over = this.writableFinished && hasEnd(this)
  if (!this.destroyed && !ofPeer && !over) {
    breakConnection(this, error as Error)
  } else {
    const proceed = Object.getPrototypeOf(this).destroy as (error?: Error | null) => HttpSocket
    proceed.call(this, error)
  }
  return this
}

/** What comes from the kernel or from TLS, and not from a `destroy(error)` of the app. */
function isNetworkError (error: Error & { code?: string, syscall?: string }): boolean {
  return error.syscall !== undefined || error.code === 'ECONNRESET' || error.code === 'EPIPE' ||
    /^ERR_(?:SSL|TLS|OSSL)/.test(error.code ?? '')
}
