// `forward` in front of servers that are not ours: examples/gateway before socket.io, graphql-ws, Yjs and Jupyter; vite with a
// browser, over HTTP/1 and HTTP/2; and a proxy of CONNECT behind ours.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import http from 'node:http'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import { dirname, join } from 'node:path'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { buildSchema } from 'graphql'
import { createClient } from 'graphql-ws'
import { useServer } from 'graphql-ws/use/ws'
import { Server as SocketServer } from 'socket.io'
import { io } from 'socket.io-client'
import { createServer as createVite, type ViteDevServer } from 'vite'
import { WebSocket, WebSocketServer } from 'ws'
import duplex from '../../lib/index.ts'
import { cert, key } from '../fixtures/certificate.ts'
import { tokenFor } from '../fixtures/tokens.ts'
import {
  bytes, chromium, curl, exits, launch, load, playwright, sha256, unusedPort, type Group, type Lab, type Page, type Peer
} from './lab/index.ts'

const MB = 1024 * 1024
const blob = randomBytes(4 * MB)

const vite: Peer = { name: 'vite', required: true, dependency: 'vite' }
const socketIo: Peer = { name: 'socket.io', required: true, dependency: 'socket.io' }
const graphqlWs: Peer = { name: 'graphql-ws', required: true, dependency: 'graphql-ws' }
// The last that has the server and the client for one version of Yjs.
const yWebsocket: Peer = { name: 'y-websocket', required: true, npm: 'y-websocket@2' }
const yjs: Peer = { name: 'Yjs', required: true, npm: 'yjs@13' }
const jupyter: Peer = {
  name: 'jupyter-server', required: true, debian: ['jupyter-server'], command: '/usr/bin/jupyter-server', version: ['--version']
}
const ipykernel: Peer = {
  name: 'ipykernel', required: true, debian: ['python3-ipykernel'], command: '/usr/share/jupyter/kernels/python3/kernel.json'
}
const tinyproxy: Peer = { name: 'tinyproxy', required: true, debian: ['tinyproxy-bin'], command: '/usr/bin/tinyproxy', version: ['-v'] }

async function run (lab: Lab): Promise<void> {
  await gateway(lab)
  for (const version of ['1.1', '2.0'] as const) await browser(lab, version)
  await chain(lab)
}

/** What a client of the gateway needs. */
interface Door {
  port: number
  token: string
}

async function gateway (lab: Lab): Promise<void> {
  const ports = {
    io: await serveSocketIo(lab), graphql: await serveGraphql(lab), yjs: await serveYjs(lab), jupyter: await serveJupyter(lab)
  }
  const apps = Object.fromEntries(Object.entries(ports).map(([name, port]) => [name, `http://127.0.0.1:${port}`]))
  const program = await lab.example('gateway', { SECRET: 'secret', APPS: JSON.stringify(apps) })
  const door = { port: program.port, token: tokenFor(Object.keys(apps)) }

  for (const transports of [['polling'], ['websocket'], ['polling', 'websocket']]) {
    await lab.check(socketIo, `through the gateway, by ${transports.join(', then ')}: acknowledged, pushed, ${blob.length / MB} MB there and back`, () =>
      talkSocketIo(door, transports))
  }
  await lab.check(socketIo, 'through the gateway, without a token: refused', async () => {
    const socket = io(`http://localhost:${door.port}`, { path: '/apps/io/socket.io/', transports: ['websocket'], reconnection: false })
    const [error] = await once(socket as never, 'connect_error') as [Error]
    assert.match(error.message, /websocket error/)
  })
  await lab.check(graphqlWs, 'through the gateway: queries with 256 KB of variables, a subscription that answers each, one that ends early', () => talkGraphql(door))
  await lab.check(yWebsocket, 'through the gateway: two editors of one document, 256 KB of it, and who is there', () => talkYjs(lab, door))
  await lab.check(jupyter, `through the gateway: a notebook of ${blob.length / MB} MB up and down, a kernel that runs code, and is interrupted`, () => talkJupyter(door))

  await lab.ours('examples/gateway', 'every connection over, no error in its log, and exit code 0', async () => {
    assert.equal(await program.stop(), 0)
    const errors = program.output().split('\n').filter(line => /"level":(?:50|60)/.test(line) && !/FST_ERR_DUPLEX_ABORTED/.test(line))
    assert.deepEqual(errors, [])
  })
}

async function serveSocketIo (lab: Lab): Promise<number> {
  const server = http.createServer()
  const sockets = new SocketServer(server, { maxHttpBufferSize: 2 * blob.length })
  sockets.on('connection', socket => {
    socket.on('echo', (value: unknown, acknowledge: (value: unknown) => void) => acknowledge(value))
    socket.on('subscribe', (count: number) => { for (let at = 0; at < count; at++) socket.emit('news', at) })
    socket.on('disconnect', () => {})
  })
  lab.defer(() => sockets.close())
  return await lab.listening(server)
}

async function talkSocketIo ({ port, token }: Door, transports: string[]): Promise<void> {
  const socket = io(`http://localhost:${port}`, { path: '/apps/io/socket.io/', query: { token }, transports, forceNew: true, reconnection: false })
  try {
    await new Promise<void>((resolve, reject) => {
      socket.on('connect', resolve)
      socket.on('connect_error', reject)
    })
    const { engine } = socket.io
    if (transports.length > 1 && engine.transport.name === 'polling') await new Promise(resolve => engine.once('upgrade', resolve))
    assert.equal(engine.transport.name, transports.at(-1))
    const text = 'h\u00e9, \u{1f600}'
    assert.equal(await socket.emitWithAck('echo', text), text)
    assert.equal(sha256(await socket.emitWithAck('echo', blob) as Buffer), sha256(blob))
    const news: number[] = []
    const all = new Promise<void>(resolve => {
      socket.on('news', (value: number) => { if (news.push(value) === 100) resolve() })
    })
    socket.emit('subscribe', 100)
    await all
    assert.deepEqual(news, Array.from({ length: 100 }, (_, at) => at))
  } finally {
    socket.disconnect()
  }
}

async function serveGraphql (lab: Lab): Promise<number> {
  const server = http.createServer((_req, res) => res.writeHead(404).end())
  const sockets = new WebSocketServer({ server, path: '/graphql' })
  const served = useServer({
    schema: buildSchema('type Query { digest(text: String!): String! } type Subscription { count(to: Int!): Int! }'),
    roots: {
      query: { digest: ({ text }: { text: string }) => sha256(text) },
      subscription: {
        async * count ({ to }: { to: number }) { for (let count = 1; count <= to; count++) yield { count } }
      }
    }
  }, sockets)
  lab.defer(() => served.dispose())
  return await lab.listening(server)
}

async function talkGraphql ({ port, token }: Door): Promise<void> {
  const client = createClient({ url: `ws://localhost:${port}/apps/graphql/graphql?token=${token}`, webSocketImpl: WebSocket, retryAttempts: 0 })
  const text = blob.toString('base64', 0, 192 * 1024)
  const results = async <T>(query: string, variables: Record<string, unknown>, most = Infinity): Promise<T[]> => {
    const values: T[] = []
    for await (const { data, errors } of client.iterate<T>({ query, variables })) {
      assert.equal(errors, undefined)
      if (values.push(data as T) === most) break
    }
    return values
  }
  const query = 'query ($text: String!) { digest(text: $text) }'
  const subscription = 'subscription ($to: Int!) { count(to: $to) }'
  const [digests, counts, few] = await Promise.all([
    results<{ digest: string }>(query, { text }),
    results<{ count: number }>(subscription, { to: 500 }),
    results<{ count: number }>(subscription, { to: 1e9 }, 3)
  ])
  assert.deepEqual(digests.map(({ digest }) => digest), [sha256(text)])
  assert.deepEqual(counts.map(({ count }) => count), Array.from({ length: 500 }, (_, at) => at + 1))
  assert.deepEqual(few.map(({ count }) => count), [1, 2, 3])
  await client.dispose()
}

interface Yjs {
  Doc: new () => YDocument
}

interface YDocument {
  getText: (name: string) => { insert: (at: number, text: string) => void, toString: () => string, length: number }
  on: (event: 'update', listener: () => void) => void
}

interface Awareness {
  clientID: number
  getStates: () => Map<number, { name?: string }>
  setLocalStateField: (name: string, value: unknown) => void
  on: (event: 'change', listener: () => void) => void
}

interface Provider {
  awareness: Awareness
  once: (event: 'sync', listener: () => void) => void
  destroy: () => void
}

interface YWebsocket {
  WebsocketProvider: new (url: string, room: string, document: YDocument, options: object) => Provider
}

async function serveYjs (lab: Lab): Promise<number> {
  const port = await unusedPort()
  await lab.check(yWebsocket, 'its server starts', async manifest => {
    await lab.server(process.execPath, [join(dirname(manifest), 'bin/server.cjs')], port, { env: { HOST: '127.0.0.1', PORT: String(port) } })
  })
  return port
}

async function talkYjs (lab: Lab, { port, token }: Door): Promise<void> {
  assert.ok(lab.has(yjs))
  const { Doc } = load<Yjs>('yjs')
  const { WebsocketProvider } = load<YWebsocket>('y-websocket')
  const editors = ['ada', 'bob'].map(name => {
    const document = new Doc()
    // Two of one process would tell each other past the server.
    const provider = new WebsocketProvider(`ws://localhost:${port}/apps/yjs`, 'room', document, { params: { token }, WebSocketPolyfill: WebSocket, disableBc: true })
    lab.defer(() => provider.destroy())
    provider.awareness.setLocalStateField('name', name)
    return { document, provider, text: document.getText('text') }
  })
  const [ada, bob] = editors as [typeof editors[number], typeof editors[number]]
  const sees = ({ document, provider }: typeof ada, holds: () => boolean): Promise<void> => new Promise(resolve => {
    const look = (): void => { if (holds()) resolve() }
    document.on('update', look)
    provider.awareness.on('change', look)
    look()
  })
  const page = blob.toString('base64', 0, 192 * 1024)
  ada.text.insert(0, page)
  await sees(bob, () => bob.text.length === page.length)
  assert.equal(sha256(bob.text.toString()), sha256(page))
  for (let at = 0; at < 20; at++) bob.text.insert(bob.text.length, `${at};`)
  const end = page + Array.from({ length: 20 }, (_, at) => `${at};`).join('')
  await sees(ada, () => ada.text.length === end.length)
  assert.equal(sha256(ada.text.toString()), sha256(end))
  const names = ({ provider }: typeof ada): string => [...provider.awareness.getStates().values()].map(({ name }) => name).sort().join()
  await Promise.all(editors.map(editor => sees(editor, () => names(editor) === 'ada,bob')))
  for (const { provider } of editors) provider.destroy()
}

async function serveJupyter (lab: Lab): Promise<number> {
  const port = await unusedPort()
  const home = await lab.directory()
  await lab.check(jupyter, 'starts', async command => {
    const config = [
      `--port=${port}`, '--port-retries=0', '--ip=127.0.0.1', '--no-browser', '--allow-root', `--notebook-dir=${home}`,
      // The gateway says who may; and no browser is here whose pages it had to keep apart.
      '--IdentityProvider.token=', '--ServerApp.token=', '--ServerApp.password=', '--ServerApp.disable_check_xsrf=True', '--ServerApp.open_browser=False'
    ]
    await lab.server(command, config, port, { env: { HOME: home, JUPYTER_RUNTIME_DIR: home, PYTHONDONTWRITEBYTECODE: '1' }, cwd: home })
  })
  return port
}

interface KernelMessage {
  channel: string
  header: { msg_type: string }
  parent_header: { msg_id?: string }
  content: Record<string, unknown>
}

async function talkJupyter ({ port, token }: Door): Promise<void> {
  const ask = async (method: string, path: string, body?: unknown): Promise<{ status: number, data: Buffer }> => {
    const request = http.request({ host: 'localhost', port, method, path: `/apps/jupyter${path}`, headers: { authorization: `Bearer ${token}` } })
    request.end(body === undefined ? undefined : JSON.stringify(body))
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    return { status: response.statusCode as number, data: await bytes(response) }
  }
  const put = await ask('PUT', '/api/contents/data.bin', { type: 'file', format: 'base64', content: blob.toString('base64') })
  assert.equal(put.status, 201, String(put.data))
  assert.equal(sha256((await ask('GET', '/files/data.bin')).data), sha256(blob))

  const { id } = JSON.parse(String((await ask('POST', '/api/kernels', { name: 'python3' })).data)) as { id: string }
  const socket = new WebSocket(`ws://localhost:${port}/apps/jupyter/api/kernels/${id}/channels?token=${token}`)
  await once(socket, 'open')
  let latest = 0
  const started: string[] = []
  let wake = (): void => {}
  /** What the kernel prints, and how it ends. */
  const execute = (code: string): Promise<{ printed: string, status: unknown }> => new Promise((resolve, reject) => {
    const msgId = `message-${++latest}`
    let printed = ''
    let status: unknown
    let idle = false
    const hear = (data: Buffer): void => {
      const { header, parent_header: { msg_id: of }, content } = JSON.parse(String(data)) as KernelMessage
      if (of !== msgId) return
      if (header.msg_type === 'stream') {
        printed += String(content.text)
        if (printed.includes('begun')) {
          started.push(msgId)
          wake()
        }
      }
      if (header.msg_type === 'execute_reply') status = content.status
      if (header.msg_type === 'status' && content.execution_state === 'idle') idle = true
      if (!idle || status === undefined) return
      socket.off('message', hear)
      resolve({ printed, status })
    }
    socket.on('message', hear).once('close', code => reject(new Error(`closed with ${code}`)))
    socket.send(JSON.stringify({
      channel: 'shell',
      header: { msg_id: msgId, msg_type: 'execute_request', username: 'alice', session: 'session', version: '5.3' },
      parent_header: {},
      metadata: {},
      content: { code, silent: false, store_history: true, user_expressions: {}, allow_stdin: false, stop_on_error: true }
    }))
  })
  assert.deepEqual(await execute('print(6 * 7)'), { printed: '42\n', status: 'ok' })
  const text = blob.toString('base64', 0, 96 * 1024)
  const long = await execute(`import hashlib\ntext = ${JSON.stringify(text)}\nprint(hashlib.sha256(text.encode()).hexdigest())\nprint(text, end='')`)
  assert.deepEqual(long, { printed: `${sha256(text)}\n${text}`, status: 'ok' })
  const endless = execute('import time\nprint("begun", flush=True)\nwhile True: time.sleep(0.01)')
  while (started.length === 0) await new Promise<void>(resolve => { wake = resolve })
  assert.equal((await ask('POST', `/api/kernels/${id}/interrupt`)).status, 204)
  assert.equal((await endless).status, 'error')
  socket.close()
  await once(socket, 'close')
  assert.equal((await ask('DELETE', `/api/kernels/${id}`)).status, 204)
}

/** vite behind a route, with a browser before it, whose page and WebSockets come over one version of HTTP or the other. */
async function browser (lab: Lab, version: '1.1' | '2.0'): Promise<void> {
  const over = version === '1.1' ? 'over HTTP/1' : 'over HTTP/2'
  const directory = await lab.directory()
  const dev = await serveVite(lab, directory)
  const echo = await serveEcho(lab)
  const front = await serveFront(lab, version, dev.config.server.port, echo.port)
  const origin = `${version === '1.1' ? 'http' : 'https'}://localhost:${front.port}`
  const open = async (path: string, url: string): Promise<Page> => {
    assert.ok(lab.has(playwright))
    const context = await launch(lab, path, ['--ignore-certificate-errors'])
    const page = await context.newPage()
    await page.goto(url)
    return page
  }

  await lab.check(vite, `behind forward, Chromium ${over}: HMR both ways; a file that changes changes the page, which is not loaded again`, async () => {
    const page = await open(chromium.command as string, `${origin}/vite/`)
    const shown = page.locator('#shown')
    await shown.filter({ hasText: 'one and two' }).waitFor()
    await page.waitForFunction('window.answered === "heard: hello"')
    // The watcher may miss a second change of one file that comes soon.
    for (const [name, shows] of [['one', 'new one and two'], ['two', 'new one and new two']] as const) {
      await writeFile(join(directory, `${name}.js`), `export const text = 'new ${name}'\n`)
      await shown.filter({ hasText: shows }).waitFor()
    }
    assert.equal(await page.evaluate('window.loads'), 1)
    await page.close()
    // All of it has passed the front, its WebSocket too, by the version of the page.
    await front.until(() => front.ended.some(({ protocol }) => protocol === 'websocket'))
    assert.deepEqual([...new Set(front.ended.map(({ version }) => version))], [version])
  })
  await lab.check(chromium, `WebSocket ${over} to an HTTP/1 upstream: text, 100 KB, a subprotocol, a close code of the server`, async path => {
    const page = await open(path, `${origin}/vite/`)
    const result = await page.evaluate(`new Promise((resolve, reject) => {
      const ws = new WebSocket('${origin.replace('http', 'ws')}/echo?code=4321', ['chat', 'other'])
      const got = []
      ws.onopen = () => { ws.send('hello'); ws.send('x'.repeat(100000)) }
      ws.onmessage = ({ data }) => { got.push(data.length); if (got.length === 2) ws.send('close') }
      ws.onerror = () => reject(new Error('error'))
      ws.onclose = ({ code, reason, wasClean }) => resolve(JSON.stringify([got, ws.protocol, code, reason, wasClean]))
    })`)
    assert.equal(result, '[[5,100000],"chat",4321,"as you said",true]')
    assert.deepEqual(echo.seen.splice(0), ['GET HTTP/1.1 /echo?code=4321'])
    await page.close()
  })
  await lab.check(chromium, `WebSocket ${over}, refused by the upstream: an error, and never open`, async path => {
    const page = await open(path, `${origin}/vite/`)
    const result = await page.evaluate(`new Promise(resolve => {
      const ws = new WebSocket('${origin.replace('http', 'ws')}/refused')
      ws.onopen = () => resolve('open')
      ws.onclose = event => resolve(event.code)
    })`)
    assert.equal(result, 1006)
    await page.close()
  })
  await lab.check(chromium, `Server-Sent Events ${over}: each as it comes, then gone with the page`, async path => {
    const page = await open(path, `${origin}/vite/`)
    const result = await page.evaluate(`new Promise((resolve, reject) => {
      const events = new EventSource('/events')
      const got = []
      events.onmessage = ({ data }) => {
        got.push(data)
        if (got.length === 3) { events.close(); resolve(got.join()) }
        else void fetch('/next', { method: 'POST' })
      }
      events.onerror = () => reject(new Error('error'))
    })`)
    assert.equal(result, 'event 1,event 2,event 3')
    await echo.eventsOver()
    await page.close()
  })
  await lab.ours('fastify-duplex', `forward, ${over}: no connection left, and the front closes`, async () => {
    await front.until(() => front.app.duplex.connections.size === 0)
    await front.app.close()
  })
}

async function serveVite (lab: Lab, root: string): Promise<ViteDevServer> {
  await mkdir(root, { recursive: true })
  await writeFile(join(root, 'index.html'), '<!doctype html><p id="shown"></p><script type="module" src="/main.js"></script>')
  for (const name of ['one', 'two']) await writeFile(join(root, `${name}.js`), `export const text = '${name}'\n`)
  await writeFile(join(root, 'main.js'), `
import { text as one } from './one.js'
import { text as two } from './two.js'
window.loads = (window.loads ?? 0) + 1
const texts = { one, two }
const show = () => { document.querySelector('#shown').textContent = texts.one + ' and ' + texts.two }
show()
import.meta.hot.accept('./one.js', ({ text }) => { texts.one = text; show() })
import.meta.hot.accept('./two.js', ({ text }) => { texts.two = text; show() })
import.meta.hot.on('answer', text => { window.answered = text })
import.meta.hot.send('ask', 'hello')
`)
  const dev = await createVite({
    root, base: '/vite/', configFile: false, envFile: false, logLevel: 'silent', optimizeDeps: { noDiscovery: true }, server: { port: await unusedPort(), strictPort: true, host: '127.0.0.1' }
  })
  dev.ws.on('ask', (text: string, client: { send: (event: string, data: string) => void }) => client.send('answer', `heard: ${text}`))
  await dev.listen()
  lab.defer(() => dev.close())
  return dev
}

interface Echo {
  port: number
  /** The requests of WebSockets that it has got. */
  seen: string[]
  /** Resolves when no stream of events is open. */
  eventsOver: () => Promise<void>
}

/** An app of HTTP/1: WebSockets, and events that are sent when one asks for the next. */
async function serveEcho (lab: Lab): Promise<Echo> {
  const streams = new Map<http.ServerResponse, number>()
  let wake = (): void => {}
  const push = (res: http.ServerResponse): void => {
    const count = (streams.get(res) ?? 0) + 1
    streams.set(res, count)
    res.write(`data: event ${count}\n\n`)
  }
  const server = http.createServer((req, res) => {
    if (req.url === '/events') {
      res.writeHead(200, { 'content-type': 'text/event-stream' })
      res.on('close', () => {
        streams.delete(res)
        wake()
      })
      push(res)
    } else {
      for (const stream of streams.keys()) push(stream)
      req.resume().on('end', () => res.writeHead(204).end())
    }
  })
  const seen: string[] = []
  const sockets = new WebSocketServer({ noServer: true })
  server.on('upgrade', (req, socket, head) => {
    if (req.url === '/refused') {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n')
      return
    }
    seen.push(`${req.method as string} HTTP/${req.httpVersion} ${req.url as string}`)
    sockets.handleUpgrade(req, socket, head, client => client.on('message', data => {
      const text = String(data as Buffer)
      if (text === 'close') client.close(Number(new URL(req.url as string, 'http://a').searchParams.get('code')), 'as you said')
      else client.send(text)
    }))
  })
  const port = await lab.listening(server)
  return {
    port,
    seen,
    async eventsOver () {
      while (streams.size > 0) await new Promise<void>(resolve => { wake = resolve })
    }
  }
}

interface Front {
  app: FastifyInstance
  port: number
  /** What is over: the version of HTTP, and to what it was upgraded. */
  ended: { version: string, protocol: string | undefined }[]
  until: (holds: () => boolean) => Promise<void>
}

/** An app that has all of it behind it, for browsers. */
async function serveFront (lab: Lab, version: '1.1' | '2.0', vitePort: number | undefined, echoPort: number): Promise<Front> {
  const options = version === '1.1' ? {} : { http2: true, https: { cert, key, allowHTTP1: true } }
  const app = Fastify(options as FastifyServerOptions) as FastifyInstance
  // Not every Chromium ends its side of the stream when a WebSocket is closed.
  await app.register(duplex, { extendedConnect: version === '2.0', drainTimeout: 1000, finTimeout: 1000 })
  const ended: Front['ended'] = []
  let wake = (): void => {}
  app.addHook('onResponse', async ({ raw, headers }) => {
    ended.push({ version: raw.httpVersion, protocol: headers.upgrade ?? headers[':protocol'] as string | undefined })
    wake()
  })
  app.all('/vite/*', { duplex: { forward: `http://127.0.0.1:${vitePort}` } })
  app.all('/*', { duplex: { forward: `http://127.0.0.1:${echoPort}` } })
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>(resolve => { wake = resolve })
  }
  return { app, port: (app.server.address() as AddressInfo).port, ended, until }
}

/** CONNECT through ours, whose upstream is a proxy that is not ours. */
async function chain (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const certificate = join(directory, 'cert.pem')
  await writeFile(certificate, cert)
  const listener: http.RequestListener = (req, res) => {
    if (req.method === 'POST') void bytes(req).then(data => res.end(sha256(data)))
    else res.end(blob)
  }
  const plain = await lab.listening(http.createServer(listener))
  const secure = await lab.listening(https.createServer({ cert, key }, listener))
  const port = await unusedPort()
  await writeFile(join(directory, 'filter'), '^forbidden\\.example$\n')
  await writeFile(join(directory, 'tinyproxy.conf'), [
    `Port ${port}`, 'Listen 127.0.0.1', 'Timeout 60', `LogFile "${directory}/log"`, 'LogLevel Connect', `PidFile "${directory}/pid"`, 'MaxClients 20',
    'BasicAuth alice secret', `Filter "${directory}/filter"`, 'FilterExtended On', ''
  ].join('\n'))
  await lab.check(tinyproxy, 'starts', async command => {
    await lab.server(command, ['-d', '-c', join(directory, 'tinyproxy.conf')], port)
  })
  const app = Fastify()
  await app.register(duplex)
  const credentials = `Basic ${Buffer.from('alice:secret').toString('base64')}`
  app.connect('*', {
    duplex: {
      forward: {
        to: `http://127.0.0.1:${port}`,
        requestHeaders (fields, { headers }) { if (headers.host?.startsWith('stranger.') !== true) fields['proxy-authorization'] = credentials }
      }
    }
  })
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  const front = `http://localhost:${(app.server.address() as AddressInfo).port}`

  for (const [what, url, options] of [['http', `http://localhost:${plain}`, ['-p']], ['https', `https://localhost:${secure}`, ['--cacert', certificate]]] as const) {
    await lab.check(tinyproxy, `behind ours: CONNECT of curl, ${what} target, ${blob.length / MB} MB down and up`, async () => {
      const common = ['-sS', '--fail', '-m', '60', '-x', front, ...options]
      const down = exits(await lab.run(curl.name, [...common, `${url}/blob`]))
      assert.equal(sha256(down.stdout), sha256(blob))
      const up = exits(await lab.run(curl.name, [...common, '--data-binary', '@-', `${url}/digest`], { input: blob }))
      assert.equal(String(up.stdout), sha256(blob))
    })
  }
  await lab.check(tinyproxy, 'behind ours: what it refuses is what the client gets, 403 and 407', async () => {
    for (const [target, status] of [['forbidden.example:80', 403], ['stranger.example:1', 407]]) {
      const { code, stdout } = await lab.run(curl.name, ['-sS', '-p', '-x', front, '-w', '%{http_connect}', `http://${target}/`])
      assert.notEqual(code, 0)
      assert.equal(String(stdout), `${status}`)
    }
    assert.match(String(await readFile(join(directory, 'log'))), /CONNECT forbidden\.example:80/)
  })
  await lab.ours('fastify-duplex', 'CONNECT behind CONNECT: no connection left', async () => {
    assert.equal(app.duplex.connections.size, 0)
    await app.close()
  })
}

const group: Group = {
  title: 'forward', peers: [vite, socketIo, graphqlWs, yWebsocket, yjs, jupyter, ipykernel, tinyproxy, curl, chromium, playwright], run
}

export default group
