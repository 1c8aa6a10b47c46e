/** RFC 6455 section 7.4.1. */
export const NORMAL = 1000
export const GOING_AWAY = 1001
export const NO_STATUS = 1005
export const ABNORMAL = 1006
const INTERNAL_ERROR = 1011
/** A code of this plugin, like 4401 for an expired connection. */
export const REVOKED = 4403

/** The codes of our own errors. Any other reason resets the connection, unless our side has failed. */
const CODES: Readonly<Record<string, number>> = {
  FST_ERR_DUPLEX_SHUTDOWN: GOING_AWAY,
  FST_ERR_DUPLEX_MAX_LIFETIME: GOING_AWAY,
  FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL: 1002,
  FST_ERR_DUPLEX_MESSAGE_INVALID: 1007,
  FST_ERR_DUPLEX_MESSAGE_CUT: 1007,
  FST_ERR_DUPLEX_MESSAGE_TOO_LONG: 1009,
  FST_ERR_DUPLEX_EXPIRED: 4401,
  FST_ERR_DUPLEX_REVOKED: REVOKED
}

/** An error that may name the close code for the peer. */
export interface CodedClose extends Error {
  code?: string
  closeCode?: number
}

/** The close code for an error. Undefined if nothing is sent to the peer, or if the error is not meant for it. */
export function closeCodeOf (error: CodedClose | undefined, failed: boolean): number | undefined {
  if (isCloseCode(error?.closeCode)) return error.closeCode
  const { code } = error ?? {}
  if (typeof code === 'string' && Object.hasOwn(CODES, code)) return CODES[code]
  return failed ? INTERNAL_ERROR : undefined
}

/** Whether an endpoint may send this code in a close frame. */
export function isCloseCode (code: unknown): code is number {
  if (typeof code !== 'number' || !Number.isInteger(code)) return false
  return (code >= 1000 && code <= 1014 && (code < 1004 || code > 1006)) || (code >= 3000 && code <= 4999)
}

const MOST_OF_A_REASON = 123

/** Shortens a reason so that it fits into a close frame (RFC 6455 section 5.5). It never cuts a character. */
export function reasonOf (text: string): string {
  if (Buffer.byteLength(text) <= MOST_OF_A_REASON) return text
  let reason = ''
  let size = 0
  for (const character of text) {
    size += Buffer.byteLength(character)
    if (size > MOST_OF_A_REASON) break
    reason += character
  }
  return reason
}
