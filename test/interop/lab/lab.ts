import { strict as assert } from 'node:assert'
import { spawn, type ChildProcess, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { createHash, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import net, { type AddressInfo, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { start, type Program } from '../../fixtures/program.ts'
import type { Installed, Peer } from './peers.ts'

/** Peers of one subject, and what is driven with them. */
export interface Group {
  title: string
  peers: readonly Peer[]
  run: (lab: Lab) => Promise<void>
}

export interface Row {
  peer: string
  version: string
  driven: string
  result: 'ok' | 'FAIL' | 'not there'
  required: boolean
  error?: unknown
}

export interface Finished {
  code: number | null
  stdout: Buffer
  stderr: string
}

/** What a check comes to: a text goes into its row. */
type Body<Argument extends unknown[] = []> = (...args: Argument) => Promise<unknown>

interface Surroundings {
  env?: NodeJS.ProcessEnv
  cwd?: string
}

const CHECK_TIMEOUT = 60_000

/** What a group works with: it starts programs and servers, and takes them away again. */
export class Lab {
  readonly rows: Row[] = []
  readonly #installed: ReadonlyMap<Peer, Installed>
  readonly #report: (row: Row) => void
  readonly #ends: (() => unknown)[] = []
  readonly #children = new Set<ChildProcessWithoutNullStreams>()

  constructor (installed: ReadonlyMap<Peer, Installed>, report: (row: Row) => void) {
    this.#installed = installed
    this.#report = report
  }

  /** Runs one row of the table, within so many milliseconds. */
  async check (peer: Peer, driven: string, body: Body<[path: string]>, limit = CHECK_TIMEOUT): Promise<void> {
    const installed = this.#installed.get(peer)
    if (installed !== undefined) {
      await this.#fill({ peer: peer.name, version: installed.version, driven, result: 'ok', required: peer.required }, () => body(installed.path), limit)
    } else if (!this.rows.some(({ peer: name, result }) => name === peer.name && result === 'not there')) {
      this.#add({ peer: peer.name, version: '-', driven: 'nothing, it cannot be had here', result: 'not there', required: peer.required })
    }
  }

  /** A row about our own side. */
  async ours (name: string, driven: string, body: Body): Promise<void> {
    await this.#fill({ peer: name, version: '-', driven, result: 'ok', required: true }, body, CHECK_TIMEOUT)
  }

  async #fill (row: Row, body: Body, limit: number): Promise<void> {
    try {
      const outcome = await within(limit, body())
      if (typeof outcome === 'string') row.driven += `: ${outcome}`
    } catch (error) {
      row.result = 'FAIL'
      row.error = error
    }
    this.#add(row)
  }

  #add (row: Row): void {
    this.rows.push(row)
    this.#report(row)
  }

  has (peer: Peer): boolean {
    return this.#installed.has(peer)
  }

  /** Called at the end of the group, the last one first. */
  defer (end: () => unknown): void {
    this.#ends.push(end)
  }

  async directory (): Promise<string> {
    const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-interop-'))
    this.defer(() => rm(directory, { recursive: true, force: true }))
    return directory
  }

  /** One of the examples, in a process of its own. */
  async example (name: string, env: NodeJS.ProcessEnv = {}): Promise<Program> {
    return await start({ teardown: (end: () => unknown) => this.defer(end) }, new URL(`../../../examples/${name}.js`, import.meta.url), env)
  }

  /** A child in a process group of its own, which goes with the group at the latest. */
  spawn (command: string, args: readonly string[], options: Surroundings = {}): ChildProcessWithoutNullStreams {
    const child = spawn(command, args, { ...options, env: { ...process.env, ...options.env }, detached: true })
    this.#children.add(child)
    child.on('error', () => this.#children.delete(child))
    child.stdin.on('error', () => {})
    return child
  }

  /** Starts a server that is not ours, and waits until it takes connections at this port. */
  async server (command: string, args: readonly string[], port: number, options: Surroundings = {}): Promise<void> {
    const child = this.spawn(command, args, options)
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => { said += String(chunk) })
    for (;;) {
      if (child.exitCode !== null) throw new Error(said)
      const socket = net.connect(port, '127.0.0.1')
      const connected = await new Promise(resolve => socket.on('connect', () => resolve(true)).on('error', () => resolve(false)))
      socket.destroy()
      if (connected === true) return
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }

  /** Runs a command to its end. */
  async run (
    command: string, args: readonly string[], { input = '', ...options }: Surroundings & { input?: string | Buffer } = {}
  ): Promise<Finished> {
    const child = this.spawn(command, args, options)
    child.stdin.end(input)
    const [[code], stdout, stderr] = await Promise.all([once(child, 'close') as Promise<[number | null]>, bytes(child.stdout), bytes(child.stderr)])
    this.#children.delete(child)
    return { code, stdout, stderr: String(stderr) }
  }

  /** A TCP server on loopback. */
  async listen (serve: (socket: net.Socket) => void): Promise<number> {
    const sockets = new Set<net.Socket>()
    const server = net.createServer({ allowHalfOpen: true }, socket => {
      sockets.add(socket)
      socket.on('error', () => {}).on('close', () => sockets.delete(socket))
      serve(socket)
    })
    this.defer(() => { for (const socket of sockets) socket.destroy() })
    return await this.listening(server)
  }

  /** The port of a server, which is closed at the end. */
  async listening (server: Server): Promise<number> {
    server.listen(0, 'localhost')
    await once(server, 'listening')
    this.defer(() => { server.close() })
    return (server.address() as AddressInfo).port
  }

  async end (): Promise<void> {
    for (const child of this.#children) {
      try {
        process.kill(-(child.pid as number), 'SIGKILL')
      } catch {
        // It has ended by itself.
      }
    }
    for (let end = this.#ends.pop(); end !== undefined; end = this.#ends.pop()) {
      try {
        await end()
      } catch (error) {
        console.log(`  at the end: ${String(error)}`)
      }
    }
  }
}

export async function bytes (stream: Readable): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk)
  return Buffer.concat(chunks)
}

export function sha256 (data: Buffer | string): string {
  return createHash('sha256').update(data).digest('hex')
}

/** The exit code, and what the program said where that is not what was expected. */
export function exits (finished: Finished, code = 0): Finished {
  assert.equal(finished.code, code, `exit code ${finished.code}, expected ${code}: ${finished.stderr.slice(-500)}`)
  return finished
}

/** A process that talks line by line. */
export class Dialogue {
  readonly #child: ChildProcess
  #text = ''
  #ended = false
  #aside = ''
  #wake: () => void = () => {}

  constructor (child: ChildProcess, listenTo: 'stdout' | 'stderr' = 'stdout') {
    this.#child = child
    child[listenTo]?.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text
      this.#wake()
    })
    child[listenTo === 'stdout' ? 'stderr' : 'stdout']?.setEncoding('utf8').on('data', (text: string) => { this.#aside += text })
    child.on('close', () => {
      this.#ended = true
      this.#wake()
    })
  }

  send (text: string): void {
    this.#child.stdin?.write(text)
  }

  end (): void {
    this.#child.stdin?.end()
  }

  /** Waits until this was printed, and takes everything up to its end. */
  async until (what: string | RegExp): Promise<string> {
    for (;;) {
      const match = typeof what === 'string' ? this.#text.indexOf(what) : this.#text.search(what)
      if (match >= 0) {
        const length = typeof what === 'string' ? what.length : (what.exec(this.#text) as RegExpExecArray)[0].length
        const taken = this.#text.slice(0, match + length)
        this.#text = this.#text.slice(match + length)
        return taken
      }
      if (this.#ended) throw new Error(`ended without ${String(what)}, after: ${this.#text.slice(-500)} ${this.#aside.slice(-500)}`)
      await new Promise<void>(resolve => { this.#wake = resolve })
    }
  }

  /** The exit code. */
  async exit (): Promise<number | null> {
    while (!this.#ended) await new Promise<void>(resolve => { this.#wake = resolve })
    return this.#child.exitCode
  }
}

const FIRST_PORT = 10_000
/** Those from here on are for clients, on Linux, and may be taken by any connection at any time. */
const LAST_PORT = 32_767

/** A port for a program that has to be told one. */
export async function unusedPort (): Promise<number> {
  for (;;) {
    const port = randomInt(FIRST_PORT, LAST_PORT)
    const server = net.createServer().listen(port)
    const free = await new Promise(resolve => server.on('listening', () => resolve(true)).on('error', () => resolve(false)))
    if (free === false) continue
    server.close()
    await once(server, 'close')
    return port
  }
}

/** Waits until a process is gone that is not our child. */
export async function gone (pid: number): Promise<void> {
  for (;;) {
    try {
      process.kill(pid, 0)
    } catch {
      return
    }
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

async function within<T> (ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came of it within ${ms / 1000} seconds`)), ms)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
