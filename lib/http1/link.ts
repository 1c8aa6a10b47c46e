import type { IncomingMessage } from 'node:http'
import { peerIsGone, resetByPeer, socketBeneath, type HttpSocket } from '../internals/sockets.ts'
import { unwatchPeer, watchPeer, type Watched } from '../streams/vanished-peers.ts'
import type { SocketCarrier } from './socket-carrier.ts'
import type { BodyCarrier } from './body-carrier.ts'

const NOBODY: readonly Waiting[] = []

const kLink = Symbol('fastify-duplex.link')

interface Linked extends HttpSocket {
  [kLink]?: Link | undefined
}

/** A request that is not over, on a connection that may close. */
export interface Waiting {
  /** It is the body of a duplex route, whose client may half-close before it has its response. */
  readonly takes?: boolean
  /** The connection has closed. */
  linkClosed (): void
}

/** A server may have several apps, and each has a link for each connection. This is one of these apps. */
export interface LinkHost {
  readonly server: object
  /** The connection has a new parser, which has to be watched. */
  watch (link: Link): void
  /**
   * An owner of 'upgrade' or 'connect' got the request, has rewritten its URL, and did nothing else with it.
   *
   * @returns whether this app takes it
   */
  offer (event: TakeoverEvent, req: IncomingMessage, link: Link, head: Buffer): boolean
}

export type TakeoverEvent = 'upgrade' | 'connect'

/**
 * A link stands for one connection of an HTTP/1 server, from its arrival until it closes, with everything that the plugin has on it.
 * When a connection closes, Node tells only the response whose turn it is. A link tells all of them.
 *
 * A socket may be given to another server while the first still counts it, as intercepting proxies do. The links of one
 * socket form a stack, and each is told of its end.
 */
export class Link implements Watched {
  readonly socket: HttpSocket
  /** The link of a server that had this socket before. */
  readonly below: Link | undefined
  /** The carrier that the socket left HTTP with. */
  takeover: SocketCarrier | undefined
  /** The latest request whose body is a duplex route's. */
  latestBody: BodyCarrier | undefined
  /** The socket has left HTTP, and waits for responses to earlier requests. */
  parked = false
  /** The request whose Upgrade was ignored, until its head is parsed for the second time. */
  ignored: IncomingMessage | undefined
  /** Set while a half-close of the client does not end the responses, for a `body`. Calling it restores Node's way. */
  toleratesHalfClose: (() => void) | undefined
  /** Called when Node lets go of the socket behind a request body. */
  onReleased: (() => void) | undefined
  /** Set if another owner has the socket: the number of bytes that had been written to it by then. */
  handedOver: number | undefined
  readonly host: LinkHost | undefined
  /** Its places among the links of its server, and among those that left HTTP. */
  placeInServer: number | undefined
  placeInRegistry: number | undefined
  readonly #closed: (link: Link) => void
  #watched = false
  #waiting: Waiting[] | undefined

  /** @param closed called when the connection has closed */
  constructor (socket: HttpSocket, closed: (link: Link) => void, host?: LinkHost) {
    this.socket = socket
    this.host = host
    this.#closed = closed
    this.below = (socket as Linked)[kLink]
    if (this.below === undefined) socket.on('close', onClose)
    ;(socket as Linked)[kLink] = this
  }

  /** The link of the server that had this socket last. */
  static of (socket: object): Link | undefined {
    return (socket as Linked)[kLink]
  }

  /** The link that this host has for the connection. */
  static at (socket: object, host: LinkHost): Link | undefined {
    let link = Link.of(socket)
    while (link !== undefined && link.host !== host) link = link.below
    return link
  }

  /** Whether another app of the same server sees the requests of this connection after this one. */
  get hasNext (): boolean {
    return this.below?.host !== undefined && this.below.host.server === this.host?.server
  }

  /** All apps of the server watch the new parser. The app that begins to watch first is asked last about each request. */
  watchAgain (): void {
    const links: Link[] = []
    for (let link = Link.of(this.socket); link !== undefined; link = link.below) {
      if (link.host?.server === this.host?.server) links.push(link)
    }
    for (const link of links.reverse()) link.host?.watch(link)
  }

  /** Asks the apps of the server, in the order in which they see requests. */
  static offer (event: TakeoverEvent, req: IncomingMessage, socket: HttpSocket, server: object, head: Buffer): boolean {
    for (let link = Link.of(socket); link !== undefined; link = link.below) {
      if (link.host?.server === server && link.host.offer(event, req, link, head)) return true
    }
    return false
  }

  /** Whether a duplex route uses the connection, so that it must not be cut. */
  get live (): boolean {
    return this.takeover !== undefined || (this.#waiting !== undefined && this.#waiting.length > 0)
  }

  /** Whether another app of the server has a duplex route that uses the connection. */
  get liveElsewhere (): boolean {
    for (let link = Link.of(this.socket); link !== undefined; link = link.below) {
      if (link !== this && link.host?.server === this.host?.server && link.live) return true
    }
    return false
  }

  /** Whether the body of a duplex route is not over yet. */
  get hasBody (): boolean {
    return this.#waiting?.some(({ takes }) => takes === true) === true
  }

  add (waiting: Waiting): void {
    this.#waiting ??= []
    this.#waiting.push(waiting)
  }

  remove (waiting: Waiting): void {
    const at = this.#waiting?.indexOf(waiting) ?? -1
    if (at < 0) return
    this.#waiting?.splice(at, 1)
    // No `body` needs it any more. Later requests may wait for a response that never comes, so Node's way is restored: it ends the
    // connection of a client that has half-closed.
    if (this.hasBody) return
    this.toleratesHalfClose?.()
    this.toleratesHalfClose = undefined
    this.latestBody = undefined
  }

  /**
   * If a write of TLS itself fails, for example that of a session ticket, Node tells nobody, and all later writes wait for it for
   * ever. So somebody looks after the connection, until it closes: responses may wait on it when its last `body` is over.
   */
  watchOutput (): void {
    if (this.#watched || socketBeneath(this.socket) === undefined) return
    this.#watched = true
    watchPeer(this)
  }

  lookForPeer (): void {
    const { socket } = this
    // A socket that left HTTP is looked after by its carrier.
    if (this.takeover !== undefined || socket.destroyed || socket.writableLength === 0) return
    if (peerIsGone(socket)) socket.destroy(resetByPeer())
  }

  hasClosed (): void {
    if (this.#watched) unwatchPeer(this)
    this.#tell(this.#waiting?.splice(0) ?? NOBODY, 0)
  }

  #tell (waiting: readonly Waiting[], at: number): void {
    // If a logger or a hook of one of them throws, the others are told all the same.
    try {
      if (at < waiting.length) (waiting[at] as Waiting).linkClosed()
      else this.takeover?.linkClosed()
    } finally {
      if (at < waiting.length) this.#tell(waiting, at + 1)
      else this.#closed(this)
    }
  }
}

/** The same function for all sockets: a closure for each would cost memory as long as the socket lives. */
function onClose (this: Linked): void {
  try {
    for (let link = this[kLink]; link !== undefined; link = link.below) link.hasClosed()
  } finally {
    // V8 keeps a socket with a handle, and all that it refers to, until the next full collection.
    this[kLink] = undefined
  }
}
