import t, { type Test } from 'tap'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { exchange } from '../lib/client/exchange.ts'
import { connect } from '../lib/client/index.ts'
import { netcat } from '../lib/client/netcat.ts'
import type { ClientConnection } from '../lib/index.ts'
import { closedPort, upstream } from './fixtures/upstream.ts'

interface Ran {
  code: number
  stdout: string
  stderr: string
}

/** The command, in this process. */
async function run (args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ran> {
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()]
  const printed = [text(stdout), text(stderr)] as const
  const code = await netcat({ argv: args, env, stdin, stdout, stderr, version: () => '0.0.0', signal: new AbortController().signal })
  stdout.end()
  stderr.end()
  return { code, stdout: await printed[0], stderr: await printed[1] }
}

/** Runs it against a server that answers so, and then ends its side. */
async function answered (t: Test, options: readonly string[], answer: string | Buffer, http2 = false): Promise<Ran & { gone: string }> {
  const far = await upstream(t)
  const ran = run([...options, `http://127.0.0.1:${far.port}/`])
  const wire = await far.accepted()
  await wire.until(http2 ? 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' : '\r\n\r\n')
  wire.end(answer)
  const result = await ran
  return { ...result, gone: await wire.gone() }
}

const INVALID = /^fastify-duplex: The answer of the server is invalid: [^\n]+\n$/
const LOST = /^fastify-duplex: The server closed the connection without an answer[^\n]*\n$/
const ONE_LINE = /^fastify-duplex: [^\n]+\n$/
const SWITCH = 'HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n'

const nonsense: [what: string, options: string[], answer: string | Buffer, line: RegExp][] = [
  ['garbage', [], '\0\x01\xff garbage\r\n\r\n', INVALID],
  ['another protocol', ['-u', 'foo'], 'SSH-2.0-x\r\n', INVALID],
  ['a 101 that nobody asked for', [], SWITCH, INVALID],
  ['a 101 with another token', ['-u', 'bar'], SWITCH, INVALID],
  ['a 101 without a token', ['-u', 'foo'], 'HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\n', INVALID],
  ['a 101 to a CONNECT', ['-c', 'b:1'], SWITCH, INVALID],
  ['a head without an end', [], `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}`, INVALID],
  ['fields without an end', [], `HTTP/1.1 200 OK\r\n${'X: y\r\n'.repeat(20_000)}`, INVALID],
  ['a reason without an end', [], `HTTP/1.1 200 ${'x'.repeat(100_000)}`, INVALID],
  ['a flood of 1xx', [], 'HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n'.repeat(200), INVALID],
  ['two lengths', [], 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab', INVALID],
  ['a length and chunks', [], 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', INVALID],
  ['an end in the head', [], 'HTTP/1.1 200 OK\r\nConte', LOST],
  ['an end after a 1xx', [], 'HTTP/1.1 103 Early Hints\r\n\r\n', LOST],
  ['nothing', [], '', LOST],
  ['an end in the body', [], 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc', ONE_LINE],
  ['an end in a chunk', [], 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc', ONE_LINE],
  ['no chunks', [], 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc', ONE_LINE],
  ['no chunks to a body', ['-b'], 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc', ONE_LINE],
  ['a refusal that is cut off', [], 'HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nabc', /^fastify-duplex: the server refused: 403 No\n\(its answer was cut off\)\n$/],
  ['a refusal with colours', ['-u', 'foo'], 'HTTP/1.1 403 \u001b[31mNo\r\nContent-Length: 6\r\n\r\n\u001b[31mX', /^fastify-duplex: the server refused: 403 \s*\[31mNo\n\[31mX\n$/],
  ['no answer to a WebSocket', ['-w'], SWITCH.replace('foo', 'websocket'), INVALID]
]

for (const [what, options, answer, line] of nonsense) {
  t.test(`CL3 ${what}: one line, exit code 1, and nothing is left`, async t => {
    const { code, stderr, gone } = await answered(t, options, answer)
    t.match(stderr, line)
    t.notMatch(stderr, /\n {4}at /)
    t.notOk(stderr.includes(String.fromCharCode(27)))
    t.equal(code, 1)
    t.match(gone, /ended|broken/)
  })
}

/** A frame of HTTP/2 on the connection itself. */
function frame (type: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  return Buffer.concat([head, payload])
}

const http2: [what: string, answer: Buffer][] = [
  ['GOAWAY at once', Buffer.concat([frame(4, Buffer.alloc(0)), frame(7, Buffer.alloc(8))])],
  ['GOAWAY with an error', Buffer.concat([frame(4, Buffer.alloc(0)), frame(7, Buffer.from([0, 0, 0, 0, 0, 0, 0, 2]))])],
  ['HTTP/1.1', Buffer.from('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')],
  ['a frame that is none', frame(4, Buffer.alloc(5))],
  ['nothing', Buffer.alloc(0)]
]

// Node 20 does not tell of a frame that is none, so that the timeout ends it.
for (const [what, answer] of http2) {
  for (const options of [['--http2'], ['--http2', '-u', 'foo']]) {
    t.test(`CL3 ${what} in the place of HTTP/2, to ${options.join(' ')}: one line, exit code 1`, async t => {
      const { code, stderr } = await answered(t, ['-t', '1', ...options], answer, true)
      t.match(stderr, ONE_LINE)
      t.equal(code, 1)
    })
  }
}

t.test('CL3 a proxy that refuses, with a body, and one that accepts with what is no TLS', async t => {
  const far = await upstream(t)
  const proxy = `http://me:secret@127.0.0.1:${far.port}`
  for (const [answer, printed] of [
    ['HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nwho', /^fastify-duplex: the proxy refused: 407 Proxy Authentication Required\nwho\n$/],
    ['HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello', ONE_LINE]
  ] as const) {
    const ran = run(['https://a.example/'], { FASTIFY_DUPLEX_PROXY: proxy })
    const wire = await far.accepted()
    t.match(await wire.until('\r\n\r\n'), 'Proxy-Authorization: Basic bWU6c2VjcmV0')
    wire.end(answer)
    const { code, stderr } = await ran
    t.match(stderr, printed)
    t.notMatch(stderr, /secret/)
    t.equal(code, 1)
    t.match(await wire.gone(), /ended|broken/)
  }
})

t.test('CL3 wrong URLs are 2, in two lines, and no secret is repeated', async t => {
  const wrong: [args: string[], env?: NodeJS.ProcessEnv][] = [
    [['http://']], [['http:///']], [['http://a:99999/']], [['http://[::1/']], [['http://a b/']], [['//a']], [['']], [['javascript:1']], [['file:///etc/passwd']],
    [['http://me:secret@a:x/']], [['http://a/'], { FASTIFY_DUPLEX_PROXY: 'me:secret@proxy' }], [['http://a/'], { FASTIFY_DUPLEX_PROXY: 'http://me:secret@a:x' }],
    [['-H', 'a: b\0', 'http://127.0.0.1:1/']], [['-X', 'A B', 'http://127.0.0.1:1/']]
  ]
  const far = await upstream(t)
  for (const [args, env] of wrong) {
    const { code, stderr } = await run(args.map(arg => arg.replace('127.0.0.1:1', `127.0.0.1:${far.port}`)), env)
    t.equal(code, 2, `${args.join(' ')} ${env?.FASTIFY_DUPLEX_PROXY ?? ''}: ${stderr}`)
    t.match(stderr, /^fastify-duplex: [^\n]+\nfastify-duplex --help tells more\n$/)
    t.notMatch(stderr, /secret/)
  }
})

t.test('CL3 refused, unknown and no socket: one line, exit code 1', async t => {
  const port = await closedPort()
  // A % that encodes nothing is no reason for another error.
  for (const args of [[`http://%:x@127.0.0.1:${port}/`], [`http://127.0.0.1:${port}/`], [`https://127.0.0.1:${port}/`], ['-x', `http://127.0.0.1:${port}`, 'http://a/'],
    ['http://nowhere.invalid/'], ['--unix', '/nowhere/socket', 'http://a/'], ['--http2', `http://127.0.0.1:${port}/`]]) {
    const { code, stderr } = await run(args)
    t.match(stderr, ONE_LINE, args.join(' '))
    t.equal(code, 1, args.join(' '))
  }
})

t.test('CL1 what breaks has a code in the library too, and leaves no connection', async t => {
  for (const [what, options, answer] of nonsense.filter(([,, , line]) => line === INVALID || line === LOST)) {
    if (options[0] === '-w' || options[0] === '-c') continue
    const far = await upstream(t)
    const waiting: Promise<ClientConnection> = connect(`http://127.0.0.1:${far.port}/`, options.length === 0 ? {} : { protocol: options.slice(1) })
    waiting.catch(() => {})
    const wire = await far.accepted()
    await wire.until('\r\n\r\n')
    wire.end(answer)
    await t.rejects(waiting, { code: /^FST_ERR_DUPLEX_UPSTREAM_(?:INVALID|LOST)$/ }, what)
    await wire.gone()
    if (await far.connections() > 0) t.ok(wire.ended || wire.closed, what)
  }
})

t.test('CL1 a connection that is destroyed with a DOMException, whose code is a number, is a lost one', async t => {
  const far = await upstream(t)
  const socket = await far.dial()
  const sent = exchange(socket, { method: 'GET', target: '/', headers: ['Host', 'a'] })
  await (await far.accepted()).until('\r\n\r\n')
  const control = new AbortController()
  control.abort()
  socket.destroy(control.signal.reason as Error)
  await t.rejects(sent.answer, { code: 'FST_ERR_DUPLEX_UPSTREAM_LOST', cause: { name: 'AbortError' } })
  t.equal((await sent.over).complete, false)
})

t.test('CL1 credentials in which a % encodes nothing are sent as they are', async t => {
  const far = await upstream(t)
  const ran = run([`http://a%:b%20@127.0.0.1:${far.port}/`])
  const wire = await far.accepted()
  t.match(await wire.until('\r\n\r\n'), `Authorization: Basic ${Buffer.from('a%:b ').toString('base64')}\r\n`)
  wire.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
  t.match(await ran, { code: 0, stderr: '' })
})

t.test('CL1 a signal with a DOMException breaks it off, before the answer, as what it is', async t => {
  const far = await upstream(t)
  const control = new AbortController()
  const waiting = connect(`http://127.0.0.1:${far.port}/`, { signal: control.signal })
  waiting.catch(() => {})
  const wire = await far.accepted()
  await wire.until('\r\n\r\n')
  control.abort()
  await t.rejects(waiting, { name: 'AbortError' })
  t.equal(await wire.gone(), 'broken')
})
