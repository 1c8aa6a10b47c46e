import t from 'tap'
import { once } from 'node:events'
import net from 'node:net'
import { Readable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import type { Test } from 'tap'
import { tunnel, type DuplexConnection, type DuplexKind, type DuplexRouteSettings } from '../lib/index.ts'
import { InputMeter } from '../lib/governance/rate/input-meter.ts'
import { Wheel } from '../lib/governance/rate/wheel.ts'
import { acrossAll, attempt, forever } from './fixtures/governed.ts'
import { hear, LAST_CHUNK, piece, statusOf, take } from './fixtures/kinds.ts'
import { serveBriefly, timersLeft } from './fixtures/lifetime.ts'
import { until } from './fixtures/patience.ts'
import { gate, type TestServer, type Way } from './fixtures/server.ts'
import { all, pattern, sha256 } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'

/** What goes through at 100 KB a second in about half of one. A portion may come before the clock has moved. */
const RATE = 100_000
const SIZE = 50_000
/** The earliest that this much may be over: a tenth more than the rate, and what may have been saved up. */
const LEAST = (SIZE - 0.2 * RATE) / (1.1 * RATE) * 1000

interface Rated {
  server: TestServer
  wire: Wire
  connection: DuplexConnection
}

async function rated (
  t: Test, kind: DuplexKind, transport: Way, duplex: DuplexRouteSettings, handler: (connection: DuplexConnection) => unknown
): Promise<Rated> {
  const entered = gate<DuplexConnection>()
  const server = await serveBriefly(t, { transport }, app => take(app, connection => {
    entered.open(connection)
    return handler(connection)
  }, duplex))
  const { wire, status } = await attempt(server, kind)
  t.equal(status, statusOf(kind, transport))
  return { server, wire, connection: await entered.promise }
}

acrossAll(t, 'GV5 what the peer sends comes no faster than its rate, whole and in order, and then the end', async (t, kind, transport) => {
  const bytes = pattern(SIZE)
  const received = gate<{ hash: string, took: number }>()
  const { server, wire } = await rated(t, kind, transport, { rate: { bytesIn: RATE } }, async ({ readable, writable }) => {
    const from = performance.now()
    const came = await all(readable)
    received.open({ hash: sha256(came), took: performance.now() - from })
    writable.end('heard')
  })
  const text = bytes.toString('latin1')
  wire.send(kind === 'body' ? Buffer.concat([Buffer.from(`${SIZE.toString(16)}\r\n`), bytes, Buffer.from(`\r\n${LAST_CHUNK}`)]) : Buffer.from(text, 'latin1'))
  if (kind !== 'body') wire.end()
  const { hash, took } = await received.promise
  t.equal(hash, sha256(bytes))
  t.ok(took >= LEAST, `${took} ms`)
  t.equal(await hear(wire, kind, 'heard'), 'heard')
  wire.end()
  await server.quiet()
})

acrossAll(t, 'GV5 what is written leaves no faster than its rate, whole and in order, and then the end', async (t, kind, transport) => {
  const bytes = pattern(SIZE)
  const from = performance.now()
  const { server, wire, connection } = await rated(t, kind, transport, { rate: { bytesOut: RATE } }, ({ readable, writable }) => {
    readable.resume()
    writable.write(bytes.subarray(0, 100))
    writable.write(bytes.subarray(100, 30_000).toString('latin1'), 'latin1')
    writable.write('')
    writable.end(bytes.subarray(30_000))
  })
  const got = Buffer.from(await hearBytes(wire, kind), 'latin1')
  t.ok(performance.now() - from >= LEAST, `${performance.now() - from} ms`)
  t.equal(got.length, SIZE)
  t.equal(sha256(got), sha256(bytes))
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  const { reason, bytesWritten } = await connection.closed
  t.same([reason, bytesWritten], ['end', SIZE])
  wire.end()
  await server.quiet()
})

/** All that comes, without its framing. */
async function hearBytes (wire: Wire, kind: DuplexKind): Promise<string> {
  if (kind !== 'body') return (await wire.rest()).toString('latin1')
  let heard = ''
  for (;;) {
    const size = Number.parseInt(await wire.until('\r\n'), 16)
    heard += (await wire.bytes(size)).toString('latin1')
    await wire.until('\r\n')
    if (size === 0) return heard
  }
}

t.test('GV5 a tunnel has the rates of its connection, both ways at once', async t => {
  const bytes = pattern(SIZE)
  const upstream = net.createServer({ allowHalfOpen: true }, socket => { socket.pipe(socket) })
  upstream.listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  t.teardown(() => upstream.close())
  const { port } = upstream.address() as net.AddressInfo
  const from = performance.now()
  const { wire, connection } = await rated(t, 'connect', 'tcp', { rate: { bytesIn: RATE, bytesOut: RATE } }, async connection => {
    await tunnel(connection, net.connect({ port, host: '127.0.0.1', allowHalfOpen: true }))
  })
  wire.send(bytes).end()
  t.equal(sha256(await wire.rest()), sha256(bytes))
  t.ok(performance.now() - from >= LEAST)
  t.equal((await connection.closed).reason, 'end')
})

t.test('GV5 a reader that is slow itself is not pushed, and nothing is lost', async t => {
  const bytes = pattern(SIZE)
  const done = gate<string>()
  const { wire } = await rated(t, 'upgrade', 'tcp', { rate: { bytesIn: 1_000_000 } }, async ({ readable }) => {
    const chunks: Buffer[] = []
    for await (const chunk of readable) {
      chunks.push(chunk as Buffer)
      t.ok(readable.readableLength <= readable.readableHighWaterMark + 65_536, 'no more waits than without a rate')
      for (let turns = 0; turns < 20; turns++) await turn()
    }
    done.open(sha256(Buffer.concat(chunks)))
  })
  wire.send(bytes).end()
  t.equal(await done.promise, sha256(bytes))
})

t.test('GV5 a long string is cut in the encoding of the stream', async t => {
  const bytes = pattern(20_000)
  const { wire } = await rated(t, 'upgrade', 'tcp', { rate: { bytesOut: 200_000 } }, ({ writable }) => {
    writable.setDefaultEncoding('latin1')
    writable.end(bytes.toString('latin1'))
  })
  t.equal(sha256(await wire.rest()), sha256(bytes))
})

t.test('GV5 a small rate: a few bytes, one after the other', async t => {
  const { wire, connection } = await rated(t, 'upgrade', 'tcp', { rate: { bytesIn: 20, bytesOut: 20 }, idleTimeout: 400 }, async ({ readable, writable }) => {
    const from = performance.now()
    writable.write((await all(readable)))
    writable.write(performance.now() - from >= 300 ? ' slowly' : ' fast')
  })
  wire.send('0123456789').end()
  t.equal((await wire.rest()).toString(), '0123456789 slowly', 'and its silence is none')
  t.equal((await connection.closed).reason, 'end')
})

t.test('GV5 a connection that is broken off leaves no timer, and its writer hears of it', async t => {
  const heard = gate<string | undefined>()
  const { connection, server } = await rated(t, 'upgrade', 'tcp', { rate: { bytesIn: 10, bytesOut: 10 } }, ({ readable, writable }) => {
    readable.resume()
    writable.write(Buffer.alloc(100))
    writable.write('behind', error => heard.open((error as { code?: string } | null | undefined)?.code))
    return forever()
  })
  await turn()
  connection.destroy()
  t.ok(await heard.promise)
  t.equal((await connection.closed).reason, 'destroyed')
  await server.quiet()
  t.equal(await timersLeft(), 0)
})

t.test('GV5 the requests behind a body on the same connection have no limit of its', async t => {
  const server = await serveBriefly(t, {}, app => {
    app.post('/it', { duplex: { rate: { bytesIn: 20_000, bytesOut: 20_000 } } }, async ({ readable, writable }) => {
      writable.write(await all(readable))
    })
    app.get('/plain', async () => 'x'.repeat(500_000))
  })
  const wire = await server.connect()
  wire.send(`POST /it HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n${piece('body', 'hello')}${LAST_CHUNK}`)
  await wire.head()
  t.equal(await hear(wire, 'body', 'hello'), 'hello')
  await wire.until(LAST_CHUNK)
  const from = performance.now()
  wire.send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\n')
  t.equal((await wire.response()).body.length, 500_000)
  t.ok(performance.now() - from < 15_000, 'which would have taken 25 seconds')
  wire.end()
  await server.quiet()
})

t.test('GV5 a slow one does not slow others', async t => {
  const server = await serveBriefly(t, {}, app => {
    take(app, async ({ readable, writable }) => {
      for await (const chunk of readable) writable.write(chunk)
    }, { rate: { bytesIn: 1000, bytesOut: 1000 } })
    app.get('/fast', { duplex: true }, async ({ readable, writable }) => {
      for await (const chunk of readable) writable.write(chunk)
    })
  })
  const slow = await attempt(server)
  slow.wire.send(Buffer.alloc(100_000))
  const fast = await server.connect()
  await fast.send('GET /fast HTTP/1.1\r\nHost: a\r\n\r\n').head()
  const bytes = pattern(2_000_000)
  fast.send(bytes).end()
  t.equal(sha256(await fast.rest()), sha256(bytes))
  t.ok(slow.wire.pending.length < 50_000, 'the slow one is still at it')
})

t.test('GV5 one timer for all that wait, and none while nobody does', async t => {
  const before = await timersLeft()
  const wheel = new Wheel()
  let resumed = 0
  const waiters = Array.from({ length: 1000 }, () => ({ slot: -1, resume: () => { resumed++ } }))
  for (const [at, waiter] of waiters.entries()) wheel.wait(waiter, at % 100)
  for (const waiter of waiters) wheel.wait(waiter, 1)
  t.equal(wheel.waiting, 1000)
  t.equal(process.getActiveResourcesInfo().filter(name => name === 'Timeout').length, before + 1)
  for (const waiter of waiters.slice(0, 500)) wheel.leave(waiter)
  for (const waiter of waiters.slice(0, 500)) wheel.leave(waiter)
  t.equal(wheel.waiting, 500)
  await until(() => wheel.waiting === 0)
  t.equal(resumed, 500)
  t.equal(await timersLeft(before), before)
})

t.test('GV5 a listener that throws stops nobody else who waits, nor its own stream', async t => {
  const others = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  t.teardown(() => { for (const listener of others) process.on('uncaughtException', listener) })
  const thrown = once(process, 'uncaughtException')
  const wheel = new Wheel()
  let resumed = 0
  wheel.wait({ slot: -1, resume: () => { throw new Error('of the app') } }, 1)
  wheel.wait({ slot: -1, resume: () => { resumed++ } }, 1)
  t.match(await thrown, [{ message: 'of the app' }])
  t.equal(resumed, 1)

  const came: string[] = []
  const stream = new (class extends Readable { override _read (): void {} })()
  stream.on('data', (chunk: Buffer) => {
    came.push(String(chunk))
    if (came.length === 1) throw new Error('of the app')
  })
  const meter = new InputMeter(stream, Readable.prototype.push, 1000, wheel)
  await turn()
  t.throws(() => { meter.push(Buffer.from('one')) }, { message: 'of the app' })
  meter.push(Buffer.from('two'))
  t.strictSame(came, ['one', 'two'])
  meter.stop()
})
