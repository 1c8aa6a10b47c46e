import t from 'tap'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import http2, { type Http2ServerRequest, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import duplex, { type DuplexConnection, type FastifyDuplexOptions, type InjectDuplexOptions } from '../lib/index.ts'
import { resetStream } from '../lib/internals/http2.ts'
import { framesIn, PREFACE, storyOf, type Frame } from './fixtures/http2-frames.ts'
import { take } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { gate, tlsOptions } from './fixtures/server.ts'
import { all, MiB, pattern, sha256 } from './fixtures/takeover.ts'

// What is particular to HTTP/2; what is not, inject.test.ts tries over both versions.

const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR } = http2.constants

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

const UPGRADE: InjectDuplexOptions = { url: '/it', protocol: 'foo' }
const CONNECT: InjectDuplexOptions = { method: 'CONNECT', url: 'it.example:443' }
const MESSAGE: InjectDuplexOptions = { method: 'POST', url: '/it', headers: { 'transfer-encoding': 'chunked' } }
const requests = { upgrade: UPGRADE, connect: CONNECT, message: MESSAGE }

/** An app that speaks HTTP/2 and listens to nothing. */
async function build (
  t: Test, declare: (app: FastifyInstance) => unknown, { fastify, plugin }: { fastify?: object, plugin?: FastifyDuplexOptions } = {}
): Promise<FastifyInstance> {
  const app = Fastify({ http2: true, ...fastify } as unknown as FastifyServerOptions) as FastifyInstance
  await app.register(duplex, { extendedConnect: true, ...plugin })
  await declare(app)
  t.teardown(() => app.close())
  return app
}

/** The server's ends of the connections that are made. */
function sockets (app: FastifyInstance): Socket[] {
  const made: Socket[] = []
  app.server.on('connection', (socket: Socket) => { made.push(socket) })
  return made
}

/** What the server gets on each connection, in the chunks in which it comes. */
function received (app: FastifyInstance): Buffer[][] {
  const connections: Buffer[][] = []
  app.server.on('connection', (socket: Socket) => {
    const chunks: Buffer[] = []
    connections.push(chunks)
    socket.on('data', (chunk: Buffer) => { chunks.push(chunk) })
  })
  return connections
}

function frames (chunks: readonly Buffer[] = []): Frame[] {
  return framesIn(Buffer.concat(chunks).subarray(PREFACE.length)).frames
}

async function closed (socket: Socket | undefined): Promise<void> {
  // A client that is gone with its session may have reset it.
  socket?.on('error', () => {})
  if (socket?.closed === false) await new Promise(resolve => socket.once('close', resolve))
}

for (const [name, fastify] of Object.entries({
  cleartext: {},
  https: { https: tlsOptions },
  'https with allowHTTP1': { https: { ...tlsOptions, allowHTTP1: true } }
})) {
  t.test(`T1 an injection goes over HTTP/2, ${name}`, async t => {
    const app = await build(t, app => take(app, ({ readable, writable, kind, protocol, httpVersion }, request) => {
      writable.write(JSON.stringify({ kind, protocol, httpVersion, scheme: request.protocol, ip: request.ip, host: request.host }))
      return pipeline(readable, writable)
    }), { fastify })
    const scheme = name === 'cleartext' ? 'http' : 'https'
    const common = { httpVersion: '2.0', scheme, ip: '127.0.0.1', host: 'localhost:80' }
    for (const [options, kind, host] of [[UPGRADE, 'upgrade'], [MESSAGE, 'body'], [CONNECT, 'connect', 'it.example:443']] as const) {
      const { statusCode, writable, readable, body } = await app.injectDuplex({ ...options, early: 'early' })
      t.equal(statusCode, 200, kind)
      t.equal(readable as unknown, writable)
      writable.end(', late')
      const [about, rest] = (await body()).toString().split(/(?<=\})/)
      t.match(JSON.parse(about as string), { ...common, kind, ...(host === undefined ? {} : { host }) })
      t.equal(rest, 'early, late')
    }
  })
}

t.test('T1 the request has the fields that were given, its pseudo-headers, and no others', async t => {
  let headers: object = {}
  const app = await build(t, app => {
    // Before the app has made of it what its router knows.
    app.server.prependListener('stream', (_stream: unknown, given: object) => { headers = { ...given } })
    take(app, echo)
  })
  const sent = async (options: InjectDuplexOptions): Promise<unknown> => {
    const { body, writable } = await app.injectDuplex(options)
    writable.end()
    await body()
    return JSON.parse(JSON.stringify(headers))
  }
  const pseudo = { ':scheme': 'http', ':authority': 'localhost:80', ':path': '/it' }
  t.strictSame(await sent({ url: '/it', headers: { 'X-Own': ['a', 'b'], host: undefined, te: 'trailers' } }),
    { ...pseudo, ':method': 'GET', 'x-own': 'a, b', te: 'trailers' })
  t.strictSame(await sent({ ...UPGRADE, headers: { Host: 'own' } }),
    { ...pseudo, ':authority': 'own', ':method': 'CONNECT', ':protocol': 'foo' })
  t.strictSame(await sent({ url: '/it', protocol: [] }), { ...pseudo, ':method': 'GET' })
  t.strictSame(await sent(CONNECT), { ':method': 'CONNECT', ':authority': 'it.example:443' })
  t.strictSame(await sent({ ...CONNECT, headers: { host: 'own' } }),
    { ':method': 'CONNECT', ':authority': 'it.example:443', host: 'own' })
  t.strictSame(await sent(MESSAGE), { ...pseudo, ':method': 'POST' })
  t.strictSame(await sent({ ...MESSAGE, headers: { 'content-length': 4 }, early: 'four' }),
    { ...pseudo, ':method': 'POST', 'content-length': '4' })
  t.strictSame(await sent({ method: 'POST', url: '/it', payload: [1] }),
    { ...pseudo, ':method': 'POST', 'content-type': 'application/json', 'content-length': '3' })
})

t.test('T4 END_STREAM comes with the head, with the payload, or when writable ends', async t => {
  const app = await build(t, app => take(app, echo))
  const connections = received(app)
  for (const [options, story] of [
    [{ url: '/it' }, 'HEADERS END_STREAM'],
    [{ method: 'POST', url: '/it', headers: { 'content-length': 0 } }, 'HEADERS END_STREAM'],
    [{ method: 'POST', url: '/it', payload: 'whole' }, 'HEADERS, DATA END_STREAM'],
    [{ method: 'POST', url: '/it', payload: 'whole', headers: { 'transfer-encoding': 'chunked' } }, 'HEADERS, DATA END_STREAM'],
    [{ ...MESSAGE, early: 'whole' }, 'HEADERS, DATA END_STREAM']
  ] as const) {
    const { body, readable, writable } = await app.injectDuplex(options)
    t.equal(writable === readable as unknown, 'early' in options, 'the end of a body that was not declared is not the client\'s to write')
    writable.end()
    t.equal((await body()).toString(), story.includes('DATA') ? 'whole' : '')
    // Node may tell of the end in a frame of its own.
    t.equal(storyOf(frames(connections.at(-1)), 1).join(', ').replace(/DATA, (?=DATA END)/g, ''), story)
  }
})

t.test('I1 early bytes are in one chunk with the head, over HTTP/2', async t => {
  const app = await build(t, app => take(app, echo))
  const connections = received(app)
  for (const options of Object.values(requests)) {
    const { body, writable } = await app.injectDuplex({ ...options, early: 'EARLY' })
    writable.end(', late')
    t.equal((await body()).toString(), 'EARLY, late')
    const chunk = connections.at(-1)?.find(chunk => chunk.includes('EARLY')) as Buffer
    t.same(storyOf(framesIn(chunk).frames, 1).slice(0, 2), ['HEADERS', 'DATA'])
  }
})

t.test('I1 early bytes may be more than the window of a stream', async t => {
  const app = await build(t, app => take(app, echo))
  const early = pattern(MiB)
  for (const options of Object.values(requests)) {
    const { body, writable } = await app.injectDuplex({ ...options, early })
    writable.end()
    t.equal(sha256(await body()), sha256(early))
  }
})

t.test('I1 what cannot be sent over HTTP/2 rejects with a coded error', async t => {
  const app = await build(t, app => take(app, echo))
  const made = sockets(app)
  const wrong: unknown[] = [
    undefined, '/it', {}, { url: '' }, { url: 5 }, { url: '/it', method: 'A B' }, { url: '/a b' }, { method: 'CONNECT', url: 'a b:1' },
    { url: '/it', headers: { 'a b': 'c' } }, { url: '/it', headers: { a: 'b\r\nc: d' } }, { url: '/it', headers: { a: ['b', 'c\nd'] } },
    { url: '/it', headers: { ':path': '/else' } }, { url: '/it', protocol: 'a\r\nb' }, { url: '/it', payload: 5 }, { url: '/it', signal: {} },
    { ...UPGRADE, protocol: ['foo', 'bar'] }, { ...UPGRADE, method: 'POST' }, { ...UPGRADE, method: 'CONNECT' }, { ...UPGRADE, payload: 'x' },
    { ...CONNECT, payload: 'x' }, { url: '/it', early: 'x' }, { method: 'POST', url: '/it', payload: 'all', early: 'more' },
    { url: '/it', headers: { connection: 'close' } }, { url: '/it', headers: { Upgrade: 'foo', Connection: 'Upgrade' } },
    { url: '/it', headers: { 'keep-alive': 'timeout=5' } }, { url: '/it', headers: { 'proxy-connection': 'close' } },
    { url: '/it', headers: { te: 'gzip' } }, { ...MESSAGE, headers: { 'transfer-encoding': 'gzip, chunked' } },
    { url: '/it', headers: { 'content-type': ['a/b', 'c/d'] } }
  ]
  for (const options of wrong) {
    await t.rejects(app.injectDuplex(options as InjectDuplexOptions),
      { code: 'FST_ERR_DUPLEX_INVALID_INJECTION', name: 'FastifyError' }, JSON.stringify(options) ?? 'undefined')
  }
  await t.rejects(app.injectDuplex({ url: '/it', headers: { a: 'b\nc' } }), { cause: { code: 'ERR_INVALID_CHAR' } })
  for (const socket of made) await closed(socket)
})

t.test('T2 where extended CONNECT is not offered a protocol rejects, and says so', async t => {
  const app = await build(t, app => take(app, echo), { plugin: { extendedConnect: false } })
  const made = sockets(app)
  await t.rejects(app.injectDuplex(UPGRADE), { code: 'FST_ERR_DUPLEX_INVALID_INJECTION', message: /does not offer extended CONNECT/ })
  await closed(made[0])
  const { body } = await app.injectDuplex({ method: 'POST', url: '/it', payload: 'all else works' })
  t.equal((await body()).toString(), 'all else works')
})

t.test('T2 refused before there is a route: 400, 404 and 503 with their bodies', async t => {
  const app = await build(t, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
    app.post('/it', { duplex: true }, echo)
  })
  const refused = async (options: InjectDuplexOptions): Promise<[number, string]> => {
    const { statusCode, body, closed } = await app.injectDuplex(options)
    const { code, message } = JSON.parse((await body()).toString()) as { code?: string, message: string }
    t.same(await closed, { complete: true })
    return [statusCode, code ?? message]
  }
  t.same(await refused({ url: '/nowhere', protocol: 'foo' }), [404, 'FST_ERR_DUPLEX_NO_ROUTE'])
  t.same(await refused({ url: '/it', protocol: 'bar' }), [400, 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL'])
  t.same(await refused({ url: '/it', protocol: 'a b' }), [400, 'FST_ERR_DUPLEX_BAD_UPGRADE'])
  t.same(await refused({ url: '/it' }), [404, 'Route GET:/it not found'])
  t.same(await refused({ method: 'CONNECT', url: 'a:0' }), [400, 'FST_ERR_DUPLEX_BAD_TARGET'])
  t.same(await refused({ method: 'CONNECT', url: 'a:1' }), [404, 'FST_ERR_DUPLEX_NO_ROUTE'])
  t.same(await refused({ method: 'CONNECT', url: 'a:1', headers: { 'content-length': 4 }, early: 'body' }), [400, 'FST_ERR_DUPLEX_CONNECT_BODY'])
  t.same(await refused({ url: '/it', protocol: 'foo', headers: { 'content-length': 4 } }), [400, 'FST_ERR_DUPLEX_CONNECT_BODY'])
  await app.duplex.drain()
  t.same(await refused(UPGRADE), [503, 'FST_ERR_DUPLEX_SHUTDOWN'])
  t.same(await refused(MESSAGE), [503, 'FST_ERR_DUPLEX_SHUTDOWN'])
})

for (const [kind, options] of Object.entries(requests)) {
  t.test(`T9 destroy() is RST_STREAM with no END_STREAM before it [${kind}]`, async t => {
    const app = await build(t, app => take(app, connection => {
      connection.writable.write('hello')
      return connection.closed
    }))
    const connections = received(app)
    const { readable, writable, closed } = await app.injectDuplex({ ...options, early: 'half' })
    await once(readable, 'data')
    const [connection] = app.duplex.connections as Set<DuplexConnection>
    writable.write(' of it')
    readable.destroy()
    t.match(await closed, { complete: false, error: { code: 'FST_ERR_DUPLEX_ABORTED' } })
    t.equal((await connection?.closed)?.reason, 'abort')
    const story = storyOf(frames(connections[0]), 1)
    t.equal(story.at(-1), `RST_STREAM ${NGHTTP2_CANCEL}`)
    t.same(story.slice(0, -1).filter(frame => frame.includes('END_STREAM')), [])
  })

  t.test(`T9 a destroy() after both sides have ended is none [${kind}]`, async t => {
    const app = await build(t, app => take(app, echo))
    const connections = received(app)
    const made = sockets(app)
    const { readable, writable, closed: over } = await app.injectDuplex(options)
    const [connection] = app.duplex.connections as Set<DuplexConnection>
    writable.end('whole')
    t.equal((await all(readable)).toString(), 'whole')
    readable.destroy()
    t.same(await over, { complete: true })
    t.equal((await connection?.closed)?.reason, 'end')
    await closed(made[0])
    t.notMatch(storyOf(frames(connections[0]), 1).join(), 'RST_STREAM')
  })
}

t.test('T9 a reset with the code that means no error is no end', async t => {
  const app = await build(t, app => {
    app.get('/reset', (request, reply) => {
      reply.hijack()
      const { stream } = request.raw as unknown as { stream: ServerHttp2Stream }
      stream.respond({ ':status': 200 })
      stream.write('half', () => resetStream(stream, NGHTTP2_NO_ERROR))
    })
  })
  const { body, closed } = await app.injectDuplex({ url: '/reset' })
  await t.rejects(body(), { code: 'ECONNRESET' })
  t.match(await closed, { complete: false, error: { code: 'ECONNRESET', message: /code 0/ } })
})

t.test('T9 a reset behind the end of the answer leaves the answer whole, and fails what is written', async t => {
  const app = await build(t, app => take(app, ({ writable }) => { writable.end('answer') }), { plugin: { finTimeout: 20 } })
  for (const options of Object.values(requests)) {
    const { readable, writable, closed } = await app.injectDuplex(options)
    // A timer that keeps the process alive, as none of the plugin's does.
    const alive = setInterval(() => {}, 1000)
    const { reason } = await ([...app.duplex.connections] as DuplexConnection[])[0]?.closed ?? {}
    t.same(await closed, { complete: true })
    clearInterval(alive)
    t.equal(reason, 'fin')
    const failed = once(writable, 'error').catch((error: unknown) => [error])
    t.equal((await all(readable)).toString(), 'answer')
    t.match(await failed, [{ code: 'ECONNRESET' }])
    await t.rejects(new Promise<void>((resolve, reject) => writable.write('more', error => error == null ? resolve() : reject(error))))
  }
})

t.test('I1 a refused client stops sending', async t => {
  const app = await build(t, app => {
    app.post('/it', { duplex: true, onRequest: async (_request, reply) => reply.code(401).send({ no: true }) }, echo)
    // One that neither reads nor resets.
    app.post('/holds', {
      onRequest: async (request, reply) => {
        reply.hijack()
        const { stream } = request.raw as unknown as { stream: ServerHttp2Stream }
        stream.pause()
        stream.respond({ ':status': 403 })
        stream.end('no')
      }
    }, () => {})
  })
  const made = sockets(app)
  for (const url of ['/it', '/holds']) {
    for (const options of [{ payload: Buffer.alloc(4 * MiB) }, { headers: { 'transfer-encoding': 'chunked' }, early: Buffer.alloc(4 * MiB) }]) {
      const { statusCode, body, closed: over, writable } = await app.injectDuplex({ method: 'POST', url, ...options })
      t.equal(statusCode, url === '/it' ? 401 : 403)
      t.same(await over, { complete: true }, 'though nobody reads it')
      t.equal(writable.writableEnded, true)
      t.equal((await body()).toString(), url === '/it' ? '{"no":true}' : 'no')
      await closed(made.at(-1))
    }
  }
})

t.test('I1 an answer in order takes what is written behind it for nothing', async t => {
  const app = await build(t, app => { app.post('/plain', (_request, reply) => { reply.send('thank you') }) })
  const { body, closed, writable } = await app.injectDuplex({ ...MESSAGE, url: '/plain', early: 'x' })
  t.equal(writable.writableEnded, false)
  writable.end('y')
  t.equal((await body()).toString(), 'thank you')
  t.same(await closed, { complete: true })
})

t.test('I1 behind the stream its connection is closed, however it ended', async t => {
  const app = await build(t, app => {
    take(app, async ({ readable, writable }, { headers }) => {
      writable.write('hello')
      if (headers['x-fail'] !== undefined) throw new Error('on purpose')
      await pipeline(readable, writable)
    })
    app.get('/plain', async () => 'plain')
  })
  const made = sockets(app)
  const sessions: ServerHttp2Session[] = []
  app.server.on('session', (session: ServerHttp2Session) => { sessions.push(session) })
  const ended = await app.injectDuplex(UPGRADE)
  ended.writable.end()
  const reset = await app.injectDuplex(UPGRADE)
  reset.writable.destroy()
  const failed = await app.injectDuplex({ ...UPGRADE, headers: { 'x-fail': '1' } })
  const refused = await app.injectDuplex({ ...UPGRADE, url: '/nowhere' })
  const unread = await app.injectDuplex({ url: '/plain' })
  await all(ended.readable)
  for (const socket of made) await closed(socket)
  t.equal(made.length, 5)
  t.same(sessions.map(session => session.destroyed), [true, true, true, true, true])
  t.same((await Promise.all([ended, reset, failed, refused, unread].map(({ closed }) => closed))).map(({ complete }) => complete),
    [true, false, false, true, true])
  t.equal((await unread.body()).toString(), 'plain', 'what has arrived stays')
})

t.test('I1 a handler that reads late loses nothing to a client whose stream is over', async t => {
  const got = gate<Buffer>()
  const goOn = gate()
  const app = await build(t, app => take(app, async ({ readable, writable }) => {
    writable.end('bye')
    await goOn.promise
    got.open(await all(readable))
  }))
  const made = sockets(app)
  const { closed: over, writable } = await app.injectDuplex(UPGRADE)
  writable.end(pattern(60_000))
  t.same(await over, { complete: true })
  for (let turns = 0; turns < 10; turns++) await turn()
  goOn.open()
  t.equal(sha256(await got.promise), sha256(pattern(60_000)))
  await closed(made[0])
})

t.test('I1 a window full that nobody reads holds nothing up, and stays', async t => {
  const app = await build(t, app => { app.get('/plain', async () => pattern(60_000)) })
  const made = sockets(app)
  const { body, closed: over } = await app.injectDuplex({ url: '/plain' })
  t.same(await over, { complete: true })
  await closed(made[0])
  t.equal(sha256(await body()), sha256(pattern(60_000)))
})

t.test('I1 trailers of a response come before its end', async t => {
  const app = await build(t, app => {
    app.get('/trailers', (_request, reply) => {
      reply.trailer('x-sum', (_reply, _payload, done) => done(null, 'sum'))
      reply.send('whole')
    })
  })
  const { body, closed } = await app.injectDuplex({ url: '/trailers' })
  t.equal((await body()).toString(), 'whole')
  t.same(await closed, { complete: true })
})

t.test('I1 a server that closes without an answer makes it reject, over HTTP/2', async t => {
  const app = await build(t, app => {
    app.get('/stream', (request, reply) => { reply.hijack(); (request.raw as unknown as Http2ServerRequest).stream.destroy() })
    app.get('/session', (request, reply) => { reply.hijack(); (request.raw as unknown as Http2ServerRequest).stream.session?.destroy() })
    app.route({ method: 'CONNECT', url: '*', duplex: { accept: 'manual' }, handler: pending => { pending.destroy() } })
  })
  for (const options of [{ url: '/stream' }, { url: '/session' }, CONNECT]) await t.rejects(app.injectDuplex(options), { code: 'ECONNRESET' })
  app.server.prependOnceListener('connection', (socket: Socket) => { socket.destroy() })
  await t.rejects(app.injectDuplex({ url: '/stream' }), { code: /^(?:ECONNRESET|EPIPE)$/ }, 'before there is a session')
})

t.test('I1 the signal of the client aborts before there is a session', async t => {
  const app = await build(t, app => take(app, () => t.fail('entered')))
  await app.ready()
  const client = new AbortController()
  const made = sockets(app)
  app.server.once('connection', () => client.abort())
  await t.rejects(app.injectDuplex({ ...UPGRADE, signal: client.signal }), { name: 'AbortError' })
  await closed(made[0])
  await t.rejects(app.injectDuplex({ ...UPGRADE, signal: client.signal }), { name: 'AbortError' })
  t.equal(made.length, 1)
})

t.test('I1 no injected connection keeps a process alive', async t => {
  const file = fileURLToPath(new URL('fixtures/injecting-process.js', import.meta.url))
  for (const http of ['1', '2']) {
    const { status, stdout } = spawnSync(process.execPath, [file, http], { encoding: 'utf8', timeout: 30_000 })
    t.equal(status, 0)
    t.equal(stdout, 'open\n', `HTTP/${http}`)
  }
})
