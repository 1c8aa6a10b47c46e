// Servers and load, each in a process of its own.
import { fork, spawn, spawnSync, type ChildProcess, type ChildProcessWithoutNullStreams } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Answer, Injections, Load, Question, ServerName, Used } from './protocol.ts'

const built = fileURLToPath(new URL('.', import.meta.url))
export const sources = join(built, '..', '..', 'bench')

const files = mkdtempSync(join(tmpdir(), 'fastify-duplex-bench-'))
const children = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL')
  rmSync(files, { recursive: true, force: true })
})

function adopt<Child extends ChildProcess> (child: Child): Child {
  children.add(child)
  child.once('exit', () => children.delete(child))
  return child
}

/**
 * glibc gives the top of its heap back to the kernel whenever 128 KiB of it are free, and by chance of what lies there some
 * processes get it back, page by page, for each chunk that they read. With this they keep it.
 */
const STEADY_ALLOCATOR = { MALLOC_TRIM_THRESHOLD_: String(256 * 1024 * 1024) }

/**
 * V8 counts the memory of chunks that were read with the heap. Where both pass the limit that it has set for a small heap there is
 * one full collection after the other, and in another process of the same server none at all. With this there is none.
 */
const STEADY_COLLECTOR = '--initial-heap-size=256'

let name = 0

/** Puts bytes where the load can read them. */
function file (bytes: string | Buffer): string {
  const path = join(files, String(name++))
  writeFileSync(path, bytes)
  return path
}

/** False where there is no C compiler. @param install gets one, on Debian and as root */
export function buildLoad (install: boolean): boolean {
  const compile = (): boolean => spawnSync('cc', ['-O2', '-o', join(built, 'load'), join(sources, 'load.c')], { stdio: 'inherit' }).status === 0
  if (compile()) return true
  if (!install) return false
  const apt = (...args: string[]): boolean => spawnSync('apt-get', ['-qq', ...args], {
    stdio: 'inherit', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  }).status === 0
  return apt('update') && apt('install', '-y', '--no-install-recommends', 'gcc', 'libc6-dev') && compile()
}

export interface Target {
  port: number
  /** By the server's process so far; undefined where it is several processes. */
  used (): Promise<Used | undefined>
  stop (): void
}

export class Server implements Target {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  #questions = 0
  port = 0

  constructor (child: ChildProcess) {
    this.#child = child
    child.on('message', (message: Answer & { id?: number }) => {
      if (message.id === undefined) return
      this.#waiting.get(message.id)?.(message)
      this.#waiting.delete(message.id)
    })
  }

  /** With the allocator of glibc and the collector of V8 as they are: so most people run Node. */
  static start (server: ServerName, ...rest: string[]): Promise<Server> {
    return Server.#start([server, ...rest], process.env)
  }

  /** With both set such that no process is hit by chance. */
  static startTuned (server: ServerName, ...rest: string[]): Promise<Server> {
    return Server.#start([server, ...rest], { ...process.env, ...STEADY_ALLOCATOR }, [STEADY_COLLECTOR])
  }

  static async #start (args: [ServerName, ...string[]], env: NodeJS.ProcessEnv, flags: string[] = []): Promise<Server> {
    const child = adopt(fork(join(built, 'server.js'), args, { env, execArgv: ['--expose-gc', ...flags, ...profile(args[0])] }))
    const started = new Server(child)
    const [{ port }] = await once(child, 'message') as [{ port: number }]
    started.port = port
    return started
  }

  ask (ask: Question['ask']): Promise<Answer> {
    const id = this.#questions++
    return new Promise(resolve => {
      this.#waiting.set(id, resolve)
      this.#child.send({ ask, id })
    })
  }

  async used (): Promise<Used> {
    return await this.ask('used') as Used
  }

  stop (): void {
    this.#child.disconnect()
  }
}

/** `PROFILE=duplex npm run bench` leaves a profile of that server in the working directory. */
function profile (server: string): string[] {
  return process.env.PROFILE === server ? ['--cpu-prof', '--cpu-prof-interval', '200'] : []
}

/** Go's net/http, where Go is installed. */
export async function startGo (...args: string[]): Promise<Target | undefined> {
  const binary = join(built, 'hijack')
  const { status } = spawnSync('go', ['build', '-o', binary, join(sources, 'peers', 'hijack.go')], { env: { ...process.env, GO111MODULE: 'off' } })
  return status === 0 ? startOther(binary, ...args) : undefined
}

/** Another runtime with Node's `http`, where it is installed. */
export async function startRuntime (runtime: 'bun' | 'deno'): Promise<Target | undefined> {
  if (spawnSync(runtime, ['--version']).status !== 0) return undefined
  return startOther(runtime, ...(runtime === 'deno' ? ['run', '--allow-all'] : []), join(sources, 'peers', 'upgrade.mjs'))
}

async function freePort (): Promise<number> {
  const probe = net.createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}

async function isUp (port: number): Promise<void> {
  for (;;) {
    const socket = net.connect(port, '127.0.0.1')
    const up = await once(socket, 'connect').then(() => true, () => false)
    socket.destroy()
    if (up) return
  }
}

/** By a process that cannot be asked. */
async function usedBy ({ pid }: ChildProcess): Promise<Used> {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ') ?? []
  // Ticks of a hundredth of a second, pages of 4 KiB; the state is the first field behind the name.
  return { cpu: (Number(fields[11]) + Number(fields[12])) * 10_000, faults: Number(fields[7]), rss: Number(fields[21]) * 4096 }
}

async function startOther (command: string, ...args: string[]): Promise<Target> {
  const child = adopt(spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] }))
  const [line] = await once(createInterface({ input: child.stdout }), 'line') as [string]
  return {
    port: Number(line),
    used: () => usedBy(child),
    stop: () => child.kill('SIGKILL')
  }
}

/** In a process of its own, which is its own load. */
export async function injections (ms: number, rounds: number): Promise<Injections[]> {
  const child = adopt(fork(join(built, 'injections.js'), [String(ms), String(rounds)], {
    env: { ...process.env, ...STEADY_ALLOCATOR }, execArgv: [STEADY_COLLECTOR]
  }))
  const [all] = await once(child, 'message') as [Injections[]]
  return all
}

/** HAProxy as a relay, where it is installed: one thread. */
export async function startHaproxy (upstream: number): Promise<Target | undefined> {
  if (spawnSync('haproxy', ['-v']).status !== 0) return undefined
  const port = await freePort()
  const config = file(`global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen relay
  bind 127.0.0.1:${port}
  server upstream 127.0.0.1:${upstream}
`)
  const child = adopt(spawn('haproxy', ['-db', '-q', '-f', config]))
  await isUp(port)
  return { port, used: () => usedBy(child), stop: () => child.kill('SIGKILL') }
}

/** socat, where it is installed: one process for each connection. */
export async function startSocat (upstream: number): Promise<Target | undefined> {
  if (spawnSync('socat', ['-V']).status !== 0) return undefined
  const port = await freePort()
  const child = adopt(spawn('socat', ['-b', '65536', `TCP-LISTEN:${port},bind=127.0.0.1,fork,backlog=1024`, `TCP:127.0.0.1:${upstream}`]))
  await isUp(port)
  return { port, used: async () => undefined, stop: () => child.kill('SIGTERM') }
}

export interface LoadOptions {
  connections: number
  ms: number
  /** What is sent first on each connection. */
  request?: string | Buffer
  payload?: string | Buffer
  /** Bytes of the answer to one message. */
  reply?: number
  /** Bytes that the server sends behind its head, before the first message. */
  greeting?: number
  /** What is sent when `after` of these have come. */
  then?: Buffer
  after?: number
  /** Messages under way on a connection. */
  depth?: number
  chunked?: boolean
  /** The load sleeps when it has nothing to do: where a third process wants the second core. */
  sleep?: boolean
  mode?: 'stream' | 'accept' | 'get'
  http2?: boolean
}

/** A load that has its connections, and waits. */
export class Client {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: Interface

  private constructor (child: ChildProcessWithoutNullStreams) {
    this.#child = child
    this.#lines = createInterface({ input: child.stdout })
    child.stderr.pipe(process.stderr)
  }

  static async start (port: number, options: LoadOptions): Promise<Client> {
    const { connections, ms, request = '', payload = '', reply = 0, greeting = 0, then = '', after = 0, depth = 1, chunked = false, sleep = false, mode = 'stream', http2 = false } = options
    const client = new Client(adopt(http2
      ? spawn(process.execPath, [join(built, 'http2-load.js'), String(port), String(connections), String(reply), String(ms)])
      : spawn(join(built, 'load'), [String(port), `conns=${connections}`, `ms=${ms}`, `request=${file(request)}`, `payload=${file(payload)}`,
          `reply=${reply}`, `greeting=${greeting}`, `then=${file(then)}`, `after=${after}`, `depth=${depth}`, `chunked=${Number(chunked)}`, `sleep=${Number(sleep)}`, `mode=${mode}`])))
    await client.#line()
    return client
  }

  async #line (): Promise<unknown> {
    const ended = once(this.#child, 'exit').then(() => { throw new Error('the load has ended early') })
    ended.catch(() => {})
    const [line] = await Promise.race([once(this.#lines, 'line'), ended]) as [string]
    return JSON.parse(line)
  }

  async go (): Promise<Load> {
    this.#child.stdin.write('go\n')
    return await this.#line() as Load
  }

  /** All connections have been ended by the server. */
  async gone (): Promise<void> {
    await this.#line()
  }

  async stop (): Promise<void> {
    const exit = once(this.#child, 'exit')
    this.#child.stdin.end()
    await exit
  }
}
