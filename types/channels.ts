import type { FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import type { DetachedDuplex, DuplexClosed, DuplexConnection, DuplexKind } from './connection.ts'

/** One channel of `node:diagnostics_channel`, with the type of what is published on it. */
export interface DuplexChannel<Message extends object> {
  /** `fastify-duplex:accept`, `fastify-duplex:refuse` or `fastify-duplex:close`. */
  readonly name: string | symbol
  /** Whether anybody listens. Nothing is published where nobody does. */
  readonly hasSubscribers: boolean
  /** Calls the listener for each message. What it throws becomes an uncaught exception, as on any channel of Node. */
  subscribe (listener: (message: Message, name: string | symbol) => void): void
  /** @returns whether it was subscribed */
  unsubscribe (listener: (message: Message, name: string | symbol) => void): boolean
  /** The plugin calls this. */
  publish (message: Message): void
}

/** A connection was accepted, or handed over by `detach()`: then its `writable` is undefined. */
export interface DuplexAcceptMessage {
  /** The same object as the handler's. */
  readonly connection: DuplexConnection | DetachedDuplex
  /** The request that opened it. */
  readonly request: FastifyRequest
}

/** A request at a duplex route was answered in another way. */
export interface DuplexRefuseMessage {
  /** Undefined if the request was refused before Fastify had it. */
  readonly request: FastifyRequest | undefined
  /** Node's own request. */
  readonly raw: IncomingMessage
  /** Of the answer. Undefined if there was none. */
  readonly statusCode: number | undefined
  /** What the connection would have been. */
  readonly kind: DuplexKind
}

/** An accepted connection is over, or one that was detached: then its `writable` is undefined. */
export interface DuplexCloseMessage {
  /** The same object as at its acceptance. */
  readonly connection: DuplexConnection | DetachedDuplex
  /** The request that opened it. */
  readonly request: FastifyRequest
  /** What its `closed` has resolved with. */
  readonly closed: DuplexClosed
}

/** The channels `fastify-duplex:accept`, `fastify-duplex:refuse` and `fastify-duplex:close`. */
export interface DuplexChannels {
  /** Told when a connection is accepted. */
  readonly accept: DuplexChannel<DuplexAcceptMessage>
  /** Told when a request at a duplex route is answered in another way. */
  readonly refuse: DuplexChannel<DuplexRefuseMessage>
  /** Told when an accepted connection is over. */
  readonly close: DuplexChannel<DuplexCloseMessage>
}
