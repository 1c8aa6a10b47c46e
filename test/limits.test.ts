import t from 'tap'
import { EventEmitter, once } from 'node:events'
import { setImmediate as turn } from 'node:timers/promises'
import type { FastifyRequest } from 'fastify'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, resettable, take, takeManually } from './fixtures/kinds.ts'
import { timersLeft, serveBriefly } from './fixtures/lifetime.ts'
import { until } from './fixtures/patience.ts'
import { codeOf } from './fixtures/requests.ts'
import { gate, onEach, type TestServer } from './fixtures/server.ts'
import { all } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'

const forever = (): Promise<never> => new Promise(() => {})

/** A client that asks, and the status that it is answered with. */
async function attempt (server: TestServer, kind: Parameters<typeof ask>[0] = 'upgrade'): Promise<{ wire: Wire, status: number }> {
  const wire = await server.connect()
  wire.send(ask(kind))
  return { wire, status: (await wire.head()).status }
}

onEachKind(t, 'L6 the connection above maxConnections gets 503 and Retry-After', async (t, kind, transport) => {
  let entered = 0
  const server = await serveBriefly(t, { transport }, app => take(app, () => {
    entered++
    return forever()
  }, { maxConnections: 2 }))
  const first = await attempt(server, kind)
  t.same([first.status, (await attempt(server, kind)).status], kind === 'upgrade' ? [101, 101] : [200, 200])
  const third = await server.connect()
  const refused = await third.send(ask(kind)).response()
  t.equal(refused.status, 503)
  t.match(refused.headers['retry-after'], /^\d+$/)
  t.equal(codeOf(refused.body), 'FST_ERR_DUPLEX_MAX_CONNECTIONS')
  t.equal(entered, 2)
  first.wire.reset()
  await until(() => server.app.duplex.connections.size <= 1)
  t.equal((await attempt(server, kind)).status, first.status, 'and there is room again')
}, everyKind, resettable)

onEach(t, 'L6 maxConnections holds on every transport', async (t, transport) => {
  const server = await serveBriefly(t, { transport }, app => take(app, ({ readable }) => all(readable), { maxConnections: 1 }))
  const { wire } = await attempt(server)
  t.equal((await attempt(server)).status, 503)
  wire.reset()
  await until(() => server.app.duplex.connections.size === 0)
  t.equal((await attempt(server)).status, 101)
})

t.test('L6 maxConnections of the plugin counts all routes together', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: 2 } }, app => {
    take(app, forever)
    app.get('/other', { duplex: true }, forever)
  })
  const other = async (): Promise<number> => {
    const wire = await server.connect()
    return (await wire.send('GET /other HTTP/1.1\r\nHost: a\r\n\r\n').head()).status
  }
  t.equal((await attempt(server, 'connect')).status, 200)
  t.equal(await other(), 200)
  t.equal(await other(), 503)
  t.equal((await attempt(server, 'body')).status, 503)
})

t.test('L6 a slot of the route is given back when the plugin has none left', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: 1 } }, app => {
    take(app, forever, { maxConnections: 1 })
    app.get('/other', { duplex: true }, forever)
  })
  const other = await server.connect()
  await other.send('GET /other HTTP/1.1\r\nHost: a\r\n\r\n').head()
  for (let times = 0; times < 3; times++) t.equal((await attempt(server)).status, 503)
  other.reset()
  await until(() => server.app.duplex.connections.size === 0)
  t.equal((await attempt(server)).status, 101)
})

t.test('L6 a request that waits in a hook has no slot yet', async t => {
  const waiting = gate()
  const held = gate()
  const server = await serveBriefly(t, {}, app => {
    app.addHook('preHandler', async request => {
      if (request.headers.slow === undefined) return
      waiting.open()
      await held.promise
    })
    take(app, forever, { maxConnections: 1 })
  })
  const slow = await server.connect()
  slow.send(ask('upgrade', 'Slow: yes'))
  await waiting.promise
  t.equal((await attempt(server)).status, 101)
  held.open()
  t.equal((await slow.head()).status, 503, 'the slot is taken when the handler is entered')
})

t.test('L6 maxConnections 0 takes nobody', async t => {
  const server = await serveBriefly(t, {}, app => take(app, forever, { maxConnections: 0 }))
  t.equal((await attempt(server)).status, 503)
})

/** What may become of a connection; its slot is free again after each. */
const fates: Record<string, {
  auto?: (connection: DuplexConnection) => unknown
  manual?: (pending: PendingDuplex) => unknown
  client?: (wire: Wire) => unknown
  onSend?: boolean
}> = {
  'is done': { auto: async () => {}, client: wire => wire.end(LAST_CHUNK) },
  fails: { auto: async () => { throw new Error('no') } },
  'is destroyed': { auto: connection => { connection.destroy() } },
  'is reset': { auto: forever, client: wire => wire.reset() },
  'has a hook that throws at acceptance': { auto: forever, onSend: true },
  'is refused by its handler': { manual: async pending => { pending.reply.code(403); return 'no' } },
  'has a manual handler that throws': { manual: async () => { throw new Error('no') } },
  'has a manual handler that does neither': { manual: async () => {} },
  'is reset before it is accepted': { manual: forever, client: wire => wire.reset() },
  'is detached': {
    manual: pending => { pending.kind === 'body' ? pending.destroy() : pending.detach().socket.resume().end() },
    client: wire => wire.end()
  }
}

for (const [fate, { auto, manual, client, onSend }] of Object.entries(fates)) {
  onEachKind(t, `L6 the slot is free again when the connection ${fate}`, async (t, kind, transport) => {
    const entered = new EventEmitter()
    const { app, connect } = await serveBriefly(t, { transport, plugin: { maxConnections: 1 } }, app => {
      if (onSend === true) {
        app.addHook('onSend', async (_request, reply) => {
          if (reply.statusCode >= 300) return
          entered.emit('in')
          throw new Error('no')
        })
      }
      const enter = <C>(handler: (connection: C) => unknown) => (connection: C): unknown => {
        entered.emit('in')
        return handler(connection)
      }
      if (manual === undefined) take(app, enter(auto ?? forever))
      else takeManually(app, enter(manual))
    })
    const wire = await connect()
    const first = once(entered, 'in')
    wire.send(ask(kind))
    await first
    if (client === undefined) {
      await wire.until('\r\n\r\n').catch(() => {})
      wire.end(kind === 'body' ? LAST_CHUNK : '')
    } else {
      client(wire)
    }
    await until(() => app.duplex.connections.size === 0)
    const second = once(entered, 'in')
    const next = await connect()
    next.send(ask(kind))
    const refused = next.until('MAX_CONNECTIONS').then(() => 'refused', () => 'over')
    t.not(await Promise.race([second.then(() => 'entered'), refused]), 'refused')
  }, everyKind, resettable)
}

t.test('L6 a refused body has no slot while it is still coming', async t => {
  const server = await serveBriefly(t, {}, app => {
    app.post('/it', { duplex: { accept: 'manual', maxConnections: 1 } }, async pending => {
      pending.reply.code(403)
      return 'no'
    })
  })
  const wire = await server.connect()
  wire.send(ask('body') + piece('body', 'some, and no more'))
  t.equal((await wire.response()).status, 403)
  await until(() => server.app.duplex.connections.size === 0)
  t.equal((await attempt(server, 'body')).status, 403)
})

t.test('L6 1000 cycles leave no slot taken', async t => {
  const server = await serveBriefly(t, { plugin: { maxConnections: 1 } }, app => {
    take(app, async ({ readable }) => {
      for await (const chunk of readable) if (String(chunk) === 'fail') throw new Error('no')
    })
  })
  const { app, connect, quiet } = server
  const kinds = ['upgrade', 'connect', 'hijack', 'body'] as const
  const refused: number[] = []
  for (let cycle = 0; cycle < 1000; cycle++) {
    const kind = kinds[cycle % 4] as typeof kinds[number]
    const wire = await connect()
    wire.send(ask(kind))
    if ((await wire.head()).status > 200) refused.push(cycle)
    const how = Math.floor(cycle / 4) % 3
    if (how === 0) wire.end(kind === 'body' ? LAST_CHUNK : '')
    else if (how === 1) wire.reset()
    else wire.send(piece(kind, 'fail'))
    await until(() => app.duplex.connections.size === 0)
    wire.destroy()
  }
  t.same(refused, [], 'the one slot was free every time')
  await quiet()
  t.equal((await attempt(server)).status, 101)
})

const stages = ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'onSend'] as const

for (const stage of stages) {
  onEachKind(t, `L13 a slow ${stage} hook is cut short by handshakeTimeout`, async (t, kind, transport) => {
    const slow = gate()
    let entered = false
    const hook = (_request: unknown, reply: { statusCode: number }): Promise<void> | undefined =>
      stage !== 'onSend' || reply.statusCode < 300 ? slow.promise : undefined
    const { connect, quiet } = await serveBriefly(t, { transport, plugin: { handshakeTimeout: 80 } }, app => {
      app.addHook(stage as 'onRequest', async (request, reply) => { await hook(request, reply) })
      take(app, () => { entered = true })
    })
    const wire = await connect()
    const response = await wire.send(ask(kind)).response()
    t.equal(response.status, 503)
    t.equal(response.headers.connection, 'close')
    t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
    await wire.remains()
    wire.end()
    slow.open()
    await quiet()
    t.equal(entered, false)
  }, everyKind, resettable)
}

onEach(t, 'L13 handshakeTimeout strikes while the body of an upgrade is awaited', async (t, transport) => {
  let entered = false
  const plugin = { handshakeTimeout: 80 }
  const { connect, quiet } = await serveBriefly(t, { transport, plugin }, app => take(app, () => { entered = true }))
  const wire = await connect()
  wire.send('POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"a"')
  const response = await wire.response()
  t.equal(response.status, 503)
  t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
  wire.end(': 1 } ')
  await quiet()
  t.equal(entered, false)
})

t.test('L13 handshakeTimeout strikes in a slow hook after the body of an upgrade was read', async t => {
  const slow = gate()
  let entered = false
  const { connect } = await serveBriefly(t, {}, app => {
    app.addHook('preHandler', () => slow.promise)
    take(app, () => { entered = true }, { handshakeTimeout: 80 })
  })
  const wire = await connect()
  wire.send('POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}')
  t.equal((await wire.response()).status, 503)
  await wire.remains()
  slow.open()
  await turn()
  t.equal(entered, false)
})

onEachKind(t, 'L13 a manual handler that does not accept in time is answered for, and cannot accept any more', async (t, kind, transport) => {
  const late = gate()
  const code = gate<string | undefined>()
  const plugin = { handshakeTimeout: 80 }
  const { connect, quiet } = await serveBriefly(t, { transport, plugin }, app => takeManually(app, async pending => {
    await late.promise
    await pending.accept().catch((error: { code?: string }) => code.open(error.code))
  }))
  const wire = await connect()
  const response = await wire.send(ask(kind)).response()
  t.equal(response.status, 503)
  t.equal(codeOf(response.body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
  late.open()
  t.match(await code.promise, /^FST_ERR_DUPLEX_(?:ALREADY_SENT|ABORTED)$/)
  wire.end()
  await quiet()
  t.equal(wire.pending, '', 'not a byte more')
}, everyKind, resettable)

t.test('L13 the 503 goes through the error handler and the hooks of the app', async t => {
  const { connect } = await serveBriefly(t, { plugin: { handshakeTimeout: 50 } }, app => {
    app.setErrorHandler((error: Error & { code: string }, _request, reply) => reply.send({ mine: error.code }))
    app.addHook('onSend', async (_request, reply) => { reply.header('x-hook', 'ran') })
    takeManually(app, forever)
  })
  const wire = await connect()
  const response = await wire.send(ask('upgrade')).response()
  t.equal(response.body, '{"mine":"FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT"}')
  t.equal(response.headers['x-hook'], 'ran')
})

onEachKind(t, 'L13 a handler is not entered while the answer of handshakeTimeout is being made', async (t, kind, transport) => {
  const slow = gate()
  const answering = gate()
  const sent = gate()
  let entered = false
  const { connect } = await serveBriefly(t, { transport, plugin: { handshakeTimeout: 60 } }, app => {
    app.addHook('preHandler', () => slow.promise)
    app.addHook('onSend', async () => {
      answering.open()
      await sent.promise
    })
    take(app, () => { entered = true })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await answering.promise
  slow.open()
  await turn()
  sent.open()
  t.equal((await wire.response()).status, 503)
  await wire.remains()
  t.equal(entered, false)
  t.equal(wire.pending, '')
}, everyKind, resettable)

t.test('L13 a takeover that waits behind a slow response is refused when its time is over', async t => {
  const slow = gate()
  let entered = false
  const { connect } = await serveBriefly(t, { plugin: { handshakeTimeout: 60 } }, app => {
    app.get('/slow', async () => {
      await slow.promise
      return 'slow'
    })
    app.addHook('onRequest', async request => { if (request.headers.stuck !== undefined) await forever() })
    take(app, () => { entered = true })
  })
  const wire = await connect()
  wire.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n' + ask('upgrade'))
  // A later request with as much time: when that has had its answer, the time of the first is over too.
  const later = await connect()
  t.equal((await later.send(ask('upgrade', 'Stuck: yes')).response()).status, 503)
  slow.open()
  t.equal((await wire.response()).body, 'slow')
  t.equal(codeOf((await wire.response()).body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
  t.equal(entered, false)
})

onEachKind(t, 'L13 the timer of handshakeTimeout ends with the handshake', async (t, kind, transport) => {
  const refuse = (request: FastifyRequest): void => { if (request.headers.refuse !== undefined) throw new Error('no') }
  const server = await serveBriefly(t, { transport, plugin: { handshakeTimeout: 60_000 } }, app => {
    app.addHook('onRequest', async request => refuse(request))
    take(app, forever)
  })
  t.equal(await timersLeft(), 0, 'none to begin with')
  await attempt(server, kind)
  t.equal(await timersLeft(), 0, 'accepted')
  const wire = await server.connect()
  t.equal((await wire.send(ask(kind, 'Refuse: yes')).response()).status, 500)
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  t.equal(await timersLeft(), 0, 'refused')
}, everyKind, resettable)

t.test('L13 the timer of handshakeTimeout ends when the client goes away', async t => {
  const hook = gate()
  const { connect, quiet } = await serveBriefly(t, { plugin: { handshakeTimeout: 60_000 } }, app => {
    app.addHook('onRequest', () => { hook.open(); return forever() })
    take(app, forever)
  })
  const body = 'POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{'
  for (const text of [ask('upgrade'), ask('body'), body, 'GET /never HTTP/1.1\r\nHost: a\r\n\r\n' + ask('upgrade'), 'GET /never HTTP/1.1\r\nHost: a\r\n\r\n' + ask('body')]) {
    const wire = await connect()
    wire.send(text)
    await hook.promise
    await turn()
    wire.reset()
  }
  await quiet()
  t.equal(await timersLeft(), 0)
})

t.test('L13 handlerTimeout of the route is the default', async t => {
  const slow = gate()
  let entered = false
  const { connect } = await serveBriefly(t, {}, app => {
    app.addHook('preHandler', () => slow.promise)
    take(app, () => { entered = true }, true, { handlerTimeout: 60 })
  })
  for (const head of [ask('upgrade'), ask('body')]) {
    const wire = await connect()
    const response = await wire.send(head).response()
    t.equal(response.status, 503)
    t.equal(codeOf(response.body), 'FST_ERR_HANDLER_TIMEOUT', "Fastify's own timer is the one to strike")
  }
  slow.open()
  await turn()
  t.equal(entered, false)
})

t.test('L13 handlerTimeout does not end an accepted connection', async t => {
  const { connect, app } = await serveBriefly(t, {}, app => take(app, forever, true, { handlerTimeout: 50 }))
  const wires: Wire[] = []
  for (const kind of ['upgrade', 'hijack', 'body'] as const) {
    const wire = await connect()
    await wire.send(ask(kind)).head()
    wires.push(wire)
  }
  // The same timer on a handler that never accepts strikes later than theirs would.
  const late = await serveBriefly(t, {}, app => takeManually(app, forever, { handlerTimeout: 50 }))
  const wire = await late.connect()
  t.equal((await wire.send(ask('upgrade')).response()).status, 503)
  t.equal(app.duplex.connections.size, 3)
  for (const { pending } of wires) t.equal(pending, '')
})
