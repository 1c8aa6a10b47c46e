import t, { type Test } from 'tap'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import tls, { type TLSSocket } from 'node:tls'
import { fileURLToPath } from 'node:url'
import { connect } from '../lib/client/index.ts'
import type { ConnectOptions } from '../lib/index.ts'
import { tlsOptions } from './fixtures/server.ts'
import { posix } from './fixtures/system.ts'

const program = fileURLToPath(new URL('fixtures/netcat.js', import.meta.url))
const invalid = { code: 'FST_ERR_DUPLEX_INVALID_OPTION' }

function command (t: Test, args: string[], stdio: 'pipe'[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, ['--no-warnings', program, ...args], { stdio, env: { ...process.env, ...env } })
  t.teardown(() => { child.kill('SIGKILL') })
  return { child, stderr: text(child.stderr as NodeJS.ReadableStream), exit: once(child, 'exit') as Promise<[number | null, string | null]> }
}

t.test('CL1 what has no form in HTTP/2 is refused with http2: true, and not left out', async t => {
  const wrong: [options: ConnectOptions, message: RegExp][] = [
    [{ protocol: 'x', body: 'known' }, /an upgrade with a body has no form in HTTP\/2/],
    [{ protocol: 'x', body: true }, /an upgrade with a body/],
    [{ protocol: 'x', method: 'POST' }, /an upgrade by POST/],
    [{ protocol: ['x', 'y'] }, /an upgrade to one of several protocols/],
    [{ early: 'early' }, /a plain request with early bytes/]
  ]
  for (const [options, message] of wrong) {
    await t.rejects(connect('http://127.0.0.1:1/', { ...options, http2: true }), { ...invalid, message })
  }
  for (const http2 of [true, false, undefined]) {
    await t.rejects(connect('http://127.0.0.1:1/', { body: 'known', early: 'early', http2 }), { ...invalid, message: /behind a body/ })
  }
})

t.test('CL1 an upgrade with a body goes by HTTP/1.1 where the server would choose HTTP/2', async t => {
  const server = http2.createSecureServer({ ...tlsOptions, allowHTTP1: true, settings: { enableConnectProtocol: true } })
  t.teardown(() => { server.close() })
  server.on('stream', stream => { stream.respond({ ':status': 200 }, { endStream: true }) })
  server.on('upgrade', (_req, socket: TLSSocket, head: Buffer) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n')
    socket.end(head)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const connection = await connect(`https://127.0.0.1:${port}/`, { protocol: 'x', body: 'known', tls: { rejectUnauthorized: false } })
  t.equal(connection.httpVersion, '1.1')
  connection.destroy()
  await connection.closed
})

t.test('CL1 a Unix socket and a proxy exclude one another', async t => {
  await t.rejects(connect('http://a/', { socketPath: '/nowhere', proxy: 'http://127.0.0.1:1' }), { ...invalid, message: /socketPath and proxy/ })
})

t.test('CL3 --unix is stronger than the proxy of the environment, and not than --proxy', async t => {
  const env = { FASTIFY_DUPLEX_PROXY: 'http://127.0.0.1:1' }
  const alone = command(t, ['--unix', '/nowhere/at/all', 'http://a/'], ['pipe', 'pipe', 'pipe'], env)
  t.match(await alone.stderr, /\/nowhere\/at\/all/)
  t.strictSame(await alone.exit, [1, null])
  const both = command(t, ['--unix', '/nowhere', '--proxy', 'http://127.0.0.1:1', 'http://a/'], ['pipe', 'pipe', 'pipe'])
  t.match(await both.stderr, /socketPath and proxy exclude one another/)
  t.strictSame(await both.exit, [2, null])
})

t.test('CL1 the server name of the server is not asked of its proxy', async t => {
  const asked: unknown[] = []
  const proxy = tls.createServer({ ...tlsOptions, SNICallback: (name, done) => { asked.push(name); done(null) } }, socket => {
    socket.on('error', () => {})
    socket.once('data', () => socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n'))
  })
  t.teardown(() => { proxy.close() })
  await once(proxy.listen(0, '127.0.0.1'), 'listening')
  const { port } = proxy.address() as AddressInfo
  await t.rejects(connect('https://10.0.0.1/', { proxy: `https://localhost:${port}`, tls: { servername: 'inside.example', ca: tlsOptions.cert } }),
    { name: 'DuplexRefused', by: 'proxy', statusCode: 403 })
  t.strictSame(asked, ['localhost'])
})

t.test('CL3 --help and --version into a pipe that nobody reads: one line, and no stack', posix, async t => {
  for (const option of ['--help', '--version']) {
    // The shell waits for the reader to be gone before it becomes the command.
    const script = 'exec 4> >(exec true); wait $!; exec "$@" >&4'
    const child = spawn('bash', ['-c', script, 'bash', process.execPath, '--no-warnings', program, option], { stdio: ['ignore', 'ignore', 'pipe'] })
    t.teardown(() => { child.kill('SIGKILL') })
    const stderr = text(child.stderr)
    t.strictSame(await once(child, 'exit'), [1, null])
    t.equal(await stderr, 'fastify-duplex: standard output was closed\n')
  }
})
