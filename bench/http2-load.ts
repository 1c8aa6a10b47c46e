// The load for HTTP/2, which speaks as load.c does: `node http2-load.js PORT STREAMS BYTES MS`.
import http2, { type ClientHttp2Stream } from 'node:http2'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Load } from './protocol.ts'

const [port, streams, size, ms] = process.argv.slice(2).map(Number) as [number, number, number, number]
const message = Buffer.alloc(size, 'x')
const times: number[] = []
let running = false
let deadline = 0
let operations = 0

function play (stream: ClientHttp2Stream): () => void {
  let got = 0
  let since = 0
  const send = (): void => {
    since = performance.now()
    stream.write(message)
  }
  stream.on('data', (chunk: Buffer) => {
    got += chunk.length
    if (got < size) return
    got -= size
    const now = performance.now()
    if (!running) return
    operations++
    times.push(now - since)
    if (now < deadline) send()
  })
  return send
}

const session = http2.connect(`http://127.0.0.1:${port}`)
session.on('error', () => process.exit())
await once(session, 'remoteSettings')
const opening = Array.from({ length: streams }, async () => {
  const stream = session.request({ ':method': 'POST', ':path': '/message' }, { endStream: false })
  stream.on('error', () => {})
  await once(stream, 'response')
  return stream
})
const sends = (await Promise.all(opening)).map(play)
console.log(JSON.stringify({ ready: true }))

const lines = createInterface({ input: process.stdin })
lines.on('close', () => process.exit())
lines.once('line', () => {
  const { user, system } = process.cpuUsage()
  const start = performance.now()
  deadline = start + ms
  running = true
  // It polls while it measures, for the reason that load.c gives.
  let idle = 0
  const poll = (since: number, seen: number): void => {
    if (!running) return
    const now = performance.now()
    if (operations === seen) idle += now - since
    const { length } = times
    setImmediate(() => poll(now, length))
  }
  poll(start, 0)
  for (const send of sends) send()
  setTimeout(() => {
    running = false
    const used = process.cpuUsage()
    times.sort((a, b) => a - b)
    const at = (share: number): number => (times[Math.floor(times.length * share)] ?? 0) * 1000
    const load: Load = {
      operations,
      bytes: operations * size,
      failures: 0,
      seconds: (performance.now() - start) / 1000,
      cpu: Math.max(0, used.user + used.system - user - system - idle * 1000),
      p50: at(0.5),
      p99: at(0.99)
    }
    console.log(JSON.stringify(load))
  }, ms)
})
