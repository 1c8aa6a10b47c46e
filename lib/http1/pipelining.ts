import { AsyncResource } from 'node:async_hooks'
import type { Duplex } from 'node:stream'
import { unfinishedResponse } from '../internals/http-messages.ts'

/**
 * Waits for the responses to earlier requests of the connection, RFC 9112 section 9.3.2: what was
 * pipelined behind them must not overtake. Node has let go of the socket by now, so that what it did
 * for them, telling them of 'drain' and of a vanished client, has to be done here.
 */
export function afterEarlierResponses (socket: Duplex, proceed: () => void): void {
  const response = unfinishedResponse(socket)
  if (response === undefined) {
    proceed()
    return
  }
  const stopForwarding = forwardDrain(socket)
  // The end of a response has the async context of its request, which is not that of the next.
  const proceedInContext = AsyncResource.bind(proceed)
  const onClose = (): void => {
    const error = Object.assign(new Error('aborted'), { code: 'ECONNRESET' })
    unfinishedResponse(socket)?.req.destroy(error)
  }
  const next = (): void => {
    // Node's own listener came first: the next response, if there is one, has the socket now.
    const following = unfinishedResponse(socket)
    if (following !== undefined) {
      following.once('finish', next)
      return
    }
    stopForwarding()
    socket.removeListener('close', onClose)
    // A response that said `Connection: close` was the last: Node is ending the socket.
    if (!socket.destroyed && !socket.writableEnded) proceedInContext()
  }
  socket.on('close', onClose)
  response.once('finish', next)
}

/** Tells the response that has the socket of 'drain'. Returns what ends that. */
export function forwardDrain (socket: Duplex): () => void {
  const onDrain = (): void => {
    const response = unfinishedResponse(socket)
    if (response?.writableNeedDrain === true) response.emit('drain')
  }
  socket.on('drain', onDrain)
  return () => socket.removeListener('drain', onDrain)
}
