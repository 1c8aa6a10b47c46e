import type { HttpSocket } from '../internals/sockets.ts'
import type { SocketCarrier } from './socket-carrier.ts'
import type { BodyCarrier } from './body-carrier.ts'

const kLink = Symbol('fastify-duplex.link')

interface Linked extends HttpSocket {
  [kLink]?: Link | undefined
}

/** Something that waits on a connection, for an answer or for its end. */
export interface Waiting {
  /** The connection has closed. */
  linkClosed (): void
}

/**
 * One connection of an HTTP/1 server, from when the server has it until it closes, with all that the plugin has on it.
 * Node tells only the response whose turn it is that the connection closed; this tells everybody.
 *
 * A socket may be given to another server while the first still counts it, as intercepting proxies do. The links of one
 * socket are a stack, and each hears of its end.
 */
export class Link {
  readonly socket: HttpSocket
  /** The link of a server that had this socket before. */
  readonly below: Link | undefined
  /** What the socket left HTTP for. */
  takeover: SocketCarrier | undefined
  /** The latest request whose body is a duplex route's. */
  latestBody: BodyCarrier | undefined
  /** It left HTTP behind unfinished responses, and waits for them. */
  parked = false
  /** It goes on when its client half-closes, for a body, and this takes that back. */
  toleratesHalfClose: (() => void) | undefined
  /** To be called when Node lets go of the socket behind a request body. */
  hasLeft: (() => void) | undefined
  /** Another owner has it, and this is what had been written to it by then. */
  handedOver: number | undefined
  readonly #closed: (link: Link) => void
  readonly #waiting: Waiting[] = []

  /** @param closed called when the connection has closed */
  constructor (socket: HttpSocket, closed: (link: Link) => void) {
    this.socket = socket
    this.#closed = closed
    this.below = (socket as Linked)[kLink]
    if (this.below === undefined) socket.on('close', onClose)
    ;(socket as Linked)[kLink] = this
  }

  /** The link of the server that had this socket last. */
  static of (socket: object): Link | undefined {
    return (socket as Linked)[kLink]
  }

  /** Whether something of a duplex route is on it that must not be cut short. */
  get live (): boolean {
    return this.takeover !== undefined || this.#waiting.length > 0
  }

  add (waiting: Waiting): void {
    this.#waiting.push(waiting)
  }

  remove (waiting: Waiting): void {
    const at = this.#waiting.indexOf(waiting)
    if (at < 0) return
    this.#waiting.splice(at, 1)
    if (this.#waiting.length > 0) return
    this.toleratesHalfClose?.()
    this.toleratesHalfClose = undefined
    this.latestBody = undefined
  }

  hasClosed (): void {
    // Whatever a logger or a hook of one of them may throw, the others hear of it.
    const ends = this.#waiting.splice(0).map(waiting => () => waiting.linkClosed())
    ends.push(() => this.takeover?.linkClosed(), () => this.#closed(this))
    inTurn(ends)
  }
}

/** The same function for all sockets: one of its own would be kept for as long as each. */
function onClose (this: Linked): void {
  for (let link = this[kLink]; link !== undefined; link = link.below) link.hasClosed()
}

function inTurn ([first, ...others]: readonly (() => void)[]): void {
  try {
    first?.()
  } finally {
    if (others.length > 0) inTurn(others)
  }
}
