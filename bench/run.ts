// npm run bench            everything, about five minutes; writes bench/RESULTS.md and bench/results.svg
// npm run bench -- quick   a guard against gross regressions, under three minutes; writes nothing
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { contest, type Contender, type Outcome } from './contest.ts'
import { idle, keptAlive, type Idle } from './idle.ts'
import { buildLoad, Server, sources, startGo, startSocat, type LoadOptions } from './processes.ts'
import { barsTable, chart, growthTable, idleTable, keptTable, markdown, outcomeTable, type Bar, type Section } from './report.ts'
import type { ServerName } from './protocol.ts'
import { ratios, spread } from './statistics.ts'

const quick = process.argv.includes('quick')
/** In a quick run a bar is only missed when it is missed by that much. */
const tolerance = quick ? 1.5 : 1
const rounds = quick ? 4 : 6
const ms = quick ? 300 : 400

if (process.platform !== 'linux' || !buildLoad()) {
  console.log('bench: skipped, the load needs Linux and a C compiler')
  process.exit(0)
}

const head = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`
const UPGRADE = head('/echo')
const WEBSOCKET = 'GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
const POST = 'POST /message HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n'

const text = (size: number): string => 'x'.repeat(size)

/** A binary message with a mask of zeros, RFC 6455 section 5.2; the answer has none. */
function frame (size: number): { payload: Buffer, reply: number } {
  const long = Buffer.alloc(8)
  long.writeBigUInt64BE(BigInt(size))
  const length = size < 126 ? [size] : [127, ...long]
  const header = Buffer.from([0x82, (length[0] as number) | 0x80, ...length.slice(1), 0, 0, 0, 0])
  return { payload: Buffer.concat([header, Buffer.from(text(size))]), reply: header.length - 4 + size }
}

/** Rates and latencies tell of the machine's other users as well, CPU time hardly: a quick run judges that alone. */
function throughput (what: string, outcome: Outcome, known = 1.03): void {
  if (!quick) bar(`${what}, rate`, outcome.rateRatio.median, 0.97, false)
  bar(`${what}, CPU`, outcome.cpuRatio.median, 1.03, true, known)
}

const bars: Bar[] = []
const sections: Section[] = []

/** @param known where a bar is known to be missed, what a quick run takes for it */
function bar (what: string, value: number, limit: number, most: boolean, known = limit): void {
  const asked = quick ? known : limit
  const met = most ? value <= asked * tolerance : value >= asked / tolerance
  bars.push({ what, value, limit: asked, most, met })
}

function add (section: Section): void {
  sections.push(section)
  console.log(`\n${section.title}\n${section.table}`)
}

/** How many bytes the answer to a request has. */
async function replySize (port: number, request: string): Promise<number> {
  const socket = net.connect(port, '127.0.0.1')
  socket.write(request)
  const [answer] = await once(socket, 'data') as [Buffer]
  socket.destroy()
  return answer.length
}

function named (outcomes: Outcome[], label: string): Outcome {
  return outcomes.find(one => one.label === label) as Outcome
}

const started = { date: new Date(), load: loadavg() }
const main = {
  net: await Server.start('net'),
  node: await Server.start('node'),
  fastify: await Server.start('fastify'),
  websocket: await Server.start('websocket'),
  duplex: await Server.start('duplex')
}
const go = await startGo()

/** The same load for everybody that speaks Upgrade, and what stands for it for the others. */
function everybody (load: LoadOptions, size: number): Contender[] {
  const raw = { ...load, payload: text(size), reply: size }
  return [
    { label: 'node', target: main.node, load: { ...raw, request: UPGRADE } },
    { label: 'fastify-duplex', target: main.duplex, load: { ...raw, request: UPGRADE } },
    { label: 'net', target: main.net, load: raw },
    { label: 'fastify without plugin', target: main.fastify, load: { ...raw, request: UPGRADE } },
    { label: '@fastify/websocket', target: main.websocket, load: { ...load, ...frame(size), request: WEBSOCKET } },
    ...(go === undefined ? [] : [{ label: 'go hijack', target: go, load: { ...raw, request: UPGRADE } }])
  ]
}

const pingPong = await contest(everybody({ connections: 64, ms }, 64), rounds)
add({ title: 'Stream: 64 connections, ping-pong of 64 bytes', table: outcomeTable(pingPong), outcomes: pingPong })
throughput('ping-pong', named(pingPong, 'fastify-duplex'))
if (!quick) bar('ping-pong, p99', named(pingPong, 'fastify-duplex').p99Ratio.median, 1.1, true)

const servers: Record<string, ServerName> = {
  node: 'node', 'fastify-duplex': 'duplex', net: 'net', 'fastify without plugin': 'fastify', '@fastify/websocket': 'websocket', 'node again': 'node'
}
const echoes = everybody({ connections: 8, ms, depth: 4 }, 65536)
const bulk = await contest([...echoes, { ...echoes[0] as Contender, label: 'node again' }].map(one => {
  const name = servers[one.label]
  return name === undefined ? one : { ...one, fresh: () => Server.start(name) }
}), rounds)
add({ title: 'Stream: 8 connections, echo of 64 KiB, four under way on each', table: outcomeTable(bulk), outcomes: bulk })
throughput('bulk echo', named(bulk, 'fastify-duplex'), 1.5)
if (!quick) bar('bulk echo, p99', named(bulk, 'fastify-duplex').p99Ratio.median, 1.1, true)

const acceptance = await contest([
  ...everybody({ connections: 32, ms, mode: 'accept' }, 64),
  { label: 'fastify, plain GET', target: main.fastify, load: { connections: 32, ms, mode: 'get', request: 'GET /plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' } }
], rounds, 6)
add({ title: 'Acceptance: connect, upgrade, echo 64 bytes once, close; 32 at a time', table: outcomeTable(acceptance), outcomes: acceptance })
bar('acceptance, CPU', named(acceptance, 'fastify-duplex').cpuRatio.median, 1.25, true, 2.3)
if (!quick) {
  bar('acceptance, rate against @fastify/websocket',
    ratios(named(acceptance, 'fastify-duplex').rates, named(acceptance, '@fastify/websocket').rates).median, 1.8, false)
}

const request = 'GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n'
const reply = await replySize(main.fastify.port, request)
const get: LoadOptions = { connections: 64, ms, payload: request, reply }
const plain = await contest([
  { label: 'fastify', target: main.fastify, fresh: () => Server.start('fastify'), load: get },
  { label: 'fastify-duplex', target: main.duplex, fresh: () => Server.start('duplex'), load: get },
  { label: 'fastify again', target: main.fastify, fresh: () => Server.start('fastify'), load: get }
], quick ? rounds : rounds * 2)
add({ title: 'A plain route: GET, keep-alive, 64 connections; beside the plugin and 101 duplex routes', table: outcomeTable(plain), outcomes: plain })
bar('plain route, CPU', named(plain, 'fastify-duplex').cpuRatio.median, 1.05, true)

const chunk = (size: number): string => `${size.toString(16)}\r\n${text(size)}\r\n`
for (const [size, depth, connections] of [[64, 1, 64], [65536, 4, 8]] as const) {
  const load: LoadOptions = { connections, depth, ms, request: POST, payload: chunk(size), reply: size, chunked: true }
  const message = await contest([
    { label: 'req.pipe(res)', target: main.net, fresh: () => Server.start('message'), load },
    { label: 'fastify-duplex', target: main.duplex, fresh: () => Server.start('duplex'), load }
  ], rounds)
  add({ title: `A message answered while it arrives: ${connections} connections, chunks of ${size} bytes`, table: outcomeTable(message), outcomes: message })
  throughput(`message of ${size} byte chunks`, named(message, 'fastify-duplex'), 1.3)
}

const http2 = [await Server.start('http2'), await Server.start('http2-duplex')] as const
const streams: LoadOptions = { connections: 64, ms, reply: 64, http2: true }
const h2 = await contest([
  { label: 'http2', target: http2[0], load: streams },
  { label: 'fastify-duplex', target: http2[1], load: streams }
], rounds)
add({ title: 'HTTP/2: 64 streams of one session, ping-pong of 64 bytes', table: outcomeTable(h2), outcomes: h2 })
throughput('HTTP/2 stream', named(h2, 'fastify-duplex'), 1.3)
for (const server of http2) server.stop()

const upstream = String(main.net.port)
const socat = await startSocat(main.net.port)
for (const [size, depth, connections] of [[64, 1, 64], [65536, 4, 8]] as const) {
  const load: LoadOptions = { connections, depth, ms, payload: text(size), reply: size }
  const joined = await contest([
    { label: 'two pipes', target: main.net, fresh: () => Server.start('pipes', upstream), load: { ...load, request: UPGRADE } },
    { label: 'tunnel()', target: main.net, fresh: () => Server.start('tunnel', upstream), load: { ...load, request: UPGRADE } },
    ...(socat === undefined ? [] : [{ label: 'socat', target: socat, load }])
  ], rounds)
  add({ title: `Tunnel to an echo server: ${connections} connections, ${size} bytes`, table: outcomeTable(joined), outcomes: joined })
  throughput(`tunnel() of ${size} byte messages`, named(joined, 'tunnel()'), size === 64 ? 1.1 : 2)
}
for (const server of [socat, go, ...Object.values(main)]) server?.stop()

const idleConnections = quick ? 2000 : 10_000
const repeats = 2
const peers = ['node', 'duplex', 'net', 'websocket'] as const
const idles: Record<typeof peers[number], Idle[]> = { node: [], duplex: [], net: [], websocket: [] }
for (let round = 0; round < repeats; round++) {
  for (const peer of peers) {
    idles[peer].push(await idle(peer, idleConnections, peer === 'net' ? '' : peer === 'websocket' ? WEBSOCKET : UPGRADE))
  }
}
add({ title: `Memory of an idle accepted connection, of ${idleConnections}`, table: idleTable(idles) })
// With the 2,000 of a quick run RSS is at 2.7 as well, with 10,000 at 1.7.
for (const what of ['rss', 'heap'] as const) {
  bar(`idle memory, ${what === 'rss' ? 'RSS' : 'heap'}`, ratios(idles.duplex.map(one => one[what]), idles.node.map(one => one[what])).median, 1.15, true, 2.7)
}
const kept = { node: await keptAlive('node', 1000, UPGRADE), 'fastify-duplex': await keptAlive('duplex', 1000, UPGRADE) }
add({ title: 'What an idle connection keeps alive (for each connection)', table: keptTable(kept) })
bar('HTTP parsers kept alive by an idle connection', kept['fastify-duplex'].HTTPParser ?? 0, 0.05, true)

const sizes = quick ? [500, 2000] : [1000, 5000, 15_000]
const growth: { connections: number, result: Idle }[] = []
for (const connections of sizes) {
  const runs: Idle[] = []
  for (let round = 0; round < (quick ? 1 : 2); round++) runs.push(await idle('duplex', connections, head('/graceful'), true))
  const middle = (what: keyof Idle): number => spread(runs.map(one => one[what] as number)).median
  growth.push({ connections, result: { rss: middle('rss'), heap: middle('heap'), cpu: middle('cpu'), drain: middle('drain') } })
}
add({ title: 'Growth: accept and hold so many, then app.close()', table: growthTable(growth) })
const least = growth[0] as typeof growth[number]
const most = growth[growth.length - 1] as typeof growth[number]
const per = (one: typeof least): number => (one.result.drain as number) / one.connections
bar(`heap for each of ${most.connections}, to ${least.connections}`, most.result.heap / least.result.heap, 1.15, true)
// So few connections as a quick run has say nothing of how times grow.
if (!quick) {
  bar(`acceptance CPU for each of ${most.connections}, to ${least.connections}`, most.result.cpu / least.result.cpu, 1.15, true)
  bar(`drain time for each of ${most.connections}, to ${least.connections}`, per(most) / per(least), 1.15, true)
}
bar(`drain of ${most.connections}, seconds`, (most.result.drain as number) / 1000, 2, true)

console.log(`\n${barsTable(bars)}`)
if (!quick) {
  writeFileSync(join(sources, 'RESULTS.md'), markdown({ bars, sections, started, ended: { date: new Date(), load: loadavg() }, rounds, ms, go: go !== undefined }))
  writeFileSync(join(sources, 'results.svg'), chart(sections, bars))
}
const missed = bars.filter(({ met }) => !met)
if (quick && missed.length > 0) {
  console.log(`\nmissed by more than ${tolerance}: ${missed.map(({ what }) => what).join('; ')}`)
  process.exitCode = 1
}
