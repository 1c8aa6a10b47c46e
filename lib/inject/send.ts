import { Server as HttpServer } from 'node:http'
import { Server as HttpsServer } from 'node:https'
import { FST_ERR_DUPLEX_CANNOT_INJECT } from '../errors.ts'
import { speaksHttp2 } from '../http2/server.ts'
import type { InjectedClients } from './injected-clients.ts'
import { injectHttp1 } from './http1.ts'
import { injectHttp2 } from './http2.ts'
import type { Injected, Injection } from './options.ts'

export { injection } from './options.ts'

/** On a connection in memory, in the HTTP that the server speaks. */
export async function send (server: object, wanted: Injection, clients: InjectedClients): Promise<Injected> {
  const http1 = server instanceof HttpServer || server instanceof HttpsServer
  if (!http1 && !speaksHttp2(server)) throw new FST_ERR_DUPLEX_CANNOT_INJECT()
  wanted.signal?.throwIfAborted()
  return http1 ? injectHttp1(server, wanted, clients) : injectHttp2(server, wanted, clients)
}
