import { AsyncResource } from 'node:async_hooks'
import { unfinishedResponse } from '../internals/http-messages.ts'
import { restoreListeners, type NodesListeners } from '../internals/http-parser.ts'
import type { HttpSocket } from '../internals/sockets.ts'
import type { Link } from './link.ts'

/**
 * Waits for the responses to earlier requests of the connection, RFC 9112 section 9.3.2: what was
 * pipelined behind them must not overtake. Node has let go of the socket by now, so that what it did
 * for them, telling them of 'drain' and of a vanished client, is done here until then.
 *
 * @param nodes Node's own listeners, as they were
 * @param timeouts whether the server's timeout goes on to apply
 * @returns what is to be called when Node lets go of the socket only later
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
  // The end of a response has the async context of its request, which is not that of the next.
  const proceedInContext = AsyncResource.bind(proceed)
  const next = (): void => {
    // Node's own listener came first: the next response, if there is one, has the socket now.
    const following = unfinishedResponse(socket)
    if (following !== undefined) {
      following.once('finish', next)
      return
    }
    link.parked = false
    stopForwarding()
    // A response that said `Connection: close` was the last: Node is ending the socket, and then tells those behind it.
    if (socket.destroyed || socket.writableEnded) return
    waiting = false
    takeOff()
    proceedInContext()
  }
  response.once('finish', next)
  return () => {
    takeOff()
    restore()
  }
}

/** Tells the response that has the socket of 'drain'. Returns what ends that. */
export function forwardDrain (socket: HttpSocket): () => void {
  const onDrain = (): void => {
    const response = unfinishedResponse(socket)
    if (response?.writableNeedDrain === true) response.emit('drain')
  }
  socket.on('drain', onDrain)
  return () => socket.removeListener('drain', onDrain)
}
