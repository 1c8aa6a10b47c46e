import type { ClientHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { exchange, type Exchange, type ExchangeRequest } from '../../client/exchange.ts'
import { dial } from '../../dial/dial.ts'
import type { ForwardSettings } from './options.ts'
import type { Outgoing } from './outgoing.ts'
import type { Target } from './target.ts'
import { keyOf, upstreamsOf, type Upstreams } from './upstreams.ts'

/** A request that is on its way to the upstream. */
export interface Asked {
  readonly exchange: Exchange
  /** The connection had carried other requests before. So the upstream may have been closing it already. */
  readonly reused: boolean
  /** Ends our side of the connection after the request. Undefined if the connection carries other requests, too. */
  readonly halfClose: (() => void) | undefined
}

/** Whatever may end the wait for an upstream. The signal is made when somebody asks for it. */
export interface Waiting {
  readonly signal: AbortSignal
}

/**
 * Sends a request to the upstream, on a connection that may carry other requests before and after it. To break it off is the
 * caller's business, once the exchange is there.
 *
 * @param fresh no kept connection is used
 * @returns no promise, if a kept connection is used
 */
export function ask (
  app: FastifyInstance, target: Target, out: Outgoing, settings: ForwardSettings, fresh: boolean, waiting: Waiting
): Asked | Promise<Asked> {
  if (settings.version === '2') return askHttp2(app, target, out, settings, fresh, waiting.signal)
  const upstreams = upstreamsOf(app)
  const key = keyOf(target, settings)
  const idle = fresh ? undefined : upstreams.take(key)
  if (idle !== undefined) return keptExchange(upstreams, key, idle, requestFor(target, out, true, undefined), true)
  return dialled(target, settings, waiting.signal)
    .then(socket => keptExchange(upstreams, key, socket, requestFor(target, out, true, undefined), false))
}

/** Sends a request on a connection of its own: an upgrade or a CONNECT. */
export async function askAlone (
  app: FastifyInstance, target: Target, out: Outgoing, settings: ForwardSettings, signal: AbortSignal
): Promise<Asked> {
  if (settings.version === '2') return await askHttp2(app, target, out, settings, false, signal)
  const socket = await dialled(target, settings, signal)
  return { exchange: exchangeOn(socket, requestFor(target, out, false, signal)), reused: false, halfClose: undefined }
}

async function askHttp2 (
  app: FastifyInstance, target: Target, out: Outgoing, settings: ForwardSettings, fresh: boolean, signal: AbortSignal
): Promise<Asked> {
  const upstreams = upstreamsOf(app)
  const key = keyOf(target, settings)
  const { session, reused } = await upstreams.session(key, target, settings, fresh, signal)
  const request = requestFor(target, out, true, signal)
  // An extended CONNECT has one token: the one that the client wants most.
  const asked = exchange(session, { ...request, protocol: out.protocol?.slice(0, 1) })
  const before = bytesFrom(session)
  asked.answer.catch((error: { code?: string }) => {
    // Nothing at all has come meanwhile. The peer may have vanished, and every other request would wait for it as long.
    if (error.code === 'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT' && bytesFrom(session) === before) upstreams.distrust(key, session)
  })
  return { exchange: asked, reused, halfClose: undefined }
}

function bytesFrom ({ socket }: ClientHttp2Session): number | undefined {
  return (socket as Socket | undefined)?.bytesRead
}

function requestFor (target: Target, out: Outgoing, keepAlive: boolean, signal: AbortSignal | undefined): ExchangeRequest {
  return {
    method: out.method,
    target: out.target,
    headers: out.headers,
    protocol: out.protocol,
    body: out.streams ? true : out.parsed,
    scheme: target.scheme,
    signal,
    plain: out.plain,
    keepAlive
  }
}

function dialled (target: Target, { connectTimeout, check }: ForwardSettings, signal: AbortSignal): Promise<Socket> {
  return dial(target.dial, { signal, timeout: connectTimeout, check, tls: target.tls })
}

function exchangeOn (socket: Socket, request: ExchangeRequest): Exchange {
  try {
    return exchange(socket, request)
  } catch (error) {
    socket.destroy()
    throw error
  }
}

function keptExchange (upstreams: Upstreams, key: string, socket: Socket, request: ExchangeRequest, reused: boolean): Asked {
  const asked = exchangeOn(socket, request)
  void asked.over.then(({ reusable }) => {
    if (reusable) upstreams.give(key, socket)
    else socket.destroy()
  })
  return { exchange: asked, reused, halfClose: () => socket.end() }
}
