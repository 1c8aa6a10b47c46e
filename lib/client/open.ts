import { once } from 'node:events'
import type { ClientHttp2Session } from 'node:http2'
import { isIP, type Socket } from 'node:net'
import type { Duplex, Writable } from 'node:stream'
import tls, { type TLSSocket } from 'node:tls'
import { dial } from '../dial/dial.ts'
import { FST_ERR_DUPLEX_DIAL_FAILED, FST_ERR_DUPLEX_FIN_TIMEOUT, FST_ERR_DUPLEX_NO_EXTENDED_CONNECT } from '../errors.ts'
import { endBetweenReads } from '../internals/half-open.ts'
import { ownErrors } from '../streams/own-errors.ts'
import { exchange, type Answer, type Exchange, type Transport } from './exchange.ts'
import { feed } from './feed.ts'
import { openSession } from './http2.ts'
import { basic, invalid, type Plan } from './options.ts'
import { breakConnection } from './own-socket.ts'
import { DuplexRefused } from './refused.ts'
import type { ConnectOptions, DialTlsOptions, Milliseconds } from '../../types/index.ts'

/** How long the server has to end the connection of a session that is over: in order, and after it was broken off. */
const FIN_TIMEOUT: Milliseconds = 30_000
const BROKEN_TIMEOUT: Milliseconds = 1000

/** An exchange that was answered. */
export interface Opened {
  readonly exchange: Exchange
  readonly answer: Answer
}

export interface Signals {
  /** Aborts the attempt, until the answer. */
  readonly until: AbortSignal
  /** Aborts the connection, also after the answer. */
  readonly always: AbortSignal | undefined
}

/** Connects, sends the request, and waits for the answer. If this fails, nothing is left open. */
export async function open (plan: Plan, given: ConnectOptions, signals: Signals): Promise<Opened> {
  const options = { ...given, tls: secured(given.tls) }
  const { http2 } = options
  const http1Alone = http2 === false || plan.http1Alone
  try {
    return await attempt(plan, options, signals, http1Alone ? ['http/1.1'] : http2 === true ? ['h2'] : ['h2', 'http/1.1'])
  } catch (error) {
    if (!(error instanceof FST_ERR_DUPLEX_NO_EXTENDED_CONNECT) || http2 === true) throw error
    return await attempt(plan, options, signals, ['http/1.1'])
  }
}

/** Checks key and certificate first. Later their errors could not be told from errors of the network. */
function secured (given: DialTlsOptions = {}): DialTlsOptions {
  if (Object.keys(given).length === 0 || given.secureContext !== undefined) return given
  try {
    return { ...given, secureContext: tls.createSecureContext(given) }
  } catch (error) {
    throw invalid(`tls: ${(error as Error).message}`)
  }
}

async function attempt (plan: Plan, options: ConnectOptions, signals: Signals, versions: string[]): Promise<Opened> {
  const connection = await connected(plan, { ...options.tls, ALPNProtocols: versions }, signals)
  const http2Alone = versions[0] === 'h2' && versions.length === 1
  const speaksHttp2 = plan.secure ? (connection as TLSSocket).alpnProtocol === 'h2' : http2Alone
  if (http2Alone && !speaksHttp2) {
    connection.destroy()
    throw new FST_ERR_DUPLEX_DIAL_FAILED({ cause: new Error('the server does not offer HTTP/2') })
  }
  const { method, target, headers, protocol, body, early } = plan
  const scheme = plan.secure ? 'https' : 'http'
  const request = { method, target, headers, protocol, body, early, scheme, signal: signals.always } as const
  let transport: Transport = connection
  let sent: Exchange
  try {
    if (speaksHttp2) transport = await openSession(connection, { scheme, signal: signals.until })
    sent = exchange(transport, request)
  } catch (error) {
    if (transport === connection) breakConnection(connection, error as Error)
    else transport.destroy()
    throw error
  }
  // The session closes when its only stream is over.
  if (transport !== connection) void sent.over.then(({ complete }) => closeSession(transport as ClientHttp2Session, connection, complete))
  if (plan.source !== undefined) {
    const sending = feed(plan.source, sent.body as Writable, error => sent.abort(error))
    void sent.over.then(() => sending.stop())
  }
  const answer = await waited(sent, signals.until)
  return { exchange: sent, answer }
}

/** Closes a session. Node would wait for the server's FIN without limit. */
function closeSession (session: ClientHttp2Session, connection: Duplex, complete: boolean): void {
  session.close()
  if (connection.destroyed) return
  const late = (): void => breakConnection(connection, new FST_ERR_DUPLEX_FIN_TIMEOUT(complete ? FIN_TIMEOUT : BROKEN_TIMEOUT))
  // The connection alone keeps the process.
  const timer = setTimeout(late, complete ? FIN_TIMEOUT : BROKEN_TIMEOUT).unref()
  connection.once('close', () => clearTimeout(timer))
}

async function waited (sent: Exchange, until: AbortSignal): Promise<Answer> {
  const abort = (): void => sent.abort(until.reason as Error)
  if (until.aborted) abort()
  until.addEventListener('abort', abort)
  try {
    return await sent.answer
  } finally {
    until.removeEventListener('abort', abort)
  }
}

/** Opens a connection to the server, through a proxy if there is one. */
async function connected (plan: Plan, tlsOptions: DialTlsOptions, signals: Signals): Promise<Socket> {
  const { proxy, to, secure } = plan
  const signal = signals.until
  if (proxy === undefined) return await dial(to, { signal, timeout: 0, tls: secure ? { ...named(plan), ...tlsOptions } : false })
  const tunnel = await throughProxy(proxy, plan.through, tlsOptions, signals)
  return secure ? await overTls(tunnel, { ...named(plan), ...tlsOptions }, signal) : tunnel as Socket
}

/** RFC 6066 section 3: an IP address is not a server name. */
function named ({ host }: Plan): { servername?: string } {
  return isIP(host) === 0 ? { servername: host } : {}
}

async function throughProxy (proxy: URL, through: string, tlsOptions: DialTlsOptions, { until, always }: Signals): Promise<Duplex> {
  const secure = proxy.protocol === 'https:'
  const host = proxy.hostname.replace(/^\[|\]$/g, '')
  const port = Number(proxy.port) || (secure ? 443 : 80)
  // `servername` names the server, and not the proxy.
  const { servername: _, ...ofBoth } = tlsOptions
  const options = { signal: until, timeout: 0, tls: secure ? { ...ofBoth, ALPNProtocols: ['http/1.1'] } : false }
  const connection = await dial({ host, port }, options).catch((error: unknown) => { throw ofProxy(error) })
  const credentials = basic(proxy)
  const headers = ['Host', through, ...credentials === undefined ? [] : ['Proxy-Authorization', credentials]]
  const sent = exchange(connection, { method: 'CONNECT', target: through, headers, signal: always })
  const answer = await waited(sent, until)
  if (answer.kind !== 'connect') throw new DuplexRefused(sent, answer, 'proxy')
  return answer.readable as Duplex
}

/** The error says that the proxy could not be reached, and not the server. */
function ofProxy (error: unknown): unknown {
  if (error instanceof FST_ERR_DUPLEX_DIAL_FAILED && typeof error.cause === 'object') Object.assign(error.cause as Error, { by: 'proxy' })
  return error
}

/** Starts TLS inside a tunnel. */
async function overTls (tunnel: Duplex, options: DialTlsOptions, signal: AbortSignal): Promise<TLSSocket> {
  const socket = tls.connect({ ...options, socket: tunnel })
  ownErrors(socket)
  endBetweenReads(socket)
  try {
    await once(socket, 'secureConnect', { signal })
    return socket
  } catch (error) {
    socket.destroy()
    breakConnection(tunnel, error as Error)
    throw signal.aborted ? signal.reason : new FST_ERR_DUPLEX_DIAL_FAILED({ cause: error as Error })
  }
}
