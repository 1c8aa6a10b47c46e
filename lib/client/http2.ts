import type { ClientHttp2Session } from 'node:http2'
import type { Duplex } from 'node:stream'
import type { Exchange, ExchangeRequest } from './exchange.ts'
import type { Milliseconds } from '../../types/index.ts'

/** HTTP/2 by node:http2. */
export declare function exchangeHttp2 (session: ClientHttp2Session, request: ExchangeRequest): Exchange

/**
 * Makes a session of a connection, and waits for the server's SETTINGS, which say whether it knows extended CONNECT.
 * Rejects with the codes of `Exchange.answer`, and the connection is destroyed then.
 *
 * @returns a session with an 'error' listener; its opener closes it, which ends the connection when its streams are over
 */
export declare function openSession (
  connection: Duplex, options: { scheme?: 'http' | 'https', signal?: AbortSignal | undefined, timeout?: Milliseconds | undefined }
): Promise<ClientHttp2Session>
