import t, { type Test } from 'tap'
import { once } from 'node:events'
import type { Http2ServerResponse } from 'node:http2'
import { Duplex, PassThrough, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as after } from 'node:timers/promises'
import { createGunzip, gzipSync } from 'node:zlib'
import type { FastifyInstance, FastifyReply, FastifyServerOptions } from 'fastify'
import { tunnel, type DuplexConnection, type PendingDuplex } from '../lib/index.ts'
import { unlessFastifyHas } from './fixtures/fastify-faults.ts'
import { statusIn, type Frames } from './fixtures/http2-frames.ts'
import { CONNECT, EXTENDED, POST, request, requests, serveHttp2, whole, type Http2TestServer } from './fixtures/http2-server.ts'
import { takeManually } from './fixtures/kinds.ts'
import { gate } from './fixtures/server.ts'
import { pattern, sha256 } from './fixtures/takeover.ts'

const LIMIT = 50

/** All that comes on a stream until END_STREAM; a reset throws. */
async function body (wire: Frames, stream: number): Promise<string> {
  let text = ''
  for (;;) {
    const frame = await wire.next('DATA', stream)
    text += frame.payload.toString()
    if (frame.end) return text
  }
}

// An answer that has begun, and the time for the handshake.

type Timer = 'handshakeTimeout' | 'handlerTimeout'

/** Routes for every kind, whose time for the handshake is over after `LIMIT`. */
function limited (timer: Timer): { fastify?: FastifyServerOptions, plugin?: { handshakeTimeout: number } } {
  return timer === 'handshakeTimeout' ? { plugin: { handshakeTimeout: LIMIT } } : { fastify: { handlerTimeout: LIMIT } }
}

/** Manual routes for every kind; where the hook answers, the handler is not for entering. */
function answering (app: FastifyInstance, { onRequest, handler }: Answering, t: Test): void {
  takeManually(app, handler ?? (() => t.fail('entered')), onRequest === undefined ? {} : { onRequest: onRequest as never })
}

/** An answer in two parts, with more time between them than there is for the handshake. */
async function * slowly (): AsyncGenerator<string> {
  yield 'one '
  await after(3 * LIMIT)
  yield 'two'
}

async function hijacked (reply: { hijack: () => unknown, raw: unknown }): Promise<void> {
  const raw = reply.raw as Http2ServerResponse
  reply.hijack()
  raw.writeHead(403, { 'content-type': 'text/event-stream' })
  for await (const part of slowly()) raw.write(part)
  raw.end()
}

interface Answering {
  onRequest?: (request: unknown, reply: FastifyReply) => unknown
  handler?: (pending: PendingDuplex) => unknown
}

const answers: Record<string, Answering> = {
  'written to the raw response in a hook': {
    onRequest: (_request, reply) => hijacked(reply)
  },
  'written to the raw response in a manual handler': { handler: ({ reply }) => hijacked(reply) },
  'streamed by a hook': {
    onRequest: (_request, reply) => reply.code(403).send(Readable.from(slowly()))
  },
  'streamed by a manual handler': { handler: ({ reply }) => reply.code(403).send(Readable.from(slowly())) }
}

for (const timer of ['handshakeTimeout', 'handlerTimeout'] as const) {
  for (const [what, answer] of Object.entries(answers)) {
    // Fastify's own timer cuts a stream that is under way, on plain routes as well.
    if (timer === 'handlerTimeout' && what.startsWith('streamed')) continue
    t.test(`Q1 an answer ${what} is whole, though ${timer} is over before its end [h2]`, async t => {
      const { session } = await serveHttp2(t, limited(timer), app => {
        answering(app, answer, t)
      })
      const client = await session()
      for (const headers of Object.values(requests)) {
        const { stream, status } = await request(client, headers)
        t.equal(status, 403)
        t.equal((await whole(stream)).toString(), 'one two')
      }
    })
  }
}

const LONG = 'x'.repeat(100 * 1024)

const refusals: Record<string, Answering> = {
  'a text of a hook': { onRequest: (_request, reply) => reply.code(403).send(LONG) },
  'a buffer of a hook': { onRequest: (_request, reply) => reply.code(403).send(Buffer.from(LONG)) },
  'a stream of a hook': { onRequest: (_request, reply) => reply.code(403).send(Readable.from([LONG])) },
  'an error of a hook': { onRequest: async () => { throw Object.assign(new Error(LONG), { statusCode: 403 }) } },
  'a text of a slow hook': {
    onRequest: async (_request, reply) => {
      await new Promise(resolve => setImmediate(resolve))
      return reply.code(403).send(LONG)
    }
  },
  'a text of a manual handler': { handler: ({ reply }) => reply.code(403).send(LONG) },
  'a stream of a manual handler': { handler: ({ reply }) => reply.code(403).send(Readable.from([LONG])) },
  'an error of a manual handler': { handler: async () => { throw Object.assign(new Error(LONG), { statusCode: 403 }) } }
}

for (const timer of ['handshakeTimeout', 'handlerTimeout'] as const) {
  for (const [what, answer] of Object.entries(refusals)) {
    const title = `Q60 ${what}, to a client without a window, is not struck by ${timer} [h2]`
    const declare = (): unknown => t.test(title, async t => {
      const { frames } = await serveHttp2(t, limited(timer), app => {
        answering(app, answer, t)
        app.get('/later', { duplex: { accept: 'manual' } }, () => new Promise(() => {}))
      })
      const wire = await frames()
      wire.window(0)
      let stream = 1
      for (const headers of Object.values(requests)) {
        wire.headers(stream, headers, headers === POST)
        await wire.next('HEADERS', stream)
        stream += 2
      }
      // The time of this one begins later, and so all the others' are over when it is.
      wire.headers(stream, { ...EXTENDED, ':path': '/later' })
      await wire.next('HEADERS', stream)
      // Fastify's own timer cuts an answer that is under way, on plain routes as well: here it hurts nobody else.
      if (timer === 'handlerTimeout') {
        wire.headers(stream + 2, { ...EXTENDED, ':path': '/later' })
        await wire.next('HEADERS', stream + 2)
        return
      }
      for (let one = 1; one < stream; one += 2) {
        wire.take(0, 2 * LONG.length).take(one, 2 * LONG.length)
        t.ok((await body(wire, one)).includes(LONG), 'all of it')
      }
    })
    if (timer === 'handlerTimeout') unlessFastifyHas(t, 'lateError', title, declare)
    else declare()
  }
}

// Refusals that nobody reads.

/** A server whose routes wait for nobody longer than `LIMIT`, and a client that takes nothing. */
async function unread (t: Test, declare: (app: FastifyInstance) => unknown, plugin = {}): Promise<Http2TestServer & { wire: Frames }> {
  const server = await serveHttp2(t, { plugin: { finTimeout: LIMIT, ...plugin } }, declare)
  const wire = await server.frames()
  wire.window(0)
  return { ...server, wire }
}

for (const [what, answer] of Object.entries(refusals)) {
  for (const [kind, headers] of Object.entries(requests)) {
    t.test(`Q67 ${what}, which its client does not take, is cut [${kind}] [h2]`, async t => {
      const { wire } = await unread(t, app => {
        answering(app, answer, t)
      })
      wire.headers(1, headers)
      await wire.next('RST_STREAM', 1)
      t.match(wire.story(1), [/^HEADERS$/, /^RST_STREAM/])
    })
  }
}

for (const [what, headers] of Object.entries({
  'a CONNECT to nowhere': { ':method': 'CONNECT', ':authority': 'nowhere.example:1' },
  'a bad authority': { ':method': 'CONNECT', ':authority': 'a:0' },
  'a CONNECT with a length': { ...CONNECT, 'content-length': '5' },
  'a protocol that is not spoken': { ...EXTENDED, ':protocol': 'bar' },
  'a list of protocols': { ...EXTENDED, ':protocol': 'foo, bar' },
  'an extended CONNECT to nowhere': { ...EXTENDED, ':path': '/nowhere' }
})) {
  t.test(`Q67 the refusal of ${what}, which its client does not take, is cut [h2]`, async t => {
    const { wire } = await unread(t, app => {
      app.get('/it', { duplex: { protocols: ['foo'] } }, () => t.fail('entered'))
      app.route({ method: 'CONNECT', url: '/it.example/:port', duplex: true, handler: () => t.fail('entered') })
    })
    wire.headers(1, headers)
    await wire.next('RST_STREAM', 1)
    t.match(wire.story(1), [/^HEADERS$/, /^RST_STREAM/])
  })
}

t.test('Q67 the 503 of a full route, which its client does not take, is cut [h2]', async t => {
  const { wire } = await unread(t, app => app.get('/it', { duplex: { maxConnections: 0 } }, () => t.fail('entered')))
  wire.headers(1, EXTENDED)
  await wire.next('RST_STREAM', 1)
  t.match(wire.story(1), [/^HEADERS$/, /^RST_STREAM/])
})

t.test('Q67 a refusal that its client takes slowly is not cut [h2]', async t => {
  const { wire } = await unread(t, app => {
    takeManually(app, () => t.fail('entered'), { onRequest: (_request, reply) => { reply.code(403).send(LONG) } })
  })
  wire.headers(1, EXTENDED)
  await wire.next('HEADERS', 1)
  let got = 0
  while (got < LONG.length) {
    await after(LIMIT / 5)
    wire.take(0, 5000).take(1, 5000)
    got += (await wire.next('DATA', 1)).payload.length
  }
  t.equal(got, LONG.length)
})

for (const [what, headers] of [['a refusal', EXTENDED], ['a stream that has ended', POST]] as const) {
  t.test(`Q67 ${what}, which its client does not take, is cut though the client asks for other things all the time [h2]`, async t => {
    const { wire } = await unread(t, app => {
      app.get('/it', { duplex: true, onRequest: (_request, reply) => { reply.code(403).send('no') } }, () => t.fail('entered'))
      app.post('/it', { duplex: true }, async ({ writable }) => { writable.write('taken') })
    })
    wire.headers(1, headers)
    await wire.next('HEADERS', 1)
    while (wire.story(1).length < 2) {
      for (let ping = 0; ping < 100; ping++) wire.frame('PING', 0, 0, Buffer.alloc(8))
      await new Promise(resolve => setImmediate(resolve))
    }
    t.match(wire.story(1), [/^HEADERS$/, /^RST_STREAM/])
  })
}

t.test('Q67 an answer that is made as its client takes it is not cut, whatever its length [h2]', async t => {
  const { wire } = await unread(t, app => {
    takeManually(app, ({ reply }) => reply.code(403).send(Readable.from(Array.from({ length: 40 }, () => Buffer.alloc(16 * 1024)))))
  })
  wire.headers(1, EXTENDED)
  await wire.next('HEADERS', 1)
  for (let left = 40 * 16 * 1024; left > 0;) {
    await after(LIMIT / 8)
    wire.take(0, 16 * 1024).take(1, 16 * 1024)
    for (let portion = 16 * 1024; portion > 0;) {
      const { length } = (await wire.next('DATA', 1)).payload
      portion -= length
      left -= length
    }
  }
  t.notOk(wire.story(1).some(word => word.startsWith('RST_STREAM')))
})

t.test('Q67 an answer that its app has not made yet is not its client\'s silence [h2]', async t => {
  const { wire } = await unread(t, app => takeManually(app, ({ reply }) => reply.code(403).send(Readable.from(slowly()))))
  wire.window(65535)
  wire.headers(1, EXTENDED)
  t.equal(await body(wire, 1), 'one two')
})

t.test('Q67 an answer of a plain route is taken when its client likes [h2]', async t => {
  const { wire } = await unread(t, app => {
    app.get('/plain', () => 'plain')
    app.get('/it', { duplex: true, onRequest: (_request, reply) => { reply.code(403).send('no') } }, () => t.fail('entered'))
  })
  wire.headers(1, { ...POST, ':method': 'GET', ':path': '/plain' }, true)
  await wire.next('HEADERS', 1)
  // Begun later and just as silent, this one is cut.
  wire.headers(3, EXTENDED)
  await wire.next('RST_STREAM', 3)
  wire.take(1, 100)
  t.equal(await body(wire, 1), 'plain')
})

for (const [kind, headers] of Object.entries(requests)) {
  t.test(`Q61 refusals that nobody reads hold no slot [${kind}] [h2]`, async t => {
    const { wire, app } = await unread(t, app => takeManually(app, ({ reply }) => reply.code(403).send('x'.repeat(6 * 1024 * 1024))),
      { maxConnections: 5, finTimeout: 0 })
    for (let stream = 1; stream < 13; stream += 2) {
      wire.headers(stream, headers, headers === POST)
      t.equal(statusIn(await wire.next('HEADERS', stream)), 403)
    }
    t.equal(app.duplex.connections.size, 0)
  })
}

// What is counted and read.

t.test('Q35 bytesWritten counts what is written as any view of memory [h2]', async t => {
  const views = [new Uint8Array([65, 66]), new Uint16Array([0x4443, 0x4645]), new DataView(Uint8Array.of(0, 71, 72, 0).buffer, 1, 2)]
  const over = gate<{ written: number, taken: number }>()
  const { session } = await serveHttp2(t, {}, app => app.get('/it', { duplex: true }, async ({ writable, closed }) => {
    let taken = 0
    for (const view of views) {
      // Node 20 takes bytes alone.
      try {
        writable.write(view as never)
        taken += view.byteLength
      } catch (error) {
        t.equal((error as { code?: string }).code, 'ERR_INVALID_ARG_TYPE')
      }
    }
    writable.end()
    void closed.then(({ bytesWritten }) => over.open({ written: bytesWritten, taken }))
  }))
  const { stream } = await request(await session(), EXTENDED)
  stream.end()
  const got = await whole(stream)
  const { written, taken } = await over.promise
  t.equal(got.toString(), 'ABCDEFGH'.slice(0, taken))
  t.equal(written, taken)
  t.ok(taken >= 2)
})

t.test('Q62 an upstream made of functions, behind a body that has come, costs nobody but its own stream [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => {
    app.post('/it', { duplex: true }, async connection => {
      const upstream = Duplex.from(async function * (source: AsyncIterable<Buffer>) {
        for await (const chunk of source) yield String(chunk).toUpperCase()
      })
      await tunnel(connection, upstream)
    })
  })
  const client = await session()
  for (const word of ['one', 'two']) {
    const stream = client.request(POST)
    stream.end(word)
    t.equal((await whole(stream)).toString(), word.toUpperCase())
  }
})

for (const code of [0, 2, 8, 10]) {
  t.test(`Q62 RST_STREAM(${code}) for a refusal that is under way hurts nobody [h2]`, async t => {
    const { wire, session } = await unread(t, app => {
      app.get('/it', { duplex: true, onRequest: (_request, reply) => { reply.code(403).send(LONG) } }, () => t.fail('entered'))
      app.get('/plain', () => 'plain')
    })
    let stream = 1
    for (const headers of [EXTENDED, { ...EXTENDED, ':path': '/nowhere' }, { ':method': 'CONNECT', ':authority': 'nowhere:1' }]) {
      wire.headers(stream, headers)
      await wire.next('HEADERS', stream)
      wire.rst(stream, code)
      stream += 2
    }
    await wire.received()
    const client = await session()
    t.equal((await request(client, { ':path': '/plain' }, true)).status, 200)
  })
}

t.test('Q64 a reader that lets go of a body early leaves the answer whole [h2]', async t => {
  const ways: Record<string, (connection: DuplexConnection) => Promise<unknown>> = {
    async loop ({ readable, writable }) {
      for await (const chunk of readable) {
        writable.end(chunk)
        if (String(chunk) === 'first') break
      }
    },
    async iterator ({ readable, writable }) {
      const iterator = readable.iterator({ destroyOnReturn: true })
      writable.end((await iterator.next()).value)
      await iterator.return?.()
    },
    async decompressed ({ readable, writable }) {
      for await (const chunk of readable) {
        writable.end(chunk)
        if (String(chunk) === 'first') break
      }
    }
  }
  const reasons: Record<string, unknown> = {}
  const over = gate()
  const { session } = await serveHttp2(t, {}, app => {
    for (const [name, handler] of Object.entries(ways)) {
      app.post(`/${name}`, {
        duplex: true,
        ...(name === 'decompressed' ? { preParsing: async (_request: unknown, _reply: unknown, payload: Readable) => payload.pipe(createGunzip()) } : {})
      }, async connection => {
        void connection.closed.then(({ reason }) => {
          reasons[name] = reason
          if (Object.keys(reasons).length === 3) over.open()
        })
        await handler(connection)
      })
    }
  })
  const client = await session()
  for (const name of Object.keys(ways)) {
    const { stream } = await request(client, { ...POST, ':path': `/${name}` })
    stream.write(name === 'decompressed' ? gzipSync('first') : 'first')
    t.equal((await whole(stream)).toString(), 'first', name)
    stream.end()
  }
  await over.promise
  t.same(reasons, { loop: 'end', iterator: 'end', decompressed: 'end' })
})

t.test('Q64 a pipeline that fails ends its stream and no other, and close() has nothing to wait for [h2]', async t => {
  const results: string[] = []
  const { session, app, over } = await serveHttp2(t, { close: false, plugin: { drainTimeout: 60_000 } }, app => {
    app.post('/it', { duplex: true }, async ({ readable, closed }) => {
      void closed.then(({ reason }) => results.push(reason))
      const sink = new PassThrough()
      const failed = pipeline(readable, sink)
      sink.once('data', () => sink.destroy(new Error('the sink failed')))
      await failed
    })
  })
  const client = await session()
  const { stream } = await request(client, POST)
  stream.write('some')
  await t.rejects(whole(stream))
  await over()
  t.same(results, ['error'])
  await app.close()
})

// New with the second edition.

t.test('L5 readTimeout: a peer that sends nothing is gone, whatever it takes [h2]', async t => {
  for (const [kind, headers] of Object.entries(requests)) {
    const reason = gate<string>()
    const { session } = await serveHttp2(t, { plugin: { readTimeout: LIMIT } as never }, app => {
      const handler = async ({ writable, closed, signal }: DuplexConnection): Promise<void> => {
        void closed.then(closed => reason.open(closed.reason))
        while (!signal.aborted) {
          writable.write('tick')
          await after(LIMIT / 10)
        }
      }
      app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler })
      app.route({ method: 'CONNECT', url: '*', duplex: true, handler })
    })
    const { stream } = await request(await session(), headers)
    stream.resume()
    t.equal(await reason.promise, 'idle', kind)
  }
})

t.test('L5 maxBuffered: a peer that takes less than is written for it is gone [h2]', async t => {
  for (const [kind, headers] of Object.entries(requests)) {
    const reason = gate<string>()
    const { wire } = await unread(t, app => {
      const handler = async ({ writable, closed, signal }: DuplexConnection): Promise<void> => {
        void closed.then(closed => reason.open(closed.reason))
        writable.write(Buffer.alloc(64 * 1024))
        writable.write(Buffer.alloc(64 * 1024))
        if (!signal.aborted) await once(signal, 'abort')
      }
      app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler })
      app.route({ method: 'CONNECT', url: '*', duplex: true, handler })
    }, { maxBuffered: 100 * 1024, finTimeout: 0 })
    wire.headers(1, headers)
    await wire.next('RST_STREAM', 1)
    t.equal(await reason.promise, 'slow', kind)
  }
})

t.test('T4 a pending body is read before it is accepted, and counted [h2]', async t => {
  const text = pattern(300_000)
  const read = gate<DuplexConnection>()
  const { session } = await serveHttp2(t, {}, app => {
    app.post('/it', { duplex: { accept: 'manual' } }, async pending => {
      const { readable } = pending as unknown as { readable: Readable }
      while (readable.readableLength === 0) await once(readable, 'readable')
      const first = readable.read() as Buffer
      if (first[0] === 0x21) return pending.reply.code(400).send('a bad first line')
      const connection = await pending.accept()
      read.open(connection)
      connection.writable.write(first)
      await pipeline(connection.readable, connection.writable)
    })
  })
  const client = await session()
  const refused = client.request(POST)
  refused.write('!')
  const [head] = await once(refused, 'response') as [{ ':status'?: number }]
  t.equal(head[':status'], 400)
  t.equal((await whole(refused)).toString(), 'a bad first line')
  const good = client.request(POST)
  good.end(text)
  t.equal(sha256(await whole(good)), sha256(text))
  t.match(await (await read.promise).closed, { reason: 'end', bytesRead: text.length, bytesWritten: text.length })
})
