import type { ServerResponse } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { guarded, until } from './fixtures/baseline.ts'
import { ask, everyKind, onEachKind, take } from './fixtures/kinds.ts'
import { onEach, gate, serve, transports, type ServerSettings, type TestServer, type Way } from './fixtures/server.ts'
import { within } from './fixtures/shared-server.ts'

const SHORT = 60

type Hook = 'onRequest' | 'preParsing' | 'preHandler'

/** An app with a hook that hijacks the replies of its duplex routes, for an owner who answers when the test says so. */
async function hijackIn (
  t: Parameters<typeof serve>[0], hook: Hook, settings: ServerSettings, when: 'before' | 'after' = 'after'
): Promise<TestServer & { hijacked: Promise<ServerResponse> }> {
  const hijacked = gate<ServerResponse>()
  const hijack = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    if (request.routeOptions.url === '/never') return
    reply.hijack()
    hijacked.open(reply.raw)
  }
  const server = await serve(t, {
    ...settings,
    ...(when === 'before' ? { before: app => app.addHook(hook as 'onRequest', hijack) } : {})
  }, app => {
    if (when === 'after') app.addHook(hook as 'onRequest', hijack)
    take(app, () => { throw new Error('entered') }, { handshakeTimeout: SHORT })
    app.get('/never', { duplex: { handshakeTimeout: SHORT }, preHandler: (_request, _reply, _done) => {} }, () => {})
  })
  return { ...server, hijacked: hijacked.promise }
}

/** When this request has its answer, the time of every request before it is over, too. */
async function untilLate ({ connect }: TestServer): Promise<void> {
  const other = await connect()
  const head = await within('the time limit', other.send(ask('upgrade').replace('/it', '/never')).head())
  if (head.status !== 503) throw new Error(head.line)
  other.destroy()
}

for (const hook of ['onRequest', 'preParsing', 'preHandler'] as const) {
  onEachKind(t, `Q1 who hijacks the reply in a hook of the app, ${hook}, keeps it`, guarded(async (t, kind, transport: Way) => {
    const server = await hijackIn(t, hook, { transport })
    const wire = await server.connect()
    wire.send(ask(kind))
    const raw = await server.hijacked
    await untilLate(server)
    raw.writeHead(403, { 'content-length': '4' })
    raw.end('mine')
    const { status, body } = await within('the answer', wire.response())
    t.equal(status, 403)
    t.equal(body, 'mine')
    wire.destroy()
    await until(() => server.app.duplex.connections.size === 0)
  }), hook === 'preParsing' ? ['hijack', 'body'] : everyKind)
}

onEach(t, 'Q1 who hijacks the reply before the plugin is registered keeps it', guarded(async (t, transport: Way) => {
  const server = await hijackIn(t, 'onRequest', { transport }, 'before')
  const wire = await server.connect()
  wire.send(ask('upgrade'))
  const raw = await server.hijacked
  await untilLate(server)
  raw.writeHead(403, { 'content-length': '4' })
  raw.end('mine')
  t.equal((await within('the answer', wire.response())).body, 'mine')
}), [...transports, 'h2'])

onEachKind(t, 'Q1 a hijacked reply that nobody answers is ended by the drain', guarded(async (t, kind, transport: Way) => {
  const server = await hijackIn(t, 'onRequest', { transport, plugin: { drainTimeout: SHORT } })
  const wire = await server.connect()
  wire.send(ask(kind))
  await server.hijacked
  await within('app.close()', server.app.close())
  t.equal(await server.sockets().catch(() => 0), 0)
}))
