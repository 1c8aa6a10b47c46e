// Sessions: connections that end with the token that opened them, and a logout that ends all of a user's, on every worker.
//
// A client logs in, gets a token for SECONDS seconds, and opens a connection with it. Before the token ends the connection says
// "renew\n", and GRACE milliseconds later it is broken off, unless the client has sent "token T\n" with a new one by then. A user
// may have three connections. POST /logout ends all of them, whichever worker they are on: the workers tell one another by
// Redis, where REDIS names one, else by the process that has started them.
//
// Run it:     SECRET=a-long-secret node examples/sessions.ts
//             WORKERS=2 SECONDS=60 GRACE=5000 REDIS=redis://localhost:6379 are its settings.
//             Before Node 22.18: npm run setup, then .build/examples/sessions.js in its place.
// Drive it:   TOKEN=$(curl -s -X POST http://localhost:3000/login/anna)
//             node examples/client.ts --upgrade events -H "authorization: Bearer $TOKEN" http://localhost:3000/events &
//             curl -i -X POST -H "authorization: Bearer $TOKEN" http://localhost:3000/logout
import cluster from 'node:cluster'
import { addAbortListener } from 'node:events'
import { createInterface } from 'node:readline'
import jwt from '@fastify/jwt'
import redis from '@fastify/redis'
import Fastify, { type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const { PORT = '3000', HOST = '127.0.0.1', REDIS, SECRET = 'change me' } = process.env
const WORKERS = Number(process.env.WORKERS ?? 2)
const SECONDS = Number(process.env.SECONDS ?? 60)
const GRACE = Number(process.env.GRACE ?? 5000)
const CHANNEL = 'revoked'

interface Token { sub: string, exp: number }

const tokenOf = (request: unknown): Token => (request as FastifyRequest).user as unknown as Token
const labelOf = ({ sub }: Token): string => `user:${sub}`

async function serve (): Promise<string> {
  const app = Fastify({ logger: { level: 'error' } })
  await app.register(jwt, { secret: SECRET })
  await app.register(duplex, { drainTimeout: 1000, drainSpread: 500 })

  /** Tells every worker, this one included. */
  let revoke = (label: string): void => { process.send?.({ [CHANNEL]: label }) }
  if (REDIS === undefined) {
    process.on('message', (message: Record<string, string>) => { app.duplex.close(message[CHANNEL] as string) })
  } else {
    await app.register(redis, { url: REDIS })
    const subscriber = app.redis.duplicate()
    subscriber.on('message', (_channel, label) => { app.duplex.close(label) })
    await subscriber.subscribe(CHANNEL)
    app.addHook('onClose', async () => { await subscriber.quit() })
    revoke = label => { void app.redis.publish(CHANNEL, label) }
  }

  app.post<{ Params: { user: string } }>('/login/:user', ({ params }) => app.jwt.sign({ sub: params.user }, { expiresIn: SECONDS }))

  app.post('/logout', { onRequest: request => request.jwtVerify() }, async (request, reply) => {
    revoke(labelOf(tokenOf(request)))
    return await reply.code(204).send()
  })

  app.get('/events', {
    onRequest: async request => { await request.jwtVerify() },
    duplex: {
      kinds: ['upgrade'],
      protocols: ['events'],
      maxConnections: { max: 3, key: request => tokenOf(request).sub },
      expires: request => tokenOf(request).exp * 1000,
      expiryGrace: GRACE,
      labels: request => [labelOf(tokenOf(request))]
    }
  }, async (connection, request) => {
    const { readable, writable, signal } = connection
    const { sub } = tokenOf(request)
    // Another signal behind each extend().
    const askForToken = (): void => { addAbortListener(connection.draining, () => { if (!signal.aborted) writable.write('renew\n') }) }
    askForToken()
    writable.write(`hello ${sub} from worker ${process.pid}\n`)
    for await (const line of createInterface({ input: readable, signal })) {
      if (!line.startsWith('token ')) {
        writable.write(`${line}\n`)
        continue
      }
      const token = app.jwt.verify<Token>(line.slice('token '.length))
      if (token.sub !== sub || !connection.extend(token.exp * 1000)) break
      askForToken()
      writable.write('renewed\n')
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
