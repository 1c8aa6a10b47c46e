// A shell in a browser window: xterm.js in the page, a process with a terminal of its own behind a duplex route.
//
// The stream is a WebSocket, since a page has no other two-way connection, and `detach()` hands the socket
// to `ws`. Binary messages are what is typed, and what is printed; a text message from the page says the
// size of the window. Closing the tab closes the terminal. Either side is only as fast as the other one.
//
// Whoever opens the connection has a shell of the user who runs this. So it listens on the loopback address, takes
// pages of its own origin alone, and wants the token that it prints, which the page sends as a
// subprotocol: a fragment and a header are in no log. All that is checked before there is a connection.
//
// Run it:     node examples/terminal.ts         (PORT=8080 TOKEN=... SHELL=/bin/bash node examples/terminal.ts)
//             Before Node 22.18: npm run setup, then .build/examples/terminal.js in its place.
// Drive it:   open the address that it prints.
import { spawnSync } from 'node:child_process'
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { addAbortListener, once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyRequest } from 'fastify'
import { WebSocketServer, type WebSocket } from 'ws'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'
import { Pty, type TerminalSize } from './pty.ts'

const { TOKEN = randomBytes(16).toString('hex'), SHELL = 'sh', HOME = '/' } = process.env
const PROTOCOL = 'terminal'
const HEARTBEAT = 30_000

const page = `<!doctype html><html><meta charset="utf-8"><title>Terminal</title>
<link rel="stylesheet" href="/xterm.css">
<style>html, body, #terminal { height: 100%; margin: 0; background: #000 }</style>
<div id="terminal"></div>
<script src="/xterm.js"></script>
<script src="/addon-fit.js"></script>
<script>
  const terminal = new Terminal()
  const fit = new FitAddon.FitAddon()
  terminal.loadAddon(fit)
  terminal.open(document.querySelector('#terminal'))
  const ws = new WebSocket(location.origin.replace(/^http/, 'ws') + '/terminal', ['${PROTOCOL}', location.hash.slice(1)])
  ws.binaryType = 'arraybuffer'
  const keys = new TextEncoder()
  const sendSize = () => ws.send(JSON.stringify({ rows: terminal.rows, columns: terminal.cols }))
  ws.onopen = () => {
    sendSize()
    terminal.onResize(sendSize)
    terminal.onData(data => ws.send(keys.encode(data)))
    terminal.onBinary(data => ws.send(Uint8Array.from(data, character => character.charCodeAt(0))))
    terminal.focus()
  }
  ws.onmessage = event => terminal.write(new Uint8Array(event.data))
  ws.onclose = event => terminal.write('\\r\\n[' + (event.reason || 'no connection') + ']\\r\\n')
  addEventListener('resize', () => fit.fit())
  fit.fit()
</script>
`

if (!spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout?.includes('util-linux')) {
  console.error('this needs script(1), of util-linux')
  process.exit(1)
}

// Browsers open connections ahead of need, and before Node 26 close() waits for one that was never used.
const app = Fastify({ logger: true, forceCloseConnections: true })
await app.register(duplex, { drainTimeout: 5000, maxConnections: 20 })

const require = createRequire(import.meta.url)
for (const [path, type, file] of [
  ['/xterm.js', 'text/javascript', '@xterm/xterm/lib/xterm.js'],
  ['/xterm.css', 'text/css', '@xterm/xterm/css/xterm.css'],
  ['/addon-fit.js', 'text/javascript', '@xterm/addon-fit/lib/addon-fit.js']
] as const) {
  const content = readFileSync(require.resolve(file))
  app.get(path, (_request, reply) => reply.type(`${type}; charset=utf-8`).send(content))
}
app.get('/', (_request, reply) => reply.type('text/html; charset=utf-8').send(page))

const wss = new WebSocketServer({ noServer: true, maxPayload: 1024 * 1024, handleProtocols: () => PROTOCOL })
let origin = ''

/** RFC 6455 section 10.2: any page may try, so the origin is checked; any other user of the machine may, so the token is. */
async function authenticate ({ headers }: FastifyRequest): Promise<void> {
  if (headers.origin !== undefined && headers.origin !== origin) throw Object.assign(new Error('This origin may not connect'), { statusCode: 403 })
  const [protocol, token = ''] = (headers['sec-websocket-protocol'] ?? '').split(/ *, */)
  if (protocol !== PROTOCOL || !isToken(token)) throw Object.assign(new Error('A terminal wants the token'), { statusCode: 401 })
}

function isToken (token: string): boolean {
  const [given, wanted] = [Buffer.from(token), Buffer.from(TOKEN)]
  return given.length === wanted.length && timingSafeEqual(given, wanted)
}

app.get('/terminal', {
  onRequest: authenticate,
  duplex: { kinds: ['upgrade'], protocols: ['websocket'], accept: 'manual' }
}, (pending, request) => {
  const { socket, head } = pending.detach()
  wss.handleUpgrade(request.raw, socket, head, ws => {
    const pty = new Pty([SHELL], { env: { PATH: process.env.PATH, LANG: process.env.LANG, HOME }, cwd: HOME, rows: 24, columns: 80 })
    addAbortListener(pending.draining, () => ws.close(1001, 'the server is going away'))
    ws.on('error', err => request.log.info({ err }, 'websocket failed'))
    ws.on('close', () => pty.hangUp())
    beat(ws)
    type(ws, pty)
    void show(ws, pty)
  })
})

/** From the page to the shell. */
function type (ws: WebSocket, pty: Pty): void {
  ws.on('message', (data: Buffer, isBinary) => {
    if (!isBinary) {
      void pty.resize(sizeOf(String(data)))
    } else if (!pty.input.write(data)) {
      // What the shell does not read stays in the browser.
      ws.pause()
      pty.input.once('drain', () => ws.resume())
    }
  })
}

/** From the shell to the page, to its end. */
async function show (ws: WebSocket, pty: Pty): Promise<void> {
  const exited = once(pty.child, 'close')
  for await (const chunk of pty.output as AsyncIterable<Buffer>) {
    // One message at a time: `ws` would keep whatever the browser does not take.
    await new Promise<void>(resolve => ws.send(chunk, () => resolve()))
  }
  const [code] = await exited
  ws.close(1000, `the shell has ended with ${code}`)
}

/** After detach() no timeout of the plugin finds a browser that has vanished. */
function beat (ws: WebSocket): void {
  let alive = true
  ws.on('pong', () => { alive = true })
  const heartbeat = setInterval(() => {
    if (!alive) ws.terminate()
    alive = false
    ws.ping()
  }, HEARTBEAT)
  ws.on('close', () => clearInterval(heartbeat))
}

function sizeOf (text: string): TerminalSize {
  try {
    const { rows, columns } = JSON.parse(text) as Partial<TerminalSize>
    return { rows: Number(rows), columns: Number(columns) }
  } catch {
    return { rows: 24, columns: 80 }
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: 'localhost' })
origin = `http://localhost:${(app.server.address() as AddressInfo).port}`
console.log(`listening on ${origin}`)
console.log(`open ${origin}/#${TOKEN}`)
