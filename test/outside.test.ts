import t from 'tap'
import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { finished, pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { LogController, type FastifyInstance } from 'fastify'
import type { DuplexClosed, DuplexConnection, DuplexKind, DuplexReply } from '../lib/index.ts'
import { guarded, serveGuarded, soon, until } from './fixtures/baseline.ts'
import { chunkedBody } from './fixtures/chunked.ts'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, resettable, take, takeManually } from './fixtures/kinds.ts'
import { gate, onEach, ways, type Way } from './fixtures/server.ts'
import { all, logLines, type LogLine } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'

/** A line of Fastify's or of ours, with what is looked at here. */
interface Line extends LogLine {
  req?: { method: string, url: string }
  res?: { statusCode: number }
  duplex?: { kind: string, reason: string, duration: number }
}

function logged (): { lines: Line[], fastify: { logger: ReturnType<typeof logLines>['logger'] }, having: (text: string | RegExp) => Line[] } {
  const { lines, logger } = logLines()
  return {
    lines: lines as Line[],
    fastify: { logger },
    having: text => (lines as Line[]).filter(({ msg }) => typeof text === 'string' ? msg.includes(text) : text.test(msg))
  }
}

/** Ways in which a connection ends, and whether that is an abort to Fastify. */
interface End {
  handler: (connection: DuplexConnection) => unknown
  limits?: object
  client?: (wire: Wire, kind: DuplexKind) => unknown
  aborts?: boolean
}
const ends: Record<string, End> = {
  'in order': {
    handler: ({ readable }) => all(readable),
    client: (wire, kind) => wire.end(kind === 'body' ? LAST_CHUNK : 'bye')
  },
  'by its handler, first': { handler: async ({ writable }) => { writable.write('bye') }, client: (wire, kind) => wire.end(kind === 'body' ? LAST_CHUNK : '') },
  'by a reset': { handler: () => new Promise(() => {}), client: wire => wire.reset(), aborts: true },
  'by an error of its handler': { handler: async () => { throw new Error('no') } },
  'by destroy()': { handler: connection => { connection.destroy() } },
  'by idleTimeout': { handler: () => new Promise(() => {}), limits: { idleTimeout: 50 } },
  'by maxLifetime': { handler: () => new Promise(() => {}), limits: { maxLifetime: 50 } }
}
for (const [how, { handler, limits, client, aborts }] of Object.entries(ends)) {
  onEachKind(t, `Q30 reply.raw emits finish and then close, once each, when the connection ends ${how}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const events: string[] = []
    let aborted = 0
    let done: Promise<unknown> | undefined
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      const onRequest = (_request: unknown, reply: { raw: ServerResponse }, next: () => void): void => {
        reply.raw.on('finish', () => events.push('finish')).on('close', () => events.push('close'))
        done = finished(reply.raw).catch(() => {})
        next()
      }
      take(app, connection => {
        t.same(events, [], 'neither before the handler')
        void connection.closed.then(() => events.push('closed'))
        return handler(connection)
      }, { ...limits }, { onRequest: onRequest as never, onRequestAbort: async () => { aborted++ } })
    })
    const wire = await server.connect()
    await wire.send(ask(kind)).head()
    await client?.(wire, kind)
    await until(() => events.includes('close'), "'close' of reply.raw")
    t.not(await soon(done as Promise<unknown>), 'never', 'finished() settles')
    await until(() => events.includes('closed'))
    const own = events.filter(event => event !== 'closed')
    if (kind === 'body' && own.length === 1) t.same(own, ['close'], 'a body that did not finish has only closed, as in Node')
    else t.same(own, ['finish', 'close'])
    if (aborts === true) await until(() => aborted === 1, 'onRequestAbort')
    wire.destroy()
    await server.baseline()
    // Node takes the request of a body for aborted whoever breaks its connection off.
    if (kind !== 'body' || aborts === true) t.equal(aborted, aborts === true ? 1 : 0, 'onRequestAbort hooks')
    t.equal(events.filter(event => event === 'close').length, 1, 'and not again')
  }), everyKind, how === 'in order' || how === 'by a reset' ? resettable : ['tcp'])
}

onEachKind(t, 'Q30 reply.raw of a refusal and of a client that leaves before acceptance closes once', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const closed: string[] = []
  const entered = gate()
  const server = await serveGuarded(t, { transport }, app => takeManually(app, async ({ reply }, request) => {
    const name = String(request.headers.name)
    ;(reply.raw as ServerResponse).on('close', () => closed.push(name))
    if (name === 'left') {
      entered.open()
      return await new Promise(() => {})
    }
    reply.code(403)
    return 'no'
  }))
  const refused = await server.connect()
  t.equal((await refused.send(ask(kind, 'Name: refused')).response()).status, 403)
  refused.end(kind === 'body' ? LAST_CHUNK : '')
  await until(() => closed.includes('refused'))
  const left = await server.connect()
  left.send(ask(kind, 'Name: left'))
  await entered.promise
  left.reset()
  await until(() => closed.includes('left'))
  await server.baseline()
  t.same(closed, ['refused', 'left'])
}), everyKind, ['tcp', 'tls'])

onEachKind(t, 'Q33 a client that cancels is no error of the server: no line of level 50', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const { lines, fastify, having } = logged()
  const entered = gate()
  const server = await serveGuarded(t, { transport, fastify }, app => take(app, async ({ readable, writable }) => {
    writable.write('begun')
    entered.open()
    await pipeline(readable, writable)
  }))
  const wire = await server.connect()
  await wire.send(ask(kind) + piece(kind, 'some')).head()
  await entered.promise
  wire.reset()
  await until(() => having('duplex connection closed').length === 1)
  await until(() => having(/^request (?:completed|errored|aborted)/).length === 1, 'the last line of the request')
  t.same(lines.filter(({ level }) => level >= 50).map(({ msg }) => msg), [])
  t.same(having('request errored'), [])
  await server.baseline()
}), everyKind, resettable)

onEachKind(t, 'Q33 a request that its client leaves before acceptance is not logged as completed with 200', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const { lines, fastify, having } = logged()
  const entered = gate()
  const server = await serveGuarded(t, { transport, fastify }, app => takeManually(app, () => {
    entered.open()
    return new Promise(() => {})
  }))
  const wire = await server.connect()
  wire.send(ask(kind))
  await entered.promise
  wire.reset()
  await until(() => server.app.duplex.connections.size === 0)
  await server.baseline()
  const wrong = having('request completed').filter(({ res, req }) => res?.statusCode === 200 && req === undefined)
  // One is of the plain request of the baseline.
  t.ok(wrong.length <= 1, `logged as 200: ${wrong.length}`)
  t.same(lines.filter(({ level }) => level >= 50).map(({ msg }) => msg), [])
}), everyKind, resettable)

const quiets: Record<string, object> = {
  'disableRequestLogging of the log controller': { logController: new LogController({ disableRequestLogging: true }) }
}
// With Fastify 6 the controller alone has it.
if (Fastify().version.startsWith('5.')) quiets.disableRequestLogging = { disableRequestLogging: true }
for (const [option, quiet] of Object.entries(quiets)) {
  onEachKind(t, `Q33 ${option} silences the line of a closed connection`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { lines, fastify } = logged()
    const settings = { transport, fastify: { ...fastify, ...quiet } as never }
    const server = await serveGuarded(t, settings, app => take(app, ({ readable }) => all(readable)))
    const wire = await server.connect()
    await wire.send(ask(kind)).head()
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    if (kind === 'body') await chunkedBody(wire)
    else await wire.remains()
    await server.baseline()
    t.same(lines.filter(({ msg }) => /^(?:duplex|request|incoming)/.test(msg)).map(({ msg }) => msg), [])
  }), everyKind, ['tcp'])
}

const bare: Record<string, string> = {
  'a CONNECT without a route': 'CONNECT nobody:1 HTTP/1.1\r\nHost: nobody:1\r\n\r\n',
  'a CONNECT with a bad target': 'CONNECT /path HTTP/1.1\r\nHost: a\r\n\r\n',
  'a CONNECT with a body': 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc',
  'an upgrade without Host': 'GET /it HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n',
  'an upgrade with chunks': 'POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'
}
for (const [what, send] of Object.entries(bare)) {
  onEach(t, `Q33 a refusal without a route leaves one line: ${what}`, guarded(async (t, transport: Way) => {
    const { lines, fastify } = logged()
    const server = await serveGuarded(t, { transport, fastify }, app => {
      app.route({ method: ['GET', 'POST'], url: '/it', duplex: { kinds: ['upgrade'] }, handler: () => {} } as never)
    })
    const before = lines.length
    const wire = await server.connect()
    const { status } = await wire.send(send).head()
    t.ok(status >= 400)
    await until(() => lines.length > before, 'a line about it')
    const said = lines.slice(before)
    t.ok(said.some(line => JSON.stringify(line).includes(String(status))), 'with its status')
    t.same(said.filter(({ level }) => level >= 50), [])
    wire.destroy()
    await server.baseline()
  }), ['tcp'])
}

onEach(t, 'Q33 request.originalUrl of a CONNECT is its target', guarded(async (t, transport: Way) => {
  const urls: string[] = []
  const server = await serveGuarded(t, { transport }, app => take(app, ({ readable }, { originalUrl }) => {
    urls.push(originalUrl)
    return all(readable)
  }))
  const wire = await server.connect()
  await wire.send(ask('connect')).head()
  t.same(urls, ['it.example:443'])
  wire.end()
  await wire.remains()
  await server.baseline()
}), ['tcp'])

onEach(t, 'Q33 the URL of a CONNECT in the log is its target, also where the app makes the loggers', guarded(async (t, transport: Way) => {
  for (const own of [false, true]) {
    const { fastify, having } = logged()
    const made: unknown[] = []
    const server = await serveGuarded(t, { transport, fastify }, app => {
      if (own) {
        app.setChildLoggerFactory((logger, bindings, options, { url }) => {
          made.push(url)
          return logger.child({ ...bindings, mine: true }, options)
        })
      }
      take(app, ({ readable }) => all(readable))
    })
    const wire = await server.connect()
    await wire.send(ask('connect')).head()
    wire.end()
    await wire.remains()
    await server.baseline()
    t.same(having('incoming request').filter(({ req }) => req?.method === 'CONNECT').map(({ req }) => req?.url), ['it.example:443'])
    t.equal(made.length > 0, own)
  }
}), ways)

onEachKind(t, 'Q33 duration is a whole or a tenth of a millisecond', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const { fastify, having } = logged()
  const durations: number[] = []
  const server = await serveGuarded(t, { transport, fastify }, app => take(app, async ({ readable, closed }) => {
    void closed.then(({ duration }) => durations.push(duration))
    await all(readable)
  }))
  for (let times = 1; times <= 5; times++) {
    const wire = await server.connect()
    await wire.send(ask(kind)).head()
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await until(() => durations.length === times)
  }
  for (const duration of [...durations, ...having('duplex connection closed').map(line => line.duplex?.duration ?? NaN)]) {
    t.equal(duration, Math.round(duration * 10) / 10)
  }
  await server.baseline()
}), everyKind, ['tcp'])

const goodbyes: Record<string, (wire: Wire) => unknown> = {
  resets: wire => wire.reset(),
  closes: wire => wire.destroy(),
  'ends, and resets': async wire => {
    wire.end()
    await turn()
    wire.reset()
  }
}
for (const [how, go] of Object.entries(goodbyes)) {
  for (const promise of [true, false]) {
    onEachKind(t, `Q34 a server that has ended in order before its client ${how} has ended, ${promise ? 'its handler resolved' : 'no promise'}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
      const result = gate<DuplexClosed>()
      const aborted: unknown[] = []
      const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => take(app, connection => {
        void connection.closed.then(result.open)
        connection.signal.addEventListener('abort', () => aborted.push(connection.signal.reason))
        if (promise) return (async () => { connection.writable.write('the last word') })()
        connection.writable.end('the last word')
        return undefined
      }))
      const wire = await server.connect()
      await wire.send(ask(kind) + (kind === 'body' ? LAST_CHUNK : '')).head()
      if (kind === 'body') t.equal((await chunkedBody(wire)).toString(), 'the last word')
      else t.equal((await wire.rest()).toString(), 'the last word')
      await go(wire)
      t.match(await soon(result.promise), { reason: 'end', error: undefined })
      t.same(aborted, [], 'and the signal has not aborted')
      await server.baseline()
    }), everyKind, how === 'resets' && promise ? resettable : ['tcp'])
  }
}

/** Warnings of the process and of the log together: there is one, wherever it is said. */
function warnings (lines: Line[]): { said: () => string[], stop: () => void } {
  const ofProcess: string[] = []
  const listen = (warning: Error): void => { ofProcess.push(warning.message) }
  process.on('warning', listen)
  return {
    said: () => [...ofProcess, ...lines.filter(({ level }) => level === 40).map(({ msg }) => msg)],
    stop: () => { process.removeListener('warning', listen) }
  }
}

const tooLate: Record<string, (connection: DuplexConnection) => unknown> = {
  'reply.header()': ({ reply }) => reply.header('x-a', 'b'),
  'reply.headers()': ({ reply }) => reply.headers({ 'x-a': 'b' }),
  'reply.code()': ({ reply }) => reply.code(201),
  'reply.status()': ({ reply }) => reply.status(201),
  'reply.type()': ({ reply }) => reply.type('text/plain'),
  'all of them': ({ reply }) => reply.code(201).type('text/plain').header('x-a', 'b')
}
/** A client that is accepted, ends its side, and hears the end of the other. */
async function visit (server: { connect: () => Promise<Wire> }, kind: DuplexKind): Promise<void> {
  const wire = await server.connect()
  await wire.send(ask(kind)).head()
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await wire.remains()
}

for (const [what, call] of Object.entries(tooLate)) {
  onEachKind(t, `Q36 ${what} on a route that accepted by itself is warned of, once a route`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { lines, fastify } = logged()
    const { said, stop } = warnings(lines)
    t.teardown(stop)
    const server = await serveGuarded(t, { transport, fastify }, app => {
      take(app, async connection => { await call(connection) })
      app.get('/other', { duplex: { kinds: ['hijack'] } }, async connection => { await call(connection as unknown as DuplexConnection) })
    })
    for (let times = 0; times < 3; times++) await visit(server, kind)
    await turn()
    t.equal(said().length, 1, said().join('\n'))
    t.match(said()[0], /hook|headers|manual/)
    const other = await server.connect()
    await other.send('GET /other HTTP/1.1\r\nHost: a\r\n\r\n').head()
    other.end()
    await other.remains()
    await turn()
    t.equal(said().length, 2, 'another route has a warning of its own')
    await server.baseline()
  }), what === 'all of them' ? everyKind : ['upgrade'], ['tcp'])
}

onEachKind(t, 'Q36 what a handler of an accepted connection gives is warned of, once a route', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const { lines, fastify } = logged()
  const { said, stop } = warnings(lines)
  t.teardown(stop)
  const given: unknown[] = [{ a: 1 }, { a: 2 }]
  const server = await serveGuarded(t, { transport, fastify }, app => { take(app, async () => given.shift()) })
  for (let times = 0; times < 2; times++) await visit(server, kind)
  await turn()
  t.equal(said().length, 1, said().join('\n'))
  t.match(said()[0], /returns is sent to nobody/)
  await server.baseline()
}), everyKind, ['tcp'])

/** What an accepted connection is given through its reply, automatically accepted or by hand. */
const replies: Record<string, (app: FastifyInstance, send: (reply: DuplexReply) => unknown) => void> = {
  'accepted by itself': (app, send) => take(app, async ({ reply }) => { await send(reply) }),
  'accepted by hand': (app, send) => takeManually(app, async pending => {
    const { reply } = pending
    await pending.accept()
    await send(reply)
  })
}
for (const [how, declare] of Object.entries(replies)) {
  onEachKind(t, `Q36 reply.send() on a connection that was ${how} is warned of with a code, once a route`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { lines, fastify } = logged()
    const { said, stop } = warnings(lines)
    t.teardown(stop)
    const payloads: unknown[] = ['text', { a: 1 }, new Error('not thrown')]
    const server = await serveGuarded(t, { transport, fastify }, app => declare(app, reply => reply.send(payloads.shift())))
    for (let times = 0; times < 3; times++) await visit(server, kind)
    await turn()
    t.equal(payloads.length, 0)
    t.equal(said().length, 1, said().join('\n'))
    t.match(said()[0], /reply\.send\(\) is sent to nobody.*writable/)
    t.match(lines.filter(({ level }) => level === 40), [{ err: { code: 'FST_ERR_DUPLEX_ALREADY_ACCEPTED' } }])
    await server.baseline()
  }), everyKind, ['tcp'])
}

t.test('Q36 nothing is warned of if a handler gives its connection, a stream, or how it ended', guarded(async t => {
  const { lines, fastify } = logged()
  const { said, stop } = warnings(lines)
  t.teardown(stop)
  const give: ((connection: DuplexConnection) => unknown)[] = [
    async () => {}, async connection => connection, async ({ writable }) => writable.end(), async connection => await connection.close(),
    async ({ readable }) => await readable.toArray(), ({ readable, writable }) => readable.pipe(writable)
  ]
  const times = give.length
  const server = await serveGuarded(t, { fastify }, app => { take(app, connection => give.shift()?.(connection)) })
  for (let time = 0; time < times; time++) {
    const wire = await server.connect()
    await wire.send(ask('hijack')).head()
    wire.end()
    await wire.remains()
  }
  await turn()
  t.strictSame(said(), [])
  await server.baseline()
}))

t.test('Q36 nothing is warned of where it is not too late', guarded(async t => {
  const { lines, fastify } = logged()
  const { said, stop } = warnings(lines)
  t.teardown(stop)
  const server = await serveGuarded(t, { fastify }, app => {
    app.addHook('onRequest', async (_request, reply) => { reply.header('x-hook', 'ran') })
    app.addHook('onSend', async (_request, reply) => { reply.header('x-send', 'ran') })
    takeManually(app, async pending => {
      pending.reply.header('x-a', 'b')
      pending.reply.code(200)
      await pending.accept()
    })
  })
  for (const kind of everyKind) {
    const wire = await server.connect()
    t.match((await wire.send(ask(kind)).head()).headers, { 'x-hook': 'ran', 'x-send': 'ran', 'x-a': 'b' })
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await wire.remains()
  }
  await turn()
  t.same(said(), [])
  await server.baseline()
}))

onEachKind(t, 'Q36 duplex.headers sets fields of the accept head, of a route that accepts by itself too', guarded(async (t, kind: DuplexKind, transport: Way) => {
  const values: unknown[] = [{ 'x-a': 'b' }, (request: { method: string }) => ({ 'x-a': request.method === '' ? 'none' : 'b' })]
  for (const headers of values) {
    const server = await serveGuarded(t, { transport }, app => take(app, async () => {}, { headers } as object))
    const wire = await server.connect()
    t.equal((await wire.send(ask(kind)).head()).headers['x-a'], 'b')
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await wire.remains()
    await server.baseline()
  }
}), everyKind, ['tcp'])

/** Handlers that resolve while somebody reads, and have ended nothing. */
const hasty: Record<string, (connection: DuplexConnection) => Promise<unknown>> = {
  'readable.pipe(writable)': async ({ readable, writable }) => { readable.pipe(writable as NodeJS.WritableStream) },
  "readable.on('data')": async ({ readable, writable }) => { readable.on('data', chunk => writable.write(chunk)) },
  "readable.on('readable')": async ({ readable }) => { readable.on('readable', () => readable.read()) },
  'pipeline() that is not awaited': async ({ readable, writable }) => {
    pipeline(readable, writable as NodeJS.WritableStream).catch(() => {})
  }
}
for (const [what, handler] of Object.entries(hasty)) {
  onEachKind(t, `Q37 a handler that resolves while it still reads gets one warning that says what to do: ${what}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { lines, fastify } = logged()
    const { said, stop } = warnings(lines)
    t.teardown(stop)
    const server = await serveGuarded(t, { transport, fastify, plugin: { finTimeout: 100 } }, app => take(app, handler))
    for (let times = 0; times < 2; times++) {
      const wire = await server.connect()
      await wire.send(ask(kind)).head()
      await turn()
      wire.end(kind === 'body' ? LAST_CHUNK : '')
      await wire.remains()
    }
    await until(() => said().length > 0, 'a warning')
    t.equal(said().length, 1, said().join('\n'))
    t.match(said()[0], /await|return/)
    await server.baseline()
  }), what === 'readable.pipe(writable)' ? everyKind : ['upgrade', 'body'], ['tcp'])
}

const patient: Record<string, (connection: DuplexConnection) => unknown> = {
  'awaits its pipeline': ({ readable, writable }) => pipeline(readable, writable as NodeJS.WritableStream),
  'returns no promise': ({ readable, writable }) => { readable.pipe(writable as NodeJS.WritableStream) },
  'reads nothing': async () => {},
  'has read all': async ({ readable }) => { await all(readable) },
  'has ended its side': async ({ readable, writable }) => { writable.end('bye'); readable.resume() },
  'has stopped reading': async ({ readable }) => {
    await once(readable, 'data')
    readable.pause()
    readable.removeAllListeners('data')
  }
}
for (const [what, handler] of Object.entries(patient)) {
  onEachKind(t, `Q37 nothing is said of a handler that ${what}`, guarded(async (t, kind: DuplexKind, transport: Way) => {
    const { lines, fastify } = logged()
    const { said, stop } = warnings(lines)
    t.teardown(stop)
    const server = await serveGuarded(t, { transport, fastify, plugin: { finTimeout: 500 } }, app => take(app, handler))
    const wire = await server.connect()
    await wire.send(ask(kind) + piece(kind, 'x')).head()
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await wire.remains()
    await server.baseline()
    t.same(said(), [])
  }), ['upgrade', 'body'], ['tcp'])
}

onEach(t, 'Q37 what the error of finTimeout says is true of a peer that has sent', guarded(async (t, transport: Way) => {
  const result = gate<DuplexClosed>()
  const plugin = { finTimeout: 100 }
  const server = await serveGuarded(t, { transport, plugin }, app => take(app, async ({ readable, writable, closed }) => {
    void closed.then(result.open)
    const [chunk] = await once(readable, 'data') as [Buffer]
    writable.write(chunk)
  }))
  const wire = await server.connect()
  await wire.send(ask('upgrade') + 'x').head()
  const { reason, error } = await result.promise
  t.equal(reason, 'fin')
  // It did send, and is waited for since then.
  t.match(error?.message, /100 ms/)
  t.match(error?.message, /end/)
  wire.destroy()
  await server.baseline()
}), ways)
