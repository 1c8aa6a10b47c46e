import type { FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import type { DuplexClosed, DuplexConnection, DuplexKind, PendingDuplex } from './connection.ts'

/** One channel of `node:diagnostics_channel`, with the type of what is published on it. */
export interface DuplexChannel<Message extends object> {
  readonly name: string | symbol
  readonly hasSubscribers: boolean
  subscribe (listener: (message: Message, name: string | symbol) => void): void
  unsubscribe (listener: (message: Message, name: string | symbol) => void): boolean
  publish (message: Message): void
}

/** A connection was accepted, or `detach()` gave its socket away. */
export interface DuplexAcceptMessage {
  readonly connection: DuplexConnection | PendingDuplex
  readonly request: FastifyRequest
}

/** A request at a duplex route was answered in another way. */
export interface DuplexRefuseMessage {
  /** Undefined if the request was refused before Fastify had it. */
  readonly request: FastifyRequest | undefined
  readonly raw: IncomingMessage
  readonly statusCode: number | undefined
  readonly kind: DuplexKind
}

/** An accepted connection is over. */
export interface DuplexCloseMessage {
  readonly connection: DuplexConnection
  readonly request: FastifyRequest
  readonly closed: DuplexClosed
}

/** The channels `fastify-duplex:accept`, `fastify-duplex:refuse` and `fastify-duplex:close`. */
export interface DuplexChannels {
  readonly accept: DuplexChannel<DuplexAcceptMessage>
  readonly refuse: DuplexChannel<DuplexRefuseMessage>
  readonly close: DuplexChannel<DuplexCloseMessage>
}
