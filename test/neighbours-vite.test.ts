import { once } from 'node:events'
import t, { type Test } from 'tap'
import type { DuplexConnection } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, piece, take } from './fixtures/kinds.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { echo, share, within, type SharedServer } from './fixtures/shared-server.ts'
import { viteOn, type Vite } from './fixtures/vite.ts'

const orders = ['before', 'after'] as const
type Order = typeof orders[number]

interface Beside extends SharedServer {
  vite: Vite
}

/** An app with vite, registered before the plugin or after it, and with routes of every kind. */
async function beside (t: Test, order: Order, handler: (connection: DuplexConnection) => unknown): Promise<Beside> {
  let vite: Vite | undefined
  const shared = await share(t, {
    plugin: { drainTimeout: 60_000 },
    before: async app => { if (order === 'before') vite = await viteOn(t, app) }
  }, async app => {
    vite ??= await viteOn(t, app)
    take(app, handler)
    app.get('/plain', async () => 'plain')
  })
  return { ...shared, vite: vite as Vite }
}

for (const order of orders) {
  t.test(`Q4 vite in middleware mode, registered ${order} it: HMR and every kind on one server`, async t => {
    const { connect, close, port, vite, server } = await beside(t, order, echo)
    const page = await connect()
    const browser = await vite.browse(page, port)
    t.same(JSON.parse(await browser.hear()), { type: 'connected' })
    for (const kind of everyKind) {
      const wire = await connect()
      await within('the accept head', wire.send(ask(kind) + piece(kind, 'early')).head())
      t.equal(await within('the echo', hear(wire, kind, 'early')), 'early')
      vite.change()
      t.match(JSON.parse(await browser.hear()), { type: 'update', updates: [{ path: vite.module }] })
      t.equal(await within('the echo', hear(wire.send(piece(kind, 'later')), kind, 'later')), 'later')
      wire.end(kind === 'body' ? LAST_CHUNK : '')
      await within('the end', kind === 'body' ? wire.until(LAST_CHUNK) : wire.gone())
    }
    t.equal((await within('a plain route', exchange(page, 'GET /plain'))).body, 'plain')
    // vite asks by it whether its server is there again.
    const ping = await connect()
    const fields = ['Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==']
    t.match(await within('a ping', ping.send(request('GET /', ...fields, 'Sec-WebSocket-Protocol: vite-ping')).head()), { status: 101 })
    ping.destroy()
    await close()
    t.equal(await within('the end of HMR', browser.closed), 1006)
    t.equal(server.listening, false)
  })

  t.test(`Q4 vite in middleware mode, registered ${order} it: close() lets a live connection say good-bye`, async t => {
    const { connect, close, port, vite } = await beside(t, order, async ({ draining, writable }) => {
      writable.write('hello')
      await once(draining, 'abort')
      writable.end('bye')
    })
    const browser = await vite.browse(await connect(), port)
    await browser.hear()
    const wire = await connect()
    await within('the accept head', wire.send(request('GET /it', ...UPGRADE)).head())
    t.equal((await within('hello', wire.bytes(5))).toString(), 'hello')
    const closed = close()
    t.equal((await within('bye', wire.rest())).toString(), 'bye')
    wire.end()
    await closed
    t.equal(await within('the end of HMR', browser.closed), 1006)
  })
}
