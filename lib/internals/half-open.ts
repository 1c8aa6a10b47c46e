// Half-open sockets, and what is beneath TLS. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'

interface Handle {
  _parent?: Handle | null
  close?: (done?: () => void) => void
  reset?: (done?: () => void) => void
}

interface Handled extends Duplex {
  _handle?: Handle | null
  secureConnecting?: boolean
}

/** From now on the end of input does not end the output, whatever options the Duplex was made with. */
export function keepHalfOpen (duplex: Duplex): void {
  if (duplex.allowHalfOpen) return
  duplex.allowHalfOpen = true
  // At the end of input, net first replaces write() by a function that fails, and then ends the output. Within the 'end' event
  // that can be undone.
  if (duplex.readableEnded && !duplex.writableEnded && Object.hasOwn(duplex, 'write')) Reflect.deleteProperty(duplex, 'write')
}

type Listener = (this: Duplex) => void

/** The name of net's own listener for the end of input. It is the same function for all sockets. */
const NODES = 'onReadableStreamEnd'
let nodes: Listener | undefined

/**
 * Adds a listener for the end of input in place of net's own, which it has to call by `endAsNode()`. The third listener of an event
 * makes V8 reserve memory for sixteen more, for as long as the socket lives.
 */
export function takeEndListener (socket: Duplex, listener: Listener): void {
  const [first] = socket.listeners('end') as Listener[]
  if (first !== undefined && (nodes === undefined ? first.name === NODES : first === nodes)) {
    nodes = first
    socket.removeListener('end', first)
  }
  socket.on('end', listener)
}

function isMissing (socket: Duplex): boolean {
  return nodes !== undefined && socket instanceof Socket && socket.listenerCount('end', nodes as () => void) === 0
}

/** Does what net's own listener would do, if it is not there. */
export function endAsNode (socket: Duplex): void {
  if (isMissing(socket)) (nodes as Listener).call(socket)
}

/** Undoes `takeEndListener()`. */
export function giveEndListener (socket: Duplex, listener: Listener): void {
  socket.removeListener('end', listener)
  if (isMissing(socket)) socket.prependListener('end', nodes as Listener)
}

/**
 * Ends the output of a TLS socket only when no records wait to be read. Otherwise OpenSSL, when it sends close_notify, stops
 * reading: an `end()` within a 'data' event would lose everything after that.
 */
export function endBetweenReads (socket: Duplex): void {
  const { _final } = socket
  socket._final = done => { setImmediate(() => _final.call(socket, done)) }
}

/** The event that a socket emits when it can be used. Undefined if it can be used already. */
export function readyEvent (socket: Socket): 'connect' | 'secureConnect' | undefined {
  if ((socket as Handled).secureConnecting === true) return 'secureConnect'
  return socket.connecting ? 'connect' : undefined
}

/**
 * Makes the `destroy()` of a TLS socket send a TCP reset. This is for sockets of `tls.connect()`, which have no TCP socket
 * beneath. TLS closes the TCP handle when it is done, and that close becomes a reset.
 */
export function resetWhenClosed (socket: Socket): void {
  const beneath = (socket as unknown as Handled)._handle?._parent
  if (typeof beneath?.reset !== 'function') return
  beneath.close = function (this: Handle, done?: () => void) {
    Reflect.deleteProperty(this, 'close')
    // While a FIN is being sent, the kernel refuses a reset.
    if ((this.reset as (done?: () => void) => unknown)(done) !== 0) this.close?.(done)
  }
}
