// Streamed messages, upgrades and plain requests at examples/echo, over TCP and over TLS: what is sent
// comes back before the request has ended.
import { strict as assert } from 'node:assert'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough, type Duplex, type Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { cert, key } from '../fixtures/certificate.ts'
import { bytes, curl, Dialogue, exits, load, python, sha256, undici, type Group, type Lab, type Peer } from './lab/index.ts'

const ROUNDS = 10
const blob = randomBytes(20 * 1024 * 1024)

const goSource = new URL('../../../test/interop/client.go', import.meta.url)

const sockets: Peer = { ...python, name: 'Python socket, ssl' }

const go: Peer = { name: 'Go net/http', required: false, debian: ['golang-go'], command: 'go', version: ['version'] }

interface Undici {
  Client: new (origin: string, options?: { connect: { ca: string } }) => {
    request: (options: { path: string, method: string, body: Readable }) => Promise<{ statusCode: number, body: Readable }>
    pipeline: (options: { path: string, method: string }, handler: (response: { body: Readable }) => Readable) => Duplex
    upgrade: (options: { path: string, protocol: string }) => Promise<{ headers: Record<string, string>, socket: Duplex }>
    close: () => Promise<void>
  }
}

async function run (lab: Lab): Promise<void> {
  const directory = await lab.directory()
  const [certFile, keyFile] = [join(directory, 'cert.pem'), join(directory, 'key.pem')]
  await writeFile(certFile, cert)
  await writeFile(keyFile, key)
  const goClient = join(directory, 'client')
  await lab.check(go, 'builds a client of the standard library', async command => {
    const env = { HOME: directory, GO111MODULE: 'off', CGO_ENABLED: '0' }
    exits(await lab.run(command, ['build', '-o', goClient, fileURLToPath(goSource)], { env, cwd: directory }))
  }, 180_000)
  const plain = await lab.example('echo')
  const secure = await lab.example('echo', { TLS_CERT: certFile, TLS_KEY: keyFile })

  for (const [transport, { port }] of [['TCP', plain], ['TLS', secure]] as const) {
    const scheme = transport === 'TCP' ? 'http' : 'https'
    const origin = `${scheme}://localhost:${port}`

    await lab.check(curl, `-T . over ${transport}: ${ROUNDS} rounds, each answered before the next is sent`, async command => {
      const child = lab.spawn(command, ['-sSN', '--http1.1', '--fail', '--cacert', certFile, '-T', '.', `${origin}/echo`])
      const dialogue = new Dialogue(child)
      for (let round = 0; round < ROUNDS; round++) {
        dialogue.send(`round ${round}\n`)
        assert.equal(await dialogue.until('\n'), `round ${round}\n`)
      }
      dialogue.end()
      assert.equal(await dialogue.exit(), 0)
    })
    await lab.check(curl, `-T - over ${transport}: 20 MB there and back`, async command => {
      const args = ['-sSN', '--http1.1', '--fail', '--cacert', certFile, '-T', '-', `${origin}/echo`]
      const { stdout } = exits(await lab.run(command, args, { input: blob }))
      assert.equal(sha256(stdout), sha256(blob))
    })

    await lab.check(undici, `request() over ${transport}: ${ROUNDS} rounds, then 20 MB there and back on the same connection`, async () => {
      const { Client } = load<Undici>('undici')
      const client = new Client(origin, { connect: { ca: cert } })
      const body = new PassThrough()
      body.write('round 0')
      const response = await client.request({ path: '/echo', method: 'POST', body })
      const chunks = response.body[Symbol.asyncIterator]()
      for (let round = 0; round < ROUNDS; round++) {
        if (round > 0) body.write(`round ${round}`)
        assert.equal(String((await chunks.next()).value), `round ${round}`)
      }
      body.end()
      assert.equal((await chunks.next()).done, true)
      const big = client.pipeline({ path: '/echo', method: 'PUT' }, ({ body }) => body)
      big.end(blob)
      assert.equal(sha256(await bytes(big)), sha256(blob))
      await client.close()
    })
    await lab.check(undici, `upgrade() over ${transport}: 20 MB there and back, half-closed`, async () => {
      const { Client } = load<Undici>('undici')
      const client = new Client(origin, { connect: { ca: cert } })
      const { headers, socket } = await client.upgrade({ path: '/echo', protocol: 'echo' })
      assert.equal(headers.upgrade, 'echo')
      // Without it a TLS socket ends its own side with the peer's.
      socket.allowHalfOpen = true
      socket.end(blob)
      assert.equal(sha256(await bytes(socket)), sha256(blob))
      await client.close()
    })

    await lab.check(python, `chunked over ${transport}: ${ROUNDS} rounds, then a second request on the same connection`, async command => {
      const { stdout } = exits(await lab.run(command, ['-c', httpClient(scheme, port, certFile)]))
      assert.equal(String(stdout), 'done\n')
    })
    for (const what of ['body', 'upgrade']) {
      if (!lab.has(go)) continue
      await lab.check(go, `${what} over ${transport}: ${ROUNDS} rounds, then 20 MB there and back`, async () => {
        const { stdout } = exits(await lab.run(goClient, [what, `${origin}/echo`, certFile, `${ROUNDS}`], { input: blob }))
        assert.equal(sha256(stdout), sha256(blob))
      })
    }
    for (const [kind, head] of [
      ['upgrade', 'GET /echo HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'],
      ['CONNECT', 'CONNECT echo.example:7 HTTP/1.1\\r\\nHost: echo.example:7\\r\\n\\r\\n'],
      ['plain GET', 'GET /echo HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n']
    ] as const) {
      await lab.check(sockets, `${kind} over ${transport}: early bytes, 20 MB there and back, ${transport === 'TCP' ? 'half-closed' : 'closed by close_notify'}`, async command => {
        const { stdout } = exits(await lab.run(command, ['-c', rawSocket(transport, port, certFile, head)], { input: blob }))
        assert.equal(sha256(stdout), sha256(Buffer.concat([Buffer.from('early'), blob])))
      })
    }
  }

  await lab.ours('examples/echo', 'all connections over, in order, and exit code 0', async () => {
    for (const { stop, output } of [plain, secure]) {
      assert.equal(await stop(), 0)
      const ends = output().split('\n').filter(line => /^#\d+ /.test(line))
      assert.equal(ends.length, lab.has(go) ? 11 : 9)
      assert.deepEqual(ends.filter(line => !/: end, /.test(line)), [])
    }
  })
}

/** http.client reads the head of a response while the request goes on, if it is asked to. */
const httpClient = (scheme: 'http' | 'https', port: number, certificate: string): string => `
import http.client, ssl
if '${scheme}' == 'https':
    connection = http.client.HTTPSConnection('localhost', ${port}, context=ssl.create_default_context(cafile='${certificate}'))
else:
    connection = http.client.HTTPConnection('localhost', ${port})
connection.putrequest('POST', '/echo')
connection.putheader('Transfer-Encoding', 'chunked')
connection.endheaders()
socket = connection.sock
response = None
for round in range(${ROUNDS}):
    data = b'round %d' % round
    connection.send(b'%x\\r\\n%s\\r\\n' % (len(data), data))
    if response is None:
        response = connection.getresponse()
        assert response.status == 200 and response.getheader('Incremental') == '?1'
    assert response.read(len(data)) == data
connection.send(b'0\\r\\n\\r\\n')
assert response.read() == b''
connection.request('GET', '/')
assert connection.getresponse().read().startswith(b'A plain route')
assert connection.sock is socket
print('done')
`

/** Early bytes in one segment with the head; writes and reads at the same time; ends its side, and reads to the end. */
const rawSocket = (transport: 'TCP' | 'TLS', port: number, certificate: string, head: string): string => `
import socket, ssl, sys, threading
connection = socket.create_connection(('localhost', ${port}))
if '${transport}' == 'TLS':
    connection = ssl.create_default_context(cafile='${certificate}').wrap_socket(connection, server_hostname='localhost')
connection.sendall(b'${head}early')
received = bytearray()
while b'\\r\\n\\r\\n' not in received:
    received += connection.recv(65536)
answer, rest = received.split(b'\\r\\n\\r\\n', 1)
assert answer.split()[1] in (b'101', b'200'), answer
while len(rest) < 5:
    rest += connection.recv(65536)
def send():
    connection.sendall(sys.stdin.buffer.read())
    if '${transport}' == 'TCP':
        connection.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
length = 5 + ${blob.length}
while len(rest) < length or '${transport}' == 'TCP':
    data = connection.recv(1048576)
    if data == b'':
        break
    rest += data
sender.join()
if '${transport}' == 'TLS':
    connection = connection.unwrap()
sys.stdout.buffer.write(rest)
`

const group: Group = { title: 'Streamed messages, upgrades and plain requests', peers: [curl, undici, go, python, sockets], run }

export default group
