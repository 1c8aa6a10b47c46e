import type { FastifyInstance } from 'fastify'
import { exchange, type Exchange } from '../../client/exchange.ts'
import { dial } from '../dial.ts'
import type { ForwardSettings } from './options.ts'
import type { Outgoing } from './outgoing.ts'
import type { Target } from './target.ts'
import { keyOf, upstreamsOf } from './upstreams.ts'

/** A request that is on its way to the upstream. */
export interface Asked {
  readonly exchange: Exchange
  /** The connection had carried other requests before. So the upstream may have been closing it already. */
  readonly reused: boolean
  /** Ends our side of the connection after the request. Undefined if the connection carries other requests, too. */
  readonly halfClose: (() => void) | undefined
}

/**
 * Sends a request to the upstream.
 *
 * @param keep the connection may carry other requests before and after this one
 * @param fresh no kept connection is used
 */
export async function ask (
  app: FastifyInstance, target: Target, out: Outgoing, settings: ForwardSettings, keep: boolean, fresh: boolean, signal: AbortSignal
): Promise<Asked> {
  const request = {
    method: out.method,
    target: out.target,
    headers: out.headers,
    protocol: out.protocol,
    body: out.streams ? true : out.parsed,
    scheme: target.scheme,
    signal,
    keepAlive: keep
  }
  const upstreams = upstreamsOf(app)
  const key = keyOf(target, settings)
  if (settings.version === '2') {
    // An extended CONNECT has one token: the one that the client wants most.
    const protocol = out.protocol?.slice(0, 1)
    const { session, reused } = await upstreams.session(key, target, settings, keep && fresh, signal)
    return { exchange: exchange(session, { ...request, protocol }), reused, halfClose: undefined }
  }
  const idle = keep && !fresh ? upstreams.take(key) : undefined
  const { connectTimeout, check } = settings
  const socket = idle ?? await dial(target.dial, { signal, timeout: connectTimeout, check, tls: target.tls })
  let asked: Exchange
  try {
    asked = exchange(socket, request)
  } catch (error) {
    socket.destroy()
    throw error
  }
  if (keep) {
    void asked.over.then(({ reusable }) => {
      if (reusable) upstreams.give(key, socket)
      else socket.destroy()
    })
  }
  return { exchange: asked, reused: idle !== undefined, halfClose: () => socket.end() }
}
