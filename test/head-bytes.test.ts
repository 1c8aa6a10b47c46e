import t from 'tap'
import { pipeline } from 'node:stream/promises'
import { onEach, serve } from './fixtures/server.ts'

onEach(t, 'H1 a tail in the packet of the head comes first, once, in order', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.get('/echo', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))
  })
  const wire = await connect()
  wire.send('GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nTAIL')
  t.equal((await wire.head()).status, 101)
  t.equal(await wire.until('TAIL'), 'TAIL')
  wire.end(' and more')
  t.equal((await wire.rest()).toString(), ' and more')
})
