import t, { type Test } from 'tap'
import { once } from 'node:events'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import net, { type AddressInfo, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { start, type Program } from '../fixtures/program.ts'
import { request, UPGRADE } from '../fixtures/requests.ts'
import { MiB, pattern } from '../fixtures/takeover.ts'
import { tokenFor } from '../fixtures/tokens.ts'

const MUCH = 250 * MiB
const bearer = `Authorization: Bearer ${tokenFor(['far'])}`
const SWITCH = 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'

/** examples/gateway in a process of its own, before a server that has its sockets from here. */
async function gateway (
  t: Test, serve: (socket: Socket, head: string) => void
): Promise<{ program: Program, connections: () => Promise<number> }> {
  const server = net.createServer({ allowHalfOpen: true }, socket => {
    let head = ''
    const read = (data: Buffer): void => {
      head += data.toString('latin1')
      if (!head.includes('\r\n\r\n')) return
      socket.removeListener('data', read)
      socket.pause()
      serve(socket, head)
    }
    // Up to Node 22 a reset may look like an end.
    socket.on('error', () => {}).on('end', () => socket.end()).on('data', read)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const { port } = server.address() as AddressInfo
  const apps = { far: `http://127.0.0.1:${port}` }
  const program = await start(t, new URL('../../examples/gateway.js', import.meta.url), { SECRET: 'secret', APPS: JSON.stringify(apps) })
  const connections = (): Promise<number> => new Promise((resolve, reject) => {
    server.getConnections((error, count) => error === null ? resolve(count) : reject(error))
  })
  return { program, connections }
}

function resident ({ child }: Program): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, 'latin1'))?.[1]) * 1024
}

function sockets ({ child }: Program): number {
  return readdirSync(`/proc/${child.pid}/fd`).filter(fd => {
    try {
      return readlinkSync(`/proc/${child.pid}/fd/${fd}`).startsWith('socket:')
    } catch {
      // Closed meanwhile.
      return false
    }
  }).length
}

/** Sends all of it, or until nothing has left for two seconds. */
async function sendUntilStill (socket: Socket): Promise<number> {
  const piece = pattern(64 * 1024)
  let sent = 0
  let last = performance.now()
  while (sent < MUCH && performance.now() - last < 2000) {
    if (socket.writableLength === 0) {
      socket.write(piece)
      sent += piece.length
      last = performance.now()
    } else {
      await sleep(5)
    }
  }
  return sent
}

const onLinux = { skip: process.platform === 'linux' ? false : 'it looks into /proc' }

for (const [what, ask, head] of [
  ['a body', request('GET /apps/far/it', bearer), `HTTP/1.1 200 OK\r\nContent-Length: ${MUCH}\r\n\r\n`],
  ['an upgrade', request('GET /apps/far/it', bearer, ...UPGRADE), SWITCH]
] as const) {
  t.test(`FW3 250 MiB for a client that does not read, of ${what}: they stay with the upstream`, onLinux, async t => {
    let found = (_socket: Socket): void => {}
    const accepted = new Promise<Socket>(resolve => { found = resolve })
    const { program, connections } = await gateway(t, socket => {
      socket.write(head)
      found(socket)
    })
    const wire = (await program.connect()).send(ask)
    await wire.head()
    wire.socket.pause()
    const before = resident(program)
    const sent = await sendUntilStill(await accepted)
    const growth = resident(program) - before
    t.ok(sent < 16 * MiB, `${(sent / MiB).toFixed(1)} MiB were sent`)
    t.ok(growth < 32 * MiB, `${(growth / MiB).toFixed(1)} MiB more memory`)
    wire.reset()
    while (await connections() > 0) await sleep(5)
  })
}

for (const [what, ask, head] of [
  ['a body', request('POST /apps/far/it', bearer, `Content-Length: ${MUCH}`), 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n'],
  ['an upgrade', request('GET /apps/far/it', bearer, ...UPGRADE), SWITCH]
] as const) {
  t.test(`FW3 250 MiB for an upstream that does not read, of ${what}: they stay with the client`, onLinux, async t => {
    let found = (_socket: Socket): void => {}
    const accepted = new Promise<Socket>(resolve => { found = resolve })
    const { program, connections } = await gateway(t, socket => {
      socket.write(head)
      found(socket)
    })
    const wire = (await program.connect()).send(ask)
    await wire.head()
    const before = resident(program)
    const sent = await sendUntilStill(wire.socket as Socket)
    const growth = resident(program) - before
    t.ok(sent < 16 * MiB, `${(sent / MiB).toFixed(1)} MiB were sent`)
    t.ok(growth < 32 * MiB, `${(growth / MiB).toFixed(1)} MiB more memory`)
    wire.reset()
    ;(await accepted).resume()
    while (await connections() > 0) await sleep(5)
  })
}

t.test('FW10 1,000 clients that leave, at each phase: no socket is left on either side', onLinux, async t => {
  let answering = false
  const asked: Socket[] = []
  const { program, connections } = await gateway(t, (socket, head) => {
    asked.push(socket)
    socket.resume()
    if (answering) socket.write(/^upgrade:/im.test(head) ? SWITCH : 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it')
  })
  const before = sockets(program)
  for (const [at, leave] of (['reset', 'destroy', 'reset', 'destroy'] as const).entries()) {
    answering = at >= 2
    for (let round = 0; round < 10; round++) {
      asked.length = 0
      const wires = await Promise.all(Array.from({ length: 25 }, () => program.connect()))
      for (const [at, wire] of wires.entries()) {
        const ask = [
          request('GET /apps/far/it', bearer), request('GET /apps/far/it', bearer, ...UPGRADE), request('POST /apps/far/it', bearer, 'Content-Length: 10') + 'part'
        ]
        wire.send(ask[at % ask.length] as string)
      }
      // A few leave while they are being dialled for.
      if (round % 2 === 0) while (asked.length < wires.length) await sleep(1)
      if (answering && round % 2 === 0) await Promise.all(wires.map(wire => wire.head()))
      for (const wire of wires) wire[leave]()
      // By a FIN a client may say no more than that this was its last request: it gets an answer, and is found to be gone.
      if (!answering && leave === 'destroy') for (const socket of asked) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it')
    }
  }
  while (sockets(program) > before || await connections() > 0) await sleep(10)
  t.equal(sockets(program), before)
  t.equal(await connections(), 0)
  t.equal(await program.stop(), 0)
})
