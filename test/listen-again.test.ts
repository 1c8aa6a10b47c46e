import { once } from 'node:events'
import http, { type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import duplex, { type DuplexConnection } from '../lib/index.ts'
import { ask, everyKind, hear, onEachKind, piece, statusOf, take, takeManually } from './fixtures/kinds.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { gate, onEach, serve, type TestServer, type Transport, type Way } from './fixtures/server.ts'
import { listenTogether } from './fixtures/several-apps.ts'
import { echo, echoed, share, shareTwice, within } from './fixtures/shared-server.ts'
import { watchUncaught } from './fixtures/uncaught.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'

const listening: readonly Transport[] = ['tcp', 'tls', 'unix', 'h2']

const EVENTS = [
  'upgrade', 'connect', 'clientError', 'checkContinue', 'request', 'connection', 'secureConnection', 'close', 'session', 'stream', 'listening'
]

/** What is on a server: its listeners, and the methods that somebody has put on it. */
function look (server: Server): unknown {
  return {
    listeners: Object.fromEntries(EVENTS.map(event => [event, server.listenerCount(event)])),
    own: Object.keys(server).filter(key => typeof Reflect.get(server, key) === 'function').sort()
  }
}

/** `server.close()` and nothing of the app: resolves when the server has closed. */
function stop (server: Server): Promise<void> {
  return within('server.close()', new Promise((resolve, reject) => {
    server.close(error => error === undefined ? resolve() : reject(error))
  }))
}

async function listenAgain (server: Server, address: string | AddressInfo): Promise<void> {
  if (typeof address === 'string') server.listen(address)
  else server.listen(address.port, address.address)
  await once(server, 'listening')
}

/** The connection works in both directions. */
async function works (t: Test, wire: Wire, kind: DuplexConnection['kind'], transport: Way): Promise<void> {
  const head = await within('the accept head', wire.send(ask(kind)).head())
  t.equal(head.status, statusOf(kind, transport))
  wire.send(piece(kind, 'ping'))
  t.equal(await within('the echo', hear(wire, kind, 'ping')), 'ping')
}

onEachKind(t, 'Q13 a server that is closed and listens again takes over as before', async (t, kind, transport) => {
  watchUncaught(t)
  const connections: DuplexConnection[] = []
  const { app, connect } = await serve(t, { transport, plugin: { drainTimeout: 5_000 } }, app => {
    take(app, connection => {
      connections.push(connection)
      connection.draining.addEventListener('abort', () => connection.readable.destroy())
      return echo(connection).catch(() => {})
    })
    app.get('/plain', async () => 'plain')
  })
  const { server } = app
  const address = server.address() as AddressInfo
  const seen: unknown[] = []
  for (let time = 1; time <= 3; time++) {
    const wire = await connect()
    await works(t, wire, kind, transport)
    const plain = await connect()
    t.equal((await within('the plain route', exchange(plain, 'GET /plain'))).body, 'plain')
    const { draining, closed } = connections.at(-1) as DuplexConnection
    t.equal(connections.length, time)
    t.equal(draining.aborted, false, 'a new connection is not told of the earlier drain')
    const stopped = stop(server)
    t.equal(draining.aborted, true, 'the drain begins each time')
    plain.destroy()
    wire.destroy()
    await within('the end', closed)
    await stopped
    t.equal(app.duplex.connections.size, 0)
    seen.push(look(server))
    await listenAgain(server, address)
  }
  t.same(seen[1], seen[0], 'nothing more is left over after the second time')
  t.same(seen[2], seen[0])
}, everyKind, listening)

onEach(t, 'Q13 a server listens again while its drain goes on', async (t, transport) => {
  watchUncaught(t)
  const entered: DuplexConnection[] = []
  const { app, connect } = await serve(t, { transport, plugin: { drainTimeout: 400 } }, app => {
    take(app, async connection => {
      entered.push(connection)
      await echo(connection)
    })
  })
  const { server } = app
  const address = server.address() as AddressInfo
  const old = await connect()
  await works(t, old, 'upgrade', transport)
  server.close()
  await listenAgain(server, address)
  const fresh = await connect()
  await works(t, fresh, 'upgrade', transport)
  const [first, second] = entered as [DuplexConnection, DuplexConnection]
  t.equal(first.draining.aborted, true)
  t.equal(second.draining.aborted, false)
  t.match(await within('the end of the drain', first.closed), { reason: 'shutdown' }, 'the drain of the first time cuts what it was about')
  fresh.send('on')
  t.equal((await within('the echo', fresh.bytes(2))).toString(), 'on', 'and spares what came later')
  t.equal(second.signal.aborted, false)
  old.destroy()
  const stopped = stop(server)
  t.equal(second.draining.aborted, true)
  t.match(await within('the end of the second drain', second.closed), { reason: 'shutdown' })
  fresh.destroy()
  await stopped
  await listenAgain(server, address)
  await works(t, await connect(), 'upgrade', transport)
}, listening)

/** The server closes, and listens at once. @returns a connection that came after that, and is accepted */
async function closeAndListen (t: Test, { app, connect }: Pick<TestServer, 'app' | 'connect'>, address: AddressInfo): Promise<Wire> {
  app.server.close()
  await listenAgain(app.server, address)
  const fresh = await connect()
  await works(t, fresh, 'upgrade', 'tcp')
  return fresh
}

t.test('Q13 a handshake from before is refused, and a new one is accepted', async t => {
  watchUncaught(t)
  const wait = gate()
  const asked = gate()
  let isFirst = true
  const { app, connect } = await serve(t, {}, app => takeManually(app, async pending => {
    if (isFirst) {
      isFirst = false
      asked.open()
      await wait.promise
    }
    const connection = await pending.accept()
    await echo(connection)
  }))
  const address = app.server.address() as AddressInfo
  const old = await connect()
  old.send(ask('upgrade'))
  await within('the handler', asked.promise)
  const fresh = await closeAndListen(t, { app, connect }, address)
  wait.open()
  t.equal((await within('the refusal', old.head())).status, 503)
  fresh.end()
  await within('the end', fresh.gone())
})

t.test('Q13 drain() that waits resolves when its connections have ended', async t => {
  watchUncaught(t)
  const { app, connect } = await serve(t, {}, app => take(app, echo))
  const address = app.server.address() as AddressInfo
  const old = await connect()
  await works(t, old, 'upgrade', 'tcp')
  const drained = app.duplex.drain()
  const fresh = await closeAndListen(t, { app, connect }, address)
  old.end()
  await within('drain()', drained)
  t.equal(app.duplex.connections.size, 1)
  fresh.end()
  await within('the end', fresh.gone())
})

t.test('Q13 an idle server that is closed and listens at once goes on', async t => {
  watchUncaught(t)
  const { app, connect } = await serve(t, {}, app => take(app, echo))
  const address = app.server.address() as AddressInfo
  const before = look(app.server)
  for (let time = 1; time <= 3; time++) {
    const closed = once(app.server, 'close')
    app.server.close()
    await listenAgain(app.server, address)
    await within('the event', closed)
    t.same(look(app.server), before)
    const wire = await connect()
    await works(t, wire, 'upgrade', 'tcp')
    wire.end()
    await within('the end', wire.gone())
  }
})

t.test('Q13 a server that is closed before it listens, and twice, listens as any other', async t => {
  watchUncaught(t)
  const app = Fastify()
  await app.register(duplex)
  take(app, echo)
  await app.ready()
  t.teardown(() => within('app.close()', app.close()))
  await t.rejects(stop(app.server), { code: 'ERR_SERVER_NOT_RUNNING' })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const address = app.server.address() as AddressInfo
  for (let time = 1; time <= 2; time++) {
    const wire = await connectTcp(address.port)
    await works(t, wire, 'upgrade', 'tcp')
    wire.end()
    await within('the end', wire.gone())
    const stopped = stop(app.server)
    await t.rejects(stop(app.server), { code: 'ERR_SERVER_NOT_RUNNING' })
    await stopped
    await listenAgain(app.server, address)
  }
})

t.test('Q13 the first server of localhost listens again, and the second stays closed', async t => {
  const app = Fastify()
  await app.register(duplex)
  take(app, echo)
  const connect = await shareTwice(t, app)
  const address = app.server.address() as AddressInfo
  for (const which of ['main', 'second'] as const) {
    const wire = await connect(which)
    await works(t, wire, 'upgrade', 'tcp')
    wire.end()
    await within('the end', wire.gone())
  }
  await stop(app.server)
  await t.rejects(connect('second'), { code: 'ECONNREFUSED' })
  await listenAgain(app.server, address)
  const live = await connect('main')
  await works(t, live, 'upgrade', 'tcp')
  const [connection] = [...app.duplex.connections]
  const stopped = stop(app.server)
  t.equal(connection?.draining.aborted, true)
  live.end()
  await stopped
})

t.test('Q13 the first server of localhost listens again at once, while the second closes', async t => {
  const app = Fastify()
  await app.register(duplex)
  take(app, echo)
  const connect = await shareTwice(t, app)
  const address = app.server.address() as AddressInfo
  const old = await connect('second')
  await works(t, old, 'upgrade', 'tcp')
  app.server.close()
  await listenAgain(app.server, address)
  old.end()
  await within('the end', old.gone())
  const live = await connect('main')
  await works(t, live, 'upgrade', 'tcp')
  live.end()
  await within('the end', live.gone())
})

t.test('Q13 an app that has closed hears nothing of its server any more', async t => {
  const { server, close } = await share(t, {}, app => take(app, echo))
  const address = server.address() as AddressInfo
  await stop(server)
  await close()
  t.equal(server.listenerCount('listening'), new (server.constructor as new () => Server)().listenerCount('listening'))
  await listenAgain(server, address)
  const wire = await connectTcp(address.port)
  t.teardown(() => wire.destroy())
  t.equal((await within('the answer', wire.send(request('GET /it', ...UPGRADE)).head())).status, 503)
  await stop(server)
})

t.test('Q13 two apps of one server serve on when it listens again', async t => {
  watchUncaught(t)
  const server = http.createServer()
  const apps: FastifyInstance[] = []
  for (const url of ['/one', '/two']) {
    const app = Fastify({
      serverFactory: handler => server.on('request', (req, res) => { if (req.url === url) handler(req, res) })
    }) as unknown as FastifyInstance
    await app.register(duplex)
    app.get(url, { duplex: true }, echo)
    apps.push(app)
  }
  const { connect } = await listenTogether(t, apps, server, port => connectTcp(port))
  const address = server.address() as AddressInfo
  for (let time = 1; time <= 3; time++) {
    const wires: Wire[] = []
    for (const url of ['/one', '/two']) {
      const wire = await connect()
      wires.push(wire)
      t.equal(await echoed(wire, request(`GET ${url}`, ...UPGRADE), 'x'), 'x')
    }
    const stopped = stop(server)
    for (const wire of wires) wire.end()
    await stopped
    await listenAgain(server, address)
  }
})
