import t, { type Test } from 'tap'
import type { Socket } from 'node:net'
import { sendApart, serveLinks } from './fixtures/links.ts'
import { collector } from './fixtures/injections.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import type { ServerSettings, Way } from './fixtures/server.ts'

/** As long as the fields of an Upgrade, so that errors are at the same byte. */
const ORDINARY = UPGRADE.map(field => field.replace('Connection', 'X-Hop-By-H').replace('Upgrade:', 'X-Going:'))
const chunked = request('POST /plain', 'Content-Type: text/plain', 'Transfer-Encoding: chunked')

/** What Node's parser refuses, each for another reason. */
const malformed: Record<string, string> = {
  'no request': 'no request at all\r\n\r\n',
  'a method that does not exist': request('FETCH /plain'),
  'a version that does not exist': 'GET /plain HTTP/9.9\r\nHost: a\r\n\r\n',
  'a malformed field name': request('GET /plain', 'no field'),
  'a control character': request('GET /plain', 'X-Odd: \u0001'),
  'two lengths': request('POST /plain', 'Content-Length: 1', 'Content-Length: 2'),
  'a length and chunks': request('POST /plain', 'Content-Length: 1', 'Transfer-Encoding: chunked'),
  'line feeds alone': 'GET /plain HTTP/1.1\nHost: a\n\n',
  'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'a field that is too long': request('GET /plain', `X-Long: ${'x'.repeat(20_000)}`),
  'a path that is too long': request(`GET /${'x'.repeat(20_000)}`),
  'a malformed chunk': chunked + 'xyz\r\n',
  'trailers that are too long': chunked + `0\r\nX-Long: ${'x'.repeat(20_000)}\r\n\r\n`,
  'a request behind the last one': request('GET /plain', 'Connection: close') + request('GET /plain')
}

type ParseError = Error & { code?: string, reason?: string, bytesParsed?: number, rawPacket?: Buffer }

interface Asked {
  http?: object
  /** The client half-closes behind the last piece. */
  ends?: boolean
}

/** What a handler of client errors is told if these pieces arrive, each in a read of its own. */
async function errorOf (t: Test, transport: Way, pieces: readonly string[], { http = {}, ends = false }: Asked = {}): Promise<unknown> {
  let tell!: (told: unknown) => void
  const told = new Promise(resolve => { tell = resolve })
  const fastify = {
    http,
    clientErrorHandler: ({ code, reason, message, bytesParsed, rawPacket }: ParseError, socket: Socket) => {
      tell({ code, reason, message, bytesParsed, raw: String(rawPacket) })
      socket.destroy()
    }
  } as unknown as NonNullable<ServerSettings['fastify']>
  const { link } = await serveLinks(t, transport, app => {
    app.route({ method: ['GET', 'POST'], url: '/plain', handler: async () => 'plain' })
  }, { fastify })
  const { wire, peer } = await link()
  await sendApart({ wire, peer }, pieces)
  if (ends) wire.end()
  const error = await told
  wire.destroy()
  return error
}

const withoutFields = (error: unknown): unknown =>
  JSON.parse(JSON.stringify(error).replaceAll(ORDINARY.join('\\r\\n'), UPGRADE.join('\\r\\n')))

/** The same with and without an Upgrade that is ignored. */
async function same (t: Test, transport: Way, pieces: (first: string) => readonly string[], asked?: Asked): Promise<void> {
  const [theirs, ours] = [
    await errorOf(t, transport, pieces(request('GET /plain', ...ORDINARY)), asked),
    await errorOf(t, transport, pieces(request('GET /plain', ...UPGRADE)), asked)
  ]
  t.match((theirs as ParseError).code, /^HPE_/)
  t.same(ours, withoutFields(theirs))
}

for (const [what, bytes] of Object.entries(malformed)) {
  for (const transport of ['tcp', 'tls', 'injected'] as const) {
    t.test(`Q71 the error of ${what} is the same behind an ignored Upgrade [${transport}]`, async t => {
      await same(t, transport, first => [first + bytes])
      await same(t, transport, first => [first.repeat(3) + bytes])
    })
  }

  t.test(`Q71 the error of ${what} that comes in pieces is the same behind an ignored Upgrade`, async t => {
    const size = Math.ceil(bytes.length / 3)
    await same(t, 'tcp', first => [first + bytes.slice(0, 1), bytes.slice(1, size), bytes.slice(size, 2 * size), bytes.slice(2 * size)])
  })
}

t.test('Q71 many ignored Upgrades in one read are no head that is too long', async t => {
  const pieces = (first: string): string[] => [first.repeat(300) + 'no request at all\r\n\r\n']
  await same(t, 'tcp', pieces)
  await same(t, 'tcp', pieces, { http: { maxHeaderSize: 1000 } })
})

t.test('Q71 the limit of a head is the server\'s own behind an ignored Upgrade', async t => {
  const long = request('GET /plain', `X-Long: ${'x'.repeat(1000)}`)
  await same(t, 'tcp', first => [first + long], { http: { maxHeaderSize: 600 } })
  await same(t, 'tcp', first => [first + long.slice(0, 300), long.slice(300, 600), long.slice(600)], { http: { maxHeaderSize: 600 } })
})

t.test('Q71 white space without end behind an ignored Upgrade is not kept, and the error behind it is told', async t => {
  const blank = ' '.repeat(30_000)
  const error = await errorOf(t, 'tcp', [request('GET /plain', ...UPGRADE) + 'GET', blank, blank, '\u0001'])
  t.match((error as ParseError).code, /^HPE_/)
})

t.test('Q71 a head that comes byte by byte behind an ignored Upgrade takes the memory of its bytes', async t => {
  const gc = collector()
  const { link } = await serveLinks(t, 'injected', app => { app.get('/plain', async () => 'plain') })
  const links = [await link(), await link(), await link(), await link()]
  for (const { wire } of links) await exchange(wire, 'GET /plain', ...UPGRADE)
  gc()
  const before = process.memoryUsage().heapUsed
  const bytes = [...'GET'.padEnd(10_000)].map(byte => Buffer.from(byte))
  const own = process.memoryUsage().heapUsed - before
  for (const { peer } of links) for (const byte of bytes) peer.emit('data', byte)
  gc()
  const each = (process.memoryUsage().heapUsed - before - own) / links.length
  t.ok(each < 30 * bytes.length, `${Math.round(each)} bytes`)
  for (const { wire } of links) t.equal((await exchange(wire, '/plain')).body, 'plain')
})

const halves: Record<string, string> = {
  'a method': 'G',
  'a head': request('GET /plain').slice(0, -2),
  'a body': request('POST /plain', 'Content-Type: text/plain', 'Content-Length: 5') + 'ab'
}

for (const [what, bytes] of Object.entries(halves)) {
  for (const transport of ['tcp', 'tls', 'injected'] as const) {
    t.test(`Q71 a client that ends in the middle of ${what} is the same error behind an ignored Upgrade [${transport}]`, async t => {
      await same(t, transport, first => [first + bytes], { ends: true })
      await same(t, transport, first => [first, bytes], { ends: true })
    })
  }
}

t.test('Q71 a client that ends behind an ignored Upgrade, or behind an empty line, is no error', async t => {
  const errors: unknown[] = []
  const { link } = await serveLinks(t, 'tcp', app => {
    app.server.on('clientError', error => { errors.push(error) })
    app.get('/plain', async () => 'plain')
  })
  for (const bytes of ['', '\r\n', '\r']) {
    const { wire, peer } = await link()
    await sendApart({ wire, peer }, [request('GET /plain', ...UPGRADE)])
    t.equal((await wire.response()).body, 'plain')
    wire.end(bytes)
    t.equal(await wire.remains(), '')
  }
  t.same(errors, [])
})
