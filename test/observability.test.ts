import t from 'tap'
import { AsyncLocalStorage } from 'node:async_hooks'
import { fork } from 'node:child_process'
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { json } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import type { FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, resettable, streamKinds, take, takeManually } from './fixtures/kinds.ts'
import { serveBriefly } from './fixtures/lifetime.ts'
import { everywhere, gate, onEach } from './fixtures/server.ts'
import { all } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'
import type { DuplexClosed, DuplexConnection, DuplexKind, PendingDuplex } from '../lib/index.ts'

const forever = (): Promise<never> => new Promise(() => {})
const statusOf = (kind: DuplexKind): number => kind === 'upgrade' ? 101 : 200

/** The client's side of the end. */
function finish (wire: Wire, kind: DuplexKind): void {
  wire.end(kind === 'body' ? LAST_CHUNK : '')
}

interface Line {
  level: number
  msg: string
  reqId?: string
  responseTime?: number
  res?: { statusCode: number }
  err?: { code?: string, message: string }
  duplex?: { kind: string, protocol?: string, reason: string, bytesRead: number, bytesWritten: number, duration: number }
}

const INFO = 30
const ERROR = 50

/** Settings whose log lines can be read; `wait` resolves with the first that has this message. */
function logged (): { fastify: FastifyServerOptions, lines: Line[], having: (msg: string) => Line[] } {
  const lines: Line[] = []
  const stream = { write (line: string) { lines.push(JSON.parse(line) as Line) } }
  return { lines, fastify: { logger: { level: 'info', stream } }, having: msg => lines.filter(line => line.msg === msg) }
}

/** What a channel publishes while this test runs. */
function heard<M> (t: Test, name: string): M[] {
  const messages: M[] = []
  const listener = (message: unknown): void => { messages.push(message as M) }
  diagnostics.subscribe(name, listener)
  t.teardown(() => diagnostics.unsubscribe(name, listener))
  return messages
}

onEachKind(t, 'L7 onResponse and request completed come once, at the end of the connection', async (t, kind, transport) => {
  const { fastify, having } = logged()
  const ended: { statusCode: number, elapsed: number }[] = []
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => {
    app.addHook('onResponse', async (_request, reply) => { ended.push({ statusCode: reply.statusCode, elapsed: reply.elapsedTime }) })
    take(app, ({ readable, writable }) => pipeline(readable, writable))
  })
  const wire = await connect()
  await wire.send(ask(kind)).head()
  const from = performance.now()
  for (let round = 0; round < 20; round++) await wire.send(piece(kind, `round ${round};`)).until(`round ${round};`)
  t.same(ended, [], 'not while it lives')
  t.same(having('request completed'), [])
  const lived = performance.now() - from
  finish(wire, kind)
  await wire.rest()
  await quiet()
  t.equal(ended.length, 1)
  t.equal(ended[0]?.statusCode, statusOf(kind))
  t.ok((ended[0]?.elapsed ?? 0) >= lived, 'the whole duration')
  const [line, ...more] = having('request completed')
  t.equal(more.length, 0)
  t.equal(line?.res?.statusCode, statusOf(kind))
  t.ok((line?.responseTime ?? 0) >= lived)
}, everyKind, resettable)

onEachKind(t, 'L7 onResponse and the last line of the request come once after an abort too', async (t, kind, transport) => {
  const { fastify, having } = logged()
  const ended: number[] = []
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => {
    app.addHook('onResponse', async (_request, reply) => { ended.push(reply.statusCode) })
    take(app, ({ readable }) => all(readable))
  })
  const wire = await connect()
  await wire.send(ask(kind)).head()
  wire.reset()
  await quiet()
  t.same(ended, [statusOf(kind)])
  t.equal(having('request completed').length + having('request errored').length, 1)
}, everyKind, resettable)

onEachKind(t, 'L7 onResponse and request completed come once after a refusal', async (t, kind, transport) => {
  const { fastify, having } = logged()
  const ended: number[] = []
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => {
    app.addHook('onResponse', async (_request, reply) => { ended.push(reply.statusCode) })
    app.addHook('preHandler', async (_request, reply) => { await reply.code(401).send('no') })
    take(app, forever)
  })
  const wire = await connect()
  t.equal((await wire.send(ask(kind)).response()).status, 401)
  finish(wire, kind)
  await quiet()
  t.same(ended, [401])
  t.equal(having('request completed').length, 1)
  t.equal(having('duplex connection closed').length, 0, 'there was no connection')
}, everyKind, resettable)

for (const kind of streamKinds) {
  t.test(`L7 onResponse comes once when the client leaves before acceptance [${kind}]`, async t => {
    const ended: FastifyRequest[] = []
    const aborted: FastifyRequest[] = []
    const entered = gate()
    const { connect, quiet } = await serveBriefly(t, {}, app => {
      app.addHook('onResponse', async request => { ended.push(request) })
      app.addHook('onRequestAbort', async request => { aborted.push(request) })
      takeManually(app, pending => {
        entered.open()
        return pending.closed.then(forever)
      })
    })
    const wire = await connect()
    wire.send(ask(kind))
    await entered.promise
    wire.reset()
    await quiet()
    t.equal(ended.length, 1)
    t.equal(aborted.length, 1)
  })
}

onEach(t, 'L7 one line sums the connection up', async (t, transport) => {
  const { fastify, lines, having } = logged()
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => {
    take(app, ({ readable, writable }) => pipeline(readable, writable))
  })
  const wire = await connect()
  await wire.send(ask('upgrade')).head()
  await wire.send('hello').until('hello')
  wire.end()
  await wire.rest()
  await quiet()
  const [line, ...more] = having('duplex connection closed')
  t.equal(more.length, 0)
  t.match(line, { level: INFO, duplex: { kind: 'upgrade', protocol: 'foo', reason: 'end', bytesRead: 5, bytesWritten: 5, duration: Number } })
  t.notOk('err' in (line ?? {}))
  t.equal(line?.reqId, lines.find(({ msg }) => msg === 'incoming request')?.reqId, 'by the log of the request')
}, everywhere)

onEachKind(t, 'L7 the line says what was wrong', async (t, kind, transport) => {
  const { fastify, having } = logged()
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => take(app, forever, { idleTimeout: 50 }))
  const wire = await connect()
  await wire.send(ask(kind)).head()
  await wire.remains()
  wire.end()
  await quiet()
  const [line] = having('duplex connection closed')
  t.match(line, { duplex: { kind, reason: 'idle' }, err: { code: 'FST_ERR_DUPLEX_IDLE_TIMEOUT' } })
  t.equal(line?.duplex?.protocol, kind === 'upgrade' ? 'foo' : undefined)
}, everyKind, resettable)

onEachKind(t, 'L7 a handler that fails is logged once as an error, and runs the onError hooks once', async (t, kind, transport) => {
  const { fastify, lines } = logged()
  const errors: [Error, number][] = []
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => {
    app.addHook('onError', async (_request, reply, error) => { errors.push([error, reply.statusCode]) })
    take(app, async ({ readable }) => {
      await once(readable, 'data')
      throw new Error('midway')
    })
  })
  const wire = await connect()
  await wire.send(ask(kind)).head()
  wire.send(piece(kind, 'go'))
  t.equal(await wire.remains(), '')
  wire.end()
  await quiet()
  t.match(errors, [[{ message: 'midway' }, statusOf(kind)]])
  t.match(lines.filter(({ level, msg }) => level === ERROR && msg === 'duplex handler failed'), [{ err: { message: 'midway' } }])
  t.equal(lines.filter(({ msg }) => msg === 'duplex handler failed').length, 1)
}, everyKind, resettable)

onEachKind(t, 'L7 a client that goes away is no error of the server', async (t, kind, transport) => {
  const { fastify, lines } = logged()
  const errors: Error[] = []
  const { connect, quiet } = await serveBriefly(t, { transport, fastify }, app => {
    app.addHook('onError', async (_request, _reply, error) => { errors.push(error) })
    take(app, ({ readable, writable }) => pipeline(readable, writable))
  })
  const wire = await connect()
  await wire.send(ask(kind)).head()
  await wire.send(piece(kind, 'x')).until('x')
  wire.reset()
  await quiet()
  t.same(errors, [])
  t.same(lines.filter(({ msg }) => msg === 'duplex handler failed'), [])
  t.match(lines.filter(({ msg }) => msg === 'duplex connection closed'), [{ level: INFO, duplex: { reason: 'abort' } }])
}, everyKind, resettable)

interface Told {
  connection: DuplexConnection
  request: FastifyRequest
  closed?: DuplexClosed
}

onEachKind(t, 'L7 diagnostics_channel tells of acceptance and of the end', async (t, kind, transport) => {
  const accepted = heard<Told>(t, 'fastify-duplex:accept')
  const refused = heard(t, 'fastify-duplex:refuse')
  const closed = heard<Told>(t, 'fastify-duplex:close')
  const entered = gate<[DuplexConnection, FastifyRequest, number]>()
  const { connect } = await serveBriefly(t, { transport }, app => take(app, ({ readable, writable, ...rest }, request) => {
    const [connection] = request.server.duplex.connections as ReadonlySet<DuplexConnection>
    entered.open([connection as DuplexConnection, request, accepted.length])
    return pipeline(readable, writable)
  }))
  const wire = await connect()
  await wire.send(ask(kind)).head()
  const [connection, request, before] = await entered.promise
  t.equal(before, 1, 'before the handler is entered')
  t.equal(accepted[0]?.connection, connection)
  t.equal(accepted[0]?.request, request)
  t.equal(closed.length, 0)
  finish(wire, kind)
  const result = await connection.closed
  t.equal(closed.length, 1)
  t.equal(closed[0]?.connection, connection)
  t.equal(closed[0]?.request, request)
  t.equal(closed[0]?.closed, result)
  t.same([accepted.length, refused.length], [1, 0])
}, everyKind, resettable)

onEachKind(t, 'L7 diagnostics_channel tells of a refusal, and of no end of it', async (t, kind, transport) => {
  const accepted = heard(t, 'fastify-duplex:accept')
  const refused = heard<{ request: FastifyRequest, statusCode: number, kind: string }>(t, 'fastify-duplex:refuse')
  const closed = heard(t, 'fastify-duplex:close')
  const { connect, quiet } = await serveBriefly(t, { transport }, app => {
    app.addHook('onRequest', async (request, reply) => { if (request.headers.how === 'hook') await reply.code(401).send('no') })
    takeManually(app, async pending => {
      pending.reply.code(403)
      return 'no'
    })
  })
  for (const how of ['hook', 'handler']) {
    const wire = await connect()
    await wire.send(ask(kind, `How: ${how}`)).response()
    finish(wire, kind)
  }
  await quiet()
  t.match(refused, [{ statusCode: 401, kind }, { statusCode: 403, kind, request: { headers: { how: 'handler' } } }])
  t.same([accepted.length, refused.length, closed.length], [0, 2, 0])
}, everyKind, resettable)

t.test('L7 diagnostics_channel tells of what is refused before there is a route', async t => {
  const refused = heard<{ raw: { url: string }, statusCode: number, kind: string }>(t, 'fastify-duplex:refuse')
  const { connect, quiet } = await serveBriefly(t, {}, app => {
    app.get('/it', { duplex: { protocols: ['foo'], kinds: ['upgrade'] } }, forever)
  })
  const heads = [
    'CONNECT nobody:1 HTTP/1.1\r\nHost: nobody:1\r\n\r\n',
    'CONNECT /it HTTP/1.1\r\nHost: a\r\n\r\n',
    'GET /it HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n',
    'GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: bar\r\n\r\n',
    'GET /it HTTP/1.1\r\nHost: a\r\n\r\n'
  ]
  for (const head of heads) {
    const wire = await connect()
    await wire.send(head).response()
    wire.end()
  }
  await quiet()
  t.match(refused, [
    { statusCode: 404, kind: 'connect', raw: { url: 'nobody:1' } },
    { statusCode: 400, kind: 'connect', raw: { url: '/it' } },
    { statusCode: 400, kind: 'upgrade', raw: { url: '/it' } },
    { statusCode: 426, kind: 'upgrade' },
    { statusCode: 426, kind: 'hijack' }
  ])
  t.equal(refused.length, 5)
})

t.test('L7 a HEAD is answered, and that is no refusal', async t => {
  const refused = heard(t, 'fastify-duplex:refuse')
  const { connect, quiet } = await serveBriefly(t, {}, app => take(app, forever))
  const wire = await connect()
  t.equal((await wire.send('HEAD /it HTTP/1.1\r\nHost: a\r\n\r\n').head()).status, 200)
  wire.end()
  await quiet()
  t.same(refused, [])
})

onEachKind(t, 'L7 a client that leaves before there was an answer was neither accepted nor refused', async (t, kind, transport) => {
  const channels = ['accept', 'refuse', 'close'].map(name => heard(t, `fastify-duplex:${name}`))
  const entered = gate()
  const { connect, quiet } = await serveBriefly(t, { transport }, app => takeManually(app, () => {
    entered.open()
    return forever()
  }))
  const wire = await connect()
  wire.send(ask(kind))
  await entered.promise
  wire.reset()
  await quiet()
  t.same(channels, [[], [], []])
}, everyKind, resettable)

t.test('L7 a detached socket is accepted and closed as any other', async t => {
  const accepted = heard<Told>(t, 'fastify-duplex:accept')
  const closed = heard<Told>(t, 'fastify-duplex:close')
  const { connect, quiet } = await serveBriefly(t, {}, app => takeManually(app, pending => {
    pending.detach().socket.resume().end('HTTP/1.1 101 Mine\r\n\r\n')
  }))
  const wire = await connect()
  await wire.send(ask('upgrade')).head()
  wire.end()
  await quiet()
  t.equal(accepted.length, 1)
  t.match(closed, [{ closed: { reason: 'detached' } }])
  t.equal(closed[0]?.connection, accepted[0]?.connection)
})

t.test('L7 nothing is published while nobody subscribes', async t => {
  const published: unknown[] = []
  for (const name of ['accept', 'refuse', 'close']) {
    const channel = diagnostics.channel(`fastify-duplex:${name}`)
    channel.publish = message => { published.push(message) }
    t.teardown(() => { delete (channel as { publish?: unknown }).publish })
    t.equal(channel.hasSubscribers, false)
  }
  const { connect, quiet } = await serveBriefly(t, {}, app => take(app, async () => {}))
  for (const head of [ask('upgrade'), ask('body') + LAST_CHUNK, 'CONNECT /no HTTP/1.1\r\nHost: a\r\n\r\n']) {
    const wire = await connect()
    await wire.send(head).head()
    wire.end()
  }
  await quiet()
  t.same(published, [])
})

for (const what of ['subscriber', 'logger']) {
  t.test(`L7 a ${what} that throws at the end takes no connection with it`, async t => {
    const child = fork(fileURLToPath(new URL('fixtures/throwing-process.js', import.meta.url)), [what], { stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
    t.teardown(() => child.kill())
    t.same(await json(child.stdout as NonNullable<typeof child.stdout>), { uncaught: what === 'logger' ? [] : [`of the ${what}`], reason: 'end', left: 0 })
  })
}

const unserialisable: Record<string, () => Error> = {
  'is frozen': () => Object.freeze(new Error('frozen')),
  'has a getter that throws': () => Object.defineProperty(new Error('getter'), 'detail', { enumerable: true, get () { throw new Error('of the getter') } })
}
for (const [what, make] of Object.entries(unserialisable)) {
  onEachKind(t, `L7 an error that ${what} ends the connection and nothing else`, async (t, kind) => {
    const { fastify, having } = logged()
    let responses = 0
    const { connect, quiet } = await serveBriefly(t, { fastify }, app => {
      app.addHook('onResponse', async () => { responses++ })
      take(app, async ({ readable }) => {
        await once(readable, 'data')
        throw make()
      })
    })
    const wire = await connect()
    await wire.send(ask(kind)).head()
    wire.send(piece(kind, 'go'))
    await wire.remains()
    await quiet()
    t.equal(having('duplex handler failed').length, 1)
    t.equal(having('duplex connection closed').length, 1)
    t.equal(responses, 1)
  })
}

const breaks: Record<string, (connection: DuplexConnection) => unknown> = {
  'destroys its response': ({ writable }) => { writable.destroy() },
  'catches what its pipeline() throws': async ({ writable }) => {
    await pipeline(new Readable({ read () { this.destroy(new Error('of the source')) } }), writable).catch(() => {})
  },
  'aborts its web stream': connection => connection.web().writable.abort(new Error('enough')).catch(() => {})
}
for (const [what, act] of Object.entries(breaks)) {
  t.test(`L7 a handler of a body that ${what} and returns: onResponse once, and no end`, async t => {
    const { fastify, having } = logged()
    let responses = 0
    const closed = gate<DuplexClosed>()
    const { connect, quiet } = await serveBriefly(t, { fastify }, app => {
      app.addHook('onResponse', async () => { responses++ })
      take(app, async connection => {
        void connection.closed.then(closed.open)
        await act(connection)
      })
    })
    const wire = await connect()
    wire.send(ask('body') + LAST_CHUNK)
    await wire.remains()
    t.not((await closed.promise).reason, 'end')
    await quiet()
    t.equal(responses, 1)
    t.equal(having('request completed').length + having('request errored').length, 1)
  })
}

onEachKind(t, 'L7 a client that leaves while the accept head is made is not logged as accepted', async (t, kind) => {
  const { fastify, lines } = logged()
  const there = gate()
  const goOn = gate()
  const { connect, quiet } = await serveBriefly(t, { fastify }, app => take(app, () => {}, true, {
    onSend: async () => {
      there.open()
      await goOn.promise
    }
  }))
  const wire = await connect()
  wire.send(ask(kind))
  await there.promise
  wire.reset()
  await quiet()
  goOn.open()
  t.equal(lines.some(({ res }) => res?.statusCode === 101), false)
})

const storage = new AsyncLocalStorage<string>()

/** Gives every request the store that its header names, as tracers and request contexts do. */
function inContext (app: { addHook: (name: 'onRequest', hook: (request: FastifyRequest, reply: FastifyReply, done: () => void) => void) => unknown }): void {
  app.addHook('onRequest', (request, _reply, done) => { storage.run(String(request.headers.store), done) })
}

for (const hooks of ['no', 'asynchronous'] as const) {
  onEachKind(t, `L7 the handler and what it awaits run in the context of the request, with ${hooks} onSend hooks`, async (t, kind, transport) => {
    const stores: Record<string, (string | undefined)[]> = { a: [], b: [] }
    const { connect } = await serveBriefly(t, { transport }, app => {
      inContext(app)
      if (hooks !== 'no') app.addHook('onSend', async () => { await new Promise(resolve => setImmediate(resolve)) })
      take(app, async ({ readable, writable }, request) => {
        const seen = stores[String(request.headers.store)]
        seen?.push(storage.getStore())
        await new Promise(resolve => setImmediate(resolve))
        seen?.push(storage.getStore())
        for await (const chunk of readable) {
          seen?.push(storage.getStore())
          await new Promise(resolve => writable.write(chunk, resolve))
          seen?.push(storage.getStore())
        }
      })
    })
    const wires = await Promise.all(['a', 'b'].map(async store => {
      const wire = await connect()
      wire.send(ask(kind, `Store: ${store}`))
      return wire
    }))
    for (const wire of wires) {
      await wire.head()
      await wire.send(piece(kind, 'x')).until('x')
      finish(wire, kind)
      await wire.rest()
    }
    t.same(stores, { a: ['a', 'a', 'a', 'a'], b: ['b', 'b', 'b', 'b'] })
  }, everyKind, resettable)
}

onEachKind(t, 'L7 a manual handler is in the context of the request before and after accept()', async (t, kind, transport) => {
  const seen: (string | undefined)[] = []
  const { connect } = await serveBriefly(t, { transport }, app => {
    inContext(app)
    app.addHook('onSend', async () => {
      seen.push(storage.getStore())
      await new Promise(resolve => setImmediate(resolve))
    })
    takeManually(app, async (pending: PendingDuplex) => {
      seen.push(storage.getStore())
      const { readable } = await pending.accept()
      seen.push(storage.getStore())
      await all(readable)
      seen.push(storage.getStore())
    })
  })
  const wire = await connect()
  await wire.send(ask(kind, 'Store: mine')).head()
  finish(wire, kind)
  await wire.rest()
  t.same(seen, ['mine', 'mine', 'mine', 'mine'])
}, everyKind, resettable)

onEachKind(t, 'L7 onResponse, the last log line and the close channel are in the context of the request', async (t, kind, transport) => {
  const seen: Record<string, string | undefined> = {}
  const listener = (): void => { seen.channel = storage.getStore() }
  diagnostics.subscribe('fastify-duplex:close', listener)
  t.teardown(() => diagnostics.unsubscribe('fastify-duplex:close', listener))
  const { connect, quiet } = await serveBriefly(t, {
    transport,
    fastify: { logger: { stream: { write (line: string) { if (line.includes('duplex connection closed')) seen.line = storage.getStore() } } } }
  }, app => {
    inContext(app)
    app.addHook('onResponse', async () => { seen.hook = storage.getStore() })
    take(app, async () => {})
  })
  const wire = await connect()
  await wire.send(ask(kind, 'Store: mine')).head()
  finish(wire, kind)
  await quiet()
  t.same(seen, { channel: 'mine', line: 'mine', hook: 'mine' })
}, everyKind, resettable)

for (const kind of streamKinds) {
  t.test(`L7 a takeover that waited behind another response has no part in the context of that [${kind}]`, async t => {
    const seen = gate<string | undefined>()
    const { connect } = await serveBriefly(t, {}, app => {
      app.get('/first', (_request, reply) => storage.run('first', () => { setImmediate(() => reply.send('first')) }))
      take(app, () => { seen.open(storage.getStore()) })
    })
    const wire = await connect()
    wire.send('GET /first HTTP/1.1\r\nHost: a\r\n\r\n' + ask(kind))
    t.equal((await wire.response()).body, 'first')
    await wire.head()
    t.equal(await seen.promise, undefined)
  })
}
