import t from 'tap'
import type { Test } from 'tap'
import { closeFrame, frame, nextClose, nextFrame, OPCODE } from './fixtures/frames.ts'
import { answer, forwarding, switching } from './fixtures/forwarding.ts'
import { room } from './fixtures/messages.ts'
import { gate, onEach } from './fixtures/server.ts'
import { pattern, sha256, UPGRADE } from './fixtures/takeover.ts'

/** As in governance-rate.test.ts. */
const RATE = 100_000
const SIZE = 50_000
const LEAST = (SIZE - 0.2 * RATE) / (1.1 * RATE) * 1000
const rate = { bytesIn: RATE, bytesOut: RATE }

const parts = (bytes: Buffer): Buffer[] => [0, 1, 2, 3, 4].map(at => bytes.subarray(at * SIZE / 5, (at + 1) * SIZE / 5))
const slow = (t: Test, from: number): void => {
  const took = performance.now() - from
  t.ok(took >= LEAST, `${took} ms`)
}

onEach(t, 'GV5 messages of a WebSocket have the rate of their connection, both ways', async (t, transport: 'tcp' | 'h2') => {
  const bytes = pattern(SIZE)
  const heard = gate<Buffer>()
  const { wire, connection } = await room(t, { transport, duplex: { websocket: true, rate } }, async ({ readable, send }) => {
    const came: Buffer[] = []
    for await (const message of readable) if (came.push(message as Buffer) === 5) break
    heard.open(Buffer.concat(came))
    for (const part of parts(bytes)) await send(part)
  })
  const from = performance.now()
  for (const part of parts(bytes)) wire.send(frame(part, { opcode: OPCODE.binary }))
  t.equal(sha256(await heard.promise), sha256(bytes))
  slow(t, from)
  const back = performance.now()
  const came: Buffer[] = []
  while (came.length < 5) came.push((await nextFrame(wire)).payload)
  t.equal(sha256(Buffer.concat(came)), sha256(bytes))
  slow(t, back)
  t.equal((await nextClose(wire)).code, 1000)
  wire.send(closeFrame(1000))
  wire.end()
  t.match(await connection.closed, { reason: 'end', websocket: { clean: true } })
}, ['tcp', 'h2'])

onEach(t, 'GV5 a forwarded upgrade has the rate of its connection, both ways', async (t, transport: 'tcp' | 'h2') => {
  const bytes = pattern(SIZE)
  const { connect, accepted, quiet } = await forwarding(t, { transport, duplex: { rate } })
  const wire = await connect()
  wire.send(UPGRADE)
  const far = await accepted()
  await far.head()
  far.send(switching('Upgrade: foo'))
  t.equal((await wire.head()).status, transport === 'h2' ? 200 : 101)
  const from = performance.now()
  wire.end(bytes)
  t.equal(sha256(await far.rest()), sha256(bytes))
  slow(t, from)
  const back = performance.now()
  far.end(bytes)
  t.equal(sha256(await wire.rest()), sha256(bytes))
  slow(t, back)
  await quiet()
}, ['tcp', 'h2'])

t.test('GV5 a forwarded body has the rate of its connection, both ways', async t => {
  const bytes = pattern(SIZE).toString('latin1').replace(/[^ -~]/g, 'x')
  const { connect, accepted } = await forwarding(t, { duplex: { rate } })
  const wire = await connect()
  const from = performance.now()
  wire.send(`POST /it HTTP/1.1\r\nHost: a\r\nContent-Length: ${SIZE}\r\n\r\n${bytes}`)
  const far = await accepted()
  const { headers } = await far.head()
  t.equal(headers['content-length'], String(SIZE))
  t.equal(sha256(await far.bytes(SIZE)), sha256(Buffer.from(bytes)))
  slow(t, from)
  const back = performance.now()
  far.send(answer('200 OK', bytes))
  const { body } = await wire.response()
  t.equal(sha256(Buffer.from(body)), sha256(Buffer.from(bytes)))
  slow(t, back)
})
