// An HTTP proxy for CONNECT, with a list of the only targets that it connects to, and a password.
//
// A name on the list is not enough: it is resolved once, the address is checked, and the connection
// goes to that address, so that no name can lead into the private network, and no second answer of
// the DNS can either. An entry with =private may lead there.
//
// The proxy dials first and accepts then: 407 without the password, 403 for what is not allowed, 502 for what does not
// answer, 504 for what does not answer in time, and 200 only for a tunnel that stands.
//
// Run it:     ALLOW=example.com:443,*:80,localhost:3000=private AUTH=me:secret PORT=3128 node examples/connect-proxy.ts
//             ALLOW is a list of host:port; * is any host. Without it every target is refused.
//             AUTH is a name and a password; without it everybody may use the proxy.
//             Before Node 22.18: npm run setup, then .build/examples/connect-proxy.js in its place.
// Drive it:   curl -U me:secret -x http://localhost:3128 https://example.com/
//             curl -U me:secret -p -x http://localhost:3128 http://localhost:3000/   (with examples/echo.ts running)
//             curl -U me:secret -p -x http://localhost:3128 http://127.0.0.1:80/     403: * does not mean private addresses
//             curl -U me:secret -p -x http://localhost:3128 http://example.com:22/   403: not on the list
//             curl -U me:secret -p -x http://localhost:3128 http://nowhere.invalid/  502
//             curl -p -x http://localhost:3128 http://example.com/                   407
import { createHash, timingSafeEqual } from 'node:crypto'
import { isIPv6, type AddressInfo } from 'node:net'
import Fastify from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex, { dial, publicOnly, tunnel, type DuplexAuthority } from '../lib/index.ts'

/** host:port to whether it may be in a private network. */
const allowed = new Map((process.env.ALLOW ?? '').split(',').filter(Boolean).map(entry => {
  const [target = '', mark] = entry.trim().toLowerCase().split('=')
  return [target, mark === 'private'] as const
}))

/** Whether a target that is on the list may be in a private network; undefined if it is not on the list. */
function mayBePrivate ({ host, port }: DuplexAuthority): boolean | undefined {
  return allowed.get(isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`) ?? allowed.get(`*:${port}`)
}

/** Hashes have one length, and their comparison tells nothing of where they differ. */
const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
const { AUTH } = process.env
const credentials = AUTH === undefined ? undefined : digest(`Basic ${Buffer.from(AUTH).toString('base64')}`)

const app = Fastify({ logger: true })
await app.register(duplex, { drainTimeout: 5000, idleTimeout: 300_000, maxConnections: 1000 })

app.addHook('onRequest', async (request, reply) => {
  const given = request.headers['proxy-authorization'] ?? ''
  if (credentials === undefined || timingSafeEqual(digest(given), credentials)) return
  // RFC 9110 section 11.7.1.
  return await reply.code(407).header('proxy-authenticate', 'Basic realm="proxy", charset="UTF-8"').send({ error: 'a password is needed' })
})

app.connect('*', { duplex: { accept: 'manual' } }, async (pending, request) => {
  const { authority } = pending
  const isPrivate = mayBePrivate(authority)
  if (isPrivate === undefined) return await pending.reply.code(403).send({ error: `${authority.host}:${authority.port} is not on the list` })
  await tunnel(pending, async signal => {
    const upstream = await dial(authority, { signal, check: isPrivate ? undefined : publicOnly })
    request.log.info({ authority, address: upstream.remoteAddress }, 'tunnel')
    return upstream
  })
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3128), host: process.env.HOST ?? 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}, allowed: ${[...allowed.keys()].join(', ') || 'nothing'}`)
