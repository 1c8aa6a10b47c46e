import t from 'tap'
import { once } from 'node:events'
import { mock } from 'node:test'
import type { Test } from 'tap'
import type { FastifyRequest } from 'fastify'
import { kDrain, kEndByGovernance, kUndrain } from '../lib/symbols.ts'
import { Expiries, type Expiring } from '../lib/governance/expiries.ts'
import { AppGovernance } from '../lib/governance/app-governance.ts'
import { ConnectionGovernance } from '../lib/governance/connection-governance.ts'
import { SharedDelays } from '../lib/governance/shared-delays.ts'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { acrossAll, attempt, endOf, forever } from './fixtures/governed.ts'
import { ask, hear, statusOf, take, takeManually } from './fixtures/kinds.ts'
import { howItLooks, serveBriefly } from './fixtures/lifetime.ts'
import { patience, until } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { logLines } from './fixtures/takeover.ts'

/** `expires` of a route: so many milliseconds from when it is asked as the request says. */
const soon = (request: unknown): number => Date.now() + Number((request as FastifyRequest).headers['x-in'])
/** A moment that acceptance on a busy machine does not come behind: the test moves it once it has the connection. */
const LATER = 'X-In: 3600000'
/** A moment that comes behind the handler and the hooks: later on a busy machine. */
const BEHIND = `X-In: ${Math.round(60 * patience)}`
const codeOfReason = (signal: AbortSignal): string | undefined => (signal.reason as { code?: string } | undefined)?.code

// A connection in memory keeps no process alive, nor does its end.
const alive = setInterval(() => {}, 1000)
t.teardown(() => clearInterval(alive))

acrossAll(t, 'GV2 a connection expires: draining, the grace, and then it is broken off', async (t, kind, transport) => {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, { transport }, app => take(app, async connection => {
    entered.open(connection)
    connection.writable.write('hello')
    connection.extend(Date.now() + 60)
    if (!connection.draining.aborted) await once(connection.draining, 'abort')
    connection.writable.write('goodbye')
    await forever()
  }, { expires: soon, expiryGrace: 40 }))
  const from = performance.now()
  const { wire, status } = await attempt(server, kind, LATER)
  t.equal(status, statusOf(kind, transport))
  const framed = transport === 'h2' ? 'body' : kind
  await hear(wire, kind === 'body' ? framed : kind, 'hellogoodbye')
  const connection = await entered.promise
  t.ok(performance.now() - from >= 59, 'not before its time')
  t.equal(codeOfReason(connection.draining), 'FST_ERR_DUPLEX_EXPIRED')
  t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
  t.ok(performance.now() - from >= 99, 'and not before the grace is over')
  t.equal(codeOfReason(connection.signal), 'FST_ERR_DUPLEX_EXPIRED')
  t.equal(await howItLooks(wire), kind === 'body' && transport === 'tcp' ? 'ended' : 'broken')
})

acrossAll(t, 'GV2 what has expired before it is accepted is answered with 401', async (t, kind, transport) => {
  const server = await serveBriefly(t, { transport }, app => take(app, forever, { expires: soon, expiryGrace: 1000 }))
  const { status, code } = await attempt(server, kind, 'X-In: -1')
  t.same([status, code], [401, 'FST_ERR_DUPLEX_EXPIRED'])
})

acrossAll(t, 'GV2 a pending connection that expires is answered with 401, and its accept() rejects', async (t, kind, transport) => {
  const late = gate<PendingDuplex>()
  const plugin = { expires: soon, expiryGrace: 60_000 }
  const server = await serveBriefly(t, { transport, plugin }, app => takeManually(app, async pending => {
    if (!pending.signal.aborted) await once(pending.signal, 'abort')
    late.open(pending)
    await pending.accept()
  }))
  const { status, code } = await attempt(server, kind, BEHIND)
  t.same([status, code], [401, 'FST_ERR_DUPLEX_EXPIRED'])
  const pending = await late.promise
  await t.rejects((pending.accept as () => Promise<unknown>).call(pending), { code: 'FST_ERR_DUPLEX_EXPIRED' })
  t.same(await endOf(pending), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
})

t.test('GV2 one that expires while its onSend hooks run is answered with 401', async t => {
  const running = gate()
  const server = await serveBriefly(t, {}, app => take(app, () => { t.fail('entered') }, { expires: soon }, {
    onSend: async () => {
      running.open()
      await forever()
    }
  } as object))
  const wire = await server.connect()
  wire.send(ask('upgrade', BEHIND))
  await running.promise
  t.equal((await wire.head()).status, 401)
})

t.test('GV2 extend() before the end moves it', async t => {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, {}, app => take(app, async connection => {
    entered.open(connection)
    for await (const chunk of connection.readable) connection.writable.write(chunk)
  }, { expires: soon }))
  const { wire } = await attempt(server, 'upgrade', LATER)
  const connection = await entered.promise
  t.ok(connection.extend(Date.now() + 50))
  t.ok(connection.extend(new Date(Date.now() + 3_600_000)))
  t.ok(connection.extend(undefined))
  wire.send('still')
  await wire.until('still')
  t.notOk(connection.draining.aborted)
  t.ok(connection.extend(Date.now() + 30))
  t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
  t.notOk(connection.extend(Date.now() + 1000), 'too late')
})

t.test('GV2 extend() during the grace brings it back, with another draining', async t => {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, {}, app => take(app, async connection => {
    entered.open(connection)
    for await (const chunk of connection.readable) connection.writable.write(chunk)
  }, { expires: soon, expiryGrace: 60 }))
  const { wire } = await attempt(server, 'upgrade', LATER)
  const connection = await entered.promise
  const { draining } = connection
  t.ok(connection.extend(0))
  const from = performance.now()
  t.ok(connection.extend(Date.now() + 150))
  t.ok(draining.aborted)
  t.notOk(connection.draining.aborted)
  await once(connection.draining, 'abort')
  t.ok(performance.now() - from >= 149, 'the grace of before has not ended it')
  t.notOk(connection.signal.aborted)
  wire.send('still')
  await wire.until('still')
  t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
})

t.test('GV2 extend() gives an end to a connection without one, and a moment that has passed ends it', async t => {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, {}, app => take(app, connection => {
    entered.open(connection)
    return forever()
  }))
  await attempt(server)
  const connection = await entered.promise
  for (const wrong of ['2026-01-01', NaN, new Date(NaN), null, {}, Promise.resolve(1)]) {
    t.throws(() => connection.extend(wrong as Date), { code: 'FST_ERR_DUPLEX_INVALID_EXPIRY' })
  }
  t.ok(connection.extend(0))
  t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
})

t.test('GV2 extend() behind the end says so: where the connection expired, and where it was destroyed', async t => {
  const told: boolean[] = []
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, {}, app => take(app, connection => {
    connections.push(connection)
    const extend = (): void => { told.push(connection.extend(Date.now() + 3_600_000)) }
    connection.signal.addEventListener('abort', extend)
    void connection.closed.then(extend)
    return forever()
  }, { expires: soon }))
  await attempt(server, 'upgrade', LATER)
  await attempt(server, 'upgrade', LATER)
  await until(() => connections.length === 2)
  const [first, second] = connections as [DuplexConnection, DuplexConnection]
  t.ok(first.extend(0))
  t.same(await endOf(first), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
  second.destroy()
  t.notOk(second.extend(Date.now() + 3_600_000))
  t.same(await endOf(second), ['destroyed', 'FST_ERR_DUPLEX_DESTROYED'])
  t.same(told, [false, false, false, false])
})

t.test('GV2 an expiry that is no moment, and one that throws, are answered as an error of the app', async t => {
  const expiries: Record<string, () => unknown> = {
    text: () => '2026-01-01',
    nan: () => NaN,
    invalid: () => new Date('no'),
    null: () => null,
    promise: async () => Date.now() + 1000,
    throws: () => { throw Object.assign(new Error('no'), { statusCode: 400, code: 'MINE' }) },
    never: () => Infinity,
    none: () => undefined
  }
  const server = await serveBriefly(t, {}, app => take(app, forever, {
    maxConnections: { max: 1, key: () => 'the same' },
    expires: request => (expiries[String((request as FastifyRequest).headers['x-expiry'])] as () => number)()
  }))
  for (const name of ['text', 'nan', 'invalid', 'null', 'promise']) {
    const { status, code } = await attempt(server, 'upgrade', `X-Expiry: ${name}`)
    t.same([status, code], [500, 'FST_ERR_DUPLEX_INVALID_EXPIRY'], name)
  }
  const { status, code } = await attempt(server, 'upgrade', 'X-Expiry: throws')
  t.same([status, code], [400, 'MINE'])
  const never = await attempt(server, 'upgrade', 'X-Expiry: never')
  t.equal(never.status, 101)
  never.wire.reset()
  await server.quiet()
  t.equal((await attempt(server, 'upgrade', 'X-Expiry: none')).status, 101)
})

t.test('GV2 the log line of the end tells', async t => {
  const { lines, logger } = logLines()
  const server = await serveBriefly(t, { fastify: { logger } }, app => take(app, connection => {
    connection.extend(Date.now() + 60)
    return forever()
  }, { expires: soon }))
  const { wire } = await attempt(server, 'upgrade', LATER)
  await wire.gone()
  await server.quiet()
  const line = lines.find(({ msg }) => msg === 'duplex connection closed')
  t.match(line, { duplex: { reason: 'expired' }, err: { code: 'FST_ERR_DUPLEX_EXPIRED' } })
})

t.test('GV2 a drain tells before the expiry does, and the expiry ends it all the same', async t => {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, { plugin: { drainTimeout: 60_000 } }, app => take(app, connection => {
    entered.open(connection)
    return forever()
  }, { expires: soon }))
  await attempt(server, 'upgrade', LATER)
  const connection = await entered.promise
  connection.extend(Date.now() + 1000)
  void server.app.duplex.drain(60_000)
  t.equal(codeOfReason(connection.draining), 'FST_ERR_DUPLEX_SHUTDOWN')
  t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
})

// Time that the test sets.

interface Timed extends Expiring { name: number }

function expiries (t: Test): { expiries: Expiries, add: (name: number, until: number) => Timed, over: number[] } {
  mock.timers.enable({ apis: ['Date', 'setTimeout'], now: 1_000_000 })
  t.teardown(() => mock.timers.reset())
  const all = new Expiries()
  const over: number[] = []
  const add = (name: number, until: number): Timed => {
    const one = { name, until, place: -1, expire: () => { over.push(name) } }
    all.set(one)
    return one
  }
  return { expiries: all, add, over }
}

t.test('GV2 each expires at its moment, whatever comes and goes', async t => {
  const { expiries: all, add, over } = expiries(t)
  let seed = 7
  const random = (below: number): number => (seed = seed * 48271 % 0x7fffffff) % below
  const there = new Map<Timed, number>()
  const set = (one: Timed, until: number): void => { there.set(one, one.until = until) }
  for (let name = 0; name < 1000; name++) {
    const until = 1_000_001 + random(10_000)
    set(add(name, until), until)
  }
  for (const one of [...there.keys()]) {
    switch (random(3)) {
      case 0:
        all.remove(one)
        all.remove(one)
        there.delete(one)
        break
      case 1:
        set(one, 1_000_001 + random(20_000))
        all.set(one)
    }
  }
  t.equal(all.size, there.size)
  const told = new Map<number, number>()
  for (const one of there.keys()) one.expire = () => { told.set(one.name, Date.now()) }
  for (let passed = 0; passed < 21_000; passed++) mock.timers.tick(1)
  t.equal(told.size, there.size)
  // The rest between two looks is real time, of which none has passed here.
  t.same([...there].filter(([{ name }, until]) => (told.get(name) as number) < until || (told.get(name) as number) > until + 20), [])
  t.equal(all.size, 0)
  t.same(over, [])
})

t.test('GV2 a clock that is set forward or backward moves the moments, and breaks nothing', async t => {
  const { add, over } = expiries(t)
  add(1, 1_000_000 + 60_000)
  add(2, 1_000_000 + 40 * 24 * 3_600_000)
  mock.timers.tick(30_000)
  t.same(over, [])
  mock.timers.setTime(500_000)
  mock.timers.tick(60_000)
  t.same(over, [], 'backward: it has as much longer to live')
  mock.timers.tick(500_000)
  t.same(over, [1])
  // More than a timer knows.
  mock.timers.setTime(1_000_000 + 41 * 24 * 3_600_000)
  mock.timers.tick(1000)
  t.same(over, [1, 2], 'forward: within a second')
})

t.test('GV2 what is over waits for nothing any more', t => {
  const governance = new AppGovernance({ perKey: undefined })
  const nothing = (): void => {}
  const bare = { accepted: true, [kDrain]: nothing, [kUndrain]: nothing, [kEndByGovernance]: nothing }
  const one = new ConnectionGovernance(governance, bare, 0)
  one.labels.add('a')
  t.ok(one.extend(Date.now() + 3_600_000))
  t.same([governance.expiries.size, governance.labels.size], [1, 1])
  one.leave()
  t.same([governance.expiries.size, governance.labels.size], [0, 0])
  t.notOk(one.extend(Date.now() + 3_600_000))
  t.equal(governance.expiries.size, 0)
  t.end()
})

t.test('GV2 delays that are the same share a timer, and none is shorter for that', async t => {
  const delays = new SharedDelays()
  const wait = async (): Promise<number> => {
    const from = performance.now()
    await new Promise<void>(resolve => delays.after(60, resolve))
    return performance.now() - from
  }
  const first = wait()
  await new Promise<void>(resolve => setTimeout(resolve, 30))
  const second = wait()
  t.ok(await first >= 59)
  t.ok(await second >= 59)
})

t.test('GV2 the clock of a live server is set: a connection keeps to it, and its grace does not', async t => {
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, {}, app => take(app, connection => {
    connections.push(connection)
    return forever()
  }, { expires: soon, expiryGrace: 300 }))
  await attempt(server, 'upgrade', LATER)
  await attempt(server, 'upgrade', LATER)
  await until(() => connections.length === 2)
  const [first, second] = connections as [DuplexConnection, DuplexConnection]
  mock.timers.enable({ apis: ['Date'], now: Date.now() })
  t.teardown(() => mock.timers.reset())
  const start = Date.now()
  first.extend(start + 60_000)
  // Half an hour back: what had a minute to live has 31.
  mock.timers.setTime(start - 1_800_000)
  first.extend(start + 60_000)
  mock.timers.setTime(start + 61_000)
  // Nothing else happens: it is the look at the clock that finds out.
  t.notOk(first.draining.aborted)
  await once(first.draining, 'abort')
  const from = performance.now()
  mock.timers.setTime(start - 1_800_000)
  t.same(await endOf(first), ['expired', 'FST_ERR_DUPLEX_EXPIRED'], 'the clock goes back, and the grace is over all the same')
  t.ok(performance.now() - from < 10_000)
  t.notOk(second.draining.aborted)
  t.equal((await attempt(server, 'upgrade', 'X-In: 1000')).status, 101, 'by the clock as it is now, too')
  t.ok(second.extend(start - 1_800_000 - 1), 'a moment that has passed by the clock as it is now')
  t.ok(second.draining.aborted)
})

t.test('GV2 there is one timer for all expiries, and none without any', async t => {
  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  let made = 0
  const { setTimeout } = globalThis
  t.teardown(() => { globalThis.setTimeout = setTimeout })
  globalThis.setTimeout = ((...args: Parameters<typeof setTimeout>) => {
    made++
    return setTimeout(...args)
  }) as typeof setTimeout
  const all = new Expiries()
  const many = Array.from({ length: 10_000 }, (_, at) => ({ until: Date.now() + 3_600_000 + at, place: -1, expire: () => {} }))
  for (const one of many) all.set(one)
  t.equal(made, 1)
  t.equal(timers(), before, 'which keeps no process alive')
  for (const one of many) all.remove(one)
  t.equal(all.size, 0)
  const delays = new SharedDelays()
  made = 0
  let over = 0
  await new Promise<void>(resolve => { for (let n = 0; n < 10_000; n++) delays.after(50, () => { if (++over === 10_000) resolve() }) })
  t.ok(made < 100, `${made} timers for 10 000 delays`)
})
