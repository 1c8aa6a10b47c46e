import type { IncomingMessage } from 'node:http'
import { channels } from '../channels.ts'
import type { Connection } from '../connection/connection.ts'
import { kDrain, kShutDown } from '../connection/symbols.ts'
import { FST_ERR_DUPLEX_SHUTDOWN } from '../errors.ts'
import { DrainSpread } from '../governance/drain-spread.ts'
import { Governance } from '../governance/governance.ts'
import type { Claim, ClaimWatcher } from '../handshake/claim.ts'
import type { Link } from '../http1/link.ts'
import { LiveSet } from './live-set.ts'
import { Slots } from '../routes/slots.ts'
import type { PluginSettings } from '../options.ts'
import type { DuplexClosed, Milliseconds } from '../../types/index.ts'

/** One server, as its shutdown sees it. */
export interface Closing {
  /** The drain begins. */
  drain? (): void
  /** The time for that is over: what is left is ended, but for the requests of plain routes. */
  cut (): void
}

/** Everything of one app that is alive: its connections, and what is on its way to be one, or to be refused. */
export class Registry implements ClaimWatcher {
  readonly connections = new LiveSet<Connection>()
  readonly slots: Slots
  readonly governance: Governance
  draining = false
  /** Connections that left HTTP, from the claim to their end, those of refused requests included. */
  readonly #links = new LiveSet<Link>()
  /** Requests that stay with their server, until both their messages have ended. */
  readonly #claims = new LiveSet<Claim>()
  readonly #drainTimeout: Milliseconds
  readonly #drainSpread: Milliseconds
  #spread: DrainSpread<Connection> | undefined
  /** How long each connection is waited for that is told from now on. */
  #patience: Milliseconds = 0
  #drained: Promise<void> | undefined
  #idle: (() => void) | undefined
  readonly #servers: Closing[] = []
  #shutDown = false

  constructor (settings: PluginSettings) {
    this.slots = new Slots(settings.maxConnections)
    this.governance = new Governance(settings)
    this.#drainTimeout = settings.drainTimeout
    this.#drainSpread = settings.drainSpread
  }

  /** Resolves when a drain has come to its end. */
  get drained (): Promise<void> { return this.#drained ?? Promise.resolve() }

  addServer (server: Closing): void {
    this.#servers.push(server)
    if (this.#shutDown) server.drain?.()
  }

  /** The server closes, whoever closes it. */
  shutDown (): void {
    if (this.#shutDown) return
    this.#shutDown = true
    void this.drain()
    for (const server of this.#servers) server.drain?.()
  }

  addLink (link: Link): void {
    this.#links.add(link)
  }

  removeLink (link: Link): void {
    if (this.#links.delete(link)) this.#checkIdle()
  }

  addClaim (claim: Claim): void {
    this.#claims.add(claim)
  }

  ended (claim: Claim): void {
    if (this.#claims.delete(claim)) this.#checkIdle()
  }

  add (connection: Connection): void {
    this.connections.add(connection)
  }

  /** No connection comes of it any more; its request is still a claim. */
  remove (connection: Connection): void {
    if (this.connections.delete(connection)) this.#checkIdle()
  }

  accepted (connection: Connection): void {
    if (channels.accept.hasSubscribers) channels.accept.publish({ connection: connection as never, request: connection.reply.request })
  }

  refused ({ reply, req, res, kind, instead }: Claim): void {
    // A HEAD asks for no connection, so that its 200 is no refusal of one.
    if (instead === 'head' || !channels.refuse.hasSubscribers) return
    channels.refuse.publish({ request: reply?.request, raw: req, statusCode: res?.statusCode, kind })
  }

  /** Before there was a claim: the request names no route, or cannot be trusted to. */
  refusedUnclaimed (raw: IncomingMessage, statusCode: number): void {
    if (!channels.refuse.hasSubscribers) return
    const upgrade = raw.headers.upgrade ?? raw.headers[':protocol']
    const kind = raw.method === 'CONNECT' && raw.headers[':protocol'] === undefined ? 'connect' : upgrade === undefined ? 'hijack' : 'upgrade'
    channels.refuse.publish({ request: undefined, raw, statusCode, kind })
  }

  closed (connection: Connection, result: DuplexClosed): void {
    this.connections.delete(connection)
    this.#checkIdle()
    // Every accepted connection is closed once; what was refused has been told to the other channel.
    if (connection.accepted && channels.close.hasSubscribers) {
      channels.close.publish({ connection: connection as never, request: connection.reply.request, closed: result })
    }
  }

  /** Refuses from now on, tells every connection, waits, and destroys what is left. */
  drain (timeout: Milliseconds = this.#drainTimeout): Promise<void> {
    this.draining = true
    // One for all: an error costs more than all else that a connection is told here.
    const reason = new FST_ERR_DUPLEX_SHUTDOWN()
    const evenly = this.#drainSpread > 0 && this.#spread?.over !== true
    if (!evenly) for (const connection of this.connections) connection[kDrain](reason)
    this.#drained ??= new Promise<void>(resolve => {
      this.#idle = resolve
      this.#checkIdle()
    })
    if (evenly) this.#drainEvenly(reason, timeout)
    else this.#after(timeout, () => this.#cut())
    return this.#drained
  }

  #after (timeout: Milliseconds, act: () => void): void {
    const timer = setTimeout(act, timeout)
    // A socket that is half-closed and not read keeps no process alive, so that this timer has to: without
    // it the process would end before close() has run the hooks of other plugins. When all is quiet it still
    // stands by, for a refusal that may come and linger.
    void this.drained.then(() => timer.unref())
  }

  /** Tells each when it is its turn, and waits for each as long. */
  #drainEvenly (reason: Error, timeout: Milliseconds): void {
    const end = (connections: readonly Connection[]): void => { for (const connection of connections) connection[kShutDown]() }
    if (this.#spread !== undefined) {
      this.#patience = Math.min(this.#patience, timeout)
      const told = this.#spread.told
      this.#after(timeout, () => end(told))
      return
    }
    this.#patience = timeout
    const open: Connection[] = []
    for (const connection of this.connections) {
      if (connection.accepted) open.push(connection)
      else connection[kDrain](reason)
    }
    const spread = new DrainSpread(open, this.#drainSpread, (turn, last) => {
      const left = turn.filter(connection => this.connections.has(connection))
      for (const connection of left) connection[kDrain](reason)
      if (last) this.#after(this.#patience, () => this.#cut())
      else if (left.length > 0) this.#after(this.#patience, () => end(left))
    })
    this.#spread = spread
    void this.drained.then(() => spread.stop())
  }

  #cut (): void {
    // What is broken off behind other responses is over at once, and its connection is to go as well.
    const claims = [...this.#claims]
    for (const connection of this.connections) connection[kShutDown]()
    for (const claim of claims) claim.carrier.cut()
    for (const { socket } of this.#links) socket.destroy()
    for (const server of this.#servers) server.cut()
    this.#checkIdle()
  }

  #checkIdle (): void {
    if (this.connections.size === 0 && this.#links.size === 0 && this.#claims.size === 0) this.#idle?.()
  }
}
