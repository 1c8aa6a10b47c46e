import { once } from 'node:events'
import tls from 'node:tls'
import t from 'tap'
import { take } from './fixtures/kinds.ts'
import { CONNECT, HIJACK, pattern, UPGRADE } from './fixtures/takeover.ts'
import { serve, tlsOptions } from './fixtures/server.ts'

const MANY = 200_000

/** A client whose request and stream leave in one piece, so that the server reads many records at once. */
async function client (port: number): Promise<tls.TLSSocket> {
  const socket = tls.connect({ port, host: '127.0.0.1', ca: tlsOptions.cert, checkServerIdentity: () => undefined })
  socket.allowHalfOpen = true
  await once(socket, 'secureConnect')
  return socket
}

for (const [kind, request] of Object.entries({ upgrade: UPGRADE, hijack: HIJACK, connect: CONNECT })) {
  t.test(`S14 TLS, ${kind}: a handler that ends its side within 'data' still reads all that comes behind`, async t => {
    const heard: Buffer[] = []
    const { port, quiet } = await serve(t, { transport: 'tls' }, app => take(app, async ({ readable, writable }) => {
      readable.once('data', () => { writable.end() })
      readable.on('data', (chunk: Buffer) => { heard.push(chunk) })
      await once(readable, 'end')
    }))
    const socket = await client(port)
    const sent = pattern(MANY)
    socket.write(request)
    socket.resume()
    await once(socket, 'data')
    socket.end(sent)
    await once(socket, 'close')
    await quiet()
    t.equal(Buffer.concat(heard).length, MANY)
    t.ok(Buffer.concat(heard).equals(sent))
  })

  t.test(`S14 TLS, ${kind}: a client that ends when it has its accept head gets all that is written afterwards`, async t => {
    const said = pattern(MANY)
    const { port, quiet } = await serve(t, { transport: 'tls' }, app => take(app, async ({ readable, writable }) => {
      readable.resume()
      await once(readable, 'end')
      writable.write(said)
    }))
    const socket = await client(port)
    socket.write(request)
    const [head] = await once(socket, 'data') as [Buffer]
    const rest: Buffer[] = [head.subarray(head.indexOf('\r\n\r\n') + 4)]
    socket.on('data', (chunk: Buffer) => { rest.push(chunk) })
    socket.end()
    await once(socket, 'close')
    await quiet()
    t.ok(Buffer.concat(rest).equals(said))
  })
}
