import type { Server } from 'node:http'
import fp from 'fastify-plugin'
import type { FastifyInstance, FastifyPluginCallback, RouteOptions } from 'fastify'
import { claimOf, type Claim } from './handshake/claim.ts'
import { DuplexRoutes } from './routes/find.ts'
import {
  FST_ERR_DUPLEX_ALREADY_REGISTERED, FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_LATE_REGISTRATION, FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME
} from './errors.ts'
import { markRegistered, routingOptions, secondaryServers } from './internals/fastify.ts'
import { holdCloseUntilDrained } from './shutdown/hold-close.ts'
import { Http1Gate } from './http1/gate.ts'
import { watchHttp1 } from './http1/server.ts'
import { Http2Gate } from './http2/gate.ts'
import { speaksHttp2, watchHttp2 } from './http2/server.ts'
import { injector } from './inject/inject.ts'
import { assertNodeInternals } from './internals/probe.ts'
import { checkDuration, pluginSettings } from './options.ts'
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
  const missing = assertNodeInternals()
  if (missing !== undefined) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME(missing)

  const registry = new Registry(settings)
  const routes = new DuplexRoutes(app, routing, req => claimOf(req))
  const http1 = new Http1Gate(routes, (claim: Claim) => registry.refused(claim))
  const http2 = new Http2Gate(routes)
  if (settings.extendedConnect && !speaksHttp2(app.server)) throw new FST_ERR_DUPLEX_INVALID_OPTION('extendedConnect', 'used with http2: true', 'true')
  if (!app.supportedMethods.includes('CONNECT')) app.addHttpMethod('CONNECT')
  app.decorate('duplex', {
    connections: registry.connections as never,
    drain: async (timeout?: Milliseconds) => {
      checkDuration('drain(ms)', timeout)
      await registry.drain(timeout)
    }
  })
  app.decorate('injectDuplex', injector(app))

  app.addHook('onRoute', function (this: FastifyInstance, route: RouteOptions) {
    const { duplex } = route as { duplex?: unknown }
    if (duplex !== undefined && duplex !== false) declareRoute(this, route, settings, routes, registry)
  })
  const watch = (server: Server): void => {
    // With allowHTTP1 a server speaks both; connections that speak HTTP/2 have no parser of HTTP/1.
    watchHttp1(server, app.server as Server, app, http1, registry)
    holdCloseUntilDrained(server, registry)
    if (speaksHttp2(server)) watchHttp2(server, app, http2, registry, settings)
  }
  app.addHook('onReady', function (done) {
    routes.seal()
    watch(app.server as Server)
    const { requestTimeout } = app.server as Server
    if (requestTimeout > 0 && routes.takeBodies) {
      app.log.warn({ requestTimeout }, 'requestTimeout ends request bodies that last longer, those of duplex messages included')
    }
    done()
  })
  app.addHook('onListen', function (done) {
    for (const server of secondaryServers(app) ?? []) watch(server)
    done()
  })
  // The drain only starts here. A hook that waited would run into the plugin timeout, and make close()
  // reject; that the connections end is what closing the server waits for.
  app.addHook('preClose', function (done) {
    registry.shutDown()
    done()
  })
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
