import t from 'tap'
import { randomBytes } from 'node:crypto'
import { getEventListeners, once } from 'node:events'
import { createServer, Socket } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import cookie from '@fastify/cookie'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import duplex, {
  type DuplexConnection, type DuplexKind, type FastifyDuplexOptions, type InjectDuplexOptions, type InjectDuplexResponse
} from '../lib/index.ts'
import { collector, countListeners, declareEnds, echo, everyEnd, injected as ask } from './fixtures/injections.ts'
import { everyKind, onEachKind, streamKinds, take, takeManually } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { until } from './fixtures/patience.ts'
import { gate, tlsOptions } from './fixtures/server.ts'
import { all, MiB } from './fixtures/takeover.ts'

/** A test for each kind, written once. */
function onEachInjected (t: Test, title: string, run: (t: Test, kind: DuplexKind) => Promise<unknown>, which = everyKind): void {
  onEachKind(t, title, run, which, ['injected'])
}

interface Settings {
  fastify?: object
  plugin?: FastifyDuplexOptions
  close?: boolean
}

/** An app that listens to nothing. */
async function build (t: Test, declare: (app: FastifyInstance) => unknown, settings: Settings = {}): Promise<FastifyInstance> {
  const app = Fastify({ ...settings.fastify } as FastifyServerOptions) as FastifyInstance
  await app.register(duplex, settings.plugin ?? {})
  await declare(app)
  if (settings.close !== false) t.teardown(() => app.close())
  return app
}

type Build = typeof build

/** The same app on a server of HTTP/2. */
const buildHttp2: Build = (t, declare, settings = {}) => build(t, declare, {
  ...settings, fastify: { ...settings.fastify, http2: true }, plugin: { ...settings.plugin, extendedConnect: true }
})

/** The kinds that there are over HTTP/2. */
const http2Kinds = everyKind.filter(kind => kind !== 'hijack')

/** A test for each kind over both versions of HTTP, written once. */
function onBoth (t: Test, title: string, run: (t: Test, kind: DuplexKind, build: Build, http: 1 | 2) => Promise<unknown>): void {
  onEachKind(t, title, (t, kind) => run(t, kind, build, 1), everyKind, ['injected'])
  onEachKind(t, `${title}, over HTTP/2`, (t, kind) => run(t, kind, buildHttp2, 2), http2Kinds, ['injected'])
}

/** A test over both versions of HTTP, with the kinds that there are. */
function onBothVersions (
  t: Test, title: string, run: (t: Test, build: Build, kinds: readonly DuplexKind[], http: 1 | 2) => Promise<unknown>
): void {
  t.test(title, t => run(t, build, everyKind, 1))
  t.test(`${title}, over HTTP/2`, t => run(t, buildHttp2, http2Kinds, 2))
}

async function nothingLeft (app: FastifyInstance): Promise<void> {
  await until(() => app.duplex.connections.size === 0)
}

/** The end of a stream, however it comes. */
function outcome (readable: Readable): Promise<string> {
  return all(readable).then(bytes => `end after "${bytes.toString()}"`, error => String((error as { code?: string }).code))
}

function pieceOf (response: InjectDuplexResponse): Promise<Buffer> {
  return once(response.readable, 'data').then(([chunk]) => chunk as Buffer)
}

const STATUS: Record<1 | 2, Record<DuplexKind, number>> = {
  1: { upgrade: 101, connect: 200, hijack: 200, body: 200 },
  2: { upgrade: 200, connect: 200, hijack: 200, body: 200 }
}

onBoth(t, 'I1 accepted: the status, the accept head, and a pair that is live both ways', async (t, kind, build, http) => {
  const app = await build(t, app => {
    app.addHook('onSend', async (_request, reply) => { reply.header('x-hook', 'ran') })
    take(app, echo)
  })
  const { statusCode, headers, readable, writable, closed } = await app.injectDuplex(ask[kind])
  t.equal(statusCode, STATUS[http][kind])
  t.equal(headers['x-hook'], 'ran')
  t.equal(headers.upgrade, kind === 'upgrade' && http === 1 ? 'foo' : undefined)
  t.equal(Object.keys(headers).some(name => name.startsWith(':')), false)
  for (const word of ['ping', 'pong']) {
    writable.write(word)
    t.equal(String((await once(readable, 'data'))[0]), word)
  }
  writable.end('bye')
  t.equal((await all(readable)).toString(), 'bye')
  t.same(await closed, { complete: true })
  await nothingLeft(app)
})

onEachInjected(t, 'I1 early bytes come first, in one chunk with the head', async (t, kind) => {
  const chunks: string[] = []
  const heads: string[] = []
  const app = await build(t, app => {
    app.server.on('connection', (socket: Socket) => socket.on('data', chunk => { chunks.push(String(chunk)) }))
    take(app, connection => {
      heads.push(connection.head.toString())
      return echo(connection)
    })
  })
  const { body, writable } = await app.injectDuplex({ ...ask[kind], early: Buffer.from('EARLY') })
  writable.end(', late')
  t.equal((await body()).toString(), 'EARLY, late')
  t.match(chunks[0], kind === 'body' ? /\r\n\r\n5\r\nEARLY\r\n$/ : /\r\n\r\nEARLY$/)
  t.equal(heads[0], kind === 'body' ? '' : 'EARLY')
})

t.test('I1 early bytes are in the chunk of the head however many they are', async t => {
  const lengths: number[] = []
  const app = await build(t, app => take(app, connection => {
    lengths.push(connection.head.length)
    return echo(connection)
  }))
  const early = randomBytes(MiB)
  for (const kind of streamKinds) {
    const { body, writable } = await app.injectDuplex({ ...ask[kind], early })
    writable.end()
    t.ok((await body()).equals(early), kind)
  }
  t.same(lengths, [MiB, MiB, MiB])
})

t.test('I1 the payload of an upgrade is its body, and the stream starts behind it', async t => {
  const app = await build(t, app => app.post('/it', {
    duplex: { kinds: ['upgrade'] }, schema: { body: { type: 'object', required: ['cmd'] } }
  }, ({ readable, writable, head }, { body }) => {
    writable.write(`${JSON.stringify(body)} ${head.toString()} `)
    return pipeline(readable, writable)
  }))
  const { statusCode, writable, body } = await app.injectDuplex({
    method: 'POST', url: '/it', protocol: 'tcp', payload: { cmd: 'ls' }, early: 'early'
  })
  t.equal(statusCode, 101)
  writable.end(' late')
  t.equal((await body()).toString(), '{"cmd":"ls"} early early late')

  const refused = await app.injectDuplex({ method: 'POST', url: '/it', protocol: 'tcp', payload: {} })
  t.equal(refused.statusCode, 400)
  t.match((await refused.body()).toString(), 'FST_ERR_VALIDATION')
})

t.test('I1 protocols are offered in order', async t => {
  const app = await build(t, app => app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['two', 'three'] } }, ({ protocol, writable }, { headers }) => {
    writable.end(`${headers.upgrade}: ${protocol}`)
  }))
  const { headers, body } = await app.injectDuplex({ url: '/it', protocol: ['one', 'THREE', 'two'] })
  t.equal(headers.upgrade, 'three')
  t.equal((await body()).toString(), 'one, THREE, two: three')
  const own = await app.injectDuplex({ url: '/it', headers: { Connection: 'keep-alive, Upgrade', Upgrade: 'two' } })
  t.equal(own.statusCode, 101)
  own.writable.end()
  t.equal((await app.injectDuplex({ url: '/it', protocol: [] })).statusCode, 426, 'no token is no upgrade')
})

t.test('I1 the request has the fields that were given, a Host, and no others', async t => {
  const app = await build(t, app => take(app, async ({ kind, writable }, { raw }) => {
    writable.end(JSON.stringify({ kind, raw: raw.rawHeaders }))
  }))
  const sent = async (options: InjectDuplexOptions): Promise<unknown> => {
    const { body } = await app.injectDuplex(options)
    return JSON.parse((await body()).toString())
  }
  t.same(await sent({ url: '/it', headers: { 'X-Own': 'a', host: undefined } }), { kind: 'hijack', raw: ['host', 'localhost:80', 'x-own', 'a'] })
  t.same(await sent({ method: 'POST', url: '/it' }), { kind: 'hijack', raw: ['host', 'localhost:80'] }, 'a POST that declares no body')
  t.same(await sent({ url: '/it', headers: { Host: 'own' }, protocol: 'x' }),
    { kind: 'upgrade', raw: ['host', 'own', 'upgrade', 'x', 'connection', 'Upgrade'] })
  t.same(await sent(ask.connect), { kind: 'connect', raw: ['host', 'it.example:443'] })
  t.same(await sent({ method: 'POST', url: '/it', payload: 'four' }), { kind: 'body', raw: ['host', 'localhost:80', 'content-length', '4'] })
  t.same(await sent({ url: '/it', payload: [1] }),
    { kind: 'body', raw: ['host', 'localhost:80', 'content-type', 'application/json', 'content-length', '3'] })
})

onBothVersions(t, 'I1 a body is answered before its request has ended', async (t, build, _kinds, http) => {
  const app = await build(t, app => take(app, async ({ readable, writable }) => {
    writable.write('who? ')
    for await (const chunk of readable) writable.write(`hello ${String(chunk)} `)
  }))
  for (const headers of [{ 'Transfer-Encoding': 'chunked' }, { 'content-length': 4 }]) {
    const response = await app.injectDuplex({ method: 'POST', url: '/it', headers })
    if (http === 1) t.equal(response.headers.connection, 'keep-alive', 'the connection could serve again')
    t.equal((await pieceOf(response)).toString(), 'who? ')
    response.writable.end('Anna')
    t.equal((await response.body()).toString(), 'hello Anna ')
    t.same(await response.closed, { complete: true })
  }
})

onBothVersions(t, 'I1 what body() leaves open is ended by it', async (t, build, kinds) => {
  const app = await build(t, app => take(app, async ({ readable, writable }) => {
    writable.end('all I have to say')
    await all(readable)
  }))
  for (const kind of kinds) {
    const { body, closed } = await app.injectDuplex(ask[kind])
    t.equal((await body()).toString(), 'all I have to say', kind)
    t.same(await closed, { complete: true })
  }
  await nothingLeft(app)
})

onBoth(t, 'I1 half-close: the client ends first and gets what is written late', async (t, kind, build) => {
  const late = randomBytes(MiB)
  const app = await build(t, app => take(app, async ({ readable, writable }) => {
    t.equal((await all(readable)).toString(), 'question')
    await turn()
    writable.end(late)
  }))
  const { writable, readable, closed } = await app.injectDuplex(ask[kind])
  writable.end('question')
  t.ok((await all(readable)).equals(late))
  t.same(await closed, { complete: true })
  await nothingLeft(app)
})

onBothVersions(t, 'I1 a write to a body that was not declared is an error with a code', async (t, build) => {
  const app = await build(t, app => { app.put('/it', { duplex: { kinds: ['body'] } }, echo) })
  const { statusCode, writable, closed } = await app.injectDuplex({ method: 'PUT', url: '/it' })
  t.equal(statusCode, 200)
  const failed = once(writable, 'error')
  writable.write('lost')
  t.match(await failed, [{ code: 'FST_ERR_DUPLEX_INVALID_INJECTION', message: /transfer-encoding: chunked/ }])
  t.same(await closed, { complete: true }, 'and is no end of the connection')
  const quiet = await app.injectDuplex({ method: 'PUT', url: '/it' })
  quiet.writable.end()
  t.equal(String(await quiet.body()), '', 'to end it is no error')
  const whole = await app.injectDuplex({ method: 'PUT', url: '/it', payload: 'all of it' })
  const behind = once(whole.writable, 'error')
  whole.writable.write('more')
  t.match(await behind, [{ code: 'FST_ERR_DUPLEX_INVALID_INJECTION' }], 'nor can anything follow a payload')
  t.equal(String(await whole.body()), 'all of it')
  await nothingLeft(app)
})

onBoth(t, 'I1 half-close: the server ends first and gets what is written late', async (t, kind, build) => {
  const late = randomBytes(MiB)
  const received = gate<Buffer>()
  const app = await build(t, app => take(app, async ({ readable, writable, closed }) => {
    writable.end('answer')
    received.open(await all(readable))
    await closed
  }))
  const { writable, readable, closed } = await app.injectDuplex(ask[kind])
  t.equal((await all(readable)).toString(), 'answer')
  for (let turns = 0; turns < 5; turns++) await turn()
  t.equal(writable.writableEnded, false)
  writable.end(late)
  t.ok((await received.promise).equals(late))
  t.same(await closed, { complete: true })
  await nothingLeft(app)
})

onBothVersions(t, 'I1 a FIN that comes before anybody reads is not lost', async (t, build, kinds) => {
  const app = await build(t, app => take(app, ({ writable }) => { writable.end('brief') }))
  for (const kind of kinds) {
    const { readable, writable } = await app.injectDuplex(ask[kind])
    writable.end()
    for (let turns = 0; turns < 20; turns++) await turn()
    t.equal(await outcome(readable), 'end after "brief"', kind)
  }
})

for (const half of ['readable', 'writable'] as const) {
  onBoth(t, `I1 a client that destroys its ${half} is gone for the server`, async (t, kind, build) => {
    const over = gate<unknown>()
    const app = await build(t, app => take(app, async ({ writable, signal, closed }) => {
      writable.write('hello')
      await once(signal, 'abort')
      over.open({ reason: (await closed).reason, code: (signal.reason as { code: string }).code })
    }))
    const response = await app.injectDuplex(ask[kind])
    await pieceOf(response)
    response[half].destroy()
    t.same(await over.promise, { reason: 'abort', code: 'FST_ERR_DUPLEX_ABORTED' })
    t.equal((await response.closed).complete, false)
    await nothingLeft(app)
  })
}

const breaks: Record<string, (connection: DuplexConnection) => unknown> = {
  'a handler that rejects': async () => { throw new Error('on purpose') },
  'connection.destroy()': connection => connection.destroy(),
  'readable.destroy()': ({ readable, closed }) => { readable.destroy(); return closed },
  'writable.destroy(error)': ({ writable, closed }) => { writable.destroy(new Error('on purpose')); return closed }
}

for (const [how, act] of Object.entries(breaks)) {
  onBoth(t, `I1 a stream that the server breaks off never looks complete, after ${how}`, async (t, kind, build) => {
    const app = await build(t, app => take(app, async connection => {
      connection.writable.write('half')
      for (let turns = 0; turns < 5; turns++) await turn()
      await act(connection)
    }))
    const { body, closed } = await app.injectDuplex(ask[kind])
    await t.rejects(body(), { code: 'ECONNRESET' })
    t.match(await closed, { complete: false, error: { code: 'ECONNRESET' } })

    // Nobody reads, and nobody listens for errors.
    const unread = await app.injectDuplex(ask[kind])
    t.match(await unread.closed, { complete: false, error: { code: 'ECONNRESET' } })
    t.match(await outcome(unread.readable), /^(?:ECONNRESET|ERR_STREAM_PREMATURE_CLOSE)$/, 'not even afterwards')
    await nothingLeft(app)
  })
}

onBoth(t, 'I1 a handler that fails at once is a reset behind its accept head', async (t, kind, build, http) => {
  const app = await build(t, app => take(app, () => { throw new Error('on purpose') }))
  const { statusCode, body } = await app.injectDuplex(ask[kind])
  t.equal(statusCode, STATUS[http][kind])
  await t.rejects(body(), { code: 'ECONNRESET' })
})

t.test('I1 an end in order behind everything else is complete for a response that has no length', async t => {
  const app = await build(t, app => take(app, async ({ writable }) => { writable.end('whole') }))
  const { readable, closed, writable } = await app.injectDuplex(ask.hijack)
  t.equal(await outcome(readable), 'end after "whole"')
  writable.destroy()
  t.same(await closed, { complete: true })
})

onBoth(t, 'I1 a loop over readable leaves the other half open, and a break leaves the rest to be read', async (t, kind, build) => {
  const heard = gate<string>()
  const app = await build(t, app => take(app, async ({ readable, writable }) => {
    writable.write('line\n')
    await once(readable, 'data')
    writable.end('rest')
    heard.open((await all(readable)).toString())
  }))
  const { readable, writable } = await app.injectDuplex(ask[kind])
  let line = ''
  for await (const chunk of readable) {
    line += String(chunk)
    if (line.endsWith('\n')) break
  }
  t.equal(line, 'line\n')
  writable.write('go')
  t.equal((await all(readable)).toString(), 'rest')
  writable.end('after all')
  t.equal(await heard.promise, 'after all')
})

const refusals: Record<string, { status: number, code?: string, declare: (app: FastifyInstance) => unknown, settings?: Settings }> = {
  'an onRequest hook': {
    status: 401,
    declare: app => take(app, echo, true, { onRequest: async (_request, reply) => reply.code(401).send({ code: 'NO' }) }),
    code: 'NO'
  },
  'a hook that throws': {
    status: 500,
    declare: app => take(app, echo, true, { preHandler: async () => { throw Object.assign(new Error('no'), { code: 'OWN' }) } }),
    code: 'OWN'
  },
  'a manual handler': {
    status: 403,
    declare: app => takeManually(app, async ({ reply }) => reply.code(403).send({ code: 'NO' })),
    code: 'NO'
  },
  'a manual handler, with a stream': {
    status: 502,
    declare: app => takeManually(app, async ({ reply }) => reply.code(502).send(Readable.from(['{"code":', '"STREAMED"}']))),
    code: 'STREAMED'
  },
  'its slots': {
    status: 503,
    declare: app => take(app, echo, { maxConnections: 0 }),
    code: 'FST_ERR_DUPLEX_MAX_CONNECTIONS'
  },
  handlerTimeout: {
    status: 503,
    declare: app => take(app, echo, true, { handlerTimeout: 30, preHandler: async () => { await new Promise(() => {}) } }),
    code: 'FST_ERR_HANDLER_TIMEOUT'
  },
  handshakeTimeout: {
    status: 503,
    declare: app => take(app, echo, { handshakeTimeout: 30 }, { preHandler: async () => { await new Promise(() => {}) } }),
    code: 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT'
  }
}

for (const [why, { status, code, declare }] of Object.entries(refusals)) {
  onBoth(t, `I1 refused by ${why}: resolves with status, headers and body, and the connection closes`, async (t, kind, build, http) => {
    const app = await build(t, app => declare(app))
    const { statusCode, headers, body, closed } = await app.injectDuplex({ ...ask[kind], early: 'early' })
    t.equal(statusCode, status)
    t.equal((JSON.parse((await body()).toString()) as { code: string }).code, code)
    if (kind !== 'body') t.equal(headers.connection, http === 1 ? 'close' : undefined)
    t.same(await closed, { complete: true })
    await nothingLeft(app)
  })
}

t.test('I1 refused before there is a route: 400, 404, 426 and 503 with their bodies', async t => {
  const app = await build(t, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
    app.post('/it', { duplex: true }, echo)
  })
  const refused = async (options: InjectDuplexOptions): Promise<[number, string]> => {
    const { statusCode, body } = await app.injectDuplex(options)
    const { code, message } = JSON.parse((await body()).toString()) as { code?: string, message: string }
    return [statusCode, code ?? message]
  }
  t.same(await refused({ url: '/nowhere', protocol: 'foo' }), [404, 'Route GET:/nowhere not found'])
  t.same(await refused({ url: '/it', protocol: 'bar' }), [426, 'FST_ERR_DUPLEX_UPGRADE_REQUIRED'])
  t.same(await refused({ url: '/it' }), [426, 'FST_ERR_DUPLEX_UPGRADE_REQUIRED'])
  t.same(await refused({ url: '/it/%zz', protocol: 'foo' }), [400, 'FST_ERR_BAD_URL'])
  t.same(await refused({ method: 'POST', url: '/it', protocol: 'a b' }), [400, 'FST_ERR_DUPLEX_BAD_UPGRADE'])
  t.same(await refused({ method: 'CONNECT', url: 'no-port' }), [400, 'FST_ERR_DUPLEX_BAD_TARGET'])
  t.same(await refused({ method: 'CONNECT', url: 'a:1' }), [404, 'FST_ERR_DUPLEX_NO_ROUTE'])
  t.same(await refused({ method: 'CONNECT', url: 'a:1', headers: { 'content-length': 4 }, early: 'body' }), [400, 'FST_ERR_DUPLEX_CONNECT_BODY'])
  t.same(await refused({ method: 'POST', url: '/it', protocol: 'foo', headers: { 'transfer-encoding': 'chunked' } }),
    [411, 'FST_ERR_DUPLEX_LENGTH_REQUIRED'])
  t.equal((await app.injectDuplex({ method: 'HEAD', url: '/it' })).statusCode, 426)
  await app.duplex.drain()
  t.same(await refused({ url: '/it', protocol: 'foo' }), [503, 'FST_ERR_DUPLEX_SHUTDOWN'])
  t.same(await refused({ method: 'POST', url: '/it', headers: { 'transfer-encoding': 'chunked' } }), [503, 'FST_ERR_DUPLEX_SHUTDOWN'])
})

onBothVersions(t, 'I1 a refusal that nobody reads holds nothing up', async (t, build, kinds) => {
  const app = await build(t, app => take(app, echo, true, { onRequest: async (_request, reply) => reply.code(401).send({ no: true }) }))
  for (const kind of kinds) t.same(await (await app.injectDuplex(ask[kind])).closed, { complete: true }, kind)
})

onBothVersions(t, 'I1 a plain route answers too, and its stream arrives whole', async (t, build, _kinds, http) => {
  const app = await build(t, app => {
    app.get('/plain', async () => Readable.from(['in ', 'pieces']))
    app.get('/empty', async (_request, reply) => reply.code(204).send())
  })
  const { statusCode, body, closed } = await app.injectDuplex({ url: '/plain', ...(http === 1 ? { protocol: 'foo' } : {}) })
  t.equal(statusCode, 200)
  t.equal((await body()).toString(), 'in pieces')
  t.same(await closed, { complete: true })
  const empty = await app.injectDuplex({ url: '/empty' })
  t.equal(empty.statusCode, 204)
  t.equal((await empty.body()).length, 0)
})

onBothVersions(t, 'I1 responses that are not the last are passed over', async (t, build, _kinds, http) => {
  const app = await build(t, app => take(app, echo, true, {
    onRequest: (_request, reply, done) => {
      reply.raw.writeEarlyHints({ link: '</a.css>; rel=preload' })
      done()
    }
  }))
  const continued: InjectDuplexOptions = { ...ask.body, headers: { ...ask.body.headers, Expect: '100-continue' } }
  for (const options of [ask.upgrade, ...(http === 1 ? [ask.hijack] : []), ask.connect, continued]) {
    const { statusCode, writable, body } = await app.injectDuplex(options)
    t.equal(statusCode, options === ask.upgrade ? STATUS[http].upgrade : 200)
    writable.end('through')
    t.equal((await body()).toString(), 'through')
  }
  const refused = await app.injectDuplex({ method: 'CONNECT', url: 'no-port' })
  t.equal(refused.statusCode, 400)
})

onBoth(t, 'I1 cookies go both ways', async (t, kind, build) => {
  const app = await build(t, async app => {
    await app.register(cookie)
    app.addHook('onRequest', async (request, reply) => {
      reply.setCookie('seen', request.cookies.who ?? 'nobody').setCookie('more', '1')
    })
    take(app, async () => {})
  })
  const { headers } = await app.injectDuplex({ ...ask[kind], headers: { ...ask[kind].headers, cookie: 'who=me' } })
  t.same(headers['set-cookie'], ['seen=me; SameSite=Lax', 'more=1; SameSite=Lax'])
})

t.test('I1 before ready() it waits for it, and without listen()', async t => {
  const order: string[] = []
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  void app.register(async app => {
    await turn()
    order.push('plugin')
    app.get('/late', { duplex: true }, echo)
  })
  app.addHook('onReady', async () => { order.push('ready') })
  const { statusCode, writable } = await app.injectDuplex({ url: '/late', protocol: 'foo' })
  writable.end()
  t.equal(statusCode, 101)
  t.same(order, ['plugin', 'ready'])
  t.equal(app.server.listening, false)
})

onBothVersions(t, 'I1 an app that does not boot makes it reject', async (t, build) => {
  const app = await build(t, app => {
    app.addHook('onReady', async () => { throw new Error('no boot') })
  }, { close: false })
  await t.rejects(app.injectDuplex({ url: '/it' }), { message: 'no boot' })
})

t.test('I1 it works beside real connections, and from an encapsulated instance', async t => {
  const app = await build(t, app => {
    void app.register(async child => {
      child.get('/it', { duplex: true }, echo)
      child.get('/again', { duplex: true }, async ({ readable, writable }) => {
        const inner = await child.injectDuplex({ url: '/it', protocol: 'foo' })
        await Promise.all([pipeline(readable, inner.writable), pipeline(inner.readable, writable)])
      })
    })
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { writable, body } = await app.injectDuplex({ url: '/again', protocol: 'foo' })
  writable.end('twice')
  t.equal((await body()).toString(), 'twice')
})

t.test('I1 handlers get a net.Socket, with what HTTP and its users expect of one', async t => {
  const seen = gate<Record<string, unknown>>()
  const app = await build(t, app => app.get('/it', { duplex: true }, async ({ readable }, request) => {
    const socket = readable as Socket
    socket.setNoDelay(true).setKeepAlive(true, 1000).ref().unref()
    seen.open({
      socket: socket instanceof Socket && socket === request.socket,
      remoteAddress: socket.remoteAddress,
      ip: request.ip,
      protocol: request.protocol,
      connecting: socket.connecting,
      pending: socket.pending,
      state: socket.readyState,
      address: socket.address()
    })
  }))
  await app.injectDuplex({ url: '/it', protocol: 'foo' })
  t.same(await seen.promise, {
    socket: true,
    remoteAddress: '127.0.0.1',
    ip: '127.0.0.1',
    protocol: 'http',
    connecting: false,
    pending: false,
    state: 'open',
    address: { address: '127.0.0.1', family: 'IPv4', port: 0 }
  })
})

onBoth(t, 'I1 bytes are counted as on any connection', async (t, kind, build) => {
  const app = await build(t, app => take(app, echo))
  const { writable, body } = await app.injectDuplex(ask[kind])
  const [connection] = app.duplex.connections as Set<DuplexConnection>
  writable.end('éight b')
  t.equal((await body()).length, 8)
  t.match(await connection?.closed, { reason: 'end', bytesRead: 8, bytesWritten: 8 })
})

t.test('I1 detach() gives the socket away', async t => {
  const app = await build(t, app => app.get('/it', { duplex: { accept: 'manual', kinds: ['upgrade'] } }, pending => {
    const { socket, head } = pending.detach()
    socket.resume()
    socket.end(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\nown ${head.toString()}`)
  }))
  const { headers, body } = await app.injectDuplex({ url: '/it', protocol: 'own', early: 'early' })
  t.equal(headers.upgrade, 'own')
  t.equal((await body()).toString(), 'own early')
})

onBoth(t, 'I1 the signal of the client, while a handler decides, aborts request.signal and rejects', async (t, kind, build) => {
  const entered = gate()
  const aborted = gate()
  const hooks: string[] = []
  const app = await build(t, app => takeManually(app, async (pending, request) => {
    const over = once(request.signal, 'abort')
    entered.open()
    await over
    t.equal(pending.signal.aborted, true)
    aborted.open()
  }, { handlerTimeout: 60_000, onRequestAbort: (_request, done) => { hooks.push('onRequestAbort'); done() } }))
  const client = new AbortController()
  const response = app.injectDuplex({ ...ask[kind], signal: client.signal })
  response.catch(() => {})
  await entered.promise
  client.abort()
  await t.rejects(response, { name: 'AbortError' })
  await aborted.promise
  await nothingLeft(app)
  t.same(hooks, ['onRequestAbort'])
})

onBothVersions(t, 'I1 the signal of the client, once there is an answer, resets the connection', async (t, build, kinds) => {
  const app = await build(t, app => take(app, echo))
  for (const kind of kinds) {
    const client = new AbortController()
    const { closed } = await app.injectDuplex({ ...ask[kind], signal: client.signal })
    const [connection] = app.duplex.connections as Set<DuplexConnection>
    client.abort()
    t.equal((await closed).complete, false, kind)
    t.equal((await connection?.closed)?.reason, 'abort')
  }
})

t.test('I1 a client that reads late, when all has come and the server is gone, gets all of it and the end', async t => {
  for (const text of ['all', '']) {
    const app = await build(t, app => take(app, ({ writable }) => { writable.end(text) }))
    const { readable, writable } = await app.injectDuplex(ask.upgrade)
    const [connection] = app.duplex.connections as Set<DuplexConnection>
    writable.end()
    await connection?.closed
    for (let turns = 20; turns > 0; turns--) await turn()
    let got = ''
    readable.on('data', chunk => { got += String(chunk) })
    await once(readable, 'end')
    t.equal(got, text)
  }
})

t.test('I1 the signal of a client has no listener of a connection that is over', async t => {
  const app = await build(t, app => take(app, echo))
  const { signal } = new AbortController()
  for (let count = 0; count < 3; count++) {
    const { writable, readable, closed } = await app.injectDuplex({ ...ask.upgrade, signal })
    writable.end()
    await all(readable)
    await closed
    t.same(getEventListeners(signal, 'abort'), [])
  }
})

t.test('I1 a Connection field that is given is sent as it is', async t => {
  const fields: (string | undefined)[] = []
  const app = await build(t, app => take(app, (connection, { headers }) => {
    fields.push(headers.connection)
    return echo(connection)
  }))
  for (const connection of ['x-own, Upgrade', 'upgrade']) {
    const { writable, readable } = await app.injectDuplex({ ...ask.upgrade, headers: { connection } })
    writable.end()
    await all(readable)
  }
  t.same(fields, ['x-own, Upgrade', 'upgrade'])
})

t.test('I1 connectionTimeout counts silence: what the server writes is none', async t => {
  const app = await build(t, app => take(app, async ({ writable }) => {
    for (let count = 0; count < 20; count++) {
      writable.write('x')
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }), { fastify: { connectionTimeout: 150 } })
  const { body } = await app.injectDuplex({ ...ask.body, payload: 'hi' })
  t.equal((await body()).toString(), 'x'.repeat(20))
})

t.test('I1 onTimeout hooks run when the connection is silent for too long', async t => {
  // Timers of sockets keep no process alive, and here no socket does.
  const alive = setInterval(() => {}, 1000)
  t.teardown(() => clearInterval(alive))
  const timedOut = gate()
  const app = await build(t, app => takeManually(app, async ({ reply }) => {
    await timedOut.promise
    return reply.code(200).send('late')
  }, {
    onTimeout: (_request, _reply, done) => {
      timedOut.open()
      done()
    }
  }), { fastify: { connectionTimeout: 40 } })
  await app.injectDuplex({ ...ask.body, early: 'hi' }).catch(() => {})
  await t.resolves(timedOut.promise)
})

onBothVersions(t, 'I1 idleTimeout, finTimeout and maxLifetime hold', async (t, build) => {
  for (const [plugin, reason] of [[{ idleTimeout: 40 }, 'idle'], [{ finTimeout: 40 }, 'fin'], [{ maxLifetime: 40 }, 'lifetime']] as const) {
    const app = await build(t, app => take(app, ({ closed, writable }) => reason === 'fin' ? writable.end() : closed), { plugin })
    const { closed } = await app.injectDuplex(ask.upgrade)
    const [connection] = app.duplex.connections as Set<DuplexConnection>
    if (reason === 'fin') await connection?.close()
    t.equal((await connection?.closed)?.reason, reason)
    t.equal((await closed).complete, reason === 'fin', 'what was ended had an end')
  }
})

t.test('I1 a server that closes without an answer makes it reject', async t => {
  const app = await build(t, app => {
    app.get('/end', (request, reply) => { reply.hijack(); request.raw.socket.end() })
    app.get('/destroy', (request, reply) => { reply.hijack(); request.raw.socket.destroy() })
    app.get('/reset', (request, reply) => { reply.hijack(); request.raw.socket.resetAndDestroy() })
    takeManually(app, pending => { pending.destroy() })
  })
  for (const url of ['/end', '/destroy', '/reset']) await t.rejects(app.injectDuplex({ url }), { code: 'ECONNRESET' })
  for (const kind of everyKind) await t.rejects(app.injectDuplex(ask[kind]), { code: 'ECONNRESET' }, kind)
})

t.test('I1 requests that cannot be sent reject with a coded error', async t => {
  const app = await build(t, app => take(app, echo))
  const wrong: unknown[] = [
    undefined, '/it', {}, { url: '' }, { url: 5 }, { url: '/it', method: 5 }, { url: '/it', method: 'A B' }, { url: '/a b' },
    { url: '/it', headers: 'x' }, { url: '/it', headers: ['a', 'b'] }, { url: '/it', headers: { 'a b': 'c' } },
    { url: '/it', headers: { a: 'b\r\nc: d' } }, { url: '/it', protocol: 5 }, { url: '/it', protocol: '' }, { url: '/it', protocol: ['a', 5] },
    { url: '/it', protocol: 'a\r\nb' }, { url: '/it', payload: 5 }, { url: '/it', payload: null }, { url: '/it', payload: Readable.from('x') },
    { url: '/it', early: {} }, { url: '/it', signal: {} }, { url: '/it', body: 'x' }, { method: 'POST', url: '/it', payload: 'all', early: 'more' }
  ]
  for (const options of wrong) {
    await t.rejects(app.injectDuplex(options as InjectDuplexOptions),
      { code: 'FST_ERR_DUPLEX_INVALID_INJECTION', name: 'FastifyError' }, JSON.stringify(options) ?? 'undefined')
  }
  await t.rejects(app.injectDuplex({ url: '/it', headers: { a: 'b\nc' } }), { cause: { code: 'ERR_INVALID_CHAR' } })
})

t.test('I1 a server that speaks neither HTTP/1 nor HTTP/2 is no server for it', async t => {
  const app = await build(t, () => {})
  await app.ready()
  const real = app.server
  app.server = createServer() as typeof app.server
  await t.rejects(app.injectDuplex({ url: '/it' }), { code: 'FST_ERR_DUPLEX_CANNOT_INJECT' })
  app.server = real
})

t.test('I1 an https server is spoken to without TLS, and takes it for TLS', async t => {
  const app = await build(t, app => {
    app.get('/it', { duplex: true }, ({ readable, writable }, { protocol, ip }) => {
      writable.write(`${protocol} ${ip} `)
      return pipeline(readable, writable)
    })
    app.get('/plain', async () => 'plain')
  }, { fastify: { https: tlsOptions } })
  const { statusCode, writable, body } = await app.injectDuplex({ url: '/it', protocol: 'foo', early: 'early' })
  t.equal(statusCode, 101)
  writable.end(', late')
  t.equal((await body()).toString(), 'https 127.0.0.1 early, late')
  t.equal((await (await app.injectDuplex({ url: '/plain', protocol: 'foo' })).body()).toString(), 'plain', 'an ignored Upgrade as well')
})

t.test('I1 app.inject() on a duplex route says what to use', async t => {
  const app = await build(t, app => take(app, echo))
  for (const method of ['GET', 'POST'] as const) {
    const response = await app.inject({ method, url: '/it', ...(method === 'POST' ? { payload: 'x' } : {}) })
    t.equal(response.statusCode, 500)
    t.match(response.json(), { code: 'FST_ERR_DUPLEX_NO_CONNECTION', message: /app\.injectDuplex\(\)/ })
  }
})

onBoth(t, 'I1 app.close() tells the handlers of injected connections, and waits for them', async (t, kind, build) => {
  const app = await build(t, app => take(app, async ({ draining, writable, readable }) => {
    await once(draining, 'abort')
    writable.write('goodbye')
    readable.resume()
  }), { close: false })
  const { body, closed, writable } = await app.injectDuplex(ask[kind])
  const closing = app.close()
  writable.end()
  t.equal((await body()).toString(), 'goodbye')
  await closing
  t.same(await closed, { complete: true })
  t.equal(app.duplex.connections.size, 0)
})

onBothVersions(t, 'I1 app.close() resolves with injected connections of every kind that nobody ends', async (t, build, kinds) => {
  let responses = 0
  const app = await build(t, app => {
    app.addHook('onResponse', async () => { responses++ })
    app.get('/plain', async () => Readable.from(['never read ', 'by anybody']))
    take(app, ({ closed }) => closed)
  }, { close: false, plugin: { drainTimeout: 50 } })
  const open = await Promise.all([...kinds, ...kinds].map(kind => app.injectDuplex(ask[kind])))
  await app.injectDuplex({ url: '/plain' })
  await app.close()
  t.equal(app.duplex.connections.size, 0)
  t.equal(responses, 2 * kinds.length + 1)
  for (const { closed } of open) t.equal((await closed).complete, false)
})

onBothVersions(t, 'I1 app.close() does not wait for a client that was forgotten, where the server has ended', async (t, build, kinds) => {
  for (const kind of kinds) {
    const app = await build(t, app => take(app, async ({ writable, draining }, { url }) => {
      writable.end('bye')
      if (url.endsWith('late')) await once(draining, 'abort')
    }), { close: false, plugin: { drainTimeout: 60_000 } })
    await app.injectDuplex(ask[kind])
    await app.injectDuplex({ ...ask[kind], ...(kind === 'connect' ? {} : { url: '/it?late' }) })
    await app.close()
    t.equal(app.duplex.connections.size, 0, kind)
  }
})

onBothVersions(t, 'I1 after app.close() it resolves with a 503', async (t, build, kinds) => {
  const app = await build(t, app => take(app, echo), { close: false })
  await app.ready()
  await app.close()
  for (const kind of kinds) t.equal((await app.injectDuplex(ask[kind])).statusCode, 503, kind)
})

onBothVersions(t, 'I1 backpressure holds both ways', async (t, build, kinds) => {
  const most = 512 * 1024
  const app = await build(t, app => take(app, ({ writable, closed }) => {
    writable.write(Buffer.alloc(8 * MiB))
    return closed
  }), { plugin: { idleTimeout: 60 } })
  for (const kind of kinds) {
    const { readable, writable } = await app.injectDuplex(ask[kind])
    const [connection] = app.duplex.connections as Set<DuplexConnection>
    t.equal(writable.write(Buffer.alloc(8 * MiB)), false)
    const { reason, bytesRead } = await (connection as DuplexConnection).closed
    t.equal(reason, 'idle', kind)
    t.ok(bytesRead <= most, `${bytesRead} bytes were read`)
    t.ok(readable.readableLength <= most)
  }
})

onBothVersions(t, 'I1 8 MiB go both ways at once', async (t, build, kinds) => {
  const app = await build(t, app => take(app, echo))
  const bytes = randomBytes(8 * MiB)
  for (const kind of kinds) {
    const { writable, body } = await app.injectDuplex(ask[kind])
    for (let at = 0; at < bytes.length; at += 100_000) writable.write(bytes.subarray(at, at + 100_000))
    writable.end()
    t.ok((await body()).equals(bytes), kind)
  }
})

onBothVersions(t, 'I1 a buffer is its writer\'s again as soon as the write has left', async (t, build) => {
  const app = await build(t, app => take(app, echo))
  const { writable, body } = await app.injectDuplex(ask.upgrade)
  const buffer = Buffer.from('one ')
  for (const word of ['one ', 'two ', 'six ']) {
    buffer.write(word)
    await new Promise(resolve => writable.write(buffer, resolve))
  }
  writable.end()
  t.equal((await body()).toString(), 'one two six ')
})

onBothVersions(t, 'I1 a clock that a test puts in the place of setImmediate does not stop it', async (t, build) => {
  const app = await build(t, app => take(app, echo))
  await app.ready()
  const real = globalThis.setImmediate
  globalThis.setImmediate = (() => ({})) as unknown as typeof setImmediate
  try {
    const { writable, body } = await app.injectDuplex(ask.upgrade)
    writable.end('on')
    t.equal((await body()).toString(), 'on')
  } finally {
    globalThis.setImmediate = real
  }
})

// test/slow counts the bytes that a thousand of them leave.
onBothVersions(t, 'I1 injections leave no listener, and nothing of them is kept', async (t, build, kinds) => {
  const warnings: Error[] = []
  const warn = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', warn)
  t.teardown(() => process.removeListener('warning', warn))
  const gc = collector()
  const kept: WeakRef<object>[] = []
  const app = await build(t, app => declareEnds(app, connection => {
    kept.push(new WeakRef(connection), new WeakRef(connection.reply.request))
    return echo(connection)
  }))
  await everyEnd(app, kinds)
  const listeners = countListeners(app.server, process)
  for (let n = 0; n < 15; n++) await everyEnd(app, kinds, response => kept.push(new WeakRef(response)))
  const left = (): number => kept.filter(one => one.deref() !== undefined).length
  for (let times = 0; times < 20 && left() > 0; times++) {
    await turn()
    gc()
  }
  t.equal(left(), 0, `none of ${kept.length}`)
  t.equal(countListeners(app.server, process), listeners)
  t.same(warnings, [])
})

t.test('I1 a payload that has no JSON is a coded rejection', async t => {
  const app = Fastify()
  await app.register(duplex)
  app.post('/it', { duplex: true }, () => {})
  t.teardown(() => app.close())
  const circular: Record<string, unknown> = {}
  circular.self = circular
  for (const payload of [circular, { big: 1n }, { toJSON: () => undefined }]) {
    await t.rejects(app.injectDuplex({ method: 'POST', url: '/it', payload }), { code: 'FST_ERR_DUPLEX_INVALID_INJECTION' })
  }
})
