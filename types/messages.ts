import type { Milliseconds } from './connection.ts'

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
