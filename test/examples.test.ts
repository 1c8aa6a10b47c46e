import { spawn, spawnSync } from 'node:child_process'
import { on, once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import http from 'node:http'
import { connect as connectHttp2, constants, type ClientHttp2Session } from 'node:http2'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { Duplex, type Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { createGunzip, gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { cert, key } from './fixtures/certificate.ts'
import { until } from './fixtures/patience.ts'
import { start, type Program } from './fixtures/program.ts'
import { posix } from './fixtures/system.ts'
import { connectTls } from './fixtures/wire.ts'

const example = (name: string): URL => new URL(`../examples/${name}.js`, import.meta.url)
const netcat = fileURLToPath(new URL('./fixtures/netcat.js', import.meta.url))
const source = (name: string): URL => new URL(`../../examples/${name}.ts`, import.meta.url)

const UPGRADE = 'GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n'

// To start a program takes longer than most tests of it: those that want the same of it share one.
t.test('echo', async t => {
  const echo = await start(t, example('echo'))

  await t.test('sends back what it gets on an upgrade, a tunnel and a taken-over GET, early bytes first', async t => {
    const heads: [request: string, status: number][] = [
      [UPGRADE, 101],
      ['CONNECT echo.example:7 HTTP/1.1\r\nHost: echo.example:7\r\n\r\n', 200],
      ['GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n', 200]
    ]
    for (const [request, status] of heads) {
      const wire = (await echo.connect()).send(`${request}early`)
      t.equal((await wire.head()).status, status)
      t.equal(await wire.until('early'), 'early')
      wire.end('late')
      t.equal(String(await wire.rest()), 'late', 'and ends its side after ours')
    }
    await echo.printed('#1 upgrade echo: end, 9 bytes in, 9 out')
    await echo.printed('#2 connect echo.example:7: end, 9 bytes in, 9 out')
    await echo.printed('#3 hijack: end, 9 bytes in, 9 out')
  })

  await t.test('answers a body while it still arrives, and a plain route on the same connection', async t => {
    const { port, printed } = echo
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const request = http.request({ port, agent, path: '/echo', method: 'PUT' })
    request.write('one')
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    const chunks = response.setEncoding('utf8')[Symbol.asyncIterator]()
    t.equal((await chunks.next()).value, 'one')
    request.end('two')
    t.equal((await chunks.next()).value, 'two')
    t.ok((await chunks.next()).done)
    await printed('#4 body: end, 6 bytes in, 6 out')
    const plain = http.get({ port, agent, path: '/' })
    const [page] = await once(plain, 'response') as [http.IncomingMessage]
    t.equal(page.statusCode, 200)
    t.ok(plain.reusedSocket)
    page.resume()
  })

  await t.test('serves TLS with a key and a certificate', async t => {
    const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
    t.teardown(() => rm(directory, { recursive: true }))
    const files = { TLS_KEY: join(directory, 'key.pem'), TLS_CERT: join(directory, 'cert.pem') }
    await Promise.all([writeFile(files.TLS_KEY, key), writeFile(files.TLS_CERT, cert)])
    const { port, printed } = await start(t, example('echo'), files)
    const wire = await connectTls(port)
    t.teardown(() => wire.destroy())
    wire.send(UPGRADE).end('all')
    t.equal((await wire.head()).status, 101)
    t.equal(String(await wire.rest()), 'all')
    await printed('#1 upgrade echo: end')
  })

  await t.test('says in one sentence that its port is in use', async t => {
    const { port } = await listen(t)
    const child = spawn(process.execPath, [fileURLToPath(example('echo'))], { env: { ...process.env, PORT: String(port) } })
    const [said, [code]] = await Promise.all([text(child.stderr), once(child, 'close')])
    t.equal(said, `port ${port} is in use: PORT=${port + 1} npm start takes another one\n`)
    t.equal(code, 1)
  })

  const lacking = lackingTool()
  const title = 'prints commands that work as they are'
  await t.test(lacking === undefined ? title : `${title} (not run: no ${lacking} here)`, { skip: lacking !== undefined }, async t => {
    await echo.printed('A line for each connection')
    const commands = [...echo.output().matchAll(/^ {2}(\S.*)$/gm)].map(([, command]) => command as string)
    t.equal(commands.length, 8)
    const results = await Promise.all(commands.map(async command => [command, await shell(command, 'typed\n')] as const))
    for (const [command, result] of results) {
      const expected = command.startsWith('npx ')
        ? /^typed\n$/
        : command.endsWith('/') ? /^A plain route/ : command.includes('one') ? /^one\ntwo\n$/ : /(?:^|\r\n\r\n)hello\n$/
      t.match(result, expected, command)
    }
  })

  await t.test('ends live connections in order when it is told to stop', posix, async t => {
    const wire = (await echo.connect()).send(`${UPGRADE}early`)
    await wire.until('early')
    const stopped = echo.stop()
    t.equal(String(await wire.rest()), '')
    wire.end()
    t.equal(await stopped, 0)
    t.match(echo.output(), /#\d+ upgrade echo: end, 5 bytes in, 5 out/)
  })
})

t.test('exec', posix, async t => {
  const post = (body: unknown, headers = 'Connection: Upgrade\r\nUpgrade: exec\r\n'): string => {
    const json = JSON.stringify(body)
    return `POST /exec HTTP/1.1\r\nHost: localhost\r\n${headers}Content-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n${json}`
  }

  const usual = await start(t, example('exec'))
  const shells = await start(t, example('exec'), { ALLOW: 'sh' })

  await t.test('runs a program with the stream as its stdin, and tells its exit code', async t => {
    const wire = await usual.connect()
    wire.send(`${post({ cmd: 'sort', args: ['-r'] })}a\nb\n`)
    const head = await wire.head()
    t.equal(head.status, 101)
    t.equal(head.headers.upgrade, 'exec')
    wire.end('c\n')
    t.equal(String(await wire.rest()), 'out 6\nc\nb\na\nexit 0\n')
  })

  await t.test('frames stderr apart, and talks while the program runs', async t => {
    const wire = (await shells.connect()).send(post({ cmd: 'sh' }))
    await wire.head()
    wire.send('echo one\n')
    t.equal(await wire.until('one\n'), 'out 4\none\n')
    wire.send('echo two >&2\n')
    t.equal(await wire.until('two\n'), 'err 4\ntwo\n')
    wire.send('exit 3\n')
    t.equal(String(await wire.rest()), 'exit 3\n')
  })

  await t.test('refuses what is not on the list, is no valid body, or is no upgrade', async t => {
    const exec = await start(t, example('exec'), { ALLOW: 'no-such-program' })
    const answer = async (request: string): Promise<unknown> => {
      const { status, body } = await (await exec.connect()).send(request).response()
      return [status, (JSON.parse(body) as { message: string }).message]
    }
    t.strictSame(await answer(post({ cmd: 'sh' })), [403, '"sh" is not allowed here'])
    t.strictSame(await answer(post({ cmd: 'sort', args: ['-o', '/tmp/x'] })), [403, '"sort -o /tmp/x" is not allowed here'])
    t.strictSame(await answer(post({ args: [] })), [400, "body must have required property 'cmd'"])
    t.match(await answer(post({ cmd: 'cat' }, '')), [426, /^Upgrade Required/])
    t.strictSame(await answer(post({ cmd: 'no-such-program' })), [500, 'spawn no-such-program ENOENT'])
  })

  await t.test('kills the program, and what that started, when the connection is reset', async t => {
    const wire = (await shells.connect()).send(`${post({ cmd: 'sh' })}sleep 1000 & echo $$ $! .; wait\n`)
    await wire.head()
    const [, ...pids] = /(\d+) (\d+) \.$/.exec(await wire.until('.')) as RegExpExecArray
    wire.reset()
    for (const pid of pids) await ended(Number(pid))
    await shells.printed('"reason":"abort"')
  })

  await t.test('asks the programs to end when it is told to stop', async t => {
    const wire = (await usual.connect()).send(`${post({ cmd: 'cat' })}x`)
    await wire.until('out 1\nx')
    const stopped = usual.stop()
    t.equal(String(await wire.rest()), 'killed SIGTERM\n')
    wire.end()
    t.equal(await stopped, 0)
  })
})

t.test('connect-proxy', async t => {
  const connect = (target: string): string => `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`

  const upstream = await listen(t, socket => {
    socket.write('hello ')
    socket.on('data', chunk => socket.write(chunk)).on('end', () => socket.end('bye'))
  })
  const server = http.createServer((_request, response) => { response.end('through the tunnel') }).listen(0, 'localhost')
  t.teardown(() => server.close())
  await once(server, 'listening')
  const target = `localhost:${(server.address() as AddressInfo).port}`
  const other = await listen(t)
  const inner = await listen(t)
  const gone = await listen(t)
  await gone.close()
  const proxy = await start(t, example('connect-proxy'), {
    ALLOW: [
      `localhost:${upstream.port}=private`, `${target}=private`, `other.example:${other.port}`, `127.0.0.1:${gone.port}=private`, `*:${inner.port}`, '*:80'
    ].join()
  })

  await t.test('joins the client and an allowed target, both ways and to both ends', async t => {
    const wire = (await proxy.connect()).send(`${connect(`localhost:${upstream.port}`)}early `)
    const head = await wire.head()
    t.equal(head.line, 'HTTP/1.1 200 OK')
    t.notOk('content-length' in head.headers || 'transfer-encoding' in head.headers)
    t.equal(await wire.until('early '), 'hello early ')
    wire.end('late ')
    t.equal(String(await wire.rest()), 'late bye')
  })

  await t.test('carries HTTP for a client of Node', async t => {
    const dial = http.request({ port: proxy.port, method: 'CONNECT', path: target }).end()
    const [response, socket] = await once(dial, 'connect') as [http.IncomingMessage, net.Socket]
    t.equal(response.statusCode, 200)
    const [answer] = await once(http.get({ createConnection: () => socket, path: '/', headers: { connection: 'close' } }), 'response')
    t.equal(String(await text(answer as http.IncomingMessage)), 'through the tunnel')
  })

  await t.test('refuses targets that are not on the list, whatever is listening there', async t => {
    const { status, headers, body } = await (await proxy.connect()).send(connect(`localhost:${other.port}`)).response()
    t.equal(status, 403)
    t.equal(headers.connection, 'close')
    t.match(body, 'is not on the list')
    t.equal(other.count(), 0)
  })

  await t.test('refuses names and spellings of addresses in the private network', async t => {
    const hosts = ['localhost', '127.0.0.1', '2130706433', '0x7f.1', '0', '10.1.2.3', '169.254.169.254',
      '[::1]', '[::]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]', '[fe80::1]', '[fd00::1]', '[64:ff9b::7f00:1]', '[2002:7f00:1::]']
    for (const host of hosts) {
      const { status, body } = await (await proxy.connect()).send(connect(`${host}:${inner.port}`)).response()
      t.equal(status, 403, host)
      t.match(body, 'FST_ERR_DUPLEX_DIAL_FORBIDDEN')
    }
    t.equal(inner.count(), 0)
  })

  await t.test('answers 502 when the target does not', async t => {
    const refused = await (await proxy.connect()).send(connect(`127.0.0.1:${gone.port}`)).response()
    t.equal(refused.status, 502)
    t.match(refused.body, 'FST_ERR_DUPLEX_DIAL_FAILED')
    t.notMatch(refused.body, '127.0.0.1')
    const unknown = await (await proxy.connect()).send(connect('nowhere.invalid:80')).response()
    t.equal(unknown.status, 502)
    t.match(unknown.body, 'FST_ERR_DUPLEX_DIAL_FAILED')
  })

  await t.test('asks for the password, and passes none on', async t => {
    const upstream = await listen(t, socket => { socket.pipe(socket) })
    const target = `localhost:${upstream.port}`
    const proxy = await start(t, example('connect-proxy'), { ALLOW: `${target}=private`, AUTH: 'me:secret' })
    for (const given of ['', 'Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n', 'Proxy-Authorization: secret\r\n']) {
      const { status, headers } = await (await proxy.connect()).send(connect(target).replace('\r\n\r\n', `\r\n${given}\r\n`)).response()
      t.equal(status, 407)
      t.match(headers, { 'proxy-authenticate': /^Basic realm=/, connection: 'close' })
    }
    t.equal(upstream.count(), 0)
    const right = `Proxy-Authorization: Basic ${Buffer.from('me:secret').toString('base64')}\r\n`
    const wire = (await proxy.connect()).send(connect(target).replace('\r\n\r\n', `\r\n${right}\r\n`))
    t.equal((await wire.head()).status, 200)
    wire.end('only this')
    t.equal(String(await wire.rest()), 'only this')
  })

  await t.test('breaks the tunnel on both sides when one of them breaks', async t => {
    const arrived = upstream.next()
    const wire = (await proxy.connect()).send(`${connect(`localhost:${upstream.port}`)}x`)
    const socket = await arrived
    await wire.until('x')
    socket.resetAndDestroy()
    t.equal(await wire.gone(), 'broken')
    t.equal(await proxy.stop(), 0)
  })
})

t.test('transform', async t => {
  const { port, printed, output } = await start(t, example('transform'))
  const put = (headers: http.OutgoingHttpHeaders = {}): http.ClientRequest =>
    http.request({ port, path: '/lines', method: 'PUT', headers })

  await t.test('answers each line before the next one is sent', async t => {
    const request = put()
    request.write('{"a":1}\n{"b')
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    t.equal(response.headers['content-type'], 'application/x-ndjson')
    const chunks = response.setEncoding('utf8')[Symbol.asyncIterator]()
    t.equal((await chunks.next()).value, '{"a":1,"line":1}\n')
    request.write('":2}\n')
    t.equal((await chunks.next()).value, '{"b":2,"line":2}\n')
    request.end('[3]')
    t.equal((await chunks.next()).value, '{"line":3,"error":"not a JSON object"}\n')
    t.ok((await chunks.next()).done)
  })

  await t.test('compresses line by line for who takes gzip, and for nobody else', async t => {
    const request = put({ 'accept-encoding': 'br, gzip' })
    request.write('{"a":1}\n')
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    t.equal(response.headers['content-encoding'], 'gzip')
    const chunks = response.pipe(createGunzip()).setEncoding('utf8')[Symbol.asyncIterator]()
    t.equal((await chunks.next()).value, '{"a":1,"line":1}\n')
    request.end('{"b":2}\n')
    t.equal((await chunks.next()).value, '{"b":2,"line":2}\n')
    t.ok((await chunks.next()).done)
    const [plain] = await once(put({ 'accept-encoding': 'br, gzip;q=0' }).end('{}\n'), 'response') as [http.IncomingMessage]
    t.equal(plain.headers['content-encoding'], undefined)
    t.equal(await text(plain), '{"line":1}\n')
  })

  await t.test('takes a compressed upload', async t => {
    const [response] = await once(put({ 'content-encoding': 'gzip' }).end(gzipSync('{"a":1}\n{"b":2}\n')), 'response')
    t.equal(await text(response as http.IncomingMessage), '{"a":1,"line":1}\n{"b":2,"line":2}\n')
  })

  await t.test('breaks the response off at a line without an end, and goes on serving', async t => {
    const request = put()
    request.on('error', () => {}).write('{}\n')
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    await once(response, 'data')
    const failure = once(response, 'error')
    request.write('x'.repeat(2 * 1024 * 1024))
    t.match((await failure)[0], { code: 'ECONNRESET' })
    await printed('"reason":"error"')
    t.notMatch(output(), 'TypeError')
    const [next] = await once(put().end('{}\n'), 'response')
    t.equal(await text(next as http.IncomingMessage), '{"line":1}\n')
  })

  await t.test('takes no request without a body', async t => {
    const [response] = await once(http.get({ port, path: '/lines' }), 'response') as [http.IncomingMessage]
    t.equal(response.statusCode, 404)
    response.resume()
  })
})

t.test('websocket', async t => {
  const open = async (t: Test, program: Program, name: string, options = {}): Promise<{ ws: WebSocket, next: () => Promise<string> }> => {
    const ws = new WebSocket(`ws://localhost:${program.port}/chat?name=${name}`, options)
    t.teardown(() => ws.terminate())
    const messages = on(ws, 'message')
    await once(ws, 'open')
    return { ws, next: async () => String((await messages.next()).value[0]) }
  }

  const program = await start(t, example('websocket'))

  await t.test('passes on what each client says to all of them', async t => {
    const ada = await open(t, program, 'ada')
    t.equal(await ada.next(), 'ada is here')
    const bob = await open(t, program, 'bob')
    t.equal(await ada.next(), 'bob is here')
    t.equal(await bob.next(), 'bob is here')
    bob.ws.send('hi')
    t.equal(await ada.next(), 'bob: hi')
    t.equal(await bob.next(), 'bob: hi')
    bob.ws.close()
    t.equal(await ada.next(), 'bob left')
    await program.printed('"reason":"detached"')
  })

  await t.test('serves its page beside the chat', async t => {
    const [page] = await once(http.get({ port: program.port, path: '/' }), 'response') as [http.IncomingMessage]
    t.equal(page.headers['content-type'], 'text/html; charset=utf-8')
    t.match(await text(page), 'chat?name=')
  })

  await t.test('closes its clients with 1001 when it is told to stop', posix, async t => {
    const { ws } = await open(t, program, 'ada')
    const closed = once(ws, 'close')
    const stopped = program.stop()
    const [code, reason] = await closed as [number, Buffer]
    t.strictSame([code, String(reason)], [1001, 'going away'])
    t.equal(await stopped, 0)
  })

  await t.test('refuses other origins, and a handshake without a name, with an ordinary response', async t => {
    const strict = await start(t, example('websocket'), { ORIGINS: 'https://chat.example' })
    const refusal = async (name: string, options: object): Promise<number | undefined> => {
      const ws = new WebSocket(`ws://localhost:${strict.port}/chat?name=${name}`, options)
      const [, response] = await once(ws, 'unexpected-response') as [unknown, http.IncomingMessage]
      response.resume()
      return response.statusCode
    }
    t.equal(await refusal('eve', { origin: 'https://evil.example' }), 403)
    t.equal(await refusal('', {}), 400)
    const [plain] = await once(http.get({ port: strict.port, path: '/chat?name=eve' }), 'response') as [http.IncomingMessage]
    t.equal(plain.statusCode, 426)
    plain.resume()
    await open(t, strict, 'ada', { origin: 'https://chat.example' })
    await open(t, strict, 'bob', { origin: `http://localhost:${strict.port}` })
  })
})

const script = spawnSync('script', ['--version'], { encoding: 'utf8' })
const noScript = !/util-linux/.test(script.stdout ?? '')

t.test(noScript ? 'terminal (not run: no script of util-linux)' : 'terminal', { skip: noScript }, async t => {
  const program = await start(t, example('terminal'), { SHELL: '/bin/sh', TOKEN: 'secret', PS1: '' })
  const { port } = program
  const open = async (t: Test): Promise<{ ws: WebSocket, until: (what: RegExp) => Promise<RegExpExecArray> }> => {
    const ws = new WebSocket(`ws://localhost:${port}/terminal`, ['terminal', 'secret'])
    t.teardown(() => ws.terminate())
    const messages = on(ws, 'message', { close: ['close'] })
    await once(ws, 'open')
    let text = ''
    const until = async (what: RegExp): Promise<RegExpExecArray> => {
      for (;;) {
        const match = what.exec(text)
        if (match !== null) return match
        const { value, done } = await messages.next()
        if (done === true) throw new Error(`closed without ${String(what)}, after: ${text}`)
        text += String(value[0])
      }
    }
    return { ws, until }
  }

  await t.test('runs a shell in a terminal of the size of the window', async t => {
    const { ws, until } = await open(t)
    const closed = once(ws, 'close')
    ws.send('{"rows":33,"columns":111}')
    ws.send(Buffer.from('while test "$(stty size)" != "33 111"; do sleep 0.1; done; echo "it is $((40 + 2))"\n'))
    await until(/it is 42/)
    ws.send(Buffer.from('exit 3\n'))
    const [code, reason] = await closed as [number, Buffer]
    t.strictSame([code, String(reason)], [1000, 'the shell has ended with 3'])
  })

  await t.test('is for those who know the token, and for its own page', async t => {
    const refusal = async (protocols: string[], options: object = {}): Promise<number | undefined> => {
      const ws = new WebSocket(`ws://localhost:${port}/terminal`, protocols, options)
      const [, response] = await once(ws, 'unexpected-response') as [unknown, http.IncomingMessage]
      response.resume()
      return response.statusCode
    }
    t.equal(await refusal([]), 401)
    t.equal(await refusal(['terminal', 'wrong']), 401)
    t.equal(await refusal(['terminal', 'secret'], { origin: 'http://evil.example' }), 403)
    const [page] = await once(http.get({ port, path: '/' }), 'response') as [http.IncomingMessage]
    t.match(await text(page), '/xterm.js')
    const [library] = await once(http.get({ port, path: '/xterm.js' }), 'response') as [http.IncomingMessage]
    t.equal(library.headers['content-type'], 'text/javascript; charset=utf-8')
    t.ok((await text(library)).length > 0)
  })

  await t.test('ends the shell when the page goes, and when it is told to stop', async t => {
    const shell = async (): Promise<{ ws: WebSocket, pid: number }> => {
      const { ws, until } = await open(t)
      ws.send(Buffer.from('echo "pid $$;"\n'))
      const pid = Number((await until(/pid (\d+);/))[1])
      process.kill(pid, 0)
      return { ws, pid }
    }
    const one = await shell()
    const two = await shell()
    one.ws.close()
    await ended(one.pid)
    process.kill(two.pid, 0)
    t.equal(await program.stop(), 0)
    await ended(two.pid)
  })
})

t.test('docker-engine', posix, async t => {
  interface Answer { statusCode: number | undefined, body: string }
  const request = async (port: number, method: string, path: string, body?: object): Promise<Answer> => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' }
    const [response] = await once(http.request({ port, method, path, headers }).end(body && JSON.stringify(body)), 'response') as [http.IncomingMessage]
    return { statusCode: response.statusCode, body: await text(response) }
  }
  const frame = (number: number, content: string): string => `${String.fromCharCode(number, 0, 0, 0, 0, 0, 0, content.length)}${content}`

  // One after the other: the first two remove their container.
  const program = await start(t, example('docker-engine'))
  const { port } = program

  await t.test('runs a process in a container: frames of stdout and stderr, end of stdin, exit code', async t => {
    const created = await request(port, 'POST', '/v1.47/containers/create?name=box', { Image: 'host', Cmd: ['sleep', '1000'] })
    t.equal(created.statusCode, 201)
    t.equal((await request(port, 'POST', '/containers/box/start')).statusCode, 204)
    const cmd = ['sh', '-c', 'echo out; read -r line; echo "$line" >&2; cat; exit 3']
    const { Id } = JSON.parse((await request(port, 'POST', '/containers/box/exec', { Cmd: cmd, AttachStdin: true })).body) as { Id: string }
    const wire = await program.connect()
    wire.send(`POST /v1.47/exec/${Id}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n` +
      'Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}')
    const head = await wire.head()
    t.equal(head.status, 101)
    t.equal(await wire.until('out\n'), frame(1, 'out\n'))
    wire.send('err\n')
    t.equal(await wire.until('err\n'), frame(2, 'err\n'))
    wire.end('the rest')
    t.equal(String(await wire.rest()), frame(1, 'the rest'))
    t.match(JSON.parse((await request(port, 'GET', `/exec/${Id}/json`)).body), { Running: false, ExitCode: 3 })
    t.equal((await request(port, 'DELETE', '/containers/box?force=1')).statusCode, 204)
    t.equal((await request(port, 'GET', '/containers/json?all=1')).body, '[]')
  })

  await t.test('says at once that it waits, and later for what', async t => {
    await request(port, 'POST', '/containers/create?name=box', { Image: 'host', Cmd: ['sh', '-c', 'exit 7'], HostConfig: { AutoRemove: true } })
    const wait = http.request({ port, method: 'POST', path: '/containers/box/wait?condition=removed', headers: { 'content-length': 0 } }).end()
    const [response] = await once(wait, 'response') as [http.IncomingMessage]
    await request(port, 'POST', '/containers/box/start')
    t.equal(await text(response), '{"StatusCode":7}')
    t.equal((await request(port, 'GET', '/containers/box/json')).statusCode, 404)
  })

  await t.test('refuses in words: no such container, image, or command', async t => {
    t.strictSame(JSON.parse((await request(port, 'POST', '/containers/box/start')).body).message, 'No such container: box')
    t.equal((await request(port, 'POST', '/containers/create', { Image: 'debian' })).statusCode, 404)
    await request(port, 'POST', '/containers/create?name=box', { Image: 'host', Cmd: ['/nowhere'] })
    const refused = await request(port, 'POST', '/containers/box/start')
    t.equal(refused.statusCode, 400)
    t.match(refused.body, 'ENOENT')
  })
})

t.test('h2-chat', async t => {
  const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  t.teardown(() => rm(directory, { recursive: true }))
  const files = { TLS_KEY: join(directory, 'key.pem'), TLS_CERT: join(directory, 'cert.pem') }
  await Promise.all([writeFile(files.TLS_KEY, key), writeFile(files.TLS_CERT, cert)])

  /** A client's stream, once it was welcomed. */
  const enter = async (stream: Duplex): Promise<{ stream: Duplex, welcome: string, next: () => Promise<string> }> => {
    t.teardown(() => stream.destroy())
    const lines = createInterface({ input: stream })[Symbol.asyncIterator]()
    const next = async (): Promise<string> => String((await lines.next()).value)
    return { stream, welcome: await next(), next }
  }
  const upgrade = async (port: number, name: string): Promise<Duplex> => {
    const request = https.get({ port, ca: cert, path: `/chat?name=${name}`, headers: { connection: 'Upgrade', upgrade: 'chat' } })
    const [response, socket, head] = await once(request, 'upgrade') as [http.IncomingMessage, net.Socket, Buffer]
    t.equal(response.headers.upgrade, 'chat')
    socket.unshift(head)
    return socket
  }
  const upload = async (port: number, name: string): Promise<Duplex> => {
    const request = https.request({ port, ca: cert, path: `/chat?name=${name}`, method: 'PUT' })
    request.flushHeaders()
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    return Duplex.from({ readable: response, writable: request })
  }
  const open = async (t: Test, port: number): Promise<ClientHttp2Session> => {
    const session = connectHttp2(`https://localhost:${port}`, { ca: cert })
    t.teardown(() => session.destroy())
    const [settings] = await once(session, 'remoteSettings') as [{ enableConnectProtocol: boolean }]
    t.equal(settings.enableConnectProtocol, true)
    return session
  }
  const stream = (session: ClientHttp2Session, name: string, fields: http.OutgoingHttpHeaders): Duplex =>
    session.request({ ':path': `/chat?name=${name}`, ...fields }, { endStream: false })
  const EXTENDED = { ':method': 'CONNECT', ':protocol': 'chat', ':scheme': 'https', ':authority': 'localhost' }

  const program = await start(t, example('h2-chat'), files)
  const { port } = program

  await t.test('joins all four ways in, in one room', async t => {
    const session = await open(t, port)
    const all = []
    for (const [name, how, dial] of [
      ['ada', 'body over HTTP/2.0', () => stream(session, 'ada', { ':method': 'PUT' })],
      ['bob', 'body over HTTP/1.1', () => upload(port, 'bob')],
      ['cyd', 'upgrade over HTTP/1.1', () => upgrade(port, 'cyd')],
      ['dee', 'upgrade over HTTP/2.0', () => stream(session, 'dee', EXTENDED)]
    ] as const) {
      const client = await enter(await dial())
      t.equal(client.welcome, `welcome, ${name}: ${how}, ${all.length} others here`)
      for (const { client } of all) t.equal(await client.next(), `${name} is here`)
      all.push({ name, client })
    }
    for (const { name, client: { stream } } of all) {
      stream.write(`hello from ${name}\n`)
      for (const { name: other, client } of all) if (other !== name) t.equal(await client.next(), `${name}: hello from ${name}`)
    }
    while (all.length > 1) {
      const { name, client } = all.shift() as typeof all[number]
      const ended = once(client.stream, 'end')
      client.stream.end()
      await ended
      for (const { client } of all) t.equal(await client.next(), `${name} left`)
    }
    all[0]?.client.stream.end()
    await program.printed(/"kind":"upgrade","protocol":"chat","reason":"end".*\n(?:.*\n)*.*"protocol":"chat","reason":"end"/)
    t.notMatch(program.output(), '"level":50')
  })

  await t.test('hears of a client that breaks off, and breaks off one whose line never ends', async t => {
    const session = await open(t, port)
    const ada = await enter(stream(session, 'ada', EXTENDED))
    const bob = session.request({ ':path': '/chat?name=bob', ...EXTENDED }, { endStream: false })
    t.equal(await ada.next(), 'bob is here')
    bob.close(constants.NGHTTP2_CANCEL)
    t.equal(await ada.next(), 'bob left')
    const eve = session.request({ ':path': '/chat?name=eve', ...EXTENDED }, { endStream: false })
    const failed = once(eve, 'error')
    eve.write('x'.repeat(5000))
    t.match((await failed)[0], { message: /NGHTTP2_INTERNAL_ERROR/ })
    t.equal(await ada.next(), 'eve is here')
    t.equal(await ada.next(), 'eve left')
  })

  await t.test('refuses what is no way in, and serves plain routes over both', async t => {
    const session = await open(t, port)
    const status = async (fields: http.OutgoingHttpHeaders): Promise<unknown> => {
      const request = session.request(fields)
      const [head] = await once(request, 'response') as [Record<string, unknown>]
      request.resume()
      return head[':status']
    }
    t.equal(await status({ ':path': '/' }), 200)
    t.equal(await status({ ...EXTENDED, ':path': '/chat?name=' }), 400)
    t.equal(await status({ ...EXTENDED, ':path': '/chat?name=ada', ':protocol': 'websocket' }), 400)
    t.equal(await status({ ...EXTENDED, ':path': '/' }), 404)
    const [response] = await once(https.get({ port, ca: cert, path: '/' }), 'response') as [http.IncomingMessage]
    t.equal(response.statusCode, 200)
    response.resume()
  })

  await t.test('tells its clients when it is told to stop', posix, async t => {
    const session = await open(t, port)
    const ada = await enter(stream(session, 'ada', EXTENDED))
    const bob = await enter(await upgrade(port, 'bob'))
    t.equal(await ada.next(), 'bob is here')
    const goaway = once(session, 'goaway')
    const stopped = program.stop()
    for (const { next, stream } of [ada, bob]) {
      t.equal(await next(), 'the server goes away')
      stream.end()
    }
    await goaway
    t.equal(await stopped, 0)
  })

  const lacking = lackingTool() ?? (spawnSync('openssl', ['version']).error === undefined ? undefined : 'openssl')
  const title = 'prints commands that work as they are, with a certificate made at start'
  await t.test(lacking === undefined ? title : `${title} (not run: no ${lacking} here)`, { skip: lacking !== undefined }, async t => {
    const program = await start(t, example('h2-chat'))
    await program.printed('upgrade over HTTP/2: extended CONNECT')
    const commands = [...program.output().matchAll(/^ {2}(\S.*)$/gm)].map(([, command]) => command as string)
    t.equal(commands.length, 4)
    const expected = ['ada: body over HTTP/2.0', 'bob: body over HTTP/1.1', 'cyd: upgrade over HTTP/1.1', 'dee: upgrade over HTTP/2.0']
    for (const [index, command] of commands.entries()) t.equal(await shell(command, 'typed\n'), `welcome, ${expected[index]}, 0 others here\n`, command)
  })
})

t.test('worker', async t => {
  const LINES = 'GET /lines HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n'
  const status = async (port: number, path: string): Promise<number> => (await fetch(`http://127.0.0.1:${port}${path}`)).status

  await t.test('acknowledges lines, says goodbye, and waits until the client has heard it', posix, async t => {
    const worker = await start(t, example('worker'), { NAME: 'w1' })
    t.equal(await status(worker.port, '/ready'), 200)
    const wire = (await worker.connect()).send(`${LINES}1\n`)
    t.equal((await wire.head()).status, 101)
    await wire.until('ack 1\n')
    const stopped = worker.stop()
    await wire.until('bye\n')
    wire.send('2\n')
    await wire.until('ack 2\n')
    wire.end()
    t.equal(String(await wire.rest()), '')
    t.equal(await stopped, 0)
    await worker.printed('w1 is gone: told 1, finished 1, cut 0')
  })

  await t.test('serves on while it is not ready, and cuts a client that does not hear', posix, async t => {
    const worker = await start(t, example('worker'), { UNREADY: '500', DRAIN_TIMEOUT: '100' })
    const [deaf, idle] = [await worker.connect(), await worker.connect()]
    await deaf.send(`${LINES}1\n`).until('ack 1\n')
    const stopped = worker.stop()
    // It is told by a connection that was there before: new ones come to an end with the listener.
    for (;;) {
      idle.send('GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n')
      const { status } = await idle.head()
      await idle.until(status === 503 ? 'going away\n' : 'ready\n')
      if (status === 503) break
    }
    await deaf.send('2\n').until('ack 2\n')
    await deaf.until('bye\n')
    await t.rejects(deaf.rest(), { code: 'ECONNRESET' })
    idle.destroy()
    t.equal(await stopped, 0)
    await worker.printed('told 1, finished 0, cut 1')
  })

  await t.test('takes the socket that it is given, as systemd does it', posix, async t => {
    const listener = net.createServer().listen(0, '127.0.0.1')
    await once(listener, 'listening')
    const { port } = listener.address() as AddressInfo
    const { fd } = (listener as unknown as { _handle: { fd: number } })._handle
    const child = spawn('sh', ['-c', 'LISTEN_PID=$$ exec "$@"', 'sh', process.execPath, example('worker').pathname], {
      env: { ...process.env, LISTEN_FDS: '1', NAME: 'w1' }, stdio: ['ignore', 'pipe', 'inherit', fd]
    })
    t.teardown(() => child.kill('SIGKILL'))
    const lines = createInterface({ input: child.stdout as Readable })[Symbol.asyncIterator]()
    t.equal((await lines.next()).value, `listening on http://localhost:${port}`)
    // From here on the program alone has it.
    await new Promise(resolve => listener.close(resolve))
    t.equal(await (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } })).text(), 'w1\n')
    child.kill('SIGTERM')
    t.equal((await lines.next()).value, 'w1 is gone: told 0, finished 0, cut 0')
  })
})

const strips = Boolean((process.features as { typescript?: unknown }).typescript)
const title = 'each program runs from its source'
t.test(strips ? title : `${title} (not run: this Node does not run TypeScript)`, { skip: !strips }, async t => {
  for (const name of ['echo', 'exec', 'connect-proxy', 'transform', 'websocket', 'worker', 'docker-engine', ...(noScript ? [] : ['terminal'])]) {
    const program = await start(t, source(name))
    t.equal(await program.stop(), 0, name)
  }
})

/** A TCP server for one test. */
async function listen (t: Test, serve: (socket: net.Socket) => void = () => {}): Promise<
  { port: number, count: () => number, next: () => Promise<net.Socket>, close: () => Promise<unknown> }
> {
  let count = 0
  const sockets = new Set<net.Socket>()
  const server = net.createServer({ allowHalfOpen: true }, socket => {
    count++
    sockets.add(socket.on('error', () => {}))
    serve(socket)
  }).listen(0, 'localhost')
  await once(server, 'listening')
  const next = async (): Promise<net.Socket> => (await once(server, 'connection') as [net.Socket])[0]
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  }
  t.teardown(close)
  return { port: (server.address() as AddressInfo).port, count: () => count, next, close }
}

async function text (stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

/** What a command prints, with this Node as its `node`, and with the command of this package as it was built for the tests. */
async function shell (command: string, input: string): Promise<string> {
  const PATH = `${dirname(process.execPath)}${delimiter}${process.env.PATH}`
  const built = command.replace(/^npx fastify-duplex\b/, `node '${netcat}'`)
  const child = spawn('sh', ['-c', built], { env: { ...process.env, PATH }, stdio: ['pipe', 'pipe', 'ignore'] })
  child.stdin.end(input)
  return await text(child.stdout)
}

/** What the printed commands need and this machine does not have. */
function lackingTool (): string | undefined {
  const { error, stdout } = spawnSync('curl', ['--version'], { encoding: 'utf8' })
  if (error !== undefined || !stdout.includes(' telnet')) return 'curl with telnet'
  return spawnSync('sh', ['-c', ':']).error === undefined ? undefined : 'sh'
}

async function ended (pid: number): Promise<void> {
  await until(() => {
    try {
      return !process.kill(pid, 0)
    } catch {
      return true
    }
  })
}
