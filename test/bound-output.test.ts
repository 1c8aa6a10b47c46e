import t from 'tap'
import { once } from 'node:events'
import { boundOutput } from '../lib/connection/bound-output.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { onBoth, takeOne, turn, type Carrying } from './fixtures/bare.ts'
import { gate } from './fixtures/server.ts'
import { MiB } from './fixtures/takeover.ts'
import type { Test } from 'tap'
import type { Wire } from './fixtures/wire.ts'

interface Bounded {
  wire: Wire
  socket: HttpSocket
  /** Resolves when too much waits. */
  exceeded: Promise<void>
  /** How often that was said. */
  said: () => number
}

/** A connection that may have this much written that its client does not take. */
async function bounded (t: Test, carrying: Carrying, most: number): Promise<Bounded> {
  const { wire, socket } = await takeOne(t, carrying)
  const over = gate()
  let said = 0
  boundOutput({
    writable: socket,
    get closed () { return socket.destroyed },
    get unsent () { return socket.writableLength }
  }, most, () => {
    said++
    over.open()
  })
  return { wire, socket, exceeded: over.promise, said: () => said }
}

onBoth('S6 more than the bound that a client does not take is told of, whatever its writer waits for', async (t, carrying) => {
  const { wire, socket, exceeded, said } = await bounded(t, carrying, MiB)
  wire.socket.pause()
  const chunk = Buffer.alloc(64 * 1024)
  for (let n = 0; n < 1024; n++) socket.write(chunk)
  t.equal(said(), 0, 'not within the write: the kernel may take it at once')
  await exceeded
  t.equal(said(), 1, 'once for all that was written in one turn')
})

onBoth('S6 one end() with too much is told of like a write()', async (t, carrying) => {
  const { wire, socket, exceeded } = await bounded(t, carrying, MiB)
  wire.socket.pause()
  socket.end(Buffer.alloc(64 * MiB))
  await exceeded
  t.pass('told')
})

onBoth('S6 a client that reads gets any amount, from a writer that waits for drain', async (t, carrying) => {
  const { wire, socket, said } = await bounded(t, carrying, MiB)
  const size = 4 * MiB
  const whole = wire.bytes(size)
  for (let sent = 0; sent < size; sent += MiB / 2) if (!socket.write(Buffer.alloc(MiB / 2))) await once(socket, 'drain')
  t.equal((await whole).length, size)
  t.equal(said(), 0)
})

onBoth('S6 what the bound allows is not told of, nor what is written when the connection is over', async (t, carrying) => {
  const { wire, socket, said } = await bounded(t, carrying, 8 * MiB)
  wire.socket.pause()
  socket.write(Buffer.alloc(8 * MiB))
  await turn()
  await turn()
  t.equal(said(), 0)
  socket.write(Buffer.alloc(64 * MiB))
  socket.destroy()
  await turn()
  await turn()
  t.equal(said(), 0, 'it is closed when the look comes')
})

t.test('S6 write() and end() return what they did, and hand on what they were given', async t => {
  const { wire, socket } = await bounded(t, 'tcp', MiB)
  const written = gate()
  t.equal(socket.write('c3', 'hex', () => written.open()), true)
  await written.promise
  t.equal(socket.end('a9', 'hex'), socket)
  t.equal((await wire.rest()).toString(), '\u00e9')
})
