import t, { type Test } from 'tap'
import { once } from 'node:events'
import http2, { type ServerHttp2Stream, type IncomingHttpHeaders } from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { exchange, type Exchange, type ExchangeRequest } from '../lib/client/exchange.ts'
import { openSession } from '../lib/client/http2.ts'
import { resetStream } from '../lib/internals/http2.ts'
import { dial } from '../lib/dial/dial.ts'
import { upstream } from './fixtures/upstream.ts'

interface Asked {
  sent: Exchange
  stream: ServerHttp2Stream
  headers: IncomingHttpHeaders
}

function closing (stream: ServerHttp2Stream): Promise<void> {
  return new Promise(resolve => stream.once('close', resolve))
}

type Ask = (request?: Partial<ExchangeRequest>) => Promise<Asked>

/** A server of Node's alone, and a session with it. */
async function session (t: Test, extendedConnect = true): Promise<Ask> {
  const server = http2.createServer({ settings: { enableConnectProtocol: extendedConnect } }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const opened = await openSession(await dial({ host: '127.0.0.1', port: (server.address() as AddressInfo).port }))
  t.teardown(() => {
    opened.destroy()
    server.close()
  })
  return async (request = {}) => {
    const streams = once(server, 'stream') as Promise<[ServerHttp2Stream, IncomingHttpHeaders]>
    const sent = exchange(opened, { method: 'GET', target: '/it', headers: ['Host', 'a'], ...request })
    const [stream, headers] = await streams
    stream.on('error', () => {})
    return { sent, stream, headers }
  }
}

t.test('CL1 the head over HTTP/2 is what was asked for, without what is of connections', async t => {
  const ask = await session(t)
  const { headers, stream, sent } = await ask({ headers: ['Host', 'a:1', 'X-One', '1', 'x-one', '2', 'Connection', 'x', 'Keep-Alive', '1'], scheme: 'https' })
  t.match({ ...headers }, { ':method': 'GET', ':path': '/it', ':authority': 'a:1', ':scheme': 'https', 'x-one': '1, 2', connection: undefined, 'keep-alive': undefined })
  stream.respond({ ':status': 204, 'x-two': '3' })
  const answer = await sent.answer
  t.match(answer, { kind: 'body', statusCode: 204, httpVersion: '2.0', headers: { 'x-two': '3' } })
  t.same(answer.rawHeaders.slice(0, 2), ['x-two', '3'])
})

for (const [kind, request, pseudo] of [
  ['upgrade', { protocol: ['foo'] }, { ':method': 'CONNECT', ':protocol': 'foo', ':path': '/it' }],
  ['connect', { method: 'CONNECT', target: 'b:1' }, { ':method': 'CONNECT', ':authority': 'b:1', ':path': undefined }]
] as const) {
  t.test(`CL1 ${kind} over HTTP/2: early bytes, both half-closes, and the end`, async t => {
    const ask = await session(t)
    const { sent, stream, headers } = await ask({ ...request, early: Buffer.from('early') })
    t.match({ ...headers }, pseudo)
    t.equal(String((await once(stream, 'data'))[0]), 'early')
    stream.respond({ ':status': 200 })
    stream.end('all')
    const { kind: taken, readable, writable, protocol } = await sent.answer
    t.equal(taken, kind)
    t.equal(protocol, kind === 'upgrade' ? 'foo' : undefined)
    t.equal(await text(readable), 'all')
    writable.end('late')
    t.equal(await text(stream), 'late')
    t.match(await sent.over, { complete: true, reusable: true })
  })

  t.test(`CL1 ${kind} over HTTP/2: a reset is an error and no end, both ways`, async t => {
    const ask = await session(t)
    const { sent, stream } = await ask(request)
    stream.respond({ ':status': 200 })
    stream.write('first')
    const { readable } = await sent.answer
    await once(readable, 'data')
    resetStream(stream, http2.constants.NGHTTP2_CANCEL)
    await t.rejects(text(readable), { code: 'ECONNRESET' })
    t.match(await sent.over, { complete: false, error: { code: 'ECONNRESET' } })
    const other = await ask(request)
    other.stream.respond({ ':status': 200 })
    await other.sent.answer
    other.sent.abort(new Error('enough'))
    await closing(other.stream)
    t.equal(other.stream.rstCode, http2.constants.NGHTTP2_CONNECT_ERROR)
  })
}

t.test('CL1 a body over HTTP/2: both at once, and trailers both ways', async t => {
  const ask = await session(t)
  const { sent, stream } = await ask({ method: 'POST', body: true })
  stream.respond({ ':status': 200 }, { waitForTrailers: true })
  stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '1' }))
  const { readable, writable, kind, rawTrailers } = await sent.answer
  t.equal(kind, 'body')
  stream.write('first')
  t.equal(String((await once(readable, 'data'))[0]), 'first')
  writable.write('and')
  t.equal(String((await once(stream, 'data'))[0]), 'and')
  stream.end()
  t.equal(await text(readable), '')
  t.same(rawTrailers(), ['x-sum', '1'])
  sent.addTrailers(['X-Sum', '2'])
  const trailers = once(stream, 'trailers')
  writable.end('late')
  t.equal(await text(stream), 'late')
  t.match((await trailers)[0], { 'x-sum': '2' })
  t.match(await sent.over, { complete: true })
})

t.test('CL1 a body that is known, informational answers, and a refusal over HTTP/2', async t => {
  const ask = await session(t)
  const told: number[] = []
  const { sent, stream } = await ask({ method: 'POST', body: Buffer.from('known'), onInformation: ({ statusCode }) => { told.push(statusCode) } })
  t.equal(await text(stream), 'known')
  stream.additionalHeaders({ ':status': 103 })
  stream.respond({ ':status': 403 })
  stream.end('no')
  const { kind, readable, statusCode } = await sent.answer
  t.same([kind, statusCode, await text(readable), told], ['body', 403, 'no', [103]])
})

t.test('CL1 a stream that is reset before the answer, and whether the request may be repeated', async t => {
  const ask = await session(t)
  for (const [code, heard] of [[http2.constants.NGHTTP2_REFUSED_STREAM, false], [http2.constants.NGHTTP2_INTERNAL_ERROR, true]] as const) {
    const { sent, stream } = await ask()
    stream.close(code)
    await t.rejects(sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_LOST' })
    t.equal(sent.heard, heard)
  }
})

t.test('CL1 the timeout and the signal over HTTP/2, before the answer and after it', async t => {
  const ask = await session(t)
  const late = await ask({ timeout: 1 })
  await t.rejects(late.sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT' })
  for (const responds of [false, true]) {
    const control = new AbortController()
    const { sent, stream } = await ask({ protocol: ['foo'], signal: control.signal })
    if (responds) {
      stream.respond({ ':status': 200 })
      await sent.answer
    }
    const closed = closing(stream)
    control.abort(new Error('enough'))
    if (responds) await t.rejects(text((await sent.answer).readable), { message: 'enough' })
    else await t.rejects(sent.answer, { message: 'enough' })
    await closed
    t.not(stream.rstCode, 0)
    await sent.over
  }
})

t.test('CL1 extended CONNECT where it is not offered, and what HTTP does not allow, are thrown', async t => {
  const ask = await session(t, false)
  await t.rejects(ask({ protocol: ['foo'] }), { code: 'FST_ERR_DUPLEX_NO_EXTENDED_CONNECT', statusCode: 502 })
  for (const wrong of [{ target: '/a b' }, { headers: ['X', 'a\r\nb'] }, { headers: ['a b', 'c'] }]) await t.rejects(ask(wrong), TypeError)
})

t.test('CL1 a session with what is no HTTP/2, with nobody, or called off', async t => {
  const { target, accepted } = await upstream(t)
  const first = openSession(await dial(target))
  first.catch(() => {})
  ;(await accepted()).send('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
  await t.rejects(first, { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID' })
  const second = openSession(await dial(target))
  second.catch(() => {})
  ;(await accepted()).end()
  await t.rejects(second, { code: 'FST_ERR_DUPLEX_UPSTREAM_LOST' })
  await t.rejects(openSession(await dial(target), { timeout: 1 }), { code: 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT' })
  const control = new AbortController()
  const socket = await dial(target)
  const third = openSession(socket, { signal: control.signal })
  control.abort(new Error('enough'))
  await t.rejects(third, { message: 'enough' })
  t.equal(socket instanceof net.Socket && socket.destroyed, true)
})
