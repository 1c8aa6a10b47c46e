import t from 'tap'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { type FastifyRequest } from 'fastify'
import duplex, { type FastifyDuplexOptions } from '../lib/index.ts'
import { KeySlots } from '../lib/governance/key-slots.ts'
import { acrossAll, attempt, field, forever } from './fixtures/governed.ts'
import { ask, statusOf, take, takeManually } from './fixtures/kinds.ts'
import { serveBriefly } from './fixtures/lifetime.ts'
import { until } from './fixtures/patience.ts'
import { gate, serve } from './fixtures/server.ts'

acrossAll(t, 'GV1 the connection above the limit of its key gets 429 and Retry-After', async (t, kind, transport) => {
  const server = await serveBriefly(t, { transport }, app => take(app, forever, { maxConnections: { max: 2, key: field('x-key') } }))
  const ours = await attempt(server, kind, 'X-Key: a')
  t.equal(ours.status, statusOf(kind, transport))
  t.equal((await attempt(server, kind, 'X-Key: a')).status, ours.status)
  const third = await attempt(server, kind, 'X-Key: a')
  t.same([third.status, third.code], [429, 'FST_ERR_DUPLEX_MAX_PER_KEY'])
  t.match(third.headers['retry-after'], /^\d+$/)
  t.equal((await attempt(server, kind, 'X-Key: b')).status, ours.status, 'another key has its own')
  ours.wire.reset()
  await until(() => server.app.duplex.connections.size <= 2)
  t.equal((await attempt(server, kind, 'X-Key: a')).status, ours.status, 'a place is free with the end of the connection')
})

t.test('GV1 a request counts while its hooks run, and while it is pending', async t => {
  const entered = gate()
  const held = gate()
  const server = await serveBriefly(t, { plugin: { maxConnections: { max: 1, key: field('x-key') } } }, app => {
    app.addHook('preHandler', async request => {
      if (request.headers['x-key'] === 'hook') {
        entered.open()
        await held.promise
      }
    })
    takeManually(app, async pending => {
      if (pending.reply.request.headers['x-key'] === 'pending') await forever()
      await pending.accept()
      await forever()
    })
  })
  const slow = await server.connect()
  slow.send(ask('upgrade', 'X-Key: hook'))
  await entered.promise
  t.equal((await attempt(server, 'upgrade', 'X-Key: hook')).status, 429)
  held.open()
  t.equal((await slow.head()).status, 101)
  const pending = await server.connect()
  pending.send(ask('upgrade', 'X-Key: pending'))
  await until(() => server.app.duplex.connections.size >= 2)
  t.equal((await attempt(server, 'upgrade', 'X-Key: pending')).status, 429)
})

/** What may become of a request before it is accepted: its place is free again behind each. */
const fates: Record<string, { headers?: string[], status?: number }> = {
  'is refused by a hook': { headers: ['X-Refuse: yes'], status: 403 },
  'is refused by its handler': { headers: ['X-Answer: yes'], status: 418 },
  'has a client that leaves': { headers: ['X-Leave: yes'] }
}
for (const [fate, { headers = [], status }] of Object.entries(fates)) {
  t.test(`GV1 a key is free again when its request ${fate}`, async t => {
    const arrived = gate()
    const server = await serveBriefly(t, {}, app => {
      app.addHook('preHandler', async (request, reply) => {
        if (request.headers['x-refuse'] !== undefined) await reply.code(403).send({ code: 'no' })
        if (request.headers['x-leave'] === undefined) return
        arrived.open()
        await forever()
      })
      app.get('/it', { duplex: { accept: 'manual', maxConnections: { max: 1, key: field('x-key') } } }, async pending => {
        if (pending.reply.request.headers['x-answer'] !== undefined) return await pending.reply.code(418).send({ code: 'no' })
        await pending.accept()
        return await forever()
      })
    })
    for (let times = 0; times < 3; times++) {
      if (status !== undefined) {
        t.equal((await attempt(server, 'upgrade', 'X-Key: a', ...headers)).status, status)
        continue
      }
      const wire = await server.connect()
      wire.send(ask('upgrade', 'X-Key: a', ...headers))
      await arrived.promise
      wire.reset()
      await until(async () => await server.sockets() === 0)
    }
    t.equal((await attempt(server, 'upgrade', 'X-Key: a')).status, 101)
  })
}

t.test('GV1 the key knows what the onRequest hooks have found out, and is asked once', async t => {
  let asked = 0
  const server = await serveBriefly(t, {}, app => {
    app.decorateRequest('client', '')
    app.addHook('onRequest', async request => {
      await turn()
      ;(request as FastifyRequest & { client: string }).client = String(request.headers.authorization)
    })
    take(app, forever, {
      maxConnections: {
        max: 1,
        key: request => {
          asked++
          return (request as FastifyRequest & { client: string }).client
        }
      }
    })
  })
  t.equal((await attempt(server, 'upgrade', 'Authorization: one')).status, 101)
  t.equal((await attempt(server, 'upgrade', 'Authorization: two')).status, 101)
  t.equal((await attempt(server, 'upgrade', 'Authorization: one')).status, 429)
  t.equal(asked, 3)
})

t.test('GV1 route: bounds the route beside its keys, and from the plugin every route', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: { max: 3, key: field('x-key'), route: 2 } } }, app => {
    take(app, forever)
    app.get('/other', { duplex: { maxConnections: { max: 1, key: field('x-key'), route: 5 } } }, forever)
  })
  const other = async (key: string): Promise<number> => {
    const wire = await server.connect()
    return (await wire.send(`GET /other HTTP/1.1\r\nHost: a\r\nX-Key: ${key}\r\n\r\n`).head()).status
  }
  t.same([(await attempt(server, 'upgrade', 'X-Key: a')).status, (await attempt(server, 'upgrade', 'X-Key: a')).status], [101, 101])
  const full = await attempt(server, 'upgrade', 'X-Key: b')
  t.same([full.status, full.code], [503, 'FST_ERR_DUPLEX_MAX_CONNECTIONS'])
  t.same([await other('a'), await other('a'), await other('b')], [200, 429, 200], 'its own limits')
  t.equal(await other('c'), 200)
})

t.test('GV1 the keys of the plugin count all routes together', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: { max: 1, key: field('x-key') } } }, app => {
    take(app, forever)
    app.get('/other', { duplex: true }, forever)
  })
  t.equal((await attempt(server, 'upgrade', 'X-Key: a')).status, 101)
  const wire = await server.connect()
  t.equal((await wire.send('GET /other HTTP/1.1\r\nHost: a\r\nX-Key: a\r\n\r\n').head()).status, 429)
})

t.test('GV1 a place that one limit has given and the other has not is given back once', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: { max: 1, key: field('x-user') } } }, app => take(app, forever, {
    maxConnections: { max: 2, key: field('x-room') }
  }))
  const enter = async (user: string): Promise<number> => (await attempt(server, 'upgrade', `X-User: ${user}`, 'X-Room: a')).status
  t.equal(await enter('one'), 101)
  t.same([await enter('one'), await enter('one')], [429, 429], 'the room has a place, the user has none')
  t.equal(await enter('two'), 101)
  t.equal(await enter('three'), 429, 'the room is full')
})

t.test('GV1 an object without a key is the number that it has', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: { max: 2 } } }, app => take(app, forever))
  t.same([(await attempt(server)).status, (await attempt(server)).status, (await attempt(server)).status], [101, 101, 503])
})

t.test('GV1 a key that is no string, and one that throws, are answered as an error of the app, and take no place', async t => {
  const keys: Record<string, () => unknown> = {
    none: () => undefined,
    number: () => 7,
    promise: async () => 'a',
    throws: () => { throw Object.assign(new Error('no'), { statusCode: 400, code: 'MINE' }) },
    text: () => 'a'
  }
  const server = await serveBriefly(t, {}, app => take(app, forever, {
    maxConnections: { max: 1, key: request => (keys[String((request as FastifyRequest).headers['x-key'])] as () => string)() }
  }))
  for (const name of ['none', 'number', 'promise']) {
    const { status, code } = await attempt(server, 'upgrade', `X-Key: ${name}`)
    t.same([status, code], [500, 'FST_ERR_DUPLEX_INVALID_KEY'], name)
  }
  const { status, code } = await attempt(server, 'upgrade', 'X-Key: throws')
  t.same([status, code], [400, 'MINE'])
  t.equal((await attempt(server, 'upgrade', 'X-Key: text')).status, 101)
})

for (const nothing of [undefined, null]) {
  t.test(`GV1 a function that throws nothing (${nothing}) lets nobody in`, async t => {
    const throwIt = (): never => (function * (): Generator<undefined, never> { throw yield })().throw(nothing) as never
    const server = await serveBriefly(t, {}, app => {
      app.get('/key', { duplex: { maxConnections: { max: 0, key: throwIt } } }, () => { t.fail('entered') })
      app.get('/labels', { duplex: { labels: throwIt } }, () => { t.fail('entered') })
      app.get('/expires', { duplex: { expires: throwIt } }, () => { t.fail('entered') })
      app.get('/protocols', { duplex: { protocols: async () => throwIt() } }, () => { t.fail('entered') })
    })
    for (const path of ['key', 'labels', 'expires', 'protocols']) {
      const wire = await server.connect()
      wire.send(`GET /${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n`)
      t.equal((await wire.head()).status, 500, path)
      wire.destroy()
    }
  })
}

t.test('GV1 100 000 keys leave nothing', t => {
  const slots = new KeySlots(2, () => '')
  for (let key = 0; key < 100_000; key++) if (!slots.take(`key ${key}`)) t.fail(`no place for key ${key}`)
  t.equal(slots.size, 100_000)
  t.ok(slots.take('key 7'))
  t.notOk(slots.take('key 7'))
  slots.free('key 7')
  for (let key = 0; key < 100_000; key++) slots.free(`key ${key}`)
  t.equal(slots.size, 0)
  t.end()
})

t.test('GV1 GV2 GV3 GV4 GV5 wrong options fail at boot', async t => {
  const wrong: [name: string, value: unknown, told?: string][] = [
    ['maxConnections', {}, 'maxConnections.max'], ['maxConnections', { max: -1 }, 'maxConnections.max'], ['maxConnections', { max: 1, most: 2 }],
    ['maxConnections', { max: 1, key: 'ip' }, 'maxConnections.key'], ['maxConnections', { max: 1, route: 0.5 }, 'maxConnections.route'],
    ['expires', 1000], ['expiryGrace', -1], ['labels', ['a']], ['rate', 1000], ['rate', { bytesIn: 0 }, 'rate.bytesIn'],
    ['rate', { bytesOut: 1.5 }, 'rate.bytesOut'], ['rate', { bytesUp: 1 }], ['rate', { bytesIn: Infinity }, 'rate.bytesIn']
  ]
  for (const [name, value, told = name] of [...wrong, ['drainSpread', 2 ** 31] as const]) {
    const app = Fastify()
    await t.rejects(async () => await app.register(duplex, { [name]: value } as FastifyDuplexOptions),
      { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: new RegExp(`^duplex option ${told} must be `) }, told)
    await app.close().catch(() => {})
  }
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  for (const [name, value, told = name] of [...wrong, ['drainSpread', 1] as const]) {
    t.throws(() => app.get('/it', { duplex: { [name]: value } }, () => {}),
      { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: new RegExp(`^duplex option ${told} on route GET /it must be `) }, told)
  }
})

t.test('GV1 nothing is left of the keys of refused requests when the server closes', async t => {
  const server = await serve(t, {}, app => take(app, ({ readable }) => { readable.resume() }, {
    maxConnections: { max: 1, key: field('x-key') }
  }))
  const first = await attempt(server, 'body', 'X-Key: a')
  const second = await attempt(server, 'body', 'X-Key: a')
  t.equal(second.status, 429)
  for (const { wire } of [first, second]) wire.destroy()
  await server.quiet()
  t.equal((await attempt(server, 'body', 'X-Key: a')).status, 200)
})
