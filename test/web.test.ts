import t from 'tap'
import { once } from 'node:events'
import { chunk, chunkedBody, LAST_CHUNK } from './fixtures/chunked.ts'
import { everywhere, gate, onEach } from './fixtures/server.ts'
import { all, MiB, pattern, sha256, takeover, UPGRADE } from './fixtures/takeover.ts'

const CHUNKED = 'POST /it HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'

async function allOf (readable: ReadableStream<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of readable as unknown as AsyncIterable<Uint8Array>) chunks.push(chunk)
  return Buffer.concat(chunks)
}

onEach(t, 'S12 the client ends first: done, and what is written then arrives', async (t, transport) => {
  const late = pattern(MiB)
  const { wire, connection } = await takeover(t, { transport }, async connection => {
    const { readable, writable } = connection.web()
    const reader = readable.getReader()
    const first = await reader.read()
    t.ok(first.value instanceof Uint8Array)
    t.equal(String(Buffer.from(first.value as Uint8Array)), 'question')
    t.same(await reader.read(), { done: true, value: undefined })
    await reader.closed
    const writer = writable.getWriter()
    await writer.write(late)
    await writer.close()
  })
  wire.end('question')
  t.equal(sha256(await wire.rest()), sha256(late))
  t.match(await connection.closed, { reason: 'end', bytesRead: 8, bytesWritten: MiB })
}, everywhere)

onEach(t, 'S12 the server ends first: close() waits for nobody, and reading goes on', async (t, transport) => {
  const late = pattern(MiB)
  const ended = gate()
  const got = gate<Buffer>()
  const { wire, connection } = await takeover(t, { transport }, async connection => {
    const { readable, writable } = connection.web()
    const writer = writable.getWriter()
    await writer.write(Buffer.from('bye'))
    await writer.close()
    ended.open()
    got.open(await allOf(readable))
  })
  t.equal((await wire.rest()).toString(), 'bye')
  await ended.promise
  wire.end(late)
  t.equal(sha256(await got.promise), sha256(late))
  t.equal((await connection.closed).reason, 'end')
}, everywhere)

onEach(t, 'S12 an echo is one pipeTo()', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport, request: `${UPGRADE}early ` }, async connection => {
    const { readable, writable } = connection.web()
    await readable.pipeTo(writable)
  })
  t.equal(await wire.until('early '), 'early ')
  wire.end('and late')
  t.equal((await wire.rest()).toString(), 'and late')
  t.match(await connection.closed, { reason: 'end', bytesRead: 14, bytesWritten: 14 })
}, everywhere)

onEach(t, 'S12 cancel() reaches the socket', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async connection => {
    await once(connection.readable, 'data')
    await connection.web().readable.cancel(new Error('enough'))
    return connection.closed
  })
  wire.send('go')
  t.equal(await wire.gone(), 'broken')
  t.match(await connection.closed, { reason: 'error', error: { message: 'enough' } })
  t.match(connection.signal.reason, { message: 'enough' })
}, ['tcp', 'tls'])

onEach(t, 'S12 abort() reaches the socket', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport }, async connection => {
    await once(connection.readable, 'data')
    const { readable, writable } = connection.web()
    await writable.abort(new Error('enough'))
    await t.rejects(allOf(readable))
    return connection.closed
  })
  wire.send('go')
  t.equal(await wire.gone(), 'broken')
  t.match(await connection.closed, { reason: 'error', error: { message: 'enough' } })
}, ['tcp', 'tls'])

onEach(t, 'S12 a reset fails both halves', async (t, transport) => {
  const { wire, connection, quiet } = await takeover(t, { transport }, async connection => {
    const { readable, writable } = connection.web()
    const writer = writable.getWriter()
    await Promise.all([t.rejects(allOf(readable)), t.rejects(writer.closed)])
    await t.rejects(writer.write(Buffer.from('anybody?')))
  })
  wire.reset()
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
}, ['tcp', 'tls'])

onEach(t, 'S12 a handler that rejects leaves no half of the pair hanging', async (t, transport) => {
  const headRead = gate()
  const seen = gate()
  const { wire } = await takeover(t, { transport }, async connection => {
    const { readable, writable } = connection.web()
    const writer = writable.getWriter()
    void Promise.all([t.rejects(allOf(readable)), t.rejects(writer.closed)]).then(() => seen.open())
    // Over HTTP/2 a client that finds the reset together with the head may tell of the reset alone.
    await headRead.promise
    throw new Error('midway')
  })
  headRead.open()
  await seen.promise
  await wire.remains()
}, everywhere)

onEach(t, 'S12 what nobody reads stays in the kernel', async (t, transport) => {
  const { wire, connection } = await takeover(t, { transport, plugin: { idleTimeout: 200 } }, connection => {
    connection.web()
    return connection.closed
  })
  wire.send(Buffer.alloc(64 * MiB))
  const { reason, bytesRead } = await connection.closed
  t.equal(reason, 'idle')
  t.ok(bytesRead <= 512 * 1024, `${bytesRead} of 64 MiB were read`)
}, everywhere)

onEach(t, 'S12 a slow client holds the writer back', async (t, transport) => {
  const piece = pattern(64 * 1024)
  const full = gate<number>()
  const { wire } = await takeover(t, { transport }, async connection => {
    const writer = connection.web().writable.getWriter()
    await once(connection.readable, 'data')
    let count = 0
    while ((writer.desiredSize ?? 0) > 0) {
      void writer.write(piece)
      count++
      await new Promise(resolve => setImmediate(resolve))
    }
    full.open(count)
    await writer.ready
    await writer.close()
  })
  wire.socket.pause()
  wire.send('go')
  const count = await full.promise
  t.ok(count < 1024, `${count} chunks of 64 KiB`)
  wire.socket.resume()
  wire.end()
  t.equal((await wire.rest()).length, count * piece.length)
}, everywhere)

t.test('S12 a message: the body as a Response, and an answer while it arrives', async t => {
  const { wire, connection } = await takeover(t, { request: CHUNKED }, async connection => {
    t.equal(connection.kind, 'body')
    const { readable, writable } = connection.web()
    const writer = writable.getWriter()
    await writer.write(Buffer.from('reading, '))
    const text = await new Response(readable).text()
    await writer.write(Buffer.from(text.toUpperCase()))
    await writer.close()
  })
  t.equal(await wire.until('reading, \r\n'), '9\r\nreading, \r\n')
  wire.send(chunk('some ')).send(chunk('text')).send(LAST_CHUNK)
  t.equal((await chunkedBody(wire)).toString(), 'SOME TEXT')
  t.match(await connection.closed, { reason: 'end', bytesRead: 9 })
})

t.test('S12 a body that the client breaks off fails the readable half', async t => {
  const { wire, connection, quiet } = await takeover(t, { request: CHUNKED }, async connection => {
    await t.rejects(allOf(connection.web().readable))
  })
  wire.send(chunk('some'))
  await once(connection.readable, 'readable')
  wire.reset()
  t.equal((await connection.closed).reason, 'abort')
  await quiet()
})

t.test('S12 a handler without a promise: the pair runs until both sides have ended', async t => {
  const { wire, connection } = await takeover(t, {}, connection => {
    const { readable, writable } = connection.web()
    void readable.pipeTo(writable)
  })
  wire.send('one, ')
  t.equal(await wire.until(', '), 'one, ')
  wire.end('two')
  t.equal((await wire.rest()).toString(), 'two')
  t.equal((await connection.closed).reason, 'end')
})

t.test('S12 the pair and the Node streams are of the same connection', async t => {
  const { wire, connection } = await takeover(t, {}, async connection => {
    const { writable } = connection.web()
    const writer = writable.getWriter()
    await writer.write(Buffer.from('half of it is web'))
    await writer.close()
    t.equal((await all(connection.readable)).toString(), 'the other is not')
  })
  t.equal((await wire.rest()).toString(), 'half of it is web')
  wire.end('the other is not')
  t.equal((await connection.closed).reason, 'end')
})

t.test('S12 a readable that was given an encoding gives the bytes of its text', async t => {
  const { wire } = await takeover(t, {}, async connection => {
    connection.readable.setEncoding('utf8')
    const { readable, writable } = connection.web()
    await readable.pipeTo(writable)
  })
  wire.end('grüße')
  t.equal((await wire.rest()).toString(), 'grüße')
})
