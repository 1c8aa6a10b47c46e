import { FST_ERR_DUPLEX_MESSAGE_INVALID, FST_ERR_DUPLEX_MESSAGE_TOO_LONG, FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL } from '../../errors.ts'
import type { CodedClose } from '../../syntax/close-codes.ts'

/** Turns an error of the Receiver of `ws` into one of this plugin. */
export function receiveError (error: CodedClose, maxLength: number): CodedClose {
  switch (error.code) {
    case 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH':
    case 'WS_ERR_UNSUPPORTED_DATA_PAYLOAD_LENGTH':
      return new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(maxLength)
    case 'WS_ERR_INVALID_UTF8':
      return new FST_ERR_DUPLEX_MESSAGE_INVALID('it is not UTF-8', { cause: error })
    case 'WS_ERR_TOO_MANY_BUFFERED_PARTS':
      return Object.assign(new FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL('a message has too many fragments', { cause: error }), { closeCode: 1008 })
  }
  // An error of zlib.
  if (error.code?.startsWith('Z_') === true) return new FST_ERR_DUPLEX_MESSAGE_INVALID('it cannot be inflated', { cause: error })
  return new FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL(error.message.replace('Invalid WebSocket frame: ', ''), { cause: error })
}
