import t from 'tap'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import type { FastifyInstance } from 'fastify'
import type { DuplexConnection } from '../lib/index.ts'
import { sendApart, serveLinks, turn } from './fixtures/links.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { gate, onEach, serve, ways } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

const schema = { body: { type: 'object', required: ['n'], properties: { n: { type: 'integer' } }, additionalProperties: false } }

/**
 * As many bytes of the stream as are expected, and what comes behind them after our FIN. Not the other way
 * round: a TLS client that ends between two records which came in one read never sees the second.
 */
async function streamed (wire: Wire, expected: string): Promise<string> {
  const first = (await wire.bytes(Buffer.byteLength(expected))).toString()
  return first + (await wire.end().rest()).toString()
}

/** Tells the parsed body, then echoes. */
function declare (ran: string[] = []): (app: FastifyInstance) => void {
  return app => {
    app.post('/it', { duplex: true, schema }, async (connection, { body }) => {
      connection.writable.write(`${JSON.stringify(body)}\n`)
      await echo(connection)
    })
    app.get('/ran', async ({ url }) => ran.push(url))
  }
}

const json = (body: string, ...fields: string[]): string =>
  request('POST /it', ...UPGRADE, 'Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`, ...fields) + body

onEach(t, 'R12 a JSON body is parsed and validated, and the stream starts after it', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.send(json('{"n":"1"}') + 'TAIL')
  t.match(await wire.head(), { status: 101, headers: { upgrade: 'foo', connection: 'Upgrade' } })
  t.equal(await wire.until('\n'), '{"n":1}\n')
  t.equal(await wire.until('TAIL'), 'TAIL')
  wire.end(' AND MORE')
  t.equal((await wire.rest()).toString(), ' AND MORE')
}, ways)

onEach(t, 'R12 head, body and tail, split at every offset', async (t, transport) => {
  const { link } = await serveLinks(t, transport, declare())
  const all = json('{"n":1234}') + 'TAIL'
  let wrong = 0
  for (let at = 1; at < all.length; at++) {
    const { wire, peer } = await link()
    await sendApart({ wire, peer }, [all.slice(0, at), all.slice(at)])
    const { status } = await wire.head()
    const stream = await streamed(wire, '{"n":1234}\nTAIL')
    if (status !== 101 || stream !== '{"n":1234}\nTAIL') t.fail(`split at ${at}`, { status, stream, wrong: ++wrong })
  }
  t.equal(wrong, 0)
}, ways)

onEach(t, 'R12 head, body and tail, one byte at a time', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  await wire.sendSlowly(json('{"n":1234}') + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal(await streamed(wire, '{"n":1234}\nTAIL'), '{"n":1234}\nTAIL')
}, ways)

for (const size of [1, 16383, 16384, 65535, 65536, 1024 * 1024]) {
  for (const segments of ['one segment', 'two']) {
    onEach(t, `U10 a body of ${size} bytes and a tail that looks like a request, in ${segments}`, async (t, transport) => {
      const ran: string[] = []
      const { connect } = await serve(t, { transport, fastify: { bodyLimit: size } }, app => {
        app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
        app.post('/it', { duplex: true }, async (connection, { body }) => {
          connection.writable.write(createHash('sha256').update(body as Buffer).digest('hex'))
          await echo(connection)
        })
        app.get('/ran', async () => ran.push('ran'))
      })
      const wire = await connect()
      const body = Buffer.alloc(size, request('GET /ran'))
      const head = request('POST /it', ...UPGRADE, 'Content-Type: application/octet-stream', `Content-Length: ${size}`)
      if (segments === 'two') wire.send(head)
      wire.send(Buffer.concat([segments === 'two' ? Buffer.alloc(0) : Buffer.from(head), body, Buffer.from(request('GET /ran'))]))
      t.equal((await wire.head()).status, 101)
      const expected = createHash('sha256').update(body).digest('hex') + request('GET /ran')
      t.equal(await streamed(wire, expected), expected)
      t.same(ran, [])
    }, ways)
  }
}

onEach(t, 'R12 the stream is the socket itself, with the tail at its front', async (t, transport) => {
  const { link } = await serveLinks(t, transport, app => {
    app.post('/it', { duplex: true }, async (connection, { body }) => {
      t.equal(connection.readable, peer)
      t.equal(connection.writable, peer)
      t.equal(connection.head.toString(), 'TAIL')
      t.same(body, { n: 1 })
      await echo(connection)
    })
  })
  const { wire, peer } = await link()
  wire.send(json('{"n":1}') + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal(await streamed(wire, 'TAIL'), 'TAIL')
}, ways)

onEach(t, 'R12 Content-Length: 0 is no body', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.post('/it', { duplex: true }, async (connection, { body }) => {
      connection.writable.write(`${String(body)}\n`)
      await echo(connection)
    })
  })
  const wire = await connect()
  wire.end(request('POST /it', ...UPGRADE, 'Content-Length: 0') + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), 'undefined\nTAIL')
}, ways)

onEach(t, 'R12 the client may half-close behind the body: the handler still answers', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.end(json('{"n":7}') + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), '{"n":7}\nTAIL')
}, ways)

t.test('R12 slow hooks before and after the body lose nothing', async t => {
  const slowly = async (): Promise<void> => { for (let turns = 20; turns > 0; turns--) await turn() }
  const { link } = await serveLinks(t, 'tcp', app => {
    app.post('/it', {
      duplex: true, schema, onRequest: slowly, preParsing: slowly, preValidation: slowly, preHandler: slowly, onSend: slowly
    }, async (connection, { body }) => {
      connection.writable.write(`${JSON.stringify(body)}\n`)
      await echo(connection)
    })
  })
  const { wire, peer } = await link()
  await sendApart({ wire, peer }, [json('{"n":1}'), 'TA', 'IL'])
  t.equal((await wire.head()).status, 101)
  t.equal(await streamed(wire, '{"n":1}\nTAIL'), '{"n":1}\nTAIL')
})

t.test('R12 the hooks run while the body still comes, and may refuse it', async t => {
  const ran: string[] = []
  const { connect, quiet } = await serve(t, {}, app => {
    declare(ran)(app)
    app.post('/refused', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
  })
  const wire = await connect()
  wire.send(request('POST /refused', ...UPGRADE, 'Content-Type: application/json', 'Content-Length: 7') + '{"n"')
  t.match(await wire.response(), { status: 401, body: 'no', headers: { connection: 'close' } })
  wire.send(':1}' + request('GET /ran'))
  t.equal(await wire.remains(), '')
  wire.end()
  await quiet()
  t.same(ran, [])
})

// Refusals.

for (const [why, status, code, text] of [
  ['a schema failure', 400, 'FST_ERR_VALIDATION', json('{"n":"x"}')],
  ['malformed JSON', 400, 'FST_ERR_CTP_INVALID_JSON_BODY', json('{"n":')],
  ['a missing body', 400, 'FST_ERR_VALIDATION', request('POST /it', ...UPGRADE)],
  ['an unknown media type', 415, 'FST_ERR_CTP_INVALID_MEDIA_TYPE',
    request('POST /it', ...UPGRADE, 'Content-Type: what/ever', 'Content-Length: 2') + '{}'],
  ['a body above bodyLimit', 413, 'FST_ERR_CTP_BODY_TOO_LARGE', json(JSON.stringify({ n: 'x'.repeat(2000) }))],
  ['Transfer-Encoding: chunked', 411, 'FST_ERR_DUPLEX_LENGTH_REQUIRED',
    request('POST /it', ...UPGRADE, 'Content-Type: application/json', 'Transfer-Encoding: chunked') + '7\r\n{"n":1}\r\n0\r\n\r\n'],
  ['Transfer-Encoding: gzip', 411, 'FST_ERR_DUPLEX_LENGTH_REQUIRED', request('POST /it', ...UPGRADE, 'Transfer-Encoding: gzip') + 'x']
] as const) {
  onEach(t, `R12 ${why} is ${status} and closed, and nothing after it runs`, async (t, transport) => {
    const ran: string[] = []
    const { connect, quiet } = await serve(t, { transport, fastify: { bodyLimit: 1000 } }, declare(ran))
    const wire = await connect()
    wire.send(text + request('GET /ran')).send(request('GET /ran'))
    const answer = await wire.response()
    t.match(answer, { status, headers: { connection: 'close' } })
    t.equal(codeOf(answer.body), code)
    t.equal(await wire.remains(), '')
    wire.end()
    await quiet()
    t.same(ran, [])
  }, ways)
}

t.test('R12 a method whose body Fastify does not parse is 400, closed, and nothing of it is handed out', async t => {
  const entered: string[] = []
  const { connect } = await serve(t, { before: app => { app.addHttpMethod('MKCOL') } }, app => {
    app.get('/it', { duplex: true }, async () => { entered.push('GET') })
    app.route({ method: 'MKCOL' as 'POST', url: '/it', duplex: true, handler: async () => { entered.push('MKCOL') } })
    app.get('/ran', async () => entered.push('ran'))
  })
  for (const method of ['GET', 'MKCOL']) {
    const wire = await connect()
    wire.send(request(`${method} /it`, ...UPGRADE, 'Content-Type: text/plain', 'Content-Length: 5') + 'HELLO' + request('GET /ran'))
    const answer = await wire.response()
    t.match(answer, { status: 400, headers: { connection: 'close' } }, method)
    t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_BODY_NOT_PARSED')
    t.equal(await wire.remains(), '')
  }
  t.same(entered, [])
})

for (const method of ['PUT', 'PATCH', 'DELETE', 'OPTIONS'] as const) {
  t.test(`R12 ${method} takes an upgrade with a body as well`, async t => {
    const { connect } = await serve(t, {}, app => {
      app.route({
        method,
        url: '/it',
        duplex: true,
        handler: async (connection, { body }) => {
          connection.writable.write(`${JSON.stringify(body)}\n`)
          await echo(connection)
        }
      })
    })
    const wire = await connect()
    wire.end(json('{"n":1}').replace('POST', method) + 'TAIL')
    t.equal((await wire.head()).status, 101)
    t.equal((await wire.rest()).toString(), '{"n":1}\nTAIL')
  })
}

onEach(t, 'R12 a stalled body ends by requestTimeout, and the handler is not entered', async (t, transport) => {
  const entered: string[] = []
  const fastify = { requestTimeout: 100, http: { connectionsCheckingInterval: 50, headersTimeout: 50 } }
  const { connect, quiet } = await serve(t, { transport, fastify }, app => {
    app.post('/it', { duplex: true }, async () => { entered.push('it') })
  })
  const wire = await connect()
  wire.send(json('{"n":1234}').slice(0, -3))
  await wire.remains()
  wire.destroy()
  await quiet()
  t.same(entered, [])
}, ['tcp', 'unix'])

t.test('R12 the answer to a stalled body is 408', async t => {
  const fastify = { requestTimeout: 100, http: { connectionsCheckingInterval: 50, headersTimeout: 50 } }
  const { connect } = await serve(t, { fastify }, declare())
  const wire = await connect()
  wire.send(json('{"n":1234}').slice(0, -3))
  t.equal((await wire.head()).status, 408)
})

t.test('R12 a stalled body ends by handshakeTimeout as well: 503 and closed', async t => {
  const { connect, quiet } = await serve(t, { plugin: { handshakeTimeout: 100 } }, declare())
  const wire = await connect()
  wire.send(json('{"n":1234}').slice(0, -3))
  const answer = await wire.response()
  t.match(answer, { status: 503, headers: { connection: 'close' } })
  t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
  t.equal(await wire.remains(), '')
  wire.end()
  await quiet()
})

onEach(t, 'R12 a client that resets in the middle of the body: the request is aborted, and nothing is left', async (t, transport) => {
  const aborted = gate<string>()
  const { app, link, quiet } = await serveLinks(t, transport, app => {
    app.post('/it', { duplex: true, onRequestAbort: async ({ url }) => aborted.open(url) }, async () => { t.fail('entered') })
  })
  const { wire, peer } = await link()
  await sendApart({ wire, peer }, [json('{"n":1234}').slice(0, -3)])
  wire.reset()
  t.equal(await aborted.promise, '/it')
  await quiet()
  t.equal(app.duplex.connections.size, 0)
}, ways)

t.test('R12 a client that ends in the middle of the body leaves nothing', async t => {
  const { link, quiet } = await serveLinks(t, 'tcp', app => {
    app.post('/it', { duplex: true }, async () => { t.fail('entered') })
  })
  const { wire } = await link()
  wire.end(json('{"n":1234}').slice(0, -3))
  await wire.remains()
  await quiet()
  t.ok(wire.ended || wire.closed)
})

t.test('R12 a refused body that never ends is read within a bound', async t => {
  const { app, connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true, bodyLimit: 10 }, async () => { t.fail('entered') })
  })
  const arrived = once(app.server, 'connection')
  const wire = await connect()
  const [socket] = await arrived as [Socket]
  wire.send(request('POST /it', ...UPGRADE, 'Content-Type: text/plain', 'Content-Length: 1000000000'))
  t.equal((await wire.response()).status, 413)
  const flood = setInterval(() => { if (!wire.closed && wire.socket.writableLength < 1e6) wire.send(Buffer.alloc(1e6)) })
  await once(socket, 'close')
  clearInterval(flood)
  t.ok(socket.bytesRead < 3 * 1024 * 1024, `${socket.bytesRead} bytes read`)
})

t.test('R12 a keep-alive timeout of Node does not strike while a pipelined body comes', async t => {
  const { link } = await serveLinks(t, 'tcp', app => {
    declare()(app)
    app.get('/slow', async () => { for (let turns = 20; turns > 0; turns--) await turn() })
  }, { fastify: { keepAliveTimeout: 50 } })
  const { wire, peer } = await link()
  const all = json('{"n":1234}')
  await sendApart({ wire, peer }, [request('GET /slow') + all.slice(0, -3)])
  t.equal((await wire.response()).status, 200)
  const later = gate()
  setTimeout(later.open, 1500)
  await later.promise
  wire.end(all.slice(-3) + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), '{"n":1234}\nTAIL')
})

// A chooser decides after the head.

t.test('R12 a chooser that takes the upgrade gets head and body in order', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: { protocols: async () => { await turn(); return 'foo' } } }, async (connection, { body }) => {
      connection.writable.write(`${connection.protocol} ${JSON.stringify(body)}\n`)
      await echo(connection)
    })
  })
  const wire = await connect()
  wire.end(json('{"n":1}') + 'TAIL')
  t.match(await wire.head(), { status: 101, headers: { upgrade: 'foo' } })
  t.equal((await wire.rest()).toString(), 'foo {"n":1}\nTAIL')
})

for (const framing of ['Content-Length', 'chunked']) {
  t.test(`R12 a chooser that wants no upgrade takes a request with ${framing} as a body`, async t => {
    const { connect } = await serve(t, {}, app => {
      app.post('/it', { duplex: { protocols: () => false as const } }, async connection => {
        connection.writable.write(`${connection.kind} `)
        await echo(connection)
      })
    })
    const wire = await connect()
    const [field, body] = framing === 'chunked' ? ['Transfer-Encoding: chunked', '5\r\nHELLO\r\n0\r\n\r\n'] : ['Content-Length: 5', 'HELLO']
    wire.send(request('POST /it', ...UPGRADE, field as string) + body)
    t.match(await wire.head(), { status: 200, headers: { 'transfer-encoding': 'chunked' } })
    t.equal(await wire.until('0\r\n\r\n'), '5\r\nbody \r\n5\r\nHELLO\r\n0\r\n\r\n')
  })
}

t.test('R12 a chooser that takes an upgrade with Transfer-Encoding: 411 and closed', async t => {
  const ran: string[] = []
  const { connect } = await serve(t, {}, app => {
    declare(ran)(app)
    app.post('/chosen', { duplex: { protocols: () => 'foo' } }, async () => { t.fail('entered') })
  })
  const wire = await connect()
  wire.send(request('POST /chosen', ...UPGRADE, 'Transfer-Encoding: chunked') + '5\r\nHELLO\r\n0\r\n\r\n' + request('GET /ran'))
  const answer = await wire.response()
  t.match(answer, { status: 411, headers: { connection: 'close' } })
  t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_LENGTH_REQUIRED')
  t.equal(await wire.remains(), '')
  t.same(ran, [])
})

t.test('R12 a chooser that sees the request before its body is parsed', async t => {
  const seen: unknown[] = []
  const { connect } = await serve(t, {}, app => {
    app.post('/it', {
      duplex: { protocols: (offered, { body, headers }) => { seen.push(offered, body, headers['content-length']); return 'foo' } }
    }, async ({ writable }) => { writable.write('ok') })
  })
  const wire = await connect()
  wire.end(json('{"n":1}'))
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), 'ok')
  t.same(seen, [['foo'], undefined, '7'])
})

// Expect: 100-continue.

onEach(t, 'R18 Expect: 100-continue gets its 100 before the body, and then the 101', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.send(request('POST /it', ...UPGRADE, 'Content-Type: application/json', 'Content-Length: 7', 'Expect: 100-continue'))
  t.equal(await wire.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  wire.end('{"n":1}TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), '{"n":1}\nTAIL')
}, ways)

onEach(t, 'R18 Expect: 100-continue without a body: 100, then 101', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => { app.get('/it', { duplex: true }, echo) })
  const wire = await connect()
  wire.end(request('GET /it', ...UPGRADE, 'Expect: 100-Continue') + 'TAIL')
  t.equal(await wire.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  t.equal((await wire.head()).status, 101)
  t.equal((await wire.rest()).toString(), 'TAIL')
}, ways)

t.test('R18 a refusal by the hooks comes at once, without a 100', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send('no') }, echo)
    app.post('/listed', { duplex: { protocols: ['bar'], kinds: ['upgrade'] } }, echo)
  })
  for (const [url, status] of [['/it', 401], ['/listed', 426]] as const) {
    const wire = await connect()
    wire.send(request(`POST ${url}`, ...UPGRADE, 'Content-Length: 5', 'Expect: 100-continue'))
    t.match(await wire.response(), { status, headers: { connection: /close$/ } })
    t.equal(await wire.remains(), '')
  }
})

t.test('R18 a chooser that makes it a message: the 100 comes all the same', async t => {
  const { connect } = await serve(t, {}, app => { app.post('/it', { duplex: { protocols: () => false as const } }, echo) })
  const wire = await connect()
  wire.send(request('POST /it', ...UPGRADE, 'Content-Length: 5', 'Expect: 100-continue'))
  t.equal(await wire.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  wire.send('HELLO')
  t.equal((await wire.head()).status, 200)
  t.equal(await wire.until('0\r\n\r\n'), '5\r\nHELLO\r\n0\r\n\r\n')
})
