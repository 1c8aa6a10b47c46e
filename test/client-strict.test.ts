import t, { type Test } from 'tap'
import { connect } from '../lib/client/index.ts'
import type { ConnectOptions } from '../lib/index.ts'
import { serve } from './fixtures/server.ts'
import { upstream } from './fixtures/upstream.ts'

/** What comes of a connection to a server that answers in this way. */
async function answered (t: Test, options: ConnectOptions, answer: string): Promise<unknown> {
  const far = await upstream(t)
  const opening = connect(`http://127.0.0.1:${far.port}/`, options).then(({ statusCode }) => statusCode, (error: unknown) => error)
  const wire = await far.accepted()
  await wire.until('\r\n\r\n')
  wire.send(answer).end()
  return await opening
}

const unframed: [who: string, answer: string][] = [
  ['of HTTP/1.0', 'HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<p>the page</p>'],
  ['that closes', 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<p>the page</p>'],
  ['that says nothing of its length', 'HTTP/1.1 200 OK\r\n\r\n<p>the page</p>']
]

for (const [who, answer] of unframed) {
  for (const [what, options] of Object.entries<ConnectOptions>({ 'an upgrade': { protocol: 'x' }, 'a WebSocket': { websocket: true } })) {
    t.test(`CL1 a 200 ${who} is no acceptance of ${what}, and its body can be read`, async t => {
      const refused = await answered(t, options, answer) as { body (): Promise<Buffer> }
      t.match(refused, { name: 'DuplexRefused', statusCode: 200, by: 'server' })
      t.equal(String(await refused.body()), '<p>the page</p>')
    })
  }
  t.test(`CL1 a 200 ${who} is the answer to a plain request`, async t => {
    t.equal(await answered(t, {}, answer), 200)
  })
}

t.test('CL1 a server that takes an upgrade for a plain request has refused it', async t => {
  const { port } = await serve(t, {}, app => {
    app.get('/it', { duplex: { kinds: ['hijack'] } }, ({ writable }) => { writable.end('time') })
  })
  await t.rejects(connect(`http://127.0.0.1:${port}/it`, { protocol: 'x' }), { name: 'DuplexRefused' })
})

t.test('CL1 what one option says no other one says in another way', async t => {
  const wrong: [options: object, message: RegExp, url?: string][] = [
    [{ protocol: 'x', headers: { connection: 'keep-alive, x' } }, /headers: Connection is said by protocol/],
    [{ protocol: 'x', headers: { Connection: 'keep-alive' } }, /headers: Connection/],
    [{ protocol: 'x', headers: { Upgrade: 'y' } }, /headers: Upgrade is said by protocol/],
    [{ headers: { Upgrade: 'y', Connection: 'Upgrade' } }, /headers: Upgrade/],
    [{ websocket: true, headers: { 'sec-websocket-key': 'x' } }, /headers: sec-websocket-key is said by websocket/],
    [{ websocket: true, protocol: 'x' }, /subprotocols/],
    [{ protocol: '' }, /protocol must be an upgrade token/],
    [{ protocol: [] }, /protocol must be an upgrade token/],
    [{ protocol: ['x', ''] }, /protocol must be an upgrade token/],
    [{ protocol: 'bad token' }, /got "bad token"/],
    [{ protocol: 5 }, /protocol must be an upgrade token/],
    [{}, /a URL of ws: needs websocket: true/, 'ws://127.0.0.1:1/'],
    [{ body: true }, /a URL of wss: needs websocket: true/, 'wss://127.0.0.1:1/'],
    [{ headers: { 'bad name': 'x' } }, /headers: "bad name" is no name of a field/],
    [{ headers: { fine: 'x\r\ny: z' } }, /headers: fine has characters that HTTP does not allow/],
    [{ method: 'BAD METHOD' }, /method/],
    [{ target: '\u65e5:1' }, /target must be host:port/],
    [{ early: 5 }, /early/],
    [{ tls: { key: 'none' } }, /^tls: /, 'https://127.0.0.1:1/'],
    [{ tls: { pfx: 'none' } }, /^tls: /, 'https://127.0.0.1:1/'],
    [{ messages: { framing: 'foo' } }, /messages.framing must be "lines"/],
    [{ messages: { framing: { name: 'foo' } } }, /messages.framing must be "lines"/],
    [{ messages: { encoding: 'foo' } }, /messages.encoding/],
    [{ messages: { encoding: {} } }, /messages.encoding/],
    [{ messages: { unknown: 1 } }, /messages.unknown/],
    [{ messages: 5 }, /messages must be true or an object/],
    [{ websocket: { subprotocols: 'x' } }, /websocket.subprotocols/],
    [{ websocket: { subprotocols: ['x, y'] } }, /websocket.subprotocols/],
    [{ websocket: { unknown: 1 } }, /websocket.unknown/]
  ]
  for (const [options, message, url = 'http://127.0.0.1:1/'] of wrong) {
    await t.rejects(connect(url, options as ConnectOptions), { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message }, JSON.stringify(options))
  }
})

t.test('CL1 no secret is told with a field that is wrong', async t => {
  const error = await connect('http://127.0.0.1:1/', { headers: { authorization: 'secret\n' } }).catch((error: unknown) => error)
  t.equal((error as Error).message, 'headers: authorization has characters that HTTP does not allow')
})
