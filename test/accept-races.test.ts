import t from 'tap'
import type { ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, onEachKind, piece, statusOf, take, takeManually } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { everywhere, gate, serve, ways } from './fixtures/server.ts'
import { logLines } from './fixtures/takeover.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

type Late = (pending: PendingDuplex) => void

/** What HTTP/2 has by the same names. */
const rawOf = ({ reply }: PendingDuplex): ServerResponse => reply.raw as ServerResponse

/** What a hook throws that knows no better. */
const oddity = (value: unknown): Error => value as Error

const streams = new Set<Readable>()

function stream (): Readable {
  const made = Readable.from(['SENT'])
  streams.add(made)
  return made
}

/** What a handler may still do to its reply while the hooks of its accept() run. */
const late: Record<string, Late> = {
  'send()': ({ reply }) => { reply.code(403).send('SENT') },
  'send() of an object': ({ reply }) => { reply.code(403).send({ sent: true }) },
  'send() of a stream': ({ reply }) => { reply.code(403).send(stream()) },
  'send() of an error': ({ reply }) => { reply.send(Object.assign(new Error('SENT'), { statusCode: 403 })) },
  'raw.end()': pending => { rawOf(pending).end('SENT') },
  'raw.writeHead()': pending => { rawOf(pending).writeHead(403, { 'x-raw': 'yes' }).end('SENT') },
  'raw.write()': pending => { rawOf(pending).write('SENT') },
  'raw.flushHeaders()': pending => { rawOf(pending).flushHeaders() },
  'hijack()': ({ reply }) => {
    reply.hijack()
    reply.raw.end('SENT')
  }
}

for (const [what, act] of Object.entries(late)) {
  onEachKind(t, `A9 ${what} while the hooks of an accept run is dropped with a warning, and the accept is what it was`, async (t, kind, transport) => {
    const { lines, logger } = logLines()
    const hook = gate()
    let ran = 0
    let handled = 0
    const { connect } = await serve(t, { transport, fastify: { logger } }, app => {
      app.setErrorHandler(async () => { handled++ })
      app.addHook('onSend', async (_request, reply, payload) => {
        ran++
        await hook.promise
        reply.header('x-late', 'yes')
        return payload
      })
      takeManually(app, async pending => {
        const accepting = (pending.accept as () => Promise<DuplexConnection>)()
        act(pending)
        hook.open()
        await echo(await accepting)
      })
    })
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'TAIL') + (kind === 'body' ? LAST_CHUNK : ''))
    const { status, headers } = await wire.head()
    t.equal(status, statusOf(kind, transport))
    t.equal(headers['x-late'], 'yes', 'the hooks were waited for')
    for (const name of ['content-type', 'content-length', 'x-raw']) t.notOk(name in headers, name)
    if (kind !== 'body') wire.end()
    t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
    t.equal(await wire.until(kind === 'body' ? LAST_CHUNK : ''), kind === 'body' ? LAST_CHUNK : '')
    t.equal(wire.pending, '')
    t.equal(ran, 1)
    t.equal(handled, 0)
    const warnings = lines.filter(({ level }) => level === 40)
    t.ok(warnings.length >= 1 && warnings.every(({ err }) => err?.code === 'FST_ERR_DUPLEX_ALREADY_ACCEPTED'), JSON.stringify(warnings))
    for (const left of streams) t.ok(left.destroyed, 'the stream is let go of')
    streams.clear()
  }, everyKind, what === 'send()' ? everywhere : ['tcp', 'h2'])
}

onEachKind(t, 'A9 a hook of an accept that throws after a late reply is answered', async (t, kind, transport) => {
  const hook = gate()
  const { connect, quiet } = await serve(t, { transport }, app => {
    let failed = false
    app.addHook('onSend', async (_request, _reply, payload) => {
      await hook.promise
      if (failed) return payload
      failed = true
      throw Object.assign(new Error('of the hook'), { statusCode: 418 })
    })
    takeManually(app, async pending => {
      const accepting = (pending.accept as () => Promise<DuplexConnection>)()
      pending.reply.code(403).send('SENT')
      hook.open()
      await accepting
    })
  })
  const wire = await connect()
  wire.end(ask(kind) + (kind === 'body' ? LAST_CHUNK : ''))
  const { status, body } = await wire.response()
  t.equal(status, 418)
  t.match(body, /of the hook/)
  await quiet()
}, everyKind, ['tcp', 'h2'])

for (const manual of [true, false]) {
  onEachKind(t, `L6 a preHandler hook that calls back twice enters ${manual ? 'a manual' : 'the'} handler once, and leaves nothing`, async (t, kind, transport) => {
    let entered = 0
    const { connect, quiet, app } = await serve(t, { transport }, app => {
      app.addHook('preHandler', (_request, _reply, done) => {
        done()
        done()
      })
      app.addHook('onSend', async (_request, _reply, payload) => {
        await turn()
        return payload
      })
      if (manual) {
        takeManually(app, async pending => {
          entered++
          await echo(await (pending.accept as () => Promise<DuplexConnection>)())
        })
      } else {
        take(app, connection => {
          entered++
          return echo(connection)
        })
      }
    })
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'TAIL') + (kind === 'body' ? LAST_CHUNK : ''))
    t.equal((await wire.head()).status, statusOf(kind, transport))
    if (kind !== 'body') wire.end()
    t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
    if (kind === 'body') wire.end()
    await wire.remains()
    await quiet()
    t.equal(entered, 1)
    t.equal(app.duplex.connections.size, 0)
  }, everyKind, ['tcp', 'h2'])
}

/** How an app may break its own answer off, with what `closed` then says. */
const breaks: Record<string, [reason: string, act: Late]> = {
  'reply.raw.destroy()': ['destroyed', pending => { rawOf(pending).destroy() }],
  'reply.raw.destroy(error)': ['error', pending => { rawOf(pending).destroy(new Error('of the app')) }],
  'request.raw.destroy()': ['destroyed', ({ reply }) => { reply.request.raw.destroy() }]
}

for (const [what, [reason, act]] of Object.entries(breaks)) {
  for (const when of ['before an accept', 'while the hooks of an accept run']) {
    onEachKind(t, `L11 ${what} ${when}: closed says ${reason}`, async (t, kind, transport) => {
      const hook = gate()
      const told = gate<{ reason: string }>()
      const failed = gate<Error & { code?: string }>()
      const { connect, quiet } = await serve(t, { transport }, app => {
        app.addHook('onSend', async (_request, _reply, payload) => {
          await hook.promise
          return payload
        })
        takeManually(app, async pending => {
          void pending.closed.then(told.open)
          const accept = pending.accept as () => Promise<DuplexConnection>
          const accepting = when === 'before an accept' ? undefined : accept.call(pending)
          act(pending)
          hook.open()
          await (accepting ?? accept.call(pending)).catch(failed.open)
        })
      })
      const wire = await connect()
      wire.send(ask(kind) + piece(kind, 'TAIL'))
      t.equal(await wire.remains(), '')
      t.equal((await told.promise).reason, reason)
      const { code, message } = await failed.promise
      t.ok(message === 'of the app' || code === 'FST_ERR_DUPLEX_ABORTED' || code === 'FST_ERR_DUPLEX_DESTROYED', message)
      wire.destroy()
      await quiet()
      // A request of HTTP/2 does not destroy its stream.
    }, everyKind, what === 'request.raw.destroy()' ? ways : everywhere)
  }
}

type Hook = (...args: unknown[]) => unknown

/** How an onSend hook may fail with what is no Error, on the plain route of a Fastify in which nobody catches it. */
const odd: Record<string, Hook> = {
  'rejects with a text': async () => { throw oddity('text') },
  'rejects later with an object': async () => {
    await turn()
    throw oddity({ odd: true })
  },
  'rejects with undefined': async () => { throw oddity(undefined) },
  'rejects with null': async () => { throw oddity(null) },
  'throws a text': (_request, _reply, _payload, _done) => { throw oddity('text') },
  'calls back later with a text': (_request, _reply, _payload, done) => { setImmediate(done as (error: unknown) => void, 'text') }
}

const refusals: Record<string, (pending: PendingDuplex) => unknown> = {
  'returns a value': async ({ reply }) => {
    reply.code(403)
    return 'no'
  },
  'throws an error': async () => { throw Object.assign(new Error('no'), { statusCode: 403 }) },
  'throws a text': async () => { throw oddity('no') }
}

for (const [what, hook] of Object.entries(odd)) {
  for (const [refusal, handler] of Object.entries(refusals)) {
    for (const own of [false, true]) {
      const title = `A11 an onSend hook that ${what}, of a handler that ${refusal}${own ? ', with an error handler' : ''}: answered`
      onEachKind(t, title, async (t, kind, transport) => {
        const { connect, quiet } = await serve(t, { transport }, app => {
          if (own) app.setErrorHandler(async () => ({ handled: true }))
          app.addHook('onSend', hook as never)
          takeManually(app, handler)
        })
        const wire = await connect()
        wire.end(ask(kind) + (kind === 'body' ? LAST_CHUNK : ''))
        const { status } = await wire.response()
        t.ok(status === 403 || status === 500 || (own && status === 200), String(status))
        t.equal(await wire.remains(), '')
        await quiet()
      }, ['upgrade'], ['tcp', 'h2'])
    }
  }
}
