import { FST_ERR_DUPLEX_UPSTREAM_TIMEOUT } from '../errors.ts'
import { ownErrors } from '../streams/own-errors.ts'
import { ByteConnection } from './byte-connection.ts'
import type { Answer } from './exchange.ts'
import { open, type Opened } from './open.ts'
import { planOf, type Plan } from './options.ts'
import { DuplexRefused } from './refused.ts'
import type { ClientConnection, ClientMessageConnection, ConnectOptions, Milliseconds } from '../../types/index.ts'

const TIMEOUT: Milliseconds = 30_000

type AsksForMessages = { messages: NonNullable<ConnectOptions['messages']> } | { websocket: NonNullable<ConnectOptions['websocket']> }

/**
 * Opens a connection to a duplex route, or to any server that takes such a request. `protocol` makes it an upgrade, `target` a
 * tunnel, `body` a body. Without these it is a plain request.
 *
 * It rejects
 * - with a `DuplexRefused`, if the server does not accept. That includes redirects, a 407 of a proxy, and a 200 to an upgrade;
 * - with `FST_ERR_DUPLEX_DIAL_FAILED`, if there is no connection;
 * - with `FST_ERR_DUPLEX_UPSTREAM_LOST`, if the connection is over before the answer;
 * - with `FST_ERR_DUPLEX_UPSTREAM_INVALID`, if the answer is not valid HTTP;
 * - with `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT`;
 * - with the reason of `signal`;
 * - with `FST_ERR_DUPLEX_INVALID_OPTION`.
 *
 * After a rejection nothing is left open, except while the body of a refusal is read.
 */
export function connect<In = unknown, Out = unknown> (
  url: string | URL, options: ConnectOptions & AsksForMessages
): Promise<ClientMessageConnection<In, Out>>
export function connect (url: string | URL, options?: ConnectOptions): Promise<ClientConnection>
export async function connect (url: string | URL, options: ConnectOptions = {}): Promise<ClientConnection> {
  const plan = planOf(url, options)
  // It may fail before there is a connection to send it on, or when there will be none any more.
  if (plan.source !== undefined) ownErrors(plan.source)
  if (options.messages === undefined && options.websocket === undefined) return new ByteConnection(await opened(plan, options))
  // An app that uses only bytes never loads this.
  const { planMessages } = await import('./messages.ts')
  const planned = await planMessages(plan, options)
  const { exchange, answer } = await opened(planned.plan, options)
  return planned.connection({ exchange, answer })
}

async function opened (plan: Plan, options: ConnectOptions): Promise<Opened> {
  const { signal, timeout = TIMEOUT } = options
  signal?.throwIfAborted()
  const late = new AbortController()
  const timer = timeout > 0 ? setTimeout(() => late.abort(new FST_ERR_DUPLEX_UPSTREAM_TIMEOUT(timeout)), timeout) : undefined
  const abort = (): void => late.abort((signal as AbortSignal).reason)
  signal?.addEventListener('abort', abort)
  try {
    const { exchange, answer } = await open(plan, options, { until: late.signal, always: signal })
    if (!accepts(plan, answer)) throw new DuplexRefused(exchange, answer)
    return { exchange, answer }
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
  }
}

/** A server that ignores `Upgrade` may answer 200 without a length, which would be a hijack for a plain request. */
function accepts ({ method, protocol }: Plan, { kind, statusCode }: Answer): boolean {
  if (protocol.length > 0) return kind === 'upgrade'
  if (method === 'CONNECT') return kind === 'connect'
  return statusCode >= 200 && statusCode < 300
}
