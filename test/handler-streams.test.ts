import { pipeline } from 'node:stream/promises'
import type { Readable } from 'node:stream'
import { createGunzip } from 'node:zlib'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { onEach, serve } from './fixtures/server.ts'
import type { DuplexClosed } from '../lib/index.ts'

interface Line {
  msg: string
  err?: { message: string }
}

/** A log that can be read. */
function logger (): { options: { level: string, stream: { write: (line: string) => void } }, lines: Line[] } {
  const lines: Line[] = []
  return { options: { level: 'error', stream: { write: line => { lines.push(JSON.parse(line)) } } }, lines }
}

onEach(t, 'L14 a pipeline() over a body that fails is the failure of its handler: truncated, logged, told to onError and closed', async (t, transport) => {
  let closed: Promise<DuplexClosed> | undefined
  const { options, lines } = logger()
  const heard: string[] = []
  const { app, connect, quiet } = await serve(t, { transport, fastify: { logger: options } }, app => {
    app.addHook('onError', async (_request, _reply, error) => { heard.push(error.message) })
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
  await app.close()
  t.strictSame(heard, ['bad chunk'])
  t.equal(lines.filter(({ msg }) => msg === 'duplex handler failed').length, 1)
  t.strictSame(new Set(lines.map(({ err }) => err?.message)), new Set(['bad chunk']))
})

onEach(t, 'L14 a pipeline() over an HTTP/1.0 message that fails is a reset, since there an end would be a whole response', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.post('/', { duplex: true }, connection => pipeline(connection.readable, async function * (source: AsyncIterable<Buffer>) {
      for await (const chunk of source) {
        if (String(chunk) === 'bad') throw new Error('bad chunk')
        yield chunk
      }
    }, connection.writable))
  })
  const wire = (await connect()).send('POST / HTTP/1.0\r\nContent-Length: 100\r\n\r\ngood')
  await wire.head()
  await wire.until('good')
  wire.send('bad')
  t.equal(await wire.gone(), 'broken')
}, ['tcp', 'tls'])

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

onEach(t, 'L3 a pipeline() that a timeout breaks is no failure of the handler', async (t, transport) => {
  const heard: string[] = []
  const { options, lines } = logger()
  let closed: Promise<DuplexClosed> | undefined
  const { app, connect, quiet } = await serve(t, { transport, fastify: { logger: options } }, app => {
    app.addHook('onError', async (_request, _reply, error) => { heard.push(error.message) })
    app.post('/', { duplex: { idleTimeout: 50 } }, connection => {
      closed = connection.closed
      return pipeline(connection.readable, connection.writable)
    })
  })
  for (const head of ['Transfer-Encoding: chunked\r\n', 'Connection: Upgrade\r\nUpgrade: x\r\n']) {
    await (await connect()).send(`POST / HTTP/1.1\r\nHost: a\r\n${head}\r\n`).remains()
    t.match(await closed, { reason: 'idle' })
  }
  await quiet()
  await app.close()
  t.strictSame(heard, [])
  t.strictSame(lines.filter(({ msg }) => msg === 'duplex handler failed'), [])
})
