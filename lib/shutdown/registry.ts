import type { IncomingMessage } from 'node:http'
import type { Connection } from '../connection/connection.ts'
import { AppGovernance } from '../governance/app-governance.ts'
import { Slots } from '../governance/slots.ts'
import type { Claim, ClaimWatcher } from '../handshake/claim.ts'
import { channels } from '../observability/channels.ts'
import type { PluginSettings } from '../options.ts'
import { kPlace } from '../symbols.ts'
import { LiveSet } from '../tools/live-set.ts'
import { Drain } from './drain.ts'
import type { DuplexClosed, Milliseconds } from '../../types/index.ts'

/** One server, for the shutdown. */
export interface Closing {
  /** The drain begins. */
  drain? (): void
  /** The drain is over: ends what is left, except requests of plain routes. */
  cut (): void
  /**
   * The server listens again.
   *
   * @returns ends what is left of the connections from before
   */
  reopen? (): () => void
}

/** A connection that left HTTP. */
export interface LeftHttp {
  readonly socket: { destroy (): unknown }
  placeInRegistry: number | undefined
}

const NO_DRAIN = Promise.resolve()

/** Everything of one app that is alive: its connections, and requests that may become one or are being refused. */
export class Registry implements ClaimWatcher {
  readonly connections = new LiveSet<Connection>({ get: one => one[kPlace], set (one, place) { one[kPlace] = place } })
  readonly slots: Slots
  readonly governance: AppGovernance
  /** Sockets that left HTTP, from the claim to their end, also those of refused requests. */
  readonly #links = new LiveSet<LeftHttp>({ get: link => link.placeInRegistry, set (link, place) { link.placeInRegistry = place } })
  /** Claimed requests that stay with their server, until request and response have ended. */
  readonly #claims = new LiveSet<Claim>()
  readonly #drainTimeout: Milliseconds
  readonly #drainSpread: Milliseconds
  #drain: Drain | undefined
  /** Drains that go on although their server listens again. */
  readonly #earlier = new Set<Drain>()
  readonly #servers = new Set<Closing>()
  #shutDown = false

  constructor (settings: PluginSettings) {
    this.slots = new Slots(settings.maxConnections)
    this.governance = new AppGovernance(settings)
    this.#drainTimeout = settings.drainTimeout
    this.#drainSpread = settings.drainSpread
  }

  /** Resolves when the drain is over. */
  get drained (): Promise<void> { return this.#drain?.over ?? NO_DRAIN }

  get draining (): boolean { return this.#drain !== undefined }

  addServer (server: Closing): void {
    this.#servers.add(server)
    if (this.#shutDown) server.drain?.()
  }

  /** The server closes, whoever closes it. */
  shutDown (): void {
    if (this.#shutDown) return
    this.#shutDown = true
    void this.drain()
    for (const server of this.#servers) server.drain?.()
  }

  /** The server has closed. */
  removeServer (server: Closing): void {
    this.#servers.delete(server)
  }

  /** The server has been closed, and listens again. New connections are taken, and those from before drain to their end. */
  reopen (): void {
    if (!this.#shutDown) return
    this.#shutDown = false
    const drain = this.#drain as Drain
    this.#drain = undefined
    this.#earlier.add(drain)
    void drain.over.then(() => this.#earlier.delete(drain))
    const cuts = [...this.#servers].map(server => server.reopen?.())
    drain.leave(() => { for (const cut of cuts) cut?.() })
  }

  addLink (link: LeftHttp): void {
    this.#links.add(link)
  }

  removeLink (link: LeftHttp): void {
    if (this.#links.delete(link)) this.#over(link)
  }

  addClaim (claim: Claim): void {
    this.#claims.add(claim)
  }

  ended (claim: Claim): void {
    if (this.#claims.delete(claim)) this.#over(claim)
  }

  add (connection: Connection): void {
    this.connections.add(connection)
  }

  /** The connection will not be accepted. Its request is still a claim. */
  remove (connection: Connection): void {
    if (this.connections.delete(connection)) this.#over(connection)
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
    this.#over(connection)
    // Only accepted connections are told here. Refusals have a channel of their own.
    if (connection.accepted && channels.close.hasSubscribers) {
      channels.close.publish({ connection: connection as never, request: connection.reply.request, closed: result })
    }
  }

  /** Refuses new connections, tells the live ones, waits, and breaks off what is left. */
  drain (timeout: Milliseconds = this.#drainTimeout): Promise<void> {
    this.#drain ??= new Drain({ connections: this.connections, claims: this.#claims, links: this.#links }, this.#drainSpread, () => {
      for (const server of this.#servers) server.cut()
    })
    this.#drain.begin(timeout)
    return this.#drain.over
  }

  /** Whether this connection is told to end. An earlier drain may have told it. */
  isDraining (connection: Connection): boolean {
    if (this.draining) return true
    for (const drain of this.#earlier) if (drain.has(connection)) return true
    return false
  }

  /** A connection, claim or link is over. */
  #over (member: object): void {
    for (const drain of this.#earlier) drain.ended(member)
    this.#drain?.check()
  }
}
