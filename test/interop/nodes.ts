// More than one machine: four workers of examples/worker, each at an address of its own, behind HAProxy and
// behind nginx with the configurations of docs/more-than-one-machine.md. All of them are replaced, one after
// the other, while tunnels live on them; then come tunnels that do not hear that they are to go.
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Program } from '../fixtures/program.ts'
import { answer, dial, haproxyInFront, LineClient, stop, sum, type Counts } from './lab/line-clients.ts'
import { Dialogue, haproxy, nginx, python, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'

const TUNNELS = 500
const DEAF = 20
const ADDRESSES = ['127.0.0.2', '127.0.0.3', '127.0.0.4', '127.0.0.5'] as const
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
  configure: haproxyInFront,
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
      const clients = Array.from({ length: TUNNELS }, () => new LineClient(front))
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
      const total = (count: (client: LineClient) => number): number => clients.reduce((all, client) => all + count(client), 0)
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
    const client = new LineClient(port)
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

const group: Group = { title: 'More than one machine', peers: [...balancers.map(({ peer }) => peer), python], run }

export default group
