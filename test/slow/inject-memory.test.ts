import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import t from 'tap'
import duplex from '../../lib/index.ts'
import { collector, declareEnds, everyEnd } from '../fixtures/injections.ts'
import { everyKind } from '../fixtures/kinds.ts'
import { turn } from '../fixtures/links.ts'

const ROUNDS = 30
/** In bytes an injection. It is noise of the collector, and much less than anything that is kept by mistake. */
const MOST = 250

t.setTimeout(600_000)

for (const [title, http2, kinds] of [
  ['I1 a thousand injections leave no memory', false, everyKind],
  ['I1 a thousand injections leave no memory, over HTTP/2', true, everyKind.filter(kind => kind !== 'hijack')]
] as const) {
  t.test(title, async t => {
    const gc = collector()
    const app = Fastify((http2 ? { http2 } : {}) as FastifyServerOptions) as FastifyInstance
    t.teardown(() => app.close())
    await app.register(duplex, { extendedConnect: http2 })
    declareEnds(app)
    // What ended last is collected by several rounds, one after the other.
    const measure = async (): Promise<number> => {
      for (let times = 0; times < 10; times++) {
        await turn()
        gc()
      }
      return process.memoryUsage().heapUsed
    }
    for (let n = 0; n < 60; n++) await everyEnd(app, kinds)
    let least = Infinity
    // What leaks grows every time; what the collector or the compiler does, one time or the other.
    for (let batch = 0; batch < 8; batch++) {
      const before = await measure()
      for (let n = 0; n < ROUNDS; n++) await everyEnd(app, kinds)
      least = Math.min(least, (await measure() - before) / (ROUNDS * (kinds.length + 2)))
    }
    t.ok(least < MOST, `${Math.round(least)} bytes each`)
  })
}
