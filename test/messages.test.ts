import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { KEY, closeFrame, frame, nextClose, nextText, opening } from './fixtures/frames.ts'
import { request } from './fixtures/requests.ts'
import type { PendingDuplex } from '../lib/index.ts'
import { serve, type TestServer, type Transport } from './fixtures/server.ts'
import type { Wire } from './fixtures/wire.ts'

interface Said { text: string }

const FromClient = { type: 'object', required: ['text'], properties: { text: { type: 'string' } } }
const FromServer = { type: 'object', properties: { echo: { type: 'string' }, number: { type: 'integer' } } }

/** One handler for all of them: a greeting, then an echo of each. */
function declare (app: FastifyInstance): void {
  for (const [method, url] of [['GET', '/room'], ['POST', '/room'], ['CONNECT', '*']] as const) {
    app.route({
      method,
      url,
      duplex: { protocols: ['chat'], messages: { in: FromClient, out: FromServer } },
      async handler ({ readable, send }: { readable: AsyncIterable<Said>, send: (message: unknown) => Promise<void> }) {
        let number = 0
        await send({ echo: 'welcome', number, secret: 'x' })
        for await (const { text } of readable) await send({ echo: text, number: ++number, secret: 'x' })
      }
    } as never)
  }
}

/** Never says a word. */
const silent = (): Promise<void> => new Promise(() => {})

const QUESTIONS = ['one', 'two \u20ac \ud83d\ude00', 'three\nlines\n']
const message = (text: string): string => JSON.stringify({ text })
const answer = (echo: string, number: number): string => JSON.stringify({ echo, number })
const ANSWERS = [answer('welcome', 0), ...QUESTIONS.map((text, at) => answer(text, at + 1))]

/** All chunks of a body of HTTP/1, as one text. */
async function dechunk (wire: Wire): Promise<string> {
  const chunks: Buffer[] = []
  for (;;) {
    const size = Number.parseInt(await wire.until('\r\n'), 16)
    chunks.push(await wire.bytes(size))
    await wire.until('\r\n')
    if (size === 0) return Buffer.concat(chunks).toString()
  }
}

const chunk = (text: string): string => `${Buffer.byteLength(text).toString(16)}\r\n${Buffer.from(text).toString('latin1')}\r\n`
const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1')

interface Row {
  name: string
  transport?: Transport
  run: (wire: Wire, t: Test) => Promise<string[]>
}

async function overWebSocket (wire: Wire, status: number, t: Test): Promise<string[]> {
  wire.send(opening('/room'))
  t.equal((await wire.head()).status, status)
  const heard = [await nextText(wire)]
  for (const text of QUESTIONS) {
    wire.send(frame(message(text)))
    heard.push(await nextText(wire))
  }
  wire.send(closeFrame(1000))
  t.strictSame(await nextClose(wire), { code: 1000, reason: '' })
  return heard
}

async function overLines (wire: Wire, head: string, status: number, t: Test): Promise<string[]> {
  wire.send(`${head}`)
  wire.send(Buffer.from(`${QUESTIONS.map(message).join('\n')}\n`))
  t.equal((await wire.head()).status, status)
  wire.end()
  return (await wire.rest()).toString().trimEnd().split('\n')
}

const CHAT = request('GET /room', 'Connection: Upgrade', 'Upgrade: chat')
const CONNECT = 'CONNECT room:1 HTTP/1.1\r\nHost: room:1\r\n\r\n'

const rows: Row[] = [
  { name: 'WebSocket', run: (wire, t) => overWebSocket(wire, 101, t) },
  { name: 'WebSocket', transport: 'tls', run: (wire, t) => overWebSocket(wire, 101, t) },
  { name: 'WebSocket', transport: 'unix', run: (wire, t) => overWebSocket(wire, 101, t) },
  { name: 'WebSocket', transport: 'h2', run: (wire, t) => overWebSocket(wire, 200, t) },
  { name: 'lines over an upgrade', run: (wire, t) => overLines(wire, CHAT, 101, t) },
  { name: 'lines over an upgrade', transport: 'h2', run: (wire, t) => overLines(wire, CHAT, 200, t) },
  { name: 'lines over CONNECT', run: (wire, t) => overLines(wire, CONNECT, 200, t) },
  { name: 'lines over CONNECT', transport: 'h2', run: (wire, t) => overLines(wire, CONNECT, 200, t) },
  ...(['tcp', 'h2'] as const).map((transport): Row => ({
    name: 'a body of NDJSON',
    transport,
    async run (wire, t) {
      wire.send(request('POST /room', 'Content-Type: application/x-ndjson', 'Transfer-Encoding: chunked'))
      for (const text of QUESTIONS) wire.send(latin1(chunk(`${message(text)}\n`)))
      wire.send('0\r\n\r\n')
      const head = await wire.head()
      t.match(head, { status: 200, headers: { 'content-type': 'application/x-ndjson' } })
      return (await dechunk(wire)).trimEnd().split('\n')
    }
  })),
  ...(['tcp', 'h2'] as const).map((transport): Row => ({
    name: 'a body of NDJSON, answered with events',
    transport,
    async run (wire, t) {
      const body = Buffer.from(QUESTIONS.map(message).join('\n'))
      wire.send(request('POST /room', 'Content-Type: application/x-ndjson', 'Accept: text/event-stream', `Content-Length: ${body.length}`))
      wire.send(body)
      t.match(await wire.head(), { status: 200, headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' } })
      return (await dechunk(wire)).trimEnd().split('\n\n').map(event => event.replace(/^data: /, ''))
    }
  }))
]

for (const { name, transport = 'tcp', run } of rows) {
  t.test(`MS1 ${name} [${transport}]`, async t => {
    const server = await serve(t, { transport }, declare)
    const wire = await server.connect()
    t.strictSame(await run(wire, t), ANSWERS)
    wire.end()
    await server.quiet()
  })
}

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`MS1 a body of one JSON [${transport}]`, async t => {
    const server = await serve(t, { transport }, declare)
    const wire = await server.connect()
    const body = message('one')
    wire.send(request('POST /room', 'Content-Type: application/json; charset=utf-8', `Content-Length: ${body.length}`) + body)
    t.match(await wire.head(), { status: 200, headers: { 'content-type': 'application/x-ndjson' } })
    t.equal(await dechunk(wire), `${answer('welcome', 0)}\n${answer('one', 1)}\n`)
  })
  for (const [accept, type, text] of [
    ['text/event-stream', 'text/event-stream', `data: ${answer('welcome', 0)}\n\n`],
    ['*/*', 'application/x-ndjson', `${answer('welcome', 0)}\n`]
  ] as const) {
    t.test(`MS1 a GET without a body that accepts ${accept} [${transport}]`, async t => {
      const server = await serve(t, { transport }, declare)
      const wire = await server.connect()
      // Over HTTP/2 this is what ends the stream of the client.
      wire.send(request('GET /room', `Accept: ${accept}`, ...transport === 'h2' ? ['Content-Length: 0'] : []))
      t.match(await wire.head(), { status: 200, headers: { 'content-type': type } })
      t.equal(await dechunk(wire), text)
    })
  }
}

t.test('MS1 what is no message of the route is refused before acceptance', async t => {
  const server: TestServer = await serve(t, {}, declare)
  const ask = async (type: string, body: string): Promise<[number, string]> => {
    const wire = await server.connect()
    wire.send(request('POST /room', `Content-Type: ${type}`, `Content-Length: ${body.length}`) + body)
    const { status, body: text } = await wire.response()
    wire.destroy()
    return [status, (JSON.parse(text) as { code: string }).code]
  }
  t.strictSame(await ask('text/csv', 'a,b'), [415, 'FST_ERR_DUPLEX_MESSAGE_TYPE'])
  t.strictSame(await ask('application/json', '{"text":{}}'), [400, 'FST_ERR_DUPLEX_MESSAGE_INVALID'])
  t.strictSame(await ask('application/json', '{"text"'), [400, 'FST_ERR_DUPLEX_MESSAGE_INVALID'])
  t.strictSame(await ask('application/json', JSON.stringify({ text: 'x'.repeat(70_000) })), [413, 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG'])
  await server.quiet()
})

t.test('MS1 a function that gives a schema and throws, or gives none that can be compiled, is answered 500', async t => {
  const server = await serve(t, {}, app => {
    app.get('/throws', { duplex: { messages: { in: () => { throw new Error('no schema today') } } } } as never, silent)
    app.get('/out', { duplex: { messages: { out: () => { throw new Error('no schema today') } } } } as never, silent)
    app.get('/wrong', { duplex: { messages: { in: () => ({ type: 'nonsense' }) } } } as never, silent)
    app.get('/manual', { duplex: { accept: 'manual', messages: { in: () => { throw new Error('no schema today') } } } } as never,
      async (pending: PendingDuplex) => { await pending.accept() })
  })
  for (const path of ['throws', 'out', 'wrong', 'manual']) {
    for (const head of [request(`GET /${path}`), opening(`/${path}`)]) {
      const wire = await server.connect()
      wire.send(head)
      t.equal((await wire.head()).status, 500, `${path} ${head.includes('websocket') ? 'WebSocket' : 'plain'}`)
      wire.destroy()
    }
  }
  await server.quiet()
})

t.test('MS1 an early frame, in the segment of the handshake, is the first message', async t => {
  const server = await serve(t, {}, declare)
  const wire = await server.connect()
  wire.send(Buffer.concat([Buffer.from(opening('/room', { 'Sec-WebSocket-Key': KEY })), frame(message('early')), closeFrame(1000, 'bye')]))
  await wire.head()
  t.equal(await nextText(wire), answer('welcome', 0))
  t.equal(await nextText(wire), answer('early', 1))
  t.strictSame(await nextClose(wire), { code: 1000, reason: 'bye' })
  t.strictSame(await wire.rest(), Buffer.alloc(0))
  wire.end()
  t.equal(await wire.gone(), 'ended')
})
