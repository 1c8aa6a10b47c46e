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
 */
export class Servers {
  readonly #app: FastifyInstance
  readonly #gates: Gates
  readonly #registry: Registry
  readonly #settings: PluginSettings
  /** For each server that is watched, the function that takes everything off it. */
  readonly #watched = new Map<Server, () => void>()
  readonly #closed = new WeakSet<Server>()

  constructor (app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings) {
    this.#app = app
    this.#gates = gates
    this.#registry = registry
    this.#settings = settings
  }

  watch (server: Server): void {
    if (this.#watched.has(server)) return
    const undo = (): void => {
      if (!this.#watched.delete(server)) return
      this.#closed.add(server)
      takeOff()
    }
    const { closings, takeOff } = watchServer(server, this.#app, this.#gates, this.#registry, this.#settings, undo)
    this.#watched.set(server, undo)
    // A server that has closed before takes no part in the drain.
    if (!this.#closed.has(server)) for (const closing of closings) this.#registry.addServer(closing)
  }

  /** The app has closed. A server that still listens belongs to another app. */
  unwatchAll (): void {
    for (const [server, undo] of [...this.#watched]) if (server.listening) undo()
  }
}

interface Watching {
  closings: Closing[]
  takeOff: () => void
}

function watchServer (
  server: Server, app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings, undo: () => void
): Watching {
  const streams = speaksHttp2(server) ? new Http2Streams(server, app, gates.http2, registry, settings.finTimeout) : undefined
  if (settings.extendedConnect && speaksHttp2(server)) server.updateSettings({ enableConnectProtocol: true })
  // With allowHTTP1 a server speaks both versions. Its HTTP/2 connections have no HTTP/1 parser.
  const connections = new Http1Server(server, app.server as Server, app, gates.http1, registry, settings.ignoredUpgrades, {
    ...streams?.interceptors,
    // Node emits 'close' when the last sockets are destroyed, before they have closed. Then the onClose hooks and the end of
    // app.close() would come before `closed`, the onResponse hooks and the log line of these connections.
    close: () => {
      void registry.drained.then(() => {
        undo()
        server.emit('close')
      })
      return true
    }
  })
  // Fastify may close the server, or a library that was given the server.
  const closing = override(server, 'close', usual => function (this: Server, ...args: Parameters<Server['close']>) {
    const result = usual.apply(server, args)
    // A server that another app shares may go on.
    if (!server.listening) {
      registry.shutDown()
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
