// A chat over WebSocket: `ws` on a duplex route, beside plain routes and behind their hooks.
//
// The handshake is that of `ws`: `detach()` hands the bare socket over to it before anything was
// written. What comes first is Fastify's: the Origin check is an onRequest hook, the name is validated
// by the route's schema, and both refuse with an ordinary response. At shutdown the clients are told 1001.
//
// Run it:     node examples/websocket.ts        (PORT=8080 ORIGINS=https://chat.example node examples/websocket.ts)
//             ORIGINS are those of other sites whose pages may connect.
//             Before Node 22.18: npm run setup, then .build/examples/websocket.js in its place.
// Drive it:   open http://localhost:3000/ in two browser windows, or, on Node >= 22, in two terminals:
//             node -e "const ws = new WebSocket('ws://localhost:3000/chat?name=ada'); ws.onmessage = e => console.log(e.data);
//               ws.onclose = e => process.exit(console.log(e.code)); process.stdin.on('data', d => ws.send(String(d).trim()))"
//             curl -i http://localhost:3000/chat        426: there is nothing here but WebSocket
import { addAbortListener } from 'node:events'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyRequest } from 'fastify'
import { WebSocket, WebSocketServer } from 'ws'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const HEARTBEAT = 30_000
/** Bytes that a client may be behind, before it is given up. */
const MOST_UNSENT = 1024 * 1024

const page = `<!doctype html><meta charset="utf-8"><title>Chat</title>
<form><input autofocus placeholder="say something" style="width: 90%"></form><pre></pre>
<script>
  const name = prompt('Your name?', 'ada') || 'nobody'
  const ws = new WebSocket(location.href.replace(/^http/, 'ws') + 'chat?name=' + encodeURIComponent(name))
  const show = text => { document.querySelector('pre').append(text, '\\n') }
  ws.onmessage = event => show(event.data)
  ws.onclose = event => show('closed: ' + event.code + ' ' + event.reason)
  const input = document.querySelector('input')
  document.querySelector('form').onsubmit = event => { event.preventDefault(); ws.send(input.value); input.value = '' }
</script>
`

// Browsers open connections ahead of need, and before Node 26 close() waits for one that was never used.
const app = Fastify({ logger: true, forceCloseConnections: true })
await app.register(duplex, { drainTimeout: 5000 })

const wss = new WebSocketServer({ noServer: true, maxPayload: 4096 })
const origins = new Set((process.env.ORIGINS ?? '').split(',').filter(Boolean))

/** Any page may open a WebSocket to any server, with the user's cookies: RFC 6455 section 10.2. Programs send no Origin. */
async function checkOrigin ({ headers: { origin } }: FastifyRequest): Promise<void> {
  if (origin !== undefined && !origins.has(origin)) throw Object.assign(new Error('This origin may not connect'), { statusCode: 403 })
}

app.get('/', (_request, reply) => reply.type('text/html; charset=utf-8').send(page))

interface Chat {
  Querystring: { name: string }
}

const querystring = { type: 'object', required: ['name'], properties: { name: { type: 'string', minLength: 1, maxLength: 20 } } }

app.get('/chat', {
  onRequest: checkOrigin,
  schema: { querystring },
  duplex: { kinds: ['upgrade'], protocols: ['websocket'], accept: 'manual' }
}, (pending, request: FastifyRequest<Chat>) => {
  const { socket, head } = pending.detach()
  wss.handleUpgrade(request.raw, socket, head, ws => {
    addAbortListener(pending.draining, () => ws.close(1001, 'going away'))
    ws.on('error', err => request.log.info({ err }, 'websocket failed'))
    chat(ws, request.query.name)
  })
})

function chat (ws: WebSocket, name: string): void {
  broadcast(`${name} is here`)
  ws.on('message', data => broadcast(`${name}: ${String(data)}`))
  ws.on('close', () => broadcast(`${name} left`))
  let alive = true
  ws.on('pong', () => { alive = true })
  const heartbeat = setInterval(() => {
    if (!alive) ws.terminate()
    alive = false
    ws.ping()
  }, HEARTBEAT)
  ws.on('close', () => clearInterval(heartbeat))
}

function broadcast (text: string): void {
  for (const ws of wss.clients) {
    if (ws.bufferedAmount > MOST_UNSENT) ws.terminate()
    else if (ws.readyState === WebSocket.OPEN) ws.send(text)
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: process.env.HOST ?? 'localhost' })
const { port } = app.server.address() as AddressInfo
origins.add(`http://localhost:${port}`)
console.log(`listening on http://localhost:${port}`)
