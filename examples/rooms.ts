// A chat with rooms, in messages: one handler for a browser's WebSocket, an EventSource where WebSocket is blocked, curl and netcat.
//
// Who one is says a token (@fastify/jwt), which is asked for before anything is accepted. What is said is checked and typed by
// TypeBox. Who does not read what is said is ended, and holds nobody up.
//
// Run it:     node examples/rooms.ts        (SECRET=... node examples/rooms.ts)
//             Before Node 22.18: npm run setup, then .build/examples/rooms.js in its place.
// Drive it:   open http://localhost:3000/ in two browser windows, or in terminals:
//             T=$(curl -s localhost:3000/token/ada)
//             curl -N "localhost:3000/rooms/1?token=$T"                                       lines
//             curl -N -H 'Accept: text/event-stream' "localhost:3000/rooms/1?token=$T"        events
//             curl -H 'Content-Type: application/json' -d '{"text":"hello"}' "localhost:3000/rooms/1?token=$T"
//             echo '{"text":"hi"}' | npx fastify-duplex --upgrade lines "http://localhost:3000/rooms/1?token=$T"
//
// Over HTTP/2, where a browser has the page, the WebSocket and the events on one connection:
//             openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem
//             TLS_KEY=key.pem TLS_CERT=cert.pem node examples/rooms.ts
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import jwt from '@fastify/jwt'
import { Type, type Static, type TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const page = `<!doctype html><meta charset="utf-8"><title>Rooms</title>
<form><input autofocus placeholder="say something" style="width: 90%"></form><pre></pre>
<script type="module">
  const name = new URLSearchParams(location.search).get('name') || 'nobody'
  const token = await (await fetch('/token/' + name)).text()
  const url = '/rooms/1?token=' + token
  const show = text => { document.querySelector('pre').append(text, '\\n') }
  const said = event => { const { from, text } = JSON.parse(event.data); show(from + ': ' + text) }
  let say
  const open = () => {
    const ws = new WebSocket(location.href.split('?')[0].replace(/^http/, 'ws').replace(/\\/$/, '') + url)
    let opened = false
    ws.onopen = () => { opened = true }
    ws.onmessage = said
    ws.onclose = event => opened ? show('closed: ' + event.code) : listen()
    say = text => ws.send(JSON.stringify({ text }))
  }
  // Where something in between lets no WebSocket through.
  const listen = () => {
    new EventSource(url).onmessage = said
    say = text => fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ text }) })
  }
  location.hash === '#events' ? listen() : open()
  const input = document.querySelector('input')
  document.querySelector('form').onsubmit = event => { event.preventDefault(); say(input.value); input.value = '' }
</script>
`

const { TLS_KEY, TLS_CERT } = process.env
const secure = TLS_KEY !== undefined && TLS_CERT !== undefined
  ? { http2: true, https: { key: readFileSync(TLS_KEY), cert: readFileSync(TLS_CERT), allowHTTP1: true } }
  : {}

// Browsers open connections ahead of need, and before Node 26 close() waits for one that was never used.
const settings = { logger: { level: process.env.LOG ?? 'info' }, forceCloseConnections: true, ...secure }
const app = (Fastify(settings as FastifyServerOptions) as FastifyInstance).withTypeProvider<TypeBoxTypeProvider>()
await app.register(duplex, { drainTimeout: 5000, extendedConnect: 'http2' in secure })
await app.register(jwt, {
  secret: process.env.SECRET ?? 'only for the example',
  verify: { extractToken: request => (request.query as { token?: string }).token }
})

app.get('/', (_request, reply) => reply.type('text/html; charset=utf-8').send(page))
app.get('/token/:name', { schema: { params: Type.Object({ name: Type.String({ minLength: 1, maxLength: 20 }) }) } },
  async ({ params }) => app.jwt.sign({ name: params.name }))

const FromClient = Type.Object({ text: Type.String({ minLength: 1, maxLength: 500 }) })
const FromServer = Type.Object({ from: Type.String(), text: Type.String() })

type Send = (message: Static<typeof FromServer>) => Promise<void>
const rooms = new Map<string, Set<Send>>()

/** Nobody is waited for: `maxBuffered` ends who does not read. */
function broadcast (room: string, message: Static<typeof FromServer>): void {
  for (const send of rooms.get(room) ?? []) void send(message)
}

app.route({
  method: ['GET', 'POST'],
  url: '/rooms/:id',
  schema: { params: Type.Object({ id: Type.String() }) },
  onRequest: async request => { await request.jwtVerify() },
  duplex: {
    protocols: ['lines'],
    maxBuffered: 256 * 1024,
    messages: { in: FromClient, out: FromServer, maxLength: 4096, heartbeat: 15_000 }
  },
  async handler ({ kind, readable, send, draining, signal }, request) {
    const { id } = request.params as { id: string }
    const { name: from } = request.user as { name: string }
    const room = rooms.get(id) ?? new Set()
    rooms.set(id, room)
    room.add(send)
    // A POST of JSON has one thing to say, and goes.
    const stays = request.headers['content-type'] !== 'application/json'
    try {
      if (stays) broadcast(id, { from, text: '(is here)' })
      for await (const { text } of readable) broadcast(id, { from, text })
      // A GET has nothing to say, and stays to listen.
      if (kind === 'body' && request.method === 'GET') await over(draining, signal)
    } finally {
      room.delete(send)
      if (room.size === 0) rooms.delete(id)
      if (stays) broadcast(id, { from, text: '(left)' })
    }
  }
})

function over (...signals: AbortSignal[]): Promise<void> {
  return new Promise(resolve => {
    for (const signal of signals) {
      if (signal.aborted) resolve()
      signal.addEventListener('abort', () => resolve(), { once: true })
    }
  })
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: process.env.HOST ?? 'localhost' })
const { port } = app.server.address() as AddressInfo
console.log(`listening on http${'http2' in secure ? 's' : ''}://localhost:${port}`)
