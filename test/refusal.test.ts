import t from 'tap'
import type { Socket } from 'node:net'
import { once } from 'node:events'
import { pipeline } from 'node:stream/promises'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { codeOf, exchange, request, UPGRADE } from './fixtures/requests.ts'
import { gate, onEach, serve, type ServerSettings } from './fixtures/server.ts'
import { MiB } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)
const turns = async (count: number): Promise<void> => {
  for (; count > 0; count--) await new Promise(resolve => setImmediate(resolve))
}

interface Refusal {
  why: string
  status: number
  code?: string
  line: string
  fields?: readonly string[]
  settings?: ServerSettings
  declare: (app: FastifyInstance) => void
}

/** Every way in which an Upgrade at a duplex route is refused. */
const refusals: Refusal[] = [
  {
    why: 'a hook that replies',
    status: 401,
    line: 'GET /it',
    declare: app => app.get('/it', { duplex: true, onRequest: (_request, reply) => { reply.code(401).send({ code: 'NO' }) } }, echo),
    code: 'NO'
  }, {
    why: 'a slow hook that replies',
    status: 407,
    line: 'GET /it',
    declare: app => app.get('/it', {
      duplex: true,
      preHandler: async (_request, reply) => {
        await turns(20)
        return reply.code(407).header('proxy-authenticate', 'Basic').send({ code: 'NO' })
      }
    }, echo),
    code: 'NO'
  }, {
    why: 'a hook that throws',
    status: 500,
    line: 'GET /it',
    declare: app => app.get('/it', { duplex: true, preValidation: async () => { throw new Error('no') } }, echo)
  }, {
    why: 'a schema',
    status: 400,
    line: 'GET /it?n=x',
    code: 'FST_ERR_VALIDATION',
    declare: app => app.get('/it', { duplex: true, schema: { querystring: { type: 'object', properties: { n: { type: 'integer' } } } } }, echo)
  }, {
    why: 'a manual handler',
    status: 403,
    line: 'GET /it',
    declare: app => app.get('/it', { duplex: { accept: 'manual' } }, async ({ reply }) => reply.code(403).send({ code: 'NO' })),
    code: 'NO'
  }, {
    why: 'a token that is not taken',
    status: 426,
    line: 'GET /it',
    code: 'FST_ERR_DUPLEX_UPGRADE_REQUIRED',
    declare: app => app.get('/it', { duplex: { protocols: ['bar'] } }, echo)
  }, {
    why: 'a chooser',
    status: 400,
    line: 'GET /it',
    code: 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL',
    declare: app => app.get('/it', { duplex: { protocols: () => false as const } }, echo)
  }, {
    why: 'the limit of connections',
    status: 503,
    line: 'GET /it',
    code: 'FST_ERR_DUPLEX_MAX_CONNECTIONS',
    declare: app => app.get('/it', { duplex: { maxConnections: 0 } }, echo)
  }, {
    why: 'the drain',
    status: 503,
    line: 'GET /it',
    code: 'FST_ERR_DUPLEX_SHUTDOWN',
    declare: app => {
      app.get('/it', { duplex: true }, echo)
      app.addHook('onReady', async () => { void app.duplex.drain() })
    }
  }, {
    why: 'the drain, before a manual handler is entered',
    status: 503,
    line: 'GET /it',
    code: 'FST_ERR_DUPLEX_SHUTDOWN',
    declare: app => {
      app.get('/it', { duplex: { accept: 'manual' } }, async ({ reply }) => reply.code(403).send({ code: 'ENTERED' }))
      app.addHook('onReady', async () => { void app.duplex.drain() })
    }
  }, {
    why: 'a malformed URL',
    status: 400,
    line: 'GET /it/%zz',
    code: 'FST_ERR_BAD_URL',
    declare: app => app.get('/it/:n', { duplex: true }, echo)
  }, {
    why: 'a parameter that is too long',
    status: 414,
    line: `GET /it/${'x'.repeat(101)}`,
    code: 'FST_ERR_MAX_PARAM_LENGTH',
    declare: app => app.get('/it/:n', { duplex: true }, echo)
  }, {
    why: 'a body on a method whose body is never parsed',
    status: 400,
    line: 'GET /it',
    code: 'FST_ERR_DUPLEX_BODY_NOT_PARSED',
    fields: ['Content-Length: 4'],
    declare: app => app.get('/it', { duplex: true }, echo)
  }, {
    why: 'a missing Content-Length',
    status: 411,
    line: 'POST /it',
    code: 'FST_ERR_DUPLEX_LENGTH_REQUIRED',
    fields: ['Transfer-Encoding: chunked'],
    declare: app => app.post('/it', { duplex: true }, echo)
  }, {
    why: 'a body that is too large',
    status: 413,
    line: 'POST /it',
    code: 'FST_ERR_CTP_BODY_TOO_LARGE',
    fields: ['Content-Type: text/plain', 'Content-Length: 100'],
    declare: app => app.post('/it', { duplex: true, bodyLimit: 10 }, echo)
  }
]

for (const { why, status, code, line, fields = [], settings = {}, declare } of refusals) {
  const text = request(line, ...UPGRADE, ...fields)
  /** Counts the requests that should never run. */
  const start = async (t: Parameters<typeof serve>[0], transport: ServerSettings['transport'] = 'tcp') => {
    let ran = 0
    const server = await serve(t, { ...settings, transport }, app => {
      declare(app)
      app.get('/ran', async () => { ran++ })
    })
    return { ...server, ran: () => ran }
  }

  onEach(t, `R5 refused by ${why}: the response, Connection: close, the end, and no socket`, async (t, transport) => {
    const { connect, quiet, sockets } = await start(t, transport)
    const wire = await connect()
    const answer = await wire.send(text).response()
    t.match(answer, { status, headers: { connection: /close$/ } })
    if (code !== undefined) t.equal(codeOf(answer.body), code)
    t.equal((await wire.rest()).toString(), '')
    wire.end()
    await quiet()
    t.equal(await sockets(), 0)
  })

  onEach(t, `R6 refused by ${why}: a request in the same segment never runs`, async (t, transport) => {
    const { connect, ran } = await start(t, transport)
    const wire = await connect()
    wire.send(text + request('GET /ran'))
    t.equal((await wire.response()).status, status)
    t.equal(await wire.remains(), '')
    t.equal(ran(), 0)
  })

  onEach(t, `R6 refused by ${why}: a request in a later segment never runs`, async (t, transport) => {
    const { connect, quiet, ran } = await start(t, transport)
    const wire = await connect()
    wire.send(text)
    t.equal((await wire.response()).status, status)
    wire.send(request('GET /ran'))
    t.equal(await wire.remains(), '')
    wire.end(request('GET /ran'))
    await quiet()
    t.equal(ran(), 0)
  })

  onEach(t, `R7 refused by ${why}: a request that comes while the refusal is made never runs`, async (t, transport) => {
    const { connect, ran } = await start(t, transport)
    const wire = await connect()
    wire.send(text)
    await turns(2)
    wire.send(request('GET /ran'))
    t.equal((await wire.response()).status, status)
    t.equal(await wire.remains(), '')
    t.equal(ran(), 0)
  })
}

onEach(t, 'R6 100 clients that are refused and never close leave no socket', async (t, transport) => {
  const { connect, quiet, sockets } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
  })
  const wires = await Promise.all(Array.from({ length: 100 }, () => connect()))
  for (const wire of wires) t.equal((await wire.send(request('GET /it', ...UPGRADE)).response()).status, 401)
  t.ok(await sockets() > 0, 'they linger')
  await quiet()
  t.equal(await sockets(), 0)
})

t.test('R6 what a refused client still sends is read within a bound of bytes', async t => {
  const { app, connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
  })
  const arrived = once(app.server, 'connection')
  const wire = await connect()
  const [socket] = await arrived as [Socket]
  t.equal((await wire.send(request('GET /it', ...UPGRADE)).response()).status, 401)
  const flood = setInterval(() => { if (!wire.closed && wire.socket.writableLength < 1e6) wire.send(Buffer.alloc(1e6)) })
  await once(socket, 'close')
  clearInterval(flood)
  t.ok(socket.bytesRead > 1024 * 1024, 'it did linger')
  t.ok(socket.bytesRead < 2 * 1024 * 1024, `${socket.bytesRead} bytes read`)
})

onEach(t, 'R6 a client that has half-closed already gets its refusal, and the socket goes at once', async (t, transport) => {
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => { await turns(20); return reply.code(401).send('no') } }, echo)
  })
  const wire = await connect()
  wire.end(request('GET /it', ...UPGRADE) + 'TAIL')
  t.match(await wire.response(), { status: 401, body: 'no' })
  t.equal((await wire.rest()).length, 0)
  await quiet()
})

t.test('R6 a client that resets while it is refused leaves nothing', async t => {
  const refuse = gate()
  const { app, connect, quiet } = await serve(t, {}, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => { await refuse.promise; return reply.code(401).send('no') } }, echo)
  })
  const arrived = once(app.server, 'connection')
  const wire = await connect()
  const [socket] = await arrived as [Socket]
  wire.send(request('GET /it', ...UPGRADE))
  await turns(5)
  const closed = new Promise<void>(resolve => { socket.once('close', () => resolve()) })
  wire.reset()
  await closed
  refuse.open()
  await quiet()
  t.equal(app.duplex.connections.size, 0)
})

t.test('A1 the Proxy-Authenticate of a 407 is on the refusal', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(407).header('proxy-authenticate', 'Basic').send('no') }, echo)
  })
  t.match(await exchange(await connect(), 'GET /it', ...UPGRADE), { status: 407, headers: { 'proxy-authenticate': 'Basic', connection: 'close' } })
})

t.test('R5 the app\'s Connection: keep-alive is not kept on a refusal', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/reply', { duplex: true, onRequest: async (_request, reply) => reply.code(401).header('connection', 'keep-alive').send('no') }, echo)
    app.get('/raw', {
      duplex: true,
      onRequest: (_request, reply) => { reply.hijack().raw.writeHead(401, ['Connection', 'keep-alive', 'Content-Length', '2']).end('no') }
    }, echo)
    app.get('/both', {
      duplex: true,
      onRequest: (_request, reply) => {
        reply.hijack().raw.setHeader('Connection', 'keep-alive')
        reply.raw.writeHead(401, ['Content-Length', '2']).end('no')
      }
    }, echo)
    app.get('/set', {
      duplex: true,
      onRequest: (_request, reply) => {
        reply.hijack().raw.setHeader('Connection', 'keep-alive')
        reply.raw.writeHead(401, { 'content-length': '2', CONNECTION: 'keep-alive' }).end('no')
      }
    }, echo)
  })
  for (const url of ['/reply', '/raw', '/set', '/both']) {
    const wire = await connect()
    const answer = await exchange(wire, `GET ${url}`, ...UPGRADE)
    t.match(answer, { status: 401, body: 'no' }, url)
    t.same(answer.fields.filter(([name]) => name.toLowerCase() === 'connection').map(([, value]) => value), ['close'], url)
    t.equal((await wire.rest()).length, 0)
  }
})

t.test('R5 an error handler of the app answers a refusal, and its serializer and onSend hooks run', async t => {
  const { connect } = await serve(t, {}, app => {
    app.setErrorHandler(async (error: Error, _request, reply) => reply.code(418).send({ teapot: error.message }))
    app.addHook('onSend', async (_request, reply, payload) => {
      reply.header('x-sent', 'yes')
      return `${String(payload)}!`
    })
    app.get('/it', { duplex: true, onRequest: async () => { throw new Error('short and stout') } }, echo)
  })
  const answer = await exchange(await connect(), 'GET /it', ...UPGRADE)
  t.match(answer, { status: 418, body: '{"teapot":"short and stout"}!', headers: { 'x-sent': 'yes', connection: 'close' } })
})

t.test('R5 a large refusal is sent whole before the connection closes', async t => {
  const body = 'x'.repeat(3_000_000)
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(403).send(body) }, echo)
  })
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /it', ...UPGRADE)).body.length, body.length)
  t.equal((await wire.rest()).length, 0)
})

t.test('R5 a refused hijack is closed as well, since what follows was never read as HTTP', async t => {
  let ran = 0
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
    app.get('/ran', async () => { ran++ })
  })
  const wire = await connect()
  wire.send(request('GET /it') + request('GET /ran'))
  t.match(await wire.response(), { status: 401, headers: { connection: 'close' } })
  t.equal(await wire.remains(), '')
  t.equal(ran, 0)
})

t.test('R5 a refused body is answered with an ordinary response, and the connection goes on', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
    app.get('/next', async () => 'next')
  })
  const wire = await connect()
  wire.send(request('POST /it', 'Content-Length: 5') + 'HELLO' + request('GET /next'))
  t.match(await wire.response(), { status: 401, body: 'no', headers: { connection: 'keep-alive' } })
  t.match(await wire.response(), { status: 200, body: 'next' })
})

for (const kind of ['upgrade', 'hijack', 'connect', 'body'] as const) {
  t.test(`R5 while the app closes, a new ${kind} gets 503 and the end, and close() does not wait for its client`, async t => {
    const closing = gate()
    const go = gate()
    const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: 50 } }, app => {
      app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler: echo })
      app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
      app.addHook('preClose', async () => {
        closing.open()
        await go.promise
      })
    })
    const wire = await connect()
    const closed = app.close()
    await closing.promise
    wire.send({
      upgrade: request('GET /it', ...UPGRADE),
      hijack: request('GET /it'),
      connect: request('CONNECT h:1'),
      body: request('POST /it', 'Content-Length: 0')
    }[kind])
    t.match(await wire.response(), { status: 503, headers: { connection: 'close' } })
    t.equal((await wire.rest()).length, 0)
    go.open()
    await closed
    t.equal(app.server.listening, false)
  })
}

t.test('R5 close() does not wait for refused clients that never close', async t => {
  const { app, connect } = await serve(t, { close: false, plugin: { drainTimeout: 50 } }, app => {
    app.get('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
  })
  const wires: Wire[] = []
  for (let i = 0; i < 5; i++) {
    const wire = await connect()
    wires.push(wire)
    t.equal((await exchange(wire, 'GET /it', ...UPGRADE)).status, 401)
  }
  await app.close()
  for (const wire of wires) await wire.remains()
  t.equal(app.duplex.connections.size, 0)
})

// What is answered without a route.

onEach(t, 'R2 an Upgrade at an unknown URL is the app\'s 404, and the connection goes on', async (t, transport) => {
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.setNotFoundHandler(async ({ method, url, headers }, reply) => reply.code(404).send(`${method} ${url} ${headers.upgrade ?? 'no upgrade'}`))
    app.get('/it', { duplex: true }, echo)
    app.get('/plain', async () => 'plain')
  })
  const wire = await connect()
  const answer = await exchange(wire, 'GET /unknown', ...UPGRADE)
  t.match(answer, { status: 404, body: 'GET /unknown foo', headers: { connection: 'keep-alive' } })
  t.match(await exchange(wire, 'GET /plain'), { status: 200, body: 'plain' })
  wire.end()
  await quiet()
})

t.test('R2 the 404 of an Upgrade leaves nothing that close() would wait for', async t => {
  const { app, connect } = await serve(t, { close: false }, () => {})
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /unknown', ...UPGRADE)).status, 404)
  await app.close()
  await wire.remains()
  t.equal(app.server.listening, false)
})

// Heads that are no base for a takeover.

const many = (count: number): string[] => Array.from({ length: count }, (_, n) => `X-${n}: ${n}`)

for (const [what, line, fields] of [
  ['an Upgrade', 'GET /it', UPGRADE],
  ['an Upgrade with a body', 'POST /it', [...UPGRADE, 'Content-Length: 40']],
  ['an Upgrade at a plain route', 'POST /plain', [...UPGRADE, 'Content-Length: 40']],
  ['an Upgrade at an unknown URL', 'POST /unknown', [...UPGRADE, 'Content-Length: 40']],
  ['a CONNECT', 'CONNECT h:1', []],
  ['a CONNECT with a body', 'CONNECT h:1', ['Content-Length: 40']],
  ['a hijack', 'GET /it', []],
  ['a message', 'POST /it', ['Content-Length: 40']]
] as const) {
  for (const where of ['first', 'last']) {
    onEach(t, `R20 ${what} with more fields than the parser takes is 431 and closed, the decisive fields ${where}`, async (t, transport) => {
      const ran: string[] = []
      const { connect, quiet } = await serve(t, { transport }, app => {
        app.addHook('onRequest', async ({ method, url }) => { ran.push(`${method} ${url}`) })
        app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler: echo })
        app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
        app.post('/plain', async () => 'plain')
        app.get('/ran', async () => 'ran')
      })
      const wire = await connect()
      const head = request(line, ...(where === 'first' ? [...fields, ...many(1100)] : [...many(1100), ...fields]))
      wire.send(head + request('GET /ran').padEnd(40)).send(request('GET /ran'))
      t.equal((await wire.head()).status, 431)
      await wire.remains()
      wire.end()
      await quiet()
      t.same(ran, [])
    })
  }
}

onEach(t, 'R20 as many fields as the parser can take at most are fine', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true }, echo)
    app.post('/plain', async ({ body }) => body)
  })
  const wire = await connect()
  wire.send(request('POST /plain', ...UPGRADE, ...many(990), 'Content-Type: text/plain', 'Content-Length: 5') + 'HELLO')
  t.match(await wire.response(), { status: 200, body: 'HELLO' })
  t.equal((await wire.send(request('GET /it', ...UPGRADE, ...many(990))).head()).status, 101)
})

for (const who of ['a hook', 'the handler'] as const) {
  onEach(t, `R6 a client that takes nothing of a large refusal by ${who} is not waited for longer than finTimeout`, async (t, transport) => {
    const body = Buffer.alloc(32 * MiB)
    const refuse = async (_request: unknown, reply: FastifyReply): Promise<unknown> => await reply.code(403).send(body)
    const { app, connect, quiet, sockets } = await serve(t, { transport, plugin: { finTimeout: 200, maxConnections: 1 } }, app => {
      app.get('/it', who === 'a hook'
        ? { duplex: true, preHandler: refuse, handler: () => {} }
        : { duplex: { accept: 'manual' }, handler: async (pending: PendingDuplex) => await refuse(undefined, pending.reply as never) } as never)
    })
    const wire = await connect()
    wire.socket.pause()
    wire.send(request('GET /it', ...UPGRADE))
    while (await sockets() === 0) await turns(1)
    await quiet()
    t.equal(app.duplex.connections.size, 0)
  }, ['tcp', 'tls'])
}
