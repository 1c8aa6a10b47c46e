// What the two sides of `forward` may send on purpose: to make two servers read one message in two ways, to get at what is not
// theirs, or to end the process between them.
import t from 'tap'
import http2 from 'node:http2'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { chunk, LAST_CHUNK, nextChunk } from './fixtures/chunked.ts'
import { answer, forwarding, seeInvalid, switching, targetOf } from './fixtures/forwarding.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { onEachStream } from './fixtures/server.ts'
import { MiB, pattern, sha256 } from './fixtures/takeover.ts'
import { upstream } from './fixtures/upstream.ts'
import type { Head, Wire } from './fixtures/wire.ts'

const CHUNKED = 'Transfer-Encoding: chunked'

for (const [what, sent] of Object.entries({
  'two lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk',
  'a length and chunks': `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n${CHUNKED}\r\n\r\n0\r\n\r\n`,
  'a negative length': 'HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n',
  'a coding that is not taken off': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n',
  'a coding and no chunks': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok',
  'a status above all': answer('999 Go Away', 'no'),
  'no such status': 'HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n',
  'a folded line': 'HTTP/1.1 200 OK\r\nX-Fold: a\r\n X-Smuggled: b\r\nContent-Length: 0\r\n\r\n',
  'a space before the colon': 'HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok',
  'NUL in a value': 'HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 0\r\n\r\n',
  'CR in a value': 'HTTP/1.1 200 OK\r\nX-Cr: a\rX-Smuggled: b\r\nContent-Length: 0\r\n\r\n',
  'another protocol': 'ICY 200 OK\r\n\r\n'
})) {
  onEachStream(t, `FW2 ${what} in the upstream's answer to a GET: 502, and nothing of it reaches the client`, async (t, transport) => {
    await seeInvalid(t, { transport }, request('GET /it', 'Content-Length: 0'), sent, /smuggled|x-nul|x-fold|x-cr/i)
  }, ['tcp', 'h2'])
}

for (const [what, sent] of [['a body', []], ['an upgrade', UPGRADE]] as const) {
  onEachStream(t, `FW6 ${what} whose path has dot segments: 400, and the upstream hears nothing of it`, async (t, transport) => {
    const { connect, accepted } = await forwarding(t, { transport })
    for (const path of ['/api/../secret', '/api/%2e%2e/secret', '/api/..%2fsecret']) {
      const { status, body } = await (await connect()).send(request(`GET ${path}`, ...sent)).response()
      t.equal(status, 400)
      t.equal(codeOf(body), 'FST_ERR_DUPLEX_BAD_PATH')
    }
    await (await connect()).send(request('GET /a?/../b', ...sent))
    t.equal((await (await accepted()).head()).line, 'GET /a?/../b HTTP/1.1', 'the first that the upstream hears of')
  }, ['tcp', 'h2'])
}

for (const [what, method, sent, status] of [
  ['HEAD', 'HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody!', 200],
  ['204', 'GET', 'HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nbody!', 204],
  ['304', 'GET', 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nbody!', 304],
  ['a GET', 'GET', `${answer('200 OK', 'first')}${answer('200 OK', 'smuggled')}`, 200]
] as const) {
  t.test(`FW7 more than belongs to the answer of ${what}: it is never the answer to another request`, async t => {
    const { connect, accepted } = await forwarding(t)
    const wire = (await connect()).send(request(`${method} /first`))
    const server = await accepted()
    await server.head()
    server.send(sent)
    const head = await wire.head()
    t.equal(head.status, status)
    if (what.startsWith('a GET')) t.equal(String(await wire.bytes(5)), 'first')
    wire.send(request('GET /second'))
    const next = await accepted()
    t.equal((await next.head()).line, 'GET /second HTTP/1.1')
    next.send(answer('200 OK', 'second'))
    t.match(await wire.response(), { status: 200, body: 'second' })
    t.equal(await server.remains(), '')
  })
}

for (const [what, sent] of Object.entries({
  'a size that no number has': `${chunk('part')}fffffffffffffffff\r\n`,
  'a size that is none': `${chunk('part')}zz\r\n`,
  'data behind its size': `${chunk('part')}1\r\nxx`,
  'trailers without end': `${chunk('part')}0\r\n${'X-Long: '.padEnd(40_000, 'x')}\r\n\r\n`,
  'a trailer without a colon': `${chunk('part')}0\r\nnonsense\r\n\r\n`
})) {
  onEachStream(t, `FW7 chunks of the upstream with ${what}: the client's answer has no end`, async (t, transport) => {
    const { connect, accepted, quiet } = await forwarding(t, { transport })
    const wire = (await connect()).send(request('POST /it', 'Content-Length: 2') + 'hi')
    const server = await accepted()
    await server.until('hi')
    server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n${sent}`)
    if (transport === 'h2') t.equal(await wire.gone(), 'broken')
    else t.notMatch(await wire.remains(), /\r\n0\r\n/)
    await server.remains()
    wire.end()
    await quiet()
  }, ['tcp', 'h2'])
}

onEachStream(t, 'FW6 fields named like members of an object are fields', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  for (const [sent, reply] of [
    [request('GET /it', 'Content-Length: 0', 'Constructor: 1', '__proto__: 2', 'hasOwnProperty: 3'), answer('200 OK', '', 'Constructor: 1', '__proto__: 2', 'hasOwnProperty: 3', 'Connection: close')],
    [request('GET /it', ...UPGRADE, 'Constructor: 1'), switching('Upgrade: foo', 'Constructor: 1', 'hasOwnProperty: 3')]
  ] as const) {
    const wire = (await connect()).send(sent)
    const server = await accepted()
    const has = ({ fields }: Head, name: string): string[] =>
      fields.filter(([given]) => given.toLowerCase() === name).map(([, value]) => value)
    t.same(has(await server.head(), 'constructor'), ['1'])
    server.send(reply)
    const head = await wire.head()
    t.same(has(head, 'constructor'), ['1'])
    t.same(has(head, 'hasownproperty'), ['3'])
    server.end()
    wire.end()
    await wire.remains()
  }
}, ['tcp', 'h2'])

for (const [what, sent] of Object.entries({
  'two lengths': `${request('POST /it', 'Content-Length: 2', 'Content-Length: 3')}hi!`,
  'a length and chunks': `${request('POST /it', 'Content-Length: 2', CHUNKED)}0\r\n\r\n`,
  'chunks that are not the last coding': `${request('POST /it', 'Transfer-Encoding: chunked, gzip')}0\r\n\r\n`,
  'a length with a sign': `${request('POST /it', 'Content-Length: +2')}hi`,
  'a space before the colon': `${request('POST /it', 'Content-Length : 2')}hi`,
  'a folded line': request('GET /it', 'X-A: a', ' X-B: b'),
  'NUL in a value': request('GET /it', 'X-A: a\0b'),
  'CR in a value': request('GET /it', 'X-A: a\rX-B: b'),
  'no Host': 'GET /it HTTP/1.1\r\n\r\n',
  'a name that is no token': request('GET /it', 'X(A): a'),
  'a fragment': request('GET /it#/../secret'),
  'a fragment in a URL': request('GET http://a#/it'),
  'a path in the query of a URL': request('GET http://a?b=/it'),
  'no path': request('GET it'),
  'a CONNECT to a user': 'CONNECT u@it.example:443 HTTP/1.1\r\nHost: it.example:443\r\n\r\n',
  'a CONNECT to a path': 'CONNECT it.example:443/x HTTP/1.1\r\nHost: it.example:443\r\n\r\n'
})) {
  t.test(`FW6 ${what} in a request: 400, and nothing is dialled`, async t => {
    const { connect, far } = await forwarding(t)
    const wire = (await connect()).send(sent)
    const { status } = await wire.head()
    t.ok(status === 400 || (what === 'no path' && status === 404), String(status))
    t.equal(await far.connections(), 0)
  })
}

t.test('FW6 a fragment in the path of HTTP/2: 400, and nothing is dialled', async t => {
  const { connect, far } = await forwarding(t, { transport: 'h2' })
  const wire = (await connect()).send(request('GET /it#/../secret', 'Content-Length: 0'))
  t.equal((await wire.head()).status, 400)
  t.equal(await far.connections(), 0)
})

t.test('FW6 odd paths are passed on as they came, and Host stays the upstream\'s', async t => {
  const { connect, accepted, far } = await forwarding(t)
  const wire = await connect()
  let server
  for (const path of ['//evil.example/x', '/a;b=c', '/\\evil.example', '/@evil.example', '/a?//b?c', '/%0d%0aX:%20y', '/%00']) {
    wire.send(request(`GET ${path}`))
    server ??= await accepted()
    const head = await server.head()
    t.equal(head.line, `GET ${path} HTTP/1.1`)
    t.equal(head.headers.host, `127.0.0.1:${far.port}`)
    server.send(answer('200 OK', 'ok'))
    t.equal((await wire.response()).status, 200)
  }
})

t.test('FW6 what a client says of itself with underscores does not pass either', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = (await connect()).send(request('GET /it', 'X_Forwarded_For: 1.1.1.1', 'X-Forwarded_Host: evil', 'X_Real_IP: 1.1.1.1', 'X-Under_Score: 1'))
  const server = await accepted()
  const { headers } = await server.head()
  t.same(Object.keys(headers).filter(name => /forwarded|real/i.test(name)).sort(), ['x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'])
  t.match(headers, { 'x-forwarded-for': '127.0.0.1', 'x-under_score': '1' })
  server.send(answer('200 OK', 'ok'))
  t.equal((await wire.response()).status, 200)
})

t.test('FW6 requestHeaders and acceptHeaders may spell a name in another way, and take a field off by undefined', async t => {
  const { connect, accepted } = await forwarding(t, {
    options: {
      requestHeaders: fields => ({ ...fields, Host: 'inner.example', 'X-A': 'new', 'x-b': undefined as never }),
      acceptHeaders: fields => ({ ...fields, 'X-C': 'new', 'x-d': undefined as never, 'Content-Length': '99' })
    }
  })
  const wire = (await connect()).send(request('GET /it', 'X-A: old', 'X-B: 1'))
  const server = await accepted()
  const { headers } = await server.head()
  t.match(headers, { host: 'inner.example', 'x-a': 'new' })
  t.notOk('x-b' in headers)
  server.send(answer('200 OK', 'ok', 'X-C: old', 'X-D: 1'))
  const got = await wire.response()
  t.match(got, { status: 200, body: 'ok', headers: { 'x-c': 'new', 'content-length': '2' } })
  t.notOk('x-d' in got.headers)
})

t.test('FW6 a value that would be two lines: 500, and nothing is sent', async t => {
  const { connect, accepted } = await forwarding(t, {
    options: { requestHeaders (fields, { headers }) { fields['x-user'] = decodeURIComponent(String(headers['x-name'])) } }
  })
  for (const sent of [request('GET /it', 'X-Name: a%0d%0aX-Admin: 1'), request('GET /it', ...UPGRADE, 'X-Name: a%0d%0aX-Admin: 1')]) {
    t.equal((await (await connect()).send(sent).response()).status, 500)
    const server = await accepted()
    t.equal(await server.remains(), '')
  }
})

t.test('FW10 an upstream of HTTP/2 that refuses a stream has not begun: asked once more, if that may be', async t => {
  const far = http2.createServer().listen(0, '127.0.0.1')
  await once(far, 'listening')
  const { port } = far.address() as AddressInfo
  const asked: string[] = []
  const sessions = new Set<http2.ServerHttp2Session>()
  far.on('session', session => sessions.add(session))
  far.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    const path = String(headers[':path'])
    asked.push(path)
    if (path === '/refused' && asked.filter(one => one === path).length === 1) stream.close(http2.constants.NGHTTP2_REFUSED_STREAM)
    else stream.respond({ ':status': 200, 'content-length': 0 }, { endStream: true })
  })
  t.teardown(() => {
    for (const session of sessions) session.destroy()
    far.close()
  })
  const { connect } = await forwarding(t, { to: { to: { host: '127.0.0.1', port }, version: '2' } })
  const wire = await connect()
  t.equal((await wire.send(request('GET /first')).response()).status, 200)
  t.equal((await wire.send(request('GET /refused')).response()).status, 200)
  t.same(asked, ['/first', '/refused', '/refused'])
})

for (const [what, sent] of [
  ['a GET', request('GET /it', 'Content-Length: 0')],
  ['a POST', request('POST /it', 'Content-Length: 2') + 'hi'],
  ['an upgrade', request('GET /it', ...UPGRADE)],
  ['an upgrade with a body', request('POST /it', ...UPGRADE, 'Content-Length: 2') + 'hi']
] as const) {
  onEachStream(t, `FW10 an answer to ${what} that the end of its connection ends: no connection to the upstream is left`, async (t, transport) => {
    const { connect, accepted } = await forwarding(t, { transport })
    const wire = (await connect()).send(sent)
    const server = await accepted()
    await server.head()
    server.end('HTTP/1.1 404 Not Found\r\n\r\nnothing')
    t.equal((await wire.head()).status, 404)
    t.match(await wire.until('nothing'), /nothing$/)
    t.equal(await server.gone(), 'ended')
  }, what === 'an upgrade with a body' ? ['tcp'] : ['tcp', 'h2'])
}

t.test('FW10 an upgrade whose body is refused in its middle: no connection to the upstream is left', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = (await connect()).send(request('POST /it', ...UPGRADE, 'Content-Length: 10') + 'part')
  const server = await accepted()
  await server.until('part')
  server.end(answer('413 Payload Too Large', 'no'))
  t.match(await wire.response(), { status: 413, body: 'no' })
  t.equal(await server.gone(), 'broken')
})

onEachStream(t, 'FW2 a refusal with a status that HTTP has not: 502', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = (await connect()).send(request('GET /it', ...UPGRADE))
  const server = await accepted()
  await server.head()
  server.send(answer('999 Go Away', 'no'))
  t.equal((await wire.response()).status, 502)
  t.equal(await server.remains(), '')
}, ['tcp', 'h2'])

/** An empty SETTINGS, and GOAWAY with stream 0 as the last. */
const SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])
/** The head of the frame with the first request. */
const ASKED = '\x01\x05\0\0\0\x01'
const GOAWAY = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])

for (const [what, act, status] of [
  ['speaks HTTP/1', (server: Wire) => server.send('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'), 502],
  ['says nothing', () => {}, 504],
  ['ends', (server: Wire) => server.end(), 502],
  ['resets', (server: Wire) => server.reset(), 502],
  ['resets behind its settings', async (server: Wire) => {
    server.send(SETTINGS)
    await server.until(ASKED)
    server.reset()
  }, 502],
  ['vanishes behind its settings', async (server: Wire) => {
    server.send(SETTINGS)
    await server.until(ASKED)
  }, 504],
  ['goes away before each request', async (server: Wire) => {
    server.send(SETTINGS)
    await server.until(ASKED)
    server.send(GOAWAY)
  }, 502]
] as const) {
  t.test(`FW10 an upstream of HTTP/2 that ${what}: ${status}, for a GET and an upgrade, and the next one is asked anew`, async t => {
    const far = await upstream(t)
    const to = targetOf(far, 'tcp')
    const { connect, quiet } = await forwarding(t, { to: { to, version: '2', connectTimeout: 100, responseTimeout: 200 } })
    const vanishes = what.startsWith('vanishes')
    for (const sent of [request('GET /it'), ...vanishes ? [] : [request('GET /it', ...UPGRADE)], request('GET /it')]) {
      const wire = (await connect()).send(sent)
      const server = await far.accepted()
      // An upgrade is refused when the settings know no extended CONNECT: nothing is asked then.
      const upgrade = sent.includes('Upgrade')
      if (upgrade) void Promise.resolve(act(server)).catch(() => {})
      else await act(server)
      t.equal((await wire.response()).status, status)
      wire.end()
      // The connection of one that has vanished is still there.
      if (vanishes) continue
      server.destroy()
      await server.gone()
    }
    await quiet()
  })
}

onEachStream(t, 'FW10 idleTimeout ends a forwarded upgrade and a body on both sides', async (t, transport) => {
  const { connect, accepted, quiet } = await forwarding(t, { transport, duplex: { idleTimeout: 50 } })
  for (const [sent, reply] of [
    [request('GET /it', ...UPGRADE), switching('Upgrade: foo')],
    [request('GET /it', 'Content-Length: 0'), 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart']
  ] as const) {
    const wire = (await connect()).send(sent)
    const server = await accepted()
    await server.head()
    server.send(reply)
    t.ok((await wire.head()).status < 300)
    t.equal(await server.gone(), 'broken')
    t.equal(await wire.gone(), 'broken')
  }
  await quiet()
}, ['tcp', 'h2'])

onEachStream(t, 'FW3 a rate on the route: the body goes on when the answer is over first', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport, duplex: { rate: { bytesIn: 4 * MiB, bytesOut: 4 * MiB } } })
  const wire = (await connect()).send(request('POST /it', CHUNKED)).send(chunk(pattern(2 * MiB))).send(LAST_CHUNK)
  const server = await accepted()
  await server.head()
  server.send(`HTTP/1.1 200 OK\r\nContent-Length: ${2 * MiB}\r\n\r\n`).send(pattern(2 * MiB))
  t.equal((await wire.head()).status, 200)
  t.ok((await wire.bytes(2 * MiB)).equals(pattern(2 * MiB)))
  let length = 0
  for (let piece = await nextChunk(server); piece.length > 0; piece = await nextChunk(server)) length += piece.length
  t.equal(length, 2 * MiB)
}, ['tcp'])

onEachStream(t, 'FW3 a rate on the route holds for what is forwarded, with every byte', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport, duplex: { rate: { bytesIn: 4 * MiB, bytesOut: 4 * MiB } } })
  const bytes = pattern(5 * MiB)
  const started = performance.now()
  const wire = (await connect()).send(request('POST /it', CHUNKED)).send(chunk(bytes)).send(LAST_CHUNK)
  const server = await accepted()
  await server.head()
  const up: Buffer[] = []
  for (let piece = await nextChunk(server); piece.length > 0; piece = await nextChunk(server)) up.push(piece)
  t.equal(sha256(Buffer.concat(up)), sha256(bytes))
  server.send(`HTTP/1.1 200 OK\r\nContent-Length: ${bytes.length}\r\n\r\n`).send(bytes)
  t.equal((await wire.head()).status, 200)
  t.equal(sha256(await wire.bytes(bytes.length)), sha256(bytes))
  // The first second's bytes may pass at once.
  t.ok(performance.now() - started > 200, 'it has taken its time')
}, ['tcp', 'h2'])

t.test('FW3 a second request on the connection, whose answer has to wait for the first: its upstream stands still', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = (await connect()).send(request('GET /slow') + request('GET /much'))
  const slow = await accepted()
  t.equal((await slow.head()).line, 'GET /slow HTTP/1.1')
  const much = await accepted()
  await much.head()
  much.send(`HTTP/1.1 200 OK\r\nContent-Length: ${32 * MiB}\r\n\r\n`)
  const piece = pattern(MiB)
  for (let sent = 0; sent < 32; sent++) much.send(piece)
  // What the kernels between the two take has left when nothing more leaves for a while.
  let before = -1
  for (let still = 0; still < 50; still = much.socket.writableLength === before ? still + 1 : 0) {
    before = much.socket.writableLength
    await new Promise(resolve => setTimeout(resolve, 2))
  }
  t.ok(much.socket.writableLength > 16 * MiB, `${much.socket.writableLength} bytes stay`)
  slow.send(answer('200 OK', 'slow'))
  t.equal((await wire.response()).body, 'slow')
  t.equal((await wire.head()).status, 200)
  const whole = await wire.bytes(32 * MiB)
  t.ok(whole.subarray(0, MiB).equals(piece) && whole.subarray(31 * MiB).equals(piece))
})

t.test('FW4 a drain lets a body that is being forwarded end, takes no other, and closes the connections to the upstream', async t => {
  const { connect, accepted, app } = await forwarding(t, { plugin: { drainTimeout: 5000 }, close: false })
  const idle = await connect()
  idle.send(request('GET /idle'))
  const unused = await accepted()
  await unused.head()
  const wire = await connect()
  wire.send(request('POST /it', CHUNKED)).send(chunk('one'))
  const server = await accepted()
  await server.until('one')
  unused.send(answer('200 OK', 'ok'))
  t.equal((await idle.response()).status, 200)
  const closing = app.close()
  server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n${chunk('two')}`)
  t.equal((await wire.head()).status, 200)
  t.equal(String(await nextChunk(wire)), 'two')
  wire.send(LAST_CHUNK)
  server.send(LAST_CHUNK)
  t.equal((await nextChunk(wire)).length, 0)
  await closing
  t.equal(await unused.remains(), '')
  await server.remains()
})
