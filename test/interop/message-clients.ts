// A route with messages, and one of WebSocket alone, and every client that comes to them: over HTTP/1, over HTTP/2, and through
// proxies that speak HTTP/2 to the app.
import { strict as assert } from 'node:assert'
import { writeFile } from 'node:fs/promises'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import duplex from '../../lib/index.ts'
import { cert, key } from '../fixtures/certificate.ts'
import { expected, script } from './lab/browser-script.ts'
import {
  chromium, curl, exits, haproxy, launch, playwright, python, undici, unusedPort, ws, type Group, type Lab, type Page, type Peer
} from './lab/index.ts'

const goSource = new URL('../../../test/interop/websocket.go', import.meta.url)

const nodes = [22, 24, 26].map((major): Peer & { npm: string } =>
  ({ name: `Node ${major}`, required: true, npm: `node-${major}@npm:node-${process.platform}-${process.arch}@${major}` }))
const websockets: Peer = {
  name: 'Python websockets', required: true, debian: ['python3-websockets'], command: '/usr/lib/python3/dist-packages/websockets/__init__.py'
}
const aiohttp: Peer = {
  name: 'Python aiohttp', required: true, debian: ['python3-aiohttp'], command: '/usr/lib/python3/dist-packages/aiohttp/__init__.py'
}
const go: Peer = { name: 'Go', required: true, debian: ['golang-go'], command: 'go', version: ['version'] }
const gorilla: Peer = {
  name: 'Go gorilla/websocket',
  required: true,
  debian: ['golang-github-gorilla-websocket-dev'],
  command: '/usr/share/gocode/src/github.com/gorilla/websocket/client.go'
}
const nghttpx: Peer = { name: 'nghttpx', required: true, debian: ['nghttp2-proxy'], command: 'nghttpx', version: ['--version'] }

async function run (lab: Lab): Promise<void> {
  const plain = await serve(lab, {})
  const http2 = await serve(lab, { http2: true })
  const secure = await serve(lab, { http2: true, https: { cert, key, allowHTTP1: true } })
  const proxies = await behindProxies(lab, http2.port)
  const directory = await lab.directory()
  const goClient = join(directory, 'client')
  await lab.check(gorilla, 'builds', async () => {
    const env = { HOME: directory, GO111MODULE: 'off', CGO_ENABLED: '0', GOPATH: '/usr/share/gocode' }
    exits(await lab.run('go', ['build', '-o', goClient, fileURLToPath(goSource)], { env, cwd: directory }))
  }, 180_000)

  for (const [way, port, app] of [
    ['HTTP/1', plain.port, plain], ...[...proxies].map(([name, port]) => [`${name}, HTTP/2 to the app`, port, http2] as const)
  ] as const) {
    const origin = `ws://localhost:${port}`
    const direct = way === 'HTTP/1'
    const body = async (run: () => Promise<string>, answers?: number[]): Promise<string> => {
      app.begin()
      const note = await run()
      await app.saw(direct ? '1.1' : '2.0', answers)
      return note
    }
    await lab.check(undici, way, async manifest => await body(async () => await inNode(lab, process.execPath, origin, `require(${JSON.stringify(join(manifest, '..'))}).WebSocket`)))
    await lab.check(ws, way, async manifest => await body(async () => await inNode(lab, process.execPath, origin, `require(${JSON.stringify(join(manifest, '..'))})`)))
    for (const node of direct ? nodes : nodes.slice(-1)) {
      await lab.check(node, `${way}: its own WebSocket`, async manifest => await body(async () => await inNode(lab, join(manifest, '../bin/node'), origin, 'WebSocket')))
    }
    await lab.check(websockets, way, async () => await body(async () => {
      exits(await lab.run(python.command as string, ['-c', websocketsClient(origin)]))
      return 'permessage-deflate'
    }))
    await lab.check(aiohttp, way, async () => await body(async () => {
      exits(await lab.run(python.command as string, ['-c', aiohttpClient(origin)]))
      return 'permessage-deflate'
    }, [1000, 1000]))
    await lab.check(gorilla, way, async () => await body(async () => {
      exits(await lab.run(goClient, [origin]))
      return 'permessage-deflate'
    }))
    await lab.check(chromium, way, async path => {
      const page = await visit(lab, path, `http://localhost:${port}`)
      return await body(async () => await inPage(page, origin))
    })
  }

  await lab.check(undici, 'HTTP/2 by TLS', async manifest => {
    secure.begin()
    const library = `require(${JSON.stringify(join(manifest, '..'))})`
    const options = `{ dispatcher: new (${library}.Agent)({ allowH2: true, connect: { rejectUnauthorized: false } }) }`
    const note = await inNode(lab, process.execPath, `wss://localhost:${secure.port}`, `${library}.WebSocket`, options)
    await secure.saw('2.0')
    return note
  })
  await lab.check(chromium, 'HTTP/2 by TLS, on the connection of the page', async path => {
    const page = await visit(lab, path, `https://localhost:${secure.port}`)
    secure.begin()
    const note = await inPage(page, `wss://localhost:${secure.port}`)
    await secure.saw('2.0')
    return note
  })
  await eventsAndBodies(lab, plain.port, secure.port)
  await otherPages(lab, plain)

  await lab.ours('fastify-duplex', 'no connection left, and the servers close', async () => {
    for (const { app } of [plain, http2, secure]) {
      assert.equal(app.duplex.connections.size, 0)
      await app.close()
    }
  })
}

/** The same handler for a page without WebSocket. */
async function eventsAndBodies (lab: Lab, plain: number, secure: number): Promise<void> {
  for (const [way, origin] of [['HTTP/1', `http://localhost:${plain}`], ['HTTP/2', `https://localhost:${secure}`]] as const) {
    await lab.check(chromium, `${way}: EventSource, and fetch() with one message`, async path => {
      const page = await visit(lab, path, origin)
      const result = await page.evaluate(`(async () => {
        const events = await new Promise((resolve, reject) => {
          const source = new EventSource('/room')
          const got = []
          source.onmessage = ({ data }) => { if (got.push(data) === 2) { source.close(); resolve(got) } }
          source.onerror = () => reject(new Error('error'))
        })
        const post = body => fetch('/room', { method: 'POST', headers: { 'content-type': 'application/json' }, body })
        const answer = await post('{"text":"posted"}')
        const refused = await post('{"other":1}')
        return JSON.stringify([events, answer.headers.get('content-type'), await answer.text(), refused.status, (await refused.json()).code])
      })()`)
      assert.deepEqual(JSON.parse(String(result)), [
        ['{"said":"nothing"}', '{"said":"to say"}'], 'application/x-ndjson', '{"said":"posted"}\n', 400, 'FST_ERR_DUPLEX_MESSAGE_INVALID'
      ])
      await page.close()
    })
    await lab.check(curl, `${way}: NDJSON there and back, events`, async command => {
      const common = ['-sSN', '--insecure', '--fail', `${origin}/room`]
      const lines = await lab.run(command, [...common, '-X', 'POST', '-T', '-', '-H', 'Content-Type: application/x-ndjson'], { input: '{"text":"a"}\n\n{"text":"b"}' })
      assert.equal(String(exits(lines).stdout), '{"said":"a"}\n{"said":"b"}\n')
      const events = await lab.run(command, [...common, '-H', 'Accept: text/event-stream'])
      assert.equal(String(exits(events).stdout), 'data: {"said":"nothing"}\n\ndata: {"said":"to say"}\n\n')
    })
  }
}

/** The cookies of a user go with a page of anybody. */
async function otherPages (lab: Lab, app: Served): Promise<void> {
  await lab.check(chromium, 'a page of another site: 403', async path => {
    const elsewhere = http.createServer((_request, response) => response.setHeader('content-type', 'text/html').end('<!doctype html>'))
    const page = await visit(lab, path, `http://localhost:${await lab.listening(elsewhere)}`)
    app.begin()
    const result = await page.evaluate(`new Promise(resolve => {
      const ws = new WebSocket('ws://localhost:${app.port}/room')
      ws.onopen = () => resolve('open')
      ws.onclose = ({ code }) => resolve(code)
    })`)
    assert.equal(result, 1006)
    assert.deepEqual(app.refused, ['403 FST_ERR_DUPLEX_WEBSOCKET_ORIGIN'])
    assert.deepEqual(app.seen, [])
    await page.close()
  })
}

async function visit (lab: Lab, path: string, origin: string): Promise<Page> {
  assert.ok(lab.has(playwright))
  const context = await launch(lab, path, ['--ignore-certificate-errors'])
  const page = await context.newPage()
  await page.goto(`${origin}/`)
  return page
}

async function inPage (page: Page, origin: string): Promise<string> {
  const note = checked(await page.evaluate(`(${script})(WebSocket, ${JSON.stringify(origin)})`))
  await page.close()
  return note
}

/** @param of an expression for its class of WebSocket */
async function inNode (lab: Lab, node: string, origin: string, of: string, options = 'undefined'): Promise<string> {
  const program = `(${script})(${of}, ${JSON.stringify(origin)}, ${options}).then(text => { console.log(text); process.exit() })`
  const { stdout } = exits(await lab.run(node, ['-e', program]))
  return checked(String(stdout))
}

/** @returns what was agreed on */
function checked (text: unknown): string {
  const { seen, extensions } = JSON.parse(String(text)) as { seen: unknown, extensions: string }
  assert.deepEqual(seen, expected)
  return extensions === '' ? 'no extension' : extensions.replace(/;.*/, '')
}

interface Served {
  app: FastifyInstance
  port: number
  /** What the connections came to, and which requests were refused, since `begin()`. */
  seen: string[]
  refused: string[]
  begin: () => void
  /** Waits until all that every client does is over, over this version of HTTP. @param answers the codes that it answers ours with */
  saw: (version: string, answers?: number[]) => Promise<void>
}

async function serve (lab: Lab, options: object): Promise<Served> {
  const app = Fastify({ forceCloseConnections: true, ...options } as FastifyServerOptions) as FastifyInstance
  await app.register(duplex, { extendedConnect: 'http2' in options, drainTimeout: 1000 })
  const seen: string[] = []
  const refused: string[] = []
  let wake = (): void => {}
  app.addHook('onError', async (_request, _reply, error) => {
    refused.push(`${error.statusCode ?? 500} ${error.code}`)
    wake()
  })
  app.get('/', (_request, reply) => reply.type('text/html').send('<!doctype html><title>messages</title>'))
  const text = { type: 'object', required: ['text'], properties: { text: { type: 'string' } } }
  const said = { type: 'object', properties: { said: { type: 'string' } } }
  app.route({
    method: ['GET', 'POST'],
    url: '/room',
    duplex: { messages: { in: text, out: said, websocket: { subprotocols: ['chat.2', 'chat.1'] } } },
    async handler (connection, request) {
      const { readable, send } = connection
      void connection.closed.then(({ websocket }) => {
        if (websocket === undefined) return
        seen.push(`room over ${connection.httpVersion}: ${websocket.code} ${websocket.clean ? 'clean' : 'not clean'}`)
        wake()
      })
      if (connection.kind === 'body' && request.method === 'GET') {
        await send({ said: 'nothing' })
        await send({ said: 'to say', secret: 'which the schema does not name' })
      }
      for await (const message of readable) {
        const { text } = message as { text: string }
        if (text === 'leave') void connection.close({ code: 4000, reason: 'left' })
        else await send({ said: text })
      }
    }
  })
  app.get('/frames', { duplex: { websocket: { perMessageDeflate: true, maxLength: 1024 * 1024 } } }, async ({ readable, send, closed, httpVersion }) => {
    void closed.then(({ websocket }) => {
      seen.push(`frames over ${httpVersion}: ${websocket?.code} ${websocket?.clean === true ? 'clean' : 'not clean'}`)
      wake()
    })
    for await (const message of readable) await send(message)
  })
  app.get('/refused', {
    onRequest: async () => { throw Object.assign(new Error('no'), { statusCode: 401 }) },
    duplex: { websocket: true }
  }, async () => {})
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  return {
    app,
    port: (app.server.address() as AddressInfo).port,
    seen,
    refused,
    begin () { seen.length = refused.length = 0 },
    async saw (version, answers = [1007, 4000]) {
      const wanted = [
        ...[3000, ...answers].map(code => `room over ${version}: ${code} clean`),
        `frames over ${version}: 1000 clean`,
        // Behind a message that is too long nothing is read, and so no close frame.
        `room over ${version}: 1006 not clean`
      ].sort()
      while (seen.length < wanted.length) await new Promise<void>(resolve => { wake = resolve })
      assert.deepEqual([...seen].sort(), wanted)
    }
  }
}

/** The port of each. */
async function behindProxies (lab: Lab, app: number): Promise<Map<string, number>> {
  const ports = new Map<string, number>()
  const directory = await lab.directory()
  for (const { peer, file, text, command } of [{
    peer: haproxy,
    file: 'haproxy.cfg',
    text: (front: number) => `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
frontend front
  bind 127.0.0.1:${front}
  default_backend app
backend app
  server app1 127.0.0.1:${app} proto h2
`,
    command: (path: string) => ['-db', '-f', path]
  }, {
    peer: nghttpx,
    file: 'nghttpx.conf',
    text: (front: number) => `
frontend=127.0.0.1,${front};no-tls
backend=127.0.0.1,${app};/;proto=h2
workers=1
errorlog-file=/dev/stderr
accesslog-file=/dev/null
`,
    command: (path: string) => [`--conf=${path}`]
  }]) {
    const front = await unusedPort()
    await lab.check(peer, 'starts', async path => {
      await writeFile(join(directory, file), text(front))
      await lab.server(path, command(join(directory, file)), front)
      ports.set(peer.name, front)
    })
  }
  return ports
}

const websocketsClient = (origin: string): string => `
import asyncio, json, websockets
async def closed(path, message, code):
    async with websockets.connect('${origin}' + path) as ws:
        await ws.send(message)
        await ws.wait_closed()
    assert ws.close_code == code, ws.close_code
async def main():
    async with websockets.connect('${origin}/room', subprotocols=['chat.1', 'chat.2']) as ws:
        assert ws.subprotocol == 'chat.2'
        # In four fragments.
        await ws.send(['{"te', 'xt":"h\\u00e9, ', '\\U0001f600', '"}'])
        assert json.loads(await ws.recv()) == { 'said': 'h\\u00e9, \\U0001f600' }
        await (await ws.ping())
        for count in range(300):
            await ws.send(json.dumps({ 'text': count }))
        for count in range(300):
            assert json.loads(await ws.recv()) == { 'said': str(count) }
        await ws.close(3000, 'bye')
    assert ws.close_code == 3000, ws.close_code
    await closed('/room', '{"other":1}', 1007)
    await closed('/room', json.dumps({ 'text': 'x' * 70000 }), 1009)
    await closed('/room', '{"text":"leave"}', 4000)
    async with websockets.connect('${origin}/frames', max_size=None) as ws:
        assert len(ws.extensions) == 1
        data = bytes(range(256)) * 1000
        await ws.send(data)
        assert await ws.recv() == data
        await ws.send('y' * 200000)
        assert await ws.recv() == 'y' * 200000
    assert ws.close_code == 1000, ws.close_code
    try:
        await websockets.connect('${origin}/refused')
    except websockets.InvalidHandshake as error:
        status = error.response.status_code if hasattr(error, 'response') else error.status_code
        assert status == 401, status
    else:
        raise Exception('not refused')
asyncio.run(main())
`

const aiohttpClient = (origin: string): string => `
import aiohttp, asyncio, json
async def main():
    async with aiohttp.ClientSession() as session:
        async def closed(path, message, code):
            async with session.ws_connect('${origin}' + path) as ws:
                await ws.send_str(message)
                await ws.receive()
            assert ws.close_code == code, ws.close_code
        async with session.ws_connect('${origin}/room', protocols=['chat.1', 'chat.2'], autoping=False) as ws:
            assert ws.protocol == 'chat.2'
            await ws.send_json({ 'text': 'h\\u00e9, \\U0001f600' })
            assert await ws.receive_json() == { 'said': 'h\\u00e9, \\U0001f600' }
            await ws.ping(b'p')
            pong = await ws.receive()
            assert pong.type == aiohttp.WSMsgType.PONG and pong.data == b'p', pong
            for count in range(300):
                await ws.send_json({ 'text': count })
            for count in range(300):
                assert await ws.receive_json() == { 'said': str(count) }
            await ws.close(code=3000, message=b'bye')
            assert ws.close_code == 3000, ws.close_code
        await closed('/room', '{"other":1}', 1007)
        await closed('/room', json.dumps({ 'text': 'x' * 70000 }), 1009)
        await closed('/room', '{"text":"leave"}', 4000)
        async with session.ws_connect('${origin}/frames', compress=15) as ws:
            assert ws.compress == 15, ws.compress
            data = bytes(range(256)) * 1000
            await ws.send_bytes(data)
            assert await ws.receive_bytes() == data
            await ws.send_str('y' * 200000)
            assert await ws.receive_str() == 'y' * 200000
            await ws.close()
        try:
            await session.ws_connect('${origin}/refused')
        except aiohttp.WSServerHandshakeError as error:
            assert error.status == 401, error.status
        else:
            raise Exception('not refused')
asyncio.run(main())
`

const group: Group = {
  title: 'Messages and WebSocket, the clients',
  peers: [curl, undici, ws, ...nodes, python, websockets, aiohttp, go, gorilla, chromium, playwright, haproxy, nghttpx],
  run
}

export default group
