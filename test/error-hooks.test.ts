import type { FastifyReply } from 'fastify'
import t from 'tap'
import { guarded, until } from './fixtures/baseline.ts'
import { ask, LAST_CHUNK, onEachKind, take, takeManually } from './fixtures/kinds.ts'
import { gate, serve, type Way } from './fixtures/server.ts'
import { within } from './fixtures/shared-server.ts'

type Done = () => void
type ErrorHook = (request: unknown, reply: FastifyReply, error: Error, done: Done) => unknown

function boom (): Error {
  return Object.assign(new Error('boom'), { statusCode: 418 })
}

/** onError hooks that fail. Fastify answers the first error all the same. */
const failing: Record<string, ErrorHook> = {
  'that throws': () => { throw new Error('another') },
  'that rejects': async () => { throw new Error('another') },
  'that sends': (_request, reply) => { reply.send('no') },
  'that calls back with an error': (_request, _reply, _error, done) => { (done as (error: Error) => void)(new Error('another')) }
}

type SendHook = (request: object, reply: unknown, payload: unknown, done: (error: Error | null, payload?: unknown) => void) => void

/** The first answer is refused by an onSend hook. */
function refuseAcceptance (): SendHook {
  const seen = new WeakSet<object>()
  return (request, _reply, payload, done) => {
    if (seen.has(request)) {
      done(null, payload)
    } else {
      seen.add(request)
      done(boom())
    }
  }
}

for (const [what, onError] of Object.entries(failing)) {
  onEachKind(t, `Q1 an onSend hook refuses the acceptance, and an onError hook ${what}: the refusal is answered`, guarded(async (t, kind, transport: Way) => {
    const { app, connect } = await serve(t, { transport }, app => {
      app.addHook('onError', onError as never)
      take(app, () => { throw new Error('entered') }, true, { onSend: refuseAcceptance() as never })
    })
    const wire = await connect()
    const { status } = await within('the answer', wire.send(ask(kind)).head())
    t.equal(status, 418)
    t.equal(app.duplex.connections.size, 0)
  }))
}

onEachKind(t, 'Q1 an onError hook hijacks the answer to an acceptance that an onSend hook refused', guarded(async (t, kind, transport: Way) => {
  const refused = gate<unknown>()
  const { app, connect } = await serve(t, { transport }, app => {
    app.addHook('onError', (_request, reply, _error, done) => {
      reply.hijack()
      reply.raw.writeHead(409, { 'content-length': '4' })
      reply.raw.end('mine')
      done()
    })
    takeManually(app, async pending => {
      await pending.accept().catch(refused.open)
    }, { onSend: refuseAcceptance() as never })
  })
  const wire = await connect()
  const { status, body } = await within('the answer', wire.send(ask(kind)).response())
  t.equal(status, 409)
  t.equal(body, 'mine')
  t.match(await within('accept()', refused.promise), { message: 'boom' })
  t.equal(app.duplex.connections.size, 0)
}))

onEachKind(t, 'Q1 accept() is told of the refusal when an onError hook throws', guarded(async (t, kind, transport: Way) => {
  const refused = gate<unknown>()
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onError', () => { throw new Error('another') })
    takeManually(app, async pending => {
      await pending.accept().catch(refused.open)
    }, { onSend: refuseAcceptance() as never })
  })
  const wire = await connect()
  t.equal((await within('the answer', wire.send(ask(kind)).head())).status, 418)
  t.match(await within('accept()', refused.promise), { code: 'FST_ERR_DUPLEX_ALREADY_SENT' })
}))

onEachKind(t, 'Q8 an answer whose response an onError hook destroys before its turn: the connection ends behind those before', guarded(async (t, kind, transport: Way) => {
  const slow = gate()
  const destroyed = gate()
  const { app, connect } = await serve(t, { transport }, app => {
    app.get('/slow', async () => {
      await slow.promise
      return 'slow'
    })
    take(app, () => {}, true, {
      preHandler: (_request, _reply, done) => { done(boom()) },
      onError: (_request, reply, _error, done) => {
        reply.raw.destroy()
        destroyed.open()
        done()
      }
    })
  })
  const wire = await connect()
  wire.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n' + ask(kind) + LAST_CHUNK)
  await within('the hook', destroyed.promise)
  slow.open()
  t.equal((await within('the answer before', wire.response())).body, 'slow')
  t.equal((await within('the end', wire.rest())).toString(), '')
  wire.end()
  await until(() => app.duplex.connections.size === 0)
}), ['body'], ['tcp', 'tls', 'unix', 'injected'])
