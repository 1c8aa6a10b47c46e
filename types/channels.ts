import type { FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import type { DetachedDuplex, DuplexClosed, DuplexConnection, DuplexKind } from './connection.ts'

/** One channel of `node:diagnostics_channel`, with the type of what is published on it. */
export interface DuplexChannel<Message extends object> {
  readonly name: string | symbol
  readonly hasSubscribers: boolean
  subscribe (listener: (message: Message, name: string | symbol) => void): void
  unsubscribe (listener: (message: Message, name: string | symbol) => void): boolean
  publish (message: Message): void
}

/** A connection was accepted, or handed over by `detach()`: then its `writable` is undefined. */
export interface DuplexAcceptMessage {
  readonly connection: DuplexConnection | DetachedDuplex
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

/** An accepted connection is over, or one that was detached: then its `writable` is undefined. */
export interface DuplexCloseMessage {
  readonly connection: DuplexConnection | DetachedDuplex
  readonly request: FastifyRequest
  readonly closed: DuplexClosed
}

/** The channels `fastify-duplex:accept`, `fastify-duplex:refuse` and `fastify-duplex:close`. */
export interface DuplexChannels {
  readonly accept: DuplexChannel<DuplexAcceptMessage>
  readonly refuse: DuplexChannel<DuplexRefuseMessage>
  readonly close: DuplexChannel<DuplexCloseMessage>
}
