import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import fastifyWebSocket from '@fastify/websocket'
import type { FastifyInstance } from 'fastify'
import { Server as SocketServer } from 'socket.io'
import { io as connectSocketIo, type Socket as SocketIoClient } from 'socket.io-client'
import t, { type Test } from 'tap'
import { WebSocketServer, type WebSocket } from 'ws'
import type { DuplexConnection } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, piece, take } from './fixtures/kinds.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { echoed, echo, share, within, type SharedServer } from './fixtures/shared-server.ts'
import { viteOn, type Vite } from './fixtures/vite.ts'
import { openWebSocket, type WebSocketClient } from './fixtures/websocket.ts'
import type { Wire } from './fixtures/wire.ts'

const orders = ['before', 'after'] as const
type Order = typeof orders[number]

function answerAs (name: string): (socket: WebSocket) => void {
  return socket => { socket.on('message', (data: Buffer) => { socket.send(`${name}: ${String(data)}`) }) }
}

/** Everybody's own way to have a part of one server. */
async function settle (t: Test, app: FastifyInstance): Promise<Vite> {
  // @fastify/websocket sends every upgrade through the app, which has no route for those of the others.
  const others = /^\/(?:ws|socket\.io\/.*|\?token=.*)$/
  app.addHook('onRequest', (request, reply, done) => {
    if (request.headers.upgrade === 'websocket' && others.test(request.url)) reply.hijack()
    else done()
  })
  await app.register(fastifyWebSocket)

  const sockets = new WebSocketServer({ noServer: true })
  sockets.on('connection', answerAs('ws'))
  app.server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (req.url === '/ws') sockets.handleUpgrade(req, socket, head, client => { sockets.emit('connection', client, req) })
  })

  const io = new SocketServer(app.server)
  io.on('connection', socket => {
    socket.on('say', (text: string, done: (answer: string) => void) => { done(`socket.io: ${text}`) })
  })

  const vite = await viteOn(t, app)
  // The last of them: it waits until the server has closed, and so for the clients of all others.
  app.addHook('preClose', async () => {
    for (const client of sockets.clients) client.terminate()
    sockets.close()
    await io.close()
  })
  return vite
}

interface Shared extends SharedServer {
  vite: Vite
  /** A client of each, open. */
  visit: () => Promise<Visit>
}

interface Visit {
  browser: WebSocketClient
  ws: WebSocketClient
  fastifyWebSocket: WebSocketClient
  socketIo: SocketIoClient
  /** A WebSocket that a route of the plugin has handed to ws. */
  detached: WebSocketClient
  /** One of a route with messages. */
  messages: WebSocketClient
}

async function sharedByAll (t: Test, order: Order, handler: (connection: DuplexConnection) => unknown): Promise<Shared> {
  let vite: Vite | undefined
  const shared = await share(t, {
    plugin: { drainTimeout: 60_000 },
    before: async app => { if (order === 'before') vite = await settle(t, app) }
  }, async app => {
    vite ??= await settle(t, app)
    take(app, handler)
    const rooms = answerAs('@fastify/websocket')
    app.get('/rooms', { websocket: true }, rooms)
    app.get('/rooms', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, echo)
    const own = new WebSocketServer({ noServer: true })
    app.get('/own', { duplex: { accept: 'manual', kinds: ['upgrade'], protocols: ['websocket'] } }, (pending, request) => {
      const { socket, head } = pending.detach()
      own.handleUpgrade(request.raw, socket, head, answerAs('detached'))
    })
    app.get('/messages', { duplex: { websocket: true } }, async connection => {
      const { readable, send, draining } = connection
      draining.addEventListener('abort', () => { void connection.close() })
      for await (const message of readable) await send(`messages: ${String(message)}`)
    })
    app.get('/plain', async () => 'plain')
  })
  const { port, connect } = shared
  const visit = async (): Promise<Visit> => {
    const origin = `ws://127.0.0.1:${port}`
    return {
      browser: await (vite as Vite).browse(await connect(), port),
      ws: await openWebSocket(t, `${origin}/ws`),
      fastifyWebSocket: await openWebSocket(t, `${origin}/rooms`),
      socketIo: await openSocketIo(t, port),
      detached: await openWebSocket(t, `${origin}/own`),
      messages: await openWebSocket(t, `${origin}/messages`)
    }
  }
  return { ...shared, vite: vite as Vite, visit }
}

/** It begins by polling, and goes over to a WebSocket when it can. */
async function openSocketIo (t: Test, port: number): Promise<SocketIoClient> {
  const client = connectSocketIo(`http://127.0.0.1:${port}`, { forceNew: true, reconnection: false })
  t.teardown(() => client.close())
  await within('the upgrade of socket.io', new Promise<void>((resolve, reject) => {
    client.on('connect_error', reject)
    client.on('connect', () => {
      const { engine } = client.io
      if (engine.transport.name === 'websocket') resolve()
      else engine.once('upgrade', () => resolve())
    })
  }))
  return client
}

/** Echoes of every kind beside the updates that vite sends to a browser; `meanwhile` runs while a connection is live. */
async function eachKindBeside (
  t: Test, vite: Vite, browser: WebSocketClient, connect: () => Promise<Wire>, meanwhile: (kind: string) => Promise<void> = async () => {}
): Promise<void> {
  t.same(JSON.parse(await browser.hear()), { type: 'connected' })
  for (const kind of everyKind) {
    const wire = await connect()
    await within('the accept head', wire.send(ask(kind) + piece(kind, 'early')).head())
    t.equal(await within('the echo', hear(wire, kind, 'early')), 'early')
    vite.change()
    t.match(JSON.parse(await browser.hear()), { type: 'update', updates: [{ path: vite.module }] })
    await meanwhile(kind)
    t.equal(await within('the echo', hear(wire.send(piece(kind, 'later')), kind, 'later')), 'later')
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await within('the end', kind === 'body' ? wire.until(LAST_CHUNK) : wire.gone())
  }
}

for (const order of orders) {
  t.test(`Q4 vite in middleware mode, the only other owner, registered ${order} it: HMR and every kind on one server`, async t => {
    let vite: Vite | undefined
    const { connect, close, port, server } = await share(t, {
      plugin: { drainTimeout: 60_000 },
      before: async app => { if (order === 'before') vite = await viteOn(t, app) }
    }, async app => {
      vite ??= await viteOn(t, app)
      take(app, echo)
      app.get('/plain', async () => 'plain')
    })
    const page = await connect()
    const browser = await (vite as Vite).browse(page, port)
    await eachKindBeside(t, vite as Vite, browser, connect)
    t.equal((await within('a plain route', exchange(page, 'GET /plain'))).body, 'plain')
    // vite asks by it whether its server is there again.
    const ping = await connect()
    const fields = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==']
    t.match(await within('a ping', ping.send(request('GET /', ...fields, 'Sec-WebSocket-Protocol: vite-ping')).head()), { status: 101 })
    ping.destroy()
    await close()
    t.equal(await within('the end of HMR', browser.closed), 1006)
    t.equal(server.listening, false)
  })
}

for (const order of orders) {
  t.test(`Q4 WS7 ws, @fastify/websocket, socket.io and vite, registered ${order} it: each has its own`, async t => {
    const { connect, close, vite, visit, app } = await sharedByAll(t, order, echo)
    const { browser, ws, fastifyWebSocket, socketIo, detached, messages } = await visit()
    await eachKindBeside(t, vite, browser, connect, async kind => {
      t.equal(await ws.ask(kind), `ws: ${kind}`)
      t.equal(await fastifyWebSocket.ask(kind), `@fastify/websocket: ${kind}`)
      t.equal(await within('socket.io', socketIo.emitWithAck('say', kind)), `socket.io: ${kind}`)
      t.equal(await detached.ask(kind), `detached: ${kind}`)
      t.equal(await messages.ask(kind), `messages: ${kind}`)
    })
    // The URL is that of a WebSocket too.
    const foo = await connect()
    t.equal(await echoed(foo, request('GET /rooms', ...UPGRADE), 'foo'), 'foo')
    t.equal((await within('a plain route', exchange(await connect(), 'GET /plain'))).body, 'plain')
    t.same([...app.duplex.connections].map(({ protocol }) => protocol), ['websocket', 'websocket', 'foo'])
    foo.end()
    for (const { socket, closed } of [detached, messages]) {
      socket.close()
      await within('the end of it', closed)
    }
    await close()
  })

  t.test(`Q4 ws, @fastify/websocket, socket.io and vite, registered ${order} it: close() ends all`, async t => {
    const { connect, close, visit } = await sharedByAll(t, order, async ({ draining, writable }) => {
      writable.write('hello')
      await once(draining, 'abort')
      writable.write('bye')
    })
    const { browser, ws, fastifyWebSocket, socketIo, detached, messages } = await visit()
    const wires: Wire[] = []
    for (const kind of everyKind) {
      const wire = await connect()
      await within('the accept head', wire.send(ask(kind)).head())
      t.equal(await within('hello', hear(wire, kind, 'hello')), 'hello')
      wires.push(wire)
    }
    const disconnected = new Promise<string>(resolve => socketIo.once('disconnect', resolve))
    const closing = close()
    t.equal(await within('the end of messages', messages.closed), 1001)
    for (const [at, kind] of everyKind.entries()) {
      const wire = wires[at] as Wire
      t.equal(await within('bye', hear(wire, kind, 'bye')), 'bye')
      wire.end(kind === 'body' ? LAST_CHUNK : '')
    }
    for (const [name, { closed }] of Object.entries({ browser, ws, fastifyWebSocket })) await within(`the end of ${name}`, closed)
    await within('the end of socket.io', disconnected)
    // Nobody but ws knows how to say good-bye on it.
    detached.socket.close()
    await within('the end of what was detached', detached.closed)
    await closing
  })
}
