// 64 MiB both ways at once through tunnel(pending, open), in random sizes and past readers that pause, on every transport:
//
//   npm run build:all && node --expose-gc .build/test/soak/tunnel.js [MiB]
//
// Bytes are compared by their hashes. Memory is that of server and both ends together; the first round, which is cold, comes twice.
import { createHash, randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import type { Test } from 'tap'
import { dial, tunnel } from '../../lib/index.ts'
import { everywhere, serve, type Way } from '../fixtures/server.ts'
import { CONNECT, MiB } from '../fixtures/takeover.ts'
import { fars, upstream } from '../fixtures/upstream.ts'
import type { Wire } from '../fixtures/wire.ts'

const size = Number(process.argv[2] ?? 64) * MiB
const MOST_RSS = 16 * MiB

/** What has been read, hashed as it comes. */
function hash (wire: Wire): Promise<string> {
  const { socket } = wire
  const hashed = createHash('sha256')
  socket.removeAllListeners('data')
  socket.on('data', (chunk: Buffer) => {
    hashed.update(chunk)
    if (randomInt(50) !== 0) return
    socket.pause()
    setTimeout(() => socket.resume(), randomInt(5))
  })
  return new Promise((resolve, reject) => {
    socket.once('end', () => resolve(hashed.digest('hex')))
    socket.once('close', () => reject(new Error('no end')))
  })
}

async function send ({ socket }: Wire): Promise<string> {
  const hashed = createHash('sha256')
  const noise = randomBytes(MiB)
  for (let left = size; left > 0;) {
    const length = Math.min(left, randomInt(1, randomInt(2) === 0 ? 200 : 200_000))
    const chunk = noise.subarray(0, length)
    hashed.update(chunk)
    left -= length
    if (!socket.write(chunk)) await once(socket, 'drain')
  }
  socket.end()
  return hashed.digest('hex')
}

let failed = false
for (const transport of [everywhere[0] as Way, ...everywhere]) {
  for (const far of fars) {
    const ends: (() => unknown)[] = []
    const t = { teardown: (end: () => unknown) => { ends.unshift(end) } } as unknown as Test
    const { target, accepted } = await upstream(t, far)
    const { connect } = await serve(t, { transport }, app => {
      app.connect('*', { duplex: { accept: 'manual' } }, pending => tunnel(pending, signal =>
        dial(target, { signal, tls: far === 'tls' ? { rejectUnauthorized: false } : false })))
    })
    const client = await connect()
    client.send(CONNECT)
    await client.head()
    const server = await accepted()
    globalThis.gc?.()
    const before = process.memoryUsage.rss()
    let most = before
    const timer = setInterval(() => { most = Math.max(most, process.memoryUsage.rss()) }, 50)
    const [up, down, atServer, atClient] = await Promise.all([send(client), send(server), hash(server), hash(client)])
    clearInterval(timer)
    const same = up === atServer && down === atClient
    if (!same) failed = true
    console.log(`${transport} to ${far}: ${same ? 'the same bytes' : 'OTHER BYTES'}, RSS grew by ${((most - before) / MiB).toFixed(1)} MiB${most - before > MOST_RSS ? ' (more than 16)' : ''}`)
    for (const end of ends) await end()
  }
}
process.exit(failed ? 1 : 0)
