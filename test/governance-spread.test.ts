import t from 'tap'
import { addAbortListener, once } from 'node:events'
import { PassThrough } from 'node:stream'
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { DrainSpread } from '../lib/shutdown/drain-spread.ts'
import { tunnel, type DuplexConnection } from '../lib/index.ts'
import { attempt, endOf, forever } from './fixtures/governed.ts'
import { ask, everyKind, take } from './fixtures/kinds.ts'
import { timersLeft } from './fixtures/lifetime.ts'
import { until } from './fixtures/patience.ts'
import { onEachStream, serve } from './fixtures/server.ts'

onEachStream(t, 'GV4 the drain reaches connections one after the other, and each has its drainTimeout', async (t, transport) => {
  const told = new Map<DuplexConnection, number>()
  const over = new Map<DuplexConnection, number>()
  const connections: DuplexConnection[] = []
  const plugin = { drainSpread: 300, drainTimeout: 100 }
  const server = await serve(t, { transport, close: false, plugin }, app => take(app, async connection => {
    connections.push(connection)
    void connection.closed.then(() => over.set(connection, performance.now()))
    await once(connection.draining, 'abort')
    told.set(connection, performance.now())
    await forever()
  }))
  for (let n = 0; n < 30; n++) await attempt(server, everyKind[n % 4])
  await until(() => connections.length >= 30)
  const late = transport === 'h2' ? undefined : await server.connect()
  const closed = server.app.close()
  await turn()
  t.ok(told.size < 10, 'not all at once')
  t.notOk((connections.at(-1) as DuplexConnection).draining.aborted)
  if (late !== undefined) {
    // A connection that carried nothing is closed with the server, so that either is a refusal.
    late.send(ask('upgrade'))
    t.notMatch(await late.remains(), /^HTTP\/1.1 101/, 'new ones are refused at once')
  }
  await closed
  t.equal(told.size, 30)
  for (const [connection, at] of told) {
    t.same(await endOf(connection), ['shutdown', 'FST_ERR_DUPLEX_SHUTDOWN'])
    if ((over.get(connection) as number) <= at) t.fail('one had no time at all')
  }
  const first = [...told.keys()][0] as DuplexConnection
  t.ok((over.get(first) as number) < Math.max(...told.values()), 'the time of the first is over before the last is told')
  t.equal(await timersLeft(), 0)
})

t.test('GV4 500 tunnels hear of it evenly, each is cut behind its own drainTimeout, and close() resolves', async t => {
  const drainSpread = 600
  const drainTimeout = 150
  const told: number[] = []
  const cut: { after: number, reason: string }[] = []
  let firstCut = Infinity
  const server = await serve(t, { close: false, plugin: { drainSpread, drainTimeout } }, app => app.connect('*', { duplex: { accept: 'manual' } }, pending => {
    let at = Infinity
    addAbortListener(pending.draining, () => told.push(at = performance.now()))
    void pending.closed.then(({ reason }) => {
      const now = performance.now()
      firstCut = Math.min(firstCut, now)
      cut.push({ after: now - at, reason })
    })
    return tunnel(pending, () => new PassThrough())
  }))
  const wires = await Promise.all(Array.from({ length: 500 }, async () => {
    const wire = await server.connect()
    await wire.send(`${ask('connect')}hello`).head()
    await wire.until('hello')
    return wire
  }))
  const ends = wires.map(wire => wire.gone())
  await server.app.close()
  t.equal(told.length, 500)
  // No more than a fifth in any tenth of the time, wherever that begins. A loop that stands still makes the whole last longer.
  const most = Math.max(...told.map(from => told.filter(at => at >= from && at - from < drainSpread / 10).length))
  t.ok(most < 100, `${most} in a tenth of the time`)
  t.ok((told.at(-1) as number) - (told[0] as number) >= drainSpread * 0.9)
  t.ok(firstCut < (told.at(-1) as number), 'the time of the first is over before the last one hears')
  t.same(cut.filter(({ after, reason }) => after < drainTimeout - 1 || reason !== 'shutdown'), [])
  t.equal(cut.length, 500)
  t.same(new Set(await Promise.all(ends)), new Set(['broken']))
  t.equal(await timersLeft(), 0)
})

t.test('GV4 close() resolves when all have gone, however long the spread would have taken', async t => {
  const plugin = { drainSpread: 60_000, drainTimeout: 60_000 }
  const server = await serve(t, { close: false, plugin }, app => take(app, ({ readable, writable }) => {
    readable.resume()
    readable.once('end', () => writable.end())
  }))
  const wires = []
  for (let n = 0; n < 5; n++) wires.push((await attempt(server)).wire)
  const closed = server.app.close()
  for (const wire of wires) wire.end()
  await closed
  t.equal(await timersLeft(), 0)
})

t.test('GV4 what is not accepted hears of it at once', async t => {
  const heard: Promise<unknown>[] = []
  const server = await serve(t, { plugin: { drainSpread: 60_000, drainTimeout: 20 } }, app => {
    app.get('/it', { duplex: { accept: 'manual' } }, async pending => {
      heard.push(once(pending.draining, 'abort'))
      await heard[0]
      await pending.accept()
    })
  })
  const wire = await server.connect()
  wire.send(ask('upgrade'))
  await until(() => heard.length > 0)
  const drained = server.app.duplex.drain()
  t.equal((await wire.head()).status, 503)
  wire.destroy()
  await drained
})

t.test('GV4 a drain within a drain shortens what is left, and does not begin anew', async t => {
  const told: DuplexConnection[] = []
  const server = await serve(t, { close: false, plugin: { drainSpread: 100, drainTimeout: 60_000 } }, app => take(app, async connection => {
    await once(connection.draining, 'abort')
    told.push(connection)
    await forever()
  }))
  for (let n = 0; n < 10; n++) await attempt(server)
  const drained = server.app.duplex.drain()
  await until(() => told.length >= 2)
  void server.app.duplex.drain(20)
  await drained
  t.equal(told.length, 10)
  await server.app.close()
})

t.test('GV4 500 are told evenly: no tenth of the time has more than a fifth of them', async t => {
  mock.timers.enable({ apis: ['setInterval'] })
  t.teardown(() => mock.timers.reset())
  const shares: number[] = Array.from({ length: 10 }, () => 0)
  let passed = 0
  let lasts = 0
  const members = Array.from({ length: 500 }, (_, n) => n)
  const heard: number[] = []
  const spread = new DrainSpread(members, 10_000, (turn, last) => {
    heard.push(...turn)
    shares[Math.min(9, Math.floor(passed / 1000))]! += turn.length
    if (last) lasts++
  })
  for (; passed < 12_000; passed += 10) mock.timers.tick(10)
  t.same(heard, members, 'each once, in order')
  t.equal(lasts, 1)
  t.ok(spread.over)
  t.ok(Math.max(...shares) < 100, `${shares.join(' ')}`)
})

t.test('GV4 an event loop that stood still is no reason to tell all at once', async t => {
  const told: number[] = []
  const spread = new DrainSpread(Array.from({ length: 500 }, (_, n) => n), 1000, turn => { told.push(turn.length) })
  t.teardown(() => spread.stop())
  const late = performance.now() + 600
  while (performance.now() < late);
  await until(() => told.length > 0)
  t.ok(Math.max(...told) <= 16, `${Math.max(...told)} of 500`)
  t.same(spread.told, Array.from({ length: told.reduce((sum, share) => sum + share, 0) }, (_, n) => n))
})

t.test('GV4 nobody to tell: it is over with its time', async t => {
  await new Promise<void>(resolve => {
    const spread = new DrainSpread([], 5, (turn, last) => {
      t.same([turn, last], [[], true])
      t.ok(spread.over)
      resolve()
    })
  })
})
