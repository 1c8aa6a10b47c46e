import t from 'tap'
import { guarded, serveGuarded, until } from './fixtures/baseline.ts'
import { connectFrames, type Frames } from './fixtures/http2-frames.ts'
import { requests } from './fixtures/http2-server.ts'
import { take } from './fixtures/kinds.ts'

/** How a client breaks HTTP/2, so that the server has nothing more to say to it. */
const faults: Record<string, (client: Frames) => unknown> = {
  'a frame that is too long': client => client.socket.write(Buffer.from('ffffffffffffffffff', 'hex')),
  'DATA behind its END_STREAM': client => client.data(1, 'last', true).data(1, 'more'),
  'a window of 0 bytes': client => client.take(1, 0)
}

for (const [what, breaks] of Object.entries(faults)) {
  t.test(`Q6 clients that send ${what}, and leave, hold no slot, accepted or pending [h2]`, guarded(async t => {
    let entered = 0
    let told = 0
    const handler = ({ closed }: { closed: Promise<unknown> }): Promise<never> => {
      entered++
      void closed.then(() => told++)
      return new Promise<never>(() => {})
    }
    const server = await serveGuarded(t, { transport: 'h2' }, app => {
      take(app, handler)
      app.post('/pending', { duplex: { accept: 'manual' } }, handler)
    })
    const asked = [...Object.values(requests), { ...requests.body, ':path': '/pending' }]
    const clients = await Promise.all(asked.map(() => connectFrames(t, server.port)))
    for (const [at, client] of clients.entries()) client.headers(1, asked[at] as Record<string, string>)
    await until(() => entered === asked.length)
    for (const client of clients) {
      breaks(client)
      client.socket.end()
    }
    await until(() => told === asked.length, 'that every handler is told')
    await server.quiet()
  }))
}
