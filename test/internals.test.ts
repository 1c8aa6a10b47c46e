import t from 'tap'
import { once } from 'node:events'
import { createServer, request, type ClientRequest, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, createServer as createTcpServer, Socket, type AddressInfo } from 'node:net'
import { Duplex, PassThrough, Readable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { Test } from 'tap'
import * as httpMessages from '../lib/internals/http-messages.ts'
import * as httpParser from '../lib/internals/http-parser.ts'
import * as http2Streams from '../lib/internals/http2.ts'
import * as probe from '../lib/internals/probe.ts'
import * as sockets from '../lib/internals/sockets.ts'
import * as streams from '../lib/internals/streams.ts'
import http2, { type ClientHttp2Stream, type Http2Stream, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import { MemorySocket } from '../lib/inject/memory-socket.ts'
import { allowSetEncoding, bytesInFlight, isPassedOn, peerIsGone, resetByPeer, socketBeneath, takeResetForEnd, tellResetFromEnd, type HttpSocket } from '../lib/internals/sockets.ts'
import { probeTakeover } from '../lib/internals/probe.ts'
import { clearFields, decodeRefusals, onWhole, outliveResponse, outliveServerEnd, tolerateHalfClose, unfinishedResponse, watchVanishing } from '../lib/internals/http-messages.ts'
import { hasEnd, holdEnd, iterateWithoutDestroying } from '../lib/internals/streams.ts'
import { lendAddress, onEndStream, resetStream } from '../lib/internals/http2.ts'
import { hasLostFields, onRequestHead, sawUpgrade, takeOver, takeOverAfterBody, upgradeCallback } from '../lib/internals/http-parser.ts'
import { cert, key } from './fixtures/certificate.ts'
import { gate } from './fixtures/server.ts'
import { connectTcp, connectTls, type Wire } from './fixtures/wire.ts'

// What lib/internals relies on, on a bare server. A Node that changes it fails here first.

type Carrying = 'tcp' | 'tls'

interface Bare {
  server: Server
  connect: () => Promise<Wire>
  /** A client, and the server's end of its connection. */
  link: () => Promise<{ wire: Wire, socket: HttpSocket }>
}

/** A server of Node's alone. */
async function listen (t: Test, carrying: Carrying = 'tcp', listener: RequestListener = (_req, res) => { res.end() }): Promise<Bare> {
  const server = carrying === 'tls' ? createTlsServer({ cert, key }, listener) : createServer(listener)
  const sockets = new Set<Socket>()
  const wires: Wire[] = []
  server.on('connection', socket => { sockets.add(socket) })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  t.teardown(async () => {
    for (const wire of wires) wire.destroy()
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  const connect = async (): Promise<Wire> => {
    const wire = carrying === 'tls' ? await connectTls(port) : await connectTcp(port)
    wires.push(wire)
    return wire
  }
  const link = async (): Promise<{ wire: Wire, socket: HttpSocket }> => {
    const arrived = once(server, connectionEvent(carrying))
    const wire = await connect()
    const [socket] = await arrived as [HttpSocket]
    return { wire, socket }
  }
  return { server, connect, link }
}

const connectionEvent = (carrying: Carrying): string => carrying === 'tls' ? 'secureConnection' : 'connection'

interface Taken {
  req: IncomingMessage
  socket: HttpSocket
  head: Buffer
}

/** A server on which every request is taken over. */
async function listenAndTake (
  t: Test, carrying: Carrying, take: (req: IncomingMessage) => number = takeOver
): Promise<Bare & { taken: () => Promise<Taken> }> {
  const bare = await listen(t, carrying)
  let next = gate<Taken>()
  const onTaken = (req: IncomingMessage, socket: Duplex, head: Buffer): void => {
    socket.on('error', () => {})
    next.open({ req, socket, head })
  }
  bare.server.on('upgrade', onTaken).on('connect', onTaken)
  bare.server.on(connectionEvent(carrying), (socket: HttpSocket) => { onRequestHead(socket, take) })
  const taken = async (): Promise<Taken> => {
    const one = await next.promise
    next = gate()
    return one
  }
  return { ...bare, taken }
}

/** A connection that has left HTTP. */
async function takeOne (t: Test, carrying: Carrying): Promise<Taken & { wire: Wire }> {
  const { connect, taken } = await listenAndTake(t, carrying)
  const wire = await connect()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  return { wire, ...await taken() }
}

function onBoth (title: string, run: (t: Test, carrying: Carrying) => Promise<unknown>): void {
  for (const carrying of ['tcp', 'tls'] as const) t.test(`${title} [${carrying}]`, t => run(t, carrying))
}

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

t.test('every function of lib/internals is tried here, Fastify\'s apart', async t => {
  const functions = Object.entries({ ...httpMessages, ...httpParser, ...http2Streams, ...probe, ...sockets, ...streams }).filter(([, value]) => typeof value === 'function').map(([name]) => name)
  t.strictSame(functions.sort(), [
    'allowSetEncoding', 'assertNodeInternals', 'bytesInFlight', 'clearFields', 'decodeRefusals', 'endIsReset', 'hasEnd', 'hasLostFields', 'holdEnd', 'isPassedOn',
    'iterateWithoutDestroying', 'lendAddress', 'onEndStream', 'onRequestHead', 'onWhole', 'outliveResponse',
    'outliveServerEnd', 'peerIsGone', 'resetByPeer', 'resetStream', 'sawUpgrade', 'socketBeneath', 'takeOver', 'takeOverAfterBody',
    'takeResetForEnd', 'tellResetFromEnd', 'tolerateHalfClose', 'unfinishedResponse', 'upgradeCallback', 'watchVanishing'
  ])
})

onBoth('onRequestHead sees every head of a connection before Node does anything with it', async (t, carrying) => {
  const seen: string[] = []
  const { server, connect } = await listen(t, carrying, (req, res) => {
    seen.push(`request ${String(req.url)}`)
    req.on('data', chunk => { seen.push(String(chunk)) })
    req.on('end', () => res.end('answer'))
  })
  server.on(connectionEvent(carrying), (socket: HttpSocket) => {
    t.ok(onRequestHead(socket, req => {
      seen.push(`head ${String(req.url)} ${String(req.headers['content-length'])}`)
      return undefined
    }))
  })
  const wire = await connect()
  wire.send('POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nBODY')
  t.equal((await wire.response()).body, 'answer')
  wire.send('GET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n')
  t.equal((await wire.response()).body, 'answer')
  t.equal((await wire.response()).body, 'answer')
  t.strictSame(seen.slice(0, 3), ['head /1 4', 'request /1', 'BODY'])
  t.strictSame(seen.slice(3).sort(), ['head /2 undefined', 'head /3 undefined', 'request /2', 'request /3'])
})

t.test('onRequestHead says no where there is no parser', async t => {
  t.notOk(onRequestHead(new PassThrough(), () => 0))
  const { socket } = await takeOne(t, 'tcp')
  t.equal(socket.parser, null)
  t.notOk(onRequestHead(socket, () => 0))
})

const requests: Record<string, string> = {
  'an ordinary GET': 'GET / HTTP/1.1\r\nHost: a\r\n\r\n',
  'an Upgrade': 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n',
  'a CONNECT': 'CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n',
  'a POST with a length': 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n',
  'a chunked POST': 'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n',
  'an Upgrade with a length': 'POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 4\r\n\r\n'
}

for (const [what, request] of Object.entries(requests)) {
  onBoth(`takeOver ends HTTP with ${what}: all that follows is the head, undecoded, and then on the socket`, async (t, carrying) => {
    const { link, taken } = await listenAndTake(t, carrying)
    const { wire, socket } = await link()
    const tail = 'TAIL, 4\r\nmore\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n\0'
    wire.send(request + tail)
    const { head, req, ...given } = await taken()
    t.equal(given.socket, socket)
    t.ok(socket instanceof (carrying === 'tls' ? TLSSocket : Socket))
    t.equal(head.toString(), tail)
    t.equal(socket.parser, null)
    t.equal(socket.readableFlowing, null)
    t.equal(socket.listenerCount('data') + socket.listenerCount('timeout'), 0)
    t.ok(req.headers.host)
    socket.unshift(head)
    wire.end('later')
    let received = ''
    for await (const chunk of socket) received += String(chunk)
    t.equal(received, `${tail}later`)
  })
}

onBoth('takeOverAfterBody leaves the body to the parser, and gives the socket and what follows', async (t, carrying) => {
  const bodies: string[] = []
  const { link, taken } = await listenAndTake(t, carrying, req => {
    let body = ''
    req.on('data', chunk => { body += String(chunk) })
    req.on('end', () => { bodies.push(body) })
    return takeOverAfterBody(req, () => {})
  })
  const request = `${requests['an Upgrade with a length'] ?? ''}BODYTAIL`
  for (let at = 1; at < request.length; at++) {
    const { wire, socket } = await link()
    wire.send(request.slice(0, at))
    while ((socket as unknown as Socket).bytesRead < at) await turn()
    wire.send(request.slice(at))
    const { head, ...given } = await taken()
    t.equal(given.socket, socket)
    t.equal(socket.parser, null)
    if (head.length > 0) socket.unshift(head)
    let received = ''
    while (received.length < 4) {
      const chunk = socket.read() as Buffer | null
      if (chunk === null) await once(socket, 'readable')
      else received += String(chunk)
    }
    if (received !== 'TAIL') t.fail(`split at ${at}: ${received}`)
    wire.destroy()
  }
  t.strictSame([...new Set(bodies)], ['BODY'])
})

t.test('takeOverAfterBody ends the connection of a body that breaks off', async t => {
  const started = gate<IncomingMessage>()
  const { link } = await listenAndTake(t, 'tcp', req => {
    started.open(req)
    return takeOverAfterBody(req, () => {})
  })
  const { wire, socket } = await link()
  wire.send(`${requests['an Upgrade with a length'] ?? ''}BO`)
  const req = await started.promise
  const closed = once(socket, 'close')
  wire.destroy()
  await closed
  t.notOk(req.complete)
})

t.test('sawUpgrade is what the parser made of Connection and Upgrade, and of CONNECT', async t => {
  const { server, connect } = await listen(t)
  const seen: boolean[] = []
  server.on('connection', (socket: HttpSocket) => {
    onRequestHead(socket, req => {
      seen.push(sawUpgrade(req))
      return takeOver(req)
    })
  })
  const left = (_req: unknown, socket: Duplex): void => { socket.end('.') }
  server.on('upgrade', left).on('connect', left)
  const ask = async (...lines: string[]): Promise<boolean | undefined> => {
    const wire = await connect()
    wire.send([...lines, '', ''].join('\r\n'))
    await wire.until('.')
    return seen.pop()
  }
  const get = 'GET / HTTP/1.1'
  t.equal(await ask(get, 'Host: a', 'Connection: Upgrade', 'Upgrade: foo'), true)
  t.equal(await ask(get, 'Host: a', 'Upgrade: foo', 'Connection: x, uPGRADE , y'), true)
  t.equal(await ask(get, 'Host: a', 'Connection: x', 'Connection: Upgrade', 'Upgrade: foo'), true)
  t.equal(await ask('GET / HTTP/1.0', 'Connection: Upgrade', 'Upgrade: foo'), true)
  t.equal(await ask('CONNECT a:1 HTTP/1.1', 'Host: a:1'), true)
  t.equal(await ask(get, 'Host: a'), false)
  t.equal(await ask(get, 'Host: a', 'Connection: Upgrade'), false)
  t.equal(await ask(get, 'Host: a', 'Upgrade: foo'), false)
  t.equal(await ask(get, 'Host: a', 'Connection: upgrades', 'Upgrade: foo'), false)
})

t.test('Q54 hasLostFields is true for a head that the parser took fields from, and for no other', async t => {
  for (const limit of [10, 40, 62, undefined]) {
    const { server, connect } = await listen(t)
    if (limit !== undefined) server.maxHeadersCount = limit
    const most = limit ?? 1000
    let whole = 0
    server.on('connection', (socket: HttpSocket) => {
      onRequestHead(socket, req => {
        const isThere = req.headers.last === 'here'
        if (isThere) whole++
        // Fields in full batches up to the limit look as if there had been more.
        const doubtful = most % 31 === 0 && req.rawHeaders.length === most * 2
        if (!doubtful) t.equal(hasLostFields(req), !isThere, `${req.rawHeaders.length / 2} of ${most}`)
        return undefined
      })
    })
    for (const count of [2, most - 1, most, most + 1, most + 25, most + 70]) {
      const wire = await connect()
      wire.send(['GET / HTTP/1.1', 'Host: a', ...Array.from({ length: count - 2 }, (_, n) => `A${n}: 1`), 'Last: here', '', ''].join('\r\n'))
      await wire.until('\r\n')
    }
    t.equal(whole, 3, `a head of ${most} is whole`)
  }
})

t.test('Q55 upgradeCallback is what the app gave to its server, and nothing that Node put there', async t => {
  const { server, connect } = await listen(t)
  const seen: (boolean | undefined)[] = []
  server.on('connection', (socket: HttpSocket) => {
    onRequestHead(socket, req => {
      seen.push(upgradeCallback(req)?.(req))
      return undefined
    })
  })
  const ask = async (): Promise<unknown> => await (await connect()).send('GET /own HTTP/1.1\r\nHost: a\r\n\r\n').response()
  await ask()
  ;(server as { shouldUpgradeCallback?: unknown }).shouldUpgradeCallback = ({ url }: IncomingMessage) => url === '/own'
  await ask()
  t.same(seen, [undefined, true])
})

t.test('clearFields leaves a response with the framing that Node gives one without fields', async t => {
  const { connect } = await listen(t, 'tcp', (_req, res) => {
    res.setHeader('Connection', 'close')
    res.setHeader('Content-Length', 5)
    res.setHeader('Transfer-Encoding', 'gzip')
    res.setHeader('X-Mine', ['1', '2'])
    clearFields(res)
    res.appendHeader('X-New', '1')
    res.appendHeader('X-New', '2')
    res.writeHead(200)
    res.flushHeaders()
    res.end('body')
  })
  const wire = await connect()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const { fields } = await wire.head()
  t.strictSame(fields.filter(([name]) => name !== 'Date'), [
    ['X-New', '1'], ['X-New', '2'], ['Connection', 'keep-alive'], ['Keep-Alive', 'timeout=5'], ['Transfer-Encoding', 'chunked']
  ])
})

t.test('unfinishedResponse is the response of an earlier request, until that has finished', async t => {
  const responses: ServerResponse[] = []
  const { server, connect } = await listen(t, 'tcp', (_req, res) => { responses.push(res) })
  const left = gate<HttpSocket>()
  server.on('upgrade', (_req, socket) => { left.open(socket) })
  const wire = await connect()
  wire.send('GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n' + String(requests['an Upgrade']))
  const socket = await left.promise
  const [first, second] = responses as [ServerResponse, ServerResponse]
  t.equal(unfinishedResponse(socket), first)
  const following = gate<ServerResponse | undefined>()
  first.once('finish', () => { following.open(unfinishedResponse(socket)) })
  first.end('one')
  t.equal(await following.promise, second, 'to a listener of finish, the next response has the socket')
  const none = gate<ServerResponse | undefined>()
  second.once('finish', () => { none.open(unfinishedResponse(socket)) })
  second.end('two')
  t.equal(await none.promise, undefined)
  t.equal((await wire.response()).body, 'one')
  t.equal((await wire.response()).body, 'two')
})

t.test('unfinishedResponse is nothing on a connection without requests', async t => {
  const { link } = await listen(t)
  const { socket } = await link()
  t.equal(unfinishedResponse(socket), undefined)
})

onBoth('tolerateHalfClose lets a response go on after the FIN of the client, and the connection end after it', async (t, carrying) => {
  const started = gate<ServerResponse>()
  const { server, link } = await listen(t, carrying, (_req, res) => { started.open(res) })
  const before = (server as { httpAllowHalfOpen?: boolean }).httpAllowHalfOpen
  const { wire, socket } = await link()
  tolerateHalfClose(socket, server, () => true)
  tolerateHalfClose(socket, server, () => false)
  const ended = once(socket, 'end')
  wire.end('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const res = await started.promise
  await ended
  await turn()
  res.write('late, ')
  await turn()
  res.end('later')
  await wire.head()
  t.equal((await wire.rest()).toString(), '6\r\nlate, \r\n5\r\nlater\r\n0\r\n\r\n')
  t.equal((server as { httpAllowHalfOpen?: boolean }).httpAllowHalfOpen, before)
})

t.test('tolerateHalfClose changes nothing where it does not apply', async t => {
  const started = gate<ServerResponse>()
  const { server, link } = await listen(t, 'tcp', (_req, res) => { started.open(res) })
  const { wire, socket } = await link()
  tolerateHalfClose(socket, server, () => false)
  wire.end('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  await started.promise
  t.equal((await wire.rest()).toString(), '', 'Node ends the connection without a response')
})

for (const [version, field] of [['1.1', 'Connection: keep-alive'], ['1.1', 'Connection: close'], ['1.0', 'Connection: close']] as const) {
  onBoth(`outliveResponse lets a request go on after its response, in HTTP/${version} with "${field}"`, async (t, carrying) => {
    const finished = gate<IncomingMessage>()
    let whenComplete = (): void => {}
    const { link } = await listen(t, carrying, (req, res) => {
      whenComplete = outliveResponse(req, res, req.socket, () => true)
      res.once('finish', () => finished.open(req))
      res.write('early')
      res.end()
    })
    const { wire, socket } = await link()
    wire.send(`POST / HTTP/${version}\r\nHost: a\r\n${field}\r\nContent-Length: 9\r\n\r\none`)
    const req = await finished.promise
    await wire.head()
    if (version === '1.0') t.equal((await wire.rest()).toString(), 'early', 'the end of the response is the end of our side')
    else t.equal(await wire.until('0\r\n\r\n'), '5\r\nearly\r\n0\r\n\r\n')
    await turn()
    t.notOk(socket.destroyed)
    wire.send('two')
    await turn()
    wire.send('end')
    let body = ''
    for await (const chunk of req) body += String(chunk)
    t.equal(body, 'onetwoend', 'also what nobody had begun to read')
    whenComplete()
    if (field === 'Connection: close') {
      t.equal((await wire.rest()).toString(), '')
      wire.end()
      while (!socket.destroyed) await turn()
    } else {
      wire.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n')
      t.equal((await wire.head()).status, 200)
    }
  })
}

t.test('outliveResponse leaves to Node what it does not apply to', async t => {
  const finished = gate<IncomingMessage>()
  const { link } = await listen(t, 'tcp', (req, res) => {
    outliveResponse(req, res, req.socket, () => false)
    res.once('finish', () => finished.open(req))
    res.end()
  })
  const { wire, socket } = await link()
  wire.send('POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n\r\none')
  await finished.promise
  while (!socket.destroyed) await turn()
  t.equal((await wire.head()).status, 200)
})

t.test('watchVanishing tells a request of a client that vanishes after the response', async t => {
  const finished = gate<IncomingMessage>()
  const { link } = await listen(t, 'tcp', (req, res) => {
    const { socket } = req
    res.once('finish', () => watchVanishing(req, socket))
    outliveResponse(req, res, req.socket, () => true)
    res.once('finish', () => finished.open(req))
    req.resume()
    res.end('early')
  })
  const { wire } = await link()
  wire.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\none')
  const req = await finished.promise
  const failed = once(req, 'error')
  wire.reset()
  const [error] = await failed as [Error & { code: string }]
  t.equal(error.code, 'ECONNRESET')
  t.ok(req.destroyed)
})

t.test('watchVanishing leaves nothing behind on the socket of a request that arrives whole', async t => {
  const finished = gate<IncomingMessage>()
  const { link } = await listen(t, 'tcp', (req, res) => {
    res.once('finish', () => watchVanishing(req, req.socket))
    res.once('finish', () => finished.open(req))
    req.resume()
    res.end('early')
  })
  const { wire, socket } = await link()
  const before = socket.listenerCount('close')
  wire.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\none')
  const req = await finished.promise
  const closed = once(req, 'close')
  wire.send('twoend')
  await closed
  t.equal(socket.listenerCount('close'), before)
  t.notOk(req.errored)
})

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

onBoth('peerIsGone says so after a reset that no stream tells of, and not after a FIN', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  t.notOk(peerIsGone(socket))
  socket.allowHalfOpen = true
  socket.resume()
  const ended = once(socket, 'end')
  wire.end()
  await ended
  t.notOk(peerIsGone(socket))
  wire.reset()
  while (!peerIsGone(socket)) await turn()
  t.pass('and it is seen then')
})

onBoth('tellResetFromEnd tells of a reset that comes with the last bytes, and lets a FIN pass', async (t, carrying) => {
  for (const how of ['reset', 'end'] as const) {
    const { wire, socket } = await takeOne(t, carrying)
    const over = gate<string>()
    socket.allowHalfOpen = true
    // Later versions of Node report the reset themselves.
    socket.on('error', () => over.open('reset'))
    socket.on('end', () => over.open('end'))
    tellResetFromEnd(socket, () => over.open('reset'))
    socket.resume()
    wire.send('last')
    wire[how]()
    t.equal(await over.promise, how)
  }
})

onBoth('tellResetFromEnd can be ended, and does not judge the end of a stream that has ended itself', async (t, carrying) => {
  const { wire, socket } = await takeOne(t, carrying)
  const told = (): void => { t.fail('there is no reset') }
  tellResetFromEnd(socket, told)
  socket.allowHalfOpen = true
  socket.resume()
  socket.end()
  await wire.rest()
  const ended = once(socket, 'end')
  wire.end()
  await ended
  takeResetForEnd(socket, told)
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
  const release = holdEnd(socket, held.open)
  wire.end()
  await held.promise
  const ended = once(socket, 'end')
  release()
  release()
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

/** Node's client, and the server's end of its connection. */
async function ask (t: Test, method: string): Promise<{ req: ClientRequest, peer: Socket }> {
  const server = createTcpServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const arrived = once(server, 'connection')
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  const req = request({ method, path: 'a:1', createConnection: () => client }).end()
  const [peer] = await arrived as [Socket]
  await once(peer, 'data')
  t.teardown(() => {
    peer.destroy()
    client.destroy()
    server.close()
  })
  return { req, peer }
}

t.test('decodeRefusals reads what refuses a CONNECT as a response, and passes over what comes before it', async t => {
  const { req, peer } = await ask(t, 'CONNECT')
  decodeRefusals(req)
  peer.write('HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n')
  const [res] = await once(req, 'response') as [IncomingMessage]
  t.equal(res.statusCode, 403)
  t.equal(String((await once(res, 'data'))[0]), 'no')
})

t.test('decodeRefusals leaves a tunnel what it is', async t => {
  const { req, peer } = await ask(t, 'CONNECT')
  decodeRefusals(req)
  peer.write('HTTP/1.1 200 OK\r\n\r\nhello')
  const [res, , head] = await once(req, 'connect') as [IncomingMessage, Duplex, Buffer]
  t.equal(res.statusCode, 200)
  t.equal(head.toString(), 'hello')
})

t.test('outliveServerEnd leaves the client its half of a connection that the server has half-closed', async t => {
  const { req, peer } = await ask(t, 'GET')
  peer.end('HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall')
  const [res] = await once(req, 'response') as [IncomingMessage]
  const { socket } = res
  req.shouldKeepAlive = true
  outliveServerEnd(socket)
  res.resume()
  await once(res, 'end')
  await turn()
  t.strictSame([socket.destroyed, socket.writableEnded], [false, false])
  socket.end('late')
  t.equal(String((await once(peer, 'data'))[0]), 'late')
})

t.test('onWhole tells of a message that has arrived, though nobody reads it', async t => {
  const { req, peer } = await ask(t, 'GET')
  peer.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfo')
  const [res] = await once(req, 'response') as [IncomingMessage]
  const whole = gate()
  onWhole(res, whole.open)
  peer.write('ur')
  await whole.promise
  t.equal(res.complete, true)
})

interface Http2Link {
  client: ClientHttp2Stream
  server: ServerHttp2Stream
  session: ServerHttp2Session
  socket: MemorySocket
}

/** A stream of HTTP/2 on a connection in memory, from both sides. */
async function http2Link (t: Test): Promise<Http2Link> {
  const link = MemorySocket.pair(true)
  const listener = http2.createServer()
  const made = once(listener, 'session') as Promise<[ServerHttp2Session]>
  const came = once(listener, 'stream') as Promise<[ServerHttp2Stream]>
  listener.emit('connection', link.server)
  const connection = http2.connect('http://localhost', { createConnection: () => link.client })
  t.teardown(() => connection.destroy())
  await once(connection, 'localSettings')
  const client = connection.request({ ':method': 'POST' }, { endStream: false })
  const [session] = await made
  const [server] = await came
  for (const stream of [client, server] as Http2Stream[]) stream.on('error', () => {}).resume()
  return { client, server, session, socket: link.server }
}

t.test('onEndStream tells of END_STREAM, and not of a stream that is torn down', async t => {
  const ended = await http2Link(t)
  const heard = gate()
  onEndStream(ended.server, heard.open)
  ended.client.end('whole')
  await heard.promise
  t.equal(ended.server.closed, false)
  for (const code of [http2.constants.NGHTTP2_NO_ERROR, http2.constants.NGHTTP2_CANCEL]) {
    const { client, server } = await http2Link(t)
    onEndStream(server, () => t.fail('told of an end'))
    resetStream(client, code)
    await once(server, 'close')
    t.equal(server.rstCode, code)
  }
})

t.test('resetStream sends no end before the reset', async t => {
  const { client, server } = await http2Link(t)
  let ended = false
  onEndStream(server, () => { ended = true })
  client.write('half')
  await once(server, 'data')
  resetStream(client, http2.constants.NGHTTP2_CANCEL)
  await once(server, 'close')
  t.strictSame([ended, server.rstCode, client.destroyed], [false, http2.constants.NGHTTP2_CANCEL, true])
})

t.test('lendAddress tells a session of HTTP/2 what its connection in memory says', async t => {
  const { session, socket } = await http2Link(t)
  t.equal(session.socket.remoteAddress, undefined)
  lendAddress(session, socket)
  t.strictSame([session.socket.remoteAddress, (session.socket as TLSSocket).encrypted], ['127.0.0.1', true])
})

t.test('probeTakeover finds nothing wrong with this Node', async t => {
  t.equal(probeTakeover(), undefined)
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
