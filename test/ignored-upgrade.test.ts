import t from 'tap'
import { createHash } from 'node:crypto'
import { pipeline } from 'node:stream/promises'
import type { FastifyInstance } from 'fastify'
import type { DuplexConnection } from '../lib/index.ts'
import { unfinishedResponse } from '../lib/internals/http-messages.ts'
import { sendApart, serveLinks, turn } from './fixtures/links.ts'
import { until } from './fixtures/patience.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { gate, onEach, serve, transports } from './fixtures/server.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** What must not be run: a request that is the body of another one. */
const INNER = request('GET /ran')

/** An app with a duplex route, plain ones, and a record of every request that was routed. */
function declare (ran: string[] = []): (app: FastifyInstance) => void {
  return app => {
    app.addHook('onRequest', async ({ method, url }) => { ran.push(`${method} ${url}`) })
    app.get('/it', { duplex: true }, echo)
    app.route({ method: ['GET', 'POST'], url: '/plain', handler: async ({ method, body }) => `${method} ${String(body ?? '')}` })
    app.route({
      method: ['GET', 'POST'],
      url: '/slow',
      handler: async ({ method, body }) => {
        for (let turns = 20; turns > 0; turns--) await turn()
        return `${method} slow ${String(body ?? '')}`
      }
    })
    app.get('/refused', { onRequest: async (_request, reply) => reply.code(401).send('refused') }, async () => 'not refused')
    app.get('/ran', async () => 'ran')
  }
}

const text = ['Content-Type: text/plain'] as const
const framings: Record<string, { fields: string[], wire: string }> = {
  'Content-Length': { fields: [...text, `Content-Length: ${INNER.length}`], wire: INNER },
  chunked: {
    fields: [...text, 'Transfer-Encoding: chunked'],
    wire: `5\r\n${INNER.slice(0, 5)}\r\n${(INNER.length - 5).toString(16)}\r\n${INNER.slice(5)}\r\n0\r\n\r\n`
  }
}

for (const [framing, { fields, wire: body }] of Object.entries(framings)) {
  for (const url of ['/plain', '/slow']) {
    const said = url === '/slow' ? 'POST slow ' : 'POST '
    onEach(t, `R1 a ${framing} body in the segment of the head is the body, at ${url}, and the connection goes on`, async (t, transport) => {
      const ran: string[] = []
      const { connect } = await serve(t, { transport }, declare(ran))
      const wire = await connect()
      wire.send(request(`POST ${url}`, ...UPGRADE, ...fields) + body)
      t.match(await wire.response(), { status: 200, body: said + INNER, headers: { connection: 'keep-alive' } })
      t.match(await exchange(wire, 'GET /plain'), { status: 200, body: 'GET ' })
      t.same(ran, [`POST ${url}`, 'GET /plain'])
    })

    onEach(t, `R1 a ${framing} body in a later segment is the body, at ${url}, and the connection goes on`, async (t, transport) => {
      const ran: string[] = []
      const { link } = await serveLinks(t, transport, declare(ran))
      const { wire, peer } = await link()
      await sendApart({ wire, peer }, [request(`POST ${url}`, ...UPGRADE, ...fields), body.slice(0, 9), body.slice(9)])
      t.match(await wire.response(), { status: 200, body: said + INNER, headers: { connection: 'keep-alive' } })
      t.match(await exchange(wire, 'GET /plain'), { status: 200, body: 'GET ' })
      t.same(ran, [`POST ${url}`, 'GET /plain'])
    })
  }

  onEach(t, `R1 a ${framing} body of a GET is no request either`, async (t, transport) => {
    const ran: string[] = []
    const { link } = await serveLinks(t, transport, declare(ran))
    const { wire, peer } = await link()
    await sendApart({ wire, peer }, [request('GET /slow', ...UPGRADE, ...fields) + body.slice(0, 9), body.slice(9) + request('GET /plain')])
    t.equal((await wire.response()).body, 'GET slow ')
    t.equal((await wire.response()).body, 'GET ')
    t.same(ran, ['GET /slow', 'GET /plain'])
  })

  t.test(`R1 a ${framing} body and a follower, split at every offset`, async t => {
    const ran: string[] = []
    const { link } = await serveLinks(t, 'tcp', declare(ran))
    const all = request('POST /plain', ...UPGRADE, ...fields) + body + request('GET /plain')
    for (let at = 1; at < all.length; at++) {
      const { wire, peer } = await link()
      ran.length = 0
      await sendApart({ wire, peer }, [all.slice(0, at), all.slice(at)])
      const bodies = [(await wire.response()).body, (await wire.response()).body]
      if (bodies.join() !== `POST ${INNER},GET ` || ran.join() !== 'POST /plain,GET /plain') t.fail(`split at ${at}`, { bodies, ran })
      wire.destroy()
    }
    t.pass('every split')
  })

  t.test(`R1 a ${framing} body and a follower, one byte at a time`, async t => {
    const { connect } = await serve(t, {}, declare())
    const wire = await connect()
    await wire.sendSlowly(request('POST /plain', ...UPGRADE, ...fields) + body + request('GET /plain'))
    t.equal((await wire.response()).body, `POST ${INNER}`)
    t.equal((await wire.response()).body, 'GET ')
  })
}

onEach(t, 'R1 a GET with an Upgrade is served, and so are the followers in its segment, in order', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  const post = request('POST /plain', ...text, 'Content-Length: 5') + 'HELLO'
  wire.send(request('GET /slow', ...UPGRADE) + post + request('GET /plain', ...UPGRADE) + request('GET /unknown', ...UPGRADE) + post)
  const answers: Awaited<ReturnType<typeof exchange>>[] = []
  for (let n = 0; n < 5; n++) answers.push(await wire.response())
  t.same(answers.map(({ status }) => status), [200, 200, 200, 404, 200])
  t.same([0, 1, 2, 4].map(n => answers[n]?.body), ['GET slow ', 'POST HELLO', 'GET ', 'POST HELLO'])
})

onEach(t, 'R1 an ignored Upgrade waits for the responses before it', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.send(request('GET /slow') + request('GET /slow') + request('POST /plain', ...UPGRADE, ...text, 'Content-Length: 5') + 'HELLO' + request('GET /plain'))
  const bodies: string[] = []
  for (let n = 0; n < 4; n++) bodies.push((await wire.response()).body)
  t.same(bodies, ['GET slow ', 'GET slow ', 'POST HELLO', 'GET '])
})

onEach(t, 'R1 a takeover on the connection of an ignored Upgrade, in the same segment', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.send(request('GET /slow', ...UPGRADE) + request('GET /it', ...UPGRADE) + 'TAIL')
  t.equal((await wire.response()).body, 'GET slow ')
  t.equal((await wire.head()).status, 101)
  wire.end(' AND MORE')
  t.equal((await wire.rest()).toString(), 'TAIL AND MORE')
})

// Desynchronisation: what follows an ignored Upgrade is neither dropped nor taken for something else.

for (const [what, url, status] of [
  ['a plain route', '/plain', 200], ['a slow one', '/slow', 200], ['an unknown URL', '/unknown', 404], ['a hook that refuses', '/refused', 401]
] as const) {
  for (const where of ['the same segment', 'a later one']) {
    onEach(t, `R1 a POST behind an Upgrade at ${what} keeps its body, which comes in ${where}`, async (t, transport) => {
      const ran: string[] = []
      const { link } = await serveLinks(t, transport, declare(ran))
      const { wire, peer } = await link()
      const first = request(`GET ${url}`, ...UPGRADE) + request('POST /plain', ...text, `Content-Length: ${INNER.length}`)
      await sendApart({ wire, peer }, where === 'the same segment' ? [first + INNER] : [first, INNER])
      t.equal((await wire.response()).status, status)
      t.match(await wire.response(), { status: 200, body: `POST ${INNER}` })
      t.same(ran, [`GET ${url}`, 'POST /plain'])
    })
  }
}

t.test('M2 a body whose framing is unclear is 400 and closed, with an Upgrade as without', async t => {
  const ran: string[] = []
  const { connect } = await serve(t, {}, declare(ran))
  for (const fields of [
    ['Transfer-Encoding: gzip'],
    ['Transfer-Encoding: chunked, gzip'],
    ['Content-Length: 5', 'Transfer-Encoding: chunked'],
    ['Content-Length: 5', 'Content-Length: 6'],
    ['Content-Length: -1'],
    ['Content-Length: 5x']
  ]) {
    const wire = await connect()
    wire.send(request('POST /plain', ...UPGRADE, ...fields) + `0\r\n\r\n${INNER}`)
    t.equal((await wire.head()).status, 400, fields.join())
    await wire.remains()
  }
  t.notOk(ran.includes('GET /ran'))
})

t.test('M4 a malformed chunk behind an ignored Upgrade ends the connection, and nothing of it runs', async t => {
  const ran: string[] = []
  const { connect, quiet } = await serve(t, {}, declare(ran))
  const wire = await connect()
  wire.send(request('POST /plain', ...UPGRADE, ...text, 'Transfer-Encoding: chunked') + `5\r\nHELLO\r\nXYZ\r\n${INNER}`)
  t.equal((await wire.head()).status, 400)
  await wire.remains()
  await quiet()
  t.same(ran, ['POST /plain'])
})

// The request as the app sees it.

t.test('R1 the app sees the head as it came', async t => {
  const { connect } = await serve(t, {}, app => { app.get('/raw', async ({ raw }) => raw.rawHeaders) })
  const wire = await connect()
  const fields = [
    'X-A: 1', 'Connection: keep-alive, Upgrade, HTTP2-Settings', 'UPGRADE: h2c', 'Upgrade: foo', 'HTTP2-Settings: AAMA', 'X-A: 2',
    'connection: , upgrade ,X-Hop', 'X-Hop: kept', 'X-Empty:', 'X-Latin: caf\xe9', 'Cookie: a=1; b=2'
  ]
  wire.send(Buffer.from(request('GET /raw', ...fields), 'latin1'))
  t.same(JSON.parse((await wire.response()).body), [
    'Host', 'a', 'X-A', '1', 'Connection', 'keep-alive, Upgrade, HTTP2-Settings', 'UPGRADE', 'h2c', 'Upgrade', 'foo', 'HTTP2-Settings', 'AAMA',
    'X-A', '2', 'connection', ', upgrade ,X-Hop', 'X-Hop', 'kept', 'X-Empty', '', 'X-Latin', 'caf\xe9', 'Cookie', 'a=1; b=2'
  ])
})

t.test('R1 Connection: close beside the Upgrade is kept', async t => {
  const { connect } = await serve(t, {}, declare())
  const wire = await connect()
  t.match(await exchange(wire, 'GET /plain', 'Connection: close, Upgrade', 'Upgrade: foo'), { status: 200, headers: { connection: 'close' } })
  t.equal((await wire.rest()).length, 0)
})

t.test('R1 HTTP/1.0 keeps its own rules', async t => {
  const { connect } = await serve(t, {}, declare())
  const kept = await connect()
  for (let n = 0; n < 2; n++) {
    kept.send('GET /plain HTTP/1.0\r\nConnection: keep-alive, Upgrade\r\nUpgrade: foo\r\n\r\n')
    t.match(await kept.response(), { status: 200, body: 'GET ', headers: { connection: 'keep-alive' } })
  }
  const closed = await connect()
  closed.send('GET /plain HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  t.match(await closed.response(), { status: 200, headers: { connection: 'close' } })
  t.equal((await closed.rest()).length, 0)
})

t.test('R1 Expect: 100-continue beside an ignored Upgrade gets its 100', async t => {
  const { connect } = await serve(t, {}, declare())
  const wire = await connect()
  wire.send(request('POST /plain', ...UPGRADE, ...text, 'Expect: 100-continue', 'Content-Length: 5'))
  t.equal(await wire.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  wire.send('HELLO')
  t.equal((await wire.response()).body, 'POST HELLO')
})

t.test('R1 a missing Host is 400, as Node has it', async t => {
  const { connect } = await serve(t, {}, declare())
  const wire = await connect()
  wire.send('GET /plain HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  t.equal((await wire.head()).status, 400)
  await wire.remains()
})

onEach(t, 'R1 a body of 4 MiB beside an ignored Upgrade arrives whole', async (t, transport) => {
  const body = Buffer.alloc(4 * 1024 * 1024, 'no byte of this may be lost ')
  const { connect } = await serve(t, { transport, fastify: { bodyLimit: 5 * 1024 * 1024 } }, app => {
    app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
    app.post('/hash', async ({ body }) => createHash('sha256').update(body as Buffer).digest('hex'))
  })
  const wire = await connect()
  wire.send(request('POST /hash', ...UPGRADE, 'Content-Type: application/octet-stream', `Content-Length: ${body.length}`)).send(body)
  t.equal((await wire.response()).body, createHash('sha256').update(body).digest('hex'))
})

t.test('R1 an Upgrade without an acceptable token, but with a body, is of the kind body where the route takes that', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: { protocols: ['bar'] } }, echo)
    app.get('/plain', async () => 'plain')
  })
  const wire = await connect()
  for (const fields of [['Content-Length: 5'], ['Transfer-Encoding: chunked']]) {
    wire.send(request('POST /it', ...UPGRADE, ...fields) + (fields[0] === 'Content-Length: 5' ? 'HELLO' : '5\r\nHELLO\r\n0\r\n\r\n'))
    t.match(await wire.head(), { status: 200, headers: { 'transfer-encoding': 'chunked', connection: 'keep-alive' } })
    t.equal(await wire.until('0\r\n\r\n'), '5\r\nHELLO\r\n0\r\n\r\n')
  }
  t.equal((await exchange(wire, 'GET /plain')).body, 'plain')
})

t.test('U7 Upgrade without Connection, Connection without Upgrade, and names that only look like it are no upgrades', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: true }, async ({ kind, writable }) => { writable.write(`${kind}\n`) })
  })
  for (const fields of [
    ['Upgrade: foo'],
    ['Connection: Upgrade'],
    ['Connection: Upgrade', 'Upgrade:'],
    ['Connection: upgrade-insecure', 'Upgrade: foo'],
    ['Connection: keep-alive', 'Upgrade: foo']
  ]) {
    const wire = await connect()
    wire.send(request('GET /it', ...fields))
    t.equal((await wire.head()).status, 200, fields.join())
    t.equal(await wire.until('\n'), 'hijack\n', fields.join())
  }
  for (const fields of [['Connection: keep-alive, Upgrade'], ['Connection: keep-alive', 'Connection: upgrade'], ['Connection: UPGRADE,x']]) {
    const wire = await connect()
    t.equal((await wire.send(request('GET /it', ...fields, 'Upgrade: foo')).head()).status, 101, fields.join())
  }
})

onEach(t, 'U7 an Upgrade that names nothing is none, however it is spelt', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler: ({ kind, writable }) => { writable.end(`${kind}\n`) } })
    app.get('/up', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, () => {})
    app.get('/plain', async () => 'plain')
  })
  for (const fields of [['Upgrade:'], ['Upgrade: '], ['Upgrade: ,'], ['Upgrade: \t,,'], ['Upgrade:', 'Upgrade:']]) {
    const wire = await connect()
    wire.send(request('GET /plain', 'Connection: Upgrade', ...fields) + request('GET /up', 'Connection: Upgrade', ...fields))
    t.match(await wire.response(), { status: 200, body: 'plain', headers: { connection: 'keep-alive' } }, fields.join())
    t.match(await wire.response(), { status: 426, headers: { upgrade: 'foo' } }, fields.join())
    wire.send(request('POST /it', 'Connection: Upgrade', ...fields, 'Content-Length: 0'))
    t.match(await wire.until('0\r\n\r\n'), '\r\nbody\n', fields.join())
    wire.send(request('GET /it', 'Connection: Upgrade', ...fields))
    t.equal((await wire.head()).status, 200, fields.join())
    t.equal((await wire.rest()).toString(), 'hijack\n', fields.join())
  }
})

onEach(t, 'U7 a hijack whose Upgrade names nothing has its early bytes, behind a request that is ignored as well', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  const nothing = ['Connection: Upgrade', 'Upgrade: ,']
  wire.send(request('GET /plain', ...nothing) + request('GET /it', ...nothing) + 'EARLY')
  t.equal((await wire.response()).body, 'GET ')
  t.equal((await wire.head()).status, 200)
  wire.end(' AND MORE')
  t.equal((await wire.rest()).toString(), 'EARLY AND MORE')
})

// The connection that was given back is as good as new.

// On a socket without a handle Node itself leaves two listeners behind with each; an injected connection has one request.
onEach(t, 'R1 300 ignored Upgrades on one connection add no listener and no warning', async (t, transport) => {
  const warnings: Error[] = []
  const warn = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', warn)
  t.teardown(() => process.removeListener('warning', warn))
  const { link } = await serveLinks(t, transport, declare())
  const { wire, peer } = await link()
  const counts = async (): Promise<Record<string, number>> => {
    await until(() => unfinishedResponse(peer) === undefined)
    const result: Record<string, number> = { most: peer.getMaxListeners() }
    for (const event of peer.eventNames()) result[String(event)] = peer.listenerCount(event)
    return result
  }
  await exchange(wire, 'GET /plain')
  const before = await counts()
  for (let n = 0; n < 300; n++) {
    wire.send(request('POST /plain', ...UPGRADE, ...text, 'Content-Length: 5') + 'HELLO')
    t.equal((await wire.response()).body, 'POST HELLO')
  }
  t.same(await counts(), before)
  await turn()
  t.same(warnings, [])
}, transports)

t.test('R1 300 ignored Upgrades in one segment are answered in order', async t => {
  const { connect } = await serve(t, {}, app => { app.get('/n/:n', async ({ params }) => (params as { n: string }).n) })
  const wire = await connect()
  const numbers = Array.from({ length: 300 }, (_, n) => String(n))
  wire.send(numbers.map(n => request(`GET /n/${n}`, ...UPGRADE)).join(''))
  const bodies: string[] = []
  for (let n = 0; n < 300; n++) bodies.push((await wire.response()).body)
  t.same(bodies, numbers)
})

t.test('R1 the keep-alive timeout applies after an ignored Upgrade', async t => {
  const { connect, quiet } = await serve(t, { fastify: { keepAliveTimeout: 100 } }, declare())
  const wire = await connect()
  t.equal((await exchange(wire, 'GET /plain', ...UPGRADE)).body, 'GET ')
  t.equal((await wire.rest()).length, 0)
  wire.end()
  await quiet()
})

t.test('R1 the connection timeout applies while an ignored Upgrade is served', async t => {
  const { connect, quiet } = await serve(t, { fastify: { connectionTimeout: 100 } }, app => {
    app.get('/never', () => new Promise(() => {}))
  })
  const wire = await connect()
  wire.send(request('GET /never', ...UPGRADE))
  t.equal(await wire.remains(), '')
  await quiet()
})

t.test('R1 a stalled body beside an ignored Upgrade ends by requestTimeout', async t => {
  const fastify = { requestTimeout: 100, http: { connectionsCheckingInterval: 50, headersTimeout: 50 } }
  const { connect, quiet } = await serve(t, { fastify }, declare())
  const wire = await connect()
  wire.send(request('POST /plain', ...UPGRADE, ...text, 'Content-Length: 5') + 'HEL')
  t.equal((await wire.head()).status, 408)
  await wire.remains()
  await quiet()
})

onEach(t, 'R1 a reset at any time after an ignored Upgrade harms nobody', async (t, transport) => {
  const never = gate()
  const { connect, quiet } = await serve(t, { transport }, app => {
    declare()(app)
    app.get('/never', async () => { await never.promise })
  })
  for (const text of [
    request('GET /plain', ...UPGRADE),
    request('GET /never', ...UPGRADE),
    request('GET /never') + request('GET /plain', ...UPGRADE),
    request('POST /plain', ...UPGRADE, 'Content-Length: 50') + 'HELLO'
  ]) {
    const wire = await connect()
    wire.send(text)
    for (let turns = 10; turns > 0; turns--) await turn()
    wire.reset()
  }
  never.open()
  await quiet()
  t.equal((await exchange(await connect(), 'GET /plain')).status, 200)
})

onEach(t, 'R1 a FIN in the packet of an ignored Upgrade: the response comes, then the end', async (t, transport) => {
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.get('/at-once', (_request, reply) => { reply.send('at once') })
  })
  const wire = await connect()
  wire.end(request('GET /at-once', ...UPGRADE))
  t.equal((await wire.response()).body, 'at once')
  t.equal((await wire.rest()).length, 0)
  await quiet()
})

t.test('R1 without any duplex route an Upgrade is ignored as well as can be', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/plain', async ({ body }) => body)
  })
  const wire = await connect()
  wire.send(request('POST /plain', ...UPGRADE, ...text, `Content-Length: ${INNER.length}`) + INNER + request('GET /unknown'))
  t.equal((await wire.response()).body, INNER)
  t.equal((await wire.response()).status, 404)
})
