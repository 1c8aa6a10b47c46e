import t from 'tap'
import type { Duplex } from 'node:stream'
import { gate, possible, serve, transports } from './fixtures/server.ts'
import { CONNECT, HIJACK, UPGRADE } from './fixtures/takeover.ts'

// The accept head and what the handler writes first leave in one write.

const requests = {
  upgrade: UPGRADE,
  connect: CONNECT,
  hijack: HIJACK,
  body: 'POST /it HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx'
}

interface Sink extends Duplex {
  _writev (chunks: { chunk: unknown }[], done: (error?: Error | null) => void): void
}

for (const transport of transports) {
  for (const [kind, request] of Object.entries(requests)) {
    t.test(`${kind}: the accept head and two first writes are one write to the socket, and a later one another [${transport}]`, possible(transport), async t => {
      const writes: number[] = []
      const goOn = gate()
      const { connect } = await serve(t, { transport }, app => {
        app.addHook('onRequest', async ({ raw: { socket } }) => {
          const sink = socket as Duplex as Sink
          const { _write, _writev } = sink
          sink._write = function (...args) {
            writes.push(1)
            _write.apply(this, args)
          }
          sink._writev = function (chunks, done) {
            writes.push(chunks.length)
            _writev.call(this, chunks, done)
          }
        })
        for (const [method, url] of [['GET', '/it'], ['POST', '/it'], ['CONNECT', '*']] as const) {
          app.route({
            method,
            url,
            duplex: true,
            async handler ({ readable, writable }) {
              readable.resume()
              writable.write('hello ')
              writable.write('world')
              await goOn.promise
              writable.end('!')
            }
          })
        }
      })
      const wire = await connect()
      wire.send(request)
      if (kind !== 'hijack') await wire.head()
      await wire.until('world')
      t.equal(writes.length, 1, String(writes))
      t.ok((writes[0] as number) >= (kind === 'hijack' ? 2 : 3), String(writes))
      goOn.open()
      await wire.until('!')
      t.ok(writes.length > 1)
      wire.end()
    })
  }
}

t.test('a handler that destroys the connection at once: its client has seen the accept head', async t => {
  const { connect } = await serve(t, {}, app => {
    app.get('/it', { duplex: { kinds: ['upgrade'] } }, connection => { connection.destroy() })
  })
  const wire = await connect()
  wire.send(UPGRADE)
  t.equal((await wire.head()).status, 101)
  t.equal(await wire.gone(), 'broken')
})
