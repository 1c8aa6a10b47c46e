import t from 'tap'
import { setImmediate as turn } from 'node:timers/promises'
import { attempt, forever } from '../fixtures/governed.ts'
import { take } from '../fixtures/kinds.ts'
import { serveBriefly } from '../fixtures/lifetime.ts'
import type { DuplexConnection } from '../../lib/index.ts'

const CONNECTIONS = 100
const LABELS = 10_000
const LOOKS = 20_000

t.test('GV3 a million labels: finding, closing and leaving cost no more than what is found, closed and left', { timeout: 120_000 }, async t => {
  const connections: DuplexConnection[] = []
  const server = await serveBriefly(t, {}, app => take(app, connection => {
    connections.push(connection)
    return forever()
  }, { labels: () => ['everybody'] }))
  const { duplex } = server.app
  for (let n = 0; n < CONNECTIONS; n++) await attempt(server)
  while (connections.length < CONNECTIONS) await turn()

  /** How long it takes to look for those that are there, and those that are not. */
  const looks = (): number => {
    const from = performance.now()
    for (let n = 0; n < LOOKS; n++) {
      duplex.find(`label ${n % LABELS} of ${n % CONNECTIONS}`)
      duplex.close(`no label ${n}`)
    }
    return performance.now() - from
  }
  looks()
  const few = looks()
  for (const [at, { labels }] of connections.entries()) for (let n = 0; n < LABELS; n++) labels.add(`label ${n} of ${at}`)
  looks()
  const many = looks()
  t.comment(`${LOOKS} looks: ${few.toFixed(1)} ms among 1 label, ${many.toFixed(1)} ms among a million`)
  // A Map that fits into no cache is slower, and not by the number of its entries.
  t.ok(many < few * 40 + 200, `${few} ms and ${many} ms`)

  t.equal(duplex.close('label 7 of 7'), 1)
  t.equal((await (connections[7] as DuplexConnection).closed).reason, 'revoked')
  t.same(duplex.find('label 8 of 7'), [])
  t.same([duplex.find('label 8 of 8').length, duplex.find('everybody').length], [1, CONNECTIONS - 1])
  t.equal(duplex.close('everybody'), CONNECTIONS - 1)
  for (const { closed } of connections) await closed
  await server.quiet()
  for (let at = 0; at < CONNECTIONS; at++) if (duplex.find(`label 8 of ${at}`).length > 0) t.fail(`labels of ${at} are left`)
})
