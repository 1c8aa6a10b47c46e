import { request as send, type ClientRequest, type IncomingMessage, type Server as HttpServer } from 'node:http'
import type { Server as HttpsServer } from 'node:https'
import type { Readable, Writable } from 'node:stream'
import { Server as TlsServer } from 'node:tls'
import { FST_ERR_DUPLEX_ABORTED } from '../errors.ts'
import type { Farewell } from './hang-up.ts'
import { invalid, type Injected, type Injection } from './injection.ts'
import { MemorySocket } from './memory-socket.ts'
import { decodeRefusals, onWhole, outliveServerEnd } from '../internals/http-messages.ts'
import { holdEnd, iterateWithoutDestroying } from '../internals/streams.ts'
import type { InjectDuplexClosed } from '../../types/index.ts'

/** A request of Node's own client to a server of HTTP/1, on a connection in memory. */
export async function injectHttp1 (server: HttpServer | HttpsServer, wanted: Injection, farewell: Farewell): Promise<Injected> {
  const tls = server instanceof TlsServer
  const link = MemorySocket.pair(tls)
  const { client } = link
  client.abrupt = true
  link.server.readsAll = true
  const req = requestOn(client, wanted)
  if (wanted.signal !== undefined) goAwayWith(client, wanted.signal)
  const answer = new Promise<Injected>((resolve, reject) => {
    const ending = watchEnd(client)
    const hear = (res: IncomingMessage, hangUp: () => void): void => {
      const look = farewell.hear(client, hangUp)
      client.onPeerEnding = look
      onWhole(res, look)
    }
    const hangUp = (): void => { if (client.peerEnding) client.end() }
    const take = (res: IncomingMessage, _socket: unknown, head: Buffer): void => {
      hear(res, hangUp)
      resolve(answerOf(res, onConnection(client, head), client, ending(() => client.peerEnded)))
    }
    req.once('upgrade', take)
    req.once('connect', take)
    req.once('response', res => {
      // Node's client would close as soon as the server's side has ended. Here that is decided below.
      req.shouldKeepAlive = true
      iterateWithoutDestroying(res)
      const stream = isStream(res, req)
      const complete = stream ? onStream(client, res) : onResponse(client, req, res, wanted)
      hear(res, stream ? hangUp : () => { if (res.complete) req.end() })
      resolve(answerOf(res, res, wanted.framed ? req : client, ending(complete, res)))
    })
    // It stays, since an error without a listener would end the process.
    req.on('error', reject)
  })
  // A TLS server gives HTTP the result of its handshakes. HTTP needs nothing of it that is special to TLS.
  server.emit(tls ? 'secureConnection' : 'connection', link.server)
  dispatch(client, req, wanted)
  return answer
}

function requestOn (client: MemorySocket, { method, target, headers: given, offer }: Injection): ClientRequest {
  const headers = new Map(given)
  if (offer.length > 0) {
    headers.set('upgrade', offer.join(', '))
    if (!headers.has('connection')) headers.set('connection', 'Upgrade')
  }
  let req: ClientRequest | undefined
  try {
    req = send({ method, path: target, setHost: false, createConnection: () => client })
    // Without this Node adds fields of its own, and one of them closes the connection after the response.
    for (const name of ['connection', 'content-length', 'transfer-encoding']) if (!headers.has(name)) req.removeHeader(name)
    for (const [name, value] of headers) req.setHeader(name, value)
  } catch (error) {
    // The other end has no listener yet that could be told of a reset.
    client.abrupt = false
    req?.on('error', () => {}).destroy()
    throw invalid((error as Error).message, error)
  }
  if (method === 'CONNECT') decodeRefusals(req)
  return req
}

/** Node's own client listens to the signal only until there is an answer, and not after an upgrade. */
function goAwayWith (client: MemorySocket, signal: AbortSignal): void {
  const goAway = (): void => {
    const reason: unknown = signal.reason
    client.destroy(reason instanceof Error ? reason : new Error(String(reason)))
  }
  signal.addEventListener('abort', goAway)
  client.once('close', () => signal.removeEventListener('abort', goAway))
}

/** Sends everything in one turn of the event loop, so that it is one chunk. */
function dispatch (client: MemorySocket, req: ClientRequest, { method, payload, open, framed, early }: Injection): void {
  const bare = method === 'CONNECT' && !framed
  if (early !== undefined && !(open && framed)) {
    // The head, and what was written through the request, leave right after this event.
    req.once('socket', () => process.nextTick(() => client.write(early)))
  }
  if (payload !== undefined && framed) req.end(payload)
  else if (!open) req.end()
  else if (early !== undefined && !bare) req.write(early)
  else req.flushHeaders()
}

/** The request was accepted: the client gets the connection, with the bytes that came behind the head. */
function onConnection (client: MemorySocket, head: Buffer): MemorySocket {
  if (head.length > 0) client.unshift(head)
  holdEnd(client, () => {})
  iterateWithoutDestroying(client)
  return client
}

/** A response that only the end of the connection ends. The client may still send after it. */
function onStream (client: MemorySocket, res: IncomingMessage): () => boolean {
  outliveServerEnd(client)
  // Node's client would take a reset for the end of such a response.
  client.prependListener('error', error => { res.destroy(error) })
  return () => client.peerEnded
}

/** A response that has an end of its own. Nothing follows it on this connection. */
function onResponse (client: MemorySocket, req: ClientRequest, res: IncomingMessage, { framed }: Injection): () => boolean {
  const close = (): void => {
    client.abrupt = false
    client.destroySoon()
  }
  onWhole(res, () => {
    if (!framed || req.writableFinished) {
      close()
    } else {
      req.once('finish', close)
      // RFC 9112 section 9.5: nobody wants the rest of what was refused.
      if ((res.statusCode as number) >= 300) req.end()
    }
  })
  return () => res.complete
}

/** Whether only the end of the connection ends the response, RFC 9112 section 6.3. */
function isStream ({ statusCode, headers }: IncomingMessage, { method }: ClientRequest): boolean {
  return method !== 'HEAD' && statusCode !== 204 && statusCode !== 304 &&
    headers['content-length'] === undefined && headers['transfer-encoding'] === undefined
}

type Ending = (complete: () => boolean, res?: IncomingMessage) => Promise<InjectDuplexClosed>

function watchEnd (client: MemorySocket): Ending {
  let error: Error | undefined
  const fail = (reason: Error): void => { error ??= reason }
  client.on('error', fail)
  return (complete, res) => {
    // An IncomingMessage emits its error only if somebody listens.
    res?.on('error', fail)
    return new Promise(resolve => client.once('close', () => {
      resolve(complete() ? { complete: true } : { complete: false, error: error ?? res?.errored ?? new FST_ERR_DUPLEX_ABORTED() })
    }))
  }
}

function answerOf (
  res: IncomingMessage, readable: Readable, writable: Writable, closed: Promise<InjectDuplexClosed>
): Injected {
  return { statusCode: res.statusCode as number, headers: res.headers, readable, writable, closed }
}
