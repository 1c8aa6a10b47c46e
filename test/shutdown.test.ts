import t from 'tap'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, resettable, take, takeManually } from './fixtures/kinds.ts'
import { howItLooks } from './fixtures/lifetime.ts'
import { patience } from './fixtures/patience.ts'
import { codeOf } from './fixtures/requests.ts'
import { everywhere, gate, onEach, possible, serve, transports, type TestServer, type Way } from './fixtures/server.ts'
import { MiB } from './fixtures/takeover.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'

const forever = (): Promise<never> => new Promise(() => {})
const aborted = (signal: AbortSignal): Promise<unknown> => signal.aborted ? Promise.resolve() : once(signal, 'abort')
const DRAIN = 100
/** What is longer than that and the second for what has to leave yet. */
const LONG = DRAIN + 1000 * patience

/** Closes the app, and tells how many milliseconds that took. */
async function timeToClose (app: FastifyInstance): Promise<number> {
  const from = performance.now()
  await app.close()
  return performance.now() - from
}

/** One route for each way to treat a connection. */
function declare (app: FastifyInstance): void {
  const duplex = true
  const everything = ['GET', 'POST'] as const
  const route = (url: string, handler: (connection: DuplexConnection) => unknown): void => {
    app.route({ method: [...everything], url, duplex, handler })
  }
  route('/ignores', forever)
  route('/echo', ({ readable, writable }) => pipeline(readable, writable))
  route('/obeys', async ({ writable, draining }) => {
    await aborted(draining)
    writable.write('bye')
  })
  route('/ends-first', ({ writable }) => {
    writable.end('bye')
    return forever()
  })
  route('/floods', ({ writable }) => {
    writable.write(Buffer.alloc(32 * MiB))
    return forever()
  })
  route('/returns', () => {})
  app.route({ method: [...everything], url: '/hook', duplex, preHandler: forever, handler: () => {} })
  app.route({ method: [...everything], url: '/early-hook', duplex, onRequest: forever, handler: () => {} })
  app.route({ method: [...everything], url: '/send-hook', duplex, onSend: forever, handler: () => {} })
  app.route({ method: [...everything], url: '/pending', duplex: { accept: 'manual' }, handler: forever })
  app.route({ method: [...everything], url: '/detached', duplex: { accept: 'manual' }, handler: pending => { pending.detach() } })
  app.route({ method: [...everything], url: '/refuses', duplex, preHandler: async () => { throw new Error('no') }, handler: () => {} })
  app.get('/slow', async (_request, reply) => {
    reply.raw.once('close', () => reply.send(''))
    await reply
  })
  app.get('/plain', async () => 'plain')
}

const upgrade = (url: string): string => `GET ${url} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n`
const post = (url: string): string => `POST ${url} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n`
const get = (url: string): string => `GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`

/** What a client may be doing when the server is closed. */
const clients: Record<string, (wire: Wire) => unknown> = {
  'is idle': wire => wire.send(upgrade('/echo')).head(),
  'has a handler that ignores all signals': wire => wire.send(upgrade('/ignores')).head(),
  'has a handler that finishes on the signal': wire => wire.send(upgrade('/obeys')).head(),
  'has a handler that returned nothing': wire => wire.send(upgrade('/returns')).head(),
  'was half-closed by the client': wire => wire.send(upgrade('/ignores')).end().head(),
  'was half-closed by the server': wire => wire.send(upgrade('/ends-first')).until('bye'),
  'does not read what is written': async wire => {
    await wire.send(upgrade('/floods')).head()
    wire.socket.pause()
  },
  'is hijacked': wire => wire.send(get('/echo')).head(),
  'waits in a hook': wire => wire.send(upgrade('/hook')),
  'waits in a hook of an earlier stage': wire => wire.send(upgrade('/early-hook')),
  'waits in a hook that makes its accept head': wire => wire.send(upgrade('/send-hook')),
  'waits for a handler to accept': wire => wire.send(upgrade('/pending')),
  'was detached': wire => wire.send(upgrade('/detached')),
  'was refused and stays': wire => wire.send(upgrade('/refuses')).head(),
  'is ending a body before its stream': wire => wire.send(
    'POST /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{'),
  'waits behind a response that never ends': wire => wire.send(get('/slow') + upgrade('/echo')),
  'sends a message': wire => wire.send(post('/echo')).head(),
  'sends a message that is ignored': wire => wire.send(post('/ignores')).head(),
  'sends a message to a handler that finishes on the signal': wire => wire.send(post('/obeys') + LAST_CHUNK).head(),
  'sends a message whose response has ended': wire => wire.send(post('/ends-first')).until(LAST_CHUNK),
  'sends a message and does not read': async wire => {
    await wire.send(post('/floods') + LAST_CHUNK).head()
    wire.socket.pause()
  },
  'sends a message that waits in a hook': wire => wire.send(post('/hook')),
  'sends a message that waits in a hook of an earlier stage': wire => wire.send(post('/early-hook')),
  'sends a message that waits in a hook that makes its accept head': wire => wire.send(post('/send-hook')),
  'sends a message that waits to be accepted': wire => wire.send(post('/pending')),
  'sends a message behind a response that never ends': wire => wire.send(get('/slow') + post('/echo')),
  'is done with a message': wire => wire.send(post('/echo') + LAST_CHUNK).until(LAST_CHUNK),
  'is served by a plain route': wire => wire.send(get('/plain')).until('plain')
}

const forces = [undefined, true, false, 'idle'] as const

async function serveAll (t: Parameters<typeof serve>[0], transport: Way, force: typeof forces[number]): Promise<TestServer> {
  return await serve(t, {
    transport,
    close: false,
    plugin: { drainTimeout: DRAIN },
    fastify: force === undefined ? {} : { forceCloseConnections: force }
  }, declare)
}

/** A client begins, and the server has seen it. One that came before may have gone by then: sockets cannot be counted. */
async function begun (server: TestServer, transport: Way, begin: (wire: Wire) => unknown): Promise<void> {
  const arrived = once(server.app.server, transport === 'tls' ? 'secureConnection' : 'connection')
  const wire = await server.connect()
  await begin(wire)
  await arrived
  for (let turns = 0; turns < 5; turns++) await turn()
}

for (const [what, begin] of Object.entries(clients)) {
  t.test(`L8 close() resolves when a client ${what}`, async t => {
    for (const force of forces) {
      const server = await serveAll(t, 'tcp', force)
      await begun(server, 'tcp', begin)
      const took = await timeToClose(server.app)
      t.ok(took < LONG, `forceCloseConnections ${force}: ${took} ms`)
      t.equal(server.app.duplex.connections.size, 0)
      t.equal(await server.sockets(), 0)
    }
  })
}

for (const transport of transports) {
  for (const force of forces) {
    t.test(`L8 close() resolves with all of them at once, forceCloseConnections ${force} [${transport}]`, possible(transport), async t => {
      const server = await serveAll(t, transport, force)
      for (const begin of Object.values(clients)) await begun(server, transport, begin)
      const [took] = await Promise.all([timeToClose(server.app), server.app.close()])
      t.ok(took < LONG, `${took} ms`)
      t.equal(server.app.duplex.connections.size, 0)
      t.equal(await server.sockets(), 0)
    })
  }
}

onEach(t, 'L8 close() resolves when the peers leave at the same moment', async (t, transport) => {
  const server = await serveAll(t, transport, undefined)
  const wires: Wire[] = []
  for (const begin of Object.values(clients)) {
    const wire = await server.connect()
    await begin(wire)
    wires.push(wire)
  }
  wires.forEach((wire, index) => index % 2 === 0 ? wire.reset() : wire.end())
  const took = await timeToClose(server.app)
  t.ok(took < LONG, `${took} ms`)
  t.equal(server.app.duplex.connections.size, 0)
})

t.test('L8 close() does not wait for drainTimeout when all are done before', async t => {
  const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: 20_000 } }, declare)
  const obeys = await connect()
  await obeys.send(upgrade('/obeys')).head()
  const message = await connect()
  await message.send(post('/obeys') + LAST_CHUNK).head()
  const closing = timeToClose(app)
  t.equal((await obeys.rest()).toString(), 'bye')
  obeys.end()
  t.equal((await message.rest()).toString(), piece('body', 'bye') + LAST_CHUNK, 'and the connection is not kept')
  t.ok(await closing < 5000)
})

t.test('L8 close() called twice resolves twice, and does not prolong the drain', async t => {
  const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: DRAIN } }, declare)
  await (await connect()).send(upgrade('/ignores')).head()
  const first = timeToClose(app)
  await turn()
  const second = timeToClose(app)
  t.ok(await first < LONG)
  t.ok(await second < LONG)
})

t.test('L8 the drain is longer than pluginTimeout, and the hooks of others run', async t => {
  const ran: string[] = []
  const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: 300 }, fastify: { pluginTimeout: 100 } }, app => {
    app.addHook('preClose', async () => { ran.push('preClose') })
    app.addHook('onClose', async () => { ran.push('onClose') })
    declare(app)
  })
  await (await connect()).send(upgrade('/ignores')).head()
  t.ok(await timeToClose(app) >= 300)
  t.same(ran, ['preClose', 'onClose'])
})

t.test('L8 a process whose last sockets are half-closed lives until close() has resolved', async t => {
  const child = fork(fileURLToPath(new URL('fixtures/closing-process.js', import.meta.url)), { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  t.teardown(() => child.kill())
  const said = text(child.stdout as NonNullable<typeof child.stdout>)
  const [port] = await once(child, 'message') as [number]
  const wire = await connectTcp(port)
  t.teardown(() => wire.destroy())
  await wire.send(upgrade('/it')).end().head()
  child.send('close')
  const [code] = await once(child, 'exit') as [number | null]
  t.equal(code, 0)
  t.equal(await said, 'onClose ran\nclose() resolved\n')
})

onEachKind(t, 'L8 a takeover that comes while the server drains gets 503, and its connection is closed', async (t, kind, transport) => {
  let entered = false
  const { app, connect } = await serve(t, { transport, plugin: { drainTimeout: DRAIN } }, app => take(app, () => { entered = true }))
  const wire = await connect()
  void app.duplex.drain()
  const response = await wire.send(ask(kind)).response()
  t.equal(response.status, 503)
  t.equal(response.headers.connection, 'close')
  t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_SHUTDOWN')
  t.equal((await wire.rest()).length, 0)
  t.equal(entered, false)
}, everyKind, resettable)

onEachKind(t, 'L8 a takeover on a kept connection gets 503 while the server closes', async (t, kind, transport) => {
  let entered = false
  const { app, connect } = await serve(t, { transport, close: false, plugin: { drainTimeout: DRAIN } }, app => {
    take(app, () => { entered = true })
    app.get('/hold', { duplex: true }, forever)
  })
  const wire = await connect()
  wire.send('GET /it HTTP/1.1\r\n')
  await (await connect()).send(get('/hold')).head()
  const closing = app.close()
  await turn()
  const response = await wire.send(ask(kind).replace(/^GET \/it HTTP\/1.1\r\n|^(?:POST|CONNECT).*\r\nHost: .*\r\n/, kind === 'body' || kind === 'connect' ? 'Host: a\r\n' : '')).response()
  t.equal(response.status, 503)
  await wire.remains()
  await closing
  t.equal(entered, false)
}, everyKind, resettable)

onEachKind(t, 'L8 a request whose hook ends during the drain is refused', async (t, kind, transport) => {
  const hook = gate()
  const inHook = gate()
  let entered = false
  const { app, connect } = await serve(t, { transport, plugin: { drainTimeout: 5000 } }, app => {
    app.addHook('preHandler', () => {
      inHook.open()
      return hook.promise
    })
    take(app, () => { entered = true })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await inHook.promise
  const closing = timeToClose(app)
  await turn()
  hook.open()
  const response = await wire.response()
  t.equal(response.status, 503)
  t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_SHUTDOWN')
  t.equal(response.headers.connection, 'close')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  t.ok(await closing < 3000, 'and nobody waits for it')
  t.equal(entered, false)
}, everyKind, resettable)

onEachKind(t, 'L8 accept() during the drain is refused', async (t, kind, transport) => {
  const dialled = gate()
  const entered = gate<PendingDuplex>()
  const { app, connect } = await serve(t, { transport, plugin: { drainTimeout: 5000 } }, app => takeManually(app, async pending => {
    entered.open(pending)
    await dialled.promise
    await pending.accept()
  }))
  const wire = await connect()
  wire.send(ask(kind))
  const pending = await entered.promise
  const { draining } = pending
  const closing = timeToClose(app)
  await aborted(draining)
  t.equal((draining.reason as { code: string }).code, 'FST_ERR_DUPLEX_SHUTDOWN')
  dialled.open()
  const response = await wire.response()
  t.equal(response.status, 503)
  t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_SHUTDOWN')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  t.ok(await closing < 3000)
}, everyKind, resettable)

onEachKind(t, 'L8 a connection whose accept head is being made when the drain starts is told at once', async (t, kind, transport) => {
  const hook = gate()
  const inHook = gate()
  const { app, connect } = await serve(t, { transport, plugin: { drainTimeout: 5000 } }, app => {
    app.addHook('onSend', () => {
      inHook.open()
      return hook.promise
    })
    take(app, async ({ writable, draining }) => { writable.write(String(draining.aborted)) })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await inHook.promise
  const drained = app.duplex.drain()
  hook.open()
  await wire.head()
  await wire.until('true')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await drained
}, everyKind, resettable)

onEach(t, 'L10 a detached socket is counted, told and ended', async (t, transport) => {
  const seen = gate<PendingDuplex>()
  const settings = { transport, close: false, plugin: { drainTimeout: DRAIN } }
  const { app, connect } = await serve(t, settings, app => takeManually(app, pending => {
    pending.detach().socket.write('HTTP/1.1 101 Mine\r\n\r\n')
    seen.open(pending)
  }))
  const wire = await connect()
  await wire.send(ask('upgrade')).head()
  const { draining, signal, closed } = await seen.promise
  t.equal(app.duplex.connections.size, 1)
  const closing = timeToClose(app)
  await aborted(draining)
  t.equal(signal.aborted, false)
  const took = await closing
  t.ok(took >= DRAIN - 5 && took < LONG, `${took} ms`)
  t.match(await closed, { reason: 'detached' })
  t.equal((signal.reason as { code: string }).code, 'FST_ERR_DUPLEX_SHUTDOWN')
  await howItLooks(wire)
  t.equal(app.duplex.connections.size, 0)
})

t.test('L8 a drain takes no new takeover by detach() either', async t => {
  const there = gate()
  const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: 2000 } }, app => takeManually(app, async pending => {
    there.open()
    await aborted(pending.draining)
    pending.detach()
  }))
  const wire = await connect()
  wire.send(ask('upgrade'))
  await there.promise
  const closing = app.close()
  t.match(await wire.response(), { status: 503, headers: { connection: 'close' } })
  await closing
})

t.test('L10 a detached socket that ends by itself is not waited for', async t => {
  const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: 20_000 } }, app => takeManually(app, pending => {
    const { draining } = pending
    const { socket } = pending.detach()
    socket.write('HTTP/1.1 101 Mine\r\n\r\n')
    draining.addEventListener('abort', () => socket.destroy())
  }))
  await (await connect()).send(ask('upgrade')).head()
  t.ok(await timeToClose(app) < 5000)
})

onEachKind(t, 'L15 draining aborts at the start, and signal at the end', async (t, kind, transport) => {
  const seen = gate<DuplexConnection>()
  const { app, connect } = await serve(t, { transport, close: false, plugin: { drainTimeout: DRAIN } }, app => take(app, connection => {
    seen.open(connection)
    connection.readable.on('data', chunk => connection.writable.write(chunk))
    return forever()
  }))
  const wire = await connect()
  await wire.send(ask(kind)).head()
  const { draining, signal, closed } = await seen.promise
  const from = performance.now()
  const closing = app.close()
  await aborted(draining)
  t.ok(performance.now() - from < DRAIN)
  t.equal((draining.reason as { code: string }).code, 'FST_ERR_DUPLEX_SHUTDOWN')
  t.equal(signal.aborted, false)
  t.match(await wire.send(piece(kind, 'still')).until('still'), /still$/, 'the streams still work')
  await aborted(signal)
  t.ok(performance.now() - from >= DRAIN - 5)
  t.equal((signal.reason as { code: string }).code, 'FST_ERR_DUPLEX_SHUTDOWN')
  t.match(await closed, { reason: 'shutdown' })
  await closing
}, everyKind, resettable)

onEach(t, 'L15 a body in flight when the drain starts arrives whole', async (t, transport) => {
  const { app, connect } = await serve(t, { transport, close: false, plugin: { drainTimeout: 20_000 } }, declare)
  const wire = await connect()
  wire.send(post('/echo') + piece('body', 'one'))
  await wire.head()
  t.equal(await wire.until('one\r\n'), piece('body', 'one'))
  const closing = timeToClose(app)
  await turn()
  wire.send(piece('body', 'two') + LAST_CHUNK)
  t.equal((await wire.rest()).toString(), piece('body', 'two') + LAST_CHUNK)
  t.ok(await closing < 5000, 'and its connection is not kept alive')
}, everywhere)

onEach(t, 'L15 a body that is not done when the drain ends is cut, and not ended', async (t, transport) => {
  const seen = gate<DuplexConnection>()
  const { app, connect } = await serve(t, { transport, close: false, plugin: { drainTimeout: DRAIN } }, app => {
    take(app, connection => {
      seen.open(connection)
      return pipeline(connection.readable, connection.writable)
    })
  })
  const wire = await connect()
  await wire.send(ask('body') + piece('body', 'one')).head()
  await wire.until('one\r\n')
  const { closed } = await seen.promise
  t.ok(await timeToClose(app) < LONG)
  t.equal(await wire.remains(), '', 'no last chunk')
  t.match(await closed, { reason: 'shutdown' })
}, everywhere)

onEach(t, 'L15 a stream that is not done when the drain ends is broken, and not ended', async (t, transport) => {
  const { app, connect } = await serve(t, { transport, close: false, plugin: { drainTimeout: DRAIN } }, declare)
  const wire = await connect()
  await wire.send(upgrade('/echo')).head()
  await app.close()
  t.equal(await howItLooks(wire), transport === 'unix' ? 'ended' : 'broken', 'a Unix socket has no reset')
}, everywhere)

t.test('L15 drain() refuses new connections, spares other routes, and resolves when none is left', async t => {
  const { app, connect } = await serve(t, {}, declare)
  const wire = await connect()
  await wire.send(upgrade('/obeys')).head()
  const drained = app.duplex.drain(20_000)
  t.equal((await wire.rest()).toString(), 'bye')
  const other = await connect()
  t.equal((await other.send(upgrade('/echo')).response()).status, 503)
  other.end()
  const plain = await connect()
  t.equal((await plain.send(get('/plain')).response()).body, 'plain')
  t.equal(app.duplex.connections.size, 1)
  wire.end()
  await drained
  t.equal(app.duplex.connections.size, 0)
  t.equal((await plain.send(get('/plain')).response()).body, 'plain', 'its connection is kept')
})

t.test('L15 drain(ms) destroys what is left after that time', async t => {
  const { app, connect } = await serve(t, { plugin: { drainTimeout: 20_000 } }, declare)
  const wire = await connect()
  await wire.send(upgrade('/ignores')).head()
  const from = performance.now()
  await app.duplex.drain(80)
  t.ok(performance.now() - from >= 75)
  t.equal(await howItLooks(wire), 'broken')
})

t.test('L15 the shortest of several drains counts', async t => {
  const { app, connect } = await serve(t, {}, declare)
  await (await connect()).send(upgrade('/ignores')).head()
  const from = performance.now()
  const long = app.duplex.drain(20_000)
  await Promise.all([long, app.duplex.drain(0)])
  t.ok(performance.now() - from < 5000)
})

t.test('L15 drain() without connections resolves at once', async t => {
  const { app } = await serve(t, {}, declare)
  await app.duplex.drain()
  await app.duplex.drain(20_000)
  t.equal(app.duplex.connections.size, 0)
})

t.test('L15 drain() takes milliseconds and nothing else', async t => {
  const { app, connect } = await serve(t, {}, declare)
  for (const wrong of [-1, NaN, Infinity, 1.5, '100', 2 ** 31]) {
    await t.rejects(app.duplex.drain(wrong as number), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
  }
  const wire = await connect()
  t.equal((await wire.send(upgrade('/echo')).head()).status, 101, 'and nothing has begun')
  wire.end()
})

t.test('L15 draining of a connection that is asked for late has aborted already', async t => {
  const late = gate<boolean>()
  const { app, connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true }, async (connection, request: FastifyRequest) => {
      await once(request.server.server, 'late')
      late.open(connection.draining.aborted)
    })
  })
  const wire = await connect()
  await wire.send(ask('upgrade')).head()
  const drained = app.duplex.drain()
  app.server.emit('late')
  t.equal(await late.promise, true)
  wire.end()
  await drained
})
