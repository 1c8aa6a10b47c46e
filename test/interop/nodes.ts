// More than one machine: four workers of examples/worker, each at an address of its own, behind HAProxy and
// behind nginx with the configurations of docs/more-than-one-machine.md. All of them are replaced, one after
// the other, while tunnels live on them; then come tunnels that do not hear that they are to go.
import { strict as assert } from 'node:assert'
import { EventEmitter, once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import http, { type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as after } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Program } from '../fixtures/program.ts'
import { Dialogue, haproxy, nginx, python, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'

const TUNNELS = 500
const DEAF = 20
const ADDRESSES = ['127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5'] as const
/** What a client does nothing for, between an answer and its next message. */
const PAUSE = 200
/** Longer than HAProxy takes to see that a worker is not ready. */
const UNREADY = 1000
/** No client needs it. */
const DRAIN_TIMEOUT = 60_000
/** For the clients that would need all of it. */
const SHORT_DRAIN_TIMEOUT = 1000
/** For rows with hundreds of tunnels, on a machine that has other things to do. */
const LIMIT = 180_000

interface Balancer {
  peer: Peer
  file: string
  configure: (front: number, workers: readonly string[], directory: string) => string
  command: (path: string) => readonly string[]
}

const balancers: readonly Balancer[] = [{
  peer: haproxy,
  file: 'haproxy.cfg',
  configure: (front, workers) => `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
  retries 3
  option redispatch
  retry-on conn-failure empty-response 503
frontend front
  bind 127.0.0.1:${front}
  default_backend workers
backend workers
  balance leastconn
  option httpchk GET /ready
  default-server check inter 250ms fall 1 rise 1
${workers.map((worker, index) => `  server w${index + 1} ${worker}`).join('\n')}
`,
  command: path => ['-db', '-f', path]
}, {
  peer: nginx,
  file: 'nginx.conf',
  configure: (front, workers, directory) => `
daemon off; pid ${directory}/pid; error_log stderr; user root;
worker_rlimit_nofile 4096;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/f; uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  upstream workers {
    least_conn;
${workers.map(worker => `    server ${worker} max_fails=0;`).join('\n')}
  }
  server {
    listen 127.0.0.1:${front};
    location / {
      proxy_pass http://workers;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1h;
      proxy_connect_timeout 5s;
      proxy_next_upstream error timeout http_503;
    }
  }
}
`,
  command: path => ['-c', path]
}]

async function run (lab: Lab): Promise<void> {
  for (const { peer, file, configure, command } of balancers) {
    const front = await unusedPort()
    const port = await unusedPort()
    const directory = await lab.directory()
    const start = async (HOST: string, drainTimeout: number): Promise<Program> =>
      await lab.example('worker', { HOST, PORT: `${port}`, NAME: HOST, UNREADY: `${UNREADY}`, DRAIN_TIMEOUT: `${drainTimeout}` })
    const workers = new Map<string, Program>()

    await lab.check(peer, `in front of ${ADDRESSES.length} workers: all are reached`, async path => {
      for (const address of ADDRESSES) workers.set(address, await start(address, DRAIN_TIMEOUT))
      await writeFile(join(directory, file), configure(front, ADDRESSES.map(address => `${address}:${port}`), directory))
      await lab.server(path, command(join(directory, file)), front, { cwd: directory })
      await answer(front, ...ADDRESSES)
    })

    await lab.check(peer, `every worker replaced in turn, under ${TUNNELS} live tunnels`, async () => {
      const clients = Array.from({ length: TUNNELS }, () => new Client(front))
      const allAnswered = (): Promise<unknown> => Promise.all(clients.map(client => once(client, 'ack')))
      const running = Promise.all(clients.map(client => client.run()))
      await Promise.race([running, allAnswered()])
      const counts: Counts[] = []
      let slowest = 0
      for (const [address, worker] of workers) {
        const since = performance.now()
        counts.push(await stop(worker))
        slowest = Math.max(slowest, performance.now() - since - UNREADY)
        workers.set(address, await start(address, SHORT_DRAIN_TIMEOUT))
        await answer(front, address)
        await Promise.race([running, allAnswered()])
      }
      for (const client of clients) client.stop()
      await running

      const { told, finished, cut } = sum(counts)
      const total = (count: (client: Client) => number): number => clients.reduce((all, client) => all + count(client), 0)
      const [messages, lost, broken, reconnects, refused] = [
        total(({ sent }) => sent), total(({ sent, acknowledged }) => sent - acknowledged), total(client => client.broken),
        total(client => client.reconnects), total(client => client.refused)
      ]
      const outcome = `told ${told}, finished ${finished}, cut ${cut + broken}; ${reconnects} reconnects, ${refused} refused; ` +
        `${messages} messages, ${lost} lost; the slowest worker was gone ${Math.round(slowest)} ms after it began to close`
      assert.ok(told >= TUNNELS, outcome)
      assert.equal(finished, told, outcome)
      assert.equal(cut + broken, 0, outcome)
      assert.equal(reconnects, told, outcome)
      assert.equal(lost, 0, outcome)
      return outcome
    }, LIMIT)

    await lab.check(peer, `${DEAF} tunnels that do not hear, all workers stopped, drainTimeout ${SHORT_DRAIN_TIMEOUT / 1000} s`, async () => {
      const tunnels = await Promise.all(Array.from({ length: DEAF }, () => dial(front)))
      const ends = tunnels.map(async tunnel => {
        if (tunnel === undefined) throw new Error('refused')
        const over = once(tunnel, 'close')
        let how = 'an end'
        tunnel.on('error', () => { how = 'a reset' }).resume()
        tunnel.write('1\n')
        await over
        return how
      })
      const { told, finished, cut } = sum(await Promise.all([...workers.values()].map(stop)))
      const seenAs = await Promise.all(ends)
      const outcome = `told ${told}, finished ${finished}, cut ${cut}; the client sees ` +
        [...new Set(seenAs)].map(how => `${how} ${seenAs.filter(one => one === how).length} times`).join(', ')
      assert.deepEqual({ told, finished, cut }, { told: DEAF, finished: 0, cut: DEAF }, outcome)
      return outcome
    })
  }
  await activation(lab)
}

/** The socket of a service that is restarted stays open: systemd does it so, and here Python does it in its place. */
async function activation (lab: Lab): Promise<void> {
  await lab.check(python, 'holds the socket as systemd does: a connection made between two workers waits for the second', async command => {
    const worker = fileURLToPath(new URL('../../examples/worker.js', import.meta.url))
    const holder = new Dialogue(lab.spawn(command, ['-c', socketHolder, process.execPath, worker]))
    const port = Number((/\d+/.exec(await holder.until('\n')) as RegExpExecArray)[0])
    holder.send('start one\n')
    await holder.until(`listening on http://localhost:${port}\n`)
    const client = new Client(port)
    const running = client.run()
    await once(client, 'ack')
    holder.send('stop\n')
    await holder.until('told 1, finished 1, cut 0\n')
    await holder.until('gone\n')
    // The client, which was told, is on its way back already.
    const back = once(client, 'ack')
    holder.send('start two\n')
    await back
    client.stop()
    await running
    assert.deepEqual([client.reconnects, client.broken, client.sent - client.acknowledged], [1, 0, 0])
    holder.send('stop\n')
    await holder.until('gone\n')
    holder.end()
    assert.equal(await holder.exit(), 0)
  })
}

const socketHolder = `
import os, signal, socket, sys
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(100)
print(listener.getsockname()[1], flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == 'start':
        pid = os.fork()
        if pid == 0:
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)
            os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), NAME=words[1])
            os.execv(sys.argv[1], sys.argv[1:])
    else:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        print('gone', flush=True)
`

interface Counts {
  told: number
  finished: number
  cut: number
}

/** What a worker says when it goes, with exit code 0. */
async function stop (worker: Program): Promise<Counts> {
  assert.equal(await worker.stop(), 0, worker.output())
  const [, told, finished, cut] = await worker.printed(/told (\d+), finished (\d+), cut (\d+)/)
  return { told: Number(told), finished: Number(finished), cut: Number(cut) }
}

function sum (counts: readonly Counts[]): Counts {
  const all = (name: keyof Counts): number => counts.reduce((total, count) => total + count[name], 0)
  return { told: all('told'), finished: all('finished'), cut: all('cut') }
}

/** Asks through the proxy until all of these workers have answered. */
async function answer (front: number, ...names: readonly string[]): Promise<void> {
  const silent = new Set(names)
  while (silent.size > 0) {
    // A connection each: the proxy chooses a worker for every one of them.
    const answer = fetch(`http://127.0.0.1:${front}/`, { headers: { connection: 'close' } }).then(response => response.text())
    const name = await answer.catch(() => '')
    if (!silent.delete(name.trim())) await after(50)
  }
}

/** An upgraded connection, or undefined where it was refused. */
async function dial (port: number): Promise<Socket | undefined> {
  const request = http.get({ host: '127.0.0.1', port, path: '/lines', headers: { connection: 'Upgrade', upgrade: 'lines' }, agent: false })
  const upgraded = once(request, 'upgrade') as Promise<[IncomingMessage, Socket, Buffer]>
  const answered = once(request, 'response') as Promise<[IncomingMessage]>
  try {
    const [response, socket, head] = await Promise.race([upgraded, answered])
    if (socket === undefined) {
      response.resume()
      return undefined
    }
    if (head !== undefined && head.length > 0) socket.unshift(head)
    return socket
  } catch {
    return undefined
  }
}

/** Sends numbers, and waits for each to be acknowledged, until it is told to stop. It emits 'ack'. */
class Client extends EventEmitter {
  sent = 0
  acknowledged = 0
  /** Connections beyond the first. */
  reconnects = -1
  /** Attempts at a connection that failed. */
  refused = 0
  /** Connections that ended before their time. */
  broken = 0
  readonly #port: number
  #stopping = false

  constructor (port: number) {
    super()
    this.#port = port
  }

  /** From now on nothing new is sent; `run()` resolves when all is acknowledged. */
  stop (): void {
    this.#stopping = true
  }

  async run (): Promise<void> {
    while (!this.#stopping) {
      const socket = await dial(this.#port)
      if (socket === undefined) {
        if (++this.refused === 100) throw new Error('there is no worker that accepts')
        await after(PAUSE)
        continue
      }
      this.reconnects++
      if (!await this.#talk(socket).catch(() => false)) this.broken++
    }
  }

  /** One connection, to its end. Tells whether it was meant to end. */
  async #talk (socket: Socket): Promise<boolean> {
    let told = false
    let waiting = false
    let timer: NodeJS.Timeout | undefined
    const next = (): void => {
      if (told || this.#stopping) {
        socket.end()
      } else {
        waiting = true
        socket.write(`${++this.sent}\n`)
      }
    }
    next()
    try {
      for await (const line of createInterface({ input: socket })) {
        if (line === 'bye') {
          told = true
        } else {
          assert.equal(line, `ack ${this.sent}`)
          waiting = false
          this.acknowledged++
          this.emit('ack')
        }
        clearTimeout(timer)
        if (!waiting) timer = setTimeout(next, told ? 0 : PAUSE)
      }
      return (told || this.#stopping) && !waiting
    } finally {
      clearTimeout(timer)
      socket.destroy()
    }
  }
}

const group: Group = { title: 'More than one machine', peers: [...balancers.map(({ peer }) => peer), python], run }

export default group
