import t from 'tap'
import { once } from 'node:events'
import { PassThrough, type Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { gzipSync } from 'node:zlib'
import compress from '@fastify/compress'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { chunk, chunkedBody, LAST_CHUNK, nextChunk } from './fixtures/chunked.ts'
import { failures, type Failure } from './fixtures/failures.ts'
import { everywhere, gate, onEach, serve, transports, ways } from './fixtures/server.ts'
import {
  all, logLines, MiB, pattern, pong, sha256, takeover, written, type Takeover, type TakeoverSettings
} from './fixtures/takeover.ts'
import { request } from './fixtures/http2-server.ts'
import { Http2Wire } from './fixtures/http2-wire.ts'
import type { Wire } from './fixtures/wire.ts'

const CHUNKED = 'POST /it HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'
const PING = 'GET /ping HTTP/1.1\r\nHost: a\r\n\r\n'

const withLength = (length: number): string => `POST /it HTTP/1.1\r\nHost: a\r\nContent-Length: ${length}\r\n\r\n`

/** A client whose body the handler of `/it` has, on a server that also answers `/ping`. */
function message (
  t: Parameters<typeof takeover>[0], settings: TakeoverSettings, handler: (connection: DuplexConnection) => unknown
): Promise<Takeover> {
  return takeover(t, { request: CHUNKED, ...settings, before: app => app.get('/ping', pong) }, handler)
}

/** That the connection still serves; over HTTP/2, that the session does. */
async function serves (wire: Wire): Promise<boolean> {
  if (wire instanceof Http2Wire) return (await request(wire.session, { ':path': '/ping' }, true)).status === 200
  return (await wire.send(PING).response()).body === 'pong'
}

/** Answers every chunk with itself in upper case. */
async function shout ({ readable, writable }: DuplexConnection): Promise<void> {
  for await (const data of readable) writable.write(String(data).toUpperCase())
}

onEach(t, 'S9 ten rounds within one exchange of chunked bodies', async (t, transport) => {
  const { wire, head, connection } = await message(t, { transport }, shout)
  t.match(head, { status: 200, headers: { 'transfer-encoding': transport === 'h2' ? undefined : 'chunked' } })
  for (const word of 'one two three four five six seven eight nine ten'.split(' ')) {
    wire.send(chunk(word))
    t.equal((await nextChunk(wire)).toString(), word.toUpperCase())
  }
  wire.send(LAST_CHUNK)
  t.equal(await wire.until(LAST_CHUNK), LAST_CHUNK)
  t.match(await connection.closed, { reason: 'end', bytesRead: 39, bytesWritten: 39 })
  t.ok(await serves(wire))
}, everywhere)

onEach(t, 'S9 ten rounds within one exchange whose request has a Content-Length', async (t, transport) => {
  const { wire, head, connection } = await message(t, { transport, request: withLength(20) }, shout)
  t.equal(head.status, 200)
  for (let round = 0; round < 10; round++) {
    wire.send(`${round}x`)
    t.equal((await nextChunk(wire)).toString(), `${round}X`)
  }
  t.equal(await wire.until(LAST_CHUNK), LAST_CHUNK)
  t.match(await connection.closed, { reason: 'end', bytesRead: 20, bytesWritten: 20 })
  t.ok(await serves(wire))
}, everywhere)

onEach(t, 'S9 the server speaks first, before a byte of the body', async (t, transport) => {
  const { wire } = await message(t, { transport }, async ({ readable, writable }) => {
    await written(writable, 'welcome')
    t.equal((await all(readable)).toString(), 'thanks')
    writable.end('bye')
  })
  t.equal((await nextChunk(wire)).toString(), 'welcome')
  wire.send(chunk('thanks')).send(LAST_CHUNK)
  t.equal((await chunkedBody(wire)).toString(), 'bye')
}, everywhere)

onEach(t, 'S9 chunks of every size, with extensions and trailers, arrive decoded', async (t, transport) => {
  const sizes = [1, 15, 16, 4095, 65535, 65536, 300_000]
  const { wire, connection } = await message(t, { transport }, async ({ readable, writable }) => {
    writable.end(sha256(await all(readable)))
  })
  const pieces = sizes.map(pattern)
  for (const piece of pieces) {
    wire.send(`${piece.length.toString(16)};name=value\r\n`).send(piece).send('\r\n')
  }
  wire.send('0\r\nDigest: unknown\r\n\r\n')
  const whole = Buffer.concat(pieces)
  t.equal((await chunkedBody(wire)).toString(), sha256(whole))
  t.equal((await connection.closed).bytesRead, whole.length)
})

t.test('S9 a request in two segments, split at every offset', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))
  })
  const wire = await connect()
  for (const request of [`${withLength(9)}some body`, `${CHUNKED}4\r\nsome\r\n5\r\n body\r\n0\r\n\r\n`]) {
    for (let at = 1; at < request.length; at++) {
      wire.send(request.slice(0, at))
      await new Promise(resolve => setImmediate(resolve))
      wire.send(request.slice(at))
      const { status } = await wire.head()
      const body = (await chunkedBody(wire)).toString()
      if (status !== 200 || body !== 'some body') t.fail(`at ${at}: ${status} ${body}`)
    }
  }
  t.equal(wire.pending, '')
})

t.test('S9 what is pipelined behind a body is answered behind it', async t => {
  const { wire } = await message(t, { request: `${CHUNKED}2\r\nhi\r\n0\r\n\r\n${PING}${withLength(3)}you${PING}` },
    ({ readable, writable }) => pipeline(readable, writable))
  t.equal((await chunkedBody(wire)).toString(), 'hi')
  t.equal((await wire.response()).body, 'pong')
  t.equal((await wire.head()).status, 200)
  t.equal((await chunkedBody(wire)).toString(), 'you')
  t.equal((await wire.response()).body, 'pong')
})

t.test('S9 Content-Length: 0 is an empty body', async t => {
  const { wire, connection } = await message(t, { request: withLength(0) }, async ({ kind, readable, writable }) => {
    writable.end(`${kind} of ${(await all(readable)).length} bytes`)
  })
  t.equal((await chunkedBody(wire)).toString(), 'body of 0 bytes')
  t.match(await connection.closed, { reason: 'end', bytesRead: 0 })
  t.ok(await serves(wire))
})

onEach(t, 'S9 over HTTP/1.0 the end of the connection is the end of the message', async (t, transport) => {
  const request = 'POST /it HTTP/1.0\r\nContent-Length: 8\r\n\r\n'
  const { wire, head, connection } = await message(t, { transport, request }, shout)
  t.equal(head.headers['transfer-encoding'], undefined)
  wire.send('half')
  t.equal((await wire.bytes(4)).toString(), 'HALF')
  wire.send('rest')
  t.equal((await wire.rest()).toString(), 'REST')
  t.equal((await connection.closed).reason, 'end')
})

onEach(t, 'S9 64 MiB both ways at once, each chunk as it comes', async (t, transport) => {
  const { wire, connection } = await message(t, { transport }, ({ readable, writable }) => pipeline(readable, writable))
  const piece = pattern(256 * 1024)
  let received = 0
  wire.socket.removeAllListeners('data')
  wire.socket.on('data', (data: Buffer) => { received += data.length })
  for (let sent = 0; sent < 256; sent++) {
    if (!wire.socket.write(chunk(piece))) await once(wire.socket, 'drain')
  }
  wire.send(LAST_CHUNK)
  t.match(await connection.closed, { reason: 'end', bytesRead: 64 * MiB, bytesWritten: 64 * MiB })
  wire.end()
  await once(wire.socket, 'end')
  t.ok(received > 64 * MiB)
}, ['tcp'])

onEach(t, 'S1 a client that half-closes behind its body still gets 1 MiB', async (t, transport) => {
  const late = pattern(MiB)
  const { wire, connection } = await message(t, { transport }, async ({ readable, writable }) => {
    t.equal((await all(readable)).toString(), 'question')
    await new Promise(resolve => setImmediate(resolve))
    await written(writable, 'first')
    writable.end(late)
  })
  wire.end(Buffer.concat([chunk('question'), Buffer.from(LAST_CHUNK)]))
  const body = await chunkedBody(wire)
  t.equal(sha256(body), sha256(Buffer.concat([Buffer.from('first'), late])))
  t.equal((await wire.rest()).toString(), '')
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

onEach(t, 'S1 a client that half-closes behind a body which waits for another response still gets its answer', async (t, transport) => {
  const slow = gate()
  const entered = gate()
  const { connect } = await serve(t, { transport }, app => {
    app.get('/slow', async () => {
      await slow.promise
      return 'slow'
    })
    app.post('/it', { duplex: true }, async ({ readable, writable }) => {
      const heard = await all(readable)
      entered.open()
      writable.end(`heard ${heard}`)
    })
  })
  const wire = await connect()
  wire.end(`GET /slow HTTP/1.1\r\nHost: a\r\n\r\n${withLength(5)}hello`)
  await entered.promise
  await new Promise(resolve => setImmediate(resolve))
  slow.open()
  t.equal((await wire.response()).body, 'slow')
  t.equal((await wire.head()).status, 200)
  t.equal((await chunkedBody(wire)).toString(), 'heard hello')
  t.equal((await wire.rest()).toString(), '')
})

for (const [which, head] of [
  ['HTTP/1.0', 'POST /it HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 5\r\n\r\n'],
  ['that the route never takes', 'POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\n'],
  ['that the route does not take here', 'POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: bar\r\nContent-Length: 5\r\n\r\n']
] as const) {
  onEach(t, `S1 a client that half-closes behind a body with an ignored Upgrade (${which}) gets its answer behind another`, async (t, transport) => {
    const slow = gate()
    const { connect } = await serve(t, { transport }, app => {
      app.get('/slow', async () => {
        await slow.promise
        return 'slow'
      })
      app.get('/other', async () => 'other')
      app.post('/it', { duplex: { protocols: ['foo'] } }, async ({ readable, writable }) => {
        writable.end(`heard ${await all(readable)}`)
      })
    })
    const wire = await connect()
    wire.end(`GET /slow HTTP/1.1\r\nHost: a\r\n\r\n${head}hello`)
    // The end of input is with the server when a request that was sent later, on another connection, has its answer.
    const other = await connect()
    other.send('GET /other HTTP/1.1\r\nHost: a\r\n\r\n')
    t.equal((await other.response()).body, 'other')
    other.end()
    slow.open()
    t.equal((await wire.response()).body, 'slow')
    t.equal((await wire.head()).status, 200)
    t.match((await wire.rest()).toString(), 'heard hello')
  })
}

for (const [which, request] of [
  ['that is kept alive', withLength(MiB)],
  ['that says close', `POST /it HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ${MiB}\r\n\r\n`],
  ['over HTTP/1.0', `POST /it HTTP/1.0\r\nContent-Length: ${MiB}\r\n\r\n`]
] as const) {
  t.test(`S2 the server ends first, then reads the whole of a body ${which}`, async t => {
    const body = pattern(MiB)
    const got = gate<Buffer>()
    const { wire, head, connection } = await message(t, { request }, async ({ readable, writable }) => {
      writable.end('bye')
      await once(writable, 'finish')
      got.open(await all(readable))
    })
    if (head.headers['transfer-encoding'] === undefined) t.equal((await wire.bytes(3)).toString(), 'bye')
    else t.equal((await chunkedBody(wire)).toString(), 'bye')
    wire.send(body)
    t.match(await connection.closed, { reason: 'end', bytesRead: MiB })
    t.equal(sha256(await got.promise), sha256(body))
    if (which === 'that is kept alive') t.ok(await serves(wire))
    else t.equal((await wire.rest()).toString(), '', 'closed, now that it is whole')
  })
}

t.test('S8 writes of nothing are no chunks, and end nothing', async t => {
  const { wire, connection } = await message(t, {}, async ({ readable, writable }) => {
    writable.write('')
    writable.write('a')
    writable.write(Buffer.alloc(0))
    t.equal((await all(readable)).length, 0)
    writable.write('b')
    writable.end('')
  })
  t.equal((await nextChunk(wire)).toString(), 'a')
  wire.send(LAST_CHUNK)
  t.equal((await chunkedBody(wire)).toString(), 'b')
  t.match(await connection.closed, { reason: 'end', bytesWritten: 2 })
})

const ABORTED = { reason: 'abort', error: { code: 'FST_ERR_DUPLEX_ABORTED' } }

/** Ways in which the body of a request breaks off. */
const breaks: [how: string, request: string, body: string, end: (wire: Wire) => unknown][] = [
  ['a malformed chunk', CHUNKED, '4\r\nsome\r\n', wire => wire.send('no size\r\n')],
  ['a chunk that is longer than its size', CHUNKED, '4\r\nsome', wire => wire.send(' more\r\n')],
  ['a FIN within a chunked body', CHUNKED, '4\r\nsome\r\n', wire => wire.end()],
  ['a FIN within a body with Content-Length', withLength(9), 'some', wire => wire.end()],
  ['a reset within a chunked body', CHUNKED, '4\r\nsome\r\n', wire => wire.reset()],
  ['a reset within a body with Content-Length', withLength(9), 'some', wire => wire.reset()]
]

for (const [how, request, body, end] of breaks) {
  onEach(t, `S10 ${how} fails the readable, and the connection is closed`, async (t, transport) => {
    const { lines, logger } = logLines()
    const settings = { transport, request, fastify: { logger } }
    const { wire, connection, quiet } = await message(t, settings, async ({ readable, writable, signal }) => {
      const body = readable[Symbol.asyncIterator]()
      t.equal(String((await body.next()).value), 'some')
      writable.write('got some')
      await t.rejects(body.next(), { code: 'ECONNRESET' })
      t.match(signal.reason, ABORTED.error)
      writable.end('and the rest')
    })
    wire.send(body)
    t.equal((await nextChunk(wire)).toString(), 'got some')
    end(wire)
    t.match(await connection.closed, ABORTED)
    await quiet()
    t.equal(await wire.remains(), '', 'neither a last chunk nor an error page')
    t.same(lines.filter(line => line.msg === 'duplex handler failed'), [], 'not reported as the failure of the handler')
  }, how.startsWith('a reset') ? everywhere : ways)
}

onEach(t, 'S10 a reset while the body is not read ends the takeover', async (t, transport) => {
  const { wire, connection, quiet } = await message(t, { transport }, ({ closed }) => closed)
  wire.send(chunk('unread'))
  await once(connection.readable, 'readable')
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S10 a client that vanishes when the response is over, and the body is not, fails the readable', async (t, transport) => {
  const { wire, connection, quiet } = await message(t, { transport }, async ({ readable, writable }) => {
    writable.end('enough')
    await t.rejects(all(readable), { code: 'ECONNRESET' })
  })
  t.equal((await chunkedBody(wire)).toString(), 'enough')
  wire.send(chunk('more'))
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
}, everywhere)

t.test('S10 a malformed chunk behind a finished response: nothing that could be taken for another response', async t => {
  const { wire, connection, quiet } = await message(t, {}, async ({ readable, writable }) => {
    writable.end('enough')
    await t.rejects(all(readable), { code: 'ECONNRESET' })
  })
  t.equal((await chunkedBody(wire)).toString(), 'enough')
  wire.send(chunk('more')).send('no size\r\n')
  t.equal(await wire.remains(), '')
  t.match(await connection.closed, ABORTED)
  await quiet()
})

t.test('S10 a client that vanishes behind an earlier request that is not answered yet', async t => {
  const held = gate()
  const entered = gate<DuplexConnection>()
  const { connect, quiet } = await serve(t, {}, app => {
    app.get('/slow', () => held.promise)
    app.post('/it', { duplex: true }, connection => {
      entered.open(connection)
      return connection.closed
    })
  })
  const wire = await connect()
  wire.send(`GET /slow HTTP/1.1\r\nHost: a\r\n\r\n${withLength(4)}body`)
  const connection = await entered.promise
  wire.reset()
  t.match(await connection.closed, ABORTED)
  held.open()
  await quiet()
})

t.test('S10 a client that vanishes before a handler has accepted its body', async t => {
  const done = gate()
  const { connect, quiet } = await serve(t, {}, app => {
    app.post('/it', { duplex: { accept: 'manual' } }, async pending => {
      wire.reset()
      await once(pending.signal, 'abort')
      await t.rejects(async () => await pending.accept(), { code: 'FST_ERR_DUPLEX_ABORTED' })
      t.match(await pending.closed, ABORTED)
      done.open()
    })
  })
  const wire = await connect()
  wire.send(`${CHUNKED}4\r\nsome\r\n`)
  await done.promise
  await quiet()
})

onEach(t, 'S11 a body that nobody read is drained: the connection serves on', async (t, transport) => {
  const { wire, connection } = await message(t, { transport, request: withLength(200_000) }, async ({ writable }) => { writable.write('no, thanks') })
  t.equal((await chunkedBody(wire)).toString(), 'no, thanks')
  wire.send(pattern(200_000))
  t.match(await connection.closed, { reason: 'end', bytesRead: 200_000 })
  t.ok(await serves(wire))
}, everywhere)

for (const [which, request, where] of [
  ['that is kept alive', withLength(256 * MiB), transports],
  ['that says close', `POST /it HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ${256 * MiB}\r\n\r\n`, ['tcp']]
] as const) {
  onEach(t, `S11 the body of a message ${which} is too much to drain: a whole response, then the connection is closed`, async (t, transport) => {
    const answer = Buffer.alloc(MiB, 'no, thanks. ')
    const { wire, connection, quiet } = await message(t, { transport, request }, async ({ writable }) => { writable.write(answer) })
    const piece = Buffer.alloc(256 * 1024)
    const send = (): void => { while (wire.socket.writable && wire.socket.write(piece)); }
    wire.socket.on('drain', send)
    send()
    t.equal(sha256(await chunkedBody(wire)), sha256(answer))
    const { bytesRead } = await connection.closed
    t.ok(bytesRead < 4 * MiB, `${bytesRead} bytes were read`)
    await quiet()
  }, where)
}

onEach(t, 'S11 a client that reads the response when it cannot send any more of the body gets all of it', async (t, transport) => {
  const answer = Buffer.alloc(200_000, 'no, thanks. ')
  const { wire, connection, quiet } = await message(t, { transport, request: withLength(256 * MiB) }, async ({ readable, writable }) => {
    await once(readable, 'readable')
    writable.write(answer)
  })
  const { socket } = connection.reply.request.raw
  const over = new Promise<string>(resolve => {
    socket.once('finish', () => resolve('ended'))
    socket.once('close', () => resolve('closed'))
  })
  wire.socket.pause()
  wire.send(Buffer.alloc(64 * MiB))
  t.equal(await over, 'ended')
  wire.socket.resume()
  t.equal(sha256(await chunkedBody(wire)), sha256(answer))
  t.equal(await wire.remains(), '')
  await connection.closed
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S11 a client that stalls within a body that nobody wants is not waited for longer than finTimeout', async (t, transport) => {
  const settings = { transport, request: withLength(9), plugin: { finTimeout: 100 } }
  const { wire, connection, quiet } = await message(t, settings, async ({ writable }) => { writable.end('no, thanks') })
  t.equal((await chunkedBody(wire)).toString(), 'no, thanks')
  wire.send('some')
  t.match(await connection.closed, { reason: 'fin', error: { code: 'FST_ERR_DUPLEX_FIN_TIMEOUT' } })
  await quiet()
}, everywhere)

t.test('S11 a handler without a promise that ends the response and reads nothing: drained within the same bound', async t => {
  const { wire, connection, quiet } = await message(t, { request: withLength(256 * MiB) }, ({ writable }) => { writable.end('no, thanks') })
  t.equal((await chunkedBody(wire)).toString(), 'no, thanks')
  wire.send(Buffer.alloc(64 * MiB))
  const { bytesRead } = await connection.closed
  t.ok(bytesRead > MiB && bytesRead < 4 * MiB, `${bytesRead} bytes were read`)
  t.equal(await wire.remains(), '')
  await quiet()
})

t.test('S11 a handler without a promise that ends the response and reads later gets the whole body', async t => {
  const body = pattern(MiB)
  const got = gate<Buffer>()
  const { wire, connection } = await message(t, { request: withLength(MiB) }, ({ readable, writable }) => {
    all(readable).then(got.open, got.fail)
    writable.end('thanks')
  })
  t.equal((await chunkedBody(wire)).toString(), 'thanks')
  wire.send(body)
  t.equal(sha256(await got.promise), sha256(body))
  t.equal((await connection.closed).reason, 'end')
  t.ok(await serves(wire))
})

t.test('S11 a body that arrived whole before the handler has finished without reading it is in nobody\'s way', async t => {
  const finish = gate()
  const { app, wire, connection } = await message(t, { request: withLength(4) }, async ({ writable }) => {
    writable.end('no, thanks')
    await finish.promise
  })
  t.equal((await chunkedBody(wire)).toString(), 'no, thanks')
  wire.send('body')
  t.ok(await serves(wire))
  finish.open()
  t.equal((await connection.closed).reason, 'end')
  t.ok(await serves(wire))
  wire.end()
  await app.duplex.drain()
})

t.test('S11 a handler that pauses what it has closed leaves nothing on the wire, and nothing that close() would wait for', async t => {
  const size = MiB / 2
  const { app, wire, connection, quiet } = await message(t, { request: withLength(size), close: false }, async connection => {
    void connection.close()
    connection.readable.pause()
  })
  t.equal((await chunkedBody(wire)).toString(), '')
  wire.send(pattern(size))
  t.match(await connection.closed, { reason: 'end', bytesRead: size })
  t.ok(await serves(wire))
  wire.end()
  await quiet()
  await app.close()
})

t.test('S11 a body that its handler paused for good is over when it has arrived', async t => {
  const { app, wire, connection, quiet } = await message(t, { request: withLength(4), close: false }, async ({ readable, writable }) => {
    readable.on('data', () => {})
    readable.pause()
    writable.end('no, thanks')
  })
  t.equal((await chunkedBody(wire)).toString(), 'no, thanks')
  wire.send('body')
  t.match(await connection.closed, { reason: 'end', bytesRead: 4 })
  await app.duplex.drain(1000)
  t.ok(await serves(wire), 'nothing was left for the end of the drain to cut')
  wire.end()
  await quiet()
  await app.close()
})

t.test('S11 a reader that is still there when the handler has finished gets the rest of the body', async t => {
  const body = pattern(4 * MiB)
  const sink = new PassThrough()
  const { wire, connection } = await message(t, { request: withLength(body.length) }, async ({ readable, writable }) => {
    readable.pipe(sink)
    writable.write('on its way')
  })
  t.equal((await chunkedBody(wire)).toString(), 'on its way')
  wire.send(body)
  t.equal(sha256(await all(sink)), sha256(body))
  t.match(await connection.closed, { reason: 'end', bytesRead: body.length })
  t.ok(await serves(wire))
})

onEach(t, 'S15 a loop over the whole of a body leaves the response open for 1 MiB', async (t, transport) => {
  const late = pattern(MiB)
  const { wire } = await message(t, { transport }, async ({ readable, writable }) => {
    let received = ''
    for await (const data of readable) received += data
    t.equal(received, 'question')
    await new Promise(resolve => setImmediate(resolve))
    writable.write(late)
  })
  wire.send(chunk('quest')).send(chunk('ion')).send(LAST_CHUNK)
  t.equal(sha256(await chunkedBody(wire)), sha256(late))
  t.ok(await serves(wire))
}, everywhere)

t.test('S15 a break leaves the rest of a body to be read', async t => {
  const { wire } = await message(t, {}, async ({ readable, writable }) => {
    for await (const data of readable) {
      writable.write(`first: ${data}`)
      if (String(data) === 'one') break
    }
    await new Promise(resolve => setImmediate(resolve))
    writable.write(`, then: ${await all(readable)}`)
  })
  wire.send(chunk('one'))
  t.equal((await nextChunk(wire)).toString(), 'first: one')
  wire.send(chunk('two')).send(chunk('three')).send(LAST_CHUNK)
  t.equal((await chunkedBody(wire)).toString(), ', then: twothree')
  t.ok(await serves(wire))
})

for (const [framing, fields, body] of [
  ['Content-Length', 'Content-Length: 4', 'body'],
  ['chunks', 'Transfer-Encoding: chunked', '4\r\nbody\r\n0\r\n\r\n']
] as const) {
  onEach(t, `R17 Expect: 100-continue with ${framing} gets its 100 and then works`, async (t, transport) => {
    const { connect } = await serve(t, { transport, before: app => app.get('/ping', pong) }, app => {
      app.post('/it', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))
    })
    const wire = await connect()
    wire.send(`POST /it HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n${fields}\r\n\r\n`)
    t.equal(await wire.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
    wire.send(body)
    t.equal((await wire.head()).status, 200)
    t.equal((await chunkedBody(wire)).toString(), 'body')
    t.ok(await serves(wire))
  })
}

t.test('R17 an expectation that nobody knows is a 417', async t => {
  const { connect } = await serve(t, {}, app => {
    app.post('/it', { duplex: true }, () => t.fail('entered'))
  })
  const wire = await connect()
  wire.send('POST /it HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\nContent-Length: 4\r\n\r\n')
  t.equal((await wire.head()).status, 417)
})

const ZIPPED = 'POST /it HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n'

/** `body`, on a server that decompresses. */
function zipped (
  t: Parameters<typeof takeover>[0], handler: (connection: DuplexConnection) => unknown, settings: TakeoverSettings = {}
): Promise<Takeover> {
  return takeover(t, { request: ZIPPED, ...settings, before: async app => { await app.register(compress).get('/ping', pong) } }, handler)
}

t.test('R21 a compressed upload arrives decompressed, as it comes', async t => {
  const text = pattern(MiB)
  const { wire, connection } = await zipped(t, async ({ readable, writable }) => {
    const first = gate()
    readable.once('readable', first.open)
    await first.promise
    writable.write('first')
    writable.write(sha256(await all(readable)))
  })
  const upload = gzipSync(text)
  wire.send(chunk(upload.subarray(0, 200_000)))
  t.equal((await nextChunk(wire)).toString(), 'first')
  wire.send(chunk(upload.subarray(200_000))).send(LAST_CHUNK)
  t.equal((await chunkedBody(wire)).toString(), sha256(text))
  t.match(await connection.closed, { reason: 'end', bytesRead: upload.length })
  t.ok(await serves(wire))
})

t.test('R21 a compressed upload that the client breaks off fails the readable', async t => {
  const { wire, connection, quiet } = await zipped(t, async ({ readable }) => {
    await t.rejects(all(readable))
  })
  wire.send(chunk(gzipSync(pattern(MiB)).subarray(0, 200_000)))
  await once(connection.readable, 'readable')
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
})

t.test('R21 a malformed chunk within a compressed upload fails the readable', async t => {
  const { wire, connection, quiet } = await zipped(t, async ({ readable }) => {
    await t.rejects(all(readable))
  })
  wire.send(chunk(gzipSync(pattern(MiB)).subarray(0, 200_000))).send('no size\r\n')
  t.match(await connection.closed, ABORTED)
  await quiet()
})

t.test('R21 an upload that is not what its Content-Encoding says is an error, never an end', async t => {
  const { wire, connection, quiet } = await zipped(t, async ({ readable, writable }) => {
    await written(writable, 'part')
    await all(readable)
  })
  t.equal((await nextChunk(wire)).toString(), 'part')
  wire.send(chunk('this is no gzip')).send(LAST_CHUNK)
  t.equal((await connection.closed).reason, 'error')
  t.equal(await wire.remains(), '')
  await quiet()
})

t.test('R21 a compressed upload of which the handler reads nothing is drained', async t => {
  const { wire, connection } = await zipped(t, async ({ writable }) => { writable.write('no, thanks') })
  const upload = gzipSync(pattern(MiB / 2))
  t.equal((await chunkedBody(wire)).toString(), 'no, thanks')
  wire.send(chunk(upload)).send(LAST_CHUNK)
  t.equal((await connection.closed).reason, 'end')
  t.ok(await serves(wire))
})

/** A preParsing hook that makes its own stream of the body, and nothing more. */
async function upperCase (_request: unknown, _reply: unknown, payload: Readable): Promise<Readable> {
  const upper = new PassThrough()
  payload.on('data', (data: Buffer) => upper.write(String(data).toUpperCase()))
  payload.on('end', () => upper.end())
  return upper
}

t.test('R21 any stream that a preParsing hook returns is the body', async t => {
  const { wire } = await message(t, { hooks: { preParsing: upperCase } }, ({ readable, writable }) => pipeline(readable, writable))
  wire.send(chunk('quiet')).send(LAST_CHUNK)
  t.equal((await chunkedBody(wire)).toString(), 'QUIET')
})

t.test('R21 and it fails when the body breaks off, whoever made it', async t => {
  const { wire, connection, quiet } = await message(t, { hooks: { preParsing: upperCase } }, async ({ readable }) => {
    await t.rejects(all(readable), { code: 'ECONNRESET' })
  })
  wire.send(chunk('quiet'))
  await once(connection.readable, 'readable')
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
})

onEach(t, 'S10 a reset behind a whole body, while the response is sent, is an abort', async (t, transport) => {
  const { wire, connection, quiet } = await message(t, { transport }, async ({ readable, writable, signal }) => {
    t.equal((await all(readable)).toString(), 'body')
    writable.write('part')
    await once(signal, 'abort')
    await t.rejects(written(writable, 'more'))
  })
  wire.send(chunk('body')).send(LAST_CHUNK)
  t.equal((await nextChunk(wire)).toString(), 'part')
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S3 a client that vanishes behind the end of its body is found, though nobody reads or writes', async (t, transport) => {
  const { wire, connection, quiet } = await message(t, { transport }, () => {})
  const { socket } = connection.reply.request.raw
  const ended = once(socket, 'end')
  wire.send(LAST_CHUNK).end()
  await ended
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S3 nor is one that vanishes there before acceptance missed', async (t, transport) => {
  const entered = gate<PendingDuplex>()
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.post('/it', { duplex: { accept: 'manual' } }, async pending => {
      entered.open(pending)
      await once(pending.signal, 'abort')
    })
  })
  const wire = await connect()
  wire.send(CHUNKED)
  const pending = await entered.promise
  const ended = once(pending.reply.request.raw.socket, 'end')
  wire.send(LAST_CHUNK).end()
  await ended
  wire.reset()
  t.match(await pending.closed, ABORTED)
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S3 nor when the body was to be an upgrade, until the protocols function said no', async (t, transport) => {
  const { wire, connection, quiet } = await message(t, {
    transport,
    duplex: { protocols: () => false },
    request: 'POST /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 4\r\n\r\n'
  }, () => {})
  const ended = once(connection.reply.request.raw.socket, 'end')
  wire.send('body').end()
  await ended
  wire.reset()
  t.match(await connection.closed, ABORTED)
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'L3 a handler of a body that rejects is logged once, and its onError hooks run', async (t, transport) => {
  const { lines, logger } = logLines()
  const heard: unknown[] = []
  const failure = new Error('midway')
  const onError = async (_request: unknown, _reply: unknown, error: unknown): Promise<void> => { heard.push(error) }
  const { wire, connection, quiet } = await message(t, { transport, fastify: { logger }, hooks: { onError } }, async ({ writable }) => {
    await written(writable, 'part')
    throw failure
  })
  t.equal((await nextChunk(wire)).toString(), 'part')
  const { reason, error } = await connection.closed
  t.equal(reason, 'error')
  t.equal(error, failure)
  t.ok(heard.length === 1 && heard[0] === failure, 'onError ran once')
  t.match(lines.filter(line => line.msg === 'duplex handler failed'), [{ level: 50, err: { message: 'midway' } }])
  t.equal(await wire.remains(), '')
  await quiet()
})

/** How a handler may fail when it has sent a part of its response, and what `closed` then says. */
const ownFailures: readonly Failure[] = [
  ...failures,
  ['writable.destroy()', 'destroyed', ({ writable, closed }) => {
    writable.destroy()
    return closed
  }],
  ['a malformed chunk', 'abort', ({ closed }) => closed]
]

for (const [how, reason, fail, plugin] of ownFailures) {
  onEach(t, `L14 a message is truncated, and the connection closed, after ${how}`, async (t, transport) => {
    const { app, wire, connection, quiet } = await message(t, { transport, plugin: plugin ?? {} }, async connection => {
      await written(connection.writable, 'part')
      await once(connection.readable, 'data')
      await fail(connection)
    })
    t.equal((await nextChunk(wire)).toString(), 'part')
    wire.send(chunk('go')).send(reason === 'abort' ? 'no size\r\n' : '')
    if (reason === 'shutdown') void app.duplex.drain()
    t.equal(await wire.remains(), '', 'no last chunk')
    t.equal((await connection.closed).reason, reason)
    await quiet()
  })
}

for (const [how, reason, fail, plugin] of failures.filter(([how]) => how !== 'a malformed chunk')) {
  onEach(t, `L14 over HTTP/1.0, where a message has no end but that of the connection, it is reset after ${how}`, async (t, transport) => {
    const request = 'POST /it HTTP/1.0\r\nContent-Length: 9\r\n\r\n'
    const { app, wire, connection } = await message(t, { transport, request, plugin: plugin ?? {} }, async connection => {
      await written(connection.writable, 'part')
      await once(connection.readable, 'data')
      await fail(connection)
    })
    t.equal(await wire.until('part'), 'part')
    wire.send('go')
    if (reason === 'shutdown') void app.duplex.drain()
    t.equal(await wire.gone(), 'broken')
    t.equal(wire.error?.code, 'ECONNRESET')
    t.equal((await connection.closed).reason, reason)
  }, ['tcp', 'tls'])
}

t.test('L14 a message whose whole body was read is truncated all the same', async t => {
  const { wire, connection } = await message(t, { request: `${withLength(4)}body` }, async ({ readable, writable }) => {
    await all(readable)
    await written(writable, 'part')
    throw new Error('midway')
  })
  t.equal((await nextChunk(wire)).toString(), 'part')
  t.equal(await wire.remains(), '')
  t.equal((await connection.closed).reason, 'error')
})
