import t from 'tap'
import { once } from 'node:events'
import http from 'node:http'
import https from 'node:https'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import type { FastifyServerFactory } from 'fastify'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, resettable, take, takeManually } from './fixtures/kinds.ts'
import { all, MiB, pattern, sha256 } from './fixtures/takeover.ts'
import { accepted, every, howItLooks, timersLeft, readSlowly } from './fixtures/lifetime.ts'
import { everywhere, gate, onEach, serve, tlsOptions, transports } from './fixtures/server.ts'
import type { DuplexClosed, DuplexConnection, PendingDuplex } from '../lib/index.ts'

const codeOf = (error: unknown): string | undefined => (error as { code?: string } | undefined)?.code

onEach(t, 'L1 a handler that resolves with writes pending loses none of them', async (t, transport) => {
  const bytes = pattern(4 * MiB)
  const pending = gate<number>()
  const { wire, connection } = await accepted(t, { transport }, async ({ writable }) => {
    writable.write(bytes)
    pending.open(writable.writableLength)
  })
  t.ok(await pending.promise > 0, 'there was something left to flush')
  t.equal(sha256(await wire.rest()), sha256(bytes))
  wire.end()
  t.match(await connection.closed, { reason: 'end', error: undefined, bytesWritten: bytes.length })
}, everywhere)

onEachKind(t, 'L1 writes, then FIN, and closed says end', async (t, kind, transport) => {
  const { wire, connection } = await accepted(t, { kind, transport }, async ({ readable, writable }) => {
    await all(readable)
    writable.write('last words')
  })
  if (kind === 'body') wire.send(piece(kind, 'hello') + LAST_CHUNK)
  else wire.end('hello')
  t.equal(await wire.until(kind === 'body' ? LAST_CHUNK : 'words'), piece(kind, 'last words') + (kind === 'body' ? LAST_CHUNK : ''))
  const closed = await connection.closed
  t.match(closed, { reason: 'end', bytesRead: 5, bytesWritten: 10 })
  t.notOk('error' in closed)
  t.equal(connection.signal.aborted, false)
}, everyKind, resettable)

onEach(t, 'L1 close() flushes and ends like a handler that resolves', async (t, transport) => {
  const closed = gate<DuplexClosed>()
  const { wire, connection } = await accepted(t, { transport }, async connection => {
    connection.writable.write(pattern(2 * MiB))
    closed.open(await connection.close())
  })
  t.equal((await wire.rest()).length, 2 * MiB)
  wire.end()
  t.equal((await closed.promise).reason, 'end')
  t.equal(await closed.promise, await connection.closed, 'the very same result')
}, everywhere)

for (const order of ['server', 'client'] as const) {
  onEach(t, `L1 a handler without a promise that reads nothing: over when both sides have ended, the ${order} first`, async (t, transport) => {
    const heard = gate()
    const { wire, connection } = await accepted(t, { transport }, ({ writable }) => {
      if (order === 'server') writable.end('all')
      else void heard.promise.then(() => writable.end('all'))
    })
    if (order === 'server') {
      t.equal((await wire.rest()).toString(), 'all')
      wire.end()
    } else {
      wire.end()
      heard.open()
      t.equal((await wire.rest()).toString(), 'all')
    }
    t.match(await connection.closed, { reason: 'end', error: undefined })
    t.ok((await connection.closed).duration < 25_000, 'and not for finTimeout')
  }, everywhere)
}

t.test('L1 await using closes the connection at the end of the block', async t => {
  const over = gate<string>()
  const { wire } = await accepted(t, {}, async connection => {
    connection.writable.write('bye')
    await connection[Symbol.asyncDispose]()
    over.open((await connection.closed).reason)
  })
  wire.end()
  t.equal((await wire.rest()).toString(), 'bye')
  t.equal(await over.promise, 'end')
})

onEach(t, 'L2 a peer that neither ends nor sends is destroyed after finTimeout', async (t, transport) => {
  const { wire, connection, quiet } = await accepted(t, { transport, duplex: { finTimeout: 100 } }, async ({ writable }) => {
    writable.write('done')
  })
  t.equal((await wire.rest()).toString(), 'done')
  const closed = await connection.closed
  t.equal(closed.reason, 'fin')
  t.equal(codeOf(closed.error), 'FST_ERR_DUPLEX_FIN_TIMEOUT')
  t.ok(closed.duration >= 100)
  t.equal(connection.signal.reason, closed.error)
  await quiet()
}, everywhere)

onEach(t, 'L2 while the peer still sends the connection lives', async (t, transport) => {
  const { wire, connection } = await accepted(t, { transport, duplex: { finTimeout: 100 } }, async ({ writable }) => {
    writable.write('done')
  })
  await wire.until('done')
  await every(20, 400, () => wire.send('x'))
  t.equal(connection.signal.aborted, false, 'four times as long as finTimeout')
  t.match(await connection.closed, { reason: 'fin', bytesRead: 20 })
}, everywhere)

onEach(t, 'L2 a peer that reads slowly what is being flushed is not cut', async (t, transport) => {
  const bytes = pattern(32 * MiB)
  const { wire, connection } = await accepted(t, { transport, duplex: { finTimeout: 900 } }, async ({ writable }) => {
    writable.write(bytes)
  })
  const slowly = await readSlowly(wire, bytes.length)
  wire.end()
  t.equal(sha256(slowly.bytes), sha256(bytes))
  t.ok(slowly.took > 1600, `it took ${slowly.took} ms`)
  t.equal((await connection.closed).reason, 'end')
}, ['tcp', 'tls'])

onEach(t, 'L2 a peer that stops reading what is being flushed is cut', async (t, transport) => {
  const { wire, connection, quiet } = await accepted(t, { transport, duplex: { finTimeout: 100 } }, async ({ writable }) => {
    writable.write(pattern(32 * MiB))
  })
  wire.socket.pause()
  t.equal((await connection.closed).reason, 'fin')
  await quiet()
}, everywhere)

t.test('L2 a writable that the handler ended itself starts finTimeout too', async t => {
  const { wire, connection } = await accepted(t, { duplex: { finTimeout: 100 } }, ({ writable }) => {
    writable.end('bye')
    return new Promise(() => {})
  })
  t.equal((await wire.rest()).toString(), 'bye')
  t.equal((await connection.closed).reason, 'fin')
})

for (const first of ['client', 'server'] as const) {
  onEach(t, `L2 both sides have ended, the ${first} first, and the handler only waits for closed: over, with end`, async (t, transport) => {
    const goOn = gate()
    const { wire, connection, quiet } = await accepted(t, { transport }, async ({ writable, closed }) => {
      await goOn.promise
      writable.end('bye')
      await closed
    })
    if (first === 'client') wire.end()
    else wire.until('bye').then(() => wire.end(), () => {})
    await turn()
    goOn.open()
    t.match(await connection.closed, { reason: 'end', error: undefined })
    await quiet()
  })
}

onEach(t, 'L2 both sides have ended, and nobody ever reads what came before the end: destroyed after finTimeout', async (t, transport) => {
  const goOn = gate()
  const { wire, connection, quiet } = await accepted(t, { transport, duplex: { finTimeout: 100 } }, ({ writable }) => {
    void goOn.promise.then(() => writable.end('bye'))
  })
  wire.end('unread')
  while (connection.bytesRead < 6) await turn()
  goOn.open()
  t.match(await connection.closed, { reason: 'fin' })
  await quiet()
})

t.test('L2 both sides have ended, and the handler reads what came at its own pace', async t => {
  const { wire, connection } = await accepted(t, { duplex: { finTimeout: 400 } }, async ({ readable, writable }) => {
    writable.end('bye')
    const come = once(readable, 'readable')
    readable.on('readable', () => {})
    await come
    const later = await accepted(t, { duplex: { finTimeout: 800 } }, ({ writable }) => { writable.end() })
    t.match(await later.connection.closed, { reason: 'fin' }, 'twice the time has passed')
    t.equal(String(readable.read()), 'read late')
  })
  wire.end('read late')
  t.equal((await wire.rest()).toString(), 'bye')
  t.match(await connection.closed, { reason: 'end', bytesRead: 9 })
})

t.test('L12 both sides have ended, the client first: halfOpenTimeout does not cut a handler that reads at its own pace', async t => {
  const { wire, connection } = await accepted(t, { duplex: { halfOpenTimeout: 50 } }, async connection => {
    const { readable, writable } = connection
    while (connection.bytesRead < 9) await turn()
    // By then the end of the client is known, and has armed the timeout.
    await new Promise(resolve => setTimeout(resolve, 20))
    writable.end('bye')
    await new Promise(resolve => setTimeout(resolve, 200))
    readable.resume()
  })
  wire.end('read late')
  t.equal((await wire.rest()).toString(), 'bye')
  t.match(await connection.closed, { reason: 'end', bytesRead: 9 })
})

onEachKind(t, 'L2 a manual handler without a promise that accepts late, and reads nothing: over when both sides have ended', async (t, kind) => {
  const seen = gate<PendingDuplex>()
  const { connect, quiet } = await serve(t, { plugin: { finTimeout: 60_000 } }, app => takeManually(app, pending => {
    seen.open(pending)
    void turn().then(() => pending.accept()).then(({ writable }) => writable.end('bye'))
  }))
  const wire = await connect()
  wire.send(ask(kind))
  await wire.until(kind === 'body' ? LAST_CHUNK : 'bye')
  if (kind === 'body') wire.send(piece(kind, 'x'.repeat(100_000)) + LAST_CHUNK)
  wire.end()
  t.match(await (await seen.promise).closed, { reason: 'end' })
  await quiet()
})

t.test('L2 a body that never ends is cut after its response', async t => {
  const { wire, connection, quiet } = await accepted(t, { kind: 'body', duplex: { finTimeout: 100 } }, async ({ writable }) => {
    writable.write('enough')
  })
  t.equal(await wire.until(LAST_CHUNK), piece('body', 'enough') + LAST_CHUNK)
  t.match(await connection.closed, { reason: 'fin' })
  await wire.remains()
  await quiet()
})

t.test('L2 finTimeout of a route overrides that of the plugin', async t => {
  const { wire, connection } = await accepted(t, { plugin: { finTimeout: 60_000 }, duplex: { finTimeout: 50 } }, async () => {})
  await wire.rest()
  const { error } = await connection.closed
  t.match(error?.message, '50 ms')
})

t.test('L2 finTimeout 0 arms nothing', async t => {
  const { wire, connection } = await accepted(t, { duplex: { finTimeout: 0 } }, async () => {})
  await wire.rest()
  t.equal(await timersLeft(), 0)
  wire.end()
  t.equal((await connection.closed).reason, 'end')
})

onEach(t, 'L4 silence in both directions ends the connection after idleTimeout', async (t, transport) => {
  const { wire, connection, quiet } = await accepted(t, { transport, duplex: { idleTimeout: 100 } }, () => new Promise(() => {}))
  const closed = await connection.closed
  t.equal(closed.reason, 'idle')
  t.equal(codeOf(closed.error), 'FST_ERR_DUPLEX_IDLE_TIMEOUT')
  t.equal(connection.signal.reason, closed.error, 'signal tells the same')
  t.ok(closed.duration >= 100 && closed.duration < 1000)
  t.equal(await howItLooks(wire), transport === 'unix' ? 'ended' : 'broken', 'a Unix socket has no reset')
  await quiet()
}, everywhere)

onEachKind(t, 'L4 idleTimeout holds for every kind', async (t, kind, transport) => {
  const { connection, quiet } = await accepted(t, { kind, transport, duplex: { idleTimeout: 60 } }, () => new Promise(() => {}))
  t.match(await connection.closed, { reason: 'idle' })
  await quiet()
}, everyKind, resettable)

onEach(t, 'L4 bytes of the client alone keep the connection alive', async (t, transport) => {
  const { wire, connection } = await accepted(t, { transport, duplex: { idleTimeout: 100 } }, ({ readable }) => {
    readable.resume()
    return new Promise(() => {})
  })
  await every(20, 400, () => wire.send('x'))
  t.equal(connection.signal.aborted, false)
  t.match(await connection.closed, { reason: 'idle', bytesRead: 20, bytesWritten: 0 })
}, everywhere)

onEach(t, 'L4 bytes of the server alone keep the connection alive', async (t, transport) => {
  const { connection } = await accepted(t, { transport, duplex: { idleTimeout: 100 } }, () => new Promise(() => {}))
  await every(20, 400, () => connection.writable.write('x'))
  t.equal(connection.signal.aborted, false)
  t.match(await connection.closed, { reason: 'idle', bytesRead: 0, bytesWritten: 20 })
}, everywhere)

onEach(t, 'L4 bytes that came while the event loop stood still are traffic', async (t, transport) => {
  const { wire, connection } = await accepted(t, { transport, duplex: { idleTimeout: 100 } }, ({ readable }) => {
    readable.resume()
    return new Promise(() => {})
  })
  for (let round = 1; round <= 3; round++) {
    wire.send('x')
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 250)
    while (connection.bytesRead < round && !connection.signal.aborted) await turn()
  }
  t.equal(connection.signal.aborted, false, 'two and a half times as long as idleTimeout')
  t.match(await connection.closed, { reason: 'idle', bytesRead: 3 })
}, everywhere)

for (const [transport, kind] of [['tls', 'upgrade'], ['tcp', 'body']] as const) {
  t.test(`L4 one long write that is read slowly is traffic [${transport}, ${kind}]`, async t => {
    const bytes = pattern(32 * MiB)
    const { wire, connection } = await accepted(t, { transport, kind, duplex: { idleTimeout: 900 } }, async ({ writable }) => {
      writable.write(bytes)
    })
    if (kind === 'body') await wire.until('\r\n')
    const slowly = await readSlowly(wire, bytes.length)
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    t.equal(sha256(slowly.bytes), sha256(bytes))
    t.ok(slowly.took > 1600, `it took ${slowly.took} ms`)
    t.equal((await connection.closed).reason, 'end')
  })
}

t.test('L4 idleTimeout 0 arms nothing, and another arms one timer', async t => {
  const without = await accepted(t, { duplex: { idleTimeout: 0 } }, () => new Promise(() => {}))
  t.equal(await timersLeft(), 0)
  const having = await accepted(t, { duplex: { idleTimeout: 60_000 } }, () => new Promise(() => {}))
  t.equal(await timersLeft(1), 1)
  having.wire.reset()
  without.wire.reset()
  await having.connection.closed
  t.equal(await timersLeft(), 0, 'and it goes with the connection')
})

onEach(t, 'L5 maxLifetime ends a connection that is busy', async (t, transport) => {
  const { wire, connection } = await accepted(t, { transport, duplex: { maxLifetime: 1200, idleTimeout: 500 } },
    ({ readable, writable }) => pipeline(readable, writable))
  const busy = setInterval(() => wire.send('x'), 20)
  const closed = await connection.closed
  clearInterval(busy)
  t.equal(closed.reason, 'lifetime')
  t.equal(codeOf(closed.error), 'FST_ERR_DUPLEX_MAX_LIFETIME')
  t.ok(closed.duration >= 1190)
  // A Unix socket has no reset: its peer is seen to end, or to be gone by the next write.
  t.match(await howItLooks(wire), transport === 'unix' ? /./ : 'broken')
}, everywhere)

onEachKind(t, 'L5 maxLifetime holds for every kind', async (t, kind, transport) => {
  const { connection, quiet } = await accepted(t, { kind, transport, duplex: { maxLifetime: 60 } }, () => new Promise(() => {}))
  t.equal((await connection.closed).reason, 'lifetime')
  t.equal(codeOf(connection.signal.reason), 'FST_ERR_DUPLEX_MAX_LIFETIME')
  await quiet()
}, everyKind, resettable)

onEach(t, 'L5 the timers of the HTTP server do not end a takeover', async (t, transport) => {
  const timers = { requestTimeout: 400, headersTimeout: 400, keepAliveTimeout: 400, connectionsCheckingInterval: 50 }
  const serverFactory: FastifyServerFactory = handler => {
    const listener = handler as http.RequestListener
    const server = transport === 'tls' ? https.createServer({ ...tlsOptions, ...timers }, listener) : http.createServer(timers, listener)
    server.timeout = 400
    server.maxRequestsPerSocket = 2
    return server as http.Server
  }
  const { connect, app } = await serve(t, { transport, fastify: { serverFactory } }, app => {
    take(app, ({ readable, writable }) => pipeline(readable, writable))
    app.get('/plain', async () => 'plain')
  })
  const first = await connect()
  first.send(ask('upgrade'))
  t.equal((await first.head()).status, 101)
  // The second request, and the last that maxRequestsPerSocket allows.
  const second = await connect()
  await second.send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\n').response()
  second.send(ask('upgrade'))
  t.equal((await second.head()).status, 101)
  // The same timers, seen to strike: on a request that does not come, and on one that does not end.
  const idle = await connect()
  await idle.send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\n').response()
  const stalled = await connect()
  stalled.send('GET /plain HTTP/1.1\r\nHos')
  await Promise.all([idle.remains(), stalled.remains()])
  for (const wire of [first, second]) t.equal(await wire.send('alive').until('alive'), 'alive')
  t.equal(app.duplex.connections.size, 2)
}, transports)

t.test('L5 tcpKeepAlive is set on a connection that lasts, 0 leaves it, and one that is over never has it', async t => {
  const set: [string, boolean | undefined, number | undefined][] = []
  const both = gate()
  const { connect, app } = await serve(t, {}, app => {
    app.addHook('onRequest', async request => {
      const { socket } = request.raw
      const { setKeepAlive } = socket
      socket.setKeepAlive = (on, delay) => {
        set.push([request.url, on, delay])
        if (set.length === 2) both.open()
        return setKeepAlive.call(socket, on, delay)
      }
    })
    for (const [url, duplex] of [
      ['/short', true], ['/off', { tcpKeepAlive: 0 }], ['/default', true], ['/own', { tcpKeepAlive: 5000 }]
    ] as const) app.get(url, { duplex }, ({ readable, writable }) => pipeline(readable, writable))
  })
  for (const url of ['/short', '/off', '/default', '/own']) {
    const wire = await connect()
    await wire.send(`GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`).head()
    await wire.send(url).until(url)
    if (url === '/short') await wire.end().rest()
  }
  t.same(set, [])
  await both.promise
  t.same(set.sort(), [['/default', true, 60_000], ['/own', true, 5000]])
  t.equal(app.duplex.connections.size, 3)
})

/** Every way for a connection to end, with what `closed` has to say then. */
const endings: Record<string, {
  code?: string
  duplex?: { idleTimeout?: number, finTimeout?: number, maxLifetime?: number, halfOpenTimeout?: number }
  handler?: (connection: DuplexConnection) => unknown
  client?: (wire: Awaited<ReturnType<typeof accepted>>['wire'], kind: string) => unknown
  drain?: boolean
}> = {
  end: { handler: async () => {}, client: (wire, kind) => kind === 'body' ? wire.send(LAST_CHUNK) : wire.end() },
  abort: { code: 'FST_ERR_DUPLEX_ABORTED', client: wire => wire.reset() },
  idle: { code: 'FST_ERR_DUPLEX_IDLE_TIMEOUT', duplex: { idleTimeout: 50 } },
  fin: { code: 'FST_ERR_DUPLEX_FIN_TIMEOUT', duplex: { finTimeout: 50 }, handler: async () => {} },
  'half-open': {
    code: 'FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT',
    duplex: { halfOpenTimeout: 50 },
    client: (wire, kind) => kind === 'body' ? wire.send(LAST_CHUNK) : wire.end()
  },
  lifetime: { code: 'FST_ERR_DUPLEX_MAX_LIFETIME', duplex: { maxLifetime: 50 } },
  shutdown: { code: 'FST_ERR_DUPLEX_SHUTDOWN', drain: true },
  error: { handler: async () => { throw Object.assign(new Error('no'), { code: 'NO' }) }, code: 'NO' },
  destroyed: { code: 'FST_ERR_DUPLEX_DESTROYED', handler: connection => { connection.destroy() } }
}

for (const [reason, { code, duplex, handler, client, drain }] of Object.entries(endings)) {
  onEachKind(t, `L11 closed settles once, with ${reason}`, async (t, kind, transport) => {
    const { wire, connection, app, quiet } = await accepted(t, { kind, transport, ...(duplex && { duplex }) }, connection => {
      if (handler === undefined) return new Promise(() => {})
      return handler(connection)
    })
    const early = connection.closed
    let settled = 0
    void early.then(() => { settled++ })
    client?.(wire, kind)
    if (drain === true) await app.duplex.drain(20)
    const closed = await early
    t.equal(closed.reason, reason)
    t.equal(codeOf(closed.error), code)
    t.type(closed.duration, 'number')
    connection.destroy(new Error('too late'))
    t.equal(await connection.close(), closed, 'close() after the end tells the same')
    t.equal(await connection.closed, closed)
    t.equal(codeOf(connection.signal.reason), code)
    // What is left of a body is a connection that is kept alive.
    wire.end()
    await quiet()
    t.equal(settled, 1)
  }, everyKind, resettable)
}

onEach(t, 'L11 closed settles when the peer resets, on every transport', async (t, transport) => {
  const { wire, connection, quiet } = await accepted(t, { transport }, ({ readable, writable }) => pipeline(readable, writable))
  await wire.send('x').until('x')
  wire.reset()
  // A Unix socket has no reset: its peer is seen to end, or to be gone when something is written to it.
  t.match(await connection.closed, { reason: transport === 'unix' ? /^(?:end|abort)$/ : 'abort' })
  await quiet()
}, everywhere)

t.test('L11 closed that nobody asked for in time still tells', async t => {
  const { wire, connection, quiet } = await accepted(t, {}, async () => {})
  wire.end()
  await quiet()
  t.match(await connection.closed, { reason: 'end' })
})

onEachKind(t, 'L11 closed settles for a pending connection that is refused', async (t, kind, transport) => {
  const seen = gate<PendingDuplex>()
  const { connect, quiet } = await serve(t, { transport }, app => takeManually(app, async pending => {
    seen.open(pending)
    pending.reply.code(403)
    return { no: 1 }
  }))
  const wire = await connect()
  wire.send(ask(kind))
  t.equal((await wire.response()).status, 403)
  if (kind === 'body') wire.send(LAST_CHUNK)
  else wire.end()
  const { closed } = await seen.promise
  t.match(await closed, { reason: 'end', error: undefined, bytesWritten: 0 })
  wire.end()
  await quiet()
}, everyKind, resettable)

onEachKind(t, 'L11 closed settles for a pending connection whose client goes away', async (t, kind, transport) => {
  const seen = gate<PendingDuplex>()
  const accepting = gate<unknown>()
  const { connect, quiet } = await serve(t, { transport }, app => takeManually(app, async pending => {
    seen.open(pending)
    await pending.closed
    await pending.accept().catch(accepting.open)
  }))
  const wire = await connect()
  wire.send(ask(kind))
  const { closed, signal } = await seen.promise
  wire.reset()
  t.match(await closed, { reason: 'abort' })
  t.equal(codeOf(signal.reason), 'FST_ERR_DUPLEX_ABORTED')
  t.equal(codeOf(await accepting.promise), 'FST_ERR_DUPLEX_ABORTED', 'and it cannot be accepted any more')
  await quiet()
}, everyKind, resettable)

t.test('L11 closed settles for a body that was pipelined behind a response when its client goes away', async t => {
  const slow = gate()
  const seen = gate<DuplexConnection>()
  const { connect, quiet } = await serve(t, {}, app => {
    app.get('/slow', () => slow.promise)
    take(app, connection => {
      seen.open(connection)
      return new Promise(() => {})
    })
  })
  const wire = await connect()
  wire.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n' + ask('body') + piece('body', 'x'))
  const connection = await seen.promise
  wire.reset()
  t.match(await connection.closed, { reason: 'abort' })
  slow.open()
  await quiet()
})

t.test('L11 a detached socket settles closed, with detached', async t => {
  const seen = gate<PendingDuplex>()
  const { connect, quiet } = await serve(t, {}, app => takeManually(app, pending => {
    seen.open(pending)
    pending.detach().socket.resume().end('HTTP/1.1 101 Mine\r\n\r\n')
  }))
  for (const kind of everyKind.filter(kind => kind !== 'body')) {
    const wire = await connect()
    wire.send(ask(kind))
    t.equal((await wire.head()).line, 'HTTP/1.1 101 Mine')
    wire.end()
  }
  t.match(await (await seen.promise).closed, { reason: 'detached' })
  await quiet()
})

onEach(t, 'L11 the socket of a detached connection is read by its new owner alone, whatever becomes of the handler', async (t, transport) => {
  const later = gate()
  const heard = gate<string>()
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    const { socket, head } = pending.detach()
    socket.write('HTTP/1.1 101 Mine\r\n\r\n')
    void later.promise.then(() => all(socket)).then(rest => {
      heard.open(`${head} ${rest}`)
      socket.end()
    })
  }))
  const wire = await connect()
  wire.send(`${ask('upgrade')}head`)
  t.equal((await wire.head()).line, 'HTTP/1.1 101 Mine')
  wire.end('and the rest')
  for (let turns = 0; turns < 20; turns++) await turn()
  later.open()
  t.equal(await heard.promise, 'head and the rest')
})
