import diagnostics from 'node:diagnostics_channel'
import type { Duplex } from 'node:stream'
import type { Claim } from './claim.ts'
import type { Connection } from './connection.ts'
import { Slots } from './slots.ts'
import type { PluginSettings } from './options.ts'
import type { DuplexClosed, Milliseconds } from '../types/index.ts'

const channels = {
  accept: diagnostics.channel('fastify-duplex:accept'),
  refuse: diagnostics.channel('fastify-duplex:refuse'),
  close: diagnostics.channel('fastify-duplex:close')
}

/** Everything of one server that is alive: its connections, and the sockets that left HTTP. */
export class Registry {
  readonly connections = new Set<Connection>()
  readonly slots: Slots
  draining = false
  /** Sockets from the claim to their end, those of refused requests included. */
  readonly #sockets = new Set<Duplex>()
  readonly #drainTimeout: Milliseconds
  #drained: Promise<void> | undefined
  #idle: (() => void) | undefined

  constructor (settings: PluginSettings) {
    this.slots = new Slots(settings.maxConnections)
    this.#drainTimeout = settings.drainTimeout
  }

  addSocket (socket: Duplex): void {
    this.#sockets.add(socket)
  }

  removeSocket (socket: Duplex): void {
    this.#sockets.delete(socket)
    this.#checkIdle()
  }

  add (connection: Connection): void {
    this.connections.add(connection)
  }

  accepted (connection: Connection): void {
    if (channels.accept.hasSubscribers) channels.accept.publish({ connection, request: connection.reply.request })
  }

  refused (claim: Claim): void {
    if (channels.refuse.hasSubscribers) {
      channels.refuse.publish({ request: claim.reply?.request, raw: claim.req, statusCode: claim.res?.statusCode, kind: claim.kind })
    }
  }

  closed (connection: Connection, result: DuplexClosed): void {
    this.connections.delete(connection)
    if (channels.close.hasSubscribers) channels.close.publish({ connection, request: connection.reply.request, closed: result })
    this.#checkIdle()
  }

  /** Refuses from now on, tells every connection, waits, and destroys what is left. */
  drain (timeout: Milliseconds = this.#drainTimeout): Promise<void> {
    this.draining = true
    for (const connection of this.connections) connection.drain()
    this.#drained ??= new Promise<void>(resolve => {
      this.#idle = resolve
      this.#checkIdle()
    })
    // Also when all is quiet now: a refusal may still come, and linger. No process lives for it.
    setTimeout(() => this.#cut(), timeout).unref()
    return this.#drained
  }

  #cut (): void {
    for (const connection of this.connections) connection.shutDown()
    for (const socket of this.#sockets) socket.destroy()
  }

  #checkIdle (): void {
    if (this.connections.size === 0 && this.#sockets.size === 0) this.#idle?.()
  }
}
