import type { Server } from 'node:http'
import fp from 'fastify-plugin'
import type { FastifyInstance, FastifyPluginCallback, RouteOptions } from 'fastify'
import { claimOf } from './handshake/claim.ts'
import { DuplexRoutes } from './routes/find.ts'
import {
  FST_ERR_DUPLEX_ALREADY_REGISTERED, FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_LATE_REGISTRATION, FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME
} from './errors.ts'
import { markRegistered, onSecondaryServer, routingOptions } from './internals/fastify.ts'
import { Http1Gate } from './http1/gate.ts'
import { Http1Server } from './http1/server.ts'
import { Http2Gate } from './http2/gate.ts'
import { Http2Streams, speaksHttp2 } from './http2/server.ts'
import { injector } from './inject/inject.ts'
import { probeTakeover } from './internals/probe.ts'
import { override } from './internals/server-events.ts'
import { checkDuration, pluginSettings, type PluginSettings } from './options.ts'
import { Registry } from './shutdown/registry.ts'
import { declareRoute } from './routes/declare.ts'
import type { FastifyDuplexOptions, Milliseconds } from '../types/index.ts'

function setUp (app: FastifyInstance, options: FastifyDuplexOptions): void {
  const settings = pluginSettings(options)
  const { again, tooEarly } = markRegistered(app)
  if (again) throw new FST_ERR_DUPLEX_ALREADY_REGISTERED()
  if (tooEarly !== undefined) throw new FST_ERR_DUPLEX_LATE_REGISTRATION(tooEarly)
  const routing = routingOptions(app)
  if (routing === undefined) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME('this Fastify does not show how it routes')
  const missing = probeTakeover()
  if (missing !== undefined) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME(missing)

  const registry = new Registry(settings)
  const routes = new DuplexRoutes(app, routing, req => claimOf(req))
  const http1 = new Http1Gate(routes)
  const http2 = new Http2Gate(routes)
  if (settings.extendedConnect && !speaksHttp2(app.server)) throw new FST_ERR_DUPLEX_INVALID_OPTION('extendedConnect', 'used with http2: true', 'true')
  if (!app.supportedMethods.includes('CONNECT')) app.addHttpMethod('CONNECT')
  app.decorate('duplex', {
    connections: registry.connections.view as never,
    drain: async (timeout?: Milliseconds) => {
      checkDuration('drain(ms)', timeout)
      await registry.drain(timeout)
    }
  })
  // A server that has closed is watched no more, and answers an injection with a 503 all the same.
  app.decorate('injectDuplex', injector(app, () => watch(app.server as Server)))

  app.addHook('onRoute', function (this: FastifyInstance, route: RouteOptions) {
    const { duplex } = route as { duplex?: unknown }
    if (duplex !== undefined && duplex !== false) declareRoute(this, route, settings, routes, registry)
  })
  const watch = (server: Server): void => watchServer(server, app, { http1, http2 }, registry, settings)
  app.addHook('onReady', function (done) {
    routes.seal()
    watch(app.server as Server)
    onSecondaryServer(app, watch)
    const { requestTimeout } = app.server as Server
    if (requestTimeout > 0 && routes.takeBodies) {
      app.log.warn({ requestTimeout }, 'requestTimeout ends request bodies that last longer, those of duplex messages included')
    }
    done()
  })
  // The drain only starts here. A hook that waited would run into the plugin timeout, and make close()
  // reject; that the connections end is what closing the server waits for.
  app.addHook('preClose', function (done) {
    registry.shutDown()
    done()
  })
}

interface Gates {
  http1: Http1Gate
  http2: Http2Gate
}

/** Servers that the plugin is on. */
const watched = new WeakSet<object>()

/** From here until it has closed, the server tells the plugin what becomes of its connections. */
function watchServer (server: Server, app: FastifyInstance, gates: Gates, registry: Registry, settings: PluginSettings): void {
  if (watched.has(server)) return
  watched.add(server)
  const streams = speaksHttp2(server) ? new Http2Streams(server, app, gates.http2, registry, settings.finTimeout) : undefined
  if (settings.extendedConnect && speaksHttp2(server)) server.updateSettings({ enableConnectProtocol: true })
  // With allowHTTP1 a server speaks both; connections that speak HTTP/2 have no parser of HTTP/1.
  const connections = new Http1Server(server, app.server as Server, app, gates.http1, registry, {
    ...streams?.interceptors,
    // Node emits it when the last sockets are destroyed, before they have closed: onClose hooks and the end of app.close()
    // would overtake `closed`, the onResponse hooks and the log line of these connections.
    close: () => {
      void registry.drained.then(() => {
        undo()
        watched.delete(server)
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

const register: FastifyPluginCallback<FastifyDuplexOptions> = (app, options, done) => {
  // What a plugin throws here would end the process: Fastify hears of it through its callback alone.
  let failure: Error | undefined
  try {
    setUp(app, options)
  } catch (error) {
    failure = error as Error
  }
  done(failure)
}

/** The Fastify plugin. */
export const plugin: FastifyPluginCallback<FastifyDuplexOptions> = fp(register, {
  fastify: '5.x',
  name: 'fastify-duplex'
})
