import t, { type Test } from 'tap'
import { once } from 'node:events'
import http2 from 'node:http2'
import net from 'node:net'
import WebSocket, { WebSocketServer } from 'ws'
import { answer, forwarding, switching, targetOf } from './fixtures/forwarding.ts'
import { request as requestHttp2, serveHttp2, bytes } from './fixtures/http2-server.ts'
import { until } from './fixtures/patience.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { onEach, onEachStream, serve } from './fixtures/server.ts'
import { closedPort, upstream } from './fixtures/upstream.ts'
import { openWebSocket } from './fixtures/websocket.ts'

const SWITCHING = switching('Upgrade: foo')

t.test('FW5 head bytes of both sides, at every split of the upstream\'s 101', async t => {
  const { connect, accepted } = await forwarding(t)
  const sent = `${SWITCHING}early`
  for (let at = 1; at < sent.length; at++) {
    const wire = await connect()
    wire.send(`${request('GET /it', ...UPGRADE)}up`)
    const server = await accepted()
    await server.head()
    // Nothing of the stream before the acceptance.
    if (server.pending !== '') t.fail(`split at ${at}: ${server.pending}`)
    server.send(sent.slice(0, at))
    await new Promise(resolve => setImmediate(resolve))
    server.send(sent.slice(at))
    const { status } = await wire.head()
    const down = await wire.until('early')
    const up = await server.until('up')
    server.end('-end')
    wire.end('-end')
    const rests = `${(await wire.rest()).toString()} ${(await server.rest()).toString()}`
    if (status !== 101 || down !== 'early' || up !== 'up' || rests !== '-end -end') t.fail(`split at ${at}`, { status, down, up, rests })
  }
  t.pass('every split')
})

onEachStream(t, 'FW5 FW1 nothing of a refused upgrade but the request reaches the upstream', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(`${request('GET /it', ...UPGRADE)}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n`)
  const server = await accepted()
  await server.head()
  server.send(answer('400 Bad Request', 'no'))
  t.equal((await wire.response()).status, 400)
  t.equal(await server.remains(), '')
})

for (const far of ['tcp', 'tls'] as const) {
  onEachStream(t, `FW4 a reset on either side of an upgrade is a reset on the other, over ${far}`, async (t, transport) => {
    const { connect, accepted, quiet } = await forwarding(t, { transport, far })
    for (const broken of ['client', 'server'] as const) {
      const wire = await connect()
      wire.send(request('GET /it', ...UPGRADE))
      const server = await accepted()
      await server.head()
      server.send(SWITCHING)
      await wire.head()
      wire.send('up')
      await server.until('up')
      if (broken === 'client') wire.reset()
      else server.reset()
      t.equal(await (broken === 'client' ? server : wire).gone(), 'broken')
    }
    await quiet()
  }, ['tcp', 'tls', 'h2'])
}

for (const at of ['connecting', 'asked', 'accepted']) {
  onEachStream(t, `FW10 a client that leaves when its upgrade is ${at}: nothing is left on either side`, async (t, transport) => {
    const { connect, accepted, quiet, far, app } = await forwarding(t, {
      transport,
      ...at === 'connecting' ? { options: { check: () => new Promise<boolean>(() => {}) } } : {}
    })
    const wire = await connect()
    wire.send(request('GET /it', ...UPGRADE))
    if (at === 'connecting') {
      await until(() => app.duplex.connections.size > 0)
    } else {
      const server = await accepted()
      await server.head()
      if (at === 'accepted') {
        server.send(SWITCHING)
        await wire.head()
      }
    }
    wire.reset()
    await quiet()
    await until(async () => await far.connections() === 0)
    t.equal(app.duplex.connections.size, 0)
  }, ['tcp', 'h2'])
}

t.test('FW10 300 clients that leave: no socket is left', async t => {
  const { connect, quiet, far, accepted } = await forwarding(t)
  for (let round = 0; round < 10; round++) {
    const wires = await Promise.all(Array.from({ length: 30 }, async (_, at) => {
      const wire = await connect()
      return wire.send(at % 2 === 0 ? request('GET /it', ...UPGRADE) : request('POST /it', 'Content-Length: 10') + 'part')
    }))
    await Promise.all(wires.map(async () => { await (await accepted()).head() }))
    for (const wire of wires) wire.reset()
  }
  await quiet()
  await until(async () => await far.connections() === 0)
  t.equal(await far.connections(), 0)
})

onEachStream(t, 'FW10 an upstream that does not answer: 504, for an upgrade and a body', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport, options: { responseTimeout: 50 } })
  for (const sent of [request('GET /it', ...UPGRADE), request('POST /it', 'Content-Length: 2') + 'hi']) {
    const wire = await connect()
    wire.send(sent)
    const { status, body } = await wire.response()
    t.equal(status, 504)
    t.equal(codeOf(body), 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT')
    const server = await accepted()
    await server.head()
    t.equal(await server.gone(), 'broken')
  }
}, ['tcp', 'h2'])

t.test('FW10 a client that sends slowly is not the upstream\'s fault', async t => {
  const { connect, accepted } = await forwarding(t, { options: { responseTimeout: 50 } })
  const wire = await connect()
  wire.send(request('POST /it', 'Content-Length: 2') + 'h')
  const server = await accepted()
  await server.until('h')
  // Another one runs into the time limit, and this one does not.
  const other = await connect()
  other.send(request('GET /it'))
  t.equal((await other.response()).status, 504)
  wire.send('i')
  await server.until('i')
  server.send(answer('200 OK', 'done'))
  t.equal((await wire.response()).body, 'done')
})

t.test('FW10 an upstream that cannot be reached: 502; one that is not reached in time: 504; one that closes: 502', async t => {
  const port = await closedPort()
  for (const sent of [request('GET /it', ...UPGRADE), request('GET /it')]) {
    const { connect } = await forwarding(t, { to: `http://127.0.0.1:${port}` })
    const refused = await (await connect()).send(sent).response()
    t.equal(refused.status, 502)
    t.equal(codeOf(refused.body), 'FST_ERR_DUPLEX_DIAL_FAILED')
    const late = await forwarding(t, { options: { connectTimeout: 20, check: () => new Promise<boolean>(() => {}) } })
    const timedOut = await (await late.connect()).send(sent).response()
    t.equal(timedOut.status, 504)
    t.equal(codeOf(timedOut.body), 'FST_ERR_DUPLEX_DIAL_TIMEOUT')
    const closing = await forwarding(t)
    const wire = (await closing.connect()).send(sent)
    const server = await closing.accepted()
    await server.head()
    server.destroy()
    const lost = await wire.response()
    t.equal(lost.status, 502)
    t.equal(codeOf(lost.body), 'FST_ERR_DUPLEX_UPSTREAM_LOST')
  }
})

t.test('FW10 the handshakeTimeout of the route: 503, and the upstream is let go', async t => {
  const { connect, accepted } = await forwarding(t, { duplex: { handshakeTimeout: 50 } })
  for (const sent of [request('GET /it', ...UPGRADE), request('GET /it')]) {
    const wire = await connect()
    wire.send(sent)
    const server = await accepted()
    await server.head()
    t.equal((await wire.response()).status, 503)
    t.equal(await server.gone(), 'broken')
  }
})

onEachStream(t, 'FW11 an upstream that is undefined: 404; one that check forbids: 403; nothing is dialled', async (t, transport) => {
  for (const [settings, status, code] of [
    [{ to: () => undefined }, 404, 'FST_ERR_DUPLEX_NO_UPSTREAM'],
    [{ options: { check: async () => false } }, 403, 'FST_ERR_DUPLEX_DIAL_FORBIDDEN'],
    [{ to: async () => 'file:///etc/passwd' }, 500, 'FST_ERR_DUPLEX_INVALID_OPTION']
  ] as const) {
    for (const sent of [request('GET /it', ...UPGRADE), request('POST /it', 'Content-Length: 2') + 'hi']) {
      const { connect, far } = await forwarding(t, { transport, ...settings })
      const refused = await (await connect()).send(sent).response()
      t.equal(refused.status, status)
      t.equal(codeOf(refused.body), code)
      t.equal(await far.connections(), 0)
    }
  }
}, ['tcp', 'h2'])

onEach(t, 'FW8 an upgrade with a body, as docker exec has it: sent on as it came', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  const body = '{"Detach":  false}'
  wire.send(request('POST /exec/1/start', 'Connection: Upgrade', 'Upgrade: tcp', 'Content-Type: application/json', `Content-Length: ${body.length}`))
  wire.send(body.slice(0, 5))
  const server = await accepted()
  t.match(await server.head(), { line: 'POST /exec/1/start HTTP/1.1', headers: { upgrade: 'tcp', 'content-length': String(body.length) } })
  t.equal(await server.until('"D'), body.slice(0, 3))
  wire.send(body.slice(5))
  t.equal(await server.until('}'), body.slice(3))
  wire.send('stdin')
  server.send(`${switching('Upgrade: tcp')}stdout`)
  t.match(await wire.head(), { status: 101, headers: { upgrade: 'tcp' } })
  t.equal(await wire.until('stdout'), 'stdout')
  t.equal(await server.until('stdin'), 'stdin')
  wire.end('!')
  t.equal((await server.rest()).toString(), '!')
  server.end('!')
  t.equal((await wire.rest()).toString(), '!')
})

t.test('FW8 with schema.body it is parsed, checked, and sent on as parsed', async t => {
  const schema = { body: { type: 'object', required: ['n'], properties: { n: { type: 'integer' } } } }
  const far = await upstream(t)
  const { connect } = await serve(t, {}, app => app.post('/it', { schema, duplex: { forward: targetOf(far, 'tcp') } }))
  const ask = (body: string): string => request('POST /it', ...UPGRADE, 'Content-Type: application/json', `Content-Length: ${body.length}`) + body
  t.equal((await (await connect()).send(ask('{"n": "x"}')).response()).status, 400)
  t.equal(await far.connections(), 0)
  const wire = await connect()
  wire.send(ask('{"n": "1"}'))
  const server = await far.accepted()
  t.match(await server.head(), { headers: { 'content-length': '7', 'content-type': 'application/json' } })
  t.equal(await server.until('}'), '{"n":1}')
  server.send(SWITCHING)
  t.equal((await wire.head()).status, 101)
  server.end()
  wire.end()
  await wire.rest()
})

t.test('FW8 an upgrade with a body that is refused in its middle', async t => {
  const { connect, accepted, quiet } = await forwarding(t)
  const wire = await connect()
  wire.send(request('POST /it', ...UPGRADE, 'Content-Length: 10') + 'part')
  const server = await accepted()
  await server.until('part')
  server.send(answer('413 Payload Too Large', 'no', 'Connection: close'))
  server.end()
  t.match(await wire.response(), { status: 413, body: 'no' })
  wire.end('s')
  t.equal(await wire.remains(), '')
  await quiet()
})

/** A server of WebSockets that says what it hears, and closes with the code that it is told. */
async function webSockets (t: { teardown: (handler: () => void) => unknown }): Promise<number> {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'chat' })
  server.on('connection', socket => socket.on('message', data => {
    const text = String(data)
    if (text.startsWith('close ')) socket.close(Number(text.slice(6)), 'as told')
    else socket.send(text)
  }))
  await once(server, 'listening')
  t.teardown(() => {
    for (const client of server.clients) client.terminate()
    server.close()
  })
  return (server.address() as net.AddressInfo).port
}

/** All that a client and the server of `webSockets` may say to one another, to its end. */
async function converse (t: Test, socket: WebSocket): Promise<void> {
  socket.send('hello')
  t.equal(String((await once(socket, 'message'))[0]), 'hello')
  socket.ping('x')
  t.equal(String((await once(socket, 'pong'))[0]), 'x')
  socket.send('close 4001')
  t.equal((await once(socket, 'close'))[0], 4001)
}

t.test('FW9 a WebSocket over HTTP/1: echo, ping, subprotocol, close code', async t => {
  const port = await webSockets(t)
  const { port: own } = await serve(t, {}, app => app.get('/ws', { duplex: { forward: `http://127.0.0.1:${port}` } }))
  const { socket } = await openWebSocket(t, `ws://127.0.0.1:${own}/ws`, ['chat'])
  t.equal(socket.protocol, 'chat')
  await converse(t, socket)
})

/** A WebSocket of `ws` on a stream of HTTP/2. */
function onStream (stream: http2.ClientHttp2Stream): WebSocket {
  const Client = WebSocket as unknown as new (...args: unknown[]) => WebSocket & { setSocket (...args: unknown[]): void }
  const socket = new Client(null, undefined, { autoPong: true })
  Object.assign(stream, { setNoDelay () {}, setTimeout () {} })
  Object.assign(socket, { _isServer: false })
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 1024 * 1024, skipUTF8Validation: false, allowSynchronousEvents: true })
  return socket
}

for (const key of [undefined, 'dGhlIHNhbXBsZSBub25jZQ==']) {
  t.test(`FW9 a WebSocket of an HTTP/2 client to an HTTP/1 server, ${key === undefined ? 'without' : 'with'} a key: echo, ping, close code`, async t => {
    const port = await webSockets(t)
    const { session } = await serveHttp2(t, {}, app => app.get('/ws', { duplex: { forward: `http://127.0.0.1:${port}` } }))
    const { stream, status, headers } = await requestHttp2(await session(), {
      ':method': 'CONNECT',
      ':protocol': 'websocket',
      ':scheme': 'http',
      ':path': '/ws',
      ':authority': 'a',
      'sec-websocket-version': '13',
      'sec-websocket-protocol': 'chat',
      ...key === undefined ? {} : { 'sec-websocket-key': key }
    })
    t.equal(status, 200)
    t.equal(headers['sec-websocket-protocol'], 'chat')
    t.equal(headers['sec-websocket-accept'], key === undefined ? undefined : 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=')
    await converse(t, onStream(stream))
  })
}

t.test('FW9 an answer to the key that is not for it: 502', async t => {
  const far = await upstream(t)
  const { session } = await serveHttp2(t, {}, app => app.get('/ws', { duplex: { forward: targetOf(far, 'tcp') } }))
  const asking = requestHttp2(await session(), {
    ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'http', ':path': '/ws', ':authority': 'a'
  })
  const server = await far.accepted()
  t.match((await server.head()).headers, { 'sec-websocket-version': '13', 'sec-websocket-key': /^[A-Za-z0-9+/]{22}==$/, upgrade: 'websocket' })
  server.send(switching('Upgrade: websocket', 'Sec-WebSocket-Accept: bm90IGZvciB0aGlzIGtleSwgbm90'))
  t.equal((await asking).status, 502)
  await server.gone()
})

t.test('FW9 an upstream that answers an upgrade over HTTP/2 with 200, as if there was none: 502', async t => {
  const far = await upstream(t)
  const { session } = await serveHttp2(t, {}, app => app.get('/it', { duplex: { forward: targetOf(far, 'tcp') } }))
  const asking = requestHttp2(await session(), { ':method': 'CONNECT', ':protocol': 'foo', ':scheme': 'http', ':path': '/it', ':authority': 'a' })
  const server = await far.accepted()
  await server.head()
  server.send(answer('200 OK', 'a page'))
  t.equal((await asking).status, 502)
})

t.test('FW9 an HTTP/1 client to an HTTP/2 server: upgrade, WebSocket and CONNECT, and what is refused', async t => {
  const far = http2.createServer({ settings: { enableConnectProtocol: true } }).listen(0, '127.0.0.1')
  await once(far, 'listening')
  const { port } = far.address() as net.AddressInfo
  const sessions: http2.ServerHttp2Session[] = []
  far.on('session', session => sessions.push(session))
  const asked: http2.IncomingHttpHeaders[] = []
  far.on('stream', (stream, headers) => {
    asked.push(headers)
    stream.on('error', () => {})
    stream.respond({ ':status': headers[':path'] === '/refused' ? 403 : 200, 'x-far': 'yes' })
    if (headers[':path'] === '/refused') stream.end('no')
    else stream.pipe(stream)
  })
  const { connect } = await forwarding(t, { to: { to: { host: '127.0.0.1', port }, version: '2' } })
  t.teardown(() => {
    for (const session of sessions) session.destroy()
    far.close()
  })
  for (const [sent, head] of [
    [request('GET /it', ...UPGRADE), { status: 101, headers: { upgrade: 'foo', 'x-far': 'yes' } }],
    [request('GET /ws', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='),
      { status: 101, headers: { upgrade: 'websocket', 'sec-websocket-accept': 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' } }],
    ['CONNECT it.example:443 HTTP/1.1\r\nHost: it.example:443\r\n\r\n', { status: 200, headers: { 'x-far': 'yes' } }]
  ] as const) {
    const wire = await connect()
    wire.send(sent)
    t.match(await wire.head(), head)
    wire.send('echo')
    t.equal(await wire.until('echo'), 'echo')
    wire.end('!')
    t.equal((await wire.rest()).toString(), '!')
  }
  t.match(asked, [
    { ':method': 'CONNECT', ':protocol': 'foo', ':path': '/it', ':authority': `127.0.0.1:${port}` },
    { ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/ws', 'sec-websocket-version': '13' },
    { ':method': 'CONNECT', ':authority': 'it.example:443' }
  ])
  t.notOk('sec-websocket-key' in (asked[1] as object))
  const refused = await (await connect()).send(request('GET /refused', ...UPGRADE)).head()
  t.match(refused, { status: 403, headers: { 'x-far': 'yes' } })
})

t.test('FW9 HTTP/2 on both sides: an upgrade, a reset', async t => {
  const far = http2.createServer({ settings: { enableConnectProtocol: true } }).listen(0, '127.0.0.1')
  await once(far, 'listening')
  const { port } = far.address() as net.AddressInfo
  const sessions: http2.ServerHttp2Session[] = []
  far.on('session', session => sessions.push(session))
  const { session } = await serveHttp2(t, {}, app => app.get('/it', { duplex: { forward: { to: { host: '127.0.0.1', port }, version: '2' } } }))
  t.teardown(() => {
    for (const session of sessions) session.destroy()
    far.close()
  })
  const opened = once(far, 'stream') as Promise<[http2.ServerHttp2Stream]>
  const asking = requestHttp2(await session(), { ':method': 'CONNECT', ':protocol': 'foo', ':scheme': 'http', ':path': '/it', ':authority': 'a' })
  const [server] = await opened
  server.on('error', () => {})
  server.respond({ ':status': 200 })
  const { stream, status } = await asking
  t.equal(status, 200)
  server.write('hello')
  t.equal(await bytes(stream, 5), 'hello')
  server.close(http2.constants.NGHTTP2_INTERNAL_ERROR)
  await new Promise(resolve => stream.once('close', resolve))
  t.not(stream.rstCode, 0)
})

t.test('FW9 an upstream of HTTP/2 that does not know extended CONNECT: 502', async t => {
  const far = http2.createServer().listen(0, '127.0.0.1')
  await once(far, 'listening')
  const { port } = far.address() as net.AddressInfo
  const sessions: http2.ServerHttp2Session[] = []
  far.on('session', session => sessions.push(session))
  const { connect } = await forwarding(t, { to: { to: { host: '127.0.0.1', port }, version: '2' } })
  t.teardown(() => {
    for (const session of sessions) session.destroy()
    far.close()
  })
  const { status, body } = await (await connect()).send(request('GET /it', ...UPGRADE)).response()
  t.equal(status, 502)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_NO_EXTENDED_CONNECT')
})

t.test('FW4 a drain leaves a forwarded stream alone until drainTimeout', async t => {
  const { connect, accepted, app } = await forwarding(t, { plugin: { drainTimeout: 200 }, close: false })
  const wire = await connect()
  wire.send(request('GET /it', ...UPGRADE))
  const server = await accepted()
  await server.head()
  server.send(SWITCHING)
  await wire.head()
  const closing = app.close()
  wire.send('still')
  t.equal(await server.until('still'), 'still')
  server.send('here')
  t.equal(await wire.until('here'), 'here')
  t.equal(await wire.gone(), 'broken')
  t.equal(await server.gone(), 'broken')
  await closing
})
