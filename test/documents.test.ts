import swagger from '@fastify/swagger'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import duplex from '../lib/index.ts'

interface Document {
  paths: Record<string, Record<string, unknown>>
}

/** The methods that an OpenAPI path item may have. */
const METHODS = ['get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace', 'query']

for (const order of ['before', 'after'] as const) {
  t.test(`Q46 @fastify/swagger, registered ${order} it, documents no duplex route, and nothing invalid`, async t => {
    const app: FastifyInstance = Fastify()
    t.teardown(() => app.close())
    if (order === 'before') await app.register(swagger, { openapi: {} })
    await app.register(duplex)
    if (order === 'after') await app.register(swagger, { openapi: {} })
    app.get('/hidden', { duplex: true }, () => {})
    app.get('/shown', { duplex: true, schema: { hide: false } as never }, () => {})
    app.get('/shared', { duplex: true }, () => {})
    app.get('/shared', { schema: { summary: 'plain' } }, async () => 'plain')
    app.route({ method: 'CONNECT', url: '*', duplex: true, handler: () => {} })
    app.all('/all', async () => 'all')
    await app.ready()
    const { paths } = (app as unknown as { swagger: () => Document }).swagger()
    t.same(Object.keys(paths).sort(), ['/all', '/shared', '/shown'])
    t.match(paths['/shared'], { get: { summary: 'plain' } })
    for (const [path, item] of Object.entries(paths)) t.same(Object.keys(item).filter(method => !METHODS.includes(method)), [], path)
  })
}
