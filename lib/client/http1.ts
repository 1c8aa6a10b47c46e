import type { Duplex } from 'node:stream'
import type { Exchange, ExchangeRequest } from './exchange.ts'

/** HTTP/1.1 by node:http. */
export declare function exchangeHttp1 (connection: Duplex, request: ExchangeRequest): Exchange
