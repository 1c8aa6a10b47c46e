import t, { type Test } from 'tap'
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { tunnel, type DuplexConnection, type TunnelResult } from '../lib/index.ts'
import { turn } from './fixtures/bare.ts'
import { gate, serve } from './fixtures/server.ts'
import { MiB, pattern, sha256, UPGRADE } from './fixtures/takeover.ts'
import { upstream } from './fixtures/upstream.ts'
import type { Wire } from './fixtures/wire.ts'

// Between two sockets the bytes of a tunnel go past the streams. Whoever has a hand in it sees nothing of that.

interface Joined { client: Wire, server: Wire, connection: DuplexConnection, socket: Socket, result: Promise<TunnelResult> }

async function joined (t: Test, before: (socket: Socket, connection: DuplexConnection) => void = () => {}, far: 'tcp' | 'unix' = 'tcp'): Promise<Joined> {
  const { dial, accepted } = await upstream(t, far)
  const made = gate<Pick<Joined, 'connection' | 'socket' | 'result'>>()
  const { connect } = await serve(t, { transport: far }, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'] } }, async connection => {
      const socket = await dial()
      before(socket, connection)
      const result = tunnel(connection, socket)
      made.open({ connection, socket, result })
      await result
    })
  })
  const client = await connect()
  client.send(UPGRADE)
  await client.head()
  const { result, ...rest } = await made.promise
  result.catch(() => {})
  return { client, server: await accepted(), result, ...rest }
}

for (const far of ['tcp', 'unix'] as const) {
  t.test(`TU8 one byte, one buffer, small and large by turns, both ways at once, to a client that takes them late [${far}]`, async t => {
    const { client, server, result } = await joined(t, undefined, far)
    const bytes = pattern(8 * MiB)
    const send = async (wire: Wire): Promise<void> => {
      let seed = 5
      for (let at = 0; at < bytes.length;) {
        seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
        const size = [1, 64, 4096, 4097, 65536, 65537, 262144, 400_000][(seed >>> 9) % 8] as number
        if (!wire.socket.write(bytes.subarray(at, at += size))) await once(wire.socket, 'drain')
        if (seed % 5 === 0) await turn()
      }
      wire.end()
    }
    const slow = (wire: Wire): void => {
      wire.socket.on('data', () => {
        wire.socket.pause()
        setImmediate(() => wire.socket.resume())
      })
    }
    slow(client)
    slow(server)
    const [toServer, toClient] = await Promise.all([server.rest(), client.rest(), send(client), send(server)])
    t.equal(sha256(toServer), sha256(bytes))
    t.equal(sha256(toClient), sha256(bytes))
    t.same(await result, { bytesToUpstream: bytes.length, bytesFromUpstream: bytes.length })
  })
}

const keepers: Record<string, (kept: Buffer[], socket: Socket) => void> = {
  'somebody else who listens on the upstream gets every byte as well, and may keep them': (kept, socket) => {
    socket.on('data', (chunk: Buffer) => kept.push(chunk))
  },
  'a write() of the app in front of the upstream may keep what it is given': (kept, socket) => {
    const { write } = socket
    socket.write = function (this: Socket, chunk: Buffer, ...rest: never[]) {
      kept.push(chunk)
      return write.call(this, chunk, ...rest)
    } as never
  }
}
for (const [what, keep] of Object.entries(keepers)) {
  t.test(`TU8 ${what}`, async t => {
    const kept: Buffer[] = []
    const { client, server } = await joined(t, socket => keep(kept, socket))
    const bytes = pattern(2 * MiB)
    // One of them goes the way that is kept.
    client.send(bytes).end()
    server.send(bytes).end()
    t.equal(sha256(await server.rest()), sha256(bytes))
    t.equal(sha256(await client.rest()), sha256(bytes))
    t.equal(sha256(Buffer.concat(kept)), sha256(bytes))
  })
}

t.test('TU8 a rate on the connection holds, with every byte', async t => {
  const { dial, accepted } = await upstream(t)
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'], rate: { bytesOut: 1e7, bytesIn: 1e7 } } }, async connection => { await tunnel(connection, await dial()) })
  })
  const client = await connect()
  client.send(UPGRADE)
  await client.head()
  const server = await accepted()
  const bytes = pattern(2 * MiB)
  server.send(bytes).end()
  client.send(bytes).end()
  t.equal(sha256(await client.rest()), sha256(bytes))
  t.equal(sha256(await server.rest()), sha256(bytes))
})

t.test('TU8 a client that takes nothing stops the upstream, and its reset then ends both', async t => {
  const { client, server, connection, socket, result } = await joined(t)
  client.socket.pause()
  const flood = Buffer.alloc(MiB)
  // As much as the kernels take, and not more.
  while (server.socket.writableLength < 8 * MiB) {
    server.socket.write(flood)
    await turn()
  }
  t.ok(connection.writable.writableLength <= 256 * 1024, String(connection.writable.writableLength))
  t.equal(socket.readableLength, 0)
  client.reset()
  await t.rejects(result)
  t.equal((await connection.closed).reason, 'abort')
  t.equal(await server.gone(), 'broken')
})

t.test('TU8 the upstream resets while the client has not taken what came: the client sees a reset', async t => {
  const { client, server, result } = await joined(t)
  client.socket.pause()
  server.send(Buffer.alloc(4 * MiB))
  while (server.socket.writableLength === 4 * MiB) await turn()
  server.reset()
  client.socket.resume()
  await t.rejects(result)
  t.equal(await client.gone(), 'broken')
})

t.test('TU8 an upstream whose stream decodes goes on as a stream', async t => {
  const { client, server } = await joined(t, socket => { socket.setEncoding('latin1') })
  server.send('abc').end()
  client.end()
  t.equal(String(await client.rest()), 'abc')
})
