// Node's client of HTTP/1. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { ClientRequest, IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'

/**
 * Node's client takes every response to a CONNECT for an established tunnel, and none but a 101 otherwise. This lets `takesOver`
 * decide, when the head is there: the client then emits 'connect' with the socket and what came behind the head. All others are
 * read as responses are: 1xx are passed over, and a body is decoded.
 */
export function takeOverWhere (req: ClientRequest, takesOver: (res: IncomingMessage) => boolean): void {
  const { method } = req
  Object.defineProperty(req, 'method', {
    get () {
      const res = (req as unknown as { res?: IncomingMessage | null }).res
      if (res == null) return method
      if (res.statusCode !== 101 && takesOver(res)) return 'CONNECT'
      return method === 'CONNECT' ? 'GET' : method
    }
  })
}

/**
 * Node's client closes the connection behind a response, unless it has an agent that keeps it. Now it emits 'free' on the socket when both
 * messages are over.
 *
 * @returns to be called when the response is there: whether the server leaves the connection open
 */
export function keepConnection (req: ClientRequest): () => boolean {
  req.shouldKeepAlive = true
  return () => {
    const stays = req.shouldKeepAlive
    req.shouldKeepAlive = true
    return stays
  }
}

/**
 * When the server has ended its side of the connection Node's client ends, or destroys, its own. Now it does not. To be called
 * when the client has the socket, since its listener for that has to stand between these.
 *
 * @returns what takes it back
 */
export function outliveEnd (socket: Duplex): () => void {
  const { end, destroy } = socket
  const own = { end: Object.hasOwn(socket, 'end'), destroy: Object.hasOwn(socket, 'destroy') }
  const ignored = (): Duplex => socket
  const before = (): void => { Object.assign(socket, { end: ignored, destroy: ignored }) }
  const after = (): void => {
    restore(socket, 'end', ignored, own.end ? end : undefined)
    restore(socket, 'destroy', ignored, own.destroy ? destroy : undefined)
  }
  socket.prependListener('end', before)
  socket.on('end', after)
  return () => {
    socket.removeListener('end', before)
    socket.removeListener('end', after)
    after()
  }
}

/** Unless somebody else has put another there. */
function restore (socket: Duplex, name: 'end' | 'destroy', ours: unknown, before: unknown): void {
  if (socket[name] !== ours) return
  if (before === undefined) Reflect.deleteProperty(socket, name)
  else Object.assign(socket, { [name]: before })
}
