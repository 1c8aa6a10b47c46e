import { isUtf8 } from 'node:buffer'
import type { MessageEncoding } from '../../types/messages.ts'
import { parseSafely, type Poisoning } from './poison.ts'

/** The text of a payload. The receiver has checked text frames of a WebSocket already. */
function textOf (payload: Buffer, isText?: boolean): string {
  if (isText !== true && !isUtf8(payload)) throw new SyntaxError('it is not UTF-8')
  return payload.toString('utf8')
}

/** One JSON text for each message. */
export const json: MessageEncoding = {
  contentType: 'application/json',
  encode (message) {
    const text = JSON.stringify(message) as string | undefined
    if (text === undefined) throw new TypeError(`there is no JSON for ${typeof message}`)
    return text
  },
  decode: (payload, isText) => JSON.parse(textOf(payload, isText)) as unknown
}

/** Reads JSON as the bodies of an app are read, whatever names it has. */
export function decodeSafely (poisoning: Poisoning): MessageEncoding['decode'] {
  return (payload, isText) => parseSafely(textOf(payload, isText), poisoning)
}

/** Strings. */
export const text: MessageEncoding = {
  contentType: 'text/plain',
  encode (message) {
    if (typeof message !== 'string') throw new TypeError(`a message is a string, and not ${typeof message}`)
    return message
  },
  decode: textOf
}

/** Bytes. */
export const binary: MessageEncoding = {
  contentType: 'application/octet-stream',
  encode: bytesOf,
  decode: payload => payload
}

/** Strings and bytes, as the text and binary frames of a WebSocket. */
export const frames: MessageEncoding = {
  encode: message => typeof message === 'string' ? message : bytesOf(message),
  decode: (payload, isText) => isText === true ? payload.toString('utf8') : payload
}

/** The encodings that an option can name. `frames` has no name: it is that of a WebSocket without `messages`. */
export const ENCODINGS: Readonly<Record<string, MessageEncoding>> = { json, text, binary }

function bytesOf (message: unknown): Uint8Array {
  if (message instanceof Uint8Array) return message
  if (message instanceof ArrayBuffer) return new Uint8Array(message)
  if (ArrayBuffer.isView(message)) return new Uint8Array(message.buffer, message.byteOffset, message.byteLength)
  throw new TypeError(`a message is bytes, and not ${typeof message}`)
}
