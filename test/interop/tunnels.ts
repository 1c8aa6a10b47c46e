// CONNECT: every common client of an HTTP proxy, through examples/connect-proxy and, where TLS to the
// proxy itself is the subject, through a small proxy here.
import { strict as assert } from 'node:assert'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import type { Duplex, Readable } from 'node:stream'
import Fastify from 'fastify'
import duplex, { tunnel } from '../../lib/index.ts'
import { cert, key } from '../fixtures/certificate.ts'
import { bytes, curl, Dialogue, exits, load, python, sha256, undici, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'

const MB = 1024 * 1024
const blob = randomBytes(10 * MB)

const socat: Peer = { name: 'socat', required: true, debian: ['socat'] }
const ncat: Peer = { name: 'ncat', required: true, debian: ['ncat'], version: ['--version'] }
const nc: Peer = { name: 'nc (OpenBSD)', required: true, debian: ['netcat-openbsd'], command: '/bin/nc.openbsd' }
const corkscrew: Peer = { name: 'corkscrew', required: true, debian: ['corkscrew'] }
const connectProxy: Peer = { name: 'connect-proxy', required: true, debian: ['connect-proxy'] }
const proxytunnel: Peer = { name: 'proxytunnel', required: true, debian: ['proxytunnel'] }
const openssl: Peer = { name: 'openssl s_client', required: true, debian: ['openssl'], command: 'openssl', version: ['version'] }
const git: Peer = { name: 'git', required: true, debian: ['git'], version: ['--version'] }
export const ssh: Peer = { name: 'ssh', required: true, debian: ['openssh-client'], version: ['-V'] }
export const sshd: Peer = { name: 'sshd', required: true, debian: ['openssh-server'], command: '/usr/sbin/sshd' }

interface Undici {
  ProxyAgent: new (options: { uri: string, requestTls: { ca: string } }) => { close: () => Promise<void> }
  Client: new (origin: string) => {
    connect: (options: { path: string }) => Promise<{ statusCode: number, socket: Duplex }>
    close: () => Promise<void>
  }
  request: (url: string, options: object) => Promise<{ body: Readable }>
}

interface LogLine {
  level: number
  msg: string
  duplex?: { reason: string }
}

/** A client that joins its stdin and stdout with a target through a proxy. */
interface Joiner {
  peer: Peer
  args: (proxy: number, target: number) => readonly string[]
  /** It passes the end of its stdin on, and goes on reading. */
  halfCloses: boolean
}

const joiners: readonly Joiner[] = [
  { peer: socat, args: (proxy, target) => ['-t', '30', '-', `PROXY:localhost:localhost:${target},proxyport=${proxy}`], halfCloses: true },
  { peer: ncat, args: (proxy, target) => ['--proxy', `localhost:${proxy}`, '--proxy-type', 'http', 'localhost', `${target}`], halfCloses: true },
  { peer: nc, args: (proxy, target) => ['-N', '-X', 'connect', '-x', `localhost:${proxy}`, 'localhost', `${target}`], halfCloses: true },
  { peer: connectProxy, args: (proxy, target) => ['-H', `localhost:${proxy}`, 'localhost', `${target}`], halfCloses: true },
  { peer: corkscrew, args: (proxy, target) => ['localhost', `${proxy}`, 'localhost', `${target}`], halfCloses: false },
  { peer: proxytunnel, args: (proxy, target) => ['-q', '-p', `localhost:${proxy}`, '-d', `localhost:${target}`], halfCloses: false }
]

async function run (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const certificate = join(directory, 'cert.pem')
  await writeFile(certificate, cert)
  const repository = await bareRepository(lab, directory)
  const site = serveSite(repository)
  const plain = await lab.listening(http.createServer(site))
  const secure = await lab.listening(https.createServer({ cert, key }, site))
  const echo = await lab.listen(socket => { socket.pipe(socket) })
  const digest = await lab.listen(socket => {
    const received: Buffer[] = []
    socket.on('data', (chunk: Buffer) => received.push(chunk)).on('end', () => socket.end(`${sha256(Buffer.concat(received))}\n`))
  })
  const sshServer = await startSshd(lab, directory)
  const nobody = await unusedPort()
  const targets = [plain, secure, echo, digest, sshServer.port, nobody].map(port => `localhost:${port}=private`)
  const proxy = await lab.example('connect-proxy', { ALLOW: targets.join() })
  const secureProxy = await startSecureProxy(lab)
  const viaProxy = `http://localhost:${proxy.port}`

  for (const [what, options] of [
    ['CONNECT, http target, 10 MB down and up', ['-p', '-x', viaProxy, `http://localhost:${plain}`]],
    ['CONNECT as HTTP/1.0', ['-p', '--proxy1.0', `localhost:${proxy.port}`, `http://localhost:${plain}`]],
    ['CONNECT, https target, 10 MB down and up', ['-x', viaProxy, '--cacert', certificate, `https://localhost:${secure}`]],
    ['CONNECT to a TLS proxy, https target, 10 MB down and up', [
      '-x', `https://localhost:${secureProxy}`, '--proxy-cacert', certificate, '--cacert', certificate, `https://localhost:${secure}`
    ]]
  ] as const) {
    await lab.check(curl, what, async command => {
      const url = options.at(-1) as string
      const common = ['-sS', '--fail', '-m', '60', ...options.slice(0, -1)]
      const down = exits(await lab.run(command, [...common, `${url}/blob`]))
      assert.equal(sha256(down.stdout), sha256(blob))
      const up = exits(await lab.run(command, [...common, '--data-binary', '@-', `${url}/digest`], { input: blob }))
      assert.equal(String(up.stdout), sha256(blob))
    })
  }
  await lab.check(curl, 'CONNECT refused: 403 for a target that is not on the list, 502 for a dead one', async command => {
    for (const [port, status] of [[1, 403], [nobody, 502]]) {
      const { code, stdout } = await lab.run(command, ['-sS', '-p', '-x', viaProxy, '-w', '%{http_connect}', `http://localhost:${port}/`])
      assert.notEqual(code, 0)
      assert.equal(String(stdout), `${status}`)
    }
  })

  for (const { peer, args, halfCloses } of joiners) {
    await lab.check(peer, 'CONNECT, 10 MB there and back', async command => {
      await thereAndBack(lab, command, args(proxy.port, echo), blob)
    })
    if (!halfCloses) continue
    await lab.check(peer, 'CONNECT, the end of stdin is passed on, and the answer to it comes back', async command => {
      const { stdout } = exits(await lab.run(command, args(proxy.port, digest), { input: blob }))
      assert.equal(String(stdout), `${sha256(blob)}\n`)
    })
  }
  await lab.check(proxytunnel, 'CONNECT to a TLS proxy, 1 MB there and back', async command => {
    await thereAndBack(lab, command, ['-q', '-E', '-z', '-p', `localhost:${secureProxy}`, '-d', `localhost:${echo}`], blob.subarray(0, MB))
  })

  await lab.check(openssl, 'CONNECT, TLS to the target, GET', async command => {
    const { stdout } = exits(await lab.run(command, [
      's_client', '-quiet', '-verify_return_error', '-CAfile', certificate, '-proxy', `localhost:${proxy.port}`, '-connect', `localhost:${secure}`
    ], { input: 'GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' }))
    assert.match(String(stdout), /^HTTP\/1\.1 200 OK\r\n[^]*hello\n/)
  })

  await lab.check(git, 'CONNECT, clone and push over https', async command => {
    const copy = join(directory, 'copy')
    const options = ['-c', `http.proxy=${viaProxy}`]
    const env = { ...gitEnvironment, GIT_SSL_CAINFO: certificate }
    const at = { env, cwd: copy }
    exits(await lab.run(command, [...options, 'clone', '-q', `https://localhost:${secure}/repository.git`, copy], { env }))
    assert.equal(sha256(await readFile(join(copy, 'blob'))), sha256(blob.subarray(0, 2 * MB)))
    await writeFile(join(copy, 'more'), blob.subarray(2 * MB, 6 * MB))
    exits(await lab.run(command, ['add', '.'], at))
    exits(await lab.run(command, ['commit', '-qm', 'more'], at))
    exits(await lab.run(command, [...options, 'push', '-q', 'origin', 'HEAD'], at))
    const [here, there] = [await lab.run(command, ['rev-parse', 'HEAD'], at), await lab.run(command, ['rev-parse', 'HEAD'], { cwd: repository })]
    assert.equal(String(there.stdout), String(here.stdout))
  })

  for (const { peer, args } of joiners) {
    if (!lab.has(peer)) continue
    await lab.check(ssh, `ProxyCommand ${peer.name}, real sshd, 50 MB there and back`, async command => {
      const data = randomBytes(50 * MB)
      const proxyCommand = [peer.command ?? peer.name, ...args(proxy.port, sshServer.port)].join(' ')
      const { stdout } = exits(await lab.run(command, [...sshServer.options, '-o', `ProxyCommand=${proxyCommand}`, 'localhost', 'cat'], { input: data }))
      assert.equal(sha256(stdout), sha256(data))
    })
  }

  await lab.check(undici, 'ProxyAgent, https target, 10 MB down and up', async () => {
    const { ProxyAgent, request } = load<Undici>('undici')
    const agent = new ProxyAgent({ uri: viaProxy, requestTls: { ca: cert } })
    const url = `https://localhost:${secure}`
    const down = await request(`${url}/blob`, { dispatcher: agent })
    assert.equal(sha256(await bytes(down.body)), sha256(blob))
    const up = await request(`${url}/digest`, { dispatcher: agent, method: 'POST', body: blob })
    assert.equal(String(await bytes(up.body)), sha256(blob))
    await agent.close()
  })
  await lab.check(undici, 'connect(), 1 MB through the socket, half-closed', async () => {
    const { Client } = load<Undici>('undici')
    const client = new Client(viaProxy)
    const { statusCode, socket } = await client.connect({ path: `localhost:${digest}` })
    assert.equal(statusCode, 200)
    socket.end(blob.subarray(0, MB))
    assert.equal(String(await bytes(socket)), `${sha256(blob.subarray(0, MB))}\n`)
    await client.close()
  })

  await lab.check(python, 'http.client set_tunnel(), https target, 10 MB down and up', async command => {
    const { stdout } = exits(await lab.run(command, ['-c', `
import hashlib, http.client, ssl, sys
def tunnelled():
    connection = http.client.HTTPSConnection('localhost', ${proxy.port}, context=ssl.create_default_context(cafile='${certificate}'))
    connection.set_tunnel('localhost', ${secure})
    return connection
connection = tunnelled()
connection.request('GET', '/blob')
data = connection.getresponse().read()
connection.request('POST', '/digest', body=data)
print(hashlib.sha256(data).hexdigest(), connection.getresponse().read().decode())
`]))
    assert.equal(String(stdout), `${sha256(blob)} ${sha256(blob)}\n`)
  })
  await lab.check(python, 'http.client set_tunnel(), 403', async command => {
    const { code, stderr } = await lab.run(command, ['-c', `
import http.client
connection = http.client.HTTPConnection('localhost', ${proxy.port})
connection.set_tunnel('localhost', 1)
connection.request('GET', '/')
`])
    assert.equal(code, 1)
    assert.match(stderr, /Tunnel connection failed: 403 Forbidden/)
  })

  await lab.ours('examples/connect-proxy', 'all tunnels over, none left, and exit code 0', async () => {
    assert.equal(await proxy.stop(), 0)
    const lines = proxy.output().split('\n').filter(line => line.startsWith('{')).map(line => JSON.parse(line) as LogLine)
    const count = (matches: (line: LogLine) => boolean): number => lines.filter(matches).length
    // The one error is the dead target.
    assert.equal(count(({ level }) => level >= 50), 1)
    assert.equal(count(({ duplex }) => duplex !== undefined), count(({ msg }) => msg === 'tunnel'))
    // A client that closes without having read the target's end of TLS resets the connection: an abort. Nothing else is in order.
    assert.deepEqual(lines.filter(({ duplex }) => duplex !== undefined && !['end', 'abort'].includes(duplex.reason)), [])
  })
}

/** Through an echo: stdin stays open until everything has come back. */
async function thereAndBack (lab: Lab, command: string, args: readonly string[], data: Buffer): Promise<void> {
  const child = lab.spawn(command, args)
  const closed = once(child, 'close')
  const chunks: Buffer[] = []
  let length = 0
  child.stdin.write(data)
  for await (const chunk of child.stdout as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    length += chunk.length
    if (length === data.length) child.stdin.end()
  }
  await closed
  assert.equal(sha256(Buffer.concat(chunks)), sha256(data))
}

/** What the tunnels lead to: a blob to fetch, the digest of what was sent, and a repository. */
function serveSite (repository: string): RequestListener {
  return (request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost')
    if (pathname === '/hello') response.end('hello\n')
    else if (pathname === '/blob') response.end(blob)
    else if (pathname === '/digest') void digestOf(request).then(digest => response.end(digest))
    else if (pathname.startsWith('/repository.git/')) gitBackend(repository, request, response)
    else response.writeHead(404).end()
  }
}

async function digestOf (request: IncomingMessage): Promise<string> {
  return sha256(await bytes(request))
}

/** The CGI program of git. */
function gitBackend (repository: string, request: IncomingMessage, response: ServerResponse): void {
  const { pathname, search } = new URL(request.url ?? '/', 'http://localhost')
  const child = spawn('git', ['http-backend'], {
    env: {
      ...process.env,
      GIT_PROJECT_ROOT: dirname(repository),
      GIT_HTTP_EXPORT_ALL: '1',
      REMOTE_USER: 'interop',
      PATH_INFO: pathname,
      QUERY_STRING: search.slice(1),
      REQUEST_METHOD: request.method,
      CONTENT_TYPE: request.headers['content-type'] ?? '',
      ...(request.headers['content-encoding'] === undefined ? {} : { HTTP_CONTENT_ENCODING: request.headers['content-encoding'] }),
      ...(request.headers['git-protocol'] === undefined ? {} : { GIT_PROTOCOL: String(request.headers['git-protocol']) })
    }
  })
  request.pipe(child.stdin.on('error', () => {}))
  void bytes(child.stdout).then(output => {
    const end = output.indexOf('\r\n\r\n')
    for (const line of output.toString('latin1', 0, end).split('\r\n')) {
      const [name = '', value = ''] = line.split(/: (.*)/)
      if (name.toLowerCase() === 'status') response.statusCode = parseInt(value)
      else response.setHeader(name, value)
    }
    response.end(output.subarray(end + 4))
  })
}

const gitEnvironment = {
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_CONFIG_SYSTEM: '/dev/null',
  GIT_AUTHOR_NAME: 'interop',
  GIT_AUTHOR_EMAIL: 'interop@localhost',
  GIT_COMMITTER_NAME: 'interop',
  GIT_COMMITTER_EMAIL: 'interop@localhost'
}

async function bareRepository (lab: Lab, directory: string): Promise<string> {
  const [work, bare] = [join(directory, 'work'), join(directory, 'repository.git')]
  const at = { env: gitEnvironment, cwd: work }
  await mkdir(work)
  await writeFile(join(work, 'blob'), blob.subarray(0, 2 * MB))
  exits(await lab.run('git', ['init', '-q', '-b', 'main'], at))
  exits(await lab.run('git', ['add', '.'], at))
  exits(await lab.run('git', ['commit', '-qm', 'first'], at))
  exits(await lab.run('git', ['clone', '-q', '--bare', work, bare], at))
  return bare
}

/** A server of ssh with keys of its own, for the user who runs this. */
export async function startSshd (lab: Lab, directory: string): Promise<{ port: number, options: string[] }> {
  const [hostKey, userKey, known] = ['host', 'user', 'known'].map(name => join(directory, name)) as [string, string, string]
  for (const file of [hostKey, userKey]) exits(await lab.run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file]))
  const port = await unusedPort()
  await writeFile(join(directory, 'sshd_config'), [
    `Port ${port}`, 'ListenAddress localhost', `HostKey ${hostKey}`, `AuthorizedKeysFile ${userKey}.pub`, 'PidFile none',
    // The files are in a temporary directory, and the user may have no password.
    'StrictModes no', 'UsePAM no', 'PasswordAuthentication no', 'PermitRootLogin yes', ''
  ].join('\n'))
  await writeFile(known, `localhost ${await readFile(`${hostKey}.pub`, 'utf8')}`)
  // sshd wants this directory, which the service makes that Debian would start.
  if (process.getuid?.() === 0 && !existsSync('/run/sshd')) {
    mkdirSync('/run/sshd', { mode: 0o755 })
    lab.defer(() => rm('/run/sshd', { recursive: true }))
  }
  const server = lab.spawn('/usr/sbin/sshd', ['-D', '-e', '-f', join(directory, 'sshd_config')])
  await new Dialogue(server, 'stderr').until('Server listening on')
  return {
    port,
    options: [
      '-F', '/dev/null', '-i', userKey, '-o', 'IdentitiesOnly=yes', '-o', `UserKnownHostsFile=${known}`, '-o', 'GlobalKnownHostsFile=/dev/null',
      '-o', 'StrictHostKeyChecking=yes', '-o', 'HostKeyAlias=localhost', '-o', 'BatchMode=yes', '-o', 'LogLevel=ERROR'
    ]
  }
}

/** The same with TLS to the proxy itself. */
async function startSecureProxy (lab: Lab): Promise<number> {
  const app = Fastify({ https: { cert, key } })
  await app.register(duplex, { drainTimeout: 1000 })
  app.connect('*', { duplex: { accept: 'manual' } }, async pending => {
    const upstream = net.connect({ ...pending.authority, allowHalfOpen: true })
    await once(upstream, 'connect')
    await tunnel(await pending.accept(), upstream)
  })
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  return (app.server.address() as AddressInfo).port
}

const group: Group = {
  title: 'Tunnels',
  peers: [curl, socat, ncat, nc, corkscrew, connectProxy, proxytunnel, openssl, git, ssh, sshd, undici, python],
  run
}

export default group
