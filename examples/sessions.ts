// Sessions: connections that end with the token that opened them, and a logout that ends all of a user's, on every worker.
//
// A client logs in, gets a token for SECONDS seconds, and opens a connection with it: a WebSocket, or lines of text. Before the
// token ends the connection says "renew", and GRACE milliseconds later it is broken off, unless the client has sent "token T" with
// a new one by then. A user may have three connections to each worker. POST /logout ends all of them, whichever worker they are
// on, and from then on no token of before opens one: the workers tell one another by Redis, where REDIS names one, else by the
// process that has started them.
//
// Run it:     SECRET=a-long-secret node examples/sessions.ts
//             WORKERS=2 SECONDS=60 GRACE=5000 REDIS=redis://localhost:6379 LOG=info are its settings.
//             Before Node 22.18: npm run setup, then .build/examples/sessions.js in its place.
// Drive it:   TOKEN=$(curl -s -X POST http://localhost:3000/login/anna)
//             npx fastify-duplex --upgrade events -H "authorization: Bearer $TOKEN" http://localhost:3000/events &
//             curl -i -X POST -H "authorization: Bearer $TOKEN" http://localhost:3000/logout
import cluster from 'node:cluster'
import { addAbortListener } from 'node:events'
import jwt from '@fastify/jwt'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const { PORT = '3000', HOST = '127.0.0.1', LOG = 'error', REDIS, SECRET = 'change me' } = process.env
const WORKERS = Number(process.env.WORKERS ?? 2)
const SECONDS = Number(process.env.SECONDS ?? 60)
const GRACE = Number(process.env.GRACE ?? 5000)
const CHANNEL = 'revoked'

/** `at` is when it was given, in milliseconds. */
interface Token { sub: string, at: number, exp: number }

const tokenOf = (request: unknown): Token => (request as FastifyRequest).user as unknown as Token
const labelOf = (user: string): string => `user:${user}`

/** What the workers share. */
interface Logouts {
  /** Tells every worker, this one included. */
  tell: (user: string) => Promise<unknown>
  /** When the user logged out last, in milliseconds. A token lives no longer than this has to be known. */
  last: (user: string) => Promise<number>
}

async function byRedis (app: FastifyInstance, url: string): Promise<Logouts> {
  const { default: redis } = await import('@fastify/redis')
  await app.register(redis, { url })
  // A client that subscribes can do nothing else.
  const subscriber = app.redis.duplicate()
  for (const client of [app.redis, subscriber]) client.on('error', error => app.log.error(error))
  subscriber.on('message', (_channel, user) => { app.duplex.close(labelOf(user)) })
  await subscriber.subscribe(CHANNEL)
  app.addHook('onClose', async () => { await subscriber.quit() })
  return {
    // In this order: a request that does not find the one is ended by the other.
    tell: async user => {
      await app.redis.set(`logout:${user}`, Date.now(), 'EX', SECONDS)
      await app.redis.publish(CHANNEL, user)
    },
    last: async user => Number(await app.redis.get(`logout:${user}`))
  }
}

/** Each worker knows for itself. */
function byPrimary (app: FastifyInstance): Logouts {
  const at = new Map<string, number>()
  process.on('message', ({ [CHANNEL]: user }: Record<string, string>) => {
    if (user === undefined) return
    at.set(user, Date.now())
    app.duplex.close(labelOf(user))
  })
  return {
    tell: async user => process.send?.({ [CHANNEL]: user }),
    last: async user => at.get(user) ?? 0
  }
}

async function serve (): Promise<string> {
  const app = Fastify({ logger: { level: LOG } })
  await app.register(jwt, { secret: SECRET })
  await app.register(duplex, { drainTimeout: 1000, drainSpread: 500 })
  const logouts = REDIS === undefined ? byPrimary(app) : await byRedis(app, REDIS)

  /** The token is good, and the user has not logged out since. */
  async function authenticate (request: FastifyRequest): Promise<void> {
    await request.jwtVerify()
    const { sub, at } = tokenOf(request)
    if (at <= await logouts.last(sub)) throw Object.assign(new Error('logged out'), { statusCode: 401 })
  }

  app.post<{ Params: { user: string } }>('/login/:user', ({ params }) =>
    app.jwt.sign({ sub: params.user, at: Date.now() }, { expiresIn: SECONDS }))

  app.post('/logout', { onRequest: authenticate }, async (request, reply) => {
    await logouts.tell(tokenOf(request).sub)
    return await reply.code(204).send()
  })

  app.get('/events', {
    onRequest: authenticate,
    duplex: {
      kinds: ['upgrade'],
      protocols: ['events', 'websocket'],
      messages: { encoding: 'text' },
      maxConnections: { max: 3, key: request => tokenOf(request).sub },
      expires: request => tokenOf(request).exp * 1000,
      expiryGrace: GRACE,
      labels: request => [labelOf(tokenOf(request).sub)]
    }
  }, async (connection, request) => {
    const { readable, send } = connection
    const { sub } = tokenOf(request)
    // There is another signal behind each extend().
    const listen = (): void => {
      const { draining } = connection
      addAbortListener(draining, () => { void send(draining.reason.code === 'FST_ERR_DUPLEX_EXPIRED' ? 'renew' : 'bye') })
    }
    listen()
    await send(`hello ${sub} from worker ${process.pid}`)
    for await (const line of readable) {
      if (!line.startsWith('token ')) {
        await send(line)
        continue
      }
      const token = app.jwt.verify<Token>(line.slice('token '.length))
      if (token.sub !== sub || token.at <= await logouts.last(sub) || !connection.extend(token.exp * 1000)) break
      listen()
      await send('renewed')
    }
  })

  process.once('SIGTERM', async () => {
    await app.close()
    process.disconnect()
  })
  return await app.listen({ port: Number(PORT), host: HOST })
}

if (cluster.isPrimary) {
  const workers = Array.from({ length: WORKERS }, () => cluster.fork())
  let listening = 0
  for (const worker of workers) {
    worker.on('listening', ({ port }) => { if (++listening === WORKERS) console.log(`listening on http://localhost:${port}`) })
    // What one says, all hear.
    worker.on('message', message => { for (const other of workers) if (other.isConnected()) other.send(message) })
  }
  process.once('SIGTERM', () => { for (const worker of workers) worker.process.kill('SIGTERM') })
} else {
  await serve()
}
