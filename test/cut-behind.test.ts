import t, { type Test } from 'tap'
import type { Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import type { FastifyReply, FastifyInstance } from 'fastify'
import type { DuplexConnection, PendingDuplex } from '../lib/index.ts'
import { faults } from './fixtures/fastify-faults.ts'
import { request } from './fixtures/requests.ts'
import { onEach, serve, type Way } from './fixtures/server.ts'
import { pattern, sha256 } from './fixtures/takeover.ts'

// A body whose response is cut, behind a response that is sent and has not arrived: the client has not read it, the kernel of the
// server still has its end, and what the client sent is not read, so that a close would be a reset.

/** As much as the kernels take of it before the client reads. */
const BIG = pattern(400_000)

async function inTurn ({ raw }: { raw: { socket: unknown } }): Promise<void> {
  while (raw.socket === null) await turn()
}

const cuts: Record<string, (app: FastifyInstance) => void> = {
  'its handler destroys it': app => {
    app.post('/it', { duplex: { kinds: ['body'] } }, async (connection: DuplexConnection) => {
      connection.writable.write('begun')
      await inTurn(connection.reply as { raw: { socket: unknown } })
      connection.destroy()
    })
  },
  'its handler throws': app => {
    app.post('/it', { duplex: { kinds: ['body'] } }, async (connection: DuplexConnection) => {
      connection.writable.write('begun')
      await inTurn(connection.reply as { raw: { socket: unknown } })
      throw new Error('no more of it')
    })
  },
  'its handler destroys it before its turn': app => {
    app.post('/it', { duplex: { kinds: ['body'] } }, async (connection: DuplexConnection) => {
      connection.writable.write('begun')
      connection.destroy()
    })
  },
  'its writable is destroyed': app => {
    app.post('/it', { duplex: { kinds: ['body'] } }, async (connection: DuplexConnection) => {
      connection.writable.write('begun')
      await inTurn(connection.reply as { raw: { socket: unknown } })
      connection.writable.destroy()
    })
  },
  'its time is over in the midst of a plain answer': app => {
    app.post('/it', { handlerTimeout: 50, duplex: { kinds: ['body'], accept: 'manual' } } as never, async ({ reply }: PendingDuplex) => {
      const source = new PassThrough()
      source.write('begun')
      await reply.send(source)
    })
  }
}

for (const [how, declare] of Object.entries(cuts)) {
  // The time limit strikes behind an answer that has begun.
  if (faults.lateError && how.startsWith('its time')) continue
  onEach(t, `Q8 a body that is cut because ${how}, behind a response that the client has not read yet: that one arrives whole`, async (t: Test, transport: Way) => {
    const replies: FastifyReply[] = []
    const sockets: Socket[] = []
    const server = await serve(t, { transport }, app => {
      app.addHook('onRequest', async ({ raw }, reply) => {
        replies.push(reply)
        sockets.push(raw.socket)
      })
      app.get('/big', (_request, reply) => reply.send(BIG))
      declare(app)
    })
    const wire = await server.connect()
    wire.socket.pause()
    wire.send(request('GET /big') + request('POST /it', 'Content-Length: 1000000'))
    wire.send(Buffer.alloc(300_000))
    while (replies[1]?.raw.destroyed !== true) await turn()
    const [socket] = sockets as [Socket]
    while (!socket.destroyed && !socket.writableEnded) await turn()
    wire.socket.resume()
    const head = await wire.head()
    t.equal(head.status, 200)
    t.equal(sha256(await wire.bytes(BIG.length)), sha256(BIG))
    t.notMatch(await wire.remains(), /0\r\n\r\n$/, 'and the one behind it does not look whole')
    await server.quiet()
  }, ['tcp', 'tls'])
}
