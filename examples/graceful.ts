// A rolling restart under live connections, in which no message is lost: two workers of node:cluster
// are replaced, one after the other, while clients keep talking to them.
//
// The protocol is lines: the client sends "N\n", the server answers "ack N\n". When a worker has to
// go, app.close() tells every handler by `draining`. The handler finishes the message in hand,
// says "bye\n" and returns, which ends its side. The client then ends its own, connects again, to a
// worker that stays, and resends what was not acknowledged. That is all it takes: the worker's half
// is the first part of this file, and whatever sends SIGTERM to your servers is the last.
//
// Run it:     node examples/graceful.ts            (CLIENTS=200 PORT=8080 node examples/graceful.ts)
//             Before Node 22.18: npm run setup, then .build/examples/graceful.js in its place.
//             It has its clients itself. It prints a line for each worker that was replaced, and after a few
//             seconds a table. The exit code is 0 when no message was lost and no connection was cut.
// Drive it:   WORK=1000 DRAIN_TIMEOUT=100 node examples/graceful.ts      breaks it:
//             with messages that take longer (here a second) than the drain allows, connections are cut, and
//             the exit code is 1. No message is lost then either: the clients resend them.
import cluster, { type Worker } from 'node:cluster'
import { addAbortListener, EventEmitter, once } from 'node:events'
import http from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as after } from 'node:timers/promises'
import Fastify, { type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const CLIENTS = Number(process.env.CLIENTS ?? 20)
/** What it takes to handle a message, in milliseconds. */
const WORK = Number(process.env.WORK ?? 5)
const DRAIN_TIMEOUT = Number(process.env.DRAIN_TIMEOUT ?? 5000)
/** Messages that a client sends before the first of them is acknowledged. */
const WINDOW = 4
/** The whole program, in milliseconds: it must not hang. */
const LIMIT = 120_000

// The server

/** What a worker tells when it goes. Connections are named CLIENT.DIAL, messages CLIENT:NUMBER. */
interface Report {
  /** Connections that `draining` was aborted on. */
  told: number
  /** Those of them that then ended in order. */
  finished: number
  cut: string[]
  handled: string[]
}

interface Lines {
  Params: { client: string, dial: string }
}

async function serve (worker: Worker): Promise<void> {
  const report: Report = { told: 0, finished: 0, cut: [], handled: [] }
  const app = Fastify({ logger: { level: 'error' } })
  await app.register(duplex, { drainTimeout: DRAIN_TIMEOUT })

  app.get('/lines/:client/:dial', {
    duplex: { kinds: ['upgrade'], protocols: ['lines'] }
  }, async (connection, request: FastifyRequest<Lines>) => {
    const { readable, writable, signal, draining } = connection
    const { client, dial } = request.params
    addAbortListener(draining, () => { report.told++ })
    void connection.closed.then(({ reason }) => {
      if (reason !== 'end') report.cut.push(`${client}.${dial}`)
      else if (draining.aborted) report.finished++
    })

    // The next line is not waited for when the server goes away, nor when the client is gone.
    const lines = createInterface({ input: readable, signal: AbortSignal.any([draining, signal]) })
    for await (const line of lines) {
      await after(WORK, undefined, { signal })
      report.handled.push(`${client}:${line}`)
      writable.write(`ack ${line}\n`)
      // Lines that have come but were not begun: they are not acknowledged, and the client has them still.
      if (draining.aborted) break
    }
    if (draining.aborted) writable.write('bye\n')
  })

  process.once('SIGTERM', async () => {
    await app.close()
    process.send?.(report, () => worker.disconnect())
  })
  await app.listen({ port: Number(process.env.PORT ?? 0), host: '127.0.0.1' })
}

// The clients

/** Sends numbers, one after the other, until it is told to stop. It emits 'ack' when one is acknowledged. */
class Client extends EventEmitter {
  readonly id: number
  readonly cut: string[] = []
  sent = 0
  resent = 0
  /** Connections beyond the first. */
  reconnects = 0
  /** Attempts at a connection that a worker on its way out refused. */
  refused = 0
  readonly acknowledged = new Set<number>()
  readonly #port: number
  /** Sent and not acknowledged, in order. */
  readonly #open = new Set<number>()
  #stopping = false

  constructor (id: number, port: number) {
    super()
    this.id = id
    this.#port = port
  }

  /** From now on nothing new is sent; `run()` resolves when all is acknowledged. */
  stop (): void {
    this.#stopping = true
  }

  async run (): Promise<void> {
    for (let dial = 1; !this.#done; dial++) {
      const socket = await this.#connect(dial)
      if (dial > 1) this.reconnects++
      let inOrder = false
      try {
        inOrder = await this.#talk(socket)
      } catch {
        // A reset: what was not acknowledged is sent again.
      }
      if (!inOrder) this.cut.push(`${this.id}.${dial}`)
    }
  }

  get #done (): boolean { return this.#stopping && this.#open.size === 0 }

  async #connect (dial: number): Promise<Socket> {
    for (let attempt = 1; attempt <= 100; attempt++) {
      const request = http.get({
        host: '127.0.0.1',
        port: this.#port,
        path: `/lines/${this.id}/${dial}`,
        headers: { connection: 'Upgrade', upgrade: 'lines' },
        agent: false
      })
      const upgraded = once(request, 'upgrade') as Promise<[http.IncomingMessage, Socket, Buffer]>
      const refused = once(request, 'response') as Promise<[http.IncomingMessage]>
      const [response, socket, head] = await Promise.race([upgraded, refused])
      if (socket !== undefined && head !== undefined) {
        if (head.length > 0) socket.unshift(head)
        return socket
      }
      response.resume()
      // The worker began to close when the connection was on its way to it: the next one goes to another.
      if (response.statusCode !== 503) throw new Error(`refused with ${response.statusCode}`)
      this.refused++
    }
    throw new Error('there is no worker that accepts')
  }

  /** One connection, to its end. Tells whether both sides meant it to end. */
  async #talk (socket: Socket): Promise<boolean> {
    for (const number of this.#open) {
      socket.write(`${number}\n`)
      this.resent++
    }
    this.#sendMore(socket)
    let bye = false
    for await (const line of createInterface({ input: socket })) {
      if (line === 'bye') {
        bye = true
        socket.end()
        continue
      }
      const number = Number(line.slice('ack '.length))
      this.#open.delete(number)
      this.acknowledged.add(number)
      this.emit('ack')
      if (this.#done) socket.end()
      else if (!bye) this.#sendMore(socket)
    }
    return bye || this.#done
  }

  #sendMore (socket: Socket): void {
    while (!this.#stopping && this.#open.size < WINDOW) {
      const number = ++this.sent
      this.#open.add(number)
      socket.write(`${number}\n`)
    }
  }
}

// The restart

async function restartAll (): Promise<void> {
  setTimeout(() => {
    console.error(`not done after ${LIMIT} ms`)
    process.exit(1)
  }, LIMIT).unref()
  // This file, however it was started; a worker gets the same flags of Node.
  cluster.setupPrimary({ exec: import.meta.filename })
  cluster.on('exit', (worker, code, signal) => {
    if (!worker.exitedAfterDisconnect || code !== 0) throw new Error(`worker ${worker.id} failed: ${signal ?? code}`)
  })

  const [[one, { port }], [two]] = await Promise.all([start(), start()])
  console.log(`listening on http://localhost:${port}: workers ${one.id} and ${two.id}, for ${CLIENTS} clients`)
  const clients = Array.from({ length: CLIENTS }, (_, index) => new Client(index + 1, port))
  const allAnswered = (): Promise<unknown> => Promise.all(clients.map(client => once(client, 'ack')))
  const running = Promise.all(clients.map(client => client.run()))
  // Should one of them fail, this program does.
  running.catch(error => { throw error })
  await allAnswered()

  const reports: Report[] = []
  const fresh: Worker[] = []
  for (const old of [one, two]) {
    const [replacement] = await start()
    fresh.push(replacement)
    const report = await stop(old)
    reports.push(report)
    console.log(`worker ${old.id} (pid ${old.process.pid}) is gone, worker ${replacement.id} (pid ${replacement.process.pid}) serves: ` +
      `${report.told} told, ${report.finished} finished in order, ${report.handled.length} messages`)
    await allAnswered()
  }

  for (const client of clients) client.stop()
  await running
  for (const worker of fresh) reports.push(await stop(worker))
  sumUp(clients, reports)
}

/** Resolves when the worker listens. */
async function start (): Promise<[Worker, AddressInfo]> {
  const worker = cluster.fork()
  const [address] = await once(worker, 'listening') as [AddressInfo]
  return [worker, address]
}

/** Resolves when the worker has exited, by itself. */
async function stop (worker: Worker): Promise<Report> {
  const exited = once(worker, 'exit')
  const reported = once(worker, 'message') as Promise<[Report]>
  worker.process.kill('SIGTERM')
  const [[report]] = await Promise.all([reported, exited])
  return report
}

function sumUp (clients: readonly Client[], reports: readonly Report[]): void {
  const handled = reports.flatMap(report => report.handled)
  const distinct = new Set(handled)
  const total = (count: (client: Client) => number): number => clients.reduce((sum, client) => sum + count(client), 0)
  // Of a message that was sent, its client has to know that it was handled, and a worker has to know that too.
  const lost = total(({ id, sent, acknowledged }) => Array.from({ length: sent }, (_, index) => index + 1)
    .filter(number => !acknowledged.has(number) || !distinct.has(`${id}:${number}`)).length)
  // Whichever of the two ends saw it.
  const cut = new Set([...reports, ...clients].flatMap(({ cut }) => cut)).size
  const rows: [string, number][] = [
    ['connections told by draining', reports.reduce((sum, { told }) => sum + told, 0)],
    ['finished in order', reports.reduce((sum, { finished }) => sum + finished, 0)],
    ['cut', cut],
    ['reconnects', total(client => client.reconnects)],
    ['refused on the way', total(client => client.refused)],
    ['messages sent', total(client => client.sent)],
    ['sent again', total(client => client.resent)],
    ['acknowledged', total(client => client.acknowledged.size)],
    ['duplicates', handled.length - distinct.size],
    ['lost', lost]
  ]
  for (const [what, count] of rows) console.log(`${what.padEnd(30)}${String(count).padStart(8)}`)
  process.exitCode = lost > 0 || cut > 0 ? 1 : 0
}

if (cluster.isPrimary) await restartAll()
else await serve(cluster.worker as Worker)
