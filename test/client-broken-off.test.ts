import t from 'tap'
import { createReadStream } from 'node:fs'
import { createServer } from 'node:http'
import { once } from 'node:events'
import net, { type AddressInfo, type Server, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { connect } from '../lib/client/index.ts'
import { patience } from './fixtures/patience.ts'

async function listening (server: Server): Promise<string> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return `http://localhost:${(server.address() as AddressInfo).port}/`
}

t.test('CL1 a body whose stream fails before there is a connection rejects, and does not end the process', async t => {
  const server = createServer((req, res) => { req.resume().on('end', () => res.end()) })
  t.teardown(() => server.close())
  await t.rejects(connect(await listening(server), { body: createReadStream('/nonexistent') }), { code: 'ENOENT' })
})

for (const when of ['before', 'while']) {
  t.test(`CL1 a body whose stream is destroyed ${when} it is sent is no whole body`, async t => {
    let whole = false
    const server = createServer((req, res) => {
      req.on('error', () => {}).on('end', () => {
        whole = true
        res.end()
      }).resume()
    })
    t.teardown(() => server.close())
    const body = new PassThrough()
    body.write('half')
    if (when === 'before') body.destroy()
    else server.once('request', () => body.destroy())
    await t.rejects(connect(await listening(server), { body }), { code: 'ERR_STREAM_PREMATURE_CLOSE' })
    t.notOk(whole)
  })
}

const SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])
const SETTINGS_ACK = Buffer.from([0, 0, 0, 4, 1, 0, 0, 0, 0])

t.test('CL1 after a timeout over HTTP/2 nothing is left open, even if the server never ends the connection', async t => {
  const server = net.createServer({ allowHalfOpen: true })
  t.teardown(() => server.close())
  const gone = new Promise(resolve => {
    server.once('connection', (socket: Socket) => {
      t.teardown(() => socket.destroy())
      socket.on('error', () => {})
      socket.once('data', () => socket.write(SETTINGS_ACK))
      socket.once('close', resolve)
      socket.write(SETTINGS)
      // Its end of output is left open. Something is written now and then, to notice a reset.
      const beat = setInterval(() => socket.write(SETTINGS), 200)
      socket.once('close', () => clearInterval(beat))
    })
  })
  await t.rejects(connect(await listening(server), { http2: true, body: true, timeout: 300 }), { code: 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT' })
  const late = new Promise((_resolve, reject) => { setTimeout(() => reject(new Error('still open')), 5000 * patience).unref() })
  await t.resolves(Promise.race([gone, late]))
})
