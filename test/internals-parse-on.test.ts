import t from 'tap'
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { MemorySocket } from '../lib/inject/memory-socket.ts'
import { onRequestHead, sawUpgrade, speakHttp } from '../lib/internals/http-parser.ts'
import { headIsRead, parseOnBehind, prepareParser, bytesArePutBack } from '../lib/internals/parse-on.ts'
import { nodeCountsAnew, countingRequests } from '../lib/internals/request-count.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { connectionEvent, listen, onBoth, turn } from './fixtures/bare.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { connectTcp } from './fixtures/wire.ts'

// What lib/internals/parse-on.ts and request-count.ts rely on, on a bare server.

onBoth('parseOnBehind: the parser reads on behind an Upgrade that nobody takes', async (t, carrying) => {
  const { server, connect } = await listen(t, carrying, (req, res) => { req.resume().on('end', () => res.end(`${req.method} ${req.url}`)) })
  const read: boolean[] = []
  server.on(connectionEvent(carrying), (socket: HttpSocket) => {
    onRequestHead(socket, req => {
      if (sawUpgrade(req)) read.push(parseOnBehind(req))
      return undefined
    })
  })
  const wire = await connect()
  wire.send(request('GET /1', ...UPGRADE) + request('POST /2', 'Content-Length: 2') + 'ab' + request('GET /3', ...UPGRADE))
  for (const answer of ['GET /1', 'POST /2', 'GET /3']) t.equal((await wire.response()).body, answer)
  t.same(read, [true, true])
})

t.test('bytesArePutBack, prepareParser: a parser that is fed by events reads on as well, from the first bytes on', async t => {
  const server = createServer((req, res) => res.end(req.url))
  const { client, server: socket } = MemorySocket.pair(true)
  bytesArePutBack(socket as unknown as HttpSocket)
  speakHttp(server, socket as unknown as HttpSocket)
  prepareParser(socket as unknown as HttpSocket)
  const read: boolean[] = []
  onRequestHead(socket as unknown as HttpSocket, req => {
    if (sawUpgrade(req)) read.push(parseOnBehind(req))
    return undefined
  })
  let heard = ''
  client.setEncoding('latin1').on('data', (text: string) => { heard += text })
  client.write(request('GET /1', ...UPGRADE) + request('GET /2'))
  while (!heard.endsWith('/2')) await turn()
  t.same(read, [true])
  t.equal(heard.match(/200 OK/g)?.length, 2)
  client.destroy()
})

t.test('headIsRead: an error is told behind an ignored Upgrade, and behind the head after it', async t => {
  const told: unknown[] = []
  const server = createServer((req, res) => res.end(req.url))
  server.on('connection', (socket: HttpSocket) => {
    onRequestHead(socket, req => {
      headIsRead(socket.parser as object)
      if (sawUpgrade(req)) parseOnBehind(req)
      return undefined
    })
  })
  server.on('clientError', (error: Error & { code?: string }, socket) => {
    told.push(error.code)
    socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  for (const between of ['', request('GET /2')]) {
    const wire = await connectTcp((server.address() as AddressInfo).port)
    wire.send(request('GET /1', ...UPGRADE) + between + '\x01\r\n\r\n')
    await wire.remains()
  }
  t.same(told, ['HPE_INVALID_METHOD', 'HPE_INVALID_METHOD'])
})

t.test('countingRequests, nodeCountsAnew: a connection that Node gets once more keeps its count', async t => {
  const limits: number[] = []
  const server = { maxRequestsPerSocket: 3 }
  const socket = { server } as unknown as HttpSocket
  const head = countingRequests(socket, () => {
    limits.push(server.maxRequestsPerSocket)
    return 0
  })
  for (let n = 1; n <= 4; n++) {
    head({} as never, true)
    if (n === 1) nodeCountsAnew(socket)
  }
  // Node has counted one, and then two and three: the third request of the connection is its second, and the fourth is above it.
  t.same(limits, [3, 3, 2, 2.5])
  t.equal(server.maxRequestsPerSocket, 3)
})
