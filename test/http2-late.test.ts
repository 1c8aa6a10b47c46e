import t from 'tap'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import type { FastifyReply } from 'fastify'
import type { PendingDuplex } from '../lib/index.ts'
import { POST, request, requests, serveHttp2, whole } from './fixtures/http2-server.ts'
import { takeManually } from './fixtures/kinds.ts'
import { codeOf } from './fixtures/requests.ts'
import { gate } from './fixtures/server.ts'
import { tooLate } from './fixtures/too-late.ts'

const SHORT = 50

const codes = { handshakeTimeout: 'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT', handlerTimeout: 'FST_ERR_HANDLER_TIMEOUT' } as const

function replyOf ({ reply }: PendingDuplex): FastifyReply {
  return reply as unknown as FastifyReply
}

for (const [what, deed] of Object.entries(tooLate)) {
  for (const timer of ['handshakeTimeout', 'handlerTimeout'] as const) {
    for (const place of ['handler', 'preHandler hook'] as const) {
      t.test(`Q1 a ${place} that ${what} while the answer of ${timer} is made: that answer is whole [h2]`, async t => {
        let struck = gate()
        let done = gate()
        const late = async (reply: FastifyReply): Promise<unknown> => {
          const { open } = done
          await struck.promise
          try {
            return await deed(reply)
          } finally {
            setImmediate(open)
          }
        }
        const { session, over } = await serveHttp2(t, timer === 'handshakeTimeout' ? { plugin: { handshakeTimeout: SHORT } } : {}, app => {
          app.setErrorHandler(async (error: Error & { code?: string, statusCode?: number }, _request, reply) => {
            struck.open()
            await done.promise
            return reply.code(error.statusCode ?? 500).send({ code: error.code })
          })
          app.addHook('preHandler', async (_request, reply) => {
            reply.header('x-early', 'yes')
            if (place !== 'handler') return await late(reply) as undefined
          })
          takeManually(app, pending => late(replyOf(pending)), timer === 'handlerTimeout' ? { handlerTimeout: SHORT } : {})
        })
        const client = await session()
        for (const fields of Object.values(requests)) {
          struck = gate()
          done = gate()
          const { stream, status, headers } = await request(client, fields, fields === POST)
          t.equal(status, 503)
          t.equal(headers['x-early'], 'yes', 'what was set in time is there')
          t.notOk(headers['x-late'], 'and nothing that came later')
          t.match(headers['content-type'], 'application/json')
          t.equal(codeOf((await whole(stream)).toString()), codes[timer])
          stream.end()
          if (!stream.closed) await once(stream, 'close')
        }
        await over()
      })
    }
  }
}

t.test('Q1 handlerTimeout strikes a stream that was sent and has no byte yet: its answer is whole [h2]', async t => {
  const sources: PassThrough[] = []
  const { session, over } = await serveHttp2(t, {}, app => {
    takeManually(app, pending => {
      const source = new PassThrough()
      sources.push(source)
      replyOf(pending).code(403).type('text/html').send(source)
    }, { handlerTimeout: SHORT })
  })
  const client = await session()
  for (const fields of Object.values(requests)) {
    const { stream, status } = await request(client, fields, fields === POST)
    t.equal(status, 503)
    sources.at(-1)?.end('late')
    t.equal(codeOf((await whole(stream)).toString()), codes.handlerTimeout)
    stream.end()
    if (!stream.closed) await once(stream, 'close')
  }
  await over()
})
