import t from 'tap'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { setImmediate as turn } from 'node:timers/promises'
import type { Http2ServerRequest } from 'node:http2'
import type { FastifyRequest } from 'fastify'
import type { DuplexConnection } from '../lib/index.ts'
import { POST, request, requests, serveHttp2, whole } from './fixtures/http2-server.ts'
import { take } from './fixtures/kinds.ts'
import { until } from './fixtures/patience.ts'
import { gate, onEach, streams, ways } from './fixtures/server.ts'
import { all, pattern, sha256, takeover } from './fixtures/takeover.ts'

/** One byte of input passes at once, and each of the others a tenth of a second later. */
const BYTE_BY_BYTE = { rate: { bytesIn: 10 } }

async function firstOf ({ readable }: DuplexConnection): Promise<string> {
  for await (const chunk of readable) return String(chunk)
  return ''
}

onEach(t, 'GV5 what waits for its rate when both sides have ended stays there for a late reader', async (t, transport) => {
  const first = gate<string>()
  const rest = gate<string>()
  const { wire, connection } = await takeover(t, { transport, duplex: BYTE_BY_BYTE }, async connection => {
    const { readable, writable } = connection
    writable.end()
    first.open(await firstOf(connection))
    await until(() => readable.readableLength === 2 || readable.readableEnded)
    rest.open(await text(readable))
  })
  wire.send('abc')
  t.equal(await first.promise, 'a')
  await wire.rest()
  wire.end()
  t.equal(await rest.promise, 'bc')
  t.match(await connection.closed, { reason: 'end', bytesRead: 3 })
}, streams)

t.test('GV5 what waits for its rate when both sides have ended stays there for a late reader: a body [h2]', async t => {
  const first = gate<string>()
  const rest = gate<string>()
  const { session, over } = await serveHttp2(t, {}, app => take(app, async connection => {
    const { readable, writable } = connection
    writable.end()
    first.open(await firstOf(connection))
    await until(() => readable.readableLength === 2 || readable.readableEnded)
    rest.open(await text(readable))
  }, BYTE_BY_BYTE))
  const stream = (await session()).request(POST)
  stream.write('abc')
  t.equal(await first.promise, 'a')
  await whole(stream)
  stream.end()
  t.equal(await rest.promise, 'bc')
  await over()
})

for (const [kind, headers] of Object.entries(requests)) {
  t.test(`S12 web() gives what came before the stream was over on the wire: ${kind} [h2]`, async t => {
    const heard = gate<string>()
    const { session, over } = await serveHttp2(t, {}, app => take(app, async connection => {
      const { readable, writable } = connection
      writable.end()
      await until(() => readable.closed)
      const pair = connection.web()
      await turn()
      heard.open(await text(pair.readable as unknown as AsyncIterable<Uint8Array>).catch(String))
    }))
    const { stream } = await request(await session(), headers)
    stream.end('late')
    await whole(stream)
    t.equal(await heard.promise, 'late')
    await over()
  })
}

for (const [what, duplex] of [['', true], [', with a rate', { rate: { bytesIn: 1_000_000 } }]] as const) {
  for (const [kind, headers] of Object.entries(requests)) {
    t.test(`S2 a client has filled its window before the whole answer is sent, and its input goes on: ${kind}${what} [h2]`, async t => {
      const sent = pattern(200_000)
      const heard = gate<Buffer>()
      const { session, over } = await serveHttp2(t, {}, app => take(app, async ({ readable, writable }) => {
        writable.end('answer')
        await once(writable, 'finish')
        // Node would close the stream in an immediate.
        await turn()
        await turn()
        heard.open(await all(readable))
      }, duplex, {
        preHandler: async ({ raw }: FastifyRequest) => {
          const { stream } = raw as unknown as Http2ServerRequest
          await until(() => stream.readableLength >= 60_000)
        }
      }))
      const stream = (await session()).request(headers)
      stream.end(sent)
      t.equal((await whole(stream)).toString(), 'answer')
      t.equal(sha256(await heard.promise), sha256(sent))
      await over()
    })
  }
}

onEach(t, 'S2 a handler that listens for the end alone, and reads by read(), gets the end', async (t, transport) => {
  const heard = gate<string>()
  const { wire, connection } = await takeover(t, { transport }, ({ readable, writable }) => {
    let came = ''
    let ended = false
    readable.on('end', () => { ended = true })
    void until(() => {
      came += String(readable.read() ?? '')
      return ended
    }).then(() => {
      heard.open(came)
      writable.end()
    }, heard.fail)
  })
  wire.end('all of it')
  t.equal(await heard.promise, 'all of it')
  t.match(await connection.closed, { reason: 'end' })
}, ways)
