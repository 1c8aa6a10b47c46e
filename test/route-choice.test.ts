import t from 'tap'
import type { IncomingMessage } from 'node:http'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import duplex, { type DuplexConnection } from '../lib/index.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { onEach, serve } from './fixtures/server.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** Counts what the plugin asks the router of an app. */
function counting (app: FastifyInstance, asked: { count: number }): void {
  const { findRoute } = app
  app.findRoute = function (options) {
    asked.count++
    return findRoute.call(this, options)
  }
}

const tenant = (derived: string[]): never => ({
  name: 'tenant',
  storage () {
    const handlers = new Map<unknown, unknown>()
    return { get: (key: unknown) => handlers.get(key) ?? null, set: (key: unknown, store: unknown) => { handlers.set(key, store) } }
  },
  deriveConstraint ({ headers, url }: IncomingMessage) {
    derived.push(url as string)
    return headers['x-tenant']
  },
  validate () {}
}) as never

onEach(t, 'Q26 the router is asked once for a request, and for a URL that no duplex route can have not at all', async (t, transport) => {
  const asked = { count: 0 }
  const { connect } = await serve(t, { transport, before: app => counting(app, asked) }, app => {
    app.get('/rooms/:room', { duplex: true, constraints: { host: 'a' } }, echo)
    app.get('/rooms/:room', { duplex: true, constraints: { host: /^a$/, version: '1.2.0' } }, echo)
    app.get('/rooms/:room', { constraints: { host: 'a' } }, async () => 'plain')
    app.get('/rooms/:room', { constraints: { host: /a/ } }, async () => 'plain')
    app.get('/other', async () => 'other')
  })
  const at = async (url: string, ...fields: string[]): Promise<number> => {
    asked.count = 0
    await (await connect()).send(request(`GET ${url}`, ...fields)).head()
    return asked.count
  }
  t.equal(await at('/rooms/7', ...UPGRADE), 1)
  t.equal(await at('/rooms/7', ...UPGRADE, 'Accept-Version: 1.x'), 1)
  t.equal(await at('/rooms/7'), 1)
  t.equal(await at('/rooms/7', 'Connection: Upgrade', 'Upgrade: h2c'), 1, 'an Upgrade that is ignored')
  t.equal(await at('/other'), 0)
  t.equal(await at('/other', ...UPGRADE), 0)
})

onEach(t, 'Q56 no function of the app is called twice for one request', async (t, transport) => {
  const derived: string[] = []
  const rewritten: string[] = []
  const parsed: string[] = []
  const { connect } = await serve(t, {
    transport,
    fastify: {
      rewriteUrl: ({ url }) => {
        rewritten.push(url as string)
        return (url as string).replace('/v1', '')
      },
      routerOptions: {
        constraints: { tenant: tenant(derived) },
        querystringParser: text => {
          parsed.push(text)
          return {}
        }
      }
    }
  }, app => {
    app.get('/it', { duplex: true, constraints: { tenant: 'a' } as never }, echo)
    app.get('/shared', { duplex: { kinds: ['upgrade'] } }, echo)
    app.get('/shared', { constraints: { tenant: 'a' } as never }, async () => 'plain')
    app.get('/other', async () => 'other')
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
  })
  for (const [line, status, ...fields] of [
    ['GET /v1/it?x', 101, ...UPGRADE], ['GET /v1/it?x', 200], ['GET /v1/shared?x', 200], ['GET /v1/shared?x', 101, ...UPGRADE],
    ['GET /v1/shared?x', 200, 'Connection: Upgrade', 'Upgrade: h2c'], ['GET /v1/other?x', 200], ['GET /v1/other?x', 200, ...UPGRADE],
    ['CONNECT h:1', 200]
  ] as [string, number, ...string[]][]) {
    for (const list of [derived, rewritten, parsed]) list.length = 0
    const { status: got } = await (await connect()).send(request(line, ...fields, 'X-Tenant: a')).head()
    t.same([got, derived.length, rewritten.length, parsed.length], [status, line.startsWith('CONNECT') ? derived.length : 1, 1, 1], `${line} ${fields.join()}`)
    t.ok(derived.length <= 1)
  }
})

t.test('Q56 without a duplex route nothing is asked, and for an injected request nothing twice', async t => {
  const derived: string[] = []
  const asked = { count: 0 }
  for (const routes of ['none', 'some']) {
    const app = Fastify({ routerOptions: { constraints: { tenant: tenant(derived) } } })
    t.teardown(() => app.close())
    counting(app, asked)
    await app.register(duplex)
    app.get('/it', { constraints: { tenant: 'a' } as never }, async () => 'plain')
    if (routes === 'some') app.get('/it', { duplex: true, constraints: { tenant: 'b' } as never }, echo)
    derived.length = 0
    asked.count = 0
    t.equal((await app.inject({ url: '/it', headers: { 'x-tenant': 'a' } })).body, 'plain')
    t.same([derived.length, asked.count], [1, routes === 'none' ? 0 : 1])
    if (routes === 'some') {
      t.equal((await app.inject({ url: '/it', headers: { 'x-tenant': 'b' } })).json().code, 'FST_ERR_DUPLEX_NO_CONNECTION')
      t.equal(derived.length, 2)
    }
  }
})

for (const [what, url] of [['for every method', '/*'], ['with parameters', '/:a/:b']] as const) {
  onEach(t, `Q16 a plain route ${what} hides no CONNECT`, async (t, transport) => {
    const { connect } = await serve(t, { transport }, app => {
      app.all(url, async ({ method }) => method)
      app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
    })
    t.equal((await (await connect()).send(request('CONNECT a:1')).head()).status, 200)
    t.equal((await exchange(await connect(), 'GET /a/1')).body, 'GET')
  })
}

t.test('Q16 a plain route of an app that has added CONNECT by itself hides none either', async t => {
  const { connect } = await serve(t, {
    before: app => {
      app.addHttpMethod('CONNECT')
      app.all('/*', async () => 'plain')
    }
  }, app => {
    app.all('/:a/:b', async () => 'plain')
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
  })
  t.equal((await (await connect()).send(request('CONNECT a:1')).head()).status, 200)
  t.equal((await exchange(await connect(), 'GET /a/1')).body, 'plain')
})

t.test('Q16 the plugin adds nothing to what an app takes for all methods', async t => {
  const before = Fastify().supportedMethods
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  t.same(app.supportedMethods, before)
  const declared: unknown[] = []
  app.addHook('onRoute', ({ method }) => { declared.push(method) })
  app.all('/it', async () => '')
  app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
  t.same(declared, [before, 'CONNECT'])
  t.type((app as unknown as { connect: unknown }).connect, 'function')
})

t.test('Q57 an app tells of duplex routes as of plain ones', async t => {
  const tellOf = async (duplexes: boolean): Promise<unknown[]> => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(duplex)
    const option = (duplexes ? { duplex: true } : {}) as { duplex: true }
    const handler = (async () => {}) as never
    app.get('/rooms/:room', { ...option, constraints: { host: 'a.com' } }, handler)
    app.get('/rooms/:room', option, handler)
    app.route({ method: ['POST', 'PUT'], url: '/files/*', ...option, handler })
    app.get('/plain', async () => '')
    await app.ready()
    const found = (url: string, constraints?: Record<string, unknown>): unknown => {
      const route = app.findRoute({ method: 'GET', url, ...(constraints === undefined ? {} : { constraints }) } as never)
      return route === null ? null : [typeof route.handler, { ...route.params }, route.searchParams]
    }
    return [
      app.printRoutes(), app.printRoutes({ commonPrefix: false }),
      app.hasRoute({ method: 'GET', url: '/rooms/:room' }), app.hasRoute({ method: 'GET', url: '/rooms/:other' }),
      app.hasRoute({ method: 'PUT', url: '/files/*' }), app.hasRoute({ method: 'GET', url: '/files/*' }),
      app.hasRoute({ method: 'GET', url: '/rooms/:room', constraints: { host: 'a.com' } }),
      app.hasRoute({ method: 'GET', url: '/rooms/:room', constraints: { host: 'b.com' } }),
      found('/rooms/7?a=b'), found('/rooms/7', { host: 'a.com' }), found('/plain'), found('/nothing')
    ]
  }
  t.same(await tellOf(true), await tellOf(false))
})

t.test('Q57 a plain and a duplex route at one URL are both told of', async t => {
  const app = Fastify({ exposeHeadRoutes: false })
  t.teardown(() => app.close())
  await app.register(duplex)
  app.get('/it', async () => '')
  app.get('/it', { duplex: true }, echo)
  await app.ready()
  t.ok(app.hasRoute({ method: 'GET', url: '/it' }))
  t.not(app.findRoute({ method: 'GET', url: '/it' }), null)
  t.equal(app.printRoutes(), '└── /\n    └── it (GET)\n        it (GET)\n')
})

t.test('Q26 versions of duplex routes and of plain ones do not hide each other', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true, constraints: { version: '1.2.0' } }, async ({ writable }) => { writable.end('1.2') })
    app.get('/it', { constraints: { version: '1.5.0' } }, async ({ headers }) => `plain ${headers['accept-version']}`)
    app.get('/on/*', { duplex: { kinds: ['upgrade'] }, constraints: { version: '1.0.0' } }, async ({ reply, writable }) => {
      writable.end(String(reply.request.headers['accept-version']))
    })
  })
  const upgraded = async (url: string, version: string): Promise<string> => {
    const wire = await connect()
    t.equal((await wire.send(request(`GET ${url}`, ...UPGRADE, `Accept-Version: ${version}`)).head()).status, 101)
    return (await wire.rest()).toString()
  }
  t.equal(await upgraded('/it', '1.x'), '1.2')
  t.equal((await exchange(await connect(), 'GET /it', 'Accept-Version: 1.x')).body, 'plain 1.x')
  t.equal(await upgraded('/on/it', '1.x'), '1.x', 'the field is there for who looks')
})
