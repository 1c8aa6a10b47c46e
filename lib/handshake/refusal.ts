import { STATUS_CODES, type ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { FST_ERR_DUPLEX_SHUTDOWN } from '../errors.ts'

// A refusal is sent in one of two ways. Through the reply of the app, with its hooks and its error handler: the usual way, as soon as the
// route's own hooks have begun. Or bare, by sendRefusal(): for a request without a route, and where the hooks cannot run any more.
// writtenRefusal() is for a socket that has no response.

export interface RefusalError extends Error {
  code: string
  statusCode?: number
}

/** Seconds after which a client that found all slots taken may try again. */
export const RETRY_AFTER = 1

/** The body of an error, as Fastify's own handler writes it. */
function errorBody (error: RefusalError): string {
  const statusCode = error.statusCode ?? 500
  return JSON.stringify({ statusCode, code: error.code, error: STATUS_CODES[statusCode], message: error.message })
}

/** Answers without the app: for requests without a route, and when the hooks cannot run any more. */
export function sendRefusal (res: ServerResponse, error: RefusalError): void {
  const body = errorBody(error)
  res.writeHead(error.statusCode ?? 500, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    ...(res.req.httpVersionMajor < 2 ? { Connection: 'close' } : {})
  })
  res.end(body)
}

/** A refusal as text, for a socket without a response: the request is of another server's parser. */
export function writtenRefusal (error: RefusalError): string {
  const { statusCode = 500, message } = error
  return `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode]}\r\nConnection: close\r\nContent-Type: text/plain\r\n` +
    `Content-Length: ${Buffer.byteLength(message)}\r\n\r\n${message}`
}

/** The connection closes after this reply. Over HTTP/2 a reply cannot say that. */
export function addConnectionClose (reply: FastifyReply): void {
  if (reply.request.raw.httpVersionMajor < 2) reply.header('connection', 'close')
}

/** The error for a request that comes during the drain. The reply closes the connection, which a `body` would keep. */
export function shutdownError (reply: FastifyReply): Error {
  addConnectionClose(reply)
  return new FST_ERR_DUPLEX_SHUTDOWN()
}
