import t, { type Test } from 'tap'
import { once } from 'node:events'
import { request, type ClientRequest, type IncomingMessage } from 'node:http'
import http2, { type ServerHttp2Session } from 'node:http2'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import Fastify from 'fastify'
import { keepConnection, outliveEnd, takeOverWhere } from '../lib/internals/http-client.ts'
import { closeBetweenReads, readSession } from '../lib/internals/http2.ts'
import { compilersOf } from '../lib/internals/schemas.ts'
import { replacePush, watchReset, usualPush, type HttpSocket } from '../lib/internals/sockets.ts'
import { defaultEncoding, isPiped } from '../lib/internals/streams.ts'
import { onBoth, takeOne } from './fixtures/bare.ts'

// What lib/internals relies on where it is the other end, and where messages and rates need it.

/** A server of bytes alone, and its end of the latest connection. */
async function bytes (t: Test, answer: string): Promise<{ port: number, latest: () => Socket }> {
  let latest: Socket | undefined
  const server = createServer({ allowHalfOpen: true }, socket => {
    latest = socket
    socket.on('error', () => {})
    socket.once('data', () => socket.write(answer))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    latest?.destroy()
    server.close()
  })
  return { port: (server.address() as AddressInfo).port, latest: () => latest as Socket }
}

function ask (port: number, method: string, socket?: Socket): ClientRequest {
  const req = request({ port, host: '127.0.0.1', method, path: 'a:1', ...(socket === undefined ? { agent: false } : { createConnection: () => socket }) })
  req.on('error', () => {})
  return req
}

for (const [method, status, takes] of [
  ['CONNECT', 200, true], ['CONNECT', 403, false], ['GET', 200, true], ['GET', 200, false], ['GET', 403, false]
] as const) {
  t.test(`takeOverWhere: a ${status} to a ${method} is ${takes ? 'a takeover, with what came behind its head' : 'a response with a body'}`, async t => {
    const { port } = await bytes(t, `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 ${status} X\r\nContent-Length: 4\r\n\r\nbody`)
    const req = ask(port, method)
    takeOverWhere(req, res => takes && res.statusCode === 200)
    const told = new Promise<string>(resolve => {
      req.on('connect', (_res, socket: Socket, head: Buffer) => {
        resolve(`connect ${head.toString()}`)
        socket.destroy()
      })
      req.on('response', (res: IncomingMessage) => {
        let body = ''
        res.setEncoding('latin1').on('data', (chunk: string) => { body += chunk }).on('end', () => resolve(`response ${body}`))
      })
    })
    req.end()
    t.equal(await told, `${takes ? 'connect' : 'response'} body`)
  })
}

for (const [field, stays] of [['keep-alive', true], ['close', false]] as const) {
  t.test(`keepConnection tells that the server says ${field}, and emits 'free' behind both messages`, async t => {
    const { port } = await bytes(t, `HTTP/1.1 200 OK\r\nConnection: ${field}\r\nContent-Length: 2\r\n\r\nok`)
    const req = ask(port, 'GET')
    const asked = keepConnection(req)
    const [socket] = await Promise.all([once(req, 'socket').then(([one]) => one as Socket), req.end()])
    const free = once(socket, 'free')
    const [res] = await once(req, 'response') as [IncomingMessage]
    t.equal(asked(), stays)
    res.resume()
    await free
    socket.destroy()
  })
}

t.test('outliveEnd leaves the client its side when the server has ended its own', async t => {
  const { port, latest } = await bytes(t, 'HTTP/1.1 200 OK\r\n\r\nall')
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  const req = ask(port, 'POST', socket)
  const stays = keepConnection(req)
  const assigned = once(req, 'socket')
  req.write('first')
  await assigned
  const restore = outliveEnd(socket)
  const ended = once(socket, 'end')
  const [res] = await once(req, 'response') as [IncomingMessage]
  stays()
  res.on('error', () => {}).resume()
  latest().end()
  await ended
  t.notOk(socket.destroyed)
  t.ok(socket.writable)
  restore()
  t.notOk(Object.hasOwn(socket, 'end') || Object.hasOwn(socket, 'destroy'), 'all is taken back')
  socket.destroy()
})

onBoth('replacePush hears all that comes, in place of usualPush, and of no reset that looks like an end', async (t, carrying) => {
  const { socket, wire } = await takeOne(t, carrying)
  const heard: string[] = []
  const proceed = usualPush(socket)
  replacePush(socket, (chunk, encoding) => {
    heard.push(chunk === null ? 'end' : String(chunk))
    return proceed.call(socket, chunk, encoding)
  })
  watchReset(socket, () => {})
  const read: string[] = []
  socket.on('data', (chunk: Buffer) => read.push(chunk.toString()))
  const ended = once(socket, 'end')
  wire.end('some')
  await ended
  t.strictSame([heard.join(), read], ['some,end', ['some']])
})

t.test('defaultEncoding tells what setDefaultEncoding() has set', t => {
  const stream = new PassThrough()
  t.equal(defaultEncoding(stream), 'utf8')
  stream.setDefaultEncoding('latin1')
  t.equal(defaultEncoding(stream), 'latin1')
  t.end()
})

t.test('isPiped tells of a pipe, and not of other readers', t => {
  const stream = new PassThrough()
  stream.on('data', () => {})
  t.notOk(isPiped(stream))
  const to = new PassThrough()
  stream.pipe(to)
  t.ok(isPiped(stream))
  stream.unpipe(to)
  t.notOk(isPiped(stream))
  t.end()
})

t.test('readSession asks the handle of a socket to read, and leaves one that has none alone', async t => {
  let asked = 0
  readSession({ _handle: { readStart: () => asked++ } } as unknown as HttpSocket)
  t.equal(asked, 1)
  readSession({ _handle: null } as unknown as HttpSocket)
  t.equal(asked, 1)
})

t.test('closeBetweenReads reads nothing more until GOAWAY has left, and then goes on', async t => {
  const server = http2.createServer()
  let accepted: Socket | undefined
  server.on('connection', (socket: Socket) => { accepted = socket })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const made = once(server, 'session') as Promise<[ServerHttp2Session]>
  const client = http2.connect(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  client.on('error', () => {})
  const [session] = await made
  // While a stream is open the session is.
  server.on('stream', stream => { stream.respond() })
  const stream = client.request({ ':path': '/' })
  await once(stream, 'response')
  const handle = (accepted as unknown as HttpSocket)._handle as { readStop: () => void, readStart: () => void }
  const calls: string[] = []
  for (const name of ['readStop', 'readStart'] as const) {
    const usual = handle[name]
    handle[name] = function () {
      calls.push(name)
      return usual.call(this)
    }
  }
  const gone = once(client, 'goaway')
  const close: ServerHttp2Session['close'] = callback => {
    calls.push('close')
    http2Close.call(session, callback)
  }
  const http2Close = session.close
  await new Promise<void>(resolve => closeBetweenReads(session, close, accepted as unknown as HttpSocket, resolve))
  t.strictSame(calls, ['readStop', 'close', 'readStart'])
  await gone
  t.ok(session.closed)
  client.destroy()
  server.close()
  await once(server, 'close')
})

t.test('compilersOf has the compilers of the scope that declares the route, or of the route itself', async t => {
  const app = Fastify()
  const route = { method: 'GET' as const, url: '/in', handler: async () => '' }
  app.register(async scope => {
    scope.setValidatorCompiler(({ schema, httpPart }) => data => data === `${String(schema)} ${httpPart}`)
    scope.setSerializerCompiler(({ schema }) => data => `${String(schema)} ${String(data)}`)
    scope.addHook('onReady', async () => {
      const ofScope = compilersOf(scope as never, route)
      t.equal(ofScope?.validator('mine')('mine body'), true)
      t.equal(ofScope?.serialiser('mine')('sent'), 'mine sent')
      const ofRoute = compilersOf(scope as never, { ...route, serializerCompiler: () => () => 'of the route' })
      t.equal(ofRoute?.serialiser('mine')('sent'), 'of the route')
    })
  })
  await app.ready()
  const usual = compilersOf(app as never, route)
  t.equal(usual?.validator({ type: 'integer' })('x'), false)
  t.equal(usual?.serialiser({ type: 'object', properties: { a: { type: 'string' } } })({ a: 1, b: 2 }), '{"a":"1"}')
  await app.close()
})
