// Injections, one after the other, in turns: `node injections.js MS ROUNDS`. Tells over IPC what each turn was.
import Fastify from 'fastify'
import duplex from '../lib/index.ts'
import type { Injections } from './protocol.ts'

const [ms, rounds] = process.argv.slice(2).map(Number) as [number, number]
const app = Fastify()
await app.register(duplex)
app.get('/plain', () => ({ hello: 'world' }))
app.get('/echo', { duplex: { kinds: ['upgrade'] } }, ({ readable, writable }) => { readable.pipe(writable) })
app.post('/message', { duplex: { kinds: ['body'] } }, ({ readable, writable }) => { readable.pipe(writable) })
await app.ready()

const chunk = Buffer.alloc(64, 'x')

const ways: Record<string, () => Promise<number>> = {
  'app.inject(), a plain GET': async () => (await app.inject('/plain')).rawPayload.length,
  'injectDuplex(), an upgrade': async () => {
    const { writable, body } = await app.injectDuplex({ url: '/echo', protocol: 'echo' })
    writable.end(chunk)
    return (await body()).length
  },
  'injectDuplex(), a message': async () => {
    const { writable, body } = await app.injectDuplex({ method: 'POST', url: '/message', headers: { 'transfer-encoding': 'chunked' } })
    writable.end(chunk)
    return (await body()).length
  }
}

async function turn (inject: () => Promise<number>): Promise<{ rate: number, cpu: number }> {
  const before = process.cpuUsage()
  const start = performance.now()
  let count = 0
  while (performance.now() - start < ms) {
    if (await inject() === 0) throw new Error('nothing came back')
    count++
  }
  const { user, system } = process.cpuUsage(before)
  return { rate: count / (performance.now() - start) * 1000, cpu: (user + system) / count }
}

const all: Injections[] = Object.keys(ways).map(label => ({ label, rates: [], cpus: [] }))
for (let round = -2; round < rounds; round++) {
  for (const one of all) {
    const { rate, cpu } = await turn(ways[one.label] as () => Promise<number>)
    // Two rounds for practice.
    if (round < 0) continue
    one.rates.push(rate)
    one.cpus.push(cpu)
  }
}
process.send?.(all)
await app.close()
process.disconnect()
