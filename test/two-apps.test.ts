import http, { type Server } from 'node:http'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import duplex, { type DuplexKind } from '../lib/index.ts'
import { guarded, serveGuarded, soon } from './fixtures/baseline.ts'
import { ask, everyKind, hear, LAST_CHUNK, onEachKind, piece, take } from './fixtures/kinds.ts'
import { until } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { listenTogether } from './fixtures/several-apps.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'

interface Shared {
  apps: FastifyInstance[]
  server: Server
  connect: () => Promise<Wire>
}

/** Two apps with the plugin on one server. The first has /0/..., and the other /1/... and each its CONNECT. */
async function share (t: Test): Promise<Shared> {
  const server = http.createServer()
  const apps: FastifyInstance[] = []
  for (const name of ['0', '1']) {
    const app = Fastify({
      serverFactory: handler => {
        server.on('request', (req, res) => { if (req.url?.startsWith(`/${name}`) === true) handler(req, res) })
        return server
      }
    }) as unknown as FastifyInstance
    await app.register(duplex, { drainTimeout: 100 })
    const handler = async ({ writable, readable }: { writable: NodeJS.WritableStream, readable: NodeJS.ReadableStream }): Promise<void> => {
      writable.write(`app${name}`)
      await once(readable.resume(), 'end')
    }
    app.route({ method: ['GET', 'POST'], url: `/${name}/it`, duplex: true, handler } as never)
    app.route({ method: 'CONNECT', url: `/${name}.example/:port`, duplex: true, handler } as never)
    app.get(`/${name}/plain`, async () => `plain${name}`)
    apps.push(app)
  }
  return await listenTogether(t, apps, server, port => connectTcp(port))
}

function askOf (name: string, kind: DuplexKind): string {
  return ask(kind).replaceAll('it.example', `${name}.example`).replace(' /it ', ` /${name}/it `)
}

for (const name of ['0', '1']) {
  for (const kind of everyKind) {
    t.test(`Q4 of two apps with the plugin on one server, each has its own: ${kind} of app ${name}`, guarded(async t => {
      const { apps, connect } = await share(t)
      const wire = await connect()
      wire.send(askOf(name, kind))
      await wire.head()
      t.equal(await hear(wire, kind, 'app0'), `app${name}`)
      t.same(apps.map(app => app.duplex.connections.size), name === '0' ? [1, 0] : [0, 1])
      wire.end(kind === 'body' ? LAST_CHUNK : '')
      await wire.remains()
      await until(() => apps.every(app => app.duplex.connections.size === 0))
    }))
  }

  t.test(`Q4 of two apps on one server, an Upgrade that app ${name} ignores is a plain request, and so is what follows`, guarded(async t => {
    const { connect } = await share(t)
    const wire = await connect()
    const plain = (which: string): string => `GET /${which}/plain HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n`
    wire.send(plain(name) + plain('0') + plain('1') + askOf(name, 'upgrade'))
    for (const which of [name, '0', '1']) t.equal((await wire.response()).body, `plain${which}`)
    t.equal((await wire.head()).status, 101)
    t.equal(await hear(wire, 'upgrade', 'app0'), `app${name}`)
  }))
}

for (const order of ['the first', 'the second', 'the server']) {
  t.test(`Q11 two apps on one server close, ${order} before the other, and leave nothing on it`, guarded(async t => {
    const { apps, server, connect } = await share(t)
    const wires: Wire[] = []
    for (const name of ['0', '1']) {
      for (const kind of everyKind) {
        const wire = await connect()
        await wire.send(askOf(name, kind)).head()
        wires.push(wire)
      }
    }
    if (order === 'the server') server.close()
    const [one, other] = order === 'the second' ? apps.toReversed() : apps
    const closed = one?.close().then(() => other?.close()).then(() => true)
    t.equal(await soon(closed as Promise<boolean>), true, 'both close')
    for (const wire of wires) await wire.remains()
    await until(() => !Object.hasOwn(server, 'emit') && !Object.hasOwn(server, 'close'))
  }))
}

/** A wrapper of somebody else around `emit` that tells of these events later. */
function holdBack (server: Server): { held: Promise<void>, go: () => void } {
  const held = gate()
  const events: (() => void)[] = []
  const { emit } = server
  server.emit = function (this: Server, event: string, ...args: unknown[]) {
    if (!['request', 'upgrade', 'connect'].includes(event)) return Reflect.apply(emit, this, [event, ...args]) as boolean
    events.push(() => { Reflect.apply(emit, this, [event, ...args]) })
    held.open()
    return true
  } as Server['emit']
  return {
    held: held.promise,
    go: () => {
      server.emit = emit
      for (const event of events.splice(0)) event()
    }
  }
}

onEachKind(t, 'Q4 an owner of emit holds an event back, and its client resets meanwhile', guarded(async (t, kind) => {
  const server = await serveGuarded(t, { plugin: { maxConnections: 1 } }, app => take(app, ({ readable }) => { readable.resume() }))
  const { held, go } = holdBack(server.app.server as Server)
  const wire = await server.connect()
  wire.send(ask(kind) + piece(kind, 'early'))
  await held
  wire.reset()
  await until(async () => await server.sockets() === 0)
  go()
  await server.baseline()
}), everyKind, ['tcp'])
