import http, { type RequestListener } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { restartable } from '@fastify/restartable'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import duplex, { type DuplexConnection } from '../lib/index.ts'
import { ask, take } from './fixtures/kinds.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { until as met } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { connectTo, echo, echoed, onEachServer, optionsFor, share, within, watchSockets, type ServerKind } from './fixtures/shared-server.ts'
import { watchUncaught } from './fixtures/uncaught.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'

const EVENTS = ['upgrade', 'connect', 'clientError', 'checkContinue', 'request', 'connection', 'secureConnection', 'close', 'session', 'stream']

function listeners (server: http.Server): Record<string, number> {
  return Object.fromEntries(EVENTS.map(event => [event, server.listenerCount(event)]))
}

/** Methods that somebody has put on the server itself. */
function own (server: http.Server): string[] {
  return Object.keys(server).filter(key => typeof Reflect.get(server, key) === 'function').sort()
}

/** Looks at every turn of the event loop, and not for ever. */
async function until (what: string, condition: () => boolean): Promise<void> {
  const state = { over: false }
  await within(what, met(() => state.over || condition())).finally(() => { state.over = true })
}

async function restarted (t: Test, kind: ServerKind, declare: (app: FastifyInstance, generation: number) => unknown): Promise<{
  app: FastifyInstance
  connect: () => Promise<Wire>
}> {
  watchUncaught(t)
  const sockets = watchSockets(t)
  let generation = 0
  const app = await restartable(async (make, options) => {
    const app = make(options)
    await app.register(duplex, { drainTimeout: 200 })
    await declare(app as unknown as FastifyInstance, ++generation)
    return app
  }, optionsFor(kind) as never) as unknown as FastifyInstance
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const wires: Wire[] = []
  t.teardown(async () => {
    for (const wire of wires) wire.destroy()
    for (const socket of sockets) socket.destroy()
    await within('app.close()', app.close())
  })
  return {
    app,
    connect: async () => {
      const wire = await connectTo(kind, port)
      wires.push(wire)
      return wire
    }
  }
}

onEachServer(t, 'Q13 @fastify/restartable restarts as often as it likes', async (t, kind) => {
  const { app, connect } = await restarted(t, kind, (app, generation) => {
    app.get('/it', { duplex: true }, ({ writable }) => { writable.end(`generation ${generation}`) })
    app.get('/plain', async () => `plain ${generation}`)
  })
  const { server } = app
  const before = { listeners: listeners(server), own: own(server) }
  for (let generation = 1; generation <= 4; generation++) {
    if (generation > 1) await within('restart()', app.restart())
    for (const fields of [UPGRADE, []]) {
      const wire = await connect()
      await within('the accept head', wire.send(request('GET /it', ...fields)).head())
      t.equal((await within('the handler', wire.rest())).toString(), `generation ${generation}`)
      wire.end()
    }
    const plain = await connect()
    plain.send(request('GET /plain', ...UPGRADE))
    t.equal((await within('the plain route', plain.response())).body, `plain ${generation}`)
    plain.destroy()
    t.equal(app.server, server)
  }
  t.same({ listeners: listeners(server), own: own(server) }, before)
})

t.test('Q13 a restart drains the connections of the app that goes', async t => {
  const entered: DuplexConnection[] = []
  const { app, connect } = await restarted(t, 'http', app => {
    take(app, async connection => {
      entered.push(connection)
      if (!connection.draining.aborted) await once(connection.draining, 'abort')
      connection.writable.write('bye')
    }, { finTimeout: 100 })
  })
  const old = await connect()
  await old.send(ask('upgrade')).head()
  await within('restart()', app.restart())
  t.equal((await within('the last words', old.bytes(3))).toString(), 'bye')
  old.end()
  t.match(await within('closed', (entered[0] as DuplexConnection).closed), { reason: 'end' })
  const fresh = await connect()
  t.equal((await within('the next one', fresh.send(ask('upgrade')).head())).status, 101)
  t.equal(entered[1]?.draining.aborted, false)
  await within('another restart()', app.restart())
  t.equal((await within('the last words', fresh.bytes(3))).toString(), 'bye')
})

t.test('Q13 a server on which an app was closed is as it was, and can have another', async t => {
  watchUncaught(t)
  const server = http.createServer()
  const before = { listeners: listeners(server), own: own(server) }
  for (let generation = 1; generation <= 3; generation++) {
    const handlers: RequestListener[] = []
    const app = Fastify({
      serverFactory: handler => {
        handlers.push(handler as RequestListener)
        return server.on('request', handler)
      }
    })
    await app.register(duplex, { drainTimeout: 200 })
    app.get('/it', { duplex: true }, echo)
    await app.listen({ port: 0, host: '127.0.0.1' })
    const wire = await connectTcp((server.address() as AddressInfo).port)
    t.teardown(() => wire.destroy())
    t.equal(await echoed(wire, request('GET /it', ...UPGRADE), 'x'), 'x')
    wire.end()
    await within('the end', wire.gone())
    await within('app.close()', app.close())
    // Fastify leaves these behind.
    for (const handler of handlers) server.off('request', handler)
    server.removeAllListeners('clientError')
    const after = listeners(server)
    t.same({ listeners: after, own: own(server) }, before)
  }
})

// Several apps, one connection.

for (const how of ['accepted', 'detached'] as const) {
  for (const where of ['another app', 'the same app'] as const) {
    t.test(`Q50 a CONNECT that was ${how} is given to ${where}, which takes it again`, async t => {
      const ended: string[] = []
      const inner = await share(t, { listen: false, plugin: { drainTimeout: 200 } }, app => {
        app.get('/it', { duplex: true }, async connection => {
          void connection.closed.then(({ reason }) => ended.push(`inner ${reason}`))
          await echo(connection)
        })
        app.get('/plain', async () => 'inner')
      })
      const given = gate()
      const outer = await share(t, { plugin: { drainTimeout: 200, maxConnections: 2 } }, app => {
        app.get('/it', { duplex: true }, async connection => {
          void connection.closed.then(({ reason }) => ended.push(`inner ${reason}`))
          await echo(connection)
        })
        app.get('/plain', async () => 'inner')
        const target = (): http.Server => where === 'another app' ? inner.server : app.server
        if (how === 'accepted') {
          app.route({
            method: 'CONNECT',
            url: '*',
            duplex: true,
            handler: connection => {
              void connection.closed.then(() => ended.push('outer'))
              target().emit('connection', connection.readable)
              given.open()
            }
          })
        } else {
          app.route({
            method: 'CONNECT',
            url: '*',
            duplex: { accept: 'manual' },
            handler: pending => {
              void pending.closed.then(() => ended.push('outer'))
              const { socket } = pending.detach()
              socket.write('HTTP/1.1 200 OK\r\n\r\n')
              target().emit('connection', socket)
              given.open()
            }
          })
        }
      })
      const wire = await outer.connect()
      t.equal((await within('200', wire.send('CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n').head())).status, 200)
      await given.promise
      wire.send(request('GET /plain'))
      t.equal((await within('a plain route inside', wire.response())).body, 'inner')
      t.equal(await echoed(wire, request('GET /it', ...UPGRADE), 'inside'), 'inside')
      wire.end()
      await within('the end', wire.gone())
      await until('the end of both', () => ended.length === 2)
      t.same([...ended].sort(), ['inner end', 'outer'])
      t.same([outer.app.duplex.connections.size, inner.app.duplex.connections.size], [0, 0])
      await outer.close()
      await inner.close()
    })
  }
}

t.test('Q51 another owner ends a detached socket without reading it, and the client ends too', async t => {
  let gone: Promise<unknown> = Promise.resolve()
  const { connect, app } = await share(t, { plugin: { drainTimeout: 60_000 } }, app => {
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual' },
      handler: pending => {
        const { socket } = pending.detach()
        gone = once(socket, 'close')
        socket.end('HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n')
      }
    })
  })
  const wire = await connect()
  wire.send('CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n')
  t.equal((await within('401', wire.head())).status, 401)
  wire.end()
  await within('the end of the socket', gone)
  await until('the slot', () => app.duplex.connections.size === 0)
})
