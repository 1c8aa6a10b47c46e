import t from 'tap'
import { ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import Fastify from 'fastify'
import duplex, { type DuplexConnection, type DuplexKind, type DuplexProtocolChooser, type DuplexRouteSettings } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, onEachKind, piece, streamKinds, take } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { everywhere, gate, onEach, serve, ways, type Way } from './fixtures/server.ts'
import type { Head } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** All field lines of a head that are not about time. */
const fieldsOf = (head: Head): Head['fields'] => head.fields.filter(([name]) => name.toLowerCase() !== 'date')

/** The fields of an accept head on which nothing was set. */
const plainFields: Record<DuplexKind, Head['fields']> = {
  upgrade: [['Connection', 'Upgrade'], ['Upgrade', 'foo']],
  connect: [],
  hijack: [['Connection', 'close']],
  body: [
    ['X-Accel-Buffering', 'no'], ['Incremental', '?1'],
    ['Connection', 'keep-alive'], ['Keep-Alive', 'timeout=72'], ['Transfer-Encoding', 'chunked']
  ]
}

/** HTTP/2 frames by itself, and has no fields that are about a connection. */
const plainFieldsOf = (kind: DuplexKind, transport: Way): Head['fields'] => transport !== 'h2'
  ? plainFields[kind]
  : kind === 'body' ? [['x-accel-buffering', 'no'], ['incremental', '?1']] : []

const firstLine = (kind: DuplexKind, transport: Way): string =>
  transport === 'h2' ? 'HTTP/2 200' : kind === 'upgrade' ? 'HTTP/1.1 101 Switching Protocols' : 'HTTP/1.1 200 OK'

const codeOf = (body: string): unknown => (JSON.parse(body) as { code?: string }).code

onEach(t, 'A1 a 101 has one Connection: Upgrade and one Upgrade, and nothing that frames a body', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  wire.send(ask('upgrade'))
  const head = await wire.head()
  t.equal(head.line, 'HTTP/1.1 101 Switching Protocols')
  t.strictSame(fieldsOf(head), [['Connection', 'Upgrade'], ['Upgrade', 'foo']])
  t.equal(head.fields.filter(([name]) => name === 'Date').length, 1)
}, ways)

onEach(t, 'A1 the same after an upgrade with a body, and behind another request', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/plain', async () => 'plain')
    app.post('/it', { duplex: true, schema: { body: { type: 'object' } } }, echo)
  })
  const wire = await connect()
  wire.send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\n' +
    'POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}TAIL')
  t.equal((await wire.response()).body, 'plain')
  t.strictSame(fieldsOf(await wire.head()), [['Connection', 'Upgrade'], ['Upgrade', 'foo']])
  t.equal(await wire.until('TAIL'), 'TAIL')
}, ways)

onEachKind(t, 'A3 what the app says about framing and switching is not on the accept head', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onRequest', async (_request, reply) => {
      reply.headers({ Connection: 'x-mine', Upgrade: 'bar', 'Content-Length': 5, 'Transfer-Encoding': 'gzip', 'Keep-Alive': 'timeout=9' })
    })
    app.addHook('preHandler', async (_request, { raw }) => {
      raw.setHeader('CONNECTION', 'x-mine')
      raw.setHeader('UPGRADE', ['bar', 'baz'])
      raw.setHeader('CONTENT-LENGTH', '6')
      raw.setHeader('TRANSFER-ENCODING', 'chunked')
    })
    app.addHook('onSend', async (_request, reply) => { reply.headers({ connection: 'close', upgrade: 'bar', 'content-length': 7 }) })
    take(app, echo)
  })
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'longer than five'))
  const head = await wire.head()
  t.equal(head.line, firstLine(kind, transport))
  t.strictSame(fieldsOf(head), plainFieldsOf(kind, transport))
  t.equal(await wire.until('longer than five'), kind === 'body' ? '10\r\nlonger than five' : 'longer than five')
})

for (const [name, value] of Object.entries({ CR: 'a\rb', LF: 'a\nb', CRLF: 'a\r\nX-Evil: 1', NUL: 'a\0b' })) {
  onEachKind(t, `A4 a header value with ${name} is an ordinary 500, and nothing else is on the wire`, async (t, kind, transport) => {
    let entered = 0
    const { connect, quiet } = await serve(t, { transport }, app => {
      app.addHook('onRequest', async (_request, reply) => { reply.header('x-mine', value) })
      app.setErrorHandler((error, _request, reply) => {
        reply.removeHeader('x-mine')
        reply.send(error)
      })
      take(app, () => { entered++ })
    })
    const wire = await connect()
    wire.end(ask(kind) + piece(kind, 'TAIL') + (kind === 'body' ? LAST_CHUNK : ''))
    const { status, headers, body } = await wire.response()
    t.equal(status, 500)
    t.equal(codeOf(body), 'FST_ERR_DUPLEX_INVALID_HEADER')
    t.notOk('x-mine' in headers || 'x-evil' in headers)
    t.equal(await wire.remains(), '')
    t.equal(entered, 0)
    await quiet()
  }, everyKind, name === 'CRLF' ? everywhere : ['tcp'])
}

onEachKind(t, 'A4 the same where nobody takes the header away again', async (t, kind, transport) => {
  let entered = 0
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.addHook('onSend', async (_request, reply) => { reply.header('x-mine', ['fine', 'a\r\nX-Evil: 1']) })
    take(app, () => { entered++ })
  })
  const wire = await connect()
  wire.end(ask(kind) + (kind === 'body' ? LAST_CHUNK : ''))
  const answer = await wire.remains()
  t.match(answer, /^HTTP\/\S+ 500\s/)
  t.notMatch(answer, /x-evil/i)
  t.equal(entered, 0)
  await quiet()
})

onEach(t, 'A4 a protocol with CR and LF from a function is a 500, and never on the wire', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: { protocols: () => 'foo\r\nX-Evil: 1' } }, echo)
  })
  const wire = await connect()
  wire.send(ask('upgrade'))
  const { status, headers, body } = await wire.response()
  t.equal(status, 500)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED')
  t.notOk('x-evil' in headers)
  t.equal(await wire.remains(), '')
}, ways)

t.test('A4 a protocol with CR, LF, NUL or a space in a list fails at boot', async t => {
  for (const wrong of ['foo\r\nX-Evil: 1', 'foo\n', 'fo\0o', 'foo bar', '', 'foo/', '/2', 'f\u00f6\u00f6']) {
    const app = Fastify()
    await app.register(duplex)
    t.throws(() => app.get('/it', { duplex: { protocols: ['fine', wrong] } }, echo), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
    await app.close()
  }
})

interface Choice {
  it: string
  /** The field lines of the request. */
  offer: string[]
  protocols?: string[]
  /** What the 101 says; without it the client gets a 426. */
  chosen?: string
}

const choices: Choice[] = [
  { it: 'the first token the client offers, not the first of the list', offer: ['Upgrade: bar, foo'], protocols: ['foo', 'bar'], chosen: 'bar' },
  { it: 'without a list the first token', offer: ['Upgrade: bar, foo'], chosen: 'bar' },
  { it: 'without a list the first token, as it was offered', offer: ['Upgrade: Bar/2'], chosen: 'Bar/2' },
  { it: 'whatever its case, in the spelling of the list', offer: ['Upgrade: FOO'], protocols: ['Foo'], chosen: 'Foo' },
  { it: 'the one token of several that the list has', offer: ['Upgrade: x, y, foo, z'], protocols: ['foo'], chosen: 'foo' },
  { it: 'from several header lines', offer: ['Upgrade: x', 'Upgrade: y, foo'], protocols: ['foo'], chosen: 'foo' },
  { it: 'in the order of several header lines', offer: ['Upgrade: x, bar', 'Upgrade: foo'], protocols: ['foo', 'bar'], chosen: 'bar' },
  { it: 'without regard to white space', offer: ['Upgrade: \t x ,\tfoo \t'], protocols: ['foo'], chosen: 'foo' },
  { it: 'beside empty members', offer: ['Upgrade: , ,foo,,'], protocols: ['foo'], chosen: 'foo' },
  { it: 'beside members that are no tokens', offer: ['Upgrade: a b, /2, c/, foo'], protocols: ['foo'], chosen: 'foo' },
  { it: 'without a list the first token that is one', offer: ['Upgrade: a b, foo'], chosen: 'foo' },
  { it: 'Q25 a version by its name alone, and kept,', offer: ['Upgrade: foo/2'], protocols: ['foo'], chosen: 'foo/2' },
  { it: 'a version that is listed', offer: ['Upgrade: FOO/2'], protocols: ['foo/2'], chosen: 'foo/2' },
  { it: 'a listed version before its name', offer: ['Upgrade: foo/2'], protocols: ['foo', 'foo/2'], chosen: 'foo/2' },
  { it: 'not another version than the listed one', offer: ['Upgrade: foo/3, foo'], protocols: ['foo/2'] },
  { it: 'not a token that only begins like a listed one', offer: ['Upgrade: foobar, fo'], protocols: ['foo'] },
  { it: 'not a property of an object', offer: ['Upgrade: __proto__, constructor, toString'], protocols: ['foo'] }
]

for (const { it, offer, protocols, chosen } of choices) {
  onEach(t, `A5 chosen is ${it}`, async (t, transport) => {
    const settings: DuplexRouteSettings = protocols === undefined ? {} : { protocols }
    const { connect } = await serve(t, { transport }, app => {
      app.get('/it', { duplex: settings }, async ({ protocol, writable }) => { writable.end(`protocol ${String(protocol)}`) })
    })
    const wire = await connect()
    wire.send(['GET /it HTTP/1.1', 'Host: a', 'Connection: Upgrade', ...offer, '', ''].join('\r\n'))
    const head = await wire.head()
    t.equal(head.status, chosen === undefined ? 426 : 101)
    t.equal(head.headers.upgrade, chosen ?? protocols?.join(', '))
    if (chosen !== undefined) t.equal((await wire.rest()).toString(), `protocol ${chosen}`)
  }, ways)
}

onEach(t, 'A5 a function sees the tokens in the order and spelling of the client, and chooses', async (t, transport) => {
  const seen: unknown[] = []
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', {
      duplex: {
        async protocols (offered, request) {
          seen.push(offered, request.url)
          await turn()
          return offered[2] ?? false
        }
      }
    }, async ({ protocol, writable }) => { writable.end(`protocol ${protocol}`) })
  })
  const wire = await connect()
  wire.send('GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: Foo/2, a b\r\nUpgrade: h2c\r\nUpgrade: BAR\r\n\r\n')
  t.equal((await wire.head()).headers.upgrade, 'BAR')
  t.equal((await wire.rest()).toString(), 'protocol BAR')
  t.strictSame(seen, [['Foo/2', 'h2c', 'BAR'], '/it'])
}, ways)

const answers: [it: string, choose: DuplexProtocolChooser, status: number, code: string][] = [
  ['Q21 false is a 400', () => false, 400, 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL'],
  ['a promise of false is a 400', () => Promise.resolve<false>(false), 400, 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL'],
  ['a token that was not offered is a 500', () => 'bar', 500, 'FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED'],
  ['a version that was not offered is a 500', () => 'foo/2', 500, 'FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED'],
  ['what it throws is answered as from a hook', () => { throw Object.assign(new Error('no'), { statusCode: 403, code: 'MINE' }) }, 403, 'MINE'],
  ['what it rejects with is answered as from a hook', async () => { throw Object.assign(new Error('no'), { statusCode: 403, code: 'MINE' }) }, 403, 'MINE']
]

for (const [it, choose, status, code] of answers) {
  onEach(t, `A5 of a function, ${it}`, async (t, transport) => {
    let entered = 0
    const { connect, quiet } = await serve(t, { transport }, app => {
      app.get('/it', { duplex: { protocols: choose } }, () => { entered++ })
    })
    const wire = await connect()
    wire.end(ask('upgrade'))
    const response = await wire.response()
    t.equal(response.status, status)
    t.equal(codeOf(response.body), code)
    t.equal(response.headers.connection, 'close')
    t.equal(entered, 0)
    await quiet()
  }, ways)
}

for (const [fields, kind] of [
  [['Connection: Upgrade', 'Upgrade: foo'], 'upgrade'],
  [['connection: UPGRADE', 'upgrade: foo'], 'upgrade'],
  [['Connection: keep-alive, Upgrade', 'Upgrade: foo'], 'upgrade'],
  [['Connection: upgrade , keep-alive', 'Upgrade: foo'], 'upgrade'],
  [['Connection: keep-alive,upgrade,x', 'Upgrade: foo'], 'upgrade'],
  [['Connection: close, Upgrade', 'Upgrade: foo'], 'upgrade'],
  [['Connection: Upgrade\t', 'Upgrade: foo'], 'upgrade'],
  [['Connection:\tkeep-alive,\tUpgrade \t,x', 'Upgrade:\tfoo\t'], 'upgrade'],
  [['Connection: keep-alive', 'Connection: Upgrade', 'Upgrade: foo'], 'upgrade'],
  [['Upgrade: foo', 'Connection: Upgrade', 'Connection: x'], 'upgrade'],
  [['Connection: Upgrade'], 'hijack'],
  [['Upgrade: foo'], 'hijack'],
  [['Connection: keep-alive', 'Upgrade: foo'], 'hijack'],
  [['Connection: upgrade-insecure', 'Upgrade: foo'], 'hijack'],
  [['Connection: x-upgrade', 'Upgrade: foo'], 'hijack'],
  [['Connection: Upgrade', 'Content-Length: 0'], 'body'],
  [['Upgrade: foo', 'Content-Length: 0'], 'body']
] as const) {
  onEach(t, `A6 "${fields.join('; ')}" is ${kind}`, async (t, transport) => {
    const { connect } = await serve(t, { transport }, app => take(app, async ({ kind, protocol, writable }) => { writable.end(`${kind} ${String(protocol)}.`) }))
    const wire = await connect()
    wire.send(['GET /it HTTP/1.1', 'Host: a', ...fields, '', ''].join('\r\n'))
    const head = await wire.head()
    t.equal(head.line, firstLine(kind, transport))
    t.equal(head.headers.upgrade, kind === 'upgrade' ? 'foo' : undefined)
    const expected = `${kind} ${kind === 'upgrade' ? 'foo' : 'undefined'}.`
    t.equal(await wire.until('.'), kind === 'body' ? `f\r\n${expected}` : expected)
  }, ways)
}

for (const [field, status] of [['Connection: Upgrade', 200], ['Upgrade: foo', 200]] as const) {
  onEach(t, `A6 "${field}" alone at a plain route is an ordinary request`, async (t, transport) => {
    const { connect } = await serve(t, { transport }, app => { app.get('/plain', async () => 'plain') })
    const wire = await connect()
    for (let n = 0; n < 2; n++) {
      wire.send(`GET /plain HTTP/1.1\r\nHost: a\r\n${field}\r\n\r\n`)
      const response = await wire.response()
      t.equal(response.status, status)
      t.equal(response.body, 'plain')
      t.equal(response.headers.connection, 'keep-alive')
    }
  }, ways)
}

for (const token of ['websocket', 'WebSocket', 'h2c', 'h2', 'HTTP/2.0', 'TLS/1.2', 'http/1.1', 'tls/1.0, h2c']) {
  onEach(t, `A7 "${token}" is not taken unless it is listed`, async (t, transport) => {
    let entered = 0
    const { connect } = await serve(t, { transport }, app => {
      app.get('/it', { duplex: true }, async () => { entered++ })
      app.get('/listed', { duplex: { protocols: ['foo', ...token.split(', ')] } }, echo)
    })
    const request = (url: string, offer: string): string =>
      `GET ${url} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ${offer}\r\n\r\n`
    const other = await connect()
    other.send(request('/it', token))
    const { status, headers } = await other.head()
    // Q20: another HTTP, and TLS, are no offer at all.
    const isOffer = /^websocket$/i.test(token)
    t.same([status, headers.connection, headers.upgrade, entered], isOffer ? [400, 'close', undefined, 0] : [200, 'close', undefined, 1])

    const listed = await connect()
    listed.send(request('/listed', token))
    t.equal((await listed.head()).headers.upgrade, token.split(', ')[0])
  }, ways)
}

onEach(t, 'A7 a token that is not reserved is taken from among reserved ones', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  wire.send('GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c, h2cx, TLS/1.2\r\n\r\n')
  t.equal((await wire.head()).headers.upgrade, 'h2cx')
}, ways)

onEach(t, 'A7 a reserved token on a request with a body leaves that', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  for (const offer of ['h2c', 'websocket']) {
    const wire = await connect()
    wire.send(`POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: ${offer}\r\nHTTP2-Settings: AA\r\nContent-Length: 4\r\n\r\nBODY`)
    const head = await wire.head()
    t.equal(head.status, 200, offer)
    t.strictSame(fieldsOf(head), plainFields.body)
    t.equal(await wire.until(LAST_CHUNK), piece('body', 'BODY') + LAST_CHUNK)
  }
}, ways)

onEachKind(t, 'A8 the head of each kind has the framing that the kind has, and nothing else', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  wire.send(ask(kind))
  const head = await wire.head()
  t.equal(head.line, firstLine(kind, transport))
  t.strictSame(fieldsOf(head), plainFieldsOf(kind, transport))
})

onEach(t, 'A8 a CONNECT of HTTP/1.0 gets a 200 without framing', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  wire.end('CONNECT it.example:443 HTTP/1.0\r\n\r\nTAIL')
  const head = await wire.head()
  t.equal(head.line, 'HTTP/1.1 200 OK')
  t.strictSame(fieldsOf(head), [])
  t.equal((await wire.rest()).toString(), 'TAIL')
}, ways)

onEach(t, 'A8 a body keeps its connection, with Content-Length and chunked alike', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  for (const request of [
    'POST /it HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nBODY',
    ask('body') + piece('body', 'BODY') + LAST_CHUNK,
    'GET /it HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nBODY'
  ]) {
    wire.send(request)
    t.strictSame(fieldsOf(await wire.head()), plainFields.body)
    t.equal(await wire.until(LAST_CHUNK), piece('body', 'BODY') + LAST_CHUNK)
  }
  t.notOk(wire.ended)
}, ways)

onEach(t, 'A8 a body with Connection: close is framed, and the connection ends', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  wire.send(ask('body', 'Connection: close') + piece('body', 'BODY') + LAST_CHUNK)
  const { headers } = await wire.head()
  t.equal(headers.connection, 'close')
  t.equal(headers['transfer-encoding'], 'chunked')
  t.equal((await wire.rest()).toString(), piece('body', 'BODY') + LAST_CHUNK)
}, ways)

onEach(t, 'A8 a body of HTTP/1.0 is ended by the end of the connection', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, echo))
  const wire = await connect()
  wire.send('POST /it HTTP/1.0\r\nContent-Length: 4\r\n\r\nBODY')
  const { headers } = await wire.head()
  t.equal(headers.connection, 'close')
  t.notOk('transfer-encoding' in headers)
  t.equal((await wire.rest()).toString(), 'BODY')
}, ways)

onEach(t, 'A8 what the app says about buffering stays', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    take(app, echo, true, { onRequest: async (_request, reply) => { reply.headers({ 'x-accel-buffering': 'yes', Incremental: '?0' }) } })
  })
  const wire = await connect()
  wire.send(ask('body'))
  const head = await wire.head()
  const about = head.fields.filter(([name]) => /^(?:x-accel-buffering|incremental)$/i.test(name))
  t.strictSame(about, [['x-accel-buffering', 'yes'], ['incremental', '?0']])
}, ways)

onEachKind(t, 'A10 nor does what middleware has put in the place of a method of the raw response, nor is it kept', async (t, kind, transport) => {
  const { write } = ServerResponse.prototype
  let raw: ServerResponse | undefined
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onRequest', (_request, reply, done) => {
      raw = reply.raw
      raw.write = function (this: ServerResponse, ...args: unknown[]) { return Reflect.apply(write, this, args) as boolean } as typeof write
      done()
    })
    take(app, async ({ writable, readable }) => {
      raw?.write('RAW')
      writable.write('mine')
      for await (const chunk of readable) writable.write(chunk)
    })
  })
  const wire = await connect()
  wire.send(ask(kind))
  t.equal((await wire.head()).line, firstLine(kind, transport))
  t.equal(await wire.until('mine'), 'mine')
  t.equal(raw?.writableLength, 0)
}, streamKinds, ['tcp'])

onEachKind(t, 'A10 what is sent through the reply after acceptance puts no byte into the stream', async (t, kind, transport) => {
  const late = gate()
  const { connect, quiet } = await serve(t, { transport }, app => {
    take(app, async ({ reply, writable, readable }) => {
      reply.send('SENT')
      reply.code(500).send(new Error('SENT'))
      if (kind !== 'body') {
        const raw = reply.raw as ServerResponse
        raw.writeContinue()
        // Only HTTP/1 has it.
        if (transport !== 'h2') raw.writeProcessing()
        raw.writeEarlyHints({ link: '</x>; rel=preload' })
        raw.writeHead(500, { 'x-mine': 'RAW' })
        raw.flushHeaders()
        raw.write('RAW')
        raw.addTrailers({ 'x-mine': 'RAW' })
        raw.end('RAW')
      }
      setImmediate(() => {
        reply.send('LATE')
        if (kind !== 'body') (reply.raw as ServerResponse).end('LATE')
        late.open()
      })
      await late.promise
      writable.write('mine')
      for await (const chunk of readable) writable.write(chunk)
    })
  })
  const wire = await connect()
  wire.send(ask(kind))
  t.equal((await wire.head()).line, firstLine(kind, transport))
  wire.send(piece(kind, 'yours') + (kind === 'body' ? LAST_CHUNK : ''))
  t.equal(await hear(wire, kind, 'mineyours'), 'mineyours')
  if (kind === 'body') await wire.until(LAST_CHUNK)
  wire.end()
  t.equal(await wire.remains(), '')
  await quiet()
})

onEachKind(t, 'A10 a handlerTimeout after acceptance puts no byte into the stream', async (t, kind, transport) => {
  const accepted = gate()
  const { connect } = await serve(t, { transport }, app => {
    app.get('/slow', { handlerTimeout: 50 }, async () => await new Promise(() => {}))
    take(app, async ({ readable, writable }) => {
      accepted.open()
      for await (const chunk of readable) writable.write(chunk)
    }, true, { handlerTimeout: 50 })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await wire.head()
  await accepted.promise
  const clock = await connect()
  clock.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
  t.equal((await clock.response()).status, 503, 'the timeout of a later request is over')
  t.equal(wire.pending, '')
  wire.send(piece(kind, 'alive'))
  t.equal(await wire.until(piece(kind, 'alive')), piece(kind, 'alive'))
})

onEachKind(t, 'A10 a handler that throws after acceptance reaches no error handler, and no byte is sent', async (t, kind, transport) => {
  let handled = 0
  const headRead = gate()
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.setErrorHandler(async () => {
      handled++
      return 'HANDLED'
    })
    take(app, async () => {
      // Over HTTP/2 a client on Node 26 that finds the reset together with the head tells of the reset alone.
      await headRead.promise
      throw new Error('after acceptance')
    })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await wire.head()
  headRead.open()
  t.equal(await wire.remains(), '')
  t.equal(handled, 0)
  await quiet()
})

onEachKind(t, 'A10 a reply from a hook that is still running puts no byte into the stream', async (t, kind, transport) => {
  const hook = gate()
  const { connect } = await serve(t, { transport }, app => {
    take(app, echo, true, {
      onRequest: async (_request, reply) => {
        void hook.promise.then(() => {
          reply.send('LATE')
          reply.callNotFound()
        })
      }
    })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await wire.head()
  hook.open()
  await turn()
  wire.send(piece(kind, 'mine'))
  t.equal((await wire.bytes(piece(kind, 'mine').length)).toString(), piece(kind, 'mine'))
})

onEachKind(t, 'A14 what the handler writes at once comes after the accept head', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => take(app, async ({ writable }) => {
    writable.write('first, ')
    writable.write('second')
    writable.end()
  }))
  for (let n = 0; n < 20; n++) {
    const wire = await connect()
    wire.send(ask(kind) + (kind === 'body' ? LAST_CHUNK : ''))
    t.equal((await wire.head()).line, firstLine(kind, transport))
    t.equal(await hear(wire, kind, 'first, second'), 'first, second')
  }
})

onEach(t, 'A14 the handler of every kind is called in the turn of acceptance when no hook makes it wait', async (t, transport) => {
  const order: string[] = []
  const { connect } = await serve(t, { transport }, app => {
    take(app, async ({ kind }) => {
      order.push(kind)
    }, true, {
      preHandler: (_request, _reply, done) => {
        done()
        order.push('after the hooks')
      }
    })
  })
  for (const kind of streamKinds) {
    const wire = await connect()
    wire.send(ask(kind))
    await wire.head()
  }
  t.strictSame(order, streamKinds.flatMap(kind => [kind, 'after the hooks']))
}, ways)
