import { FST_ERR_DUPLEX_UPSTREAM_TIMEOUT } from '../errors.ts'
import { ByteConnection } from './connection.ts'
import type { Answer } from './exchange.ts'
import { open, type Opened } from './open.ts'
import { planOf, type Plan } from './options.ts'
import { DuplexRefused } from './refused.ts'
import type { ClientConnection, ClientMessageConnection, ConnectOptions, Milliseconds } from '../../types/index.ts'

const TIMEOUT: Milliseconds = 30_000

type Wordy = { messages: NonNullable<ConnectOptions['messages']> } | { websocket: NonNullable<ConnectOptions['websocket']> }

/**
 * Opens a connection to a server, as a duplex route takes it: an upgrade with `protocol`, a tunnel with `target`, a
 * body with `body`, else a plain request.
 *
 * Rejects with a `DuplexRefused` when the answer is another than was asked for, redirects and 407 among them, and for an upgrade also 200;
 * `FST_ERR_DUPLEX_DIAL_FAILED` when there is no connection, `FST_ERR_DUPLEX_UPSTREAM_LOST` when that is over before the
 * answer, `FST_ERR_DUPLEX_UPSTREAM_INVALID` for an answer that is none, `FST_ERR_DUPLEX_UPSTREAM_TIMEOUT`, the reason of
 * `signal`, or `FST_ERR_DUPLEX_INVALID_OPTION`. Nothing is left then.
 */
export function connect<In = unknown, Out = unknown> (
  url: string | URL, options: ConnectOptions & Wordy
): Promise<ClientMessageConnection<In, Out>>
export function connect (url: string | URL, options?: ConnectOptions): Promise<ClientConnection>
export async function connect (url: string | URL, options: ConnectOptions = {}): Promise<ClientConnection> {
  const plan = planOf(url, options)
  if (options.messages === undefined && options.websocket === undefined) return new ByteConnection(await opened(plan, options))
  // An app that wants bytes never loads it.
  const { wordy } = await import('./messages.ts')
  const words = await wordy(plan, options)
  const { exchange, answer } = await opened(words.plan, options)
  return words.connection({ exchange, answer })
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
