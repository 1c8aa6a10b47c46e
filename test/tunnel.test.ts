import t from 'tap'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { PassThrough, type Readable } from 'node:stream'
import type { Test } from 'tap'
import { tunnel, type DuplexConnection, type FastifyDuplexOptions, type TunnelResult } from '../lib/index.ts'
import { chunk, chunkedBody, LAST_CHUNK } from './fixtures/chunked.ts'
import { everywhere, gate, onEach, serve, type Way } from './fixtures/server.ts'
import { all, MiB, pattern, sha256, takeover, UPGRADE } from './fixtures/takeover.ts'
import { upstream } from './fixtures/upstream.ts'
import type { Wire } from './fixtures/wire.ts'

const CONNECT = 'CONNECT up.example:443 HTTP/1.1\r\nHost: up.example:443\r\n\r\n'

interface Tunnel {
  /** The two ends of it. */
  client: Wire
  server: Wire
  connection: DuplexConnection
  /** The socket that the handler has to the server. */
  socket: Socket
  /** What `tunnel()` gave. */
  result: Promise<TunnelResult>
  /** Nothing of it is left. */
  quiet: () => Promise<void>
}

/** A client with a tunnel to a server: dialled first, then accepted. */
async function open (t: Test, transport: Way = 'tcp', plugin: FastifyDuplexOptions = {}, early = ''): Promise<Tunnel> {
  const { dial, accepted } = await upstream(t)
  const made = gate<Omit<Tunnel, 'client' | 'server' | 'quiet'>>()
  const { connect, quiet } = await serve(t, { transport, plugin }, app => {
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual', kinds: ['connect'] },
      async handler (pending) {
        const socket = await dial()
        const connection = await pending.accept()
        const result = tunnel(connection, socket)
        made.open({ connection, socket, result })
        await result
      }
    })
  })
  const client = await connect()
  client.send(`${CONNECT}${early}`)
  t.equal((await client.head()).status, 200)
  const { connection, socket, result } = await made.promise
  result.catch(() => {})
  const gone = async (): Promise<void> => {
    await quiet()
    if (!socket.closed) await once(socket, 'close')
  }
  return { client, server: await accepted(), connection, socket, result, quiet: gone }
}

onEach(t, 'S13 the client ends at once: the server sees it, and its late answer of 1 MiB arrives', async (t, transport) => {
  const answer = pattern(MiB)
  const { client, server, connection, result, quiet } = await open(t, transport)
  client.end('question')
  t.equal((await server.rest()).toString(), 'question')
  server.end(answer)
  t.equal(sha256(await client.rest()), sha256(answer))
  t.same(await result, { bytesToUpstream: 8, bytesFromUpstream: MiB })
  t.equal((await connection.closed).reason, 'end')
  await quiet()
}, everywhere)

onEach(t, 'S13 the server ends at once: the client sees it, and its late 1 MiB arrives', async (t, transport) => {
  const late = pattern(MiB)
  const { client, server, connection, result, quiet } = await open(t, transport)
  server.end('greeting')
  t.equal((await client.rest()).toString(), 'greeting')
  client.end(late)
  t.equal(sha256(await server.rest()), sha256(late))
  t.same(await result, { bytesToUpstream: MiB, bytesFromUpstream: 8 })
  t.equal((await connection.closed).reason, 'end')
  await quiet()
}, everywhere)

onEach(t, 'S13 the client ends after the reply, then the server', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  client.send('question')
  t.equal(await server.until('question'), 'question')
  server.send('answer')
  t.equal(await client.until('answer'), 'answer')
  client.end()
  t.equal((await server.rest()).toString(), '')
  server.end()
  t.equal((await client.rest()).toString(), '')
  t.same(await result, { bytesToUpstream: 8, bytesFromUpstream: 6 })
  t.equal((await connection.closed).reason, 'end')
  await quiet()
}, everywhere)

onEach(t, 'S13 the server ends after the reply, then the client', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  client.send('question')
  t.equal(await server.until('question'), 'question')
  server.end('answer')
  t.equal((await client.rest()).toString(), 'answer')
  client.end('thanks')
  t.equal((await server.rest()).toString(), 'thanks')
  t.same(await result, { bytesToUpstream: 14, bytesFromUpstream: 6 })
  t.equal((await connection.closed).reason, 'end')
  await quiet()
}, everywhere)

onEach(t, 'S13 both end at the same moment', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  client.end('one way')
  server.end('the other')
  t.equal((await server.rest()).toString(), 'one way')
  t.equal((await client.rest()).toString(), 'the other')
  t.same(await result, { bytesToUpstream: 7, bytesFromUpstream: 9 })
  t.equal((await connection.closed).reason, 'end')
  await quiet()
}, everywhere)

onEach(t, 'S13 early bytes of the client go first', async (t, transport) => {
  const { client, server, result } = await open(t, transport, {}, 'early, ')
  client.end('late')
  t.equal((await server.rest()).toString(), 'early, late')
  server.end()
  t.equal((await result).bytesToUpstream, 11)
}, everywhere)

onEach(t, 'S13 what the server says before the tunnel is accepted comes behind the accept head', async (t, transport) => {
  const { dial, accepted } = await upstream(t)
  const { connect } = await serve(t, { transport }, app => {
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual' },
      async handler (pending) {
        const socket = await dial()
        const server = await accepted()
        server.send('220 ready\r\n')
        await once(socket, 'readable')
        const done = tunnel(await pending.accept(), socket)
        t.equal(await server.until('QUIT\r\n'), 'QUIT\r\n')
        server.end('221 bye\r\n')
        await done
      }
    })
  })
  const client = await connect()
  client.send(CONNECT)
  t.equal((await client.head()).status, 200)
  t.equal(await client.until('\r\n'), '220 ready\r\n')
  client.end('QUIT\r\n')
  t.equal((await client.rest()).toString(), '221 bye\r\n')
}, everywhere)

onEach(t, 'S13 a reset of the server is a reset for the client', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  server.send('part')
  t.equal(await client.until('part'), 'part')
  server.reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  if (transport !== 'unix') t.equal(await client.gone(), 'broken')
  t.match(await connection.closed, { reason: 'error', error: { code: 'ECONNRESET' } })
  await quiet()
}, everywhere)

onEach(t, 'S13 a reset of the server that comes with its last bytes is no end', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  server.send('part').reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  if (transport !== 'unix') t.equal(await client.gone(), 'broken')
  t.match(await connection.closed, { reason: 'error', error: { code: 'ECONNRESET' } })
  await quiet()
}, everywhere)

onEach(t, 'S13 a reset of the client that comes with its last bytes is no end', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  client.send('part').reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  t.equal(await server.gone(), 'broken')
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S13 a reset of the client is a reset for the server', async (t, transport) => {
  const { client, server, connection, result, quiet } = await open(t, transport)
  client.send('part')
  t.equal(await server.until('part'), 'part')
  client.reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  t.equal(await server.gone(), 'broken')
  t.match(await connection.closed, { reason: 'abort', error: { code: 'FST_ERR_DUPLEX_ABORTED' } })
  await quiet()
}, ['tcp', 'tls'])

t.test('S13 a reset of the server behind the end of the client', async t => {
  const { client, server, connection, result, quiet } = await open(t)
  client.end('question')
  t.equal((await server.rest()).toString(), 'question')
  server.send('part')
  t.equal(await client.until('part'), 'part')
  server.reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  t.equal(await client.gone(), 'broken')
  t.equal((await connection.closed).reason, 'error')
  await quiet()
})

t.test('S13 a client that vanishes behind its end, while the server sends', async t => {
  const { client, server, connection, result, quiet } = await open(t)
  client.end('question')
  t.equal((await server.rest()).toString(), 'question')
  client.destroy()
  const send = (error?: Error | null): void => { if (error == null) server.socket.write(Buffer.alloc(MiB), send) }
  send()
  await t.rejects(result, { code: /^(?:ECONNRESET|EPIPE)$/ })
  t.equal(await server.gone(), 'broken')
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
})

t.test('S13 a server that has gone before the tunnel begins', async t => {
  const { dial, accepted } = await upstream(t)
  const { wire, connection, quiet } = await takeover(t, { request: CONNECT }, async connection => {
    await once(connection.readable, 'readable')
    const socket = await dial()
    const closed = once(socket, 'close').catch(() => {})
    ;(await accepted()).reset()
    await closed
    await t.rejects(tunnel(connection, socket), { code: 'ECONNRESET' })
    await connection.closed
  })
  wire.send('go')
  t.equal(await wire.gone(), 'broken')
  t.equal((await connection.closed).reason, 'error')
  await quiet()
})

t.test('S13 a client that has gone before the tunnel begins: the server is reset', async t => {
  const { dial, accepted } = await upstream(t)
  const done = gate()
  const { wire, connection } = await takeover(t, { request: CONNECT }, async connection => {
    const socket = await dial()
    const server = await accepted()
    wire.reset()
    await connection.closed
    await t.rejects(tunnel(connection, socket), { code: 'ECONNRESET' })
    t.equal(await server.gone(), 'broken')
    done.open()
  })
  t.equal((await connection.closed).reason, 'abort')
  await done.promise
})

for (const [how, reason, plugin] of [
  ['idleTimeout', 'idle', { idleTimeout: 100 }],
  ['maxLifetime', 'lifetime', { maxLifetime: 300 }]
] as const) {
  t.test(`S13 ${how} ends both sides`, async t => {
    const { client, server, connection, result, quiet } = await open(t, 'tcp', plugin)
    await t.rejects(result)
    t.equal(await client.gone(), 'broken')
    t.equal(await server.gone(), 'broken')
    t.equal((await connection.closed).reason, reason)
    await quiet()
  })
}

t.test('S13 both sides are destroyed once, and no listener is left', async t => {
  const { dial, accepted } = await upstream(t)
  const socket = await dial()
  const closes = { client: 0, server: 0 }
  const { wire, connection } = await takeover(t, { request: CONNECT }, async connection => {
    const before = [connection.readable, socket].map(listeners)
    connection.readable.on('close', () => closes.client++)
    socket.on('close', () => closes.server++)
    await t.rejects(tunnel(connection, socket), { code: 'ECONNRESET' })
    t.same([connection.readable, socket].map(listeners), before)
  })
  wire.send('some')
  const server = await accepted()
  t.equal(await server.until('some'), 'some')
  server.reset()
  t.equal((await connection.closed).reason, 'error')
  t.equal(await wire.gone(), 'broken')
  t.same(closes, { client: 1, server: 1 })
})

/** Who still listens to a stream; 'error' keeps a listener, and 'close' is the test's own. */
function listeners (stream: Readable): number[] {
  return ['data', 'readable', 'end', 'drain', 'finish', 'pause', 'resume', 'pipe', 'unpipe'].map(name => stream.listenerCount(name))
}

onEach(t, 'S13 a client that does not read holds the server back', async (t, transport) => {
  const { client, server, socket, connection, result } = await open(t, transport, { idleTimeout: 300 })
  client.socket.pause()
  server.send(Buffer.alloc(128 * MiB))
  await t.rejects(result)
  t.equal((await connection.closed).reason, 'idle')
  t.ok(socket.bytesRead < 32 * MiB, `${socket.bytesRead} of 128 MiB were read`)
  t.ok(socket.bytesRead - connection.bytesWritten <= MiB)
}, everywhere)

onEach(t, 'S13 a server that does not read holds the client back', async (t, transport) => {
  const { client, server, connection, result } = await open(t, transport, { idleTimeout: 300 })
  server.socket.pause()
  client.send(Buffer.alloc(128 * MiB))
  await t.rejects(result)
  const { reason, bytesRead } = await connection.closed
  t.equal(reason, 'idle')
  t.ok(bytesRead < 32 * MiB, `${bytesRead} of 128 MiB were read`)
}, everywhere)

onEach(t, 'S13 4 MiB both ways, past readers that pause', async (t, transport) => {
  const bytes = pattern(4 * MiB)
  const { client, server, result } = await open(t, transport)
  for (const { socket } of [client, server]) {
    socket.on('data', () => {
      socket.pause()
      setImmediate(() => socket.resume())
    })
  }
  client.end(bytes)
  server.end(bytes)
  t.equal(sha256(await server.rest()), sha256(bytes))
  t.equal(sha256(await client.rest()), sha256(bytes))
  t.same(await result, { bytesToUpstream: bytes.length, bytesFromUpstream: bytes.length })
}, everywhere)

t.test('S13 an upstream that was paused until the tunnel is there', async t => {
  const { dial, accepted } = await upstream(t)
  const socket = await dial()
  socket.pause()
  const server = await accepted()
  server.end('220 ready')
  const { wire } = await takeover(t, { request: CONNECT }, connection => tunnel(connection, socket))
  t.equal((await wire.rest()).toString(), '220 ready')
  wire.end('bye')
  t.equal((await server.rest()).toString(), 'bye')
})

t.test('S13 an upstream whose sides have ended before', async t => {
  const { dial, accepted } = await upstream(t)
  const socket = await dial()
  const server = await accepted()
  socket.end('all I have to say')
  await once(socket, 'finish')
  server.end()
  socket.resume()
  await once(socket, 'end')
  const { wire, connection } = await takeover(t, { request: CONNECT }, async connection => {
    t.same(await tunnel(connection, socket), { bytesToUpstream: 0, bytesFromUpstream: 0 })
  })
  t.equal((await wire.rest()).toString(), '')
  wire.end()
  t.equal((await connection.closed).reason, 'end')
})

t.test('S13 an end that somebody else gave to a side which is owed more is an error', async t => {
  const { client, server, connection, result, quiet } = await open(t)
  server.send('part')
  t.equal(await client.until('part'), 'part')
  connection.writable.end()
  await t.rejects(result, { code: 'ERR_STREAM_PREMATURE_CLOSE' })
  t.equal(await server.gone(), 'broken')
  t.not((await connection.closed).reason, 'end')
  await quiet()
})

t.test('S13 a body, joined with a pair of streams', async t => {
  const request = 'POST /it HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'
  const up = new PassThrough()
  const down = new PassThrough()
  const { wire, connection } = await takeover(t, { request }, async connection => {
    t.same(await tunnel(connection, { readable: down, writable: up }), { bytesToUpstream: 8, bytesFromUpstream: 6 })
  })
  wire.send(chunk('question')).send(LAST_CHUNK)
  t.equal((await all(up)).toString(), 'question')
  down.end('answer')
  t.equal((await chunkedBody(wire)).toString(), 'answer')
  t.equal((await connection.closed).reason, 'end')
})

t.test('S13 two connections, joined with each other', async t => {
  const first = gate<DuplexConnection>()
  const { connect } = await serve(t, {}, app => {
    app.get('/one', { duplex: true }, connection => {
      first.open(connection)
      return connection.closed
    })
    app.get('/other', { duplex: true }, async connection => tunnel(connection, await first.promise))
  })
  const [one, other] = [await connect(), await connect()]
  one.send(UPGRADE.replace('/it', '/one'))
  other.send(UPGRADE.replace('/it', '/other'))
  await one.head()
  await other.head()
  one.end('from one')
  t.equal((await other.rest()).toString(), 'from one')
  other.send('from the other')
  t.equal(await one.until('other'), 'from the other')
  other.reset()
  t.equal(await one.gone(), 'broken')
  t.match(await (await first.promise).closed, { reason: 'error', error: { code: 'ECONNRESET' } })
})

t.test('S13 a refused upstream is a 502, and nothing is accepted', async t => {
  const { connect, quiet } = await serve(t, {}, app => {
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual' },
      async handler () {
        throw Object.assign(new Error('connect ECONNREFUSED'), { statusCode: 502 })
      }
    })
  })
  const wire = await connect()
  wire.send(`${CONNECT}early`)
  t.match(await wire.response(), { status: 502, headers: { connection: 'close' } })
  t.equal((await wire.rest()).toString(), '')
  wire.end()
  await quiet()
})
