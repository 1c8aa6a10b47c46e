import t from 'tap'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { once } from 'node:events'
import type { TLSSocket } from 'node:tls'
import type { Test } from 'tap'
import http2, { type ClientHttp2Stream, type Http2Stream, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import { MemorySocket } from '../lib/inject/memory-socket.ts'
import * as halfOpen from '../lib/internals/half-open.ts'
import * as httpClient from '../lib/internals/http-client.ts'
import * as httpMessages from '../lib/internals/http-messages.ts'
import * as httpParser from '../lib/internals/http-parser.ts'
import * as http2Streams from '../lib/internals/http2.ts'
import * as parseOn from '../lib/internals/parse-on.ts'
import * as probe from '../lib/internals/probe.ts'
import * as readBuffer from '../lib/internals/read-buffer.ts'
import * as requestCount from '../lib/internals/request-count.ts'
import * as schemas from '../lib/internals/schemas.ts'
import * as serverEvents from '../lib/internals/server-events.ts'
import * as sockets from '../lib/internals/sockets.ts'
import * as streams from '../lib/internals/streams.ts'
import { isOverOnTheWire, lendAddress, onEndStream, resetStream } from '../lib/internals/http2.ts'
import { gate } from './fixtures/server.ts'

// What lib/internals relies on. A Node that changes it fails here first.

const modules = {
  halfOpen,
  httpClient,
  httpMessages,
  httpParser,
  http2Streams,
  parseOn,
  probe,
  readBuffer,
  requestCount,
  schemas,
  serverEvents,
  sockets,
  streams
}

t.test('every function of lib/internals is tried by a test that has its name, Fastify\'s apart', async t => {
  const lines = readdirSync(import.meta.dirname).filter(name => /^internals.*\.test\.js$/.test(name))
    .flatMap(name => readFileSync(join(import.meta.dirname, name), 'utf8').split('\n'))
  const titles = lines.filter(line => /\b(?:t\.test|onBoth)\(['"`]/.test(line))
  const modulesThere = readdirSync(join(import.meta.dirname, '../lib/internals')).filter(name => name.endsWith('.js'))
  t.equal(modulesThere.length, Object.keys(modules).length + 1, 'and each module of it is imported here')
  for (const [module, exported] of Object.entries(modules)) {
    const functions = Object.entries(exported).filter(([, value]) => typeof value === 'function')
    t.ok(functions.length > 0, module)
    for (const [name] of functions) t.ok(titles.some(title => new RegExp(`\\b${name}\\b`).test(title)), name)
  }
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

t.test('isOverOnTheWire: a stream that is reset with NO_ERROR is over, while Node keeps it for its reader', async t => {
  const { client, server } = await http2Link(t)
  server.pause()
  client.write('unread')
  while (server.readableLength === 0) await new Promise(resolve => setImmediate(resolve))
  server.respond({ ':status': 200 })
  server.write('answer')
  t.equal(isOverOnTheWire(server), false, 'it is open')
  resetStream(client, http2.constants.NGHTTP2_NO_ERROR)
  while (!server.closed) await new Promise(resolve => setImmediate(resolve))
  t.strictSame([server.destroyed, isOverOnTheWire(server)], [false, true])
  const closed = once(server, 'close')
  server.destroy()
  t.equal(isOverOnTheWire(server), false, 'it is gone')
  await closed
})

t.test('lendAddress tells a session of HTTP/2 what its connection in memory says', async t => {
  const { session, socket } = await http2Link(t)
  t.equal(session.socket.remoteAddress, undefined)
  lendAddress(session, socket)
  t.strictSame([session.socket.remoteAddress, (session.socket as TLSSocket).encrypted], ['127.0.0.1', true])
})
