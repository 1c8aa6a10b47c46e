import t from 'tap'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { connect } from '../lib/client/index.ts'
import { netcat } from '../lib/client/netcat.ts'
import { cert, key } from './fixtures/certificate.ts'
import { closedPort } from './fixtures/upstream.ts'

/** The command, in this process, and what it says on standard error. */
async function run (
  args: readonly string[], env: NodeJS.ProcessEnv = {}, stdout: Writable = new PassThrough().resume()
): Promise<[code: number, said: string]> {
  const [stdin, stderr] = [new PassThrough(), new PassThrough()]
  const said = text(stderr)
  const code = await netcat({ argv: args, env, stdin, stdout, stderr, version: () => '0.0.0', signal: new AbortController().signal })
  stderr.end()
  return [code, await said]
}

async function listening (t: { teardown (end: () => void): void }, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => { server.close() })
  return (server.address() as AddressInfo).port
}

t.test('CL3 what is wrong with TLS is said in words of HTTP', async t => {
  const plain = await listening(t, createServer(socket => { socket.on('error', () => {}).end('HTTP/1.1 400 Bad Request\r\n\r\n') }))
  const http1 = await listening(t, createTlsServer({ key, cert, ALPNProtocols: ['http/1.1'] }).on('tlsClientError', () => {}))
  const alerting = await listening(t, createServer(socket => { socket.on('error', () => {}).end(Buffer.from([21, 3, 1, 0, 2, 2, 70])) }))
  const neither = await listening(t, createTlsServer({ key, cert }).on('tlsClientError', () => {}))
  for (const [args, said] of [
    [[`https://127.0.0.1:${plain}/`], 'The connection could not be made: the server does not speak TLS'],
    [['--http2', '-k', `https://127.0.0.1:${http1}/`], 'The connection could not be made: the server does not offer HTTP/2'],
    [['--http2', '-k', `https://127.0.0.1:${neither}/`], 'The connection could not be made: the server does not offer HTTP/2'],
    [[`https://127.0.0.1:${http1}/`],
      'The connection could not be made: the certificate of the server is not trusted: self-signed certificate (--ca FILE trusts one, --insecure any)'],
    [[`http://127.0.0.1:${http1}/`], /^fastify-duplex: The server (?:closed the connection without an answer|answered in TLS) \(does it want TLS, an https: URL\?\)\n$/],
    [[`http://127.0.0.1:${alerting}/`], 'The server answered in TLS (does it want TLS, an https: URL?)'],
    [['-x', `https://127.0.0.1:${plain}`, 'http://a/'], 'The connection could not be made: the proxy does not speak TLS']
  ] as const) t.match(await run(args), [1, typeof said === 'string' ? `fastify-duplex: ${said}\n` : said], args.join(' '))
})

t.test('CL3 a proxy that cannot be reached is named as one', async t => {
  const proxy = `http://127.0.0.1:${await closedPort()}`
  const [code, said] = await run(['-x', proxy, 'http://a.example/'])
  t.equal(code, 1)
  t.match(said, /^fastify-duplex: The connection could not be made: the proxy: connect ECONNREFUSED [^\n]+\n$/)
  await t.rejects(connect('http://a.example/', { proxy }), { code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { code: 'ECONNREFUSED', by: 'proxy' } })
})

t.test('CL1 HTTP/2 alone is never HTTP/1.1', async t => {
  const port = await listening(t, createTlsServer({ key, cert }))
  await t.rejects(connect(`https://127.0.0.1:${port}/`, { http2: true, tls: { ca: cert } }), {
    code: 'FST_ERR_DUPLEX_DIAL_FAILED', cause: { message: 'the server does not offer HTTP/2' }
  })
})

t.test('CL3 an answer that is none is explained once', async t => {
  const port = await listening(t, createServer(socket => { socket.on('error', () => {}).end('SSH-2.0-x\r\n') }))
  const [code, said] = await run([`http://127.0.0.1:${port}/`])
  t.equal(code, 1)
  t.match(said, /^fastify-duplex: The answer of the server is invalid: [^:\n]+\n$/)
})

t.test('CL3 a standard output that is full is not one that was closed', async t => {
  const port = await listening(t, createServer(socket => { socket.on('error', () => {}).end('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello') }))
  const full = new Writable({
    write (_chunk, _encoding, done) { done(Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })) }
  })
  t.same(await run([`http://127.0.0.1:${port}/`], {}, full), [1, 'fastify-duplex: standard output cannot be written: ENOSPC: no space left on device, write\n'])
})

t.test('CL3 what is wrong on the command line is named, without what may be a secret', async t => {
  const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  t.teardown(() => rm(directory, { recursive: true }))
  const [keyFile, headers] = [join(directory, 'key.pem'), join(directory, 'headers')]
  await writeFile(keyFile, key)
  await writeFile(headers, 'X-One: 1\n\nAuthorization Bearer secret:x\n')
  for (const [args, said, env] of [
    [['--ca', keyFile, 'https://127.0.0.1:1/'], `there is no certificate in ${keyFile}`],
    [['-u', 'bad token', 'http://127.0.0.1:1/'], 'protocol must be an upgrade token or a list of them, got ["bad token"]'],
    [['-H', 'foo', 'http://127.0.0.1:1/'], 'a header has the form "name: value", and --header has not'],
    [['-H', 'a: b', '-H', 'foo', 'http://127.0.0.1:1/'], 'a header has the form "name: value", and --header number 2 has not'],
    [['-H', `@${headers}`, 'http://127.0.0.1:1/'], `a header has the form "name: value", and line 3 of ${headers} has not`],
    [['http://127.0.0.1:1/'], 'a header has the form "name: value", and line 2 of FASTIFY_DUPLEX_HEADERS has not', { FASTIFY_DUPLEX_HEADERS: 'a: b\nsecret' }],
    [['-b', 'ws://127.0.0.1:1/'], '--upgrade, --connect, --body and --websocket exclude one another']
  ] as const) {
    t.same(await run(args, env), [2, `fastify-duplex: ${said}\nfastify-duplex --help tells more\n`], args.join(' '))
  }
})

t.test('CL3 a ws: URL is a WebSocket without more', async t => {
  const heads: string[] = []
  const port = await listening(t, createServer(socket => {
    socket.on('error', () => {}).once('data', (head: Buffer) => {
      heads.push(String(head))
      socket.end('HTTP/1.1 200 OK\r\n\r\nthe page')
    })
  }))
  t.same(await run([`ws://127.0.0.1:${port}/`]), [1, 'fastify-duplex: the server refused: 200 OK\nthe page\n'])
  t.match(heads[0], /\r\nUpgrade: websocket\r\n/i)
})

t.test('CL3 the health check fails where the upgrade is ignored', async t => {
  const port = await listening(t, createServer(socket => {
    socket.on('error', () => {}).once('data', () => { socket.end('HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\nthe page') })
  }))
  t.same(await run(['--upgrade', 'echo', '--timeout', '2', `http://127.0.0.1:${port}/`]), [1, 'fastify-duplex: the server refused: 200 OK\nthe page\n'])
})
