import type { IncomingMessage } from 'node:http'
import type { Connection } from '../connection/connection.ts'
import { FST_ERR_DUPLEX_SHUTDOWN } from '../errors.ts'
import { AppGovernance } from '../governance/app-governance.ts'
import { Slots } from '../governance/slots.ts'
import type { Claim, ClaimWatcher } from '../handshake/claim.ts'
import { channels } from '../observability/channels.ts'
import type { PluginSettings } from '../options.ts'
import { kDrain, kPlace, kShutDown } from '../symbols.ts'
import { LiveSet } from '../tools/live-set.ts'
import { DrainSpread } from './drain-spread.ts'
import type { DuplexClosed, Milliseconds } from '../../types/index.ts'

/** One server, for the shutdown. */
export interface Closing {
  /** The drain begins. */
  drain? (): void
  /** The drain is over: ends what is left, except requests of plain routes. */
  cut (): void
}

/** A connection that left HTTP. */
export interface LeftHttp {
  readonly socket: { destroy (): unknown }
  placeInRegistry: number | undefined
}

/** Everything of one app that is alive: its connections, and requests that may become one or are being refused. */
export class Registry implements ClaimWatcher {
  readonly connections = new LiveSet<Connection>({ get: one => one[kPlace], set (one, place) { one[kPlace] = place } })
  readonly slots: Slots
  readonly governance: AppGovernance
  draining = false
  /** Sockets that left HTTP, from the claim to their end, also those of refused requests. */
  readonly #links = new LiveSet<LeftHttp>({ get: link => link.placeInRegistry, set (link, place) { link.placeInRegistry = place } })
  /** Claimed requests that stay with their server, until request and response have ended. */
  readonly #claims = new LiveSet<Claim>()
  readonly #drainTimeout: Milliseconds
  readonly #drainSpread: Milliseconds
  #spread: DrainSpread<Connection> | undefined
  /** Connections that were not accepted yet when the drain began. They are told at once. */
  #pending: readonly Connection[] = []
  /** How long a connection that is told from now on may take to end. */
  #timePerConnection: Milliseconds = 0
  #drained: Promise<void> | undefined
  #idle: (() => void) | undefined
  readonly #servers: Closing[] = []
  #shutDown = false

  constructor (settings: PluginSettings) {
    this.slots = new Slots(settings.maxConnections)
    this.governance = new AppGovernance(settings)
    this.#drainTimeout = settings.drainTimeout
    this.#drainSpread = settings.drainSpread
  }

  /** Resolves when the drain is over. */
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

  addLink (link: LeftHttp): void {
    this.#links.add(link)
  }

  removeLink (link: LeftHttp): void {
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

  /** The connection will not be accepted. Its request is still a claim. */
  remove (connection: Connection): void {
    if (this.connections.delete(connection)) this.#checkIdle()
  }

  accepted (connection: Connection): void {
    if (channels.accept.hasSubscribers) channels.accept.publish({ connection: connection as never, request: connection.reply.request })
  }

  refused ({ reply, req, res, kind, instead }: Claim): void {
    // A HEAD asks for no connection, so its 200 is no refusal.
    if (instead === 'answer-head-request' || !channels.refuse.hasSubscribers) return
    channels.refuse.publish({ request: reply?.request, raw: req, statusCode: res?.statusCode, kind })
  }

  /** A request was refused before there was a claim: it has no route, or its head is broken. */
  refusedUnclaimed (raw: IncomingMessage, statusCode: number): void {
    if (!channels.refuse.hasSubscribers) return
    const upgrade = raw.headers.upgrade ?? raw.headers[':protocol']
    const kind = raw.method === 'CONNECT' && raw.headers[':protocol'] === undefined ? 'connect' : upgrade === undefined ? 'hijack' : 'upgrade'
    channels.refuse.publish({ request: undefined, raw, statusCode, kind })
  }

  closed (connection: Connection, result: DuplexClosed): void {
    this.connections.delete(connection)
    this.#checkIdle()
    // Only accepted connections are told here. Refusals have a channel of their own.
    if (connection.accepted && channels.close.hasSubscribers) {
      channels.close.publish({ connection: connection as never, request: connection.reply.request, closed: result })
    }
  }

  /** Refuses new connections, tells the live ones, waits, and breaks off what is left. */
  drain (timeout: Milliseconds = this.#drainTimeout): Promise<void> {
    this.draining = true
    // One error for all, because to make an error costs more than everything else here.
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
    // A half-closed socket that nobody reads does not keep the process alive. This timer has to, or the process could end
    // before close() has run the hooks of other plugins. When everything is over, the timer still runs, because a refusal may
    // still linger. Then it no longer keeps the process alive.
    void this.drained.then(() => timer.unref())
  }

  /** Tells one connection after the other, and gives each the same time to end. */
  #drainEvenly (reason: Error, timeout: Milliseconds): void {
    const end = (connections: readonly Connection[]): void => { for (const connection of connections) connection[kShutDown]() }
    if (this.#spread !== undefined) {
      this.#timePerConnection = Math.min(this.#timePerConnection, timeout)
      const told = [...this.#pending, ...this.#spread.told]
      this.#after(timeout, () => end(told))
      return
    }
    this.#timePerConnection = timeout
    const open: Connection[] = []
    const pending: Connection[] = []
    for (const connection of this.connections) (connection.accepted ? open : pending).push(connection)
    this.#pending = pending
    for (const connection of pending) connection[kDrain](reason)
    if (pending.length > 0) this.#after(timeout, () => end(pending))
    const spread = new DrainSpread(open, this.#drainSpread, (turn, last) => {
      const left = turn.filter(connection => this.connections.has(connection))
      for (const connection of left) connection[kDrain](reason)
      if (last) this.#after(this.#timePerConnection, () => this.#cut())
      else if (left.length > 0) this.#after(this.#timePerConnection, () => end(left))
    })
    this.#spread = spread
    void this.drained.then(() => spread.stop())
  }

  #cut (): void {
    // Breaking off a pipelined request ends only its claim. The socket stays open for earlier responses, so it is destroyed below.
    const claims = new Set(this.#claims)
    const closing: Promise<unknown>[] = []
    for (const connection of this.connections) {
      const claim = connection[kShutDown]()
      if (claim === undefined) continue
      claims.delete(claim)
      closing.push(connection.closed)
    }
    for (const claim of claims) claim.carrier.cut()
    const rest = (): void => {
      for (const { socket } of this.#links) socket.destroy()
      for (const server of this.#servers) server.cut()
      this.#checkIdle()
    }
    // Last words have to leave, and the answer to a close frame has to be read: a socket that is closed with unread input is reset.
    if (closing.length === 0) rest()
    else void Promise.all(closing).then(rest)
  }

  #checkIdle (): void {
    if (this.connections.size === 0 && this.#links.size === 0 && this.#claims.size === 0) this.#idle?.()
  }
}
