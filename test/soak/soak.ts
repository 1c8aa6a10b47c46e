// Chaos for as long as you like: `npm run soak -- MINUTES`. Clients take every way in, with random
// splits, half-closes, slow reading, resets and vanishing, while all bytes are hashed on both sides.
// governed.ts has what governs long connections. At the end a table, and a non-zero exit code when a
// byte was lost or anything was left behind.
import { createHash, randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import Fastify, { type FastifyRequest } from 'fastify'
import duplex, { type DuplexConnection } from '../../lib/index.ts'
import { tlsOptions } from '../fixtures/server.ts'
import { governed } from './governed.ts'

const minutes = Number(process.argv[2] ?? 2)
const CLIENTS = 24
/** Beside those, with what governed.ts does. */
const GOVERNED = 12
const MOST_SHOWN = 30
const MAX_BODY = 256 * 1024
const LAST_CHUNK = '0\r\n\r\n'
const seed = randomInt(2 ** 31)

/** mulberry32: the run can be told from its seed, as far as the network lets it. */
let state = seed
function random (below: number): number {
  state = (state + 0x6D2B79F5) | 0
  let t = Math.imul(state ^ (state >>> 15), 1 | state)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) % below
}

type Ending = 'clean' | 'reset' | 'vanish' | 'refused' | 'short'
const counts: Record<string, number> = {}
const count = (what: string): void => { counts[what] = (counts[what] ?? 0) + 1 }
const problems: string[] = []
const problem = (what: string): void => {
  problems.push(what)
  if (problems.length <= MOST_SHOWN) console.error(`problem: ${what}`)
  if (problems.length === MOST_SHOWN) {
    console.error('too many problems: stopped')
    process.exit(1)
  }
}
process.on('uncaughtException', error => problem(`uncaught exception: ${error.stack ?? error.message}`))
process.on('unhandledRejection', error => problem(`unhandled rejection: ${String((error as Error).stack ?? error)}`))
process.on('warning', warning => problem(`warning: ${warning.message}`))

/** Echoes, at times slowly; a byte that is not the client's own would show in its hash. */
async function echo (connection: DuplexConnection, { headers }: FastifyRequest): Promise<void> {
  const { readable, writable, closed } = connection
  void closed.then(({ reason }) => count(`closed: ${reason}`))
  // What is to end in order is never ended by what governs it, whatever comes and goes.
  connection.labels.add(`way:${connection.kind}`)
  if (headers['x-short'] === undefined) {
    if (random(4) === 0) connection.extend(Date.now() + 3_600_000 + random(1000))
    if (random(4) === 0) connection.extend(undefined)
  }
  let turns = 0
  for await (const chunk of readable) {
    if (turns++ % 16 === 15) await sleep(1)
    if (!writable.write(chunk)) await once(writable, 'drain')
  }
}

async function serve (secure: boolean): Promise<{ port: number, close: () => Promise<void>, left: () => Promise<number> }> {
  const app = Fastify(secure ? { https: tlsOptions } as object : {})
  await app.register(duplex, {
    drainTimeout: 2000,
    finTimeout: 5000,
    drainSpread: 500,
    expiryGrace: 20,
    expires: request => Date.now() + (request.headers['x-short'] === undefined ? 3_600_000 : 5),
    // One half of the short ones expires, the other half is revoked before.
    labels: request => request.headers['x-short'] === undefined ? ['long'] : ['long', Number(request.headers['x-short']) % 2 === 0 ? 'short' : 'shortest'],
    maxConnections: { max: CLIENTS, key: request => String(request.headers['x-key']) },
    rate: secure ? { bytesIn: 4_000_000, bytesOut: 3_000_000 } : {}
  })
  const settle = async (): Promise<void> => { await sleep(random(3)) }
  app.addHook('onRequest', async request => {
    if (request.headers['x-slow'] !== undefined) await settle()
    if (request.headers['x-refuse'] !== undefined) throw Object.assign(new Error('refused'), { statusCode: 403 })
  })
  app.route({ method: ['GET', 'POST'], url: '/echo', duplex: true, handler: echo })
  app.route({ method: 'CONNECT', url: '*', duplex: true, handler: echo })
  const rate = { bytesIn: 3_000_000, bytesOut: 4_000_000 }
  app.route({ method: ['GET', 'POST'], url: '/rated', duplex: { rate }, handler: echo })
  const revoking = setInterval(() => { app.duplex.close('shortest', random(2) === 0 ? {} : { within: 5 }) }, 2)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as net.AddressInfo
  return {
    port,
    close: () => {
      clearInterval(revoking)
      return app.close()
    },
    left: () => new Promise(resolve => app.server.getConnections((_error, sockets) => resolve(sockets + app.duplex.connections.size)))
  }
}

async function open (port: number, secure: boolean): Promise<{ socket: net.Socket, raw: net.Socket }> {
  const raw = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
  raw.on('error', () => {})
  await once(raw, 'connect')
  if (!secure) return { socket: raw, raw }
  const socket = tls.connect({ socket: raw, rejectUnauthorized: false })
  socket.allowHalfOpen = true
  socket.on('error', () => {})
  await once(socket, 'secureConnect')
  return { socket, raw }
}

const WAYS = ['upgrade', 'connect', 'hijack', 'body'] as const

function requestFor (way: typeof WAYS[number], extra: string): string {
  const host = `Host: localhost\r\nX-Key: ${random(CLIENTS)}\r\n${extra}`
  const path = random(4) === 0 ? '/rated' : '/echo'
  switch (way) {
    case 'upgrade': return `GET ${path} HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: soak\r\n\r\n`
    case 'connect': return `CONNECT target:1 HTTP/1.1\r\n${host}\r\n`
    case 'hijack': return `GET ${path} HTTP/1.1\r\n${host}\r\n`
    case 'body': return `POST ${path} HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n`
  }
}

function chunked (body: Buffer): Buffer {
  const parts: Buffer[] = []
  for (let at = 0; at < body.length;) {
    const size = Math.min(body.length - at, 1 + random(65536))
    parts.push(Buffer.from(`${size.toString(16)}\r\n`), body.subarray(at, at + size), Buffer.from('\r\n'))
    at += size
  }
  return Buffer.concat([...parts, Buffer.from(LAST_CHUNK)])
}

function unchunk (wire: Buffer): Buffer | undefined {
  const parts: Buffer[] = []
  for (let at = 0; ;) {
    const end = wire.indexOf('\r\n', at)
    if (end === -1) return undefined
    const size = parseInt(wire.subarray(at, end).toString('latin1'), 16)
    if (size === 0) return Buffer.concat(parts)
    if (wire.length < end + 2 + size + 2) return undefined
    parts.push(wire.subarray(end + 2, end + 2 + size))
    at = end + 2 + size + 2
  }
}

async function cycle (port: number, secure: boolean): Promise<void> {
  const way = WAYS[random(WAYS.length)] as typeof WAYS[number]
  const dice = random(100)
  const ending: Ending = dice < 65 ? 'clean' : dice < 75 ? 'reset' : dice < 85 ? 'vanish' : dice < 92 ? 'short' : 'refused'
  const extra = `${random(3) === 0 ? 'X-Slow: 1\r\n' : ''}${ending === 'refused' ? 'X-Refuse: 1\r\n' : ''}${ending === 'short' ? `X-Short: ${random(1000)}\r\n` : ''}`
  const body = randomBytes(random(8) === 0 ? random(MAX_BODY) : random(4096))
  const wire = Buffer.concat([Buffer.from(requestFor(way, extra)), way === 'body' ? chunked(body) : body])
  const { socket, raw } = await open(port, secure)
  const received: Buffer[] = []
  socket.on('data', chunk => {
    received.push(chunk)
    if (random(32) === 0) {
      socket.pause()
      setTimeout(() => socket.resume(), random(5))
    }
  })
  const over = once(socket, 'close').catch(() => {})
  // What is to expire does not end by itself before.
  const stopAt = ending === 'clean' || ending === 'refused' ? wire.length : ending !== 'short' ? random(wire.length) : way === 'body' ? wire.length - LAST_CHUNK.length : wire.length
  for (let at = 0; at < stopAt && !socket.destroyed;) {
    const size = Math.min(stopAt - at, random(4) === 0 ? 1 + random(16) : 1 + random(65536))
    if (!socket.write(wire.subarray(at, at + size))) await Promise.race([once(socket, 'drain').catch(() => {}), over])
    at += size
    if (random(4) === 0) await sleep(random(2))
  }
  count(`${way} ${ending}`)
  if (ending === 'short') {
    // It expires, or is revoked, whatever it has sent by then; a FIN is all that some of its kinds can see of that.
    if (socket.readableEnded) socket.destroy()
    socket.once('end', () => socket.destroy())
    if (await Promise.race([over.then(() => false), sleep(10_000, true, { ref: false })])) {
      problem(`${way}: a short one lives on`)
      socket.destroy()
    }
    return
  }
  if (ending === 'reset' || ending === 'vanish') {
    // Destroying TLS destroys the socket beneath, in TLS's own time.
    if (ending === 'reset' && secure) raw.destroy = () => { raw.destroy = net.Socket.prototype.destroy; return raw.resetAndDestroy() }
    if (ending === 'reset' && !secure) raw.resetAndDestroy()
    socket.destroy()
    return
  }
  if (way !== 'body') socket.end()
  else if (ending === 'clean') {
    const complete = async (): Promise<void> => {
      for (;;) {
        const all = Buffer.concat(received)
        const start = all.indexOf('\r\n\r\n')
        if (start !== -1 && unchunk(all.subarray(start + 4)) !== undefined) break
        if (socket.destroyed || socket.readableEnded) break
        await Promise.race([once(socket, 'data').catch(() => {}), over])
      }
      socket.end()
    }
    await complete()
  } else socket.end()
  await over
  const all = Buffer.concat(received)
  const start = all.indexOf('\r\n\r\n')
  const status = Number(all.subarray(9, 12).toString('latin1'))
  if (ending === 'refused') {
    if (status !== 403) problem(`${way}: refused with ${status || 'nothing'}`)
    return
  }
  const rest = all.subarray(start + 4)
  const echoed = way === 'body' ? unchunk(rest) : rest
  const hash = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
  if (echoed === undefined || hash(echoed) !== hash(body)) {
    problem(`${way}${secure ? ' over TLS' : ''}: ${body.length} bytes sent, ${echoed?.length ?? 'an incomplete response'} back, status ${status}`)
  }
}

const plain = await serve(false)
const secure = await serve(true)
const deadline = Date.now() + minutes * 60_000
const heap: number[] = []
const sample = setInterval(() => {
  globalThis.gc?.()
  heap.push(process.memoryUsage().heapUsed)
}, Math.max(1000, minutes * 60_000 / 20))

console.log(`soak: ${minutes} minutes, ${CLIENTS} clients and ${GOVERNED} governed ones, seed ${seed}`)
const governing = governed({ random, count, problem }, GOVERNED, deadline)
await Promise.all(Array.from({ length: CLIENTS }, async () => {
  while (Date.now() < deadline) {
    const overTls = random(4) === 0
    await cycle(overTls ? secure.port : plain.port, overTls).catch(error => problem(String((error as Error).stack ?? error)))
    count('cycles')
  }
}))
await governing
clearInterval(sample)

const quiet = Date.now() + 10_000
while (Date.now() < quiet && (await plain.left()) + (await secure.left()) > 0) await sleep(50)
for (const [name, server] of [['plain', plain], ['TLS', secure]] as const) {
  const left = await server.left()
  if (left > 0) problem(`${left} sockets or connections left on the ${name} server`)
  const before = Date.now()
  await server.close()
  if (Date.now() - before > 3000) problem(`the ${name} server took ${Date.now() - before} ms to close`)
}

for (const what of ['closed: expired', 'closed: revoked', 'governed: expired', 'governed: revoked', 'refused: 429', 'rate: had to wait']) {
  if (counts[what] === undefined) problem(`not once "${what}"`)
}
for (const [what, many] of Object.entries(counts).sort()) console.log(`${what.padEnd(24)}${String(many).padStart(10)}`)
const settled = heap.slice(Math.floor(heap.length / 4))
if (settled.length > 1) {
  const growth = (settled.at(-1) as number) - (settled[0] as number)
  console.log(`heap after the first quarter: ${Math.round((settled[0] as number) / 1024)} KiB, at the end ${Math.round((settled.at(-1) as number) / 1024)} KiB`)
  if (growth > 16 * 1024 * 1024) problem(`the heap grew by ${Math.round(growth / 1024)} KiB`)
}
console.log(`${counts.cycles ?? 0} cycles, ${problems.length} problems`)
process.exitCode = problems.length === 0 ? 0 : 1
