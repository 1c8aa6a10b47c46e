import diagnostics from 'node:diagnostics_channel'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Claim } from '../handshake/claim.ts'
import type { Connection } from '../connection/connection.ts'
import { FST_ERR_DUPLEX_SHUTDOWN } from '../errors.ts'
import { LiveSet } from './live-set.ts'
import { Slots } from '../routes/slots.ts'
import type { PluginSettings } from '../options.ts'
import type { DuplexClosed, Milliseconds } from '../../types/index.ts'

const channels = {
  accept: diagnostics.channel('fastify-duplex:accept'),
  refuse: diagnostics.channel('fastify-duplex:refuse'),
  close: diagnostics.channel('fastify-duplex:close')
}

/** Everything of one server that is alive: its connections, and what is on its way to be one, or to be refused. */
export class Registry {
  readonly connections = new LiveSet<Connection>()
  readonly slots: Slots
  draining = false
  /** Sockets that left HTTP, from the claim to their end, those of refused requests included. */
  readonly #sockets = new LiveSet<Duplex>()
  /** Requests that stay with Node, until both their messages have ended. */
  readonly #requests = new LiveSet<Claim>()
  readonly #drainTimeout: Milliseconds
  #drained: Promise<void> | undefined
  #idle: (() => void) | undefined
  readonly #beginnings: (() => void)[] = []
  readonly #servers: { close: () => void, cut: () => void }[] = []

  constructor (settings: PluginSettings) {
    this.slots = new Slots(settings.maxConnections)
    this.#drainTimeout = settings.drainTimeout
  }

  /** Resolves when a drain has come to its end. */
  get drained (): Promise<void> { return this.#drained ?? Promise.resolve() }

  /** @param begin called when the first drain begins, or now if it has begun */
  onDrain (begin: () => void): void {
    if (this.draining) begin()
    else this.#beginnings.push(begin)
  }

  /** @param close when the server closes  @param cut when the time for that is over */
  onShutdown (close: () => void, cut: () => void): void {
    this.#servers.push({ close, cut })
  }

  /** The server closes: a drain, and whatever carries no connection of ours is to end as well. */
  shutDown (): void {
    void this.drain()
    for (const { close } of this.#servers) close()
  }

  addSocket (socket: Duplex): void {
    this.#sockets.add(socket)
  }

  removeSocket (socket: Duplex): void {
    this.#sockets.delete(socket)
    this.#checkIdle()
  }

  addRequest (claim: Claim): void {
    this.#requests.add(claim)
  }

  /** Whether it was there. */
  removeRequest (claim: Claim): boolean {
    const removed = this.#requests.delete(claim)
    this.#checkIdle()
    return removed
  }

  add (connection: Connection): void {
    this.connections.add(connection)
  }

  accepted (connection: Connection): void {
    if (channels.accept.hasSubscribers) channels.accept.publish({ connection, request: connection.reply.request })
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
      channels.close.publish({ connection, request: connection.reply.request, closed: result })
    }
  }

  /** Refuses from now on, tells every connection, waits, and destroys what is left. */
  drain (timeout: Milliseconds = this.#drainTimeout): Promise<void> {
    this.draining = true
    for (const begin of this.#beginnings.splice(0)) begin()
    // One for all: an error costs more than all else that a connection is told here.
    const reason = new FST_ERR_DUPLEX_SHUTDOWN()
    for (const connection of this.connections) connection.drain(reason)
    this.#drained ??= new Promise<void>(resolve => {
      this.#idle = resolve
      this.#checkIdle()
    })
    const timer = setTimeout(() => this.#cut(), timeout)
    // A socket that is half-closed and not read keeps no process alive, so that this timer has to: without
    // it the process would end before close() has run the hooks of other plugins. When all is quiet it still
    // stands by, for a refusal that may come and linger.
    void this.#drained.then(() => timer.unref())
    return this.#drained
  }

  #cut (): void {
    for (const connection of this.connections) connection.shutDown()
    for (const claim of this.#requests) {
      // What is gone already tells nobody any more.
      if (claim.gone) this.#requests.delete(claim)
      else claim.cut()
    }
    for (const socket of this.#sockets) {
      if (socket.closed) this.#sockets.delete(socket)
      else socket.destroy()
    }
    for (const { cut } of this.#servers) cut()
    this.#checkIdle()
  }

  #checkIdle (): void {
    if (this.connections.size === 0 && this.#sockets.size === 0 && this.#requests.size === 0) this.#idle?.()
  }
}
