import t from 'tap'
import { PassThrough, Readable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import type { DuplexKind, PendingDuplex } from '../lib/index.ts'
import { guarded, serveGuarded, soon, until, type GuardedServer } from './fixtures/baseline.ts'
import { chunkedBody, nextChunk } from './fixtures/chunked.ts'
import { unlessFastifyHas } from './fixtures/fastify-faults.ts'
import { ask, everyKind, LAST_CHUNK, onEachKind, resettable, takeManually } from './fixtures/kinds.ts'
import { timersLeft } from './fixtures/lifetime.ts'
import { codeOf, exchange, request } from './fixtures/requests.ts'
import { gate, onEach, type ServerSettings, type Way } from './fixtures/server.ts'
import { MiB } from './fixtures/takeover.ts'
import { tooLate } from './fixtures/too-late.ts'
import type { Wire } from './fixtures/wire.ts'

const SHORT = 80

/** An answer whose pieces the test lets go. */
type Answer = (source: PassThrough, reply: FastifyReply) => unknown

/** As it is over HTTP/1. */
function replyOf ({ reply }: PendingDuplex): FastifyReply {
  return reply as unknown as FastifyReply
}

function hijackWith (source: PassThrough, reply: FastifyReply): void {
  reply.hijack()
  reply.raw.writeHead(403, { 'Content-Type': 'text/event-stream' })
  source.pipe(reply.raw)
}

interface Begun {
  hook?: 'onRequest' | 'preHandler' | 'onSend'
  answer: Answer
}

/** The ways in which an answer can have begun that is no acceptance. */
const begun: Record<string, Begun> = {
  'hijacked in an onRequest hook': { hook: 'onRequest', answer: hijackWith },
  'hijacked in a preHandler hook': { hook: 'preHandler', answer: hijackWith },
  'hijacked in a manual handler': { answer: hijackWith },
  'streamed by a hook': { hook: 'onRequest', answer: (source, reply) => reply.code(403).send(source) },
  'streamed by a manual handler': { answer: (source, reply) => reply.code(403).send(source) },
  'returned as a stream by a manual handler': {
    answer: (source, reply) => {
      reply.code(403)
      return source
    }
  },
  'streamed with trailers': {
    answer: (source, reply) => reply.code(403).trailer('x-end', async () => 'here').send(source)
  },
  'a web stream': {
    answer: (source, reply) => {
      reply.code(403)
      return Readable.toWeb(source)
    }
  }
}
/** Two of them begin for every kind; the others for one that has left HTTP, and for one that has not. */
const thorough = ['hijacked in a manual handler', 'streamed by a manual handler']
const kindsFor = (title: string): readonly DuplexKind[] => thorough.includes(title) ? everyKind : ['upgrade', 'body']
const hijacked = Object.entries(begun).filter(([title]) => title.startsWith('hijacked'))
const streamed = Object.entries(begun).filter(([title]) => !title.startsWith('hijacked'))

/** Some cannot be tried with every Fastify. */
function unlessUnsent (title: string, how: string, declare: () => void): void {
  if (how === 'streamed with trailers') unlessFastifyHas(t, 'streamTrailers', title, declare)
  else declare()
}

/** A hook that waits for its stream hears of the end of that by an error, and has answered already. */
function unlessThrown (title: string, how: string, declare: () => void): void {
  if (how === 'streamed by a hook') unlessFastifyHas(t, 'lateError', title, declare)
  else declare()
}

interface Under {
  server: GuardedServer
  wire: Wire
  source: PassThrough
  pending: () => PendingDuplex | undefined
  head: Awaited<ReturnType<Wire['head']>>
}

/** A client that has the head and the first piece of an answer, and is owed the rest. */
async function underWay (
  t: Test, kind: DuplexKind, transport: Way, { hook, answer }: Begun, settings: ServerSettings, handlerTimeout?: number
): Promise<Under> {
  const source = new PassThrough()
  let pending: PendingDuplex | undefined
  const mine = (request: FastifyRequest): boolean => request.headers.stuck === undefined
  const server = await serveGuarded(t, { ...settings, transport }, app => {
    if (hook !== undefined) {
      app.addHook(hook as 'onRequest', async (request, reply) => {
        if (!mine(request) || request.url === '/pong' || request.url === '/probe') return
        answer(source, reply)
        return await reply
      })
    }
    takeManually(app, (connection, request) => {
      if (!mine(request)) return new Promise(() => {})
      pending = connection
      return hook === undefined ? Promise.resolve(answer(source, replyOf(connection))) : undefined
    }, handlerTimeout === undefined ? {} : { handlerTimeout })
  })
  const wire = await server.connect()
  source.write('one')
  wire.send(ask(kind))
  const head = await wire.head()
  t.equal(head.status, 403)
  t.equal((await nextChunk(wire)).toString(), 'one')
  return { server, wire, source, pending: () => pending, head }
}

/** A later request with as much time: when that has had its answer, the time of the first is over too. */
async function outlast (server: GuardedServer): Promise<void> {
  const wire = await server.connect()
  await wire.send(ask('upgrade', 'Stuck: yes')).head()
  wire.destroy()
  await turn()
}

async function restOf ({ wire, source }: Under): Promise<string> {
  source.end('two')
  return (await chunkedBody(wire)).toString()
}

for (const [title, how] of Object.entries(begun)) {
  const whole = `Q1 handshakeTimeout leaves alone an answer that has begun: ${title}`
  unlessUnsent(whole, title, () => onEachKind(t, whole, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const under = await underWay(t, kind, transport, how, { plugin: { handshakeTimeout: SHORT } })
    await outlast(under.server)
    if (title === 'streamed with trailers') {
      under.source.end('two')
      t.equal((await under.wire.until('x-end: here\r\n\r\n')).toLowerCase().includes('two'), true)
    } else {
      t.equal(await restOf(under), 'two')
    }
    under.wire.end(kind === 'body' ? LAST_CHUNK : '')
    await under.server.baseline()
  }), kindsFor(title), thorough.includes(title) ? resettable : ['tcp']))
}

for (const [title, how] of hijacked) {
  onEachKind(t, `Q1 handlerTimeout leaves alone an answer that is ${title}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const under = await underWay(t, kind, transport, how, {}, SHORT)
    await outlast(under.server)
    t.equal(await restOf(under), 'two')
    under.wire.end(kind === 'body' ? LAST_CHUNK : '')
    await under.server.baseline()
  }), kindsFor(title), ['tcp'])
}

for (const [title, how] of streamed) {
  const broken = `Q1 handlerTimeout breaks off an answer that is ${title}, as on a plain route`
  unlessFastifyHas(t, 'lateError', broken, () => onEachKind(t, broken, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { server, wire } = await underWay(t, kind, transport, how, {}, SHORT)
    t.notMatch(await wire.remains(), '0\r\n\r\n', 'without its last chunk')
    wire.destroy()
    await server.baseline()
  }), kindsFor(title), ['tcp']))
}

for (const [title, how] of Object.entries(begun)) {
  const drained = `Q1 an answer that has begun is sent whole while the server drains: ${title}`
  unlessUnsent(drained, title, () => onEachKind(t, drained, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const under = await underWay(t, kind, transport, how, { plugin: { drainTimeout: 5000 } })
    const closed = under.server.app.close()
    await turn()
    if (title === 'streamed with trailers') {
      under.source.end('two')
      t.match(await under.wire.until('x-end: here\r\n\r\n'), 'two')
    } else {
      t.equal(await restOf(under), 'two')
    }
    under.wire.end(kind === 'body' ? LAST_CHUNK : '')
    t.not(await soon(closed), 'never')
  }), kindsFor(title), ['tcp']))

  const cut = `Q1 the end of a drain breaks off an answer that is under way: ${title}`
  unlessThrown(cut, title, () => onEachKind(t, cut, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { server, wire } = await underWay(t, kind, transport, how, { plugin: { drainTimeout: SHORT } })
    const closed = server.app.close()
    t.notMatch(await wire.remains(), '0\r\n\r\n', 'without its last chunk')
    wire.destroy()
    t.not(await soon(closed), 'never')
    t.equal(await server.sockets(), 0)
  }), kindsFor(title), ['tcp']))

  onEachKind(t, `Q1 a client that leaves an answer that is under way leaves nothing: ${title}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { server, wire, source } = await underWay(t, kind, transport, how, { plugin: { handshakeTimeout: SHORT, maxConnections: 2 } })
    wire.reset()
    await until(() => server.peers[0]?.destroyed === true)
    source.write('two')
    await outlast(server)
    source.end('three')
    await server.baseline()
  }), kindsFor(title), ['tcp'])
}

/** What may still happen in a handler whose answer has begun. */
const late: Record<string, (reply: FastifyReply, pending: PendingDuplex) => unknown> = {
  'an error': () => { throw new Error('late') },
  'a value': () => 'late',
  'reply.send()': reply => { reply.send('late') },
  'accept()': (_reply, pending) => pending.accept(),
  'destroy()': (_reply, pending) => { pending.destroy() }
}
for (const [what, then] of Object.entries(late)) {
  onEachKind(t, `Q1 ${what} behind a hijacked answer puts nothing on the wire`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const held = gate()
    const accepted = gate<unknown>()
    const server = await serveGuarded(t, { transport, plugin: { handshakeTimeout: SHORT } }, app => takeManually(app, async pending => {
      const reply = replyOf(pending)
      reply.hijack()
      reply.raw.writeHead(403, { 'Content-Length': '6' })
      reply.raw.write('one')
      await held.promise
      if (what !== 'accept()') {
        setImmediate(() => { if (!reply.raw.destroyed) reply.raw.end('two') })
        return await then(reply, pending)
      }
      await pending.accept().then(() => accepted.open('accepted'), accepted.open)
      reply.raw.end('two')
    }))
    const wire = await server.connect()
    const head = await wire.send(ask(kind)).head()
    t.equal(head.status, 403)
    await wire.until('one')
    held.open()
    if (what === 'destroy()') {
      t.equal(await wire.remains().then(() => wire.error === undefined && wire.pending === 'two'), false, 'a broken answer does not look whole')
    } else {
      t.equal((await wire.bytes(3)).toString(), 'two')
      if (what === 'accept()') t.match(await accepted.promise, { code: /^FST_ERR_DUPLEX_ALREADY_(?:SENT|ACCEPTED)$/ })
    }
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    if (kind !== 'body') t.equal(await wire.remains(), '', 'and not a byte more')
    wire.destroy()
    await server.baseline()
  }), everyKind, ['tcp'])
}

onEachKind(t, 'Q1 an answer that waits in an onSend hook when the timer fires is one answer', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const waiting = gate()
  const held = gate()
  const server = await serveGuarded(t, { transport, plugin: { handshakeTimeout: SHORT } }, app => {
    app.addHook('onSend', async (request, reply) => {
      if (request.headers.stuck !== undefined || reply.statusCode !== 403) return
      waiting.open()
      await held.promise
    })
    takeManually(app, async ({ reply }, request) => {
      if (request.headers.stuck !== undefined) return await new Promise(() => {})
      reply.code(403)
      return 'no'
    })
  })
  const wire = await server.connect()
  wire.send(ask(kind))
  await waiting.promise
  await outlast(server)
  held.open()
  const response = await wire.response()
  t.ok(response.status === 403 || response.status === 503, `one answer, ${response.status}`)
  if (response.status === 403) t.equal(response.body, 'no')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  t.equal(await wire.remains(), '')
  await server.baseline()
}), everyKind, ['tcp', 'tls'])

/** More than the kernel takes for a client that does not read. */
const MUCH = 8 * MiB
const EVERYTHING = Buffer.alloc(MUCH, 'x')

type Refuse = (app: FastifyInstance) => unknown
const isProbe = ({ url }: FastifyRequest): boolean => url === '/pong' || url === '/probe'

/** Refusals whose body is too large to leave at once. */
const large: Record<string, Refuse> = {
  'of a hook': app => {
    app.addHook('onRequest', async (request, reply) => isProbe(request) ? undefined : reply.code(403).send('x'.repeat(MUCH)))
    takeManually(app, () => {})
  },
  'of a hook, as a stream': app => {
    app.addHook('onRequest', async (request, reply) =>
      isProbe(request) ? undefined : reply.code(403).send(Readable.from(pieces(), { objectMode: false })))
    takeManually(app, () => {})
  },
  'of a hook that throws': app => {
    app.addHook('onRequest', async request => {
      if (!isProbe(request)) throw Object.assign(new Error('x'.repeat(MUCH)), { statusCode: 403 })
    })
    takeManually(app, () => {})
  },
  'of a manual handler': app => takeManually(app, async ({ reply }) => {
    reply.code(403)
    return 'x'.repeat(MUCH)
  }),
  'of a manual handler, as a stream': app => takeManually(app, async ({ reply }) => {
    reply.code(403)
    return Readable.from(pieces(), { objectMode: false })
  }),
  'of a manual handler that throws': app => takeManually(app, async () => {
    throw Object.assign(new Error('x'.repeat(MUCH)), { statusCode: 403 })
  })
}

function * pieces (): Generator<Buffer> {
  for (let sent = 0; sent < MUCH; sent += MiB / 4) yield Buffer.alloc(MiB / 4, 'x')
}

/** As with `begun`. */
const carefully = (who: string): readonly DuplexKind[] =>
  who === 'of a hook' || who === 'of a manual handler, as a stream' ? everyKind : ['upgrade', 'body']

/** A whole request of this kind, so that nothing of its body is owed. */
function whole (kind: DuplexKind): string {
  return kind === 'body' ? ask(kind) + LAST_CHUNK : ask(kind)
}

for (const [who, declare] of Object.entries(large)) {
  onEachKind(t, `Q60 a refusal that its client does not read outlives handshakeTimeout, and ends by finTimeout: ${who}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const server = await serveGuarded(t, {
      transport, plugin: { handshakeTimeout: SHORT, finTimeout: 3 * SHORT }
    }, declare)
    const wire = await server.connect()
    wire.socket.pause()
    wire.send(whole(kind))
    await until(() => server.peers.length === 1)
    const [peer] = server.peers
    t.ok(await until(() => peer?.destroyed === true), 'it is cut')
    wire.destroy()
    await server.baseline()
  }), carefully(who), carefully(who) === everyKind ? ['tcp', 'tls'] : ['tcp'])

  onEachKind(t, `Q60 a refusal that its client reads late is whole: ${who}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { handshakeTimeout: SHORT } }, app => {
      app.get('/stuck', { duplex: { accept: 'manual' } }, () => new Promise(() => {}))
      return declare(app)
    })
    const wire = await server.connect()
    wire.socket.pause()
    wire.send(whole(kind))
    const later = await server.connect()
    later.send('GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n')
    await later.head()
    later.destroy()
    wire.socket.resume()
    const head = await wire.head()
    t.equal(head.status, 403)
    const length = head.headers['content-length']
    const body = length === undefined ? await chunkedBody(wire) : await wire.bytes(Number(length))
    t.ok(body.includes(EVERYTHING), 'every byte of it')
    t.ok(body.length < MUCH + 200, 'and hardly more')
    wire.end()
    await server.baseline()
  }), ['upgrade', 'body'], ['tcp'])

  onEachKind(t, `Q61 refusals that nobody reads hold no slot: ${who}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 3, finTimeout: 300 } }, declare)
    for (let at = 0; at < 3; at++) {
      const wire = await server.connect()
      wire.socket.pause()
      wire.send(whole(kind))
    }
    await until(() => server.peers.length === 3 && server.app.duplex.connections.size === 0)
    const next = await server.connect()
    t.equal((await next.send(whole(kind)).head()).status, 403, 'and not 503')
    next.destroy()
    t.ok(await until(() => server.peers.slice(0, 3).every(peer => peer.destroyed)), 'they are cut in bounded time')
    await server.baseline()
  }), carefully(who), who.startsWith('of a manual handler') ? ['tcp', 'tls', 'unix'] : ['tcp'])
}

for (const [what, fields, body] of [['Content-Length: 0', ['Content-Length: 0'], ''], ['chunks', ['Transfer-Encoding: chunked'], LAST_CHUNK]] as const) {
  onEach(t, `Q61 five clients that do not read a refusal do not fill a route: POST with ${what}`, guarded(async (t, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { finTimeout: 300, handshakeTimeout: 300, idleTimeout: 300 } }, app => {
      app.post('/it', { duplex: { accept: 'manual', maxConnections: 5 } }, async ({ reply }) => {
        reply.code(403)
        return Buffer.alloc(MUCH)
      })
    })
    for (let at = 0; at < 5; at++) {
      const wire = await server.connect()
      wire.socket.pause()
      wire.send(request('POST /it', ...fields) + body)
    }
    await until(() => server.peers.length === 5 && server.app.duplex.connections.size === 0)
    const next = await server.connect()
    t.equal((await next.send(request('POST /it', ...fields) + body).head()).status, 403)
    next.destroy()
    t.ok(await until(() => server.peers.slice(0, 5).every(peer => peer.destroyed)))
    await server.baseline()
  }), ['tcp', 'tls'])
}

function timers (): number {
  return process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
}

/** Requests to a duplex route that Node answers by itself. */
const answeredByNode: Record<string, { send: string, status: number, prepare?: (app: FastifyInstance) => unknown }> = {
  'an expectation that it does not know': { send: request('POST /it', 'Expect: foo', 'Content-Length: 3'), status: 417 },
  'an expectation beside chunks': { send: request('POST /it', 'Expect: foo', 'Transfer-Encoding: chunked'), status: 417 },
  'no Host': { send: 'POST /it HTTP/1.1\r\nContent-Length: 3\r\n\r\n', status: 400 },
  'one request too many on its connection': {
    send: request('POST /it', 'Content-Length: 3'),
    status: 503,
    prepare: app => { app.server.maxRequestsPerSocket = 1 }
  },
  'an expectation that a listener of the app answers': {
    send: request('POST /it', 'Expect: foo', 'Content-Length: 3'),
    status: 418,
    prepare: app => {
      app.server.on('checkExpectation', (_req, res) => { res.writeHead(418, { 'Content-Length': '0', Connection: 'close' }).end() })
    }
  },
  'a continuation that a listener of the app refuses': {
    send: request('POST /it', 'Expect: 100-continue', 'Content-Length: 3'),
    status: 413,
    prepare: app => {
      app.server.on('checkContinue', (_req, res) => { res.writeHead(413, { 'Content-Length': '0', Connection: 'close' }).end() })
    }
  }
}
for (const [what, { send, status, prepare }] of Object.entries(answeredByNode)) {
  onEach(t, `Q69 ${what}: Node answers, and no timer of ours is left`, guarded(async (t, transport: Way) => {
    const before = timers()
    const server = await serveGuarded(t, { transport, plugin: { handshakeTimeout: 60_000, maxConnections: 2 } }, app => {
      prepare?.(app)
      app.post('/it', { duplex: { kinds: ['body'] } }, async () => {})
    })
    const wire = await server.connect()
    if (status === 503) await exchange(wire, 'GET /pong')
    t.equal((await wire.send(send).head()).status, status)
    wire.destroy()
    await until(() => server.peers.every(peer => peer.destroyed))
    t.equal(await timersLeft(before), before)
    server.app.server.maxRequestsPerSocket = 0
    await server.baseline()
  }), ['tcp', 'tls'])
}

onEach(t, 'Q69 a client that leaves before Node knows what to answer leaves no timer', guarded(async (t, transport: Way) => {
  const before = timers()
  const server = await serveGuarded(t, { transport, plugin: { handshakeTimeout: 60_000 } }, app => {
    app.server.on('checkExpectation', () => {})
    app.post('/it', { duplex: { kinds: ['body'] } }, async () => {})
  })
  const wire = await server.connect()
  const asked = new Promise(resolve => app(server).once('checkExpectation', resolve))
  wire.send(request('POST /it', 'Expect: foo', 'Content-Length: 3'))
  await asked
  wire.reset()
  await until(() => server.peers.every(peer => peer.destroyed))
  t.equal(await timersLeft(before), before)
  await server.baseline()
}), resettable)

function app (server: GuardedServer): FastifyInstance['server'] {
  return server.app.server
}

/** A value that is harmless when it is looked at, and is not any more when it is written. */
function shifty (): { toString: () => string, asked: () => number } {
  let asked = 0
  return {
    toString: () => ++asked === 1 ? 'harmless' : 'x\r\nInjected: yes\r\n\r\nbody',
    asked: () => asked
  }
}

type Shifty = ReturnType<typeof shifty>
const ways: Record<string, { set?: (reply: FastifyReply, value: Shifty) => unknown, accept?: (value: Shifty) => object }> = {
  'accept()': { accept: value => ({ 'x-a': value }) },
  'accept() in a list': { accept: value => ({ 'x-a': [value] }) },
  'reply.header()': { set: (reply, value) => reply.header('x-a', value) },
  'reply.header() in a list': { set: (reply, value) => reply.header('x-a', [value]) },
  'reply.raw.setHeader()': { set: (reply, value) => (reply.raw as { setHeader (name: string, value: unknown): unknown }).setHeader('x-a', value) }
}
for (const [how, { set, accept }] of Object.entries(ways)) {
  onEachKind(t, `Q74 a header value that changes does not split the accept head: ${how}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const value = shifty()
    const server = await serveGuarded(t, { transport }, app => takeManually(app, async pending => {
      set?.(replyOf(pending), value)
      await pending.accept(accept === undefined ? {} : { headers: accept(value) as never })
    }))
    const wire = await server.connect()
    const head = await wire.send(ask(kind)).head()
    t.equal(head.headers.injected, undefined)
    t.ok(head.status === 500 || head.headers['x-a'] === 'harmless', head.raw)
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await wire.remains()
    wire.destroy()
    await server.baseline()
  }), everyKind, ['tcp', 'tls'])
}

for (const level of ['info', 'error', 'debug', 'warn'] as const) {
  onEachKind(t, `Q74 a logger that throws on ${level} leaves no failed connection open`, async (t, kind, transport) => {
    const uncaught: unknown[] = []
    const keep = (error: unknown): void => { uncaught.push(error) }
    process.on('uncaughtException', keep)
    process.on('unhandledRejection', keep)
    t.teardown(() => {
      process.removeListener('uncaughtException', keep)
      process.removeListener('unhandledRejection', keep)
    })
    const reason = gate<string>()
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 2 } }, app => takeManually(app, async pending => {
      const connection = await pending.accept()
      void connection.closed.then(closed => reason.open(closed.reason))
      const log = Object.create(connection.reply.log) as typeof connection.reply.log
      log[level] = () => { throw new Error('of the logger') }
      connection.reply.log = log
      throw new Error('of the handler')
    }))
    const wire = await server.connect()
    await wire.send(ask(kind)).head()
    t.not(await soon(kind === 'body' ? wire.remains() : wire.gone()), 'never', 'the connection is over')
    t.equal(await soon(reason.promise), 'error')
    wire.destroy()
    for (const error of uncaught) t.match(error, { message: 'of the logger' })
    await server.baseline()
  }, everyKind, ['tcp', 'tls'])
}

onEachKind(t, 'Q1 the timer fires in the tick in which the answer is given', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const plugin = { handshakeTimeout: SHORT }
  const server = await serveGuarded(t, { transport, plugin }, app => takeManually(app, async ({ reply }, request) => {
    if (request.headers.stuck !== undefined) return await new Promise(() => {})
    // Begun by a timer of the same length, which was started later and so fires right behind.
    await new Promise(resolve => setTimeout(resolve, SHORT))
    return await reply.code(403).send('no')
  }))
  const wire = await server.connect()
  const response = await wire.send(ask(kind)).response()
  t.ok(response.status === 503 || response.status === 403)
  if (response.status === 503) t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  t.equal(await wire.remains(), '')
  await server.baseline()
}), everyKind, ['tcp'])

for (const [what, deed] of Object.entries(tooLate)) {
  for (const timer of ['handshakeTimeout', 'handlerTimeout'] as const) {
    for (const place of ['handler', 'preHandler hook'] as const) {
      onEachKind(t, `Q1 a ${place} that ${what} while the answer of ${timer} is made: that answer is whole`, guarded(async (t, kind: DuplexKind, transport: Way) => {
        const struck = gate()
        const done = gate()
        const late = async (reply: FastifyReply): Promise<unknown> => {
          await struck.promise
          try {
            return await deed(reply)
          } finally {
            setImmediate(done.open)
          }
        }
        const server = await serveGuarded(t, { transport, ...(timer === 'handshakeTimeout' ? { plugin: { handshakeTimeout: SHORT } } : {}) }, app => {
          app.setErrorHandler(async (error: Error & { code?: string, statusCode?: number }, _request, reply) => {
            struck.open()
            await done.promise
            return reply.code(error.statusCode ?? 500).send({ code: error.code })
          })
          app.addHook('preHandler', async (request, reply) => {
            if (request.url === '/pong' || request.url === '/probe') return
            reply.header('x-early', 'yes')
            if (place !== 'handler') return await late(reply) as undefined
          })
          takeManually(app, pending => late(replyOf(pending)), timer === 'handlerTimeout' ? { handlerTimeout: SHORT } : {})
        })
        const wire = await server.connect()
        const { status, headers, body } = await wire.send(ask(kind)).response()
        t.equal(status, 503)
        t.equal(codeOf(body), timer === 'handshakeTimeout' ? 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT' : 'FST_ERR_HANDLER_TIMEOUT')
        t.equal(headers['x-early'], 'yes', 'what was set in time is there')
        t.notOk(headers['x-late'], 'and nothing that came later')
        t.match(headers['content-type'], 'application/json')
        wire.end(kind === 'body' ? LAST_CHUNK : '')
        await server.baseline()
      }), what === 'sends an answer' && place === 'handler' ? everyKind : ['upgrade', 'body'], ['tcp'])
    }
  }
}

onEachKind(t, 'Q1 handlerTimeout strikes a stream that was sent and has no byte yet: its answer is whole', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const source = new PassThrough()
  const server = await serveGuarded(t, { transport }, app => {
    takeManually(app, pending => { replyOf(pending).code(403).type('text/html').send(source) }, { handlerTimeout: SHORT })
  })
  const wire = await server.connect()
  const { status, body } = await wire.send(ask(kind)).response()
  t.equal(status, 503)
  t.equal(codeOf(body), 'FST_ERR_HANDLER_TIMEOUT')
  source.end('late')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  t.equal(await wire.remains(), '')
  await server.baseline()
}), everyKind, ['tcp'])
