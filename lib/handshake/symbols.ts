/** On a raw request: the claim that a duplex route has on it. */
export const kClaim = Symbol('fastify-duplex.claim')
/** On a socket that left HTTP, the request of a message, or a stream of HTTP/2: its carrier. */
export const kCarrier = Symbol('fastify-duplex.carrier')
