/** On a raw request: the claim that a duplex route has on it. */
export const kClaim = Symbol('fastify-duplex.claim')
