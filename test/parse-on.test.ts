import t from 'tap'
import type { Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'
import type { FastifyInstance } from 'fastify'
import type { DuplexConnection } from '../lib/index.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { sendApart, serveLinks } from './fixtures/links.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { onEach, serve } from './fixtures/server.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

function declare (app: FastifyInstance): void {
  app.get('/it', { duplex: true }, echo)
  app.post('/body', { duplex: true }, echo)
  app.route({ method: ['GET', 'POST'], url: '/plain', handler: async ({ method, body }) => `${method} ${String(body ?? '')}` })
  app.get('/big', async () => 'x'.repeat(200_000))
}

/** As long as the fields of an Upgrade, so that both requests end at the same byte. */
const ORDINARY = UPGRADE.map(field => field.replace('Connection', 'X-Hop-By-H').replace('Upgrade:', 'X-Going:'))
const text = 'Content-Type: text/plain'
const chunked = [text, 'Transfer-Encoding: chunked']

/** What may come behind, and ends the connection. */
const followers: Record<string, string> = {
  'another request': request('GET /plain', 'Connection: close'),
  'another Upgrade, and more': request('GET /plain', ...UPGRADE) + request('POST /plain', text, 'Content-Length: 5') + 'HELLO' + request('GET /plain', 'Connection: close'),
  'an Upgrade that was the last': request('GET /plain', 'Connection: close, Upgrade', 'Upgrade: foo') + request('GET /plain'),
  'an Upgrade with a body, and more': request('POST /plain', ...UPGRADE, ...chunked) + '5\r\nHELLO\r\n0\r\n\r\n' + request('GET /plain', 'Connection: close'),
  'a takeover': request('GET /it', 'Connection: Upgrade', 'Upgrade: bar') + 'EARLY',
  'a body of a duplex route': request('POST /body', ...chunked, 'Connection: close') + '5\r\nEARLY\r\n0\r\n\r\n',
  'a CONNECT that nobody takes': 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nEARLY',
  'no request': 'no request at all\r\n\r\n',
  'half a request, and then none': 'GET /plain HTTP/1.1\r\nHost: a\r\nno field\r\n\r\n',
  'a head that is too long': request('GET /plain', `X-Long: ${'x'.repeat(20_000)}`),
  'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'a line break too many': '\r\n\r\n' + request('GET /plain', 'Connection: close'),
  'a request without Host': 'GET /plain HTTP/1.1\r\n\r\n'
}

// It fails where a Node has another parser, for which the plugin has only the slower way.
onEach(t, 'Q71 a connection keeps its parser behind an ignored Upgrade', async (t, transport) => {
  const parsers: unknown[] = []
  const { connect } = await serve(t, { transport }, app => {
    app.get('/it', { duplex: true }, echo)
    app.get('/plain', async ({ raw }) => { parsers.push((raw.socket as HttpSocket).parser) })
  })
  const wire = await connect()
  for (const fields of [[], UPGRADE, UPGRADE, []]) t.equal((await exchange(wire, 'GET /plain', ...fields)).status, 200)
  t.ok(parsers[0])
  t.same(parsers.map(parser => parser === parsers[0]), [true, true, true, true])
})

/**
 * Node tells of a parse error at once, and some answers to requests before it are not written by then. So only what comes last
 * is compared.
 */
const last = (bytes: string): string => bytes.slice(bytes.lastIndexOf('HTTP/1.1')).replace(/\r\ndate: [^\r]*/gi, '')

for (const [what, follower] of Object.entries(followers)) {
  onEach(t, `Q71 ${what} behind an ignored Upgrade is answered as behind any request`, async (t, transport) => {
    const { connect, quiet } = await serve(t, { transport }, declare)
    const answers: string[] = []
    for (const fields of [ORDINARY, UPGRADE]) {
      const wire = await connect()
      wire.end(request('GET /plain', ...fields) + follower)
      answers.push(last(await wire.remains()))
    }
    t.match(answers[0], /^HTTP\/1\.1 [124]/)
    t.equal(answers[1], answers[0])
    await quiet()
  })

  t.test(`Q71 ${what} behind an ignored Upgrade, split at every byte`, async t => {
    const { link } = await serveLinks(t, 'tcp', declare)
    const answer = async (fields: readonly string[], at: number): Promise<string> => {
      const { wire, peer } = await link()
      await sendApart({ wire, peer }, [request('GET /plain', ...fields) + follower.slice(0, at)])
      const first = await wire.response()
      if (first.status !== 200) return String(first.status)
      wire.end(follower.slice(at))
      return last(await wire.remains())
    }
    const different: unknown[] = []
    for (let at = 0; at < Math.min(follower.length, 260); at++) {
      const [theirs, ours] = await Promise.all([answer(ORDINARY, at), answer(UPGRADE, at)])
      if (ours !== theirs) different.push({ at, ours, theirs })
    }
    t.same(different, [])
  })
}

// Whether answers to what was before it are written by then is chance, with Upgrades and without.
onEach(t, 'Q71 a malformed chunk behind an ignored Upgrade is 400, and nothing behind it runs', async (t, transport) => {
  const ran: string[] = []
  const { connect, quiet } = await serve(t, { transport }, app => {
    declare(app)
    app.addHook('onRequest', async ({ method }) => { ran.push(method) })
  })
  const wire = await connect()
  wire.send(request('GET /plain', ...UPGRADE) + request('POST /plain', ...chunked) + '5\r\nHELLO\r\nXYZ\r\n' + request('OPTIONS /plain'))
  t.match(last(await wire.remains()), /^HTTP\/1\.1 400 /)
  t.same(ran, ['GET', 'POST'])
  await quiet()
})

onEach(t, 'Q71 a client that does not read is not read from behind an ignored Upgrade either', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare)
  const wire = await connect()
  const count = 40
  wire.end(request('GET /big', ...UPGRADE).repeat(count) + request('GET /it', ...UPGRADE) + 'EARLY')
  for (let n = 0; n < count; n++) t.equal((await wire.response()).body.length, 200_000)
  t.equal((await wire.head()).status, 101)
  t.equal(String(await wire.rest()), 'EARLY')
})

t.test('Q71 an ignored Upgrade on a socket that somebody has begun to read himself', async t => {
  let bytes = 0
  const { connect } = await serve(t, {}, app => {
    declare(app)
    // Node feeds its parser by 'data' events from now on.
    app.get('/watched', async ({ raw }) => {
      (raw.socket as Socket).on('data', (chunk: Buffer) => { bytes += chunk.length })
      return 'watched'
    })
  })
  const wire = await connect()
  wire.send(request('GET /watched'))
  t.equal((await wire.response()).body, 'watched')
  for (let n = 0; n < 3; n++) {
    wire.send(request('GET /plain', ...UPGRADE) + request('POST /plain', text, 'Content-Length: 5') + 'HELLO')
    t.equal((await wire.response()).body, 'GET ')
    t.equal((await wire.response()).body, 'POST HELLO')
  }
  t.ok(bytes > 0)
})
