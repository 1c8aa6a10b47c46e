import { EventEmitter, once } from 'node:events'
import { Readable, type Transform } from 'node:stream'
import { DeflateRaw, deflateRawSync, InflateRaw, type Zlib } from 'node:zlib'
import t, { type Test } from 'tap'
import Fastify from 'fastify'
import duplex from '../lib/index.ts'
import { ACCEPT, OPCODE, closeFrame, frame, nextClose, nextFrame, nextText, opening, type FrameOptions } from './fixtures/frames.ts'
import { declareRoom, echo, room, type RoomSettings } from './fixtures/messages.ts'
import { codeOf, request } from './fixtures/requests.ts'
import { gate, serve } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

const websocket = { websocket: true }

/** The status and code that a handshake is answered with. */
async function refusal (wire: Wire, head: string): Promise<[number, string | undefined, Record<string, string>]> {
  wire.send(head)
  const { status, headers, body } = await wire.response()
  return [status, codeOf(body), headers]
}

t.test('WS1 handshake: what is answered, with the fields of hooks', async t => {
  const { head, wire } = await room(t, { duplex: { ...websocket, headers: { 'x-of-route': 'yes' } } }, echo)
  t.match(head, {
    line: 'HTTP/1.1 101 Switching Protocols',
    headers: { upgrade: 'websocket', connection: 'Upgrade', 'sec-websocket-accept': ACCEPT, 'x-of-route': 'yes' }
  })
  t.notOk(head.headers['sec-websocket-protocol'])
  t.notOk(head.headers['sec-websocket-extensions'])
  wire.send(frame('a')).send(frame(Buffer.of(1, 2), { opcode: OPCODE.binary }))
  t.match(await nextFrame(wire), { opcode: OPCODE.text, fin: true, masked: false, payload: Buffer.from('a') })
  t.match(await nextFrame(wire), { opcode: OPCODE.binary, payload: Buffer.of(1, 2) })
})

t.test('WS1 handshake: each refusal has its status', async t => {
  const server = await serve(t, {}, app => declareRoom(app, { duplex: { ...websocket, kinds: ['upgrade'] } }, echo))
  const cases: [Record<string, string>, number, string][] = [
    [{ 'Sec-WebSocket-Version': '8' }, 426, 'FST_ERR_DUPLEX_WEBSOCKET_VERSION'],
    [{ 'Sec-WebSocket-Version': '' }, 426, 'FST_ERR_DUPLEX_WEBSOCKET_VERSION'],
    [{ 'Sec-WebSocket-Key': '' }, 400, 'FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE'],
    [{ 'Sec-WebSocket-Key': 'c2hvcnQ=' }, 400, 'FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE'],
    [{ Origin: 'http://evil.example' }, 403, 'FST_ERR_DUPLEX_WEBSOCKET_ORIGIN'],
    [{ Origin: 'null' }, 403, 'FST_ERR_DUPLEX_WEBSOCKET_ORIGIN'],
    [{ Upgrade: 'other' }, 426, 'FST_ERR_DUPLEX_UPGRADE_REQUIRED']
  ]
  for (const [fields, status, code] of cases) {
    const [gotStatus, gotCode, headers] = await refusal(await server.connect(), opening('/room', fields))
    t.strictSame([gotStatus, gotCode], [status, code], JSON.stringify(fields))
    if (code.endsWith('VERSION')) t.equal(headers['sec-websocket-version'], '13')
  }
  const [status, code] = await refusal(await server.connect(), opening('/room').replace('GET', 'POST'))
  t.strictSame([status, code], [400, 'FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE'])
})

t.test('WS1 origins: the same host by default, a list, a function, any', async t => {
  const allowed = async (t: Test, origin: unknown, sent: string, fields: Record<string, string> = {}): Promise<boolean> => {
    const server = await serve(t, {}, app => declareRoom(app, { duplex: { websocket: origin === undefined ? true : { origin } } }, echo))
    const wire = await server.connect()
    wire.send(opening('/room', { Origin: sent, ...fields }))
    return (await wire.head()).status === 101
  }
  t.equal(await allowed(t, undefined, 'http://a'), true)
  t.equal(await allowed(t, undefined, 'https://A:443', { Host: 'a' }), true)
  t.equal(await allowed(t, undefined, 'http://a:81'), false)
  t.equal(await allowed(t, undefined, 'http://a.evil'), false)
  t.equal(await allowed(t, ['http://b'], 'http://b'), true)
  t.equal(await allowed(t, ['http://b'], 'http://a'), false)
  t.equal(await allowed(t, async (origin: string) => origin === 'http://c', 'http://c'), true)
  t.equal(await allowed(t, () => false, 'http://a'), false)
  t.equal(await allowed(t, false, 'http://evil.example'), true)
})

t.test('WS1 subprotocols: the first of the route that is offered', async t => {
  const ask = async (subprotocols: unknown, offered: string): Promise<string | undefined> => {
    const duplex = { websocket: { subprotocols } }
    const server = await serve(t, {}, app => declareRoom(app, { duplex }, async ({ send, subprotocol }) => {
      await send(String(subprotocol))
    }))
    const wire = await server.connect()
    wire.send(opening('/room', { 'Sec-WebSocket-Protocol': offered }))
    const { status, headers } = await wire.head()
    if (status !== 101) return String(status)
    t.equal(await nextText(wire), String(headers['sec-websocket-protocol']))
    return headers['sec-websocket-protocol']
  }
  t.equal(await ask(['two', 'one'], 'one, two'), 'two')
  t.equal(await ask(['three'], 'one, two'), undefined)
  t.equal(await ask(undefined, 'one'), undefined)
  t.equal(await ask(async (offered: string[]) => offered[1], 'one, two'), 'two')
  t.equal(await ask(() => false, 'one'), undefined)
  t.equal(await ask(() => 'three', 'one'), '500')
  t.equal(await ask(['one'], 'one, one'), '400')
})

t.test('WS1 HTTP/2: the 200 has the acceptance of a key that came', async t => {
  const { head, wire } = await room(t, { transport: 'h2', duplex: websocket }, echo)
  t.match(head, { status: 200, headers: { 'sec-websocket-accept': ACCEPT } })
  wire.send(frame('a'))
  t.equal(await nextText(wire), 'a')
  const server = await serve(t, { transport: 'h2' }, app => declareRoom(app, { duplex: websocket }, echo))
  const other = await server.connect()
  other.send(opening('/room', { 'Sec-WebSocket-Key': '' }))
  t.match(await other.head(), { status: 200, headers: { 'sec-websocket-accept': undefined } })
})

interface Case { name: string, send: Buffer[], hear?: string[], code: number | undefined }

const f = (payload: string | Buffer, options?: FrameOptions): Buffer => frame(payload, options)
const part = (payload: string | Buffer, opcode: number, fin: boolean): Buffer => frame(payload, { opcode, fin })
const BYE = closeFrame(1000)
const bad = (name: string, ...send: Buffer[]): Case => ({ name, send, code: 1002 })
const { continuation, text, ping, pong, close, binary } = OPCODE

const cases: Case[] = [
  ...[0, 1, 125, 126, 127, 65_535, 65_536].map((size): Case => ({ name: `text of ${size} bytes`, send: [f('x'.repeat(size)), BYE], hear: ['x'.repeat(size)], code: 1000 })),
  { name: 'a length in 2 bytes that fits 1', send: [f('ab', { lengthBytes: 2 }), BYE], hear: ['ab'], code: 1000 },
  { name: 'a length in 8 bytes that fits 1', send: [f('ab', { lengthBytes: 8 }), BYE], hear: ['ab'], code: 1000 },
  { name: 'a mask of zeros', send: [f('ab', { mask: [0, 0, 0, 0] }), BYE], hear: ['ab'], code: 1000 },
  { name: 'fragments', send: [part('a', text, false), part('b', continuation, false), part('', continuation, false), part('c', continuation, true), BYE], hear: ['abc'], code: 1000 },
  { name: 'fragments of nothing', send: [part('', text, false), part('', continuation, true), BYE], hear: [''], code: 1000 },
  { name: 'UTF-8 cut between fragments', send: [part(Buffer.of(0xe2, 0x82), text, false), part(Buffer.of(0xac), continuation, true), BYE], hear: ['\u20ac'], code: 1000 },
  { name: 'a ping between fragments', send: [part('a', text, false), f('p', { opcode: ping }), part('b', continuation, true), BYE], hear: ['pong p', 'ab'], code: 1000 },
  { name: 'a ping of 125 bytes', send: [f('p'.repeat(125), { opcode: ping }), BYE], hear: [`pong ${'p'.repeat(125)}`], code: 1000 },
  { name: 'a pong that nobody asked for', send: [f('p', { opcode: pong }), f('a'), BYE], hear: ['a'], code: 1000 },
  { name: 'a close frame without a code', send: [closeFrame()], code: undefined },
  { name: 'a close frame with a reason', send: [closeFrame(3000, 'why')], code: 3000 },
  ...[1000, 1001, 1003, 1007, 1011, 3000, 4999].map((code): Case => ({ name: `close code ${code}`, send: [closeFrame(code)], code })),
  ...[0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000].map(code => bad(`close code ${code}`, closeFrame(code))),
  { name: 'frames behind a close frame', send: [f('a'), BYE, f('b')], hear: ['a'], code: 1000 },
  bad('a close frame of 1 byte', f('x', { opcode: close })),
  bad('a ping of 126 bytes', f('p'.repeat(126), { opcode: ping })),
  bad('a ping in fragments', part('p', ping, false)),
  ...[1, 2, 4].map(rsv => bad(`reserved bit ${rsv}`, f('a', { rsv }))),
  bad('a reserved bit in a ping', f('a', { rsv: 4, opcode: ping })),
  ...[3, 7, 11, 15].map(opcode => bad(`opcode ${opcode}`, f('', { opcode }))),
  bad('a continuation of nothing', part('a', continuation, true)),
  bad('text inside fragments', part('a', text, false), f('b')),
  bad('no mask', f('a', { mask: false })),
  { name: 'what came before a broken frame', send: [f('a'), f('', { opcode: 3 })], hear: ['a'], code: 1002 },
  { name: 'text that is not UTF-8', send: [f(Buffer.of(0x61, 0xff))], code: 1007 },
  { name: 'UTF-8 of a surrogate', send: [f(Buffer.of(0xed, 0xa0, 0x80))], code: 1007 },
  { name: 'UTF-8 that ends inside a character', send: [f(Buffer.of(0xe2, 0x82))], code: 1007 },
  { name: 'bytes that are not UTF-8', send: [f(Buffer.of(0xff), { opcode: binary }), BYE], hear: ['\u00ff'], code: 1000 },
  { name: 'a reason that is not UTF-8', send: [f(Buffer.of(3, 0xe8, 0xff), { opcode: close })], code: 1007 },
  { name: 'a length above the limit', send: [f('', { length: 65_537, lengthBytes: 8 })], code: 1009 },
  { name: 'a length above 2 ** 53', send: [Buffer.of(0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)], code: 1009 },
  { name: 'fragments above the limit', send: [part('a'.repeat(60_000), text, false), part('a'.repeat(10_000), continuation, true)], code: 1009 }
]

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`WS4 what RFC 6455 says of frames [${transport}]`, async t => {
    const server = await serve(t, { transport }, app => declareRoom(app, { duplex: websocket }, async ({ readable, send }) => {
      for await (const message of readable) await send(typeof message === 'string' ? message : (message as Buffer).toString('latin1'))
    }))
    for (const { name, send, hear = [], code } of cases) {
      const wire = await server.connect()
      wire.send(opening('/room'))
      await wire.head()
      wire.send(Buffer.concat(send))
      const heard: string[] = []
      for (;;) {
        const got = await nextFrame(wire)
        if (got.opcode === close) {
          t.equal(got.payload.length === 0 ? undefined : got.payload.readUInt16BE(), code, name)
          break
        }
        heard.push(got.opcode === pong ? `pong ${String(got.payload)}` : got.payload.toString('utf8'))
      }
      t.strictSame(heard, hear, name)
      wire.end()
    }
    await server.quiet()
  })
}

t.test('WS4 the same frames, byte by byte', async t => {
  const { wire } = await room(t, { duplex: websocket }, echo)
  await wire.sendSlowly(Buffer.concat([part('a', text, false), f('p', { opcode: ping }), part('\u20ac', continuation, true), BYE]))
  t.match(await nextFrame(wire), { opcode: pong, payload: Buffer.from('p') })
  t.equal(await nextText(wire), 'a\u20ac')
  t.strictSame(await nextClose(wire), { code: 1000, reason: '' })
})

interface End {
  name: string
  settings?: RoomSettings
  handler: Parameters<typeof room>[2]
  run (wire: Wire, live: Awaited<ReturnType<typeof room>>): unknown
  code: number | undefined
  closed: object
}

const ends: End[] = [
  {
    name: 'the handler resolves',
    handler: async ({ send }) => { await send('bye') },
    run: async wire => { wire.send(closeFrame(1000)) },
    code: 1000,
    closed: { reason: 'end', websocket: { code: 1000, reason: '', clean: true } }
  },
  {
    name: 'the handler rejects',
    handler: async () => { throw new Error('mine') },
    run: async wire => { wire.send(closeFrame(1011)) },
    code: 1011,
    closed: { reason: 'error', error: { message: 'mine' }, websocket: { code: 1011, clean: true } }
  },
  {
    name: 'the handler closes with a code of its own',
    handler: async connection => { await connection.close({ code: 4000, reason: 'enough' }) },
    run: async wire => { wire.send(closeFrame(4000, 'enough')) },
    code: 4000,
    closed: { reason: 'end', websocket: { code: 4000, reason: 'enough', clean: true } }
  },
  {
    name: 'the client closes, and the handler is not reading',
    handler: async ({ closed }) => { await closed },
    run: async wire => { wire.send(closeFrame(3001, 'gone')) },
    code: 3001,
    closed: { reason: 'end', websocket: { code: 3001, reason: 'gone', clean: true } }
  },
  {
    name: 'the client closes inside a message',
    handler: echo,
    run: async wire => { wire.send(Buffer.concat([part('a', text, false), closeFrame(1001)])) },
    code: 1001,
    closed: { reason: 'end', websocket: { code: 1001, clean: true } }
  },
  {
    name: 'the server drains, and the handler leaves',
    handler: async ({ draining, readable }) => {
      await new Promise(resolve => draining.addEventListener('abort', resolve))
      readable.resume()
    },
    run: async (wire, { app }) => {
      void app.close()
      await nextClose(wire).then(({ code }) => { if (code !== 1001) throw new Error(`${code}`) })
      wire.send(closeFrame(1001))
      wire.end()
    },
    code: undefined,
    closed: { reason: 'end', websocket: { code: 1001, clean: true } }
  },
  {
    name: 'a message that is no JSON',
    settings: { messages: {} },
    handler: echo,
    run: async wire => { wire.send(Buffer.concat([f('[1]'), f('{')])) },
    code: 1007,
    closed: { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } }
  }
]

for (const transport of ['tcp', 'h2'] as const) {
  for (const { name, settings = { duplex: websocket }, handler, run, code, closed } of ends) {
    t.test(`WS3 ${name} [${transport}]`, async t => {
      const live = await room(t, { transport, ...settings }, handler)
      const { wire, connection } = live
      await run(wire, live)
      if (code !== undefined) t.equal((await nextClose(wire)).code, code)
      wire.end()
      t.match(await connection.closed, closed)
    })
  }

  t.test(`WS3 no close frame is never a clean end [${transport}]`, async t => {
    const failed = gate<unknown>()
    const { wire, connection } = await room(t, { transport, duplex: websocket }, async ({ readable, send }) => {
      try {
        for await (const message of readable) await send(message)
      } catch (error) {
        failed.open(error)
      }
    })
    wire.send(f('last'))
    wire.end()
    // Over HTTP/2 a reset overtakes what was sent before it.
    if (transport === 'tcp') t.equal(await nextText(wire), 'last')
    t.match(await failed.promise, { code: 'FST_ERR_DUPLEX_ABORTED' })
    t.match(await connection.closed, { reason: 'abort', websocket: { code: 1006, clean: false } })
  })
}

t.test('WS3 replies to what came before a close frame go out before it is answered', async t => {
  const { wire, connection } = await room(t, { duplex: websocket }, async ({ readable, send }) => {
    for await (const message of readable) {
      await new Promise(resolve => setImmediate(resolve))
      await send(message)
    }
  })
  wire.send(Buffer.concat([f('1'), f('2'), f('3'), closeFrame(1000)]))
  t.strictSame([await nextText(wire), await nextText(wire), await nextText(wire)], ['1', '2', '3'])
  t.strictSame(await nextClose(wire), { code: 1000, reason: '' })
  wire.end()
  t.match(await connection.closed, { reason: 'end', websocket: { clean: true } })
})

t.test('WS3 close() with a code that nobody may send is an error of the app', async t => {
  const { connection } = await room(t, { duplex: websocket }, echo)
  for (const code of [999, 1005, 1006, 1015, 2000, 5000, 1.5]) t.throws(() => connection.close({ code }), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
})

const DEFLATE = { 'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits' }
/** What RFC 7692 section 7.2.1 makes of a message. */
const deflated = (payload: string | Buffer): Buffer => {
  const bytes = deflateRawSync(payload, { finishFlush: 2 })
  return bytes.subarray(0, -4)
}

t.test('WS5 permessage-deflate: off unless the route and the client want it', async t => {
  const deflating = { websocket: { perMessageDeflate: true } }
  const ask = async (duplex: object, fields: Record<string, string>): Promise<string | undefined> =>
    (await room(t, { duplex, head: opening('/room', fields) }, echo)).head.headers['sec-websocket-extensions']
  t.equal(await ask(websocket, DEFLATE), undefined)
  t.equal(await ask(deflating, {}), undefined)
  t.equal(await ask(deflating, { 'Sec-WebSocket-Extensions': 'permessage-deflate; unknown' }), undefined)
  t.match(await ask(deflating, DEFLATE), /^permessage-deflate/)
})

t.test('WS5 permessage-deflate: both ways, and a bomb ends at maxLength', async t => {
  let inflated = 0
  const { prototype } = InflateRaw as unknown as { prototype: Transform }
  t.intercept(prototype, 'push', {
    value (this: Transform, chunk: Buffer | null) {
      inflated += chunk?.length ?? 0
      return Readable.prototype.push.call(this, chunk)
    }
  })
  const { wire, connection } = await room(t, {
    duplex: { websocket: { perMessageDeflate: true, maxLength: 10_000 } }, head: opening('/room', DEFLATE)
  }, echo)
  wire.send(f(deflated('x'.repeat(5000)), { rsv: 4 }))
  const { rsv, payload } = await nextFrame(wire)
  t.equal(rsv, 4)
  t.ok(payload.length < 100)
  wire.send(f('short'))
  t.equal(await nextText(wire), 'short')
  const bomb = deflated(Buffer.alloc(50 * 1024 * 1024))
  inflated = 0
  wire.send(f(bomb.subarray(0, 9000), { rsv: 4 }))
  t.equal((await nextClose(wire)).code, 1009)
  wire.end()
  t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG' } })
  // One chunk of zlib at the most is too much.
  t.ok(inflated > 10_000 && inflated <= 10_000 + 16 * 1024, `${inflated} bytes were inflated`)
})

t.test('WS5 permessage-deflate: a quiet connection keeps no memory for it, and goes on', async t => {
  const released = new EventEmitter()
  let count = 0
  for (const { prototype } of [InflateRaw, DeflateRaw] as unknown as { prototype: Zlib & Transform }[]) {
    const { close } = prototype
    t.intercept(prototype, 'close', {
      value (this: Zlib, ...rest: []) {
        if (++count % 2 === 0) released.emit('both')
        close.apply(this, rest)
      }
    })
  }
  const { wire } = await room(t, { duplex: { websocket: { perMessageDeflate: true } }, head: opening('/room', DEFLATE) }, echo)
  const whole = deflated('y'.repeat(3000))
  for (let round = 1; round <= 2; round++) {
    wire.send(f(whole, { rsv: 4 }))
    const both = once(released, 'both')
    t.equal((await nextFrame(wire)).rsv, 4)
    await both
    t.equal(count, 2 * round)
  }
  // Half of a message is no quiet time: the other half belongs to the same stream.
  wire.send(f(whole.subarray(0, 10), { rsv: 4, fin: false }))
  await new Promise(resolve => setTimeout(resolve, 1100))
  t.equal(count, 4)
  const both = once(released, 'both')
  wire.send(f(whole.subarray(10), { opcode: OPCODE.continuation }))
  t.equal((await nextFrame(wire)).rsv, 4)
  await both
})

t.test('WS1 wrong options fail at boot', async t => {
  const declare = (options: object) => async (): Promise<void> => {
    const app = Fastify()
    await app.register(duplex)
    app.get('/', { duplex: options } as never, (() => {}) as never)
  }
  for (const options of [
    { websocket: 1 }, { websocket: { origin: 1 } }, { websocket: { subprotocols: [''] } }, { websocket: { perMessageDeflate: 1 } }, { websocket: { no: 1 } },
    { messages: 1 }, { messages: { no: 1 } }, { messages: { framing: [] } }, { messages: { framing: 'x' } }, { messages: { encoding: 'x' } },
    { messages: { maxLength: 0 } }, { messages: { highWaterMark: -1 } }, { messages: { heartbeat: 1.5 } }, { messages: { onInvalid: 'x' } },
    { messages: { in: 1 } }, { messages: { encoding: 'binary', in: {} } }, { messages: { encoding: 'binary', framing: 'lines' } },
    { messages: {}, websocket: true }
  ]) await t.rejects(declare(options)(), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' }, JSON.stringify(options))
})

t.test('WS1 a plain request at a route of WebSocket alone is told what it speaks', async t => {
  const server = await serve(t, {}, app => declareRoom(app, { duplex: websocket }, echo))
  const wire = await server.connect()
  wire.send(request('GET /room'))
  const { status, headers } = await wire.response()
  t.strictSame([status, headers.upgrade], [426, 'websocket'])
})
