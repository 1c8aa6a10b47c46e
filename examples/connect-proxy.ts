// An HTTP proxy for CONNECT, with a list of the only targets that it connects to.
//
// A name on the list is not enough: it is resolved once, the address is checked, and the connection
// goes to that address, so that no name can lead into the private network, and no second answer of
// the DNS can either. An entry with =private may lead there.
//
// The proxy dials first and accepts then: 403 for what is not allowed, 502 for what does not answer,
// and 200 only for a tunnel that stands.
//
// Run it:     ALLOW=example.com:443,*:80,localhost:3000=private PORT=3128 node examples/connect-proxy.ts
//             ALLOW is a list of host:port; * is any host. Without it every target is refused.
//             Before Node 22.18: npm run setup, then .build/examples/connect-proxy.js in its place.
// Drive it:   curl -x http://localhost:3128 https://example.com/
//             curl -p -x http://localhost:3128 http://localhost:3000/     (with examples/echo.ts running)
//             curl -p -x http://localhost:3128 http://127.0.0.1:80/       403: * does not mean private addresses
//             curl -p -x http://localhost:3128 http://example.com:22/     403: not on the list
//             curl -p -x http://localhost:3128 http://nowhere.invalid/    502
import { lookup } from 'node:dns/promises'
import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import Fastify from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex, { tunnel, type DuplexAuthority } from '../lib/index.ts'

const DIAL_TIMEOUT = 10_000

/** host:port to whether it may be in a private network. */
const allowed = new Map((process.env.ALLOW ?? '').split(',').filter(Boolean).map(entry => {
  const [target = '', mark] = entry.trim().toLowerCase().split('=')
  return [target, mark === 'private'] as const
}))

// Whatever is not the public internet: RFC 6890 and the IANA registries of special-purpose addresses.
const special = new net.BlockList()
for (const [address, bits] of [
  ['0.0.0.0', 8], ['10.0.0.0', 8], ['100.64.0.0', 10], ['127.0.0.0', 8], ['169.254.0.0', 16], ['172.16.0.0', 12],
  ['192.0.0.0', 24], ['192.0.2.0', 24], ['192.88.99.0', 24], ['192.168.0.0', 16], ['198.18.0.0', 15],
  ['198.51.100.0', 24], ['203.0.113.0', 24], ['224.0.0.0', 4], ['240.0.0.0', 4]
] as const) special.addSubnet(address, bits, 'ipv4')
// Of IPv6 only 2000::/3 is global unicast, without these: Teredo and others, documentation, 6to4.
for (const [address, bits] of [['2001::', 23], ['2001:db8::', 32], ['2002::', 16], ['3fff::', 20]] as const) {
  special.addSubnet(address, bits, 'ipv6')
}
const globalUnicast = new net.BlockList()
globalUnicast.addSubnet('2000::', 3, 'ipv6')

function isPublic (address: string): boolean {
  if (net.isIPv4(address)) return !special.check(address, 'ipv4')
  return globalUnicast.check(address, 'ipv6') && !special.check(address, 'ipv6')
}

class Refusal extends Error {
  readonly statusCode: number

  constructor (statusCode: number, message: string, cause?: unknown) {
    super(message, { cause })
    this.statusCode = statusCode
  }
}

/** The addresses of a target that is allowed. */
async function resolve ({ host, port }: DuplexAuthority): Promise<string[]> {
  const target = net.isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`
  const mayBePrivate = allowed.get(target) ?? allowed.get(`*:${port}`)
  if (mayBePrivate === undefined) throw new Refusal(403, `${target} is not on the list`)
  let addresses: string[]
  try {
    addresses = (await lookup(host, { all: true })).map(({ address }) => address)
  } catch (error) {
    throw new Refusal(502, `${host} cannot be resolved`, error)
  }
  if (!mayBePrivate && !addresses.every(isPublic)) throw new Refusal(403, `${target} leads into a private network`)
  return addresses
}

/** Tries one address after the other. They are addresses: nothing is resolved again. */
async function dial (addresses: string[], port: number, signal: AbortSignal): Promise<Socket> {
  let failure: unknown
  for (const host of addresses) {
    signal.throwIfAborted()
    const upstream = net.connect({ host, port, allowHalfOpen: true, noDelay: true })
    try {
      await once(upstream, 'connect', { signal: AbortSignal.any([signal, AbortSignal.timeout(DIAL_TIMEOUT)]) })
      return upstream
    } catch (error) {
      upstream.on('error', () => {}).destroy()
      failure = error
    }
  }
  throw new Refusal(502, 'the target does not answer', failure)
}

const app = Fastify({ logger: true })
await app.register(duplex, { drainTimeout: 5000, idleTimeout: 300_000, maxConnections: 1000 })

app.connect('*', { duplex: { accept: 'manual' } }, async (pending, request) => {
  const { authority, signal } = pending
  const upstream = await dial(await resolve(authority), authority.port, signal)
  request.log.info({ authority, address: upstream.remoteAddress }, 'tunnel')
  try {
    await tunnel(await pending.accept(), upstream)
  } finally {
    upstream.destroy()
  }
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3128), host: process.env.HOST ?? 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}, allowed: ${[...allowed.keys()].join(', ') || 'nothing'}`)
