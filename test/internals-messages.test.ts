import t from 'tap'
import { once } from 'node:events'
import diagnostics from 'node:diagnostics_channel'
import { connect as connectHttp2, createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2'
import { createServer, IncomingMessage, request, ServerResponse, type ClientRequest } from 'node:http'
import { connect, createServer as createTcpServer, Socket, type AddressInfo } from 'node:net'
import { PassThrough, type Readable } from 'node:stream'
import type { Test } from 'tap'
import {
  abortRequest, clearFields, closeResponse, destroyOnlyRequest, destroyOnlyResponse, endRequest, mutedStandIn,
  muteResponse, onTurnOfDestroyed, onWhole, outliveResponse, publishFinish, publishStart, responseClass, shareTexts,
  shedWeight, showAsItCame, tellFinish, tolerateHalfClose, unfinishedResponse
} from '../lib/internals/http-messages.ts'
import { countAsRead } from '../lib/internals/http2.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { beginReading } from '../lib/internals/streams.ts'
import { listen, listenAndTake, onBoth, requests, takeOne, turn } from './fixtures/bare.ts'
import { gate } from './fixtures/server.ts'

// What lib/internals/http-messages.ts relies on, on a bare server.

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

onBoth('destroyOnlyResponse destroys a response, and not its connection', async (t, carrying) => {
  const destroyed = gate<{ res: ServerResponse, socket: Socket }>()
  const { connect } = await listen(t, carrying, (req, res) => {
    const { socket } = req
    destroyOnlyResponse(socket, () => res.destroy(new Error('no')))
    destroyed.open({ res, socket })
  })
  const wire = await connect()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const { res, socket } = await destroyed.promise
  t.ok(res.destroyed)
  t.notOk(socket.destroyed)
  t.notOk(Object.hasOwn(socket, 'destroy'))
  socket.end('still there')
  t.equal(String(await wire.rest()), 'still there')
})

onBoth('onTurnOfDestroyed tells of the turn of a response that was destroyed before it, and keeps the connection', async (t, carrying) => {
  const responses: ServerResponse[] = []
  const turns: boolean[] = []
  const { connect } = await listen(t, carrying, (_req, res) => {
    responses.push(res)
    const [first] = responses
    if (res === first) return
    onTurnOfDestroyed(res, () => {
      turns.push(res.socket?.destroyed === false)
      res.socket?.end('kept')
    })
    res.destroy()
    first?.end('first')
  })
  const wire = await connect()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(2))
  t.match(String(await wire.rest()), /first[^]*kept$/)
  t.same(turns, [true])
})

onBoth('destroyOnlyRequest destroys a request, and not its connection', async (t, carrying) => {
  const { connect } = await listen(t, carrying, (req, res) => {
    const { socket } = req
    req.on('error', () => {})
    destroyOnlyRequest(req, () => req.destroy(new Error('no')))
    t.ok(req.destroyed)
    t.equal(req.socket, socket)
    t.notOk(socket.destroyed)
    res.end('answer')
  })
  const wire = await connect()
  wire.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf')
  t.equal((await wire.response()).body, 'answer')
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

/** `once` would reject with the error that comes before. */
const closing = (req: IncomingMessage): Promise<void> => new Promise(resolve => req.once('close', resolve))

/** What is told of a request, in order. */
function tellsOf (req: IncomingMessage): string[] {
  const told: string[] = []
  req.on('aborted', () => told.push('aborted'))
  req.on('error', (error: Error & { code?: string }) => told.push(`error ${String(error.code)} ${error.message}`))
  req.on('end', () => told.push('end'))
  req.on('close', () => told.push('close'))
  return told
}

t.test('abortRequest tells a request that left HTTP what Node tells one whose client has left', async t => {
  const came = gate<IncomingMessage>()
  const { connect } = await listen(t, 'tcp', req => { came.open(req) })
  const wire = await connect()
  wire.send('POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n')
  const nodes = await came.promise
  const expected = tellsOf(nodes)
  const closed = closing(nodes)
  wire.reset()
  await closed
  t.strictSame(expected, ['aborted', 'error ECONNRESET aborted', 'close'])
  const { req, socket } = await takeOne(t, 'tcp')
  const told = tellsOf(req)
  const over = closing(req)
  socket.destroy()
  abortRequest(req)
  await over
  t.strictSame(told, expected)
  t.strictSame([req.destroyed, req.aborted], [nodes.destroyed, nodes.aborted])
})

t.test('abortRequest ends no process where nobody listens for errors', async t => {
  const { req, socket } = await takeOne(t, 'tcp')
  const over = closing(req)
  socket.destroy()
  abortRequest(req)
  await over
  t.ok(req.destroyed)
})

onBoth('endRequest gives the request of a takeover its end, and leaves the connection', async (t, carrying) => {
  const { req, socket, wire } = await takeOne(t, carrying)
  const told = tellsOf(req)
  const over = closing(req)
  endRequest(req)
  await over
  t.strictSame(told, ['end', 'close'])
  t.strictSame([req.complete, req.aborted, req.errored], [true, false, null])
  endRequest(req)
  socket.end('still here')
  t.equal((await wire.rest()).toString(), 'still here')
  t.strictSame(told, ['end', 'close'], 'once')
})

t.test('closeResponse says of a response what Node says of one that it has sent', async t => {
  const came = gate<ServerResponse>()
  const { connect } = await listen(t, 'tcp', (_req, res) => {
    came.open(res)
    res.end('all')
  })
  const wire = await connect()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const nodes = await came.promise
  if (!nodes.closed) await once(nodes, 'close')
  const ours = new ServerResponse(new IncomingMessage(new Socket()))
  let closed = 0
  ours.on('close', () => closed++)
  t.strictSame([ours.closed, ours.destroyed], [false, false])
  closeResponse(ours)
  closeResponse(ours)
  t.equal(closed, 1)
  t.strictSame([ours.closed, ours.destroyed], [nodes.closed, nodes.destroyed])
  let again = 0
  nodes.on('close', () => again++)
  closeResponse(nodes)
  t.equal(again, 0, 'one that Node has closed is closed')
})

t.test('responseClass is the class that the creator of a server has chosen', async t => {
  class Mine extends ServerResponse {}
  t.equal(responseClass(createServer()), ServerResponse)
  t.equal(responseClass(createServer({ ServerResponse: Mine as never })), Mine)
  t.equal(responseClass({}), ServerResponse)
})

t.test('tellFinish tells all who listen, and those that are Node\'s are not told that it is the turn of the next', async t => {
  const heard: string[] = []
  let nodes: readonly unknown[] = []
  const both = gate<ServerResponse[]>()
  const responses: ServerResponse[] = []
  const { connect } = await listen(t, 'tcp', (_req, res) => {
    if (responses.length === 0) {
      nodes = res.listeners('finish')
      res.on('finish', function (this: unknown) { heard.push(this === res ? 'on' : 'on, of another') })
      res.once('finish', () => heard.push('once'))
      res.prependListener('finish', () => heard.push('first'))
    }
    if (responses.push(res) === 2) both.open(responses)
  })
  const wire = await connect()
  wire.send('GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n')
  const [first, second] = await both.promise as [ServerResponse, ServerResponse]
  t.ok(nodes.length > 0, 'Node listens itself')
  const { socket } = first
  tellFinish(first, nodes)
  t.strictSame(heard, ['first', 'on', 'once'])
  t.equal(unfinishedResponse(socket as unknown as HttpSocket), first)
  t.equal(second.socket, null)
  tellFinish(first, nodes)
  t.strictSame(heard, ['first', 'on', 'once', 'first', 'on'], 'who listened once has heard it')
  first.end()
  await wire.head()
  t.ok(second.socket, 'and Node\'s own listener is there still')
})

/** All that a response of Node's may put on the wire. */
const sendings: Record<string, (res: ServerResponse) => unknown> = {
  writeHead: res => res.writeHead(200, { a: 'b' }),
  writeHeader: res => (res as unknown as { writeHeader?: (status: number) => unknown }).writeHeader?.(200),
  flushHeaders: res => res.flushHeaders(),
  writeContinue: res => res.writeContinue(),
  writeProcessing: res => res.writeProcessing(),
  writeEarlyHints: res => res.writeEarlyHints({ link: '</a>; rel=preload' }),
  writeInformation: res => (res as unknown as { writeInformation?: (status: number) => unknown }).writeInformation?.(103),
  addTrailers: res => res.addTrailers({ a: 'b' }),
  write: res => res.write('written'),
  end: res => res.end('ended')
}

t.test('muteResponse knows every method by which this Node\'s responses write', async t => {
  const writing = Object.getOwnPropertyNames(ServerResponse.prototype).filter(name => name.startsWith('write'))
  t.ok(writing.length > 0)
  for (const name of writing) t.ok(Object.hasOwn(sendings, name), name)
})

for (const [name, send] of Object.entries(sendings)) {
  for (const [when, before] of [
    ['before its head', () => {}], ['behind its head', (res: ServerResponse) => res.flushHeaders()]
  ] as [string, (res: ServerResponse) => void][]) {
    t.test(`muteResponse lets nothing by ${name} reach the wire, ${when}`, async t => {
      class Mine extends ServerResponse { mine = true }
      const came = gate<ServerResponse>()
      const { server, connect } = await listen(t, 'tcp', (_req, res) => { came.open(res) })
      const wire = await connect()
      wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
      const res = await came.promise
      const socket = res.socket as Socket
      // As middleware does it.
      if (name === 'write' || name === 'end') Object.assign(res, { [name]: res[name as 'write'] })
      before(res)
      if (when === 'behind its head') await wire.head()
      muteResponse(res)
      t.doesNotThrow(() => send(res))
      t.strictSame([res.headersSent, res.writableEnded], [true, true])
      t.ok(res instanceof responseClass(server))
      t.notOk(res instanceof Mine)
      socket.end('behind it')
      t.equal((await wire.rest()).toString(), 'behind it')
    })
  }
}

t.test('muteResponse leaves a response of the app\'s own class what it is, and asks one that can be muted itself', async t => {
  class Mine extends ServerResponse { greeting (): string { return 'hello' } }
  const mine = new Mine(new IncomingMessage(new Socket()))
  muteResponse(mine)
  t.equal(mine.greeting(), 'hello')
  t.ok(mine instanceof Mine)
  t.equal(mine.write('x'), false)
  let asked = 0
  const own = Object.assign(new ServerResponse(new IncomingMessage(new Socket())), { mute: () => { asked++ } })
  const prototype = Object.getPrototypeOf(own) as unknown
  muteResponse(own)
  t.equal(asked, 1)
  t.equal(Object.getPrototypeOf(own), prototype)
})

interface About { request: IncomingMessage, response: ServerResponse, socket: Socket, server: unknown }

/** What is published while `run` runs. */
async function hear (channels: readonly string[], run: () => Promise<unknown> | void): Promise<[channel: string, about: About][]> {
  const heard: [string, About][] = []
  const listeners = channels.map(name => {
    const listener = (about: unknown): void => { heard.push([name, about as About]) }
    diagnostics.subscribe(name, listener)
    return () => diagnostics.unsubscribe(name, listener)
  })
  await run()
  for (const stop of listeners) stop()
  return heard
}

const START = 'http.server.request.start'
const FINISH = 'http.server.response.finish'

t.test('Q31 publishStart and publishFinish tell what Node tells of a plain request, each once', async t => {
  const plain = await listen(t)
  const nodes = await hear([START, FINISH], async () => {
    const wire = await plain.connect()
    const finished = new Promise<void>(resolve => plain.server.once('request', (_req, res) => res.once('close', resolve)))
    wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
    await finished
  })
  t.strictSame(nodes.map(([name]) => name), [START, FINISH])
  const { connect, server, taken } = await listenAndTake(t, 'tcp')
  const wire = await connect()
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const { req, socket } = await taken()
  const res = new ServerResponse(req)
  const ours = await hear([START, FINISH], () => {
    publishStart(res, server)
    publishFinish(res)
    publishFinish(res)
  })
  t.strictSame(ours.map(([name]) => name), [START, FINISH])
  for (const [index, [name, about]] of ours.entries()) {
    t.strictSame(Object.keys(about).sort(), Object.keys((nodes[index] as [string, About])[1]).sort(), name)
    t.equal(about.request, req)
    t.equal(about.response, res)
    t.equal(about.socket, socket)
    t.equal(about.server, server)
  }
})

t.test('publishFinish says nothing of a response whose start nobody was told', async t => {
  const res = new ServerResponse(new IncomingMessage(new Socket()))
  publishStart(res, {})
  t.strictSame(await hear([START, FINISH], () => { publishFinish(res) }), [])
  const late = new ServerResponse(new IncomingMessage(new Socket()))
  t.equal((await hear([FINISH], () => {
    publishStart(late, {})
    publishFinish(late)
  })).length, 1, 'a listener for the end alone hears it')
})

t.test('mutedStandIn takes nothing of an answer, and tells what becomes of the response', async t => {
  const { connect, server } = await listen(t, 'tcp', () => {})
  const wire = await connect()
  const came = once(server, 'request') as Promise<[IncomingMessage, ServerResponse]>
  wire.send('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  const [, res] = await came
  res.setHeader('X-Mine', '1')
  const standIn = mutedStandIn(res)
  t.ok(standIn instanceof ServerResponse)
  t.strictSame([standIn.headersSent, standIn.writableEnded, standIn.writableFinished, standIn.statusCode], [true, true, false, 200])
  standIn.statusCode = 500
  standIn.statusMessage = 'No'
  for (const same of [
    standIn.setHeader('X-Mine', '2'), standIn.appendHeader('X-Other', '2'), standIn.writeHead(500, { 'X-Other': '3' }), standIn.end('nothing')
  ]) t.equal(same, standIn)
  standIn.removeHeader('X-Mine')
  standIn.flushHeaders()
  standIn.writeContinue()
  standIn.addTrailers({ 'X-Other': '4' })
  t.equal(standIn.write('nothing'), false)
  t.strictSame([res.headersSent, res.statusCode, res.getHeaderNames()], [false, 200, ['x-mine']])
  const closed = once(standIn, 'close')
  res.statusCode = 201
  res.end('whole')
  const { line, headers, body } = await wire.response()
  t.strictSame([line, headers['x-mine'], headers['x-other'], body], ['HTTP/1.1 201 Created', '1', undefined, 'whole'])
  await closed
  t.strictSame([standIn.writableFinished, standIn.statusCode], [true, 201])
})

t.test('showAsItCame shows the fields of another request, however many the parser has read', async t => {
  const { connect, taken } = await listenAndTake(t, 'tcp')
  const ask = async (fields: string) => {
    const wire = await connect()
    wire.send(`GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n${fields}\r\n`)
    return (await taken()).req
  }
  const req = await ask('')
  const original = await ask('X-Twice: 1\r\nX-Twice: 2\r\n')
  showAsItCame(req, original)
  t.equal(req.rawHeaders, original.rawHeaders)
  t.strictSame(req.headers, { host: 'a', connection: 'Upgrade', upgrade: 'foo', 'x-twice': '1, 2' })
  t.strictSame(req.headersDistinct['x-twice'], ['1', '2'])
})

t.test('shedWeight takes nothing from who listens, or will listen', async t => {
  const req = new IncomingMessage(new Socket())
  const res = new ServerResponse(req)
  const told: string[] = []
  req.on('close', () => told.push('close of the request'))
  shedWeight(req, res)
  t.equal(res.listenerCount('finish'), 0)
  t.same(res.eventNames(), [])
  t.equal(res.emit('finish'), false)
  res.removeListener('finish', () => {}).removeAllListeners()
  res.once('finish', () => told.push('finish of the response'))
  t.equal(res.listenerCount('finish'), 1)
  res.emit('finish')
  req.emit('close')
  t.same(told, ['finish of the response', 'close of the request'])
  t.throws(() => res.emit('error', new Error('nobody listens')), { message: 'nobody listens' })
  t.equal(res.writableLength, 0)
})

t.test('shareTexts leaves every head as it came, whatever came before it', t => {
  const head = (url: string, ...rawHeaders: string[]): IncomingMessage =>
    Object.assign(new IncomingMessage(new Socket()), { url, rawHeaders, httpVersion: rawHeaders.length > 4 ? '1.0' : '1.1' })
  const long = 'x'.repeat(1000)
  for (const fields of [['Host', 'a'], ['Host', 'b', 'Cookie', long], ['host', 'b', 'Cookie', long], [], ['Host', 'b', 'A', '1', 'B', '2']]) {
    for (const url of ['/', `/${long}`, '/']) {
      const req = head(url, ...fields)
      shareTexts(req)
      t.same([req.url, req.rawHeaders, req.httpVersion], [url, fields, fields.length > 4 ? '1.0' : '1.1'])
    }
  }
  t.end()
})

t.test('beginReading leaves a request as Node does that reads it for the first time, and other streams as they are', async t => {
  interface Inner { _consuming: boolean, _readableState: { readingMore: boolean } }
  const stateOf = ({ _consuming, _readableState: { readingMore } }: Inner): object => ({ _consuming, readingMore })
  const server = createServer((req, res) => {
    const inner = req as unknown as Inner
    const before = stateOf(inner)
    if (req.url === '/ours') beginReading(req)
    else req._read(0)
    res.end(JSON.stringify({ before, after: stateOf(inner) }))
  }).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const [ours, nodes] = await Promise.all(['/ours', '/nodes'].map(async path => (await fetch(`http://127.0.0.1:${port}${path}`)).json()))
  t.same(ours, nodes)
  t.match(ours, { before: { _consuming: false, readingMore: true }, after: { _consuming: true, readingMore: false } })
  const other = new PassThrough()
  beginReading(other)
  t.notOk('_consuming' in other)
})

t.test('beginReading and countAsRead leave a stream of HTTP/2 as Node does that reads it for the first time', async t => {
  // A symbol of somebody else may have the same name as Node's.
  beginReading(Object.assign(new PassThrough(), { [Symbol('state')]: {} }))
  const server = createHttp2Server().listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const client = connectHttp2(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  t.teardown(() => client.close())
  const readsMore = ({ _readableState }: { _readableState?: { readingMore: boolean } }): boolean | undefined => _readableState?.readingMore
  const isRead = (stream: ServerHttp2Stream): boolean => Object.getOwnPropertySymbols(stream).some(symbol =>
    (stream as unknown as Record<symbol, { didRead?: boolean } | undefined>)[symbol]?.didRead === true)
  for (const begin of [beginReading, countAsRead, (stream: Readable) => stream._read(0)]) {
    const request = client.request({ ':method': 'POST' })
    const [stream] = await once(server, 'stream') as [ServerHttp2Stream]
    t.equal(readsMore(stream as object), true)
    begin(stream)
    t.equal(readsMore(stream as object), false)
    t.equal(isRead(stream), begin !== beginReading)
    request.close()
    await once(request, 'close')
  }
})
