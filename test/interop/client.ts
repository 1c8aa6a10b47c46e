// The command `fastify-duplex` as ssh's ProxyCommand, as docker's client, against servers that are not ours, and behind
// proxies that are not ours; and the uses of docs/client.md.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createGzip, gunzipSync } from 'node:zlib'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import duplex, { tunnel } from '../../lib/index.ts'
import { cert, key } from '../fixtures/certificate.ts'
import { Dialogue, exits, haproxy, nginx, python, sha256, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'
import { ssh, sshd, startSshd } from './tunnels.ts'

const MB = 1024 * 1024
const program = fileURLToPath(new URL('../fixtures/netcat.js', import.meta.url))
const source = (name: string): string => fileURLToPath(new URL(`../../../test/interop/${name}`, import.meta.url))

const go: Peer = { name: 'Go net/http', required: false, debian: ['golang-go'], command: 'go', version: ['version'] }
const socat: Peer = { name: 'socat', required: true, debian: ['socat'] }

/** What stands for `npx fastify-duplex`. */
const NODE = [process.execPath, '--no-warnings', program]
const [node, ...PROGRAM] = NODE as [string, ...string[]]

async function run (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const certFile = join(directory, 'cert.pem')
  await writeFile(certFile, cert)
  await writeFile(join(directory, 'gateway'), 'Authorization: Bearer secret\n')
  const app = await site(lab)
  const secure = await site(lab, true)
  const gateway = await proxy(lab)
  const command = async (args: readonly string[], options: { input?: string | Buffer, env?: NodeJS.ProcessEnv } = {}) =>
    await lab.run(node, [...PROGRAM, ...args], { ...options, cwd: directory })
  const dialogue = (...args: string[]): Dialogue => new Dialogue(lab.spawn(node, [...PROGRAM, ...args], { cwd: directory }))

  // Uses 1, 5 to 9 of docs/client.md.
  await lab.ours('docs/client.md', 'try a route, a chat by hand: answered line by line', async () => {
    for (const path of ['echo', 'chat']) {
      const talk = dialogue('--upgrade', path, `http://localhost:${app}/${path}`)
      for (const word of ['one\n', 'two\r\n']) {
        talk.send(word)
        assert.equal(await talk.until('\n'), word)
      }
      talk.end()
      assert.equal(await talk.exit(), 0)
    }
  })
  await lab.ours('docs/client.md', 'a stream of events', async () => {
    const { stdout } = exits(await command(['-H', 'Accept: text/event-stream', `http://localhost:${app}/events`]))
    assert.match(String(stdout), /data: \{"n":1\}\n\ndata: \{"n":2\}\n\n/)
  })
  await lab.ours('docs/client.md', 'a file through a route: 20 MB', async () => {
    const data = randomBytes(20 * MB)
    const { stdout } = exits(await command(['--body', `http://localhost:${app}/gzip`], { input: data }))
    assert.equal(sha256(gunzipSync(stdout)), sha256(data))
  })
  await lab.ours('docs/client.md', 'a health check by its exit code', async () => {
    const check = async (port: number): Promise<number | null> => (await command(['--upgrade', 'echo', '--timeout', '2', `http://localhost:${port}/echo`])).code
    assert.equal(await check(app), 0)
    assert.equal(await check(await unusedPort()), 1)
  })
  await lab.ours('docs/client.md', 'a WebSocket over TLS, with Windows newlines', async () => {
    const talk = dialogue('--websocket', '--ca', certFile, `wss://localhost:${secure}/ws`)
    talk.send('one\r\ntwo\n')
    assert.equal(await talk.until('\n'), '<one>\n')
    assert.equal(await talk.until('\n'), '<two>\n')
    talk.end()
    assert.equal(await talk.exit(), 0)
  })
  await lab.ours('docs/client.md', 'HTTP/2, behind a proxy with a password from the environment', async () => {
    const args = ['--http2', '--ca', certFile, '--upgrade', 'chat', `https://localhost:${secure}/chat`]
    const through = (password: string) => ({ env: { FASTIFY_DUPLEX_PROXY: `http://me:${password}@localhost:${gateway}` }, input: 'hello' })
    assert.equal(String(exits(await command(args, through('secret'))).stdout), 'hello')
    const { stderr } = exits(await command(args, through('wrong')), 1)
    assert.equal(stderr, 'fastify-duplex: the proxy refused: 407 Proxy Authentication Required\nwho are you\n')
  })
  await lab.ours('the command', 'a closed standard output: `| head -1`', async () => {
    const script = '"$0" "$@"; echo "exit $?" >&2'
    const whole = `{ ${script}; } | head -1`
    const { stdout, stderr } = exits(await lab.run('sh', ['-c', whole, ...NODE, '-u', 'echo', `http://localhost:${app}/endless`]))
    assert.equal(String(stdout), 'line\n')
    assert.equal(stderr, 'fastify-duplex: standard output was closed\nexit 1\n')
  })

  await lab.check(ssh, 'ProxyCommand fastify-duplex with -H @file, real sshd, 50 MB there and back', async command => {
    const server = await startSshd(lab, directory)
    const data = randomBytes(50 * MB)
    const proxyCommand = [...NODE, '-H', `@${join(directory, 'gateway')}`, '--connect', '%h:%p', `http://localhost:${gateway}`].join(' ')
    const args = [...server.options, '-p', String(server.port), '-o', `ProxyCommand=${proxyCommand}`, 'localhost', 'cat']
    const { stdout } = exits(await lab.run(command, args, { input: data }))
    assert.equal(sha256(stdout), sha256(data))
  })

  await lab.check(socat, 'as docs/client.md has it: a database through a gateway, 10 MB there and back', async socat => {
    const database = await lab.listen(socket => { socket.pipe(socket) })
    const port = await unusedPort()
    const inner = [...NODE, '-H', '@gateway', '-c', `localhost:${database}`, `http://localhost:${gateway}`].join(' ')
    await lab.server(socat, [`TCP-LISTEN:${port},fork,reuseaddr,bind=127.0.0.1`, `EXEC:"${inner}"`], port, { cwd: directory })
    const data = randomBytes(10 * MB)
    const socket = net.connect({ port, host: '127.0.0.1' })
    const chunks: Buffer[] = []
    let length = 0
    const came = new Promise<void>((resolve, reject) => {
      socket.on('error', reject).on('close', () => reject(new Error(`only ${length} bytes`))).on('data', chunk => {
        chunks.push(chunk)
        length += chunk.length
        if (length === data.length) resolve()
      })
    })
    socket.write(data)
    await came
    socket.destroy()
    assert.equal(sha256(Buffer.concat(chunks)), sha256(data))
  })

  await docker(lab, command)
  await strangers(lab, directory, command)
  await proxies(lab, directory, app, command)
}

type Run = (args: readonly string[], options?: { input?: string | Buffer }) => ReturnType<Lab['run']>

/** docker's API: exec with a body in front of the upgrade, and attach. */
async function docker (lab: Lab, command: Run): Promise<void> {
  await lab.ours('docker\'s API', 'exec and attach by Upgrade, with a body, over a Unix socket', async () => {
    const socket = join(await lab.directory(), 'engine.sock')
    await lab.example('docker-engine', { SOCKET: socket })
    const ask = async (path: string, body: object, ...args: string[]) => {
      const { stdout } = exits(await command(['--unix', socket, '-X', 'POST', '-d', JSON.stringify(body), '-H', 'Content-Type: application/json', ...args, `http://docker${path}`]))
      return String(stdout)
    }
    const { Id } = JSON.parse(await ask('/containers/create', { Image: 'host', Cmd: ['sleep', '1000'] })) as { Id: string }
    await ask(`/containers/${Id}/start`, {})
    const exec = JSON.parse(await ask(`/containers/${Id}/exec`, { Cmd: ['cat'], AttachStdin: true, AttachStdout: true, AttachStderr: true })) as { Id: string }
    const data = randomBytes(5 * MB)
    const { stdout } = exits(await command([
      '--unix', socket, '-X', 'POST', '-u', 'tcp', '-d', '{"Detach":false,"Tty":false}', '-H', 'Content-Type: application/json',
      `http://docker/exec/${exec.Id}/start`
    ], { input: data }))
    assert.equal(sha256(Buffer.concat(frames(stdout))), sha256(data))
    const cat = JSON.parse(await ask('/containers/create', { Image: 'host', Cmd: ['cat'], OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true })) as { Id: string }
    await ask(`/containers/${cat.Id}/start`, {})
    const attached = exits(await command(['--unix', socket, '-X', 'POST', '-u', 'tcp', `http://docker/containers/${cat.Id}/attach?stream=1&stdin=1&stdout=1`], { input: 'hello' }))
    assert.equal(String(Buffer.concat(frames(attached.stdout))), 'hello')
  })
}

/** docker's frames: a byte for the stream, three of nothing, and a length. */
function frames (bytes: Buffer): Buffer[] {
  const parts: Buffer[] = []
  for (let at = 0; at < bytes.length;) {
    const length = bytes.readUInt32BE(at + 4)
    parts.push(bytes.subarray(at + 8, at + 8 + length))
    at += 8 + length
  }
  return parts
}

/** Servers of other languages: an upgrade, a tunnel of theirs, a refusal, and an end while we still send. */
async function strangers (lab: Lab, directory: string, command: Run): Promise<void> {
  const drive = async (port: number): Promise<void> => {
    const data = randomBytes(10 * MB)
    const upgraded = exits(await command(['-u', 'echo', `http://127.0.0.1:${port}/echo`], { input: data }))
    assert.equal(sha256(upgraded.stdout), sha256(data))
    const { stderr, stdout } = exits(await command(['-u', 'other', `http://127.0.0.1:${port}/echo`]), 1)
    assert.equal(stderr, 'fastify-duplex: the server refused: 426 Upgrade Required\necho alone\n')
    assert.equal(String(stdout), '')
    const body = exits(await command(['-X', 'POST', '-d', 'a body', `http://127.0.0.1:${port}/upper`]))
    assert.equal(String(body.stdout), 'A BODY')
  }
  const binary = join(directory, 'server')
  await lab.check(go, 'a server by net/http and Hijack: an upgrade, 10 MB; a refusal; a body', async path => {
    const env = { HOME: directory, GO111MODULE: 'off', CGO_ENABLED: '0' }
    exits(await lab.run(path, ['build', '-o', binary, source('server.go')], { env, cwd: directory }))
    const port = await unusedPort()
    await lab.server(binary, [String(port)], port)
    await drive(port)
  }, 180_000)
  await lab.check(python, 'a server by asyncio: an upgrade, 10 MB; a refusal; a body', async path => {
    const port = await unusedPort()
    await lab.server(path, [source('server.py'), String(port)], port)
    await drive(port)
  })
}

async function proxies (lab: Lab, directory: string, app: number, command: Run): Promise<void> {
  const drive = async (front: number, duplexBodies: boolean): Promise<void> => {
    // nginx does not send on a body whose answer has begun.
    const data = randomBytes(duplexBodies ? 5 * MB : 10_000)
    const body = duplexBodies ? ['--body'] : ['-d', '@-']
    const gzip = exits(await command([...body, '-H', 'Content-Type: application/octet-stream', `http://127.0.0.1:${front}/gzip`], { input: data }))
    assert.equal(sha256(gunzipSync(gzip.stdout)), sha256(data))
    // Its input stays open: nginx closes both sides when the client ends its own.
    const talk = new Dialogue(lab.spawn(node, [...PROGRAM, '-u', 'count', `http://127.0.0.1:${front}/count`]))
    talk.send('five!')
    assert.equal(await talk.until('\n'), '5 bytes\n')
    assert.equal(await talk.exit(), 0)
    const socket = exits(await command(['-w', `ws://127.0.0.1:${front}/ws`], { input: 'one\r\n' }))
    assert.equal(String(socket.stdout), '<one>\n')
    assert.match(exits(await command(['-u', 'echo', `http://127.0.0.1:${front}/nowhere`]), 1).stderr, /^fastify-duplex: the server refused: 404 Not Found\n/)
  }
  await lab.check(nginx, 'in front of the app: an upgrade, a body, a WebSocket, a refusal', async path => {
    const front = await unusedPort()
    await writeFile(join(directory, 'nginx.conf'), `
daemon off; pid ${directory}/pid; error_log stderr; user root; events {}
http {
  access_log off; client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; client_max_body_size 0;
  fastcgi_temp_path ${directory}/f; uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server {
    listen 127.0.0.1:${front};
    location / {
      proxy_pass http://127.0.0.1:${app};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_request_buffering off;
    }
  }
}
`)
    await lab.server(path, ['-c', join(directory, 'nginx.conf')], front)
    await drive(front, false)
  })
  await lab.check(haproxy, 'in front of the app: an upgrade, a body, a WebSocket, a refusal', async path => {
    const front = await unusedPort()
    await writeFile(join(directory, 'haproxy.cfg'), `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 30s
frontend front
  bind 127.0.0.1:${front}
  default_backend app
backend app
  server app1 127.0.0.1:${app}
`)
    await lab.server(path, ['-db', '-f', join(directory, 'haproxy.cfg')], front)
    await drive(front, true)
  })
}

/** The routes that docs/client.md speaks of. */
async function site (lab: Lab, secure = false): Promise<number> {
  const app = (secure ? Fastify({ https: { cert, key, allowHTTP1: true }, http2: true }) : Fastify()) as unknown as FastifyInstance
  await app.register(duplex, { drainTimeout: 1000, extendedConnect: secure })
  for (const url of ['/echo', '/chat']) app.get(url, { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))
  app.get('/endless', { duplex: true }, async ({ writable, signal }) => {
    while (!signal.aborted) if (!writable.write('line\n')) await once(writable, 'drain', { signal })
  })
  app.get('/count', { duplex: true }, async ({ readable, writable }) => {
    let length = 0
    for await (const chunk of readable) {
      length += chunk.length
      if (length === 5) writable.end('5 bytes\n')
    }
  })
  app.post('/gzip', { duplex: true }, ({ readable, writable }) => pipeline(readable, createGzip({ level: 1 }), writable))
  app.get('/events', { duplex: { messages: true } }, async ({ send }) => {
    for (const n of [1, 2]) await send({ n })
  })
  app.get('/ws', { duplex: { websocket: true } }, async ({ readable, send }) => {
    for await (const message of readable) await send(`<${String(message)}>`)
  })
  return await listening(lab, app)
}

/** A gateway that wants to know who asks, in either of two ways. */
async function proxy (lab: Lab): Promise<number> {
  const app = Fastify()
  await app.register(duplex, { drainTimeout: 1000 })
  app.connect('*', { duplex: { accept: 'manual' } }, async (pending, { headers }) => {
    const known = headers.authorization === 'Bearer secret' ||
      headers['proxy-authorization'] === `Basic ${Buffer.from('me:secret').toString('base64')}`
    if (!known) return await pending.reply.code(407).send('who are you\n')
    await tunnel(pending, () => net.connect({ ...pending.authority, allowHalfOpen: true }))
  })
  return await listening(lab, app)
}

async function listening (lab: Lab, app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  return (app.server.address() as AddressInfo).port
}

const group: Group = { title: 'The client', peers: [ssh, sshd, socat, go, python, nginx, haproxy], run }

export default group
