import t, { type Test } from 'tap'
import { once } from 'node:events'
import http from 'node:http'
import type { Socket } from 'node:net'

import { createGunzip, gzipSync } from 'node:zlib'
import { pipeline } from 'node:stream/promises'
import compress from '@fastify/compress'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyRequest, type RouteOptions } from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
import duplex, { type DuplexConnection, type FastifyDuplexOptions } from '../lib/index.ts'
import { codeOf, exchange, request, UPGRADE } from './fixtures/requests.ts'
import { onEach, serve, ways } from './fixtures/server.ts'
import { listenTwice } from './fixtures/two-addresses.ts'
import type { Wire } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** Answers with one line, and ends. */
const say = (text: (connection: DuplexConnection, request: FastifyRequest) => string) =>
  async (connection: DuplexConnection, request: FastifyRequest): Promise<void> => {
    connection.writable.write(text(connection, request) + '\n')
  }

/** Whether this head is taken over, and what the handler says. */
async function taken (wire: Wire, line: string, ...fields: string[]): Promise<string> {
  const head = await wire.send(request(line, ...fields)).head()
  return head.status === 101 || (head.status === 200 && head.headers['content-length'] === undefined)
    ? (await wire.until('\n')).trimEnd()
    : String(head.status)
}

// One URL, two routes.

for (const order of ['duplex first', 'plain first']) {
  const declare = (app: FastifyInstance): void => {
    const both = [
      () => app.get('/room', {
        duplex: true,
        schema: { querystring: { type: 'object', required: ['seat'], properties: { seat: { type: 'integer' } } } },
        onRequest: async (_request, reply) => { reply.header('x-hook', 'duplex') }
      }, say((_connection, { query }) => `seat ${(query as { seat: number }).seat + 1}`)),
      () => app.get('/room', {
        onRequest: async (_request, reply) => { reply.header('x-hook', 'plain') }
      }, async () => 'the plain one')
    ]
    for (const one of order === 'duplex first' ? both : both.reverse()) one()
  }

  onEach(t, `R3 a plain and a duplex route share a URL, each with its own hooks and schema, ${order}`, async (t, transport) => {
    const { connect } = await serve(t, { transport }, declare)
    const wire = await connect()
    const plain = await exchange(wire, 'GET /room')
    t.match(plain, { status: 200, body: 'the plain one', headers: { 'x-hook': 'plain', connection: 'keep-alive' } })
    const head = await wire.send(request('GET /room?seat=4', ...UPGRADE)).head()
    t.match(head, { status: 101, headers: { 'x-hook': 'duplex' } })
    t.equal(await wire.until('\n'), 'seat 5\n', 'the schema of the duplex route has made it a number')
  }, ways)

  t.test(`R3 the schema of the duplex route refuses its own requests alone, ${order}`, async t => {
    const { connect } = await serve(t, {}, declare)
    const wire = await connect()
    t.equal((await exchange(wire, 'GET /room')).status, 200)
    const refused = await exchange(wire, 'GET /room', ...UPGRADE)
    t.match(refused, { status: 400, headers: { 'x-hook': 'duplex', connection: 'close' } })
    t.equal(codeOf(refused.body), 'FST_ERR_VALIDATION')
  })

  t.test(`R3 HEAD at a shared URL belongs to the plain route, ${order}`, async t => {
    const { connect } = await serve(t, {}, declare)
    const wire = await connect()
    const head = await wire.send(request('HEAD /room')).head()
    t.match(head, { status: 200, headers: { 'x-hook': 'plain', 'content-length': '13' } })
    t.equal((await exchange(wire, 'GET /room')).body, 'the plain one', 'and the connection goes on')
  })

  t.test(`R3 an Upgrade that the duplex route cannot take is ignored for the plain route, ${order}`, async t => {
    const { connect } = await serve(t, {}, declare)
    const wire = await connect()
    for (const token of ['websocket', 'h2c', 'bad token']) {
      const answer = await exchange(wire, 'GET /room?seat=1', 'Connection: Upgrade', `Upgrade: ${token}`)
      t.match(answer, { status: 200, body: 'the plain one', headers: { connection: 'keep-alive' } }, token)
    }
  })
}

t.test('R3 a body at a shared URL is the plain route\'s, and is not taken over', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true }, say(() => 'duplex'))
    app.post('/it', async ({ body }) => body)
  })
  const wire = await connect()
  wire.send(request('POST /it', 'Content-Type: text/plain', 'Content-Length: 5') + 'HELLO')
  t.match(await wire.response(), { status: 200, body: 'HELLO' })
  t.equal(await taken(wire, 'POST /it', ...UPGRADE), 'duplex')
})

t.test('R3 routes share a URL also where their parameters have different names', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/rooms/:room', { duplex: true }, say((_connection, { params }) => JSON.stringify(params)))
    app.get('/rooms/:id', async ({ params }) => params)
  })
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /rooms/7')).body, '{"id":"7"}')
  t.equal(await taken(wire, 'GET /rooms/8', ...UPGRADE), '{"room":"8"}')
})

t.test('R3 CONNECT is on its own beside a plain route for every method', async t => {
  const { connect } = await serve(t, {}, app => {
    app.all('*', async () => 'plain')
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: say(({ authority }) => `to ${authority?.host}`) })
  })
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /h:1')).body, 'plain')
  t.equal(await taken(wire, 'CONNECT h:1'), 'to h')
})

// Other owners of 'upgrade'.

for (const order of ['before', 'after'] as const) {
  onEach(t, `R4 a bare 'upgrade' listener, added ${order} the plugin, gets what no duplex route takes, and nothing else`, async (t, transport) => {
    const seen: string[] = []
    const own = (app: FastifyInstance): void => {
      app.server.on('upgrade', (req, socket, head) => {
        seen.push(`${req.url} ${head.toString()}`)
        socket.end('HTTP/1.1 101 Mine\r\nConnection: Upgrade\r\nUpgrade: mine\r\n\r\nmine')
      })
    }
    const { app, connect } = await serve(t, { transport, ...(order === 'before' ? { before: own } : {}) }, app => {
      app.get('/echo', { duplex: true }, echo)
      app.get('/other', { duplex: { kinds: ['upgrade'], protocols: ['bar'] } }, echo)
      app.get('/plain', async () => 'plain')
    })
    if (order === 'after') own(app)
    for (const url of ['/unknown', '/plain', '/other']) {
      const theirs = await connect()
      theirs.send(request(`GET ${url}`, ...UPGRADE) + 'TAIL')
      t.equal((await theirs.head()).line, 'HTTP/1.1 101 Mine')
      t.equal((await theirs.rest()).toString(), 'mine')
    }
    const ours = await connect()
    ours.send(request('GET /echo', ...UPGRADE) + 'TAIL')
    t.match(await ours.head(), { status: 101, headers: { upgrade: 'foo' } })
    t.equal(await ours.until('TAIL'), 'TAIL')
    t.same(seen, ['/unknown TAIL', '/plain TAIL', '/other TAIL'])
  }, ways)

  t.test(`R4 h2c and its like stay ordinary requests beside an 'upgrade' listener added ${order} the plugin`, async t => {
    const seen: string[] = []
    const own = (app: FastifyInstance): void => { app.server.on('upgrade', req => seen.push(req.headers.upgrade as string)) }
    const { app, connect } = await serve(t, order === 'before' ? { before: own } : {}, app => {
      app.get('/plain', async () => 'plain')
    })
    if (order === 'after') own(app)
    const wire = await connect()
    for (const token of ['h2c', 'H2', 'HTTP/2.0', 'TLS/1.2, HTTP/2.0']) {
      const answer = await exchange(wire, 'GET /plain', 'Connection: Upgrade, HTTP2-Settings', `Upgrade: ${token}`, 'HTTP2-Settings: AAMAAABk')
      t.match(answer, { status: 200, body: 'plain' }, token)
    }
    t.same(seen, [])
  })

  t.test(`R4 a bare ws server, made ${order} the plugin, and duplex routes serve side by side`, async t => {
    const own = (app: FastifyInstance): void => {
      const wss = new WebSocketServer({ server: app.server, path: '/ws' })
      wss.on('connection', ws => ws.on('message', data => ws.send(`ws ${data.toString()}`)))
      t.teardown(() => { for (const client of wss.clients) client.terminate() })
    }
    const { app, connect, port } = await serve(t, order === 'before' ? { before: own } : {}, app => {
      app.get('/echo', { duplex: true }, echo)
    })
    if (order === 'after') own(app)
    const ws = new WebSocket(`ws://127.0.0.1:${port}/ws`)
    await once(ws, 'open')
    ws.send('hello')
    const [data] = await once(ws, 'message') as [Buffer]
    t.equal(data.toString(), 'ws hello')
    const wire = await connect()
    wire.send(request('GET /echo', ...UPGRADE) + 'TAIL')
    t.equal((await wire.head()).status, 101)
    t.equal(await wire.until('TAIL'), 'TAIL')
    ws.terminate()
  })

  t.test(`R4 @fastify/websocket, registered ${order} the plugin, and duplex routes serve theirs on one server`, async t => {
    const given: unknown[] = []
    const { connect, port } = await serve(t, order === 'before' ? { before: app => app.register(websocket) } : {}, async app => {
      if (order === 'after') await app.register(websocket)
      app.get('/ws', { websocket: true }, socket => { socket.on('message', data => socket.send(`ws ${data.toString()}`)) })
      app.get('/duplex/:name', { duplex: true }, async function (connection, request) {
        given.push(this === app, connection.kind, request.params)
        await echo(connection)
      })
    })
    const ws = new WebSocket(`ws://127.0.0.1:${port}/ws`)
    await once(ws, 'open')
    ws.send('hello')
    t.equal((await once(ws, 'message') as [Buffer])[0].toString(), 'ws hello')
    const wire = await connect()
    wire.send(request('GET /duplex/x', ...UPGRADE) + 'TAIL')
    t.equal((await wire.head()).status, 101)
    t.equal(await wire.until('TAIL'), 'TAIL')
    t.same(given, [true, 'upgrade', { name: 'x' }])
    ws.terminate()
  })
}

t.test('R4 a ws server without a server of its own takes the socket of a duplex route, with an early frame', async t => {
  const wss = new WebSocketServer({ noServer: true })
  wss.on('connection', ws => ws.on('message', data => ws.send(`ws ${data.toString()}`)))
  const { connect, port } = await serve(t, {}, app => {
    app.get('/ws', { duplex: { protocols: ['websocket'], accept: 'manual' } }, (pending, { raw }) => {
      const { socket, head } = pending.detach()
      wss.handleUpgrade(raw as http.IncomingMessage, socket, head, ws => wss.emit('connection', ws))
    })
  })
  const ws = new WebSocket(`ws://127.0.0.1:${port}/ws`)
  await once(ws, 'open')
  ws.send('hello')
  t.equal((await once(ws, 'message') as [Buffer])[0].toString(), 'ws hello')
  ws.terminate()
  const wire = await connect()
  const handshake = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==']
  wire.send(Buffer.concat([Buffer.from(request('GET /ws', ...handshake)), Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69])]))
  t.match(await wire.head(), { status: 101, headers: { 'sec-websocket-accept': 'ICX+Yqv66kxgM0FcWaLWlFLwTAI=' } })
  t.same(await wire.bytes(7), Buffer.from([0x81, 5, ...Buffer.from('ws hi')]))
})

t.test('R4 a listener for \'connect\' of somebody else gets the CONNECT that no duplex route takes', async t => {
  const { app, connect } = await serve(t, {}, app => {
    app.route({ method: 'CONNECT', url: '/:host/443', duplex: true, handler: say(() => 'ours') })
  })
  app.server.on('connect', (req, socket, head) => {
    socket.end(`HTTP/1.1 200 OK\r\n\r\ntheirs ${req.url} ${head.toString()}`)
  })
  const theirs = await connect()
  theirs.send(request('CONNECT h:80') + 'TAIL')
  await theirs.head()
  t.equal((await theirs.rest()).toString(), 'theirs h:80 TAIL')
  t.equal(await taken(await connect(), 'CONNECT h:443'), 'ours')
})

// A kind that the route does not take.

onEach(t, 'R9 a plain request at a route for listed upgrades only is 426, with the list', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo', 'Bar/2'] } }, echo)
  })
  const wire = await connect()
  const answer = await exchange(wire, 'GET /it')
  t.match(answer, { status: 426, headers: { upgrade: 'foo, Bar/2', connection: 'Upgrade' } })
  t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_UPGRADE_REQUIRED')
  t.equal((await exchange(wire, 'GET /it')).status, 426, 'the connection of a plain request goes on')
})

onEach(t, 'R9 a client that asked for the connection to be closed after its 426 gets that', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
  })
  const closing = await connect()
  t.match(await exchange(closing, 'GET /it', 'Connection: close'), { status: 426, headers: { upgrade: 'foo' } })
  t.equal((await closing.rest()).length, 0)
  const old = await connect()
  t.match(await old.send('GET /it HTTP/1.0\r\n\r\n').response(), { status: 426, headers: { upgrade: 'foo' } })
  t.equal((await old.rest()).length, 0)
})

onEach(t, 'R9 a body at a route for listed upgrades only is 426 as well', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.post('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
  })
  const wire = await connect()
  wire.send(request('POST /it', 'Content-Type: text/plain', 'Content-Length: 5') + 'HELLO')
  t.match(await wire.response(), { status: 426, headers: { upgrade: 'foo' } })
})

onEach(t, 'R9 a kind that the route does not take is the app\'s 404, where no protocols are listed', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.setNotFoundHandler(async (_request, reply) => reply.code(404).send('not here'))
    app.get('/upgrade', { duplex: { kinds: ['upgrade'] } }, echo)
    app.post('/hijack', { duplex: { kinds: ['hijack'] } }, echo)
  })
  const wire = await connect()
  t.match(await exchange(wire, 'GET /upgrade'), { status: 404, body: 'not here' })
  wire.send(request('POST /hijack', 'Content-Type: text/plain', 'Content-Length: 5') + 'HELLO')
  t.match(await wire.response(), { status: 404, body: 'not here' })
})

onEach(t, 'R9 kinds of the plugin are the default of its routes', async (t, transport) => {
  const { connect } = await serve(t, { transport, plugin: { kinds: ['upgrade'] } }, app => {
    app.get('/default', { duplex: true }, say(({ kind }) => kind))
    app.get('/own', { duplex: { kinds: ['hijack'] } }, say(({ kind }) => kind))
  })
  t.equal(await taken(await connect(), 'GET /default'), '404')
  t.equal(await taken(await connect(), 'GET /default', ...UPGRADE), 'upgrade')
  t.equal(await taken(await connect(), 'GET /own'), 'hijack')
})

onEach(t, 'R9 Q21 an Upgrade that is not acceptable is 426 with the list, or 400 where there is none, and never a hijack', async (t, transport) => {
  let entered = 0
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true }, async () => { entered++ })
    app.get('/listed', { duplex: { protocols: ['foo', 'Bar/2'] } }, async () => { entered++ })
    app.get('/chosen', { duplex: { protocols: () => false as const } }, async () => { entered++ })
  })
  const refused = async (url: string, token: string): ReturnType<Wire['response']> => {
    const wire = await connect()
    const answer = await exchange(wire, `GET ${url}`, 'Connection: Upgrade', `Upgrade: ${token}`)
    t.equal((await wire.rest()).length, 0)
    return answer
  }
  const any = 'This route speaks any protocol but websocket, h2c, h2, HTTP/* and TLS/*, and the request offers '
  for (const token of ['websocket', 'WebSocket, h2']) {
    const answer = await refused('/it', token)
    t.match(answer, { status: 400, headers: { connection: 'close' } }, token)
    t.match(JSON.parse(answer.body), { code: 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL', message: any + token })
  }
  const listed = await refused('/listed', 'baz, qux')
  t.match(listed, { status: 426, headers: { connection: 'Upgrade, close', upgrade: 'foo, Bar/2' } })
  t.match(JSON.parse(listed.body), {
    code: 'FST_ERR_DUPLEX_UPGRADE_REQUIRED', message: 'Upgrade Required: this route speaks foo, Bar/2, and the request offers baz, qux'
  })
  const chosen = await refused('/chosen', 'foo')
  t.match(chosen, { status: 400, headers: { connection: 'close' } })
  t.match(JSON.parse(chosen.body), { code: 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL', message: /^This route speaks the protocol that it chooses, .* foo$/ })
  t.equal(entered, 0)
})

t.test('U5 a malformed member of Upgrade is 400 where no other is acceptable', async t => {
  const { connect } = await serve(t, {}, app => { app.get('/it', { duplex: true }, say(({ protocol }) => protocol as string)) })
  for (const token of ['a b', 'a/', '/2', 'a/b/c', '"q"']) {
    const wire = await connect()
    const answer = await exchange(wire, 'GET /it', 'Connection: Upgrade', `Upgrade: ${token}`)
    t.match(answer, { status: 400, headers: { connection: 'close' } }, token)
    t.equal((await wire.rest()).length, 0)
  }
  t.equal(await taken(await connect(), 'GET /it', 'Connection: Upgrade', 'Upgrade: , a b,, c'), 'c')
})

t.test('U8 an Upgrade in HTTP/1.0 is ignored: the plain route answers, a duplex route takes no upgrade', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/plain', async () => 'plain')
    app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
    app.post('/message', { duplex: true }, echo)
  })
  const old = async (text: string): Promise<Wire> => (await connect()).send(text.replaceAll('\n', '\r\n'))
  t.match(await (await old('GET /plain HTTP/1.0\nConnection: Upgrade\nUpgrade: foo\n\n')).response(), { status: 200, body: 'plain' })
  t.equal((await (await old('GET /it HTTP/1.0\nConnection: Upgrade\nUpgrade: foo\n\n')).response()).status, 426)
  const wire = await old('POST /message HTTP/1.0\nConnection: Upgrade\nUpgrade: foo\nContent-Length: 5\n\nHELLO')
  t.equal((await wire.head()).status, 200)
  t.equal((await wire.rest()).toString(), 'HELLO')
})

// Pipelining.

onEach(t, 'R13 responses to earlier requests come in order, then the accept head, then the stream', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/slow/:n', async ({ params }) => {
      for (let turns = 20; turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
      return `slow ${(params as { n: string }).n}`
    })
    app.get('/echo', { duplex: true }, echo)
  })
  const wire = await connect()
  wire.send(request('GET /slow/1') + request('GET /slow/2') + request('GET /echo', ...UPGRADE) + 'TAIL')
  t.match(await wire.response(), { status: 200, body: 'slow 1' })
  t.match(await wire.response(), { status: 200, body: 'slow 2' })
  t.equal((await wire.head()).status, 101)
  wire.end(' AND MORE')
  t.equal((await wire.rest()).toString(), 'TAIL AND MORE')
}, ways)

for (const [kind, text] of [
  ['connect', request('CONNECT h:1')],
  ['hijack', request('GET /echo')],
  ['upgrade with a body', request('POST /echo', ...UPGRADE, 'Content-Type: text/plain', 'Content-Length: 4') + 'BODY']
] as const) {
  t.test(`R13 a ${kind} behind an unfinished response waits for it`, async t => {
    let finish: () => void = () => {}
    const { connect } = await serve(t, {}, app => {
      app.get('/slow', (_request, reply) => { finish = () => reply.send('slow') })
      app.route({ method: ['GET', 'POST'], url: '/echo', duplex: true, preHandler: async () => finish(), handler: echo })
      app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
      app.addHook('onRequest', async ({ url }) => { if (url === '/slow') setImmediate(() => setImmediate(() => finish())) })
    })
    const wire = await connect()
    wire.send(request('GET /slow') + text + 'TAIL')
    t.match(await wire.response(), { status: 200, body: 'slow' })
    t.match((await wire.head()).status, kind === 'upgrade with a body' ? 101 : 200)
    wire.end()
    t.equal((await wire.rest()).toString(), 'TAIL')
  })
}

t.test('R13 two takeovers in one packet: the second is the data of the first', async t => {
  const { connect } = await serve(t, {}, app => { app.get('/echo', { duplex: true }, echo) })
  const wire = await connect()
  const second = request('GET /echo', ...UPGRADE)
  wire.send(request('GET /echo', ...UPGRADE) + second)
  t.equal((await wire.head()).status, 101)
  wire.end()
  t.equal((await wire.rest()).toString(), second)
})

// Whatever the app's router does, duplex routes do.

onEach(t, 'R15 prefixes, encapsulated plugins and their hooks apply', async (t, transport) => {
  const { connect } = await serve(t, { transport }, async app => {
    app.get('/outside', { duplex: true }, say((_connection, { headers }) => `x-inner ${headers['x-inner'] ?? 'none'}`))
    await app.register(async inner => {
      inner.decorateRequest('seat', 7)
      inner.addHook('onRequest', async request => { request.headers['x-inner'] = 'yes' })
      inner.get('/', { duplex: true }, say((_connection, { headers }) => `root ${headers['x-inner']}`))
      inner.get('/it', { duplex: true }, say((_connection, request) => `seat ${(request as unknown as { seat: number }).seat}`))
    }, { prefix: '/inner' })
  })
  t.equal(await taken(await connect(), 'GET /inner/it', ...UPGRADE), 'seat 7')
  t.equal(await taken(await connect(), 'GET /inner', ...UPGRADE), 'root yes')
  t.equal(await taken(await connect(), 'GET /inner/', ...UPGRADE), 'root yes')
  t.equal(await taken(await connect(), 'GET /outside', ...UPGRADE), 'x-inner none')
  t.equal(await taken(await connect(), 'GET /inner/nothing', ...UPGRADE), '404')
})

onEach(t, 'R15 parameters, wildcards, regular expressions, queries and absolute URLs are routed', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    const params = say((_connection, { params, query }) => `${JSON.stringify(params)} ${JSON.stringify(query)}`)
    app.get('/rooms/:room/seats/:seat', { duplex: true }, params)
    app.get('/files/*', { duplex: true }, params)
    app.get('/numbers/:n(^\\d+$)', { duplex: true }, params)
    app.get('/optional/:last?', { duplex: true }, params)
  })
  const expected: [string, string][] = [
    ['/rooms/a%20b/seats/%C3%A9?x=1', '{"room":"a b","seat":"é"} {"x":"1"}'],
    ['/files/a/b/c?q', '{"*":"a/b/c"} {"q":""}'],
    ['/numbers/42', '{"n":"42"} {}'],
    ['/numbers/forty-two', '404'],
    ['/optional', '{} {}'],
    ['/optional/x', '{"last":"x"} {}'],
    ['http://elsewhere.example/numbers/7', '{"n":"7"} {}'],
    ['/%66iles/x', '{"*":"x"} {}']
  ]
  for (const [url, said] of expected) {
    const wire = await connect()
    t.equal(Buffer.from(await taken(wire, `GET ${url}`, ...UPGRADE), 'latin1').toString(), said, url)
  }
})

onEach(t, 'R15 a more specific plain route is chosen before a duplex wildcard, and the reverse', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/a/*', { duplex: true }, say(() => 'wildcard'))
    app.get('/a/plain', async () => 'plain')
    app.get('/b/*', async () => 'plain')
    app.get('/b/duplex', { duplex: true }, say(() => 'duplex'))
  })
  t.equal((await exchange(await connect(), 'GET /a/plain')).body, 'plain')
  t.equal((await exchange(await connect(), 'GET /b/other')).body, 'plain')
  t.equal(await taken(await connect(), 'GET /a/other', ...UPGRADE), 'wildcard')
  t.equal(await taken(await connect(), 'GET /b/duplex'), 'duplex')
})

onEach(t, 'R15 ignoreTrailingSlash, ignoreDuplicateSlashes and caseSensitive: false apply', async (t, transport) => {
  const fastify = { routerOptions: { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true, caseSensitive: false } }
  const { connect } = await serve(t, { transport, fastify }, app => { app.get('/Deep/it', { duplex: true }, say(() => 'taken')) })
  for (const url of ['/Deep/it', '/deep/IT/', '/deep//it', '//DEEP/it']) {
    t.equal(await taken(await connect(), `GET ${url}`, ...UPGRADE), 'taken', url)
    t.equal(await taken(await connect(), `GET ${url}`), 'taken', `${url} without an Upgrade`)
  }
})

onEach(t, 'R15 without these options the URL has to be the same', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => { app.get('/Deep/it', { duplex: true }, say(() => 'taken')) })
  for (const url of ['/deep/it', '/Deep/it/', '/Deep//it', '/Deep/ite']) {
    t.equal(await taken(await connect(), `GET ${url}`, ...UPGRADE), '404', url)
  }
})

for (const specific of ['first', 'last']) {
  onEach(t, `R15 host constraints choose among duplex routes and plain ones, the specific one ${specific}`, async (t, transport) => {
    const { connect } = await serve(t, { transport }, app => {
      const declare = [
        () => app.get('/it', { duplex: true }, say(() => 'any host')),
        () => app.get('/it', { duplex: true, constraints: { host: 'b.example' } }, say(() => 'b')),
        () => app.get('/it', { duplex: true, constraints: { host: /^c\d\.example$/g } }, say(() => 'c')),
        () => app.get('/it', { duplex: true, constraints: { host: 'c2.example' } }, say(() => 'c2')),
        () => app.get('/only', { duplex: true, constraints: { host: 'b.example' } }, say(() => 'only b')),
        () => app.get('/only', { constraints: { host: 'd.example' } }, async () => 'plain d')
      ]
      for (const one of specific === 'last' ? declare : declare.reverse()) one()
    })
    const at = async (host: string, url: string): Promise<string> => {
      const wire = await connect()
      const head = await wire.send(`GET ${url} HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n`).head()
      return head.status === 101 ? (await wire.until('\n')).trimEnd() : String(head.status)
    }
    t.equal(await at('a.example', '/it'), 'any host')
    t.equal(await at('b.example', '/it'), 'b')
    t.equal(await at('c1.example', '/it'), 'c')
    t.equal(await at('c1.example', '/it'), 'c', 'and again')
    t.equal(await at('c2.example', '/it'), 'c2', 'an exact host goes before a regular expression')
    t.equal(await at('b.example', '/only'), 'only b')
    t.equal(await at('a.example', '/only'), '404')
    t.equal(await at('d.example', '/only'), '200', 'the Upgrade is ignored at the plain route')
  })
}

onEach(t, 'R15 version constraints choose among duplex routes', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    for (const version of ['1.2.0', '2.0.0']) app.get('/it', { duplex: true, constraints: { version } }, say(() => version))
    app.get('/it', async () => 'unversioned')
  })
  const at = async (...fields: string[]): Promise<string> => await taken(await connect(), 'GET /it', ...UPGRADE, ...fields)
  t.equal(await at('Accept-Version: 1.x'), '1.2.0')
  t.equal(await at('Accept-Version: 1.2.x'), '1.2.0')
  t.equal(await at('Accept-Version: 2.0.0'), '2.0.0')
  t.equal(await at('Accept-Version: 3.x'), '200', 'no duplex route has it, and the plain one does not ask')
  t.equal((await exchange(await connect(), 'GET /it', ...UPGRADE)).body, 'unversioned')
})

const tenant = {
  name: 'tenant',
  storage () {
    const handlers = new Map<unknown, never>()
    return {
      get: (key: unknown) => handlers.get(key) ?? null,
      set: (key: unknown, store: never) => { handlers.set(key, store) }
    }
  },
  deriveConstraint: (req: http.IncomingMessage) => req.headers['x-tenant'],
  validate () {}
}

for (const where of ['constructor', 'addConstraintStrategy'] as const) {
  onEach(t, `R15 a synchronous constraint of the app, by ${where}, chooses among duplex routes`, async (t, transport) => {
    const fastify = where === 'constructor' ? { routerOptions: { constraints: { tenant: tenant as never } } } : {}
    const before = (app: FastifyInstance): void => { if (where !== 'constructor') app.addConstraintStrategy(tenant as never) }
    const { connect } = await serve(t, { transport, fastify, before }, app => {
      for (const tenant of ['one', 'two']) app.get('/it', { duplex: true, constraints: { tenant } as never }, say(() => tenant))
    })
    t.equal(await taken(await connect(), 'GET /it', ...UPGRADE, 'X-Tenant: one'), 'one')
    t.equal(await taken(await connect(), 'GET /it', ...UPGRADE, 'X-Tenant: two'), 'two')
    t.equal(await taken(await connect(), 'GET /it', ...UPGRADE, 'X-Tenant: three'), '404')
    t.equal(await taken(await connect(), 'GET /it', ...UPGRADE), '404')
  })
}

// The same sets of routes, once plain and once duplex: what Fastify does with the plain ones is what is expected.

type Constraints = NonNullable<RouteOptions['constraints']>
const constraintSets: Record<string, Constraints> = {
  none: {},
  host: { host: 'a.com' },
  anyHost: { host: /.*\.com/ },
  hostsOfA: { host: /a\..*/ },
  version: { version: '1.2.0' },
  minor: { version: '1.5.0' },
  major: { version: '2.0.0' },
  tenant: { tenant: 't1' },
  hostAndVersion: { host: 'a.com', version: '1.2.0' },
  hostAndTenant: { host: 'a.com', tenant: 't1' }
}
const withTenants = { routerOptions: { constraints: { tenant: tenant as never } } }

function pairs (names: string[], equal: boolean): [string, string][] {
  return names.flatMap(one => names.filter(other => equal || other !== one).map((other): [string, string] => [one, other]))
}

function combinations (hosts: string[], versions: string[], tenants: string[]): string[][] {
  return hosts.flatMap(host => versions.flatMap(version => tenants.map(tenant => [
    `Host: ${host}`, ...(version === '' ? [] : [`Accept-Version: ${version}`]), ...(tenant === '' ? [] : [`X-Tenant: ${tenant}`])
  ])))
}

/** Without the fields that no constraint of these looks at, but for one version. */
function concerning (names: string[], asked: string[][]): string[][] {
  const among = (constraint: string): boolean => names.some(name => constraint in (constraintSets[name] as Constraints))
  return asked.filter(fields => fields.every(field =>
    (!field.startsWith('X-Tenant') || among('tenant')) && (!field.startsWith('Accept-Version') || field.endsWith(' 1.x') || among('version'))))
}

/** An app of plain routes alone. */
async function reference (t: Test, declare: (app: FastifyInstance) => void): Promise<(url: string, fields: string[]) => Promise<string>> {
  const app = Fastify(withTenants)
  t.teardown(() => app.close())
  declare(app)
  await app.ready()
  return async (url, fields) => {
    const { statusCode, body } = await app.inject({ url, headers: Object.fromEntries(fields.map(field => field.split(': '))) })
    return statusCode === 200 ? body : String(statusCode)
  }
}

/** Which route answers, or with which status none does. */
async function answer (connect: () => Promise<Wire>, url: string, fields: readonly string[]): Promise<string> {
  const wire = await connect()
  try {
    const head = await wire.send([`GET ${url} HTTP/1.1`, ...fields, '', ''].join('\r\n')).head()
    if (head.status !== 101 && head.status !== 200) return String(head.status)
    return head.status === 200 && head.headers['content-length'] !== undefined ? 'plain' : (await wire.until('\n')).trimEnd()
  } finally {
    wire.destroy()
  }
}

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`R15 of two duplex routes with constraints that answers which would if both were plain [${transport}]`, async t => {
    const names = transport === 'tcp' ? Object.keys(constraintSets) : ['none', 'anyHost', 'hostsOfA', 'version', 'minor', 'hostAndVersion']
    const both = pairs(names, false)
    const asked = transport === 'tcp'
      ? combinations(['a.com', 'b.com', 'x.org'], ['', '1.x', '1.2.0', '2.x', 'x'], ['', 't1'])
      : combinations(['a.com', 'b.com'], ['', '1.x', 'x'], [''])
    const expected = await reference(t, app => {
      for (const pair of both) for (const name of pair) app.get(`/${pair.join('/')}`, { constraints: constraintSets[name] as Constraints }, async () => name)
    })
    const { connect } = await serve(t, { transport, fastify: withTenants }, app => {
      for (const pair of both) {
        for (const name of pair) app.get(`/${pair.join('/')}`, { duplex: true, constraints: constraintSets[name] as Constraints }, say(() => name))
      }
    })
    for (const pair of both) {
      const url = `/${pair.join('/')}`
      const differing = await Promise.all(concerning(pair, asked).map(async fields => {
        const plain = await expected(url, fields)
        const upgrade = await answer(connect, url, [...fields, ...UPGRADE])
        const other = await answer(connect, url, fields)
        return upgrade === plain && other === plain ? [] : [{ fields, plain, upgrade, other }]
      }))
      t.same(differing.flat(), [], url)
    }
  })
}

onEach(t, 'Q26 of a plain and a duplex route that match, whatever their constraints and order, the kind of the request decides', async (t, transport) => {
  const names = Object.keys(constraintSets).filter(name => name !== 'minor' && name !== 'tenant')
  const both = pairs(names, true)
  const asked = combinations(['a.com', 'x.org'], ['', '1.x', '1.2.0', 'x'], ['', 't1'])
  const constraintsOf = (name: string): Constraints => constraintSets[name] as Constraints
  const expected = await reference(t, app => {
    for (const name of names) app.get(`/${name}`, { constraints: constraintsOf(name) }, async () => name)
  })
  const { connect } = await serve(t, { transport, fastify: withTenants }, app => {
    for (const [plain, duplex] of both) {
      const declare = [
        (url: string) => app.get(url, { constraints: constraintsOf(plain) }, async () => 'plain'),
        (url: string) => app.get(url, { duplex: true, constraints: constraintsOf(duplex) }, say(() => 'duplex'))
      ]
      for (const one of declare) one(`/plain-first/${plain}/${duplex}`)
      for (const one of declare.reverse()) one(`/duplex-first/${plain}/${duplex}`)
    }
  })
  for (const [plain, duplex] of both) {
    const differing = await Promise.all(concerning([plain, duplex], asked).map(async (fields, n) => {
      const url = `/${n % 2 === 0 ? 'plain' : 'duplex'}-first/${plain}/${duplex}`
      const there = [await expected(`/${plain}`, fields) === plain, await expected(`/${duplex}`, fields) === duplex]
      const none = there[0] === true ? 'plain' : there[1] === true ? 'duplex' : '404'
      const wanted = [there[1] === true ? 'duplex' : none, there[0] === true ? 'plain' : none]
      const got = [await answer(connect, url, [...fields, ...UPGRADE]), await answer(connect, url, fields)]
      return got[0] === wanted[0] && got[1] === wanted[1] ? [] : [{ url, fields, wanted, got }]
    }))
    t.same(differing.flat(), [], `plain ${plain}, duplex ${duplex}`)
  }
}, ['injected'])

onEach(t, 'Q26 constraints choose among the duplex routes that take a request, and then among plain ones', async (t, transport) => {
  const { connect } = await serve(t, { transport, fastify: withTenants }, app => {
    const host = 'a.com'
    app.get('/it', { duplex: { protocols: ['foo'] }, constraints: { host } }, say(() => 'foo'))
    app.get('/it', { constraints: { host } }, async () => '')
    app.get('/it', { duplex: { protocols: ['bar'] }, constraints: { tenant: 't1' } as never }, say(() => 'bar'))
    app.get('/it', { duplex: { protocols: ['foo', 'bar', 'baz'] } }, say(() => 'any'))
    app.get('/alone', { duplex: { kinds: ['upgrade'] }, constraints: { host } }, say(() => 'alone'))
    app.get('/alone', { duplex: true }, say(() => 'any'))
    app.get('/refused', { duplex: { kinds: ['upgrade'], protocols: ['foo'] }, constraints: { host } }, say(() => 'foo'))
    app.get('/refused', { duplex: { kinds: ['upgrade'] } }, say(() => 'any'))
  })
  const at = (host: string, url: string, ...fields: string[]): Promise<string> => answer(connect, url, [`Host: ${host}`, ...fields])
  const asking = (token: string): string[] => ['Connection: Upgrade', `Upgrade: ${token}`]
  t.equal(await at('a.com', '/it', ...UPGRADE), 'foo')
  t.equal(await at('a.com', '/it', ...asking('bar')), 'any')
  t.equal(await at('a.com', '/it', ...asking('bar'), 'X-Tenant: t1'), 'bar')
  t.equal(await at('a.com', '/it', ...asking('qux'), 'X-Tenant: t1'), 'plain', 'which no duplex route takes')
  t.equal(await at('a.com', '/it', 'X-Tenant: t1'), 'plain')
  t.equal(await at('b.com', '/it', ...asking('bar'), 'X-Tenant: t1'), 'bar')
  t.equal(await at('b.com', '/it', ...asking('bar')), 'any')
  t.equal(await at('b.com', '/it'), 'any')
  t.equal(await at('a.com', '/alone'), 'any', 'which takes a kind that the route for this host does not take')
  t.equal(await at('a.com', '/alone', ...UPGRADE), 'alone')
  t.equal(await at('b.com', '/alone'), 'any')
  t.equal(await at('a.com', '/refused'), '426', 'of those that refuse the most specific')
  t.equal(await at('b.com', '/refused'), '404')
})

onEach(t, 'R15 a duplex route whose constraints do not hold leaves its URL to routes for more URLs', async (t, transport) => {
  const { app, connect } = await serve(t, { transport, fastify: withTenants }, app => {
    app.get('/w/it', { duplex: true, constraints: { tenant: 't1' } as never }, say(() => 'of a tenant'))
    app.get('/w/it', { duplex: true, constraints: { host: 'a.com' } }, say(() => 'duplex'))
    app.get('/w/*', { duplex: true }, say(() => 'wildcard'))
    app.get('/s/it', { duplex: true, constraints: { host: 'a.com' } }, say(() => 'duplex'))
    app.get('/s/*', async () => '')
    app.get('/o/:last?', { duplex: true }, say(() => 'optional'))
    app.get('/o', { constraints: { host: 'a.com' } }, async () => '')
  })
  const at = (host: string, url: string, ...fields: string[]): Promise<string> => answer(connect, url, [`Host: ${host}`, ...fields])
  for (const fields of [[], UPGRADE]) {
    t.equal(await at('a.com', '/w/it', ...fields), 'duplex')
    t.equal(await at('b.com', '/w/it', ...fields), 'wildcard')
    t.equal(await at('a.com', '/s/it', ...fields), 'duplex')
    t.equal(await at('b.com', '/s/it', ...fields), 'plain')
    t.equal(await at('a.com', '/o', ...fields), fields.length === 0 ? 'plain' : 'optional')
    t.equal(await at('b.com', '/o', ...fields), 'optional')
    t.equal(await at('a.com', '/o/x', ...fields), 'optional')
  }
  t.equal((await app.inject({ url: '/s/it', headers: { host: 'a.com' } })).json().code, 'FST_ERR_DUPLEX_NO_CONNECTION')
  t.equal((await app.inject({ url: '/s/it', headers: { host: 'b.com' } })).statusCode, 200)
})

onEach(t, 'R15 with ignoreDuplicateSlashes the URL of a route may have doubled slashes', async (t, transport) => {
  const { connect } = await serve(t, { transport, fastify: { routerOptions: { ignoreDuplicateSlashes: true } } }, app => {
    app.get('/a//b', { duplex: true }, say(() => 'taken'))
    app.get('/shared//it', { duplex: true }, say(() => 'taken'))
    app.get('/shared/it', async () => '')
  })
  for (const url of ['/a/b', '/a//b', '//a/b']) {
    t.equal(await taken(await connect(), `GET ${url}`), 'taken', url)
    t.equal(await taken(await connect(), `GET ${url}`, ...UPGRADE), 'taken', `${url}, an upgrade`)
  }
  t.equal(await answer(connect, '/shared/it', ['Host: a']), 'plain')
  t.equal(await answer(connect, '/shared/it', ['Host: a', ...UPGRADE]), 'taken')
})

onEach(t, 'R15 rewriteUrl is applied, and the URL as it came is kept', async (t, transport) => {
  const rewriteUrl = (req: http.IncomingMessage): string => (req.url as string).replace(/^\/v1\//, '/')
  const { connect } = await serve(t, { transport, fastify: { rewriteUrl } }, app => {
    app.get('/it', { duplex: true }, say((_connection, { url, originalUrl }) => `${url} from ${originalUrl}`))
    app.get('/plain', async ({ originalUrl }) => originalUrl)
  })
  t.equal(await taken(await connect(), 'GET /v1/it', ...UPGRADE), '/it from /v1/it')
  t.equal(await taken(await connect(), 'GET /v1/it'), '/it from /v1/it')
  t.equal((await exchange(await connect(), 'GET /v1/plain', ...UPGRADE)).body, '/v1/plain')
})

onEach(t, 'R15 a rewriteUrl of the app sees a CONNECT as a path, and it is routed as that', async (t, transport) => {
  const { connect } = await serve(t, { transport, fastify: { rewriteUrl: req => (req.url as string).replace('/old.example/', '/new.example/') } }, app => {
    app.route({
      method: 'CONNECT', url: '/:host/:port', duplex: true, handler: say((_connection, { params }) => JSON.stringify(params))
    })
  })
  t.equal(await taken(await connect(), 'CONNECT a.example:1'), '{"host":"a.example","port":"1"}')
  t.equal(await taken(await connect(), 'CONNECT old.example:1'), '{"host":"new.example","port":"1"}')
})

// HEAD, Expect, bodies.

onEach(t, 'R16 HEAD is 200 where the route takes body or hijack, else 426, and the connection goes on', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/all', { duplex: true }, echo)
    app.get('/message', { duplex: { kinds: ['body'] } }, echo)
    app.get('/upgrade', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
    app.get('/plain', async () => 'plain')
  })
  const wire = await connect()
  const head = async (url: string, ...fields: string[]): Promise<number> => (await wire.send(request(`HEAD ${url}`, ...fields)).head()).status
  t.equal(await head('/all'), 200)
  t.equal(await head('/message'), 200)
  t.equal(await head('/upgrade'), 426)
  t.equal(await head('/all', ...UPGRADE), 200, 'never a takeover')
  t.match(await exchange(wire, 'GET /plain'), { status: 200, body: 'plain' }, 'no body came with any of them')
})

t.test('R17 Expect: 100-continue on a body gets its 100, and then the body', async t => {
  const { connect } = await serve(t, {}, app => { app.post('/it', { duplex: true }, echo) })
  const wire = await connect()
  wire.send(request('POST /it', 'Expect: 100-continue', 'Content-Length: 5'))
  t.equal(await wire.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  t.equal((await wire.head()).status, 200)
  wire.send('HELLO')
  t.equal(await wire.until('0\r\n\r\n'), '5\r\nHELLO\r\n0\r\n\r\n')
})

t.test('U12 an expectation that nobody knows is 417', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true }, echo)
    app.get('/it', { duplex: true }, echo)
  })
  for (const fields of [['GET /it', ...UPGRADE], ['GET /it'], ['POST /it', 'Content-Length: 0']]) {
    const wire = await connect()
    t.equal((await wire.send(request(fields[0] as string, ...fields.slice(1), 'Expect: the-unexpected')).head()).status, 417, fields.join(' '))
  }
})

t.test('R21 schema.body with body or hijack fails at boot', async t => {
  for (const kind of ['body', 'hijack'] as const) {
    const app = Fastify()
    await app.register(duplex)
    t.throws(() => app.post('/it', { duplex: { kinds: ['upgrade', kind] }, schema: { body: { type: 'object' } } }, echo),
      { code: 'FST_ERR_DUPLEX_BODY_SCHEMA', message: new RegExp(`/it .*"${kind}"`) })
    await app.close()
  }
})

t.test('R21 a route with schema.body takes upgrades alone, unless kinds are named', async t => {
  const schema = { body: { type: 'object' } }
  const { connect } = await serve(t, {}, app => { app.post('/it', { duplex: true, schema }, say(({ kind }) => kind)) })
  const body = ['Content-Type: application/json', 'Content-Length: 2']
  const wire = await connect()
  t.equal((await wire.send(request('POST /it', ...body) + '{}').response()).status, 404)
  t.equal((await wire.send(request('POST /it', ...UPGRADE, ...body) + '{}').head()).status, 101)
  t.equal(await wire.until('\n'), 'upgrade\n')
})

t.test('R21 a compressed upload arrives decompressed, by a preParsing hook', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true, preParsing: (_request, _reply, payload, done) => done(null, payload.pipe(createGunzip())) }, echo)
  })
  const wire = await connect()
  const body = gzipSync('the text')
  wire.send(request('POST /it', 'Content-Type: text/plain', 'Content-Encoding: gzip', `Content-Length: ${body.length}`)).send(body)
  t.equal((await wire.head()).status, 200)
  t.equal(await wire.until('0\r\n\r\n'), '8\r\nthe text\r\n0\r\n\r\n')
})

t.test('R21 a compressed upload arrives decompressed, by @fastify/compress', async t => {
  const { connect } = await serve(t, {}, async app => {
    await app.register(compress)
    app.post('/it', { duplex: true }, echo)
  })
  const wire = await connect()
  const body = gzipSync('the text')
  wire.send(request('POST /it', 'Content-Type: text/plain', 'Content-Encoding: gzip', `Content-Length: ${body.length}`)).send(body)
  t.equal((await wire.head()).status, 200)
  t.equal(await wire.until('0\r\n\r\n'), '8\r\nthe text\r\n0\r\n\r\n')
})

// Every server that listens.

for (const which of ['main', 'second'] as const) {
  t.test(`D10 upgrade, CONNECT, hijack and ignored Upgrade work on the ${which} server of localhost`, async t => {
    const app = Fastify()
    await app.register(duplex)
    app.get('/it', { duplex: true }, say(({ kind }) => kind))
    app.get('/plain', async () => 'plain')
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: say(({ kind }) => kind) })
    const connect = await listenTwice(t, app)
    t.equal(await taken(await connect(which), 'GET /it', ...UPGRADE), 'upgrade')
    t.equal(await taken(await connect(which), 'CONNECT h:1'), 'connect')
    t.equal(await taken(await connect(which), 'GET /it'), 'hijack')
    const wire = await connect(which)
    wire.send(request('GET /plain', ...UPGRADE) + request('GET /plain'))
    t.equal((await wire.response()).body, 'plain')
    t.equal((await wire.response()).body, 'plain')
  })

  t.test(`D10 a refused CONNECT is closed on the ${which} server of localhost, and another owner of 'upgrade' gets his`, async t => {
    const app = Fastify()
    await app.register(duplex)
    app.get('/it', { duplex: true }, say(({ kind }) => kind))
    let seen = 0
    app.server.on('upgrade', (_req, socket: Socket, head) => {
      seen++
      socket.end(`theirs ${head.toString()}`)
    })
    const connect = await listenTwice(t, app)
    const refused = await connect(which)
    t.match(await exchange(refused, 'CONNECT h:1'), { status: 404, headers: { connection: 'close' } })
    t.equal((await refused.rest()).length, 0)
    const theirs = await connect(which)
    theirs.send(request('GET /other', ...UPGRADE) + 'TAIL')
    t.equal((await theirs.rest()).toString(), 'theirs TAIL')
    t.equal(await taken(await connect(which), 'GET /it', ...UPGRADE), 'upgrade')
    t.equal(seen, 1)
  })
}

t.test('D10 a serverFactory may make the server', async t => {
  const made: http.Server[] = []
  const serverFactory = (handler: http.RequestListener): http.Server => {
    const server = http.createServer({ noDelay: true }, (req, res) => handler(req, res))
    made.push(server)
    return server
  }
  const { app, connect } = await serve(t, { fastify: { serverFactory: serverFactory as never } }, app => {
    app.get('/it', { duplex: true }, say(({ kind }) => kind))
    app.get('/plain', async () => 'plain')
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: say(({ kind }) => kind) })
  })
  t.same(made.map(server => server === app.server), [true])
  t.equal(await taken(await connect(), 'GET /it', ...UPGRADE), 'upgrade')
  t.equal(await taken(await connect(), 'CONNECT h:1'), 'connect')
  t.equal((await exchange(await connect(), 'GET /plain', ...UPGRADE)).body, 'plain')
})

t.test('inject: a request without a connection reaches no duplex handler, and is told why', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  app.get('/it', { duplex: true }, echo)
  app.get('/shared', { duplex: true }, echo)
  app.get('/shared', async () => 'plain')
  const response = await app.inject('/it')
  t.equal(response.json().code, 'FST_ERR_DUPLEX_NO_CONNECTION')
  t.equal((await app.inject('/shared')).body, 'plain')
})

// What fails at boot.

t.test('boot: options are checked when the plugin is registered', async t => {
  const wrong: [name: string, value: unknown][] = [
    ['idleTimeout', -1], ['finTimeout', 1.5], ['halfOpenTimeout', NaN], ['maxLifetime', '1s'], ['tcpKeepAlive', 2 ** 31],
    ['handshakeTimeout', Infinity], ['drainTimeout', -1], ['maxConnections', -1], ['maxConnections', 0.5], ['maxConnections', '2'],
    ['kinds', []], ['kinds', 'upgrade'], ['kinds', ['websocket']], ['extendedConnect', 1], ['protocols', ['foo']], ['accept', 'manual'],
    ['idleTimeOut', 1], ['readTimeout', -1], ['maxBuffered', 1.5], ['maxBuffered', Infinity], ['headers', {}], ['ignoredUpgrades', true]
  ]
  for (const [name, value] of wrong) {
    const app = Fastify()
    await t.rejects(async () => await app.register(duplex, { [name]: value } as FastifyDuplexOptions),
      { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: new RegExp(name === 'idleTimeOut' ? '^unknown duplex option' : `^duplex option ${name} must be `) }, `${name} ${String(value)}`)
    await app.close().catch(() => {})
  }
})

t.test('boot: options are checked when a route is declared', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  const wrong: [name: string, value: unknown][] = [
    ['duplex', 'yes'], ['duplex', []], ['duplex', 1], ['duplex', null], ['protocols', []], ['protocols', ['a b']], ['protocols', 'foo'],
    ['protocols', [1]], ['accept', 'later'], ['kinds', ['hijack', 'socket']], ['drainTimeout', 1], ['extendedConnect', true],
    ['maxConnections', -2], ['finTimeout', '3'], ['protocol', 'foo'], ['headers', 'x: y'], ['headers', { 'a b': '1' }],
    ['headers', { a: '1\r\nb: 2' }], ['headers', null], ['ignoredUpgrades', 'keep'], ['maxBuffered', -1], ['readTimeout', 0.5]
  ]
  for (const [name, value] of wrong) {
    const options = (name === 'duplex' ? { duplex: value } : { duplex: { [name]: value } }) as { duplex: true }
    t.throws(() => app.get('/it', options, echo), {
      code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: new RegExp(name === 'protocol' ? '^unknown duplex option' : `^duplex option ${name} on route GET /it must be `)
    }, `${name} ${JSON.stringify(value)}`)
  }
})

t.test('boot: values at the limit are fine', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex, { idleTimeout: 0, maxLifetime: 2 ** 31 - 1, maxConnections: 0, kinds: ['upgrade', 'upgrade'], drainTimeout: 0 })
  app.get('/it', { duplex: { maxConnections: Infinity, protocols: ['Foo/2.0', 'websocket'], accept: 'auto' } }, echo)
  app.get('/off', { duplex: false }, async () => 'plain')
  t.equal((await app.inject('/off')).body, 'plain')
})

t.test('boot: a duplex route before the plugin fails when that is registered, and is named', async t => {
  const app = Fastify()
  app.get('/early', { duplex: true }, echo)
  await t.rejects(async () => await app.register(duplex), { code: 'FST_ERR_DUPLEX_LATE_REGISTRATION', message: /GET \/early/ })
})

t.test('boot: plain routes may be declared before the plugin', async t => {
  const { connect } = await serve(t, { before: app => app.get('/it', async () => 'plain') }, app => {
    app.get('/it', { duplex: true }, say(() => 'duplex'))
  })
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /it')).body, 'plain')
  t.equal(await taken(wire, 'GET /it', ...UPGRADE), 'duplex')
})

t.test('boot: registering twice fails, in an encapsulated plugin as well', async t => {
  const twice = Fastify()
  await twice.register(duplex)
  await t.rejects(async () => await twice.register(duplex), { code: 'FST_ERR_DUPLEX_ALREADY_REGISTERED' })
  const inside = Fastify()
  await inside.register(duplex)
  inside.register(async inner => { await inner.register(duplex) })
  await t.rejects(async () => await inside.ready(), { code: 'FST_ERR_DUPLEX_ALREADY_REGISTERED' })
})

t.test('boot: two apps in one process each have their own', async t => {
  const one = await serve(t, {}, app => { app.get('/it', { duplex: true }, say(() => 'one')) })
  const two = await serve(t, {}, app => { app.get('/it', { duplex: true }, say(() => 'two')) })
  t.equal(await taken(await one.connect(), 'GET /it', ...UPGRADE), 'one')
  t.equal(await taken(await two.connect(), 'GET /it', ...UPGRADE), 'two')
})

t.test('boot: a second duplex route for the same method, URL and constraints fails when it is declared', async t => {
  const declared = async (...routes: Partial<RouteOptions>[]): Promise<() => void> => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(duplex)
    const all = routes.map(route => ({ method: 'GET', url: '/it', duplex: true, handler: echo, ...route }) as unknown as RouteOptions)
    const last = all.pop() as RouteOptions
    for (const route of all) app.route(route)
    return () => app.route(last)
  }
  const twice = { code: 'FST_ERR_DUPLICATED_ROUTE', message: /\/it/ }
  t.throws(await declared({}, {}), twice)
  t.doesNotThrow(await declared({}, { constraints: { host: 'a' } }, { constraints: { host: /a/ } }, { method: 'POST' }))
  t.throws(await declared({}, { constraints: { host: 'a' } }, { constraints: { host: /a/ } }, { constraints: { host: /a/ } }), twice)
  t.throws(await declared({ method: 'POST' }, { method: ['PUT', 'POST'] }), { ...twice, message: /PUT.*POST.*\/it/s })
})

t.test('boot: nor may two duplex routes differ in the names of their parameters alone, as plain ones may not', async t => {
  for (const constraints of [{}, { host: 'a' }]) {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(duplex)
    app.post('/:one/it', { duplex: { kinds: ['upgrade'] }, constraints }, echo)
    app.get('/:two/it', { duplex: true, constraints }, echo)
    app.post('/:two/it', { duplex: true, constraints: { host: 'b' } }, echo)
    t.throws(() => app.post('/:three/it', { duplex: { kinds: ['body'] }, constraints }, echo), {
      code: 'FST_ERR_DUPLICATED_ROUTE', message: /\/:three\/it/
    })
  }
})

const later = {
  ...tenant,
  deriveConstraint: (req: http.IncomingMessage, _context: unknown, done: (error: Error | null, value?: unknown) => void) => {
    setImmediate(() => done(null, req.headers['x-tenant']))
  }
}

t.test('R15 a constraint that is found out asynchronously fails at boot, when a duplex route has it', async t => {
  const app = Fastify({ routerOptions: { constraints: { tenant: later as never } } })
  await app.register(duplex)
  app.get('/it', { duplex: true, constraints: { tenant: 'one' } as never }, echo)
  await t.rejects(async () => await app.ready(), { code: 'FST_ERR_DUPLEX_ASYNC_CONSTRAINT', message: /tenant .*\/it/ })
})

onEach(t, 'R15 such a constraint on plain routes leaves duplex routes alone', async (t, transport) => {
  const { connect } = await serve(t, { transport, fastify: { routerOptions: { constraints: { tenant: later as never } } } }, app => {
    app.get('/plain', { constraints: { tenant: 'one' } as never }, async () => 'plain one')
    app.get('/it', { duplex: true }, say(() => 'duplex'))
  })
  t.equal((await exchange(await connect(), 'GET /plain', ...UPGRADE, 'X-Tenant: one')).body, 'plain one')
  t.equal(await taken(await connect(), 'GET /it', ...UPGRADE), 'duplex')
})

for (const [what, declare] of Object.entries<(app: FastifyInstance) => unknown>({
  'a GET for CONNECTs': app => app.get('/it', { duplex: { kinds: ['connect'] } }, () => {}),
  'a CONNECT for upgrades': app => app.route({ method: 'CONNECT', url: '*', duplex: { kinds: ['upgrade'] }, handler: () => {} } as never),
  'a CONNECT for messages': app => app.route({ method: 'CONNECT', url: '*', duplex: { kinds: ['hijack', 'body'] }, handler: () => {} } as never),
  'protocols without upgrades': app => app.get('/it', { duplex: { kinds: ['hijack'], protocols: ['foo'] } }, () => {})
})) {
  t.test(`R15 ${what}: a route that no request can reach fails at boot`, async t => {
    const app = Fastify()
    await app.register(duplex)
    t.throws(() => declare(app), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
    await app.close()
  })
}

t.test('R15 nor may a route without it be kept from requests by one that must match', async t => {
  const app = Fastify({ routerOptions: { constraints: { tenant: { ...later, mustMatchWhenDerived: true } as never } } })
  await app.register(duplex)
  app.get('/it', { duplex: true }, echo)
  await t.rejects(async () => await app.ready(), { code: 'FST_ERR_DUPLEX_ASYNC_CONSTRAINT' })
})
