import { once } from 'node:events'
import t from 'tap'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, statusOf, take, takeManually } from './fixtures/kinds.ts'
import { guarded, serveGuarded, soon, type GuardedServer } from './fixtures/baseline.ts'
import { gate, type Way } from './fixtures/server.ts'

/** Nothing is left. `baseline()` asks in HTTP/1. */
function over (server: GuardedServer, transport: Way): Promise<unknown> {
  return transport === 'h2' ? server.quiet() : server.baseline()
}

type Level = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace'
const levels: readonly Level[] = ['fatal', 'error', 'warn', 'info', 'debug', 'trace']

/** A logger of an app, which throws on these levels, whatever it is given, once `on` is true. */
function throwing (which: readonly Level[]): { on: boolean, logger: never } {
  const state = { on: false, logger: undefined as never }
  const logger: Record<string, unknown> = { level: 'trace', silent: () => {}, child: () => logger }
  for (const level of levels) logger[level] = () => { if (state.on && which.includes(level)) throw new Error('of the logger') }
  state.logger = logger as never
  return state
}

const ends: Record<string, (connection: DuplexConnection) => Promise<unknown>> = {
  'is rejected': async ({ readable }) => {
    await once(readable, 'data')
    throw new Error('of the handler')
  },
  'is rejected at once': async () => { throw new Error('of the handler') },
  'resolves while it reads': async ({ readable, writable }) => {
    readable.pipe(writable)
    await once(readable, 'data')
  },
  'sets a field too late': async ({ reply, readable }) => {
    await once(readable, 'data')
    reply.header('x-late', 'yes')
  }
}

for (const [what, end] of Object.entries(ends)) {
  onEachKind(t, `Q74 a logger that throws each time, and a handler that ${what}`, guarded(async (t, kind, transport) => {
    const log = throwing(['error', 'warn', 'debug'])
    const reason = gate<string>()
    const server = await serveGuarded(t, { transport, fastify: { loggerInstance: log.logger } }, app => take(app, connection => {
      void connection.closed.then(closed => reason.open(closed.reason))
      return end(connection)
    }))
    const wire = await server.connect()
    log.on = true
    wire.send(ask(kind))
    // A reset may overtake the head.
    if (what !== 'is rejected at once') {
      await wire.head()
      wire.send(piece(kind, 'go'))
    }
    // Of a body, the client is not done before its last chunk.
    if (what.includes('rejected')) await wire.remains()
    else wire.end(kind === 'body' ? LAST_CHUNK : '')
    t.equal(await soon(reason.promise), what.includes('rejected') ? 'error' : 'end')
    wire.destroy()
    await over(server, transport)
  }), everyKind, ['tcp', 'h2'])
}

const unreadable: Record<string, () => unknown> = {
  'an error whose fields throw': () => Object.defineProperties(new Error('odd'), {
    message: { get () { throw new Error('of the message') } },
    code: { get () { throw new Error('of the code') } },
    statusCode: { get () { throw new Error('of the status') } }
  }),
  'a proxy that throws': () => new Proxy(new Error('odd'), { get () { throw new Error('of the proxy') } }),
  'a proxy that was revoked': () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  },
  'a text': () => 'odd',
  nothing: () => undefined
}

for (const [what, make] of Object.entries(unreadable)) {
  onEachKind(t, `Q74 a handler that throws ${what} after acceptance`, guarded(async (t, kind, transport) => {
    const closed = gate<DuplexConnection>()
    const server = await serveGuarded(t, { transport }, app => take(app, async connection => {
      closed.open(connection)
      await once(connection.readable, 'data')
      throw make()
    }))
    const wire = await server.connect()
    t.equal((await wire.send(ask(kind)).head()).status, statusOf(kind, transport))
    wire.send(piece(kind, 'go'))
    t.not(await soon(wire.remains()), 'never', 'the client sees the end')
    const { reason, error } = await (await closed.promise).closed
    t.match({ reason, error }, { reason: 'error', error: Error })
    wire.destroy()
    await over(server, transport)
  }), everyKind, ['tcp', 'h2'])

  if (what === 'nothing') continue

  onEachKind(t, `Q74 an onSend hook of the accept head that throws ${what} is a 500`, guarded(async (t, kind, transport) => {
    const refused = gate<Error>()
    const server = await serveGuarded(t, { transport }, app => takeManually(app, async (pending: PendingDuplex) => {
      try {
        await pending.accept()
      } catch (error) {
        refused.open(error as Error)
      }
    }, { onSend: async () => { throw make() } }))
    const wire = await server.connect()
    const { status } = await wire.send(ask(kind)).response()
    t.equal(status, 500)
    t.not(await soon(refused.promise), 'never', 'accept() rejects')
    wire.destroy()
    await over(server, transport)
  }), everyKind, ['tcp', 'h2'])

  for (const hook of ['preParsing', 'preHandler'] as const) {
    onEachKind(t, `Q74 a ${hook} hook that throws ${what} does not leave its client without an answer`, guarded(async (t, kind, transport) => {
      const server = await serveGuarded(t, { transport }, app => take(app, () => {}, true, { [hook]: async () => { throw make() } }))
      const wire = await server.connect()
      const { status } = await wire.send(ask(kind)).head()
      t.not(status, 101)
      wire.destroy()
      await server.baseline()
    }), ['upgrade', 'body'], ['tcp'])
  }
}
