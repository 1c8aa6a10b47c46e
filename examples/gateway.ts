// One app in front of several servers, each under its name: /apps/NAME/... goes to the server of that name, for clients with a
// token. Everything passes that HTTP has: plain requests, streaming uploads, Server-Sent Events, WebSockets over
// HTTP/1 and HTTP/2, and Docker's upgrades.
//
// Run it:     SECRET=secret APPS='{"web":"http://localhost:8080","engine":{"socketPath":"/var/run/docker.sock"}}' node examples/gateway.ts
//             PORT=8080 npm start, in another terminal, is a server to be behind it.
//             Before Node 22.18: npm run setup, then .build/examples/gateway.js in its place.
//             HTTP2=1 makes it speak HTTP/2; without TLS that is for clients that know so before, such as another proxy.
// Drive it:   TOKEN=$(node -p "require('fast-jwt').createSigner({ key: 'secret' })({ apps: ['web'] })")
//             curl -H "Authorization: Bearer $TOKEN" http://localhost:3000/apps/web/
//             (echo one; sleep 1; echo two) | curl -sN -T . -H "Authorization: Bearer $TOKEN" http://localhost:3000/apps/web/echo
//             npx fastify-duplex --upgrade echo -H "authorization: Bearer $TOKEN" http://localhost:3000/apps/web/echo
//             curl -i -H "Authorization: Bearer $TOKEN" http://localhost:3000/apps/engine/version      403: the token is for others
//             curl -i http://localhost:3000/apps/web/                                                  401
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyServerOptions } from 'fastify'
import jwt from '@fastify/jwt'
// In an app of your own: from 'fastify-duplex'
import duplex, { type ForwardTarget } from '../lib/index.ts'

const secret = process.env.SECRET
if (secret === undefined) throw new Error('SECRET must be set: it signs the tokens')
const apps = new Map(Object.entries(JSON.parse(process.env.APPS ?? '{}') as Record<string, ForwardTarget>))

const app = Fastify({ logger: true, ...process.env.HTTP2 === '1' ? { http2: true } : {} } as FastifyServerOptions)
await app.register(duplex, { drainTimeout: 3000, ...process.env.HTTP2 === '1' ? { extendedConnect: true } : {} })
await app.register(jwt, { secret })

app.all<{ Params: { name: string } }>('/apps/:name/*', {
  async onRequest (request, reply) {
    // A browser cannot set Authorization on a WebSocket: the token may be in the query.
    const { token } = request.query as { token?: string }
    if (token !== undefined) request.headers.authorization ??= `Bearer ${token}`
    const { apps } = await request.jwtVerify<{ apps?: string[] }>()
    if (apps?.includes(request.params.name) !== true) return await reply.code(403).send({ error: 'This token is for other apps' })
  },
  duplex: {
    forward: {
      to: request => apps.get(request.params.name),
      // Two segments, and not the text of the name: that may be encoded in the path.
      path: path => withoutToken(path.replace(/^(?:\/[^/?]+){2}/, '')),
      requestHeaders (fields, request) {
        // Whom the app can believe: the gateway has checked it, and what the client calls itself by this name was overwritten.
        delete fields.authorization
        fields['x-user'] = String((request.user as { sub?: string }).sub ?? '')
      }
    }
  }
})

/** It is for the gateway, and upstreams write their logs. */
function withoutToken (path: string): string {
  return path.replace(/([?&])token=[^&]*&?/, '$1').replace(/[?&]$/, '')
}

// Otherwise the default action of these signals would end the process at once.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: process.env.HOST ?? 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}`)
