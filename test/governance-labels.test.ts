import t from 'tap'
import { once } from 'node:events'
import type { FastifyRequest } from 'fastify'
import { channels, type DuplexCloseMessage, type DuplexConnection, type PendingDuplex } from '../lib/index.ts'
import { RevokedLabels } from '../lib/governance/revoked-labels.ts'
import { LabelIndex, Labels } from '../lib/governance/labels.ts'
import { acrossAll, attempt, endOf, forever } from './fixtures/governed.ts'
import { ask, take, takeManually } from './fixtures/kinds.ts'
import { howItLooks, serveBriefly } from './fixtures/lifetime.ts'
import { until } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { logLines } from './fixtures/takeover.ts'

const labels = (request: unknown): string[] => String((request as FastifyRequest).headers['x-labels'] ?? '').split(',').filter(label => label !== '')
const codeOfReason = (signal: AbortSignal): string | undefined => (signal.reason as { code?: string } | undefined)?.code

acrossAll(t, 'GV3 closing a label ends those that have it, and no others', async (t, kind, transport) => {
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, { transport }, app => take(app, connection => {
    connections.push(connection)
    return forever()
  }, { labels }))
  const one = await attempt(server, kind, 'X-Labels: a,b')
  await attempt(server, kind, 'X-Labels: b,c')
  await until(() => connections.length >= 2)
  const { duplex } = server.app
  t.same([duplex.find('a').length, duplex.find('b').length, duplex.find('c').length, duplex.find('d').length], [1, 2, 1, 0])
  t.equal(duplex.find('a')[0], connections[0])
  t.equal(duplex.close('d'), 0)
  t.equal(duplex.close('a'), 1)
  t.same(await endOf(connections[0] as DuplexConnection), ['revoked', 'FST_ERR_DUPLEX_REVOKED'])
  t.equal(codeOfReason((connections[0] as DuplexConnection).signal), 'FST_ERR_DUPLEX_REVOKED')
  t.equal(codeOfReason((connections[0] as DuplexConnection).draining), 'FST_ERR_DUPLEX_REVOKED')
  t.equal(await howItLooks(one.wire), kind === 'body' && transport === 'tcp' ? 'ended' : 'broken')
  t.same([duplex.find('a').length, duplex.find('b').length], [0, 1])
  t.equal(duplex.close('a'), 0, 'twice')
  t.notOk((connections[1] as DuplexConnection).signal.aborted)
})

acrossAll(t, 'GV3 a pending connection that is closed by its label is answered with 403, even where others have time', async (t, kind, transport) => {
  const entered = gate<PendingDuplex>()
  const server = await serveBriefly(t, { transport, plugin: { labels } }, app => takeManually(app, async pending => {
    entered.open(pending)
    await once(pending.signal, 'abort')
    await pending.accept()
  }))
  const wire = await server.connect()
  wire.send(ask(kind, 'X-Labels: a'))
  const pending = await entered.promise
  t.same(server.app.duplex.find('a'), [pending])
  t.equal(server.app.duplex.close('a', { within: 60_000 }), 1)
  t.equal((await wire.head()).status, 403)
  await t.rejects((pending.accept as () => Promise<unknown>).call(pending), { code: 'FST_ERR_DUPLEX_REVOKED' })
  t.same(await endOf(pending), ['revoked', 'FST_ERR_DUPLEX_REVOKED'])
  t.same(server.app.duplex.find('a'), [])
})

/** What `error` of `close()` may have for a status, and what a pending request is answered with. */
const refusals: [statusCode: unknown, status: number, code: string][] = [
  [undefined, 403, 'FST_ERR_DUPLEX_REVOKED'], [401, 401, 'MINE'], [200, 403, 'FST_ERR_DUPLEX_REVOKED'], [999, 403, 'FST_ERR_DUPLEX_REVOKED'],
  ['no', 403, 'FST_ERR_DUPLEX_REVOKED']
]
for (const [statusCode, expected, told] of refusals) {
  t.test(`GV3 a pending connection is closed with an error whose status is ${String(statusCode)}: ${expected}, and all others are closed, too`, async t => {
    const entered: PendingDuplex[] = []
    const server = await serveBriefly(t, { plugin: { labels } }, app => takeManually(app, async pending => {
      entered.push(pending)
      await once(pending.signal, 'abort')
      await pending.accept()
    }))
    const answers = [0, 1].map(() => attempt(server, 'upgrade', 'X-Labels: a'))
    await until(() => entered.length === 2)
    const error = Object.assign(new Error('private'), { code: 'MINE', ...(statusCode === undefined ? {} : { statusCode }) })
    t.equal(server.app.duplex.close('a', { error }), 2)
    for (const { status, code } of await Promise.all(answers)) t.same([status, code], [expected, told])
    for (const pending of entered) t.equal((await pending.closed).error, error)
  })
}

for (const hook of ['onRequest', 'preHandler', 'onSend'] as const) {
  t.test(`GV3 a label that is closed while ${hook} hooks run wins`, async t => {
    const running = gate()
    const held = gate()
    const wait = async (request: FastifyRequest): Promise<void> => {
      if (request.headers['x-slow'] === undefined) return
      running.open()
      await held.promise
    }
    const server = await serveBriefly(t, {}, app => take(app, forever, { labels }, { [hook]: wait }))
    const slow = await server.connect()
    slow.send(ask('upgrade', 'X-Slow: yes', 'X-Labels: a'))
    await running.promise
    server.app.duplex.close('b')
    server.app.duplex.close('a')
    held.open()
    t.equal((await slow.head()).status, 403)
    t.equal((await attempt(server, 'upgrade', 'X-Labels: a')).status, 101, 'a request that comes later is none of it')
  })
}

t.test('GV3 within: draining first, and the end for those that are still there', async t => {
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, {}, app => take(app, async connection => {
    connections.push(connection)
    await once(connection.draining, 'abort')
    if (connection.reply.request.headers['x-obeys'] === undefined) await forever()
    connection.writable.end('bye')
  }, { labels, expires: () => Date.now() + 3_600_000 }))
  const obeys = await attempt(server, 'upgrade', 'X-Labels: a', 'X-Obeys: yes')
  const other = await attempt(server, 'upgrade', 'X-Labels: a')
  await until(() => connections.length >= 2)
  const error = Object.assign(new Error('logged out'), { code: 'MINE' })
  const from = performance.now()
  t.equal(server.app.duplex.close('a', { within: 60, code: 4001, error }), 2)
  t.equal((await obeys.wire.rest()).toString(), 'bye')
  obeys.wire.end()
  const [first, second] = connections as [DuplexConnection, DuplexConnection]
  t.same(await endOf(first), ['end', undefined], 'in order')
  t.equal(codeOfReason(second.draining), 'MINE')
  t.notOk(second.extend(Date.now() + 3_600_000), 'no extension saves it')
  t.same(await endOf(second), ['revoked', 'MINE'])
  t.ok(performance.now() - from >= 59)
  t.equal(await other.wire.gone(), 'broken')
})

t.test('GV3 closed twice: the second one shortens the time that the first one gave, and never makes it longer', async t => {
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, {}, app => take(app, connection => {
    connections.push(connection)
    return forever()
  }, { labels }))
  await attempt(server, 'upgrade', 'X-Labels: a,b')
  await attempt(server, 'upgrade', 'X-Labels: a')
  await until(() => connections.length === 2)
  const [first, second] = connections as [DuplexConnection, DuplexConnection]
  const { duplex } = server.app
  const from = performance.now()
  t.equal(duplex.close('a', { within: 100, error: Object.assign(new Error('one'), { code: 'ONE' }) }), 2)
  t.equal(duplex.close('a', { within: 3_600_000, error: Object.assign(new Error('two'), { code: 'TWO' }) }), 2, 'both are still there')
  t.equal(duplex.close('b', { error: Object.assign(new Error('three'), { code: 'THREE' }) }), 1)
  t.same(await endOf(first), ['revoked', 'THREE'])
  t.ok(performance.now() - from < 100, 'at once')
  t.same([codeOfReason(first.draining), codeOfReason(second.draining)], ['ONE', 'ONE'], 'it heard of it once')
  t.same(await endOf(second), ['revoked', 'ONE'])
  t.equal(duplex.close('a'), 0)
  t.equal(duplex.close('b'), 0)
})

t.test('GV3 labels come and go while a connection lives', async t => {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, {}, app => take(app, connection => {
    entered.open(connection)
    return forever()
  }))
  const { wire } = await attempt(server)
  const connection = await entered.promise
  const { duplex } = server.app
  t.equal(connection.labels.add('room:1').add('room:2'), connection.labels)
  t.same([[...connection.labels], connection.labels.size, connection.labels.has('room:1')], [['room:1', 'room:2'], 2, true])
  t.same(duplex.find('room:1'), [connection])
  t.ok(connection.labels.delete('room:1'))
  t.notOk(connection.labels.delete('room:1'))
  t.same(duplex.find('room:1'), [])
  t.equal(duplex.close('room:1'), 0)
  for (const wrong of [7, undefined, null, {}]) {
    t.throws(() => connection.labels.add(wrong as never), { code: 'FST_ERR_DUPLEX_INVALID_LABEL' })
    t.throws(() => duplex.find(wrong as never), { code: 'FST_ERR_DUPLEX_INVALID_LABEL' })
    t.throws(() => duplex.close(wrong as never), { code: 'FST_ERR_DUPLEX_INVALID_LABEL' })
  }
  for (const wrong of [{ within: -1 }, { within: 0.5 }, { code: 1005 }, { code: 999 }, { code: 5000 }, { code: 1.5 }, { error: 'no' as never }]) {
    t.throws(() => duplex.close('room:2', wrong), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
  }
  wire.reset()
  await connection.closed
  t.same([...connection.labels], ['room:2'], 'to be read by whoever logs the end')
  t.same(duplex.find('room:2'), [])
  connection.labels.add('late')
  t.same(duplex.find('late'), [], 'the dead are not found')
})

t.test('GV3 labels that are none, and a function that throws, are answered as an error of the app', async t => {
  const given: Record<string, () => unknown> = {
    text: () => 'room',
    number: () => [1],
    none: () => undefined,
    promise: async () => ['a'],
    throws: () => { throw Object.assign(new Error('no'), { statusCode: 400, code: 'MINE' }) }
  }
  const server = await serveBriefly(t, {}, app => take(app, forever, {
    labels: request => (given[String((request as FastifyRequest).headers['x-labels'])] as () => string[])()
  }))
  for (const name of ['text', 'number', 'none', 'promise']) {
    const { status, code } = await attempt(server, 'upgrade', `X-Labels: ${name}`)
    t.same([status, code], [500, 'FST_ERR_DUPLEX_INVALID_LABEL'], name)
  }
  const { status, code } = await attempt(server, 'upgrade', 'X-Labels: throws')
  t.same([status, code], [400, 'MINE'])
})

t.test('GV3 the log line and the channel of the end tell', async t => {
  const { lines, logger } = logLines()
  const told: string[] = []
  const listener = ({ connection, closed }: DuplexCloseMessage): void => {
    told.push(closed.reason, ...connection.labels)
  }
  channels.close.subscribe(listener)
  t.teardown(() => channels.close.unsubscribe(listener))
  const server = await serveBriefly(t, { fastify: { logger } }, app => take(app, forever, { labels }))
  const { wire } = await attempt(server, 'upgrade', 'X-Labels: a')
  server.app.duplex.close('a')
  await wire.gone()
  await server.quiet()
  t.same(told, ['revoked', 'a'])
  t.match(lines.find(({ msg }) => msg === 'duplex connection closed'), { duplex: { reason: 'revoked' }, err: { code: 'FST_ERR_DUPLEX_REVOKED' } })
})

t.test('GV3 a detached socket is ended with its label as well', async t => {
  const server = await serveBriefly(t, {}, app => app.get('/it', { duplex: { accept: 'manual', labels } }, pending => {
    pending.detach().socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  }))
  const { wire, status } = await attempt(server, 'upgrade', 'X-Labels: a')
  t.equal(status, 101)
  t.equal(server.app.duplex.close('a'), 1)
  t.equal(await wire.gone(), 'broken')
})

// What it costs.

t.test('GV3 10 000 connections with 100 labels: closing one costs its matches', t => {
  const index = new LabelIndex<{ n: number }>()
  const all = Array.from({ length: 10_000 }, (_, n) => {
    const member = { n }
    return { member, labels: new Labels(index, member, false).add(`label ${n % 100}`) }
  })
  t.equal(index.size, 100)
  const found = index.find('label 7')
  t.equal(found.length, 100)
  t.ok(found.every(({ n }) => n % 100 === 7))
  const measure = (label: string): number => {
    const from = performance.now()
    for (let times = 0; times < 200; times++) index.find(label)
    return performance.now() - from
  }
  measure('label 7')
  for (const { member } of all) index.add('everybody', member)
  measure('everybody')
  t.ok(measure('label 8') * 5 < measure('everybody'), 'not that of all')
  for (const { member } of all) index.delete('everybody', member)
  for (const { labels } of all) labels.leave()
  t.equal(index.size, 0)
  t.end()
})

t.test('GV3 as many labels as there may be leave nothing', t => {
  const index = new LabelIndex<object>()
  const labels = new Labels(index, {}, false)
  for (let n = 0; n < 100_000; n++) labels.add(`label ${n}`)
  t.equal(index.size, 100_000)
  labels.leave()
  t.equal(index.size, 0)
  t.end()
})

t.test('GV3 what was closed is remembered only while a request is on its way, and not without bound', t => {
  const closed = new RevokedLabels()
  closed.close('a')
  t.equal(closed.size, 0, 'nobody waits')
  const early = closed.wait()
  closed.close('a')
  const late = closed.wait()
  t.ok(closed.closedSince(early, ['b', 'a']))
  t.notOk(closed.closedSince(late, ['b', 'a']))
  t.notOk(closed.closedSince(early, []))
  closed.close('a')
  t.ok(closed.closedSince(late, ['a']))
  for (let n = 0; n < 100_000; n++) closed.close(`label ${n}`)
  t.ok(closed.size <= 10_000)
  t.ok(closed.closedSince(late, ['b']), 'what may have been forgotten counts as closed')
  const now = closed.wait()
  t.notOk(closed.closedSince(now, ['label 99999']))
  for (let times = 0; times < 3; times++) closed.waitNoMore()
  t.equal(closed.size, 0)
  t.notOk(closed.closedSince(closed.wait(), ['b', 'label 99999']))
  t.end()
})

t.test('GV3 requests that came to nothing are waited for no more', async t => {
  const server = await serveBriefly(t, {}, app => {
    app.addHook('preHandler', async (request, reply) => {
      if (request.headers['x-refuse'] !== undefined) await reply.code(403).send({ code: 'no' })
    })
    take(app, forever, { labels })
  })
  for (let times = 0; times < 3; times++) t.equal((await attempt(server, 'upgrade', 'X-Refuse: yes', 'X-Labels: a')).status, 403)
  server.app.duplex.close('a')
  t.equal((await attempt(server, 'upgrade', 'X-Labels: a')).status, 101)
})
