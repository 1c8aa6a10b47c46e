import t from 'tap'
import { lengthPrefixed, type MessageFraming } from '../lib/index.ts'
import { closeFrame, frame, nextClose, nextText, opening } from './fixtures/frames.ts'
import { echo, room, type RoomSettings } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { gate } from './fixtures/server.ts'

const CHAT = request('GET /room', 'Connection: Upgrade', 'Upgrade: chat')
const lines: RoomSettings = { head: CHAT, duplex: { protocols: ['chat'] } }

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
    const { wire, connection } = await room(t, { messages: { in: {} }, before: app => { app.setValidatorCompiler((() => validate) as never) } }, echo)
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
