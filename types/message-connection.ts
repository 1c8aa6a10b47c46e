import type { FastifyTypeProvider } from 'fastify'
import type { Readable, Writable } from 'node:stream'
import type { AcceptedDuplex, DuplexAcceptOptions, DuplexClosed, DuplexKind, DuplexReply, UnacceptedDuplex } from './connection.ts'
import type { MessageOptions, WebSocketSettings } from './messages.ts'

/**
 * The option `messages` of a route: its pairs carry messages. `in` and `out` are schemas for the app's validator and serializer
 * compilers, or functions of the request that return a schema.
 */
export interface MessageRouteOptions extends MessageOptions {
  /** The schema of what the client sends. It is checked like a body. Without a schema any message is accepted. */
  in?: unknown
  /** The schema of what is sent to the client. It serialises like a response schema: properties that it does not name are not sent. */
  out?: unknown
}

/** The option `websocket`: the messages of the route are strings and Buffers, like the frames of a WebSocket. */
export interface WebSocketRouteOptions extends WebSocketSettings, Pick<MessageOptions, 'maxLength' | 'highWaterMark' | 'heartbeat'> {}

/** What `for await` iterates over. */
export interface MessageIterator<In> extends AsyncIterableIterator<In> {
  /** @returns itself */
  [Symbol.asyncIterator] (): MessageIterator<In>
  /** Ends the iteration, for `await using`. */
  [Symbol.asyncDispose] (): Promise<void>
}

/** A stream of messages. */
export interface MessageReadable<In = unknown> extends Readable {
  /** For `for await`: one message at a time. */
  [Symbol.asyncIterator] (): MessageIterator<In>
  /** The next message, or null if there is none yet. */
  read (size?: number): In | null
}

/** Options for closing a WebSocket. */
export interface MessageCloseOptions {
  /**
   * The close code: 1000 to 1003, 1007 to 1014, or 3000 to 4999. Any other code throws `FST_ERR_DUPLEX_INVALID_OPTION`.
   *
   * @default 1000, or 1001 while the server closes
   */
  code?: number | undefined
  /** The reason in the close frame. It is cut to 123 bytes. */
  reason?: string | undefined
}

/** One kind of {@link DuplexMessages}. */
export interface AcceptedMessages<K extends DuplexKind, P extends string, Reply, In, Out>
  extends Omit<AcceptedDuplex<K, P, Reply>, 'readable' | 'writable' | 'web' | 'close'> {
  /** The messages from the client, in object mode. It fails with a coded error if a message is invalid, too long or cut off. */
  readonly readable: MessageReadable<In>
  /** The messages to the client, in object mode. `write()` takes what `send()` takes. */
  readonly writable: Writable
  /**
   * Sends one message. It resolves when there is room for the next one.
   *
   * It rejects with `FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE` if the message cannot be written: then nothing is sent, and the
   * connection goes on. It rejects with `FST_ERR_DUPLEX_MESSAGE_NOT_SENT` if the connection takes no more messages.
   *
   * Its type is that of the schema `out` if the instance has a type provider, and `unknown` otherwise. Fastify does not pass a type
   * provider on into `register()`: call `withTypeProvider()` there again.
   *
   * You need not await it. It works without its connection: `const { send } = connection`.
   */
  readonly send: (message: Out) => Promise<void>
  /** The subprotocol that a WebSocket has agreed on. Undefined if there is none. */
  readonly subprotocol: string | undefined
  /** @returns the same as `closed` */
  close (options?: MessageCloseOptions): Promise<DuplexClosed>
  /** The pair as web streams of messages. */
  web (): { readonly readable: ReadableStream<In>, readonly writable: WritableStream<Out> }
  /**
   * The whole WebSocket as a `WebSocket` object of the package `ws`, for libraries that want one. Limits and shutdown still
   * hold, but the pair cannot be used any more. Throws `FST_ERR_DUPLEX_CANNOT_HAND_OVER` if messages were read already, or if
   * this is no WebSocket.
   *
   * @typeParam Whole `WebSocket` of `ws`
   */
  asWs<Whole = unknown> (): Whole
}

/** What pending connections with messages have in common. */
export interface UnacceptedMessages<K extends DuplexKind, P extends string, Reply, In, Out>
  extends Omit<UnacceptedDuplex<K, P, Reply>, 'readable' | 'accept' | 'detach'> {
  /** There are no messages before acceptance. */
  readonly readable: undefined
  /**
   * Like `accept()` of a `PendingDuplex`. If the body is one JSON text, it is read first. If that text is invalid, this rejects
   * with the status for the client.
   */
  accept (options?: DuplexAcceptOptions<P>): Promise<DuplexMessages<In, Out, K, P, Reply>>
}

/** A connection whose pair carries messages. The handler of a route with `messages` or `websocket` owns it. */
export type DuplexMessages<In = unknown, Out = unknown, K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> =
  K extends DuplexKind ? AcceptedMessages<K, P, Reply, In, Out> : never

/** A connection with messages that is not accepted yet. */
export type PendingMessages<
  In = unknown, Out = unknown, K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply
> =
  K extends DuplexKind ? UnacceptedMessages<K, P, Reply, In, Out> : never

/** The message options of a route, with their types inferred. Unknown names do not compile. */
export interface InferredMessages<Messages, Socket> {
  /** The pair carries messages, over WebSocket, in lines, or as Server-Sent Events: true, or {@link MessageRouteOptions}. */
  messages?: (Messages & { [Name in Exclude<keyof Messages, keyof MessageRouteOptions>]: never }) | undefined
  /** The pair carries the messages of a WebSocket, as strings and Buffers: true, or {@link WebSocketRouteOptions}. */
  websocket?: Socket | undefined
}

/** A schema, or the schema that a function of the request returns. */
type SchemaOf<S> = S extends (...args: never[]) => infer Returned ? Awaited<Returned> : S

/** The type of a message without a schema: it follows from the encoding. */
type Encoded<Messages, Other> = Messages extends { encoding: 'text' } ? string : Messages extends { encoding: 'binary' } ? Uint8Array : Other

/** The type of a message from the client: that of the schema `in` with this type provider, else of the encoding. */
export type InOf<Messages, TypeProvider extends FastifyTypeProvider> = Messages extends { in: infer S }
  ? (TypeProvider & { schema: SchemaOf<S> })['validator']
  : Messages extends { encoding: 'binary' } ? Buffer : Encoded<Messages, unknown>

/** The type of a message to the client: that of the schema `out` with this type provider, else of the encoding. */
export type OutOf<Messages, TypeProvider extends FastifyTypeProvider> = Messages extends { out: infer S }
  ? (TypeProvider & { schema: SchemaOf<S> })['serializer']
  : Encoded<Messages, unknown>
