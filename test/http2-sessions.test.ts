import t, { type Test } from 'tap'
import net from 'node:net'
import tls from 'node:tls'
import { once } from 'node:events'
import type { ServerHttp2Session } from 'node:http2'
import { setTimeout as after } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import { Frames, PREFACE, statusIn } from './fixtures/http2-frames.ts'
import { CONNECT, EXTENDED, POST, request, requests, serveHttp2, whole, type Http2TestServer } from './fixtures/http2-server.ts'
import { take } from './fixtures/kinds.ts'
import { until } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { MiB } from './fixtures/takeover.ts'

const LIMIT = 100
const PLAIN = { ':method': 'GET', ':scheme': 'http', ':path': '/plain', ':authority': 'a' }

function sockets (app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => {
    app.server.getConnections((error, count) => error === null ? resolve(count) : reject(error))
  })
}

async function noSockets (app: FastifyInstance): Promise<void> {
  await until(async () => await sockets(app) === 0)
}

/** A client of HTTP/2 that does nothing by itself, over TLS. */
async function tlsFrames (t: Test, port: number): Promise<Frames> {
  const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['h2'] })
  await once(socket, 'secureConnect')
  t.teardown(() => socket.destroy())
  return new Frames(socket)
}

/** A client whose windows are as large as can be, that has asked and reads no more from its connection. */
async function deaf (t: Test, { port }: Http2TestServer, transport: string, headers: Record<string, string>): Promise<Frames> {
  const wire = await (transport === 'tls' ? tlsFrames(t, port) : plainFrames(t, port))
  wire.window(2 ** 31 - 1).take(0, 2 ** 30)
  await wire.received()
  wire.headers(1, headers)
  await wire.next('HEADERS', 1)
  wire.socket.pause()
  return wire
}

async function plainFrames (t: Test, port: number): Promise<Frames> {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
  await once(socket, 'connect')
  t.teardown(() => socket.destroy())
  return new Frames(socket)
}

// A client that stops reading TCP.

for (const transport of ['tcp', 'tls']) {
  for (const [limit, ends] of [['finTimeout', true], ['idleTimeout', false], ['maxLifetime', false]] as const) {
    t.test(`Q65 a client that stops reading is gone with its connection behind ${limit} [${transport}] [h2]`, async t => {
      const reason = gate<string>()
      const server = await serveHttp2(t, { tls: transport === 'tls', plugin: { finTimeout: LIMIT, [limit]: LIMIT } }, app => {
        take(app, async ({ writable, closed, signal }) => {
          void closed.then(({ reason: why }) => reason.open(why))
          writable.write(Buffer.alloc(32 * MiB))
          if (!ends) await once(signal, 'abort')
        })
      })
      await deaf(t, server, transport, EXTENDED)
      t.equal(await reason.promise, { finTimeout: 'fin', idleTimeout: 'idle', maxLifetime: 'lifetime' }[limit])
      t.equal(server.app.duplex.connections.size, 0)
      await noSockets(server.app)
    })
  }

  t.test(`Q65 a client that stops reading a refusal is gone with its connection [${transport}] [h2]`, async t => {
    const server = await serveHttp2(t, { tls: transport === 'tls', plugin: { finTimeout: LIMIT } }, app => {
      take(app, () => t.fail('entered'), true, { onRequest: async (_request, reply) => reply.code(403).send(Buffer.alloc(32 * MiB)) })
    })
    for (const headers of Object.values(requests)) await deaf(t, server, transport, headers)
    await noSockets(server.app)
  })

  t.test(`Q65 app.close() resolves at the end of the drain, with a client that stops reading [${transport}] [h2]`, async t => {
    const server = await serveHttp2(t, { tls: transport === 'tls', close: false, plugin: { drainTimeout: LIMIT } }, app => {
      take(app, async ({ writable, signal }) => {
        writable.write(Buffer.alloc(32 * MiB))
        await once(signal, 'abort')
      })
    })
    for (const headers of Object.values(requests)) await deaf(t, server, transport, headers)
    await server.app.close()
  })
}

t.test('Q65 a stream of the app\'s own outlives the others of a client that stops reading [h2]', async t => {
  const waiting = gate()
  const reason = gate<string>()
  const server = await serveHttp2(t, { plugin: { finTimeout: LIMIT } }, app => {
    take(app, async ({ writable, closed }) => {
      void closed.then(({ reason: why }) => reason.open(why))
      writable.write(Buffer.alloc(8 * MiB))
    })
    app.get('/plain', async () => {
      await waiting.promise
      return 'plain'
    })
  })
  const wire = await plainFrames(t, server.port)
  wire.window(2 ** 31 - 1).take(0, 2 ** 30)
  await wire.received()
  wire.headers(1, PLAIN, true).headers(3, EXTENDED)
  await wire.next('HEADERS', 3)
  wire.socket.pause()
  t.equal(await reason.promise, 'fin')
  // Another one is begun, and is over by its limit as well: by then the connection would be.
  await after(3 * LIMIT)
  t.equal(await sockets(server.app), 1)
  wire.socket.resume()
  waiting.open()
  t.equal((await wire.next('DATA', 1)).payload.toString(), 'plain')
})

// What is no request yet.

/** HEADERS with a field that never comes whole. */
const HALF = Buffer.from([0, 0, 50, 1, 5, 0, 0, 0, 1, 0x82])
/** A whole frame, and its block goes on in the next, which never comes. */
const OPEN_BLOCK = Buffer.from([0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82])

for (const transport of ['tcp', 'tls']) {
  const connect = transport === 'tls' ? tlsFrames : plainFrames
  for (const [what, bytes] of Object.entries({
    'half a HEADERS frame': HALF,
    'a header block without its end': OPEN_BLOCK,
    'half the head of a frame': HALF.subarray(0, 5),
    'nothing but its preface': Buffer.alloc(0)
  })) {
    t.test(`Q66 app.close() resolves, with a client that has sent ${what} [${transport}] [h2]`, async t => {
      const { app, port } = await serveHttp2(t, { tls: transport === 'tls', close: false, plugin: { drainTimeout: LIMIT } }, app => {
        take(app, () => {})
      })
      const sides = once(app.server, 'connection') as Promise<[net.Socket]>
      const wire = await connect(t, port)
      const [socket] = await sides
      await wire.received()
      const before = socket.bytesRead
      wire.socket.write(bytes)
      while (bytes.length > 0 && socket.bytesRead === before) await new Promise(resolve => setImmediate(resolve))
      await app.close()
      t.pass('closed')
    })
  }

  t.test(`Q66 behind a request that is under way, half a HEADERS frame does not keep app.close() either [${transport}] [h2]`, async t => {
    const { app, port } = await serveHttp2(t, { tls: transport === 'tls', close: false, plugin: { drainTimeout: LIMIT } }, app => {
      app.get('/plain', async () => {
        await after(3 * LIMIT)
        return 'plain'
      })
    })
    const wire = await connect(t, port)
    wire.headers(1, PLAIN, true)
    await wire.received()
    await wire.received(Buffer.from(HALF).fill(3, 8, 9))
    const closing = app.close()
    // Longer under way than the drain: it is the app's, which is not cut.
    t.equal((await wire.next('DATA', 1)).payload.toString(), 'plain')
    await closing
  })

  t.test(`Q66 app.close() resolves, with a session that begins only then [${transport}] [h2]`, async t => {
    const { app, port } = await serveHttp2(t, { tls: transport === 'tls', close: false, plugin: { drainTimeout: 10 * LIMIT } }, app => {
      take(app, ({ draining }) => once(draining, 'abort'))
    })
    // While this one is there, the server is closing and not closed.
    const first = await connect(t, port)
    first.headers(1, EXTENDED)
    await first.next('HEADERS', 1)
    const socket = net.connect({ port, host: '127.0.0.1' })
    await once(socket, 'connect')
    await first.received()
    const closing = app.close()
    const late = transport === 'tls' ? tls.connect({ socket, rejectUnauthorized: false, ALPNProtocols: ['h2'] }) : socket
    late.on('error', () => {})
    late.resume()
    late.write(PREFACE)
    t.teardown(() => late.destroy())
    await closing
  })
}

t.test('Q12 app.close() does not wait for a connection that has sent nothing [h2]', async t => {
  for (const tls of [false, true]) {
    const { app, port } = await serveHttp2(t, { tls, close: false, plugin: { drainTimeout: 60_000 } }, app => { take(app, () => {}) })
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    t.teardown(() => socket.destroy())
    await once(socket, 'connect')
    while (await sockets(app) === 0);
    await app.close()
  }
})

t.test('Q66 app.close() resolves, with a handshake of TLS that has stopped halfway [h2]', async t => {
  const { app, port } = await serveHttp2(t, { tls: true, close: false, plugin: { drainTimeout: LIMIT } }, app => { take(app, () => {}) })
  const sides = once(app.server, 'connection') as Promise<[net.Socket]>
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => socket.destroy())
  const [side] = await sides
  // The head of a record, and the rest never comes.
  socket.write(Buffer.of(22, 3, 1, 2, 0, 1, 0))
  while (side.bytesRead === 0) await new Promise(resolve => setImmediate(resolve))
  await app.close()
})

for (const transport of ['tcp', 'tls']) {
  t.test(`Q12 app.close() waits for no session whose streams are over, though its client answers nothing [${transport}] [h2]`, async t => {
    const { app, port } = await serveHttp2(t, { tls: transport === 'tls', close: false, plugin: { drainTimeout: 60_000 } }, app => {
      take(app, ({ readable, writable }) => {
        readable.resume()
        writable.end()
      })
      app.get('/plain', () => 'plain')
    })
    const wire = await (transport === 'tls' ? tlsFrames : plainFrames)(t, port)
    wire.headers(1, PLAIN, true).headers(3, POST).data(3, 'x', true)
    await wire.next('DATA', 3)
    wire.socket.pause()
    await app.close()
    t.pass('closed')
  })
}

// A request that was sent before its client heard of the end.

for (const transport of ['tcp', 'tls']) {
  t.test(`Q58 a request that is on its way when app.close() is called gets 503 [${transport}] [h2]`, async t => {
    const { app, port } = await serveHttp2(t, { tls: transport === 'tls', close: false }, app => {
      take(app, () => t.fail('entered'))
      app.get('/plain', () => t.fail('entered'))
    })
    const wire = await (transport === 'tls' ? tlsFrames : plainFrames)(t, port)
    await wire.received()
    const closing = app.close()
    const { payload } = await wire.next('PING', 0)
    // Sent before its client has read that.
    const asked = [PLAIN, EXTENDED, CONNECT, POST]
    for (const [at, headers] of asked.entries()) wire.headers(2 * at + 1, headers, headers === PLAIN || headers === POST)
    wire.frame('PING', 1, 0, payload)
    for (const at of asked.keys()) {
      t.equal(statusIn(await wire.next('HEADERS', 2 * at + 1)), 503, String(at))
    }
    wire.socket.end()
    await closing
  })

  t.test(`Q58 Node's own client gets 503 or an answer for what it asks while app.close() is called [${transport}] [h2]`, async t => {
    const { app, session } = await serveHttp2(t, { tls: transport === 'tls', close: false }, app => {
      app.get('/plain', () => 'plain')
      take(app, ({ writable }) => { writable.end('taken') })
    })
    const client = await session()
    const asked = [PLAIN, EXTENDED, CONNECT, POST].map(headers => {
      const stream = client.request(headers)
      stream.on('error', () => {})
      if (headers !== PLAIN) stream.end()
      return stream
    })
    const heads = asked.map(stream => once(stream, 'response') as Promise<[{ ':status'?: number }]>)
    const closing = app.close()
    for (const [head] of await Promise.all(heads)) t.match(head[':status'], /^(?:503|200)$/)
    for (const stream of asked) await whole(stream)
    await closing
  })

  t.test(`Q58 where the app answers while it closes, so it is over HTTP/2 [${transport}] [h2]`, async t => {
    const { app, port } = await serveHttp2(t, { tls: transport === 'tls', close: false, fastify: { return503OnClosing: false } }, app => {
      app.get('/plain', () => 'plain')
    })
    const wire = await (transport === 'tls' ? tlsFrames : plainFrames)(t, port)
    await wire.received()
    const closing = app.close()
    const { payload } = await wire.next('PING', 0)
    wire.headers(1, PLAIN, true).frame('PING', 1, 0, payload)
    t.equal((await wire.next('DATA', 1)).payload.toString(), 'plain')
    wire.socket.end()
    await closing
  })
}

t.test('Q58 GOAWAY names the last stream that was taken, when no earlier one can be on its way [h2]', async t => {
  const { app, port } = await serveHttp2(t, { close: false }, app => { app.get('/plain', () => 'plain') })
  const wire = await plainFrames(t, port)
  wire.headers(1, PLAIN, true)
  await wire.next('DATA', 1)
  const closing = app.close()
  const { payload } = await wire.next('PING', 0)
  wire.headers(3, PLAIN, true).frame('PING', 1, 0, payload)
  t.equal((await wire.next('GOAWAY', 0)).payload.readUInt32BE(0), 3)
  wire.socket.end()
  await closing
})

t.test('Q58 with forceCloseConnections nothing new is taken from the moment that the app closes [h2]', async t => {
  const { app, session } = await serveHttp2(t, { close: false, fastify: { forceCloseConnections: true } }, app => { app.get('/plain', () => 'plain') })
  const client = await session()
  const first = client.request(PLAIN)
  await whole(first)
  const closing = app.close()
  const late = client.request(PLAIN)
  late.on('response', () => t.fail('answered'))
  // From Node 24 on the connection may be gone before that.
  const [error] = await once(late, 'error').catch((error: unknown) => [error]) as [Error & { code: string }]
  t.match(error.code, /^(?:ERR_HTTP2_STREAM_ERROR|ERR_HTTP2_SESSION_ERROR|ECONNRESET)$/, error.message)
  await closing
})

t.test('Q58 an app that closes a session itself, while the server closes, is called back at its end [h2]', async t => {
  const { app, port } = await serveHttp2(t, { close: false }, app => { take(app, () => {}) })
  const begun = once(app.server, 'session') as Promise<[ServerHttp2Session]>
  const wire = await plainFrames(t, port)
  const [session] = await begun
  await wire.received()
  const closing = app.close()
  await wire.next('PING', 0)
  const over = new Promise<void>(resolve => session.close(resolve))
  wire.socket.end()
  await Promise.all([over, closing])
})

// The end of the drain.

t.test('L8 a plain answer that its client does not take does not keep app.close() for ever [h2]', async t => {
  for (const headers of [PLAIN, { ...PLAIN, ':path': '/long' }]) {
    const { app, port } = await serveHttp2(t, { close: false, plugin: { drainTimeout: LIMIT } }, app => {
      app.get('/plain', () => 'plain')
      app.get('/long', () => Buffer.alloc(32 * MiB))
    })
    const wire = await plainFrames(t, port)
    wire.window(0)
    wire.headers(1, headers, true)
    await wire.next('HEADERS', 1)
    await app.close()
    t.same(wire.story(1), ['HEADERS'])
  }
})

t.test('L8 a plain answer that its client takes slowly is whole, though the drain is over [h2]', async t => {
  const { app, port } = await serveHttp2(t, { close: false, plugin: { drainTimeout: LIMIT } }, app => {
    app.get('/long', () => Buffer.alloc(50_000))
  })
  const wire = await plainFrames(t, port)
  wire.window(0)
  wire.headers(1, { ...PLAIN, ':path': '/long' }, true)
  await wire.next('HEADERS', 1)
  const closing = app.close()
  for (let got = 0; got < 50_000;) {
    await after(LIMIT / 2)
    wire.take(1, 5000)
    got += (await wire.next('DATA', 1)).payload.length
  }
  await closing
})

t.test('L15 a stream of the app\'s own outlasts the drain, and ends as it would have [h2]', async t => {
  const over = gate()
  const shut = gate()
  const { app, session } = await serveHttp2(t, { close: false, plugin: { drainTimeout: LIMIT } }, app => {
    take(app, async ({ closed }) => {
      void closed.then(() => shut.open())
      await new Promise(() => {})
    })
    app.get('/plain', async () => {
      await over.promise
      return 'plain'
    })
  })
  const client = await session()
  const plain = client.request(PLAIN)
  await request(client, EXTENDED)
  const closing = app.close()
  await shut.promise
  over.open()
  t.equal((await whole(plain)).toString(), 'plain')
  await closing
})

t.test('L15 drain(ms) leaves the sessions to the plain routes [h2]', async t => {
  const { app, session } = await serveHttp2(t, {}, app => {
    take(app, ({ draining }) => once(draining, 'abort'))
    app.get('/plain', () => 'plain')
  })
  const [busy, idle] = [await session(), await session()]
  await request(busy, EXTENDED)
  await app.duplex.drain(1)
  // Behind the end of that time.
  await after(LIMIT)
  for (const client of [busy, idle]) t.equal((await request(client, PLAIN, true)).status, 200)
})
