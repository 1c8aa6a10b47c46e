import t, { type Test } from 'tap'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import duplex from '../lib/index.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { onEach, serve, type ServerSettings, type Way } from './fixtures/server.ts'

// What Node limits on a connection holds for requests whose Upgrade is ignored.

const ORDINARY = UPGRADE.map(field => field.replace('Connection', 'X-Hop-By-H').replace('Upgrade:', 'X-Going:'))
const BODY = ['Content-Type: text/plain', 'Content-Length: 4'] as const

/** The app says which timeout its connection has. */
function declare (app: FastifyInstance): void {
  app.route({ method: ['GET', 'POST'], url: '/plain', handler: async ({ raw }) => String((raw.socket as Socket).timeout ?? 0) })
}

interface Answer {
  status: number
  body: string
  connection: string | undefined
  keepAlive: string | undefined
}

async function answers (
  t: Test, transport: Way, requests: readonly string[], settings: ServerSettings, together: boolean
): Promise<Answer[]> {
  const { connect } = await serve(t, { ...settings, transport }, declare)
  const wire = await connect()
  const all: Answer[] = []
  if (together) wire.send(requests.join(''))
  for (const text of requests) {
    if (!together) wire.send(text)
    const { status, body, headers } = await wire.response()
    all.push({ status, body, connection: headers.connection, keepAlive: headers['keep-alive'] })
  }
  return all
}

/** What is asked for, with the fields of an Upgrade or with others. */
const mixtures: Record<string, (fields: readonly string[]) => string[]> = {
  'with bodies': fields => Array<string>(5).fill(request('POST /plain', ...fields, ...BODY) + 'BODY'),
  'without bodies': fields => Array<string>(5).fill(request('GET /plain', ...fields)),
  'between others': fields => [
    request('GET /plain'), request('POST /plain', ...fields, ...BODY) + 'BODY', request('GET /plain', ...fields), request('GET /plain'),
    request('POST /plain', ...fields, ...BODY) + 'BODY', request('GET /plain')
  ]
}

for (const [what, requests] of Object.entries(mixtures)) {
  for (const together of [true, false]) {
    const how = together ? 'pipelined' : 'one after the other'
    onEach(t, `Q53 requests ${what} have the timeout of a request though their Upgrade is ignored, ${how}`, async (t, transport) => {
      const settings = { fastify: { keepAliveTimeout: 60_000, connectionTimeout: 0 } }
      const theirs = await answers(t, transport, requests(ORDINARY), settings, together)
      t.equal(theirs.at(-1)?.status, 200)
      t.same(await answers(t, transport, requests(UPGRADE), settings, together), theirs)
    })

    onEach(t, `Q53 requests ${what} count for maxRequestsPerSocket though their Upgrade is ignored, ${how}`, async (t, transport) => {
      for (const maxRequestsPerSocket of [2, 3, 4]) {
        const settings = { fastify: { maxRequestsPerSocket } }
        const theirs = await answers(t, transport, requests(ORDINARY), settings, true)
        t.match(theirs[maxRequestsPerSocket - 1], { status: 200, connection: 'close' })
        t.match(theirs[maxRequestsPerSocket], { status: 503, connection: 'close' })
        t.same(await answers(t, transport, requests(UPGRADE), settings, true), theirs)
      }
    })
  }
}

t.test('Q53 each request counts once for maxRequestsPerSocket with several apps on one server', async t => {
  const { app, connect } = await serve(t, { fastify: { maxRequestsPerSocket: 3 } }, async app => {
    declare(app)
    const { default: Fastify } = await import('fastify')
    const other = Fastify({ serverFactory: () => app.server })
    await other.register(duplex)
    other.get('/other', { duplex: { kinds: ['upgrade'] } }, async ({ writable }) => { writable.end() })
    await other.ready()
    t.teardown(() => other.close())
  })
  const wire = await connect()
  wire.send((request('POST /plain', ...UPGRADE, ...BODY) + 'BODY').repeat(4))
  const statuses: number[] = []
  for (let n = 0; n < 4; n++) statuses.push((await wire.response()).status)
  t.same(statuses, [200, 200, 200, 503])
  t.equal(app.server.maxRequestsPerSocket, 3)
})

t.test('Q53 a limit that a handler sets is kept, also while its request reaches the one before', async t => {
  const { app, connect } = await serve(t, { fastify: { maxRequestsPerSocket: 2 } }, app => {
    declare(app)
    // It runs while Node begins the request.
    app.addHook('onRequest', (_request, _reply, done) => {
      app.server.maxRequestsPerSocket = 7
      done()
    })
  })
  const wire = await connect()
  for (let n = 0; n < 2; n++) {
    app.server.maxRequestsPerSocket = 2
    wire.send(request('POST /plain', ...UPGRADE, ...BODY) + 'BODY')
    t.equal((await wire.response()).status, 200)
    t.equal(app.server.maxRequestsPerSocket, 7)
  }
})

for (const together of [true, false]) {
  const how = together ? 'in the same write' : 'in a write of its own'
  onEach(t, `Q53 a head that never ends behind an ignored Upgrade is 408 by headersTimeout, ${how}`, async (t, transport) => {
    const fastify = { keepAliveTimeout: 60_000, http: { headersTimeout: 50, connectionsCheckingInterval: 50 } }
    const { connect } = await serve(t, { transport, fastify }, declare)
    const wire = await connect()
    const half = request('GET /plain').slice(0, -2)
    wire.send(request('GET /plain', ...UPGRADE) + (together ? half : ''))
    t.equal((await wire.response()).status, 200)
    if (!together) wire.send(half)
    t.equal((await wire.head()).status, 408)
    await wire.remains()
  }, ['tcp', 'unix'])
}
