import { STATUS_CODES, type IncomingHttpHeaders } from 'node:http'
import { FST_ERR_DUPLEX_REFUSED } from '../errors.ts'
import type { Answer, Exchange } from './exchange.ts'

/** How many bytes of a refusal's body are kept, and how many milliseconds it may take. */
const MOST_OF_BODY = 1024 * 1024
const LONGEST = 10_000

/** The server, or the proxy before it, has not accepted the request. */
export class DuplexRefused extends FST_ERR_DUPLEX_REFUSED {
  override readonly name: string = 'DuplexRefused'
  override readonly statusCode: number
  readonly statusMessage: string
  readonly headers: IncomingHttpHeaders
  readonly by: 'server' | 'proxy'
  readonly #body: Promise<Buffer>

  constructor (exchange: Exchange, answer: Answer, by: 'server' | 'proxy' = 'server') {
    const { statusCode, headers } = answer
    const statusMessage = answer.statusMessage === '' ? STATUS_CODES[statusCode] ?? '' : answer.statusMessage
    super(by, statusCode, statusMessage)
    this.statusCode = statusCode
    this.statusMessage = statusMessage
    this.headers = headers
    this.by = by
    // The body is read even if nobody asks for it. Otherwise the connection would stay open.
    this.#body = bodyOf(exchange, answer)
    this.#body.catch(() => {})
  }

  /** The body of the refusal, up to a megabyte. Rejects if it was cut off. */
  body (): Promise<Buffer> { return this.#body }
}

async function bodyOf (exchange: Exchange, { kind, readable, writable }: Answer): Promise<Buffer> {
  const chunks: Buffer[] = []
  let length = 0
  // If only the end of the connection ends the answer, it may never end.
  const timer = setTimeout(() => readable.destroy(), LONGEST)
  try {
    // RFC 9112 section 9.5: after a refusal nobody wants the rest of the request.
    exchange.body?.on('error', () => {})
    for await (const chunk of readable as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      length += chunk.length
      if (length >= MOST_OF_BODY) break
    }
    return Buffer.concat(chunks, Math.min(length, MOST_OF_BODY))
  } catch (error) {
    if (readable.errored == null && readable.destroyed) return Buffer.concat(chunks)
    throw error
  } finally {
    clearTimeout(timer)
    if (kind !== 'body' || !writable.writableFinished || length >= MOST_OF_BODY) exchange.abort(new Error('The answer was no acceptance'))
  }
}
