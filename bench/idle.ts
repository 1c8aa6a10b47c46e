import { Client, Server } from './processes.ts'
import type { ServerName } from './protocol.ts'

export interface Idle {
  /** Bytes for one connection. */
  rss: number
  heap: number
  /** Microseconds of the server's processor to accept one. */
  cpu: number
  /** Milliseconds that `close()` took with all of them, where it was asked for. */
  drain?: number
}

/** Opens connections on a server of its own, and looks what they cost while nothing happens on them. */
export async function idle (
  name: ServerName, connections: number, request: string | Buffer, { drain = false, greeting = 0 } = {}
): Promise<Idle> {
  const server = await Server.startAsIs(name)
  const open = (count: number): Promise<Client> => Client.start(server.port, { connections: count, ms: 0, request, greeting, reply: 1 })
  // The first ones pay for code and for the heap's first growth.
  await (await open(200)).stop()
  const before = await server.ask('memory')
  const { cpu: cpuBefore } = await server.used()
  const client = await open(connections)
  const cpu = ((await server.used()).cpu - cpuBefore) / connections
  const after = await server.ask('memory')
  const per = (what: 'rss' | 'heapUsed'): number => ((after[what] ?? 0) - (before[what] ?? 0)) / connections
  const result: Idle = { rss: per('rss'), heap: per('heapUsed'), cpu }
  if (drain) {
    const closing = server.ask('close')
    await client.gone()
    result.drain = (await closing).milliseconds ?? NaN
  }
  await client.stop()
  server.stop()
  return result
}

/** What the connections keep alive, of the objects that HTTP and Fastify made for them. */
export async function keptAlive (name: ServerName, connections: number, request: string): Promise<Record<string, number>> {
  const server = await Server.startAsIs(name, 'track')
  const client = await Client.start(server.port, { connections, ms: 0, request })
  const { alive = {} } = await server.ask('memory')
  await client.stop()
  server.stop()
  return Object.fromEntries(Object.entries(alive).map(([kind, count]) => [kind, count / connections]))
}
