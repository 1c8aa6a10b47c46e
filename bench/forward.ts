// `forward` beside the other proxies, in front of a server in a process of its own. Part of `npm run bench`, and alone:
// npm run build:all && node .build/bench/forward.js
import { once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { contest, type Contender, type Outcome } from './contest.ts'
import { buildLoad, Server, type LoadOptions } from './processes.ts'
import type { ServerName } from './protocol.ts'
import { outcomeTable, unreadTable, type Unread } from './report.ts'
import { chunk, frame, GET, POST, WEBSOCKET } from './requests.ts'
import { spread } from './statistics.ts'

const proxies: Record<string, ServerName> = { 'http-proxy-3': 'http-proxy-3', forward: 'forward', '@fastify/http-proxy': 'http-proxy' }

interface Turns {
  ms: number
  rounds: number
  practice: number
}

export interface Contest {
  title: string
  measure: () => Promise<Outcome[]>
}

async function replySize (port: number, request: string): Promise<number> {
  const socket = net.connect(port, '127.0.0.1')
  socket.write(request)
  let answer = ''
  // Head and body may come one after the other.
  for await (const data of socket as AsyncIterable<Buffer>) if ((answer += data.toString('latin1')).endsWith('}')) break
  return answer.length
}

/** Ratios are to http-proxy-3, which is not part of a framework. */
export function contests ({ ms, rounds, practice }: Turns): Contest[] {
  const among = (title: string, behind: ServerName, load: (port: number) => Promise<Omit<LoadOptions, 'ms'>>): Contest => ({
    title: `Forward: ${title}`,
    async measure () {
      const upstream = await Server.start(behind)
      const contenders: Contender[] = []
      for (const [label, name] of Object.entries(proxies)) {
        const start = (): Promise<Server> => Server.start(name, String(upstream.port))
        const probe = await start()
        contenders.push({ label, practice, target: start, load: { ...await load(probe.port), ms, sleep: true } })
        probe.stop()
      }
      const outcomes = await contest(contenders, rounds)
      upstream.stop()
      return outcomes
    }
  })
  return [
    among('GET, keep-alive, 64 connections', 'fastify', async port => ({ connections: 64, payload: GET, reply: await replySize(port, GET) })),
    ...([[64, 1, 64], [65536, 4, 8]] as const).flatMap(([size, depth, connections]) => [
      among(`WebSocket, ${connections} connections, messages of ${size} bytes`, 'websocket', async () =>
        ({ connections, depth, request: WEBSOCKET, ...frame(size) })),
      among(`a POST answered while it arrives, ${connections} connections, chunks of ${size} bytes`, 'body', async () =>
        // The others send the head of an answer with the first byte behind it. So a chunk comes with the request, before that head
        // is awaited.
        ({ connections, depth, request: POST + chunk(size), payload: chunk(size), reply: size, chunked: true }))
    ])
  ]
}

const MUCH = 256 * 1024 * 1024

/** What a proxy takes from its upstream, and keeps, for a client that does not read: of a response, and of a WebSocket. */
export async function unread (rounds: number): Promise<Unread[]> {
  const rows: Unread[] = []
  for (const [label, name] of Object.entries(proxies)) {
    for (const [what, request] of [['response', GET], ['WebSocket', WEBSOCKET]] as const) {
      // It has a key of its own for the upstream, which the answer below is not for.
      if (name === 'http-proxy' && request !== GET) continue
      const sent: number[] = []
      const rss: number[] = []
      for (let round = 0; round < rounds; round++) {
        const one = await unreadOnce(name, request)
        sent.push(one.sent)
        rss.push(one.rss)
      }
      rows.push({ label, what, sent: spread(sent).median, rss: spread(rss).median })
    }
  }
  return rows
}

async function unreadOnce (name: ServerName, request: string): Promise<{ sent: number, rss: number }> {
  let sent = 0
  let still = performance.now()
  const upstream = net.createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', () => {
      socket.write(request === GET
        ? `HTTP/1.1 200 OK\r\nContent-Length: ${MUCH}\r\n\r\n`
        : 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n')
      // Whole messages, as a server sends them: no mask.
      const payload = Buffer.alloc(64 * 1024)
      if (request !== GET) payload.set([0x82, 126, (payload.length - 4) >> 8, (payload.length - 4) & 0xff])
      const more = (): void => {
        while (sent < MUCH && socket.writableLength === 0) {
          socket.write(payload)
          sent += payload.length
          still = performance.now()
        }
      }
      socket.on('drain', more)
      more()
    })
  }).listen(0, '127.0.0.1')
  await once(upstream, 'listening')
  const proxy = await Server.start(name, String((upstream.address() as AddressInfo).port))
  const before = await proxy.ask('memory')
  const client = net.connect(proxy.port, '127.0.0.1').on('error', () => {}).pause()
  client.write(request)
  still = performance.now()
  while (performance.now() - still < 2000) await sleep(50)
  const after = await proxy.ask('memory')
  client.destroy()
  proxy.stop()
  upstream.close()
  return { sent, rss: (after.rss as number) - (before.rss as number) }
}

if (process.argv[1] === fileURLToPath(import.meta.url) && buildLoad(false)) {
  for (const { title, measure } of contests({ ms: 800, rounds: 2, practice: 2 })) console.log(`## ${title}\n\n${outcomeTable(await measure())}\n`)
  console.log(`## Forward: 256 MiB for a client that does not read\n\n${unreadTable(await unread(1))}\n`)
  process.exit()
}
