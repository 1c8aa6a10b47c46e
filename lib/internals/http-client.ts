// Node's client of HTTP/1. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { ClientRequest, IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'

/**
 * Decides which response of Node's client is a takeover. Node treats every response to a CONNECT as an established tunnel, and
 * to other requests only a 101. Here `takesOver` decides, when the head is there. For a takeover the client emits 'connect',
 * with the socket and the bytes after the head. All other responses are read as usual: 1xx are skipped, and a body is decoded.
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
 * Keeps the connection after the response. Without an agent Node's client closes it. Now the client emits 'free' on the socket
 * when both messages are over.
 *
 * @returns a function to call when the response is there. It says whether the server keeps the connection open
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
 * Keeps our side open when the server ends its side. Node's client would end or destroy the connection. Call it when the client
 * has the socket, because the client's own 'end' listener has to stand between these two.
 *
 * @returns a function that undoes it
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

/** Restores the method, unless somebody else has replaced it meanwhile. */
function restore (socket: Duplex, name: 'end' | 'destroy', ours: unknown, before: unknown): void {
  if (socket[name] !== ours) return
  if (before === undefined) Reflect.deleteProperty(socket, name)
  else Object.assign(socket, { [name]: before })
}
