import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import tls from 'node:tls'
import Fastify, { type FastifyInstance } from 'fastify'
import fc from 'fast-check'
import duplex, { type FastifyDuplexOptions } from '../../lib/index.ts'
import { endIsReset, resetByPeer } from '../../lib/internals/sockets.ts'
import { tlsOptions, transports, type Transport } from '../fixtures/server.ts'

/** In milliseconds: what has not happened by then never will. */
export const FOREVER = 5000

/** What is said by handlers of duplex routes and by nobody else, and that no client knows. */
export const secret = randomBytes(8).toString('hex')

/** Most cases go over TCP, and all servers stay for all cases. */
export const transport: fc.Arbitrary<Transport> = fc.oneof(
  { weight: 8, arbitrary: fc.constant<Transport>('tcp') },
  { weight: 1, arbitrary: fc.constant<Transport>('tls') },
  { weight: 1, arbitrary: fc.constant<Transport>('unix') }
)

/** Turns of the event loop. */
export async function turns (count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise(resolve => setImmediate(resolve))
}

/** What went over a wire and who did what, for a case that fails. */
export class Transcript {
  readonly #lines: [who: string, what: string | Buffer][] = []

  note (who: string, what: string | Buffer): void {
    this.#lines.push([who, what])
  }

  toString (): string {
    return this.#lines.map(([who, what]) => `  ${who.padEnd(8)}${typeof what === 'string' ? what : show(what)}`).join('\n')
  }
}

function show (bytes: Buffer): string {
  const most = 400
  const text = JSON.stringify(bytes.subarray(0, most).toString('latin1'))
  return bytes.length > most ? `${text} and ${bytes.length - most} bytes more` : text
}

/** A raw client, whose every act is in the transcript. */
export class Client {
  readonly socket: Duplex
  readonly transcript: Transcript
  received: Buffer = Buffer.alloc(0)
  /** The peer sent a FIN. */
  ended = false
  closed = false
  error: (Error & { code?: string }) | undefined
  readonly #raw: net.Socket
  readonly #waiting = new Set<() => void>()
  #ending = false

  constructor (socket: Duplex, raw: net.Socket, transcript: Transcript) {
    this.socket = socket
    this.#raw = raw
    this.transcript = transcript
    socket.on('data', (chunk: Buffer) => {
      transcript.note('client <', chunk)
      this.received = Buffer.concat([this.received, chunk])
      this.#wake()
    })
    socket.on('end', () => {
      // Up to Node 22 a reset in the same poll as the last bytes is told as an end.
      if (socket === raw && endIsReset(raw)) this.error ??= resetByPeer()
      transcript.note('client <', this.error === undefined ? 'FIN' : 'RST')
      this.ended = true
      this.#wake()
    })
    const failed = (error: Error): void => {
      if (this.error === undefined) transcript.note('client', String(error))
      this.error ??= error
      this.#wake()
    }
    socket.on('error', failed)
    if (raw !== socket) raw.on('error', failed)
    socket.on('close', () => {
      transcript.note('client', 'closed')
      this.closed = true
      this.#wake()
    })
  }

  get over (): boolean { return this.ended || this.closed }

  send (bytes: Buffer): void {
    this.transcript.note('client >', bytes)
    this.socket.write(bytes)
  }

  end (): void {
    if (this.#ending) return
    this.#ending = true
    this.transcript.note('client >', 'FIN')
    // Within a 'data' event of TLS it would cost what else came with that: Node asks OpenSSL twice to shut
    // down, and the second time OpenSSL reads, and drops, what is there.
    if (this.socket === this.#raw) this.socket.end()
    else setImmediate(() => this.socket.end())
  }

  /** A reset; on a Unix socket an abrupt close. */
  reset (): void {
    // While a FIN is leaving the kernel refuses a reset, and Node then never closes the socket.
    if (this.socket.writableEnded && !this.socket.writableFinished && !this.socket.destroyed) {
      this.socket.once('finish', () => this.reset())
      return
    }
    this.transcript.note('client >', 'RST')
    const raw = this.#raw
    if (raw !== this.socket) {
      // TLS destroys the socket beneath in its own time; before that its state must not go.
      raw.destroy = () => {
        raw.destroy = net.Socket.prototype.destroy
        return raw.resetAndDestroy()
      }
    } else if (raw.remotePort !== undefined) raw.resetAndDestroy()
    this.socket.destroy()
  }

  destroy (): void {
    this.socket.destroy()
    this.#raw.destroy()
  }

  /** Waits until this holds. False when it never will. */
  async until (holds: () => boolean): Promise<boolean> {
    const deadline = performance.now() + FOREVER
    while (!holds()) {
      const left = deadline - performance.now()
      if (left <= 0) return false
      await new Promise<void>(resolve => {
        const timer = setTimeout(done, left)
        const waiting = this.#waiting
        function done (): void {
          clearTimeout(timer)
          waiting.delete(done)
          resolve()
        }
        waiting.add(done)
      })
    }
    return true
  }

  #wake (): void {
    for (const done of this.#waiting) done()
  }
}

export interface Server {
  app: FastifyInstance
  connect: (transcript: Transcript) => Promise<Client>
  /** What is still open, or undefined when nothing is. */
  left: () => Promise<string | undefined>
  close: () => Promise<void>
}

export type Servers = Record<Transport, Server>

/** A server for each transport. Clients have many addresses, so that none runs out of ports. */
export async function serveAll (plugin: FastifyDuplexOptions, declare: (app: FastifyInstance) => void): Promise<Servers> {
  const entries = await Promise.all(transports.map(async transport => [transport, await serveOn(transport, plugin, declare)] as const))
  return Object.fromEntries(entries) as Servers
}

async function serveOn (transport: Transport, plugin: FastifyDuplexOptions, declare: (app: FastifyInstance) => void): Promise<Server> {
  const app = Fastify(transport === 'tls' ? { https: tlsOptions } as object : {})
  await app.register(duplex, plugin)
  declare(app)
  const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  const path = join(directory, 'socket')
  await app.listen(transport === 'unix' ? { path } : { port: 0, host: '127.0.0.1' })
  const port = transport === 'unix' ? 0 : (app.server.address() as net.AddressInfo).port
  let connections = 0
  const connect = async (transcript: Transcript): Promise<Client> => {
    const localAddress = `127.0.0.${2 + connections++ % 200}`
    const raw = transport === 'unix'
      ? net.connect({ path, allowHalfOpen: true })
      : net.connect({ port, host: '127.0.0.1', localAddress, allowHalfOpen: true, noDelay: true })
    if (transport !== 'tls') {
      await once(raw, 'connect')
      return new Client(raw, raw, transcript)
    }
    await once(raw, 'connect')
    const socket = tls.connect({ socket: raw, rejectUnauthorized: false })
    socket.allowHalfOpen = true
    await once(socket, 'secureConnect')
    return new Client(socket, raw, transcript)
  }
  const left = async (): Promise<string | undefined> => {
    const deadline = performance.now() + FOREVER
    for (;;) {
      const sockets = await new Promise<number>(resolve => { app.server.getConnections((_error, count) => resolve(count)) })
      const connections = app.duplex.connections.size
      if (sockets === 0 && connections === 0) return undefined
      if (performance.now() > deadline) return `${transport}: ${sockets} sockets and ${connections} connections are left`
      await new Promise(resolve => setTimeout(resolve, 10))
    }
  }
  const close = async (): Promise<void> => {
    await app.close()
    await rm(directory, { recursive: true, force: true })
  }
  return { app, connect, left, close }
}

/** Cuts bytes at these places, each given as a fraction of all. */
export function cut (bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set([0, ...cuts.map(fraction => Math.floor(fraction * bytes.length)), bytes.length])].sort((a, b) => a - b)
  return places.slice(1).map((place, at) => bytes.subarray(places[at], place)).filter(({ length }) => length > 0)
}

export interface RunSettings {
  name: string
  cases: number
  seed: number
  /** How many cases are under way at once. */
  atOnce: number
  servers: Servers
  log: (line: string) => void
}

/** In milliseconds, for all that one round does, the search for a small failing case included. */
const LONGEST_ROUND = 180_000
const PER_ROUND = 40

/**
 * Rounds of cases, many at once, each with a seed of its own. Between the rounds nothing may be left.
 *
 * @returns what went wrong: the seed and path to see it again, and the smallest case with its transcript
 */
export async function runRounds<C> (settings: RunSettings, cases: fc.Arbitrary<C>, check: (value: C) => Promise<void>): Promise<string[]> {
  const { name, cases: total, seed, atOnce, servers, log } = settings
  const problems: string[] = []
  const problem = (text: string): void => {
    problems.push(text)
    log(`${name}: ${text}`)
  }
  const uncaught = (error: unknown): void => problem(`uncaught ${error instanceof Error ? error.stack : String(error)}`)
  process.on('uncaughtException', uncaught)
  process.on('unhandledRejection', uncaught)
  process.on('warning', uncaught)
  try {
    let run = 0
    for (let round = 0; run < total && problems.length === 0; round++) {
      const each = Math.max(1, Math.min(PER_ROUND, Math.ceil((total - run) / atOnce)))
      await Promise.all(Array.from({ length: atOnce }, async (_, at) => {
        const parameters = { seed: (seed + round * atOnce + at) | 0, numRuns: each, interruptAfterTimeLimit: LONGEST_ROUND }
        const details = await fc.check(fc.asyncProperty(cases, check), parameters)
        run += details.numRuns
        if (!details.failed) return
        const { counterexample, counterexamplePath, errorInstance } = details
        problem([
          `seed ${parameters.seed}, path ${counterexamplePath ?? 'unknown'}, after ${details.numRuns} cases and ${details.numShrinks} steps to a smaller one`,
          fc.stringify(counterexample?.[0]),
          errorInstance instanceof Error ? errorInstance.message : String(errorInstance)
        ].join('\n'))
      }))
      for (const server of Object.values(servers)) {
        const left = await server.left()
        if (left !== undefined) problem(`after the round with the seeds from ${seed + round * atOnce}, ${left}`)
      }
    }
    log(`${name}: ${run} cases, seed ${seed}, ${problems.length} problems`)
  } finally {
    process.off('uncaughtException', uncaught)
    process.off('unhandledRejection', uncaught)
    process.off('warning', uncaught)
  }
  return problems
}
