import t from 'tap'
import { once } from 'node:events'
import { ServerResponse, type IncomingMessage } from 'node:http'
import type { Test } from 'tap'
import type { DuplexConnection } from '../lib/index.ts'
import { takeoverResponse, type TakeoverResponse } from '../lib/http1/takeover-response.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { listenAndTake, type Carrying } from './fixtures/bare.ts'
import { serve } from './fixtures/server.ts'
import { CONNECT, HIJACK, UPGRADE } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'

interface Answering {
  res: TakeoverResponse
  req: IncomingMessage
  socket: HttpSocket
  wire: Wire
  /** What the one who asked for it was told, and what the response told, in order. */
  told: string[]
}

/** A response on a connection that has left HTTP. */
async function answering (t: Test, request = UPGRADE, base: typeof ServerResponse = ServerResponse, carrying: Carrying = 'tcp'): Promise<Answering> {
  const { connect, taken } = await listenAndTake(t, carrying)
  const wire = await connect()
  wire.send(request)
  const { req, socket } = await taken()
  const told: string[] = []
  const res = new (takeoverResponse(base))(req, socket, {
    answerBegins: () => { told.push('begins') },
    answerEnds: () => {
      told.push('ends')
      socket.end()
    }
  })
  res.on('finish', () => told.push('finish'))
  res.on('close', () => told.push('close'))
  return { res, req, socket, wire, told }
}

const pastHead = async (wire: Wire): Promise<[string, string | undefined, string]> => {
  const { line, headers } = await wire.head()
  return [line, headers.connection, (await wire.rest()).toString()]
}

t.test('Q30 an answer on a connection that left HTTP closes it, and tells of its head, its end, and then of both events', async t => {
  const { res, wire, told } = await answering(t)
  const closed = once(res, 'close')
  res.statusCode = 403
  res.setHeader('Content-Length', 2)
  res.end('no')
  t.same(await pastHead(wire), ['HTTP/1.1 403 Forbidden', 'close', 'no'])
  await closed
  t.strictSame(told, ['begins', 'ends', 'finish', 'close'])
  t.ok(res.writableFinished)
})

const heads: Record<string, (res: TakeoverResponse) => void> = {
  'writeHead(status)': res => { res.writeHead(403) },
  'writeHead(status, reason)': res => { res.writeHead(403, 'Forbidden') },
  'writeHead(status, fields)': res => { res.writeHead(403, { Connection: 'keep-alive', 'x-a': '1' }) },
  'writeHead(status, array)': res => { res.writeHead(403, ['Connection', 'keep-alive', 'x-a', '1']) },
  'writeHead(status, reason, fields)': res => { res.writeHead(403, 'Forbidden', { connection: 'keep-alive' }) },
  'setHeader() before': res => {
    res.setHeader('connection', 'keep-alive')
    res.writeHead(403)
  },
  'end() alone': res => { res.statusCode = 403 },
  'writeHeader(status)': res => { (res as unknown as { writeHeader: (status: number) => void }).writeHeader(403) }
}

for (const [how, write] of Object.entries(heads)) {
  t.test(`Q24 an answer always says that its connection ends: ${how}`, async t => {
    const { res, wire } = await answering(t)
    write(res)
    res.end()
    t.same((await pastHead(wire)).slice(0, 2), ['HTTP/1.1 403 Forbidden', 'close'])
  })
}

t.test('Q24 an answer with Upgrade names that in Connection, however it is set', async t => {
  for (const set of [
    (res: TakeoverResponse) => res.setHeader('Upgrade', 'foo') && res.writeHead(426),
    (res: TakeoverResponse) => res.writeHead(426, { upgrade: 'foo' }),
    (res: TakeoverResponse) => res.writeHead(426, ['uPGRADE', 'foo'])
  ]) {
    const { res, wire } = await answering(t)
    set(res)
    res.end()
    t.equal((await wire.head()).headers.connection, 'Upgrade, close')
  }
})

const accepting: [request: string, status: number][] = [[UPGRADE, 101], [HIJACK, 101], [CONNECT, 101], [CONNECT, 200], [CONNECT, 299]]

for (const [request, status] of accepting) {
  for (const method of ['writeHead', 'writeHeader', 'statusCode'] as const) {
    t.test(`Q24 ${status} to ${String(request.split(' ')[0])}, by ${method}, is acceptance's alone to say`, async t => {
      const { res, wire } = await answering(t, request)
      t.ok(res.impliesTakeover(status))
      if (method === 'statusCode') res.statusCode = status
      else (res as unknown as Record<string, (status: number, reason: string) => void>)[method]?.(status, 'Fine')
      res.end()
      t.same((await pastHead(wire)).slice(0, 2), ['HTTP/1.1 500 Internal Server Error', 'close'])
    })
  }
}

t.test('Q1 a muted response puts nothing on the wire, and says that it was sent', async t => {
  const { res, socket, wire, told } = await answering(t)
  res.mute()
  t.strictSame([res.headersSent, res.writableEnded, res.writableFinished], [true, true, false])
  res.writeHead(200, { a: 'b' })
  res.flushHeaders()
  t.equal(res.write('x'), false)
  res.addTrailers({ a: 'b' })
  res.writeContinue()
  res.writeProcessing()
  res.writeEarlyHints({ link: '</a>; rel=preload' })
  for (const name of ['writeHeader', 'writeInformation']) (res as unknown as Record<string, (status: number) => void>)[name]?.(103)
  t.equal(res.end('x'), res)
  const derived = Object.create(res) as TakeoverResponse
  derived.write('x')
  derived.end('x')
  t.ok(derived.headersSent, 'and so is what is derived from it')
  socket.end('behind it')
  t.equal((await wire.rest()).toString(), 'behind it')
  t.strictSame(told, [])
})

t.test('Q30 a response that was let go is complete when the connection is: finish, then close, once', async t => {
  const { res, socket, told } = await answering(t)
  res.release(101)
  t.equal(res.socket, null)
  t.strictSame([res.statusCode, res.headersSent, res.writableFinished, res.closed], [101, true, false, false])
  t.notOk((socket as { _httpMessage?: unknown })._httpMessage)
  res.complete()
  res.complete()
  t.strictSame(told, ['finish', 'close'])
  t.strictSame([res.writableFinished, res.writableEnded, res.closed, res.destroyed], [true, true, true, true])
})

t.test('Q30 a response that was completed tells nobody of an answer', async t => {
  const { res, told, socket, wire } = await answering(t)
  res.complete()
  res.end('x')
  socket.end('behind it')
  t.equal((await wire.rest()).toString(), 'behind it')
  t.strictSame(told, ['finish', 'close'])
})

t.test('Q24 the class of a response is on top of the one that was asked for, made once for each', async t => {
  class Mine<R extends IncomingMessage = IncomingMessage> extends ServerResponse<R> {}
  t.equal(takeoverResponse(Mine), takeoverResponse(Mine))
  t.not(takeoverResponse(Mine), takeoverResponse(ServerResponse))
  const { res } = await answering(t, UPGRADE, Mine)
  t.ok(res instanceof Mine)
  res.mute()
  t.ok(res.headersSent)
})

for (const [kind, request] of [['upgrade', UPGRADE], ['connect', CONNECT], ['hijack', HIJACK]] as const) {
  t.test(`Q24 the ServerResponse of the app's server is what a takeover has, refused or accepted [${kind}]`, async t => {
    const heads: number[] = []
    class Mine extends ServerResponse {
      readonly mine = 'mine'
      override writeHead (...args: unknown[]): this {
        heads.push(args[0] as number)
        this.setHeader('x-mine', 'set by its class')
        return Reflect.apply(super.writeHead.bind(this), this, args) as this
      }
    }
    const seen: unknown[] = []
    const { connect } = await serve(t, { fastify: { http: { ServerResponse: Mine } } as never }, app => {
      app.addHook('onRequest', async (_request, reply) => { seen.push(reply.raw instanceof Mine, (reply.raw as Mine).mine) })
      const preHandler = async ({ headers }: { headers: Record<string, unknown> }): Promise<void> => {
        if (headers['x-refuse'] !== undefined) throw Object.assign(new Error('refused'), { statusCode: 403 })
      }
      for (const [method, url] of [['GET', '/it'], ['CONNECT', '*']] as const) {
        app.route({ method, url, duplex: true, preHandler, handler: ({ writable }: DuplexConnection) => { writable.end('the stream') } } as never)
      }
    })
    const refused = await connect()
    refused.send(request.replace('\r\n\r\n', '\r\nX-Refuse: 1\r\n\r\n'))
    const head = await refused.head()
    t.strictSame([head.status, head.headers['x-mine'], head.headers.connection], [403, 'set by its class', 'close'])
    await refused.rest()
    t.strictSame(heads, [403])
    const wire = await connect()
    wire.send(request)
    t.equal((await wire.head()).status, kind === 'upgrade' ? 101 : 200)
    t.equal((await wire.rest()).toString(), 'the stream')
    t.strictSame(heads, [403], 'an accept head is none of a response')
    t.strictSame(seen, [true, 'mine', true, 'mine'])
  })
}
