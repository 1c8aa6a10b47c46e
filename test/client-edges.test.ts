import t, { type Test } from 'tap'
import { spawn } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { events } from '../lib/client/server-sent-events.ts'
import { connect } from '../lib/client/index.ts'
import { Interrupted, netcat } from '../lib/client/netcat.ts'
import { DuplexRefused } from '../lib/client/refused.ts'
import { bytesInFlight, type HttpSocket } from '../lib/internals/sockets.ts'
import { acceptOf } from '../lib/syntax/websocket-key.ts'
import { serve } from './fixtures/server.ts'
import { upstream } from './fixtures/upstream.ts'

const program = fileURLToPath(new URL('fixtures/netcat.js', import.meta.url))

/** The command, in a process. */
function run (t: Test, args: string[]) {
  const child = spawn(process.execPath, ['--no-warnings', program, ...args])
  t.teardown(() => { child.kill('SIGKILL') })
  child.stdin.on('error', () => {})
  const code = once(child, 'exit').then(([code]) => code as number | null)
  return { child, stdin: child.stdin, stdout: text(child.stdout), stderr: text(child.stderr), code }
}

t.test('CL3 --data @- waits for a standard input that is slow', async t => {
  const half = 'x'.repeat(1_000_000)
  const far = await upstream(t)
  const { stdin, code, stdout, stderr } = run(t, ['--http1', '-X', 'POST', '-d', '@-', `http://127.0.0.1:${far.port}/`])
  // The pipe does not hold that at once, so that it has begun to read when there is room again.
  stdin.write(half)
  await once(stdin, 'drain')
  stdin.end('two')
  const wire = await far.accepted()
  const head = await wire.until('\r\n\r\n')
  t.match(head, /content-length: 1000003/i)
  t.equal(String(await wire.bytes(1_000_003)), `${half}two`)
  wire.send('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
  t.equal(await stdout, 'ok')
  t.equal(await stderr, '')
  t.equal(await code, 0)
})

t.test('CL3 --data @- in front of an upgrade: the end of standard input is that of our side', async t => {
  const far = await upstream(t)
  const { stdin, code, stdout } = run(t, ['-X', 'POST', '-u', 'foo', '-d', '@-', `http://127.0.0.1:${far.port}/`])
  stdin.end('{}')
  const wire = await far.accepted()
  await wire.until('\r\n\r\n')
  await wire.bytes(2)
  wire.send('HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nout')
  t.equal(String(await wire.rest()), '')
  wire.end()
  t.equal(await stdout, 'out')
  t.equal(await code, 0)
})

t.test('CL3 --data @- is interrupted while standard input says nothing', async t => {
  const waiting = run(t, ['-v', '-d', '@-', 'http://127.0.0.1:1/'])
  // It has begun to read when it has taken this.
  waiting.stdin.write('x'.repeat(1_000_000))
  await once(waiting.stdin, 'drain')
  waiting.child.kill('SIGINT')
  t.equal(await waiting.code, 130)
  t.equal(await waiting.stderr, '')
})

for (const args of [['--websocket'], ['--upgrade', 'foo'], ['--data', '@-']]) {
  t.test(`CL3 a standard input that fails is not taken for its end: ${args[0]}`, async t => {
    const { port } = await serve(t, {}, app => {
      app.get('/ws', { duplex: { websocket: true } }, async ({ readable }) => { for await (const message of readable) String(message) })
      app.get('/bytes', { duplex: true }, async ({ readable }) => { await text(readable) })
    })
    const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough().resume(), new PassThrough()]
    const said = text(stderr)
    const ending = netcat({
      argv: [...args, `http://127.0.0.1:${port}/${args[0] === '--websocket' ? 'ws' : 'bytes'}`], env: {}, stdin, stdout, stderr, version: () => '0.0.0', signal: new AbortController().signal
    })
    // Somebody reads.
    while (stdin.readableFlowing !== true && stdin.listenerCount('readable') === 0) await turn()
    stdin.destroy(Object.assign(new Error('read EIO'), { code: 'EIO' }))
    const code = await ending
    stderr.end()
    t.match(await said, /^fastify-duplex: standard input cannot be read[^\n]*EIO/)
    t.equal(code, args[0] === '--data' ? 2 : 1)
  })
}

t.test('CL1 options that are none have a code, and none is dropped in silence', async t => {
  const url = 'http://127.0.0.1:1/'
  const wrong: [options: unknown, message: RegExp, url?: string][] = [
    [null, /the options of connect\(\) must be an object, got null/],
    ['x', /the options of connect\(\) must be an object, got string/],
    [{ headers: new Headers({ authorization: 'secret' }) }, /headers must be an object with names and values/],
    [{ headers: new Map([['authorization', 'secret']]) }, /headers must be an object with names and values/],
    [{ headers: [['authorization', 'secret']] }, /headers must be an object with names and values/],
    [{ headers: 'authorization: secret' }, /headers must be an object with names and values/],
    [{ headers: { a: null } }, /headers: the value of a must be text, a number or a list of these/],
    [{ headers: { a: { b: 'secret' } } }, /headers: the value of a must be/],
    [{ headers: { a: ['b', undefined] } }, /headers: the value of a must be/],
    [{ headers: { a: Symbol('secret') } }, /headers: the value of a must be/],
    [{ tls: null }, /tls must be an object/],
    [{ tls: 5 }, /tls must be an object/],
    [{ http2: 'no' }, /http2 must be true, false or undefined/],
    [{}, /url has port 0/, 'http://127.0.0.1:0/'],
    [{ proxy: 'http://127.0.0.1:0/' }, /proxy has port 0/]
  ]
  for (const [options, message, address = url] of wrong) {
    const error = await connect(address, options as never).then(() => undefined, (error: unknown) => error as Error)
    t.match(error, { code: 'FST_ERR_DUPLEX_INVALID_OPTION', message })
    t.notMatch(error?.message, /secret/)
  }
})

t.test('CL1 close() waits for as long as the server takes what was written, and thirty seconds for one that takes nothing', async t => {
  const far = await upstream(t)
  const connecting = connect(`http://127.0.0.1:${far.port}/`, { protocol: 'foo', timeout: 0 })
  const wire = await far.accepted()
  await wire.until('\r\n\r\n')
  wire.send('HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n')
  const connection = await connecting
  wire.socket.pause()
  // More than the buffers of two sockets hold.
  for (let at = 0; at < 32; at++) connection.writable.write(Buffer.alloc(1024 * 1024))
  const inFlight = (): number => bytesInFlight(connection.writable as HttpSocket)
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] })
  t.teardown(() => mock.timers.reset())
  const closing = connection.close()
  for (let at = 0; at < 3; at++) {
    mock.timers.tick(20_000)
    t.notOk(connection.signal.aborted, `${(at + 1) * 20} seconds`)
    const before = inFlight()
    wire.socket.resume()
    while (inFlight() === before) await turn()
    wire.socket.pause()
  }
  mock.timers.tick(20_000)
  mock.timers.tick(20_000)
  t.match(await closing, { reason: 'error', error: { code: 'FST_ERR_DUPLEX_FIN_TIMEOUT' } })
})

const handshakes: [fields: string, message: RegExp][] = [
  ['Sec-WebSocket-Extensions: permessage-deflate', /an extension that was not offered/],
  ['Sec-WebSocket-Protocol: other', /a subprotocol that was not offered: other/]
]

for (const [fields, message] of handshakes) {
  t.test(`CL2 a handshake that is right but for ${fields} is none`, async t => {
    const far = await upstream(t)
    const opening = connect(`ws://127.0.0.1:${far.port}/`, { websocket: { subprotocols: ['mine'] } }).then(() => undefined, (error: unknown) => error)
    const wire = await far.accepted()
    const head = await wire.until('\r\n\r\n')
    const key = /sec-websocket-key: (.*)\r\n/i.exec(head)?.[1] ?? ''
    wire.send(`HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${acceptOf(key)}\r\n${fields}\r\n\r\n`)
    t.match(await opening, { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID', message })
    t.equal(await wire.gone(), 'broken')
  })
}

t.test('CL2 an event whose line ends are cut in two is one event', t => {
  const decoder = (events.decoder as NonNullable<typeof events.decoder>)({ maxLength: 100 })
  const heard = ['data: a\r', '\ndata: b\r\n\r', '\ndata: c\r\n\r\n'].flatMap(text => [...decoder.decode(Buffer.from(text))].map(String))
  t.same(heard, ['a\nb', 'c'])
  t.end()
})

t.test('CL2 maxLength is for the data of an event, in bytes: names, ids and comments do not count', t => {
  const heard = (text: string): string[] => {
    const decoder = (events.decoder as NonNullable<typeof events.decoder>)({ maxLength: 10 })
    return [...text].flatMap(one => [...decoder.decode(Buffer.from(one))].map(String))
  }
  t.same(heard('event: of a name that is long\ndata: 0123456789\nid: 42\n: and a comment\n\n'), ['0123456789'])
  t.same(heard('data: 0123\ndata: 5678\n\n'), ['0123\n5678'])
  t.throws(() => heard('data: 0123456789x\n\n'), { code: 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG' })
  t.throws(() => heard(`data: ${'\u20ac'.repeat(4)}\n\n`), { code: 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG' })
  t.throws(() => heard(`:${'x'.repeat(70_000)}`), { code: 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG' })
  t.end()
})

const { body } = DuplexRefused.prototype
for (const by of ['server', 'proxy'] as const) {
  t.test(`CL3 an interruption while the answer of a ${by} that refuses still comes ends the command`, async t => {
    const far = await upstream(t)
    const here = `http://127.0.0.1:${far.port}/`
    const control = new AbortController()
    // The refusal is there, and its body is awaited.
    const asked = mock.method(DuplexRefused.prototype, 'body', function (this: DuplexRefused): Promise<Buffer> {
      control.abort(new Interrupted(130))
      return body.call(this)
    })
    t.teardown(() => asked.mock.restore())
    const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough().resume(), new PassThrough()]
    const code = netcat({
      argv: by === 'server' ? ['--upgrade', 'foo', here] : ['--proxy', here, 'http://server.example/'], env: {}, stdin, stdout, stderr, version: () => '0.0.0', signal: control.signal
    })
    const wire = await far.accepted()
    await wire.until('\r\n\r\n')
    wire.send('HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nno')
    t.equal(await code, 130)
    t.equal(stderr.read(), null)
    t.equal(await wire.gone(), 'broken')
  })
}

t.test('CL1 a signal keeps no listener of a connection that was refused, or is over', async t => {
  const { signal } = new AbortController()
  const server = await serve(t, {}, app => app.get('/it', { duplex: true }, ({ writable }) => { writable.end() }))
  await t.rejects(connect(`http://127.0.0.1:${server.port}/nowhere`, { protocol: 'foo', signal }), { name: 'DuplexRefused' })
  const connection = await connect(`http://127.0.0.1:${server.port}/it`, { protocol: 'foo', signal })
  await connection.close()
  await server.quiet()
  t.equal(getEventListeners(signal, 'abort').length, 0)
})
