import t from 'tap'
import { createServer, type IncomingMessage } from 'node:http'
import { pipeline } from 'node:stream/promises'
import websocket from '@fastify/websocket'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { codeOf, exchange, request, UPGRADE } from './fixtures/requests.ts'
import { onEach, serve } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)
const tell = async ({ kind, protocol, writable }: DuplexConnection): Promise<void> => { writable.write(`${kind} ${String(protocol)};`) }

/** What a request is taken for, or the status of its refusal. */
async function ask (wire: Wire, line: string, ...fields: string[]): Promise<string> {
  const { status, headers } = await wire.send(request(line, ...fields)).head()
  if (status >= 300) return String(status)
  const said = await wire.until(';')
  return headers['transfer-encoding'] === 'chunked' ? said.replace(/^.*\r\n/, '') : said
}

onEach(t, 'Q20 an offer that the route can never accept is ignored: the request is what it is without it', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/any', { duplex: true }, tell)
    app.get('/hijack', { duplex: { kinds: ['hijack'] } }, tell)
    app.post('/body', { duplex: { kinds: ['body'] } }, tell)
    app.get('/chosen', { duplex: { protocols: offered => offered[0] ?? false } }, tell)
    app.get('/listed', { duplex: { protocols: ['h2c', 'foo'] } }, tell)
  })
  const offers = ['h2c', 'H2', 'HTTP/2.0', 'TLS/1.2, HTTP/2.0']
  for (const token of offers) {
    const fields = ['Connection: Upgrade, HTTP2-Settings', `Upgrade: ${token}`, 'HTTP2-Settings: AAMA']
    for (const url of ['/any', '/hijack', '/chosen']) t.equal(await ask(await connect(), `GET ${url}`, ...fields), 'hijack undefined;', `${url} ${token}`)
    t.equal(await ask(await connect(), 'POST /body', ...fields, 'Content-Length: 0'), 'body undefined;')
  }
  t.equal(await ask(await connect(), 'GET /hijack', 'Connection: Upgrade', 'Upgrade: anything, a b'), 'hijack undefined;')
  t.equal(await ask(await connect(), 'GET /listed', 'Connection: Upgrade', 'Upgrade: H2C'), 'upgrade h2c;')
  t.equal(await ask(await connect(), 'GET /any', 'Connection: Upgrade', 'Upgrade: h2c, foo'), 'upgrade foo;')
})

t.test('Q20 nothing is parsed behind a hijack whose Upgrade was ignored', async t => {
  const { connect } = await serve(t, {}, app => { app.get('/it', { duplex: true }, echo) })
  const wire = await connect()
  const second = request('GET /it')
  wire.send(request('GET /it', 'Connection: Upgrade', 'Upgrade: h2c') + second)
  t.equal((await wire.head()).status, 200)
  wire.end()
  t.equal((await wire.rest()).toString(), second)
})

onEach(t, 'Q22 an empty body is of either kind, where the route takes one of them alone', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    const method = ['GET', 'POST'] as ['GET', 'POST']
    app.route({ method, url: '/hijack', duplex: { kinds: ['hijack'] }, handler: tell })
    app.route({ method, url: '/body', duplex: { kinds: ['body'] }, handler: tell })
    app.route({ method, url: '/both', duplex: true, handler: tell })
    app.get('/plain', async () => 'plain')
  })
  const zero = 'Content-Length: 0'
  t.equal(await ask(await connect(), 'GET /hijack', zero), 'hijack undefined;')
  t.equal(await ask(await connect(), 'POST /hijack', zero), 'hijack undefined;')
  t.equal(await ask(await connect(), 'GET /both', zero), 'body undefined;')
  t.equal(await ask(await connect(), 'POST /both'), 'hijack undefined;')
  const wire = await connect()
  for (const line of ['GET /body', 'POST /body']) {
    t.equal(await ask(wire, line), 'body undefined;')
    await wire.until('0\r\n\r\n')
  }
  t.equal((await exchange(wire, 'GET /plain')).body, 'plain', 'the connection is kept')
  wire.send(request('POST /hijack', 'Content-Length: 5') + 'HELLO')
  t.equal((await wire.response()).status, 404, 'a body that is not empty is none for a hijack')
})

t.test('Q22 a body without a body ends at once for its reader', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: { kinds: ['body'] } }, async ({ readable, writable }) => {
      for await (const chunk of readable) writable.write(chunk)
      writable.end('ended')
    })
  })
  const wire = await connect()
  t.match(await wire.send(request('GET /it')).head(), { status: 200, headers: { 'transfer-encoding': 'chunked', connection: 'keep-alive' } })
  t.equal(await wire.until('0\r\n\r\n'), '5\r\nended\r\n0\r\n\r\n')
})

onEach(t, 'Q23 CONNECT with Content-Length: 0 declares no body', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => { app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo }) })
  const wire = await connect()
  t.equal((await wire.send(request('CONNECT h:1', 'Content-Length: 0') + 'TAIL').head()).status, 200)
  t.equal(await wire.until('TAIL'), 'TAIL')
  t.equal((await exchange(await connect(), 'CONNECT h:1', 'Content-Length: 1')).status, 400)
})

t.test('Q24 a server that wants no Host gets none for takeovers either', async t => {
  const { connect } = await serve(t, { fastify: { http: { requireHostHeader: false } } as FastifyServerOptions }, app => {
    app.get('/it', { duplex: true }, tell)
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: tell })
    app.get('/plain', async () => 'plain')
  })
  const status = async (line: string, ...fields: string[]): Promise<number> =>
    (await (await connect()).send([`${line} HTTP/1.1`, ...fields, '', ''].join('\r\n')).head()).status
  t.same(await Promise.all([status('GET /plain'), status('GET /it'), status('GET /it', ...UPGRADE), status('CONNECT h:1')]), [200, 200, 101, 200])
  t.same(await Promise.all([status('GET /it', 'Host: a', 'Host: b'), status('GET /it', ...UPGRADE, 'Host: a b')]), [400, 400])
})

t.test('Q24 maxHeaderSize and joinDuplicateHeaders hold for takeovers', async t => {
  const http = { maxHeaderSize: 1000, joinDuplicateHeaders: true }
  const { connect } = await serve(t, { fastify: { http } as FastifyServerOptions }, app => {
    app.get('/it', { duplex: true }, async ({ reply, writable }) => { writable.end(String(reply.request.headers['x-own'])) })
  })
  t.equal((await (await connect()).send(request('GET /it', ...UPGRADE, `X-Long: ${'x'.repeat(1000)}`)).head()).status, 431)
  const wire = await connect()
  t.equal((await wire.send(request('GET /it', ...UPGRADE, 'X-Own: 1', 'X-Own: 2')).head()).status, 101)
  t.equal((await wire.rest()).toString(), '1, 2')
  t.equal((await exchange(await connect(), 'GET /it', ...UPGRADE, 'Host: b')).status, 400)
})

onEach(t, 'Q25 the version that was offered is kept, in the list\'s spelling of the name', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/listed', { duplex: { protocols: ['SPDY', 'foo/1'] } }, tell)
    app.get('/chosen', { duplex: { protocols: () => 'SPDY' } }, tell)
    app.get('/manual', { duplex: { accept: 'manual' } }, async pending => { await tell(await pending.accept({ protocol: 'SPDY' })) })
  })
  for (const url of ['/listed', '/chosen', '/manual']) {
    const wire = await connect()
    t.match(await wire.send(request(`GET ${url}`, 'Connection: Upgrade', 'Upgrade: spdy/3.1')).head(), { status: 101, headers: { upgrade: 'SPDY/3.1' } }, url)
    t.equal(await wire.until(';'), 'upgrade SPDY/3.1;')
  }
  t.equal((await exchange(await connect(), 'GET /listed', 'Connection: Upgrade', 'Upgrade: foo/2')).status, 426)
})

t.test('Q27 a body parser that hands on the stream: read, it is fine for an upgrade, and else the error says what to do', async t => {
  const { connect } = await serve(t, {}, app => {
    app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
    app.post('/unread', { duplex: true }, tell)
    const preHandler = async ({ body }: { body: unknown }): Promise<void> => {
      let read = ''
      for await (const chunk of body as AsyncIterable<Buffer>) read += String(chunk)
      t.equal(read, 'BODY')
    }
    app.post('/read', { duplex: true, preHandler }, tell)
  })
  const fields = [...UPGRADE, 'Content-Type: a/b', 'Content-Length: 4']
  const wire = await connect()
  const { status, body } = await wire.send(request('POST /unread', ...fields) + 'BODY').response()
  t.equal(status, 400)
  t.match(JSON.parse(body), { code: 'FST_ERR_DUPLEX_BODY_NOT_PARSED', message: /POST.* has to read it to its end, or a preHandler hook has to$/ })
  const read = await connect()
  t.equal((await read.send(request('POST /read', ...fields) + 'BODY').head()).status, 101)
  t.equal(await read.until(';'), 'upgrade foo;')
})

onEach(t, 'Q28 nothing of a hijack is for a body parser', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.post('/it', { duplex: true }, async ({ reply, readable, writable }) => {
      writable.write(String(reply.request.headers['content-type']))
      await pipeline(readable, writable)
    })
  })
  for (const type of ['application/json', 'text/plain', 'application/vnd.docker.raw-stream']) {
    const wire = await connect()
    wire.send(request('POST /it', `Content-Type: ${type}`) + '{')
    t.equal((await wire.head()).status, 200, type)
    t.equal(await wire.until('{'), `${type}{`)
  }
})

for (const order of ['before', 'after']) {
  t.test(`Q15 with @fastify/websocket registered ${order} the plugin, a token that a duplex route does not speak is 426`, async t => {
    const { connect } = await serve(t, order === 'before' ? { before: app => app.register(websocket) } : {}, async app => {
      if (order === 'after') await app.register(websocket)
      app.get('/it', { duplex: { protocols: ['foo'] } }, tell)
      app.get('/any', { duplex: true }, tell)
      app.get('/plain', async () => 'plain')
    })
    const wire = await connect()
    const answer = await exchange(wire, 'GET /it', 'Connection: Upgrade', 'Upgrade: bar')
    t.match(answer, { status: 426, headers: { upgrade: 'foo', connection: 'Upgrade, close' } })
    t.equal((await wire.rest()).length, 0)
    const reserved = await exchange(await connect(), 'GET /any', 'Connection: Upgrade', 'Upgrade: websocket')
    t.equal(codeOf(reserved.body), 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL')
    t.equal(await ask(await connect(), 'GET /it', ...UPGRADE), 'upgrade foo;')
  })
}

t.test('Q54 a head with as many fields as there may be has lost none', async t => {
  const { app, connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true }, tell)
    app.get('/plain', async () => 'plain')
  })
  const full = (line: string): string => request(line, ...Array.from({ length: 997 }, (_, n) => `X${n}: 1`), ...UPGRADE)
  t.equal((await (await connect()).send(full('GET /plain')).response()).body, 'plain')
  t.equal((await (await connect()).send(full('GET /it')).head()).status, 101)
  app.server.on('upgrade', (_req, socket) => socket.end('theirs'))
  t.equal((await (await connect()).send(full('GET /plain')).rest()).toString(), 'theirs')
})

const own = { skip: 'shouldUpgradeCallback' in createServer() ? false : 'this Node asks nobody' }

t.test('Q55 an app\'s own shouldUpgradeCallback decides what becomes of an Upgrade that no duplex route takes', own, async t => {
  const asked: unknown[] = []
  const shouldUpgradeCallback = ({ url, headers }: IncomingMessage): boolean => {
    asked.push(`${url} ${headers.upgrade}`)
    return url === '/theirs'
  }
  const { app, connect } = await serve(t, { fastify: { http: { shouldUpgradeCallback } } as FastifyServerOptions }, app => {
    app.get('/it', { duplex: true }, tell)
    app.get('/plain', async () => 'plain')
  })
  app.server.on('upgrade', (_req, socket) => socket.end('theirs'))
  for (const token of ['foo', 'h2c']) {
    const fields = ['Connection: Upgrade', `Upgrade: ${token}`]
    t.equal((await (await connect()).send(request('GET /theirs', ...fields)).rest()).toString(), 'theirs', token)
    t.equal((await exchange(await connect(), 'GET /plain', ...fields)).body, 'plain', token)
  }
  t.equal(await ask(await connect(), 'GET /it', ...UPGRADE), 'upgrade foo;')
  t.same(asked, ['/theirs foo', '/plain foo', '/theirs h2c', '/plain h2c'])
})

onEach(t, 'Q70 Proxy-Connection: Upgrade is not Connection: Upgrade', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true }, tell)
    app.get('/plain', async () => 'plain')
  })
  t.equal(await ask(await connect(), 'GET /it', 'Proxy-Connection: Upgrade', 'Upgrade: foo'), 'hijack undefined;')
  t.equal(await ask(await connect(), 'GET /it', 'Proxy-Connection: Upgrade', ...UPGRADE), 'upgrade foo;')
  const wire = await connect()
  for (let n = 0; n < 2; n++) t.equal((await exchange(wire, 'GET /plain', 'Proxy-Connection: Upgrade', 'Upgrade: foo')).body, 'plain')
})

onEach(t, 'Q72 with ignoredUpgrades: \'close\' nothing behind an ignored Upgrade is a request, and the answer is whole', async (t, transport) => {
  const ran: string[] = []
  const { connect } = await serve(t, { transport, plugin: { ignoredUpgrades: 'close' } }, app => {
    app.addHook('onRequest', async ({ url }) => { ran.push(url) })
    app.get('/it', { duplex: true }, tell)
    app.route({
      method: ['GET', 'POST'],
      url: '/slow',
      handler: async ({ body }) => {
        for (let turns = 20; turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
        return `slow ${String(body ?? '')}`
      }
    })
    app.get('/admin', async () => 'admin')
  })
  for (const [head, said] of [
    [request('GET /slow', ...UPGRADE), 'slow '],
    [request('POST /slow', ...UPGRADE, 'Content-Type: text/plain', 'Content-Length: 4') + 'BODY', 'slow BODY'],
    [request('GET /slow', 'Connection: keep-alive, Upgrade', 'Upgrade: h2c'), 'slow ']
  ] as const) {
    const wire = await connect()
    wire.send(head + request('GET /admin')).send(request('GET /admin'))
    t.match(await wire.response(), { status: 200, body: said, headers: { connection: 'close' } })
    t.equal(await wire.remains(), '')
  }
  t.same(ran, ['/slow', '/slow', '/slow'])
  const plain = await connect()
  for (let n = 0; n < 2; n++) t.equal((await exchange(plain, 'GET /admin')).body, 'admin', 'no other connection is closed')
  t.equal(await ask(await connect(), 'GET /it', ...UPGRADE), 'upgrade foo;')
})

t.test('Q73 a long list of tokens is dealt with in the time of a short one, however many protocols and routes there are', async t => {
  const protocols = Array.from({ length: 30 }, (_, n) => `protocol-${n}`)
  const { connect } = await serve(t, {}, app => {
    for (let n = 0; n < 20; n++) app.get('/it', { duplex: { protocols }, constraints: { host: `h${n}` } }, tell)
    app.get('/it', { duplex: { protocols } }, tell)
  })
  const list = Array.from({ length: 3000 }, (_, n) => `x${n}`).join(',').slice(0, 15_000)
  const wire = await connect()
  const { status, body } = await exchange(wire, 'GET /it', 'Connection: Upgrade', `Upgrade: ${list}`)
  t.equal(status, 426)
  t.ok(body.length < 2000, 'and the answer does not repeat it all')
  t.equal((await exchange(await connect(), 'GET /it', 'Connection: Upgrade', `Upgrade: ${'x,'.repeat(32)}protocol-1`)).status, 426)
})

// duplex: { headers }

function withHeaders (app: FastifyInstance): void {
  const headers = { 'X-Route': 'object', 'X-Hook': 'route', 'X-List': ['1', '2'] }
  const onRequest = async (_request: unknown, reply: { header: (name: string, value: string) => unknown }): Promise<void> => { reply.header('x-hook', 'hook') }
  app.route({ method: ['GET', 'POST'], url: '/object', onRequest, duplex: { headers }, handler: tell })
  app.route({ method: 'CONNECT', url: '*', duplex: { headers }, handler: tell })
  app.get('/function', { duplex: { headers: ({ url }) => ({ 'X-Route': url, 'X-None': undefined }) } }, tell)
  app.get('/manual', { duplex: { headers, accept: 'manual' } }, async (pending: PendingDuplex) => {
    await tell(await pending.accept({ headers: { 'X-List': '3' } }) as DuplexConnection)
  })
  app.get('/throws', { duplex: { headers: () => { throw Object.assign(new Error('no'), { statusCode: 403 }) } } }, tell)
  app.get('/wrong', { duplex: { headers: () => ({ 'X-Route': 'a\r\nb: c' }) } }, tell)
}

onEach(t, 'headers of a route are on its accept head, whatever the kind, but for those that were set for the request', async (t, transport) => {
  const { connect } = await serve(t, { transport }, withHeaders)
  const head = async (line: string, ...fields: string[]): ReturnType<Wire['head']> => await (await connect()).send(request(line, ...fields)).head()
  for (const [line, ...fields] of [['GET /object', ...UPGRADE], ['GET /object'], ['POST /object', 'Content-Length: 0']] as [string, ...string[]][]) {
    t.match((await head(line, ...fields)).headers, { 'x-route': 'object', 'x-hook': 'hook', 'x-list': '1, 2' }, line)
  }
  t.match((await head('CONNECT h:1')).headers, { 'x-route': 'object', 'x-hook': 'route' })
  const { headers } = await head('GET /function?a')
  t.match(headers, { 'x-route': '/function?a' })
  t.notOk('x-none' in headers)
  t.match((await head('GET /manual', ...UPGRADE)).headers, { 'x-route': 'object', 'x-list': '3' })
  t.equal((await head('GET /throws', ...UPGRADE)).status, 403)
  const wrong = await exchange(await connect(), 'GET /wrong', ...UPGRADE)
  t.equal(codeOf(wrong.body), 'FST_ERR_DUPLEX_INVALID_HEADER')
  t.notOk('x-route' in wrong.headers)
})
