import { pipeline } from 'node:stream/promises'
import { PassThrough, type Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { onEach, serve } from './fixtures/server.ts'
import type { DuplexClosed } from '../lib/index.ts'

/** A log that can be read. */
function logger (): { options: { level: string, stream: PassThrough }, lines: () => { msg: string, err?: { message: string } }[] } {
  const stream = new PassThrough()
  const text = (): string => String(stream.read() ?? '')
  return { options: { level: 'error', stream }, lines: () => text().split('\n').filter(Boolean).map(line => JSON.parse(line)) }
}

onEach(t, 'L14 a pipeline() over a message that fails is one failure: a truncated response, told and logged as it was', async (t, transport) => {
  let closed: Promise<DuplexClosed> | undefined
  const { options, lines } = logger()
  const { connect, quiet } = await serve(t, { transport, fastify: { logger: options } }, app => {
    app.post('/', { duplex: true }, connection => {
      closed = connection.closed
      return pipeline(connection.readable, async function * (source: AsyncIterable<Buffer>) {
        for await (const chunk of source) {
          if (String(chunk) === 'bad') throw new Error('bad chunk')
          yield chunk
        }
      }, connection.writable)
    })
  })
  const wire = await connect()
  wire.send('POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n')
  await wire.until('4\r\ngood\r\n')
  wire.send('3\r\nbad\r\n')
  t.notMatch(await wire.remains(), '0\r\n')
  const { reason, error } = await closed as DuplexClosed
  t.strictSame([reason, error?.message], ['error', 'bad chunk'])
  await quiet()
  t.strictSame(new Set(lines().map(({ err }) => err?.message)), new Set(['bad chunk']))
})

onEach(t, 'R21 a decoder that fails in a preParsing hook is answered as on a plain route', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.post('/', {
      async preParsing (_request: FastifyRequest, _reply: FastifyReply, payload: Readable) {
        // pipeline() takes the socket off the request of which it was not the end.
        const decoded: Buffer[] = []
        await pipeline(payload, createGunzip(), async source => { for await (const chunk of source) decoded.push(chunk as Buffer) })
          .catch(error => { throw Object.assign(error as Error, { statusCode: 400 }) })
        return payload
      },
      duplex: { handshakeTimeout: 1000 }
    }, ({ writable }) => { writable.end('never') })
  })
  const wire = (await connect()).send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nno gzip !')
  const { status, body } = await wire.response()
  t.equal(status, 400)
  t.match(body, 'incorrect header check')
})

onEach(t, 'L10 a detached socket that ends in order is told as that, and logged with the status of its kind', async (t, transport) => {
  let closed: Promise<DuplexClosed> | undefined
  let signal: AbortSignal | undefined
  const statuses: number[] = []
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.addHook('onResponse', async (_request, reply) => { statuses.push(reply.statusCode) })
    app.get('/', { duplex: { kinds: ['upgrade'], accept: 'manual' } }, pending => {
      closed = pending.closed
      signal = pending.signal
      const { socket, head } = pending.detach()
      socket.end(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n${String(head)}`)
      socket.resume()
    })
  })
  const wire = (await connect()).send('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nearly')
  await wire.head()
  t.equal(String(await wire.rest()), 'early')
  wire.end()
  const { reason, error } = await closed as DuplexClosed
  t.strictSame([reason, error], ['detached', undefined])
  t.notOk(signal?.aborted)
  await quiet()
  t.strictSame(statuses, [101])
})
