import { once } from 'node:events'
import http2, { type IncomingHttpHeaders, type IncomingHttpStatusHeader } from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { finished, pipeline } from 'node:stream/promises'
import t, { type Test } from 'tap'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { connectFrames, type Frames } from './fixtures/http2-frames.ts'
import { POST } from './fixtures/http2-server.ts'
import { gate } from './fixtures/server.ts'
import duplex, { type DuplexClosed, type DuplexConnection } from '../lib/index.ts'

type Handler = (connection: DuplexConnection) => Promise<unknown>

t.test('a request that came with the first bytes of its connection, whole', async t => {
  /** What the client gets back, and how the connection ended. */
  const exchange = async (t: Test, handler: Handler): Promise<{ status: number | undefined, text: string, closed: DuplexClosed }> => {
    const app = Fastify({ http2: true } as FastifyServerOptions) as FastifyInstance
    await app.register(duplex)
    let connection: DuplexConnection | undefined
    app.post('/', { duplex: true }, async accepted => {
      connection = accepted
      t.equal(accepted.bytesRead, 5, 'it was there before the handler')
      await handler(accepted)
    })
    await app.ready()
    // Node parses what it finds on a new connection at once, as it does with what comes together with the handshake of TLS.
    const front = net.createServer(socket => {
      let received = Buffer.alloc(0)
      socket.on('data', function onData (chunk) {
        received = Buffer.concat([received, chunk])
        if (!received.includes('hello')) return
        socket.removeListener('data', onData)
        socket.pause()
        socket.unshift(received)
        app.server.emit('connection', socket)
      })
    }).listen(0, '127.0.0.1')
    t.teardown(() => front.close())
    await once(front, 'listening')
    const session = http2.connect(`http://127.0.0.1:${(front.address() as AddressInfo).port}`)
    t.teardown(() => session.destroy())
    const request = session.request({ ':method': 'POST' })
    request.end('hello')
    let text = ''
    request.setEncoding('utf8').on('data', chunk => { text += chunk })
    const [headers] = await once(request, 'response') as [IncomingHttpHeaders & IncomingHttpStatusHeader]
    await once(request, 'close')
    return { status: headers[':status'], text, closed: await (connection as unknown as DuplexConnection).closed }
  }

  await t.test('ends in order', async t => {
    const { status, text, closed } = await exchange(t, async ({ readable, writable }) => {
      for await (const chunk of readable) writable.write(chunk)
    })
    t.strictSame([status, text], [200, 'hello'])
    t.match(closed, { reason: 'end', bytesRead: 5, bytesWritten: 5 })
  })

  await t.test('is not lost to a handler that answers to the end before it reads', async t => {
    let late = ''
    const { text, closed } = await exchange(t, async ({ readable, writable }) => {
      writable.end('answer')
      await finished(writable, { readable: false })
      await new Promise(resolve => setImmediate(resolve))
      for await (const chunk of readable) late += String(chunk)
    })
    t.equal(text, 'answer')
    t.equal(late, 'hello')
    t.equal(closed.reason, 'end')
  })
})

t.test('T1 an end that came with the first bytes of its connection, and nothing before it, waits for a listener', async t => {
  const app = Fastify({ http2: true } as FastifyServerOptions) as FastifyInstance
  await app.register(duplex)
  app.post('/it', { duplex: true }, async ({ readable, writable }) => {
    for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
    await once(readable.resume(), 'end')
    writable.end('heard it')
  })
  await app.ready()
  const client = gate<Frames>()
  const front = net.createServer(async socket => {
    let received = Buffer.alloc(0)
    const { socket: { bytesWritten } } = await client.promise
    socket.on('data', function onData (chunk) {
      received = Buffer.concat([received, chunk])
      if (received.length < bytesWritten) return
      socket.removeListener('data', onData)
      socket.pause()
      socket.unshift(received)
      app.server.emit('connection', socket)
    })
  }).listen(0, '127.0.0.1')
  t.teardown(() => front.close())
  await once(front, 'listening')
  const frames = await connectFrames(t, (front.address() as AddressInfo).port)
  frames.headers(1, POST).data(1, '', true)
  client.open(frames)
  t.equal((await frames.next('DATA', 1)).payload.toString(), 'heard it')
})

t.test('a stream of HTTP/2 under a pipeline warns of no leak of listeners', async t => {
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => { warnings.push(warning) }
  process.on('warning', onWarning)
  t.teardown(() => { process.removeListener('warning', onWarning) })
  const app = Fastify({ http2: true } as FastifyServerOptions) as FastifyInstance
  t.teardown(() => app.close())
  await app.register(duplex)
  app.post('/', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => session.destroy())
  const request = session.request({ ':method': 'POST' })
  request.end('hello')
  await once(request.resume(), 'close')
  await new Promise(resolve => setImmediate(resolve))
  t.strictSame(warnings, [])
})
