import t from 'tap'
import Fastify from 'fastify'
import duplex, { forward, type ForwardOptions } from '../lib/index.ts'
import { answerFields, requestFields, trailerFields } from '../lib/relay/forward/fields.ts'
import { originForm } from '../lib/relay/forward/path.ts'
import { targetOf } from '../lib/relay/forward/target.ts'
import { answer, forwarding, type ForwardingSettings } from './fixtures/forwarding.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { onEachStream } from './fixtures/server.ts'
import type { Head } from './fixtures/wire.ts'
import type { Test } from 'tap'

/** What the upstream hears of a request. */
async function heard (t: Test, sent: string, settings: ForwardingSettings = {}): Promise<Head> {
  const { connect, accepted } = await forwarding(t, settings)
  const wire = await connect()
  wire.send(sent)
  const server = await accepted()
  const head = await server.head()
  server.send(answer('200 OK', 'done'))
  t.equal((await wire.response()).status, 200)
  return head
}

t.test('FW6 fields of a request: what is about one connection stays there', async t => {
  const cases: [came: Record<string, string | string[]>, passes: Record<string, string | string[]>][] = [
    [{ accept: '*/*', cookie: 'a=1' }, { accept: '*/*', cookie: 'a=1' }],
    [{ connection: 'close, X-One', 'x-one': '1', 'x-two': '2' }, { 'x-two': '2' }],
    [{ connection: 'keep-alive', 'keep-alive': 'timeout=5', 'proxy-connection': 'keep-alive' }, {}],
    [{ connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAA' }, {}],
    [{ connection: 'content-length, host', 'content-length': '5', host: 'evil' }, { 'content-length': '5' }],
    [{ te: 'trailers, deflate;q=0.5', trailer: 'x-sum', 'transfer-encoding': 'chunked' }, { te: 'trailers' }],
    [{ te: 'gzip' }, {}],
    [{ 'proxy-authorization': 'Basic eA==', authorization: 'Bearer x', expect: '100-continue' }, { authorization: 'Bearer x' }],
    [{ ':path': '/', ':authority': 'evil', 'x-list': ['a', 'b'] }, { 'x-list': ['a', 'b'] }]
  ]
  for (const [came, passes] of cases) t.same(requestFields(came as never), passes)
})

t.test('FW6 fields of an answer: what is about one connection stays there, and repeated ones stay repeated', async t => {
  t.same(answerFields(['Set-Cookie', 'a=1', 'Set-Cookie', 'b=2', 'Server', 'far']), { 'set-cookie': ['a=1', 'b=2'], server: 'far' })
  t.same(answerFields(['Connection', 'X-Hop', 'Connection', 'close', 'X-Hop', '1', 'Keep-Alive', 'timeout=5', 'X-End', '2']), { 'x-end': '2' })
  t.same(answerFields(['Transfer-Encoding', 'chunked', 'Trailer', 'x', 'Upgrade', 'foo', ':status', '200']), {})
  t.same(answerFields(['Connection', 'Content-Length', 'Content-Length', '5']), { 'content-length': '5' })
  t.same(trailerFields(['X-Sum', '1', 'Content-Length', '5', 'Transfer-Encoding', 'chunked', 'Host', 'evil', 'Set-Cookie', 'a']), [['X-Sum', '1']])
})

t.test('FW6 the path of a target, in whatever form it came', async t => {
  for (const [came, goes] of [
    ['/a?b=c', '/a?b=c'], ['*', '*'], ['//evil.example/x', '//evil.example/x'], ['http://evil.example/a?b', '/a?b'],
    ['http://evil.example', '/'], ['https://u:p@evil.example:1?x', '/?x'], ['HTTP://evil/a', '/a'],
    ['/@evil', '/@evil'], ['/http://evil/', '/http://evil/']
  ] as const) t.equal(originForm(came), goes)
  for (const came of ['evil', 'evil.example:443', '/a b', '/a\r\nX: y', '/a\u0000', '/\u0100', '\\evil', '/a#b', 'http://a?b/c']) {
    t.throws(() => originForm(came), { code: 'FST_ERR_DUPLEX_BAD_PATH', statusCode: 400 }, JSON.stringify(came))
  }
})

t.test('FW6 a target with a segment "." or "..", which the upstream may resolve', async t => {
  for (const came of [
    '/api/../secret', '/api/./x', '/..', '/api/.', '/api/..?q', '/api/%2e%2e/secret', '/api/.%2E/x', '/api/%2e', '/api/..%2fsecret', '/api%2F..%2Fx',
    '/api\\..\\x', '/api/..%5cx', 'http://a/api/../x', 'HTTP://evil/%2e%2e/', '//..'
  ]) t.throws(() => originForm(came), { code: 'FST_ERR_DUPLEX_BAD_PATH', statusCode: 400 }, JSON.stringify(came))
  for (const came of ['/a..b', '/...', '/.well-known/x', '/a.', '/..a/', '/a?x=/../b', '/a?/..', '/%2e%2e%2e/', '/a/%252e%252e/b']) t.equal(originForm(came), came)
})

t.test('FW6 upstreams: origins and their parts, and nothing else', async t => {
  t.match(targetOf('http://a.example'), { dial: { host: 'a.example', port: 80 }, tls: undefined, host: 'a.example' })
  t.match(targetOf(new URL('https://[::1]:8443/')), { dial: { host: '::1', port: 8443 }, tls: {}, host: '[::1]:8443', scheme: 'https' })
  t.match(targetOf({ host: '::1', port: 80 }), { dial: { host: '::1', port: 80 }, host: '[::1]' })
  t.match(targetOf({ host: 'a', port: 443, tls: true }), { tls: {}, host: 'a' })
  t.match(targetOf({ socketPath: '/run/x.sock', tls: { ca: 'x' } }), { dial: { path: '/run/x.sock' }, tls: { ca: 'x' }, host: 'localhost' })
  for (const wrong of [
    'a.example', 'ftp://a', 'ws://a', 'http://a/base', 'http://a?x', 'http://a/#x', 'http://u@a', 'http://', '', {}, null, 80,
    { host: 'a' }, { host: 'a', port: 0 }, { host: 'a', port: 65536 }, { host: 'a/b', port: 80 }, { host: 'a@b', port: 80 }, { host: 'a b', port: 80 },
    { socketPath: '' }, { socketPath: '/x', host: 'a', port: 80 }, { host: 'a', port: 80, tls: 'yes' }
  ]) t.throws(() => targetOf(wrong as never), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' }, JSON.stringify(wrong))
})

onEachStream(t, 'FW6 Host is the upstream\'s, whatever the client asks for', async (t, transport) => {
  const absolute = transport === 'h2' ? 'GET /a?b' : 'GET http://evil.example/a?b'
  const { connect, accepted, far } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(`${absolute} HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: worse.example\r\nContent-Length: 0\r\n\r\n`)
  const server = await accepted()
  const head = await server.head()
  t.equal(head.line, 'GET /a?b HTTP/1.1')
  t.equal(head.headers.host, `127.0.0.1:${far.port}`)
  t.equal(head.headers['x-forwarded-host'], 'evil.example')
  server.send(answer('200 OK', ''))
  t.equal((await wire.head()).status, 200)
})

t.test('FW6 x-forwarded-*, without trustProxy: who connected, and nothing that he says of himself', async t => {
  const spoofed = ['X-Forwarded-For: 1.1.1.1', 'X-Forwarded-Proto: https', 'Forwarded: for=1.1.1.1', 'X-Real-IP: 1.1.1.1', 'X-Forwarded-Port: 1']
  const { headers } = await heard(t, request('GET /', ...spoofed))
  t.match(headers, { 'x-forwarded-for': '127.0.0.1', 'x-forwarded-host': 'a', 'x-forwarded-proto': 'http' })
  t.notOk('forwarded' in headers || 'x-real-ip' in headers || 'x-forwarded-port' in headers)
})

t.test('FW6 x-forwarded-*, with a trusted proxy in front: it is added to, as far as it is trusted', async t => {
  const fields = ['X-Forwarded-For: 6.6.6.6, 1.1.1.1', 'X-Forwarded-Host: x.example', 'X-Forwarded-Proto: https', 'X-Forwarded-Port: 443']
  const trusting = { fastify: { trustProxy: '127.0.0.1' } }
  t.match((await heard(t, request('GET /', ...fields), trusting)).headers, {
    'x-forwarded-for': '1.1.1.1, 127.0.0.1', 'x-forwarded-host': 'x.example', 'x-forwarded-proto': 'https', 'x-forwarded-port': '443'
  })
  t.match((await heard(t, request('GET /', 'X-Forwarded-Proto: https'), trusting)).headers, {
    'x-forwarded-for': '127.0.0.1', 'x-forwarded-host': 'a', 'x-forwarded-proto': 'https'
  })
  const others = { fastify: { trustProxy: '10.0.0.1' } }
  const { headers } = await heard(t, request('GET /', ...fields), others)
  t.match(headers, { 'x-forwarded-for': '127.0.0.1', 'x-forwarded-host': 'a', 'x-forwarded-proto': 'http' })
  t.notOk('x-forwarded-port' in headers)
})

t.test('FW6 x-forwarded-*: replaced, or left out', async t => {
  const fields = ['X-Forwarded-For: 1.1.1.1', 'X-Forwarded-Host: x.example']
  const fastify = { trustProxy: true }
  t.match((await heard(t, request('GET /', ...fields), { fastify, options: { forwarded: 'replace' } })).headers, {
    'x-forwarded-for': '127.0.0.1', 'x-forwarded-host': 'a'
  })
  const { headers } = await heard(t, request('GET /', ...fields), { fastify, options: { forwarded: false } })
  t.notOk(Object.keys(headers).some(name => name.startsWith('x-forwarded')))
})

t.test('FW6 Connection cannot take off what the gateway puts on', async t => {
  const { headers } = await heard(t, request('GET /', 'Connection: close, host, x-forwarded-for, x-user, cookie', 'X-User: mallory', 'Cookie: a'), {
    options: { requestHeaders: fields => { fields['x-user'] = 'alice' } }
  })
  t.match(headers, { 'x-forwarded-for': '127.0.0.1', 'x-user': 'alice' })
  t.notOk('cookie' in headers)
  t.match(headers.host, /^127\.0\.0\.1:/)
})

t.test('FW6 requestHeaders, acceptHeaders and path: what the app makes of it, but for what frames and switches', async t => {
  const { connect, accepted } = await forwarding(t, {
    options: {
      path: (path, { method }) => `/base${path}&m=${method}`,
      requestHeaders: fields => ({ ...fields, host: 'inner.example', 'content-length': '99', connection: 'close', upgrade: 'foo', 'x-new': ['1', '2'] }),
      acceptHeaders (fields) {
        delete fields.server
        fields['x-gateway'] = 'yes'
        fields['content-length'] = '99'
      }
    }
  })
  const wire = await connect()
  wire.send(request('POST /a?b', 'Content-Length: 2') + 'hi')
  const server = await accepted()
  const { line, headers } = await server.head()
  t.equal(line, 'POST /base/a?b&m=POST HTTP/1.1')
  t.match(headers, { host: 'inner.example', 'content-length': '2', 'x-new': '1, 2' })
  t.equal(headers.connection, 'keep-alive')
  t.notOk('upgrade' in headers)
  server.send(answer('200 OK', 'done', 'Server: far'))
  const got = await wire.response()
  t.match(got, { status: 200, body: 'done', headers: { 'x-gateway': 'yes', 'content-length': '4' } })
  t.notOk('server' in got.headers)
})

t.test('FW6 a path that is fixed, and one that is none', async t => {
  t.equal((await heard(t, request('GET /a?b'), { options: { path: '/fixed' } })).line, 'GET /fixed HTTP/1.1')
  const { connect } = await forwarding(t, { options: { path: () => 'http://evil/' } })
  const { status, body } = await (await connect()).send(request('GET /a')).response()
  t.equal(status, 500)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_INVALID_OPTION')
})

t.test('FW6 h2c and its settings are not passed on, as an offer nor as fields', async t => {
  const { headers, line } = await heard(t, request('GET /', 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABk'))
  t.equal(line, 'GET / HTTP/1.1')
  t.equal(headers.connection, 'keep-alive')
  t.notOk('upgrade' in headers || 'http2-settings' in headers)
})

t.test('FW6 only the tokens that may pass are offered to the upstream', async t => {
  for (const [options, route, offered] of [
    [{}, {}, 'foo/2, websocket, bar'],
    [{ protocols: ['BAR', 'foo'] }, {}, 'foo/2, bar'],
    [{}, { protocols: ['websocket'] }, 'websocket']
  ] as const) {
    const { connect, accepted } = await forwarding(t, { options: options as ForwardOptions, duplex: route })
    const wire = await connect()
    wire.send(request('GET /', 'Connection: Upgrade', 'Upgrade: h2c, foo/2, websocket, TLS/1.3, bar'))
    const server = await accepted()
    t.equal((await server.head()).headers.upgrade, offered)
    server.send(answer('400 Bad Request', ''))
    t.equal((await wire.response()).status, 400)
  }
})

t.test('FW6 an upgrade of which no token may pass is refused, and nothing is dialled', async t => {
  const { connect, far } = await forwarding(t, { options: { protocols: ['foo'] } })
  const { status } = await (await connect()).send(request('GET /', 'Connection: Upgrade', 'Upgrade: bar')).response()
  t.equal(status, 426)
  t.equal(await far.connections(), 0)
})

t.test('FW6 two Authorization fields: the upstream sees what the hooks saw', async t => {
  let seen: unknown
  const { headers } = await heard(t, request('GET /', 'Authorization: Bearer good', 'Authorization: Bearer bad', 'X-A: 1', 'X-A: 2'), {
    route: { onRequest: async (req: { headers: Record<string, unknown> }) => { seen = req.headers.authorization } }
  })
  t.equal(seen, 'Bearer good')
  t.match(headers, { authorization: 'Bearer good', 'x-a': '1, 2' })
})

t.test('FW2 426 of the upstream says to what', async t => {
  const { connect, accepted } = await forwarding(t)
  for (const sent of [request('GET /', ...UPGRADE), request('GET /')]) {
    const wire = await connect()
    wire.send(sent)
    const server = await accepted()
    await server.head()
    server.send(answer('426 Upgrade Required', '', 'Upgrade: bar', 'Connection: Upgrade'))
    t.match(await wire.response(), { status: 426, headers: { upgrade: 'bar', connection: /Upgrade/ } })
  }
})

t.test('FW11 options that are wrong fail at boot, with the route', async t => {
  for (const [duplexOption, message] of [
    [{ forward: 'nonsense' }, /forward on route GET \/it must be/],
    [{ forward: 80 }, /forward on route/],
    [{ forward: { to: 'http://a', path: 'x' } }, /forward\.path/],
    [{ forward: { to: 'http://a', requestHeaders: 1 } }, /forward\.requestHeaders/],
    [{ forward: { to: 'http://a', forwarded: true } }, /forward\.forwarded/],
    [{ forward: { to: 'http://a', protocols: [] } }, /forward\.protocols/],
    [{ forward: { to: 'http://a', connectTimeout: -1 } }, /forward\.connectTimeout/],
    [{ forward: { to: 'http://a', responseTimeout: 'x' } }, /forward\.responseTimeout/],
    [{ forward: { to: 'http://a', version: 2 } }, /forward\.version/],
    [{ forward: { to: 'http://a', check: true } }, /forward\.check/],
    [{ forward: { to: 'http://a', pth: '/' } }, /did you mean "path"/],
    [{ forward: 'http://a', accept: 'manual' }, /accept/],
    [{ forward: 'http://a', kinds: ['hijack'] }, /kinds/]
  ] as const) {
    const app = Fastify()
    await app.register(duplex)
    t.throws(() => app.get('/it', { duplex: duplexOption } as never), { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message })
  }
  const app = Fastify()
  await app.register(duplex)
  t.throws(() => app.get('/it', { duplex: { forward: 'http://a' } } as never, () => {}), { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: /handler/ })
  t.throws(() => app.get('/it', { duplex: true } as never), { code: 'FST_ERR_ROUTE_MISSING_HANDLER' })
})

t.test('FW11 forward() by hand: wrong options are a 500, and what it gives tells the bytes', async t => {
  const server = await forwarding(t)
  const results: unknown[] = []
  const app = Fastify()
  await app.register(duplex)
  app.post('/wrong', { duplex: { accept: 'manual' } }, pending => forward(pending, 'http://a', { version: '3' } as never))
  app.post('/right', { duplex: { accept: 'manual', kinds: ['body'] } }, async pending => {
    results.push(await forward(pending, `http://127.0.0.1:${server.far.port}`))
  })
  t.teardown(() => app.close())
  const wrong = await app.injectDuplex({ method: 'POST', url: '/wrong', payload: 'x' })
  t.equal(wrong.statusCode, 500)
  t.equal(codeOf((await wrong.body()).toString()), 'FST_ERR_DUPLEX_INVALID_OPTION')
  const asking = app.injectDuplex({ method: 'POST', url: '/right', payload: 'four' })
  const upstream = await server.accepted()
  await upstream.until('four')
  upstream.send(answer('201 Created', 'answer'))
  const right = await asking
  t.equal(right.statusCode, 201)
  t.equal((await right.body()).toString(), 'answer')
  t.same(results, [{ bytesToUpstream: 4, bytesFromUpstream: 6 }])
})
