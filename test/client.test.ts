import t, { type Test } from 'tap'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import http2 from 'node:http2'
import { createServer as createTcpServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { Readable } from 'node:stream'
import { buffer, text } from 'node:stream/consumers'
import { connect, DuplexRefused } from '../lib/client/index.ts'
import { dial, tunnel, type ClientConnection, type ConnectOptions, type DuplexConnection, type DuplexKind } from '../lib/index.ts'
import { cert, key } from './fixtures/certificate.ts'
import { everyKind, streamKinds, take } from './fixtures/kinds.ts'
import { onEach, serve, streams, type TestServer, type Transport } from './fixtures/server.ts'
import { closedPort, upstream } from './fixtures/upstream.ts'
import { connectTcp } from './fixtures/wire.ts'

const request: Record<DuplexKind, ConnectOptions> = {
  upgrade: { protocol: 'foo' },
  connect: { target: 'b:1' },
  hijack: {},
  body: { body: true }
}

/** Of a server that `serve` has made. */
function where ({ port, app }: TestServer, transport: Transport): [url: string, options: ConnectOptions] {
  switch (transport) {
    case 'tcp': return [`http://127.0.0.1:${port}/it`, {}]
    case 'tls': return [`https://127.0.0.1:${port}/it`, { tls: { ca: cert } }]
    case 'h2': return [`http://127.0.0.1:${port}/it`, { http2: true }]
    case 'unix': return ['http://a/it', { socketPath: app.server.address() as string }]
  }
}

function kindsOver (transport: Transport): readonly DuplexKind[] {
  return transport === 'h2' ? everyKind.filter(kind => kind !== 'hijack') : everyKind
}

onEach(t, 'CL1 every kind: early bytes both ways, half-close, and an end in order', async (t, transport) => {
  const server = await serve(t, { transport }, app => take(app, async ({ readable, writable }) => {
    writable.write('first')
    writable.end(await text(readable))
  }))
  const [url, options] = where(server, transport)
  for (const kind of kindsOver(transport)) {
    const early = kind === 'body' ? {} : { early: 'early ' }
    const connection = await connect(url, { ...options, ...request[kind], ...early })
    t.equal(connection.kind, kind)
    t.equal(connection.statusCode, kind === 'upgrade' && transport !== 'h2' ? 101 : 200)
    t.equal(connection.protocol, kind === 'upgrade' ? 'foo' : undefined)
    connection.writable.end('late')
    t.equal(await text(connection.readable), kind === 'body' ? 'firstlate' : 'firstearly late')
    t.match(await connection.closed, { reason: 'end', error: undefined })
    t.equal(connection.signal.aborted, false)
  }
  await server.quiet()
}, streams)

onEach(t, 'CL1 a refusal has its status and body, and leaves nothing', async (t, transport) => {
  const server = await serve(t, { transport }, app => take(app, () => {}, true, {
    onRequest: async (_request, reply) => { await reply.code(403).header('x-why', 'no').send('not you') }
  }))
  const [url, options] = where(server, transport)
  for (const kind of kindsOver(transport)) {
    const refused = await connect(url, { ...options, ...request[kind] }).then(() => undefined, (error: unknown) => error as DuplexRefused)
    t.type(refused, DuplexRefused)
    t.match(refused, { code: 'FST_ERR_DUPLEX_REFUSED', statusCode: 403, headers: { 'x-why': 'no' }, by: 'server' })
    t.equal((await refused?.body())?.toString(), 'not you')
  }
  await server.quiet()
}, streams)

onEach(t, 'CL1 what breaks off at the server is an error here, and what breaks off here is one there', async (t, transport) => {
  const server = await serve(t, { transport }, app => take(app, async ({ readable, writable }) => {
    writable.write('first')
    if ((await once(readable, 'data') as [Buffer])[0].toString() === 'fail') throw new Error('failed')
    await once(readable, 'end')
  }))
  const [url, options] = where(server, transport)
  // A Unix socket knows no reset.
  const kinds = transport === 'unix' ? ['body'] as const : kindsOver(transport)
  for (const kind of kinds) {
    const connection = await connect(url, { ...options, ...request[kind] })
    connection.writable.write('fail')
    await t.rejects(buffer(connection.readable), { code: 'ECONNRESET' })
    t.match(await connection.closed, { reason: 'abort', error: Error })
    t.equal(connection.signal.aborted, true)
    const other = await connect(url, { ...options, ...request[kind] })
    other.writable.write('stay')
    const [there] = server.app.duplex.connections as ReadonlySet<DuplexConnection>
    await once(other.readable, 'data')
    other.destroy()
    t.match(await other.closed, { reason: 'destroyed' })
    t.match(await (there as DuplexConnection).closed, { reason: /abort|error/ })
  }
  await server.quiet()
}, streams)

t.test('CL1 HTTP/2 by ALPN, and HTTP/1.1 where that upgrades nothing', async t => {
  for (const enableConnectProtocol of [true, false]) {
    const server = http2.createSecureServer({ key, cert, allowHTTP1: true, settings: { enableConnectProtocol } }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => { server.close() })
    server.on('stream', (stream, headers) => {
      stream.respond({ ':status': 200 })
      stream.end(headers[':protocol'] as string | undefined ?? 'plain')
    })
    server.on('upgrade', (_req, socket) => {
      socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nhttp1')
    })
    const url = `https://localhost:${(server.address() as AddressInfo).port}/`
    const upgraded = await connect(url, { protocol: 'foo', tls: { ca: cert } })
    t.equal(upgraded.httpVersion, enableConnectProtocol ? '2.0' : '1.1')
    upgraded.writable.end()
    t.equal(await text(upgraded.readable), enableConnectProtocol ? 'foo' : 'http1')
    t.match(await upgraded.closed, { reason: 'end' })
    const plain = await connect(url, { tls: { ca: cert } })
    t.equal(await text(plain.readable), 'plain')
    t.match(await plain.closed, { reason: 'end' })
    if (!enableConnectProtocol) await t.rejects(connect(url, { protocol: 'foo', http2: true, tls: { ca: cert } }), { code: 'FST_ERR_DUPLEX_NO_EXTENDED_CONNECT' })
  }
})

/** A proxy that is a wire, and joins what it is asked for. */
async function proxy (t: Test, answer = 'HTTP/1.1 200 OK\r\n\r\n'): Promise<{ url: string, heads: string[] }> {
  const far = await upstream(t)
  const heads: string[] = []
  void (async () => {
    for (;;) {
      const wire = await far.accepted()
      const head = await wire.head()
      heads.push(head.raw)
      wire.send(answer)
      if (!answer.includes('200')) continue
      const to = await connectTcp(Number(head.line.split(' ')[1]?.split(':')[1]))
      wire.socket.removeAllListeners('data')
      to.socket.removeAllListeners('data')
      wire.socket.pipe(to.socket)
      to.socket.pipe(wire.socket)
      t.teardown(() => to.destroy())
    }
  })()
  return { url: `http://me:secret@127.0.0.1:${far.port}`, heads }
}

onEach(t, 'CL1 every kind through a proxy, which gets its credentials', async (t, transport) => {
  const server = await serve(t, { transport }, app => take(app, ({ readable, writable }) => { readable.pipe(writable) }))
  const [url, options] = where(server, transport)
  const through = await proxy(t)
  for (const kind of kindsOver(transport)) {
    const connection = await connect(url, { ...options, ...request[kind], proxy: through.url })
    connection.writable.end('echo')
    t.equal(await text(connection.readable), 'echo')
    t.match(await connection.closed, { reason: 'end' })
  }
  t.match(through.heads[0], `CONNECT 127.0.0.1:${server.port} HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n`)
}, ['tcp', 'tls', 'h2'])

t.test('CL1 a proxy that refuses', async t => {
  const { url } = await proxy(t, 'HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno')
  const refused = await connect('http://a.example/', { proxy: url }).then(() => undefined, (error: unknown) => error as DuplexRefused)
  t.match(refused, { statusCode: 407, by: 'proxy' })
  t.equal((await refused?.body())?.toString(), 'no')
})

t.test('CL1 the signal and the timeout, while connecting, waiting, and afterwards, leave nothing', async t => {
  const far = await upstream(t)
  const silent = await upstream(t)
  const url = `http://127.0.0.1:${far.port}/`
  const enough = new Error('enough')
  await t.rejects(connect(url, { signal: AbortSignal.abort(enough) }), enough)
  for (const options of [{ protocol: 'foo' }, { http2: true }, { proxy: url }, { body: true }] satisfies ConnectOptions[]) {
    const control = new AbortController()
    const waiting = connect(url, { ...options, signal: control.signal })
    waiting.catch(() => {})
    const wire = await far.accepted()
    await wire.bytes(10)
    control.abort(enough)
    await t.rejects(waiting, enough)
    await wire.remains()
    const nowhere = `http://127.0.0.1:${silent.port}/`
    await t.rejects(connect(nowhere, { ...options, ...'proxy' in options ? { proxy: nowhere } : {}, timeout: 1 }), { code: 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT' })
  }
  const control = new AbortController()
  const waiting = connect(url, { protocol: 'foo', signal: control.signal })
  const wire = await far.accepted()
  wire.send('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  const connection = await waiting
  control.abort(enough)
  t.match(await connection.closed, { reason: 'error', error: { message: 'enough' } })
  t.equal(await wire.gone(), 'broken')
})

t.test('CL1 no connection, no TLS, no HTTP, and options that are none, each with a code', async t => {
  const port = await closedPort()
  await t.rejects(connect(`http://127.0.0.1:${port}/`), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { code: 'ECONNREFUSED' } })
  await t.rejects(connect('http://a/', { socketPath: '/nowhere' }), { code: 'FST_ERR_DUPLEX_DIAL_FAILED' })
  const tls = await upstream(t, 'tls')
  await t.rejects(connect(`https://127.0.0.1:${tls.port}/`), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: Error })
  const far = await upstream(t)
  const waiting = connect(`http://127.0.0.1:${far.port}/`)
  ;(await far.accepted()).send('SSH-2.0-x\r\n')
  await t.rejects(waiting, { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID' })
  const wrong: [url: string, options?: object][] = [
    ['nonsense'], ['ftp://a/'], ['http://a/', { target: 'b' }], ['http://a/', { target: 'b:1', protocol: 'foo' }],
    ['http://a/', { unknown: 1 }], ['http://a/', { timeout: -1 }], ['http://a/', { method: 'CONNECT' }], ['http://a/', { body: 1 }],
    ['http://a/', { proxy: 'socks://a' }], ['http://a/', { body: true, early: 'a' }], ['http://a/', { signal: {} }]
  ]
  for (const [url, options] of wrong) await t.rejects(connect(url, options), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' }, JSON.stringify([url, options]))
})

t.test('CL1 an upgrade with a body, credentials of the URL, and several tokens', async t => {
  const server = await serve(t, {}, app => {
    app.post('/it', { duplex: { protocols: ['bar'] } }, ({ writable }, { body, headers }) => { writable.end(JSON.stringify([body, headers.authorization])) })
  })
  const connection = await connect(`http://me:secret@127.0.0.1:${server.port}/it`, {
    method: 'POST', protocol: ['foo', 'bar'], body: '{"cmd":"ls"}', headers: { 'content-type': 'application/json' }
  })
  t.equal(connection.protocol, 'bar')
  connection.writable.end()
  t.same(JSON.parse(await text(connection.readable)), [{ cmd: 'ls' }, 'Basic bWU6c2VjcmV0'])
})

t.test('CL1 close() flushes, ends, and waits; web() is a pair', async t => {
  const server = await serve(t, {}, app => take(app, async ({ readable, writable }) => { writable.end(await text(readable)) }))
  const [url] = where(server, 'tcp')
  const closing: ClientConnection = await connect(url, { protocol: 'foo' })
  closing.writable.write('all of it')
  t.match(await closing.close(), { reason: 'end' })
  const { readable, writable } = (await connect(url, { protocol: 'foo' })).web()
  const writer = writable.getWriter()
  await writer.write(Buffer.from('web'))
  await writer.close()
  t.equal(await new Response(readable).text(), 'web')
  await server.quiet()
})

t.test('CL1 the end of the server is not ours', async t => {
  const heard: string[] = []
  const server = await serve(t, {}, app => take(app, async ({ readable, writable }) => {
    writable.end('done')
    heard.push(await text(readable))
  }))
  const [url] = where(server, 'tcp')
  for (const kind of streamKinds) {
    const connection = await connect(url, request[kind])
    t.equal(await text(connection.readable), 'done')
    connection.writable.end('later')
    t.match(await connection.closed, { reason: 'end' })
  }
  await server.quiet()
  t.same(heard, streamKinds.map(() => 'later'))
})

/** Other people's servers, as they are written by hand. */
const others: Record<string, () => Server> = {
  "Node's own, by 'upgrade'": () => createHttpServer().on('upgrade', (_req, socket: Socket, head: Buffer) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\nfirst ')
    socket.write(head)
    socket.pipe(socket)
  }),
  // The head comes a byte at a time, in lower case and without a reason.
  'one that writes its head by hand': () => createTcpServer({ allowHalfOpen: true }, socket => {
    socket.once('data', async (bytes: Buffer) => {
      for (const byte of Buffer.from('HTTP/1.1 101\r\nconnection:Upgrade\r\nupgrade:foo\r\nx-empty:\r\n\r\n')) await new Promise(resolve => socket.write(Buffer.of(byte), resolve))
      socket.write(`first ${bytes.subarray(bytes.indexOf('\r\n\r\n') + 4).toString()}`)
      socket.pipe(socket)
    })
  })
}

for (const [name, make] of Object.entries(others)) {
  t.test(`CL4 against a server that is not ours: ${name}`, async t => {
    const server = make()
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.teardown(() => server.close())
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    const connection = await connect(url, { protocol: 'foo', early: 'early ' })
    t.equal(connection.statusCode, 101)
    connection.writable.end('late')
    t.equal(await text(connection.readable), 'first early late')
    t.match(await connection.closed, { reason: 'end' })
  })
}

onEach(t, 'CL1 a body that is a stream is sent before there is an answer, whole, and its failure breaks the request off', async (t, transport) => {
  const server = await serve(t, { transport }, app => {
    app.post('/it', { duplex: true }, async ({ readable, writable }) => { writable.end(`heard ${(await buffer(readable)).length}`) })
    // Not accepted before all has come.
    app.post('/all', { duplex: { accept: 'manual' } }, async pending => {
      const { length } = await buffer(pending.readable as Readable)
      const { writable } = await pending.accept()
      writable.end(`heard ${length}`)
    })
  })
  const [url, options] = where(server, transport)
  for (const path of ['/it', '/all']) {
    const body = Readable.from(Array.from({ length: 50 }, () => Buffer.alloc(10_000)))
    const connection = await connect(url.replace('/it', path), { ...options, body })
    t.equal(await text(connection.readable), 'heard 500000')
    t.equal((await connection.closed).reason, 'end')
  }
  const failing = new Readable({ read () { this.destroy(new Error('of the source')) } })
  await t.rejects(connect(url.replace('/it', '/all'), { ...options, body: failing }), { message: 'of the source' })
  const over = Readable.from([])
  await buffer(over)
  t.equal(await text((await connect(url, { ...options, body: over })).readable), 'heard 0')
}, ['tcp', 'tls', 'unix', 'h2'])

t.test('CL1 over TLS an end() from within data costs nothing of what comes behind it', async t => {
  const SIZE = 500_000
  const server = createTlsServer({ cert, key }, socket => {
    socket.on('error', () => {})
    socket.once('data', () => {
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
      // In many records, of which several are read at once.
      socket.end(Buffer.alloc(SIZE))
    })
  })
  t.teardown(() => server.close())
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const through = await serve(t, {}, app => {
    app.route({ method: 'CONNECT', url: '*', duplex: { accept: 'manual' }, handler: pending => tunnel(pending, () => dial(pending.authority as never)) })
  })
  for (let times = 0; times < 5; times++) {
    const proxy = times % 2 === 0 ? undefined : `http://127.0.0.1:${through.port}`
    const { readable, writable } = await connect(url, { protocol: 'foo', tls: { ca: cert }, ...proxy === undefined ? {} : { proxy } })
    let came = 0
    readable.on('data', (chunk: Buffer) => {
      came += chunk.length
      if (!writable.writableEnded) writable.end()
    })
    await once(readable, 'end')
    t.equal(came, SIZE)
  }
})
