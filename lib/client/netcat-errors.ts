import { FST_ERR_DUPLEX_DIAL_FAILED, FST_ERR_DUPLEX_UPSTREAM_INVALID, FST_ERR_DUPLEX_UPSTREAM_LOST } from '../errors.ts'
import { DuplexRefused } from './refused.ts'

type Coded = Error & { code?: string, cause?: unknown }

/** Where the command was to go. */
export interface Going {
  readonly secure: boolean
  readonly http2: boolean
}

/** Of OpenSSL, which names them by its own insides. */
const NO_TLS = /^ERR_SSL_(?:WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST|UNEXPECTED_MESSAGE|BAD_RECORD_TYPE)$/
const NO_VERSION = 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL'
const UNTRUSTED = /^(?:(?:DEPTH_ZERO_)?SELF_SIGNED_CERT.*|UNABLE_TO_(?:VERIFY|GET_ISSUER).*|CERT_.*|ERR_TLS_CERT_ALTNAME_INVALID)$/

/** An error in one line for whoever typed the command. */
export function whatHappened (error: Coded, going: Going | undefined): string {
  if (error instanceof DuplexRefused) return `${error.by === 'proxy' ? 'the proxy' : 'the server'} refused: ${error.statusCode} ${error.statusMessage}`
  // It has said why.
  if (error instanceof FST_ERR_DUPLEX_UPSTREAM_INVALID) return error.message
  const why = reasonOf(error.cause)
  if (error instanceof FST_ERR_DUPLEX_UPSTREAM_LOST && going?.secure === false) {
    return `${error.message}${why === '' || why === 'socket hang up' ? '' : `: ${why}`} (does it want TLS, an https: URL?)`
  }
  if (error instanceof FST_ERR_DUPLEX_DIAL_FAILED) return `${error.message}: ${explained(error.cause, why, going)}`
  return why === '' ? error.message : `${error.message}: ${why}`
}

function reasonOf (cause: unknown): string {
  if (cause instanceof AggregateError) return (cause.errors as Error[]).map(({ message }) => message).join(', ')
  return (cause as Error | undefined)?.message ?? ''
}

function explained (cause: unknown, why: string, going: Going | undefined): string {
  const { code = '', by = 'server' } = cause as { code?: string, by?: string } | undefined ?? {}
  if (NO_TLS.test(code)) return `the ${by} does not speak TLS`
  if (code === NO_VERSION) return `the ${by} does not offer ${going?.http2 === true ? 'HTTP/2' : 'a version of HTTP that was asked for'}`
  // Node 24 adds advice of its own.
  if (UNTRUSTED.test(code)) return `the certificate of the ${by} is not trusted: ${why.replace(/; .*$/, '')} (--ca FILE trusts one, --insecure any)`
  return by === 'proxy' ? `the proxy: ${why}` : why
}
