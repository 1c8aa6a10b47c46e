import net from 'node:net'
import { serve, type World } from './app.ts'
import { runHttp2Round } from './http2.ts'
import { difference, isShared, runningTimers, snapshot, type Snapshot } from './leftovers.ts'
import { Ledger } from './ledger.ts'
import { patience, sleep } from './patience.ts'
import type { AppPlan, BatchPlan } from './plan.ts'
import { runRound, type Finding, type Setting } from './round.ts'

/** In milliseconds: for all that has to come to its end by itself. */
export const FOREVER = 4000

/** After the drain: Fastify's and Node's own work. */
const GRACE = 1000

/** An index that no round has. */
export const WHOLE = -1

const baselines = new Map<string, Promise<Snapshot>>()

/** The listeners that plain Fastify leaves on a server that has closed. */
function baseline (plan: AppPlan): Promise<Snapshot> {
  const { transport } = plan
  let known = baselines.get(transport)
  if (known === undefined) {
    known = (async () => {
      const world = await serve({ ...plan, neighbour: 'none', force: false }, new Ledger(), true)
      await world.app.close()
      await world.remove()
      return snapshot(world.app.server)
    })()
    baselines.set(transport, known)
  }
  return known
}

function socketsOf ({ app }: World): Promise<number> {
  return new Promise(resolve => { app.server.getConnections((_error, count) => resolve(count ?? 0)) })
}

export interface BatchResult {
  findings: Finding[]
  /** Looks, some time later, whether what has to go by itself has gone. */
  later: () => Promise<Finding[]>
}

export interface BatchOptions {
  bare: boolean
  forever?: number
  /** The rounds to run, by their place. */
  only?: readonly number[] | undefined
}

/** An app, all its clients at once, and its end. */
export async function runBatch (plan: BatchPlan, options: BatchOptions): Promise<BatchResult> {
  const { bare, forever = FOREVER } = options
  const findings: Finding[] = []
  const find = (rule: string, transcript = ''): void => { findings.push({ rule, round: WHOLE, transcript }) }
  const uncaught = (error: unknown): void => {
    const { code, stack = String(error) } = error as { code?: string, stack?: string }
    const [head = '', ...lines] = stack.split('\n')
    const own = lines.filter(line => line.includes('/lib/')).slice(0, 2).map(line => line.trim().replace(/file:.*\/lib\//, 'lib/'))
    find(`uncaught ${code ?? head} ${own.join(' ')}`)
    findings.at(-1)!.transcript = stack
  }
  const warned = (warning: Error): void => {
    // Of Fastify, about what this program asks for.
    if (warning.name === 'MaxListenersExceededWarning') find(`warning: ${warning.message.replace(/\[.*?\]/g, '')}`)
  }
  const processBefore = snapshot(process)
  const timersBefore = runningTimers()
  process.on('uncaughtException', uncaught)
  process.on('unhandledRejection', uncaught)
  process.on('warning', warned)

  const expectedListeners = await baseline(plan.app)
  const ledger = new Ledger()
  const world = await serve(plan.app, ledger, bare)
  const { app } = world
  const begun = performance.now()
  let clientsGone = plan.rounds.length + plan.http2.length === 0
  let closingSince: number | undefined
  let closed = false
  const setting: Setting = {
    world,
    ledger,
    transport: plan.app.transport,
    closing: () => closingSince !== undefined,
    closed: () => closed,
    forever
  }
  const drain = plan.app.plugin.drainTimeout

  const close = async (): Promise<void> => {
    closingSince = performance.now()
    // A long poll, which is not the plugin's, holds plain Fastify as well: its client has to go.
    const polls = (): boolean => [...ledger.entries.values()].some(({ polling, told }) => polling && !told)
    const { how } = plan.app.close
    if (how === 'server') {
      let over = false
      app.server.close(() => { over = true })
      await patience(forever, () => over || !polls())
      if (!await patience(drain + GRACE, () => over)) find('server.close() does not end within drainTimeout and a second', ledger.left())
    }
    const closing = app.close().then(() => { closed = true }, error => {
      closed = true
      find(`app.close() rejects: ${String(error)}`)
    })
    if (how === 'twice') void app.close().catch(() => {})
    await patience(forever, () => closed || !polls())
    const inTime = await patience(drain + GRACE, () => closed)
    // Plain Fastify does not promise it.
    if (!inTime && bare) return
    if (!inTime) {
      find(`app.close() does not resolve within drainTimeout and a second${clientsGone ? ', and no client is there' : ''}`, ledger.left())
      await patience(forever, () => closed || clientsGone)
      // To go on with the next batch.
      const { server } = app as unknown as { server: { closeAllConnections?: () => void } }
      server.closeAllConnections?.()
      await patience(500, () => closed)
    }
    void closing
  }

  const clients = (async () => {
    const some = <T>(all: T[], run: (one: T, index: number) => Promise<Finding[]>): Promise<Finding[]>[] =>
      all.map((one, index) => options.only === undefined || options.only.includes(index) ? run(one, index) : Promise.resolve([]))
    const all = await Promise.all([
      ...some(plan.rounds, (round, index) => runRound(round, index, setting)),
      ...some(plan.http2, (round, index) => runHttp2Round(round, index, setting))
    ])
    findings.push(...all.flat())
    clientsGone = true
  })()
  const { after } = plan.app.close
  if (after !== undefined) {
    await sleep(Math.max(0, after - (performance.now() - begun)))
    await Promise.all([close(), clients])
  } else {
    await clients
    if (findings.length === 0) {
      if (!bare && !await patience(forever, () => app.duplex.connections.size === 0)) find(`${app.duplex.connections.size} connections are left`)
      // Node 26 may not see a reset of TLS beneath a long poll, with the plugin or without.
      const unseen = plan.app.transport === 'tls' && [...ledger.entries.values()].some(({ polling }) => polling)
      let sockets = await socketsOf(world)
      const look = setInterval(() => { void socketsOf(world).then(count => { sockets = count }) }, 10)
      if (!unseen && !await patience(forever, () => sockets === 0)) {
        find(sockets > 1 ? 'some of the sockets of the server stay open' : 'a socket of the server stays open', ledger.left())
      }
      clearInterval(look)
      if (!bare && findings.length === 0 && plan.app.transport === 'tcp') {
        const taken = await countSlots(world, 4)
        if (taken !== 4) find(`${taken} of 4 slots are free`)
      }
    }
    await close()
  }
  if (world.inner !== undefined) {
    let over = false
    void world.inner.close().then(() => { over = true }, error => find(`app.close() of the inner app rejects: ${String(error)}`))
    if (!await patience(drain + GRACE, () => over)) find('app.close() of the inner app does not resolve')
  }
  await world.remove()
  if (closed && findings.length === 0) {
    if (app.server.listening) find('the server listens still')
    const present = snapshot(app.server)
    for (const [event, count] of Object.entries(world.foreign)) {
      const left = (present[event] ?? 0) - count
      if (left === 0) delete present[event]
      else present[event] = left
    }
    const more = difference(expectedListeners, present)
    if (more.length > 0) find(`listeners of the server: ${more.join(', ')}`)
  }
  await new Promise(resolve => setImmediate(resolve))
  process.off('uncaughtException', uncaught)
  process.off('unhandledRejection', uncaught)
  process.off('warning', warned)
  const processAfter = difference(processBefore, snapshot(process))
  if (processAfter.length > 0) find(`listeners of the process: ${processAfter.join(', ')}`)

  const started = [...runningTimers()].filter(([timer]) => !timersBefore.has(timer) && !isShared(timer))
  const clean = findings.every(({ rule }) => rule.startsWith('listeners of the server'))
  const later = async (): Promise<Finding[]> => {
    // What watches for a while after the last connection may do so.
    const mine = (): [NodeJS.Timeout, string][] => started.filter(([timer]) => runningTimers().has(timer))
    if (!clean || await patience(3500, () => mine().length === 0)) return []
    return [...new Set(mine().map(([, line]) => line))].map(line => ({ rule: `a timer is left: ${line}`, round: WHOLE, transcript: '' }))
  }
  return { findings, later }
}

/** How many of so many takeovers of the route with the small limit are accepted at once. */
async function countSlots ({ port }: World, many: number): Promise<number> {
  let accepted = 0
  let heard = 0
  const sockets = Array.from({ length: many }, () => {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    socket.on('error', () => {})
    socket.once('data', data => {
      heard++
      if (data.toString('latin1', 9, 12) === '101') accepted++
    })
    socket.write('GET /few?slot HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: fuzz\r\n\r\n')
    return socket
  })
  await patience(2000, () => heard === many)
  const closed = sockets.map(socket => new Promise(resolve => socket.once('close', resolve)))
  for (const socket of sockets) socket.resetAndDestroy()
  await Promise.all(closed)
  return accepted
}
