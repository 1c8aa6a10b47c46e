import t, { type Test } from 'tap'
import { once } from 'node:events'
import { buffer, text } from 'node:stream/consumers'
import { exchange, type Answer, type Exchange, type ExchangeRequest } from '../lib/client/exchange.ts'
import { fars, upstream, type Far, type Upstream } from './fixtures/upstream.ts'
import type { Wire } from './fixtures/wire.ts'

const UPGRADE: Partial<ExchangeRequest> = { protocol: ['foo'] }
const CONNECT: Partial<ExchangeRequest> = { method: 'CONNECT', target: 'b:1' }
const BODY: Partial<ExchangeRequest> = { method: 'POST', body: true }

const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'
const TUNNEL = 'HTTP/1.1 200 OK\r\n\r\n'

interface Sent {
  sent: Exchange
  server: Wire
  far: Upstream
}

/** A request to a server that is a wire, and its head read there. */
async function ask (t: Test, request: Partial<ExchangeRequest> = {}, which: Far = 'tcp'): Promise<Sent> {
  const far = await upstream(t, which)
  const socket = await far.dial()
  t.teardown(() => { socket.destroy() })
  const sent = exchange(socket, { method: 'GET', target: '/it', headers: ['Host', 'a'], ...request })
  const server = await far.accepted()
  return { sent, server, far }
}

async function answered (t: Test, request: Partial<ExchangeRequest>, answer: string, which: Far = 'tcp'): Promise<Sent & { answer: Answer }> {
  const sent = await ask(t, request, which)
  await sent.server.until('\r\n\r\n')
  sent.server.send(answer)
  return { ...sent, answer: await sent.sent.answer }
}

t.test('CL1 the head is what was asked for and nothing else, spelled as given', async t => {
  const { server, sent } = await ask(t, { target: '/a?b', headers: ['hOsT', 'a', 'X-One', '1', 'x-two', '2', 'X-One', '3'], protocol: ['foo', 'bar/2'] })
  t.equal((await server.head()).raw, [
    'GET /a?b HTTP/1.1', 'hOsT: a', 'X-One: 1', 'X-One: 3', 'x-two: 2', 'Upgrade: foo, bar/2', 'Connection: Upgrade', '', ''
  ].join('\r\n'))
  sent.abort(new Error('enough'))
})

for (const which of fars) {
  for (const [kind, request, answer] of [['upgrade', UPGRADE, SWITCH], ['connect', CONNECT, TUNNEL], ['hijack', {}, TUNNEL]] as const) {
    t.test(`CL1 ${kind} over ${which}: early bytes both ways, both half-closes, and the end`, async t => {
      const { sent, server } = await ask(t, { ...request, early: Buffer.from('early') }, which)
      await server.until('\r\n\r\nearly')
      server.send(`${answer}first`)
      const { kind: taken, readable, writable, head } = await sent.answer
      t.equal(taken, kind)
      t.equal(readable, writable)
      t.equal(head.toString(), 'first')
      server.end(' and last')
      t.equal(await text(readable), 'first and last')
      writable.end('late')
      t.equal((await server.rest()).toString(), 'late')
      t.same(await sent.over, { complete: true, reusable: false })
    })
  }

  t.test(`CL1 a body over ${which}: both at once, trailers both ways, and the connection stays`, async t => {
    const { sent, server, answer } = await answered(t, { ...BODY, keepAlive: true, headers: ['Host', 'a', 'Trailer', 'x-sum'] },
      'HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n', which)
    t.equal(answer.kind, 'body')
    t.equal(answer.statusMessage, 'Fine')
    t.equal(String((await once(answer.readable, 'data'))[0]), 'first')
    answer.writable.write('and')
    await server.until('3\r\nand\r\n')
    server.send('0\r\nX-Sum: 1\r\n\r\n')
    await once(answer.readable, 'end')
    t.same(answer.rawTrailers(), ['X-Sum', '1'])
    answer.writable.write('late')
    await server.until('4\r\nlate\r\n')
    sent.addTrailers(['X-Sum', '2'])
    answer.writable.end()
    await server.until('0\r\nX-Sum: 2\r\n\r\n')
    t.same(await sent.over, { complete: true, reusable: true })
  })
}

t.test('CL1 a connection that stayed carries the next request', async t => {
  const far = await upstream(t)
  const socket = await far.dial()
  const server = await far.accepted()
  for (const path of ['/1', '/2', '/3']) {
    const sent = exchange(socket, { method: 'GET', target: path, headers: ['Host', 'a'], keepAlive: true })
    await server.until(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
    server.send('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    t.equal(await text((await sent.answer).readable), 'ok')
    t.same(await sent.over, { complete: true, reusable: true })
  }
  t.equal(socket.listenerCount('close') + socket.listenerCount('data'), 0)
  const last = exchange(socket, { method: 'GET', target: '/4', headers: ['Host', 'a', 'Upgrade', 'foo', 'Connection', 'Upgrade'], keepAlive: true })
  await server.until('\r\n\r\n')
  server.send(`${SWITCH}tunnel`)
  const { readable } = await last.answer
  server.end()
  t.equal(await text(readable), 'tunnel')
})

t.test('CL1 without keepAlive, or where the server says close, the connection is closed behind the response', async t => {
  for (const [keepAlive, field] of [[false, 'X: y'], [true, 'Connection: close']] as const) {
    const { sent, server, answer } = await answered(t, { keepAlive }, `HTTP/1.1 200 OK\r\nContent-Length: 2\r\n${field}\r\n\r\nok`)
    t.equal(await text(answer.readable), 'ok')
    t.equal((await server.rest()).length, 0)
    t.same(await sent.over, { complete: true, reusable: false })
  }
})

t.test('CL1 a body that is known goes with its length, and one that is written may have one', async t => {
  const known = await ask(t, { method: 'POST', body: Buffer.from('known') })
  await known.server.until('Content-Length: 5\r\n\r\nknown')
  const written = await ask(t, { ...BODY, headers: ['Host', 'a', 'Content-Length', '4'] })
  written.sent.body?.write('wr')
  written.sent.body?.end('it')
  await written.server.until('Content-Length: 4\r\n\r\nwrit')
})

t.test('CL1 a body of another length than was declared is broken off', async t => {
  for (const chunk of ['123', '12345']) {
    const { sent, server } = await ask(t, { ...BODY, headers: ['Host', 'a', 'Content-Length', '4'] })
    sent.body?.end(chunk)
    await t.rejects(sent.answer, { code: 'ERR_HTTP_CONTENT_LENGTH_MISMATCH' })
    t.equal(await server.gone(), 'broken')
  }
})

t.test('CL1 a response without an end of its own goes on beside a request with a body, and a reset does not end it', async t => {
  const whole = await answered(t, BODY, 'HTTP/1.1 200 OK\r\n\r\nfirst')
  whole.server.end()
  t.equal(await text(whole.answer.readable), 'first')
  whole.answer.writable.end('late')
  await whole.server.until('4\r\nlate\r\n0\r\n\r\n')
  t.match(await whole.sent.over, { complete: true })
  const cut = await answered(t, BODY, 'HTTP/1.1 200 OK\r\n\r\nfirst')
  await once(cut.answer.readable, 'data')
  cut.server.reset()
  await t.rejects(text(cut.answer.readable), { code: 'ECONNRESET' })
  t.match(await cut.sent.over, { complete: false, error: { code: 'ECONNRESET' } })
})

t.test('CL1 a response that is cut off fails, by a FIN as by a reset, and so does the request', async t => {
  for (const how of ['end', 'reset'] as const) {
    for (const framing of ['Content-Length: 9', 'Transfer-Encoding: chunked']) {
      const { sent, server, answer } = await answered(t, BODY, `HTTP/1.1 200 OK\r\n${framing}\r\n\r\n`)
      const broken = once(answer.writable, 'error')
      server[how]()
      await t.rejects(buffer(answer.readable), { code: 'ECONNRESET' })
      await broken
      t.match(await sent.over, { complete: false, error: Error })
    }
  }
})

t.test('CL1 a whole response is good, whatever becomes of the request', async t => {
  const { sent, server, answer } = await answered(t, BODY, 'HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig')
  server.reset()
  t.equal(await text(answer.readable), 'big')
  t.match(await sent.over, { complete: true })
  answer.writable.write('more')
  answer.writable.end('and more')
  await once(answer.writable, 'finish')
})

for (const [kind, request, answer] of [['upgrade', UPGRADE, SWITCH], ['connect', CONNECT, TUNNEL], ['hijack', {}, TUNNEL]] as const) {
  t.test(`CL1 ${kind}: a reset is an error and no end`, async t => {
    const { sent, server, answer: { readable } } = await answered(t, request, `${answer}first`)
    await once(readable, 'data')
    server.reset()
    await t.rejects(text(readable), { code: 'ECONNRESET' })
    t.match(await sent.over, { complete: false, error: { code: 'ECONNRESET' } })
  })

  t.test(`CL1 ${kind}: destroy() and abort() are resets for the server`, async t => {
    for (const how of ['destroy', 'abort'] as const) {
      const { sent, server, answer: { readable } } = await answered(t, request, answer)
      const failed = once(readable, 'error')
      const error = new Error('enough')
      if (how === 'destroy') readable.destroy(error)
      else sent.abort(error)
      t.equal((await failed)[0], error)
      t.equal(await server.gone(), 'broken')
      t.match(await sent.over, { complete: false, error: { message: 'enough' } })
    }
  })
}

t.test('CL1 a refusal is a body, of an upgrade as of a CONNECT', async t => {
  for (const request of [UPGRADE, CONNECT]) {
    const { server, answer, sent } = await answered(t, request, 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n')
    t.equal(answer.kind, 'body')
    t.equal(answer.statusCode, 403)
    t.equal(await text(answer.readable), 'no')
    t.equal((await server.rest()).length, 0)
    t.same(await sent.over, { complete: true, reusable: false })
  }
})

t.test('CL1 HEAD, 204 and 304 have no body, whatever they declare', async t => {
  for (const [method, status, field] of [['HEAD', 200, 'Content-Length: 9'], ['GET', 204, 'X: y'], ['GET', 304, 'Content-Length: 9']] as const) {
    const { answer, sent } = await answered(t, { method, keepAlive: true }, `HTTP/1.1 ${status} X\r\n${field}\r\n\r\n`)
    t.equal(answer.kind, 'body')
    t.equal(await text(answer.readable), '')
    t.same(await sent.over, { complete: true, reusable: true })
  }
})

t.test('CL1 informational answers are told, and a flood of them is none', async t => {
  const told: number[] = []
  const { sent, server } = await ask(t, { ...UPGRADE, onInformation: ({ statusCode }) => { told.push(statusCode) } })
  server.send(`HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n${SWITCH}`)
  await sent.answer
  t.same(told, [100, 103])
  const flood = await ask(t)
  flood.server.send('HTTP/1.1 102 Processing\r\n\r\n'.repeat(200))
  await t.rejects(flood.sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID', statusCode: 502 })
})

for (const [what, request, answer] of [
  ['no HTTP', {}, 'SSH-2.0-OpenSSH_9.2\r\n'],
  ['a head without end', {}, `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(70_000)}\r\n`],
  ['a 101 with another token', UPGRADE, 'HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: bar\r\n\r\n'],
  ['a 101 without a token', UPGRADE, 'HTTP/1.1 101 X\r\n\r\n'],
  ['a 101 without Connection', UPGRADE, 'HTTP/1.1 101 X\r\nUpgrade: foo\r\n\r\n'],
  ['a 101 that nobody asked for', {}, SWITCH],
  ['a 101 to a CONNECT', CONNECT, SWITCH],
  ['a 101 with a body', UPGRADE, 'HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 3\r\n\r\nabc'],
  ['a 101 with chunks', UPGRADE, 'HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
  ['a 101 before the body of the request', { ...BODY, ...UPGRADE }, SWITCH],
  ['two lengths', {}, 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd']
] as const) {
  t.test(`CL1 ${what} is no answer, and nothing is left`, async t => {
    const { sent, server, far } = await ask(t, request)
    await server.until('\r\n\r\n')
    server.send(answer)
    await t.rejects(sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID', statusCode: 502 })
    t.match(await sent.over, { complete: false, reusable: false, error: { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID' } })
    await server.remains()
    server.destroy()
    await server.gone()
    t.equal(await far.connections(), 0)
  })
}

t.test('CL1 a connection that ends before the answer, and whether a byte of it had come', async t => {
  for (const how of ['end', 'reset'] as const) {
    for (const [sentBefore, heard] of [['', false], ['HTTP/1.1 2', true]] as const) {
      const { sent, server } = await ask(t, BODY)
      await server.until('\r\n\r\n')
      if (heard) await new Promise<void>(resolve => server.socket.write(sentBefore, () => resolve()))
      server[how]()
      await t.rejects(sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_LOST', statusCode: 502, cause: Error })
      if (how === 'end') t.equal(sent.heard, heard)
      await sent.over
      await server.remains()
    }
  }
})

t.test('CL1 the timeout and the signal, before the answer and after it', async t => {
  const late = await ask(t, { timeout: 1 })
  await t.rejects(late.sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT', statusCode: 504 })
  t.equal(await late.server.gone(), 'broken')
  for (const request of [UPGRADE, BODY]) {
    const control = new AbortController()
    const { sent, server } = await ask(t, { ...request, signal: control.signal })
    await server.until('\r\n\r\n')
    control.abort(new Error('enough'))
    await t.rejects(sent.answer, { message: 'enough' })
    t.equal(await server.gone(), 'broken')
    const after = new AbortController()
    const { server: other, answer } = await answered(t, { ...request, signal: after.signal },
      request === BODY ? 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' : SWITCH)
    after.abort(new Error('enough'))
    await t.rejects(text(answer.readable), { message: 'enough' })
    t.equal(await other.gone(), 'broken')
  }
})

t.test('CL1 what HTTP does not allow is thrown, and the connection is untouched', async t => {
  const far = await upstream(t)
  const socket = await far.dial()
  const server = await far.accepted()
  const request: ExchangeRequest = { method: 'GET', target: '/', headers: ['Host', 'a'] }
  for (const wrong of [{ method: 'G T' }, { target: '/a b' }, { target: '/a\r\nX: y' }, { headers: ['X', 'a\r\nb'] }, { headers: ['a b', 'c'] }, { protocol: ['a\r\nb'] }]) {
    t.throws(() => exchange(socket, { ...request, ...wrong }), TypeError)
  }
  t.throws(() => exchange(socket, { ...request, signal: AbortSignal.abort(new Error('enough')) }), { message: 'enough' })
  const sent = exchange(socket, request)
  t.equal((await server.head()).raw, 'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  server.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
  await text((await sent.answer).readable)
  await sent.over
  t.throws(() => exchange(socket, request), { code: 'FST_ERR_DUPLEX_UPSTREAM_LOST' })
})

t.test('CL1 an end that nobody reads yet is kept for the reader', async t => {
  const { server, answer, sent } = await answered(t, UPGRADE, SWITCH)
  server.end()
  answer.writable.end('mine')
  t.equal((await server.rest()).toString(), 'mine')
  t.equal(await text(answer.readable), '')
  t.same(await sent.over, { complete: true, reusable: false })
})
