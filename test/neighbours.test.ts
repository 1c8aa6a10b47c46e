import { once } from 'node:events'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import httpProxy from '@fastify/http-proxy'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import WebSocket, { WebSocketServer } from 'ws'
import duplex from '../lib/index.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { echo, echoed, onEachServer, owner, share, shareTwice, within, type SharedServer } from './fixtures/shared-server.ts'
import type { Wire } from './fixtures/wire.ts'

const UPGRADE_WS = [
  'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='
] as const

const orders = ['before', 'after'] as const

/** A server that echoes WebSocket messages, behind a proxy. */
async function webSocketUpstream (t: Test): Promise<string> {
  const server = http.createServer()
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', socket => { socket.on('message', data => { socket.send(`upstream ${String(data)}`) }) })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const client of sockets.clients) client.terminate()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Says one thing to a WebSocket, and hears one thing. */
async function talk (t: Test, url: string, message: string): Promise<string> {
  const socket = new WebSocket(url, { rejectUnauthorized: false })
  t.teardown(() => socket.terminate())
  await within(`open ${url}`, once(socket, 'open'))
  const answer = once(socket, 'message')
  socket.send(message)
  const [data] = await within(`an answer of ${url}`, answer) as [Buffer]
  socket.close()
  await within(`close ${url}`, once(socket, 'close'))
  return String(data)
}

function declareOwn (app: FastifyInstance): void {
  app.get('/it', { duplex: true }, echo)
  app.get('/plain', async () => 'plain')
  app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
}

/** What the routes of the plugin answer is theirs, whoever else is on this server. */
async function ownRoutesWork (t: Test, { connect }: Pick<SharedServer, 'connect'>): Promise<void> {
  const heads = [request('GET /it', ...UPGRADE), request('GET /it'), 'CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n']
  for (const head of heads) {
    const wire = await connect()
    t.equal(await echoed(wire, head, 'back'), 'back')
    wire.end()
    await within('the end of it', wire.gone())
  }
}

/** A client that goes without a word while nobody has answered. */
async function goAway (wire: Wire, { sockets }: Pick<SharedServer, 'sockets'>): Promise<void> {
  const latest = [...sockets].at(-1) as Socket
  // Not once(): that listens for 'error' too, and so hides that nobody does.
  const gone = new Promise(resolve => latest.once('close', resolve))
  wire.reset()
  await within('the end of the socket on the server', gone)
}

// @fastify/http-proxy takes all upgrades where it is the only owner, and those of its prefix where it is not.

for (const order of orders) {
  onEachServer(t, `Q4 @fastify/http-proxy registered ${order} it`, async (t, server) => {
    const upstream = await webSocketUpstream(t)
    const proxy = (app: FastifyInstance): unknown => app.register(httpProxy, { upstream, prefix: '/proxy', websocket: true } as never)
    const shared = await share(t, { server, ...(order === 'before' ? { before: proxy } : {}) }, async app => {
      if (order === 'after') await proxy(app)
      declareOwn(app)
    })
    const { connect, close, port } = shared
    const plain = await connect()
    t.match(await within('the plain route', exchange(plain, 'GET /plain', ...UPGRADE_WS)), { status: 200, body: 'plain' })
    await within('the end behind it', plain.remains())
    const url = `${server === 'http' ? 'ws' : 'wss'}://127.0.0.1:${port}/proxy/x`
    t.equal(await talk(t, url, 'hello'), 'upstream hello')
    await ownRoutesWork(t, shared)
    // Nobody answers for what nobody has.
    t.equal((await within('an unknown URL', exchange(await connect(), 'GET /nothing', ...UPGRADE_WS))).status, 404)
    await close()
  })
}

t.test('Q4 a client of a plain route beside @fastify/http-proxy may reset its connection', async t => {
  const upstream = await webSocketUpstream(t)
  const shared = await share(t, {}, async app => {
    await app.register(httpProxy, { upstream, prefix: '/proxy', websocket: true } as never)
    await app.register(websocket)
    app.get('/slow', () => new Promise(() => {}))
  })
  for (const url of ['/slow', '/elsewhere']) {
    const wire = await shared.connect()
    const taken = once(shared.server, 'upgrade')
    wire.send(request(`GET ${url}`, ...UPGRADE_WS))
    await within('upgrade', taken)
    await goAway(wire, shared)
  }
  await shared.close()
})

for (const which of ['main', 'second'] as const) {
  t.test(`Q4 @fastify/http-proxy has its own on the ${which} server of localhost`, async t => {
    const upstream = await webSocketUpstream(t)
    const app = Fastify()
    await app.register(httpProxy, { upstream, prefix: '/proxy', websocket: true } as never)
    await app.register(duplex)
    declareOwn(app)
    const connect = await shareTwice(t, app)
    const plain = await connect(which)
    t.match(await within('the plain route', exchange(plain, 'GET /plain', ...UPGRADE_WS)), { status: 200, body: 'plain' })
    const proxied = await connect(which)
    t.equal((await within('the proxy', proxied.send(request('GET /proxy/x', ...UPGRADE_WS)).head())).status, 101)
    await ownRoutesWork(t, { connect: () => connect(which) })
    proxied.destroy()
    plain.destroy()
  })
}

// Whatever counts, lists, removes, wraps or adds.

/** Where a mere listener changes what Node does, or what others do who count. */
const COUNTED = [
  'upgrade', 'connect', 'clientError', 'checkContinue', 'checkExpectation', 'request', 'timeout', 'dropRequest', 'tlsClientError',
  'unknownProtocol', 'sessionError', 'newListener', 'removeListener'
]

function counts (server: http.Server): Record<string, [number, number, number]> {
  return Object.fromEntries(COUNTED.map(event => [
    event, [server.listenerCount(event), server.listeners(event).length, server.rawListeners(event).length]
  ]))
}

onEachServer(t, 'Q4 others see no listener that they would not see without the plugin', async (t, server) => {
  const bare = await share(t, { server, plugin: false }, () => {})
  const early = counts(bare.server)
  const { server: shared } = await share(t, { server, before: app => t.same(counts(app.server), early) }, declareOwn)
  t.same(counts(shared), counts(bare.server))
  t.same(COUNTED.filter(event => shared.eventNames().includes(event)), COUNTED.filter(event => bare.server.eventNames().includes(event)))
})

t.test('Q4 the second server of localhost has no listener that it would not have without the plugin', async t => {
  const seen: Record<string, unknown>[] = []
  for (const plugin of [false, true]) {
    const made: http.Server[] = []
    const { createServer } = http
    http.createServer = ((...args: Parameters<typeof createServer>) => {
      const server = createServer(...args)
      made.push(server)
      return server
    }) as typeof createServer
    t.teardown(() => { http.createServer = createServer })
    const app = Fastify()
    if (plugin) await app.register(duplex)
    const connect = await shareTwice(t, app)
    // Behind the onListen hooks.
    t.equal((await exchange(await connect('second'), 'GET /')).status, 404)
    http.createServer = createServer
    t.equal(made.length, 2)
    seen.push(counts(made[1] as http.Server))
  }
  t.same(seen[1], seen[0])
})

onEachServer(t, 'Q4 removing all listeners takes nothing from the plugin, and a later owner gets his', async (t, server) => {
  const shared = await share(t, { server }, declareOwn)
  for (const event of ['upgrade', 'connect', 'clientError', 'checkContinue', 'checkExpectation']) shared.server.removeAllListeners(event)
  await ownRoutesWork(t, shared)
  const plain = await shared.connect()
  t.equal((await exchange(plain, 'GET /plain', ...UPGRADE)).body, 'plain')
  t.equal((await exchange(plain, 'GET /plain')).body, 'plain')
  const { seen, listener } = owner('theirs')
  shared.server.on('upgrade', listener)
  const theirs = await shared.connect()
  theirs.send(request('GET /plain', ...UPGRADE) + 'TAIL')
  t.equal((await within('the owner', theirs.rest())).toString(), 'theirs TAIL')
  shared.server.removeAllListeners('upgrade')
  t.equal((await within('the plain route', exchange(await shared.connect(), 'GET /plain', ...UPGRADE))).body, 'plain')
  t.same(seen, ['/plain'])
  await ownRoutesWork(t, shared)
})

/** How others put themselves before all owners, and call these. */
const wrappers: Record<string, (server: http.Server, event: string, own: (...args: unknown[]) => boolean) => void> = {
  'takes all listeners off and calls them': (server, event, own) => {
    const others = server.listeners(event) as ((...args: unknown[]) => void)[]
    server.removeAllListeners(event)
    server.on(event, (...args: unknown[]) => { if (!own(...args)) for (const other of others) other.apply(server, args) })
  },
  'calls raw listeners': (server, event, own) => {
    const others = server.rawListeners(event) as ((...args: unknown[]) => void)[]
    server.removeAllListeners(event)
    server.prependListener(event, (...args: unknown[]) => { if (!own(...args)) for (const other of others) other.apply(server, args) })
  },
  'replaces emit': (server, event, own) => {
    const { emit } = server
    server.emit = function (this: unknown, name: string, ...args: unknown[]) {
      return (name === event && own(...args)) || Reflect.apply(emit, this, [name, ...args]) as boolean
    } as typeof emit
  }
}

for (const [how, wrap] of Object.entries(wrappers)) {
  for (const when of ['before it is registered', 'before listen', 'after listen']) {
    t.test(`Q4 an owner of all requests that ${how}, ${when}`, async t => {
      const answer = (...args: unknown[]): boolean => {
        const [req, res] = args as [IncomingMessage, ServerResponse]
        if (req.url?.startsWith('/theirs') !== true) return false
        res.end('theirs')
        return true
      }
      const shared = await share(t, { ...(when.startsWith('before it') ? { before: app => wrap(app.server, 'request', answer) } : {}) }, app => {
        declareOwn(app)
        app.post('/body', { duplex: true }, echo)
        if (when === 'before listen') wrap(app.server, 'request', answer)
      })
      if (when === 'after listen') wrap(shared.server, 'request', answer)
      await ownRoutesWork(t, shared)
      const wire = await shared.connect()
      t.match(await within('theirs', wire.send(request('GET /theirs')).head()), { status: 200 })
      const plain = await shared.connect()
      t.equal((await exchange(plain, 'GET /plain', ...UPGRADE)).body, 'plain')
      const body = await shared.connect()
      body.send(request('POST /body', 'Transfer-Encoding: chunked') + '4\r\nbody\r\n')
      t.equal((await body.head()).status, 200)
      t.equal(await body.until('body\r\n'), '4\r\nbody\r\n')
      body.send('0\r\n\r\n')
      await body.until('0\r\n\r\n')
    })

    t.test(`Q4 an owner of upgrades that ${how}, ${when}`, async t => {
      const { seen, listener } = owner('theirs')
      const answer = (...args: unknown[]): boolean => {
        const [req, socket, head] = args as [IncomingMessage, Socket, Buffer]
        if (req.url?.startsWith('/theirs') !== true) return false
        listener(req, socket, head)
        return true
      }
      const shared = await share(t, { ...(when.startsWith('before it') ? { before: app => wrap(app.server, 'upgrade', answer) } : {}) }, app => {
        declareOwn(app)
        if (when === 'before listen') wrap(app.server, 'upgrade', answer)
      })
      if (when === 'after listen') wrap(shared.server, 'upgrade', answer)
      await ownRoutesWork(t, shared)
      // A replaced emit() without a listener owns nothing: Node would have asked for the listener.
      if (how !== 'replaces emit') {
        const wire = await shared.connect()
        wire.send(request('GET /theirs', ...UPGRADE) + 'TAIL')
        t.equal((await within('the owner', wire.rest())).toString(), 'theirs TAIL')
        wire.end()
        t.same(seen, ['/theirs'])
        // What the wrapper leaves to the listeners that it found is ours to answer or to end: nobody else has it.
        const left = await shared.connect()
        const reached = once(shared.server, 'upgrade')
        left.send(request('GET /plain', ...UPGRADE))
        await within('upgrade', reached)
        await goAway(left, shared)
      }
      await shared.close()
    })
  }
}

for (const event of ['upgrade', 'connect'] as const) {
  const head = event === 'upgrade' ? request('GET /theirs', ...UPGRADE) : 'CONNECT theirs:1 HTTP/1.1\r\nHost: theirs:1\r\n\r\n'
  const declare = (app: FastifyInstance): void => {
    app.get('/it', { duplex: true }, echo)
    app.route({ method: 'CONNECT', url: '/ours.example/:port', duplex: true, handler: echo })
  }
  const ours = event === 'upgrade' ? request('GET /it', ...UPGRADE) : 'CONNECT ours.example:1 HTTP/1.1\r\nHost: ours.example:1\r\n\r\n'

  onEachServer(t, `Q4 an owner of '${event}' that comes, goes, and comes once`, async (t, server) => {
    const shared = await share(t, { server }, declare)
    const answered = async (): Promise<string> => {
      const wire = await shared.connect()
      wire.send(head + 'rest')
      const first = (await within('an answer', wire.bytes(8))).toString()
      wire.destroy()
      return first
    }
    t.equal(await answered(), 'HTTP/1.1')
    const { listener } = owner('prepended')
    shared.server.prependListener(event, listener)
    t.equal(await answered(), 'prepende')
    t.equal(await echoed(await shared.connect(), ours, 'x'), 'x')
    shared.server.off(event, listener)
    t.equal(await answered(), 'HTTP/1.1')
    shared.server.once(event, owner('only once').listener)
    t.equal(await echoed(await shared.connect(), ours, 'x'), 'x')
    t.equal(await answered(), 'only onc')
    t.equal(await answered(), 'HTTP/1.1')
    t.equal(await echoed(await shared.connect(), ours, 'x'), 'x')
  })

  onEachServer(t, `Q4 what an owner of '${event}' does not answer ends with the drain, and a reset of it is nobody's fault`, async (t, server) => {
    const shared = await share(t, { server, plugin: { drainTimeout: 200 } }, declare)
    shared.server.on(event, () => {})
    const ask = async (): Promise<Wire> => {
      const wire = await shared.connect()
      const reached = once(shared.server, event)
      wire.send(head)
      await within(event, reached)
      return wire
    }
    await goAway(await ask(), shared)
    const left = await ask()
    await shared.close()
    await within('the end of what nobody answered', left.remains())
  })
}

t.test('Q4 an owner of checkContinue may pass a request on', async t => {
  const shared = await share(t, {}, app => {
    app.post('/body', { duplex: true }, echo)
    declareOwn(app)
  })
  shared.server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => {
    res.writeContinue()
    shared.server.emit('request', req, res)
  })
  const wire = await shared.connect()
  wire.send(request('POST /body', 'Transfer-Encoding: chunked', 'Expect: 100-continue'))
  t.match(await within('100', wire.head()), { status: 100 })
  t.match(await within('200', wire.head()), { status: 200 })
  wire.send('2\r\nhi\r\n0\r\n\r\n')
  t.equal(await within('the echo', wire.until('0\r\n\r\n')), '2\r\nhi\r\n0\r\n\r\n')
})

// @fastify/websocket: a route of the plugin answers what it does not take, as without it.

for (const order of orders) {
  for (const token of ['bar', 'websocket']) {
    onEachServer(t, `Q15 a wrong token (${token}) is 426 with @fastify/websocket registered ${order} it`, async (t, server) => {
      const shared = await share(t, { server, ...(order === 'before' ? { before: app => app.register(websocket) } : {}) }, async app => {
        if (order === 'after') await app.register(websocket)
        app.get('/it', { duplex: { protocols: ['foo'], kinds: ['upgrade'] } }, echo)
        app.get('/shared', { duplex: { protocols: ['foo'], kinds: ['upgrade'] } }, echo)
        app.get('/shared', { websocket: true }, socket => { socket.close() })
        app.get('/ws', { websocket: true }, socket => { socket.send('theirs') })
      })
      const fields = token === 'websocket' ? UPGRADE_WS : ['Connection: Upgrade', `Upgrade: ${token}`]
      const wire = await shared.connect()
      const { status, headers } = await within('an answer', exchange(wire, 'GET /it', ...fields))
      t.match({ status, headers }, { status: 426, headers: { upgrade: 'foo', connection: /close/ } })
      t.equal((await within('the end', wire.rest())).length, 0)
      t.equal(await echoed(await shared.connect(), request('GET /it', 'Connection: Upgrade', 'Upgrade: foo'), 'x'), 'x')
      t.equal(await echoed(await shared.connect(), request('GET /shared', 'Connection: Upgrade', 'Upgrade: foo'), 'x'), 'x')
      for (const url of ['/shared', '/ws']) {
        const theirs = await shared.connect()
        t.match(await within('101', theirs.send(request(`GET ${url}`, ...UPGRADE_WS)).head()), { status: 101, headers: { upgrade: 'websocket' } })
      }
    })
  }

  // Such a request has no connection of the server, nor a head that a parser has read.
  t.test(`Q15 an upgrade that @fastify/websocket injects is its alone, registered ${order} it`, async t => {
    const { app } = await share(t, { ...(order === 'before' ? { before: app => app.register(websocket) } : {}) }, async app => {
      if (order === 'after') await app.register(websocket)
      app.get('/it', { duplex: { kinds: ['upgrade'] } }, echo)
      app.get('/ws', { websocket: true }, socket => { socket.on('message', message => { socket.send(`back: ${String(message)}`) }) })
    })
    const client = await within('101', app.injectWS('/ws'))
    const answer = once(client, 'message') as Promise<[Buffer]>
    client.send('hi')
    t.equal(String((await within('an answer', answer))[0]), 'back: hi')
    client.terminate()
  })

  t.test(`Q15 an unlisted websocket is 400 at a route without a list, with @fastify/websocket registered ${order} it`, async t => {
    const { connect } = await share(t, { ...(order === 'before' ? { before: app => app.register(websocket) } : {}) }, async app => {
      if (order === 'after') await app.register(websocket)
      app.get('/it', { duplex: { kinds: ['upgrade'] } }, echo)
    })
    const wire = await connect()
    const { status, body } = await within('an answer', exchange(wire, 'GET /it', ...UPGRADE_WS))
    t.match({ status, body }, { status: 400, body: /FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL/ })
    t.equal((await within('the end', wire.rest())).length, 0)
  })
}

t.test('Q15 an upgrade that somebody injects is of the owner who listens once, and of nobody else', async t => {
  const heard: unknown[] = []
  // It is the first to hear, and gone when the plugin does.
  const before = (app: FastifyInstance): void => { app.server.once('upgrade', ({ url }: IncomingMessage) => { heard.push(url) }) }
  const { server } = await share(t, { before }, app => { app.get('/it', { duplex: { kinds: ['upgrade'] } }, echo) })
  const socket = new PassThrough()
  const req = Object.assign(new http.IncomingMessage(socket as unknown as Socket), { url: '/theirs', method: 'GET', rawHeaders: [...UPGRADE] })
  server.emit('upgrade', req, socket, Buffer.alloc(0))
  t.same(heard, ['/theirs'])
  t.equal(socket.listenerCount('error'), 0, 'nobody else has touched it')
  t.equal(socket.readableLength, 0)
})
