import { validateHeaderName, validateHeaderValue, type IncomingHttpHeaders } from 'node:http'
import {
  connect, type ClientHttp2Session, type ClientHttp2Stream, type Http2SecureServer, type Http2Server,
  type IncomingHttpStatusHeader, type OutgoingHttpHeaders, type ServerHttp2Session
} from 'node:http2'
import { Server as TlsServer } from 'node:tls'
import type { InjectedClients } from './injected-clients.ts'
import { ClientStream } from '../client/client-stream.ts'
import { invalid, type Injected, type Injection } from './options.ts'
import { MemorySocket } from './memory-socket.ts'
import { noBody } from './no-body.ts'
import { lendAddress } from '../internals/http2.ts'

/** Characters that Node's HTTP/1 client refuses in a target. */
const NOT_IN_A_TARGET = /[^\u0021-\u00ff]/

/** The head of a request over HTTP/2, and what follows it. */
interface Request {
  headers: OutgoingHttpHeaders
  /** The stream stays open for what is written to it. */
  open: boolean
  /** Nothing follows the head. */
  ends: boolean
}

/** A request of Node's own client to a server of HTTP/2, on a connection in memory that carries nothing else. */
export async function injectHttp2 (
  server: Http2Server | Http2SecureServer, wanted: Injection, clients: InjectedClients
): Promise<Injected> {
  const tls = server instanceof TlsServer
  const request = requestOf(wanted, tls ? 'https' : 'http')
  const link = MemorySocket.pair(tls)
  const { client } = link
  const session = connect(`${tls ? 'https' : 'http'}://localhost`, { createConnection: () => client, settings: { enablePush: false } })
  const served = accept(server, link.server, tls)
  await settings(session, wanted.signal)
  const own = new ClientStream(streamOn(session, request))
  closeBehind(session, own, served)
  return new Promise((resolve, reject) => {
    // It stays, since an error without a listener would end the process.
    own.on('error', reject)
    own.stream.once('response', head => {
      const statusCode = Number(head[':status'])
      own.onEnd = clients.add(own.over, () => { if (own.complete && !own.writableEnded) own.end() })
      if (statusCode >= 300) own.refuse()
      const cannotWrite = statusCode < 300 && !request.open
      resolve({ statusCode, headers: fieldsOf(head), readable: own, writable: cannotWrite ? noBody() : own, closed: own.over })
    })
    if (wanted.signal !== undefined) goAwayWith(own, wanted.signal)
    dispatch(own, request, wanted)
  })
}

function requestOf (wanted: Injection, scheme: string): Request {
  const { method, target, offer, payload, early } = wanted
  const headers = fieldsFor(wanted)
  const authority = headers.host
  delete headers.host
  if (NOT_IN_A_TARGET.test(target)) throw invalid('url has characters that no path has')
  const connects = method === 'CONNECT'
  const tunnel = connects || offer.length > 0
  const open = tunnel || wanted.open
  const rest = { open, ends: !open && payload === undefined }
  if (offer.length > 1) throw invalid('an extended CONNECT offers one protocol, and no list of them')
  if (offer.length > 0 && method !== 'GET') throw invalid(`an extended CONNECT takes the place of a GET, and of no ${method}`)
  if (tunnel && payload !== undefined) throw invalid('a CONNECT of HTTP/2 has no payload')
  if (early !== undefined && !open) throw invalid('early bytes follow a CONNECT, or a request whose headers declare a body')
  if (connects && offer.length === 0) {
    return { headers: { ...headers, ...(authority === target ? {} : { host: authority }), ':method': method, ':authority': target }, ...rest }
  }
  const [protocol] = offer
  const common = { ...headers, ':scheme': scheme, ':authority': String(authority), ':path': target }
  const special = protocol === undefined ? { ':method': method } : { ':method': 'CONNECT', ':protocol': protocol }
  return { headers: { ...common, ...special }, ...rest }
}

/** The fields that HTTP/1 would send. They are checked here, because Node does not check them over HTTP/2. */
function fieldsFor ({ method, headers, offer }: Injection): OutgoingHttpHeaders {
  const fields: OutgoingHttpHeaders = {}
  try {
    validateHeaderName(method)
    for (const token of offer) validateHeaderValue(':protocol', token)
    for (const [name, value] of headers) {
      validateHeaderName(name)
      for (const one of Array.isArray(value) ? value : [value]) validateHeaderValue(name, String(one))
      // RFC 9113 section 8.2.2: over HTTP/2 a body needs no coding that marks its end.
      if (name !== 'transfer-encoding' || String(value).toLowerCase() !== 'chunked') fields[name] = value
    }
  } catch (error) {
    throw invalid((error as Error).message, error)
  }
  return fields
}

/** Gives the server its end of the connection. The server makes a session of it. */
function accept (server: Http2Server | Http2SecureServer, socket: MemorySocket, tls: boolean): ServerHttp2Session | undefined {
  let session: ServerHttp2Session | undefined
  const made = (one: ServerHttp2Session): void => {
    session = one
    lendAddress(one, socket)
  }
  // The protocol that a TLS handshake would have chosen.
  if (tls) Object.assign(socket, { alpnProtocol: 'h2' })
  server.prependOnceListener('session', made)
  server.emit(tls ? 'secureConnection' : 'connection', socket)
  server.removeListener('session', made)
  return session
}

/**
 * Waits for the settings of both sides. The server's say whether it offers extended CONNECT. When the server has acknowledged the
 * client's, nothing of its own is on the way. So its answer leaves at once, as on TCP. If it had to wait, a reset could overtake it.
 */
function settings (session: ClientHttp2Session, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const goAway = (): void => {
      reject(signal?.reason)
      session.destroy()
    }
    session.on('error', reject)
    session.once('close', () => reject(Object.assign(new Error('the server closed the connection'), { code: 'ECONNRESET' })))
    let missing = 2
    const settled = (): void => {
      if (--missing > 0) return
      signal?.removeEventListener('abort', goAway)
      resolve()
    }
    session.once('remoteSettings', settled)
    session.once('localSettings', settled)
    signal?.addEventListener('abort', goAway)
    if (signal?.aborted === true) goAway()
  })
}

function streamOn (session: ClientHttp2Session, { headers, ends }: Request): ClientHttp2Stream {
  try {
    if (headers[':protocol'] !== undefined && session.remoteSettings.enableConnectProtocol !== true) {
      throw invalid('the server does not offer extended CONNECT, which register(duplex, { extendedConnect: true }) makes it do')
    }
    return session.request(headers, { endStream: ends })
  } catch (error) {
    session.destroy()
    throw (error as { code?: string }).code === 'FST_ERR_DUPLEX_INVALID_INJECTION' ? error : invalid((error as Error).message, error)
  }
}

/** Sends HEADERS and the bytes that have to follow at once in one turn of the event loop, so that they are one chunk. */
function dispatch (own: ClientStream, { open }: Request, { payload, early }: Injection): void {
  if (payload !== undefined) own.end(payload)
  else if (!open) own.end()
  else if (early !== undefined) own.write(early)
}

function goAwayWith (own: ClientStream, signal: AbortSignal): void {
  const goAway = (): void => {
    const reason: unknown = signal.reason
    own.destroy(reason instanceof Error ? reason : new Error(String(reason)))
  }
  signal.addEventListener('abort', goAway)
  own.stream.once('close', () => signal.removeEventListener('abort', goAway))
}

/** Closes the connection when the server has read everything: an earlier end would take the rest from it. */
function closeBehind (session: ClientHttp2Session, own: ClientStream, served: ServerHttp2Session | undefined): void {
  let open = 1
  const close = (): void => {
    // Node keeps a session that is over until its timeout, which is 72 seconds in Fastify.
    if (served?.destroyed === false) served.setTimeout(0)
    session.close()
  }
  // After all other listeners for the end, because one of them restores the timeout of the session.
  const closed = (): void => { if (--open === 0) process.nextTick(close) }
  own.stream.once('close', closed)
  served?.on('stream', stream => {
    open++
    stream.once('close', closed)
  })
}

function fieldsOf (head: IncomingHttpHeaders & IncomingHttpStatusHeader): IncomingHttpHeaders {
  return Object.fromEntries(Object.entries(head).filter(([name]) => !name.startsWith(':')))
}
