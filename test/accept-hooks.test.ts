import t from 'tap'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import etag from '@fastify/etag'
import helmet from '@fastify/helmet'
import session from '@fastify/session'
import type { DuplexConnection, DuplexKind } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, onEachKind, piece, statusOf, streamKinds, take } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { everywhere, gate, onEach, serve, ways, type Way } from './fixtures/server.ts'
import type { Head } from './fixtures/wire.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** The end of the request, where it has one of its own. */
const lastOf = (kind: DuplexKind): string => kind === 'body' ? LAST_CHUNK : ''

/** The names of the fields that frame, switch, or say what a body is. */
const framing = (head: Head): string[] => head.fields.map(([name]) => name.toLowerCase())
  .filter(name => /^(?:connection|upgrade|trailer|transfer-encoding|keep-alive|content-.*)$/.test(name))

const framed: Record<DuplexKind, string[]> = {
  upgrade: ['connection', 'upgrade'],
  connect: [],
  hijack: ['connection'],
  body: ['connection', 'keep-alive', 'transfer-encoding']
}

/** HTTP/2 frames by itself, and has no fields that are about a connection. */
const framingOf = (kind: DuplexKind, transport: Way): string[] => transport === 'h2' ? [] : framed[kind]

const valuesOf = (head: Head, wanted: string): string[] =>
  head.fields.filter(([name]) => name.toLowerCase() === wanted).map(([, value]) => value)

onEachKind(t, 'A2 headers of every hook are on the accept head, arrays as repeated fields', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onRequest', async (_request, reply) => { reply.header('X-On-Request', '1') })
    app.addHook('preHandler', async (_request, reply) => { reply.header('x-list', ['one', 'two, three', 'four']) })
    app.addHook('onSend', async (_request, reply) => { reply.header('x-on-send', 3) })
    app.addHook('preHandler', async (_request, reply) => { reply.raw.setHeader('X-Raw', ['r', 's']) })
    take(app, echo, true, { onSend: async (_request, reply) => { reply.header('x-route', '4') } })
  })
  const wire = await connect()
  wire.send(ask(kind))
  const head = await wire.head()
  t.equal(head.status, statusOf(kind, transport))
  t.strictSame(valuesOf(head, 'x-on-request'), ['1'])
  t.strictSame(valuesOf(head, 'x-list'), ['one', 'two, three', 'four'])
  t.strictSame(valuesOf(head, 'x-on-send'), ['3'])
  t.strictSame(valuesOf(head, 'x-raw'), ['r', 's'])
  t.strictSame(valuesOf(head, 'x-route'), ['4'])
})

for (const from of ['the reply', 'the response'] as const) {
  onEachKind(t, `A2 a field of ${from} alone is on the accept head, without an onSend hook`, async (t, kind, transport) => {
    const { connect } = await serve(t, { transport }, app => {
      app.addHook('preHandler', async (_request, reply) => {
        if (from === 'the reply') reply.header('x-alone', '1')
        else reply.raw.setHeader('X-Alone', '1')
      })
      take(app, echo)
    })
    const wire = await connect()
    wire.send(ask(kind))
    t.strictSame(valuesOf(await wire.head(), 'x-alone'), ['1'])
  })
}

onEachKind(t, 'A2 a byte above 127 in a value is one byte on the accept head', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    take(app, echo, true, { onRequest: async (_request, reply) => { reply.header('x-mine', 'caf\u00e9') } })
  })
  const wire = await connect()
  wire.send(ask(kind))
  t.equal((await wire.head()).headers['x-mine'], 'caf\u00e9')
}, streamKinds)

onEachKind(t, 'A2 an asynchronous onSend hook is waited for', async (t, kind, transport) => {
  const hook = gate()
  const inHook = gate()
  let entered = false
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onSend', async (_request, reply) => {
      inHook.open()
      await hook.promise
      reply.header('x-late', 'yes')
    })
    take(app, connection => {
      entered = true
      return echo(connection)
    })
  })
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'TAIL'))
  await inHook.promise
  for (let n = 0; n < 10; n++) await turn()
  t.equal(wire.pending, '', 'no byte before the hook is through')
  t.notOk(entered)
  hook.open()
  t.equal((await wire.head()).headers['x-late'], 'yes')
  t.equal((await wire.bytes(piece(kind, 'TAIL').length)).toString(), piece(kind, 'TAIL'))
})

onEachKind(t, 'A2 onSend hooks see no payload, and the reply as it is', async (t, kind, transport) => {
  const seen: unknown[] = []
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onSend', async (request, reply, payload) => { seen.push(payload ?? null, reply.statusCode, request.raw.url) })
    take(app, echo)
  })
  const wire = await connect()
  wire.send(ask(kind))
  await wire.head()
  t.strictSame(seen.slice(0, 2), [null, statusOf(kind, transport)])
})

const notNow = (): Error => Object.assign(new Error('not now'), { statusCode: 418 })

/** onSend hooks that fail once, so that the answer to that gets through. */
const failing: Record<string, () => unknown> = {
  throws: () => {
    let failed = false
    return async () => {
      if (failed) return
      failed = true
      throw notNow()
    }
  },
  'throws later': () => {
    let failed = false
    return async () => {
      await turn()
      if (failed) return
      failed = true
      throw notNow()
    }
  },
  'calls back with an error': () => {
    let failed = false
    return (_request: unknown, _reply: unknown, payload: unknown, done: (error: Error | null, payload?: unknown) => void) => {
      if (failed) return done(null, payload)
      failed = true
      done(notNow())
    }
  }
}

for (const [way, makeHook] of Object.entries(failing)) {
  onEachKind(t, `A2 an onSend hook that ${way} gives the ordinary error response`, async (t, kind, transport) => {
    let entered = 0
    const { connect, quiet, app } = await serve(t, { transport }, app => {
      app.setErrorHandler(async (error: Error & { statusCode: number }, _request, reply) => {
        await turn()
        reply.code(error.statusCode)
        return { handled: error.message }
      })
      take(app, () => { entered++ }, true, { onSend: makeHook() as never })
    })
    const wire = await connect()
    wire.end(ask(kind) + piece(kind, 'TAIL') + lastOf(kind))
    const { status, body } = await wire.response()
    t.equal(status, 418)
    t.equal(body, '{"handled":"not now"}')
    t.equal(await wire.remains(), '')
    t.equal(entered, 0)
    await quiet()
    t.equal(app.duplex.connections.size, 0)
  })
}

onEachKind(t, 'A2 cookies, a session, CORS and security headers are on the accept head', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, async app => {
    await app.register(cookie)
    await app.register(session, { secret: 'a secret of no less than 32 characters', cookie: { secure: false } })
    await app.register(cors, { origin: 'https://app.example', credentials: true })
    await app.register(helmet)
    take(app, echo, true, {
      onRequest: async (_request, reply) => {
        reply.setCookie('one', '1', { path: '/' })
        reply.setCookie('two', 'a b; c', { httpOnly: true })
      }
    })
  })
  const wire = await connect()
  wire.send(ask(kind, 'Origin: https://app.example'))
  const head = await wire.head()
  t.equal(head.status, statusOf(kind, transport))
  const cookies = valuesOf(head, 'set-cookie')
  t.equal(cookies.length, 3)
  t.strictSame(cookies.slice(0, 2), ['one=1; Path=/; SameSite=Lax', 'two=a%20b%3B%20c; HttpOnly; SameSite=Lax'])
  t.ok(cookies.some(value => value.startsWith('sessionId=')))
  t.equal(head.headers['access-control-allow-origin'], 'https://app.example')
  t.equal(head.headers['access-control-allow-credentials'], 'true')
  t.ok(head.headers['strict-transport-security'])
  t.ok(head.headers['content-security-policy'])
  t.strictSame(framing(head).filter(name => name !== 'content-security-policy'), framingOf(kind, transport))
})

interface Visits {
  get (key: 'visits'): number | undefined
  set (key: 'visits', value: number): void
}

const visitsOf = (request: object): Visits => (request as { session: Visits }).session

onEach(t, 'A2 a session that was begun at one takeover is known at the next', async (t, transport) => {
  const { connect } = await serve(t, { transport }, async app => {
    await app.register(cookie)
    await app.register(session, { secret: 'a secret of no less than 32 characters', cookie: { secure: false } })
    take(app, async ({ writable }, request) => { writable.end(String(visitsOf(request).get('visits'))) }, true, {
      preHandler: async request => { visitsOf(request).set('visits', (visitsOf(request).get('visits') ?? 0) + 1) }
    })
  })
  const first = await connect()
  first.send(ask('upgrade'))
  const [setCookie = ''] = valuesOf(await first.head(), 'set-cookie')
  t.equal((await first.rest()).toString(), '1')
  const second = await connect()
  second.send(ask('hijack', `Cookie: ${setCookie.split(';', 1)[0]}`))
  await second.head()
  t.equal((await second.rest()).toString(), '2')
}, ways)

onEachKind(t, 'A13 compress and etag touch neither the head nor the stream', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, async app => {
    await app.register(compress, { global: true, threshold: 0 })
    await app.register(etag)
    take(app, echo, true, { onRequest: async (_request, reply) => { reply.type('text/plain') } })
  })
  const wire = await connect()
  wire.send(ask(kind, 'Accept-Encoding: gzip, br, deflate'))
  const head = await wire.head()
  t.equal(head.status, statusOf(kind, transport))
  t.equal(head.headers['content-encoding'], undefined)
  t.equal(head.headers.etag, undefined)
  const text = 'compressible '.repeat(1000)
  wire.send(piece(kind, text) + lastOf(kind))
  if (kind !== 'body') wire.end()
  t.equal(await hear(wire, kind, text), text)
  t.equal(await wire.until(lastOf(kind)), lastOf(kind))
})

onEachKind(t, 'A13 compress leaves alone what a handler writes under any content type', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, async app => {
    await app.register(compress, { global: true, threshold: 0 })
    take(app, async ({ writable }) => { writable.end('{"json":true}') }, true, {
      onRequest: async (_request, reply) => { reply.header('content-type', 'application/json') }
    })
  })
  const wire = await connect()
  wire.send(ask(kind, 'Accept-Encoding: gzip') + lastOf(kind))
  const head = await wire.head()
  t.equal(head.headers['content-type'], 'application/json', 'the app may say what the stream is')
  t.equal(head.headers['content-encoding'], undefined)
  t.equal((await wire.bytes(piece(kind, '{"json":true}').length)).toString(), piece(kind, '{"json":true}'))
})

onEachKind(t, 'A16 the status is fixed before the onSend hooks and restored after them', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, async app => {
    await app.register(etag)
    app.addHook('onRequest', async (_request, reply) => { reply.header('etag', '"mine"') })
    take(app, echo)
  })
  for (const match of ['"mine"', '*', 'W/"mine"']) {
    const wire = await connect()
    wire.send(ask(kind, `If-None-Match: ${match}`))
    const head = await wire.head()
    t.equal(head.status, statusOf(kind, transport), match)
    t.strictSame(framing(head), framingOf(kind, transport))
    wire.send(piece(kind, 'echo'))
    t.equal((await wire.bytes(piece(kind, 'echo').length)).toString(), piece(kind, 'echo'))
  }
})

for (const status of [201, 204, 304, 404, 500]) {
  onEachKind(t, `A16 a ${status} that an onSend hook sets is not on the wire`, async (t, kind, transport) => {
    const { connect } = await serve(t, { transport }, app => {
      take(app, echo, true, { onSend: async (_request, reply) => { reply.code(status) } })
    })
    const wire = await connect()
    wire.send(ask(kind))
    const head = await wire.head()
    t.equal(head.status, statusOf(kind, transport))
    t.strictSame(framing(head), framingOf(kind, transport))
  }, everyKind, status === 304 ? everywhere : ['tcp'])
}

const payloads: Record<string, (destroyed: () => void) => unknown> = {
  'a string': () => 'PAYLOAD',
  'a buffer': () => Buffer.from('PAYLOAD'),
  'a stream': destroyed => new Readable({
    read () { this.push('PAYLOAD') },
    destroy (error, done) {
      destroyed()
      done(error)
    }
  }),
  'a web stream': destroyed => new ReadableStream({
    pull (controller) { controller.enqueue('PAYLOAD') },
    cancel: destroyed
  })
}

for (const [name, payload] of Object.entries(payloads)) {
  onEachKind(t, `A16 ${name} that an onSend hook makes is dropped`, async (t, kind, transport) => {
    let destroyed = 0
    const { connect } = await serve(t, { transport }, app => {
      app.addHook('onSend', async () => payload(() => { destroyed++ }))
      take(app, echo)
    })
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'mine'))
    const head = await wire.head()
    t.equal(head.status, statusOf(kind, transport))
    t.strictSame(framing(head), framingOf(kind, transport))
    t.equal((await wire.bytes(piece(kind, 'mine').length)).toString(), piece(kind, 'mine'))
    t.equal(destroyed, name.endsWith('stream') ? 1 : 0)
  })
}

onEachKind(t, 'A16 trailers of a hook are dropped', async (t, kind, transport) => {
  let made = 0
  const { connect } = await serve(t, { transport }, app => {
    const trailer = async (): Promise<string> => {
      made++
      return 'TRAILER'
    }
    app.addHook('onRequest', async (_request, reply) => { reply.trailer('x-early', trailer) })
    app.addHook('onSend', async (_request, reply) => { reply.trailer('x-checksum', trailer) })
    take(app, echo)
  })
  const wire = await connect()
  wire.send(ask(kind))
  const head = await wire.head()
  t.strictSame(framing(head), framingOf(kind, transport))
  wire.send(piece(kind, 'mine') + lastOf(kind))
  if (kind !== 'body') wire.end()
  const expected = piece(kind, 'mine') + lastOf(kind)
  t.equal((await wire.bytes(expected.length)).toString(), expected)
  for (let n = 0; n < 10; n++) await turn()
  t.equal(wire.pending, '')
  t.equal(made, 0)
})

for (const timeout of ['handlerTimeout', 'handshakeTimeout'] as const) {
  onEachKind(t, `A16 onSend hooks run once even when a ${timeout} strikes during them`, async (t, kind, transport) => {
    let ran = 0
    let entered = 0
    const hook = gate()
    const { connect, quiet, app } = await serve(t, { transport }, app => {
      app.addHook('onSend', async (_request, reply) => {
        ran++
        await hook.promise
        reply.header('x-late', 'yes')
      })
      const handler = (): void => { entered++ }
      if (timeout === 'handlerTimeout') take(app, handler, true, { handlerTimeout: 50 })
      else take(app, handler, { handshakeTimeout: 50 })
    })
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'TAIL') + lastOf(kind))
    const { status, headers } = await wire.response()
    t.equal(status, 503)
    if (kind !== 'body' && transport !== 'h2') t.equal(headers.connection, 'close')
    hook.open()
    for (let n = 0; n < 10; n++) await turn()
    wire.end()
    t.equal(await wire.remains(), '')
    t.equal(ran, 1)
    t.equal(entered, 0)
    await quiet()
    t.equal(app.duplex.connections.size, 0)
  })
}

onEachKind(t, 'A16 a client that vanishes while onSend hooks run leaves nothing, and no handler is entered', async (t, kind, transport) => {
  let ran = 0
  let entered = 0
  const hook = gate()
  const inHook = gate()
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.addHook('onSend', async () => {
      ran++
      inHook.open()
      await hook.promise
    })
    take(app, () => { entered++ })
  })
  const wire = await connect()
  wire.send(ask(kind))
  await inHook.promise
  wire.reset()
  await quiet()
  hook.open()
  for (let n = 0; n < 10; n++) await turn()
  t.equal(ran, 1)
  t.equal(entered, 0)
}, everyKind, ['tcp', 'tls', 'injected', 'h2'])
