import type { HTTPMethods } from 'fastify'
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http'
import type { Readable, Writable } from 'node:stream'

/** A request for an in-memory connection. */
export interface InjectDuplexOptions {
  /** @default 'GET' */
  method?: HTTPMethods | 'CONNECT' | undefined
  /** The path and query; for CONNECT the target, `host:port`. */
  url: string
  headers?: OutgoingHttpHeaders | undefined
  /** What to offer as `Upgrade`, in order. With none the request is no upgrade. */
  protocol?: string | readonly string[] | undefined
  /** The request body. Objects are sent as JSON. */
  payload?: string | Uint8Array | object | undefined
  /** Bytes to send in one chunk with the request head, before there is an answer. */
  early?: string | Uint8Array | undefined
}

/** The answer, as the client sees it. A refusal is one too: it resolves with its status and body. */
export interface InjectDuplexResponse {
  readonly statusCode: number
  /** In lower case, as Node parses them. */
  readonly headers: IncomingHttpHeaders
  /** What the server sends. */
  readonly readable: Readable
  /** What the server receives. */
  readonly writable: Writable
  /** Reads `readable` to its end. Call it once, and do not read `readable` beside it. */
  body (): Promise<Buffer>
  /** Resolves when the in-memory connection is closed. It never rejects. */
  readonly closed: Promise<void>
}
