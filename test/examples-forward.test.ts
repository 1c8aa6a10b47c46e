import { mkdtemp, rm } from 'node:fs/promises'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { chunk, LAST_CHUNK, nextChunk } from './fixtures/chunked.ts'
import { start, type Program } from './fixtures/program.ts'
import { request } from './fixtures/requests.ts'
import { posix } from './fixtures/system.ts'
import { tokenFor } from './fixtures/tokens.ts'
import { openWebSocket } from './fixtures/websocket.ts'
import { WebSocketServer } from 'ws'

const example = (name: string): URL => new URL(`../examples/${name}.js`, import.meta.url)

/** An app behind the gateway: says whom it is told of, echoes bodies, upgrades and WebSockets. */
async function backend (t: Test): Promise<number> {
  const server = http.createServer((req, res) => {
    if (req.method === 'POST') {
      res.writeHead(200)
      req.pipe(res)
    } else {
      res.end(`${req.url as string} for ${String(req.headers['x-user'])}, ${String(req.headers.authorization)}`)
    }
  })
  const sockets = new WebSocketServer({ noServer: true })
  server.on('upgrade', (req, socket, head) => {
    if (req.headers.upgrade === 'websocket') {
      sockets.handleUpgrade(req, socket, head, client => client.on('message', data => client.send(String(data))))
    } else {
      socket.on('error', () => {})
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n')
      socket.pipe(socket)
    }
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const client of sockets.clients) client.terminate()
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

async function gateway (t: Test, env: NodeJS.ProcessEnv = {}): Promise<Program> {
  const port = await backend(t)
  return await start(t, example('gateway'), { SECRET: 'secret', APPS: JSON.stringify({ web: `http://127.0.0.1:${port}` }), ...env })
}

t.test('FW12 gateway', async t => {
  await t.test('plain requests, streaming POSTs, WebSockets and upgrades, for those with a token', async t => {
    const { connect, port, stop } = await gateway(t)
    const token = tokenFor(['web', 'gone'])
    const bearer = `Authorization: Bearer ${token}`
    const wire = await connect()
    for (const [path, field, status] of [
      ['/apps/web/x', 'X: 1', 401], ['/apps/web/x', `Authorization: Bearer ${tokenFor(['other'])}`, 403], ['/apps/gone/x', bearer, 404]
    ] as const) t.equal((await wire.send(request(`GET ${path}`, field)).response()).status, status)
    t.equal((await wire.send(request('GET /apps/web/x?a=1', bearer, 'X-User: mallory')).response()).body, '/x?a=1 for alice, undefined')
    t.equal((await wire.send(request(`GET /apps/web/x?token=${token}&a=1`)).response()).body, '/x?a=1 for alice, undefined')
    t.equal((await wire.send(request('GET /apps/%77eb/x', bearer)).response()).body, '/x for alice, undefined', 'a name that is encoded')
    wire.send(request('POST /apps/web/echo', bearer, 'Transfer-Encoding: chunked'))
    for (const round of ['one', 'two']) {
      wire.send(chunk(round))
      if (round === 'one') t.equal((await wire.head()).status, 200)
      t.equal(String(await nextChunk(wire)), round)
    }
    wire.send(LAST_CHUNK)
    t.equal((await nextChunk(wire)).length, 0)
    const socket = await openWebSocket(t, `ws://localhost:${port}/apps/web/ws?token=${token}`)
    t.equal(await socket.ask('hello'), 'hello')
    socket.socket.close()
    await socket.closed
    const upgraded = (await connect()).send(request('GET /apps/web/attach', bearer, 'Connection: Upgrade', 'Upgrade: tcp'))
    t.match(await upgraded.head(), { status: 101, headers: { upgrade: 'tcp' } })
    upgraded.end('stdin')
    t.equal(String(await upgraded.rest()), 'stdin')
    t.equal(await stop(), 0)
  })

  await t.test('a WebSocket of an HTTP/2 client', async t => {
    const { port } = await gateway(t, { HTTP2: '1' })
    const session = http2.connect(`http://localhost:${port}`)
    t.teardown(() => session.destroy())
    await once(session, 'remoteSettings')
    const stream = session.request({
      ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/apps/web/ws', authorization: `Bearer ${tokenFor(['web'])}`, 'sec-websocket-version': '13'
    })
    const [headers] = await once(stream, 'response') as [http2.IncomingHttpHeaders & http2.IncomingHttpStatusHeader]
    t.equal(headers[':status'], 200)
    // A frame with a mask of zeros.
    stream.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69]))
    const [echo] = await once(stream, 'data') as [Buffer]
    t.same(echo, Buffer.from([0x81, 0x02, 0x68, 0x69]))
  })
})

t.test('FW12 docker-proxy: exec in front of the example engine, for those with a token, and nothing that is not listed', posix, async t => {
  const directory = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  const socket = join(directory, 'engine.sock')
  await start(t, example('docker-engine'), { SOCKET: socket })
  const { connect, stop } = await start(t, example('docker-proxy'), { TOKEN: 'token', IMAGES: 'host', DOCKER_SOCKET: socket })
  const wire = await connect()
  const ask = async (line: string, body?: unknown): Promise<{ status: number, body: string }> => {
    const text = body === undefined ? '' : JSON.stringify(body)
    const wire = await connect()
    const fields = ['X-Docker-Token: token', 'Connection: close', ...body === undefined ? [] : ['Content-Type: application/json', `Content-Length: ${text.length}`]]
    wire.send(request(line, ...fields) + text)
    const { status } = await wire.head()
    return { status, body: String(await wire.rest()) }
  }
  t.equal((await wire.send(request('GET /_ping')).response()).status, 401)
  t.match(await ask('GET /_ping'), { status: 200, body: /OK/ })
  for (const other of ['/images/json', '/containers/..%2f..%2fimages/json', '/containers/../json', '/containers/a%3fb/json', '/v1.23/version']) {
    t.equal((await ask(`GET ${other}`)).status, 404, other)
  }
  t.equal((await ask('POST /v1.47/containers/create', { Image: 'other' })).status, 403)
  const created = await ask('POST /v1.47/containers/create?name=box', { Image: 'host', Cmd: ['sleep', '100'], HostConfig: { Privileged: true } })
  t.equal(created.status, 201)
  t.equal((await ask('POST /v1.47/containers/box/start')).status, 204)
  const exec = await ask('POST /v1.47/containers/box/exec', { Cmd: ['cat'], AttachStdin: true, AttachStdout: true, Privileged: true })
  t.equal(exec.status, 201)
  const id = /"Id":"(\w+)"/.exec(exec.body)?.[1] as string
  const body = '{"Detach":false,"Tty":false}'
  const stream = await connect()
  stream.send(request(`POST /v1.47/exec/${id}/start`, 'X-Docker-Token: token', 'Connection: Upgrade', 'Upgrade: tcp',
    'Content-Type: application/json', `Content-Length: ${body.length}`) + body)
  t.match(await stream.head(), { status: 101, headers: { upgrade: 'tcp' } })
  stream.end('hello')
  t.match(String(await stream.rest()), /hello$/)
  t.equal((await ask('DELETE /v1.47/containers/box?force=1')).status, 204)
  t.equal(await stop(), 0)
})
