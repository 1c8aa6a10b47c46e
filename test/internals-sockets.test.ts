import t, { type Test } from 'tap'
import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { connect, createServer as createTcpServer, Socket, type AddressInfo } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import {
  allowSetEncoding, bytesInFlight, clientLeft, countChunk, endIsReset, goOnReading, replacedPush, isPassedOn, peerIsGone, replacePush,
  resetByPeer, socketBeneath, unwatchReset, watchReset, type HttpSocket
} from '../lib/internals/sockets.ts'
import { takeOver } from '../lib/internals/http-parser.ts'
import { hasEnd, heldEnd, holdEnd, iterateWithoutDestroying } from '../lib/internals/streams.ts'
import { listen, listenAndTake, onBoth, takeOne, turn } from './fixtures/bare.ts'
import { gate } from './fixtures/server.ts'
import { connectTcp, connectTls } from './fixtures/wire.ts'

// What lib/internals/sockets.ts and lib/internals/streams.ts rely on, on a bare server.

t.test('socketBeneath is the TCP socket of a TLS socket, whose reset the client sees', async t => {
  const { wire, socket } = await takeOne(t, 'tls')
  const beneath = socketBeneath(socket) as HttpSocket
  t.ok(beneath instanceof Socket)
  t.not(beneath, socket)
  t.notOk(beneath instanceof TLSSocket)
  beneath.destroy = () => {
    beneath.destroy = Socket.prototype.destroy as typeof beneath.destroy
    return (beneath as unknown as Socket).resetAndDestroy() as never
  }
  socket.destroy()
  t.equal(await wire.gone(), 'broken')
  t.equal(wire.error?.code, 'ECONNRESET')
})

t.test('socketBeneath is nothing for a TCP socket, nor for a stream in memory', async t => {
  const { link } = await listen(t)
  t.equal(socketBeneath((await link()).socket), undefined)
  t.equal(socketBeneath(new PassThrough()), undefined)
})

/** A socket whose peer has ended and is gone then; `check` looks at it before either. */
async function resetBehindEnd (
  t: Test, carrying: Parameters<typeof takeOne>[1], check: (socket: HttpSocket) => void
): Promise<Awaited<ReturnType<typeof takeOne>>['socket']> {
  const { wire, socket } = await takeOne(t, carrying)
  check(socket)
  socket.allowHalfOpen = true
  socket.resume()
  const ended = once(socket, 'end')
  wire.end()
  await ended
  check(socket)
  wire.reset()
  while (!peerIsGone(socket)) await turn()
  return socket
}

onBoth('peerIsGone says so after a reset that no stream tells of, and not after a FIN', async (t, carrying) => {
  await resetBehindEnd(t, carrying, socket => t.notOk(peerIsGone(socket)))
  t.pass('and it is seen then')
})

onBoth('watchReset tells of a reset that comes with the last bytes, and lets a FIN pass', async (t, carrying) => {
  for (const how of ['reset', 'end'] as const) {
    const { wire, socket } = await takeOne(t, carrying)
    const over = gate<string>()
    socket.allowHalfOpen = true
    // Later versions of Node report the reset themselves.
    socket.on('error', () => over.open('reset'))
    socket.on('end', () => over.open('end'))
    watchReset(socket, () => over.open('reset'))
    socket.resume()
    wire.send('last')
    wire[how]()
    t.equal(await over.promise, how)
  }
})

onBoth('unwatchReset ends watchReset, which does not judge the end of a stream that has ended itself', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  const told = (): void => { t.fail('there is no reset') }
  watchReset(socket, told)
  socket.allowHalfOpen = true
  socket.resume()
  socket.end()
  await wire.rest()
  const ended = once(socket, 'end')
  wire.end()
  await ended
  unwatchReset(socket, told)
  t.ok(socket.readableEnded)
})

t.test('peerIsGone says no for a stream in memory', async t => {
  t.notOk(peerIsGone(new PassThrough()))
})

onBoth('bytesInFlight is what the kernel has not taken, and nothing once it has taken all', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  t.equal(bytesInFlight(socket), 0)
  wire.socket.pause()
  wire.socket.removeAllListeners('data')
  const written = gate()
  const size = 32 * 1024 * 1024
  socket.write(Buffer.alloc(size), () => written.open())
  await turn()
  const waiting = bytesInFlight(socket)
  t.ok(waiting > 0, `${waiting} bytes wait`)
  if (carrying === 'tcp') t.ok(waiting < size, 'fewer than were written')
  wire.socket.resume()
  while (bytesInFlight(socket) === waiting) await turn()
  t.ok(bytesInFlight(socket) < waiting, 'and fewer as the client reads')
  await written.promise
  t.equal(bytesInFlight(socket), 0)
})

onBoth('goOnReading: a socket that leaves HTTP while HTTP has stopped reading is read, and does not flow without a reader', async (t, carrying) => {
  const { link, server, taken } = await listenAndTake(t, carrying, req => req.url === '/take' ? takeOver(req) : undefined)
  const size = 16 * 1024 * 1024
  server.removeAllListeners('request')
  server.on('request', (req, res) => { res.end(req.url === '/big' ? Buffer.alloc(size) : '') })
  const { wire, socket } = await link()
  wire.socket.pause()
  wire.send('GET /big HTTP/1.1\r\nHost: a\r\n\r\n')
  while (!socket.writableNeedDrain) await turn()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /take HTTP/1.1\r\nHost: a\r\n\r\n')
  await taken()
  t.equal(socket._handle?.reading, false, 'HTTP has stopped reading')
  goOnReading(socket)
  goOnReading(socket)
  t.equal(socket._handle?.reading, true)
  wire.send('while it waits')
  while (socket.readableLength < 14) await turn()
  wire.socket.resume()
  t.equal((await wire.head()).status, 200)
  await wire.bytes(size)
  t.equal((await wire.response()).body, '')
  t.equal(socket.readableFlowing, null, 'HTTP does not let it flow')
  const [heard] = await once(socket, 'data') as [Buffer]
  t.equal(heard.toString(), 'while it waits')
})

onBoth('goOnReading leaves a socket alone that has stopped because nobody reads', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  wire.send(Buffer.alloc(1024 * 1024))
  // The stream asks for input for the first time.
  socket.read(0)
  while (socket._handle?.reading !== false) await turn()
  goOnReading(socket)
  t.equal(socket._handle.reading, false)
  t.ok(socket.readableLength < 1024 * 1024)
})

t.test('goOnReading does nothing to a stream in memory', async t => {
  const stream = new PassThrough()
  goOnReading(stream)
  t.equal(stream.readableFlowing, null)
})

t.test('bytesInFlight is 0 for a stream in memory', async t => {
  t.equal(bytesInFlight(new PassThrough()), 0)
})

t.test('resetByPeer makes the error that Node itself gives for a reset', async t => {
  const { link } = await listen(t)
  const { wire, socket } = await link()
  const told = once(socket, 'error')
  socket.resume()
  wire.reset()
  const [error] = await told as [Error]
  t.strictSame({ ...resetByPeer() }, { ...error })
  t.equal(resetByPeer().message, error.message)
})

/** What isPassedOn says of the error that a socket is destroyed with. */
function judgeDestroy (socket: HttpSocket): Promise<[passedOn: boolean, code: unknown]> {
  const judged = gate<[boolean, unknown]>()
  const { destroy } = socket
  socket.destroy = (error?: Error) => {
    if (error !== undefined) judged.open([isPassedOn(socket, error), (error as { code?: string }).code])
    return Reflect.apply(destroy, socket, [error]) as HttpSocket
  }
  return judged.promise
}

onBoth('isPassedOn says no to the reset of the socket itself, while it reads', async (t, carrying) => {
  const { server, taken } = await listenAndTake(t, carrying)
  // A client of TLS says goodbye before it resets; something between the two does not.
  const { port } = server.address() as AddressInfo
  const outward = gate<Socket>()
  const between = createTcpServer(client => {
    const onward = connect(port, '127.0.0.1')
    client.on('error', () => {}).pipe(onward).pipe(client)
    outward.open(onward)
  }).listen(0, '127.0.0.1')
  await once(between, 'listening')
  const through = (between.address() as AddressInfo).port
  const wire = carrying === 'tls' ? await connectTls(through) : await connectTcp(through)
  t.teardown(() => {
    wire.destroy()
    between.close()
  })
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const { socket } = await taken()
  const judged = judgeDestroy(socket)
  socket.resume()
  const onward = await outward.promise
  // A reset that comes along with data is no more than an end to libuv.
  wire.send('last')
  await once(socket, 'data')
  await turn()
  onward.resetAndDestroy()
  t.strictSame(await judged, [false, 'ECONNRESET'])
})

t.test('isPassedOn says no to the reset of the socket itself, while it writes', async t => {
  const { wire, socket } = await takeOne(t, 'tcp')
  const judged = judgeDestroy(socket)
  socket.allowHalfOpen = true
  socket.resume()
  const ended = once(socket, 'end')
  wire.end()
  await ended
  wire.reset()
  while (!peerIsGone(socket)) await turn()
  socket.write('to nobody')
  const [passedOn, code] = await judged
  t.notOk(passedOn)
  t.match(code, /^(?:ECONNRESET|EPIPE)$/)
})

onBoth('isPassedOn says yes to the reset of another socket', async (t, carrying) => {
  const mine = await takeOne(t, carrying)
  const other = await takeOne(t, 'tcp')
  const judged = judgeDestroy(mine.socket)
  other.socket.on('error', error => { mine.socket.destroy(error) })
  other.socket.resume()
  other.wire.reset()
  t.strictSame(await judged, [true, 'ECONNRESET'])
})

onBoth('allowSetEncoding lifts what HTTP has forbidden on its sockets', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  t.throws(() => socket.setEncoding('utf8'), { code: 'ERR_HTTP_SOCKET_ENCODING' })
  allowSetEncoding(socket)
  socket.setEncoding('utf8')
  wire.send('text')
  t.equal((await once(socket, 'data'))[0], 'text')
})

onBoth('iterateWithoutDestroying: the end of a loop leaves the other half open', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  socket.allowHalfOpen = true
  iterateWithoutDestroying(socket)
  wire.end('one')
  let received = ''
  for await (const chunk of socket) received += String(chunk)
  t.equal(received, 'one')
  await turn()
  t.notOk(socket.destroyed)
  socket.end('two')
  t.equal((await wire.rest()).toString(), 'two')
})

onBoth('iterateWithoutDestroying: after a break the rest is read', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  iterateWithoutDestroying(socket)
  const one = async (): Promise<string | undefined> => {
    for await (const chunk of socket) if (String(chunk) !== '') return String(chunk)
    return undefined
  }
  wire.send('one')
  t.equal(await one(), 'one')
  await turn()
  t.notOk(socket.destroyed)
  wire.send('two')
  t.equal(await one(), 'two')
})

onBoth('holdEnd keeps the end of input until somebody reads, and bytes can be put back until then', async (t, carrying) => {
  for (const read of ['end', 'data', 'iterator'] as const) {
    const { wire, socket } = await takeOne(t, carrying)
    socket.allowHalfOpen = true
    const held = gate()
    holdEnd(socket, held.open)
    wire.end()
    await held.promise
    for (let n = 0; n < 10; n++) await turn()
    t.notOk(socket.readableEnded)
    socket.unshift(Buffer.from('put back'))
    let received = ''
    if (read === 'iterator') {
      iterateWithoutDestroying(socket)
      for await (const chunk of socket) received += String(chunk)
    } else {
      socket.on('end', () => {})
      if (read === 'data') socket.on('data', chunk => { received += String(chunk) })
      else socket.resume()
      await once(socket, 'end')
    }
    t.equal(received, read === 'end' ? '' : 'put back', read)
    t.ok(socket.readableEnded)
    t.notOk(socket.writableEnded)
    socket.end('answer')
    t.equal((await wire.rest()).toString(), 'answer')
  }
})

onBoth('holdEnd gives the end away when it is told to', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  socket.allowHalfOpen = true
  const held = gate()
  const events = ['newListener', 'resume', 'end']
  const before = events.map(event => socket.listenerCount(event))
  const end = holdEnd(socket, held.open)
  wire.end()
  await held.promise
  const ended = once(socket, 'end')
  end.release()
  end.release()
  socket.resume()
  await ended
  t.strictSame(events.map(event => socket.listenerCount(event)), before)
})

onBoth('holdEnd holds nothing back once there is a reader', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  socket.allowHalfOpen = true
  let held = 0
  holdEnd(socket, () => { held++ })
  socket.resume()
  await turn()
  const ended = once(socket, 'end')
  wire.end()
  await ended
  t.equal(held, 0)
})

t.test('heldEnd is what holds the end back, until it is let go, and two holds of one stream do not get in each other\'s way', async t => {
  const { wire, socket } = await takeOne(t, 'tcp')
  socket.allowHalfOpen = true
  t.equal(heldEnd(socket), undefined)
  const push = Object.getOwnPropertyDescriptor(socket, 'push')
  const told: unknown[] = []
  const first = holdEnd(socket, () => { told.push('first') })
  const second = holdEnd(socket, function () { told.push(this) })
  t.equal(heldEnd(socket), second)
  wire.send('bytes').end()
  while (told.length < 1) await turn()
  t.equal(told[0], socket, 'the last one holds it')
  second.release()
  t.equal(heldEnd(socket), first)
  while (told.length < 2) await turn()
  t.equal(told[1], 'first')
  first.release()
  t.equal(heldEnd(socket), undefined)
  t.same(Object.getOwnPropertyDescriptor(socket, 'push'), push)
  let received = ''
  socket.on('data', chunk => { received += String(chunk) })
  await once(socket, 'end')
  t.equal(received, 'bytes')
})

t.test('hasEnd tells of an end behind what is buffered, before anybody has read up to it', async t => {
  const readable = new Readable({ read () {} })
  t.equal(hasEnd(readable), false)
  readable.push('bytes')
  t.equal(hasEnd(readable), false)
  readable.push(null)
  t.equal(readable.readableEnded, false)
  t.equal(hasEnd(readable), true)
})

onBoth('endIsReset says no to a FIN, and yes where the kernel has no peer any more, before our own end', async (t, carrying) => {
  const socket = await resetBehindEnd(t, carrying, socket => t.notOk(endIsReset(socket)))
  t.ok(endIsReset(socket))
  socket.end()
  t.notOk(endIsReset(socket), 'behind our own end a peer that is gone is no news')
})

t.test('countChunk: an end found in a poll behind that of the last chunk is none of a reset', async t => {
  const socket = await resetBehindEnd(t, 'tcp', () => {})
  const { socket: another } = await takeOne(t, 'tcp')
  countChunk(socket)
  t.ok(endIsReset(socket))
  countChunk(another)
  t.notOk(endIsReset(socket), 'another one was read since')
  countChunk(socket)
  t.ok(endIsReset(socket))
})

t.test('replacedPush tells what replacePush has put there', async t => {
  const { socket } = await takeOne(t, 'tcp')
  t.notOk(replacedPush(socket))
  replacePush(socket, () => true)
  t.ok(replacedPush(socket))
})

t.test('endIsReset says no in memory', async t => {
  t.notOk(endIsReset(new PassThrough()))
})

t.test('clientLeft is the error that Node gives a request whose client leaves', async t => {
  const came = gate<IncomingMessage>()
  const server = createServer(came.open).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na')
  const failed = once(await came.promise, 'error')
  socket.destroy()
  const [{ message, code }] = await failed as [NodeJS.ErrnoException]
  t.same({ message, code }, { message: clientLeft().message, code: (clientLeft() as NodeJS.ErrnoException).code })
})
