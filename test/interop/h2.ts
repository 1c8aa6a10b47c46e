// HTTP/2, over TCP and over TLS: streamed messages, CONNECT, extended CONNECT, and WebSocket in a browser
// that has moved it to HTTP/2 because the server says that it may.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import duplex, { type DuplexConnection } from '../../lib/index.ts'
import { cert, key } from '../fixtures/certificate.ts'
import { chromium, CLOSE, curl, Dialogue, exits, frame, frames, launch, playwright, sha256, type Group, type Lab, type Peer } from './lab/index.ts'

const ROUNDS = 10
const LOAD = 4000
const blob = randomBytes(20 * 1024 * 1024)

const nghttp: Peer = { name: 'nghttp', required: false, debian: ['nghttp2-client'], version: ['--version'] }
const h2load: Peer = { name: 'h2load', required: false, debian: ['nghttp2-client'], version: ['--version'] }
const pythonH2: Peer = { name: 'Python h2', required: false, debian: ['python3-h2'], command: '/usr/lib/python3/dist-packages/h2/__init__.py' }

async function run (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const [certFile, dataFile] = [join(directory, 'cert.pem'), join(directory, 'data')]
  await writeFile(certFile, cert)
  await writeFile(dataFile, blob)
  const plain = await serve(lab, { http2: true })
  const secure = await serve(lab, { http2: true, https: { cert, key, allowHTTP1: true } })

  for (const [transport, { port, seen }, version] of [['TCP', plain, '--http2-prior-knowledge'], ['TLS', secure, '--http2']] as const) {
    const url = `${transport === 'TCP' ? 'http' : 'https'}://localhost:${port}`
    const common = ['-sSN', version, '--fail', '--cacert', certFile]

    await lab.check(curl, `-T . over ${transport}: ${ROUNDS} rounds, each answered before the next is sent`, async command => {
      const dialogue = new Dialogue(lab.spawn(command, [...common, '-T', '.', `${url}/echo`]))
      for (let round = 0; round < ROUNDS; round++) {
        dialogue.send(`round ${round}\n`)
        assert.equal(await dialogue.until('\n'), `round ${round}\n`)
      }
      dialogue.end()
      assert.equal(await dialogue.exit(), 0)
      assert.equal(seen.at(-1), 'body over 2.0: end')
    })
    await lab.check(curl, `-T - over ${transport}: 20 MB there and back`, async command => {
      const { stdout } = exits(await lab.run(command, [...common, '-T', '-', `${url}/echo`], { input: blob }))
      assert.equal(sha256(stdout), sha256(blob))
    })
    await lab.check(curl, `over ${transport}: a handler that fails is seen as a failure`, async command => {
      const { code } = await lab.run(command, [...common, '-T', '-', `${url}/fails`], { input: 'x' })
      assert.equal(code, 92, 'a stream that was not closed cleanly')
    })
    await lab.check(nghttp, `over ${transport}: 20 MB there and back`, async command => {
      const { stdout } = exits(await lab.run(command, ['-d', dataFile, '--no-verify-peer', `${url}/echo`]))
      assert.equal(sha256(stdout), sha256(blob))
    })
    await lab.check(h2load, `over ${transport}: ${LOAD} messages on 4 connections, 50 streams at a time on each`, async command => {
      const before = seen.length
      const { stdout } = exits(await lab.run(command, ['-n', `${LOAD}`, '-c', '4', '-m', '50', '-d', certFile, `${url}/echo`]))
      assert.match(String(stdout), new RegExp(`${LOAD} done, ${LOAD} succeeded, 0 failed, 0 errored, 0 timeout`))
      assert.deepEqual([...new Set(seen.slice(before))], ['body over 2.0: end'])
      assert.equal(seen.length - before, LOAD)
    })
  }

  for (const [what, fields] of [
    ['extended CONNECT', "(':method', 'CONNECT'), (':protocol', 'echo'), (':scheme', 'http'), (':authority', 'localhost'), (':path', '/echo')"],
    ['CONNECT', "(':method', 'CONNECT'), (':authority', 'echo.example:7')"]
  ] as const) {
    await lab.check(pythonH2, `${what}: 2 MB there and back, half-closed; a refused one and a reset beside it`, async () => {
      const data = blob.subarray(0, 2 * 1024 * 1024)
      const { stdout } = exits(await lab.run('/usr/bin/python3', ['-c', tunnel(plain.port, fields)], { input: data }))
      assert.equal(sha256(stdout), sha256(data))
      const kind = what === 'CONNECT' ? 'connect' : 'upgrade'
      await plain.until(() => plain.seen.includes(`${kind} over 2.0: end`) && plain.seen.includes(`${kind} over 2.0: abort`))
    })
  }

  await lab.check(chromium, 'WebSocket over HTTP/2: extended CONNECT beside the page, on its connection; text, 100 KB, close', async path => {
    assert.ok(lab.has(playwright))
    const context = await launch(lab, path, ['--ignore-certificate-errors'])
    const page = await context.newPage()
    await page.goto(`https://localhost:${secure.port}/`)
    const result = await page.evaluate(`new Promise((resolve, reject) => {
      const ws = new WebSocket('wss://localhost:${secure.port}/ws')
      const got = []
      ws.onopen = () => { ws.send('hello'); ws.send('x'.repeat(100000)) }
      ws.onmessage = ({ data }) => { got.push(data.length); if (got.length === 2) ws.close(1000) }
      ws.onerror = () => reject(new Error('error'))
      ws.onclose = ({ code, wasClean }) => resolve(JSON.stringify([got, code, wasClean]))
    })`)
    assert.equal(result, '[[5,100000],1000,true]')
    await secure.until(() => secure.seen.some(text => /^upgrade websocket over 2\.0: (?:end|fin)$/.test(text)))
    assert.equal(secure.seen.filter(text => text.includes('over 1.1')).length, 0)
    await page.close()
  })
  await lab.check(chromium, 'fetch() with a stream for a body: 10 chunks, back when the last was sent', async path => {
    const context = await launch(lab, path, ['--ignore-certificate-errors'])
    const page = await context.newPage()
    await page.goto(`https://localhost:${secure.port}/`)
    const result = await page.evaluate(`(async () => {
      let count = 0
      const body = new ReadableStream({ pull: async controller => {
        await new Promise(resolve => setTimeout(resolve, 5))
        if (count === 10) controller.close()
        else controller.enqueue(new TextEncoder().encode('chunk ' + count++ + ' '))
      } })
      const response = await fetch('/echo', { method: 'POST', body, duplex: 'half' })
      return await response.text()
    })()`)
    assert.equal(result, Array.from({ length: 10 }, (_, index) => `chunk ${index} `).join(''))
    await page.close()
  })

  await lab.ours('fastify-duplex', 'no connection left, and the servers close', async () => {
    for (const { app } of [plain, secure]) {
      assert.equal(app.duplex.connections.size, 0)
      await app.close()
    }
  })
}

interface Served {
  app: FastifyInstance
  port: number
  /** A line for each connection that is over. */
  seen: string[]
  until: (holds: () => boolean) => Promise<void>
}

async function serve (lab: Lab, options: object): Promise<Served> {
  const app = Fastify(options as FastifyServerOptions) as FastifyInstance
  await app.register(duplex, { extendedConnect: true, drainTimeout: 1000 })
  const seen: string[] = []
  let wake = (): void => {}
  const note = ({ kind, protocol, httpVersion, closed }: DuplexConnection): void => {
    const what = protocol === 'websocket' ? `${kind} ${protocol}` : kind
    void closed.then(({ reason }) => {
      seen.push(`${what} over ${httpVersion}: ${reason}`)
      wake()
    })
  }
  const echo = (connection: DuplexConnection): Promise<void> => {
    note(connection)
    return pipeline(connection.readable, connection.writable)
  }
  app.get('/', (_request, reply) => reply.type('text/html').send('<!doctype html><title>HTTP/2</title>'))
  app.route({ method: ['GET', 'POST', 'PUT'], url: '/echo', duplex: { kinds: ['upgrade', 'body'], protocols: ['echo'] }, handler: echo })
  app.connect('*', { duplex: true }, echo)
  app.put('/fails', { duplex: true }, async ({ writable }) => {
    await new Promise(resolve => writable.write('half of it', resolve))
    throw new Error('half of it is all there is')
  })
  // Not every Chromium ends its side of the stream when the WebSocket is closed.
  app.get('/ws', { duplex: { kinds: ['upgrade'], protocols: ['websocket'], finTimeout: 1000 } }, async connection => {
    note(connection)
    for await (const { opcode, payload } of frames(connection.readable)) {
      connection.writable.write(frame(opcode, payload))
      if (opcode === CLOSE) return
    }
  })
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise<void>(resolve => { wake = resolve })
  }
  return { app, port: (app.server.address() as AddressInfo).port, seen, until }
}

/** One connection of a client that is nothing but frames: an echo, a refusal, and a reset. */
const tunnel = (port: number, fields: string): string => `
import socket, sys
import h2.connection, h2.config, h2.events, h2.settings
data = sys.stdin.buffer.read()
sock = socket.create_connection(('localhost', ${port}))
conn = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding='utf-8', validate_outbound_headers=False))
conn.initiate_connection()
status, got, ended, reset = {}, {}, set(), {}
def flush():
    sock.sendall(conn.data_to_send())
def receive():
    received = sock.recv(65536)
    assert received, 'the connection ended'
    for event in conn.receive_data(received):
        if isinstance(event, h2.events.ResponseReceived):
            status[event.stream_id] = dict(event.headers)[':status']
        elif isinstance(event, h2.events.DataReceived):
            got.setdefault(event.stream_id, bytearray()).extend(event.data)
            conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            reset[event.stream_id] = event.error_code
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise Exception('GOAWAY %r' % event.error_code)
    flush()
flush()
while conn.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL) != 1:
    receive()
def begin(fields):
    stream = conn.get_next_available_stream_id()
    conn.send_headers(stream, fields)
    flush()
    return stream
echo, broken = begin([${fields}]), begin([${fields}])
refused = begin([(':method', 'CONNECT'), (':protocol', 'other'), (':scheme', 'http'), (':authority', 'localhost'), (':path', '/echo')])
while len(status) < 3:
    receive()
assert status == { echo: '200', broken: '200', refused: '400' }, status
conn.send_data(broken, b'lost')
conn.reset_stream(broken, 8)
flush()
sent = 0
while sent < len(data):
    size = min(conn.local_flow_control_window(echo), conn.max_outbound_frame_size, len(data) - sent)
    if size == 0:
        receive()
        continue
    conn.send_data(echo, data[sent:sent + size])
    flush()
    sent += size
while len(got.get(echo, b'')) < len(data):
    receive()
assert echo not in ended
conn.end_stream(echo)
flush()
while echo not in ended:
    receive()
assert echo not in reset, reset
sys.stdout.buffer.write(got[echo])
`

const group: Group = { title: 'HTTP/2', peers: [curl, nghttp, h2load, pythonH2, chromium, playwright], run }

export default group
