import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { keepHalfOpen, resetWhenClosed } from '../internals/half-open.ts'
import { allowSetEncoding, isPassedOn, peerIsGone, resetByPeer, socketBeneath, watchReset, type HttpSocket } from '../internals/sockets.ts'
import { hasEnd, holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import { breakOff } from '../streams/break-off.ts'
import { isNetworkError } from '../streams/network-error.ts'
import { ownErrors } from '../streams/own-errors.ts'
import { unwatchPeer, watchPeer, type Watched } from '../streams/vanished-peers.ts'

/** Prepares a connection for HTTP. It is half-open, has a listener for errors, and never reports a reset as an end. */
export function prepare (connection: Duplex): void {
  ownErrors(connection)
  keepHalfOpen(connection)
  if (isSocket(connection)) watchReset(connection as HttpSocket, onReset)
}

/** Destroys a connection with a reset, so that the other end sees no clean end. */
export function breakConnection (connection: Duplex, error: Error): void {
  if (connection.destroyed) return
  const socket = connection as HttpSocket
  Reflect.deleteProperty(socket, 'destroy')
  if (!isSocket(connection)) {
    connection.destroy(error)
    return
  }
  // `resetAndDestroy()` destroys without an error, and a reader would not know why.
  socket.destroy = () => {
    Reflect.deleteProperty(socket, 'destroy')
    return socket.destroy(error)
  }
  if (socketBeneath(socket) === undefined) resetWhenClosed(connection)
  breakOff(socket, error)
}

export interface Taken {
  /** Whether the server has ended its side, even if nobody has read the end yet. */
  readonly inputEnded: boolean
}

/**
 * Takes a connection that has left HTTP. The bytes that came with the head are put in front. The end of input waits for a
 * reader. A `destroy()` before both sides have ended is a reset, as on the server.
 */
export function takeSocket (connection: Duplex, head: Buffer): Taken {
  const socket = connection as HttpSocket
  const taken = new TakenSocket(socket)
  if (head.length > 0) socket.unshift(head)
  // This comes before `holdEnd()`, because later listeners for 'end' count as readers.
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

/** Notices a reset after the end of input. Node does not read then, and would not see it. */
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
