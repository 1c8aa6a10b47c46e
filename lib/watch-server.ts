import type { Server } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type { Http1Gate } from './http1/gate.ts'
import { Http1Server } from './http1/server.ts'
import type { Http2Gate } from './http2/gate.ts'
import { Http2Streams, speaksHttp2 } from './http2/server.ts'
import { override } from './internals/server-events.ts'
import type { PluginSettings } from './options.ts'
import type { Registry } from './shutdown/registry.ts'

export interface Gates {
  http1: Http1Gate
  http2: Http2Gate
}

/**
 * Watches the servers of one app, each from here until it has closed: then all is off it again, and another app may start
 * on it.
 */
export function serverWatcher (app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings): (server: Server) => void {
  const watched = new WeakSet<Server>()
  return server => {
    if (watched.has(server)) return
    watched.add(server)
    watchServer(server, app, gates, registry, settings, () => watched.delete(server))
  }
}

function watchServer (
  server: Server, app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings, closed: () => void
): void {
  const streams = speaksHttp2(server) ? new Http2Streams(server, app, gates.http2, registry, settings.finTimeout) : undefined
  if (settings.extendedConnect && speaksHttp2(server)) server.updateSettings({ enableConnectProtocol: true })
  // With allowHTTP1 a server speaks both; connections that speak HTTP/2 have no parser of HTTP/1.
  const connections = new Http1Server(server, app.server as Server, app, gates.http1, registry, settings.ignoredUpgrades, {
    ...streams?.interceptors,
    // Node emits it when the last sockets are destroyed, before they have closed: onClose hooks and the end of app.close()
    // would overtake `closed`, the onResponse hooks and the log line of these connections.
    close: () => {
      void registry.drained.then(() => {
        undo()
        closed()
        server.emit('close')
      })
      return true
    }
  })
  // Whoever closes the server: Fastify, or a library that was given it.
  const closing = override(server, 'close', usual => function (this: Server, ...args: Parameters<Server['close']>) {
    registry.shutDown()
    connections.close()
    return usual.apply(server, args)
  } as Server['close'])
  const undo = (): void => {
    closing()
    connections.undo()
    streams?.undo()
  }
  registry.addServer(connections)
  if (streams !== undefined) registry.addServer(streams)
}
