import type { Server } from 'node:http'
import fp from 'fastify-plugin'
import type { FastifyInstance, FastifyPluginCallback, RouteOptions } from 'fastify'
import { claimOf } from './handshake/claim.ts'
import { DuplexRoutes } from './routes/find.ts'
import { letForwardRoutesHaveNoHandler } from './routes/forward-routes.ts'
import { showLikePlainRoutes } from './routes/show-like-plain.ts'
import {
  FST_ERR_DUPLEX_ALREADY_REGISTERED, FST_ERR_DUPLEX_LATE_REGISTRATION, FST_ERR_DUPLEX_UNSAFE_SERVER, FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME
} from './errors.ts'
import { allowConnect, markRegistered, markSeen, missingParts, onHijack, onSecondaryServer, routingOptions } from './internals/fastify.ts'
import { Http1Gate } from './http1/gate.ts'
import { Http2Gate } from './http2/gate.ts'
import { speaksHttp2 } from './http2/server.ts'
import { asyncapi } from './messages/asyncapi.ts'
import { injector } from './inject/inject.ts'
import { probeTakeover } from './internals/probe.ts'
import { checkDuration, invalidOption } from './check-options.ts'
import { pluginSettings } from './options.ts'
import { closeUpstreams } from './relay/forward/upstreams.ts'
import { Registry } from './shutdown/registry.ts'
import { checkPlainRoute, declareRoute } from './routes/declare.ts'
import { Servers } from './watch-server.ts'
import type { AsyncApiOptions, DuplexRevocation, FastifyDuplexOptions, Milliseconds } from '../types/index.ts'

function setUp (app: FastifyInstance, options: FastifyDuplexOptions): void {
  const settings = pluginSettings(options)
  const { again, tooEarly } = markRegistered(app, () => {
    routes.seal()
    servers.watch(app.server as Server)
    onSecondaryServer(app, server => servers.watch(server))
    const { requestTimeout } = app.server as Server
    if (requestTimeout > 0 && routes.takeBodies) {
      app.log.warn({ requestTimeout }, 'requestTimeout ends request bodies that last longer, those of duplex routes included')
    }
  })
  if (again) throw new FST_ERR_DUPLEX_ALREADY_REGISTERED()
  if (tooEarly !== undefined) throw new FST_ERR_DUPLEX_LATE_REGISTRATION(tooEarly)
  const routing = routingOptions(app)
  if (routing === undefined) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME('this Fastify does not show how it routes')
  const missing = missingParts(app) ?? probeTakeover()
  if (missing !== undefined) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME(missing)

  assertSafe(app.server as Server)
  if (settings.extendedConnect && !speaksHttp2(app.server)) throw invalidOption('extendedConnect', 'used with http2: true', true)
  if (!allowConnect(app)) throw new FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME('this Fastify does not show which methods it takes')

  onHijack(app, req => claimOf(req)?.step('hijack'))
  const registry = new Registry(settings)
  const routes = new DuplexRoutes(app, routing, req => claimOf(req))
  const wantsHost = (app.server as Server & { requireHostHeader?: boolean }).requireHostHeader !== false
  const gates = { http1: new Http1Gate(routes, wantsHost), http2: new Http2Gate(routes) }
  const servers = new Servers(app, gates, registry, settings)
  app.decorate('duplex', {
    connections: registry.connections.view as never,
    asyncapi: (options: AsyncApiOptions) => asyncapi(routes.all, options),
    drain: async (timeout?: Milliseconds) => {
      checkDuration('drain(ms)', timeout)
      await registry.drain(timeout)
    },
    find: (label: string) => registry.governance.find(label).map(({ connection }) => connection as never),
    close: (label: string, revocation?: DuplexRevocation) => {
      checkDuration('close(label, { within })', revocation?.within)
      return registry.governance.close(label, revocation)
    }
  })
  // After the server has closed it is not watched. It is watched again here, so that an injection gets a 503.
  app.decorate('injectDuplex', injector(app, () => servers.watch(app.server as Server)))

  app.addHook('onRoute', function (this: FastifyInstance, route: RouteOptions) {
    const { duplex } = route as { duplex?: unknown }
    routes.assertKnown(route.url, route.constraints ?? {})
    if (duplex === undefined || duplex === false) {
      checkPlainRoute(route)
    } else {
      declareRoute(this, route, settings, routes, registry)
      markSeen(this, route)
    }
  })
  showLikePlainRoutes(app, routes)
  letForwardRoutesHaveNoHandler(app)
  // The drain only starts here. A hook that waited could exceed the plugin timeout, and close() would
  // reject. To close the server waits until all connections have ended.
  app.addHook('preClose', function (done) {
    servers.appCloses()
    registry.shutDown()
    done()
  })
  app.addHook('onClose', async () => {
    // If the server does not listen, nothing else waits for its connections.
    if (!(app.server as Server).listening) await registry.drained
    void registry.drained.then(() => setImmediate(() => servers.unwatchAll()))
    closeUpstreams(app)
  })
}

/** Throws for lenient parsing, with which a client may decide what is a body and what is the next request. */
function assertSafe (server: Server): void {
  const { insecureHTTPParser } = server as Server & { insecureHTTPParser?: boolean }
  const flag = '--insecure-http-parser'
  const forAll = process.execArgv.includes(flag) || (process.env.NODE_OPTIONS ?? '').includes(flag)
  if (insecureHTTPParser ?? (forAll && 'maxHeadersCount' in server)) throw new FST_ERR_DUPLEX_UNSAFE_SERVER('insecureHTTPParser')
}

const register: FastifyPluginCallback<FastifyDuplexOptions> = (app, options, done) => {
  // An error that is thrown here would end the process. Fastify is told of it by the callback.
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
  fastify: '5.x || 6.x',
  name: 'fastify-duplex'
})
