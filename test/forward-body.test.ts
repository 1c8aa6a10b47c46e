import t from 'tap'
import { once } from 'node:events'
import http2 from 'node:http2'
import type { Socket } from 'node:net'
import { chunk, chunkedBody, LAST_CHUNK, nextChunk } from './fixtures/chunked.ts'
import { answer, forwarding } from './fixtures/forwarding.ts'
import { serveHttp2, whole, type Answer } from './fixtures/http2-server.ts'
import { until } from './fixtures/patience.ts'
import { codeOf, request } from './fixtures/requests.ts'
import { onEach, onEachStream, transports } from './fixtures/server.ts'
import { MiB, pattern } from './fixtures/takeover.ts'
import { targetOf } from './fixtures/forwarding.ts'
import { upstream } from './fixtures/upstream.ts'

const CHUNKED = 'Transfer-Encoding: chunked'

onEachStream(t, 'FW7 a chunked POST in rounds: each is answered before the next', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(request('POST /it', CHUNKED))
  wire.send(chunk('round 0'))
  const server = await accepted()
  t.match(await server.head(), { headers: { 'transfer-encoding': 'chunked' } })
  server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n`)
  t.equal((await wire.head()).status, 200)
  for (let round = 0; round < 3; round++) {
    t.equal((await nextChunk(server)).toString(), `round ${round}`)
    server.send(chunk(`answer ${round}`))
    t.equal((await nextChunk(wire)).toString(), `answer ${round}`)
    wire.send(round < 2 ? chunk(`round ${round + 1}`) : LAST_CHUNK)
  }
  t.equal((await nextChunk(server)).length, 0)
  server.send(LAST_CHUNK)
  t.equal((await nextChunk(wire)).length, 0)
})

t.test('FW7 trailers, both ways', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = await connect()
  wire.send(request('POST /it', CHUNKED, 'Trailer: x-sum') + '2\r\nhi\r\n0\r\nX-Sum: 1\r\nHost: b\r\n\r\n')
  const server = await accepted()
  await server.head()
  t.equal(await server.until('\r\n\r\n'), '2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n')
  server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\nTrailer: X-Back\r\n\r\n3\r\nyes\r\n0\r\nX-Back: 2\r\nHost: evil\r\n\r\n`)
  t.match(await wire.head(), { status: 200, headers: { trailer: 'X-Back' } })
  t.equal(await wire.until('\r\n\r\n'), '3\r\nyes\r\n0\r\nX-Back: 2\r\n\r\n')
})

t.test('FW7 trailers, both ways, of a client of HTTP/2', async t => {
  const far = await upstream(t)
  const { session } = await serveHttp2(t, {}, app => app.post('/it', { duplex: { forward: targetOf(far, 'tcp') } }))
  const stream = (await session()).request({ ':method': 'POST', ':path': '/it', te: 'trailers' }, { waitForTrailers: true, endStream: false })
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '1' }))
  stream.end('hi')
  const server = await far.accepted()
  t.match(await server.head(), { headers: { te: 'trailers', 'transfer-encoding': 'chunked' } })
  t.equal(await server.until('\r\n\r\n'), '2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n')
  server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n3\r\nyes\r\n0\r\nX-Back: 2\r\n\r\n`)
  const trailers = once(stream, 'trailers') as Promise<[Record<string, string>]>
  const [head] = await once(stream, 'response') as [Answer['headers']]
  t.equal(head[':status'], 200)
  t.equal((await whole(stream)).toString(), 'yes')
  t.equal((await trailers)[0]['x-back'], '2')
})

onEach(t, 'FW7 Expect: 100-continue: the client gets its 100, and the upstream the body', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(request('POST /it', 'Content-Length: 4', 'Expect: 100-continue'))
  t.equal((await wire.head()).status, 100)
  wire.send('body')
  const server = await accepted()
  t.notOk('expect' in (await server.head()).headers)
  t.equal(await server.until('body'), 'body')
  server.send(answer('200 OK', 'done'))
  t.match(await wire.response(), { status: 200, body: 'done' })
}, transports)

t.test('FW7 413 in the middle of a body: the client has it, and its rest is not sent on', async t => {
  const { connect, accepted, quiet } = await forwarding(t)
  const wire = await connect()
  wire.send(request('POST /it', CHUNKED))
  wire.send(chunk('first'))
  const server = await accepted()
  await server.head()
  t.equal((await nextChunk(server)).toString(), 'first')
  server.end(answer('413 Payload Too Large', 'too much', 'Connection: close'))
  t.match(await wire.response(), { status: 413, body: 'too much' })
  server.destroy()
  wire.send(chunk('second'))
  wire.end(LAST_CHUNK)
  t.equal(await wire.remains(), '')
  await quiet()
})

for (const framing of [CHUNKED, 'Content-Length: 100', 'X-Close: 1']) {
  onEachStream(t, `FW4 FW7 an upstream that is reset in the middle of its answer [${framing}]: the client's has no end`, async (t, transport) => {
    const { connect, accepted, quiet } = await forwarding(t, { transport })
    const wire = await connect()
    wire.send(request('POST /it', 'Content-Length: 2') + 'hi')
    const server = await accepted()
    await server.until('hi')
    server.send(`HTTP/1.1 200 OK\r\n${framing}\r\n\r\n${framing === CHUNKED ? chunk('part').toString() : 'part'}`)
    await wire.until('part')
    server.reset()
    if (transport === 'h2') t.equal(await wire.gone(), 'broken')
    else t.notMatch(await wire.remains(), /0\r\n\r\n/)
    wire.end()
    await quiet()
  })
}

onEachStream(t, 'FW4 FW7 a client that is gone in the middle of its body: the upstream sees no end of it', async (t, transport) => {
  const { connect, accepted, quiet } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(request('POST /it', CHUNKED))
  wire.send(chunk('part'))
  const server = await accepted()
  await server.head()
  t.equal((await nextChunk(server)).toString(), 'part')
  wire.reset()
  t.equal(await server.gone(), 'broken')
  t.notMatch(server.pending, /0\r\n\r\n/)
  await quiet()
}, ['tcp', 'tls', 'h2'])

t.test('FW7 a GET without a body, HEAD, OPTIONS *, 204, 304 and a range, one after the other on one connection each way', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = await connect()
  const server = await (async () => {
    wire.send(request('GET /a'))
    const server = await accepted()
    t.same((await server.head()).fields.map(([name]) => name).filter(name => /content-length|transfer-encoding/i.test(name)), [])
    server.send(answer('200 OK', 'one'))
    t.match(await wire.response(), { status: 200, body: 'one', headers: { 'content-length': '3' } })
    return server
  })()
  wire.send(request('HEAD /b'))
  t.equal((await server.head()).line, 'HEAD /b HTTP/1.1')
  server.send('HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: "x"\r\n\r\n')
  t.match(await wire.head(), { status: 200, headers: { 'content-length': '12345', etag: '"x"' } })
  wire.send(request('GET /c'))
  await server.head()
  server.send('HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n')
  const empty = await wire.head()
  t.match(empty, { status: 204, headers: { 'x-a': '1' } })
  t.notOk('content-length' in empty.headers || 'transfer-encoding' in empty.headers)
  wire.send(request('GET /d', 'If-None-Match: "x"'))
  t.equal((await server.head()).headers['if-none-match'], '"x"')
  server.send('HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 12345\r\n\r\n')
  t.match(await wire.head(), { status: 304, headers: { etag: '"x"' } })
  wire.send(request('GET /e', 'Range: bytes=0-1'))
  t.equal((await server.head()).headers.range, 'bytes=0-1')
  server.send(answer('206 Partial Content', 'on', 'Content-Range: bytes 0-1/3'))
  t.match(await wire.response(), { status: 206, body: 'on', headers: { 'content-range': 'bytes 0-1/3' } })
  wire.send(request('POST /f', 'Content-Length: 0'))
  t.equal((await server.head()).headers['content-length'], '0')
  server.send(answer('200 OK', 'last', 'Connection: close'))
  t.match(await wire.response(), { status: 200, body: 'last' })
})

t.test('FW7 over HTTP/2: a GET without a body, HEAD, 204 and 404', async t => {
  const far = await upstream(t)
  const { session } = await serveHttp2(t, {}, app => app.get('/*', { duplex: { forward: targetOf(far, 'tcp') } }))
  const client = await session()
  for (const [method, sent, status, body] of [
    ['GET', answer('200 OK', 'one', 'Connection: close'), 200, 'one'],
    ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n', 200, ''],
    ['GET', 'HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n', 204, ''],
    ['GET', answer('404 Not Found', 'none', 'Connection: close'), 404, 'none']
  ] as const) {
    const stream = client.request({ ':method': method, ':path': '/x', cookie: 'a=1; b=2' }, { endStream: true })
    const server = await far.accepted()
    const head = await server.head()
    t.equal(head.line, `${method} /x HTTP/1.1`)
    t.match(head.headers, { cookie: 'a=1; b=2', 'x-forwarded-proto': 'http' })
    t.notOk('transfer-encoding' in head.headers)
    server.send(sent)
    const [headers] = await once(stream, 'response') as [Answer['headers']]
    t.equal(headers[':status'], status)
    t.equal((await whole(stream)).toString(), body)
  }
})

onEachStream(t, 'FW7 an answer that the end of its connection ends, and Server-Sent Events as they come', async (t, transport) => {
  const { connect, accepted } = await forwarding(t, { transport })
  const wire = await connect()
  wire.send(request('GET /events', 'Accept: text/event-stream', 'Content-Length: 0'))
  const server = await accepted()
  await server.head()
  server.send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n')
  t.match(await wire.head(), { status: 200, headers: { 'content-type': 'text/event-stream' } })
  await wire.until('data: 1\n\n')
  server.send('data: 2\n\n')
  await wire.until('data: 2\n\n')
  server.end()
  if (transport === 'h2') t.equal(await wire.gone(), 'ended')
  else t.match(await wire.until(LAST_CHUNK), /0\r\n\r\n$/)
})

t.test('FW7 a client of HTTP/1.0 has an answer that its connection ends', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = await connect()
  wire.send('GET /a HTTP/1.0\r\n\r\n')
  const server = await accepted()
  t.equal((await server.head()).line, 'GET /a HTTP/1.1')
  server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n${chunk('one').toString()}${LAST_CHUNK}`)
  t.equal((await wire.head()).status, 200)
  t.equal((await wire.rest()).toString(), 'one')
})

t.test('FW10 a client that has left while nothing came: the upstream sees its end, and it is gone on both sides', async t => {
  const { connect, accepted, app } = await forwarding(t)
  const wire = await connect()
  wire.send(request('POST /events', CHUNKED) + chunk('hi').toString() + LAST_CHUNK)
  const server = await accepted()
  await server.until(LAST_CHUNK)
  server.send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n' + chunk('data: 1\n\n').toString())
  t.equal((await wire.head()).status, 200)
  t.equal((await nextChunk(wire)).toString(), 'data: 1\n\n')
  wire.destroy()
  t.equal(String(await server.rest()), '')
  server.destroy()
  while (app.duplex.connections.size > 0) await new Promise(resolve => setImmediate(resolve))
})

t.test('FW4 a client that has half-closed gets the whole answer of an upstream that minds that as little', async t => {
  const { connect, accepted } = await forwarding(t)
  const wire = await connect()
  wire.send(request('GET /slow'))
  wire.end()
  const server = await accepted()
  await server.head()
  server.send(`HTTP/1.1 200 OK\r\n${CHUNKED}\r\n\r\n${chunk('one').toString()}`)
  t.equal((await wire.head()).status, 200)
  t.equal((await nextChunk(wire)).toString(), 'one')
  t.equal(String(await server.rest()), '', 'told of the end, behind the request')
  server.send(chunk('two').toString() + LAST_CHUNK)
  t.equal((await nextChunk(wire)).toString(), 'two')
  t.equal((await nextChunk(wire)).length, 0)
  // That connection carries no other request.
  const other = (await connect()).send(request('GET /next'))
  const next = await accepted()
  t.equal((await next.head()).line, 'GET /next HTTP/1.1')
  next.send(answer('200 OK', 'three'))
  t.equal((await other.response()).body, 'three')
})

t.test('FW10 a connection that was closed as it was used again: asked once more, if that may be', async t => {
  for (const [method, sent] of [['GET'], ['POST', 'hi'], ['POST', '']] as const) {
    const { connect, accepted } = await forwarding(t)
    const wire = await connect()
    wire.send(request('GET /first'))
    const server = await accepted()
    await server.head()
    server.send(answer('200 OK', 'one'))
    t.equal((await wire.response()).body, 'one')
    wire.send(request(`${method} /second`, ...sent === undefined ? [] : [`Content-Length: ${sent.length}`]) + (sent ?? ''))
    await server.head()
    server.end()
    server.destroy()
    if (method === 'GET') {
      const again = await accepted()
      t.equal((await again.head()).line, 'GET /second HTTP/1.1')
      // Not a third time.
      again.destroy()
    }
    const { status, body } = await wire.response()
    t.equal(status, 502)
    t.equal(codeOf(body), 'FST_ERR_DUPLEX_UPSTREAM_LOST')
  }
})

t.test('FW10 a connection that the upstream closed while it was idle is not used again', async t => {
  const { connect, accepted, far } = await forwarding(t)
  const wire = await connect()
  wire.send(request('POST /first', 'Content-Length: 2') + 'hi')
  const server = await accepted()
  await server.until('hi')
  server.send(answer('200 OK', 'one'))
  t.equal((await wire.response()).body, 'one')
  server.end()
  await server.gone()
  await until(async () => await far.connections() === 0)
  wire.send(request('POST /second', 'Content-Length: 2') + 'hi')
  const next = await accepted()
  t.equal((await next.head()).line, 'POST /second HTTP/1.1')
  next.send(answer('200 OK', 'two'))
  t.equal((await wire.response()).body, 'two')
})

/** How much leaves a sender before the other end stands still. */
async function sentUntilStill (socket: Socket, other: () => number, most: number): Promise<number> {
  const piece = pattern(64 * 1024)
  let sent = 0
  let still = 0
  let before = -1
  // Nothing moves any more when a hundred turns of the loop, each with what the kernel has, move nothing.
  while (still < 100 && sent < most) {
    while (sent < most && socket.writableLength === 0) {
      socket.write(piece)
      sent += piece.length
    }
    await new Promise(resolve => setTimeout(resolve, 2))
    const now = sent + other()
    still = now === before ? still + 1 : 0
    before = now
  }
  return sent - socket.writableLength
}

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`FW3 a client that does not read: its upstream stands still, of 64 MiB, with less than 16 [${transport}]`, async t => {
    const { connect, accepted, far } = await forwarding(t, { transport })
    const wire = await connect()
    wire.send(request('GET /it', 'Content-Length: 0'))
    const server = await accepted()
    await server.head()
    server.send(`HTTP/1.1 200 OK\r\nContent-Length: ${64 * MiB}\r\n\r\n`)
    await wire.head()
    wire.socket.pause()
    const sent = await sentUntilStill(server.socket as Socket, () => 0, 64 * MiB)
    t.ok(sent < 16 * MiB, `${sent} bytes`)
    wire.reset()
    await server.gone()
    t.equal(await far.connections(), 0)
  })
}

t.test('FW3 an upstream that does not read: its client stands still, of 64 MiB, with less than 16', async t => {
  const { connect, accepted, quiet } = await forwarding(t)
  const wire = await connect()
  wire.send(request('POST /it', `Content-Length: ${64 * MiB}`))
  const server = await accepted()
  await server.head()
  server.socket.pause()
  const sent = await sentUntilStill(wire.socket as Socket, () => 0, 64 * MiB)
  t.ok(sent < 16 * MiB, `${sent} bytes`)
  wire.reset()
  server.destroy()
  await quiet()
})

t.test('FW9 a body to an upstream of HTTP/2, with trailers both ways, and its reset', async t => {
  const far = http2.createServer().listen(0, '127.0.0.1')
  await once(far, 'listening')
  const { port } = far.address() as { port: number }
  const sessions: http2.ServerHttp2Session[] = []
  far.on('session', session => sessions.push(session))
  const { connect } = await forwarding(t, { to: { to: { host: '127.0.0.1', port }, version: '2' } })
  t.teardown(() => {
    for (const session of sessions) session.destroy()
    far.close()
  })
  const wire = await connect()
  for (let round = 0; round < 2; round++) {
    const asked = once(far, 'stream') as Promise<[http2.ServerHttp2Stream, http2.IncomingHttpHeaders]>
    wire.send(request('POST /it?x', CHUNKED, 'Trailer: x-sum') + '2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n')
    const [stream, headers] = await asked
    t.match(headers, { ':method': 'POST', ':path': '/it?x', ':authority': `127.0.0.1:${port}`, 'x-forwarded-host': 'a' })
    const trailers = once(stream, 'trailers') as Promise<[Record<string, string>]>
    t.equal((await whole(stream as never)).toString(), 'hi')
    t.equal((await trailers)[0]['x-sum'], '1')
    stream.respond({ ':status': 201, trailer: 'x-back' }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-back': '2' }))
    stream.end('yes')
    t.equal((await wire.head()).status, 201)
    t.match(await wire.until('\r\n\r\n'), /3\r\nyes\r\n0\r\nx-back: 2\r\n\r\n$/)
  }
  t.equal(sessions.length, 1)
  const asked = once(far, 'stream') as Promise<[http2.ServerHttp2Stream]>
  wire.send(request('GET /it'))
  const [stream] = await asked
  stream.on('error', () => {})
  stream.respond({ ':status': 200 })
  stream.write('part')
  await chunkedPart(wire)
  // Node would send END_STREAM first.
  stream.end = (() => stream) as typeof stream.end
  stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR)
  t.notMatch(await wire.remains(), /0\r\n\r\n/)
})

async function chunkedPart (wire: Parameters<typeof nextChunk>[0]): Promise<void> {
  await wire.head()
  t.equal((await nextChunk(wire)).toString(), 'part')
}

t.test('FW7 a hook may change the body on its way', async t => {
  const { PassThrough } = await import('node:stream')
  const { connect, accepted } = await forwarding(t, {
    route: { preParsing: async (_request: unknown, _reply: unknown, payload: NodeJS.ReadableStream) => payload.pipe(new PassThrough()) }
  })
  const wire = await connect()
  wire.send(request('POST /it', 'Content-Length: 2') + 'hi')
  const server = await accepted()
  t.equal((await server.head()).headers['transfer-encoding'], 'chunked')
  t.equal((await chunkedBody(server)).toString(), 'hi')
  server.send(answer('200 OK', ''))
  t.equal((await wire.response()).status, 200)
})
