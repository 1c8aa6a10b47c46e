import type { IncomingMessage, Server as HttpServer } from 'node:http'
import type { Server as HttpsServer } from 'node:https'
import { Server as TlsServer } from 'node:tls'
import { exchangeHttp1 } from '../client/http1.ts'
import type { Answer, Exchange } from '../client/exchange.ts'
import { onWhole } from '../internals/http-messages.ts'
import type { InjectedClients } from './injected-clients.ts'
import { invalid, type Injected, type Injection } from './options.ts'
import { MemorySocket } from './memory-socket.ts'
import { noBody } from './no-body.ts'

/** A request of the client's to a server of HTTP/1, on a connection in memory. */
export async function injectHttp1 (server: HttpServer | HttpsServer, wanted: Injection, clients: InjectedClients): Promise<Injected> {
  const tls = server instanceof TlsServer
  const link = MemorySocket.pair(tls)
  const { client } = link
  client.abrupt = true
  link.server.readsAll = true
  const exchange = exchangeOn(client, wanted)
  // A TLS server gives HTTP the result of its handshakes. HTTP needs nothing of it that is special to TLS.
  server.emit(tls ? 'secureConnection' : 'connection', link.server)
  let answer
  try {
    answer = await exchange.answer
  } catch (error) {
    // The codes of an upstream mean nothing to a test, so it gets the original error.
    const { code, cause } = error as Error & { code?: unknown }
    throw String(code).startsWith('FST_ERR_DUPLEX_UPSTREAM_') && cause instanceof Error ? cause : error
  }
  const { kind, statusCode, headers, readable, writable } = answer
  follow(client, exchange, answer, clients)
  const closed = exchange.over.then(({ complete, error }) => {
    // The end of the server's side counts as complete, also if it does not wait for the client's end.
    return error === undefined || complete || (kind !== 'body' && client.peerEnded) ? { complete: true } : { complete: false, error }
  })
  const cannotWrite = kind === 'body' && statusCode < 300 && exchange.body === undefined
  return { statusCode, headers, readable, writable: cannotWrite ? noBody() : writable, closed }
}

function exchangeOn (client: MemorySocket, { method, target, headers, offer, payload, open, framed, early, signal }: Injection): Exchange {
  const written = open && framed
  const fields = new Map(headers)
  if (offer.length > 0) {
    fields.set('upgrade', offer.join(', '))
    if (!fields.has('connection')) fields.set('connection', 'Upgrade')
  }
  try {
    const exchange = exchangeHttp1(client, {
      method,
      target,
      headers: [...fields].flatMap(([name, value]) => Array.isArray(value) ? value.flatMap(one => [name, one]) : [name, String(value)]),
      body: written ? true : framed ? payload : undefined,
      early: written ? undefined : early,
      signal
    })
    if (written && early !== undefined) exchange.body?.write(early)
    return exchange
  } catch (error) {
    // The other end has no listener yet that could be told of a reset.
    client.abrupt = false
    client.destroy()
    if (signal?.aborted === true) throw error
    throw invalid((error as Error).message, error)
  }
}

/** What the client does by itself after the server has said everything. */
function follow (client: MemorySocket, { body, over }: Exchange, { kind, statusCode, readable }: Answer, clients: InjectedClients): void {
  if (kind !== 'body') {
    client.onPeerEnding = clients.add(over, () => { if (client.peerEnding) client.end() })
    return
  }
  const res = readable as IncomingMessage
  const look = clients.add(over, () => { if (res.complete) body?.end() })
  const whole = (): void => {
    // The connection carries nothing more, and both ends know that.
    client.abrupt = false
    // RFC 9112 section 9.5: nobody wants the rest of what was refused.
    if (statusCode >= 300) client.destroySoon()
    look()
  }
  if (res.complete) whole()
  else onWhole(res, whole)
}
