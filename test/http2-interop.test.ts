import { once } from 'node:events'
import type { IncomingHttpHeaders } from 'node:http2'
import t from 'tap'
import { connectSession } from './fixtures/http2-wire.ts'
import { serve } from './fixtures/server.ts'

t.test('a message over HTTP/2 tells intermediaries not to buffer it, unless the app says otherwise', async t => {
  const { port } = await serve(t, { transport: 'h2' }, app => {
    app.get('/plain', { duplex: true }, async () => {})
    app.get('/own', { duplex: true, onRequest: async (_request, reply) => { reply.header('x-accel-buffering', 'yes') } }, async () => {})
  })
  const { session } = await connectSession(port)
  t.teardown(() => session.destroy())
  const fields = async (path: string): Promise<unknown[]> => {
    const request = session.request({ ':path': path })
    const [headers] = await once(request.resume(), 'response') as [IncomingHttpHeaders]
    return [headers['x-accel-buffering'], headers.incremental]
  }
  t.strictSame(await fields('/plain'), ['no', '?1'])
  t.strictSame(await fields('/own'), ['yes', '?1'])
})
