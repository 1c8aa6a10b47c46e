import t from 'tap'
import Fastify, { type FastifyRequest } from 'fastify'
import duplex, { type DuplexConnection, type FastifyDuplexOptions } from '../lib/index.ts'
import { attempt, endOf, forever } from './fixtures/governed.ts'
import { take } from './fixtures/kinds.ts'
import { serve } from './fixtures/server.ts'

t.test('GV2 the seconds of a token are no moment, and the error says what they need', async t => {
  const connections: DuplexConnection[] = []
  const inAnHour = (): number => Math.round(Date.now() / 1000) + 3600
  const server = await serve(t, {}, app => {
    app.setErrorHandler(async (error: Error, _request, reply) => { await reply.code(500).send({ code: error.message }) })
    take(app, connection => {
      connections.push(connection)
      return forever()
    }, { expires: request => inAnHour() * ((request as FastifyRequest).headers['x-seconds'] === undefined ? 1000 : 1) })
  })
  const { status, code } = await attempt(server, 'upgrade', 'X-Seconds: yes')
  t.equal(status, 500)
  t.match(code, /milliseconds since 1970 or undefined, got what seems to be seconds: a token needs exp \* 1000$/)
  const { wire } = await attempt(server)
  const [connection] = connections as [DuplexConnection]
  for (const wrong of [inAnHour(), 100_000, new Date(inAnHour())]) {
    t.throws(() => connection.extend(wrong), { code: 'FST_ERR_DUPLEX_INVALID_EXPIRY', message: /seems to be seconds/ })
  }
  t.notOk(connection.draining.aborted, 'it goes on')
  t.ok(connection.extend(inAnHour() * 1000))
  t.ok(connection.extend(Date.now() - 1000), 'a moment that has passed is one')
  t.same(await endOf(connection), ['expired', 'FST_ERR_DUPLEX_EXPIRED'])
  await wire.gone()
})

t.test('GV3 close() does not take options that are none', async t => {
  const server = await serve(t, {}, app => take(app, forever, { labels: () => ['a'] }))
  await attempt(server)
  for (const [options, message] of [
    [{ foo: 1 }, 'close(label, options) needs an object { within, code, error }, without foo'],
    [5, 'close(label, options) needs an object { within, code, error }, got number'],
    [null, 'close(label, options) needs an object { within, code, error }, got null'],
    [{ error: 'no' }, 'error must be an Error']
  ] as const) {
    t.throws(() => server.app.duplex.close('a', options as never), { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message })
  }
  t.equal(server.app.duplex.find('a').length, 1)
  t.equal(server.app.duplex.close('a'), 1)
})

t.test('GV3 labels that are one string: the error asks for a list', async t => {
  const server = await serve(t, {}, app => {
    app.setErrorHandler(async (error: Error, _request, reply) => { await reply.code(500).send({ code: error.message }) })
    take(app, forever, { labels: (() => 'user:7') as never })
  })
  const { code } = await attempt(server)
  t.equal(code, 'The function labels must give a list of strings, got string')
})

t.test('GV1 GV5 the error of a wrong option tells what is wrong with it', async t => {
  for (const [options, message] of [
    [{ maxConnections: { max: 1, key: () => 'a', foo: 1 } },
      'duplex option maxConnections must be an object { max, key, route }, without foo, got {"max":1,"key":"a function","foo":1}'],
    [{ rate: { bytesIn: 1, bytesUp: 1 } }, 'duplex option rate must be an object { bytesIn, bytesOut }, without bytesUp, got {"bytesIn":1,"bytesUp":1}'],
    [{ rate: { bytesIn: Infinity } }, 'duplex option rate.bytesIn must be a whole number of bytes a second, above 0, got Infinity'],
    [{ maxConnections: { max: 1, route: NaN } }, 'duplex option maxConnections.route must be an integer of at least 0 or Infinity, got NaN']
  ] as const) {
    const app = Fastify()
    await t.rejects(async () => await app.register(duplex, options as FastifyDuplexOptions), { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message })
    await app.close().catch(() => {})
  }
})
