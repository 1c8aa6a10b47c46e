import t from 'tap'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import type { DuplexClosed, DuplexConnection, DuplexKind, PendingDuplex } from '../lib/index.ts'
import { guarded, serveGuarded, soon, until, type GuardedServer } from './fixtures/baseline.ts'
import { chunkedBody } from './fixtures/chunked.ts'
import { ask, LAST_CHUNK, piece, resettable, streamKinds, takeManually } from './fixtures/kinds.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { gate, onEach, transports, ways, type Way } from './fixtures/server.ts'
import { all, MiB, pattern } from './fixtures/takeover.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'

const SLOW = request('GET /slow')
const WHOLE = ask('body') + piece('body', 'all of it') + LAST_CHUNK
const IGNORED = request('GET /pong', ...UPGRADE)
const leave: Record<string, (wire: Wire) => unknown> = {
  resets: wire => wire.reset(),
  'ends and then resets': async wire => {
    wire.end()
    await turn()
    wire.reset()
  }
}

/** What the client may send behind the request that is looked at. */
const behind: Record<string, string> = {
  nothing: '',
  'an upgrade': ask('upgrade'),
  'a CONNECT': ask('connect'),
  'a hijack': ask('hijack'),
  'another body': WHOLE,
  'an upgrade that is ignored': IGNORED,
  'an upgrade with a body': request('POST /it', ...UPGRADE, 'Content-Type: application/json', 'Content-Length: 2') + '{}',
  'half a head': 'GET /po'
}

/** Where a body may be when its client goes. */
const moments: Record<string, { manual?: boolean, before?: string, handler: (connection: DuplexConnection) => unknown }> = {
  'has read all': { handler: async ({ readable }) => { await all(readable); await new Promise(() => {}) } },
  'has read nothing': { handler: () => new Promise(() => {}) },
  'has written': { handler: async ({ readable, writable }) => { writable.write('early'); await all(readable); await new Promise(() => {}) } },
  'is done': { handler: async ({ readable, writable }) => { await all(readable); writable.end('done') } },
  'returned no promise': { handler: ({ readable, writable }) => { readable.resume(); writable.end('done') } },
  'has not accepted yet': { manual: true, handler: () => new Promise(() => {}) }
}

for (const [moment, { manual, handler }] of Object.entries(moments)) {
  for (const [what, follower] of Object.entries(behind)) {
    for (const [how, go] of Object.entries(leave)) {
      const usual = what === 'nothing' || what === 'an upgrade'
      if (!usual && (how !== 'resets' || moment !== 'has read all')) continue
      const title = `a client that ${how} while a body whose handler ${moment} waits its turn, with ${what} behind it`
      onEach(t, `${what === 'an upgrade' ? 'Q63 ' : 'Q6 '}${title}`, guarded(async (t, transport: Way) => {
        const entered = gate()
        const closed: DuplexClosed[] = []
        const aborted: unknown[] = []
        const server = await serveGuarded(t, { transport, plugin: { maxConnections: 3 } }, app => {
          app.get('/slow', () => new Promise(() => {}))
          const run = (connection: DuplexConnection): unknown => {
            void connection.closed.then(result => closed.push(result))
            connection.signal.addEventListener('abort', () => aborted.push(connection.signal.reason))
            entered.open()
            return handler(connection)
          }
          for (const [method, url] of [['GET', '/it'], ['POST', '/it'], ['CONNECT', '*']] as const) {
            app.route({ method, url, duplex: manual === true ? { accept: 'manual' } : true, handler: run } as never)
          }
        })
        const wire = await server.connect()
        wire.send(SLOW + WHOLE + follower)
        await entered.promise
        await turn()
        await go(wire)
        await until(() => closed.length > 0)
        t.ok(closed.length > 0, 'closed is settled')
        for (const { reason } of closed) t.equal(reason, 'abort')
        t.equal(aborted.length, closed.length, 'and signal has aborted')
        await server.baseline()
      }), how === 'resets' && usual && moment === 'has read all' ? resettable : ['tcp'])
    }
  }
}

onEach(t, 'Q6 three clients that reset behind a pending response leave three slots free', guarded(async (t, transport: Way) => {
  let entered = 0
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 3 } }, app => {
    app.get('/slow', () => new Promise(() => {}))
    app.post('/it', { duplex: true }, async ({ readable }) => {
      entered++
      await all(readable)
    })
  })
  for (let at = 1; at <= 3; at++) {
    const wire = await server.connect()
    wire.send(SLOW + WHOLE)
    await until(() => entered === at)
    wire.reset()
  }
  await server.baseline()
}), resettable)

onEach(t, 'Q6 a body behind one that is being answered: both are told', guarded(async (t, transport: Way) => {
  const reasons: string[] = []
  let entered = 0
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 3 } }, app => {
    app.post('/it', { duplex: true }, async ({ readable, closed }) => {
      entered++
      void closed.then(({ reason }) => reasons.push(reason))
      await all(readable)
      await new Promise(() => {})
    })
  })
  const wire = await server.connect()
  wire.send(WHOLE.repeat(3))
  await until(() => entered === 3)
  wire.reset()
  await until(() => reasons.length === 3)
  t.same(reasons, ['abort', 'abort', 'abort'])
  await server.baseline()
}), resettable)

interface Told { closed: number[], aborted: number[], signalled: number[] }

/** An app whose `/slow` never answers, and tells of which of its requests it heard that they are over. */
function slowly (app: FastifyInstance): { told: Told, entered: () => number } {
  const told: Told = { closed: [], aborted: [], signalled: [] }
  let entered = 0
  const handler = (request: FastifyRequest): Promise<never> => {
    const at = entered++
    request.raw.once('close', () => told.closed.push(at))
    request.signal.addEventListener('abort', () => told.signalled.push(at))
    ;(request as FastifyRequest & { at?: number }).at = at
    return new Promise(() => {})
  }
  const onRequestAbort = async (request: FastifyRequest): Promise<void> => {
    told.aborted.push((request as FastifyRequest & { at: number }).at)
  }
  app.get('/slow', { onRequestAbort }, handler)
  return { told, entered: () => entered }
}

/** What an app without the plugin is told of three slow requests whose client resets. */
async function bareTold (t: Test): Promise<Told> {
  const app = Fastify()
  const { told, entered } = slowly(app)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const arrived = once(app.server, 'connection') as Promise<[Socket]>
  const wire = await connectTcp((app.server.address() as AddressInfo).port)
  const [socket] = await arrived
  const closed = new Promise(resolve => socket.once('close', resolve))
  wire.send(SLOW.repeat(3))
  await until(() => entered() === 3)
  wire.reset()
  await closed
  for (let turns = 0; turns < 5; turns++) await turn()
  await app.close()
  t.ok(told.closed.length > 0)
  return told
}

const followers = { ...behind, 'an upgrade at an unknown URL': request('GET /nowhere', ...UPGRADE), h2c: request('GET /it', 'Connection: Upgrade', 'Upgrade: h2c') }
for (const [what, follower] of Object.entries(followers)) {
  onEach(t, `Q7 three slow requests are told that their client is gone, with ${what} behind them`, guarded(async (t, transport: Way) => {
    const bare = await bareTold(t)
    let slow!: ReturnType<typeof slowly>
    const server = await serveGuarded(t, { transport }, app => {
      slow = slowly(app)
      for (const [method, url] of [['GET', '/it'], ['POST', '/it'], ['CONNECT', '*']] as const) {
        app.route({ method, url, duplex: true, handler: () => new Promise(() => {}) } as never)
      }
    })
    const wire = await server.connect()
    wire.send(SLOW.repeat(3) + follower)
    await until(() => slow.entered() === 3)
    await turn()
    wire.reset()
    const { told } = slow
    await until(() => told.closed.length >= bare.closed.length && told.aborted.length >= bare.aborted.length)
    t.same(told.closed.sort(), bare.closed.sort(), 'the requests')
    t.same(told.aborted.sort(), bare.aborted.sort(), 'the onRequestAbort hooks')
    t.same(told.signalled.sort(), bare.signalled.sort(), 'their signals')
    await server.baseline()
  }), ['tcp', 'tls'])
}

/** Ways in which a body fails while the response before it is still being sent. */
const failures: Record<string, { limits?: object, fail: (connection: DuplexConnection) => unknown }> = {
  'is rejected': { fail: async () => { throw new Error('no') } },
  'throws at once': { fail: () => { throw new Error('no') } },
  'destroys its connection': { fail: async connection => { connection.destroy() } },
  'destroys its writable': { fail: async ({ writable }) => { writable.destroy(); await new Promise(() => {}) } },
  'has written, and is rejected': { fail: async ({ writable }) => { writable.write('some'); throw new Error('no') } },
  'lives too long': { limits: { maxLifetime: 60 }, fail: () => new Promise(() => {}) },
  'is idle': { limits: { idleTimeout: 60 }, fail: () => new Promise(() => {}) }
}
for (const [how, { limits, fail }] of Object.entries(failures)) {
  for (const streamed of [false, true]) {
    onEach(t, `Q8 a body that ${how} costs nothing of the response that is ${streamed ? 'streamed' : 'pending'} before it`, guarded(async (t, transport: Way) => {
      const bytes = pattern(10_000)
      const held = gate()
      const source = new PassThrough()
      const failed = gate()
      const entered = gate()
      const server = await serveGuarded(t, { transport, plugin: { maxConnections: 2 } }, app => {
        app.get('/plain', async () => {
          if (streamed) return source
          await held.promise
          return bytes
        })
        let first = true
        app.post('/it', { duplex: { ...limits } }, connection => {
          if (first) void connection.closed.then(() => failed.open())
          first = false
          entered.open()
          return fail(connection)
        })
      })
      const wire = await server.connect()
      if (streamed) source.write(bytes.subarray(0, 4000))
      wire.send(request('GET /plain') + WHOLE)
      await entered.promise
      // The connection of the body may be told now, or only when it is its turn.
      if (limits === undefined) for (let turns = 0; turns < 5; turns++) await turn()
      else await outlast(server.connect)
      if (streamed) source.end(bytes.subarray(4000))
      held.open()
      const head = await wire.head()
      t.equal(head.status, 200)
      t.same(streamed ? await chunkedBody(wire) : await wire.bytes(bytes.length), bytes, 'all of it has come')
      t.notMatch(await wire.remains(), LAST_CHUNK, 'and what failed does not look complete')
      wire.end()
      t.not(await soon(failed.promise), 'never')
      await server.baseline()
    }), how === 'is rejected' ? transports : ['tcp'])
  }
}

/** A body that came later, on a connection of its own: when its time is over, so is that of those before it. */
async function outlast (connect: () => Promise<Wire>): Promise<void> {
  const wire = await connect()
  await wire.send(WHOLE).remains()
  wire.destroy()
}

interface Poll { told: string[], entered: Promise<void>, answer: (value: string) => void }

/** A route that is answered when the test says so. */
function poll (app: FastifyInstance): Poll {
  const told: string[] = []
  const entered = gate()
  const answered = gate<string>()
  app.get('/poll', { onRequestAbort: async () => { told.push('abort') } }, async request => {
    request.raw.once('close', () => told.push('close'))
    entered.open()
    return await answered.promise
  })
  return { told, entered: entered.promise, answer: answered.open }
}

const parted: Record<string, string> = {
  'an upgrade that is ignored': IGNORED,
  'an upgrade at an unknown URL': request('GET /nowhere', ...UPGRADE),
  'an offer of h2c': request('GET /pong', 'Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAAA'),
  'an ignored upgrade with a body': request('POST /nowhere', ...UPGRADE, 'Content-Length: 5') + 'hello',
  'two of them': IGNORED + IGNORED
}
for (const [what, follower] of Object.entries(parted)) {
  const parked = async (t: Test, transport: Way, fastify: FastifyServerOptions = {}, drainTimeout = 10_000): Promise<{
    server: Awaited<ReturnType<typeof serveGuarded>>, wire: Wire, polled: Poll
  }> => {
    let polled!: Poll
    const server = await serveGuarded(t, { transport, fastify, plugin: { drainTimeout } }, app => { polled = poll(app) })
    const wire = await server.connect()
    wire.send(request('GET /poll') + follower)
    await polled.entered
    await turn()
    return { server, wire, polled }
  }

  for (const how of ['ends', 'resets'] as const) {
    onEach(t, `Q68 a client that ${how} behind a long poll and ${what}: the poll is told, and nothing is left`, guarded(async (t, transport: Way) => {
      const { server, wire, polled } = await parked(t, transport)
      if (how === 'ends') wire.end()
      else wire.reset()
      await until(() => polled.told.length > 1 && server.peers[0]?.destroyed === true)
      t.same(polled.told.sort(), ['abort', 'close'])
      t.equal(server.peers[0]?.destroyed, true)
      await server.baseline()
    }), how === 'resets' ? resettable : ['tcp', 'tls'])
  }

  onEach(t, `Q68 forceCloseConnections reaches a long poll with ${what} behind it`, guarded(async (t, transport: Way) => {
    const { server, wire } = await parked(t, transport, { forceCloseConnections: true })
    const closed = server.app.close()
    t.not(await soon(wire.remains()), 'never')
    t.not(await soon(closed), 'never')
    t.equal(await server.sockets(), 0)
  }), ['tcp', 'tls'])

  onEach(t, `Q68 drainTimeout reaches a long poll with ${what} behind it`, guarded(async (t, transport: Way) => {
    const { server, wire } = await parked(t, transport, {}, 100)
    const closed = server.app.close()
    t.not(await soon(wire.remains()), 'never')
    t.not(await soon(closed), 'never')
    t.equal(await server.sockets(), 0)
  }), ['tcp', 'tls'])

  onEach(t, `Q68 connectionTimeout ends a long poll with ${what} behind it`, guarded(async (t, transport: Way) => {
    const { server, wire } = await parked(t, transport, { connectionTimeout: 200 })
    t.not(await soon(wire.remains()), 'never')
    wire.destroy()
    await server.baseline()
  }), ['tcp', 'tls'])

  onEach(t, `Q68 a long poll with ${what} behind it is answered, and then that`, guarded(async (t, transport: Way) => {
    const { server, wire, polled } = await parked(t, transport)
    polled.answer('polled')
    t.equal((await wire.response()).body, 'polled')
    t.ok([200, 404].includes((await wire.response()).status))
    await server.baseline()
  }), ['tcp', 'tls'])
}

for (const kind of ['upgrade', 'connect', 'hijack'] as const satisfies readonly DuplexKind[]) {
  onEach(t, `Q68 a long poll before a takeover is told of its client, and the takeover too [${kind}]`, guarded(async (t, transport: Way) => {
    let polled!: Poll
    let entered = 0
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      polled = poll(app)
      for (const [method, url] of [['GET', '/it'], ['CONNECT', '*']] as const) {
        app.route({ method, url, duplex: true, handler: () => { entered++ } } as never)
      }
    })
    const wire = await server.connect()
    wire.send(request('GET /poll') + ask(kind))
    await polled.entered
    await turn()
    wire.reset()
    await until(() => polled.told.length > 1)
    t.same(polled.told.sort(), ['abort', 'close'])
    polled.answer('too late')
    await server.baseline()
    t.equal(entered, 0)
  }), resettable)
}

const takeovers = (app: FastifyInstance, handler: (connection: DuplexConnection) => unknown): void => {
  for (const [method, url] of [['GET', '/it'], ['POST', '/it'], ['CONNECT', '*']] as const) app.route({ method, url, duplex: true, handler } as never)
}

for (const [what, follower] of Object.entries(behind)) {
  if (what === 'another body' || what === 'half a head') continue
  onEach(t, `Q7 a long poll behind the last response of its connection is told of the end, with ${what} behind it`, guarded(async (t, transport: Way) => {
    let polled!: Poll
    const answer = gate()
    const server = await serveGuarded(t, { transport }, app => {
      polled = poll(app)
      app.get('/last', async (_request, reply) => {
        await answer.promise
        reply.header('connection', 'close')
        return 'last'
      })
      takeovers(app, () => t.fail('it is entered'))
    })
    const wire = await server.connect()
    wire.send(request('GET /last') + request('GET /poll') + follower)
    await polled.entered
    await turn()
    answer.open()
    t.equal((await wire.response()).body, 'last')
    await until(() => polled.told.length > 1)
    t.same(polled.told.sort(), ['abort', 'close'])
    t.equal(await wire.remains(), '')
    await server.baseline()
  }), what === 'a CONNECT' ? ['tcp', 'tls'] : ['tcp'])
}

const unanswered = {
  nothing: '',
  'an upgrade that is ignored': IGNORED,
  'a HEAD of the same route': request('HEAD /it'),
  'a HEAD and an upgrade that is ignored': request('HEAD /it') + IGNORED
}
for (const [what, follower] of Object.entries(unanswered)) {
  onEach(t, `Q68 a client that half-closes behind a long poll and a body: the poll is told when the body is over, with ${what} behind it`, guarded(async (t, transport: Way) => {
    let polled!: Poll
    const entered = gate()
    const over = gate()
    const server = await serveGuarded(t, { transport }, app => {
      polled = poll(app)
      takeovers(app, async () => {
        entered.open()
        await over.promise
        throw new Error('no')
      })
    })
    const wire = await server.connect()
    wire.send(request('GET /poll') + WHOLE + follower)
    await entered.promise
    wire.end()
    const other = await server.connect()
    await other.send(request('GET /pong')).response()
    other.destroy()
    t.same(polled.told, [], 'the body is not cut short')
    over.open()
    await until(() => polled.told.length > 1 && server.peers[0]?.destroyed === true)
    t.same(polled.told.sort(), ['abort', 'close'])
    await server.baseline()
  }), ['tcp', 'tls'])
}

onEach(t, 'Q68 a reset right behind a long poll and an upgrade that is ignored: the poll is told', guarded(async (t, transport: Way) => {
  let polled!: Poll
  const server = await serveGuarded(t, { transport }, app => { polled = poll(app) })
  const wire = await server.connect()
  t.equal((await wire.send(request('GET /pong')).response()).status, 200)
  wire.send(request('GET /poll') + IGNORED)
  wire.reset()
  await until(() => polled.told.length > 1)
  t.same(polled.told.sort(), ['abort', 'close'])
  await server.baseline()
}), ['tcp'])

for (const [what, follower] of Object.entries({ ...parted, 'a CONNECT': ask('connect') })) {
  onEach(t, `Q68 a client that leaves behind a long poll whose Upgrade is ignored, and ${what}: the poll is told`, guarded(async (t, transport: Way) => {
    let polled!: Poll
    const server = await serveGuarded(t, { transport }, app => {
      polled = poll(app)
      takeovers(app, () => {})
    })
    const wire = await server.connect()
    wire.send(request('GET /poll', ...UPGRADE) + follower)
    await polled.entered
    if (what !== 'a CONNECT') wire.end()
    else wire.reset()
    await until(() => polled.told.length > 1)
    t.same(polled.told.sort(), ['abort', 'close'])
    await server.baseline()
  }), ['tcp', 'tls'])
}

const BIG = 16 * MiB

/** Node reads 64 KiB at once, and once more while less than this is there. */
const MOST_READ = 128 * 1024 + 100

/** A client that takes nothing of a response, so that HTTP has stopped reading, with a takeover behind that. */
async function stopped (t: Test, transport: Way, follower: string, handler: (connection: PendingDuplex) => unknown): Promise<{
  server: GuardedServer, wire: Wire, peer: Socket, bytes: Buffer
}> {
  const bytes = pattern(BIG)
  const behind = gate()
  const server = await serveGuarded(t, { transport }, app => {
    app.get('/big', async () => bytes)
    app.get('/behind', async () => {
      behind.open()
      return 'behind'
    })
    takeManually(app, handler)
  })
  const wire = await server.connect()
  wire.socket.pause()
  wire.send(request('GET /big'))
  await until(() => server.peers[0]?.writableNeedDrain === true)
  wire.send(request('GET /behind') + follower)
  await behind.promise
  return { server, wire, peer: server.peers[0] as Socket, bytes }
}

/** The client reads at last, up to what is behind. */
async function catchUp (t: Test, wire: Wire, bytes: Buffer): Promise<void> {
  wire.socket.resume()
  t.equal((await wire.head()).status, 200)
  t.ok((await wire.bytes(bytes.length)).equals(bytes), 'the response is whole')
  t.equal((await wire.response()).body, 'behind')
}

for (const kind of streamKinds) {
  onEach(t, `Q68 a takeover behind a response that its client does not take hears all that comes [${kind}]`, guarded(async (t, transport: Way) => {
    const { server, wire, bytes } = await stopped(t, transport, ask(kind) + 'early, ', async pending => {
      const { readable, writable } = await pending.accept()
      for await (const chunk of readable) writable.write(chunk)
    })
    wire.send('while it waits, ')
    await catchUp(t, wire, bytes)
    t.ok([101, 200].includes((await wire.head()).status))
    t.equal((await wire.bytes(23)).toString(), 'early, while it waits, ')
    wire.send('later')
    t.equal((await wire.bytes(5)).toString(), 'later')
    wire.end()
    t.equal((await wire.rest()).toString(), '')
    await server.baseline()
  }), kind === 'upgrade' ? ways : ['tcp', 'tls'])
}

onEach(t, 'Q68 a takeover behind a response that its client does not take is not read before somebody reads', guarded(async (t, transport: Way) => {
  const accept = gate()
  const read = gate()
  const heard = gate<Buffer>()
  const { server, wire, peer, bytes } = await stopped(t, transport, ask('upgrade') + 'early, ', async pending => {
    await accept.promise
    const { readable } = await pending.accept()
    await read.promise
    heard.open(Buffer.from(await all(readable)))
  })
  wire.end(bytes)
  const held = async (what: string): Promise<void> => {
    for (let times = 0; times < 3; times++) {
      const other = await server.connect()
      await other.send(request('GET /behind')).response()
      other.destroy()
    }
    t.ok(peer.readableLength <= MOST_READ, `${what}: ${peer.readableLength} bytes were read`)
  }
  await held('behind the response')
  accept.open()
  await catchUp(t, wire, bytes)
  t.equal((await wire.head()).status, 101)
  await held('accepted')
  read.open()
  const whole = await heard.promise
  t.equal(whole.toString('latin1', 0, 7), 'early, ')
  t.ok(whole.subarray(7).equals(bytes), 'and then all of it comes, once')
  await server.baseline()
}), ['tcp', 'tls', 'unix'])

onEach(t, 'Q68 requests behind an ignored upgrade, behind a response that its client does not take, are answered', guarded(async (t, transport: Way) => {
  const { server, wire, bytes } = await stopped(t, transport, IGNORED, () => t.fail('entered'))
  wire.send(request('GET /pong'))
  await catchUp(t, wire, bytes)
  wire.send(request('GET /pong'))
  for (let times = 0; times < 3; times++) t.equal((await wire.response()).body, 'pong')
  wire.destroy()
  await server.baseline()
}))

onEach(t, 'Q68 a socket that is handed out behind a response that its client does not take has all that comes', guarded(async (t, transport: Way) => {
  const accept = gate()
  const { server, wire, bytes } = await stopped(t, transport, ask('upgrade') + 'early, ', async pending => {
    await accept.promise
    const { socket, head } = pending.detach()
    socket.write(head)
    socket.pipe(socket)
  })
  wire.send('while it waits, ')
  await catchUp(t, wire, bytes)
  accept.open()
  wire.send('later')
  t.equal((await wire.bytes(28)).toString(), 'early, while it waits, later')
  wire.end()
  t.equal((await wire.rest()).toString(), '')
  await server.baseline()
}), ['tcp', 'tls', 'unix'])

for (const kind of streamKinds) {
  onEach(t, `Q68 a takeover behind a response that breaks off before its turn does not wait for ever [${kind}]`, guarded(async (t, transport: Way) => {
    const answer = gate()
    const broken = gate()
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      app.get('/first', async () => {
        await answer.promise
        return 'first'
      })
      app.get('/broken', (_request, reply) => {
        reply.hijack()
        reply.raw.destroy()
        broken.open()
      })
      takeManually(app, () => t.fail('entered'))
    })
    const wire = await server.connect()
    wire.send(request('GET /first') + request('GET /broken') + ask(kind))
    await broken.promise
    await turn()
    answer.open()
    t.equal((await wire.response()).body, 'first')
    t.equal(await wire.remains(), '')
    await server.baseline()
  }), kind === 'upgrade' ? ways : ['tcp'])
}

onEach(t, 'Q8 an answer that is destroyed before its turn, with its body unread, costs nothing of the response before it', guarded(async (t, transport: Way) => {
  const answer = gate()
  const broken = gate()
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
    app.get('/first', async () => {
      await answer.promise
      return 'first'
    })
    takeManually(app, ({ reply }) => {
      const { raw } = reply as unknown as FastifyReply
      ;(reply as unknown as FastifyReply).hijack()
      raw.write('half')
      raw.destroy()
      broken.open()
    })
  })
  const wire = await server.connect()
  wire.send(request('GET /first') + WHOLE)
  await broken.promise
  for (let turns = 0; turns < 5; turns++) await turn()
  answer.open()
  t.equal((await wire.response()).body, 'first')
  t.notMatch(await wire.remains(), LAST_CHUNK)
  wire.end()
  await server.baseline()
}), ways)
