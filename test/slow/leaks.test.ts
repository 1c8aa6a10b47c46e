import t from 'tap'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

interface Report {
  cycles: number
  /** Bytes a cycle, of all of them. */
  all: number
  /** The same by what was done, in the batch that left least. */
  growth: Record<string, number>
  /** Listeners that were not there before. */
  strays: Record<string, unknown>
  warnings: string[]
  connections: number
  sockets: number
}

/** In bytes a cycle. It is noise of the collector, and much less than anything that is kept by mistake. */
const MOST = 250

t.setTimeout(600_000)

t.test('L9 cycles of every kind of end leave nothing behind', async t => {
  t.setTimeout(590_000)
  const program = fileURLToPath(new URL('../fixtures/leak-process.js', import.meta.url))
  const child = fork(program, { execArgv: ['--expose-gc'], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  t.teardown(() => child.kill())
  const exit = once(child, 'exit')
  const [report] = await once(child, 'message') as [Report]
  t.ok(report.cycles >= 10_000, `${report.cycles} cycles`)
  t.ok(report.all < MOST, `${report.all} bytes a cycle`)
  for (const [what, bytes] of Object.entries(report.growth)) t.ok(bytes < MOST, `${what}: ${bytes} bytes a cycle`)
  t.same(report.strays, {}, 'listener counts are what they were')
  t.same(report.warnings, [], 'no MaxListenersExceededWarning, and no other')
  t.same([report.connections, report.sockets], [0, 0])
  t.same((await exit)[0], 0, 'and nothing keeps the process alive')
})
