import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { start, type Program } from './fixtures/program.ts'
import type { Head, Wire } from './fixtures/wire.ts'

const example = new URL('../examples/sessions.js', import.meta.url)

async function login (program: Program, user: string): Promise<string> {
  return await (await fetch(`http://127.0.0.1:${program.port}/login/${user}`, { method: 'POST' })).text()
}

async function open (program: Program, token: string): Promise<{ wire: Wire, head: Head }> {
  const wire = await program.connect()
  wire.send(`GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nConnection: Upgrade\r\nUpgrade: events\r\n\r\n`)
  return { wire, head: await wire.head() }
}

/** The worker that greets. */
async function greeted (wire: Wire, user: string): Promise<string> {
  await wire.until(`hello ${user} from worker `)
  return (await wire.until('\n')).trim()
}

async function loggedOut (t: Test, env: NodeJS.ProcessEnv): Promise<void> {
  const program = await start(t, example, { SECRET: 'of this test', SECONDS: '3600', ...env })
  const anna = await login(program, 'anna')
  const ben = await login(program, 'ben')
  const hers: Wire[] = []
  const workers = new Set<string>()
  // A balancer that is none of ours gives each worker its turn.
  while (workers.size < 2) {
    const { wire, head } = await open(program, anna)
    if (head.status === 101) {
      workers.add(await greeted(wire, 'anna'))
      hers.push(wire)
    } else {
      t.equal(head.status, 429)
      throw new Error('all connections came to one worker')
    }
  }
  const { wire: his } = await open(program, ben)
  await greeted(his, 'ben')
  const { status } = await fetch(`http://127.0.0.1:${program.port}/logout`, { method: 'POST', headers: { authorization: `Bearer ${anna}` } })
  t.equal(status, 204)
  for (const wire of hers) t.equal(await wire.gone(), 'broken')
  t.equal((await open(program, anna)).head.status, 401, 'her token opens nothing any more')
  t.equal((await open(program, await login(program, 'anna'))).head.status, 101)
  his.send('still here\n')
  t.equal(await his.until('\n'), 'still here\n')
  t.equal(await program.stop(), 0)
}

t.test('GV3 sessions: a logout ends all connections of its user, on every worker', t => loggedOut(t, {}))

const hasRedis = spawnSync('redis-server', ['--version']).status === 0
const title = 'GV3 sessions: the same with Redis between the workers'
t.test(hasRedis ? title : `${title} (not run: there is no redis-server)`, { skip: !hasRedis }, async t => {
  const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  const path = join(directory, 'redis')
  const server = spawn('redis-server', ['--port', '0', '--unixsocket', path, '--save', '', '--dir', directory], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(async () => {
    const exited = once(server, 'exit')
    if (server.exitCode === null && server.kill()) await exited
    await rm(directory, { recursive: true, force: true })
  })
  let said = ''
  for await (const text of server.stdout.setEncoding('utf8')) {
    said += String(text)
    if (/ready to accept connections (?:at|unix)/i.test(said)) break
  }
  await loggedOut(t, { REDIS: path })
})

t.test('GV2 sessions: a token that ends, one that is renewed, and one that has ended', async t => {
  const program = await start(t, example, { SECRET: 'of this test', SECONDS: '2', GRACE: '500', WORKERS: '1' })
  const token = await login(program, 'anna')
  const [ends, renewed] = [await open(program, token), await open(program, token)]
  for (const { wire, head } of [ends, renewed]) {
    t.equal(head.status, 101)
    await greeted(wire, 'anna')
  }
  await renewed.wire.until('renew\n')
  renewed.wire.send(`token ${await login(program, 'anna')}\n`)
  await renewed.wire.until('renewed\n')
  await ends.wire.until('renew\n')
  t.equal(await ends.wire.gone(), 'broken')
  const late = await open(program, token)
  t.equal(late.head.status, 401)
  await renewed.wire.until('renew\n')
  t.equal(await program.stop(), 0)
})
