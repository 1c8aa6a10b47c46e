import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex, Readable, type Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type RouteOptions } from 'fastify'
import duplex, { tunnel, type DuplexConnection, type PendingDuplex } from '../../lib/index.ts'
import { tlsOptions } from '../fixtures/server.ts'
import type { Entry, Ledger } from './ledger.ts'
import { sleep } from './patience.ts'
import type { AppPlan, HookPlan } from './plan.ts'

export const OURS = 'application/x-pattern'

export interface World {
  app: FastifyInstance
  /** Of the same routes; it listens nowhere. */
  inner: FastifyInstance | undefined
  port: number
  path: string
  /** The listeners that neighbours have put on the server, by event. */
  foreign: Record<string, number>
  remove: () => Promise<void>
}

/** @param bare without the plugin, and without duplex routes: what Fastify does by itself */
export async function serve (plan: AppPlan, ledger: Ledger, bare: boolean): Promise<World> {
  const { transport } = plan
  const settings = {
    ...(transport === 'tls' ? { https: tlsOptions } : {}),
    ...(transport === 'h2' ? { http2: true } : {}),
    ...(plan.force && transport !== 'h2' ? { forceCloseConnections: true } : {})
  }
  const world: World = { app: Fastify(settings as object), inner: undefined, port: 0, path: '', foreign: {}, remove: async () => {} }
  const { app } = world
  if (plan.neighbour !== 'none') {
    app.server.on('upgrade', plan.neighbour === 'owner' ? owner : counts(app.server as net.Server))
    world.foreign = { upgrade: 1 }
  }
  if (plan.close.how === 'hook') app.addHook('preClose', done => { app.server.close(() => done()) })
  if (!bare) {
    await app.register(duplex, { ...plan.plugin, ...(transport === 'h2' ? { extendedConnect: true } : {}) })
    if (transport !== 'h2') {
      world.inner = Fastify()
      await world.inner.register(duplex, plan.plugin)
      declare(world.inner, plan, ledger, world, false)
      await world.inner.ready()
    }
  }
  declare(app, plan, ledger, world, bare)
  if (transport === 'unix') {
    const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
    world.path = join(directory, 'socket')
    world.remove = () => rm(directory, { recursive: true, force: true })
    await app.listen({ path: world.path })
  } else {
    await app.listen({ port: 0, host: '127.0.0.1' })
    world.port = (app.server.address() as net.AddressInfo).port
  }
  return world
}

/** Takes every upgrade that it sees. */
function owner (req: { headers: Record<string, string | undefined> }, socket: net.Socket): void {
  socket.on('error', () => {})
  socket.on('end', () => socket.end())
  socket.resume()
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\nx-id: ${req.headers['x-id']}\r\nx-owner: 1\r\n\r\n`)
}

/** Takes what is under its prefix, and answers for all else where it is alone. It hears of no error before it has taken the socket. */
function counts (server: net.Server): (req: { url: string, headers: Record<string, string | undefined> }, socket: net.Socket) => void {
  return function counting (req, socket) {
    if (!req.url.startsWith('/own') && server.listenerCount('upgrade') !== 1) return
    socket.on('error', () => {})
    socket.resume()
    socket.end(`HTTP/1.1 200 OK\r\nConnection: close\r\nx-id: ${req.headers['x-id']}\r\nContent-Length: 0\r\n\r\n`)
  }
}

function declare (app: FastifyInstance, plan: AppPlan, ledger: Ledger, world: World, bare: boolean): void {
  app.addHook('onRequest', async (request, reply) => {
    const entry = ledger.of(request)
    if (entry === undefined) return
    entry.reach(request, reply)
    reply.header('x-id', String(entry.id))
    return act('onRequest', entry, reply)
  })
  app.addHook('preHandler', async (request, reply) => {
    const entry = ledger.of(request)
    if (entry !== undefined) return act('preHandler', entry, reply)
  })
  app.addHook('onSend', async (request, reply) => {
    const entry = ledger.of(request)
    const hook = entry?.plan.hook
    if (hook?.at !== 'onSend') return
    await sleep(hook.ms)
    if (hook.does === 'throw' && (reply as { thrown?: boolean }).thrown !== true) {
      ;(reply as { thrown?: boolean }).thrown = true
      throw refused()
    }
  })
  app.addHook('onResponse', async request => {
    const entry = ledger.of(request)
    if (entry !== undefined) entry.responses++
  })
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, _body, done) => done(null))
  app.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) => {
    reply.code(error.statusCode ?? 500).type('application/json').send({ error: error.message })
  })
  const plain = async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const entry = ledger.of(request)
    return entry === undefined ? 'nobody' : answerPlain(entry, request, reply)
  }
  for (const route of plan.routes) {
    if (route.shared === true) app.route({ method: ['GET', 'POST'], url: route.url, handler: plain })
    if (bare) continue
    const handler = async (connection: DuplexConnection | PendingDuplex, request: FastifyRequest): Promise<unknown> => {
      const entry = ledger.of(request)
      if (entry === undefined) {
        if (!connection.accepted) await (connection as PendingDuplex).accept()
        await (connection as DuplexConnection).closed
        return
      }
      entry.enter(connection)
      try {
        const result = await (route.accept === 'manual' ? pend(entry, connection as PendingDuplex, request, world) : run(entry, connection as DuplexConnection, world))
        entry.resolved = true
        return result
      } catch (error) {
        entry.failure = error
        throw error
      }
    }
    // A handler that returns no promise.
    const leaving = (connection: DuplexConnection, request: FastifyRequest): unknown => {
      const entry = ledger.of(request)
      if (route.accept === 'manual' || entry?.plan.stream !== 'leave') return handler(connection, request)
      entry.enter(connection)
      leave(entry, connection)
      return undefined
    }
    app.route({
      method: route.methods,
      url: route.url,
      duplex: { accept: route.accept, ...(route.kinds === undefined ? {} : { kinds: route.kinds }), ...route.limits },
      ...(route.handlerTimeout === undefined ? {} : { handlerTimeout: route.handlerTimeout }),
      handler: leaving
    } as never as RouteOptions)
  }
  app.route({ method: ['GET', 'POST'], url: '/plain', handler: plain })
}

function ignore (): void {}

function refused (): Error {
  return Object.assign(new Error('refused by the app'), { statusCode: 403 })
}

async function act (at: HookPlan['at'], entry: Entry, reply: FastifyReply): Promise<unknown> {
  const { hook } = entry.plan
  if (hook?.at !== at) return
  switch (hook.does) {
    case 'slow':
      await sleep(hook.ms)
      return
    case 'throw':
      await sleep(hook.ms)
      throw refused()
    case 'answer':
      await sleep(hook.ms)
      if (reply.sent) return
      return send(entry, reply, 403, hook.bytes)
    case 'stream':
      return sendStream(entry, reply, 403, hook.bytes, hook.ms)
    case 'raw':
      await sendRaw(entry, reply, hook.bytes, hook.ms)
  }
}

function send (entry: Entry, reply: FastifyReply, status: number, bytes: number): FastifyReply {
  return reply.code(status).type(OURS).send(entry.next(bytes))
}

function sendStream (entry: Entry, reply: FastifyReply, status: number, bytes: number, ms: number, fails = false): FastifyReply {
  async function * parts (): AsyncGenerator<Buffer> {
    for (let part = 0; part < 5; part++) {
      if (bytes >= 5) yield entry.next(Math.floor(bytes / 5))
      await sleep(Math.ceil(ms / 5))
      if (fails && part === 2) {
        entry.broke = true
        throw new Error('the answer fails midway')
      }
    }
  }
  return reply.code(status).type(OURS).send(Readable.from(parts(), { objectMode: false }))
}

/** As for Server-Sent Events: nothing of Fastify writes from here on. */
async function sendRaw (entry: Entry, reply: FastifyReply, bytes: number, ms: number): Promise<void> {
  const { raw } = reply
  if (reply.sent || raw.headersSent || raw.destroyed || raw.writableEnded) return
  reply.hijack()
  raw.on('error', ignore)
  raw.writeHead(403, { 'content-type': OURS, 'x-id': String(entry.id) })
  for (let part = 0; part < 5; part++) {
    if (raw.destroyed || raw.writableEnded) return
    raw.write(entry.next(Math.ceil(bytes / 5)))
    await sleep(Math.ceil(ms / 5))
  }
  raw.end()
}

async function answerPlain (entry: Entry, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
  const { plan } = entry
  switch (plan.plain) {
    case 'now': return send(entry, reply, 200, plan.bytes)
    case 'slow':
      await sleep(plan.ms)
      return send(entry, reply, 200, plan.bytes)
    case 'big': return send(entry, reply, 200, 400_000)
    case 'stream': return sendStream(entry, reply, 200, plan.bytes, plan.ms)
    case 'fail-stream': return sendStream(entry, reply, 200, plan.bytes, plan.ms, true)
    case 'throw': throw refused()
    case 'raw':
      await sendRaw(entry, reply, plan.bytes, plan.ms)
      return
    case 'poll': {
      // Where a body was read, plain Fastify tells nobody either.
      if (request.method !== 'GET') return send(entry, reply, 200, plan.bytes)
      entry.polling = true
      if (!entry.told) {
        await new Promise<void>(resolve => {
          request.raw.once('aborted', resolve)
          request.raw.once('close', resolve)
          reply.raw.once('close', resolve)
        })
      }
      return send(entry, reply, 200, plan.bytes)
    }
  }
}

async function pend (entry: Entry, pending: PendingDuplex, request: FastifyRequest, world: World): Promise<unknown> {
  const { plan } = entry
  const reply = entry.reply as FastifyReply
  await sleep(plan.ms)
  switch (plan.pending) {
    case 'answer':
      if (reply.sent) return
      return send(entry, reply, 403, plan.bytes)
    case 'answer-stream':
      if (reply.sent) return
      return sendStream(entry, reply, 403, plan.bytes, plan.ms)
    case 'throw': throw refused()
    case 'nothing': return
    case 'raw':
      await sendRaw(entry, reply, plan.bytes, plan.ms)
      return
    case 'never':
      await pending.closed
      return
    case 'detach-refuse':
    case 'detach-echo':
    case 'detach-inner': {
      if (pending.kind === 'body' || request.raw.httpVersionMajor > 1) return
      const { socket, head } = pending.detach()
      entry.detached = entry.accepted = true
      takeSocket(entry, socket, head, world)
      return
    }
    default: {
      const connection = await pending.accept()
      entry.accepted = true
      if (plan.stream === 'leave') {
        leave(entry, connection)
        await connection.closed
        return
      }
      return run(entry, connection, world)
    }
  }
}

/** As a library does that was handed the socket. */
function takeSocket (entry: Entry, socket: net.Socket, head: Buffer, world: World): void {
  const { plan } = entry
  socket.on('error', ignore)
  if (plan.pending === 'detach-refuse') {
    entry.foreign = true
    // A socket in which bytes wait for a reader never ends, with Node alone neither.
    if (entry.talks) socket.resume()
    socket.end(`HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nx-id: ${entry.id}\r\nContent-Length: 0\r\n\r\n`)
    return
  }
  const first = plan.kind === 'upgrade' ? '101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: fuzz' : '200 OK'
  if (head.length > 0) socket.unshift(head)
  socket.write(`HTTP/1.1 ${first}\r\nx-id: ${entry.id}\r\n\r\n`)
  if (plan.pending === 'detach-inner' && plan.kind === 'connect' && world.inner !== undefined) {
    entry.foreign = true
    world.inner.server.emit('connection', socket)
    return
  }
  socket.on('data', (chunk: Buffer) => {
    entry.heard.push(chunk)
    if (socket.writable) socket.write(entry.next(chunk.length))
  })
  socket.on('end', () => {
    entry.ended = true
    socket.end()
  })
}

function say (entry: Entry, writable: Writable, bytes: number): boolean {
  if (writable.destroyed || writable.writableEnded) return false
  return writable.write(entry.next(bytes))
}

/** Hears all, and says as much. */
async function echo (entry: Entry, { readable, writable, signal }: DuplexConnection): Promise<void> {
  for await (const chunk of readable as AsyncIterable<Buffer>) {
    entry.heard.push(chunk)
    if (!say(entry, writable, chunk.length) && !writable.destroyed) await once(writable, 'drain', { signal })
  }
}

/** What a loop does that is left in its first turn. */
async function first (source: AsyncIterable<Buffer>): Promise<Buffer> {
  const iterator = source[Symbol.asyncIterator]()
  const { value, done } = await iterator.next()
  await iterator.return?.()
  return done === true ? Buffer.alloc(0) : value
}

/** Says as much as it hears; in part, or with an error when all is over. */
function upstreamFor (entry: Entry): Duplex {
  switch (entry.plan.stream) {
    case 'tunnel-part':
      // A handler may read at its own pace for ever once the end of its input is known: over HTTP/2, or where all that came fits
      // into the stream. A tunnel waits for an upstream that takes no more and does not close, as a pipeline() does. So this one
      // takes the rest.
      if (entry.reply?.request.raw.httpVersionMajor === 2 || entry.pours) {
        return Duplex.from(async function * (source: AsyncIterable<Buffer>) {
          let begun = false
          for await (const chunk of source) {
            if (!begun) yield entry.next(chunk.length)
            begun = true
          }
        })
      }
      return Duplex.from(async function * (source: AsyncIterable<Buffer>) {
        yield entry.next((await first(source)).length)
      })
    case 'tunnel-late': {
      const upstream = new Duplex({
        autoDestroy: false,
        read () {},
        write (chunk: Buffer, _encoding, done) {
          this.push(entry.next(chunk.length))
          done()
        },
        final (done) {
          this.push(null)
          done()
        }
      })
      upstream.once('finish', () => {
        const fail = (): unknown => upstream.emit('error', new Error('an upstream that fails late'))
        if (entry.plan.bytes % 2 === 0) process.nextTick(fail)
        else setImmediate(fail)
      })
      return upstream
    }
    default:
      return Duplex.from(async function * (source: AsyncIterable<Buffer>) {
        for await (const chunk of source) yield entry.next(chunk.length)
      })
  }
}

function leave (entry: Entry, { readable, writable }: DuplexConnection): void {
  entry.accepted = true
  readable.on('error', ignore)
  writable.on('error', ignore)
  readable.on('data', (chunk: Buffer) => {
    entry.heard.push(chunk)
    say(entry, writable, chunk.length)
  })
  readable.on('end', () => {
    entry.ended = true
    writable.end()
  })
}

async function run (entry: Entry, connection: DuplexConnection, world: World): Promise<unknown> {
  const { plan } = entry
  const { readable, writable, signal } = connection
  entry.accepted = true
  switch (plan.stream) {
    case 'say': {
      if (!say(entry, writable, plan.bytes) && !signal.aborted && !writable.destroyed) await Promise.race([once(writable, 'drain', { signal }), sleep(500)])
      await sleep(plan.ms)
      say(entry, writable, 10)
      break
    }
    case 'fail':
      say(entry, writable, plan.bytes)
      await sleep(plan.ms)
      entry.broke = true
      throw new Error('the handler fails')
    case 'destroy':
      say(entry, writable, plan.bytes)
      await sleep(plan.ms)
      entry.broke = true
      connection.destroy()
      return
    case 'wait': {
      const over = new Promise(resolve => readable.once('end', resolve))
      readable.on('data', (chunk: Buffer) => { entry.heard.push(chunk) })
      await Promise.race([over, connection.closed])
      break
    }
    case 'deaf':
      await sleep(plan.ms)
      await echo(entry, connection)
      break
    case 'close':
      say(entry, writable, plan.bytes)
      await connection.close()
      return
    case 'half': {
      say(entry, writable, plan.bytes)
      entry.ended = true
      writable.end()
      for await (const chunk of readable as AsyncIterable<Buffer>) entry.heard.push(chunk)
      break
    }
    case 'pipeline-part':
      await pipeline(readable, async function * (source: AsyncIterable<Buffer>) {
        yield entry.next((await first(source)).length)
        yield entry.next(plan.bytes)
      }, writable)
      break
    case 'pipeline-fail':
      await pipeline(readable, async function * (source: AsyncIterable<Buffer>) {
        yield entry.next((await first(source)).length)
        entry.broke = true
        throw new Error('the transform fails')
      }, writable)
      break
    case 'iterator':
      say(entry, writable, (await first(readable.iterator() as AsyncIterable<Buffer>)).length)
      say(entry, writable, plan.bytes)
      break
    case 'tunnel':
    case 'tunnel-part':
    case 'tunnel-late':
      await tunnel(connection, upstreamFor(entry))
      break
    case 'inner':
      if (plan.kind === 'connect' && world.inner !== undefined) {
        entry.foreign = true
        world.inner.server.emit('connection', readable as net.Socket)
        await connection.closed
        return
      }
      await echo(entry, connection)
      break
    default:
      await echo(entry, connection)
  }
  entry.ended = true
}
