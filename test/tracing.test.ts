import diagnostics from 'node:diagnostics_channel'
import type { EventEmitter } from 'node:events'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { Transform } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { channels } from '../lib/index.ts'
import type { DuplexAcceptMessage, DuplexCloseMessage, DuplexKind, DuplexRefuseMessage, FastifyDuplexOptions } from '../lib/index.ts'
import { connectHttp2 } from './fixtures/http2-wire.ts'
import { ask, everyKind, LAST_CHUNK, take, takeManually } from './fixtures/kinds.ts'
import { until } from './fixtures/patience.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { serve } from './fixtures/server.ts'
import { share, within } from './fixtures/shared-server.ts'
import { watchUncaught } from './fixtures/uncaught.ts'

/** What a tracer sees of one request. */
interface Told {
  request: [method: string, originalUrl: string][]
  start: string[]
  finish: number[]
}

/** Listens as tracers do: to the event, and to the channels of Node. */
function trace (t: Test): Told & { listen: (app: FastifyInstance) => void } {
  const told: Told = { request: [], start: [], finish: [] }
  const onStart = (message: unknown): void => { told.start.push((message as { request: IncomingMessage }).request.method as string) }
  const onFinish = (message: unknown): void => { told.finish.push((message as { response: ServerResponse }).response.statusCode) }
  diagnostics.subscribe('http.server.request.start', onStart)
  diagnostics.subscribe('http.server.response.finish', onFinish)
  t.teardown(() => {
    diagnostics.unsubscribe('http.server.request.start', onStart)
    diagnostics.unsubscribe('http.server.response.finish', onFinish)
  })
  return {
    ...told,
    listen: app => { app.server.on('request', (req: IncomingMessage) => { told.request.push([req.method as string, req.url as string]) }) }
  }
}

for (const when of ['before', 'after'] as const) {
  for (const kind of everyKind) {
    t.test(`Q31 an accepted one is seen as a plain request is, by who listens from ${when} the plugin on [${kind}]`, async t => {
      const { listen, ...told } = trace(t)
      const shared = await share(t, { ...(when === 'before' ? { before: listen } : {}) }, app => {
        if (when === 'after') listen(app)
        take(app, async ({ writable }) => { writable.write('x') })
      })
      const wire = await shared.connect()
      const { status } = await within('the accept head', wire.send(ask(kind)).head())
      t.same([told.request.length, told.start.length], [1, 1])
      // A body is answered whole when its handler is done; a connection is over when both sides have ended it.
      if (kind !== 'body') t.equal(told.finish.length, 0)
      wire.end(kind === 'body' ? LAST_CHUNK : '')
      await within('the end', kind === 'body' ? wire.until(LAST_CHUNK) : wire.remains())
      await until(() => shared.app.duplex.connections.size === 0)
      await new Promise(resolve => setImmediate(resolve))
      t.same(told.finish, [status])
      t.same([told.request.length, told.start.length], [1, 1])
    })
  }

  const refusals: Record<string, { heads: (kind: DuplexKind) => string | undefined, status: number, plugin?: FastifyDuplexOptions }> = {
    'a hook': { heads: kind => ask(kind, 'How: hook'), status: 401 },
    'a handler': { heads: kind => ask(kind, 'How: handler'), status: 403 },
    'maxConnections: 0': { heads: kind => ask(kind), status: 503, plugin: { maxConnections: 0 } },
    'a missing Host': { heads: kind => kind === 'body' ? undefined : ask(kind).replace(/Host: .*\r\n/, ''), status: 400 },
    'a bad target': { heads: kind => kind === 'connect' ? 'CONNECT /it HTTP/1.1\r\nHost: a\r\n\r\n' : undefined, status: 400 },
    'a malformed URL': { heads: kind => kind === 'connect' ? undefined : ask(kind).replace('/it', '/%zz'), status: 400 },
    'a wrong token': { heads: kind => kind === 'upgrade' ? ask(kind).replace('foo', 'websocket') : undefined, status: 400 }
  }
  for (const [who, { heads, status, plugin = {} }] of Object.entries(refusals)) {
    for (const kind of everyKind) {
      const head = heads(kind)
      if (head === undefined) continue
      t.test(`Q31 a refusal by ${who} is seen as that of a plain request is, by who listens from ${when} the plugin on [${kind}]`, async t => {
        const { listen, ...told } = trace(t)
        const shared = await share(t, { plugin, ...(when === 'before' ? { before: listen } : {}) }, app => {
          if (when === 'after') listen(app)
          app.addHook('onRequest', async (request, reply) => { if (request.headers.how === 'hook') await reply.code(401).send('no') })
          takeManually(app, async pending => {
            pending.reply.code(403)
            return 'no'
          })
        })
        const wire = await shared.connect()
        wire.send(head + (kind === 'body' ? LAST_CHUNK : ''))
        t.equal((await within('an answer', wire.response())).status, status)
        wire.end()
        await within('the end', wire.remains())
        await until(() => shared.sockets.size === 0)
        // Of what Node would answer by itself it tells those alone who subscribe.
        const asks = who === 'a missing Host' || who === 'a bad target' ? 0 : 1
        t.same([told.request.length, told.start.length, told.finish], [asks, 1, [status]])
      })
    }
  }

  t.test(`Q31 an ignored Upgrade and its followers are seen once each, by who listens from ${when} the plugin on`, async t => {
    const { listen, ...told } = trace(t)
    const shared = await share(t, { ...(when === 'before' ? { before: listen } : {}) }, app => {
      if (when === 'after') listen(app)
      app.get('/plain', async () => 'plain')
      take(app, () => {})
    })
    const wire = await shared.connect()
    wire.send(request('GET /plain', ...UPGRADE) + request('GET /plain', ...UPGRADE) + request('GET /plain'))
    for (let count = 0; count < 3; count++) await within('a response', wire.response())
    t.same([told.request.length, told.start.length, told.finish], [3, 3, [200, 200, 200]])
  })

  for (const kind of ['upgrade', 'connect', 'body'] as const) {
    t.test(`Q31 a stream of HTTP/2 is a request to who listens from ${when} the plugin on [${kind}]`, async t => {
      watchUncaught(t)
      const { listen, ...told } = trace(t)
      const { port, app } = await serve(t, { transport: 'h2', ...(when === 'before' ? { before: listen } : {}) }, app => {
        if (when === 'after') listen(app)
        app.addHook('onRequest', async (request, reply) => { if (request.headers.how === 'hook') await reply.code(401).send('no') })
        take(app, async () => {})
      })
      for (const [field, status] of [['How: none', 200], ['How: hook', 401]] as const) {
        const wire = await connectHttp2(port)
        t.teardown(() => wire.destroy())
        t.equal((await within('an answer', wire.send(ask(kind, field)).head())).status, status)
        t.equal(told.request.length, status === 200 ? 1 : 2)
        wire.destroy()
      }
      await until(() => app.duplex.connections.size === 0)
      t.equal(told.request.length, 2)
    })
  }
}

t.test('Q31 who replaces the emit of the server sees takeovers', async t => {
  const seen: string[] = []
  const shared = await share(t, {}, app => {
    const { emit } = app.server
    app.server.emit = function (this: unknown, event: string, ...args: unknown[]) {
      if (event === 'request') seen.push((args[0] as IncomingMessage).url as string)
      return Reflect.apply(emit, this, [event, ...args]) as boolean
    } as typeof emit
    take(app, async () => {})
  })
  for (const kind of everyKind) {
    const wire = await shared.connect()
    await within('the accept head', wire.send(ask(kind)).head())
    wire.destroy()
  }
  t.equal(seen.length, everyKind.length)
})

// Listeners of ours.

function counts (emitter: EventEmitter): Record<string, number> {
  return Object.fromEntries(emitter.eventNames().map(event => [String(event), emitter.listenerCount(event)]))
}

function emitters ({ raw }: { raw: IncomingMessage }, response: unknown): Record<string, EventEmitter> {
  return { request: raw, response: response as ServerResponse, socket: raw.socket }
}

for (const kind of everyKind) {
  t.test(`Q32 at most one listener of ours for an event, on every emitter [${kind}]`, async t => {
    const plain: Record<string, Record<string, number>> = {}
    const ours: Record<string, Record<string, number>> = {}
    const shared = await share(t, {}, app => {
      app.post('/plain', async (request, reply) => {
        for (const [name, emitter] of Object.entries(emitters(request, reply.raw))) plain[name] = counts(emitter)
        return 'plain'
      })
      take(app, async (connection, request) => {
        // All that a handler may ask for.
        const { signal, draining, closed } = connection
        void [signal, draining, closed]
        for (const [name, emitter] of Object.entries(emitters(request, connection.reply.raw))) ours[name] = counts(emitter)
      })
    })
    const first = await shared.connect()
    await first.send(request('POST /plain', 'Content-Length: 0')).response()
    const wire = await shared.connect()
    await within('the head', wire.send(ask(kind)).head())
    const tooMany: string[] = []
    for (const [name, events] of Object.entries(ours)) {
      for (const [event, count] of Object.entries(events)) {
        const usual = plain[name]?.[event] ?? 0
        if (count > usual + 1) tooMany.push(`${name} '${event}': ${count}, ${usual} at a plain route`)
      }
    }
    t.same(tooMany, [])
    t.same(Object.keys(ours), ['request', 'response', 'socket'])
  })
}

t.test('Q32 a body under as many listeners of agents as a plain route has room for brings no warning', async t => {
  const warned: string[] = []
  const onWarning = (warning: Error): void => { warned.push(warning.message) }
  process.on('warning', onWarning)
  t.teardown(() => { process.off('warning', onWarning) })
  const upper = (): Transform => new Transform({
    transform (chunk: Buffer, _encoding, done) { done(null, chunk.toString().toUpperCase()) }
  })
  let agents = 0
  const shared = await share(t, {}, app => {
    app.addContentTypeParser('*', (_request, payload, done) => { done(null, payload) })
    app.addHook('onRequest', async (request, reply) => {
      for (const emitter of Object.values(emitters(request, reply.raw))) {
        for (let count = 0; count < agents; count++) emitter.on('close', () => {})
      }
    })
    app.post('/plain', (request, reply) => {
      reply.hijack()
      const done = pipeline(request.raw, upper(), reply.raw)
      // Ten are allowed, and one of them is ours.
      agents = 9 - Math.max(...Object.values(emitters(request, reply.raw)).map(emitter => emitter.listenerCount('close')))
      void done
    })
    take(app, async ({ readable, writable }) => { await pipeline(readable, upper(), writable) })
  })
  const bodied = ['Content-Type: text/x', 'Transfer-Encoding: chunked']
  const plain = await shared.connect()
  plain.send(request('POST /plain', ...bodied) + LAST_CHUNK)
  await within('a plain response', plain.until(LAST_CHUNK))
  t.ok(agents > 0)
  const wire = await shared.connect()
  wire.send(request('POST /it', ...bodied) + LAST_CHUNK)
  await within('the end', wire.until(LAST_CHUNK))
  // A warning comes by process.nextTick().
  await new Promise(resolve => setImmediate(resolve))
  t.same(warned, [])
})

// Channels with types.

t.test('Q39 the channels are exported, and are those of their names', async t => {
  t.equal(channels.accept, diagnostics.channel('fastify-duplex:accept'))
  t.equal(channels.refuse, diagnostics.channel('fastify-duplex:refuse'))
  t.equal(channels.close, diagnostics.channel('fastify-duplex:close'))
  const heard: string[] = []
  const onAccept = ({ connection }: DuplexAcceptMessage): void => { heard.push(`accept ${connection.kind}`) }
  const onClose = ({ closed }: DuplexCloseMessage): void => { heard.push(`close ${closed.reason}`) }
  const onRefuse = ({ statusCode }: DuplexRefuseMessage): void => { heard.push(`refuse ${statusCode}`) }
  channels.accept.subscribe(onAccept)
  channels.close.subscribe(onClose)
  channels.refuse.subscribe(onRefuse)
  t.teardown(() => {
    channels.accept.unsubscribe(onAccept)
    channels.close.unsubscribe(onClose)
    channels.refuse.unsubscribe(onRefuse)
  })
  const shared = await share(t, {}, app => {
    app.addHook('onRequest', async (request, reply) => { if (request.headers.how === 'hook') await reply.code(401).send('no') })
    take(app, async () => {})
  })
  const refused = await shared.connect()
  await refused.send(ask('upgrade', 'How: hook')).response()
  refused.end()
  const wire = await shared.connect()
  await wire.send(ask('upgrade')).head()
  wire.end()
  await until(() => shared.sockets.size === 0)
  t.same(heard, ['refuse 401', 'accept upgrade', 'close end'])
})
