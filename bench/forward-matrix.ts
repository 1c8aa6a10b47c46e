// What three proxies do when the upstream of an upgrade refuses, stalls, resets, or says nonsense: measured, side by side.
// Run it: npm run build:all && node .build/bench/forward-matrix.js
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import Fastify from 'fastify'
import httpProxy from '@fastify/http-proxy'
import { createProxyServer } from 'http-proxy-3'
import duplex from '../lib/index.ts'

/** How long a client waits before it is said to get nothing, in milliseconds. */
const PATIENCE = 1500

const KEY = 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='
const UPGRADE = `GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${KEY}\r\n\r\n`
const accept = (token: string): string => `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${token}\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n`

/** What the upstream does with the request. */
const situations: [name: string, act: (socket: net.Socket) => unknown][] = [
  ['refuses with 403 and a body', socket => socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-Reason: none\r\n\r\nnot you')],
  ['answers nothing', () => {}],
  ['closes without an answer', socket => socket.destroy()],
  ['resets without an answer', socket => socket.resetAndDestroy()],
  ['switches to another token', socket => socket.write(accept('other'))],
  ['answers with no HTTP', socket => socket.write('220 mail.example ESMTP\r\n')],
  ['accepts, and resets then', socket => {
    socket.write(accept('websocket'))
    setTimeout(() => socket.resetAndDestroy(), 100)
  }]
]

/** Each gives a port, for an upstream at a port. */
const proxies: Record<string, (port: number) => Promise<number>> = {
  'fastify-duplex': async port => {
    const app = Fastify()
    await app.register(duplex)
    app.all('/*', { duplex: { forward: { to: `http://127.0.0.1:${port}`, responseTimeout: PATIENCE / 3 } } })
    await app.listen({ port: 0, host: '127.0.0.1' })
    return (app.server.address() as net.AddressInfo).port
  },
  '@fastify/http-proxy': async port => {
    const app = Fastify()
    await app.register(httpProxy, { upstream: `http://127.0.0.1:${port}`, websocket: true })
    await app.listen({ port: 0, host: '127.0.0.1' })
    return (app.server.address() as net.AddressInfo).port
  },
  'http-proxy-3': async port => {
    const proxy = createProxyServer({ target: `http://127.0.0.1:${port}`, ws: true, proxyTimeout: PATIENCE / 3 })
    proxy.on('error', () => {})
    const server = http.createServer((req, res) => { void proxy.web(req, res) })
    server.on('upgrade', (req, socket, head) => { void proxy.ws(req, socket, head) })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return (server.address() as net.AddressInfo).port
  }
}

/** What a client sees: status lines, and how it ends. */
async function seen (port: number): Promise<string> {
  const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  let text = ''
  let end = 'nothing more'
  socket.on('data', (data: Buffer) => { text += data.toString('latin1') })
  socket.write(UPGRADE)
  await new Promise<void>(resolve => {
    const timer = setTimeout(resolve, PATIENCE)
    const over = (how: string): void => {
      end = how
      clearTimeout(timer)
      resolve()
    }
    socket.on('end', () => over('FIN'))
    socket.on('error', (error: Error & { code?: string }) => over(error.code ?? error.message))
  })
  socket.destroy()
  const status = /^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 'no status'
  const body = status === '403' ? (text.includes('not you') ? ', its body' : ', another body') : ''
  return `${status}${body}, ${end}`
}

process.on('uncaughtException', error => { console.error('uncaught:', error.message) })
console.log(`| the upstream | ${Object.keys(proxies).join(' | ')} |\n|---|${'---|'.repeat(Object.keys(proxies).length)}`)
for (const [name, act] of situations) {
  const upstream = net.createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', () => act(socket))
  }).listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  const cells: string[] = []
  for (const make of Object.values(proxies)) cells.push(await seen(await make((upstream.address() as net.AddressInfo).port)))
  console.log(`| ${name} | ${cells.join(' | ')} |`)
}
const closed = net.createServer().listen(0, '127.0.0.1')
await once(closed, 'listening')
const { port } = closed.address() as net.AddressInfo
closed.close()
const cells: string[] = []
for (const make of Object.values(proxies)) cells.push(await seen(await make(port)))
console.log(`| is not there | ${cells.join(' | ')} |`)
process.exit()
