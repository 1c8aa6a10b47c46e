// A small Docker Engine: the stock `docker` command talks to it, and a "container" is a process of this
// machine, without any isolation. It shows what the attach protocol of Docker is made of:
//
//   POST /exec/ID/start        `Upgrade: tcp` with a JSON body, which Fastify parses, then the stream. Without the Upgrade the
//                              same URL is a plain route, for `docker exec -d`.
//   POST /containers/ID/attach `Upgrade: tcp`: stdin one way, and the other way, without a terminal, stdout and stderr in
//                              frames of 8 bytes (1 or 2, three zeros, the length) and as much data. The client's half-close
//                              is the end of stdin.
//   POST /containers/ID/wait   a body: the head of the response says that the engine waits, the exit code comes later.
//
// Whoever may talk to it may run anything here, as with the real one. So it listens on a Unix socket that
// is the user's alone; PORT makes it listen on localhost instead, where every user of the machine is let in.
//
// Run it:     SOCKET=/tmp/engine.sock node examples/docker-engine.ts
//             Before Node 22.18: npm run setup, then .build/examples/docker-engine.js in its place.
// Drive it:   export DOCKER_HOST=unix:///tmp/engine.sock
//             docker version
//             docker run -d --name box host sleep 1000
//             echo hello | docker exec -i box tr a-z A-Z
//             docker exec -it box sh
//             docker exec box sh -c 'echo out; echo err >&2; exit 3' 2>/dev/null; echo $?
//             docker run --rm -i host wc -c < /etc/passwd
//             docker ps; docker attach box; docker rm -f box
import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { addAbortListener, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { constants, release } from 'node:os'
import type { Readable, Writable } from 'node:stream'
import Fastify, { type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex, { type DuplexConnection } from '../lib/index.ts'
import { Pty, type TerminalSize } from './pty.ts'

const API_VERSION = '1.47'
/** The one image there is. */
const IMAGE = 'host'
/** Between SIGTERM and SIGKILL, of docker stop. */
const GRACE = 10

type Signal = NodeJS.Signals

interface ProgramSpec {
  argv: readonly string[]
  env: readonly string[]
  cwd: string
  tty: boolean
  /** Otherwise its stdin is empty. */
  openStdin: boolean
  size: TerminalSize
}

/** A process, and everybody who sees what it prints. */
class Program {
  readonly spec: ProgramSpec
  /** The exit code, once the process has ended and its output has been passed on. */
  readonly ended: Promise<number>
  exitCode: number | undefined
  startedAt: Date | undefined
  #resolveEnded!: (code: number) => void
  readonly #started: Promise<ChildProcess>
  #resolveStarted!: (child: ChildProcess) => void
  #child: ChildProcess | undefined
  #pty: Pty | undefined
  readonly #viewers = new Set<DuplexConnection>()

  constructor (spec: ProgramSpec) {
    this.spec = spec
    this.#started = new Promise(resolve => { this.#resolveStarted = resolve })
    this.ended = new Promise(resolve => { this.#resolveEnded = resolve })
  }

  get running (): boolean {
    return this.startedAt !== undefined && this.exitCode === undefined
  }

  get pid (): number {
    return this.running ? this.#child?.pid ?? 0 : 0
  }

  /** Rejects with what is wrong with the command. */
  async start (): Promise<void> {
    const { argv: [command = '', ...args], cwd, tty, openStdin, size } = this.spec
    if (this.startedAt !== undefined) throw problem(409, 'it was started already')
    this.startedAt = new Date()
    const env = Object.fromEntries([['PATH', process.env.PATH], ...this.spec.env.map(setting => setting.split(/=(.*)/s, 2))])
    if (tty) this.#pty = new Pty([command, ...args], { env, cwd, ...size })
    // A process group of its own, so that what it starts can be signalled with it.
    const child = this.#pty?.child ?? spawn(command, args, { env, cwd, detached: true })
    try {
      await once(child, 'spawn')
    } catch (error) {
      this.#over(127)
      throw problem(400, `${command}: ${(error as Error).message}`)
    }
    this.#child = child
    this.#resolveStarted(child)
    // A program may leave its stdin unread.
    child.stdin?.on('error', () => {})
    if (!openStdin) child.stdin?.end()
    const printed = [this.#pass(1, child.stdout as Readable), ...(tty ? [] : [this.#pass(2, child.stderr as Readable)])]
    child.once('close', (code, signal) => {
      void Promise.all(printed).then(() => this.#over(code ?? 128 + constants.signals[signal as Signal]))
    })
  }

  #over (code: number): void {
    this.exitCode = code
    this.#resolveEnded(code)
  }

  /** To everybody who is there; the slowest sets the pace. */
  async #pass (number: 1 | 2, output: Readable): Promise<void> {
    for await (const chunk of output as AsyncIterable<Buffer>) {
      const data = this.spec.tty ? chunk : frame(number, chunk)
      await Promise.all([...this.#viewers].map(viewer => write(viewer, data)))
    }
  }

  /** Joins a connection with it, until one of the two ends. */
  async attach (connection: DuplexConnection, stdin: boolean, endStdin: boolean): Promise<void> {
    const { readable, signal } = connection
    this.#viewers.add(connection)
    const gone = new Promise<undefined>(resolve => { addAbortListener(signal, () => resolve(undefined)) })
    // `docker run` attaches first and starts then.
    const child = await Promise.race([this.#started, this.ended, gone])
    if (typeof child === 'object') {
      if (stdin && this.spec.openStdin) readable.pipe(child.stdin as Writable, { end: endStdin })
      // Without a reader nobody would see that the client has gone.
      else readable.resume()
    }
    await Promise.race([this.ended, gone])
    this.#viewers.delete(connection)
  }

  async resize (size: TerminalSize): Promise<void> {
    await this.#pty?.resize(size)
  }

  kill (signal: Signal): void {
    if (!this.running || this.#child === undefined) return
    try {
      if (this.#pty !== undefined) void this.#pty.kill(signal).catch(() => {})
      else process.kill(-(this.#child.pid as number), signal)
    } catch {
      // All of it has ended.
    }
  }

  async stop (seconds: number): Promise<void> {
    if (!this.running) return
    this.kill('SIGTERM')
    const late = setTimeout(() => this.kill('SIGKILL'), seconds * 1000)
    await this.ended
    clearTimeout(late)
  }
}

function frame (number: 1 | 2, chunk: Buffer): Buffer {
  const head = Buffer.alloc(8)
  head[0] = number
  head.writeUInt32BE(chunk.length, 4)
  return Buffer.concat([head, chunk])
}

async function write ({ writable, signal }: DuplexConnection, data: Buffer): Promise<void> {
  if (!signal.aborted && !writable.write(data)) await once(writable as Writable, 'drain', { signal }).catch(() => {})
}

class Container {
  readonly id = randomBytes(32).toString('hex')
  readonly name: string
  readonly created = new Date()
  readonly program: Program
  /** It has one client for its stdin, whose end is the end of it. */
  readonly stdinOnce: boolean
  readonly autoRemove: boolean
  /** Processes that were started in it later: they end with it. */
  readonly execs = new Set<Program>()
  readonly removed: Promise<void>
  #resolveRemoved!: () => void

  constructor (name: string, program: Program, stdinOnce: boolean, autoRemove: boolean) {
    this.name = name
    this.program = program
    this.stdinOnce = stdinOnce
    this.autoRemove = autoRemove
    this.removed = new Promise(resolve => { this.#resolveRemoved = resolve })
    void program.ended.then(() => {
      for (const exec of this.execs) exec.kill('SIGKILL')
      if (autoRemove) this.remove()
    })
  }

  get state (): string {
    return this.program.running ? 'running' : this.program.exitCode === undefined ? 'created' : 'exited'
  }

  remove (): void {
    containers.delete(this.id)
    this.#resolveRemoved()
  }
}

const containers = new Map<string, Container>()
const execs = new Map<string, { program: Program, container: Container }>()

function problem (statusCode: number, message: string): Error {
  return Object.assign(new Error(message), { statusCode })
}

/** By name, id, or the beginning of an id. */
function container (reference: string): Container {
  for (const candidate of containers.values()) {
    if (candidate.name === reference || candidate.id.startsWith(reference)) return candidate
  }
  throw problem(404, `No such container: ${reference}`)
}

function exec (id: string): { program: Program, container: Container } {
  const found = execs.get(id)
  if (found === undefined) throw problem(404, `No such exec instance: ${id}`)
  return found
}

/** In a query. */
type Flag = '0' | '1' | 'false' | 'true'

function isSet (flag: Flag | undefined): boolean {
  return flag === '1' || flag === 'true'
}

interface List {
  Querystring: { all?: Flag }
}

interface Reference {
  Params: { id: string }
}

interface Create {
  Querystring: { name?: string }
  Body: {
    Image: string
    Cmd?: string[] | null
    Entrypoint?: string[] | null
    Env?: string[] | null
    WorkingDir?: string
    Tty?: boolean
    OpenStdin?: boolean
    StdinOnce?: boolean
    HostConfig?: { AutoRemove?: boolean, ConsoleSize?: [number, number] }
  }
}

interface ExecCreate extends Reference {
  Body: {
    Cmd: string[]
    Env?: string[] | null
    WorkingDir?: string
    Tty?: boolean
    AttachStdin?: boolean
    ConsoleSize?: [number, number] | null
  }
}

interface ExecStart extends Reference {
  Body: { Detach?: boolean, Tty?: boolean }
}

interface Attach extends Reference {
  Querystring: { stdin?: Flag }
}

interface Wait extends Reference {
  Querystring: { condition: string }
}

interface Resize extends Reference {
  Querystring: { h: number, w: number }
}

interface End extends Reference {
  Querystring: { signal: string, t: number, force?: Flag }
}

const flag = { type: 'string', enum: ['0', '1', 'false', 'true'] satisfies Flag[] }
const strings = { type: 'array', items: { type: 'string' }, nullable: true }
const consoleSize = { type: 'array', items: { type: 'integer' }, nullable: true }
const resize = {
  schema: { querystring: { type: 'object', properties: { h: { type: 'integer', default: 24 }, w: { type: 'integer', default: 80 } } } }
}
const end = {
  schema: {
    querystring: {
      type: 'object',
      properties: {
        signal: { type: 'string', default: 'SIGKILL' },
        t: { type: 'number', default: GRACE },
        force: flag
      }
    }
  }
}

const app = Fastify({
  logger: true,
  // Clients say the version of the API in the path, once they have asked for it: /v1.47/containers/json.
  rewriteUrl: ({ url = '/' }) => url.replace(/^\/v1\.\d+(?=\/)/, '')
})
await app.register(duplex, { drainTimeout: 3000 })

app.addHook('onRequest', async (_request, reply) => {
  reply.headers({ 'api-version': API_VERSION, ostype: 'linux', 'docker-experimental': 'false', server: 'fastify-duplex' })
})

app.get('/_ping', () => 'OK')

app.get('/version', () => ({
  Platform: { Name: 'fastify-duplex example' },
  Version: '0.1.0',
  ApiVersion: API_VERSION,
  MinAPIVersion: '1.24',
  GitCommit: '-',
  GoVersion: `none, Node ${process.version}`,
  Os: 'linux',
  Arch: process.arch,
  KernelVersion: release()
}))

app.get('/containers/json', { schema: { querystring: { type: 'object', properties: { all: flag } } } }, (request: FastifyRequest<List>) => {
  const all = isSet(request.query.all)
  return [...containers.values()].filter(({ program }) => all || program.running).map(each => ({
    Id: each.id,
    Names: [`/${each.name}`],
    Image: IMAGE,
    ImageID: IMAGE,
    Command: each.program.spec.argv.join(' '),
    Created: Math.floor(each.created.getTime() / 1000),
    State: each.state,
    Status: each.state,
    Ports: []
  }))
})

app.post('/containers/create', {
  schema: {
    querystring: { type: 'object', properties: { name: { type: 'string', pattern: '^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$' } } },
    body: {
      type: 'object',
      required: ['Image'],
      properties: {
        Image: { type: 'string' },
        Cmd: strings,
        Entrypoint: strings,
        Env: strings,
        WorkingDir: { type: 'string' },
        Tty: { type: 'boolean' },
        OpenStdin: { type: 'boolean' },
        StdinOnce: { type: 'boolean' },
        HostConfig: { type: 'object', properties: { AutoRemove: { type: 'boolean' }, ConsoleSize: consoleSize } }
      }
    }
  }
}, (request: FastifyRequest<Create>, reply) => {
  const { Image, Cmd, Entrypoint, Env, WorkingDir, Tty, OpenStdin, StdinOnce, HostConfig } = request.body
  if (Image !== IMAGE) throw problem(404, `No such image: ${Image}, there is only "${IMAGE}"`)
  const name = request.query.name?.replace(/^\//, '') ?? `process-${randomBytes(4).toString('hex')}`
  if ([...containers.values()].some(each => each.name === name)) throw problem(409, `The name "${name}" is taken`)
  const argv = [...Entrypoint ?? [], ...Cmd ?? []]
  const program = new Program({
    argv: argv.length > 0 ? argv : ['sh'],
    env: Env ?? [],
    cwd: WorkingDir || '/',
    tty: Tty ?? false,
    openStdin: OpenStdin ?? false,
    size: sizeOf(HostConfig?.ConsoleSize)
  })
  const created = new Container(name, program, StdinOnce ?? false, HostConfig?.AutoRemove ?? false)
  containers.set(created.id, created)
  return reply.code(201).send({ Id: created.id, Warnings: [] })
})

app.get('/containers/:id/json', (request: FastifyRequest<Reference>) => {
  const { id, name, created, state, autoRemove, stdinOnce, program } = container(request.params.id)
  const { spec, running, exitCode, startedAt, pid } = program
  return {
    Id: id,
    Name: `/${name}`,
    Created: created,
    Path: spec.argv[0],
    Args: spec.argv.slice(1),
    Image: IMAGE,
    State: { Status: state, Running: running, Paused: false, Restarting: false, Pid: pid, ExitCode: exitCode ?? 0, StartedAt: startedAt },
    Config: {
      Image: IMAGE,
      Cmd: spec.argv,
      Env: spec.env,
      WorkingDir: spec.cwd,
      Tty: spec.tty,
      OpenStdin: spec.openStdin,
      StdinOnce: stdinOnce
    },
    HostConfig: { AutoRemove: autoRemove },
    NetworkSettings: {}
  }
})

app.post('/containers/:id/start', async (request: FastifyRequest<Reference>, reply) => {
  await container(request.params.id).program.start()
  return reply.code(204).send()
})

app.post('/containers/:id/attach', {
  schema: { querystring: { type: 'object', properties: { stdin: flag } } },
  duplex: { kinds: ['upgrade'], protocols: ['tcp'], accept: 'manual' }
}, async (pending, request: FastifyRequest<Attach>) => {
  const { program, stdinOnce } = container(request.params.id)
  const { stdin } = request.query
  await program.attach(await pending.accept({ headers: mediaType(program) }), isSet(stdin), stdinOnce)
})

// The client goes on when it has the head of the response, and reads the rest when the container has ended.
app.post('/containers/:id/wait', {
  schema: { querystring: { type: 'object', properties: { condition: { type: 'string', default: 'not-running' } } } },
  duplex: { kinds: ['body'], accept: 'manual' }
}, async (pending, request: FastifyRequest<Wait>) => {
  const { program, removed } = container(request.params.id)
  const { writable, signal } = await pending.accept({ headers: { 'content-type': 'application/json' } })
  const gone = new Promise<undefined>(resolve => { addAbortListener(signal, () => resolve(undefined)) })
  const code = await Promise.race([program.ended, gone])
  if (request.query.condition === 'removed') await Promise.race([removed, gone])
  if (code !== undefined) writable.end(JSON.stringify({ StatusCode: code }))
})

app.post('/containers/:id/resize', resize, async (request: FastifyRequest<Resize>, reply) => {
  await container(request.params.id).program.resize({ rows: request.query.h, columns: request.query.w })
  return reply.send()
})

app.post('/containers/:id/kill', end, (request: FastifyRequest<End>, reply) => {
  const { program } = container(request.params.id)
  const wanted = request.query.signal.toUpperCase()
  // `docker run` passes on whatever signals it gets itself.
  const found = Object.entries(constants.signals).find(([name, number]) => [name, name.slice(3), `${number}`].includes(wanted))
  if (!program.running) throw problem(409, 'The container is not running')
  if (found === undefined) throw problem(400, `Invalid signal: ${wanted}`)
  program.kill(found[0] as Signal)
  return reply.code(204).send()
})

app.post('/containers/:id/stop', end, async (request: FastifyRequest<End>, reply) => {
  await container(request.params.id).program.stop(request.query.t)
  return reply.code(204).send()
})

app.delete('/containers/:id', end, async (request: FastifyRequest<End>, reply) => {
  const found = container(request.params.id)
  if (found.program.running) {
    if (!isSet(request.query.force)) throw problem(409, `The container ${found.name} is running: stop it, or use force`)
    await found.program.stop(0)
  }
  found.remove()
  return reply.code(204).send()
})

app.post('/containers/:id/exec', {
  schema: {
    body: {
      type: 'object',
      required: ['Cmd'],
      properties: {
        Cmd: { type: 'array', items: { type: 'string' }, minItems: 1 },
        Env: strings,
        WorkingDir: { type: 'string' },
        Tty: { type: 'boolean' },
        AttachStdin: { type: 'boolean' },
        ConsoleSize: consoleSize
      }
    }
  }
}, (request: FastifyRequest<ExecCreate>, reply) => {
  const found = container(request.params.id)
  if (!found.program.running) throw problem(409, `Container ${found.name} is not running`)
  const { Cmd, Env, WorkingDir, Tty, AttachStdin, ConsoleSize } = request.body
  const program = new Program({
    argv: Cmd,
    env: [...found.program.spec.env, ...Env ?? []],
    cwd: WorkingDir || found.program.spec.cwd,
    tty: Tty ?? false,
    openStdin: AttachStdin ?? false,
    size: sizeOf(ConsoleSize)
  })
  const id = randomBytes(32).toString('hex')
  execs.set(id, { program, container: found })
  found.execs.add(program)
  void found.program.ended.then(() => execs.delete(id))
  return reply.code(201).send({ Id: id })
})

const start = {
  schema: { body: { type: 'object', properties: { Detach: { type: 'boolean' }, Tty: { type: 'boolean' }, ConsoleSize: consoleSize } } }
}

app.post('/exec/:id/start', {
  ...start,
  duplex: { protocols: ['tcp'], accept: 'manual' }
}, async (pending, request: FastifyRequest<ExecStart>) => {
  const { program } = exec(request.params.id)
  await program.start()
  // A client that vanishes takes its process with it, as soon as that prints something: a vanished one looks half-closed.
  addAbortListener(pending.signal, () => program.kill('SIGKILL'))
  await program.attach(await pending.accept({ headers: mediaType(program) }), true, true)
})

app.post('/exec/:id/start', start, async (request: FastifyRequest<ExecStart>, reply) => {
  if (request.body.Detach !== true) throw problem(400, 'only a detached process can be started without an upgrade')
  await exec(request.params.id).program.start()
  return reply.send()
})

app.post('/exec/:id/resize', resize, async (request: FastifyRequest<Resize>, reply) => {
  await exec(request.params.id).program.resize({ rows: request.query.h, columns: request.query.w })
  return reply.send()
})

app.get('/exec/:id/json', (request: FastifyRequest<Reference>) => {
  const { program, container: { id: ContainerID } } = exec(request.params.id)
  return { ID: request.params.id, ContainerID, Running: program.running, ExitCode: program.exitCode ?? null, Pid: program.pid }
})

/** By the media type the client knows whether there are frames. */
function mediaType ({ spec: { tty } }: Program): { 'content-type': string } {
  return { 'content-type': `application/vnd.docker.${tty ? 'raw' : 'multiplexed'}-stream` }
}

function sizeOf (size: readonly [rows: number, columns: number] | null | undefined): TerminalSize {
  return { rows: size?.[0] || 24, columns: size?.[1] || 80 }
}

app.addHook('preClose', async () => {
  for (const { program } of [...containers.values(), ...execs.values()]) program.kill('SIGKILL')
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

const { PORT, SOCKET = 'docker-engine.sock' } = process.env
if (PORT !== undefined && process.env.SOCKET === undefined) {
  await app.listen({ port: Number(PORT), host: 'localhost' })
  console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}`)
} else {
  process.umask(0o077)
  await app.listen({ path: SOCKET })
  console.log(`listening on unix://${SOCKET}`)
}
