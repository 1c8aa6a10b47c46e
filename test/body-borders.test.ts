import t from 'tap'
import type { ServerResponse } from 'node:http'
import { PassThrough, Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { createGunzip, gzipSync } from 'node:zlib'
import { tunnel, type DuplexClosed, type DuplexConnection, type PendingDuplex } from '../lib/index.ts'
import { guarded, serveGuarded, soon, until } from './fixtures/baseline.ts'
import { chunk, chunkedBody, LAST_CHUNK } from './fixtures/chunked.ts'
import { ask, everyKind, onEachKind, piece } from './fixtures/kinds.ts'
import { codeOf, exchange, request } from './fixtures/requests.ts'
import { gate, onEach, serve, transports, ways, type Way } from './fixtures/server.ts'
import { all, MiB, pattern, written } from './fixtures/takeover.ts'
import type { Head, Wire } from './fixtures/wire.ts'

/** A pending body, whose input is there before the answer. */
type PendingBody = PendingDuplex & { readonly readable: Readable }

const POST = request('POST /it', 'Transfer-Encoding: chunked')

onEachKind(t, 'Q17 connectionTimeout does not end an accepted connection', guarded(async (t, kind, transport: Way) => {
  const result: DuplexClosed[] = []
  const server = await serveGuarded(t, { transport, fastify: { connectionTimeout: 200 } }, app => {
    for (const [method, url] of [['GET', '/it'], ['POST', '/it'], ['CONNECT', '*']] as const) {
      app.route({
        method,
        url,
        duplex: true,
        async handler (connection: DuplexConnection) {
          void connection.closed.then(closed => result.push(closed))
          for await (const bytes of connection.readable) connection.writable.write(bytes)
        }
      } as never)
    }
    app.get('/slow', () => new Promise(() => {}))
  })
  const wire = await server.connect()
  await wire.send(ask(kind)).head()
  // The same time cuts a plain request that came later, twice.
  for (let times = 0; times < 2; times++) {
    const later = await server.connect()
    await later.send(request('GET /slow')).remains()
    later.destroy()
  }
  t.same(result, [])
  wire.send(piece(kind, 'late'))
  t.match(await wire.until('late'), 'late')
  wire.end(kind === 'body' ? LAST_CHUNK : '')
  await until(() => result.length === 1)
  t.equal(result[0]?.reason, 'end')
  wire.destroy()
  await server.baseline()
}), everyKind, ['tcp', 'tls', 'unix'])

onEach(t, 'Q17 connectionTimeout is back for the request behind a body', guarded(async (t, transport: Way) => {
  const server = await serveGuarded(t, { transport, fastify: { connectionTimeout: 200 } }, app => {
    app.post('/it', { duplex: true }, ({ readable }) => all(readable))
    app.get('/slow', () => new Promise(() => {}))
  })
  const wire = await server.connect()
  await wire.send(POST + LAST_CHUNK).head()
  await chunkedBody(wire)
  wire.send(request('GET /slow'))
  t.not(await soon(wire.remains()), 'never')
  wire.destroy()
  await server.baseline()
}), ['tcp', 'tls'])

onEach(t, 'Q17 connectionTimeout leaves a body alone while it waits behind a response and while its handler is silent', guarded(async (t, transport: Way) => {
  const held = gate()
  const server = await serveGuarded(t, { transport, fastify: { connectionTimeout: 200 } }, app => {
    app.post('/it', { duplex: true }, async ({ readable, writable }) => {
      await all(readable)
      await held.promise
      writable.write('at last')
    })
    app.get('/slow', () => new Promise(() => {}))
  })
  const wire = await server.connect()
  await wire.send(POST + LAST_CHUNK).head()
  for (let times = 0; times < 2; times++) {
    const later = await server.connect()
    await later.send(request('GET /slow')).remains()
    later.destroy()
  }
  held.open()
  t.equal((await chunkedBody(wire)).toString(), 'at last')
  await server.baseline()
}), ['tcp', 'tls'])

/** Ways in which a utility of Node lets go of a request that has not been read to its end. */
const letGo: Record<string, (readable: Readable) => Promise<unknown>> = {
  'an iterator() that returns': async readable => {
    const iterator = readable.iterator()
    await iterator.next()
    await iterator.return?.()
  },
  'a for await over iterator() that breaks': async readable => {
    for await (const bytes of readable.iterator()) if (bytes !== undefined) return
  },
  'a pipeline() that ends early': readable => pipeline(readable, async source => {
    for await (const bytes of source) if (bytes !== undefined) return
  }),
  'a pipeline() whose transform fails': readable => pipeline(readable, new Transform({
    transform (_chunk, _encoding, done) { done(new Error('bad line')) }
  }), new PassThrough()).catch(() => {}),
  'a pipeline() that is aborted': async readable => {
    const abort = new AbortController()
    const over = pipeline(readable, new PassThrough(), { signal: abort.signal }).catch(() => {})
    abort.abort()
    await over
  },
  'take(1)': readable => readable.take(1).toArray()
}
for (const [what, let1] of Object.entries(letGo)) {
  for (const left of ['the rest is owed', 'the rest comes later', 'all has come'] as const) {
    onEach(t, `Q64 a body that is let go of by ${what}, where ${left}: the answer is whole, and closed says so`, guarded(async (t, transport: Way) => {
      const result = gate<DuplexClosed>()
      const bytes = pattern(MiB)
      const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1, finTimeout: 300 } }, app => {
        app.post('/it', { duplex: true }, async connection => {
          void connection.closed.then(result.open)
          await let1(connection.readable)
          await written(connection.writable as NodeJS.WritableStream, bytes)
        })
      })
      const wire = await server.connect()
      wire.send(POST).send(chunk('line 1\n')).send(chunk('line 2\n'))
      if (left === 'all has come') wire.send(LAST_CHUNK)
      t.equal((await wire.head()).status, 200)
      t.same(await chunkedBody(wire), bytes)
      if (left === 'the rest comes later') wire.send(LAST_CHUNK)
      // What is owed of the body is not waited for longer than finTimeout.
      t.match(await soon(result.promise), { reason: left === 'the rest is owed' ? 'fin' : 'end' })
      if (left === 'the rest is owed') await until(() => server.peers[0]?.destroyed === true, 'the end of the connection')
      await server.baseline()
    }), what.startsWith('a pipeline() whose') ? transports : ['tcp'])
  }

  onEach(t, `Q64 close() resolves with a body that was let go of by ${what}`, guarded(async (t, transport: Way) => {
    const done = gate()
    const server = await serveGuarded(t, { transport, plugin: { drainTimeout: 200 } }, app => {
      app.post('/it', { duplex: true }, async ({ readable }) => {
        await let1(readable)
        done.open()
        await new Promise(() => {})
      })
    })
    const wire = await server.connect()
    wire.send(POST).send(chunk('line 1\n'))
    await done.promise
    const closed = server.app.close()
    t.notMatch(await wire.remains(), LAST_CHUNK)
    wire.destroy()
    t.not(await soon(closed), 'never')
    t.equal(await server.sockets(), 0)
  }), ['tcp'])
}

onEach(t, 'Q64 a client that goes behind a body that was let go of is still found', guarded(async (t, transport: Way) => {
  const result = gate<DuplexClosed>()
  const done = gate()
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
    app.post('/it', { duplex: true }, async ({ readable, closed }) => {
      void closed.then(result.open)
      await pipeline(readable, async source => { for await (const bytes of source) if (bytes !== undefined) return })
      done.open()
      await new Promise(() => {})
    })
  })
  const wire = await server.connect()
  wire.send(POST).send(chunk('line 1\n'))
  await done.promise
  wire.reset()
  t.match(await soon(result.promise), { reason: 'abort' })
  await server.baseline()
}), ['tcp', 'tls'])

/** The accept head; anything else is the end of the test. */
async function acceptedOn (wire: Wire): Promise<Head> {
  const head = await wire.head()
  if (head.status !== 200) throw new Error(`not accepted: ${head.raw}${wire.pending}`)
  return head
}

/** Reads up to the first line feed, and leaves the rest. */
async function firstLine (readable: Readable): Promise<string> {
  let line = ''
  for await (const bytes of readable) {
    const text = String(bytes)
    const at = text.indexOf('\n')
    if (at === -1) {
      line += text
      continue
    }
    line += text.slice(0, at)
    readable.unshift(Buffer.from(text.slice(at + 1)))
    break
  }
  return line
}

const framings: Record<string, { head: (length: number) => string, body: (text: string) => string | Buffer, last: string }> = {
  chunks: { head: () => POST, body: text => chunk(text), last: LAST_CHUNK },
  'a Content-Length': { head: length => request('POST /it', `Content-Length: ${length}`), body: text => text, last: '' }
}
for (const [framing, { head, body, last }] of Object.entries(framings)) {
  onEach(t, `S9 a pending body is read before it is accepted, and its rest after: ${framing}`, guarded(async (t, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      app.post('/it', { duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
        const pending = given as unknown as PendingBody
        const line = await firstLine(pending.readable)
        const connection = await pending.accept({ headers: { 'x-line': line } })
        t.equal(connection.readable, pending.readable, 'it is one stream')
        connection.writable.write(`rest: ${String(await all(connection.readable))}`)
      })
    })
    const wire = await server.connect()
    const [one, two] = ['hello\nand ', 'more']
    wire.send(head(one.length + two.length)).send(body(one))
    const accepted = await acceptedOn(wire)
    t.equal(accepted.headers['x-line'], 'hello')
    wire.send(body(two)).send(last)
    t.equal((await chunkedBody(wire)).toString(), 'rest: and more')
    t.equal((await exchange(wire, 'GET /pong')).body, 'pong', 'and the connection is kept')
    await server.baseline()
  }), ways)

  onEach(t, `S9 a pending body that does not please is an ordinary 400: ${framing}`, guarded(async (t, transport: Way) => {
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1, finTimeout: 300 } }, app => {
      app.post('/it', { duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
        const line = await firstLine((given as unknown as PendingBody).readable)
        throw Object.assign(new Error('not a line of mine'), { statusCode: 400, code: `GOT_${line}` })
      })
    })
    const wire = await server.connect()
    const text = 'hello\nand more'
    wire.send(head(text.length)).send(body(text)).send(last)
    const response = await wire.response()
    t.equal(response.status, 400)
    t.equal(codeOf(response.body), 'GOT_hello')
    t.equal((await exchange(wire, 'GET /pong')).body, 'pong', 'and the connection is kept')
    await server.baseline()
  }), ['tcp', 'tls'])

  onEach(t, `S9 a pending body that is read to its end before acceptance: ${framing}`, guarded(async (t, transport: Way) => {
    const bytes = pattern(MiB)
    const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
      app.post('/it', { duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
        const pending = given as unknown as PendingBody
        const whole = await all(pending.readable)
        const { readable, writable } = await pending.accept()
        t.equal((await all(readable)).length, 0, 'it has ended')
        writable.write(whole)
      })
    })
    const wire = await server.connect()
    wire.send(head(bytes.length)).send(framing === 'chunks' ? chunk(bytes) : bytes).send(last)
    await acceptedOn(wire)
    t.same(await chunkedBody(wire), bytes)
    await server.baseline()
  }), ['tcp', 'tls'])
}

onEach(t, 'S9 a pending body with Expect: 100-continue gets its 100 and can then be read', guarded(async (t, transport: Way) => {
  const server = await serveGuarded(t, { transport }, app => {
    app.post('/it', { duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
      const pending = given as unknown as PendingBody
      const line = await firstLine(pending.readable)
      pending.reply.code(422)
      return line
    })
  })
  const wire = await server.connect()
  wire.send(request('POST /it', 'Transfer-Encoding: chunked', 'Expect: 100-continue'))
  t.equal((await wire.head()).status, 100)
  wire.send(chunk('hello\n')).send(LAST_CHUNK)
  const response = await wire.response()
  t.same([response.status, response.body], [422, 'hello'])
  await server.baseline()
}), ['tcp'])

onEach(t, 'S9 a pending body is what the last preParsing hook made of it', guarded(async (t, transport: Way) => {
  const server = await serveGuarded(t, { transport }, app => {
    const preParsing = async (_request: unknown, _reply: unknown, payload: Readable): Promise<Readable> => payload.pipe(createGunzip())
    app.post('/it', { preParsing: preParsing as never, duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
      const pending = given as unknown as PendingBody
      const line = await firstLine(pending.readable)
      const { readable, writable } = await pending.accept()
      writable.write(`${line}|${String(await all(readable))}`)
    })
  })
  const wire = await server.connect()
  wire.send(POST).send(chunk(gzipSync('hello\nand more'))).send(LAST_CHUNK)
  await acceptedOn(wire)
  t.equal((await chunkedBody(wire)).toString(), 'hello|and more')
  await server.baseline()
}), ['tcp'])

onEach(t, 'S9 a client that goes while its pending body is read: the reader hears of it, and nothing is left', guarded(async (t, transport: Way) => {
  const heard = gate<unknown>()
  const reading = gate()
  const reason = gate<string>()
  const server = await serveGuarded(t, { transport, plugin: { maxConnections: 1 } }, app => {
    app.post('/it', { duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
      const pending = given as unknown as PendingBody
      void pending.closed.then(closed => reason.open(closed.reason))
      const over = all(pending.readable)
      reading.open()
      await over.catch(heard.open)
      await pending.accept()
    })
  })
  const wire = await server.connect()
  wire.send(POST).send(chunk('some'))
  await reading.promise
  await turn()
  wire.reset()
  t.match(await soon(heard.promise), { code: 'ECONNRESET' })
  t.equal(await soon(reason.promise), 'abort')
  await server.baseline()
}), ['tcp', 'tls', 'injected'])

onEach(t, 'S9 a pending body that nobody reads stays where it is', guarded(async (t, transport: Way) => {
  const entered = gate<PendingBody>()
  const held = gate()
  const server = await serveGuarded(t, { transport, plugin: { finTimeout: 300 } }, app => {
    app.post('/it', { duplex: { accept: 'manual', kinds: ['body'] } }, async given => {
      const pending = given as unknown as PendingBody
      entered.open(pending)
      await held.promise
      const { readable, writable } = await pending.accept()
      writable.write(String((await all(readable)).length))
    })
  })
  const wire = await server.connect()
  const bytes = pattern(16 * MiB)
  wire.send(request('POST /it', `Content-Length: ${bytes.length}`)).send(bytes)
  const { readable } = await entered.promise
  t.type(readable, Readable)
  const later = await server.connect()
  for (let times = 0; times < 20; times++) await exchange(later, 'GET /pong')
  t.ok(readable.readableLength < MiB, `${readable.readableLength} bytes wait`)
  held.open()
  await acceptedOn(wire)
  t.equal((await chunkedBody(wire)).toString(), String(bytes.length))
  await server.baseline()
}), ['tcp', 'tls'])

for (const kind of ['upgrade', 'connect', 'hijack'] as const) {
  t.test(`S9 nothing else than a body can be read before it is accepted [${kind}]`, guarded(async t => {
    const seen = gate<unknown[]>()
    const server = await serveGuarded(t, {}, app => {
      for (const [method, url] of [['GET', '/it'], ['CONNECT', '*']] as const) {
        app.route({
          method,
          url,
          duplex: { accept: 'manual' },
          async handler (pending: PendingDuplex) {
            seen.open([(pending as unknown as PendingBody).readable, (pending as unknown as { writable?: unknown }).writable])
            await pending.accept()
          }
        } as never)
      }
    })
    const wire = await server.connect()
    await wire.send(ask(kind)).head()
    t.same(await seen.promise, [undefined, undefined])
    wire.end()
    await wire.remains()
    await server.baseline()
  }))
}

onEach(t, 'Q6 a body that is broken off in the tick in which its turn comes takes its connection along', guarded(async (t, transport: Way) => {
  const entered = gate()
  const answer = gate()
  const result: DuplexClosed[] = []
  let broken: DuplexConnection | undefined
  const server = await serveGuarded(t, { transport }, app => {
    app.get('/first', async (_request, reply) => {
      await answer.promise
      // Before Node's own listener, which gives the connection to the next response.
      reply.raw.prependListener('finish', () => broken?.writable.destroy())
      return 'first'
    })
    app.post('/it', { duplex: true }, async connection => {
      broken = connection
      void connection.closed.then(closed => result.push(closed))
      connection.writable.write('more is to come')
      entered.open()
      await new Promise(() => {})
    })
  })
  const wire = await server.connect()
  wire.send(request('GET /first') + POST + LAST_CHUNK)
  await entered.promise
  answer.open()
  t.equal((await wire.response()).body, 'first')
  t.notMatch(await wire.remains(), /\r\n0\r\n\r\n/, 'nothing looks whole behind it')
  await until(() => result.length === 1)
  t.equal(result[0]?.reason, 'destroyed')
  await server.baseline()
}), ways)

const breaks: Record<string, (connection: DuplexConnection) => unknown> = {
  'readable.destroy()': ({ readable }) => { readable.destroy() },
  'readable.destroy(error)': ({ readable }) => { readable.destroy(new Error('no')) },
  'writable.destroy()': ({ writable }) => { writable.destroy() },
  'destroy()': connection => { connection.destroy() },
  'the end of its tunnel': async connection => {
    const upstream = new PassThrough()
    const joined = tunnel(connection, upstream)
    upstream.destroy(new Error('no'))
    await joined
  },
  'destroy(), which its tunnel hears of': async connection => {
    const joined = tunnel(connection, new PassThrough())
    connection.destroy()
    await joined
  }
}
for (const [how, breakOff] of Object.entries(breaks)) {
  onEach(t, `Q6 a body that is broken off by ${how}, behind an answer that is being sent, does not cut that answer`, async (t, transport) => {
    const begun = gate<ServerResponse>()
    const over: Promise<unknown>[] = []
    const { connect } = await serve(t, { transport }, app => {
      app.get('/slow', (_request, reply) => {
        reply.hijack()
        reply.raw.writeHead(200, { 'content-length': 11 })
        reply.raw.write('first ')
        begun.open(reply.raw)
      })
      app.post('/it', { duplex: true }, connection => {
        over.push(connection.closed)
        return breakOff(connection)
      })
    })
    const wire = await connect()
    wire.send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\nPOST /it HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf')
    const slow = await begun.promise
    await wire.until('first ')
    // What is broken off has done all that it does at once when a request of another connection has its answer.
    const other = await connect()
    other.send('GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n')
    t.equal((await other.response()).status, 404)
    other.end()
    slow.end('whole')
    t.match(await wire.remains(), /^whole(?!.*HTTP\/1\.1)/s)
    await Promise.all(over)
  }, transports)
}
