import t, { type Test } from 'tap'
import dns from 'node:dns'
import { once } from 'node:events'
import net from 'node:net'
import { TLSSocket } from 'node:tls'
import Fastify from 'fastify'
import duplex, { dial, errors, publicOnly, tunnel } from '../lib/index.ts'
import { cert } from './fixtures/certificate.ts'
import { turn } from './fixtures/links.ts'
import { gate } from './fixtures/server.ts'
import { closedPort, fars, upstream } from './fixtures/upstream.ts'

type Found = { address: string, family: number }[]

/** What a name resolves to, one answer after the other; the last one stays. Tells which names were asked for. */
function resolves (t: Test, ...answers: (Found | Error)[]): string[] {
  const asked: string[] = []
  const { lookup } = dns
  t.teardown(() => { dns.lookup = lookup })
  dns.lookup = ((host: string, _options: unknown, done: (error: Error | null, found?: Found) => void) => {
    asked.push(host)
    const answer = answers.length > 1 ? answers.shift() : answers[0]
    process.nextTick(() => answer instanceof Error ? done(answer) : done(null, answer))
  }) as unknown as typeof lookup
  return asked
}

const v4 = (...addresses: string[]): Found => addresses.map(address => ({ address, family: 4 }))

for (const far of fars) {
  t.test(`TU6 dial() promises a connected socket of ${far}: half-open, with an owner of its errors`, async t => {
    const { target, accepted } = await upstream(t, far)
    const socket = await dial(target, { tls: far === 'tls' ? { ca: cert } : false })
    t.equal(socket.connecting, false)
    t.equal(socket.allowHalfOpen, true)
    t.equal(socket instanceof TLSSocket, far === 'tls')
    t.equal(socket.listenerCount('error'), far === 'tls' ? socket.listenerCount('error') : 1)
    const server = await accepted()
    server.end('hello')
    t.equal(String((await once(socket, 'data'))[0]), 'hello')
    await once(socket, 'end')
    socket.end('late')
    t.equal((await server.rest()).toString(), 'late')
  })
}

t.test('TU6 a reset that nobody waits for does not end the process', async t => {
  const { target, accepted } = await upstream(t)
  const socket = await dial(target)
  ;(await accepted()).reset()
  await new Promise(resolve => socket.once('close', resolve))
  t.equal(socket.destroyed, true)
})

t.test('TU6 every address is checked, only those that pass are dialled, and the name is resolved once', async t => {
  const { port } = await upstream(t)
  const asked = resolves(t, v4('127.0.0.9', '127.0.0.1', '127.0.0.8'), v4('127.0.0.66'))
  const checked: string[][] = []
  const socket = await dial({ host: 'rebinding.example', port }, {
    check: (address, host) => {
      checked.push([address, host])
      return address === '127.0.0.1'
    }
  })
  t.equal(socket.remoteAddress, '127.0.0.1')
  t.same(checked, [['127.0.0.9', 'rebinding.example'], ['127.0.0.1', 'rebinding.example'], ['127.0.0.8', 'rebinding.example']])
  t.same(asked, ['rebinding.example'])
  socket.destroy()
})

t.test('TU6 an address that is the host is checked, and resolves to nothing else', async t => {
  const { port } = await upstream(t)
  const asked = resolves(t, v4('127.0.0.1'))
  const checked: string[][] = []
  const check = (address: string, host: string): boolean => {
    checked.push([address, host])
    return address === '127.0.0.1'
  }
  ;(await dial({ host: '127.0.0.1', port }, { check })).destroy()
  await t.rejects(dial({ host: '::1', port }, { check }), { code: 'FST_ERR_DUPLEX_DIAL_FORBIDDEN' })
  t.same(checked, [['127.0.0.1', '127.0.0.1'], ['::1', '::1']])
  t.same(asked, [])
})

t.test('TU6 no address that passes: 403, and nothing is dialled', async t => {
  const { port, connections } = await upstream(t)
  resolves(t, v4('127.0.0.1', '10.0.0.1'))
  const error = await dial({ host: 'inside.example', port }, { check: publicOnly }).catch((error: unknown) => error) as Error & { statusCode: number }
  t.type(error, errors.FST_ERR_DUPLEX_DIAL_FORBIDDEN)
  t.equal(error.statusCode, 403)
  t.match(error.cause, { message: 'inside.example leads to 127.0.0.1, 10.0.0.1' })
  t.notMatch(error.message, /127|10\./)
  await turn()
  t.equal(await connections(), 0)
})

t.test('TU6 spellings of loopback that only the resolver understands are refused', async t => {
  const { port, connections } = await upstream(t)
  for (const host of ['2130706433', '0x7f.1', '127.1', 'localhost', '0', '::ffff:127.0.0.1', '::ffff:7f00:1']) {
    const error = await dial({ host, port }, { check: publicOnly }).catch((error: unknown) => error) as Error & { statusCode: number }
    // A resolver may know no such name.
    t.ok(error.statusCode === 403 || error.statusCode === 502, host)
  }
  await turn()
  t.equal(await connections(), 0)
})

t.test('TU6 a check may be a promise, and what it throws is thrown', async t => {
  const { target } = await upstream(t)
  ;(await dial(target, { check: async () => true })).destroy()
  await t.rejects(dial(target, { check: async () => false }), { code: 'FST_ERR_DUPLEX_DIAL_FORBIDDEN' })
  await t.rejects(dial(target, { check: () => { throw new Error('no list') } }), { message: 'no list' })
  await t.rejects(dial(target, { check: () => 'yes' as never }), { code: 'FST_ERR_DUPLEX_DIAL_FORBIDDEN' })
})

t.test('TU6 the path of a Unix socket is no public address', async t => {
  const { target, connections } = await upstream(t, 'unix')
  await t.rejects(dial(target, { check: publicOnly }), { code: 'FST_ERR_DUPLEX_DIAL_FORBIDDEN' })
  t.equal(await connections(), 0)
})

t.test('TU6 an address that nobody answers at is followed by the next, of either family', async t => {
  const { port } = await upstream(t)
  resolves(t, [{ address: '::1', family: 6 }, { address: '127.0.0.7', family: 4 }, { address: '127.0.0.1', family: 4 }])
  const socket = await dial({ host: 'many.example', port })
  t.equal(socket.remoteAddress, '127.0.0.1')
  socket.destroy()
})

t.test('TU6 an address that is silent does not hold up the next one', async t => {
  const { port } = await upstream(t)
  // Documentation, RFC 5737: nobody answers, or the network says that there is no way.
  resolves(t, v4('192.0.2.1', '127.0.0.1'))
  const socket = await dial({ host: 'silent.example', port })
  t.equal(socket.remoteAddress, '127.0.0.1')
  socket.destroy()
})

t.test('TU6 nobody answers: 502 with its cause, and no address in its message', async t => {
  const port = await closedPort()
  await t.rejects(dial({ host: '127.0.0.1', port }), {
    code: 'FST_ERR_DUPLEX_DIAL_FAILED', statusCode: 502, message: 'The connection could not be made', cause: { code: 'ECONNREFUSED' }
  })
  // Twice the same: of the others in 127/8 not every system has one.
  resolves(t, v4('127.0.0.1', '127.0.0.1'))
  await t.rejects(dial({ host: 'two.example', port }), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { errors: [{ code: 'ECONNREFUSED' }, { code: 'ECONNREFUSED' }] } })
})

t.test('TU6 a name that resolves to nothing: 502 with its cause', async t => {
  resolves(t, Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' }), [])
  await t.rejects(dial({ host: 'nowhere.example', port: 1 }), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { code: 'ENOTFOUND' } })
  await t.rejects(dial({ host: 'empty.example', port: 1 }), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { message: 'empty.example has no address' } })
})

t.test('TU6 a certificate that is not trusted, and a server that speaks no TLS: 502', async t => {
  const { target } = await upstream(t, 'tls')
  await t.rejects(dial(target, { tls: true }), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { code: /SELF_SIGNED/ } })
  const plain = await upstream(t)
  const dialled = dial(plain.target, { tls: true })
  ;(await plain.accepted()).end('220 no TLS here\r\n')
  await t.rejects(dialled, { code: 'FST_ERR_DUPLEX_DIAL_FAILED' })
})

t.test('TU6 over TLS the name is the server name, and is what the certificate is checked for', async t => {
  const { port } = await upstream(t, 'tls')
  resolves(t, v4('127.0.0.1'))
  const socket = await dial({ host: 'localhost', port }, { tls: { ca: cert } })
  t.equal((socket as TLSSocket & { servername: string }).servername, 'localhost')
  socket.destroy()
  await t.rejects(dial({ host: 'other.example', port }, { tls: { ca: cert } }), {
    code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' }
  })
})

t.test('TU6 timeout: 504, be it in the resolver, the check or the handshake', async t => {
  const silentServer = await upstream(t)
  // A machine that is busy may not have connected by then, and the server would never hear of it.
  const reached = silentServer.accepted()
  const isReached = new AbortController()
  void reached.then(() => isReached.abort())
  for (let timeout = 30; !isReached.signal.aborted; timeout *= 2) {
    await t.rejects(dial(silentServer.target, { tls: true, timeout }), { code: 'FST_ERR_DUPLEX_DIAL_TIMEOUT', statusCode: 504 })
    await turn()
  }
  await t.rejects(dial(silentServer.target, { check: () => new Promise(() => {}), timeout: 30 }), { code: 'FST_ERR_DUPLEX_DIAL_TIMEOUT' })
  t.type(await (await reached).remains(), 'string')
  const { lookup } = dns
  t.teardown(() => { dns.lookup = lookup })
  dns.lookup = (() => {}) as unknown as typeof lookup
  await t.rejects(dial({ host: 'slow.example', port: 1 }, { timeout: 30 }), { code: 'FST_ERR_DUPLEX_DIAL_TIMEOUT' })
})

t.test('TU6 signal: rejects with its reason, and leaves no socket', async t => {
  const { target, accepted } = await upstream(t)
  await t.rejects(dial(target, { signal: AbortSignal.abort(new Error('before')) }), { message: 'before' })
  const abort = new AbortController()
  const dialled = dial(target, { signal: abort.signal, tls: true })
  const server = await accepted()
  abort.abort(new Error('while'))
  await t.rejects(dialled, { message: 'while' })
  t.type(await server.remains(), 'string')
  const checking = gate<boolean>()
  const other = new AbortController()
  const waiting = dial(target, { signal: other.signal, check: () => checking.promise })
  other.abort(new Error('in the check'))
  await t.rejects(waiting, { message: 'in the check' })
  checking.open(true)
  const later = new AbortController()
  const socket = await dial(target, { signal: later.signal })
  later.abort()
  await turn()
  t.equal(socket.destroyed, false)
  socket.destroy()
})

t.test('TU6 targets and options that are none', async t => {
  for (const target of [undefined, null, {}, { host: '', port: 1 }, { host: 'a', port: 0 }, { host: 'a', port: 65536 }, { host: 'a', port: '1' }, { path: '' }]) {
    await t.rejects(dial(target as never), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' }, JSON.stringify(target))
  }
  await t.rejects(dial({ host: 'a', port: 1 }, { timeout: -1 }), { code: 'FST_ERR_DUPLEX_INVALID_OPTION' })
})

t.test('TU6 publicOnly() passes the public internet, and nothing of the special-purpose registries', async t => {
  const open = ['1.1.1.1', '8.8.8.8', '9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0', '126.255.255.255', '128.0.0.0', '169.253.255.255',
    '172.15.255.255', '172.32.0.0', '192.0.1.0', '192.167.255.255', '192.169.0.0', '198.17.255.255', '198.20.0.0', '223.255.255.255',
    '2000::', '2001:200::1', '2001:4860:4860::8888', '2003::1', '2606:4700:4700::1111', '2a00:1450:4001::1', '3ffe::1', '3fff:1000::1']
  for (const address of open) t.equal(publicOnly(address), true, address)
  const closed = ['0.0.0.0', '0.1.2.3', '10.0.0.1', '10.255.255.255', '100.64.0.1', '100.127.255.255', '127.0.0.1', '127.255.255.255',
    '169.254.169.254', '172.16.0.1', '172.31.255.255', '192.0.0.1', '192.0.0.170', '192.0.2.1', '192.31.196.1', '192.52.193.1', '192.88.99.1',
    '192.168.0.1', '192.175.48.1', '198.18.0.1', '198.19.255.255', '198.51.100.1', '203.0.113.1', '224.0.0.1', '239.255.255.255', '240.0.0.1',
    '255.255.255.255', '::', '::1', '::7f00:1', '::ffff:127.0.0.1', '::ffff:7f00:1', '::ffff:8.8.8.8', '::ffff:0:127.0.0.1', '64:ff9b::7f00:1',
    '64:ff9b::808:808', '64:ff9b:1::1', '100::1', '100:0:0:1::1', '1fff:ffff::1', '2001::1', '2001:0:7f00:1::', '2001:1::1', '2001:2::1', '2001:3::1',
    '2001:4:112::1', '2001:10::1', '2001:20::1', '2001:30::1', '2001:1ff:ffff::1', '2001:db8::1', '2002:7f00:1::', '2002:808:808::1',
    '2620:4f:8000::1', '3fff::1', '3fff:fff::1', '4000::1', '5f00::1', 'fc00::1', 'fd00::1', 'fe80::1', 'febf::1', 'fec0::1', 'ff02::1', 'ff0e::1',
    'fe80::1%lo', '2606:4700:4700::1111%1', '', 'localhost', '1.1.1', '2130706433', '0x08080808', '08.8.8.8', '8.8.8.8 ', '[2606:4700:4700::1111]', '/run/x']
  for (const address of closed) t.equal(publicOnly(address), false, address)
})

t.test('TU6 the proxy of one line: 403 for the private network, 502 and 504 as they come, and curl\'s way through', async t => {
  const { port } = await upstream(t)
  const app = Fastify()
  await app.register(duplex)
  app.connect('*', { duplex: { accept: 'manual' } }, pending => tunnel(pending, signal => dial(pending.authority, { signal, check: publicOnly })))
  t.teardown(() => app.close())
  const forbidden = await app.injectDuplex({ method: 'CONNECT', url: `127.0.0.1:${port}` })
  t.equal(forbidden.statusCode, 403)
  t.match(JSON.parse((await forbidden.body()).toString()), { code: 'FST_ERR_DUPLEX_DIAL_FORBIDDEN' })
  resolves(t, Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' }))
  const unknown = await app.injectDuplex({ method: 'CONNECT', url: 'nowhere.example:443' })
  t.equal(unknown.statusCode, 502)
  t.equal(net.isIP('nowhere.example'), 0)
})
