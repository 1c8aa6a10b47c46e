import type { Connection } from '../connection/connection.ts'
import { FST_ERR_DUPLEX_SHUTDOWN } from '../errors.ts'
import type { Claim } from '../handshake/claim.ts'
import { kDrain, kShutDown } from '../symbols.ts'
import { DrainSpread } from './drain-spread.ts'
import type { LeftHttp } from './registry.ts'
import type { Milliseconds } from '../../types/index.ts'

/** What a drain waits for. */
export interface Alive {
  readonly connections: ReadonlySet<Connection>
  /** Claimed requests that stay with their server, until request and response have ended. */
  readonly claims: ReadonlySet<Claim>
  /** Sockets that left HTTP, from the claim to their end, also those of refused requests. */
  readonly links: ReadonlySet<LeftHttp>
}

/** One drain: tells the connections, waits, and breaks off what is left. */
export class Drain {
  /** Resolves when nothing is left. */
  readonly over: Promise<void>
  /** All that is alive. After `leave()` it is what was alive then. */
  #alive: Alive
  #left: { delete (member: unknown): boolean }[] = []
  #cutServers: () => void
  readonly #drainSpread: Milliseconds
  #spread: DrainSpread<Connection> | undefined
  /** Connections that were not accepted yet when the drain began. They are told at once. */
  #pending: readonly Connection[] = []
  /** How long a connection that is told from now on may take to end. */
  #timePerConnection: Milliseconds = 0
  #resolve!: () => void

  /** @param cutServers ends what is left on the servers, except requests of plain routes */
  constructor (alive: Alive, drainSpread: Milliseconds, cutServers: () => void) {
    this.#alive = alive
    this.#drainSpread = drainSpread
    this.#cutServers = cutServers
    this.over = new Promise(resolve => { this.#resolve = resolve })
  }

  has (connection: Connection): boolean {
    return this.#alive.connections.has(connection)
  }

  /** May be called again. The shortest time counts. */
  begin (timeout: Milliseconds): void {
    // One error for all, because to make an error costs more than everything else here.
    const reason = new FST_ERR_DUPLEX_SHUTDOWN()
    const evenly = this.#drainSpread > 0 && this.#spread?.over !== true
    if (!evenly) for (const connection of this.#alive.connections) connection[kDrain](reason)
    this.check()
    if (evenly) this.#drainEvenly(reason, timeout)
    else this.#after(timeout, () => this.#cut())
  }

  /**
   * The server listens again, while the drain goes on. What comes from now on is none of its business.
   *
   * @param cutServers ends what is left of the servers' connections from before
   */
  leave (cutServers: () => void): void {
    const { connections, claims, links } = this.#alive
    const left = { connections: new Set(connections), claims: new Set(claims), links: new Set(links) }
    this.#left = Object.values(left)
    this.#alive = left
    this.#cutServers = cutServers
    this.check()
  }

  /** A connection, claim or link is over. */
  ended (member: object): void {
    for (const set of this.#left) set.delete(member)
    this.check()
  }

  check (): void {
    const { connections, claims, links } = this.#alive
    if (connections.size === 0 && links.size === 0 && claims.size === 0) this.#resolve()
  }

  #after (timeout: Milliseconds, act: () => void): void {
    const timer = setTimeout(act, timeout)
    // A half-closed socket that nobody reads does not keep the process alive. This timer has to, or the process could end
    // before close() has run the hooks of other plugins. When everything is over, the timer still runs, because a refusal may
    // still linger. Then it no longer keeps the process alive.
    void this.over.then(() => timer.unref())
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
    for (const connection of this.#alive.connections) (connection.accepted ? open : pending).push(connection)
    this.#pending = pending
    for (const connection of pending) connection[kDrain](reason)
    if (pending.length > 0) this.#after(timeout, () => end(pending))
    const spread = new DrainSpread(open, this.#drainSpread, (turn, last) => {
      const left = turn.filter(connection => this.has(connection))
      for (const connection of left) connection[kDrain](reason)
      if (last) this.#after(this.#timePerConnection, () => this.#cut())
      else if (left.length > 0) this.#after(this.#timePerConnection, () => end(left))
    })
    this.#spread = spread
    void this.over.then(() => spread.stop())
  }

  #cut (): void {
    // Breaking off a pipelined request ends only its claim. The socket stays open for earlier responses, so it is destroyed below.
    const claims = new Set(this.#alive.claims)
    const closing: Promise<unknown>[] = []
    for (const connection of this.#alive.connections) {
      const claim = connection[kShutDown]()
      if (claim === undefined) continue
      claims.delete(claim)
      closing.push(connection.closed)
    }
    for (const claim of claims) claim.carrier.cut()
    const rest = (): void => {
      for (const { socket } of this.#alive.links) socket.destroy()
      this.#cutServers()
      this.check()
    }
    // Last words have to leave, and the answer to a close frame has to be read: a socket that is closed with unread input is reset.
    if (closing.length === 0) rest()
    else void Promise.all(closing).then(rest)
  }
}
