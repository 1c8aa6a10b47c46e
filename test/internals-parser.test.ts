import t from 'tap'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTcpServer, Socket, type AddressInfo } from 'node:net'
import { PassThrough, type Duplex } from 'node:stream'
import { createServer as createTlsServer, TLSSocket } from 'node:tls'
import {
  canSpeakHttp, hasLostFields, nodesListeners, onRequestHead, restoreListeners, sawUpgrade, speakHttp, takeOver, takeOverAfterBody,
  upgradeCallback
} from '../lib/internals/http-parser.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { connectionEvent, listen, listenAndTake, onBoth, requests, takeOne, turn } from './fixtures/bare.ts'
import { gate } from './fixtures/server.ts'
import { cert, key } from './fixtures/certificate.ts'
import { connectTcp, connectTls } from './fixtures/wire.ts'

// What lib/internals/http-parser.ts relies on, on a bare server.

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

t.test('canSpeakHttp says that speakHttp has what it needs here', async t => {
  t.equal(canSpeakHttp(), true)
})

onBoth('speakHttp lets Node have a socket that no server of HTTP has accepted, and tells nobody of a connection', async (t, carrying) => {
  const server = createServer((req, res) => { res.end(`this is ${req.method} ${req.url}`) })
  server.on('connection', () => t.fail('there is no connection of this server'))
  const lend = (socket: Socket): void => { speakHttp(server, socket) }
  const front = carrying === 'tls' ? createTlsServer({ cert, key }, lend) : createTcpServer(lend)
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  const { port } = front.address() as AddressInfo
  const wire = carrying === 'tls' ? await connectTls(port) : await connectTcp(port)
  t.teardown(() => {
    wire.destroy()
    front.close()
  })
  for (const url of ['/1', '/2']) t.equal((await wire.send(`GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`).response()).body, `this is GET ${url}`)
})

onBoth('speakHttp begins anew with what was put back on a socket that has left HTTP', async (t, carrying) => {
  const { server, connect, taken } = await listenAndTake(t, carrying)
  const heads: string[] = []
  const wire = await connect()
  wire.send('GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /sec')
  const { socket, head } = await taken()
  t.equal(head.toString(), 'GET /sec')
  socket.unshift(head)
  speakHttp(server, socket)
  t.ok(socket.parser)
  t.ok(onRequestHead(socket, req => {
    heads.push(String(req.url))
    return undefined
  }))
  t.equal((await wire.send('ond HTTP/1.1\r\nHost: a\r\n\r\n').head()).status, 200)
  t.equal((await wire.send('GET /third HTTP/1.1\r\nHost: a\r\n\r\n').head()).status, 200)
  t.strictSame(heads, ['/second', '/third'])
})

/** `once` would reject with the error that comes before. */
const closed = (emitter: IncomingMessage | ServerResponse): Promise<void> => new Promise(resolve => emitter.once('close', resolve))

interface Parked {
  /** The response that waits for its turn, and its request. */
  req: IncomingMessage
  res: ServerResponse
  socket: HttpSocket
  /** What takes Node's listeners off again. */
  takeOff: () => void
  missing: { close: number, timeout: number }
  wire: { reset: () => void, destroy: () => void }
}

/** A connection that left HTTP while a plain request on it has no answer yet, with Node's listeners put back. */
async function park (t: Parameters<typeof listen>[0], carrying: 'tcp' | 'tls', timeouts: boolean): Promise<Parked> {
  const plain = gate<{ req: IncomingMessage, res: ServerResponse }>()
  const { server, connect } = await listen(t, carrying, (req, res) => { plain.open({ req, res }) })
  let before: ReturnType<typeof nodesListeners> | undefined
  server.on(connectionEvent(carrying), (socket: HttpSocket) => {
    onRequestHead(socket, req => {
      if (req.url !== '/it') return undefined
      before = nodesListeners(socket)
      return takeOver(req)
    })
  })
  const left = gate<Omit<Parked, 'req' | 'res' | 'wire'>>()
  server.on('upgrade', (_req, socket: HttpSocket) => {
    socket.on('error', () => {})
    const nodes = before as ReturnType<typeof nodesListeners>
    const now = nodesListeners(socket)
    const missing = {
      close: nodes.close.filter(listener => !now.close.includes(listener)).length,
      timeout: nodes.timeout.filter(listener => !now.timeout.includes(listener)).length
    }
    left.open({ socket, missing, takeOff: restoreListeners(socket, nodes, timeouts) })
  })
  const wire = await connect()
  wire.send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\nGET /it HTTP/1.1\r\nHost: a\r\n\r\n')
  return { ...await left.promise, ...await plain.promise, wire }
}

onBoth('restoreListeners lets a request that waits hear that its client has left, after Node has let go of the socket', async (t, carrying) => {
  const { req, res, socket, missing, wire } = await park(t, carrying, true)
  t.ok(missing.close > 0, 'Node has taken off what tells of that')
  req.on('error', () => {})
  const heard = [closed(req), closed(res)]
  socket.resume()
  wire.reset()
  await Promise.all(heard)
  t.ok(req.destroyed)
  t.notOk(res.writableFinished)
})

onBoth('restoreListeners puts the timeout back where it goes on to apply, and only there', async (t, carrying) => {
  for (const timeouts of [true, false]) {
    const { socket, res, missing } = await park(t, carrying, timeouts)
    t.ok(missing.timeout > 0, 'Node has taken it off')
    const over = closed(res)
    socket.emit('timeout')
    t.equal(socket.destroyed, timeouts)
    socket.destroy()
    await over
  }
})

onBoth('restoreListeners takes off what it has put there, and no more', async (t, carrying) => {
  const { socket, takeOff, missing } = await park(t, carrying, true)
  const before = nodesListeners(socket)
  t.same(restoreListeners(socket, before, true)(), undefined)
  t.same(nodesListeners(socket), before, 'where nothing is missing nothing is put')
  takeOff()
  const after = nodesListeners(socket)
  t.equal(after.close.length, before.close.length - missing.close)
  t.equal(after.timeout.length, before.timeout.length - missing.timeout)
})

onBoth('nodesListeners are Node\'s own on a connection that speaks HTTP, and none on another', async (t, carrying) => {
  const { link } = await listen(t, carrying)
  const { socket } = await link()
  const { close, timeout } = nodesListeners(socket)
  t.ok(close.length > 0)
  t.ok(timeout.length > 0)
  t.same(nodesListeners(new PassThrough()), { close: [], timeout: [] })
})
