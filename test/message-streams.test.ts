import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import Fastify from 'fastify'
import t from 'tap'
import duplex, { lengthPrefixed, type DuplexMessages, type MessageRouteOptions } from '../lib/index.ts'
import { OPCODE, closeFrame, frame, nextClose, nextFrame, nextText, opening } from './fixtures/frames.ts'
import { declareRoom, echo, room } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { gate, serve } from './fixtures/server.ts'

const CHAT = request('GET /room', 'Connection: Upgrade', 'Upgrade: chat')
const lines = { head: CHAT, duplex: { protocols: ['chat'] } }

const In = { type: 'object', required: ['a'], properties: { a: { type: 'integer' } }, additionalProperties: false }
const Out = { type: 'object', required: ['b'], properties: { b: { type: 'string' } } }

t.test('MS3 in is for what comes and out for what goes, never the reverse', async t => {
  const heard = gate<unknown>()
  const { wire } = await room(t, { messages: { in: In, out: Out } }, async ({ readable, send }) => {
    for await (const message of readable) {
      heard.open(message)
      // Neither has what the other schema wants.
      await send({ b: 'x', a: 1, secret: 'y' })
    }
  })
  wire.send(frame('{"a":"7","more":true}'))
  t.equal(await nextText(wire), '{"b":"x"}', 'what out does not name does not leave')
  t.strictSame(await heard.promise, { a: 7 }, 'coerced, and rid of what in does not name, as a body is')
})

t.test('MS3 schemas of the instance: addSchema, $ref, setValidatorCompiler and setSerializerCompiler of a scope', async t => {
  const server = await serve(t, {}, app => {
    app.addSchema({ $id: 'common', type: 'object', required: ['of'], properties: { of: { const: 'root' } } })
    const messages: MessageRouteOptions = { in: { $ref: 'common#' } }
    const handler = echo as never
    app.get('/root', { duplex: { messages } }, handler)
    void app.register(async scope => {
      scope.addSchema({ $id: 'own', type: 'object', required: ['of'], properties: { of: { const: 'scope' } } })
      scope.get('/scope', { duplex: { messages: { in: { $ref: 'own#' } } } }, handler)
    })
    void app.register(async scope => {
      scope.setValidatorCompiler(() => data => data === 'good' ? { value: 'changed' } : { error: new Error('bad') })
      scope.setSerializerCompiler(() => data => `[\n${JSON.stringify(data)}\n]`)
      scope.get('/custom', { duplex: { messages: { in: {}, out: {} } } }, handler)
    })
  })
  const ask = async (path: string, text: string): Promise<string> => {
    const wire = await server.connect()
    wire.send(opening(path))
    await wire.head()
    wire.send(frame(text))
    const { opcode, payload } = await nextFrame(wire)
    return opcode === OPCODE.close ? `closed ${payload.readUInt16BE()}` : String(payload)
  }
  t.equal(await ask('/root', '{"of":"root"}'), '{"of":"root"}')
  t.equal(await ask('/root', '{"of":"scope"}'), 'closed 1007')
  t.equal(await ask('/scope', '{"of":"scope"}'), '{"of":"scope"}')
  t.equal(await ask('/scope', '{"of":"root"}'), 'closed 1007')
  t.equal(await ask('/custom', '"good"'), '[ "changed" ]')
  t.equal(await ask('/custom', '"other"'), 'closed 1007')
})

for (const [name, messages] of [['in', { in: { $ref: 'nothing#' } }], ['out', { out: { $ref: 'nothing#' } }]] as const) {
  t.test(`MS3 a schema messages.${name} that does not compile fails ready()`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(duplex)
    app.get('/room', { duplex: { messages } }, async () => {})
    await t.rejects(async () => await app.ready(), { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message: new RegExp(`messages.${name} of route GET /room`) })
  })
}

t.test('MS3 schemas by the request', async t => {
  const { wire } = await room(t, {
    messages: { in: () => In, out: (({ query }: { query: { v: string } }) => query.v === '1' ? Out : {}) as never }, head: opening('/room?v=1')
  }, async ({ readable, send }) => { for await (const message of readable) await send({ b: 'x', message }) })
  wire.send(frame('{"a":1}'))
  t.equal(await nextText(wire), '{"b":"x"}')
})

t.test('MS4 an invalid message fails the stream behind those before it, and ends the connection', async t => {
  const seen: unknown[] = []
  const failed = gate<Error & { validation?: unknown, validationContext?: string }>()
  const { wire, connection } = await room(t, { messages: { in: In } }, async ({ readable, send }) => {
    try {
      for await (const message of readable) {
        seen.push(message)
        await send(message)
      }
    } catch (error) {
      failed.open(error as Error)
      throw error
    }
  })
  wire.send(Buffer.concat([frame('{"a":1}'), frame('{"a":2}'), frame('{"a":{}}'), frame('{"a":3}')]))
  t.strictSame([await nextText(wire), await nextText(wire)], ['{"a":1}', '{"a":2}'])
  const { code, reason } = await nextClose(wire)
  t.equal(code, 1007)
  t.match(reason, /message\/a must be integer/)
  t.match(await failed.promise, {
    code: 'FST_ERR_DUPLEX_MESSAGE_INVALID', statusCode: 400, validationContext: 'message', validation: [{ instancePath: '/a' }]
  })
  t.strictSame(seen, [{ a: 1 }, { a: 2 }])
  wire.end()
  t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } })
})

for (const [what, head, sent] of [
  ['NDJSON with a length', ['POST /room', 'Content-Type: application/x-ndjson', 'Content-Length: 17'], '{"a":1}\n'],
  ['SSE', ['POST /room', 'Content-Type: application/x-ndjson', 'Accept: text/event-stream', 'Content-Length: 17'], 'data: {"a":1}\n\n'],
  ['lines over an upgrade', ['GET /room', 'Connection: Upgrade', 'Upgrade: chat'], '{"a":1}\n']
] as const) {
  t.test(`MS4 an invalid message in the same chunk: what was sent before it leaves, ${what}`, async t => {
    const answered = gate<unknown>()
    const { wire, connection } = await room(t, {
      messages: { in: In }, duplex: { protocols: ['chat'] }, head: `${request(...head as unknown as [string])}{"a":1}\n{"a":{}}\n`
    }, async ({ readable, send }) => {
      readable.on('data', message => { answered.open(send(message)) })
      await new Promise((resolve, reject) => readable.on('end', resolve).on('error', reject))
    })
    await answered.promise
    t.match(await wire.remains(), sent)
    t.match(await connection.closed, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_MESSAGE_INVALID' } })
  })
}

t.test('MS4 onInvalid: skip, and a function that decides', async t => {
  const rounds = async (onInvalid: MessageRouteOptions['onInvalid']): Promise<string[]> => {
    const { wire } = await room(t, { ...lines, messages: { in: In, maxLength: 20, onInvalid } }, echo)
    wire.send(`{"a":1}\n{\n{"a":{}}\nnull\n${'x'.repeat(100)}\n{"a":2}\n`).end()
    return (await wire.rest()).toString().trimEnd().split('\n')
  }
  t.strictSame(await rounds('skip'), ['{"a":1}', '{"a":2}'])
  const codes: string[] = []
  t.strictSame(await rounds(((error: { code: string }, connection: DuplexMessages) => {
    codes.push(error.code.replace('FST_ERR_DUPLEX_MESSAGE_', ''))
    return connection.send('?')
  }) as never).then(heard => heard.sort()), ['"?"', '"?"', '"?"', '"?"', '{"a":1}', '{"a":2}'], 'they are decoded ahead of the reader')
  t.strictSame(codes, ['INVALID', 'INVALID', 'INVALID', 'TOO_LONG'])
})

t.test('MS4 onInvalid: what it throws, or closes with, ends the connection', async t => {
  const throwing = await room(t, { messages: { onInvalid: async () => { throw Object.assign(new Error('no'), { closeCode: 4007 }) } } }, echo)
  throwing.wire.send(frame('{'))
  t.equal((await nextClose(throwing.wire)).code, 4007)
  const onInvalid = ((_error: Error, connection: DuplexMessages) => { void connection.close({ code: 4008 }) }) as never
  const closing = await room(t, { messages: { onInvalid } }, echo)
  closing.wire.send(frame('{'))
  t.equal((await nextClose(closing.wire)).code, 4008)
})

for (const [name, input, options, code] of [
  ['too long, and no end of it', 'x'.repeat(200_000), {}, 'TOO_LONG'],
  ['cut', '{"a":1}\n{"a', {}, 'CUT'],
  ['cut, by their length', '\0\0\0\x09abc', { framing: lengthPrefixed({ size: 4 }) }, 'CUT'],
  ['not UTF-8', Buffer.from('"\xff"\n', 'latin1'), {}, 'INVALID']
] as const) {
  t.test(`MS4 lines: ${name}`, async t => {
    const failed = gate<unknown>()
    const { wire, connection } = await room(t, { ...lines, messages: options }, async ({ readable }) => {
      await readable.toArray().catch(failed.open)
    })
    wire.send(input as string)
    if (code === 'CUT') wire.end()
    t.match(await failed.promise, { code: `FST_ERR_DUPLEX_MESSAGE_${code}` })
    t.match(await connection.closed, { reason: 'error', error: { code: `FST_ERR_DUPLEX_MESSAGE_${code}` } })
    t.ok(connection.bytesRead < 200_100)
    t.equal(await wire.gone(), 'broken', 'nobody takes it for an end')
  })
}

t.test('MS4 what cannot be serialised is not sent, and the connection goes on', async t => {
  const { wire } = await room(t, { ...lines, messages: { out: { type: 'object', properties: { n: { type: 'integer' } } } } }, async ({ send }) => {
    for (const message of [undefined, null, { n: 'x' }, { toJSON () { throw new Error('no') } }]) {
      await t.rejects(send(message), { code: 'FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE' })
    }
    await send({ n: 1 })
  })
  wire.end()
  t.equal(String(await wire.rest()), '{"n":1}\n')
})

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`MS6 a reader that does not read holds the sender back; pings are answered, and nothing is lost [${transport}]`, async t => {
    const open = gate()
    const settings = { transport, messages: { maxLength: 2000, highWaterMark: 2 } }
    const { wire, connection, connect } = await room(t, settings, async ({ readable, send }) => {
      await open.promise
      let count = 0
      for await (const message of readable) {
        if (message === 'last') break
        count++
      }
      await send(count)
    })
    wire.send(Buffer.concat([frame('"1"'), frame('p', { opcode: OPCODE.ping })]))
    t.match(await nextFrame(wire), { opcode: OPCODE.pong, payload: Buffer.from('p') })
    const many = Buffer.concat(Array.from({ length: 2000 }, () => frame(`"${'x'.repeat(1000)}"`)))
    for (let at = 0; at < 10; at++) wire.send(many)
    const other = await connect()
    other.send(opening('/room'))
    await other.head()
    for (let at = 0; at < 20; at++) {
      other.send(frame('p', { opcode: OPCODE.ping }))
      await nextFrame(other)
    }
    t.ok(connection.bytesRead < 300_000, `${connection.bytesRead} bytes were read`)
    open.open()
    wire.send(frame('"last"'))
    t.equal(await nextText(wire), '20001')
    t.ok(connection.bytesRead > many.length)
  })
}

t.test('MS6 nothing of a stream is read before somebody reads', async t => {
  const open = gate()
  const { wire, connection } = await room(t, lines, async ({ readable, send }) => {
    await open.promise
    for await (const message of readable) await send(message)
  })
  wire.send('1\n2\n')
  await wire.sendSlowly('3\n')
  t.equal(connection.readable.readableLength, 0)
  open.open()
  wire.end()
  t.equal(String(await wire.rest()), '1\n2\n3\n')
})

t.test('MS6 lines of many chunks, to a reader that is slow: none is lost', async t => {
  const { wire } = await room(t, lines, async ({ readable, send }) => {
    let seen = 0
    for await (const message of readable) {
      if ((message as { count: number }).count !== seen++) throw new Error(`message ${seen - 1} is lost`)
      // Others have their turn, and more comes.
      await new Promise(resolve => setImmediate(resolve))
    }
    await send(seen)
  })
  wire.end(Array.from({ length: 3000 }, (_, count) => `${JSON.stringify({ count, text: 'x'.repeat(100) })}\n`).join(''))
  t.equal(String(await wire.rest()), '3000\n')
})

t.test('MS7 send() waits for room', async t => {
  const full = gate<number>()
  const { wire } = await room(t, lines, async ({ send }) => {
    const message = 'x'.repeat(100_000)
    for (let count = 1; ; count++) {
      const sent = send(message)
      // Room is promised at once, or when there is some.
      const later = new Promise<boolean>(resolve => setImmediate(() => setImmediate(resolve, false)))
      if (await Promise.race([sent.then(() => true), later])) continue
      full.open(count)
      await sent
      break
    }
  })
  wire.socket.pause()
  const count = await full.promise
  t.ok(count < 1000)
  wire.socket.resume()
  wire.end()
  t.equal((await wire.rest()).length, count * 100_003)
})

t.test('MS7 a dead peer rejects what waits and what follows, and nobody has to hear of it', async t => {
  const sending = gate()
  const tried = gate()
  const { wire, connection } = await room(t, lines, async ({ send, closed }) => {
    const waiting = Array.from({ length: 200 }, () => send('x'.repeat(100_000)))
    sending.open()
    await closed
    await t.rejects(waiting.at(-1) as Promise<void>, { code: 'FST_ERR_DUPLEX_MESSAGE_NOT_SENT' })
    await t.rejects(send('x'), { code: 'FST_ERR_DUPLEX_MESSAGE_NOT_SENT' })
    void send('x')
    tried.open()
  })
  await sending.promise
  wire.reset()
  await tried.promise
  t.match(await connection.closed, { reason: 'abort' })
})

t.test('MS7 behind an end nothing is sent, and no error is uncaught', async t => {
  const { wire, connection } = await room(t, lines, async ({ send, writable }) => {
    writable.end()
    await t.rejects(send('x'), { code: 'FST_ERR_DUPLEX_MESSAGE_NOT_SENT' })
    writable.write('x')
  })
  wire.end()
  await connection.closed
})

t.test('MS7 maxBuffered ends a reader that is slow', async t => {
  const { wire, connection } = await room(t, { ...lines, duplex: { ...lines.duplex, maxBuffered: 100_000 } }, ({ send, writable }) => {
    for (let at = 0; at < 200; at++) {
      void send('x'.repeat(100_000))
      writable.write('y'.repeat(100_000))
    }
  })
  wire.socket.pause()
  t.match(await connection.closed, { reason: 'slow', error: { code: 'FST_ERR_DUPLEX_MAX_BUFFERED' } })
})

t.test('MS8 heartbeat: a silent WebSocket is gone after two, one that answers stays', async t => {
  const silent = await room(t, { messages: { heartbeat: 80 } }, async ({ closed }) => { await closed })
  const { wire, connection } = await room(t, { messages: { heartbeat: 80 } }, async ({ closed }) => { await closed })
  let over = false
  void silent.connection.closed.then(() => { over = true })
  // eslint-disable-next-line no-unmodified-loop-condition
  while (!over) {
    t.equal((await nextFrame(wire)).opcode, OPCODE.ping)
    wire.send(frame('', { opcode: OPCODE.pong }))
  }
  t.match(await silent.connection.closed, { reason: 'idle', error: { code: 'FST_ERR_DUPLEX_HEARTBEAT' }, websocket: { code: 1006, clean: false } })
  t.equal(connection.signal.aborted, false)
  wire.send(closeFrame(1000))
  t.equal((await nextClose(wire)).code, 1000)
})

t.test('MS8 heartbeat: an empty line, a comment; who only receives stays', async t => {
  const events = request('GET /room', 'Accept: text/event-stream')
  for (const [head, beat] of [[CHAT, '\n'], [events, '3\r\n:\n\n\r\n']] as const) {
    const { wire, connection } = await room(t, { head, duplex: { protocols: ['chat'] }, messages: { heartbeat: 40 } }, async ({ closed }) => { await closed })
    for (let at = 0; at < 5; at++) t.equal(String(await wire.bytes(beat.length)), beat)
    t.equal(connection.signal.aborted, false)
    wire.destroy()
    await connection.closed
  }
})

t.test('MS9 pipeline(), a transform between', async t => {
  const { wire } = await room(t, lines, async ({ readable, writable }) => {
    await pipeline(readable, new Transform({ objectMode: true, transform (n: number, _encoding, done) { done(null, n * 2) } }), writable)
  })
  wire.send('1\n2\n3').end()
  t.equal(String(await wire.rest()), '2\n4\n6\n')
})

t.test('MS9 break leaves the rest to be read, map(), web()', async t => {
  const { wire } = await room(t, lines, async connection => {
    const { readable, send } = connection
    // eslint-disable-next-line no-unreachable-loop
    for await (const first of readable) {
      await send(first)
      break
    }
    const reader = connection.web().readable.getReader()
    await send((await reader.read()).value)
    reader.releaseLock()
    await send(await readable.map((n: number) => n * 10).toArray())
  })
  wire.send('1\n2\n3\n4\n').end()
  t.equal(String(await wire.rest()), '1\n2\n[30,40]\n')
})

t.test('MS9 a stream that its handler destroys breaks the connection', async t => {
  const { wire, connection } = await room(t, lines, ({ readable }) => { readable.destroy() })
  t.match(await connection.closed, { reason: 'destroyed' })
  t.equal(await wire.gone(), 'broken')
})

t.test('MS10 an encoding and a framing of the app', async t => {
  const backwards = (text: string): string => [...text].reverse().join('')
  const { wire } = await room(t, {
    ...lines,
    messages: {
      encoding: { encode: message => backwards(String(message)), decode: payload => backwards(String(payload)) },
      framing: {
        name: 'semicolons',
        contentType: 'text/semicolons',
        decoder () {
          let rest = ''
          return {
            * decode (chunk) {
              const parts = `${rest}${String(chunk)}`.split(';')
              rest = parts.pop() as string
              for (const part of parts) yield Buffer.from(part)
            },
            end () { return rest === '' ? [] : [Buffer.from(rest)] }
          }
        },
        encode: payload => `${String(payload)};`
      }
    }
  }, async ({ readable, send }) => { for await (const message of readable) await send(`${String(message)}!`) })
  wire.send('cba;').send('f').send('ed').end()
  t.equal(String(await wire.rest()), '!cba;!fed;')
})

t.test('MS1 manual acceptance, in messages', async t => {
  const server = await serve(t, {}, app => declareRoom(app, { duplex: { accept: 'manual' } }, (async (pending: { accept (): Promise<DuplexMessages> }) => {
    const { readable, send } = await pending.accept()
    for await (const message of readable) await send(message)
  }) as never))
  const wire = await server.connect()
  wire.send(opening('/room'))
  wire.send(frame('[1]'))
  t.equal((await wire.head()).status, 101)
  t.equal(await nextText(wire), '[1]')
  const other = await server.connect()
  other.send(request('POST /room', 'Content-Type: application/json', 'Content-Length: 1') + '{')
  t.equal((await other.response()).status, 400)
})
