import { setTimeout as sleep } from 'node:timers/promises'
import { Client, Server, type LoadOptions } from './processes.ts'
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

interface IdleOptions extends Pick<LoadOptions, 'greeting' | 'then'> {
  drain?: boolean
  /** Milliseconds in which nothing happens before memory is looked at. */
  quiet?: number
}

/** Opens connections on a server of its own, and looks what they cost while nothing happens on them. */
export async function idle (
  name: ServerName, connections: number, request: string, { drain = false, quiet = 0, ...more }: IdleOptions = {}
): Promise<Idle> {
  const server = await Server.start(name)
  const open = (count: number): Promise<Client> => Client.start(server.port, { connections: count, ms: 0, request, ...more, reply: 1 })
  // The first ones pay for code and for the heap's first growth.
  await (await open(200)).stop()
  await sleep(quiet)
  const before = await server.ask('memory')
  const { cpu: cpuBefore } = await server.used()
  const client = await open(connections)
  await sleep(quiet)
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
  const server = await Server.start(name, 'track')
  const client = await Client.start(server.port, { connections, ms: 0, request })
  const { alive = {} } = await server.ask('memory')
  await client.stop()
  server.stop()
  return Object.fromEntries(Object.entries(alive).map(([kind, count]) => [kind, count / connections]))
}
