import t, { type Test } from 'tap'
import http2 from 'node:http2'
import https from 'node:https'
import { once } from 'node:events'
import { PassThrough, Transform, type Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import duplex, { type DuplexConnection, type DuplexRouteSettings, type PendingDuplex } from '../lib/index.ts'
import { uint32 } from './fixtures/http2-frames.ts'
import { bytes, CONNECT, EXTENDED, POST, request, requests, serveHttp2, whole, type Http2Settings, type Http2TestServer } from './fixtures/http2-server.ts'
import { patience } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { all, logLines, MiB, pattern, sha256, written } from './fixtures/takeover.ts'
import { connectTls } from './fixtures/wire.ts'

const { NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_PROTOCOL_ERROR } = http2.constants

type Handler = (this: FastifyInstance, connection: DuplexConnection) => unknown
type Extras = Record<string, unknown>

/** The routes that take `requests`. */
function take (app: FastifyInstance, handler: Handler, settings: true | DuplexRouteSettings = true, extras: Extras = {}): void {
  for (const [method, url] of [['GET', '/it'], ['POST', '/it'], ['CONNECT', '*']] as const) {
    app.route({ ...extras, method, url, duplex: settings, handler } as never)
  }
}

const echo: Handler = ({ readable, writable }) => pipeline(readable, writable)

interface Taken extends Http2TestServer {
  client: http2.ClientHttp2Session
  stream: http2.ClientHttp2Stream
  connection: DuplexConnection
}

/** A stream that was taken over. */
async function taken (
  t: Test, settings: Http2Settings & { headers?: http2.OutgoingHttpHeaders, extras?: Extras }, handler: Handler
): Promise<Taken> {
  const entered = gate<DuplexConnection>()
  const server = await serveHttp2(t, settings, app => take(app, function (connection) {
    entered.open(connection)
    return handler.call(this, connection)
  }, true, settings.extras))
  const client = await server.session()
  const { stream } = await request(client, settings.headers ?? EXTENDED)
  return { ...server, client, stream, connection: await entered.promise }
}

for (const tls of [false, true]) {
  const name = tls ? 'TLS' : 'cleartext'

  t.test(`T1 an extended CONNECT is what an Upgrade is over HTTP/1, ${name} [h2]`, async t => {
    const { stream, connection } = await taken(t, { tls }, echo)
    t.match(connection, { kind: 'upgrade', protocol: 'foo', authority: undefined, httpVersion: '2.0', head: Buffer.alloc(0) })
    t.match(connection.reply.request, { method: 'GET', url: '/it' })
    t.equal(connection.readable as unknown, connection.writable)
    t.equal(connection.readable as unknown, (connection.reply.raw as unknown as http2.Http2ServerResponse).stream)
    stream.write('one')
    t.equal(await bytes(stream, 3), 'one')
    stream.end('two')
    t.equal((await whole(stream)).toString(), 'two')
    t.match(await connection.closed, { reason: 'end', bytesRead: 6, bytesWritten: 6, error: undefined })
  })

  t.test(`T3 a CONNECT has an authority, and is routed by it, ${name} [h2]`, async t => {
    const { stream, connection } = await taken(t, { tls, headers: { ':method': 'CONNECT', ':authority': 'It.Example:443' } }, echo)
    t.match(connection, { kind: 'connect', protocol: undefined, authority: { host: 'it.example', port: 443 } })
    t.equal(connection.reply.request.originalUrl, 'It.Example:443')
    stream.end('through')
    t.equal((await whole(stream)).toString(), 'through')
    t.equal((await connection.closed).reason, 'end')
  })

  t.test(`T4 a POST is a body, answered while it arrives, ${name} [h2]`, async t => {
    const { stream, connection } = await taken(t, { tls, headers: POST }, async ({ readable, writable }) => {
      for await (const chunk of readable) writable.write(String(chunk).toUpperCase())
      writable.write('.')
    })
    t.match(connection, { kind: 'body', protocol: undefined, authority: undefined })
    for (const word of ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten']) {
      stream.write(word)
      t.equal(await bytes(stream, word.length), word.toUpperCase())
    }
    stream.end()
    t.equal((await whole(stream)).toString(), '.')
    t.equal((await connection.closed).reason, 'end')
  })

  t.test(`T4 half-closed by the server first, the whole of a body arrives, ${name} [h2]`, async t => {
    const body = pattern(MiB)
    const got = gate<Buffer>()
    const { stream } = await taken(t, { tls, headers: POST }, async ({ readable, writable }) => {
      writable.end('done')
      got.open(await all(readable))
    })
    t.equal((await bytes(stream, 4)), 'done')
    stream.end(body)
    t.equal((await whole(stream)).length, 0)
    t.equal(sha256(await got.promise), sha256(body))
  })
}

t.test('T1 a handler that reads only after it has ended its side gets all of it [h2]', async t => {
  const goOn = gate()
  const got = gate<Buffer>()
  const { stream, connection } = await taken(t, {}, async ({ readable, writable }) => {
    writable.end('bye')
    await goOn.promise
    got.open(await all(readable))
  })
  t.equal((await whole(stream)).toString(), 'bye')
  stream.end('late')
  while (connection.bytesRead < 4) await new Promise(resolve => setImmediate(resolve))
  goOn.open()
  t.equal((await got.promise).toString(), 'late')
  t.equal((await connection.closed).reason, 'end')
})

t.test('T1 DATA and its end that come during an asynchronous hook wait for the handler [h2]', async t => {
  const goOn = gate()
  const inHook = gate()
  const preHandler = async (): Promise<void> => {
    inHook.open()
    await goOn.promise
  }
  const { app, frames } = await serveHttp2(t, {}, app => take(app, async ({ readable, writable }) => {
    await new Promise(resolve => setImmediate(resolve))
    writable.end(await all(readable))
  }, true, { preHandler }))
  const wire = await frames()
  wire.headers(1, EXTENDED).data(1, 'early ').data(1, 'words', true)
  await inHook.promise
  wire.frame('PING', 0, 0, Buffer.alloc(8))
  await wire.next('PING', 0)
  goOn.open()
  t.equal((await wire.next('DATA', 1)).payload.toString(), 'early words')
  t.equal(app.duplex.connections.size <= 1, true)
})

t.test('T1 an end with nothing before it, during an asynchronous hook, waits for a listener [h2]', async t => {
  const goOn = gate()
  const inHook = gate()
  const preHandler = async (): Promise<void> => {
    inHook.open()
    await goOn.promise
  }
  const { frames } = await serveHttp2(t, {}, app => take(app, async ({ readable, writable }) => {
    await new Promise(resolve => setImmediate(resolve))
    await once(readable.resume(), 'end')
    writable.end('heard it')
  }, true, { preHandler }))
  const wire = await frames()
  wire.headers(1, EXTENDED).data(1, '', true)
  await inHook.promise
  wire.frame('PING', 0, 0, Buffer.alloc(8))
  await wire.next('PING', 0)
  goOn.open()
  t.equal((await wire.next('DATA', 1)).payload.toString(), 'heard it')
})

for (const code of [0, NGHTTP2_CANCEL]) {
  t.test(`T9 RST_STREAM(${code}) is an error to those who listen, and no end [h2]`, async t => {
    const heard: string[] = []
    const over = gate()
    const listening = gate()
    const { frames } = await serveHttp2(t, {}, app => take(app, ({ readable }) => {
      readable.on('data', chunk => {
        heard.push(String(chunk))
        listening.open()
      })
      readable.on('end', () => { heard.push('end') })
      readable.on('error', (error: Error & { code?: string }) => { heard.push(String(error.code)) })
      readable.on('close', over.open)
      return over.promise
    }))
    const wire = await frames()
    wire.headers(1, EXTENDED).data(1, 'half')
    await listening.promise
    wire.rst(1, code)
    await over.promise
    t.same(heard, ['half', 'ECONNRESET'])
  })
}

t.test('T1 protocols are negotiated as over HTTP/1 [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => {
    app.get('/list', { duplex: { protocols: ['Echo', 'bar/2'] } }, connection => { connection.writable.end(connection.protocol) })
    app.get('/chooser', { duplex: { protocols: offered => offered[0] === 'yes' ? 'yes' as const : false } },
      connection => { connection.writable.end(connection.protocol) })
    app.get('/liar', { duplex: { protocols: () => 'something else' } }, () => {})
  })
  const client = await session()
  const ask = async (path: string, protocol: string): Promise<[number, string]> => {
    const { stream, status } = await request(client, { ...EXTENDED, ':path': path, ':protocol': protocol })
    stream.end()
    return [status, (await whole(stream)).toString()]
  }
  t.same(await ask('/list', 'echo'), [200, 'Echo'])
  t.same(await ask('/list', 'ECHO/7'), [200, 'Echo/7'])
  t.same(await ask('/list', 'bar/2'), [200, 'bar/2'])
  t.same(await ask('/chooser', 'yes'), [200, 'yes'])
  for (const [path, protocol] of [['/list', 'bar'], ['/list', 'websocket'], ['/chooser', 'no']] as const) {
    const [status, body] = await ask(path, protocol)
    t.equal(status, 400)
    t.match(JSON.parse(body), { code: 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL' })
  }
  const [status, body] = await ask('/liar', 'foo')
  t.equal(status, 500)
  t.match(JSON.parse(body), { code: 'FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED' })
})

t.test('T2 extended CONNECT is advertised with extendedConnect, and else not [h2]', async t => {
  for (const extendedConnect of [true, false]) {
    const { session } = await serveHttp2(t, { plugin: { extendedConnect } }, app => take(app, echo))
    const { remoteSettings } = await session()
    t.equal(remoteSettings.enableConnectProtocol ?? false, extendedConnect)
  }
})

t.test('T2 extendedConnect without HTTP/2 fails at boot [h2]', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(duplex, { extendedConnect: true }) }, { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
})

t.test('T2 where it is not advertised, an extended CONNECT is reset and the session lives [h2]', async t => {
  const { frames } = await serveHttp2(t, { plugin: { extendedConnect: false } }, app => take(app, () => t.fail('entered')))
  const wire = await frames()
  await wire.next('SETTINGS', 0)
  wire.headers(1, EXTENDED)
  await wire.next('RST_STREAM', 1)
  wire.headers(3, { ...POST, ':path': '/nowhere' }, true)
  await wire.next('HEADERS', 3)
  t.same(wire.story(1), [`RST_STREAM ${NGHTTP2_PROTOCOL_ERROR}`])
})

for (const [what, headers] of Object.entries({
  'no :path': { ':method': 'CONNECT', ':protocol': 'foo', ':scheme': 'http', ':authority': 'a' },
  'no :scheme': { ':method': 'CONNECT', ':protocol': 'foo', ':path': '/it', ':authority': 'a' },
  'a :path on a CONNECT': { ':method': 'CONNECT', ':scheme': 'http', ':path': '/it', ':authority': 'a:1' },
  'a :protocol on a GET': { ':method': 'GET', ':protocol': 'foo', ':scheme': 'http', ':path': '/it', ':authority': 'a' },
  'a Connection field': { ...POST, connection: 'keep-alive' },
  'an Upgrade field': { ...POST, upgrade: 'foo' }
})) {
  t.test(`T2 ${what}: reset, and the session lives [h2]`, async t => {
    const { frames } = await serveHttp2(t, {}, app => take(app, ({ kind }) => kind === 'body' ? undefined : t.fail('entered')))
    const wire = await frames()
    await wire.next('SETTINGS', 0)
    wire.headers(1, headers as Record<string, string>)
    await wire.next('RST_STREAM', 1)
    wire.headers(3, POST, true)
    await wire.next('HEADERS', 3)
    t.same(wire.story(1), [`RST_STREAM ${NGHTTP2_PROTOCOL_ERROR}`])
  })
}

t.test('T2 unknown, reserved and malformed protocols are refused, and the session lives [h2]', async t => {
  const { session, app } = await serveHttp2(t, {}, app => take(app, () => t.fail('entered')))
  const client = await session()
  for (const protocol of ['websocket', 'h2c', 'HTTP/2.0', 'TLS/1.2', 'a b', 'foo, bar', '"foo"']) {
    const { stream, status } = await request(client, { ...EXTENDED, ':protocol': protocol })
    t.equal(status, 400, protocol)
    t.match(JSON.parse((await whole(stream)).toString()), { code: /^FST_ERR_DUPLEX_(?:UNSUPPORTED_PROTOCOL|BAD_UPGRADE)$/ })
  }
  t.equal(client.destroyed, false)
  t.equal(app.duplex.connections.size, 0)
})

t.test('T2 an extended CONNECT is routed by its path and never to its authority [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => {
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: () => t.fail('a tunnel') })
    app.get('/it', { duplex: true }, ({ writable, authority }) => { writable.end(String(authority)) })
  })
  const client = await session()
  const { stream } = await request(client, { ...EXTENDED, ':authority': 'victim.example:22' })
  t.equal((await whole(stream)).toString(), 'undefined')
  t.equal((await request(client, { ...EXTENDED, ':path': '/victim.example/22' })).status, 404)
})

t.test('T3 no CONNECT gets a 2xx but by acceptance [h2]', async t => {
  const { session, app } = await serveHttp2(t, {}, app => {
    app.all('/plain', () => 'plain')
    app.setNotFoundHandler(() => 'a page')
    app.route({ method: 'CONNECT', url: '/hook/:port', duplex: true, onRequest: (_request, reply) => { reply.code(200).send('no') }, handler: echo })
    app.route({ method: 'CONNECT', url: '/raw/:port', duplex: { accept: 'manual' }, handler: ({ reply }: PendingDuplex) => { reply.raw.end('no') } })
    app.route({ method: 'CONNECT', url: '/value/:port', duplex: { accept: 'manual' }, handler: () => 'no' } as never)
    app.get('/hook', { duplex: true, onRequest: (_request, reply) => { reply.code(201).send('no') } }, echo)
  })
  const client = await session()
  const status = async (headers: http2.OutgoingHttpHeaders): Promise<number> => (await request(client, headers)).status
  for (const host of ['hook', 'raw', 'value']) t.equal(await status({ ':method': 'CONNECT', ':authority': `${host}:80` }), 500, host)
  t.equal(await status({ ':method': 'CONNECT', ':authority': 'plain:80' }), 404)
  t.equal(await status({ ...EXTENDED, ':path': '/hook' }), 500)
  for (const path of ['/plain', '/nowhere']) t.equal(await status({ ...EXTENDED, ':path': path }), 404, path)
  t.equal((await request(client, { ':path': '/plain' }, true)).status, 200)
  t.equal(app.duplex.connections.size, 0)
})

t.test('T3 targets that are none, and bodies that cannot be, are 400 [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => take(app, () => t.fail('entered')))
  const client = await session()
  for (const authority of ['a', 'a:0', 'a:65536', 'u@a:1', 'a%2e:1', ':1', '[::1:1', 'a:1?x']) {
    const answer = await request(client, { ':method': 'CONNECT', ':authority': authority }).catch(() => undefined)
    t.equal(answer?.status ?? 400, 400, authority)
  }
  for (const headers of [CONNECT, EXTENDED]) {
    const { stream, status } = await request(client, { ...headers, 'content-length': '5' })
    t.equal(status, 400)
    t.match(JSON.parse((await whole(stream)).toString()), { code: 'FST_ERR_DUPLEX_CONNECT_BODY' })
  }
})

t.test('Q23 CONNECT with content-length: 0 declares no body [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => take(app, ({ readable, writable }) => pipeline(readable, writable)))
  const client = await session()
  const { stream, status } = await request(client, { ...CONNECT, 'content-length': '0' })
  t.equal(status, 200)
  stream.end('through the tunnel')
  t.equal((await whole(stream)).toString(), 'through the tunnel')
})

t.test('T4 every plain request is a body, and a GET one that has ended [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => take(app, async ({ kind, readable, writable }) => {
    writable.write(`${kind}:`)
    writable.end(await all(readable))
  }))
  const client = await session()
  const get = { ...POST, ':method': 'GET' }
  const { stream, status, headers } = await request(client, get, true)
  t.equal((await whole(stream)).toString(), 'body:')
  t.match({ status, ...headers }, { status: 200, 'x-accel-buffering': 'no', incremental: '?1' })
  const open = await request(client, get)
  open.stream.end('a GET with a body')
  t.equal((await whole(open.stream)).toString(), 'body:a GET with a body')
})

t.test('R5 what a client sends before it is refused keeps neither its stream nor its session [h2]', async t => {
  for (const sends of ['before', 'during', 'after'] as const) {
    const waiting = gate()
    const refuse = gate()
    const onRequest = async (): Promise<never> => {
      waiting.open()
      if (sends === 'during') await refuse.promise
      throw Object.assign(new Error('no'), { statusCode: 401 })
    }
    const server = await serveHttp2(t, {}, app => take(app, () => {}, true, { onRequest }))
    for (const headers of Object.values(requests)) {
      const closed = once(server.app.server, 'stream').then(([stream]) => once(stream as http2.ServerHttp2Stream, 'close'))
      const session = await server.session()
      const stream = session.request(headers, { endStream: false })
      if (sends !== 'after') stream.end('unread')
      await waiting.promise
      refuse.open()
      const [answer] = await once(stream, 'response') as [http2.IncomingHttpHeaders & http2.IncomingHttpStatusHeader]
      t.equal(answer[':status'], 401)
      if (sends === 'after') stream.end('unread')
      t.match((await whole(stream)).toString(), /"no"/)
      await closed
      session.close()
      await once(session, 'close')
    }
  }
})

t.test('T4 HEAD is answered, and a kind that the route does not take is not found [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => {
    take(app, () => t.fail('entered'))
    app.route({ method: ['GET', 'POST'], url: '/upgrade', duplex: { kinds: ['upgrade'] }, handler: () => t.fail('entered') })
    app.route({ method: ['GET', 'POST'], url: '/hijack', duplex: { kinds: ['hijack'] }, handler: () => t.fail('entered') })
    app.get('/shared', { duplex: true }, ({ writable }) => { writable.end('duplex') })
    app.get('/shared', () => 'plain')
  })
  const client = await session()
  const ask = async (method: string, path: string): Promise<number> => (await request(client, { ':method': method, ':path': path }, true)).status
  t.equal(await ask('HEAD', '/it'), 200)
  t.equal(await ask('HEAD', '/upgrade'), 404)
  for (const path of ['/upgrade', '/hijack']) for (const method of ['GET', 'POST']) t.equal(await ask(method, path), 404, `${method} ${path}`)
  const plain = await request(client, { ':path': '/shared' }, true)
  t.equal((await whole(plain.stream)).toString(), 'plain')
  const taken = await request(client, { ...EXTENDED, ':path': '/shared' })
  t.equal((await whole(taken.stream)).toString(), 'duplex')
})

t.test('T4 the body is what the last preParsing hook made of it [h2]', async t => {
  const preParsing = (_request: unknown, _reply: unknown, payload: Readable, done: (error: Error | null, body: Readable) => void): void => {
    const shout = new PassThrough({ transform (chunk, _encoding, next) { next(null, String(chunk).toUpperCase()) } })
    done(null, payload.pipe(shout))
  }
  const { stream, connection } = await taken(t, { headers: POST, extras: { preParsing } }, echo)
  stream.end('quiet')
  t.equal((await whole(stream)).toString(), 'QUIET')
  t.equal((await connection.closed).reason, 'end')
})

t.test('T5 RST_STREAM ends one stream and no other [h2]', async t => {
  const { client, connection, stream, app } = await taken(t, {}, ({ signal }) => once(signal, 'abort'))
  const other = await request(client, { ...EXTENDED })
  t.equal(app.duplex.connections.size, 2)
  stream.end = () => stream
  stream.close(NGHTTP2_CANCEL)
  t.match(await connection.closed, { reason: 'abort', error: { code: 'FST_ERR_DUPLEX_ABORTED' } })
  t.equal(app.duplex.connections.size, 1)
  t.equal(other.stream.closed, false)
})

t.test('T5 GOAWAY lets a stream finish, and the end of the session settles closed [h2]', async t => {
  const { client, connection, stream } = await taken(t, {}, echo)
  client.goaway()
  stream.end('after the GOAWAY')
  t.equal((await whole(stream)).toString(), 'after the GOAWAY')
  t.equal((await connection.closed).reason, 'end')

  const lost = await taken(t, {}, ({ signal }) => once(signal, 'abort'))
  lost.client.destroy()
  t.match(await lost.connection.closed, { reason: 'abort' })
})

t.test('T5 trailers end a tunnel with a protocol error, and belong to a message [h2]', async t => {
  for (const [kind, headers] of Object.entries(requests)) {
    const entered = gate<DuplexConnection>()
    const { frames } = await serveHttp2(t, {}, app => take(app, async connection => {
      entered.open(connection)
      connection.writable.end(await all(connection.readable))
    }))
    const wire = await frames()
    wire.headers(1, headers as Record<string, string>)
    await wire.next('HEADERS', 1)
    wire.data(1, 'data').headers(1, { 'x-trailer': '1' }, true)
    const { reason, error } = await (await entered.promise).closed
    if (kind === 'body') {
      t.equal(reason, 'end')
      t.equal((await wire.next('DATA', 1)).payload.toString(), 'data')
    } else {
      t.equal(reason, 'abort')
      t.match(error, { code: 'FST_ERR_DUPLEX_ABORTED', cause: { code: 'FST_ERR_DUPLEX_TRAILERS' } })
      await wire.next('RST_STREAM', 1)
      t.same(wire.story(1), ['HEADERS', `RST_STREAM ${NGHTTP2_PROTOCOL_ERROR}`])
    }
  }
})

t.test('T5 trailers on a tunnel that a pipeline() reads are a protocol error all the same, and close() has nothing to wait for [h2]', async t => {
  for (const headers of [EXTENDED, CONNECT]) {
    const { app, frames } = await serveHttp2(t, { close: false }, app => take(app, echo))
    const wire = await frames()
    wire.headers(1, headers as Record<string, string>)
    await wire.next('HEADERS', 1)
    wire.headers(1, { 'x-trailer': '1' }, true)
    await wire.next('RST_STREAM', 1)
    t.same(wire.story(1), ['HEADERS', `RST_STREAM ${NGHTTP2_PROTOCOL_ERROR}`])
    wire.socket.end()
    await app.close()
  }
})

t.test('T9 a reset without an error, after the client has ended its side, is no end [h2]', async t => {
  for (const [kind, headers] of Object.entries(requests)) {
    const entered = gate<DuplexConnection>()
    const { frames } = await serveHttp2(t, {}, app => take(app, connection => {
      entered.open(connection)
      return once(connection.signal, 'abort')
    }))
    const wire = await frames()
    wire.headers(1, headers as Record<string, string>)
    const { closed, signal } = await entered.promise
    wire.data(1, 'all of it', true).rst(1, 0)
    t.match(await closed, { reason: 'abort', error: { code: 'FST_ERR_DUPLEX_ABORTED' } }, kind)
    t.equal(signal.aborted, true)
  }
})

t.test('T9 a reset without an error, before acceptance, aborts the pending connection [h2]', async t => {
  for (const headers of Object.values(requests)) {
    const there = gate<PendingDuplex>()
    const { frames } = await serveHttp2(t, {}, app => take(app, (async (pending: PendingDuplex) => {
      there.open(pending)
      await once(pending.signal, 'abort')
    }) as never, { accept: 'manual' } as never))
    const wire = await frames()
    wire.headers(1, headers as Record<string, string>)
    const { closed } = await there.promise
    wire.rst(1, 0)
    t.match(await closed, { reason: 'abort' })
  }
})

t.test('S11 a handler without a promise that reads nothing: its stream is over when both sides have ended [h2]', async t => {
  for (const [kind, headers] of Object.entries(requests)) {
    const entered = gate<DuplexConnection>()
    const { frames } = await serveHttp2(t, { plugin: { finTimeout: 50 } }, app => take(app, connection => {
      entered.open(connection)
      connection.writable.end('bye')
    }))
    const wire = await frames()
    wire.headers(1, headers as Record<string, string>).data(1, 'unread', true)
    t.match(await (await entered.promise).closed, { reason: kind === 'body' ? 'end' : 'fin' }, kind)
  }
})

t.test('S11 a message that was answered whole is drained within a bound, and its client is asked to stop [h2]', async t => {
  const { client, stream, connection } = await taken(t, { headers: POST }, async ({ writable }) => { writable.end('no, thanks') })
  const piece = Buffer.alloc(64 * 1024)
  const send = (): void => { while (!stream.closed && stream.write(piece)); }
  stream.on('drain', send)
  send()
  t.equal(await bytes(stream, 10), 'no, thanks')
  const { bytesRead } = await connection.closed
  t.ok(bytesRead > MiB && bytesRead < 3 * MiB, `${bytesRead} bytes were read`)
  if (!stream.closed) await once(stream, 'close')
  t.equal(stream.rstCode, 0)
  t.equal((await request(client, EXTENDED)).status, 200, 'the session lives')
})

for (const [what, headers] of Object.entries({ 'a second value of a single field': { etag: ['"a"', '"b"'] }, 'a list of content types': { 'content-type': ['a/b', 'c/d'] } })) {
  t.test(`A4 an accept head with ${what}, which Node refuses, is a 500 and frees its slot [h2]`, async t => {
    const { session, over } = await serveHttp2(t, { plugin: { maxConnections: 1 } }, app => take(app, (async (pending: PendingDuplex) => {
      await t.rejects(pending.accept({ headers: headers as never }), { code: 'ERR_HTTP2_HEADER_SINGLE_VALUE' })
    }) as never, { accept: 'manual' } as never))
    const client = await session()
    for (const request_ of Object.values(requests)) {
      const { stream, status } = await request(client, request_)
      t.equal(status, 500)
      t.match(JSON.parse((await whole(stream)).toString()), { code: 'ERR_HTTP2_HEADER_SINGLE_VALUE' })
      stream.end()
      await over()
    }
  })
}

t.test('R15 an extended CONNECT to a host that only a plain route has is not found [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => {
    app.get('/it', { duplex: { protocols: ['bar'] }, constraints: { host: 'foo.com' } }, echo)
    app.get('/it', { constraints: { host: 'bar.com' } }, () => 'plain')
  })
  const client = await session()
  t.equal((await request(client, { ...EXTENDED, ':authority': 'bar.com' })).status, 404)
  t.equal((await request(client, { ...EXTENDED, ':authority': 'foo.com' })).status, 400)
})

t.test('T6 nothing is sent into a window of 0, and all of it when that opens [h2]', async t => {
  const size = 100_000
  const blocked = gate<boolean>()
  const { frames } = await serveHttp2(t, {}, app => take(app, async ({ writable }) => {
    blocked.open(writable.write(pattern(size)))
  }))
  const wire = await frames()
  // SETTINGS_INITIAL_WINDOW_SIZE
  wire.frame('SETTINGS', 0, 0, Buffer.concat([Buffer.of(0, 4), uint32(0)]))
  wire.headers(1, EXTENDED)
  t.equal(await blocked.promise, false)
  wire.frame('PING', 0, 0, Buffer.alloc(8))
  await wire.next('PING', 0)
  t.same(wire.story(1), ['HEADERS'])
  wire.frame('WINDOW_UPDATE', 0, 0, uint32(size)).frame('WINDOW_UPDATE', 0, 1, uint32(size))
  let received = Buffer.alloc(0)
  while (received.length < size) received = Buffer.concat([received, (await wire.next('DATA', 1)).payload])
  t.equal(sha256(received), sha256(pattern(size)))
})

t.test('T6 64 MiB each way through an echo, to a client that reads slowly [h2]', async t => {
  const size = 64 * MiB
  const chunk = pattern(MiB)
  let most = 0
  const { client, stream, connection } = await taken(t, {}, async ({ readable, writable }) => {
    for await (const part of readable) {
      if (!writable.write(part)) await once(writable, 'drain')
      most = Math.max(most, writable.writableLength + readable.readableLength)
    }
  })
  client.setLocalWindowSize(4 * MiB)
  const sending = (async () => {
    for (let sent = 0; sent < size; sent += MiB) if (!stream.write(chunk)) await once(stream, 'drain')
    stream.end()
  })()
  let received = 0
  for await (const part of stream) {
    received += (part as Buffer).length
    if (received % 16 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  await sending
  t.equal(received, size)
  t.match(await connection.closed, { reason: 'end', bytesRead: size, bytesWritten: size })
  t.ok(most < 2 * MiB, `${most} bytes waited at most`)
})

t.test('T6 what nobody reads stays with the client [h2]', async t => {
  const { stream, connection } = await taken(t, {}, ({ signal }) => once(signal, 'abort'))
  let accepted = 0
  const chunk = Buffer.alloc(64 * 1024)
  for (let sent = 0; sent < 64; sent++) stream.write(chunk, () => { accepted += chunk.length })
  // Two round trips after the window is full.
  for (let round = 0; round < 2; round++) await new Promise<void>(resolve => { stream.session?.ping(() => resolve()) })
  t.ok(connection.bytesRead <= 256 * 1024, `${connection.bytesRead} bytes were read`)
  t.ok(accepted <= 256 * 1024, `${accepted} bytes were taken`)
})

t.test('T7 nothing that is about a connection is in a head over HTTP/2 [h2]', async t => {
  const about = { connection: 'upgrade', upgrade: 'foo', 'keep-alive': '1', 'transfer-encoding': 'chunked', 'proxy-connection': 'close', te: 'gzip', 'http2-settings': 'x' }
  const onRequest = async (_request: unknown, reply: { headers: (fields: object) => void }): Promise<void> => {
    reply.headers({ ...about, 'x-own': 'yes', 'set-cookie': ['a=1', 'b=2'], 'content-length': '7' })
  }
  const { session } = await serveHttp2(t, {}, app => take(app, ({ writable }) => { writable.end('fine') }, true, { onRequest }))
  const client = await session()
  for (const [kind, headers] of Object.entries(requests)) {
    const { stream, status, headers: answer } = await request(client, headers)
    t.equal(status, 200, kind)
    for (const name of [...Object.keys(about), 'content-length']) t.equal(answer[name], undefined, `${kind} ${name}`)
    t.match(answer, { 'x-own': 'yes', 'set-cookie': ['a=1', 'b=2'] })
    t.equal((await whole(stream)).toString(), 'fine')
  }
})

t.test('T8 both protocols on one port, and every kind of both [h2]', async t => {
  const { app, port, session } = await serveHttp2(t, { tls: true }, app => take(app, async ({ kind, httpVersion, readable, writable }) => {
    writable.write(`${kind}/${httpVersion}:`)
    for await (const chunk of readable) writable.write(chunk as Buffer)
  }))
  const client = await session()
  for (const [kind, headers] of Object.entries(requests)) {
    const { stream } = await request(client, headers)
    stream.end('two')
    t.equal((await whole(stream)).toString(), `${kind}/2.0:two`)
  }
  for (const [kind, head, status] of [
    ['upgrade', 'GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n', 101],
    ['connect', 'CONNECT it:443 HTTP/1.1\r\nHost: it:443\r\n\r\n', 200],
    ['hijack', 'GET /it HTTP/1.1\r\nHost: a\r\n\r\n', 200]
  ] as const) {
    const wire = await connectTls(port, { ALPNProtocols: ['http/1.1'] })
    t.teardown(() => wire.destroy())
    wire.send(`${head}one`)
    t.match(await wire.head(), { status })
    wire.end()
    t.equal((await wire.rest()).toString(), `${kind}/1.1:one`)
  }
  const post = https.request({ port, path: '/it', method: 'POST', rejectUnauthorized: false })
  post.write('one')
  const [response] = await once(post, 'response')
  post.end()
  t.equal((await all(response)).toString(), 'body/1.1:one')
  t.equal(app.duplex.connections.size, 0)
})

t.test('T8 app.close() with both protocols on one port [h2]', async t => {
  const { app, port, session } = await serveHttp2(t, { tls: true, close: false, plugin: { drainTimeout: 100 } }, app => take(app, ({ signal }) => once(signal, 'abort')))
  const client = await session()
  await request(client, EXTENDED)
  const wire = await connectTls(port, { ALPNProtocols: ['http/1.1'] })
  wire.send('GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  await wire.head()
  t.equal(app.duplex.connections.size, 2)
  await app.close()
  t.equal(app.duplex.connections.size, 0)
})

const resets = [0, 2, NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR, 'tcp'] as const
for (const how of resets) {
  const name = how === 'tcp' ? 'a TCP reset' : `RST_STREAM(${how})`
  for (const kind of ['upgrade', 'connect', 'body'] as const) {
    t.test(`T9 ${name} in a hook, in the handler, while it decides, and behind its end [${kind}] [h2]`, async t => {
      for (const phase of ['onRequest', 'onSend', 'handler', 'deciding', 'ended'] as const) {
        const there = gate()
        const goOn = gate()
        const seen = gate<DuplexConnection | PendingDuplex>()
        const wait = async (): Promise<void> => {
          there.open()
          await goOn.promise
        }
        const handler = async (connection: DuplexConnection): Promise<void> => {
          seen.open(connection)
          if (phase === 'deciding') {
            await wait()
            await (connection as unknown as PendingDuplex).accept()
          } else if (phase === 'ended') {
            await written(connection.writable, 'x')
            connection.writable.end()
            await wait()
          } else {
            await wait()
          }
        }
        const completed = gate()
        const extras = { onResponse: async () => completed.open(), ...(phase === 'onRequest' || phase === 'onSend' ? { [phase]: wait } : {}) }
        const { app, frames, over } = await serveHttp2(t, {}, app =>
          take(app, handler, phase === 'deciding' ? { accept: 'manual' } as never : true, extras))
        const wire = await frames()
        wire.headers(1, requests[kind] as Record<string, string>).data(1, 'half')
        await there.promise
        if (how === 'tcp') wire.socket.resetAndDestroy()
        else wire.rst(1, how)
        await completed.promise
        goOn.open()
        await over()
        if (phase === 'handler' || phase === 'ended') {
          const { reason, error } = await (await seen.promise).closed
          t.equal(reason, 'abort', phase)
          t.match(error, { code: 'FST_ERR_DUPLEX_ABORTED' })
        }
        t.equal(app.duplex.connections.size, 0, phase)
      }
    })
  }
}

t.test('T9 accept() after the reset is a coded rejection [h2]', async t => {
  const there = gate<PendingDuplex>()
  const outcome = gate<unknown>()
  const { frames } = await serveHttp2(t, {}, app => take(app, (async (pending: PendingDuplex) => {
    there.open(pending)
    await once(pending.signal, 'abort')
    await pending.accept().catch((error: unknown) => outcome.open(error))
  }) as never, { accept: 'manual' } as never))
  const wire = await frames()
  wire.headers(1, EXTENDED)
  await there.promise
  wire.rst(1, NGHTTP2_CANCEL)
  t.match(await outcome.promise, { code: 'FST_ERR_DUPLEX_ABORTED' })
})

for (const [what, name, value] of [['CR and LF', 'x-evil', 'a\r\nb: c'], ['LF', 'x-evil', 'a\nb'], ['NUL', 'x-evil', 'a\0b'], ['LF in a name', 'x\nevil', 'a']] as const) {
  t.test(`T10 ${what} in an accept header throws, and the client gets a 500 [h2]`, async t => {
    const { session, over } = await serveHttp2(t, {}, app => {
      app.get('/it', { duplex: { accept: 'manual' } }, async pending => {
        await t.rejects(pending.accept({ headers: { [name]: value } }), { code: 'FST_ERR_DUPLEX_INVALID_HEADER' })
        await pending.accept({ headers: { [name]: value } })
      })
    })
    const { status, headers } = await request(await session(), EXTENDED)
    t.equal(status, 500)
    t.equal(headers['x-evil'], undefined)
    await over()
  })
}

t.test('A15 a status of the app is kept for every kind over HTTP/2 [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => take(app, (async (pending: PendingDuplex) => {
    await t.rejects(pending.accept({ statusCode: 204 }), { code: 'FST_ERR_DUPLEX_INVALID_STATUS' })
    await t.rejects(pending.accept({ statusCode: 101 }), { code: 'FST_ERR_DUPLEX_INVALID_STATUS' })
    const { writable } = await pending.accept({ statusCode: 201 })
    await t.rejects(pending.accept(), { code: 'FST_ERR_DUPLEX_ALREADY_ACCEPTED' })
    writable.end('made')
  }) as never, { accept: 'manual' } as never))
  const client = await session()
  for (const headers of Object.values(requests)) {
    const { status, stream } = await request(client, headers)
    t.equal(status, 201)
    t.equal((await whole(stream)).toString(), 'made')
  }
})

t.test('A2 the onSend hooks of the route make the accept head, and A10 nothing of the reply gets into the stream [h2]', async t => {
  let calls = 0
  const onSend = async (_request: unknown, reply: { header: (name: string, value: string) => void }): Promise<string> => {
    calls++
    reply.header('x-hook', 'ran')
    return 'a payload'
  }
  const { stream, connection } = await taken(t, { extras: { onSend } }, async ({ reply, readable, writable }) => {
    const raw = reply.raw as unknown as http2.Http2ServerResponse
    raw.write('never')
    raw.end('never')
    raw.writeHead(500)
    await reply.send('never')
    writable.end(await all(readable))
  })
  stream.end('only this')
  t.equal((await whole(stream)).toString(), 'only this')
  t.equal(stream.rstCode, 0)
  t.equal(calls, 1)
  t.equal((await connection.closed).reason, 'end')
})

t.test('L7 onResponse and its log line come once, at the end, with the status of the accept head [h2]', async t => {
  for (const how of ['end', 'abort'] as const) {
    const { lines, logger } = logLines()
    let responses = 0
    const over = gate()
    const onResponse = async (_request: unknown, reply: { statusCode: number }): Promise<void> => {
      responses++
      t.equal(reply.statusCode, 200)
      over.open()
    }
    const { stream, connection } = await taken(t, { fastify: { logger }, extras: { onResponse } }, echo)
    t.equal(responses, 0)
    if (how === 'end') stream.end()
    else stream.destroy()
    t.equal((await connection.closed).reason, how)
    await over.promise
    t.equal(responses, 1)
    t.equal(lines.filter(line => line.msg === 'request completed').length, 1)
    t.match(lines.filter(line => line.msg === 'duplex connection closed'), [{ duplex: { kind: 'upgrade', reason: how } }])
  }
})

const failures: [how: string, reason: string, code: number, plugin: object, fail: Handler][] = [
  ['that throws', 'error', NGHTTP2_INTERNAL_ERROR, {}, () => { throw new Error('midway') }],
  ['that rejects', 'error', NGHTTP2_INTERNAL_ERROR, {}, async ({ writable }) => {
    writable.write('a part')
    throw new Error('midway')
  }],
  ['that destroys its connection', 'destroyed', NGHTTP2_CANCEL, {}, connection => connection.destroy()],
  ['that destroys the stream', 'destroyed', NGHTTP2_CANCEL, {}, ({ writable }) => { writable.destroy() }],
  ['that destroys the stream with an error', 'error', NGHTTP2_INTERNAL_ERROR, {}, ({ writable }) => { writable.destroy(new Error('midway')) }],
  ['whose pipeline() has a source that fails', 'error', NGHTTP2_INTERNAL_ERROR, {}, ({ readable, writable }) =>
    pipeline(readable, new Transform({ transform (_chunk, _encoding, done) { done(new Error('midway')) } }), writable)],
  ['with a pipeline() that destroys its connection', 'destroyed', NGHTTP2_CANCEL, {}, connection => {
    setImmediate(() => connection.destroy())
    return pipeline(connection.readable, connection.writable)
  }],
  ['with a pipeline() that is silent', 'idle', NGHTTP2_CANCEL, { idleTimeout: 50 }, echo],
  ['with a pipeline() that hears the signal', 'lifetime', NGHTTP2_CANCEL, { maxLifetime: 50 }, ({ readable, writable, signal }) =>
    pipeline(readable, writable, { signal })],
  ['that is silent', 'idle', NGHTTP2_CANCEL, { idleTimeout: 50 }, ({ signal }) => once(signal, 'abort')],
  ['that lives too long', 'lifetime', NGHTTP2_CANCEL, { maxLifetime: 50 }, ({ signal }) => once(signal, 'abort')],
  ['whose peer never ends', 'fin', NGHTTP2_CANCEL, { finTimeout: 50 }, async ({ writable }) => { writable.write('all') }]
]
for (const [how, reason, code, plugin, fail] of failures) {
  t.test(`L14 a handler ${how}: the stream is reset, and nothing before that looks like its end [h2]`, async t => {
    for (const [kind, headers] of Object.entries(requests)) {
      const entered = gate<DuplexConnection>()
      const { frames } = await serveHttp2(t, { plugin }, app => take(app, connection => {
        entered.open(connection)
        return fail.call(app, connection)
      }))
      const wire = await frames()
      wire.headers(1, headers as Record<string, string>).data(1, 'a part')
      t.equal((await (await entered.promise).closed).reason, reason, kind)
      const { payload } = await wire.next('RST_STREAM', 1)
      t.equal(payload.readUInt32BE(0), kind === 'connect' && reason === 'error' ? NGHTTP2_CONNECT_ERROR : code, kind)
      if (reason !== 'fin') t.notOk(wire.story(1).includes('DATA END_STREAM'), wire.story(1).join(', '))
    }
  })
}

t.test('L14 a stream that a pipeline() has is reset as any other, by a timeout, by destroy() and at the end of a drain [h2]', async t => {
  const ends: Record<string, (server: Http2TestServer, connection: DuplexConnection) => unknown> = {
    lifetime: () => {},
    destroyed: (_server, connection) => connection.destroy(),
    shutdown: ({ app }) => app.close()
  }
  for (const [reason, end] of Object.entries(ends)) {
    for (const headers of Object.values(requests)) {
      // So long that the echo is there before it is over, on a machine that has other work, too.
      const extras = reason === 'lifetime' ? { maxLifetime: 500 } : {}
      const { stream, connection, ...server } = await taken(t, { plugin: { drainTimeout: 50, ...extras }, headers }, echo)
      stream.write('one')
      t.equal(await bytes(stream, 3), 'one')
      const ending = end(server, connection)
      if (!stream.closed) await once(stream, 'close')
      t.equal(stream.rstCode, NGHTTP2_CANCEL, reason)
      t.match(await connection.closed, { reason })
      await ending
    }
  }
})

t.test('L5 the timeouts of the server do not end what was taken over, and come back behind it [h2]', async t => {
  const { client, stream, connection } = await taken(t, { fastify: { connectionTimeout: 50, http2SessionTimeout: 50 } as object }, echo)
  await new Promise(resolve => setTimeout(resolve, 250))
  stream.end('still here')
  t.equal((await whole(stream)).toString(), 'still here')
  t.equal((await connection.closed).reason, 'end')
  await once(client, 'close')
})

t.test('L6 the stream above maxConnections gets 503, and a slot comes back [h2]', async t => {
  const { session, over } = await serveHttp2(t, { plugin: { maxConnections: 1 } }, app => take(app, echo))
  const client = await session()
  const first = await request(client, EXTENDED)
  const second = await request(client, EXTENDED)
  t.equal(second.status, 503)
  t.equal(second.headers['retry-after'], '1')
  first.stream.end()
  await whole(first.stream)
  await over()
  t.equal((await request(client, EXTENDED)).status, 200)
})

t.test('L13 handshakeTimeout: 503, and the handler is not entered [h2]', async t => {
  const goOn = gate()
  const { session } = await serveHttp2(t, { plugin: { handshakeTimeout: 50 } }, app => take(app, () => t.fail('entered'), true, { preHandler: () => goOn.promise }))
  const client = await session()
  for (const headers of Object.values(requests)) t.equal((await request(client, headers)).status, 503)
  goOn.open()
})

t.test('L8 app.close() with streams that are idle, half-closed, undecided, deaf, and a client that does not read [h2]', async t => {
  const never = gate()
  const { app, session, frames } = await serveHttp2(t, { close: false, plugin: { drainTimeout: 100 } }, app => {
    take(app, ({ writable }) => {
      writable.write(Buffer.alloc(8 * MiB))
      return never.promise
    })
    app.get('/hook', { duplex: true, onRequest: () => never.promise }, echo)
    app.get('/manual', { duplex: { accept: 'manual' } }, () => never.promise)
    app.get('/plain', () => 'plain')
  })
  const idle = await session()
  const client = await session()
  await request(client, EXTENDED)
  const half = await request(client, EXTENDED)
  half.stream.end()
  client.request({ ...EXTENDED, ':path': '/hook' }).on('error', () => {})
  client.request({ ...EXTENDED, ':path': '/manual' }).on('error', () => {})
  const deaf = await frames()
  deaf.headers(1, EXTENDED)
  await deaf.next('HEADERS', 1)
  deaf.socket.pause()
  const from = performance.now()
  const [first, second] = await Promise.allSettled([app.close(), app.close()])
  t.match([first, second], [{ status: 'fulfilled' }, { status: 'fulfilled' }])
  t.ok(performance.now() - from < 1100 * patience, 'within drainTimeout and 1 s')
  t.equal(app.duplex.connections.size, 0)
  if (!idle.destroyed) await once(idle, 'close')
  never.open()
})

t.test('L15 the drain is told, and what is under way arrives whole [h2]', async t => {
  const { app, stream, connection } = await taken(t, { close: false }, async ({ draining, signal, writable, readable }) => {
    await once(draining, 'abort')
    t.match(draining.reason, { code: 'FST_ERR_DUPLEX_SHUTDOWN' })
    t.equal(signal.aborted, false)
    writable.write('last words')
    await all(readable)
  })
  const closing = app.close()
  t.equal(await bytes(stream, 10), 'last words')
  stream.end()
  t.equal((await whole(stream)).length, 0)
  t.equal((await connection.closed).reason, 'end')
  await closing
})

t.test('L15 a stream that outlasts the drain is reset [h2]', async t => {
  const { app, stream, connection } = await taken(t, { close: false, plugin: { drainTimeout: 50 } }, ({ signal }) => once(signal, 'abort'))
  const closed = once(stream, 'close')
  await app.close()
  t.match(await connection.closed, { reason: 'shutdown', error: { code: 'FST_ERR_DUPLEX_SHUTDOWN' } })
  await closed
  t.equal(stream.rstCode, NGHTTP2_CANCEL)
})

t.test('A3 detach() is not for a stream of HTTP/2 [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => {
    app.get('/it', { duplex: { accept: 'manual' } }, async pending => { pending.detach() })
  })
  const { stream, status } = await request(await session(), EXTENDED)
  t.equal(status, 500)
  t.match(JSON.parse((await whole(stream)).toString()), { code: 'FST_ERR_DUPLEX_CANNOT_DETACH' })
})

t.test('S12 web() over HTTP/2: half-close both ways [h2]', async t => {
  const { stream, connection } = await taken(t, {}, async connection => {
    const { readable, writable } = connection.web()
    await readable.pipeTo(writable)
  })
  stream.end('through the web')
  t.equal((await whole(stream)).toString(), 'through the web')
  t.equal((await connection.closed).reason, 'end')
})

t.test('T9 the last chunk and its end are not taken for a failure [h2]', async t => {
  const results: (Error | null | undefined)[] = []
  const { stream, connection } = await taken(t, {}, async ({ readable, writable }) => {
    await all(readable)
    await new Promise<void>(resolve => {
      writable.write('last', error => { results.push(error) })
      writable.end('words', () => resolve())
    })
  })
  stream.end()
  t.equal((await whole(stream)).toString(), 'lastwords')
  t.match(await connection.closed, { reason: 'end', error: undefined })
  t.same(results.filter(Boolean), [])
})

t.test('T2 an extended CONNECT at a server whose routes are all plain is 404 [h2]', async t => {
  const { session } = await serveHttp2(t, {}, app => { app.get('/it', () => 'plain') })
  const client = await session()
  t.equal((await request(client, EXTENDED)).status, 404)
  t.equal((await request(client, { ':path': '/it' }, true)).status, 200)
})
