import t from 'tap'
import { once } from 'node:events'
import { createServer, connect, type AddressInfo, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import type { Test } from 'tap'
import { endAsNode, endBetweenReads, giveEndListener, keepHalfOpen, readyEvent, resetWhenClosed, takeEndListener } from '../lib/internals/half-open.ts'
import { onBoth, type Carrying } from './fixtures/bare.ts'
import { cert, key } from './fixtures/certificate.ts'
import { gate } from './fixtures/server.ts'

// What lib/internals/half-open.ts relies on, on sockets of Node's alone.

interface Pair {
  client: Socket
  peer: Socket
  /** Resolves with the error that the peer is destroyed with, and with nothing where it ends. */
  outcome: Promise<(Error & { code?: string }) | undefined>
}

/** A client that is half-open as Node makes it, which is not, and the server's end. */
async function pair (t: Test, carrying: Carrying): Promise<Pair> {
  const arrived = gate<Socket>()
  const server = carrying === 'tls'
    ? createTlsServer({ key, cert, allowHalfOpen: true }, arrived.open)
    : createServer({ allowHalfOpen: true }, arrived.open)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const client = carrying === 'tls'
    ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
    : connect({ port, host: '127.0.0.1' })
  client.on('error', () => {})
  await once(client, carrying === 'tls' ? 'secureConnect' : 'connect')
  const peer = await arrived.promise
  const outcome = gate<Error | undefined>()
  peer.on('error', outcome.open)
  peer.on('end', () => outcome.open(undefined))
  t.teardown(() => {
    client.destroy()
    peer.destroy()
    server.close()
  })
  return { client, peer, outcome: outcome.promise }
}

async function read (socket: Duplex): Promise<string> {
  let text = ''
  for await (const chunk of socket) text += String(chunk)
  return text
}

onBoth('keepHalfOpen: a socket that was made to end with its input can still write behind that', async (t, carrying) => {
  const { client, peer } = await pair(t, carrying)
  t.notOk(client.allowHalfOpen)
  keepHalfOpen(client)
  client.resume()
  const ended = once(client, 'end')
  peer.end()
  await ended
  t.notOk(client.writableEnded)
  client.end('late')
  t.equal(await read(peer), 'late')
})

onBoth('keepHalfOpen is not too late within the end event, when Node has put another write() there', async (t, carrying) => {
  const { client, peer } = await pair(t, carrying)
  const kept = gate()
  client.on('end', () => {
    keepHalfOpen(client)
    kept.open()
  })
  client.resume()
  peer.end()
  await kept.promise
  t.notOk(client.writableEnded)
  client.write('late, ')
  client.end('later')
  t.equal(await read(peer), 'late, later')
})

t.test('keepHalfOpen keeps any Duplex half-open, and leaves alone what is so', async t => {
  const duplex = new Duplex({ allowHalfOpen: false, read () {}, write (_chunk, _encoding, done) { done() } })
  keepHalfOpen(duplex)
  duplex.resume()
  const ended = once(duplex, 'end')
  duplex.push(null)
  await ended
  t.ok(duplex.writable)
  const own = Object.assign(new Duplex({ read () {} }), { write: () => true })
  own.resume().push(null)
  await once(own, 'end')
  keepHalfOpen(own)
  t.ok(Object.hasOwn(own, 'write'), 'it is another\'s write() where Node has put none')
})

onBoth('endBetweenReads: an end() from within data costs nothing of what comes behind', async (t, carrying) => {
  const { client, peer } = await pair(t, carrying)
  keepHalfOpen(client)
  endBetweenReads(client)
  const sent = Buffer.alloc(1024 * 1024, 'records')
  let heard = 0
  client.once('data', () => client.end('last'))
  client.on('data', (chunk: Buffer) => { heard += chunk.length })
  const ended = once(client, 'end')
  peer.end(sent)
  await ended
  t.equal(heard, sent.length)
  t.equal(await read(peer), 'last')
})

onBoth('readyEvent is what a socket emits when it can be used, and nothing from then on', async (t, carrying) => {
  const server = carrying === 'tls' ? createTlsServer({ key, cert }) : createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const client = carrying === 'tls'
    ? connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false })
    : connect({ port, host: '127.0.0.1' })
  t.teardown(() => {
    client.destroy()
    server.close()
  })
  const event = readyEvent(client)
  t.equal(event, carrying === 'tls' ? 'secureConnect' : 'connect')
  if (carrying === 'tls') {
    await once(client, 'connect')
    t.equal(readyEvent(client), 'secureConnect', 'TCP alone is not enough')
  }
  await once(client, event as string)
  t.equal(readyEvent(client), undefined)
})

t.test('resetWhenClosed makes the destroy() of a client of TLS a reset', async t => {
  const { client, peer, outcome } = await pair(t, 'tls')
  client.resume()
  peer.resume()
  peer.write('x')
  await once(client, 'data')
  resetWhenClosed(client)
  const closed = once(client, 'close')
  client.destroy()
  await closed
  t.equal((await outcome)?.code, 'ECONNRESET')
})

t.test('resetWhenClosed closes a client whose FIN has left as ever', async t => {
  const { client, peer, outcome } = await pair(t, 'tls')
  resetWhenClosed(client)
  client.resume()
  peer.resume()
  client.end()
  t.equal(await outcome, undefined)
  const closed = once(client, 'close')
  peer.end()
  await closed
  t.ok(client.destroyed)
})

t.test('resetWhenClosed does nothing to a socket without TLS', async t => {
  const { client, peer, outcome } = await pair(t, 'tcp')
  resetWhenClosed(client)
  peer.resume()
  client.destroy()
  t.equal(await outcome, undefined)
})

onBoth('takeEndListener, endAsNode, giveEndListener: one listener in place of net\'s own, which does what net\'s own does', async (t, carrying) => {
  const { client, peer } = await pair(t, carrying)
  const before = client.listeners('end')
  let ends = 0
  const onEnd = function (this: Duplex): void {
    endAsNode(this)
    ends++
  }
  takeEndListener(client, onEnd)
  t.equal(client.listenerCount('end'), before.length)
  giveEndListener(client, onEnd)
  t.same(client.listeners('end'), before)
  takeEndListener(client, onEnd)
  client.resume()
  const closed = once(client, 'close')
  peer.end()
  await once(client, 'end')
  t.equal(ends, 1)
  t.ok(Object.hasOwn(client, 'write'), 'net\'s own has made writes fail')
  await closed
})

t.test('takeEndListener adds a listener to a stream in memory, and giveEndListener takes it off', t => {
  const duplex = new Duplex({ read () {}, write () {} })
  const onEnd = function (this: Duplex): void { endAsNode(this) }
  takeEndListener(duplex, onEnd)
  t.same(duplex.listeners('end'), [onEnd])
  duplex.emit('end')
  giveEndListener(duplex, onEnd)
  t.same(duplex.listeners('end'), [])
  t.end()
})
