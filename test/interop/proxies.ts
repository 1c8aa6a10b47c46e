// Proxies in front of an app, each with the configuration of docs/behind-a-proxy.md: what passes through
// them, what does not, and that a refused upgrade leaves no way past the rules of the proxy.
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import net, { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import duplex, { type DuplexConnection } from '../../lib/index.ts'
import { haproxy, nginx, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'

const PATIENCE = 5000

type Way = 'upgrade' | 'half-close' | 'connect' | 'message'

interface Proxy {
  peer: Peer
  /** What speaks HTTP/2 to the app: an Upgrade of the client then arrives as an extended CONNECT. */
  http2?: boolean
  /** The file, and the arguments. `/canary` is refused by the proxy itself. */
  configure: (ports: { front: number, app: number }, directory: string) => { file: string, text: string, command: readonly string[] }
  passes: Readonly<Record<Way, boolean>>
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
  configure: ({ front, app }, directory) => ({
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
      proxy_read_timeout 1h;
    }
  }
}
`,
    command: ['-c', `${directory}/nginx.conf`]
  }),
  passes: { upgrade: true, 'half-close': false, connect: false, message: true }
}, ...([[haproxy, ''], [haproxy2, ' proto h2']] as const).map(([peer, proto]): Proxy => ({
  peer,
  http2: proto !== '',
  configure: ({ front, app }, directory) => ({
    file: 'haproxy.cfg',
    text: `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
frontend front
  bind 127.0.0.1:${front}
  http-request deny if { path_beg /canary }
  default_backend app
backend app
  server app1 127.0.0.1:${app}${proto}
`,
    command: ['-db', '-f', `${directory}/haproxy.cfg`]
  }),
  passes: { upgrade: true, 'half-close': true, connect: true, message: true }
})), {
  peer: caddy,
  configure: ({ front, app }, directory) => ({
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
  passes: { upgrade: true, 'half-close': false, connect: false, message: false }
}, {
  peer: apache,
  configure: ({ front, app }, directory) => ({
    file: 'apache.conf',
    text: `
ServerRoot ${directory}
ServerName localhost
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
ProxyPass "/" "http://127.0.0.1:${app}/" upgrade=ANY flushpackets=on timeout=3600
`,
    command: ['-X', '-f', `${directory}/apache.conf`]
  }),
  passes: { upgrade: true, 'half-close': true, connect: false, message: false }
}, ...([[nghttpx, 'http/1.1'], [nghttpx2, 'h2']] as const).map(([peer, proto]): Proxy => ({
  peer,
  http2: proto === 'h2',
  configure: ({ front, app }, directory) => ({
    file: 'nghttpx.conf',
    text: `
frontend=127.0.0.1,${front};no-tls
backend=127.0.0.1,${app};/;proto=${proto}
backend=127.0.0.1,9;/canary;proto=${proto}
workers=1
errorlog-file=/dev/stderr
accesslog-file=/dev/null
`,
    command: [`--conf=${directory}/nghttpx.conf`]
  }),
  // To the app it speaks CONNECT over HTTP/2, but does not know extended CONNECT: an Upgrade is dropped.
  passes: { upgrade: proto !== 'h2', 'half-close': false, connect: true, message: true }
})), {
  peer: varnish,
  configure: ({ front, app }, directory) => ({
    file: 'default.vcl',
    text: `
vcl 4.1;
backend app { .host = "127.0.0.1"; .port = "${app}"; }
sub vcl_recv {
  if (req.url ~ "^/canary") { return (synth(403)); }
  if (req.http.upgrade) { return (pipe); }
  return (pass);
}
sub vcl_pipe {
  if (req.http.upgrade) {
    set bereq.http.upgrade = req.http.upgrade;
    set bereq.http.connection = req.http.connection;
  }
}
sub vcl_backend_response { set beresp.do_stream = true; }
`,
    command: ['-F', '-j', 'none', '-a', `127.0.0.1:${front}`, '-f', `${directory}/default.vcl`, '-n', `${directory}/work`, '-p', 'pipe_timeout=3600']
  }),
  passes: { upgrade: true, 'half-close': true, connect: false, message: false }
}, {
  peer: h2o,
  configure: ({ front, app }, directory) => ({
    file: 'h2o.yaml',
    text: `
user: root
listen: { host: 127.0.0.1, port: ${front} }
proxy.websocket: ON
proxy.timeout.io: 3600000
hosts:
  default:
    paths:
      /canary: { status: ON }
      /: { proxy.reverse.url: "http://127.0.0.1:${app}/" }
`,
    command: ['-c', `${directory}/h2o.yaml`]
  }),
  passes: { upgrade: false, 'half-close': false, connect: false, message: false }
}]

async function run (lab: Lab): Promise<void> {
  for (const { peer, http2 = false, configure, passes } of proxies) {
    if (!lab.has(peer)) {
      await lab.check(peer, 'in front of an app', async () => {})
      continue
    }
    const { port: app, canaries } = await serve(lab, http2)
    const front = await unusedPort()
    const directory = await lab.directory()
    const { file, text, command } = configure({ front, app }, directory)
    await mkdir(join(directory, 'work'))
    await writeFile(join(directory, file), text)
    await lab.check(peer, 'starts with the configuration', async path => {
      await lab.server(path, command, front, { cwd: directory })
    })
    for (const way of ['upgrade', 'half-close', 'connect', 'message'] as const) {
      await lab.check(peer, `${way}: ${passes[way] ? 'passes' : 'does not pass'}`, async () => {
        let failure: unknown
        const works = await ways[way](front).then(() => true, error => {
          failure = error
          return false
        })
        assert.equal(works, passes[way], String(failure))
      })
    }
    await lab.check(peer, 'what follows a refused upgrade never reaches the app past the rules of the proxy', async () => {
      const canary = 'GET /canary HTTP/1.1\r\nHost: localhost\r\n\r\n'
      for (const together of [true, false]) {
        const client = await Client.open(front)
        client.socket.write(`${upgrade('/refused')}${together ? canary : ''}`)
        assert.match(await client.until(/^HTTP\/1\.1 (\d+) [^\r]*\r\n/), / (?:403|4\d\d) /)
        if (!together) client.socket.write(canary)
        // No event tells of what must not come.
        await new Promise(resolve => setTimeout(resolve, 300))
        client.socket.destroy()
      }
      assert.equal(await canaries(), 0)
    })
  }
}

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
  async message (port) {
    const client = await Client.open(port)
    client.socket.write('POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n')
    for (const word of ['one', 'two']) {
      client.socket.write(`3\r\n${word}\r\n`)
      await client.until(new RegExp(`${word}`))
    }
    client.socket.write('0\r\n\r\n')
    await client.until(/0\r\n\r\n/)
    client.socket.destroy()
  }
}

/** A raw client, which waits for what is to come for a while. */
class Client {
  readonly socket: net.Socket
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
    }).on('end', over).on('close', over).on('error', over)
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
  app.route({ method: ['GET', 'POST'], url: '/echo', duplex: { kinds: ['upgrade', 'message'], protocols: ['echo'] }, handler: echo })
  app.connect('*', { duplex: true }, echo)
  app.get('/count', { duplex: { protocols: ['echo'] } }, async ({ readable, writable }) => {
    let count = 0
    for await (const chunk of readable as AsyncIterable<Buffer>) count += chunk.length
    writable.write(`${count} bytes\n`)
  })
  app.get('/refused', {
    duplex: { protocols: ['echo'] },
    onRequest: async () => { throw Object.assign(new Error('not for you'), { statusCode: 403 }) }
  }, echo)
  let canaries = 0
  app.get('/canary', async () => { canaries++ })
  await app.listen({ port: 0, host: '127.0.0.1' })
  lab.defer(() => app.close())
  const seen = async (): Promise<number> => {
    const before = canaries
    await app.inject('/canary')
    assert.equal(canaries, before + 1, 'it would have been seen')
    return before
  }
  return { port: (app.server.address() as AddressInfo).port, canaries: seen }
}

const group: Group = { title: 'Proxies', peers: [...proxies.map(({ peer }) => peer)], run }

export default group
