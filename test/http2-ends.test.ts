import { once } from 'node:events'
import type { Http2ServerRequest, ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { requests, serveHttp2 } from './fixtures/http2-server.ts'
import { takeManually } from './fixtures/kinds.ts'
import { until } from './fixtures/patience.ts'
import { gate } from './fixtures/server.ts'
import { bytesInFlight, type HttpSocket } from '../lib/internals/sockets.ts'

const BIG = 100_000

for (const route of ['plain', 'duplex']) {
  for (const how of ['goes', 'says so']) {
    t.test(`L8 a client that resets with NO_ERROR what it does not take, and ${how}, leaves nothing: ${route} route [h2]`, async t => {
      const closed = gate()
      const answer = (reply: FastifyReply): FastifyReply => {
        reply.raw.once('close', closed.open)
        return reply.code(403).send(Buffer.alloc(BIG))
      }
      const { app, frames } = await serveHttp2(t, {}, app => {
        app.get('/plain', (_request, reply) => answer(reply))
        app.get('/duplex', { duplex: { accept: 'manual' } }, pending => answer(pending.reply as never))
      })
      const sessionEnds = once(app.server, 'session').then(([session]) => once(session, 'close'))
      const wire = await frames()
      wire.window(0)
      wire.headers(1, { ':method': 'GET', ':scheme': 'http', ':path': `/${route}`, ':authority': 'a' }, true)
      await wire.next('HEADERS', 1)
      wire.rst(1, 0)
      wire.frame('GOAWAY', 0, 0, Buffer.alloc(8))
      if (how === 'goes') wire.socket.resetAndDestroy()
      await closed.promise
      wire.socket.destroy()
      await sessionEnds
    })
  }
}

for (const [kind, headers] of Object.entries(requests)) {
  for (const [what, size] of [['has begun to send, and has no window for the rest', BIG], ['has sent all', 1000]] as const) {
    t.test(`R5 a refusal is the end of the stream of a client that ${what}, where somebody has begun to read: ${kind} [h2]`, async t => {
      const { session } = await serveHttp2(t, {}, app => {
        const onRequest = async ({ raw }: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
          const { stream } = raw as unknown as Http2ServerRequest
          // Behind that, Node does not end the stream by itself.
          stream.read(0)
          while (stream.readableLength < Math.min(size, 60_000)) await new Promise(resolve => setImmediate(resolve))
          return reply.code(403).send('no')
        }
        takeManually(app, () => t.fail('entered'), { onRequest: onRequest as never })
      })
      const stream = (await session()).request(headers)
      stream.end(Buffer.alloc(size))
      const [head] = await once(stream, 'response') as [Record<string, unknown>]
      t.equal(head[':status'], 403)
      stream.resume()
      await once(stream, 'close')
      t.equal(stream.rstCode, 0)
    })
  }
}

// Between session.close() and GOAWAY Node corrupts its memory when a stream begins. So none begins there.

const PLAIN = { ':method': 'GET', ':scheme': 'http', ':path': '/plain', ':authority': 'a' }

t.test('L8 a stream that comes in one packet with the GOAWAY of its client is answered, and then the session ends [h2]', async t => {
  const { app, frames } = await serveHttp2(t, {}, app => { app.get('/plain', () => 'plain') })
  const begun = once(app.server, 'session') as Promise<[ServerHttp2Session]>
  const wire = await frames()
  const [session] = await begun
  await wire.received()
  wire.socket.cork()
  wire.frame('GOAWAY', 0, 0, Buffer.alloc(8)).headers(1, PLAIN, true).headers(3, PLAIN, true)
  wire.socket.uncork()
  for (const stream of [1, 3]) t.equal((await wire.next('DATA', stream)).payload.toString(), 'plain')
  t.equal((await wire.next('GOAWAY', 0)).payload.readUInt32BE(0), 3)
  wire.socket.end()
  if (!session.destroyed) await once(session, 'close')
})

t.test('L8 a stream that is read only when its client takes bytes again, behind its GOAWAY, is answered [h2]', async t => {
  const { app, frames } = await serveHttp2(t, {}, app => {
    app.get('/plain', () => 'plain')
    app.post('/big', (_request, reply) => reply.send(Buffer.alloc(20_000_000)))
    app.addContentTypeParser('*', (_request, _body, done) => done(null))
  })
  const connected = once(app.server, 'connection') as Promise<[Socket]>
  const wire = await frames()
  const [socket] = await connected
  wire.window(2 ** 31 - 1).take(0, 2 ** 31 - 65_536).headers(1, { ...PLAIN, ':path': '/big', ':method': 'POST' })
  await wire.next('HEADERS', 1)
  wire.socket.pause()
  await until(() => bytesInFlight(socket as unknown as HttpSocket) > 0)
  wire.socket.cork()
  wire.frame('GOAWAY', 0, 0, Buffer.alloc(8)).data(1, 'Node reads no further here').headers(3, PLAIN, true)
  wire.socket.uncork()
  wire.socket.resume()
  t.equal((await wire.next('DATA', 3)).payload.toString(), 'plain')
  wire.socket.destroy()
})

t.test('Q58 a stream that comes in one packet with the answer to the PING of a drain is answered [h2]', async t => {
  const { app, frames } = await serveHttp2(t, { close: false, fastify: { return503OnClosing: false } }, app => { app.get('/plain', () => 'plain') })
  const wire = await frames()
  await wire.received()
  const closing = app.close()
  const { payload } = await wire.next('PING', 0)
  wire.socket.cork()
  wire.frame('PING', 1, 0, payload).headers(1, PLAIN, true)
  wire.socket.uncork()
  t.equal((await wire.next('DATA', 1)).payload.toString(), 'plain')
  t.equal((await wire.next('GOAWAY', 0)).payload.readUInt32BE(0), 1)
  wire.socket.end()
  await closing
})
