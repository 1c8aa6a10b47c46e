import type { Milliseconds } from './connection.ts'
import type { DuplexRequest } from './options.ts'

/** What a framing has to hold to. */
export interface MessageLimits {
  /** Of one message, in bytes, without what frames it. */
  readonly maxLength: number
}

/** Finds the messages in the bytes of one connection. */
export interface MessageDecoder {
  /**
   * What is whole with this chunk, in order; it is asked for one by one, and only as fast as somebody reads. An error in place of
   * a payload is one message that cannot be read, behind which the next one begins. What it throws ends the connection.
   */
  decode (chunk: Buffer): Iterable<Uint8Array | Error>
  /** The input has ended: what is left and may be whole. What it throws ends the connection. */
  end (): Iterable<Uint8Array | Error>
}

/** How messages are told apart in a stream of bytes. */
export interface MessageFraming {
  /** For logs and documents. */
  readonly name: string
  /** Of a body in this framing, without parameters: what a client says with `Content-Type` and asks for with `Accept`. */
  readonly contentType: string
  /** Without one the framing is for output alone. */
  decoder? (limits: MessageLimits): MessageDecoder
  /** One message with what frames it. What it throws is an `FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE`. */
  encode (payload: string | Uint8Array): string | Uint8Array
  /** What can be sent between messages, and is none, to tell that the connection lives. */
  readonly heartbeat?: string | undefined
}

/** How one message is written in bytes. */
export interface MessageEncoding {
  /** For documents. */
  readonly contentType?: string | undefined
  /** A string is sent as text (over WebSocket in a text frame), bytes are sent as they are. */
  encode (message: unknown): string | Uint8Array
  /** @param isText whether it came in a text frame of WebSocket; undefined in other framings */
  decode (payload: Buffer, isText?: boolean): unknown
}

/** The settings of `lengthPrefixed()`. */
export interface LengthPrefixedOptions {
  /** Bytes of the length in front of each message, or a base 128 varint, as protobuf's delimited messages have it. */
  size: 1 | 2 | 4 | 'varint'
  /**
   * Of a length of 2 or 4 bytes.
   *
   * @default 'big'
   */
  endian?: 'big' | 'little' | undefined
  /** @default 'application/octet-stream' */
  contentType?: string | undefined
}

/** The interval of a heartbeat. */
export type Heartbeat = Milliseconds

/** A request as the functions of `messages` and `websocket` see it. */
type Asking = DuplexRequest

/** How browsers, and others, open a WebSocket. */
export interface WebSocketSettings {
  /**
   * The subprotocols that the route speaks, the most wanted first: the first one that the client offers is taken, and none where
   * it offers none of them. Or a function that gets what is offered, in the client's order, and returns one of these, or false for
   * none. Without this no subprotocol is taken.
   */
  subprotocols?: readonly string[] | {
    choose (offered: string[], request: Asking): string | false | Promise<string | false>
  }['choose'] | undefined
  /**
   * The pages that may connect, where a client says which page it is (browsers always do, programs mostly do not): `same`, those of the
   * host that the request names; a list of origins as `https://a.example`; a function; or false, any. Others get a 403,
   * `FST_ERR_DUPLEX_WEBSOCKET_ORIGIN`.
   *
   * @default 'same'
   */
  origin?: 'same' | false | readonly string[] | {
    allow (origin: string, request: Asking): boolean | Promise<boolean>
  }['allow'] | undefined
  /**
   * Takes permessage-deflate (RFC 7692) where the client offers it: true, or options of `ws`. Unless they say otherwise no context is
   * kept from one message to the next, and what is shorter than 1 KiB is sent as it is.
   *
   * @default false
   */
  perMessageDeflate?: boolean | Record<string, unknown> | undefined
}

/** The names of the framings that the plugin brings. */
export type MessageFramingName = 'websocket' | 'lines' | 'sse'

/** What `onInvalid` may do about a message that cannot be read. */
export type InvalidMessageHandler = {
  // A method, so that a connection annotated for the route is accepted.
  handle (error: Error & { code: string }, connection: never): unknown
}['handle']

/** What the messages of a route are, whatever their schemas. */
export interface MessageOptions {
  /**
   * How messages may be framed. `websocket`; `lines`, one message a line, over any other stream and in bodies; `sse`,
   * Server-Sent Events in answers; or one made by `lengthPrefixed()` or by yourself, in place of `lines`.
   *
   * @default ['websocket', 'lines', 'sse'], with an encoding in bytes ['websocket']
   */
  framing?: MessageFramingName | MessageFraming | readonly (MessageFramingName | MessageFraming)[] | undefined
  /**
   * How a message is written: `json`, `text`, `binary`, or your own.
   *
   * @default 'json'
   */
  encoding?: 'json' | 'text' | 'binary' | MessageEncoding | undefined
  /**
   * Of one message, in bytes as it is encoded. What is longer is `FST_ERR_DUPLEX_MESSAGE_TOO_LONG` before it is buffered.
   *
   * @default 65_536
   */
  maxLength?: number | undefined
  /**
   * How many messages wait in each of the two streams before the other side is held back.
   *
   * @default 16
   */
  highWaterMark?: number | undefined
  /**
   * How often the peer is shown that the connection lives, in milliseconds: by a ping over WebSocket, a comment in Server-Sent Events, an
   * empty line in lines. A WebSocket of which nothing comes for two of them, and a peer that takes nothing for so long, is gone:
   * `closed` says `idle`. One timer serves all connections.
   *
   * @default 0: off
   */
  heartbeat?: Milliseconds | undefined
  /**
   * What becomes of a connection when a message does not fit: `close`, the stream of messages fails with the error and the connection
   * ends (over WebSocket with 1007, or 1009 where it is too long); `skip`, it is left out; or a function that decides: when it returns or
   * resolves the message is left out, what it throws ends the connection. Where the bounds of messages are lost the
   * connection ends whatever this says.
   *
   * @default 'close'
   */
  onInvalid?: 'close' | 'skip' | InvalidMessageHandler | undefined
  /** How a WebSocket is opened. */
  websocket?: WebSocketSettings | undefined
}

/** How a WebSocket ended. */
export interface WebSocketClosed {
  /** Of the peer's close frame; 1005 where that had none, 1006 where there was no such frame. */
  readonly code: number
  readonly reason: string
  /** Both sides have sent a close frame. */
  readonly clean: boolean
}

/** What `app.duplex.asyncapi()` is told. */
export interface AsyncApiOptions {
  info: { title: string, version: string, [field: string]: unknown }
  /** As AsyncAPI has them. */
  servers?: Record<string, unknown> | undefined
}

/** An AsyncAPI 3 document. */
export interface AsyncApiDocument {
  asyncapi: '3.0.0'
  info: AsyncApiOptions['info']
  servers?: Record<string, unknown>
  channels: Record<string, unknown>
  operations: Record<string, unknown>
  components?: { schemas: Record<string, unknown> }
}
