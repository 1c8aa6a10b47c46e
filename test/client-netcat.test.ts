import t, { type Test } from 'tap'
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { connect, type DuplexRefused } from '../lib/client/index.ts'
import { take } from './fixtures/kinds.ts'
import { serve } from './fixtures/server.ts'
import { closedPort, upstream } from './fixtures/upstream.ts'
import { connectTcp } from './fixtures/wire.ts'

const program = fileURLToPath(new URL('fixtures/netcat.js', import.meta.url))

interface Run {
  child: ChildProcess & { stdin: NonNullable<ChildProcess['stdin']>, stdout: NonNullable<ChildProcess['stdout']> }
  stderr: Promise<string>
  code: Promise<number | null>
}

function run (t: Test, args: string[], env: NodeJS.ProcessEnv = {}): Run {
  const child = spawn(process.execPath, ['--no-warnings', program, ...args], { stdio: 'pipe', env: { ...process.env, ...env } })
  t.teardown(() => { child.kill('SIGKILL') })
  child.stdin.on('error', () => {})
  return { child, stderr: text(child.stderr), code: once(child, 'exit').then(([code]) => code as number | null) }
}

t.test('CL3 standard input and output are the pair: an upgrade, a CONNECT, a body, each ended by its input', async t => {
  const { port } = await serve(t, {}, app => take(app, ({ readable, writable }) => { readable.pipe(writable) }))
  for (const args of [['--upgrade', 'foo'], ['--connect', 'b:1'], ['--body']]) {
    const { child, code, stderr } = run(t, [...args, `http://127.0.0.1:${port}/it`])
    child.stdin.end('all of it\r\n')
    t.equal(await text(child.stdout), 'all of it\r\n')
    t.equal(await code, 0)
    t.equal(await stderr, '')
  }
})

t.test('CL3 20 MB into a slow reader are whole, and then it exits', async t => {
  const chunk = Buffer.alloc(64 * 1024, 'fastify-duplex')
  const sent = createHash('sha256')
  const { port } = await serve(t, {}, app => take(app, async ({ writable }) => {
    for (let at = 0; at < 320; at++) {
      sent.update(chunk)
      if (!writable.write(chunk)) await once(writable, 'drain')
    }
  }))
  const { child, code } = run(t, ['-u', 'foo', `http://127.0.0.1:${port}/it`])
  const came = createHash('sha256')
  let reads = 0
  for await (const piece of child.stdout) {
    came.update(piece as Buffer)
    // A reader that is behind all the time: it has another connection to make.
    if (++reads % 8 === 0) (await connectTcp(port)).destroy()
  }
  t.equal(await code, 0)
  t.equal(came.digest('hex'), sent.digest('hex'))
})

t.test('CL3 a refusal is 1, with its status and body on standard error', async t => {
  const { port } = await serve(t, {}, app => take(app, () => {}, true, { onRequest: async (_request, reply) => { await reply.code(403).send('not \u001b[31myou') } }))
  const { child, code, stderr } = run(t, ['-u', 'foo', `http://127.0.0.1:${port}/it`])
  t.equal(await text(child.stdout), '')
  t.equal(await code, 1)
  t.equal(await stderr, 'fastify-duplex: the server refused: 403 Forbidden\nnot [31myou\n')
})

t.test('CL3 what breaks, is unreachable, or is no HTTP is 1, and one line', async t => {
  const far = await upstream(t)
  for (const [answer, line] of [
    ['HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nfirst', /^fastify-duplex: read ECONNRESET\n$/],
    ['SSH-2.0-x\r\n', /^fastify-duplex: The answer of the server is invalid: [^\n]+\n$/],
    ['', /^fastify-duplex: The server closed the connection without an answer[^\n]*\n$/]
  ] as const) {
    const { child, code, stderr } = run(t, ['-u', 'foo', `http://127.0.0.1:${far.port}/`])
    const wire = await far.accepted()
    await wire.until('\r\n\r\n')
    wire.send(answer)
    if (answer.endsWith('first')) await once(child.stdout, 'data')
    wire.reset()
    t.equal(await code, 1)
    t.match(await stderr, line)
  }
  const refused = run(t, [`http://127.0.0.1:${await closedPort()}/`])
  t.equal(await refused.code, 1)
  t.match(await refused.stderr, /^fastify-duplex: The connection could not be made: connect ECONNREFUSED [^\n]+\n$/)
  const tls = await upstream(t, 'tls')
  const untrusted = run(t, [`https://127.0.0.1:${tls.port}/`])
  t.equal(await untrusted.code, 1)
  t.match(await untrusted.stderr, /^fastify-duplex: The connection could not be made: [^\n]*certificate[^\n]*\n$/)
})

t.test('CL3 a wrong command line is 2, and --help and --version are 0', async t => {
  const wrong = [
    [], ['a'], ['ftp://a/'], ['http://a/', 'http://b/'], ['--unknown', 'http://a/'], ['-H', 'x', 'http://a/'], ['-H', '@/nowhere', 'http://a/'],
    ['-u', 'a', '-c', 'b:1', 'http://a/'], ['-c', 'b', 'http://a/'], ['-t', 'x', 'http://a/']
  ]
  await Promise.all(wrong.slice(0, 4).map(async args => {
    const { code, stderr } = run(t, args)
    t.equal(await code, 2, args.join(' '))
    t.match(await stderr, /^fastify-duplex: [^\n]+\nfastify-duplex --help tells more\n$/)
  }))
  const { commandOf } = await import('../lib/client/netcat-arguments.ts')
  for (const args of wrong.slice(4).filter(args => args[0] !== '-c')) t.throws(() => commandOf(args, {}, () => ''), { name: 'UsageError' }, args.join(' '))
  const help = run(t, ['--help'])
  t.match(await text(help.child.stdout), /Exit code:/)
  t.equal(await help.code, 0)
  const version = run(t, ['--version'])
  t.match(await text(version.child.stdout), /^\d+\.\d+\.\d+\n$/)
  t.equal(await version.code, 0)
})

t.test('CL3 secrets come from a file and from the environment', async t => {
  const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  t.teardown(() => rm(directory, { recursive: true }))
  await writeFile(join(directory, 'headers'), 'Authorization: from a file\r\n\r\nX-Two: 2\n')
  const { port } = await serve(t, {}, app => take(app, ({ writable }, { headers }) => {
    writable.end(JSON.stringify([headers.authorization, headers['x-two'], headers['x-three'], headers['x-four']]))
  }))
  const { child, code } = run(t, ['-u', 'foo', '-H', `@${join(directory, 'headers')}`, '-H', 'X-Three: 3', `http://127.0.0.1:${port}/it`],
    { FASTIFY_DUPLEX_HEADERS: 'X-Four: 4\n' })
  child.stdin.end()
  t.same(JSON.parse(await text(child.stdout)), ['from a file', '2', '3', '4'])
  t.equal(await code, 0)
})

t.test('CL3 a closed standard output, Ctrl-C, and the end of the server while standard input is open', async t => {
  const far = await upstream(t)
  const begin = async (): Promise<Run & { wire: Awaited<ReturnType<typeof far.accepted>> }> => {
    const one = run(t, ['-u', 'foo', `http://127.0.0.1:${far.port}/`])
    const wire = await far.accepted()
    await wire.until('\r\n\r\n')
    wire.send('HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nfirst')
    await once(one.child.stdout, 'data')
    return { ...one, wire }
  }
  const closed = await begin()
  closed.child.stdout.destroy()
  await once(closed.child.stdout, 'close')
  closed.wire.send('second')
  t.equal(await closed.code, 1)
  t.equal(await closed.stderr, 'fastify-duplex: standard output was closed\n')
  t.equal(await closed.wire.gone(), 'broken')
  const interrupted = await begin()
  interrupted.child.kill('SIGINT')
  t.equal(await interrupted.code, 130)
  t.equal(await interrupted.stderr, '')
  t.equal(await interrupted.wire.gone(), 'broken')
  const ended = await begin()
  ended.wire.end()
  t.equal(await ended.code, 0)
})

t.test('CL2 a WebSocket: messages both ways, its end, and what is no handshake', async t => {
  const { port } = await serve(t, {}, app => {
    app.get('/ws', { duplex: { websocket: { subprotocols: ['b'] } } }, async ({ readable, send }) => {
      for await (const message of readable) await send(`you said ${String(message)}`)
    })
    app.get('/room', { duplex: { messages: true } }, async ({ readable, send }) => {
      for await (const message of readable) await send({ echo: message })
    })
  })
  const { child, code, stderr } = run(t, ['--websocket', '--upgrade', 'b', `ws://127.0.0.1:${port}/ws`])
  child.stdin.write('one\r\n')
  t.equal(String((await once(child.stdout, 'data'))[0]), 'you said one\n')
  child.stdin.end()
  t.equal(await code, 0)
  t.equal(await stderr, '')
  const socket = await connect<string, string>(`ws://127.0.0.1:${port}/ws`, { websocket: { subprotocols: ['a', 'b'] } })
  t.equal(socket.subprotocol, 'b')
  await socket.send('hello')
  t.equal((await socket.readable[Symbol.asyncIterator]().next()).value, 'you said hello')
  t.match(await socket.close({ code: 4000, reason: 'enough' }), { reason: 'end', websocket: { clean: true } })
  for (const options of [{ messages: true, websocket: true }, { messages: true, body: true }] as const) {
    const room = await connect<{ echo: unknown }, unknown>(`http://127.0.0.1:${port}/room`, { method: 'GET', ...options })
    await room.send({ a: 1 })
    t.same((await room.readable[Symbol.asyncIterator]().next()).value, { echo: { a: 1 } })
    t.match(await room.close(), { reason: 'end' })
  }
  const far = await upstream(t)
  for (const field of ['Sec-WebSocket-Accept: x', 'X: y']) {
    const waiting: Promise<unknown> = connect(`ws://127.0.0.1:${far.port}/`, { websocket: true })
    waiting.catch(() => {})
    const wire = await far.accepted()
    await wire.until('\r\n\r\n')
    wire.send(`HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${field}\r\n\r\n`)
    await t.rejects(waiting as Promise<DuplexRefused>, { code: 'FST_ERR_DUPLEX_UPSTREAM_INVALID' })
  }
})

t.test('CL3 a server that reads the whole body before it answers gets all of standard input', async t => {
  const { port } = await serve(t, {}, app => {
    app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
    app.post('/it', async ({ body }) => body)
  })
  for (const version of [[], ['--http2']]) {
    const server = version.length === 0
      ? port
      : (await serve(t, { transport: 'h2' }, app => {
          app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
          app.post('/it', async ({ body }) => body)
        })).port
    const { child, code, stderr } = run(t, ['--body', ...version, '-H', 'content-type: application/octet-stream', `http://127.0.0.1:${server}/it`])
    child.stdin.write('all ')
    child.stdin.end('of it')
    t.equal(await stderr, '')
    t.equal(await text(child.stdout), 'all of it')
    t.equal(await code, 0)
  }
})
