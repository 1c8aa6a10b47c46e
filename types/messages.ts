import type { Milliseconds } from './connection.ts'
import type { DuplexRequest } from './options.ts'

/** The limits that a decoder has to keep. */
export interface MessageLimits {
  /** The longest message, in bytes, without its framing. */
  readonly maxLength: number
}

/** Finds the messages in the bytes of one connection. */
export interface MessageDecoder {
  /**
   * Returns the messages that this chunk completes, in order. They are taken one by one, only as fast as somebody reads. An
   * Error in place of a payload is a message that cannot be read, and the next message follows. If this throws, the connection
   * ends.
   */
  decode (chunk: Buffer): Iterable<Uint8Array | Error>
  /** The input has ended. Returns a message that is complete by that. If this throws, the connection ends. */
  end (): Iterable<Uint8Array | Error>
}

/** How messages are separated in a stream of bytes. */
export interface MessageFraming {
  /** A name for logs and documents. */
  readonly name: string
  /** The media type of a body in this framing, without parameters. A client names it in `Content-Type` and `Accept`. */
  readonly contentType: string
  /** Makes a decoder for one connection. A framing without it is only for output. */
  decoder? (limits: MessageLimits): MessageDecoder
  /** Adds the framing to one message. If this throws, `send()` rejects with `FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE`. */
  encode (payload: string | Uint8Array): string | Uint8Array
  /** Bytes that may stand between two messages without being a message. They are sent as a heartbeat. */
  readonly heartbeat?: string | undefined
}

/** How one message is written as text or bytes. */
export interface MessageEncoding {
  /** The media type of one message, for documents. */
  readonly contentType?: string | undefined
  /** Writes a message. A string is sent as text (over WebSocket in a text frame). Bytes are sent as they are. */
  encode (message: unknown): string | Uint8Array
  /**
   * Reads a message.
   *
   * @param isText whether it came in a text frame of a WebSocket. Undefined in other framings
   */
  decode (payload: Buffer, isText?: boolean): unknown
}

/** The settings of `lengthPrefixed()`. */
export interface LengthPrefixedOptions {
  /**
   * How many bytes the length has that stands before each message. `varint` is a base 128 varint, as in protobuf's delimited
   * messages.
   */
  size: 1 | 2 | 4 | 'varint'
  /**
   * The byte order of a length of 2 or 4 bytes.
   *
   * @default 'big'
   */
  endian?: 'big' | 'little' | undefined
  /** @default 'application/octet-stream' */
  contentType?: string | undefined
}

/** The time between two heartbeats. */
export type Heartbeat = Milliseconds

/** A request, as the functions in `messages` and `websocket` see it. */
type Asking = DuplexRequest

/** Settings for opening a WebSocket. */
export interface WebSocketSettings {
  /**
   * The subprotocols that the route speaks, the most wanted first. The first one that the client offers is chosen. If the
   * client offers none of them, none is chosen. A function gets the client's offer in order, and returns one of its entries, or
   * false for none. Without this option no subprotocol is chosen.
   */
  subprotocols?: readonly string[] | {
    choose (offered: string[], request: Asking): string | false | Promise<string | false>
  }['choose'] | undefined
  /**
   * The pages that may connect. Browsers always say which page it is (`Origin`), and most other programs do not. A request
   * without `Origin` may connect.
   *
   * - `same`: pages from the host that the request names.
   * - a list of origins, such as `https://a.example`.
   * - a function.
   * - `false`: any page.
   *
   * Other pages get a 403, `FST_ERR_DUPLEX_WEBSOCKET_ORIGIN`.
   *
   * @default 'same'
   */
  origin?: 'same' | false | readonly string[] | {
    allow (origin: string, request: Asking): boolean | Promise<boolean>
  }['allow'] | undefined
  /**
   * Accepts the client's offer of permessage-deflate (RFC 7692): true, or options of `ws`. By default no compression context is
   * kept between messages, and a message shorter than 1 KiB is not compressed.
   *
   * @default false
   */
  perMessageDeflate?: boolean | Record<string, unknown> | undefined
}

/** The names of the framings that come with the plugin. */
export type MessageFramingName = 'websocket' | 'lines' | 'sse'

/** Decides what happens after a message that cannot be read. */
export type InvalidMessageHandler = {
  // A method, so that a connection annotated for the route is accepted.
  handle (error: Error & { code: string }, connection: never): unknown
}['handle']

/** The message options of a route, without the schemas. */
export interface MessageOptions {
  /**
   * The framings that the route speaks.
   *
   * - `websocket`.
   * - `lines`: one message in each line, in bodies and over any other stream.
   * - `sse`: Server-Sent Events, in answers only.
   * - a framing by `lengthPrefixed()` or of your own, in place of `lines`.
   *
   * @default ['websocket', 'lines', 'sse'], or ['websocket'] if the encoding gives bytes
   */
  framing?: MessageFramingName | MessageFraming | readonly (MessageFramingName | MessageFraming)[] | undefined
  /**
   * How a message is written: `json`, `text`, `binary`, or an encoding of your own.
   *
   * @default 'json'
   */
  encoding?: 'json' | 'text' | 'binary' | MessageEncoding | undefined
  /**
   * The longest message, in bytes, as it is encoded. A longer one fails with `FST_ERR_DUPLEX_MESSAGE_TOO_LONG` before it is
   * buffered.
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
   * How often a heartbeat is sent. It is a ping over WebSocket, a comment in Server-Sent Events, and an empty line in `lines`.
   * A peer is gone if a WebSocket receives nothing, or another peer takes nothing, for two heartbeats: `closed` says `idle`.
   * All connections share one timer.
   *
   * @default 0: off
   */
  heartbeat?: Milliseconds | undefined
  /**
   * What happens after a message that cannot be read or does not fit its schema.
   *
   * - `close`: `readable` fails with the error, and the connection ends. A WebSocket is closed with 1007, or with 1009 if the
   *   message is too long.
   * - `skip`: the message is left out.
   * - a function decides. If it returns or resolves, the message is left out. If it throws, the connection ends with that
   *   error.
   *
   * If nobody can say where the next message begins, the connection always ends.
   *
   * @default 'close'
   */
  onInvalid?: 'close' | 'skip' | InvalidMessageHandler | undefined
  /** How a WebSocket is opened. */
  websocket?: WebSocketSettings | undefined
}

/** How a WebSocket ended. */
export interface WebSocketClosed {
  /** The code of the peer's close frame. 1005 if the frame had no code, 1006 if there was no close frame. */
  readonly code: number
  /** The text of that frame. Empty if it had none. */
  readonly reason: string
  /** Whether both sides have sent a close frame. */
  readonly clean: boolean
}

/** Options of `app.duplex.asyncapi()`. */
export interface AsyncApiOptions {
  /** The title and the version of your app, and what else AsyncAPI allows there. */
  info: { title: string, version: string, [field: string]: unknown }
  /** The servers, in the form of AsyncAPI. */
  servers?: Record<string, unknown> | undefined
}

/** An AsyncAPI 3 document. */
export interface AsyncApiDocument {
  /** The version of AsyncAPI. */
  asyncapi: '3.0.0'
  /** As it was given. */
  info: AsyncApiOptions['info']
  /** As they were given. */
  servers?: Record<string, unknown>
  /** One for each route that has messages. */
  channels: Record<string, unknown>
  /** One for each direction of a channel. */
  operations: Record<string, unknown>
  /** The schemas of `addSchema()`. */
  components?: { schemas: Record<string, unknown> }
}
