import { AsyncResource } from 'node:async_hooks'
import type { ServerResponse } from 'node:http'
import { unfinishedResponse } from '../internals/http-messages.ts'
import { restoreListeners, type NodesListeners } from '../internals/http-parser.ts'
import type { HttpSocket } from '../internals/sockets.ts'
import type { Link } from './link.ts'

/**
 * Waits for the responses to earlier requests of the connection, RFC 9112 section 9.3.2: a pipelined takeover
 * must not overtake them. Node has let go of the socket, and no longer tells these responses of 'drain' or
 * of a client that vanished. So that is done here meanwhile.
 *
 * @param nodes Node's own listeners, before Node took them off
 * @param timeouts whether the server's timeout still applies
 * @returns a function to call if Node lets go of the socket only later
 */
export function afterEarlierResponses (
  link: Link, nodes: NodesListeners | undefined, timeouts: boolean, proceed: () => void
): () => void {
  const { socket } = link
  const response = unfinishedResponse(socket)
  if (response === undefined) {
    proceed()
    return () => {}
  }
  link.parked = true
  const stopForwarding = forwardDrain(socket)
  let takeOff = (): void => {}
  let waiting = true
  const restore = (): void => {
    if (waiting && nodes !== undefined) takeOff = restoreListeners(socket, nodes, timeouts)
  }
  restore()
  // 'finish' is emitted in the async context of the earlier request. In Node 20 `AsyncResource.bind()` costs as much as a request.
  const scope = new AsyncResource('DuplexPipelined')
  const next = (): void => {
    // Node's own listener ran before this one. It has given the socket to the next response, if there is one.
    const following = unfinishedResponse(socket)
    if (following !== undefined) {
      follow(following)
      return
    }
    link.parked = false
    stopForwarding()
    // A response that said `Connection: close` was the last: Node is ending the socket, and then tells those behind it.
    if (socket.destroyed || socket.writableEnded) return
    waiting = false
    takeOff()
    scope.runInAsyncScope(proceed)
  }
  const follow = (response: ServerResponse): void => {
    // Since Node 24 a response that was destroyed before its turn never finishes, and nobody ends its connection.
    if (response.destroyed) socket.destroy()
    else response.once('finish', next)
  }
  follow(response)
  return () => {
    takeOff()
    restore()
  }
}

/** Passes 'drain' on to the response that has the socket. Returns a function that ends that. */
export function forwardDrain (socket: HttpSocket): () => void {
  const onDrain = (): void => {
    const response = unfinishedResponse(socket)
    if (response?.writableNeedDrain === true) response.emit('drain')
  }
  socket.on('drain', onDrain)
  return () => socket.removeListener('drain', onDrain)
}
