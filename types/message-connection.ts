import type { FastifyTypeProvider } from 'fastify'
import type { Readable, Writable } from 'node:stream'
import type { AcceptedDuplex, DuplexAcceptOptions, DuplexClosed, DuplexKind, DuplexReply, UnacceptedDuplex } from './connection.ts'
import type { MessageOptions, WebSocketSettings } from './messages.ts'

/**
 * The option `messages` of a route: the pair is one of messages. `in` and `out` are schemas, of the app's own validator and serializer
 * compilers, or functions of the request that return one.
 */
export interface MessageRouteOptions extends MessageOptions {
  /** What the client sends: checked as a body is. Without one, anything. */
  in?: unknown
  /** What is sent: serialised as a response is, so that what the schema does not name does not leave. */
  out?: unknown
}

/** The option `websocket` of a route without schemas: the messages are strings and Buffers, as the frames are. */
export interface WebSocketRouteOptions extends WebSocketSettings, Pick<MessageOptions, 'maxLength' | 'highWaterMark' | 'heartbeat'> {}

/** What `for await` takes messages from. */
export interface MessageIterator<In> extends AsyncIterableIterator<In> {
  [Symbol.asyncIterator] (): MessageIterator<In>
  [Symbol.asyncDispose] (): Promise<void>
}

/** A stream of messages. */
export interface MessageReadable<In = unknown> extends Readable {
  [Symbol.asyncIterator] (): MessageIterator<In>
  read (size?: number): In | null
}

/** How a WebSocket is to be closed, where that is not as usual. */
export interface MessageCloseOptions {
  /**
   * 1000 to 1003, 1007 to 1014, or 3000 to 4999. Others throw `FST_ERR_DUPLEX_INVALID_OPTION`.
   *
   * @default 1000, while the server closes 1001
   */
  code?: number | undefined
  /** Cut to 123 bytes. */
  reason?: string | undefined
}

/** One kind of {@link DuplexMessages}. */
export interface AcceptedMessages<K extends DuplexKind, P extends string, Reply, In, Out>
  extends Omit<AcceptedDuplex<K, P, Reply>, 'readable' | 'writable' | 'web' | 'close'> {
  /** What the client sends, in object mode. It fails with a coded error where a message does not fit, is too long or is cut. */
  readonly readable: MessageReadable<In>
  /** What the client gets, in object mode: takes what `send()` takes. */
  readonly writable: Writable
  /**
   * Sends one message, and promises room for another. It rejects with `FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE`, where nothing
   * is sent and the connection goes on, and with `FST_ERR_DUPLEX_MESSAGE_NOT_SENT` where the connection takes no more. Nobody
   * has to wait for it. It may be taken off the connection.
   */
  readonly send: (message: Out) => Promise<void>
  /** Of a WebSocket: what was agreed on. */
  readonly subprotocol: string | undefined
  /** @returns the same as `closed` */
  close (options?: MessageCloseOptions): Promise<DuplexClosed>
  /** The pair as web streams of messages. */
  web (): { readonly readable: ReadableStream<In>, readonly writable: WritableStream<Out> }
  /**
   * Of a WebSocket: the whole as a `WebSocket` of the package `ws`, for libraries that want one. Limits and shutdown still hold; the pair
   * is of no more use. Throws `FST_ERR_DUPLEX_CANNOT_HAND_OVER` once messages were read, and where this is no WebSocket.
   *
   * @typeParam Whole `WebSocket` of `ws`
   */
  asWs<Whole = unknown> (): Whole
}

/** What is common to pending ones. */
export interface UnacceptedMessages<K extends DuplexKind, P extends string, Reply, In, Out>
  extends Omit<UnacceptedDuplex<K, P, Reply>, 'readable' | 'accept' | 'detach'> {
  readonly readable: undefined
  /** As that of a `PendingDuplex`. A body that is one JSON is read before, and what is wrong with it rejects with a status of its own. */
  accept (options?: DuplexAcceptOptions<P>): Promise<DuplexMessages<In, Out, K, P, Reply>>
}

/** A connection whose pair is one of messages: what the handler of a route with `messages` or `websocket` owns. */
export type DuplexMessages<In = unknown, Out = unknown, K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply> =
  K extends DuplexKind ? AcceptedMessages<K, P, Reply, In, Out> : never

/** The same before it is accepted. */
export type PendingMessages<
  In = unknown, Out = unknown, K extends DuplexKind = DuplexKind, P extends string = string, Reply = DuplexReply
> =
  K extends DuplexKind ? UnacceptedMessages<K, P, Reply, In, Out> : never

/** What messages may be on a route, whose types are inferred. Names that are not known do not compile. */
export interface InferredMessages<Messages, Socket> {
  /** The pair is one of messages: over WebSocket, in lines, as Server-Sent Events. See {@link MessageRouteOptions}. */
  messages?: (Messages & { [Name in Exclude<keyof Messages, keyof MessageRouteOptions>]: never }) | undefined
  /** The pair is one of the messages of a WebSocket, strings and Buffers: true, or {@link WebSocketRouteOptions}. */
  websocket?: Socket | undefined
}

/** A schema, or what a function of the request returns. */
type SchemaOf<S> = S extends (...args: never[]) => infer Returned ? Awaited<Returned> : S

/** Without a schema. */
type Encoded<Messages, Other> = Messages extends { encoding: 'text' } ? string : Messages extends { encoding: 'binary' } ? Uint8Array : Other

export type InOf<Messages, TypeProvider extends FastifyTypeProvider> = Messages extends { in: infer S }
  ? (TypeProvider & { schema: SchemaOf<S> })['validator']
  : Messages extends { encoding: 'binary' } ? Buffer : Encoded<Messages, unknown>

export type OutOf<Messages, TypeProvider extends FastifyTypeProvider> = Messages extends { out: infer S }
  ? (TypeProvider & { schema: SchemaOf<S> })['serializer']
  : Encoded<Messages, unknown>
