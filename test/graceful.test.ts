import { once } from 'node:events'
import t, { type Test } from 'tap'
import { start } from './fixtures/program.ts'
import { gate, onEach, serve } from './fixtures/server.ts'
import { posix } from './fixtures/system.ts'

interface Outcome {
  code: number | null
  output: string
  /** The table that is printed at the end. */
  row: (name: string) => number
  /** The workers that were replaced. */
  replaced: { worker: number, pid: number, by: number, byPid: number, told: number, finished: number }[]
}

/** Runs the example to its end. */
async function restart (t: Test, file: URL, env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const program = await start(t, file, env)
  const [code] = await once(program.child, 'close') as [number | null]
  const output = program.output()
  const row = (name: string): number => {
    const found = new RegExp(`^${name} +(\\d+)$`, 'm').exec(output)
    if (found === null) throw new Error(`no ${name} in ${output}`)
    return Number(found[1])
  }
  const line = /^worker (\d+) \(pid (\d+)\) is gone, worker (\d+) \(pid (\d+)\) serves: (\d+) told, (\d+) finished/gm
  const replaced = [...output.matchAll(line)].map(match => {
    const [worker = 0, pid = 0, by = 0, byPid = 0, told = 0, finished = 0] = match.slice(1).map(Number)
    return { worker, pid, by, byPid, told, finished }
  })
  return { code, output, row, replaced }
}

const built = new URL('../examples/graceful.js', import.meta.url)

t.test('graceful replaces both workers under live connections, cuts none and loses no message', posix, async t => {
  const { code, output, row, replaced } = await restart(t, built, { CLIENTS: '8', WORK: '20' })
  t.equal(code, 0, output)
  t.equal(row('lost'), 0)
  t.equal(row('cut'), 0)
  t.equal(row('duplicates'), 0)
  t.match(replaced, [{ worker: 1, by: 3 }, { worker: 2, by: 4 }])
  t.equal(new Set(replaced.flatMap(({ pid, byPid }) => [pid, byPid])).size, 4, 'four processes')
  for (const { worker, pid, told, finished } of replaced) {
    t.ok(told > 0, `worker ${worker} had live connections`)
    t.equal(finished, told, 'all of them finished in order')
    t.throws(() => process.kill(pid, 0), { code: 'ESRCH' }, 'and its process is gone')
  }
  t.equal(row('reconnects'), row('connections told by draining'), 'whoever was told came back')
  t.ok(row('sent again') > 0, 'with messages that were on their way')
  t.ok(row('messages sent') > 100)
  t.equal(row('acknowledged'), row('messages sent'))
})

t.test('graceful fails when handlers need more than drainTimeout: connections are cut, and still nothing is lost', posix, async t => {
  const { code, output, row } = await restart(t, built, { CLIENTS: '4', WORK: '400', DRAIN_TIMEOUT: '1' })
  t.equal(code, 1, output)
  t.ok(row('cut') > 0)
  t.equal(row('cut') + row('finished in order'), row('connections told by draining'))
  t.equal(row('acknowledged'), row('messages sent'))
  t.equal(row('lost'), 0)
})

const { typescript } = process.features as { typescript?: unknown }
t.test('graceful runs as TypeScript, workers included', {
  skip: typescript === undefined || typescript === false ? 'this Node runs no TypeScript' : posix.skip
}, async t => {
  const source = new URL('../../examples/graceful.ts', import.meta.url)
  const { code, output, row } = await restart(t, source, { CLIENTS: '2' })
  t.equal(code, 0, output)
  t.equal(row('lost'), 0)
})

onEach(t, 'L8 app.close() comes to its end, and to onClose hooks, after closed and onResponse of the last connection', async (t, transport) => {
  const entered = gate()
  const order: string[] = []
  const server = await serve(t, { transport }, app => {
    app.addHook('onResponse', async () => { order.push('onResponse') })
    app.addHook('onClose', async () => { order.push('onClose') })
    app.get('/x', { duplex: true }, async ({ closed, draining }) => {
      void closed.then(({ reason }) => order.push(`closed: ${reason}`))
      entered.open()
      await once(draining, 'abort')
    })
  })
  const wire = await server.connect()
  wire.send('GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  t.equal((await wire.head()).status, 101)
  await entered.promise
  const closing = server.app.close().then(() => order.push('app.close()'))
  t.equal(String(await wire.rest()), '')
  wire.end()
  await closing
  t.same(order, ['onResponse', 'closed: end', 'onClose', 'app.close()'])
})
