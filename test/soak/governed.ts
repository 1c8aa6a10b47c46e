// The part of the soak for what governs long connections: keys, expiry, labels, rates and the spread drain, all switched on, for
// every kind, over HTTP/1 and HTTP/2, on bytes, WebSocket, tunnels and forwards. Each connection has a fate, and has to end so.
import { randomBytes } from 'node:crypto'
import { addAbortListener, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import { connect, DuplexRefused, type ClientConnection, type ConnectOptions } from '../../lib/client/index.ts'
import { Wheel } from '../../lib/governance/rate/wheel.ts'
import duplex, { channels, tunnel, type DuplexConnection } from '../../lib/index.ts'

/** What it shares with the rest. */
export interface Soak {
  random: (below: number) => number
  count: (what: string) => void
  problem: (what: string) => void
}

const FATES = ['lives', 'expires', 'extended', 'too late', 'revoked', 'crowded'] as const
type Fate = typeof FATES[number]
/** The reason of its end, as the server has it. */
const ENDS: Record<Fate, string> = { lives: 'end', expires: 'expired', extended: 'end', 'too late': '', revoked: 'revoked', crowded: 'end' }
/** What may be in place of an acceptance, on a machine that is slow. */
const REFUSED: Partial<Record<Fate, number>> = { expires: 401, extended: 401, 'too late': 401, revoked: 403, crowded: 429 }

const GROUPS = 8
const CROWDS = 1
const CROWD = 2
const DRAIN_SPREAD = 500
const DRAIN_TIMEOUT = 1000
const HELD = 40

interface Front {
  app: FastifyInstance
  url: string
  http2: boolean
}

const header = (request: unknown, name: string): string | undefined => (request as { headers: Record<string, string> }).headers[name]

async function serveFront (http2: boolean, upstream: string): Promise<Front> {
  const app = Fastify(http2 ? { http2: true } as object : {})
  await app.register(duplex, {
    extendedConnect: http2,
    drainTimeout: DRAIN_TIMEOUT,
    drainSpread: DRAIN_SPREAD,
    maxConnections: { max: CROWD, key: request => header(request, 'x-key') as string },
    expires: request => {
      const expires = header(request, 'x-expires')
      return expires === undefined ? undefined : Date.now() + Number(expires)
    },
    expiryGrace: 20,
    labels: request => ['all', header(request, 'x-label') ?? 'none']
  })
  const echo = async (connection: DuplexConnection, request: unknown): Promise<void> => {
    const { readable, writable, draining } = connection
    if (header(request, 'x-fate') === 'extended') addAbortListener(draining, () => { connection.extend(undefined) })
    for await (const chunk of readable) if (!writable.write(chunk)) await once(writable, 'drain')
  }
  const rate = { bytesIn: 400_000, bytesOut: 300_000 }
  app.route({ method: ['GET', 'POST'], url: '/echo', duplex: true, handler: echo })
  app.route({ method: ['GET', 'POST'], url: '/rated', duplex: { rate }, handler: echo })
  app.get('/room', { duplex: { websocket: true, rate } }, async (connection, request) => {
    const { readable, send, draining } = connection
    if (header(request, 'x-fate') === 'extended') addAbortListener(draining, () => { connection.extend(undefined) })
    for await (const message of readable) await send(message)
  })
  app.route({ method: ['GET', 'POST'], url: '/far', duplex: { forward: { to: upstream, path: '/echo' }, rate } })
  app.connect('/echo/:port', { duplex: { rate } }, echo)
  app.connect('/tunnel/:port', { duplex: { accept: 'manual', rate } }, pending => tunnel(pending, () => new PassThrough()))
  await app.listen({ port: 0, host: '127.0.0.1' })
  return { app, url: `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`, http2 }
}

async function serveUpstream (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(duplex, { drainTimeout: DRAIN_TIMEOUT })
  app.route({
    method: ['GET', 'POST'],
    url: '/echo',
    duplex: true,
    handler: async ({ readable, writable }) => { for await (const chunk of readable) if (!writable.write(chunk)) await once(writable, 'drain') }
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  return app
}

/** A way in, at random: its path, and what the client asks with. */
function wayIn (http2: boolean, fate: Fate, random: Soak['random']): [path: string, options: ConnectOptions] {
  // Nothing else hears of its end and can move it.
  const paths = fate === 'extended' ? ['/echo', '/rated', '/room'] : ['/echo', '/rated', '/room', '/far', 'echo:1', 'tunnel:1']
  const path = paths[random(paths.length)] as string
  if (path === '/room') return [path, { websocket: true }]
  if (path.endsWith(':1')) return ['/', { target: path }]
  const ways: ConnectOptions[] = [{ protocol: 'soak' }, { body: true }]
  // A plain GET of HTTP/2 has no body. A forwarded one is answered, and not taken over.
  if (!http2 && path !== '/far') ways.push({})
  return [path, ways[random(ways.length)] as ConnectOptions]
}

let number = 0

async function cycle ({ url, http2 }: Front, { random, count, problem }: Soak): Promise<void> {
  const fate = FATES[random(FATES.length)] as Fate
  const [path, options] = wayIn(http2, fate, random)
  const wrong = (what: string): void => problem(`${fate} at ${path} ${JSON.stringify(options)}${http2 ? ' over HTTP/2' : ''}: ${what}`)
  const headers: Record<string, string> = { 'x-fate': fate, 'x-key': fate === 'crowded' ? `crowd:${random(CROWDS)}` : `one:${number++}` }
  if (fate === 'expires') headers['x-expires'] = String(5 + random(60))
  if (fate === 'extended') headers['x-expires'] = String(20 + random(40))
  if (fate === 'too late') headers['x-expires'] = '-1'
  if (fate === 'revoked') headers['x-label'] = `group:${random(GROUPS)}`
  let connection: ClientConnection
  try {
    connection = await connect(`${url}${path}`, { ...options, http2, headers }) as ClientConnection
  } catch (error) {
    if (!(error instanceof DuplexRefused)) throw error
    const { statusCode, headers: { 'retry-after': retryAfter } } = error
    if (statusCode !== REFUSED[fate]) wrong(`refused with ${statusCode} ${String(await error.body())}`)
    if (statusCode === 429 && !/^[1-9]/.test(String(retryAfter))) wrong('a 429 without Retry-After')
    count(`refused: ${statusCode}`)
    await error.body()
    return
  }
  connection.readable.on('error', () => {})
  connection.writable.on('error', () => {})
  if (fate === 'too late') return wrong('accepted')
  if (ENDS[fate] !== 'end') return await last(connection, fate, random, wrong)
  if (fate === 'extended') await sleep(100)
  if (fate === 'crowded') await sleep(random(100))
  await exchange(connection, options.websocket === true, random, wrong)
}

/** Sends now and then, until the server ends it. */
async function last (connection: ClientConnection, fate: Fate, random: Soak['random'], wrong: (what: string) => void): Promise<void> {
  const { readable, writable, closed } = connection
  readable.resume()
  const sending = setInterval(() => { if (writable.writable) writable.write('x'.repeat(1 + random(2000))) }, 5 + random(20))
  const { reason, websocket } = await closed
  clearInterval(sending)
  if (reason === 'end' && websocket === undefined) wrong('it looks like a whole one')
  const code = fate === 'expires' ? 4401 : 4403
  // A close frame gets lost where the connection is reset behind it, with input that nobody has read.
  if (websocket !== undefined && websocket.code !== code && websocket.code !== 1006) wrong(`closed with ${websocket.code}`)
}

async function exchange (connection: ClientConnection, websocket: boolean, random: Soak['random'], wrong: (what: string) => void): Promise<void> {
  const { readable, writable, closed } = connection
  const sent = randomBytes(random(8) === 0 ? random(60_000) : random(4000))
  const chunks: Buffer[] = []
  const writing = (async () => {
    for (let at = 0; at < sent.length;) {
      const size = Math.min(sent.length - at, 1 + random(16_000))
      if (!writable.write(sent.subarray(at, at + size))) await once(writable, 'drain')
      at += size
      if (random(4) === 0) await sleep(random(3))
    }
    if (!websocket) writable.end()
  })()
  try {
    let length = 0
    if (!websocket || sent.length > 0) {
      for await (const chunk of readable as AsyncIterable<Buffer>) {
        chunks.push(chunk)
        length += chunk.length
        if (websocket && length >= sent.length) break
      }
    }
    await writing
  } catch (error) {
    return wrong(String(error))
  }
  if (!Buffer.concat(chunks).equals(sent)) wrong(`${sent.length} bytes sent, others back`)
  if (websocket) void connection.close()
  const { reason } = await closed
  if (reason !== 'end') wrong(`the client has ${reason}`)
}

/** Runs so many clients for so long, and looks then what is left. */
export async function governed (soak: Soak, clients: number, until: number): Promise<void> {
  const { random, count, problem } = soak
  const upstream = await serveUpstream()
  const upstreamUrl = `http://127.0.0.1:${(upstream.server.address() as AddressInfo).port}`
  const fronts = [await serveFront(false, upstreamUrl), await serveFront(true, upstreamUrl)] as const
  const servers = new Set<unknown>(fronts.map(({ app }) => app.server))

  const { wait } = Wheel.prototype
  Wheel.prototype.wait = function (waiter, delay) {
    if (waiter.slot === -1) count('rate: had to wait')
    wait.call(this, waiter, delay)
  }
  channels.close.subscribe(({ request, closed: { reason } }) => {
    if (!servers.has(request.server.server)) return
    count(`governed: ${reason}`)
    const fate = header(request, 'x-fate') as Fate | undefined
    if (fate !== undefined && ENDS[fate] !== reason) problem(`${fate} at ${request.url}: ended as ${reason}`)
  })
  const revoking = setInterval(() => {
    const options = [{}, { within: 5 }, { code: 4403 }, { error: new Error('private') }][random(4)] as object
    for (const { app } of fronts) app.duplex.close(`group:${random(GROUPS)}`, options)
  }, 20)

  await Promise.all(Array.from({ length: clients }, async (_, at) => {
    while (Date.now() < until) {
      await cycle(fronts[at % 2] as Front, soak).catch(error => problem(String((error as Error).stack ?? error)))
      count('governed cycles')
    }
  }))
  clearInterval(revoking)
  for (const front of fronts) await end(front, soak)
  await upstream.close()
  Wheel.prototype.wait = wait
}

/** Nothing is left of those that came and went, and the last ones are told one after the other. */
async function end ({ app, url, http2 }: Front, { count, problem }: Soak): Promise<void> {
  const which = http2 ? 'HTTP/2' : 'HTTP/1'
  const patience = Date.now() + 10_000
  while (app.duplex.connections.size > 0 && Date.now() < patience) await sleep(20)
  if (app.duplex.find('all').length > 0) problem(`${app.duplex.find('all').length} are found by a label over ${which}, ${app.duplex.connections.size} are open`)
  const open = (key: string): Promise<ClientConnection> => connect(`${url}/echo`, { protocol: 'soak', http2, headers: { 'x-key': key } })
  const held: ClientConnection[] = []
  for (let crowd = 0; crowd < CROWDS; crowd++) {
    for (let n = 0; n < CROWD; n++) {
      await open(`crowd:${crowd}`).then(connection => held.push(connection), () => problem(`a place of crowd ${crowd} was never given back over ${which}`))
    }
    const tooMany = await open(`crowd:${crowd}`).then(() => 101, error => (error as DuplexRefused).statusCode)
    if (tooMany !== 429) problem(`one too many of a crowd over ${which}: ${tooMany}`)
  }
  while (held.length < HELD) held.push(await open(`held:${held.length}`))
  const from = performance.now()
  const ends: number[] = []
  for (const { readable, closed } of held) {
    readable.on('error', () => {}).resume()
    void closed.then(() => ends.push(performance.now() - from))
  }
  await app.close()
  const took = performance.now() - from
  if (took > DRAIN_SPREAD + DRAIN_TIMEOUT + 2000) problem(`the drain over ${which} took ${Math.round(took)} ms`)
  await Promise.all(held.map(({ closed }) => closed))
  if ((ends.at(-1) as number) - (ends[0] as number) < DRAIN_SPREAD / 2) problem(`all were told at once over ${which}`)
  count('drained evenly')
}
