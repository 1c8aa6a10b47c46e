import t, { type Test } from 'tap'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { TLSSocket } from 'node:tls'
import { readThroughShared, readThroughSharedLater, receiveFrom, receiveNoMore, takeChunksFrom, type Receiver } from '../lib/internals/read-buffer.ts'
import { startReading, watchReset, type HttpSocket } from '../lib/internals/sockets.ts'
import { listen, takeOne, turn } from './fixtures/bare.ts'
import { cert, key } from './fixtures/certificate.ts'
import { serve } from './fixtures/server.ts'
import { MiB, pattern, sha256, UPGRADE } from './fixtures/takeover.ts'
import type { Wire } from './fixtures/wire.ts'

// Reading through one buffer that all sockets share. What Node has to do for it is seen here to be done.

const FRESH = { needsBorrowed: false, smallReads: 0, readIn: 0, timesLeft: 0 }

async function shared (t: Test): Promise<{ wire: Wire, socket: HttpSocket }> {
  const { wire, socket } = await takeOne(t, 'tcp')
  t.equal(readThroughShared(socket), true, 'this Node can')
  return { wire, socket }
}

t.test('readThroughShared: a socket of TCP reads through it, TLS and a stream in memory do not', async t => {
  await shared(t)
  t.equal(readThroughShared((await takeOne(t, 'tls')).socket), false)
  t.equal(readThroughShared(new PassThrough() as unknown as HttpSocket), false)
})

t.test('takeChunksFrom: the taker gets what the only reader would, until it pauses or gives back', async t => {
  const { wire, socket } = await shared(t)
  let [taken, read] = ['', '']
  socket.on('data', (chunk: Buffer) => { read += String(chunk) })
  takeChunksFrom(socket, { takeChunk: chunk => { taken += String(chunk) } })
  wire.send('one')
  while (taken.length < 3) await turn()
  socket.pause()
  wire.send('two')
  while (socket.readableLength < 3) await turn()
  t.same([taken, read], ['one', ''])
  socket.resume()
  while (read.length < 3) await turn()
  wire.send('three')
  while (taken.length < 8) await turn()
  takeChunksFrom(socket, undefined)
  wire.send('four')
  while (read.length < 7) await turn()
  t.same([taken, read], ['onethree', 'twofour'])
})

t.test('a socket that somebody else reads with `onread` stays theirs', async t => {
  const { server, link } = await listen(t)
  await link()
  const theirs: number[] = []
  const socket = connect({
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    onread: { buffer: Buffer.alloc(1024), callback: count => { theirs.push(count); return true } }
  })
  await once(socket, 'connect')
  t.equal(readThroughShared(socket as unknown as HttpSocket), false)
  socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  while (theirs.length === 0) await turn()
  socket.destroy()
})

t.test('small chunks keep their bytes, and no more memory than the pool they lie in', async t => {
  const { wire, socket } = await shared(t)
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  const sent: string[] = []
  for (let number = 0; number < 300; number++) {
    const text = String(number).padStart(1 + number % 100, '.')
    sent.push(text)
    wire.send(text)
    const { length } = sent.join('')
    while (Buffer.concat(chunks).length < length) await turn()
  }
  t.equal(Buffer.concat(chunks).toString(), sent.join(''))
  t.ok(chunks.every(({ buffer }) => buffer.byteLength <= 8192))
  t.ok(new Set(chunks.map(({ buffer }) => buffer)).size < chunks.length / 10, 'many in each')
})

t.test('chunks of every size keep their bytes, while they are held and more is read, with pauses', async t => {
  const { wire, socket } = await shared(t)
  const bytes = pattern(24 * MiB)
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => {
    chunks.push(chunk)
    if (chunks.length % 7 === 0) {
      socket.pause()
      setImmediate(() => socket.resume())
    }
  })
  let seed = 7
  for (let at = 0; at < bytes.length;) {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
    const size = 1 + (seed >>> 8) % (seed % 3 === 0 ? 300_000 : 3000)
    if (!wire.socket.write(bytes.subarray(at, at += size))) await once(wire.socket, 'drain')
  }
  wire.end()
  await once(socket, 'end')
  t.equal(sha256(Buffer.concat(chunks)), sha256(bytes))
})

t.test('who reads ten bytes at a time from a flood has no more waiting than with a buffer of Node\'s', async t => {
  for (const ours of [false, true]) {
    const { wire, socket } = await takeOne(t, 'tcp')
    if (ours) readThroughShared(socket)
    wire.send(Buffer.alloc(8 * MiB))
    for (let times = 0; times < 200; times++) {
      if (socket.read(10) === null) await once(socket, 'readable')
      await turn()
    }
    t.ok(socket.readableLength <= socket.readableHighWaterMark + 65536, String(socket.readableLength))
    socket.pause()
    wire.destroy()
  }
})

t.test('receiveFrom and startReading: the bytes come past the stream, in order, and what is lent is not overwritten before startReading', async t => {
  const { wire, socket } = await shared(t)
  const bytes = pattern(4 * MiB)
  const got: Buffer[] = []
  let lent = 0
  let widest = 0
  socket.on('data', (chunk: Buffer) => got.push(chunk))
  receiveFrom(socket, {
    ...FRESH,
    receive (chunk) {
      got.push(chunk)
      return true
    },
    borrow (chunk) {
      lent++
      widest = Math.max(widest, chunk.length)
      setImmediate(() => {
        got.push(Buffer.from(chunk))
        startReading(socket)
      })
      return false
    }
  })
  wire.send(bytes).end()
  await once(socket, 'end')
  await turn()
  t.equal(sha256(Buffer.concat(got)), sha256(bytes))
  t.ok(lent > 0)
  t.ok(widest > 65536, 'and reads more at once')
})

t.test('a second reader of the stream gets every byte: then nothing goes past it', async t => {
  const { wire, socket } = await shared(t)
  const seen: [string, string][] = []
  const first = (chunk: Buffer): void => { seen.push(['first', String(chunk)]) }
  const second = (chunk: Buffer): void => { seen.push(['second', String(chunk)]) }
  socket.on('data', first)
  receiveFrom(socket, { ...FRESH, receive: chunk => seen.push(['past', String(chunk)]) > 0, borrow: () => true })
  wire.send('a')
  while (seen.length < 1) await turn()
  socket.on('data', second)
  wire.send('b')
  while (seen.length < 3) await turn()
  socket.off('data', second)
  wire.send('c')
  while (seen.length < 4) await turn()
  socket.pause()
  wire.send('d')
  while (socket.readableLength === 0) await turn()
  wire.send('e')
  socket.resume()
  while (seen.length < 6) await turn()
  t.same(seen, [['past', 'a'], ['first', 'b'], ['second', 'b'], ['past', 'c'], ['first', 'd'], ['past', 'e']])
})

t.test('the app speaks HTTP, and TLS, on a connection that it has accepted', async t => {
  const inner = createServer((req, res) => {
    let length = 0
    req.on('data', (chunk: Buffer) => { length += chunk.length })
    req.on('end', () => { res.end(`${req.method} ${length}`) })
  })
  const server = await serve(t, { transport: 'tcp' }, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'] } }, ({ readable }) => {
      inner.emit('connection', readable)
      return once(readable, 'close')
    })
    app.get('/tls', { duplex: { kinds: ['upgrade'] } }, ({ readable }) => {
      const secure = new TLSSocket(readable as unknown as Socket, { isServer: true, key, cert })
      secure.pipe(secure)
      return once(readable, 'close')
    })
  })
  const wire = await server.connect()
  wire.send(UPGRADE)
  t.equal((await wire.head()).status, 101)
  for (let times = 0; times < 2; times++) {
    wire.send('POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n').send(Buffer.alloc(200_000))
    t.equal((await wire.head()).status, 200)
    t.match(await wire.until('POST 200000'), /POST 200000/)
  }
  wire.end()
  const other = await server.connect()
  other.send(UPGRADE.replace('/it', '/tls'))
  t.equal((await other.head()).status, 101)
  other.socket.removeAllListeners('data')
  const { connect: secureConnect } = await import('node:tls')
  const secure = secureConnect({ socket: other.socket as Socket, rejectUnauthorized: false })
  const bytes = pattern(MiB)
  const back: Buffer[] = []
  secure.on('data', (chunk: Buffer) => back.push(chunk))
  secure.write(bytes)
  while (back.reduce((sum, { length }) => sum + length, 0) < bytes.length) await once(secure, 'data')
  t.equal(sha256(Buffer.concat(back)), sha256(bytes))
  secure.destroy()
})

t.test('readThroughSharedLater: a socket reads in Node\'s way once, and then through the shared buffer', async t => {
  const { wire, socket } = await takeOne(t, 'tcp')
  watchReset(socket, () => {})
  readThroughSharedLater(socket)
  let got = ''
  const memory: number[] = []
  socket.on('data', (chunk: Buffer) => {
    got += String(chunk)
    memory.push(chunk.buffer.byteLength)
  })
  for (const [at, text] of ['one', 'two', 'three', 'four'].entries()) {
    wire.send(text)
    while (memory.length <= at) await turn()
  }
  t.equal(got, 'onetwothreefour')
  const pool = 8 * 1024
  // The second one has arrived in memory of its own, too.
  t.same(memory.map(bytes => bytes === pool), [false, false, true, true])
})

t.test('receiveNoMore gives the buffer of a socket that is over to the next, unless bytes of it are on their way', async t => {
  const bytes = pattern(MiB)
  const buffers: ArrayBufferLike[][] = []
  const run = async (needsBorrowed: boolean): Promise<void> => {
    const { wire, socket } = await shared(t)
    const used: ArrayBufferLike[] = []
    let got = 0
    const receiver: Receiver = {
      ...FRESH,
      needsBorrowed,
      receive (chunk) {
        got += chunk.length
        return true
      },
      borrow (chunk) {
        got += chunk.length
        if (!used.includes(chunk.buffer)) used.push(chunk.buffer)
        return true
      }
    }
    socket.on('data', () => {})
    receiveFrom(socket, receiver)
    wire.send(bytes).end()
    await once(socket, 'end')
    t.equal(got, bytes.length)
    receiveNoMore(socket)
    receiveNoMore(socket)
    buffers.push(used)
  }
  await run(true)
  await run(false)
  await run(false)
  const [lent, given, next] = buffers as [ArrayBufferLike[], ArrayBufferLike[], ArrayBufferLike[]]
  t.ok(next.includes(given.at(-1) as ArrayBufferLike), 'the next socket reads into the same')
  t.notOk([...given, ...next].includes(lent.at(-1) as ArrayBufferLike), 'and not into what is still needed')
})

t.test('a relay on which nothing comes gives its buffer back, and goes on with what comes later', { skip: process.platform === 'win32' }, async t => {
  const { wire, socket } = await shared(t)
  const burst = pattern(MiB)
  const got: Buffer[] = []
  let bytes = 0
  const keep = (chunk: Buffer): boolean => {
    got.push(Buffer.from(chunk))
    bytes += chunk.length
    return true
  }
  const receiver: Receiver = { ...FRESH, receive: keep, borrow: keep }
  socket.on('data', () => {})
  receiveFrom(socket, receiver)
  for (let time = 1; time <= 2; time++) {
    wire.send(burst)
    while (bytes < time * burst.length) await turn()
    while (receiver.timesLeft < time) await sleep(50)
  }
  wire.end(burst)
  await once(socket, 'end')
  t.equal(sha256(Buffer.concat(got)), sha256(Buffer.concat([burst, burst, burst])))
})
