import t from 'tap'
import { once } from 'node:events'
import type { Test } from 'tap'
import type { DuplexClosed, DuplexMessages } from '../lib/index.ts'
import { closeFrame, frame, nextClose, nextFrame } from './fixtures/frames.ts'
import { forever } from './fixtures/governed.ts'
import { room, type MessageHandler, type Room } from './fixtures/messages.ts'
import { onEach } from './fixtures/server.ts'

type Transport = 'tcp' | 'tls' | 'h2'
const transports: readonly Transport[] = ['tcp', 'tls', 'h2']
/** For what takes long: how a connection is broken off over TLS is the same as over TCP here. */
const withoutTls: readonly Transport[] = ['tcp', 'h2']

const websocket = true
/** So late that the connection is accepted by then, and the test moves it. */
const expires = (): number => Date.now() + 3_600_000
const labels = (): string[] => ['room:1']
/** The server ends with the test, without waiting for its handlers. */
const plugin = { drainTimeout: 50 }

/** Comes to no end, and reads: a client that closes is answered. */
const listen: MessageHandler = async ({ readable }) => {
  readable.resume()
  await forever()
}

/** Leaves when it is told to. */
const leave: MessageHandler = async ({ draining }) => { await once(draining, 'abort') }

function enter (t: Test, transport: Transport, duplex: object, handler: MessageHandler = listen): Promise<Room> {
  return room(t, { transport, plugin, duplex: { websocket, ...duplex } }, handler)
}

/** Reads the close frame of the server, sends it back, and waits for the end. */
async function answered ({ wire, connection }: Pick<Room, 'wire' | 'connection'>): Promise<[code: number | undefined, closed: DuplexClosed]> {
  const { code, reason } = await nextClose(wire)
  wire.send(closeFrame(code, reason))
  wire.end()
  return [code, await connection.closed]
}

onEach(t, 'WS3 GV2 an expired one is closed with 4401', async (t, transport: Transport) => {
  const live = await enter(t, transport, { expires })
  t.ok(live.connection.extend(Date.now() + 30))
  const [code, closed] = await answered(live)
  t.equal(code, 4401)
  t.match(closed, { reason: 'expired', error: { code: 'FST_ERR_DUPLEX_EXPIRED' }, websocket: { code: 4401, clean: true } })
}, transports)

onEach(t, 'WS3 GV2 an expired one whose handler leaves during the grace is closed with 4401', async (t, transport: Transport) => {
  const live = await enter(t, transport, { expires, expiryGrace: 60_000 }, leave)
  t.ok(live.connection.extend(Date.now() + 30))
  const [code, closed] = await answered(live)
  t.equal(code, 4401)
  t.match(closed, { reason: 'end', websocket: { code: 4401, clean: true } })
}, transports)

onEach(t, 'WS3 GV3 a revoked one is closed with 4403', async (t, transport: Transport) => {
  const live = await enter(t, transport, { labels })
  t.equal(live.app.duplex.close('room:1'), 1)
  const [code, closed] = await answered(live)
  t.equal(code, 4403)
  t.match(closed, { reason: 'revoked', error: { code: 'FST_ERR_DUPLEX_REVOKED' }, websocket: { code: 4403, clean: true } })
}, transports)

onEach(t, 'WS3 GV3 a revoked one is closed with the code that was given', async (t, transport: Transport) => {
  const live = await enter(t, transport, { labels })
  t.equal(live.app.duplex.close('room:1', { code: 4009, error: new Error('private') }), 1)
  const { code, reason } = await nextClose(live.wire)
  t.strictSame([code, reason], [4009, ''], 'and not with what the app calls it')
  live.wire.send(closeFrame(4009))
  live.wire.end()
  t.match(await live.connection.closed, { reason: 'revoked', error: { message: 'private' }, websocket: { code: 4009, clean: true } })
}, transports)

const codes: [name: string, revocation: object, code: number][] = [
  ['an error of the app', { error: new Error('private') }, 4403],
  ['an error with a closeCode', { error: Object.assign(new Error('private'), { closeCode: 4010 }) }, 4010],
  ['a code and an error with a closeCode', { code: 4011, error: Object.assign(new Error('private'), { closeCode: 4010 }) }, 4011],
  ['an error with a closeCode that nobody may send', { error: Object.assign(new Error('private'), { closeCode: 1006 }) }, 4403]
]

for (const [name, revocation, expected] of codes) {
  t.test(`WS3 GV3 revoked with ${name}: ${expected}, at once and by a handler that leaves`, async t => {
    const now = await enter(t, 'tcp', { labels })
    now.app.duplex.close('room:1', revocation)
    t.equal((await answered(now))[0], expected)
    const later = await enter(t, 'tcp', { labels }, leave)
    later.app.duplex.close('room:1', { within: 60_000, ...revocation })
    const [code, closed] = await answered(later)
    t.equal(code, expected)
    t.match(closed, { reason: 'end', websocket: { code: expected } })
  })
}

onEach(t, 'WS3 GV3 within is over: closed with the code that was given', async (t, transport: Transport) => {
  const live = await enter(t, transport, { labels })
  live.app.duplex.close('room:1', { within: 40, code: 4009 })
  t.ok(live.connection.draining.aborted)
  const [code, closed] = await answered(live)
  t.equal(code, 4009)
  t.match(closed, { reason: 'revoked', websocket: { code: 4009, clean: true } })
}, transports)

onEach(t, 'WS3 GV3 a revoked one whose client does not answer is broken off', async (t, transport: Transport) => {
  const { app, wire, connection } = await enter(t, transport, { labels })
  app.duplex.close('room:1')
  t.equal((await nextClose(wire)).code, 4403)
  await wire.gone()
  t.match(await connection.closed, { reason: 'revoked', websocket: { code: 1006, clean: false } })
}, withoutTls)

t.test('WS3 GV3 one that is handed over to `ws` is closed with the code, too', async t => {
  const live = await enter(t, 'tcp', { labels }, async connection => {
    connection.asWs()
    await forever()
  })
  live.app.duplex.close('room:1', { code: 4009 })
  const [code, closed] = await answered(live)
  t.equal(code, 4009)
  t.match(closed, { reason: 'revoked', websocket: { code: 4009, clean: true } })
})

t.test('GV3 messages that are no WebSocket are broken off', async t => {
  const head = 'POST /room HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: application/x-ndjson\r\n\r\n'
  const { app, connection } = await room(t, { plugin, head, duplex: { labels } }, listen)
  app.duplex.close('room:1', { code: 4009 })
  const { reason, websocket } = await connection.closed
  t.same([reason, websocket], ['revoked', undefined])
})

// The end of the drain

onEach(t, 'WS3 L8 the end of the drain: the close frame arrives, and its answer is waited for', async (t, transport: Transport) => {
  const live = await enter(t, transport, {})
  const closing = live.app.close()
  const [code, closed] = await answered(live)
  t.equal(code, 1001)
  t.match(closed, { reason: 'shutdown', error: { code: 'FST_ERR_DUPLEX_SHUTDOWN' }, websocket: { code: 1001, clean: true } })
  await closing
}, transports)

onEach(t, 'WS3 L8 the end of the drain: behind what was written before, and while the client sends', async (t, transport: Transport) => {
  const big = 'x'.repeat(60_000)
  const live = await enter(t, transport, {}, async ({ send }: DuplexMessages) => {
    for (let n = 0; n < 20; n++) void send(big).catch(() => {})
    await forever()
  })
  const { app, wire, connection } = live
  t.equal((await nextFrame(wire)).payload.length, big.length)
  for (let n = 0; n < 100; n++) wire.send(frame('x'.repeat(1000)))
  const closing = app.close()
  const [code] = await answered(live)
  t.equal(code, 1001)
  t.match(await connection.closed, { reason: 'shutdown', websocket: { code: 1001, clean: true } })
  await closing
}, transports)

onEach(t, 'WS3 L8 the end of the drain: who does not answer holds nothing up', async (t, transport: Transport) => {
  const { app, wire, connection } = await enter(t, transport, {})
  await Promise.all([app.close(), wire.gone()])
  t.match(await connection.closed, { reason: 'shutdown', websocket: { code: 1006, clean: false } })
}, withoutTls)
