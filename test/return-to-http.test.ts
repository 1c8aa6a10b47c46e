import t from 'tap'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { originalHead, headWithoutUpgrade, waitToReturn } from '../lib/http1/return-to-http.ts'
import { showAsItCame } from '../lib/internals/http-messages.ts'
import { Link, type Waiting } from '../lib/http1/link.ts'
import { onRequestHead, speakHttp, takeOver } from '../lib/internals/http-parser.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { listen, listenAndTake, onBoth, takeOne } from './fixtures/bare.ts'
import { gate } from './fixtures/server.ts'

type Lines = readonly string[]

/** A head, as this server's parser has read it. */
async function parsed (t: Parameters<typeof listen>[0], lines: Lines): Promise<IncomingMessage> {
  const { connect, taken } = await listenAndTake(t, 'tcp')
  const wire = await connect()
  wire.send(Buffer.from([...lines, '', ''].join('\r\n'), 'latin1'))
  return (await taken()).req
}

const text = (head: Buffer): Lines => head.toString('latin1').split('\r\n')

const HEAD = [
  'GET /a%20b?c=d HTTP/1.1', 'hOsT: a', 'X-Twice: 1', 'x-twice: 2', 'Connection: x-own , Upgrade', 'Upgrade: foo, bar/2', 'X-Latin: caf\xe9 \xff',
  'X-Empty: ', 'HTTP2-Settings: AAMAAABk', 'Cookie: a=b', 'Set-Cookie: never; joined, ever'
]

t.test('Q53 a head goes back as it came: spelling, order, repetition and bytes', async t => {
  t.same(text(originalHead(await parsed(t, HEAD))), [...HEAD.map(line => line.replace(' , ', ' , ')), '', ''])
})

t.test('Q53 white space around a value is the only thing that a head loses', async t => {
  const req = await parsed(t, ['GET / HTTP/1.1', 'Host:a', 'X: \t 1 \t ', 'Connection: Upgrade', 'Upgrade: foo'])
  t.same(text(originalHead(req)), ['GET / HTTP/1.1', 'Host: a', 'X: 1', 'Connection: Upgrade', 'Upgrade: foo', '', ''])
})

t.test('Q53 without the upgrade the rest of a head stays as it was', async t => {
  const req = await parsed(t, HEAD)
  t.same(text(headWithoutUpgrade(req, false)), [
    'GET /a%20b?c=d HTTP/1.1', 'hOsT: a', 'X-Twice: 1', 'x-twice: 2', 'Connection: x-own', 'X-Latin: caf\xe9 \xff', 'X-Empty: ', 'Cookie: a=b',
    'Set-Cookie: never; joined, ever', '', ''
  ])
  t.same(text(headWithoutUpgrade(req, true)).slice(-4), ['Set-Cookie: never; joined, ever', 'Connection: close', '', ''])
})

const connections: Record<string, Lines> = {
  upgrade: [],
  'Upgrade, HTTP2-Settings': [],
  'keep-alive, UPGRADE': ['keep-alive'],
  'close,,upgrade , ,te': ['close, te'],
  'upgrades, x-upgrade': ['upgrades, x-upgrade']
}

for (const [value, left] of Object.entries(connections)) {
  for (const name of ['Connection', 'Proxy-Connection']) {
    t.test(`Q53 "${name}: ${value}" is ${left.length > 0 ? `"${left.join()}"` : 'no field'} without the upgrade`, async t => {
      const req = await parsed(t, ['GET / HTTP/1.1', 'Host: a', `${name}: ${value}`, 'Upgrade: foo'])
      t.same(text(headWithoutUpgrade(req, false)), ['GET / HTTP/1.1', 'Host: a', ...left.map(rest => `${name}: ${rest}`), '', ''])
    })
  }
}

t.test('Q53 a parser that reads a head without its upgrade sees none, and the request shows it all the same', async t => {
  const original = await parsed(t, HEAD)
  const { connect, taken } = await listenAndTake(t, 'tcp')
  const sawNone = gate<boolean>()
  const wire = await connect()
  wire.send(headWithoutUpgrade(original, false))
  const { req } = await taken()
  sawNone.open(req.headers.upgrade === undefined)
  t.ok(await sawNone.promise)
  showAsItCame(req, original)
  t.equal(req.headers.upgrade, 'foo, bar/2')
  t.same(req.rawHeaders, original.rawHeaders)
  t.match(req.headers['x-twice'], '1, 2')
})

onBoth('Q20 a socket that goes back to HTTP is served from what was put back on', async (t, carrying) => {
  const { server, connect, taken } = await listenAndTake(t, carrying)
  const wire = await connect()
  wire.send('GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n')
  const { req, socket, head } = await taken()
  const urls: unknown[] = []
  server.on('request', ({ url }) => { urls.push(url) })
  if (head.length > 0) socket.unshift(head)
  socket.unshift(headWithoutUpgrade(req, false))
  speakHttp(server, socket)
  for (let n = 0; n < 2; n++) t.equal((await wire.head()).status, 200)
  t.same(urls, ['/it', '/next'])
})

onBoth('Q68 a client that half-closes while its socket waits to go back is answered by an end, as Node does it', async (t, carrying) => {
  const { socket, wire } = await takeOne(t, carrying)
  socket.allowHalfOpen = true
  waitToReturn(new Link(socket, () => {}))
  wire.end()
  t.equal((await wire.rest()).toString(), '')
})

onBoth('Q68 where the body of a duplex route is on the connection the end of input waits, and so do errors', async (t, carrying) => {
  const { socket, wire } = await takeOne(t, carrying)
  socket.allowHalfOpen = true
  const link = new Link(socket, () => {})
  const waiting: Waiting = { takes: true, linkClosed () {} }
  link.add(waiting)
  const before = socket.listenerCount('error')
  const stop = waitToReturn(link)
  t.equal(socket.listenerCount('error'), before + 1)
  wire.end()
  // What comes behind the end of input on another connection has come later than that.
  const other = await takeOne(t, carrying)
  other.socket.end()
  await other.wire.rest()
  t.notOk(socket.readableEnded)
  t.notOk(socket.writableEnded)
  stop()
  t.equal(socket.listenerCount('error'), before)
  const over = once(socket, 'end')
  socket.resume()
  await over
  socket.end('answer')
  t.equal((await wire.rest()).toString(), 'answer')
})

onBoth('Q68 a socket that has waited goes back with the end of input behind it', async (t, carrying) => {
  const { server, connect } = await listen(t, carrying, (req, res) => { res.end(req.url) })
  const left = gate<{ req: IncomingMessage, socket: HttpSocket }>()
  server.on(carrying === 'tls' ? 'secureConnection' : 'connection', (socket: HttpSocket) => {
    onRequestHead(socket, req => req.url === '/taken' ? takeOver(req) : undefined)
  })
  server.on('upgrade', (req, socket) => left.open({ req, socket: socket as HttpSocket }))
  const wire = await connect()
  wire.send('GET /taken HTTP/1.1\r\nHost: a\r\n\r\n')
  const { req, socket } = await left.promise
  const link = new Link(socket, () => {})
  const stop = waitToReturn(link)
  req.url = '/back'
  socket.unshift(originalHead(req))
  stop()
  speakHttp(server, socket)
  t.equal((await wire.head()).status, 200)
  t.equal((await wire.bytes(5)).toString(), '/back')
  wire.end()
  t.equal((await wire.rest()).toString(), '')
})
