// Proxies in front of an app, each with the configuration of docs/behind-a-proxy.md: what passes through
// them, what does not, and that a refused upgrade leaves no way past the rules of the proxy.
import { strict as assert } from 'node:assert'
import { createHash } from 'node:crypto'
import { on, once, type EventEmitter } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import duplex, { type DuplexConnection } from '../../lib/index.ts'
import { CLOSE, frame, frames, haproxy, load, nginx, unusedPort, ws, type Group, type Lab, type Peer } from './lab/index.ts'

const PATIENCE = 5000

type Way = 'upgrade' | 'websocket' | 'half-close' | 'reset' | 'connect' | 'body' | 'failed body'

interface Site {
  front: number
  app: number
  /** In seconds: what is silent for so long may be cut off. */
  silence: number
}

interface Proxy {
  peer: Peer
  /** What speaks HTTP/2 to the app: an Upgrade of the client then arrives as an extended CONNECT. */
  http2?: boolean
  /** The file, and the arguments. `/canary` is refused by the proxy itself. */
  configure: (site: Site, directory: string) => { file: string, text: string, command: readonly string[] }
  passes: Readonly<Record<Way, boolean>>
  /** What ends a connection that is silent for so long. */
  silence?: string
}

const haproxy2: Peer = { ...haproxy, name: 'HAProxy, HTTP/2 to the app' }
const caddy: Peer = { name: 'Caddy', required: true, debian: ['caddy'], command: 'caddy', version: ['version'] }
const apache: Peer = { name: 'Apache httpd', required: true, debian: ['apache2'], command: '/usr/sbin/apache2', version: ['-v'] }
const nghttpx: Peer = { name: 'nghttpx', required: true, debian: ['nghttp2-proxy'], command: 'nghttpx', version: ['--version'] }
const nghttpx2: Peer = { ...nghttpx, name: 'nghttpx, HTTP/2 to the app' }
const varnish: Peer = { name: 'Varnish', required: true, debian: ['varnish'], command: '/usr/sbin/varnishd', version: ['-V'] }
const h2o: Peer = { name: 'h2o', required: true, debian: ['h2o'], version: ['--version'] }

const proxies: readonly Proxy[] = [{
  peer: nginx,
  configure: ({ front, app, silence }, directory) => ({
    file: 'nginx.conf',
    text: `
daemon off; pid ${directory}/pid; error_log stderr; user root; events {}
http {
  access_log off; client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/f; uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;
  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
  server {
    listen 127.0.0.1:${front};
    location /canary { return 403; }
    location / {
      proxy_pass http://127.0.0.1:${app};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_request_buffering off;
      proxy_read_timeout ${silence}s;
    }
  }
}
`,
    command: ['-c', `${directory}/nginx.conf`]
  }),
  passes: { upgrade: true, 'half-close': false, reset: false, websocket: true, connect: false, body: true, 'failed body': true },
  silence: 'proxy_read_timeout'
}, ...([[haproxy, ''], [haproxy2, ' proto h2']] as const).map(([peer, proto]): Proxy => ({
  peer,
  http2: proto !== '',
  configure: ({ front, app, silence }, directory) => ({
    file: 'haproxy.cfg',
    text: `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel ${silence}s
frontend front
  bind 127.0.0.1:${front}
  http-request deny if { path_beg /canary }
  default_backend app
backend app
  server app1 127.0.0.1:${app}${proto}
`,
    command: ['-db', '-f', `${directory}/haproxy.cfg`]
  }),
  passes: { upgrade: true, 'half-close': true, reset: false, websocket: true, connect: true, body: true, 'failed body': true },
  silence: 'timeout tunnel'
})), {
  peer: caddy,
  configure: ({ front, app, silence }, directory) => ({
    file: 'Caddyfile',
    text: `
{
  admin off
  auto_https off
  storage file_system ${directory}/storage
}
http://127.0.0.1:${front}, http://localhost:${front} {
  respond /canary 403
  reverse_proxy 127.0.0.1:${app} {
    flush_interval -1
  }
}
`,
    command: ['run', '--config', `${directory}/Caddyfile`, '--adapter', 'caddyfile']
  }),
  passes: { upgrade: true, 'half-close': false, reset: false, websocket: true, connect: false, body: false, 'failed body': false }
}, {
  peer: apache,
  configure: ({ front, app, silence }, directory) => ({
    file: 'apache.conf',
    text: `
ServerRoot ${directory}
ServerName localhost
Timeout ${silence}
PidFile ${directory}/pid
ErrorLog ${directory}/log
DefaultRuntimeDir ${directory}
Listen 127.0.0.1:${front}
User www-data
Group www-data
${['mpm_event', 'authz_core', 'proxy', 'proxy_http', 'rewrite'].map(name => `LoadModule ${name}_module /usr/lib/apache2/modules/mod_${name}.so`).join('\n')}
<Location "/canary">
  Require all denied
</Location>
ProxyPass "/" "http://127.0.0.1:${app}/" upgrade=ANY flushpackets=on timeout=${silence}
`,
    command: ['-X', '-f', `${directory}/apache.conf`]
  }),
  passes: { upgrade: true, 'half-close': true, reset: false, websocket: true, connect: false, body: false, 'failed body': true },
  silence: 'the longer one of Timeout and the timeout of ProxyPass'
}, ...([[nghttpx, 'http/1.1'], [nghttpx2, 'h2']] as const).map(([peer, proto]): Proxy => ({
  peer,
  http2: proto === 'h2',
  configure: ({ front, app, silence }, directory) => ({
    file: 'nghttpx.conf',
    text: `
frontend=127.0.0.1,${front};no-tls
backend=127.0.0.1,${app};/;proto=${proto}
backend=127.0.0.1,9;/canary;proto=${proto}
workers=1
errorlog-file=/dev/stderr
accesslog-file=/dev/null
backend-read-timeout=${silence}
`,
    command: [`--conf=${directory}/nghttpx.conf`]
  }),
  // Of all Upgrades it makes an extended CONNECT of WebSocket's alone: any other is dropped.
  passes: { upgrade: proto !== 'h2', 'half-close': false, reset: false, websocket: true, connect: true, body: true, 'failed body': true },
  silence: 'backend-read-timeout'
})), {
  peer: varnish,
  configure: ({ front, app, silence }, directory) => ({
    file: 'default.vcl',
    text: `
vcl 4.1;
backend app { .host = "127.0.0.1"; .port = "${app}"; }
sub vcl_recv {
  if (req.url ~ "^/canary") { return (synth(403)); }
  if (req.method == "GET" && req.url ~ "^/(echo|count|fails|refused|ws)(\\?|$)" &&
      req.http.upgrade ~ "(?i)^(echo|websocket)$" && req.http.connection ~ "(?i)^(keep-alive, ?)?upgrade$") {
    return (pipe);
  }
  return (pass);
}
sub vcl_pipe {
  set bereq.http.upgrade = req.http.upgrade;
  set bereq.http.connection = "Upgrade";
}
sub vcl_backend_response { set beresp.do_stream = true; }
`,
    command: ['-F', '-j', 'none', '-a', `127.0.0.1:${front}`, '-f', `${directory}/default.vcl`, '-n', `${directory}/work`, '-p', `pipe_timeout=${silence}`]
  }),
  passes: { upgrade: true, 'half-close': true, reset: false, websocket: true, connect: false, body: false, 'failed body': true },
  silence: 'pipe_timeout'
}, {
  peer: h2o,
  configure: ({ front, app, silence }, directory) => ({
    file: 'h2o.yaml',
    text: `
user: root
listen: { host: 127.0.0.1, port: ${front} }
proxy.websocket: ON
proxy.websocket.timeout: ${silence * 1000}
hosts:
  default:
    paths:
      /canary: { status: ON }
      /: { proxy.reverse.url: "http://127.0.0.1:${app}/" }
`,
    command: ['-c', `${directory}/h2o.yaml`]
  }),
  passes: { upgrade: false, 'half-close': false, reset: false, websocket: true, connect: false, body: false, 'failed body': false },
  silence: 'proxy.websocket.timeout'
}]

async function run (lab: Lab): Promise<void> {
  for (const { peer, http2 = false, configure, passes, silence } of proxies) {
    if (!lab.has(peer)) {
      await lab.check(peer, 'in front of an app', async () => {})
      continue
    }
    const { port: app, canaries } = await serve(lab, http2)
    const start = async (silence: number, path: string): Promise<number> => {
      const front = await unusedPort()
      const directory = await lab.directory()
      const { file, text, command } = configure({ front, app, silence }, directory)
      await mkdir(join(directory, 'work'))
      await writeFile(join(directory, file), text)
      await lab.server(path, command, front, { cwd: directory })
      return front
    }
    let front = 0
    await lab.check(peer, 'starts with the configuration', async path => { front = await start(3600, path) })
    for (const way of ['upgrade', 'websocket', 'half-close', 'reset', 'connect', 'body', 'failed body'] as const) {
      await lab.check(peer, `${way}: ${passes[way] ? 'passes' : 'does not pass'}`, async () => {
        let failure: unknown
        const works = await ways[way](front).then(() => true, error => {
          failure = error
          return false
        })
        assert.equal(works, passes[way], String(failure))
      })
    }
    if (silence !== undefined) {
      await lab.check(peer, `${silence} ends a connection that is silent`, async path => {
        const impatient = await start(1, path)
        if (passes.upgrade) {
          const client = await Client.open(impatient)
          client.socket.write(upgrade('/echo'))
          await client.until(/^HTTP\/1\.1 101 [^]*\r\n\r\n/)
          await client.over()
        } else {
          await once(await webSocket(impatient), 'close')
        }
      })
    }
    await lab.check(peer, 'what follows a refused upgrade never reaches the app past the rules of the proxy', async () => {
      for (const together of [true, false]) {
        const client = await Client.open(front)
        client.socket.write(`${upgrade('/refused')}${together ? CANARY : ''}`)
        assert.match(await client.until(/^HTTP\/1\.1 (\d+) [^\r]*\r\n/), / (?:403|4\d\d) /)
        if (!together) client.socket.write(CANARY)
        // No event tells of what must not come.
        await new Promise(resolve => setTimeout(resolve, 300))
        client.socket.destroy()
      }
      assert.equal(await canaries(), 0)
    })
    await lab.check(peer, 'nor does what follows an ignored Upgrade', async () => {
      for (const ignored of IGNORED) {
        for (const together of [true, false]) {
          const client = await Client.open(front)
          client.socket.write(`${ignored}${together ? CANARY : ''}`)
          await client.until(/^HTTP\/1\.1 (\d+) [^\r]*\r\n/)
          if (!together) client.socket.write(CANARY)
          // No event tells of what must not come.
          await new Promise(resolve => setTimeout(resolve, 300))
          client.socket.destroy()
          assert.equal(await canaries(), 0, ignored)
        }
      }
    })
  }
}

const CANARY = 'GET /canary HTTP/1.1\r\nHost: localhost\r\n\r\n'

const ask = (line: string, ...fields: string[]): string => [`${line} HTTP/1.1`, 'Host: localhost', ...fields, '', ''].join('\r\n')

/** Requests whose Upgrade the app ignores, and answers with a connection that goes on. */
const IGNORED: readonly string[] = [
  ask('GET /plain', 'Connection: Upgrade', 'Upgrade: echo'),
  ask('GET /plain', 'Connection: Upgrade', 'Upgrade: h2c'),
  ask('GET /plain', 'Upgrade: echo'),
  ask('HEAD /echo', 'Connection: Upgrade', 'Upgrade: echo'),
  ask('GET /echo', 'Upgrade: echo'),
  ask('GET /echo', 'Connection: close, x-upgrade', 'Upgrade: echo'),
  ask('GET /echo', 'Proxy-Connection: Upgrade', 'Upgrade: echo'),
  ask('POST /echo', 'Connection: Upgrade', 'Upgrade: other', 'Content-Length: 4') + 'BODY',
  ask('POST /echo', 'Connection: Upgrade', 'Upgrade: h2c', 'Content-Length: 4') + 'BODY',
  ask('GET /nowhere', 'Connection: Upgrade', 'Upgrade: echo')
]

const upgrade = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`

const ways: Readonly<Record<Way, (port: number) => Promise<void>>> = {
  async upgrade (port) {
    const client = await Client.open(port)
    client.socket.write(upgrade('/echo'))
    await client.until(/^HTTP\/1\.1 101 [^]*\r\n\r\n/)
    for (const word of ['one', 'two', 'x'.repeat(1000)]) {
      client.socket.write(word)
      await client.until(new RegExp(`^${word}`))
    }
    client.socket.destroy()
  },
  /** A client of its own kind, which wants the handshake to be right. */
  async websocket (port) {
    const socket = await webSocket(port)
    const messages = on(socket, 'message')
    for (const word of ['one', 'two', 'x'.repeat(1000)]) {
      socket.send(word)
      assert.equal(String((await messages.next()).value[0]), word)
    }
    const closed = once(socket, 'close')
    socket.close(1000)
    assert.equal((await closed)[0], 1000)
  },
  /** A handler that fails when half of the stream is there, which is not to look complete. */
  async reset (port) {
    const client = await Client.open(port)
    client.socket.write(upgrade('/fails'))
    await client.until(/^HTTP\/1\.1 101 [^]*\r\n\r\nhalf of it/)
    client.socket.write('go on')
    await client.over()
    assert.ok(client.failed, 'it looks like an end')
  },
  /** The client ends its side, and then the app answers. */
  async 'half-close' (port) {
    const client = await Client.open(port)
    client.socket.write(upgrade('/count'))
    await client.until(/^HTTP\/1\.1 101 [^]*\r\n\r\n/)
    client.socket.end('hello')
    await client.until(/^5 bytes/)
  },
  async connect (port) {
    const client = await Client.open(port)
    client.socket.write('CONNECT echo.example:7 HTTP/1.1\r\nHost: echo.example:7\r\n\r\n')
    await client.until(/^HTTP\/1\.1 200 [^]*\r\n\r\n/)
    client.socket.write('hello')
    await client.until(/^hello/)
    client.socket.destroy()
  },
  /** Each chunk comes back before the next is sent. */
  async body (port) {
    const client = await Client.open(port)
    client.socket.write('POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n')
    for (const word of ['one', 'two']) {
      client.socket.write(`3\r\n${word}\r\n`)
      await client.until(new RegExp(`${word}`))
    }
    client.socket.write('0\r\n\r\n')
    await client.until(/0\r\n\r\n/)
    client.socket.destroy()
  },
  /** A response that comes to no end does not look complete. */
  async 'failed body' (port) {
    const client = await Client.open(port)
    client.socket.write('POST /fails HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\ngo on')
    // A proxy that never ends it will not do either, but that is no end.
    await Promise.race([client.over(), new Promise(resolve => setTimeout(resolve, PATIENCE))])
    client.socket.destroy()
    assert.doesNotMatch(client.text, /^HTTP\/1\.1 200 [^]*\r\n0\r\n\r\n$/)
  }
}

/** What is used of `ws`. */
interface WebSocket extends EventEmitter {
  send: (text: string) => void
  close: (code: number) => void
}

async function webSocket (port: number): Promise<WebSocket> {
  const { WebSocket } = load<{ WebSocket: new (url: string, options: object) => WebSocket }>('ws')
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws`, { handshakeTimeout: PATIENCE, perMessageDeflate: false })
  await once(socket, 'open')
  return socket.on('error', () => {})
}

/** A raw client, which waits for what is to come for a while. */
class Client {
  readonly socket: net.Socket
  /** The connection broke. */
  failed = false
  #text = ''
  #over = false
  #wake: () => void = () => {}

  static async open (port: number): Promise<Client> {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    await once(socket, 'connect')
    return new Client(socket)
  }

  constructor (socket: net.Socket) {
    this.socket = socket
    const over = (): void => {
      this.#over = true
      this.#wake()
    }
    socket.setEncoding('latin1').on('data', (text: string) => {
      this.#text += text
      this.#wake()
    }).on('end', over).on('close', over).on('error', () => {
      this.failed = true
      over()
    })
  }

  /** What came and was not taken. */
  get text (): string {
    return this.#text
  }

  async over (): Promise<void> {
    this.socket.resume()
    while (!this.#over) await new Promise<void>(resolve => { this.#wake = resolve })
  }

  async until (what: RegExp): Promise<string> {
    const deadline = setTimeout(() => { this.socket.destroy() }, PATIENCE)
    try {
      for (;;) {
        const match = what.exec(this.#text)
        if (match !== null) {
          this.#text = this.#text.slice(match.index + match[0].length)
          return match[0]
        }
        if (this.#over) throw new Error(`no ${String(what).slice(0, 50)} after ${JSON.stringify(this.#text.slice(0, 300))}`)
        await new Promise<void>(resolve => { this.#wake = resolve })
      }
    } finally {
      clearTimeout(deadline)
    }
  }
}

async function serve (lab: Lab, http2: boolean): Promise<{ port: number, canaries: () => Promise<number> }> {
  const app = Fastify({ http2 } as FastifyServerOptions) as FastifyInstance
  await app.register(duplex, { drainTimeout: 200, ...(http2 ? { extendedConnect: true } : {}) })
  const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)
  app.route({ method: ['GET', 'POST'], url: '/echo', duplex: { kinds: ['upgrade', 'body'], protocols: ['echo'] }, handler: echo })
  app.connect('*', { duplex: true }, echo)
  app.get('/count', { duplex: { protocols: ['echo'] } }, async ({ readable, writable }) => {
    let count = 0
    for await (const chunk of readable as AsyncIterable<Buffer>) count += chunk.length
    writable.write(`${count} bytes\n`)
  })
  const fail = async ({ readable, writable }: DuplexConnection): Promise<void> => {
    writable.write('half of it')
    await once(readable, 'data')
    throw new Error('half of it is all there is')
  }
  app.route({ method: ['GET', 'POST'], url: '/fails', duplex: { kinds: ['upgrade', 'body'], protocols: ['echo'] }, handler: fail })
  app.get('/ws', { duplex: { kinds: ['upgrade'], protocols: ['websocket'], accept: 'manual' } }, async (pending, { headers }) => {
    const key = headers['sec-websocket-key']
    const { readable, writable } = await pending.accept({ headers: key === undefined ? {} : { 'sec-websocket-accept': acceptKey(key) } })
    for await (const { opcode, payload } of frames(readable)) {
      writable.write(frame(opcode, payload))
      if (opcode === CLOSE) return
    }
  })
  app.get('/refused', {
    duplex: { protocols: ['echo'] },
    onRequest: async () => { throw Object.assign(new Error('not for you'), { statusCode: 403 }) }
  }, echo)
  app.get('/plain', async () => 'plain')
  let canaries = 0
  app.get('/canary', async () => { canaries++ })
  await app.listen({ port: 0, host: '127.0.0.1' })
  lab.defer(() => app.close())
  const seen = async (): Promise<number> => {
    const before = canaries
    await app.inject('/canary')
    assert.equal(canaries, before + 1, 'it would have been seen')
    canaries = 0
    return before
  }
  return { port: (app.server.address() as AddressInfo).port, canaries: seen }
}

/** RFC 6455 section 4.2.2. Over HTTP/2 there is none. */
function acceptKey (key: string): string {
  return createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
}

const group: Group = { title: 'Proxies', peers: [...proxies.map(({ peer }) => peer), ws], run }

export default group
