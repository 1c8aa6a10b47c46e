import t from 'tap'
import { once } from 'node:events'
import net from 'node:net'
import { pipeline } from 'node:stream/promises'
import { setTimeout } from 'node:timers/promises'
import tls from 'node:tls'
import type { FastifyRequest } from 'fastify'
import { failures, type Failure } from './fixtures/failures.ts'
import { Http2Wire } from './fixtures/http2-wire.ts'
import { everywhere, gate, onEach, onEachStream, serve, type Way } from './fixtures/server.ts'
import { all, CONNECT, HIJACK, logLines, MiB, pattern, sha256, takeover, UPGRADE, written } from './fixtures/takeover.ts'
import { Wire } from './fixtures/wire.ts'

const kinds = [['upgrade', UPGRADE], ['connect', CONNECT], ['hijack', HIJACK]] as const

onEachStream(t, 'S1 the client ends first and still gets 1 MiB', async (t, transport) => {
  const late = pattern(MiB)
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    t.equal((await all(readable)).toString(), 'question')
    writable.end(late)
  })
  wire.end('question')
  t.equal(sha256(await wire.rest()), sha256(late))
  t.match(await connection.closed, { reason: 'end', bytesRead: 8, bytesWritten: MiB })
}, everywhere)

for (const [kind, request] of kinds) {
  t.test(`S1 the client ends before the first read of a ${kind}, and still gets 1 MiB`, async t => {
    const late = pattern(MiB)
    const read = gate()
    const { wire, connection } = await takeover(t, { request }, async ({ readable, writable }) => {
      await read.promise
      t.equal((await all(readable)).toString(), 'question')
      await written(writable, late)
    })
    wire.end('question')
    read.open()
    t.equal(sha256(await wire.rest()), sha256(late))
    t.equal((await connection.closed).reason, 'end')
  })
}

onEachStream(t, 'S1 the end of the input aborts nothing', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable, signal }) => {
    readable.resume()
    await once(readable, 'end')
    t.equal(writable.writable, true)
    await written(writable, 'late')
    t.equal(signal.aborted, false)
  })
  wire.end()
  t.equal((await wire.rest()).toString(), 'late')
  t.equal((await connection.closed).error, undefined)
  t.equal(connection.signal.aborted, false)
}, everywhere)

onEachStream(t, 'S2 the server ends first and still reads 1 MiB', async (t, transport) => {
  const late = pattern(MiB)
  const got = gate<Buffer>()
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    writable.end('bye')
    got.open(await all(readable))
  })
  t.equal((await wire.rest()).toString(), 'bye')
  wire.end(late)
  t.equal(sha256(await got.promise), sha256(late))
  t.match(await connection.closed, { reason: 'end', bytesRead: MiB, bytesWritten: 3 })
}, everywhere)

for (const [kind, request] of kinds) {
  t.test(`S2 the server ends a ${kind} and reads until the client does`, async t => {
    const { wire, connection } = await takeover(t, { request }, async ({ readable, writable }) => {
      writable.end()
      await once(writable, 'finish')
      t.equal((await all(readable)).toString(), 'one, two')
    })
    t.equal((await wire.rest()).toString(), '')
    wire.send('one, ')
    wire.end('two')
    t.equal((await connection.closed).reason, 'end')
  })
}

onEachStream(t, 'S3 a reset in the middle ends reads, rejects writes and aborts', async (t, transport) => {
  const { wire, connection, quiet } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await t.rejects((async () => {
      await all(readable)
      // A Unix socket knows no reset: its reads end, and only a write finds that nobody is there.
      for (;;) await written(writable, 'anybody?')
    })(), { code: /^(?:ECONNRESET|EPIPE)$/ })
    await t.rejects(written(writable, 'still nobody'))
  })
  const aborted = once(connection.signal, 'abort')
  wire.send('half a mess')
  wire.reset()
  await aborted
  t.match(connection.signal.reason, { code: 'FST_ERR_DUPLEX_ABORTED', cause: { code: /^(?:ECONNRESET|EPIPE)$/ } })
  const { reason, error } = await connection.closed
  t.equal(reason, 'abort')
  t.equal(error, connection.signal.reason)
  await quiet()
}, everywhere)

onEach(t, 'S3 a reset that arrives together with the last bytes is no end of input', async (t, transport) => {
  const heard: string[] = []
  const failed = gate<unknown>()
  const { wire, connection, quiet } = await takeover(t, { transport }, async ({ readable }) => {
    try {
      for await (const chunk of readable) heard.push(String(chunk))
      failed.open('ended')
    } catch (error) {
      failed.open(error)
    }
  })
  wire.send('half of it')
  wire.reset()
  t.match(await failed.promise, { code: 'ECONNRESET' })
  t.equal(heard.join(''), 'half of it')
  t.match(await connection.closed, { reason: 'abort', error: { code: 'FST_ERR_DUPLEX_ABORTED' } })
  t.match(connection.signal.reason, { code: 'FST_ERR_DUPLEX_ABORTED' })
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S4 a reset that arrives together with bytes during a hook is no end of input', async (t, transport) => {
  const inHook = gate()
  const aborted = gate()
  let entered = false
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.addHook('onRequestAbort', async _request => { aborted.open() })
    app.get('/it', {
      duplex: true,
      preHandler: async () => {
        inHook.open()
        await aborted.promise
      }
    }, async () => { entered = true })
  })
  const wire = await connect()
  wire.send(UPGRADE)
  await inHook.promise
  wire.send('half of it')
  wire.reset()
  await aborted.promise
  await quiet()
  t.equal(entered, false)
}, ['tcp', 'tls'])

onEachStream(t, 'S3 a reset while nobody reads or writes is noticed', async (t, transport) => {
  const { wire, connection, quiet } = await takeover(t, { transport }, ({ signal }) => once(signal, 'abort'))
  wire.reset()
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
}, ['tcp', 'tls', 'h2'])

onEach(t, 'S3 a client that vanishes behind its FIN is found, though nobody reads or writes', async (t, transport) => {
  const { wire, connection, quiet } = await takeover(t, { transport }, async ({ readable, signal }) => {
    await once(readable.resume(), 'end')
    wire.reset()
    await once(signal, 'abort')
  })
  wire.end()
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
}, ['tcp', 'tls'])

onEachStream(t, 'S3 a reset under writes that wait rejects them', async (t, transport) => {
  const waiting = gate()
  const { wire, connection, quiet } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await once(readable, 'data')
    // Node 20 calls the one that the kernel has begun to take a success; not those behind it.
    writable.write(Buffer.alloc(64 * MiB))
    const second = written(writable, 'second')
    waiting.open()
    await t.rejects(second, { code: /^(?:ECONNRESET|EPIPE|ERR_STREAM_DESTROYED)$/ })
  })
  wire.send('go')
  await waiting.promise
  wire.socket.pause()
  wire.reset()
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
}, everywhere)

onEachStream(t, 'S3 a reset that ends the handler is not reported as its failure', async (t, transport) => {
  const { lines, logger } = logLines()
  const settings = { transport, fastify: { logger } }
  const { wire, connection } = await takeover(t, settings, ({ readable, writable }) => pipeline(readable, writable))
  wire.reset()
  t.equal((await connection.closed).reason, 'abort')
  t.same(lines.filter(line => line.level >= 50), [])
  t.match(lines.filter(line => 'duplex' in line), [{ duplex: { kind: 'upgrade', reason: 'abort' }, err: { code: 'FST_ERR_DUPLEX_ABORTED' } }])
}, ['tcp', 'tls', 'h2'])

/**
 * After a first response nothing of the TLS handshake is on its way any more. A reset that meets the
 * server's session tickets is lost in Node, which then sees an end.
 */
async function settled (wire: Wire): Promise<Wire> {
  if (wire instanceof Http2Wire) return wire
  wire.send('GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n')
  await wire.response()
  return wire
}

function accepted (transport: Way): number {
  return transport === 'h2' ? 200 : 101
}

for (const hook of ['onRequest', 'preHandler', 'onSend'] as const) {
  onEachStream(t, `S4 a reset while an ${hook} hook runs: the handler is not entered, nothing is left`, async (t, transport) => {
    const inHook = gate()
    const responded = gate()
    const { connect, quiet } = await serve(t, { transport }, app => {
      const untilItIsGone = async (request: FastifyRequest): Promise<void> => {
        inHook.open()
        await new Promise<void>(resolve => { request.raw.socket.once('close', () => resolve()) })
      }
      const onResponse = async (): Promise<void> => responded.open()
      app.get('/it', { duplex: true, onResponse, [hook]: untilItIsGone }, () => t.fail('entered'))
    })
    const wire = await settled(await connect())
    wire.send(`${UPGRADE}tail`)
    await inHook.promise
    wire.reset()
    await responded.promise
    await quiet()
    t.equal(wire.pending, '')
  }, ['tcp', 'tls', 'h2'])
}

onEachStream(t, 'S4 a reset that makes a hook fail: the onResponse hooks run all the same, once', async (t, transport) => {
  const inHook = gate()
  let responses = 0
  const { connect, app, quiet } = await serve(t, { transport }, app => {
    const preHandler = async (request: FastifyRequest): Promise<void> => {
      inHook.open()
      await once(request.raw.socket, 'data')
    }
    const onResponse = async (): Promise<void> => { responses++ }
    app.get('/it', { duplex: true, onResponse, preHandler }, () => t.fail('entered'))
  })
  const wire = await settled(await connect())
  wire.send(UPGRADE)
  await inHook.promise
  wire.reset()
  await quiet()
  await app.duplex.drain()
  t.equal(responses, 1)
}, ['tcp', 'tls', 'h2'])

onEachStream(t, 'S4 a reset while a handler decides aborts its signal, and accept() rejects', async (t, transport) => {
  const inHandler = gate()
  const done = gate()
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: { accept: 'manual' } }, async pending => {
      inHandler.open()
      await once(pending.signal, 'abort')
      t.match(pending.signal.reason, { code: 'FST_ERR_DUPLEX_ABORTED' })
      await t.rejects(async () => await pending.accept(), { code: 'FST_ERR_DUPLEX_ABORTED' })
      t.match(await pending.closed, { reason: 'abort', bytesWritten: 0 })
      done.open()
    })
  })
  const wire = await settled(await connect())
  wire.send(UPGRADE)
  await inHandler.promise
  wire.reset()
  await done.promise
  await quiet()
}, ['tcp', 'tls', 'h2'])

t.test('S4 a Unix socket that is gone before the handler looks like a FIN until something is written', async t => {
  const inHook = gate()
  const goOn = gate()
  const over = gate<string>()
  const { connect, quiet } = await serve(t, { transport: 'unix' }, app => {
    app.addHook('preHandler', async () => {
      inHook.open()
      await goOn.promise
    })
    app.get('/it', { duplex: true }, async ({ readable, writable, closed }) => {
      closed.then(({ reason }) => over.open(reason), () => {})
      t.equal((await all(readable)).toString(), 'tail')
      await t.rejects(written(writable, 'hello?'))
    })
  })
  const wire = await connect()
  wire.send(`${UPGRADE}tail`)
  await inHook.promise
  wire.destroy()
  await wire.gone()
  goOn.open()
  t.equal(await over.promise, 'abort')
  await quiet()
})

onEachStream(t, 'S4 clients that reset at any moment leave nothing', async (t, transport) => {
  const { connect, app, quiet } = await serve(t, { transport }, app => {
    app.addHook('preHandler', () => new Promise(resolve => setImmediate(resolve)))
    app.get('/it', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))
  })
  for (let moment = 0; moment < 40; moment++) {
    const wire = await settled(await connect())
    wire.send(`${UPGRADE}tail`)
    for (let turn = 0; turn < moment; turn++) await new Promise(resolve => setImmediate(resolve))
    wire.reset()
  }
  await quiet()
  t.equal(app.duplex.connections.size, 0)
}, everywhere)

onEachStream(t, 'S6 what nobody reads stays in the kernel', async (t, transport) => {
  const settings = { transport, plugin: { idleTimeout: 200 } }
  const { wire, connection } = await takeover(t, settings, ({ closed }) => closed)
  wire.send(Buffer.alloc(64 * MiB))
  const { reason, bytesRead } = await connection.closed
  t.equal(reason, 'idle')
  t.ok(bytesRead > 0 && bytesRead <= 256 * 1024, `${bytesRead} of 64 MiB were read`)
}, everywhere)

onEachStream(t, 'S6 write() says when the client is too slow, and end() still delivers everything', async (t, transport) => {
  const chunk = pattern(64 * 1024)
  const full = gate<number>()
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await once(readable, 'data')
    let written = 0
    for (let inTime = true; inTime; written++) {
      inTime = writable.write(chunk)
      if (inTime) await new Promise(resolve => setImmediate(resolve))
    }
    writable.end('END')
    full.open(written)
  })
  wire.socket.pause()
  wire.send('go')
  const count = await full.promise
  t.ok(count < 1024, `${count} chunks of 64 KiB`)
  t.equal(connection.writable.writableFinished, false)
  wire.socket.resume()
  wire.end()
  const received = await wire.rest()
  t.equal(sha256(received), sha256(Buffer.concat([...Array<Buffer>(count).fill(chunk), Buffer.from('END')])))
  t.match(await connection.closed, { reason: 'end', bytesWritten: received.length })
}, everywhere)

onEachStream(t, 'S7 a thousand rounds of single bytes, without the delay of coalescing', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    for await (const byte of readable) {
      // Two segments for each round: Nagle's algorithm would hold the second back for 40 ms.
      writable.write(byte)
      await new Promise(resolve => setImmediate(resolve))
      writable.write('.')
    }
  })
  const start = performance.now()
  let right = 0
  for (let round = 0; round < 1000; round++) {
    const byte = String.fromCharCode(97 + round % 26)
    wire.send(byte)
    if (await wire.until('.') === `${byte}.`) right++
  }
  t.equal(right, 1000)
  const took = performance.now() - start
  t.ok(took < 10_000, `${Math.round(took)} ms`)
  wire.end()
  t.match(await connection.closed, { reason: 'end', bytesRead: 1000, bytesWritten: 2000 })
}, everywhere)

onEachStream(t, 'S8 writes of nothing are harmless', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await written(writable, '')
    await written(writable, Buffer.alloc(0))
    writable.write('a')
    writable.write('')
    writable.write('b')
    await written(writable, '')
    t.equal((await all(readable)).toString(), 'c')
    writable.end('')
  })
  t.equal((await wire.bytes(2)).toString(), 'ab')
  wire.send('').send(Buffer.alloc(0)).send('c').end('')
  t.equal((await wire.rest()).toString(), '')
  t.match(await connection.closed, { reason: 'end', bytesRead: 1, bytesWritten: 2 })
}, everywhere)

onEachStream(t, 'S14 a half-close loses none of the writes that come late', async (t, transport) => {
  const piece = pattern(MiB)
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await all(readable)
    for (let at = 0; at < 4; at++) {
      await written(writable, piece)
      await new Promise(resolve => setImmediate(resolve))
    }
  })
  wire.end('over to you')
  t.equal(sha256(await wire.rest()), sha256(Buffer.concat(Array<Buffer>(4).fill(piece))))
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

t.test('S14 a TLS client whose FIN comes without a close_notify still gets what is written late', async t => {
  const late = pattern(MiB)
  const { port } = await serve(t, { transport: 'tls' }, app => {
    app.get('/it', { duplex: true }, async ({ readable, writable }) => {
      t.equal((await all(readable)).toString(), 'question')
      await written(writable, late)
    })
  })
  const raw = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  const socket = tls.connect({ socket: raw, rejectUnauthorized: false })
  socket.allowHalfOpen = true
  const wire = new Wire(socket, raw)
  wire.send(`${UPGRADE}question`)
  await wire.head()
  raw.end()
  t.equal(sha256(await wire.rest()), sha256(late))
})

onEachStream(t, 'S15 a loop over all that comes leaves the other half open for 1 MiB', async (t, transport) => {
  const late = pattern(MiB)
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    let received = ''
    for await (const chunk of readable) received += chunk
    t.equal(received, 'question')
    await new Promise(resolve => setImmediate(resolve))
    t.equal(writable.destroyed, false)
    writable.end(late)
  })
  wire.end('question')
  t.equal(sha256(await wire.rest()), sha256(late))
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

onEachStream(t, 'S15 a break leaves the rest to be read', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    let line = ''
    for await (const chunk of readable) {
      line += chunk
      const end = line.indexOf('\n')
      if (end === -1) continue
      readable.unshift(Buffer.from(line.slice(end + 1)))
      break
    }
    writable.write('more\n')
    await new Promise(resolve => setImmediate(resolve))
    t.equal((await all(readable)).toString(), 'the body')
    writable.end('done')
  })
  wire.send('a header\nthe ')
  t.equal(await wire.until('\n'), 'more\n')
  wire.end('body')
  t.equal((await wire.rest()).toString(), 'done')
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

onEachStream(t, 'S15 a loop that throws costs only what the handler makes of it', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await t.rejects(async () => {
      for await (const chunk of readable) if (String(chunk) === 'bad line') throw new Error('bad line')
    }, { message: 'bad line' })
    await written(writable, 'say that again')
    t.equal((await all(readable)).toString(), 'good line')
  })
  wire.send('bad line')
  t.equal(await wire.until('again'), 'say that again')
  wire.end('good line')
  t.equal((await wire.rest()).toString(), '')
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

for (const [size, tail] of [['short', 'tail'], ['1 MiB', pattern(MiB)]] as const) {
  onEachStream(t, `S16 a ${size} tail and a FIN during an asynchronous hook: the tail, then the end`, async (t, transport) => {
    const goOn = gate()
    const inHook = gate()
    const got = gate<Buffer>()
    const { connect } = await serve(t, { transport }, app => {
      const preHandler = async (): Promise<void> => {
        inHook.open()
        await goOn.promise
      }
      app.get('/it', { duplex: true, preHandler }, async ({ readable, writable }) => {
        got.open(await all(readable))
        writable.end('bye')
      })
    })
    const [wire, other] = [await connect(), await connect()]
    wire.send(UPGRADE).end(tail)
    await inHook.promise
    // By the time these are answered, what came before them has been read.
    for (let round = 0; round < 3; round++) await settled(other)
    goOn.open()
    t.match(await wire.head(), { status: accepted(transport) })
    t.equal((await wire.rest()).toString(), 'bye')
    t.equal(sha256(await got.promise), sha256(Buffer.from(tail)))
  }, everywhere)
}

onEachStream(t, 'S16 a FIN and no tail during an asynchronous hook: the end, and late words', async (t, transport) => {
  const goOn = gate()
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true, preHandler: () => goOn.promise }, async ({ readable, writable }) => {
      readable.on('data', () => t.fail('nothing was sent'))
      await once(readable, 'end')
      await written(writable, 'late')
    })
  })
  const [wire, other] = [await connect(), await connect()]
  wire.send(UPGRADE).end()
  for (let round = 0; round < 3; round++) await settled(other)
  goOn.open()
  t.match(await wire.head(), { status: accepted(transport) })
  t.equal((await wire.rest()).toString(), 'late')
}, everywhere)

onEachStream(t, 'L3 a handler that rejects is logged once, its onError hooks run, and nothing of HTTP is sent', async (t, transport) => {
  const { lines, logger } = logLines()
  const heard: unknown[] = []
  const failure = new Error('midway')
  const onError = async (_request: unknown, _reply: unknown, error: unknown): Promise<void> => { heard.push(error) }
  const settings = { transport, fastify: { logger }, hooks: { onError } }
  const { wire, connection, quiet } = await takeover(t, settings, async ({ readable, writable }) => {
    await written(writable, 'part')
    await once(readable, 'data')
    throw failure
  })
  t.equal(await wire.until('part'), 'part')
  wire.send('go')
  t.equal(await wire.remains(), '')
  const { reason, error } = await connection.closed
  t.equal(reason, 'error')
  t.equal(error, failure)
  t.equal(connection.signal.reason, failure)
  t.ok(heard.length === 1 && heard[0] === failure, 'onError ran once')
  t.match(lines.filter(line => line.level >= 50), [{ msg: 'duplex handler failed', err: { message: 'midway' } }])
  t.equal(lines.filter(line => line.level >= 50).length, 1)
  await quiet()
}, everywhere)

onEachStream(t, 'L4 writes that pile up before a client that does not read are no traffic', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport, plugin: { idleTimeout: 200 } }, async ({ readable, writable, signal }) => {
    await once(readable, 'data')
    // More than the kernel takes on any transport.
    writable.write(Buffer.alloc(32 * MiB))
    while (!signal.aborted) {
      writable.write('tick')
      await setTimeout(10)
    }
  })
  wire.socket.pause()
  wire.send('go')
  t.equal((await connection.closed).reason, 'idle')
}, everywhere)

onEachStream(t, 'L4 a write that leaves piece by piece is traffic', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport, plugin: { idleTimeout: 400 } }, async ({ readable, writable }) => {
    await once(readable, 'data')
    await written(writable, Buffer.alloc(48 * MiB))
  })
  let received = 0
  wire.socket.removeAllListeners('data')
  wire.socket.on('data', (data: Buffer) => {
    const before = received
    received += data.length
    if (Math.floor(before / (8 * MiB)) === Math.floor(received / (8 * MiB))) return
    wire.socket.pause()
    void setTimeout(100).then(() => wire.socket.resume())
  })
  wire.send('go').end()
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

onEachStream(t, 'L12 a handler that works on after the FIN is not cut short by finTimeout', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport, plugin: { finTimeout: 100 } }, async ({ readable, writable }) => {
    await all(readable)
    await setTimeout(500)
    await written(writable, 'late')
  })
  wire.end()
  t.equal((await wire.rest()).toString(), 'late')
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

onEachStream(t, 'L12 with halfOpenTimeout it has that long, from its last byte on', async (t, transport) => {
  const settings = { transport, plugin: { halfOpenTimeout: 150 } }
  const { wire, connection, quiet } = await takeover(t, settings, async ({ readable, writable, closed }) => {
    await all(readable)
    for (let beat = 0; beat < 4; beat++) {
      await written(writable, '.')
      await setTimeout(75)
    }
    await closed
  })
  wire.end()
  t.equal((await wire.bytes(4)).toString(), '....')
  t.equal(await wire.gone(), transport === 'unix' ? 'ended' : 'broken')
  t.match(await connection.closed, { reason: 'half-open', error: { code: 'FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT' }, bytesWritten: 4 })
  await quiet()
}, everywhere)

for (const [kind, request] of kinds) {
  t.test(`L12 a handler that throws leaves no socket of a ${kind} open`, async t => {
    const { wire, connection, quiet } = await takeover(t, { request }, () => { throw new Error('at once') })
    t.match(await connection.closed, { reason: 'error', error: { message: 'at once' } })
    await quiet()
    t.equal(await wire.remains(), '')
  })
}

/** How a handler may fail when it has sent a part of what it wanted to, and what `closed` then says. */
const ownFailures: readonly Failure[] = [
  ...failures,
  ['a handler that rejects with nothing', 'error', () => Promise.reject()], // eslint-disable-line prefer-promise-reject-errors
  ['destroy(error)', 'destroyed', connection => {
    connection.destroy(new Error('midway'))
    return connection.closed
  }]
]

for (const [how, reason, fail, plugin] of ownFailures) {
  onEachStream(t, `L14 the client sees a broken stream, never an end, after ${how}`, async (t, transport) => {
    const { app, wire, connection } = await takeover(t, { transport, plugin: plugin ?? {} }, async connection => {
      await written(connection.writable, 'part')
      await once(connection.readable, 'data')
      await fail(connection)
    })
    t.equal(await wire.until('part'), 'part')
    wire.send('go')
    if (reason === 'shutdown') void app.duplex.drain()
    t.equal(await wire.gone(), 'broken')
    t.equal(wire.error?.code, 'ECONNRESET')
    t.equal(wire.pending, '')
    t.equal((await connection.closed).reason, reason)
  }, ['tcp', 'tls', 'h2'])
}

for (const [kind, request] of kinds) {
  t.test(`L14 a ${kind} whose handler fails midway is reset, even where the handler has ended its input`, async t => {
    const { wire, connection } = await takeover(t, { request }, async ({ readable, writable }) => {
      await written(writable, 'part')
      await all(readable)
      throw new Error('midway')
    })
    t.equal(await wire.until('part'), 'part')
    wire.end()
    t.equal(await wire.gone(), 'broken')
    t.equal((await connection.closed).reason, 'error')
  })
}

onEachStream(t, 'L14 what waits to be sent when the handler fails is not followed by an end', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async ({ readable, writable }) => {
    await once(readable, 'data')
    writable.write(Buffer.alloc(16 * MiB))
    writable.end('and the end')
    throw new Error('midway')
  })
  wire.send('go')
  // libuv takes a reset that comes with the last bytes for an end, so that the bytes have to tell.
  t.notMatch(await wire.remains(), /end$/)
  t.equal((await connection.closed).reason, 'error')
}, ['tcp', 'tls', 'h2'])
