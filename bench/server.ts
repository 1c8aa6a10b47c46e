// One server of the benchmark, in a process of its own: `node --expose-gc server.js NAME`. It tells its port over IPC,
// and answers there what it has used so far.
import { addAbortListener } from 'node:events'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Duplex } from 'node:stream'
import Fastify, { type FastifyInstance } from 'fastify'
import websocket from '@fastify/websocket'
import { Server as SocketServer } from 'socket.io'
import { WebSocketServer, type WebSocket } from 'ws'
import type { FastifyDuplexOptions } from '../lib/index.ts'
import type { Answer, MessageServerName, Question, ServerName } from './protocol.ts'

const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n'

/** What idle connections may keep alive: how many of each kind were made and not collected. */
const alive: Record<string, number> = {}
const collected = new FinalizationRegistry<string>(name => { alive[name] = (alive[name] as number) - 1 })
/** Parsers come back for later connections. */
const known = new WeakSet<object>()
const tracking = process.argv.includes('track')
function track (objects: Record<string, object | null | undefined>): void {
  if (!tracking) return
  for (const [name, object] of Object.entries(objects)) {
    if (object === null || object === undefined || known.has(object)) continue
    known.add(object)
    alive[name] = (alive[name] ?? 0) + 1
    collected.register(object, name)
  }
}

interface Listening {
  listen (): Promise<number>
  close (): Promise<unknown>
}

function plain (server: net.Server): Listening {
  return {
    listen: () => new Promise(resolve => {
      server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => resolve((server.address() as AddressInfo).port))
    }),
    close: () => new Promise(resolve => { server.close(resolve) })
  }
}

function framework (app: FastifyInstance): Listening {
  return {
    async listen () {
      await app.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
      return (app.server.address() as AddressInfo).port
    },
    close: () => app.close()
  }
}

function echo (socket: Duplex, head: Buffer): void {
  socket.on('error', () => {})
  if (head.length > 0) socket.unshift(head)
  socket.pipe(socket)
}

function upgradeByHand (server: http.Server, handler: (socket: Duplex, head: Buffer) => void): void {
  server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    track({ IncomingMessage: req, HTTPParser: (socket as { parser?: object }).parser })
    socket.write(SWITCH)
    handler(socket, head)
  })
}

function byHand (handler: (socket: Duplex, head: Buffer) => void = echo): http.Server {
  const server = http.createServer()
  upgradeByHand(server, handler)
  if (tracking) server.on('connection', (socket: { parser?: object }) => track({ HTTPParser: socket.parser }))
  return server
}

const upstreamPort = Number(process.argv[3])

function twoPipes (socket: Duplex, head: Buffer): void {
  const upstream = net.connect(upstreamPort, '127.0.0.1')
  for (const one of [socket, upstream]) one.on('error', () => {})
  if (head.length > 0) socket.unshift(head)
  socket.pipe(upstream)
  upstream.pipe(socket)
}

/** Beside those that are measured. */
const MORE_ROUTES = 98

/** Any app has a plugin. */
async function withSomePlugin (app: FastifyInstance): Promise<void> {
  await app.register(async () => {})
}

/** Only where it is used: when it is loaded it does something for all of the process. */
const plugin = (): Promise<typeof import('../lib/index.ts')> => import('../lib/index.ts')

async function duplexServer (options: FastifyDuplexOptions): Promise<Listening> {
  const app = Fastify()
  await app.register((await plugin()).default, options)
  if (tracking) app.server.on('connection', (socket: { parser?: object }) => track({ HTTPParser: socket.parser }))
  app.get('/echo', { duplex: { kinds: ['upgrade'] } }, (connection, request) => {
    if (tracking) {
      const { reply } = connection
      track({ IncomingMessage: request.raw, FastifyRequest: request, FastifyReply: reply, ServerResponse: reply.raw })
    }
    const { readable, writable } = connection
    readable.pipe(writable)
  })
  app.get('/graceful', { duplex: { kinds: ['upgrade'] } }, connection => {
    const { readable, writable, draining } = connection
    addAbortListener(draining, () => { void connection.close() })
    readable.pipe(writable)
  })
  for (let route = 0; route < MORE_ROUTES; route++) app.get(`/duplex/${route}`, { duplex: true }, ({ readable, writable }) => { readable.pipe(writable) })
  app.get('/plain', () => ({ hello: 'world' }))
  app.post('/message', { duplex: { kinds: ['body'] } }, ({ readable, writable }) => { readable.pipe(writable) })
  return framework(app)
}

const messageServers: Record<MessageServerName, () => Promise<Listening>> = {
  ws: () => wsAlone(false),
  'ws-deflate': () => wsAlone({ serverNoContextTakeover: true, clientNoContextTakeover: true }),
  messages: () => messages(false),
  'messages-deflate': () => messages(true),
  'websocket-messages': async () => {
    const app = Fastify()
    const answer = await answerByHand()
    await app.register(websocket)
    app.get('/echo', { websocket: true }, answer)
    return framework(app)
  },
  'socket.io': async () => {
    const validate = await validator()
    const server = http.createServer()
    const io = new SocketServer(server, { transports: ['websocket'] })
    io.on('connection', socket => {
      socket.on('say', (message: Message) => {
        if (validate(message) === false) socket.disconnect(true)
        else socket.emit('said', said(message))
      })
    })
    return plain(server)
  }
}

const servers: Record<ServerName, () => Listening | Promise<Listening>> = {
  ...messageServers,
  net: () => plain(net.createServer(socket => echo(socket, Buffer.alloc(0)))),
  node: () => plain(byHand()),
  fastify: async () => {
    const app = Fastify()
    await withSomePlugin(app)
    upgradeByHand(app.server, echo)
    app.get('/plain', () => ({ hello: 'world' }))
    app.addContentTypeParser('*', (_request, _payload, done) => { done(null) })
    app.post('/message', (request, reply) => {
      const res = reply.hijack().raw
      res.writeHead(200)
      res.flushHeaders()
      request.raw.pipe(res)
    })
    return framework(app)
  },
  'fastify-routes': async () => {
    const app = Fastify()
    await withSomePlugin(app)
    for (let route = 0; route < MORE_ROUTES + 3; route++) app.get(`/other/${route}`, () => 'another')
    app.get('/plain', () => ({ hello: 'world' }))
    return framework(app)
  },
  websocket: async () => {
    const app = Fastify()
    await app.register(websocket)
    app.get('/echo', { websocket: true }, socket => {
      socket.on('message', (data, binary) => socket.send(data as Buffer, { binary }))
    })
    return framework(app)
  },
  duplex: () => duplexServer({ drainTimeout: 5000 }),
  'duplex-no-probes': () => duplexServer({ drainTimeout: 5000, tcpKeepAlive: 0 }),
  body: () => plain(http.createServer((req: IncomingMessage, res: ServerResponse) => {
    res.writeHead(200)
    res.flushHeaders()
    req.pipe(res)
  })),
  http2: () => plain(http2.createServer().on('stream', stream => {
    stream.respond({ ':status': 200 })
    stream.pipe(stream)
  })),
  'http2-fastify': async () => {
    const app = Fastify({ http2: true })
    await withSomePlugin(app as unknown as FastifyInstance)
    app.post('/message', (_request, reply) => {
      const { stream } = reply.hijack().raw
      stream.respond({ ':status': 200 })
      stream.pipe(stream)
    })
    return framework(app as unknown as FastifyInstance)
  },
  'http2-duplex': async () => {
    const app = Fastify({ http2: true })
    await app.register((await plugin()).default)
    app.post('/message', { duplex: true }, ({ readable, writable }) => { readable.pipe(writable) })
    return framework(app as unknown as FastifyInstance)
  },
  pipes: () => plain(byHand(twoPipes)),
  'fastify-pipes': async () => {
    const app = Fastify()
    await withSomePlugin(app)
    upgradeByHand(app.server, twoPipes)
    return framework(app)
  },
  tunnel: async () => {
    const app = Fastify()
    const { default: duplex, tunnel } = await plugin()
    await app.register(duplex)
    app.get('/echo', { duplex: { kinds: ['upgrade'] } }, async connection => {
      await tunnel(connection, net.connect(upstreamPort, '127.0.0.1')).catch(() => {})
    })
    return framework(app)
  },
  forward: async () => {
    const app = Fastify()
    await app.register((await plugin()).default)
    app.all('/*', { duplex: { forward: `http://127.0.0.1:${upstreamPort}` } })
    return framework(app)
  },
  'http-proxy': async () => {
    const app = Fastify()
    const { default: proxy } = await import('@fastify/http-proxy')
    await app.register(proxy, { upstream: `http://127.0.0.1:${upstreamPort}`, websocket: true })
    return framework(app)
  },
  'http-proxy-3': async () => {
    const { createProxyServer } = await import('http-proxy-3')
    const agent = new http.Agent({ keepAlive: true })
    const proxy = createProxyServer({ target: `http://127.0.0.1:${upstreamPort}`, ws: true, agent })
    proxy.on('error', () => {})
    const server = http.createServer((req, res) => { void proxy.web(req, res) })
    server.on('upgrade', (req, socket, head) => { void proxy.ws(req, socket, head) })
    return plain(server)
  }
}

/** What a client says; what is answered is the same with a number. */
interface Message {
  id: number
  text: string
  to: string[]
}

const FROM_CLIENT = {
  type: 'object',
  required: ['id', 'text', 'to'],
  properties: {
    id: { type: 'integer', minimum: 0 },
    text: { type: 'string', minLength: 1, maxLength: 5000 },
    to: { type: 'array', maxItems: 10, items: { type: 'string', maxLength: 50 } }
  }
}

const FROM_SERVER = {
  type: 'object',
  properties: { type: { type: 'string' }, id: { type: 'integer' }, text: { type: 'string' } }
}

function said ({ id, text }: Message): { type: string, id: number, text: string } {
  return { type: 'said', id, text }
}

/** By Fastify's Ajv, as the plugin has it. */
async function validator (): Promise<(message: unknown) => unknown> {
  const app = Fastify()
  let validate: ((message: unknown) => unknown) | undefined
  app.get('/', async request => { validate = request.compileValidationSchema(FROM_CLIENT, 'body') })
  await app.inject('/')
  return validate as (message: unknown) => unknown
}

/** The socket of `ws`, for somebody who checks what comes. */
async function answerByHand (): Promise<(socket: WebSocket) => void> {
  const validate = await validator()
  return socket => {
    socket.on('message', data => {
      let message: Message
      try {
        message = JSON.parse(String(data)) as Message
      } catch {
        socket.close(1007)
        return
      }
      if (validate(message) === false) socket.close(1007)
      else socket.send(JSON.stringify(said(message)))
    })
  }
}

async function wsAlone (perMessageDeflate: false | object): Promise<Listening> {
  const answer = await answerByHand()
  const server = http.createServer()
  new WebSocketServer({ server, maxPayload: 65_536, perMessageDeflate }).on('connection', answer)
  return plain(server)
}

async function messages (perMessageDeflate: boolean): Promise<Listening> {
  const app = Fastify()
  await app.register((await plugin()).default)
  app.get('/echo', { duplex: { messages: { in: FROM_CLIENT, out: FROM_SERVER, websocket: { perMessageDeflate } } } }, async ({ readable, send }) => {
    for await (const message of readable) await send(said(message as Message))
  })
  return framework(app)
}

async function settled (): Promise<NodeJS.MemoryUsage> {
  for (let turn = 0; turn < 4; turn++) {
    globalThis.gc?.()
    await sleep(25)
  }
  return process.memoryUsage()
}

const server = await (servers[process.argv[2] as ServerName] as () => Listening | Promise<Listening>)()
async function answer ({ ask }: Question): Promise<Answer> {
  switch (ask) {
    case 'used': {
      const { userCPUTime, systemCPUTime, minorPageFault } = process.resourceUsage()
      return { cpu: userCPUTime + systemCPUTime, faults: minorPageFault, rss: process.memoryUsage.rss() }
    }
    case 'memory': {
      const { rss, heapUsed, external } = await settled()
      return { rss, heapUsed, external, alive }
    }
    case 'close': {
      const start = performance.now()
      await server.close()
      return { milliseconds: performance.now() - start }
    }
  }
}

process.on('message', (question: Question) => {
  void answer(question).then(result => process.send?.({ ...result, id: question.id }))
})
process.on('disconnect', () => process.exit())
process.send?.({ port: await server.listen() })
