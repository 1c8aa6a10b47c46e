import t from 'tap'
import { onEach, transports } from './fixtures/server.ts'
import { acceptHead, hashOf, heavyServer, receiveMuch, sendMuch } from './fixtures/heavy.ts'
import { all, MiB } from './fixtures/takeover.ts'

const upgradeOf = (url: string): string => `GET ${url} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n`

onEach(t, 'S5 64 MiB both ways at once, in bounded memory', async (t, transport) => {
  const { connect, reset, peak } = await heavyServer(t, transport)
  const echo = async (bytes: number): Promise<{ bytes: number, hash: string }> => {
    const socket = await connect()
    socket.write(upgradeOf('/echo'))
    t.match(await acceptHead(socket), 'HTTP/1.1 101 ')
    const [received] = await Promise.all([receiveMuch(socket), sendMuch(socket, bytes)])
    return received
  }
  await echo(8 * MiB)
  const before = await reset()
  t.same(await echo(64 * MiB), { bytes: 64 * MiB, hash: hashOf(64 * MiB) })
  const growth = await peak() - before
  t.ok(growth < 64 * MiB, `${Math.round(growth / MiB)} MiB more`)
}, transports)

onEach(t, 'S6 a client that reads late holds the server back, and gets everything', async (t, transport) => {
  const { connect, reset, peak } = await heavyServer(t, transport)
  const before = await reset()
  const socket = await connect()
  socket.write(upgradeOf(`/pump/${96 * MiB}`))
  await acceptHead(socket)
  // The server writes what it can, and nothing is read here meanwhile.
  for (let look = 0; look < 20; look++) await peak()
  t.same(await receiveMuch(socket), { bytes: 96 * MiB, hash: hashOf(96 * MiB) })
  const growth = await peak() - before
  t.ok(growth < 64 * MiB, `${Math.round(growth / MiB)} MiB more`)
}, transports)

onEach(t, 'S6 a handler that reads late and slowly holds the client back, and gets everything', async (t, transport) => {
  const { connect, reset, peak, sip } = await heavyServer(t, transport)
  const before = await reset()
  const socket = await connect()
  socket.write(upgradeOf('/sip'))
  await acceptHead(socket)
  const sent = sendMuch(socket, 96 * MiB)
  for (let look = 0; look < 20; look++) await peak()
  await sip()
  await sent
  t.equal((await all(socket)).toString(), hashOf(96 * MiB))
  const growth = await peak() - before
  t.ok(growth < 64 * MiB, `${Math.round(growth / MiB)} MiB more`)
}, transports)
