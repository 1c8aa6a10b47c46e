import type { IncomingMessage } from 'node:http'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { request } from './fixtures/requests.ts'
import { echo, share, within } from './fixtures/shared-server.ts'

/** A constraint such that a request with a tenant reaches only routes of that tenant. */
const tenant = {
  name: 'tenant',
  mustMatchWhenDerived: true,
  validate () {},
  storage () {
    const routes = new Map<unknown, unknown>()
    return { get: (value: unknown) => routes.get(value) ?? null, set: (value: unknown, route: unknown) => { routes.set(value, route) } }
  },
  deriveConstraint: (req: IncomingMessage) => req.headers['x-tenant']
}

type Declare = (app: FastifyInstance) => void

const plain = (url: string, who: string): Declare => app => {
  app.post(url, { constraints: { tenant: who } as never }, async () => 'plain')
}
const ours = (url: string, who?: string): Declare => app => {
  app.post(url, { ...(who === undefined ? {} : { constraints: { tenant: who } }), duplex: { kinds: ['body'] } } as never, echo as never)
}

for (const [what, declare, who, wanted] of [
  ['a plain route of this tenant at the same URL', [plain('/a/b', 'x'), ours('/a/b', 'x')], 'x', 'plain'],
  ['a plain route of another tenant at the same URL', [plain('/a/b', 'y'), ours('/a/b', 'x')], 'x', 'duplex'],
  ['a plain route of this tenant at a URL that is more specific', [plain('/a/b', 'x'), ours('/a/:any', 'x')], 'x', 'plain'],
  ['a plain route of this tenant at a URL that is less specific', [plain('/*', 'x'), ours('/a/:any', 'x')], 'x', 'duplex'],
  ['a plain route of another tenant at a URL that is less specific', [plain('/*', 'y'), ours('/a/:any', 'x')], 'x', 'duplex'],
  ['a plain route of another tenant at a URL that is more specific', [plain('/a/b', 'y'), ours('/a/:any', 'x')], 'x', 'duplex'],
  ['a duplex route without a tenant', [plain('/*', 'x'), ours('/a/b')], 'x', 'plain']
] as const) {
  for (const order of ['first', 'last']) {
    t.test(`R15 a constraint that must match, and ${what}, declared ${order}`, async t => {
      const fastify = { routerOptions: { constraints: { tenant: tenant as never } } }
      const { connect } = await share(t, { fastify }, app => {
        for (const one of order === 'first' ? declare : declare.toReversed()) one(app)
      })
      const wire = await connect()
      wire.send(request('POST /a/b', `X-Tenant: ${who}`, 'Content-Type: text/plain', 'Transfer-Encoding: chunked') + '2\r\nhi\r\n0\r\n\r\n')
      const { status, headers } = await within('an answer', wire.head())
      t.equal(status, 200)
      t.equal(headers['content-length'] === '5' ? 'plain' : 'duplex', wanted)
    })
  }
}
