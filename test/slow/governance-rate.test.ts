import t from 'tap'
import type { Test } from 'tap'
import { attempt } from '../fixtures/governed.ts'
import { serveBriefly } from '../fixtures/lifetime.ts'
import { take } from '../fixtures/kinds.ts'
import { gate, type Way } from '../fixtures/server.ts'
import { all, pattern, sha256 } from '../fixtures/takeover.ts'

const RATE = 200_000
const SECONDS = 10
/** What the rate lets through in that time. */
const SIZE = RATE * SECONDS
/** A machine that does other things is late now and then, and no rate makes up for that. */
const LATE = 10

/** Within 10 %, and never faster. */
function keeps (t: Test, from: number, direction: string): void {
  const took = (performance.now() - from) / 1000
  t.ok(took >= SECONDS * 0.9, `${direction}: ${took} s is no faster than the rate`)
  t.ok(took <= SECONDS * 1.1 + LATE, `${direction}: ${took} s is no slower`)
  t.comment(`${direction}: ${(SIZE / took / RATE * 100).toFixed(1)} % of the rate`)
}

t.setTimeout(120_000)

for (const transport of ['tcp', 'tls', 'h2'] as const satisfies readonly Way[]) {
  t.test(`GV5 ten seconds at a rate, both ways, while another goes as fast as it can [${transport}]`, async t => {
    const bytes = pattern(SIZE)
    const received = gate<Buffer>()
    const server = await serveBriefly(t, { transport }, app => {
      take(app, async ({ readable, writable }) => {
        writable.end(bytes)
        received.open(await all(readable))
      }, { rate: { bytesIn: RATE, bytesOut: RATE } })
      app.get('/fast', { duplex: true }, async ({ readable, writable }) => {
        for await (const chunk of readable) if (!writable.write(chunk)) await new Promise(resolve => writable.once('drain', resolve))
      })
    })
    const from = performance.now()
    const { wire } = await attempt(server)
    wire.end(bytes)
    let over = false
    const inward = received.promise.then(got => {
      keeps(t, from, 'in')
      t.equal(sha256(got), sha256(bytes))
    })
    const outward = wire.rest().then(got => {
      keeps(t, from, 'out')
      t.equal(sha256(got), sha256(bytes))
    })
    const both = Promise.all([inward, outward]).then(() => { over = true })
    const fast = await server.connect()
    await fast.send('GET /fast HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n').head()
    const much = pattern(5 * SIZE)
    fast.end(much)
    t.equal(sha256(await fast.rest()), sha256(much))
    t.notOk(over, `${much.length} bytes without a rate are through before ${SIZE} with one`)
    await both
  })
}
