import t from 'tap'
import { answer, forwarding, seeInvalid, switching } from './fixtures/forwarding.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { onEach, onEachStream } from './fixtures/server.ts'
import { fars } from './fixtures/upstream.ts'

const CONNECT = 'CONNECT it.example:443 HTTP/1.1\r\nHost: it.example:443\r\n\r\n'

onEachStream(t, 'FW1 a refused upgrade: the client has the status, fields and body of the upstream, hooks run, and the connection closes', async (t, transport) => {
  const { connect, accepted, quiet } = await forwarding(t, {
    transport,
    route: { onSend: async (_request: unknown, reply: { header: (name: string, value: string) => void }) => { reply.header('x-hook', 'ran') } }
  })
  const wire = await connect()
  wire.send(request('GET /it', ...UPGRADE))
  const server = await accepted()
  const head = await server.head()
  t.equal(head.line, 'GET /it HTTP/1.1')
  t.match(head.headers, { connection: 'Upgrade', upgrade: 'foo' })
  server.send(answer('403 Forbidden', 'not you', 'Content-Type: text/plain', 'Set-Cookie: a=1', 'Set-Cookie: b=2', 'X-Reason: none'))
  const refused = await wire.head()
  t.equal(refused.status, 403)
  t.match(refused.headers, { 'content-type': 'text/plain', 'x-reason': 'none', 'x-hook': 'ran', 'content-length': '7' })
  t.same(refused.fields.filter(([name]) => name.toLowerCase() === 'set-cookie').map(([, value]) => value), ['a=1', 'b=2'])
  t.equal((await wire.rest()).toString(), 'not you')
  wire.end()
  await quiet()
  t.equal((await server.rest()).toString(), '')
})

onEach(t, 'FW1 a refused body: the status, fields and body of the upstream, and both connections go on', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(request('GET /first'))
  const server = await accepted()
  t.equal((await server.head()).line, 'GET /first HTTP/1.1')
  server.send(answer('404 Not Found', 'nothing', 'X-Reason: none'))
  t.match(await wire.response(), { status: 404, headers: { 'x-reason': 'none', 'content-length': '7' }, body: 'nothing' })
  wire.send(request('POST /second', 'Content-Length: 2') + 'hi')
  t.equal((await server.head()).line, 'POST /second HTTP/1.1')
  t.equal(await server.until('hi'), 'hi')
  server.send(answer('200 OK', 'again'))
  t.match(await wire.response(), { status: 200, body: 'again' })
})

onEach(t, 'FW1 a refused CONNECT, with a body in chunks', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(CONNECT)
  const server = await accepted()
  const head = await server.head()
  t.equal(head.line, 'CONNECT it.example:443 HTTP/1.1')
  t.equal(head.headers.host, 'it.example:443')
  server.send('HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwho?\r\n0\r\n\r\n')
  t.match(await wire.head(), { status: 407, headers: { 'proxy-authenticate': 'Basic' } })
  t.match((await wire.rest()).toString(), 'who?')
}, ['tcp', 'tls'])

for (const far of fars) {
  onEachStream(t, `FW2 101 of a server on ${far}: its fields, cookies and protocol are the client's, and bytes go both ways`, async (t, transport) => {
    const { connect, accepted } = await forwarding(t, { transport, far })
    const wire = await connect()
    wire.send(request('GET /it?a=b', 'Connection: Upgrade', transport === 'h2' ? 'Upgrade: bar' : 'Upgrade: foo, bar'))
    const server = await accepted()
    t.equal((await server.head()).line, 'GET /it?a=b HTTP/1.1')
    server.send(switching('Upgrade: bar', 'Set-Cookie: a=1', 'Set-Cookie: b=2', 'X-Server: far') + 'early')
    const head = await wire.head()
    t.equal(head.status, transport === 'h2' ? 200 : 101)
    t.match(head.headers, { 'x-server': 'far', ...transport === 'h2' ? {} : { upgrade: 'bar', connection: 'Upgrade' } })
    t.equal(head.fields.filter(([name]) => name.toLowerCase() === 'set-cookie').length, 2)
    t.equal(await wire.until('early'), 'early')
    wire.send('up')
    t.equal(await server.until('up'), 'up')
    server.end('down')
    t.equal((await wire.rest()).toString(), 'down')
    wire.end('late')
    t.equal((await server.rest()).toString(), 'late')
  })
}

onEachStream(t, 'FW2 2xx to a CONNECT: a tunnel, into which the client has sent already', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(`${CONNECT}early`)
  const server = await accepted()
  const head = await server.head()
  t.equal(head.line, 'CONNECT it.example:443 HTTP/1.1')
  t.equal(server.pending, '')
  server.send('HTTP/1.1 200 Connection established\r\nX-Proxy: far\r\n\r\nhello')
  t.match(await wire.head(), { status: 200, headers: { 'x-proxy': 'far' } })
  t.equal(await wire.until('hello'), 'hello')
  t.equal(await server.until('early'), 'early')
  server.end()
  wire.end()
  t.equal((await wire.rest()).toString(), '')
})

for (const [what, sent] of Object.entries({
  'a token that was not offered': switching('Upgrade: baz'),
  'two tokens, one of them not offered': switching('Upgrade: foo, baz'),
  'no token': 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n',
  'no Connection': 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\n\r\n',
  'a body': switching('Upgrade: foo', 'Content-Length: 5'),
  'a second status line': 'HTTP/1.1 101 Switching Protocols\r\nHTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n',
  'a line without a colon': 'HTTP/1.1 101 Switching Protocols\r\nnonsense\r\n\r\n',
  'no HTTP': '220 mail.example ESMTP\r\n',
  'a head without end': `HTTP/1.1 200 OK\r\n${'X-Long: '.padEnd(20_000, 'x')}\r\n\r\n`,
  'a flood of 1xx': 'HTTP/1.1 103 Early Hints\r\nX-Flood: 1\r\n\r\n'.repeat(200)
})) {
  onEachStream(t, `FW2 ${what} in the upstream's answer: 502, and nothing of it reaches the client`, async (t, transport) => {
    await seeInvalid(t, { transport }, request('GET /it', ...UPGRADE), sent, /x-flood|x-long|baz/i)
  })
}

t.test('FW2 a 101 that a plain request did not ask for: 502', async t => {
  await seeInvalid(t, {}, request('GET /it'), switching('Upgrade: foo'), /upgrade/i)
})
