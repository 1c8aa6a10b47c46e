import t from 'tap'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { FastifyInstance } from 'fastify'
import type { DuplexConnection } from '../lib/index.ts'
import { serveLinks, turn } from './fixtures/links.ts'
import { codeOf, exchange, request, UPGRADE } from './fixtures/requests.ts'
import { gate, onEach, serve, type TestServer } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** All kinds, and a record of every request that was routed. */
function declare (ran: string[] = []): (app: FastifyInstance) => void {
  return app => {
    app.addHook('onRequest', async ({ method, url }) => { ran.push(`${method} ${url}`) })
    app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler: echo })
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
    app.get('/plain', async () => 'plain')
    app.get('/ran', async () => 'ran')
  }
}

/** After whatever was done to it the server serves, and nothing is left of the attack. */
async function unharmed (t: Parameters<typeof serve>[0], { app, connect, quiet }: TestServer): Promise<void> {
  await quiet()
  t.equal(app.duplex.connections.size, 0)
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /plain')).body, 'plain')
  wire.end(request('GET /it', ...UPGRADE) + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), 'TAIL')
}

const takeovers = {
  upgrade: request('GET /it', ...UPGRADE),
  'upgrade with a body': request('POST /it', ...UPGRADE, 'Content-Type: text/plain', 'Content-Length: 5') + 'HELLO',
  connect: request('CONNECT h:1'),
  hijack: request('GET /it'),
  body: request('POST /it', 'Transfer-Encoding: chunked')
}

// Syntax.

for (const [what, text] of [
  ['a bare LF', 'GET /it HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: foo\n\n'],
  ['a bare LF in the head', 'GET /it HTTP/1.1\r\nHost: a\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['a bare CR', 'GET /it HTTP/1.1\r\nHost: a\r\nX: a\rb\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['a folded field', 'GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade:\r\n foo\r\nX: y\r\n z\r\n: x\r\n\r\n'],
  ['a space before the colon', 'GET /it HTTP/1.1\r\nHost: a\r\nConnection : Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['NUL in a field', 'GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: fo\0o\r\n\r\n'],
  ['a field without a name', 'GET /it HTTP/1.1\r\nHost: a\r\n: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['a version that is none', 'GET /it HTTP/1.7\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['HTTP/2 in a line', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  ['a TLS hello', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
  ['a method that is none', 'UPGRADE /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['a URL with a space', 'GET /i t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'],
  ['two Content-Lengths', request('POST /it', ...UPGRADE, 'Content-Length: 5', 'Content-Length: 6') + 'HELLO'],
  ['both framings', request('POST /it', ...UPGRADE, 'Content-Length: 5', 'Transfer-Encoding: chunked') + 'HELLO'],
  ['a head above the limit', request('GET /it', ...UPGRADE, `X: ${'x'.repeat(20_000)}`)]
] as const) {
  t.test(`M11 ${what} on a request for a takeover is refused and closed, and no handler is entered`, async t => {
    const ran: string[] = []
    const server = await serve(t, {}, declare(ran))
    const wire = await server.connect()
    wire.send(Buffer.from(text + request('GET /ran'), 'latin1'))
    t.match(String((await wire.head()).status), /^(?:400|431)$/)
    await wire.remains()
    wire.end()
    await unharmed(t, server)
    t.same(ran.filter(line => !/plain|GET \/it/.test(line)), [])
    t.equal(ran.filter(line => line === 'GET /it').length, 1, 'ours, at the end')
  })
}

// Who may be asked for what.

t.test('U3 tokens that a proxy might pass on are never answered with 101 unless they are listed', async t => {
  const server = await serve(t, {}, declare())
  for (const token of ['h2c', 'H2C', 'h2', 'HTTP/2.0', 'http/1.1', 'TLS/1.0', 'TLS/1.3', 'websocket', 'WebSocket', 'h2c, websocket']) {
    const wire = await server.connect()
    const follower = request('GET /plain')
    wire.end(request('GET /it', 'Connection: Upgrade, HTTP2-Settings', `Upgrade: ${token}`, 'HTTP2-Settings: AAMAAABkAAQAAP__') + follower)
    if (/websocket/i.test(token)) {
      t.equal((await wire.response()).status, 400, token)
      t.equal(await wire.remains(), '')
    } else {
      // Q20: no offer at all. What follows the hijack is its stream.
      t.equal((await wire.head()).status, 200, token)
      t.equal((await wire.rest()).toString(), follower)
    }
  }
  await unharmed(t, server)
})

t.test('U3 a WebSocket handshake that the app refuses opens nothing for what follows', async t => {
  const ran: string[] = []
  const server = await serve(t, {}, app => {
    declare(ran)(app)
    app.get('/ws', { duplex: { protocols: ['websocket'], accept: 'manual' } }, async ({ reply }) => {
      return reply.request.headers['sec-websocket-version'] === '13'
        ? reply.code(500).send()
        : reply.code(426).header('sec-websocket-version', '13').header('upgrade', 'websocket').send('13 it is')
    })
  })
  const wire = await server.connect()
  const handshake = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 777', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==']
  wire.send(request('GET /ws', ...handshake) + request('GET /ran'))
  t.match(await wire.response(), { status: 426, headers: { upgrade: 'websocket', connection: 'Upgrade, close', 'sec-websocket-version': '13' } })
  wire.send(request('GET /ran'))
  t.equal(await wire.remains(), '')
  wire.end()
  await server.quiet()
  t.same(ran, ['GET /ws'])
})

t.test('U3 names that every object has are no protocols', async t => {
  const server = await serve(t, {}, app => {
    declare()(app)
    app.get('/listed', { duplex: { protocols: ['foo'] } }, echo)
  })
  for (const token of ['__proto__', 'constructor', 'toString', 'hasOwnProperty', '__proto__/1']) {
    const wire = await server.connect()
    t.match(await exchange(wire, 'GET /listed', 'Connection: Upgrade', `Upgrade: ${token}`), { status: 426, headers: { upgrade: 'foo' } }, token)
    wire.end()
  }
  const wire = await server.connect()
  wire.end(request('GET /it', 'Connection: Upgrade', 'Upgrade: __proto__', '__proto__: x', 'constructor: y'))
  t.match(await wire.head(), { status: 101, headers: { upgrade: '__proto__' } })
  await wire.rest()
  await unharmed(t, server)
})

t.test('U4 Q25 the 101 says the list\'s spelling, with the version that the client offered', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: { protocols: ['Foo', 'bar/1.0'] } }, async ({ protocol, writable }) => { writable.write(protocol) })
  })
  for (const [offered, chosen] of [['fOO/2', 'Foo/2'], ['x, BAR/1.0, foo', 'bar/1.0'], ['bar/2.0, foo', 'Foo']]) {
    const wire = await connect()
    wire.end(request('GET /it', 'Connection: Upgrade', `Upgrade: ${offered}`))
    t.match(await wire.head(), { status: 101, headers: { upgrade: chosen } })
    t.equal((await wire.rest()).toString(), chosen)
  }
})

t.test('U3 an accept with a protocol that was not offered is a 500, closed', async t => {
  const server = await serve(t, {}, app => {
    declare()(app)
    app.get('/manual', { duplex: { accept: 'manual' } }, async pending => { await pending.accept({ protocol: 'bar' }) })
    app.get('/chosen', { duplex: { protocols: () => 'bar' } }, echo)
  })
  for (const url of ['/manual', '/chosen']) {
    const wire = await server.connect()
    wire.send(request(`GET ${url}`, ...UPGRADE) + request('GET /plain'))
    const answer = await wire.response()
    t.match(answer, { status: 500, headers: { connection: 'close' } }, url)
    t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED')
    t.equal(await wire.remains(), '')
    wire.end()
  }
  await unharmed(t, server)
})

for (const [what, headers] of [
  ['CR LF in a value', { 'x-a': 'X\r\nY: b' }], ['LF in a value', { 'x-a': 'a\nb' }], ['NUL in a value', { 'x-a': 'a\0b' }],
  ['CR LF in a name', { 'x\r\nz': 'a' }], ['a space in a name', { 'x z': 'a' }], ['an empty name', { '': 'a' }],
  ['a character above latin1', { 'x-a': '€' }], ['CR LF in one of several', { 'x-a': ['a', 'b\r\nc: d'] }]
] as const) {
  t.test(`M10 ${what} of an accept head: an ordinary 500, closed, and nothing before it`, async t => {
    const server = await serve(t, {}, app => {
      declare()(app)
      app.route({
        method: ['GET', 'POST'],
        url: '/manual',
        duplex: { accept: 'manual' },
        handler: async pending => { await pending.accept({ headers: headers as unknown as Record<string, string> }) }
      })
    })
    for (const [line, fields] of [['GET /manual', UPGRADE], ['GET /manual', []], ['POST /manual', ['Content-Length: 0']]] as const) {
      const wire = await server.connect()
      wire.send(request(line, ...fields))
      const answer = await wire.response()
      t.equal(answer.status, 500)
      t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_INVALID_HEADER')
      wire.end()
      t.equal(await wire.remains(), '')
    }
    await unharmed(t, server)
  })
}

// Order on the wire.

for (const [kind, text] of Object.entries(takeovers)) {
  if (kind === 'body') continue
  t.test(`M7 a ${kind} behind a response that says close is never answered`, async t => {
    const ran: string[] = []
    const server = await serve(t, {}, app => {
      declare(ran)(app)
      app.get('/bye', async (_request, reply) => {
        for (let turns = 10; turns > 0; turns--) await turn()
        return reply.header('connection', 'close').send('bye')
      })
    })
    const wire = await server.connect()
    wire.send(request('GET /bye') + text + 'TAIL')
    t.match(await wire.response(), { status: 200, body: 'bye', headers: { connection: 'close' } })
    t.equal(await wire.remains(), '')
    wire.end()
    t.same(ran, ['GET /bye'])
    await unharmed(t, server)
  })

  t.test(`M6 a ${kind} behind a response that never comes waits, and goes with its client`, async t => {
    const never = gate()
    const ran: string[] = []
    const server = await serve(t, {}, app => {
      declare(ran)(app)
      app.get('/never', () => never.promise)
    })
    const wire = await server.connect()
    wire.send(request('GET /never') + text + 'TAIL')
    while (ran.length === 0) await turn()
    for (let turns = 10; turns > 0; turns--) await turn()
    t.equal(wire.pending, '')
    wire.reset()
    await server.quiet()
    never.open()
    t.same(ran, ['GET /never'])
    await unharmed(t, server)
  })
}

t.test('M6 a large response before a takeover is sent whole, at the pace of its reader', async t => {
  const { connect } = await serve(t, {}, app => {
    declare()(app)
    app.get('/large', async () => Buffer.alloc(8 * 1024 * 1024, 'x'))
  })
  const wire = await connect()
  wire.socket.pause()
  wire.send(request('GET /large') + request('GET /large') + request('GET /it', ...UPGRADE) + 'TAIL')
  for (let turns = 50; turns > 0; turns--) await turn()
  wire.socket.resume()
  for (let n = 0; n < 2; n++) t.equal((await wire.response()).body.length, 8 * 1024 * 1024)
  t.equal((await wire.head()).status, 101)
  t.equal(await wire.until('TAIL'), 'TAIL')
})

t.test('M6 a response that is streamed before a takeover goes on when its reader does', async t => {
  const { connect } = await serve(t, {}, app => {
    declare()(app)
    app.get('/streamed', async (_request, reply) => reply.header('content-length', 8 * 1024 * 1024)
      .send(Readable.from(Array.from({ length: 128 }, () => Buffer.alloc(65_536, 'x')))))
  })
  const wire = await connect()
  wire.socket.pause()
  wire.send(request('GET /streamed') + request('GET /it', ...UPGRADE) + 'TAIL')
  for (let turns = 50; turns > 0; turns--) await turn()
  wire.socket.resume()
  t.equal((await wire.response()).body.length, 8 * 1024 * 1024)
  t.equal((await wire.head()).status, 101)
  t.equal(await wire.until('TAIL'), 'TAIL')
})

// Chunks.

t.test('M4 chunks of every size, with extensions and trailers, are decoded for the kind body', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/count', { duplex: true }, async ({ readable, writable }) => {
      let count = 0
      for await (const chunk of readable) count += (chunk as Buffer).length
      writable.write(`${count}\n`)
    })
  })
  const wire = await connect()
  wire.send(request('POST /count', 'Transfer-Encoding: chunked'))
  for (const size of [1, 65535, 65536, 1024 * 1024]) wire.send(`${size.toString(16)};name=value;x="y"\r\n${'x'.repeat(size)}\r\n`)
  wire.send('0\r\nX-Trailer: yes\r\n\r\n')
  await wire.head()
  t.equal(await wire.until('1179648\n'), '8\r\n1179648\n')
  await wire.until('0\r\n\r\n')
  t.equal((await wire.send(request('POST /count', 'Content-Length: 0')).head()).status, 200, 'the connection goes on')
})

for (const chunk of ['XYZ\r\n', 'fffffffffffffffffffff\r\n', '-1\r\n', '5\r\nHELLOxx', '5\nHELLO\n']) {
  t.test(`M4 the malformed chunk ${JSON.stringify(chunk)} breaks a message off: no page of HTTP in it, and no last chunk`, async t => {
    const closed = gate<string>()
    const failed = gate<Error>()
    const server = await serve(t, {}, app => {
      declare()(app)
      app.post('/message', { duplex: true }, async connection => {
        connection.closed.then(({ reason }) => closed.open(reason))
        connection.signal.addEventListener('abort', () => failed.open(connection.signal.reason as Error))
        await echo(connection)
      })
    })
    const wire = await server.connect()
    wire.send(request('POST /message', 'Transfer-Encoding: chunked') + '2\r\nOK\r\n')
    t.equal((await wire.head()).status, 200)
    t.equal(await wire.until('OK\r\n'), '2\r\nOK\r\n')
    wire.send(chunk + request('GET /ran'))
    const rest = await wire.remains()
    t.notMatch(rest, 'HTTP/1.1')
    t.notMatch(rest, '0\r\n\r\n')
    wire.destroy()
    t.equal(await closed.promise, 'abort')
    t.match(await failed.promise, { code: 'FST_ERR_DUPLEX_ABORTED' })
    await unharmed(t, server)
  })
}

t.test('U13 a body whose handler is done without it is cut within a bound of bytes', async t => {
  const { app, connect } = await serve(t, {}, app => {
    app.post('/done', { duplex: true }, async ({ writable }) => { writable.end('done') })
  })
  const arrived = once(app.server, 'connection')
  const wire = await connect()
  const [socket] = await arrived as [Socket]
  wire.send(request('POST /done', 'Content-Length: 1000000000'))
  t.equal((await wire.head()).status, 200)
  await wire.until('done')
  const flooding = flood(wire)
  await new Promise<void>(resolve => { socket.once('close', () => resolve()) })
  clearInterval(flooding)
  t.ok(socket.bytesRead < 4 * 1024 * 1024, `${socket.bytesRead} bytes read`)
})

/** Sends as fast as the server reads, until the wire is over. */
function flood (wire: Wire): NodeJS.Timeout {
  return setInterval(() => { if (!wire.closed && wire.socket.writableLength < 1e6) wire.send(Buffer.alloc(1e6)) })
}

/** Routes that refuse a message at every stage before its handler could accept it. */
function refusing (app: FastifyInstance): void {
  const no = async (): Promise<void> => { throw Object.assign(new Error('no'), { statusCode: 401 }) }
  const handler = async (): Promise<void> => { t.fail('entered') }
  app.post('/onRequest', { duplex: true, onRequest: no, handler })
  app.post('/preHandler', { duplex: true, preHandler: no, handler })
  app.post('/query', { duplex: true, schema: { querystring: { type: 'object', required: ['n'] } }, handler })
  app.post('/kind', { duplex: { kinds: ['upgrade'] }, handler })
  app.post('/decoded', {
    duplex: true,
    preParsing: async (_request: unknown, _reply: unknown, payload: Readable) => payload.pipe(new PassThrough()),
    preHandler: no,
    handler
  })
  app.post('/manual', { duplex: { accept: 'manual' } }, async ({ reply }) => reply.code(409).send('no'))
}

onEach(t, 'U13 a refused body is read within a bound of bytes, and below that its connection serves on', async (t, transport) => {
  const sockets = new Map<string, Socket>()
  const server = await serve(t, { transport }, app => {
    app.addHook('onRequest', async ({ url, raw }) => { sockets.set(url, raw.socket) })
    declare()(app)
    refusing(app)
  })
  const statuses = { onRequest: 401, preHandler: 401, query: 400, kind: 404, decoded: 401, manual: 409 }
  await Promise.all(Object.entries(statuses).map(async ([path, status]) => {
    const wire = await server.connect()
    wire.send(request(`POST /${path}`, 'Content-Length: 900000') + 'some of it')
    t.match(await wire.response(), { status })
    wire.send(Buffer.alloc(900000 - 10))
    wire.send(request(`POST /${path}`, 'Content-Length: 100000000000') + 'some of it')
    t.match(await wire.response(), { status }, `/${path} again`)
    const socket = sockets.get(`/${path}`) as Socket
    const before = socket.bytesRead
    const flooding = flood(wire)
    t.equal(await wire.remains(), '')
    clearInterval(flooding)
    t.ok(socket.bytesRead - before < 4 * 1024 * 1024, `/${path}: ${socket.bytesRead - before} bytes read`)
    wire.destroy()
  }))
  await unharmed(t, server)
}, ['tcp', 'tls', 'unix'])

t.test('U13 a refused body that its handler reads on is read to its end, and the connection serves on', async t => {
  const size = 3 * 1024 * 1024
  const read = gate<number>()
  const server = await serve(t, {}, app => {
    declare()(app)
    app.post('/later', { duplex: { accept: 'manual' } }, async ({ reply }, { raw }) => {
      let bytes = 0
      raw.on('data', (chunk: Buffer) => { bytes += chunk.length }).on('end', () => read.open(bytes))
      return reply.code(202).send('later')
    })
  })
  const wire = await server.connect()
  wire.send(request('POST /later', `Content-Length: ${size}`) + 'some of it')
  t.match(await wire.response(), { status: 202, body: 'later' })
  wire.send(Buffer.alloc(size - 10))
  t.equal(await read.promise, size)
  t.equal((await exchange(wire, 'GET /plain')).body, 'plain')
  wire.destroy()
  await unharmed(t, server)
})

t.test('U13 a refused body whose client neither sends nor ends goes by finTimeout', async t => {
  const server = await serve(t, { plugin: { finTimeout: 100 } }, app => {
    declare()(app)
    refusing(app)
  })
  const wire = await server.connect()
  wire.send(request('POST /onRequest', 'Content-Length: 10') + 'half')
  t.equal((await wire.response()).status, 401)
  t.equal(await wire.remains(), '')
  wire.destroy()
  await unharmed(t, server)
})

t.test('U13 a refusal that closes leaves its client the time to read it', async t => {
  const server = await serve(t, {}, app => {
    declare()(app)
    app.post('/close', {
      duplex: true,
      onRequest: async (_request, reply) => { await reply.code(401).header('connection', 'close').send('x'.repeat(100_000)) },
      handler: async () => { t.fail('entered') }
    })
  })
  const wire = await server.connect()
  wire.send(request('POST /close', 'Content-Length: 3000000'))
  wire.send(Buffer.alloc(500_000))
  const answer = await wire.response()
  t.match(answer, { status: 401, headers: { connection: 'close' } })
  t.equal(answer.body.length, 100_000)
  wire.send(Buffer.alloc(300_000))
  t.equal(await wire.remains(), '')
  wire.end()
  await unharmed(t, server)
})

// Clients that do not go on.

t.test('H10 a head that never ends is 408 or closed by headersTimeout', async t => {
  const fastify = { requestTimeout: 100, http: { headersTimeout: 50, connectionsCheckingInterval: 50 } }
  const server = await serve(t, { fastify }, declare())
  const wire = await server.connect()
  wire.send(request('GET /it', ...UPGRADE).slice(0, -2))
  t.equal((await wire.head()).status, 408)
  await wire.remains()
  wire.end()
  await unharmed(t, server)
})

for (const [kind, text] of Object.entries(takeovers)) {
  t.test(`L13 a ${kind} whose hook never comes to an end is 503 by handshakeTimeout`, async t => {
    const never = gate()
    const server = await serve(t, { plugin: { handshakeTimeout: 100 } }, app => {
      app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, preHandler: () => never.promise, handler: async () => { t.fail('entered') } })
      app.route({ method: 'CONNECT', url: '*', duplex: true, preHandler: () => never.promise, handler: async () => { t.fail('entered') } })
    })
    const wire = await server.connect()
    wire.send(text)
    const answer = await wire.response()
    t.match(answer, { status: 503, headers: { connection: 'close' } })
    t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
    await wire.remains()
    wire.end()
    await server.quiet()
    never.open()
    for (let turns = 5; turns > 0; turns--) await turn()
  })
}

t.test('L12 a client that ends while the handler never settles goes by halfOpenTimeout', async t => {
  const server = await serve(t, { plugin: { halfOpenTimeout: 100 } }, app => {
    declare()(app)
    app.get('/never', { duplex: true }, ({ readable }) => { readable.resume(); return new Promise<void>(() => {}) })
  })
  const wire = await server.connect()
  wire.end(request('GET /never', ...UPGRADE))
  t.equal((await wire.head()).status, 101)
  await wire.gone()
  await unharmed(t, server)
})

onEach(t, 'S3 500 takeovers that are reset at once leave nothing', async (t, transport) => {
  const server = await serve(t, { transport }, declare())
  const texts = Object.values(takeovers)
  for (let round = 0; round < 20; round++) {
    const wires = await Promise.all(Array.from({ length: 25 }, () => server.connect()))
    for (const [n, wire] of wires.entries()) wire.send((texts[n % texts.length] as string) + 'TAIL')
    for (let turns = round; turns > 0; turns--) await turn()
    for (const wire of wires) wire.reset()
  }
  await unharmed(t, server)
})

t.test('S6 a client that floods a handler which does not read is held back by the kernel', async t => {
  const never = gate()
  const { app, connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true }, () => never.promise)
  })
  const arrived = once(app.server, 'connection')
  const wire = await connect()
  const [socket] = await arrived as [Socket]
  wire.send(request('GET /it', ...UPGRADE))
  await wire.head()
  let sent = 0
  const chunk = Buffer.alloc(1024 * 1024)
  // What is written and not taken stays in the client: then the kernel's buffers are full.
  while (wire.socket.writableLength < 4 * chunk.length) {
    wire.send(chunk)
    sent += chunk.length
    await turn()
  }
  t.ok(socket.bytesRead < 256 * 1024, `${socket.bytesRead} of ${sent} read`)
  never.open()
})

t.test('L6 one above maxConnections is 503 with Retry-After, and maxRequestsPerSocket does not stop an upgrade', async t => {
  const server = await serve(t, { plugin: { maxConnections: 1 }, fastify: { maxRequestsPerSocket: 1 } }, declare())
  const first = await server.connect()
  first.send(request('GET /it', ...UPGRADE))
  t.equal((await first.head()).status, 101)
  const second = await server.connect()
  const answer = await exchange(second, 'GET /it', ...UPGRADE)
  t.match(answer, { status: 503, headers: { 'retry-after': /^\d+$/, connection: 'close' } })
  t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_MAX_CONNECTIONS')
  second.end()
  first.end()
  await first.rest()
  await unharmed(t, server)
})

// Code of the app that fails where nobody expects it.

for (const kind of ['upgrade', 'connect', 'hijack'] as const) {
  t.test(`L3 a handler that throws, or whose promise is rejected, breaks its ${kind} off and nothing else`, async t => {
    const server = await serve(t, {}, app => {
      declare()(app)
      const throws = (): never => { throw new Error('thrown') }
      const rejects = async ({ readable }: DuplexConnection): Promise<void> => {
        await once(readable, 'readable')
        throw new Error('rejected')
      }
      app.get('/throws', { duplex: true }, throws)
      app.get('/rejects', { duplex: true }, rejects)
      app.route({ method: 'CONNECT', url: '/throws/1', duplex: true, handler: throws })
      app.route({ method: 'CONNECT', url: '/rejects/1', duplex: true, handler: rejects })
    })
    for (const name of ['throws', 'rejects']) {
      const wire = await server.connect()
      wire.send(kind === 'connect' ? request(`CONNECT ${name}:1`) : request(`GET /${name}`, ...(kind === 'upgrade' ? UPGRADE : [])))
      t.match((await wire.head()).status, kind === 'upgrade' ? 101 : 200)
      wire.send('go')
      t.equal(await wire.remains(), '', 'no bytes of HTTP')
      wire.destroy()
    }
    await unharmed(t, server)
  })
}

onEach(t, 'L11 a connection that is destroyed while its FIN leaves is closed all the same', async (t, transport) => {
  const results: string[] = []
  const server = await serve(t, { transport, plugin: { finTimeout: 0 } }, app => {
    declare()(app)
    app.get('/destroys', { duplex: true }, connection => {
      connection.closed.then(({ reason }) => results.push(reason))
      connection.writable.end('x')
      connection.destroy()
    })
    app.get('/rejects', { duplex: true }, async connection => {
      connection.closed.then(({ reason }) => results.push(reason))
      connection.writable.end('x')
      throw new Error('rejected')
    })
  })
  for (const url of ['/destroys', '/rejects']) {
    const wire = await server.connect()
    wire.send(request(`GET ${url}`, ...UPGRADE))
    await wire.remains()
    // The client has not ended its own side.
    await server.quiet()
    wire.destroy()
  }
  await unharmed(t, server)
  t.same(results, ['destroyed', 'error'])
})

for (const [what, settings] of [
  ['genReqId', { genReqId: (req: { url?: string | undefined }) => { if (req.url !== '/plain' && req.url !== '/it?ok') throw new Error('no id'); return '1' } }],
  ['rewriteUrl', { rewriteUrl: (req: { url?: string | undefined }) => { if (/bad/.test(req.url ?? '')) throw new Error('no URL'); return req.url ?? '/' } }]
] as const) {
  t.test(`a ${what} that throws is 500 for a takeover, and the process lives`, async t => {
    const server = await serve(t, { fastify: settings as object }, app => {
      declare()(app)
      app.route({ method: ['GET', 'POST'], url: '/bad', duplex: true, handler: echo })
    })
    for (const text of [request('GET /bad', ...UPGRADE), request('CONNECT bad:1'), request('POST /bad', ...UPGRADE, 'Content-Length: 5') + 'HELLO']) {
      const wire = await server.connect()
      wire.send(text + request('GET /plain'))
      const answer = await wire.response()
      t.match(answer, { status: 500, headers: { connection: 'close' } })
      t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_ROUTING_FAILED')
      t.equal(await wire.remains(), '')
      wire.end()
    }
    await server.quiet()
    const wire = await server.connect()
    t.equal((await exchange(wire, 'GET /plain')).body, 'plain')
  })
}

t.test('a constraint that throws is 500 for a takeover, and the process lives', async t => {
  const mood = {
    name: 'mood',
    storage () {
      const handlers = new Map<unknown, never>()
      return { get: (key: unknown) => handlers.get(key) ?? null, set: (key: unknown, store: never) => { handlers.set(key, store) } }
    },
    deriveConstraint (req: { headers: Record<string, unknown> }) {
      if (req.headers['x-mood'] === 'bad') throw new Error('in no mood')
      return req.headers['x-mood']
    },
    validate () {}
  }
  const server = await serve(t, { fastify: { routerOptions: { constraints: { mood: mood as never } } } }, app => {
    declare()(app)
    app.get('/moody', { duplex: true, constraints: { mood: 'good' } as never }, echo)
  })
  const wire = await server.connect()
  t.match(await exchange(wire, 'GET /it', ...UPGRADE, 'X-Mood: bad'), { status: 500, headers: { connection: 'close' } })
  wire.end()
  await unharmed(t, server)
})

t.test('a logger that throws is 500 for a takeover, and the process lives', async t => {
  let full = false
  const silent = (): void => {}
  const loggerInstance = {
    level: 'info',
    info () { if (full) throw new Error('disk full') },
    error: silent,
    warn: silent,
    debug: silent,
    trace: silent,
    fatal: silent,
    silent,
    child () { return loggerInstance }
  }
  const server = await serve(t, { fastify: { loggerInstance } }, declare())
  full = true
  for (const text of [takeovers.upgrade, takeovers.connect, takeovers.hijack]) {
    const wire = await server.connect()
    t.match(await wire.send(text).response(), { status: 500, headers: { connection: 'close' } })
    wire.end()
  }
  full = false
  await unharmed(t, server)
})

// What is left behind.

t.test('log lines are one JSON object each, whatever the client sends', async t => {
  const lines: string[] = []
  const { connect, quiet } = await serve(t, { fastify: { logger: { level: 'trace', stream: { write: line => lines.push(line) } } } }, declare())
  const wire = await connect()
  wire.send(request('GET /it?%0d%0a"}{"level":60}', 'Connection: Upgrade', 'Upgrade: foo', 'Origin: "}', 'X: caf\xe9') + '\n{"level":60,"msg":"TAIL"}\n')
  t.equal((await wire.head()).status, 101)
  wire.end()
  await wire.rest()
  await quiet()
  t.ok(lines.length >= 3)
  for (const line of lines) t.equal(typeof (JSON.parse(line) as { level: number }).level, 'number')
  t.notMatch(lines.join(''), 'TAIL')
})

onEach(t, 'H4 after a takeover only our listeners, and those of the transport, are on the socket', async (t, transport) => {
  const { link, app } = await serveLinks(t, transport, app => {
    app.get('/it', { duplex: true }, () => {})
  }, { plugin: { drainTimeout: 50 } })
  const { wire, peer } = await link()
  const own = (): Record<string, number> => {
    const counts: Record<string, number> = {}
    for (const event of ['data', 'readable', 'end', 'error', 'close', 'finish', 'drain', 'timeout']) {
      counts[event] = peer.listenerCount(event)
    }
    return counts
  }
  wire.send(request('GET /it', ...UPGRADE))
  t.equal((await wire.head()).status, 101)
  t.equal(app.duplex.connections.size, 1)
  // The fixture counts injected connections itself.
  const transports = transport === 'tls' ? 2 : transport === 'injected' ? 1 : 0
  t.match(own(), { data: 0, readable: 0, drain: 0, timeout: 0, finish: 1 })
  t.ok((own().close as number) <= 1 + transports, `close ${own().close}`)
  t.ok((own().error as number) <= 1 + transports, `error ${own().error}`)
  t.ok((own().end as number) <= 2, `end ${own().end}`)
})

t.test('the request and the response of an old takeover are harmless', async t => {
  const kept = gate<DuplexConnection>()
  const server = await serve(t, {}, app => {
    declare()(app)
    app.get('/kept', { duplex: true }, async connection => { kept.open(connection) })
  })
  const wire = await server.connect()
  wire.end(request('GET /kept', ...UPGRADE))
  t.equal((await wire.head()).status, 101)
  await wire.rest()
  const { reply, closed } = await kept.promise
  await closed
  const raw = reply.raw as ServerResponse
  raw.write('late')
  raw.end('later')
  raw.destroy()
  reply.request.raw.destroy()
  reply.send('latest')
  t.equal(reply.request.headers.upgrade, 'foo')
  t.equal(reply.request.ip, reply.request.ip)
  await unharmed(t, server)
})

t.test('a subscriber of fastify-duplex:refuse hears of each refusal, with its status', async t => {
  const heard: unknown[] = []
  const hear = (message: unknown): void => {
    const { statusCode, kind } = message as { statusCode: number, kind: string }
    heard.push([kind, statusCode])
  }
  diagnostics.subscribe('fastify-duplex:refuse', hear)
  t.teardown(() => diagnostics.unsubscribe('fastify-duplex:refuse', hear))
  const { connect } = await serve(t, {}, app => {
    app.get('/no', { duplex: true, onRequest: async (_request, reply) => reply.code(403).send('no') }, echo)
    app.get('/other', { duplex: { protocols: ['bar'] } }, echo)
  })
  for (const [url, status] of [['/no', 403], ['/other', 426]] as const) {
    t.equal((await exchange(await connect(), `GET ${url}`, ...UPGRADE)).status, status)
  }
  t.same(heard, [['upgrade', 403], ['upgrade', 426]])
})
