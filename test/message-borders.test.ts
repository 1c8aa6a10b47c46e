import { deflateRawSync } from 'node:zlib'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { lengthPrefixed, type MessageFraming } from '../lib/index.ts'
import { OPCODE, closeFrame, frame, nextClose, nextFrame, nextText, opening } from './fixtures/frames.ts'
import { echo, room, type RoomSettings } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { gate } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

const CHAT = request('GET /room', 'Connection: Upgrade', 'Upgrade: chat')
const lines: RoomSettings = { head: CHAT, duplex: { protocols: ['chat'] } }

const DEFLATE = { 'Sec-WebSocket-Extensions': 'permessage-deflate; client_no_context_takeover' }

/** RFC 7692 section 7.2.1. */
function deflated (text: string): Buffer {
  return frame(deflateRawSync(text, { finishFlush: 2 }).subarray(0, -4), { rsv: 4 })
}

function framing (own: Partial<MessageFraming>): MessageFraming {
  return { name: 'own', contentType: 'text/own', encode: payload => payload, decoder: () => ({ decode: chunk => [chunk], end: () => [] }), ...own }
}

for (const [name, decode] of [
  ['throws', () => { throw new Error('of the framing') }],
  ['throws nothing', () => { throw undefined }], // eslint-disable-line no-throw-literal
  ['gives nothing', () => undefined],
  ['gives text', () => ['text']]
] as const) {
  t.test(`MS4 a framing whose decode() ${name} ends the connection`, async t => {
    const failed = gate<unknown>()
    const own = framing({ decoder: () => ({ decode: decode as never, end: () => [] }) })
    const { wire, connection } = await room(t, { ...lines, messages: { framing: [own] } }, async ({ readable }) => {
      await readable.toArray().catch(failed.open)
    })
    wire.send('x')
    t.match(await failed.promise, { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' })
    t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } })
  })
}

for (const given of [undefined, 7, {}]) {
  t.test(`MS4 a framing whose encode() gives ${JSON.stringify(given)}: nothing is sent, and the connection goes on`, async t => {
    let encoded = 0
    const own = framing({ encode: payload => encoded++ === 0 ? given as never : payload })
    const { wire } = await room(t, { ...lines, messages: { framing: [own] } }, async ({ send }) => {
      await t.rejects(send('a'), { code: 'FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE' })
      await send('b')
    })
    wire.end()
    t.equal(String(await wire.rest()), '"b"')
  })
}

for (const [name, decode] of [
  ['nothing', () => { throw undefined }], // eslint-disable-line no-throw-literal
  ['text', () => { throw 'text' }], // eslint-disable-line no-throw-literal
  ['an error whose message cannot be read', () => {
    throw Object.defineProperty(new Error('x'), 'message', { get () { throw new Error('no') } })
  }]
] as const) {
  t.test(`MS4 an encoding whose decode() throws ${name}`, async t => {
    const { wire, connection } = await room(t, { messages: { encoding: { encode: () => '', decode } } }, echo)
    wire.send(frame('x'))
    t.equal((await nextClose(wire)).code, 1007)
    wire.send(closeFrame(1007)).end()
    t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } })
  })
}

for (const [name, onInvalid] of [
  ['throws nothing', () => { throw undefined }], // eslint-disable-line no-throw-literal
  ['rejects with nothing', async () => { throw undefined }] // eslint-disable-line no-throw-literal
] as const) {
  t.test(`MS4 onInvalid that ${name} ends the connection`, async t => {
    const { wire, connection } = await room(t, { messages: { onInvalid } }, echo)
    wire.send(frame('{'))
    t.equal((await nextClose(wire)).code, 1011)
    wire.send(closeFrame(1011)).end()
    t.match(await connection.closed, { reason: 'error' })
  })
}

for (const [name, validate] of [
  ['says no, and not why', () => false],
  ['throws nothing', () => { throw undefined }], // eslint-disable-line no-throw-literal
  ['rejects with nothing', async () => { throw undefined }], // eslint-disable-line no-throw-literal
  ['gives an error that is text', () => ({ error: 'no' })]
] as const) {
  t.test(`MS3 a validator that ${name}`, async t => {
    const before = (app: FastifyInstance): unknown => app.setValidatorCompiler((() => validate) as never)
    const { wire, connection } = await room(t, { messages: { in: {} }, before }, echo)
    wire.send(frame('1'))
    t.equal((await nextClose(wire)).code, 1007)
    wire.send(closeFrame(1007)).end()
    t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } })
  })
}

t.test('MS4 a validator that finds fault with everything: the close frame is made at once', async t => {
  const many = Array.from({ length: 30_000 }, (_, at) => ({ instancePath: `/${at}`, message: 'must be \u{1f600} integer' }))
  const { wire } = await room(t, {
    messages: { in: {} }, before: app => { app.setValidatorCompiler((() => Object.assign(() => false, { errors: many })) as never) }
  }, echo)
  wire.send(frame('1'))
  const { code, reason } = await nextClose(wire)
  t.equal(code, 1007)
  t.ok(Buffer.byteLength(reason) <= 123)
  t.notMatch(reason, /\ufffd/, 'no character is cut')
})

t.test('MS3 names that replace a prototype are refused, removed or ignored as in a body', async t => {
  const poison = ['{"__proto__":{"a":1}}', '{"a":[{"\\u005f_proto__":1}]}', '{"constructor":{"prototype":1}}']
  for (const text of poison) {
    const { wire } = await room(t, {}, echo)
    wire.send(Buffer.concat([frame('{"constructor":"a","b":"\\u0041"}'), frame(text)]))
    t.equal(await nextText(wire), '{"constructor":"a","b":"A"}')
    t.match(await nextClose(wire), { code: 1007, reason: /forbidden prototype property/ }, text)
  }
  const removing = await room(t, { fastify: { onProtoPoisoning: 'remove', onConstructorPoisoning: 'ignore' } }, echo)
  for (const text of poison) removing.wire.send(frame(text))
  t.equal(await nextText(removing.wire), '{}')
  t.equal(await nextText(removing.wire), '{"a":[{}]}')
  t.equal(await nextText(removing.wire), '{"constructor":{"prototype":1}}')
})

t.test('MS5 long messages that come in bytes', async t => {
  const text = JSON.stringify('x'.repeat(500))
  const socket = await room(t, {}, echo)
  await socket.wire.sendSlowly(frame(text))
  t.equal(await nextText(socket.wire), text)
  const prefixed = await room(t, { ...lines, messages: { framing: [lengthPrefixed({ size: 4 })] } }, echo)
  const sent = Buffer.concat([Buffer.of(0, 0, 1, 0xf6), Buffer.from(text)])
  await prefixed.wire.sendSlowly(sent)
  prefixed.wire.end()
  t.strictSame(await prefixed.wire.rest(), sent)
})

t.test('MS1 the accept head and the first frame leave in one write', async t => {
  const { wire } = await room(t, {}, async ({ send, closed }) => {
    await send('first')
    await send('second')
    await closed
  })
  t.equal(await nextText(wire), '"first"')
  t.equal(await nextText(wire), '"second"')
})

t.test('MS6 readTimeout does not end a peer whose messages wait for a slow reader', async t => {
  const open = gate()
  const { wire, connection, connect } = await room(t, { duplex: { readTimeout: 40 } }, async ({ readable, send }) => {
    for await (const message of readable) {
      await open.promise
      await send(message)
    }
  })
  wire.send(Buffer.concat(Array.from({ length: 20 }, (_, at) => frame(String(at)))))
  // Three that say nothing are ended one after the other.
  for (let at = 0; at < 3; at++) {
    const silent = await connect()
    silent.send(opening('/room'))
    await silent.head()
    await silent.remains()
  }
  t.equal(connection.signal.aborted, false)
  open.open()
  for (let at = 0; at < 20; at++) t.equal(await nextText(wire), String(at))
})

t.test('WS5 a peer that is gone while a message is inflated or compressed', async t => {
  const { connect, connection, quiet, wire } = await room(t, {
    duplex: { websocket: { perMessageDeflate: { threshold: 0 }, maxLength: 2_000_000 } }, head: opening('/room', DEFLATE)
  }, echo)
  const large = deflated('x'.repeat(1_000_000))
  const reset = async (wire: Wire): Promise<void> => {
    // The reset comes as soon as the first answer does, while the rest is at work.
    wire.send(Buffer.concat([large, large, large]))
    await wire.bytes(1)
    wire.reset()
  }
  await reset(wire)
  for (let at = 0; at < 10; at++) {
    const other = await connect()
    other.send(opening('/room', DEFLATE))
    await other.head()
    if (at % 2 === 0) {
      await reset(other)
    } else {
      other.send(large)
      await new Promise(resolve => setImmediate(resolve))
      other.reset()
    }
  }
  t.match(await connection.closed, { reason: 'abort' })
  await quiet()
})

t.test('WS5 what was sent before a failure is sent, compressed or not', async t => {
  for (const fields of [{}, DEFLATE]) {
    const { wire } = await room(t, {
      duplex: { websocket: { perMessageDeflate: { threshold: 0 } } }, head: opening('/room', fields)
    }, async ({ send }) => {
      for (const text of ['a', 'b', 'c']) await send(text)
      throw new Error('mine')
    })
    for (let at = 0; at < 3; at++) t.equal((await nextFrame(wire)).opcode, OPCODE.text)
    t.equal((await nextClose(wire)).code, 1011)
  }
})

t.test('WS5 what was compressed before an end without a close frame is read', async t => {
  const heard = gate<unknown[]>()
  const { wire } = await room(t, {
    duplex: { websocket: { perMessageDeflate: true, maxLength: 2_000_000 } }, head: opening('/room', DEFLATE)
  }, async ({ readable }) => {
    const seen: unknown[] = []
    try {
      for await (const message of readable) seen.push((message as string).length)
    } catch (error) {
      seen.push((error as { code: string }).code)
    }
    heard.open(seen)
  })
  wire.end(Buffer.concat([deflated('x'.repeat(1_500_000)), deflated('y')]))
  t.strictSame(await heard.promise, [1_500_000, 1, 'FST_ERR_DUPLEX_ABORTED'])
})

for (const framing of ['websocket', 'lines'] as const) {
  const settings = framing === 'lines' ? lines : {}
  const sent = (message: number): Buffer => framing === 'lines' ? Buffer.from(`${message}\n`) : frame(String(message))
  const end = framing === 'lines' ? Buffer.alloc(0) : closeFrame(1000)

  t.test(`MS9 two loops share the messages, and others join them [${framing}]`, async t => {
    const half = gate()
    const all = gate<number[]>()
    const { wire } = await room(t, settings, async ({ readable }) => {
      const seen: number[] = []
      const saw = (message: unknown): void => { if (seen.push(message as number) === 20) half.open() }
      const loop = async (): Promise<void> => { for await (const message of readable) saw(message) }
      await Promise.all([loop(), loop()])
      all.open(seen)
    })
    for (let at = 0; at < 20; at++) await wire.sendSlowly(sent(at))
    await half.promise
    wire.end(Buffer.concat([...Array.from({ length: 20 }, (_, at) => sent(20 + at)), end]))
    t.strictSame((await all.promise).sort((a, b) => a - b), Array.from({ length: 40 }, (_, at) => at))
  })

  t.test(`MS9 next() that is called ahead, and then a listener [${framing}]`, async t => {
    const two = gate()
    const all = gate<unknown[]>()
    const { wire } = await room(t, settings, async ({ readable }) => {
      const loop = readable[Symbol.asyncIterator]()
      const three = [loop.next(), loop.next(), loop.next()]
      const seen: unknown[] = []
      for (const next of three) seen.push((await next).value)
      const waiting = loop.next()
      two.open()
      seen.push((await waiting).value)
      await loop.return?.()
      readable.on('data', message => seen.push(message))
      readable.on('end', () => all.open(seen))
      await all.promise
    })
    wire.send(Buffer.concat([sent(0), sent(1), sent(2)]))
    await two.promise
    await wire.sendSlowly(sent(3))
    wire.end(Buffer.concat([...Array.from({ length: 10 }, (_, at) => sent(4 + at)), end]))
    t.strictSame(await all.promise, Array.from({ length: 14 }, (_, at) => at))
  })
}

t.test('MS1 a body of one JSON that is empty, or has a BOM', async t => {
  const { connect } = await room(t, {}, echo)
  const ask = async (method: string, body: string): Promise<[number, string]> => {
    const wire = await connect()
    const length = `Content-Length: ${Buffer.byteLength(body)}`
    wire.send(request(`${method} /room`, 'Connection: close', 'Content-Type: application/json', length) + body).end()
    const { status } = await wire.head()
    return [status, String(await wire.rest())]
  }
  t.match(await ask('POST', ''), [400, /FST_ERR_DUPLEX_MESSAGE_INVALID/])
  t.match(await ask('POST', ' '), [400, /FST_ERR_DUPLEX_MESSAGE_INVALID/])
  t.match(await ask('GET', ''), [200, /^0\r\n\r\n$/])
  t.match(await ask('POST', '\ufeff{"a":1}'), [200, /\{"a":1\}\n/])
})

t.test('WS5 what is wrong behind a message that is still inflated ends the connection, and nothing else', async t => {
  const { wire, connection } = await room(t, {
    duplex: { websocket: { perMessageDeflate: true, maxLength: 2_000_000 } }, head: opening('/room', DEFLATE)
  }, async ({ readable }) => { for await (const message of readable) t.equal((message as string).length, 1_500_000) })
  let sent = 0
  // In segments of their own, while the first message is at work.
  for (const part of [deflated('x'.repeat(1_500_000)), frame(Buffer.alloc(20, 0xff)), frame('y'.repeat(40)), frame('z'.repeat(40))]) {
    wire.send(part)
    sent += part.length
    while (connection.bytesRead < sent) await new Promise(resolve => setImmediate(resolve))
    if (connection.signal.aborted) break
  }
  t.equal((await nextClose(wire)).code, 1007)
  wire.end()
  t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } })
})
