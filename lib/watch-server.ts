import type { Server } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type { Http1Gate } from './http1/gate.ts'
import { Http1Server } from './http1/server.ts'
import type { Http2Gate } from './http2/gate.ts'
import { Http2Streams, speaksHttp2 } from './http2/server.ts'
import { override } from './internals/server-events.ts'
import type { PluginSettings } from './options.ts'
import type { Closing, Registry } from './shutdown/registry.ts'

export interface Gates {
  http1: Http1Gate
  http2: Http2Gate
}

/**
 * The servers of one app. Each is watched until it has closed. Then everything is taken off it, and another app may start on it.
 * If it listens again before the app closes, it is watched again.
 */
export class Servers {
  readonly #app: FastifyInstance
  readonly #gates: Gates
  readonly #registry: Registry
  readonly #settings: PluginSettings
  readonly #watched = new Map<Server, Watching>()
  readonly #closed = new WeakSet<Server>()
  /** For each server the listener that hears that it listens again. It stays until the app closes. */
  readonly #listening = new Map<Server, () => void>()
  #appCloses = false

  constructor (app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings) {
    this.#app = app
    this.#gates = gates
    this.#registry = registry
    this.#settings = settings
  }

  watch (server: Server): void {
    if (this.#watched.has(server)) return
    const watching = watchServer(server, this.#app, this.#gates, this.#registry, this.#settings, () => {
      if (!this.#watched.delete(server)) return
      this.#closed.add(server)
      watching.takeOff()
      for (const closing of watching.closings) this.#registry.removeServer(closing)
    })
    this.#watched.set(server, watching)
    // A server that has closed before takes no part in the drain.
    if (!this.#closed.has(server)) this.#addToDrain(watching)
    if (this.#appCloses || this.#listening.has(server)) return
    const listens = (): void => this.#listens(server)
    this.#listening.set(server, listens)
    server.on('listening', listens)
  }

  /** From now on a server that listens does so for another app. */
  appCloses (): void {
    this.#appCloses = true
    for (const [server, listens] of this.#listening) server.off('listening', listens)
    this.#listening.clear()
  }

  /** The app has closed. A server that still listens belongs to another app. */
  unwatchAll (): void {
    this.appCloses()
    for (const [server, { takeOff }] of [...this.#watched]) {
      if (!server.listening) continue
      this.#watched.delete(server)
      this.#closed.add(server)
      takeOff()
    }
  }

  #listens (server: Server): void {
    if (server === this.#app.server) this.#registry.reopen()
    const isNew = this.#closed.delete(server)
    const watching = this.#watched.get(server)
    if (watching === undefined) this.watch(server)
    else if (isNew) this.#addToDrain(watching)
  }

  #addToDrain ({ closings }: Watching): void {
    for (const closing of closings) this.#registry.addServer(closing)
  }
}

interface Watching {
  readonly closings: readonly Closing[]
  takeOff (): void
}

/** @param closed called when the server has closed */
function watchServer (
  server: Server, app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings, closed: () => void
): Watching {
  const streams = speaksHttp2(server) ? new Http2Streams(server, app, gates.http2, registry, settings.finTimeout) : undefined
  if (settings.extendedConnect && speaksHttp2(server)) server.updateSettings({ enableConnectProtocol: true })
  let passes = false
  // With allowHTTP1 a server speaks both versions. Its HTTP/2 connections have no HTTP/1 parser.
  const connections = new Http1Server(server, app.server as Server, app, gates.http1, registry, settings.ignoredUpgrades, {
    ...streams?.interceptors,
    // Node emits 'close' when the last sockets are destroyed, before they have closed. Then the onClose hooks and the end of
    // app.close() would come before `closed`, the onResponse hooks and the log line of these connections.
    close: () => {
      if (passes) return undefined
      const { drained } = registry
      void drained.then(() => {
        // It may listen again by now, and may even be closed for the second time.
        if (!server.listening && registry.drained === drained) closed()
        passes = true
        server.emit('close')
        passes = false
      })
      return true
    }
  })
  // Fastify may close the server, or a library that was given the server.
  const closing = override(server, 'close', usual => function (this: Server, ...args: Parameters<Server['close']>) {
    const result = usual.apply(server, args)
    // A server that another app shares may go on.
    if (!server.listening) {
      // Fastify closes the second server of `localhost` when the first has closed, which may listen again.
      if (server === app.server || !app.server.listening) registry.shutDown()
      connections.close()
    }
    return result
  } as Server['close'])
  const takeOff = (): void => {
    closing()
    connections.undo()
    streams?.undo()
  }
  return { closings: streams === undefined ? [connections] : [connections, streams], takeOff }
}
