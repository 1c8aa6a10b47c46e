import t, { type Test } from 'tap'
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import net, { type AddressInfo } from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import type { FastifyError, FastifyInstance } from 'fastify'
import { dial, tunnel, type DuplexAcceptOptions, type DuplexConnection, type FastifyDuplexOptions, type PendingDuplex, type TunnelEnd, type TunnelOpener, type TunnelResult } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, piece, statusOf, takeManually } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { until } from './fixtures/patience.ts'
import { everywhere, gate, onEach, serve, type TestServer, type Way } from './fixtures/server.ts'
import { needs, posix } from './fixtures/system.ts'
import { CONNECT } from './fixtures/takeover.ts'
import { closedPort, fars, upstream } from './fixtures/upstream.ts'

interface Settings {
  plugin?: FastifyDuplexOptions
  /** Before acceptance. */
  onSend?: () => Promise<void>
  acceptOptions?: DuplexAcceptOptions
  declare?: (app: FastifyInstance) => void
}

interface Tunnelling extends TestServer {
  pending: Promise<PendingDuplex<'connect'>>
  /** What tunnel() came to. */
  outcome: Promise<TunnelResult | Error>
}

/** A proxy whose handler is one line. */
async function proxy (t: Test, transport: Way, open: TunnelOpener, settings: Settings = {}): Promise<Tunnelling> {
  const outcome = gate<TunnelResult | Error>()
  const entered = gate<PendingDuplex<'connect'>>()
  const server = await serve(t, { transport, plugin: settings.plugin ?? {} }, app => {
    if (settings.onSend !== undefined) app.addHook('onSend', settings.onSend)
    settings.declare?.(app)
    app.connect('*', { duplex: { accept: 'manual' } }, async pending => {
      entered.open(pending)
      const result = tunnel(pending, open, settings.acceptOptions)
      result.then(outcome.open, outcome.open)
      return await result
    })
  })
  return { ...server, pending: entered.promise, outcome: outcome.promise }
}

/** Where a client can leave without a FIN, which would be an end of its side alone. */
const resets: readonly Way[] = ['tcp', 'tls', 'injected', 'h2']

const codeOf = (body: string): unknown => (JSON.parse(body) as { code?: string }).code

/** Resolves when a stream is over, however it went. */
async function over (stream: Duplex): Promise<void> {
  if (!stream.closed) await new Promise(resolve => stream.once('close', resolve))
}

/** A Duplex that nobody listens to yet. */
function silent (): Duplex {
  return new Duplex({ read () {}, write (_chunk, _encoding, done) { done() } })
}

for (const far of fars) {
  onEach(t, `TU4 Q3 what the upstream says over ${far} before it is accepted comes behind the head, and the rest both ways`, async (t, transport) => {
    const { target, accepted } = await upstream(t, far)
    const { connect, outcome } = await proxy(t, transport, async signal => {
      const socket = await dial(target, { signal, tls: far === 'tls' ? { rejectUnauthorized: false } : false })
      const wire = await accepted()
      server.open(wire)
      wire.send('220 ready\r\n')
      while (socket.readableLength === 0) await once(socket, 'readable')
      return socket
    }, { onSend: turn, acceptOptions: { headers: { 'x-proxy': 'here' } } })
    const server = gate<Awaited<ReturnType<typeof accepted>>>()
    const client = await connect()
    client.send(`${CONNECT}early `)
    const head = await client.head()
    t.match(head, { status: 200, headers: { 'x-proxy': 'here' } })
    t.equal(await client.until('\r\n'), '220 ready\r\n')
    client.end('late')
    const wire = await server.promise
    t.equal((await wire.rest()).toString(), 'early late')
    wire.end('221 bye\r\n')
    t.equal((await client.rest()).toString(), '221 bye\r\n')
    t.same(await outcome, { bytesToUpstream: 10, bytesFromUpstream: 20 })
  }, everywhere)
}

for (const kind of everyKind) {
  t.test(`TU4 tunnel(pending, open) on a connection of kind ${kind}`, async t => {
    const { connect, app } = await serve(t, {}, app => takeManually(app, async (pending: PendingDuplex) => {
      await tunnel(pending, () => Duplex.from(async function * (source: AsyncIterable<Buffer>) {
        for await (const chunk of source) yield String(chunk).toUpperCase()
      }))
    }))
    const client = await connect()
    client.send(ask(kind) + piece(kind, 'loud') + (kind === 'body' ? LAST_CHUNK : ''))
    t.equal((await client.head()).status, statusOf(kind, 'tcp'))
    t.equal(await hear(client, kind, 'LOUD'), 'LOUD')
    client.end()
    await until(() => app.duplex.connections.size === 0)
  })
}

onEach(t, 'TU2 Q3 a client that leaves while the upstream is dialled: the dial is aborted, and nothing is accepted', async (t, transport) => {
  const asked = gate<AbortSignal>()
  const { connect, outcome, quiet, pending } = await proxy(t, transport, async signal => {
    asked.open(signal)
    await once(signal, 'abort')
    throw signal.reason
  })
  const client = await connect()
  client.send(CONNECT)
  const signal = await asked.promise
  client.reset()
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_ABORTED' })
  t.equal(signal.aborted, true)
  t.equal((await pending).accepted, false)
  await quiet()
}, resets)

t.test('Q3 TU2 a client that leaves while a real connection is made: no socket is left', async t => {
  const { target, connections } = await upstream(t)
  const checking = gate()
  const checked = gate<boolean>()
  const { connect, outcome, quiet } = await proxy(t, 'tcp', signal => dial(target, {
    signal,
    check: async () => {
      checking.open()
      return await checked.promise
    }
  }))
  const client = await connect()
  client.send(CONNECT)
  await checking.promise
  client.reset()
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_ABORTED' })
  checked.open(true)
  await quiet()
  // Had it been dialled, the server would know by now.
  await turn()
  t.equal(await connections(), 0)
})

onEach(t, 'TU5 Q3 an open() that ignores its signal, and comes when the client has left, is destroyed at once', async (t, transport) => {
  const asked = gate()
  const late = gate<TunnelEnd>()
  const { connect, outcome, quiet } = await proxy(t, transport, () => {
    asked.open()
    return late.promise
  })
  const client = await connect()
  client.send(CONNECT)
  await asked.promise
  client.reset()
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_ABORTED' })
  const stream = silent()
  late.open(stream)
  await over(stream)
  t.ok(stream.destroyed)
  await quiet()
}, resets)

t.test('TU5 an open() that fails when the client has left fails to nobody', async t => {
  const asked = gate()
  const late = gate<TunnelEnd>()
  const { connect, outcome, quiet } = await proxy(t, 'tcp', () => {
    asked.open()
    return late.promise
  })
  const client = await connect()
  client.send(CONNECT)
  await asked.promise
  client.reset()
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_ABORTED' })
  late.fail(new Error('too late'))
  await quiet()
})

for (const [how, open] of [
  ['throws', () => { throw Object.assign(new Error('teapot'), { statusCode: 418, code: 'TEA' }) }],
  ['rejects', () => Promise.reject(Object.assign(new Error('teapot'), { statusCode: 418, code: 'TEA' }))]
] as const) {
  onEach(t, `TU5 an open() that ${how} is an ordinary error, with its status`, async (t, transport) => {
    const { connect, quiet, outcome } = await proxy(t, transport, open)
    const client = await connect()
    client.send(CONNECT)
    const { status, body } = await client.response()
    t.equal(status, 418)
    t.equal(codeOf(body), 'TEA')
    t.match(await outcome, { code: 'TEA' })
    client.end()
    await quiet()
  }, everywhere)
}

t.test('TU5 an open() that gives no stream is an error of the app', async t => {
  const { connect } = await proxy(t, 'tcp', () => undefined as never)
  const client = await connect()
  client.send(CONNECT)
  const { status, body } = await client.response()
  t.equal(status, 500)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_INVALID_OPTION')
})

onEach(t, 'Q3 TU2 an upstream that is reset while an onSend hook takes its time is a 502', async (t, transport) => {
  const { dial: connectTo, accepted } = await upstream(t)
  const made = gate<net.Socket>()
  const reset = gate()
  const running = gate()
  const { connect, quiet, outcome, pending } = await proxy(t, transport, async () => {
    const socket = await connectTo()
    made.open(socket)
    return socket
  }, {
    onSend: async () => {
      running.open()
      await reset.promise
    }
  })
  const client = await connect()
  client.send(CONNECT)
  const socket = await made.promise
  await running.promise
  ;(await accepted()).reset()
  await over(socket)
  const { status, body } = await client.response()
  t.equal(status, 502)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_DIAL_FAILED')
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { code: 'ECONNRESET' } })
  reset.open()
  await turn()
  t.equal((await pending).accepted, false)
  client.end()
  await quiet()
}, everywhere)

for (const [what, make] of [
  ['in the tick in which it is given', () => {
    const stream = silent()
    process.nextTick(() => stream.destroy(new Error('gone')))
    return stream
  }],
  ['before it is given', () => {
    const stream = silent()
    stream.on('error', () => {})
    stream.destroy(new Error('gone'))
    return stream
  }],
  ['without a word', () => {
    const stream = silent()
    process.nextTick(() => stream.destroy())
    return stream
  }]
] as const) {
  t.test(`TU2 Q3 an upstream that breaks ${what} is a 502 by the error handler`, async t => {
    const { connect } = await proxy(t, 'tcp', make, {
      onSend: turn,
      declare: app => app.setErrorHandler<FastifyError>(async (error, _request, reply) => reply.code(error.statusCode ?? 500).send('sorry'))
    })
    const client = await connect()
    client.send(CONNECT)
    t.match(await client.response(), { status: 502, body: 'sorry' })
  })
}

for (const far of ['tcp', 'tls'] as const) {
  t.test(`TU2 Q3 a socket of ${far} that is still connecting is waited for, and a refusal is a 502`, async t => {
    const { dialPlain, accepted } = await upstream(t, far)
    const { connect, outcome } = await proxy(t, 'tcp', dialPlain)
    const client = await connect()
    client.send(CONNECT)
    t.equal((await client.head()).status, 200)
    const server = await accepted()
    server.end('hello')
    t.equal((await client.rest()).toString(), 'hello')
    client.end('late')
    t.equal((await server.rest()).toString(), 'late')
    t.same(await outcome, { bytesToUpstream: 4, bytesFromUpstream: 5 })
  })
}

/** Sockets that will not open, each with what is there. */
const failing: Record<string, (t: Test) => Promise<() => net.Socket>> = {
  'a socket that is refused': async () => {
    const port = await closedPort()
    return () => net.connect(port, '127.0.0.1')
  },
  'a server that speaks no TLS': async t => {
    const far = net.createServer(socket => socket.on('error', () => {}).end('HTTP/1.0 400 Bad Request\r\n\r\n')).listen(0, '127.0.0.1')
    t.teardown(() => far.close())
    await once(far, 'listening')
    const { port } = far.address() as AddressInfo
    return () => tls.connect(port, '127.0.0.1')
  }
}
for (const [what, open] of Object.entries(failing)) {
  t.test(`TU2 Q3 ${what} is a 502, and nothing was accepted`, async t => {
    const { connect, pending } = await proxy(t, 'tcp', await open(t))
    const client = await connect()
    client.send(CONNECT)
    const { status, body } = await client.response()
    t.equal(status, 502)
    t.equal(codeOf(body), 'FST_ERR_DUPLEX_DIAL_FAILED')
    t.equal((await pending).accepted, false)
  })
}

onEach(t, 'TU3 a hook that throws while the connection is accepted: the upstream is destroyed, and the client has the ordinary answer', async (t, transport) => {
  const stream = silent()
  const signals: AbortSignal[] = []
  let calls = 0
  const { connect, quiet, outcome } = await proxy(t, transport, signal => {
    signals.push(signal)
    return stream
  }, {
    onSend: async () => {
      await turn()
      if (calls++ === 0) throw Object.assign(new Error('no cookies'), { statusCode: 409 })
    }
  })
  const client = await connect()
  client.send(CONNECT)
  t.equal((await client.head()).status, 409)
  await over(stream)
  t.match(await outcome, { message: 'no cookies' })
  t.equal(signals[0]?.aborted, true)
  client.destroy()
  await quiet()
}, everywhere)

onEach(t, 'TU3 a server that begins to close while the upstream is dialled: 503, and the upstream is destroyed', async (t, transport) => {
  const asked = gate<AbortSignal>()
  const late = gate<TunnelEnd>()
  const { app, connect, outcome } = await proxy(t, transport, signal => {
    asked.open(signal)
    return late.promise
  })
  const client = await connect()
  client.send(CONNECT)
  const signal = await asked.promise
  const drained = app.duplex.drain(5000)
  t.equal(signal.aborted, false)
  const stream = silent()
  late.open(stream)
  const { status, body } = await client.response()
  t.equal(status, 503)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_SHUTDOWN')
  await over(stream)
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_SHUTDOWN' })
  client.destroy()
  await drained
}, everywhere)

onEach(t, 'TU3 the end of the drain aborts an open() that goes on', async (t, transport) => {
  const asked = gate<AbortSignal>()
  const { app, connect, outcome } = await proxy(t, transport, signal => {
    asked.open(signal)
    return new Promise(() => {})
  })
  const client = await connect()
  client.send(CONNECT)
  const signal = await asked.promise
  await app.duplex.drain(20)
  t.match(await outcome, { code: 'FST_ERR_DUPLEX_SHUTDOWN' })
  t.equal(signal.aborted, true)
}, everywhere)

onEach(t, 'TU3 handshakeTimeout while the upstream is dialled: 503, and open() is aborted', async (t, transport) => {
  const asked = gate<AbortSignal>()
  const late = gate<TunnelEnd>()
  const { connect, outcome, quiet } = await proxy(t, transport, signal => {
    asked.open(signal)
    return late.promise
  }, { plugin: { handshakeTimeout: 50 } })
  const client = await connect()
  client.send(CONNECT)
  const signal = await asked.promise
  const { status, body } = await client.response()
  t.equal(status, 503)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT')
  t.type(await outcome, Error)
  t.equal(signal.aborted, true)
  const stream = silent()
  late.open(stream)
  await over(stream)
  client.end()
  await quiet()
}, everywhere)

t.test('TU3 handshakeTimeout while the hooks run: 503, and the upstream is destroyed', async t => {
  const stream = silent()
  const held = gate()
  const { connect } = await proxy(t, 'tcp', () => stream, { plugin: { handshakeTimeout: 50 }, onSend: () => held.promise })
  const client = await connect()
  client.send(CONNECT)
  t.equal((await client.response()).status, 503)
  await over(stream)
  held.open()
})

onEach(t, 'TU3 a client that leaves while the hooks run: the upstream is destroyed at once', async (t, transport) => {
  const stream = silent()
  const held = gate()
  const running = gate()
  const { connect, outcome, quiet } = await proxy(t, transport, () => stream, {
    onSend: async () => {
      running.open()
      await held.promise
    }
  })
  const client = await connect()
  client.send(CONNECT)
  await running.promise
  client.reset()
  await over(stream)
  held.open()
  t.type(await outcome, Error)
  await quiet()
}, resets)

t.test('TU3 a response that was sent, or a connection that was accepted, opens nothing', async t => {
  const opened: string[] = []
  const codes: unknown[] = []
  const { connect } = await serve(t, {}, app => {
    app.connect('/:host/:port', { duplex: { accept: 'manual' } }, async pending => {
      const { host } = pending.authority
      let connection: DuplexConnection | undefined
      if (host === 'sent') pending.reply.code(403).send('no')
      else connection = await pending.accept()
      await tunnel(pending, () => {
        opened.push(host)
        return silent()
      }).catch((error: { code?: string }) => codes.push(error.code))
      await connection?.writable.end()
    })
  })
  for (const [host, status] of [['sent', 403], ['accepted', 200]] as const) {
    const client = await connect()
    client.send(`CONNECT ${host}:1 HTTP/1.1\r\nHost: ${host}:1\r\n\r\n`)
    t.equal((await client.head()).status, status)
    await client.remains()
  }
  t.same(opened, [])
  t.same(codes, ['FST_ERR_DUPLEX_ALREADY_SENT', 'FST_ERR_DUPLEX_ALREADY_ACCEPTED'])
})

t.test('TU7 a process that is started with the signal of open() ends with its client', posix, async t => {
  const exited = gate<NodeJS.Signals | null>()
  const { connect } = await proxy(t, 'tcp', signal => {
    const child = spawn('sh', ['-c', 'exec 0<&- ; echo ready; exec sleep 1000'], { signal, stdio: ['pipe', 'pipe', 'inherit'] })
    child.on('error', () => {})
    child.on('exit', (_code, signal) => exited.open(signal))
    return { readable: child.stdout, writable: child.stdin }
  })
  const client = await connect()
  client.send(CONNECT)
  await client.head()
  t.equal(await client.until('\n'), 'ready\n')
  client.reset()
  t.equal(await exited.promise, 'SIGTERM')
})

t.test('TU7 a process whose stdin closes before the connection is accepted: its output arrives', needs('echo'), async t => {
  const exited = gate()
  const { connect, outcome } = await proxy(t, 'tcp', () => {
    const child = spawn('echo', ['hi'], { stdio: ['pipe', 'pipe', 'inherit'] })
    child.on('exit', () => setImmediate(exited.open))
    return { readable: child.stdout, writable: child.stdin }
  }, { onSend: () => exited.promise })
  const client = await connect()
  client.send(CONNECT)
  t.equal((await client.head()).status, 200)
  t.equal((await client.rest()).toString(), 'hi\n')
  t.same(await outcome, { bytesToUpstream: 0, bytesFromUpstream: 3 })
})
