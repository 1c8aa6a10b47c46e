import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { exchange, type Exchange } from '../../client/exchange.ts'
import { resetByPeer, takeResetForEnd, tellResetFromEnd, type HttpSocket } from '../../internals/sockets.ts'
import { dial } from '../dial.ts'
import type { ForwardSettings } from './options.ts'
import type { Outgoing } from './outgoing.ts'
import type { Target } from './target.ts'
import { keyOf, upstreamsOf } from './upstreams.ts'

/** A request that is on its way to the upstream. */
export interface Asked {
  readonly exchange: Exchange
  /** It went out on a connection that had carried others: the upstream may have been about to close that. */
  readonly reused: boolean
}

/**
 * Sends a request on its way.
 *
 * @param keep the connection may carry another request before and after this one
 */
export async function ask (
  app: FastifyInstance, target: Target, out: Outgoing, settings: ForwardSettings, keep: boolean, fresh: boolean, signal: AbortSignal
): Promise<Asked> {
  const request = {
    method: out.method,
    target: out.target,
    headers: out.headers,
    protocol: out.protocol,
    body: out.streams || (out.parsed !== undefined && out.parsed.length > 0),
    scheme: target.scheme,
    signal,
    keepAlive: keep
  }
  const upstreams = upstreamsOf(app)
  const key = keyOf(target, settings)
  if (settings.version === '2') {
    // One token, and the first that the client wants.
    const protocol = out.protocol?.slice(0, 1)
    const asked = exchange(await upstreams.session(key, target, settings, signal), { ...request, protocol })
    return { exchange: sendParsed(asked, out), reused: false }
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
    tellResetFromEnd(socket as unknown as HttpSocket, onReset)
    void asked.over.then(({ reusable }) => {
      takeResetForEnd(socket as unknown as HttpSocket, onReset)
      if (reusable) upstreams.give(key, socket)
      else socket.destroy()
    })
  }
  return { exchange: sendParsed(asked, out), reused: idle !== undefined }
}

/** A body that is cut off by a reset is not to pass for one that has ended. */
function onReset (this: HttpSocket): void {
  (this as unknown as Socket).destroy(resetByPeer())
}

function sendParsed (asked: Exchange, { parsed }: Outgoing): Exchange {
  if (parsed !== undefined && parsed.length > 0) asked.body?.end(parsed)
  return asked
}
