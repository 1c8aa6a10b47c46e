// The server's `maxRequestsPerSocket`. Checked on Node 20.20, 22.23, 24.21 and 26.12.
import type { IncomingMessage, Server } from 'node:http'
import type { HttpSocket } from './sockets.ts'

type OnIncoming = NonNullable<NonNullable<HttpSocket['parser']>['onIncoming']>

interface Count {
  /** All requests of the connection. */
  all: number
  /** Those that Node has counted: it begins anew when it gets the socket again. */
  nodes: number
}

/** Of connections whose number of requests is limited. */
const counts = new WeakMap<object, Count>()

/** Node is given the socket once more. */
export function nodeCountsAnew (socket: object): void {
  const count = counts.get(socket)
  if (count !== undefined) count.nodes = 0
}

/** Wraps Node's function for each request head, and makes up for the requests that Node has not counted. */
export function countingRequests (socket: HttpSocket, original: OnIncoming): OnIncoming {
  return function (this: unknown, req: IncomingMessage, keepAlive: boolean): number {
    const { server } = socket as unknown as { server?: Server }
    const limit = server?.maxRequestsPerSocket ?? 0
    if (server === undefined || limit <= 0) return original.call(this as never, req, keepAlive)
    const count = counts.get(socket) ?? { all: 0, nodes: 0 }
    counts.set(socket, count)
    count.all++
    count.nodes++
    if (count.all === count.nodes || count.all < limit) return original.call(this as never, req, keepAlive)
    // The last request is the one that reaches the limit, and those above it are dropped.
    const told = count.all === limit ? count.nodes : count.nodes - 0.5
    server.maxRequestsPerSocket = told
    try {
      return original.call(this as never, req, keepAlive)
    } finally {
      // A handler may have set another limit.
      if (server.maxRequestsPerSocket === told) server.maxRequestsPerSocket = limit
    }
  }
}
