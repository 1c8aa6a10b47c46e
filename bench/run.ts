// npm run bench            everything, about half an hour; on Node 20 it writes bench/RESULTS.md and bench/results.svg, on another
//                          Node bench/RESULTS-nodeNN.md
// npm run bench -- quick   a guard against gross regressions, under three minutes; writes nothing
//   --install-compiler     gets a C compiler by apt-get where there is none
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { contest, type Contender, type Outcome } from './contest.ts'
import { idle, keptAlive, type Idle } from './idle.ts'
import { buildLoad, injections, Server, sources, startGo, startHaproxy, startRuntime, startSocat, type LoadOptions } from './processes.ts'
import { OTHER_NODE, barsTable, chart, grownTable, growthTable, idleTable, injectionTable, keptTable, markdown, outcomeTable, unreadTable, type Bar, type Section } from './report.ts'
import { contests, unread } from './forward.ts'
import type { ServerName } from './protocol.ts'
import { messageContest, messageIdle } from './messages.ts'
import { chunk, frame, GET, head, POST, text, UPGRADE, WEBSOCKET } from './requests.ts'
import { ratios, spread } from './statistics.ts'

const quick = process.argv.includes('quick')
/** In a quick run a bar is only missed when it is missed by that much. */
const tolerance = quick ? 1.25 : 1
const rounds = quick ? 8 : 6
/** Where each turn has a process of its own, which takes longer to start than to measure. */
const freshRounds = quick ? 3 : rounds
/** Turns of such a process that do not count: by then V8 has compiled it, and its heap has grown. */
const practice = quick ? 1 : 4
const ms = quick ? 200 : 400
/** A quick run measures again what is missed: noise passes, a regression stays. */
const attempts = quick ? 3 : 1
/** On a machine so slow that a quick run would last too long it says what it did not come to. */
const timeIsUp = (): boolean => quick && performance.now() > 130_000

if (process.platform !== 'linux' || !buildLoad(process.argv.includes('--install-compiler'))) {
  console.log('bench: skipped, the load needs Linux and a C compiler')
  process.exit(0)
}

function cpuRatio (outcome: Outcome): number {
  return quick ? outcome.leastCpuRatio : outcome.cpuRatio.median
}

const bars: Bar[] = []
const sections: Section[] = []
/** Titles of what could not be measured. */
const broken: string[] = []

/** @param known where a bar is known to be missed, what a quick run takes for it */
function bar (what: string, value: number, limit: number, most: boolean, known = limit): Bar {
  const asked = quick ? known : limit
  const met = most ? value <= asked * tolerance : value >= asked / tolerance
  return { what, value, limit: asked, most, met }
}

/** Measures, and judges; a quick run does so again while a bar is missed. */
async function judged<Measured> (
  title: string, measure: () => Promise<Measured>, show: (measured: Measured) => string, judge: (measured: Measured) => Bar[]
): Promise<void> {
  if (timeIsUp()) {
    console.log(`\n${title}\nnot measured: no time is left`)
    return
  }
  for (let attempt = 1; ; attempt++) {
    let measured: Measured
    try {
      measured = await measure()
    } catch (error) {
      // The rest of a long run is worth having. But the run fails.
      console.log(`\n${title}\n${String(error)}`)
      sections.push({ title, table: `Not measured. ${String(error)}` })
      broken.push(title)
      return
    }
    const found = judge(measured)
    const section: Section = { title, table: show(measured), ...(Array.isArray(measured) ? { outcomes: measured as Outcome[] } : {}) }
    console.log(`\n${title}\n${section.table}`)
    if (attempt < attempts && !timeIsUp() && found.some(({ met }) => !met)) continue
    sections.push(section)
    bars.push(...found)
    return
  }
}

const compared = (title: string, measure: () => Promise<Outcome[]>, judge: (outcomes: Outcome[]) => Bar[]): Promise<void> =>
  judged(title, measure, outcomeTable, judge)

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
  node: await Server.start('node'),
  duplex: await Server.start('duplex'),
  fastify: await Server.start('fastify'),
  net: await Server.start('net')
}
const websocket = quick ? undefined : await Server.start('websocket')
const go = quick ? undefined : await startGo()
const bun = quick ? undefined : await startRuntime('bun')
const deno = quick ? undefined : await startRuntime('deno')

type Start = (name: ServerName) => Promise<Server>
const asItIs: Start = name => Server.start(name)
const tuned: Start = name => Server.startTuned(name)

/** The same load for everybody that speaks Upgrade, and what stands for it for the others. */
function everybody (load: LoadOptions, size: number): Contender[] {
  const raw = { ...load, payload: text(size), reply: size }
  const upgrading = { ...raw, request: UPGRADE }
  const ours = [{ label: 'node', target: main.node, load: upgrading }, { label: 'fastify-duplex', target: main.duplex, load: upgrading }]
  return quick
    ? ours
    : [
        ...ours,
        { label: 'net', target: main.net, load: raw },
        { label: 'fastify without plugin', target: main.fastify, load: upgrading },
        ...(websocket === undefined ? [] : [{ label: '@fastify/websocket', target: websocket, load: { ...load, ...frame(size), request: WEBSOCKET } }]),
        ...Object.entries({ 'go hijack': go, bun, deno })
          .flatMap(([label, target]) => target === undefined ? [] : [{ label, target, load: upgrading }])
      ]
}

/** Two processes of one server differ for as long as they live, by how V8 has compiled them: each turn has its own. */
const servers: Record<string, ServerName> = {
  node: 'node',
  'fastify-duplex': 'duplex',
  net: 'net',
  'fastify without plugin': 'fastify',
  '@fastify/websocket': 'websocket',
  'node again': 'node',
  'fastify-duplex, tcpKeepAlive: 0': 'duplex-no-probes'
}
const fresh = (contenders: Contender[], practice: number, start: Start = asItIs): Contender[] =>
  contenders.map(one => {
    const name = servers[one.label]
    return name === undefined ? one : { ...one, practice, target: () => start(name) }
  })
/** Where the least of many turns counts one process will do. */
const freshUnlessQuick: typeof fresh = (contenders, ...rest) => quick ? contenders : fresh(contenders, ...rest)

/** The same server once more: what the others differ by is to be seen beside that. */
const again = ([first]: Contender[]): Contender[] => quick ? [] : [{ ...first as Contender, label: 'node again' }]
for (const [size, limit, known] of [[64, 0.97, 1], [1024, 0.9, 0.95]] as const) {
  const pingPong = everybody({ connections: 64, ms }, size)
  await compared(`Stream: 64 connections, ping-pong of ${size} bytes`,
    () => contest(freshUnlessQuick([...pingPong, ...again(pingPong)], practice), rounds),
    outcomes => [bar(`ping-pong of ${size} bytes, CPU`, cpuRatio(named(outcomes, 'fastify-duplex')), limit, true, known)])
}

const echoes = everybody({ connections: 8, ms, depth: 4 }, 65536)
const bulk = [...echoes, ...again(echoes)]
await compared('Stream: 8 connections, echo of 64 KiB, four under way on each', () => contest(fresh(bulk, practice), freshRounds), outcomes => {
  const outcome = named(outcomes, 'fastify-duplex')
  return [
    bar('echo of 64 KiB, CPU', cpuRatio(outcome), 1, true),
    ...(quick ? [] : [bar('echo of 64 KiB, p99', outcome.p99Ratio.median, 1.1, true)])
  ]
})
if (!quick) {
  await compared('The same with allocator and collector tuned', () => contest(fresh(bulk, practice, tuned), freshRounds), () => [])
}

const acceptances = everybody({ connections: 32, ms, mode: 'accept' }, 64)
await compared('Acceptance: connect, upgrade, echo 64 bytes once, close; 32 at a time', () => contest([
  ...freshUnlessQuick([
    ...acceptances,
    ...(quick ? [] : [...again(acceptances), { ...acceptances[1] as Contender, label: 'fastify-duplex, tcpKeepAlive: 0' }])
  ], 12),
  { label: 'fastify, plain GET', target: main.fastify, load: { connections: 32, ms, mode: 'get', request: 'GET /plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' } }
], rounds, 6), outcomes => [bar('acceptance, CPU', cpuRatio(named(outcomes, 'fastify-duplex')), 1.2, true, 1.65)])
if (!quick) {
  const early = everybody({ connections: 32, ms: 2000, mode: 'accept' }, 64).filter(({ label }) => ['node', 'fastify-duplex', '@fastify/websocket'].includes(label))
  await compared('Acceptance in the first two seconds of a process', () => contest(fresh(early, 0), rounds),
    outcomes => [bar('acceptance in the first two seconds, CPU', cpuRatio(named(outcomes, 'fastify-duplex')), 1.6, true)])
}

const reply = await replySize(main.fastify.port, GET)
const get: LoadOptions = { connections: 64, ms, payload: GET, reply }
/** In a quick run one process has all turns, and the least counts. */
const own = (label: string, name: ServerName, target: Server, load: LoadOptions, start = asItIs): Contender =>
  ({ label, target: quick ? target : () => start(name), practice, load })
const plain = (start = asItIs): Contender[] => [
  own('fastify', 'fastify', main.fastify, get, start),
  own('fastify-duplex', 'duplex', main.duplex, get, start),
  ...(quick ? [] : [own('fastify, as many plain routes', 'fastify-routes', main.fastify, get, start), own('fastify again', 'fastify', main.fastify, get, start)])
]
await compared('A plain route: GET, keep-alive, 64 connections; beside the plugin and 101 duplex routes', () => contest(plain(), quick ? rounds : rounds * 2),
  outcomes => [bar('plain route, CPU', cpuRatio(named(outcomes, 'fastify-duplex')), 1.03, true, 1.05)])
if (!quick) await compared('The plain route with allocator and collector tuned', () => contest(plain(tuned), rounds), () => [])

const message = await Server.start('body')
for (const [size, depth, connections] of quick ? [[64, 1, 64]] as const : [[64, 1, 64], [65536, 4, 8]] as const) {
  const load: LoadOptions = { connections, depth, ms, request: POST, payload: chunk(size), reply: size, chunked: true }
  const answered = (start = asItIs): Contender[] => [
    own('req.pipe(res)', 'body', message, load, start),
    own('fastify-duplex', 'duplex', main.duplex, load, start),
    ...(quick ? [] : [own('fastify without plugin', 'fastify', main.fastify, load, start)])
  ]
  await compared(`A body answered while it arrives: ${connections} connections, chunks of ${size} bytes`, () => contest(answered(), rounds),
    outcomes => [bar(`body of ${size} byte chunks, CPU`, cpuRatio(named(outcomes, 'fastify-duplex')), 1.05, true, 1.1)])
  if (!quick && size === 64) await compared('The body in chunks of 64 bytes with allocator and collector tuned', () => contest(answered(tuned), rounds), () => [])
}
message.stop()

const http2 = [await Server.start('http2'), await Server.start('http2-duplex')] as const
const streams: LoadOptions = { connections: 64, ms, reply: 64, http2: true }
await compared('HTTP/2: 64 streams of one session, ping-pong of 64 bytes', () => contest([
  own('http2', 'http2', http2[0], streams),
  own('fastify-duplex', 'http2-duplex', http2[1], streams),
  ...(quick ? [] : [own('fastify without plugin', 'http2-fastify', http2[0], streams), own('http2 again', 'http2', http2[0], streams)])
], rounds), outcomes => [bar('HTTP/2 stream, CPU', cpuRatio(named(outcomes, 'fastify-duplex')), 1.05, true, 1.15)])
for (const server of http2) server.stop()

const idleConnections = quick ? 2000 : 10_000
const repeats = 2
const peers: ServerName[] = quick ? ['node', 'duplex'] : ['node', 'duplex', 'net', 'websocket']
await judged(`Memory of an idle accepted connection, of ${idleConnections}`, async () => {
  const idles: Record<string, Idle[]> = Object.fromEntries(peers.map(peer => [peer, []]))
  for (let round = 0; round < repeats; round++) {
    for (const peer of peers) {
      idles[peer]?.push(await idle(peer, idleConnections, peer === 'net' ? '' : peer === 'websocket' ? WEBSOCKET : UPGRADE))
    }
  }
  return idles
}, idleTable, idles => (['rss', 'heap'] as const).map(what => {
  const of = (peer: ServerName): number[] => (idles[peer] as Idle[]).map(one => one[what])
  return bar(`idle memory, ${what === 'rss' ? 'RSS' : 'heap'}`, ratios(of('duplex'), of('node')).median, what === 'rss' ? 1.35 : 2, true, 2.4)
}))

await judged('What an idle connection keeps alive (for each connection)', async () =>
  ({ node: await keptAlive('node', 1000, UPGRADE), 'fastify-duplex': await keptAlive('duplex', 1000, UPGRADE) }), keptTable, kept =>
  [bar('HTTP parsers kept alive by an idle connection', kept['fastify-duplex'].HTTPParser ?? 0, 0.05, true)])

const sizes = quick ? [500, 2000] : [1000, 5000, 15_000]
await judged('Growth: accept and hold so many, then app.close()', async () => {
  const growth: { connections: number, result: Idle }[] = []
  for (const connections of sizes) {
    const runs: Idle[] = []
    for (let round = 0; round < (quick ? 1 : 2); round++) runs.push(await idle('duplex', connections, head('/graceful'), { drain: true }))
    const middle = (what: keyof Idle): number => spread(runs.map(one => one[what] as number)).median
    growth.push({ connections, result: { rss: middle('rss'), heap: middle('heap'), cpu: middle('cpu'), drain: middle('drain') } })
  }
  return { growth }
}, ({ growth }) => growthTable(growth), ({ growth }) => {
  const least = growth[0] as typeof growth[number]
  const most = growth[growth.length - 1] as typeof growth[number]
  const per = (one: typeof least): number => (one.result.drain as number) / one.connections
  return [
    bar(`heap for each of ${most.connections}, to ${least.connections}`, most.result.heap / least.result.heap, 1.15, true),
    // So few connections as a quick run has say nothing of how times grow.
    ...(quick
      ? []
      : [
          bar(`acceptance CPU for each of ${most.connections}, to ${least.connections}`, most.result.cpu / least.result.cpu, 1.15, true),
          bar(`drain time for each of ${most.connections}, to ${least.connections}`, per(most) / per(least), 1.15, true)
        ]),
    bar(`drain of ${most.connections}, seconds`, (most.result.drain as number) / 1000, 2, true)
  ]
})

for (const [size, what, load] of [
  ['small', '64 connections, 100 bytes, one at a time', { connections: 64, ms }],
  ['small', '8 connections, 100 bytes, 16 under way on each', { connections: 8, depth: 16, ms }],
  ['large', '16 connections, 4 KiB, four under way on each', { connections: 16, depth: 4, ms }]
] as const) {
  // A quick run has the first one.
  if (quick && load.connections !== 64) continue
  await compared(`Messages over WebSocket, validated: ${what}`, () => messageContest(size, load, freshRounds, practice), outcomes => {
    const ours = named(outcomes, 'fastify-duplex')
    const theirs = named(outcomes, '@fastify/websocket by hand')
    return [
      bar(`messages (${what}), CPU`, cpuRatio(ours), 1.1, true, 1.6),
      ...(quick ? [] : [bar('the same, to @fastify/websocket by hand', ratios(ours.cpus, theirs.cpus).median, 1, true)])
    ]
  })
}
if (!quick) {
  await judged('Memory of a WebSocket of 1000, on which one message of 4 KiB was answered', () => messageIdle(1000, repeats), idleTable, () => [])
}

const upstream = String(main.net.port)
const others = quick
  ? {}
  : { 'go, io.Copy': await startGo(upstream), HAProxy: await startHaproxy(main.net.port), socat: await startSocat(main.net.port) }
for (const [size, depth, connections, limit] of [[64, 1, 64, 0.97], [65536, 4, 8, 0.8]] as const) {
  const load: LoadOptions = { connections, depth, ms, payload: text(size), reply: size, sleep: true }
  const upgrading = { ...load, request: UPGRADE }
  const joiner = (label: string, name: ServerName): Contender =>
    ({ label, target: () => Server.start(name, upstream), practice, load: upgrading })
  await judged(`Tunnel to an echo server: ${connections} connections, ${size} bytes`, () => contest([
    joiner('two pipes', 'pipes'),
    joiner('tunnel()', 'tunnel'),
    ...(quick ? [] : [joiner('two pipes, beside Fastify', 'fastify-pipes'), joiner('two pipes again', 'pipes')]),
    ...Object.entries(others).flatMap(([label, target]) => target === undefined ? [] : [{ label, target, load: label.startsWith('go') ? upgrading : load }])
  ], freshRounds), grownTable, outcomes => {
    const ours = named(outcomes, 'tunnel()')
    return [
      bar(`tunnel() of ${size} byte messages, CPU`, cpuRatio(ours), limit, true, size === 64 ? 1 : limit),
      ...(quick || size === 64 ? [] : [bar(`tunnel() of ${size} byte messages, memory`, ours.grownRatio.median, 0.7, true)])
    ]
  })
}
if (!quick) {
  for (const { title, measure } of contests({ ms, rounds: freshRounds, practice })) await compared(title, measure, () => [])
  await judged('Forward: 256 MiB for a client that does not read', async () => ({ all: await unread(repeats) }),
    ({ all }) => unreadTable(all), () => [])
  await judged('Injections, one after the other: 64 bytes and back', async () => ({ all: await injections(ms, rounds) }),
    ({ all }) => injectionTable(all), () => [])
}
for (const server of [...Object.values(others), go, bun, deno, websocket, ...Object.values(main)]) server?.stop()

console.log(`\n${barsTable(bars)}`)
if (!quick) {
  const [major] = process.versions.node.split('.')
  writeFileSync(join(sources, OTHER_NODE ? `RESULTS-node${major}.md` : 'RESULTS.md'), markdown({ bars, sections, started, ended: new Date(), rounds, ms, go: go !== undefined }))
  if (!OTHER_NODE) writeFileSync(join(sources, 'results.svg'), chart(sections, bars))
}
const missed = bars.filter(({ met }) => !met)
if (quick && missed.length > 0) {
  console.log(`\nmissed by more than ${tolerance}: ${missed.map(({ what }) => what).join('; ')}`)
  process.exitCode = 1
}
if (broken.length > 0) {
  console.log(`\nnot measured: ${broken.join('; ')}`)
  process.exitCode = 1
}
