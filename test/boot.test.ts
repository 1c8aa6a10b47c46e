import t from 'tap'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { restartable } from '@fastify/restartable'
import swagger from '@fastify/swagger'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import duplex, { type DuplexConnection } from '../lib/index.ts'

const handler = (({ writable }: DuplexConnection) => { writable.end() }) as never
const GET = { method: 'GET', url: '/it', handler } as const

/** What comes of an app that is made ready. */
async function boot (declare: (app: FastifyInstance) => unknown, options = {}): Promise<{ code: string | undefined, message: string }> {
  const app = Fastify(options)
  try {
    await declare(app)
    await app.ready()
    return { code: undefined, message: 'ready' }
  } catch (error) {
    return error as { code: string, message: string }
  } finally {
    await app.close().catch(() => {})
  }
}

t.test('Q14 a duplex route in a scope where the plugin is not registered fails at boot', async t => {
  const error = await boot(app => {
    app.register(async child => { await child.register(duplex) })
    app.register(async other => { other.get('/other', { duplex: true }, handler) })
  })
  t.match(error, { code: 'FST_ERR_DUPLEX_NOT_REGISTERED', message: /GET \/other/ })
  t.match(await boot(app => app.get('/alone', { duplex: true }, handler)), { code: 'FST_ERR_DUPLEX_NOT_REGISTERED', message: /GET \/alone/ })
})

t.test('Q14 the plugin may be registered in one scope, and then has its routes there', async t => {
  const error = await boot(app => {
    app.register(async child => {
      await child.register(duplex)
      child.route({ ...GET, duplex: true })
      child.register(async grandchild => { grandchild.get('/inner', { duplex: true }, handler) })
    })
    app.route({ ...GET, duplex: false })
  })
  t.equal(error.message, 'ready')
})

t.test('Q14 Q38 a duplex route before the plugin fails, and is told what to do', async t => {
  const error = await boot(async app => {
    app.register(duplex)
    app.route({ ...GET, duplex: true })
  })
  t.match(error, { code: 'FST_ERR_DUPLEX_LATE_REGISTRATION', message: /found GET \/it: await app.register\(duplex\) first, or declare the routes in a plugin/ })
})

for (const order of ['before', 'after']) {
  t.test(`Q14 websocket: true beside duplex fails at boot, with @fastify/websocket registered ${order} the plugin`, async t => {
    for (const option of [{ websocket: true }, { wsHandler: () => {} }]) {
      const error = await boot(async app => {
        if (order === 'before') await app.register(websocket)
        await app.register(duplex)
        if (order === 'after') await app.register(websocket)
        app.route({ ...GET, ...option, duplex: true } as never)
      })
      t.match(error, { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: /duplex on route GET \/it must be left out beside .*@fastify\/websocket/ })
    }
  })
}

t.test('Q14 the url of a CONNECT route that is a target fails at boot, and the error says which path that is', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  const declare = (): unknown => app.route({ method: 'CONNECT', url: 'db.test:5432', duplex: true, handler: () => {} } as never)
  t.throws(declare, { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: /"\/db\.test\/5432"/ })
})

t.test('Q14 a plain CONNECT route fails at boot', async t => {
  for (const method of ['CONNECT', 'connect', ['CONNECT']]) {
    const error = await boot(async app => {
      await app.register(duplex)
      app.route({ method: method as 'GET', url: '/x', handler: async () => '' })
    })
    t.match(error, { code: 'FST_ERR_DUPLEX_PLAIN_CONNECT', message: /\/x/ }, String(method))
  }
})

t.test('a constraint without a strategy fails at boot', async t => {
  for (const constraints of [{ nobody: 'x' }, { host: 7 }, { version: /1/ }]) {
    const error = await boot(async app => {
      await app.register(duplex)
      app.route({ ...GET, duplex: true, constraints: constraints as never })
    })
    t.equal(error.code, 'FST_ERR_DUPLEX_UNKNOWN_CONSTRAINT', JSON.stringify(constraints))
  }
})

/** Runs in a process in which the package is loaded when the app is there already. */
async function late (declare: string): Promise<string> {
  const program = `
    import Fastify from 'fastify'
    const strategy = { name: 'tenant', storage: () => new Map(), deriveConstraint: () => undefined, validate () {} }
    const app = Fastify()
    const handler = async () => {}
    const plugin = () => import(${JSON.stringify(new URL('../lib/index.js', import.meta.url).href)})
    try {
      ${declare}
      await app.ready()
      console.log('ready')
    } catch (error) { console.log(error.code, error.message) }
    await app.close().catch(() => {})`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], { cwd: new URL('../..', import.meta.url) })
  let said = ''
  child.stdout.on('data', chunk => { said += String(chunk) })
  child.stderr.on('data', chunk => { said += String(chunk) })
  await once(child, 'close')
  return said.trim()
}

t.test('Q14 app.register(import(\'fastify-duplex\')): what cannot be honoured any more fails at boot', async t => {
  const duplexRoute = 'app.get("/it", { duplex: true }, handler)'
  t.equal(await late(`await app.register(plugin()); ${duplexRoute}`), 'ready')
  t.equal(await late(`app.register(plugin()); app.register(async app => { ${duplexRoute} })`), 'ready')
  t.match(await late(`app.register(plugin()); ${duplexRoute}`), /^FST_ERR_DUPLEX_LATE_REGISTRATION .*import it at the top/)
  t.match(await late(`await app.register(plugin()); app.register(async app => { ${duplexRoute} }); app.addConstraintStrategy(strategy)`), 'ready')
  const constrained = 'app.get("/it", { duplex: true, constraints: { tenant: "a" } }, handler)'
  t.match(await late(`app.addConstraintStrategy(strategy); await app.register(plugin()); ${constrained}`), /^FST_ERR_DUPLEX_LATE_REGISTRATION .*constraint tenant of route \/it/)
  t.equal(await late(`await app.register(plugin()); app.addConstraintStrategy(strategy); ${constrained}`), 'ready')
  const inOther = `app.register(async app => { await app.register(plugin()) }); app.register(async app => { ${duplexRoute} })`
  t.match(await late(inOther), /^FST_ERR_DUPLEX_NOT_REGISTERED .*GET \/it/)
})

t.test('Q14 a package that is loaded in a scope, as fastify-cli does it: a duplex route in a scope beside it fails at boot', async t => {
  const route = 'app.get("/it", { duplex: true }, handler)'
  /** In a scope of a scope; what is declared there is at work when this scope is there already. */
  const beside = (declare: string): string => `app.register(async app => {
    app.register(async app => { await app.register(plugin()) })
    ${declare}
  })`
  t.match(await late(beside(`app.register(async app => { ${route} })`)), /^FST_ERR_DUPLEX_NOT_REGISTERED .*GET \/it/)
  t.match(await late(beside(`app.register(async app => { app.register(async app => { ${route} }) })`)), /^FST_ERR_DUPLEX_NOT_REGISTERED .*GET \/it/)
  t.match(await late(beside(`app.after(() => { ${route} })`)), /^FST_ERR_DUPLEX_NOT_REGISTERED .*GET \/it/)
  t.equal(await late(beside('app.register(async app => { app.get("/plain", handler) })')), 'ready')
  t.equal(await late(`app.register(async app => { await app.register(plugin()); app.register(async app => { ${route} }) })`), 'ready')
})

for (const part of ['fastify.children', 'fastify.Reply']) {
  t.test(`Q14 a Fastify without ${part} is told at registration`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    const symbol = Object.getOwnPropertySymbols(app).find(({ description }) => description === part) as symbol
    const kept: unknown = Reflect.get(app, symbol)
    Reflect.deleteProperty(app, symbol)
    await t.rejects(async () => { await app.register(duplex) }, { code: 'FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME' })
    Reflect.set(app, symbol, kept)
  })
}

t.test('Q14 a Fastify whose replies keep their fields elsewhere is told at registration', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const symbol = Object.getOwnPropertySymbols(app).find(({ description }) => description === 'fastify.Reply') as symbol
  Reflect.set(app, symbol, class { headers = {} })
  await t.rejects(async () => { await app.register(duplex) }, { code: 'FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME', message: /fastify.reply.headers/ })
})

t.test('Q13 an app of @fastify/restartable is restarted as often as one likes', async t => {
  let made = 0
  const app = await restartable(async (factory, options) => {
    const app = factory(options)
    const number = ++made
    await app.register(duplex)
    app.get('/plain', async () => number)
    app.get('/it', { duplex: true }, async ({ writable }: DuplexConnection) => { writable.end(String(number)) })
    return app
  }, {})
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  for (const number of [1, 2, 3]) {
    t.equal((await app.inject('/plain')).body, String(number))
    if (number < 3) await (app as unknown as { restart: () => Promise<void> }).restart()
  }
  t.equal(made, 3)
})

t.test('Q24 a server whose parser is lenient fails at boot', async t => {
  t.match(await boot(app => app.register(duplex), { http: { insecureHTTPParser: true } }), { code: 'FST_ERR_DUPLEX_UNSAFE_SERVER', message: /insecureHTTPParser/ })
  t.equal((await boot(app => app.register(duplex), { http: { insecureHTTPParser: false } })).message, 'ready')
})

t.test('Q38 an unknown option is named, with its route and the one that may be meant', async t => {
  const told = async (name: string): Promise<string> => (await boot(async app => {
    await app.register(duplex)
    app.route({ ...GET, method: ['GET', 'POST'], duplex: { [name]: 1 } as never })
  })).message
  t.equal(await told('idleTimeOut'), 'unknown duplex option "idleTimeOut" on route GET, POST /it, did you mean "idleTimeout"?')
  t.equal(await told('protocol'), 'unknown duplex option "protocol" on route GET, POST /it, did you mean "protocols"?')
  t.equal(await told('colour'), 'unknown duplex option "colour" on route GET, POST /it')
  const plugin = await boot(app => app.register(duplex, { drainTimout: 1 } as never))
  t.match(plugin, { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: 'unknown duplex option "drainTimout", did you mean "drainTimeout"?' })
  t.equal((await boot(app => app.register(duplex, { idleTimeout: -1 }))).message,
    'duplex option idleTimeout must be a whole number of milliseconds from 0 to 2147483647, got -1')
})

for (const order of ['before', 'after']) {
  t.test(`Q46 duplex routes are not in the document of @fastify/swagger, registered ${order} the plugin, unless the app wants it`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    if (order === 'before') await app.register(swagger, { openapi: {} })
    await app.register(duplex)
    if (order === 'after') await app.register(swagger, { openapi: {} })
    app.route({ ...GET, duplex: true })
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler })
    app.get('/shown', { duplex: true, schema: { hide: false, querystring: { type: 'object', properties: { a: { type: 'string' } } } } as never }, handler)
    app.all('/plain', async () => '')
    await app.ready()
    const { paths } = app.swagger() as { paths: Record<string, Record<string, unknown>> }
    t.same(Object.keys(paths).sort(), ['/plain', '/shown'])
    t.same(Object.keys(paths['/shown'] as object), ['get'])
    t.notOk('connect' in (paths['/plain'] as object))
  })
}
