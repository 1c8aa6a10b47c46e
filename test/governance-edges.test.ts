import t from 'tap'
import type { FastifyRequest } from 'fastify'
import type { DuplexConnection, DuplexRouteSettings } from '../lib/index.ts'
import { attempt, endOf, forever } from './fixtures/governed.ts'
import { ask, take, takeManually } from './fixtures/kinds.ts'
import { serveBriefly } from './fixtures/lifetime.ts'
import { until } from './fixtures/patience.ts'
import { gate, serve } from './fixtures/server.ts'
import { watchUncaught } from './fixtures/uncaught.ts'

for (const expiryGrace of [0, 20]) {
  t.test(`GV2 GV3 the time that close() gives does not outlast an expiry, with a grace of ${expiryGrace}`, async t => {
    const connections: DuplexConnection[] = []
    const server = await serveBriefly(t, {}, app => take(app, connection => {
      connections.push(connection)
      return forever()
    }, { labels: () => ['a'], expires: () => Date.now() + 100, expiryGrace }))
    const { wire } = await attempt(server)
    await until(() => connections.length > 0)
    const [connection] = connections as [DuplexConnection]
    t.equal(server.app.duplex.close('a', { within: 60_000 }), 1)
    t.equal((connection.draining.reason as { code?: string }).code, 'FST_ERR_DUPLEX_REVOKED')
    t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
    t.equal((connection.draining.reason as { code?: string }).code, 'FST_ERR_DUPLEX_REVOKED', 'it heard of it once')
    t.equal(await wire.gone(), 'broken')
  })
}

const promises: [name: string, settings: DuplexRouteSettings, code: string][] = [
  ['maxConnections.key', { maxConnections: { max: 1, key: (async () => { throw new Error('no') }) as never } }, 'FST_ERR_DUPLEX_INVALID_KEY'],
  ['labels', { labels: (async () => { throw new Error('no') }) as never }, 'FST_ERR_DUPLEX_INVALID_LABEL'],
  ['expires', { expires: (async () => { throw new Error('no') }) as never }, 'FST_ERR_DUPLEX_INVALID_EXPIRY']
]

for (const [name, settings, code] of promises) {
  t.test(`GV1 GV2 GV3 an async function for ${name} that rejects is an error of the app, and does not end the process`, async t => {
    const uncaught = watchUncaught(t)
    const server = await serve(t, {}, app => take(app, forever, settings))
    const refused = await attempt(server)
    t.same([refused.status, refused.code], [500, code])
    refused.wire.destroy()
    // Node tells of a rejection before it takes the next connection.
    t.equal((await attempt(server)).status, 500)
    t.same(uncaught, [])
  })
}

t.test('GV4 what heard of a drain before its acceptance has its drainTimeout from then on, and not the time of the spread', async t => {
  const hook = gate()
  const entered: DuplexConnection[] = []
  const server = await serve(t, { close: false, plugin: { drainSpread: 60_000, drainTimeout: 50 } }, app => {
    take(app, connection => {
      entered.push(connection)
      return forever()
    }, true, {
      onSend: async request => {
        if ((request as FastifyRequest).headers['x-slow'] === undefined) return
        entered.push([...app.duplex.connections].at(-1) as DuplexConnection)
        await hook.promise
      }
    })
  })
  await attempt(server)
  const late = await server.connect()
  late.send(ask('upgrade', 'X-Slow: yes'))
  await until(() => entered.length === 2)
  const slow = entered[1] as DuplexConnection
  const drained = server.app.duplex.drain()
  t.ok(slow.draining.aborted)
  hook.open()
  t.equal((await late.head()).status, 101)
  t.same(await endOf(slow), ['shutdown', 'FST_ERR_DUPLEX_SHUTDOWN'])
  void server.app.duplex.drain(0)
  for (const connection of server.app.duplex.connections) connection.destroy()
  await drained
  await server.app.close()
})

t.test('GV4 a drain within a drain holds for what is not accepted, too', async t => {
  const server = await serve(t, { close: false, plugin: { drainSpread: 60_000, drainTimeout: 60_000 } }, app => takeManually(app, forever))
  const wire = await server.connect()
  wire.send(ask('upgrade'))
  await until(() => server.app.duplex.connections.size > 0)
  const drained = server.app.duplex.drain()
  void server.app.duplex.drain(10)
  t.equal(await wire.gone(), 'broken')
  await drained
  t.equal(server.app.duplex.connections.size, 0)
  await server.app.close()
})

t.test('GV2 GV4 extend() during a drain takes back the expiry, and not the drain', async t => {
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, { close: false, plugin: { drainTimeout: 60_000 } }, app => take(app, connection => {
    connections.push(connection)
    return forever()
  }, { expires: () => Date.now() + 3_600_000, expiryGrace: 60_000 }))
  await attempt(server)
  await until(() => connections.length > 0)
  const [connection] = connections as [DuplexConnection]
  t.ok(connection.extend(Date.now() - 1000))
  t.ok(connection.draining.aborted)
  const drained = server.app.duplex.drain()
  t.ok(connection.extend(Date.now() + 3_600_000))
  t.ok(connection.draining.aborted, 'the server still closes')
  connection.destroy()
  await drained
  await server.app.close()
})

for (const limit of ['idleTimeout', 'readTimeout']) {
  t.test(`GV5 the time that bytes wait for their rate does not count for ${limit}`, async t => {
    const server = await serve(t, {}, app => take(app, async ({ readable, writable }) => {
      let read = ''
      for await (const chunk of readable) if ((read += String(chunk)).length === 2) break
      writable.end(read)
    }, { rate: { bytesIn: 2 }, [limit]: 80 }))
    const { wire } = await attempt(server)
    wire.send('ab')
    t.equal((await wire.rest()).toString(), 'ab')
    wire.end()
  })
}
