import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { Server as SocketServer } from 'socket.io'
import t, { type Test } from 'tap'
import duplex, { type DuplexConnection } from '../lib/index.ts'
import { ask, hear, LAST_CHUNK, piece, take } from './fixtures/kinds.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { gate } from './fixtures/server.ts'
import { echo, onEachServer, serverKinds, share, shareTwice, within, type ServerKind, type SharedServer } from './fixtures/shared-server.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'
import { connectFrames } from './fixtures/http2-frames.ts'
import { watchUncaught } from './fixtures/uncaught.ts'

/** Longer than any test: what ends before, does not end by the cut. */
const LONG = 60_000

interface Closer {
  /** What it puts on the app before the plugin is registered. */
  prepare?: (app: FastifyInstance) => unknown
  /** Begins to close. */
  close: (app: FastifyInstance) => unknown
}

let sockets: SocketServer | undefined

/** Who may close a server before Fastify does, or together with it. */
const closers: Record<string, Closer> = {
  'app.close()': { close: app => app.close() },
  'app.close() twice': { close: app => Promise.all([app.close(), app.close()]) },
  'app.server.close()': { close: app => app.server.close() },
  'app.server.close() and app.close()': {
    close: app => {
      app.server.close()
      return app.close()
    }
  },
  'the disposal of the server': { close: app => app.server[Symbol.asyncDispose]() },
  'an earlier preClose hook that waits for the server': {
    prepare: app => app.addHook('preClose', () => new Promise<void>(resolve => { app.server.close(() => resolve()) })),
    close: app => app.close()
  },
  'an earlier preClose hook that closes the server': {
    prepare: app => app.addHook('preClose', async () => { app.server.close() }),
    close: app => app.close()
  },
  'io.close() of socket.io': {
    prepare: app => { sockets = new SocketServer(app.server) },
    close: () => sockets?.close()
  },
  'socket.io in an earlier preClose hook': {
    prepare: app => {
      const io = new SocketServer(app.server)
      app.addHook('preClose', async () => { await io.close() })
    },
    close: app => app.close()
  }
}

async function drainingOf ({ draining }: DuplexConnection): Promise<void> {
  if (!draining.aborted) await once(draining, 'abort')
}

interface Live {
  wire: Wire
  connection: DuplexConnection
}

interface Draining extends SharedServer {
  live: (kind: 'upgrade' | 'body' | 'hijack' | 'connect') => Promise<Live>
}

/** An app whose handlers work until they are told that the server goes, and then say good-bye. */
async function draining (t: Test, closer: Closer, server: ServerKind, patient = true, drainTimeout = LONG): Promise<Draining> {
  const entered: DuplexConnection[] = []
  let wake: () => void = () => {}
  const shared = await share(t, { server, plugin: { drainTimeout }, before: app => closer.prepare?.(app) }, app => {
    take(app, async connection => {
      entered.push(connection)
      wake()
      connection.writable.write('hello')
      await drainingOf(connection)
      if (!patient) await new Promise(() => {})
      connection.writable.write('bye')
    }, { finTimeout: 100 })
    app.get('/plain', async () => 'plain')
  })
  return {
    ...shared,
    live: async kind => {
      const wire = await shared.connect()
      wire.send(ask(kind))
      await within('the accept head', wire.head())
      await hear(wire, kind, 'hello')
      while (entered.length === 0) await new Promise<void>(resolve => { wake = resolve })
      return { wire, connection: entered.shift() as DuplexConnection }
    }
  }
}

for (const [who, closer] of Object.entries(closers)) {
  onEachServer(t, `Q11 a drain begins with ${who}`, async (t, server) => {
    const { live, app, connect } = await draining(t, closer, server)
    const keptAlive = await connect()
    keptAlive.send(request('GET /plain'))
    await keptAlive.response()
    const connections = [await live('upgrade'), await live('hijack'), await live('body')]
    const closed = once(app.server, 'close')
    const closing = Promise.resolve(closer.close(app))
    for (const [at, { wire, connection }] of connections.entries()) {
      await within('draining', drainingOf(connection))
      t.match(connection.draining.reason, { code: 'FST_ERR_DUPLEX_SHUTDOWN' })
      const kind = (['upgrade', 'hijack', 'body'] as const)[at] as 'upgrade'
      t.equal(await within('the last words', hear(wire, kind, 'bye')), 'bye')
      wire.end(kind === 'body' as string ? LAST_CHUNK : '')
      t.match(await within('closed', connection.closed), { reason: 'end' })
    }
    await within('the end of a connection that carries nothing', keptAlive.remains())
    await within('close', closed)
    await within(who, closing)
    await within('app.close()', app.close())
  })

  t.test(`Q11 ${who} ends what does not heed the drain`, async t => {
    const { live, app } = await draining(t, closer, 'http', false, 200)
    const { connection } = await live('upgrade')
    const closing = Promise.resolve(closer.close(app))
    t.match(await within('closed', connection.closed), { reason: 'shutdown' })
    await within(who, closing)
    await within('app.close()', app.close())
  })

  t.test(`Q11 ${who} during a handshake`, async t => {
    const entered = gate()
    const held = gate()
    const shared = await share(t, { plugin: { drainTimeout: LONG }, before: app => closer.prepare?.(app) }, app => {
      app.addHook('onRequest', async () => {
        entered.open()
        await held.promise
      })
      take(app, () => t.fail('the server was going already'))
    })
    const wire = await shared.connect()
    wire.send(ask('upgrade'))
    await entered.promise
    const closing = Promise.resolve(closer.close(shared.app))
    // Whoever closes says so to others first; hooks of Fastify come some turns later.
    for (let turns = 0; turns < 10; turns++) await new Promise(resolve => setImmediate(resolve))
    held.open()
    t.equal((await within('a refusal', wire.head())).status, 503)
    wire.destroy()
    await within(who, closing)
    await within('app.close()', shared.app.close())
  })
}

t.test('Q11 a new takeover on a connection that lives on is refused, whoever closes the server', async t => {
  const { live, app, connect } = await draining(t, {} as Closer, 'http')
  const first = await live('upgrade')
  const late = await connect()
  late.send('GET /it HTTP/1.1\r\nHost: a\r\nConnec')
  const second = await live('body')
  app.server.close()
  late.send('tion: Upgrade\r\nUpgrade: foo\r\n\r\n')
  t.match(await within('a refusal', late.remains()), /^HTTP\/1\.1 503 /)
  for (const { connection, wire } of [first, second]) {
    await within('draining', drainingOf(connection))
    wire.destroy()
  }
})

t.test('Q11 both servers of localhost drain', async t => {
  const app = Fastify()
  await app.register(duplex, { drainTimeout: LONG })
  take(app, async connection => {
    await drainingOf(connection)
    connection.writable.end('bye')
  })
  const connect = await shareTwice(t, app)
  const wires: Wire[] = []
  for (const which of ['main', 'second'] as const) {
    const wire = await connect(which)
    await within('101', wire.send(ask('upgrade')).head())
    wires.push(wire)
    wires.push(await connect(which))
  }
  app.server.close()
  for (const [at, wire] of wires.entries()) {
    t.equal((await within('the end', wire.rest())).toString(), at % 2 === 0 ? 'bye' : '')
    wire.end()
  }
  await within('app.close()', app.close())
})

// Sockets that carry nothing.

const quietClients: Record<string, (wire: Wire) => Promise<unknown>> = {
  'never sent a request': async () => {},
  'has had an answer': async wire => wire.send(request('GET /plain')).response(),
  'has had an answer to an Upgrade that was ignored': async wire => wire.send(request('GET /plain', ...UPGRADE)).response(),
  'has had the whole of a body': async wire => {
    wire.send(ask('body') + piece('body', 'hi') + LAST_CHUNK)
    await wire.until('0\r\n\r\n')
  }
}

for (const force of [undefined, 'idle', true, false] as const) {
  for (const [what, begin] of Object.entries(quietClients)) {
    onEachServer(t, `Q12 close() ends a connection that ${what}, forceCloseConnections ${String(force)}`, async (t, server) => {
      const { app, connect, close } = await share(t, {
        server, plugin: { drainTimeout: LONG }, fastify: force === undefined ? {} : { forceCloseConnections: force } as never
      }, app => {
        take(app, echo)
        app.get('/plain', async () => 'plain')
      })
      const wire = await connect()
      // The server knows of it for sure.
      await (await connect()).send(request('GET /plain')).response()
      await within('the beginning', begin(wire))
      await close()
      await within('the end', wire.remains())
      t.equal(app.server.listening, false)
    }, force === undefined ? serverKinds : ['http'])
  }
}

for (const when of ['before the request has come', 'after the request has come'] as const) {
  t.test(`Q12 close() ends after a fetch that was aborted ${when}`, async t => {
    const reached = gate()
    const { server, port, close } = await share(t, { plugin: { drainTimeout: LONG } }, app => {
      app.get('/slow', (request, reply) => {
        reached.open()
        request.raw.socket.once('close', () => { void reply.hijack() })
      })
    })
    const controller = new AbortController()
    if (when.startsWith('before')) server.once('connection', () => reached.open())
    const fetched = fetch(`http://127.0.0.1:${port}/slow`, { signal: controller.signal }).catch(() => {})
    if (when.startsWith('before')) controller.abort()
    else await reached.promise
    controller.abort()
    await fetched
    await reached.promise
    await close()
  })
}

for (const [what, bytes] of [['part of a head', 'GET /pl'], ['part of a body', 'POST /it HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal']] as const) {
  t.test(`Q12 close() resolves when a client has sent ${what} and nothing more`, async t => {
    const { connect, close } = await share(t, { plugin: { drainTimeout: 200 } }, app => {
      take(app, echo)
    })
    const wire = await connect()
    wire.send(bytes)
    await (await connect()).send(request('GET /no')).response()
    await close()
    await within('the end', wire.remains())
  })
}

t.test('Q12 close() resolves when a client has not finished its TLS handshake', async t => {
  const { port, close, connect } = await share(t, { server: 'https', plugin: { drainTimeout: 200 } }, app => take(app, () => {}))
  const raw = await connectTcp(port)
  t.teardown(() => raw.destroy())
  await (await connect()).send(request('GET /no')).response()
  await close()
  await within('the end', raw.remains())
})

for (const kind of ['upgrade', 'body', 'hijack'] as const) {
  for (const server of serverKinds) {
    t.test(`Q12 forceCloseConnections: true spares what is live until it has ended [${kind}] [${server}]`, async t => {
      const entered = gate<DuplexConnection>()
      const { connect, app } = await share(t, { server, plugin: { drainTimeout: LONG }, fastify: { forceCloseConnections: true } }, app => {
        take(app, async connection => {
          entered.open(connection)
          await drainingOf(connection)
          connection.writable.write('one ')
          // All that app.close() does at once is done by then.
          for (let turns = 0; turns < 20; turns++) await new Promise(resolve => setImmediate(resolve))
          connection.writable.write('two')
        }, { finTimeout: 100 })
      })
      const wire = await connect()
      await within('the accept head', wire.send(ask(kind)).head())
      const connection = await entered.promise
      const closing = app.close()
      t.equal(await within('all of it', hear(wire, kind, 'one two')), 'one two')
      wire.end(kind === 'body' ? LAST_CHUNK : '')
      t.match(await within('closed', connection.closed), { reason: 'end' })
      await within('app.close()', closing)
    })
  }
}

t.test('Q12 forceCloseConnections: true spares a stream of HTTP/2 until it has ended', async t => {
  watchUncaught(t)
  const app = Fastify({ http2: true, forceCloseConnections: true }) as unknown as FastifyInstance
  await app.register(duplex, { drainTimeout: LONG })
  take(app, async connection => {
    await drainingOf(connection)
    connection.writable.write('one ')
    for (let turns = 0; turns < 20; turns++) await new Promise(resolve => setImmediate(resolve))
    connection.writable.write('two')
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const http2 = await import('node:http2')
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  const stream = session.request({ ':method': 'POST', ':path': '/it' })
  stream.on('error', () => {})
  await within('the accept head', once(stream, 'response'))
  const closing = app.close()
  stream.end()
  let heard = ''
  stream.setEncoding('utf8').on('data', text => { heard += text })
  await within('the end of the stream', once(stream, 'close'))
  t.equal(heard, 'one two')
  t.equal(stream.rstCode, 0)
  await within('app.close()', closing)
})

// What a client of HTTP/2 sends before it can know that the server closes.

const PLAIN = { ':method': 'GET', ':scheme': 'http', ':path': '/plain', ':authority': 'a' }
const late: Record<string, Record<string, string>> = {
  'a plain route': PLAIN,
  'no route': { ...PLAIN, ':path': '/nothing' },
  'a body route': { ...PLAIN, ':method': 'POST', ':path': '/it' },
  'an extended CONNECT': { ...PLAIN, ':method': 'CONNECT', ':protocol': 'foo', ':path': '/it' },
  'a CONNECT': { ':method': 'CONNECT', ':authority': 'it.example:443' }
}

for (const [what, headers] of Object.entries(late)) {
  t.test(`Q58 a request of HTTP/2 that was under way when the app closed is answered 503: ${what}`, async t => {
    watchUncaught(t)
    const app = Fastify({ http2: true }) as unknown as FastifyInstance
    const entered = gate()
    const held = gate()
    const begun = gate()
    await app.register(duplex, { drainTimeout: LONG, extendedConnect: true })
    app.addHook('preClose', async () => begun.open())
    take(app, () => t.fail('taken by a server that closes'))
    app.get('/plain', async () => 'plain')
    app.get('/slow', async () => {
      entered.open()
      await held.promise
      return 'slow'
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const frames = await connectFrames(t, (app.server.address() as AddressInfo).port)
    frames.headers(1, { ...PLAIN, ':path': '/slow' }, true)
    await entered.promise
    const closing = app.close()
    t.teardown(() => {
      held.open()
      frames.socket.destroy()
      return within('app.close()', closing)
    })
    await begun.promise
    // The answer to it says that the server has done all that closing begins with.
    frames.frame('PING', 0, 0, Buffer.alloc(8))
    await within('PING', frames.next('PING', 0))
    frames.headers(3, headers, headers[':method'] === 'GET')
    const answer = await within('an answer', frames.next('HEADERS', 3))
    t.match(answer.payload.toString('latin1'), /503/)
    t.notMatch(frames.story(3), ['RST_STREAM 7'])
    held.open()
    await within('the slow answer', frames.next('DATA', 1))
    // A session whose client stays is ended as well, in time; http2-sessions.test.ts has that.
    frames.socket.end()
    await within('app.close()', closing)
  })
}
