import createError from '@fastify/error'

/** Raised at boot, by `register` or by the declaration of a route. */
export const FST_ERR_DUPLEX_INVALID_OPTION = createError<[string]>(
  'FST_ERR_DUPLEX_INVALID_OPTION', '%s', 500, TypeError)
export const FST_ERR_DUPLEX_ALREADY_REGISTERED = createError(
  'FST_ERR_DUPLEX_ALREADY_REGISTERED', 'fastify-duplex is registered on this server already', 500)
export const FST_ERR_DUPLEX_LATE_REGISTRATION = createError<[string]>(
  'FST_ERR_DUPLEX_LATE_REGISTRATION',
  'fastify-duplex must be registered before duplex routes are declared, found %s: ' +
  'await app.register(duplex) first, or declare the routes in a plugin that is registered after it', 500)
export const FST_ERR_DUPLEX_NOT_REGISTERED = createError<[string]>(
  'FST_ERR_DUPLEX_NOT_REGISTERED',
  'duplex route %s is declared where fastify-duplex is not registered: register it in the same scope, or in one around it', 500)
export const FST_ERR_DUPLEX_PLAIN_CONNECT = createError<[string]>(
  'FST_ERR_DUPLEX_PLAIN_CONNECT', 'the CONNECT route %s needs the option duplex: nothing but a duplex route can have a CONNECT', 500)
export const FST_ERR_DUPLEX_UNSAFE_SERVER = createError<[string]>(
  'FST_ERR_DUPLEX_UNSAFE_SERVER', 'fastify-duplex cannot take connections over safely from a server with %s', 500)
export const FST_ERR_DUPLEX_BODY_SCHEMA = createError<[string, string]>(
  'FST_ERR_DUPLEX_BODY_SCHEMA', 'duplex route %s has schema.body, which only kind "upgrade" can honour: remove %s from its kinds', 500)
export const FST_ERR_DUPLEX_UNKNOWN_CONSTRAINT = createError<[string, string]>(
  'FST_ERR_DUPLEX_UNKNOWN_CONSTRAINT', 'constraint %s of route %s has no strategy, or a value that it does not take', 500)
export const FST_ERR_DUPLEX_ASYNC_CONSTRAINT = createError<[string, string]>(
  'FST_ERR_DUPLEX_ASYNC_CONSTRAINT', 'constraint %s of route %s is asynchronous: a duplex route is chosen when the request head is read', 500)
export const FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME = createError<[string]>(
  'FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME', 'fastify-duplex does not work on this runtime: %s', 500)

/** Answered to a client whose request cannot be taken over. */
export const FST_ERR_DUPLEX_UPGRADE_REQUIRED = createError<[string, string]>(
  'FST_ERR_DUPLEX_UPGRADE_REQUIRED', 'Upgrade Required: this route speaks %s, and the request offers %s', 426)
export const FST_ERR_DUPLEX_BAD_UPGRADE = createError(
  'FST_ERR_DUPLEX_BAD_UPGRADE', 'Malformed Upgrade header', 400)
export const FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL = createError<[string, string]>(
  'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL', 'This route speaks %s, and the request offers %s', 400)
export const FST_ERR_DUPLEX_BAD_TARGET = createError(
  'FST_ERR_DUPLEX_BAD_TARGET', 'CONNECT needs a target of the form host:port', 400)
export const FST_ERR_DUPLEX_CONNECT_BODY = createError(
  'FST_ERR_DUPLEX_CONNECT_BODY', 'CONNECT cannot declare a body', 400)
export const FST_ERR_DUPLEX_NO_HOST = createError(
  'FST_ERR_DUPLEX_NO_HOST', 'HTTP/1.1 requests need exactly one Host header', 400)
export const FST_ERR_DUPLEX_BODY_NOT_PARSED = createError<[string]>(
  'FST_ERR_DUPLEX_BODY_NOT_PARSED', 'An Upgrade with a body is not possible: %s', 400)
export const FST_ERR_DUPLEX_NO_ROUTE = createError<[string]>(
  'FST_ERR_DUPLEX_NO_ROUTE', 'No route takes %s', 404)
export const FST_ERR_DUPLEX_LENGTH_REQUIRED = createError(
  'FST_ERR_DUPLEX_LENGTH_REQUIRED', 'An Upgrade with a body needs a Content-Length', 411)
export const FST_ERR_DUPLEX_EXPECTATION_FAILED = createError(
  'FST_ERR_DUPLEX_EXPECTATION_FAILED', 'Unknown expectation', 417)
export const FST_ERR_DUPLEX_HEADERS_TOO_LARGE = createError(
  'FST_ERR_DUPLEX_HEADERS_TOO_LARGE', 'Too many request header fields', 431)
export const FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_HANDSHAKE_TIMEOUT', 'Not accepted within %d ms', 503)
export const FST_ERR_DUPLEX_MAX_CONNECTIONS = createError(
  'FST_ERR_DUPLEX_MAX_CONNECTIONS', 'Too many duplex connections', 503)
export const FST_ERR_DUPLEX_SHUTDOWN = createError(
  'FST_ERR_DUPLEX_SHUTDOWN', 'The server is shutting down', 503)
export const FST_ERR_DUPLEX_MAX_PER_KEY = createError(
  'FST_ERR_DUPLEX_MAX_PER_KEY', 'Too many duplex connections of the same key', 429)

export const FST_ERR_DUPLEX_ROUTING_FAILED = createError(
  'FST_ERR_DUPLEX_ROUTING_FAILED', 'Routing the request failed', 500)

/** Thrown to the code of the app, or answered if that code has a fault. */
export const FST_ERR_DUPLEX_NOT_ACCEPTED = createError(
  'FST_ERR_DUPLEX_NOT_ACCEPTED', 'The handler neither accepted the connection nor sent a reply', 500)
export const FST_ERR_DUPLEX_ALREADY_ACCEPTED = createError(
  'FST_ERR_DUPLEX_ALREADY_ACCEPTED', 'The connection was accepted already', 500)
export const FST_ERR_DUPLEX_ALREADY_SENT = createError(
  'FST_ERR_DUPLEX_ALREADY_SENT', 'A reply was sent already', 500)
export const FST_ERR_DUPLEX_INVALID_STATUS = createError<[number, string]>(
  'FST_ERR_DUPLEX_INVALID_STATUS', 'Status %d cannot accept a connection of kind "%s"', 500)
export const FST_ERR_DUPLEX_INVALID_HEADER = createError<[string]>(
  'FST_ERR_DUPLEX_INVALID_HEADER', 'Header %s has characters that HTTP does not allow', 500)
export const FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED = createError<[string]>(
  'FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED', 'The client did not offer the protocol "%s"', 500)
export const FST_ERR_DUPLEX_INVALID_KEY = createError<[string]>(
  'FST_ERR_DUPLEX_INVALID_KEY', 'maxConnections.key must give a string, got %s', 500, TypeError)
export const FST_ERR_DUPLEX_INVALID_EXPIRY = createError<[string]>(
  'FST_ERR_DUPLEX_INVALID_EXPIRY', 'The end of a connection must be a Date, milliseconds since 1970 or undefined, got %s', 500, TypeError)
export const FST_ERR_DUPLEX_INVALID_LABEL = createError<[string, string]>(
  'FST_ERR_DUPLEX_INVALID_LABEL', '%s, got %s', 500, TypeError)
export const FST_ERR_DUPLEX_NO_CONNECTION = createError(
  'FST_ERR_DUPLEX_NO_CONNECTION', 'A duplex route needs a connection: use app.injectDuplex() in place of app.inject()', 500)
export const FST_ERR_DUPLEX_CANNOT_DETACH = createError(
  'FST_ERR_DUPLEX_CANNOT_DETACH', 'A body, or a stream of HTTP/2, has no connection of its own to detach', 500)
export const FST_ERR_DUPLEX_NOT_ADOPTED = createError<[string]>(
  'FST_ERR_DUPLEX_NOT_ADOPTED', 'This request was read by another server, and its "%s" cannot be served here any more', 501)

/**
 * Errors of messages. `readable` fails with them, `send()` rejects with them, and a client whose body is one message is
 * answered with them.
 */
export const FST_ERR_DUPLEX_MESSAGE_INVALID = createError<[string, ErrorOptions?]>(
  'FST_ERR_DUPLEX_MESSAGE_INVALID', 'Invalid message: %s', 400)
export const FST_ERR_DUPLEX_MESSAGE_TOO_LONG = createError<[number]>(
  'FST_ERR_DUPLEX_MESSAGE_TOO_LONG', 'A message is longer than %d bytes', 413)
export const FST_ERR_DUPLEX_MESSAGE_CUT = createError<[ErrorOptions?]>(
  'FST_ERR_DUPLEX_MESSAGE_CUT', 'The input ended inside a message', 400)
export const FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE = createError<[string, ErrorOptions?]>(
  'FST_ERR_DUPLEX_MESSAGE_UNSERIALISABLE', 'The message cannot be sent: %s', 500)
export const FST_ERR_DUPLEX_MESSAGE_NOT_SENT = createError<[ErrorOptions?]>(
  'FST_ERR_DUPLEX_MESSAGE_NOT_SENT', 'The connection takes no messages any more', 500)
export const FST_ERR_DUPLEX_MESSAGE_TYPE = createError<[string]>(
  'FST_ERR_DUPLEX_MESSAGE_TYPE', 'This route takes messages as %s', 415)
export const FST_ERR_DUPLEX_HEARTBEAT = createError<[number]>(
  'FST_ERR_DUPLEX_HEARTBEAT', 'The peer was silent for two heartbeats of %d ms', 408)

/** Errors of WebSocket. */
export const FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE = createError<[string]>(
  'FST_ERR_DUPLEX_WEBSOCKET_HANDSHAKE', 'Not a WebSocket handshake: %s', 400)
export const FST_ERR_DUPLEX_WEBSOCKET_VERSION = createError(
  'FST_ERR_DUPLEX_WEBSOCKET_VERSION', 'Only version 13 of WebSocket is spoken here', 426)
export const FST_ERR_DUPLEX_WEBSOCKET_ORIGIN = createError<[string]>(
  'FST_ERR_DUPLEX_WEBSOCKET_ORIGIN', 'Pages of %s may not connect here', 403)
export const FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL = createError<[string, ErrorOptions?]>(
  'FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL', 'The peer does not keep to RFC 6455: %s', 400)
export const FST_ERR_DUPLEX_CANNOT_HAND_OVER = createError<[string]>(
  'FST_ERR_DUPLEX_CANNOT_HAND_OVER', 'asWs() is not possible: %s', 500)

/** `injectDuplex` rejects with these. */
export const FST_ERR_DUPLEX_INVALID_INJECTION = createError<[string, ErrorOptions?]>(
  'FST_ERR_DUPLEX_INVALID_INJECTION', 'injectDuplex() cannot send this request: %s', 500, TypeError)
export const FST_ERR_DUPLEX_CANNOT_INJECT = createError(
  'FST_ERR_DUPLEX_CANNOT_INJECT', 'injectDuplex() speaks HTTP/1.1 and HTTP/2, and this server does neither', 500)

/** Reasons of `connection.signal` and `closed.error`. */
export const FST_ERR_DUPLEX_ABORTED = createError(
  'FST_ERR_DUPLEX_ABORTED', 'The peer went away', 499)
export const FST_ERR_DUPLEX_TRAILERS = createError(
  'FST_ERR_DUPLEX_TRAILERS', 'The peer sent trailers on a tunnel', 400)
export const FST_ERR_DUPLEX_IDLE_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_IDLE_TIMEOUT', 'No byte in either direction for %d ms', 408)
export const FST_ERR_DUPLEX_READ_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_READ_TIMEOUT', 'No byte came from the peer for %d ms', 408)
export const FST_ERR_DUPLEX_MAX_BUFFERED = createError<[number]>(
  'FST_ERR_DUPLEX_MAX_BUFFERED', 'More than %d bytes wait for the peer to take them', 408)
export const FST_ERR_DUPLEX_FIN_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_FIN_TIMEOUT', 'Our side had ended, and the peer neither ended its own nor moved a byte for %d ms', 408)
export const FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_HALF_OPEN_TIMEOUT', 'The peer ended its side and nothing was written for %d ms', 408)
export const FST_ERR_DUPLEX_MAX_LIFETIME = createError<[number]>(
  'FST_ERR_DUPLEX_MAX_LIFETIME', 'The connection reached its lifetime of %d ms', 408)
/** Pending connections are answered with these, too. */
export const FST_ERR_DUPLEX_EXPIRED = createError(
  'FST_ERR_DUPLEX_EXPIRED', 'The time of the connection is over', 401)
export const FST_ERR_DUPLEX_REVOKED = createError(
  'FST_ERR_DUPLEX_REVOKED', 'The connection was revoked', 403)
export const FST_ERR_DUPLEX_HANDLER_FAILED = createError(
  'FST_ERR_DUPLEX_HANDLER_FAILED', 'The handler of the connection failed', 500)
export const FST_ERR_DUPLEX_DESTROYED = createError(
  'FST_ERR_DUPLEX_DESTROYED', 'The connection was destroyed', 500)

/** `dial()` rejects with these. `tunnel()` rejects with the second if its upstream breaks before acceptance. */
export const FST_ERR_DUPLEX_DIAL_FORBIDDEN = createError<[ErrorOptions?]>(
  'FST_ERR_DUPLEX_DIAL_FORBIDDEN', 'No address of the upstream may be connected to', 403)
export const FST_ERR_DUPLEX_DIAL_FAILED = createError<[ErrorOptions?]>(
  'FST_ERR_DUPLEX_DIAL_FAILED', 'The connection could not be made', 502)
export const FST_ERR_DUPLEX_DIAL_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_DIAL_TIMEOUT', 'The upstream was not reached within %d ms', 504)

/** Errors of an upstream. `forward` answers with them, and the client rejects with them. */
export const FST_ERR_DUPLEX_UPSTREAM_INVALID = createError<[string, ErrorOptions?]>(
  'FST_ERR_DUPLEX_UPSTREAM_INVALID', 'The answer of the server is invalid: %s', 502)
export const FST_ERR_DUPLEX_UPSTREAM_LOST = createError<[ErrorOptions?]>(
  'FST_ERR_DUPLEX_UPSTREAM_LOST', 'The server closed the connection without an answer', 502)
export const FST_ERR_DUPLEX_UPSTREAM_TIMEOUT = createError<[number]>(
  'FST_ERR_DUPLEX_UPSTREAM_TIMEOUT', 'The server did not answer within %d ms', 504)
export const FST_ERR_DUPLEX_NO_EXTENDED_CONNECT = createError(
  'FST_ERR_DUPLEX_NO_EXTENDED_CONNECT', 'The server does not offer extended CONNECT, by which HTTP/2 upgrades', 502)

/** `forward` answers with these, and with the errors of an upstream above. */
export const FST_ERR_DUPLEX_NO_UPSTREAM = createError(
  'FST_ERR_DUPLEX_NO_UPSTREAM', 'There is no upstream for this request', 404)
export const FST_ERR_DUPLEX_BAD_PATH = createError(
  'FST_ERR_DUPLEX_BAD_PATH', 'The target of this request cannot be sent on', 400)

/** `connect()` of the client rejects with a `DuplexRefused` of this code. */
export const FST_ERR_DUPLEX_REFUSED = createError<[string, number, string]>(
  'FST_ERR_DUPLEX_REFUSED', 'The %s refused: %d %s', 502)
