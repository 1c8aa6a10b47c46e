// What governs long connections, across processes: examples/sessions twice with a Redis between them, as on two machines, and
// 500 tunnels that go to other workers of examples/worker behind HAProxy, told all at once and told evenly.
import { strict as assert } from 'node:assert'
import { once, type EventEmitter } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as after } from 'node:timers/promises'
import type { Program } from '../fixtures/program.ts'
import type { Wire } from '../fixtures/wire.ts'
import { answer, haproxyInFront, LineClient, stop, sum, type Counts } from './lab/line-clients.ts'
import { haproxy, load, unusedPort, ws, type Group, type Lab, type Peer } from './lab/index.ts'

const redis: Peer = { name: 'Redis', required: true, debian: ['redis-server'], command: '/usr/bin/redis-server', version: ['--version'] }

async function run (lab: Lab): Promise<void> {
  await sessions(lab)
  await rollingRestarts(lab)
}

// Sessions

/** Of `ws`, as far as it is used. */
interface Socket extends EventEmitter {
  send: (text: string) => void
}
type SocketClass = new (url: string, options: { headers: Record<string, string> }) => Socket

async function sessions (lab: Lab): Promise<void> {
  const port = await unusedPort()
  const directory = await lab.directory()
  const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--dir', directory]
  const env = { REDIS: `redis://127.0.0.1:${port}`, SECRET: 'of this run', LOG: 'info', WORKERS: '2' }
  /** Two machines, with two workers each. */
  let machines: [Program, Program] | undefined
  await lab.check(redis, 'two machines with two workers each listen', async path => {
    await lab.server(path, args, port)
    machines = [await lab.example('sessions', { ...env, SECONDS: '3600' }), await lab.example('sessions', { ...env, SECONDS: '3600' })]
  })
  if (machines === undefined) return
  const [one, other] = machines

  await lab.check(redis, 'a logout on one ends all connections of its user on both, as revoked', async () => {
    const anna = await login(one, 'anna')
    const ben = await login(other, 'ben')
    const hers = [...await openThree(one, anna), ...await openThree(other, anna)]
    const his = [await open(one, ben, 'ben'), await open(other, ben, 'ben')]
    const workers = new Set(hers.map(({ worker }) => worker))
    const revoked = (program: Program): number => [...program.output().matchAll(/"reason":"revoked"/g)].length
    assert.equal(await logout(one, anna), 204)
    for (const { wire } of hers) assert.equal(await wire.gone(), 'broken')
    for (const { wire } of his) {
      wire.send('still here\n')
      assert.equal(await wire.until('\n'), 'still here\n')
    }
    for (const program of machines as [Program, Program]) {
      await program.printed(new RegExp(`(?:"reason":"revoked"[^]*){${hers.length / 2}}`))
      assert.equal(revoked(program), hers.length / 2)
    }
    for (const program of machines as [Program, Program]) {
      assert.equal((await attempt(program, anna)).status, 401, 'her token opens nothing any more')
      assert.equal((await attempt(program, await login(one, 'anna'))).status, 101, 'a new one does')
    }
    return `${hers.length} connections at ${workers.size} workers`
  })

  await lab.check(ws, 'WebSockets on both are closed with 4403', async () => {
    const carl = await login(one, 'carl')
    const sockets = await Promise.all([one, one, other, other].map(program => webSocket(program, carl)))
    const closes = sockets.map(socket => once(socket, 'close') as Promise<[code: number]>)
    assert.equal(await logout(other, carl), 204)
    assert.deepEqual((await Promise.all(closes)).map(([code]) => code), [4403, 4403, 4403, 4403])
  })

  await lab.check(redis, 'that is started again is found again: a logout still reaches the other', async path => {
    const dora = await login(one, 'dora')
    const { wire } = await open(other, dora, 'dora')
    const client = lab.spawn('/usr/bin/redis-cli', ['-p', `${port}`, 'shutdown', 'nosave'])
    await once(client, 'close')
    await lab.server(path, args, port)
    // What is told before the other one has subscribed again, nobody hears.
    const telling = new AbortController()
    const broken = wire.gone().finally(() => telling.abort())
    while (!telling.signal.aborted) {
      await logout(one, await login(one, 'dora')).catch(() => {})
      await Promise.race([broken, after(100)])
    }
    assert.equal(await broken, 'broken')
  })
  for (const program of machines) assert.equal(await program.stop(), 0)

  const brief = await lab.example('sessions', { ...env, WORKERS: '1', SECONDS: '3', GRACE: '500' })
  await lab.check(redis, 'a token that ends: "renew", the grace, and the end as expired', async () => {
    const token = await login(brief, 'emma')
    const [ends, renewed] = [await open(brief, token, 'emma'), await open(brief, token, 'emma')]
    await renewed.wire.until('renew\n')
    renewed.wire.send(`token ${await login(brief, 'emma')}\n`)
    await renewed.wire.until('renewed\n')
    await ends.wire.until('renew\n')
    assert.equal(await ends.wire.gone(), 'broken')
    await brief.printed(/"reason":"expired"/)
    renewed.wire.send('still here\n')
    assert.equal(await renewed.wire.until('\n'), 'still here\n')
    assert.equal((await attempt(brief, token)).status, 401)
    await logout(brief, await login(brief, 'emma'))
  })
  await lab.check(ws, 'a token that ends: "renew", and 4401', async () => {
    const socket = await webSocket(brief, await login(brief, 'fred'))
    const closed = once(socket, 'close') as Promise<[code: number]>
    const [renew] = await once(socket, 'message') as [Buffer]
    assert.equal(String(renew), 'renew')
    assert.equal((await closed)[0], 4401)
  })
  assert.equal(await brief.stop(), 0)
}

async function login (program: Program, user: string): Promise<string> {
  return await (await fetch(`http://127.0.0.1:${program.port}/login/${user}`, { method: 'POST' })).text()
}

async function logout (program: Program, token: string): Promise<number> {
  const headers = { authorization: `Bearer ${token}` }
  return (await fetch(`http://127.0.0.1:${program.port}/logout`, { method: 'POST', headers })).status
}

async function attempt (program: Program, token: string): Promise<{ wire: Wire, status: number }> {
  const wire = await program.connect()
  wire.send(`GET /events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nConnection: Upgrade\r\nUpgrade: events\r\n\r\n`)
  return { wire, status: (await wire.head()).status }
}

async function open (program: Program, token: string, user: string): Promise<{ wire: Wire, worker: string }> {
  const { wire, status } = await attempt(program, token)
  assert.equal(status, 101)
  await wire.until(`hello ${user} from worker `)
  return { wire, worker: (await wire.until('\n')).trim() }
}

/** Three are what one worker takes of a user. */
function openThree (program: Program, token: string): Promise<{ wire: Wire, worker: string }[]> {
  return Promise.all([0, 1, 2].map(() => open(program, token, 'anna')))
}

async function webSocket (program: Program, token: string): Promise<Socket> {
  const { WebSocket } = load<{ WebSocket: SocketClass }>('ws')
  const socket = new WebSocket(`ws://127.0.0.1:${program.port}/events`, { headers: { authorization: `Bearer ${token}` } })
  await once(socket, 'message')
  return socket
}

// Rolling restarts

const TUNNELS = 500
const ADDRESSES = ['127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5'] as const
/** Longer than HAProxy takes to see that a worker is not ready. */
const UNREADY = 1000
const SPREAD = 2000
const TENTH = 100
const LIMIT = 120_000

async function rollingRestarts (lab: Lab): Promise<void> {
  for (const spread of [0, SPREAD]) {
    const driven = `every worker replaced in turn, under ${TUNNELS} tunnels, drainSpread ${spread / 1000} s`
    await lab.check(haproxy, driven, async path => {
      const rounds = await rollingRestart(lab, path, spread)
      for (const [at, round] of rounds.entries()) {
        console.log(`    worker ${at + 1}, connected again in each tenth of a second: ${round.join(' ')}`)
        // How even it is to a tenth of a second depends on what else the machine does.
        const half = round.slice(0, spread / TENTH / 2)
        if (spread > 0) assert.ok(total(half) > total(round) / 4 && total(half) < total(round) * 3 / 4, 'over the whole time')
      }
      return `${total(rounds.flat())} reconnects, at most ${Math.max(...rounds.flat())} in a tenth of a second`
    }, LIMIT)
  }
}

function total (counts: readonly number[]): number {
  return counts.reduce((sum, count) => sum + count, 0)
}

/** @returns for each worker how many clients had connected again in each tenth of a second, from the first one on */
async function rollingRestart (lab: Lab, path: string, spread: number): Promise<number[][]> {
  const [front, port] = [await unusedPort(), await unusedPort()]
  const directory = await lab.directory()
  const file = join(directory, 'haproxy.cfg')
  const start = (HOST: string): Promise<Program> => lab.example('worker', {
    HOST, PORT: `${port}`, NAME: HOST, UNREADY: `${UNREADY}`, DRAIN_TIMEOUT: '60000', DRAIN_SPREAD: `${spread}`
  })
  const workers = new Map<string, Program>()
  for (const address of ADDRESSES) workers.set(address, await start(address))
  await writeFile(file, haproxyInFront(front, ADDRESSES.map(address => `${address}:${port}`)))
  await lab.server(path, ['-db', '-f', file], front, { cwd: directory })
  await answer(front, ...ADDRESSES)

  const clients = Array.from({ length: TUNNELS }, () => new LineClient(front))
  let reconnects: number[] = []
  const allAnswered = (): Promise<unknown> => Promise.all(clients.map(client => once(client, 'ack')))
  const first = allAnswered()
  const running = Promise.all(clients.map(client => client.run()))
  await Promise.race([running, first])
  for (const client of clients) client.on('connected', () => reconnects.push(performance.now()))

  const rounds: number[][] = []
  const counts: Counts[] = []
  for (const [address, worker] of workers) {
    reconnects = []
    counts.push(await stop(worker))
    workers.set(address, await start(address))
    await answer(front, address)
    await Promise.race([running, allAnswered()])
    rounds.push(tenths(reconnects))
  }
  for (const client of clients) client.stop()
  await running
  const { told, finished, cut } = sum(counts)
  const lost = total(clients.map(({ sent, acknowledged }) => sent - acknowledged))
  assert.deepEqual({ finished, cut, lost, reconnects: total(rounds.flat()) }, { finished: told, cut: 0, lost: 0, reconnects: told })
  assert.ok(told >= TUNNELS)
  for (const worker of workers.values()) await stop(worker)
  return rounds
}

function tenths (times: readonly number[]): number[] {
  const first = Math.min(...times)
  const counts: number[] = []
  for (const time of times) {
    const tenth = Math.floor((time - first) / TENTH)
    while (counts.length <= tenth) counts.push(0)
    counts[tenth] = (counts[tenth] as number) + 1
  }
  return counts
}

const group: Group = { title: 'Long connections that stay governed', peers: [redis, ws, haproxy], run }

export default group
