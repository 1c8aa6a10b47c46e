import t from 'tap'
import { mock } from 'node:test'
import { setImmediate as turn, setTimeout as after } from 'node:timers/promises'
import type { Test } from 'tap'
import type { DuplexClosed, DuplexConnection, DuplexKind, DuplexRouteSettings } from '../lib/index.ts'
import { guarded, serveGuarded, soon, until, type GuardedServer } from './fixtures/baseline.ts'
import { ask, everyKind, hear, LAST_CHUNK, onEachKind, piece, resettable, take, takeManually } from './fixtures/kinds.ts'
import { every, howItLooks } from './fixtures/lifetime.ts'
import { exchange } from './fixtures/requests.ts'
import { gate, onEach, type Way } from './fixtures/server.ts'
import { all, MiB, pattern, sha256, written } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'

const forever = (): Promise<never> => new Promise(() => {})
const codeOf = (error: unknown): string | undefined => (error as { code?: string } | undefined)?.code

interface Owned {
  server: GuardedServer
  wire: Wire
  connection: DuplexConnection
  closed: () => DuplexClosed | undefined
}

/** A client whose request of this kind was accepted, on a route with these limits. */
async function owned (
  t: Test, kind: DuplexKind, transport: Way, limits: object, handler: (connection: DuplexConnection) => unknown
): Promise<Owned> {
  const entered = gate<DuplexConnection>()
  let closed: DuplexClosed | undefined
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => take(app, connection => {
    void connection.closed.then(result => { closed = result })
    entered.open(connection)
    return handler(connection)
  }, limits as DuplexRouteSettings))
  const wire = await server.connect()
  await wire.send(ask(kind)).head()
  return { server, wire, connection: await entered.promise, closed: () => closed }
}

/** Until the test is over, time passes when it says so. */
function fakeTimers (t: Test): void {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval', 'Date'] })
  t.teardown(() => mock.timers.reset())
}

// This comes first: who is watched first in this process has to be watched by a timer of this test.

onEach(t, 'Q40 a client that vanishes is found when the fake timers of an earlier test are gone', guarded(async (t, transport: Way) => {
  fakeTimers(t)
  const early = await owned(t, 'upgrade', transport, {}, ({ readable }) => all(readable))
  early.wire.end()
  await early.wire.rest()
  await until(() => early.closed() !== undefined)
  mock.timers.reset()
  await early.server.baseline()
  const reading = gate()
  const late = await owned(t, 'upgrade', transport, {}, async ({ readable }) => {
    await all(readable)
    reading.open()
    await forever()
  })
  late.wire.end()
  await reading.promise
  late.wire.reset()
  await until(() => late.closed() !== undefined, 'the end of the connection')
  t.equal(late.closed()?.reason, 'abort')
  await late.server.baseline()
}), ['tcp'])

const MINUTE = 60_000

interface Fake {
  limits: object
  reason: string
  handler: (connection: DuplexConnection) => unknown
  /** What the client does before time passes. */
  client?: (wire: Wire, kind: DuplexKind) => Promise<unknown>
}
const fakes: Record<string, Fake> = {
  idleTimeout: { limits: { idleTimeout: MINUTE }, reason: 'idle', handler: forever },
  readTimeout: { limits: { readTimeout: MINUTE }, reason: 'idle', handler: forever },
  maxLifetime: { limits: { maxLifetime: MINUTE }, reason: 'lifetime', handler: forever },
  finTimeout: {
    limits: { finTimeout: MINUTE },
    reason: 'fin',
    handler: async ({ writable }) => { writable.write('bye') },
    client: (wire, kind) => kind === 'body' ? wire.until(LAST_CHUNK) : wire.rest()
  },
  halfOpenTimeout: {
    limits: { halfOpenTimeout: MINUTE },
    reason: 'half-open',
    handler: async ({ readable, writable }) => {
      await all(readable)
      writable.write('!')
      await forever()
    },
    client: (wire, kind) => {
      wire.end(kind === 'body' ? LAST_CHUNK : '')
      return wire.until('!')
    }
  }
}
for (const [limit, { limits, reason, handler, client }] of Object.entries(fakes)) {
  for (const steps of [1, 12]) {
    onEachKind(t, `Q40 ${limit} follows timers that a test fakes, in ${steps === 1 ? 'one go' : 'steps'}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
      fakeTimers(t)
      const { server, wire, closed } = await owned(t, kind, transport, limits, handler)
      await client?.(wire, kind)
      await turn()
      mock.timers.tick(MINUTE / 2)
      await turn()
      t.equal(closed(), undefined, 'not before it is time')
      for (let step = 0; step < steps; step++) {
        mock.timers.tick(2 * MINUTE / steps)
        await turn()
      }
      await until(() => closed() !== undefined, 'the end of the connection')
      t.equal(closed()?.reason, reason)
      mock.timers.reset()
      wire.destroy()
      await server.baseline()
    }), ['upgrade', 'body'], ['tcp'])
  }
}

onEachKind(t, 'Q40 handshakeTimeout follows timers that a test fakes', guarded(async (t, kind: DuplexKind, transport: Way) => {
  fakeTimers(t)
  const entered = gate()
  const server = await serveGuarded(t, { transport, plugin: { handshakeTimeout: MINUTE } }, app => takeManually(app, () => {
    entered.open()
    return forever()
  }))
  const wire = await server.connect()
  wire.send(ask(kind))
  await entered.promise
  mock.timers.tick(MINUTE)
  t.equal((await wire.response()).status, 503)
  mock.timers.reset()
  wire.destroy()
  await server.baseline()
}), ['upgrade', 'body'], ['tcp'])

onEachKind(t, 'Q40 drainTimeout follows timers that a test fakes', guarded(async (t, kind: DuplexKind, transport: Way) => {
  fakeTimers(t)
  const draining = gate()
  const { server, wire, closed } = await owned(t, kind, transport, {}, ({ draining: signal }) => {
    signal.addEventListener('abort', () => draining.open())
    return forever()
  })
  const over = server.app.close()
  await draining.promise
  await turn()
  t.equal(closed(), undefined)
  mock.timers.tick(10_000)
  await until(() => closed() !== undefined, 'the end of the connection')
  t.equal(closed()?.reason, 'shutdown')
  mock.timers.reset()
  wire.destroy()
  t.not(await soon(over), 'never')
}), ['upgrade', 'body'], ['tcp'])

onEachKind(t, 'L4 readTimeout ends a connection whose peer is silent, whatever is sent to it', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const limits = { readTimeout: 150, idleTimeout: 5000 }
  const { server, wire, connection, closed } = await owned(t, kind, transport, limits, async ({ writable, signal }) => {
    while (!signal.aborted) {
      writable.write('x')
      await after(10)
    }
  })
  t.equal(connection.signal.aborted, false)
  // What breaks off a body is that its last chunk does not come.
  t.equal(await howItLooks(wire), transport === 'unix' || kind === 'body' ? 'ended' : 'broken')
  t.notOk(wire.pending.endsWith(LAST_CHUNK))
  await until(() => closed() !== undefined)
  t.equal(closed()?.reason, 'idle')
  t.ok((closed()?.bytesWritten ?? 0) > 5, 'it was sent something all the time')
  t.match(codeOf(closed()?.error), /^FST_ERR_DUPLEX_/)
  t.equal(connection.signal.reason, closed()?.error)
  t.ok((closed()?.duration ?? 0) >= 150)
  wire.destroy()
  await server.baseline()
}), everyKind, resettable)

onEachKind(t, 'L4 readTimeout leaves alone a peer that sends, and a handler that is silent', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const { server, wire, closed } = await owned(t, kind, transport, { readTimeout: 400 }, ({ readable }) => all(readable))
  await every(20, 1200, () => wire.send(piece(kind, 'x')))
  t.equal(closed(), undefined, 'three times as long')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await until(() => closed() !== undefined)
  t.equal(closed()?.reason, 'end')
  wire.destroy()
  await server.baseline()
}), everyKind, ['tcp', 'tls', 'injected'])

onEachKind(t, 'L4 readTimeout counts what the kernel has and nobody reads as silence of nobody', guarded(async (t, kind: DuplexKind, transport: Way) => {
  // The peer sends more than fits, and is held back by a handler that reads late.
  const held = gate()
  const { server, wire, closed } = await owned(t, kind, transport, { readTimeout: 300 }, async ({ readable }) => {
    await held.promise
    await all(readable)
  })
  const bytes = pattern(4 * MiB)
  wire.send(kind === 'body' ? Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]) : bytes)
  const other = await server.connect()
  await exchange(other, 'GET /pong')
  held.open()
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await until(() => closed() !== undefined)
  t.equal(closed()?.reason, 'end')
  t.equal(closed()?.bytesRead, bytes.length)
  wire.destroy()
  await server.baseline()
}), ['upgrade', 'body'], ['tcp'])

/** Writes and writes, and asks nobody whether it may. */
async function pour ({ writable, signal }: DuplexConnection): Promise<void> {
  const bytes = Buffer.alloc(MiB / 4)
  while (!signal.aborted && !writable.destroyed) {
    writable.write(bytes)
    await turn()
  }
}

onEachKind(t, 'S6 maxBuffered ends a connection whose peer does not take what is written', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const { server, wire, connection, closed } = await owned(t, kind, transport, { maxBuffered: MiB }, async connection => {
    await pour(connection)
  })
  wire.socket.pause()
  await until(() => closed() !== undefined, 'the end of the connection')
  t.equal(closed()?.reason, 'slow')
  t.match(codeOf(closed()?.error), /^FST_ERR_DUPLEX_/)
  t.equal(connection.signal.reason, closed()?.error)
  t.ok(connection.writable.writableLength <= 4 * MiB, 'and soon')
  wire.socket.resume()
  if (transport !== 'unix') t.equal(await howItLooks(wire), kind === 'body' ? 'ended' : 'broken')
  wire.destroy()
  await server.baseline()
}), everyKind, ['tcp', 'tls', 'unix', 'injected'])

onEachKind(t, 'S6 maxBuffered leaves alone a peer that reads, and a handler that waits for drain', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const bytes = pattern(MiB / 16)
  const { server, wire, closed } = await owned(t, kind, transport, { maxBuffered: MiB / 4 }, async ({ writable }) => {
    for (let times = 0; times < 128; times++) await written(writable as NodeJS.WritableStream, bytes)
  })
  const got = Buffer.from(await hear(wire, kind, '\0'.repeat(bytes.length * 128)), 'latin1')
  t.equal(got.length > 0, true)
  if (kind !== 'body') t.equal((await wire.rest()).length, 0)
  else t.ok((await wire.until(LAST_CHUNK)).endsWith(LAST_CHUNK))
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await until(() => closed() !== undefined)
  t.match(closed(), { reason: 'end', bytesWritten: bytes.length * 128 })
  await server.baseline()
}), everyKind, ['tcp', 'tls'])

onEachKind(t, 'S6 maxBuffered leaves alone what stays below it, however long nobody takes it', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const bytes = pattern(8 * MiB)
  const limits = { maxBuffered: 16 * MiB }
  const { server, wire, connection, closed } = await owned(t, kind, transport, limits, async ({ readable, writable }) => {
    writable.write(bytes)
    await all(readable)
  })
  wire.socket.pause()
  const other = await server.connect()
  for (let times = 0; times < 50; times++) await exchange(other, 'GET /pong')
  t.ok(connection.writable.writableLength > 0, 'it waits')
  t.equal(closed(), undefined)
  wire.socket.resume()
  if (kind === 'body') await hear(wire, kind, '\0'.repeat(bytes.length))
  else t.equal(sha256(await wire.bytes(bytes.length)), sha256(bytes))
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await until(() => closed() !== undefined)
  t.equal(closed()?.reason, 'end')
  wire.destroy()
  await server.baseline()
}), ['upgrade', 'body'], ['tcp', 'tls'])

for (const [name, reason] of [['readTimeout', 'idle'], ['maxBuffered', 'slow']] as const) {
  t.test(`L4 ${name} of the plugin is the default of its routes, and 0 on a route turns it off`, guarded(async t => {
    const reasons: string[] = []
    let open = 0
    const server = await serveGuarded(t, { plugin: { [name]: name === 'readTimeout' ? 200 : MiB } as object }, app => {
      const handler = async (connection: DuplexConnection): Promise<void> => {
        open++
        void connection.closed.then(closed => reasons.push(closed.reason))
        if (name === 'maxBuffered') for (let times = 0; times < 64; times++) connection.writable.write(Buffer.alloc(MiB / 4))
        await all(connection.readable)
      }
      take(app, handler)
      app.get('/off', { duplex: { kinds: ['hijack'], [name]: 0 } }, connection => handler(connection as unknown as DuplexConnection))
    })
    const off = await server.connect()
    await off.send('GET /off HTTP/1.1\r\nHost: a\r\n\r\n').head()
    off.socket.pause()
    const on = await server.connect()
    await on.send(ask('upgrade')).head()
    on.socket.pause()
    await until(() => reasons.length > 0)
    t.same([reasons, open], [[reason], 2])
    off.socket.resume()
    off.end()
    on.destroy()
    await until(() => reasons.length === 2)
    t.equal(reasons[1], 'end')
    await server.baseline()
  }))

  for (const value of [-1, 1.5, '1', NaN, null]) {
    t.test(`L4 ${name}: ${String(value)} fails at boot`, async t => {
      await t.rejects(serveGuarded(t, { plugin: { [name]: value } as object }, () => {}), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
      await t.rejects(serveGuarded(t, {}, app => take(app, forever, { [name]: value } as DuplexRouteSettings)), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
    })
  }
}
