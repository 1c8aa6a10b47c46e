import t, { type Test } from 'tap'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http2 from 'node:http2'
import type net from 'node:net'
import { Duplex, PassThrough, type Readable, type Writable } from 'node:stream'
import { tunnel, type DuplexConnection, type TunnelEnd, type TunnelResult } from '../lib/index.ts'
import { chunk, chunkedBody, LAST_CHUNK } from './fixtures/chunked.ts'
import { turn } from './fixtures/links.ts'
import { everywhere, gate, onEach, type Way } from './fixtures/server.ts'
import { needs } from './fixtures/system.ts'
import { all, CONNECT, MiB, pattern, sha256, takeover } from './fixtures/takeover.ts'
import { fars, upstream } from './fixtures/upstream.ts'
import type { Wire } from './fixtures/wire.ts'

interface Joined {
  client: Wire
  connection: DuplexConnection
  result: Promise<TunnelResult>
}

/** A client joined with whatever `make` gives; the order of the ends is the test's. */
async function joined (t: Test, transport: Way, make: () => TunnelEnd | Promise<TunnelEnd>, turned = false): Promise<Joined> {
  const made = gate<Promise<TunnelResult>>()
  const { wire, connection } = await takeover(t, { transport, request: CONNECT }, async connection => {
    const other = await make()
    const result = turned ? tunnel(other, connection) : tunnel(connection, other)
    result.catch(() => {})
    made.open(result)
    await result
  })
  const result = made.promise.then(async result => await result)
  result.catch(() => {})
  return { client: wire, connection, result }
}

for (const far of fars) {
  for (const turned of [false, true]) {
    const roles = turned ? 'as the first end' : 'as the second end'
    onEach(t, `TU1 Q2 a socket of ${far} with Node's defaults, ${roles}: its 4 MiB arrive, then its end, and what comes late goes back`, async (t, transport) => {
      const answer = pattern(4 * MiB)
      const late = pattern(MiB)
      const { dialPlain, connected, accepted } = await upstream(t, far)
      let socket: net.Socket | undefined
      const { client, connection, result } = await joined(t, transport, async () => await connected(socket = dialPlain()), turned)
      const server = await accepted()
      server.end(answer)
      t.equal(sha256(await client.rest()), sha256(answer))
      client.end(late)
      t.equal(sha256(await server.rest()), sha256(late))
      t.same(Object.values(await result).sort(), [MiB, 4 * MiB].sort())
      t.equal((await connection.closed).reason, 'end')
      if (socket?.closed === false) await once(socket, 'close')
    }, turned ? ['tcp', 'h2'] : everywhere)
  }
}

onEach(t, 'Q2 a Duplex that does not stay half-open by itself', async (t, transport) => {
  const asked = new PassThrough()
  const other = new Duplex({
    allowHalfOpen: false,
    read () {},
    write (chunk, _encoding, done) { asked.write(chunk, done) },
    final (done) {
      asked.end()
      done()
    }
  })
  const { client, connection, result } = await joined(t, transport, () => other)
  other.push('answer')
  other.push(null)
  t.equal((await client.rest()).toString(), 'answer')
  client.end('question')
  t.equal((await all(asked)).toString(), 'question')
  t.same(await result, { bytesToUpstream: 8, bytesFromUpstream: 6 })
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

for (const far of fars) {
  t.test(`TU1 Q2 a socket of ${far} that has its end, and nobody has read it: the client still talks to the server`, async t => {
    const { dialPlain, connected, accepted } = await upstream(t, far)
    const socket = await connected(dialPlain())
    const server = await accepted()
    server.end('hello')
    while (socket.readableLength < 5) await once(socket, 'readable')
    const { client, result } = await joined(t, 'tcp', () => socket)
    t.equal((await client.rest()).toString(), 'hello')
    client.end('late')
    t.equal((await server.rest()).toString(), 'late')
    t.same(await result, { bytesToUpstream: 4, bytesFromUpstream: 5 })
  })

  t.test(`TU1 Q2 a tunnel that begins when a socket of ${far} tells of its end: it can still be written to`, async t => {
    const { dialPlain, connected, accepted } = await upstream(t, far)
    const socket = await connected(dialPlain())
    const server = await accepted()
    const made = gate<Promise<TunnelResult>>()
    const { wire } = await takeover(t, { request: CONNECT }, async connection => {
      socket.on('end', () => made.open(tunnel(connection, socket))).resume()
      server.end()
      await made.promise
    })
    t.equal((await wire.rest()).toString(), '')
    wire.end('late')
    t.equal((await server.rest()).toString(), 'late')
  })
}

t.test('TU1 Q2 a socket that had ended both its sides by itself: the client has its end, and is no failure when it only ends', async t => {
  const { dialPlain, connected, accepted } = await upstream(t)
  const socket = await connected(dialPlain())
  ;(await accepted()).end()
  socket.resume()
  await once(socket, 'close')
  const { client, connection, result } = await joined(t, 'tcp', () => socket)
  t.equal((await client.rest()).toString(), '')
  client.end()
  t.same(await result, { bytesToUpstream: 0, bytesFromUpstream: 0 })
  t.equal((await connection.closed).reason, 'end')
})

t.test('TU1 Q2 a socket that had ended both its sides by itself: what the client sends is not lost without a word', async t => {
  const { dialPlain, connected, accepted } = await upstream(t)
  const socket = await connected(dialPlain())
  ;(await accepted()).end()
  socket.resume()
  await once(socket, 'close')
  const { client, connection, result } = await joined(t, 'tcp', () => socket)
  t.equal((await client.rest()).toString(), '')
  client.send('anybody there?')
  await t.rejects(result, { code: 'ERR_STREAM_PREMATURE_CLOSE' })
  t.equal((await connection.closed).reason, 'error')
})

for (const far of ['tcp', 'tls'] as const) {
  onEach(t, `TU1 Q2 a reset of the client is a reset for the server, over ${far} with Node's defaults`, async (t, transport) => {
    const { dialPlain, connected, accepted } = await upstream(t, far)
    const { client, result } = await joined(t, transport, () => connected(dialPlain()))
    const server = await accepted()
    client.send('part')
    t.equal(await server.until('part'), 'part')
    client.reset()
    await t.rejects(result)
    t.equal(await server.gone(), 'broken')
    t.equal(server.ended, false)
  }, ['tcp', 'tls', 'injected', 'h2'])
}

/** A server of HTTP/2, and streams of a client to it that nothing has ended. */
async function http2Upstream (t: Test): Promise<{ open: () => http2.ClientHttp2Stream, accepted: () => Promise<http2.ServerHttp2Stream> }> {
  const server = http2.createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const session = http2.connect(`http://127.0.0.1:${(server.address() as net.AddressInfo).port}`)
  t.teardown(() => {
    session.destroy()
    server.close()
  })
  return {
    open: () => session.request({ ':method': 'POST' }, { endStream: false }),
    accepted: async () => {
      const [stream] = await once(server, 'stream') as [http2.ServerHttp2Stream]
      stream.on('error', () => {})
      stream.respond()
      return stream
    }
  }
}

onEach(t, 'TU1 Q2 a stream of HTTP/2 as upstream: 1 MiB each way, its end first', async (t, transport) => {
  const bytes = pattern(MiB)
  const { open, accepted } = await http2Upstream(t)
  const coming = accepted()
  const { client, connection, result } = await joined(t, transport, open)
  const stream = await coming
  const got = all(stream)
  stream.end(bytes)
  t.equal(sha256(await client.rest()), sha256(bytes))
  client.end(bytes)
  t.equal(sha256(await got), sha256(bytes))
  t.same(await result, { bytesToUpstream: MiB, bytesFromUpstream: MiB })
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

t.test('TU1 Q2 a server of HTTP/2 that answers and wants no more: its whole answer arrives', async t => {
  const bytes = pattern(MiB)
  const { open, accepted } = await http2Upstream(t)
  const coming = accepted()
  const { client, connection, result } = await joined(t, 'tcp', open)
  const stream = await coming
  client.send('question')
  // Nobody reads it: Node sends RST_STREAM with NO_ERROR behind the answer.
  stream.end(bytes)
  t.equal(sha256(await client.rest()), sha256(bytes))
  client.end('more')
  t.equal((await result).bytesFromUpstream, MiB)
  t.equal((await connection.closed).reason, 'end')
})

for (const code of [http2.constants.NGHTTP2_NO_ERROR, http2.constants.NGHTTP2_CANCEL, http2.constants.NGHTTP2_INTERNAL_ERROR]) {
  for (const clientEnded of [false, true]) {
    t.test(`TU1 Q2 a stream of HTTP/2 that is reset with code ${code} ${clientEnded ? 'behind the end of the client ' : ''}is no end`, async t => {
      const { open, accepted } = await http2Upstream(t)
      const coming = accepted()
      const { client, result } = await joined(t, 'tcp', open)
      const stream = await coming
      if (clientEnded) {
        client.end()
        t.equal((await all(stream)).length, 0)
      }
      stream.write('part')
      t.equal(await client.until('part'), 'part')
      stream.end = () => stream
      stream.close(code)
      await t.rejects(result)
      t.equal(await client.gone(), 'broken')
      t.equal(client.ended, false)
    })
  }
}

t.test('TU1 Q2 a reset of the client is RST_STREAM for a server of HTTP/2, and no END_STREAM before it', async t => {
  const { open, accepted } = await http2Upstream(t)
  const coming = accepted()
  const { client, result } = await joined(t, 'tcp', open)
  const stream = await coming
  client.send('part')
  t.equal(String((await once(stream, 'data'))[0]), 'part')
  const ended: string[] = []
  stream.on('end', () => ended.push('end'))
  const closed = once(stream, 'close').catch(() => {})
  client.reset()
  await t.rejects(result)
  await closed
  t.equal(stream.rstCode, http2.constants.NGHTTP2_INTERNAL_ERROR)
  t.same(ended, [])
})

/** A process as one end of a tunnel. */
function child (t: Test, command: string, ...args: string[]): { end: TunnelEnd, kill: () => void, exited: Promise<unknown> } {
  const process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => process.kill('SIGKILL'))
  return { end: { readable: process.stdout, writable: process.stdin }, kill: () => process.kill('SIGKILL'), exited: once(process, 'exit') }
}

onEach(t, 'TU7 Q2 a child process that reads five bytes: its output arrives, whatever the client still sends', async (t, transport) => {
  const { client, connection, result } = await joined(t, transport, () => child(t, 'head', '-c', '5').end)
  client.send(Buffer.alloc(4 * MiB, 'x'))
  t.equal((await client.rest()).toString(), 'xxxxx')
  client.end()
  t.match(await result, { bytesFromUpstream: 5 })
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

t.test('TU7 Q2 a child process that closes its stdin and then has 1 MiB to say', needs('sh', 'head'), async t => {
  const script = 'head -c 1 > /dev/null; exec < /dev/null; sleep 0; head -c 1048576 /dev/zero'
  const { client, result } = await joined(t, 'tcp', () => child(t, 'sh', '-c', script).end)
  client.send(Buffer.alloc(MiB, 'x'))
  t.equal((await client.rest()).length, MiB)
  t.equal((await result).bytesFromUpstream, MiB)
})

t.test('TU7 a child process that reads all and answers behind the end', needs('sha256sum'), async t => {
  const bytes = pattern(MiB)
  const { client, connection, result } = await joined(t, 'tcp', () => child(t, 'sha256sum').end)
  client.end(bytes)
  t.equal((await client.rest()).toString(), `${sha256(bytes)}  -\n`)
  t.equal((await result).bytesToUpstream, MiB)
  t.equal((await connection.closed).reason, 'end')
})

t.test('TU7 a child process that is killed ends the tunnel', needs('cat'), async t => {
  const made = gate<() => void>()
  const { client, connection, result } = await joined(t, 'tcp', () => {
    const { end, kill } = child(t, 'cat')
    made.open(kill)
    return end
  })
  client.send('echo')
  t.equal(await client.until('echo'), 'echo')
  ;(await made.promise)()
  t.equal((await client.rest()).toString(), '')
  t.same(await result, { bytesToUpstream: 4, bytesFromUpstream: 4 })
  client.end()
  await connection.closed
})

t.test('TU7 a client that vanishes closes both pipes of its child', needs('cat'), async t => {
  const made = gate<Promise<unknown>>()
  const { client, result } = await joined(t, 'tcp', () => {
    const { end, exited } = child(t, 'cat')
    made.open(exited)
    return end
  })
  client.send('echo')
  t.equal(await client.until('echo'), 'echo')
  client.reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  await made.promise
})

t.test('TU7 a pair whose output fails with anything but EPIPE is torn down', async t => {
  const readable = new PassThrough()
  const writable = new PassThrough()
  const { client, result } = await joined(t, 'tcp', () => ({ readable, writable }))
  readable.write('part')
  t.equal(await client.until('part'), 'part')
  writable.destroy(new Error('disk full'))
  await t.rejects(result, { message: 'disk full' })
  t.equal(await client.gone(), 'broken')
  t.ok(readable.destroyed)
})

for (const when of ['in the tick in which the tunnel is over', 'later'] as const) {
  t.test(`Q62 an upstream that fails ${when} ends nothing but itself`, async t => {
    const other = new Duplex({
      autoDestroy: false,
      emitClose: true,
      read () {},
      write (_chunk, _encoding, done) { done() }
    })
    const { client, result } = await joined(t, 'tcp', () => other)
    if (when === 'later') {
      other.push(null)
      client.end()
      t.equal((await client.rest()).length, 0)
      await result
      other.destroy(new Error('late'))
    } else {
      other.push(null)
      other.once('finish', () => {
        other.emit('error', new Error('at once'))
        process.nextTick(() => other.emit('error', new Error('in the next tick')))
      })
      client.end()
      await result.catch(() => {})
    }
    if (!other.destroyed) other.destroy()
    if (!other.closed) await once(other, 'close')
    t.ok(other.closed)
  })
}

t.test('Q62 a POST that has come whole, joined with a Duplex.from() of a function, as pipeline() has it', async t => {
  const request = 'POST /it HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'
  const seen: string[] = []
  const { wire, connection, connect } = await takeover(t, { request: request + chunk('abc') + LAST_CHUNK }, async connection => {
    const upper = Duplex.from(async function * (source: AsyncIterable<Buffer>) {
      for await (const piece of source) yield String(piece).toUpperCase()
    })
    await tunnel(connection, upper)
    seen.push('over')
  })
  t.equal((await chunkedBody(wire)).toString(), 'ABC')
  t.equal((await connection.closed).reason, 'end')
  t.same(seen, ['over'])
  const again = await connect()
  again.send(request + chunk('xyz') + LAST_CHUNK)
  await again.head()
  t.equal((await chunkedBody(again)).toString(), 'XYZ')
})

t.test('Q62 every stream has an owner for its errors as soon as it is handed over, and still when the tunnel is over', async t => {
  const make = (): { readable: Readable, writable: Writable } => ({ readable: new PassThrough(), writable: new PassThrough() })
  const [one, other] = [make(), make()]
  const streams = [one.readable, one.writable, other.readable, other.writable]
  const result = tunnel(one, other)
  t.same(streams.map(stream => stream.listenerCount('error') > 0), [true, true, true, true])
  for (const { readable } of [one, other]) (readable as PassThrough).end()
  for (const { writable } of [one, other]) (writable as PassThrough).resume()
  await result
  t.same(streams.map(stream => stream.listenerCount('error') > 0), [true, true, true, true])
})

t.test('Q62 what is no stream is told as such, and what came with it is left as it was', async t => {
  const { connection } = await takeover(t, { request: CONNECT }, async connection => { await connection.closed })
  const names = ['close', 'finish', 'data', 'end', 'drain']
  const before = names.map(name => connection.readable.listenerCount(name))
  await t.rejects(tunnel(connection, undefined as never), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
  await t.rejects(tunnel(connection, {} as never), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
  t.same(names.map(name => connection.readable.listenerCount(name)), before)
  t.equal(connection.readable.destroyed, false)
  connection.destroy()
})

t.test('TU1 a destination that wants a pause before the tunnel begins gets it', async t => {
  const held: (() => void)[] = []
  const other = new Duplex({
    writableHighWaterMark: 4,
    read () {},
    write (_chunk, _encoding, done) { held.push(done) }
  })
  t.equal(other.write('more than four'), false)
  const { client, connection } = await joined(t, 'tcp', () => other)
  client.send('more')
  while (connection.bytesRead < 4) await turn()
  t.equal(other.writableLength, 'more than four'.length)
  held.shift()?.()
  while (held.length === 0) await turn()
  t.equal(other.writableLength, 'more'.length)
  connection.destroy()
})

t.test('TU1 an upstream that is reset behind its end, while nobody sends it anything, is found', async t => {
  const { dialPlain, connected, accepted } = await upstream(t)
  const { client, connection, result } = await joined(t, 'tcp', () => connected(dialPlain()))
  const server = await accepted()
  server.end('part')
  t.equal((await client.rest()).toString(), 'part')
  server.reset()
  await t.rejects(result, { code: 'ECONNRESET' })
  t.equal((await connection.closed).reason, 'error')
})
