import t from 'tap'
import { once } from 'node:events'
import net, { type Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import duplex, { type DuplexConnection, type DuplexKind, type PendingDuplex } from '../lib/index.ts'
import { guarded, serveGuarded, soon, until } from './fixtures/baseline.ts'
import { chunkedBody } from './fixtures/chunked.ts'
import { ask, hear, LAST_CHUNK, onEachKind, piece, statusOf, streamKinds } from './fixtures/kinds.ts'
import { exchange } from './fixtures/requests.ts'
import { gate, onEach, ways, type Way } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

/** How an app hands a connection on to an HTTP server, as an intercepting proxy does. */
const handOver: Record<string, (pending: PendingDuplex, to: (socket: Socket, head: Buffer) => void) => unknown> = {
  'is detached': (pending, to) => {
    const { socket, head } = pending.detach()
    socket.write('HTTP/1.1 200 OK\r\n\r\n')
    to(socket, head)
  },
  'is accepted': async (pending, to) => {
    const { writable } = await pending.accept()
    to(writable as unknown as Socket, Buffer.alloc(0))
    await new Promise(() => {})
  },
  'is accepted, and its handler returns no promise': (pending, to) => {
    void pending.accept().then(({ writable }) => to(writable as unknown as Socket, Buffer.alloc(0)))
  }
}

/** Echoes, in a duplex route of each kind. */
async function echoApp (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(duplex, { maxConnections: 1 })
  routes(app)
  await app.ready()
  return app
}

function routes (app: FastifyInstance): void {
  const echo = async ({ readable, writable }: DuplexConnection): Promise<void> => {
    for await (const chunk of readable) writable.write(chunk)
  }
  app.get('/it', { duplex: true }, echo)
  app.post('/it', { duplex: true }, echo)
  app.get('/inner', async () => 'inner')
}

async function echoed (t: Test, wire: Wire, kind: DuplexKind): Promise<void> {
  const head = await wire.send(ask(kind)).head()
  t.equal(head.status, statusOf(kind))
  wire.send(piece(kind, 'hello'))
  t.equal(await hear(wire, kind, 'hello'), 'hello')
}

const innerKinds: readonly DuplexKind[] = ['upgrade', 'hijack', 'body']

for (const [how, give] of Object.entries(handOver)) {
  for (const which of ['another app', 'the same app'] as const) {
    for (const inner of innerKinds) {
      onEach(t, `Q50 a CONNECT that ${how} and given to ${which}, then taken over as ${inner}`, guarded(async (t, transport: Way) => {
        const other = which === 'another app' ? await echoApp() : undefined
        t.teardown(() => other?.close())
        const outer: string[] = []
        const server = await serveGuarded(t, { transport, plugin: { maxConnections: 2 } }, app => {
          routes(app)
          app.route({
            method: 'CONNECT',
            url: '*',
            duplex: { accept: 'manual' },
            handler: pending => {
              void pending.closed.then(({ reason }) => outer.push(reason))
              return give(pending, (socket, head) => {
                if (head.length > 0) socket.unshift(head)
                ;(other ?? app).server.emit('connection', socket)
              }) as never
            }
          })
        })
        const wire = await server.connect()
        t.equal((await wire.send(ask('connect')).head()).status, 200)
        t.equal((await exchange(wire, 'GET /inner')).body, 'inner')
        await echoed(t, wire, inner)
        wire.end(inner === 'body' ? LAST_CHUNK : '')
        if (inner === 'body') await chunkedBody(wire)
        await wire.remains()
        await until(() => outer.length === 1, 'the end of the outer connection')
        if (other !== undefined) {
          await until(() => other.duplex.connections.size === 0, 'the end of the inner connection')
          t.not(await soon(other.close()), 'never')
        }
        await server.baseline()
      }), how === 'is detached' && inner === 'upgrade' ? ['tcp', 'unix', 'injected'] : ['tcp'])
    }
  }

  onEach(t, `Q50 a CONNECT that ${how}, given to another app, and reset: each owner hears of it`, guarded(async (t, transport: Way) => {
    const other = await echoApp()
    t.teardown(() => other.close())
    const outer: string[] = []
    const innerClosed = gate<string>()
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual' },
      handler: pending => {
        void pending.closed.then(({ reason }) => outer.push(reason))
        return give(pending, socket => other.server.emit('connection', socket)) as never
      }
    }))
    const wire = await server.connect()
    await wire.send(ask('connect')).head()
    await echoed(t, wire, 'upgrade')
    const [inner] = other.duplex.connections
    void inner?.closed.then(({ reason }) => innerClosed.open(reason))
    wire.reset()
    t.equal(await soon(innerClosed.promise), 'abort')
    await until(() => outer.length === 1, 'the end of the outer connection')
    t.equal(other.duplex.connections.size, 0)
    t.not(await soon(other.close()), 'never')
    await server.baseline()
  }), ['tcp', 'injected'])

  onEach(t, `Q50 a CONNECT that ${how} and given to the same app: close() ends all of it`, guarded(async (t, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { drainTimeout: 100 } }, app => {
      app.get('/it', { duplex: true }, () => new Promise(() => {}))
      app.route({
        method: 'CONNECT',
        url: '*',
        duplex: { accept: 'manual' },
        handler: pending => give(pending, socket => app.server.emit('connection', socket)) as never
      })
    })
    const wire = await server.connect()
    await wire.send(ask('connect')).head()
    t.equal((await wire.send(ask('upgrade')).head()).status, 101)
    const closed = server.app.close()
    t.not(await soon(wire.remains()), 'never')
    wire.destroy()
    t.not(await soon(closed), 'never')
    t.equal(server.app.duplex.connections.size, 0)
    t.equal(await server.sockets(), 0)
  }), ['tcp'])

  onEach(t, `Q50 a CONNECT inside a CONNECT inside a CONNECT, each of which ${how}`, guarded(async (t, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 4 } }, app => {
      routes(app)
      app.route({
        method: 'CONNECT',
        url: '*',
        duplex: { accept: 'manual' },
        handler: pending => give(pending, (socket, head) => {
          if (head.length > 0) socket.unshift(head)
          app.server.emit('connection', socket)
        }) as never
      })
    })
    const wire = await server.connect()
    for (let depth = 0; depth < 3; depth++) t.equal((await wire.send(ask('connect')).head()).status, 200)
    await echoed(t, wire, 'upgrade')
    t.equal(server.app.duplex.connections.size, 4)
    wire.end()
    await wire.remains()
    await server.baseline()
  }), ['tcp'])
}

for (const inner of ['plain', 'ignored upgrade', 'refused upgrade'] as const) {
  onEach(t, `Q50 a detached CONNECT whose inner request is: ${inner}`, guarded(async (t, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      app.get('/only', { duplex: { protocols: ['foo'], kinds: ['upgrade'] } }, () => {})
      app.route({
        method: 'CONNECT',
        url: '*',
        duplex: { accept: 'manual' },
        handler: pending => {
          const { socket } = pending.detach()
          socket.write('HTTP/1.1 200 OK\r\n\r\n')
          app.server.emit('connection', socket)
          return undefined as never
        }
      })
    })
    const wire = await server.connect()
    await wire.send(ask('connect')).head()
    const [line, ...fields] = {
      plain: ['GET /pong'],
      'ignored upgrade': ['GET /pong', 'Connection: Upgrade', 'Upgrade: foo'],
      'refused upgrade': ['GET /only', 'Connection: Upgrade', 'Upgrade: bar']
    }[inner] as [string, ...string[]]
    t.equal((await exchange(wire, line, ...fields)).status, inner === 'refused upgrade' ? 426 : 200)
    wire.end()
    t.not(await soon(wire.gone()), 'never')
    await server.baseline()
  }), ['tcp', 'injected'])
}

const REFUSAL = 'HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno'

/** When the client of a detached socket sends its FIN. */
const fins: Record<string, { before?: boolean, head?: string, hold?: boolean }> = {
  'after the answer': {},
  'with its request': { before: true },
  'while the new owner thinks': { hold: true },
  'after early bytes': { head: 'early' }
}
for (const [when, { before, head, hold }] of Object.entries(fins)) {
  onEachKind(t, `Q51 a detached socket that its owner ends and does not read closes, with a FIN ${when}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const reasons: string[] = []
    const ended = gate()
    const entered = gate()
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      for (const [method, url] of [['GET', '/it'], ['CONNECT', '*']] as const) {
        app.route({
          method,
          url,
          duplex: { accept: 'manual' },
          async handler (pending: PendingDuplex) {
            void pending.closed.then(({ reason }) => reasons.push(reason))
            const { socket } = pending.detach()
            entered.open()
            if (hold === true) await ended.promise
            socket.end(REFUSAL)
          }
        } as never)
      }
    })
    const wire = await server.connect()
    wire.send(ask(kind) + (head ?? ''))
    if (before === true) wire.end()
    await entered.promise
    if (hold === true) {
      wire.end()
      await turn()
      await turn()
      ended.open()
    }
    t.equal((await wire.response()).status, 401)
    wire.end()
    await until(() => server.peers[0]?.destroyed === true, 'the end of the socket')
    await until(() => reasons.length === 1)
    t.same(reasons, ['detached'])
    await server.baseline()
  }), streamKinds, ways)
}

/** What is on a socket that Node hands to a listener of 'upgrade', and nobody else has touched. */
async function bareSocket (t: Test): Promise<Socket> {
  const server = (await import('node:http')).createServer()
  const handed = once(server, 'upgrade')
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  client.write(ask('upgrade'))
  const [, socket] = await handed as [unknown, Socket]
  t.teardown(() => {
    client.destroy()
    socket.destroy()
    server.close()
  })
  return socket
}

const METHODS = ['push', 'read', 'destroy', 'write', 'end', 'emit', 'on', 'setEncoding', 'unshift', 'resume', 'pause', 'pipe'] as const

onEachKind(t, 'Q51 nothing that the plugin put on a socket is left behind detach()', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const bare = await bareSocket(t)
  const detached = gate<Socket>()
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
    for (const [method, url] of [['GET', '/it'], ['CONNECT', '*']] as const) {
      app.route({
        method,
        url,
        duplex: { accept: 'manual' },
        handler: (pending: PendingDuplex) => { detached.open(pending.detach().socket) }
      } as never)
    }
  })
  const wire = await server.connect()
  wire.send(ask(kind))
  const socket = await detached.promise
  for (const name of METHODS) t.equal(Object.hasOwn(socket, name), Object.hasOwn(bare, name), `${name}() is Node's`)
  for (const event of ['data', 'readable', 'drain', 'timeout', 'finish']) {
    t.equal(socket.listenerCount(event), bare.listenerCount(event), `nobody else listens for '${event}'`)
  }
  t.equal(socket.readableFlowing, bare.readableFlowing)
  t.equal(socket.getMaxListeners() <= bare.getMaxListeners() + 1, true)
  // Somebody has to, until the new owner does.
  t.ok(socket.listenerCount('error') > 0, 'an error has an owner')
  socket.end()
  wire.end()
  await wire.remains()
  await server.baseline()
}), streamKinds, ['tcp', 'unix'])
