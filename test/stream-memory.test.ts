import t from 'tap'
import { onEach, streams } from './fixtures/server.ts'
import { hashOf, heavyServer, receiveMuch, sendMuch } from './fixtures/heavy.ts'
import { all, MiB } from './fixtures/takeover.ts'

onEach(t, 'S5 64 MiB both ways at once, in bounded memory', async (t, transport) => {
  const { open, reset, peak } = await heavyServer(t, transport)
  const echo = async (bytes: number): Promise<{ bytes: number, hash: string }> => {
    const socket = await open('/echo')
    const [received] = await Promise.all([receiveMuch(socket), sendMuch(socket, bytes)])
    return received
  }
  await echo(8 * MiB)
  const before = await reset()
  t.same(await echo(64 * MiB), { bytes: 64 * MiB, hash: hashOf(64 * MiB) })
  const growth = await peak() - before
  t.ok(growth < 64 * MiB, `${Math.round(growth / MiB)} MiB more`)
}, streams)

onEach(t, 'S6 a client that reads late holds the server back, and gets everything', async (t, transport) => {
  const { open, reset, peak } = await heavyServer(t, transport)
  const before = await reset()
  const socket = await open(`/pump/${96 * MiB}`)
  // The server writes what it can, and nothing is read here meanwhile.
  for (let look = 0; look < 20; look++) await peak()
  t.same(await receiveMuch(socket), { bytes: 96 * MiB, hash: hashOf(96 * MiB) })
  const growth = await peak() - before
  t.ok(growth < 64 * MiB, `${Math.round(growth / MiB)} MiB more`)
}, streams)

onEach(t, 'S6 a handler that reads late and slowly holds the client back, and gets everything', async (t, transport) => {
  const { open, reset, peak, sip } = await heavyServer(t, transport)
  const before = await reset()
  const socket = await open('/sip')
  const sent = sendMuch(socket, 96 * MiB)
  for (let look = 0; look < 20; look++) await peak()
  await sip()
  await sent
  t.equal((await all(socket)).toString(), hashOf(96 * MiB))
  const growth = await peak() - before
  t.ok(growth < 64 * MiB, `${Math.round(growth / MiB)} MiB more`)
}, streams)
