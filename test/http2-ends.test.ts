import { once } from 'node:events'
import type { Http2ServerRequest } from 'node:http2'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { requests, serveHttp2 } from './fixtures/http2-server.ts'
import { takeManually } from './fixtures/kinds.ts'
import { gate } from './fixtures/server.ts'

const BIG = 100_000

for (const route of ['plain', 'duplex']) {
  t.test(`L8 a client that resets with NO_ERROR what it does not take, and goes, leaves nothing: ${route} route [h2]`, async t => {
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
    // GOAWAY, and the end of the connection.
    wire.frame('GOAWAY', 0, 0, Buffer.alloc(8))
    wire.socket.resetAndDestroy()
    await closed.promise
    await sessionEnds
  })
}

for (const [kind, headers] of Object.entries(requests)) {
  t.test(`R10 a refusal is the end of the stream of a client that has begun to send, and has no window for the rest: ${kind} [h2]`, async t => {
    const { session } = await serveHttp2(t, {}, app => {
      const onRequest = async ({ raw }: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
        const { stream } = raw as unknown as Http2ServerRequest
        // Until the window is used up.
        while (stream.readableLength < 60_000) await new Promise(resolve => setImmediate(resolve))
        return reply.code(403).send('no')
      }
      takeManually(app, () => t.fail('entered'), { onRequest: onRequest as never })
    })
    const stream = (await session()).request(headers)
    stream.end(Buffer.alloc(BIG))
    const [head] = await once(stream, 'response') as [Record<string, unknown>]
    t.equal(head[':status'], 403)
    stream.resume()
    await once(stream, 'close')
    t.equal(stream.rstCode, 0)
  })
}
