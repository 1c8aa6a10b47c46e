/** On a raw request: the claim of a duplex route. */
export const kClaim = Symbol('fastify-duplex.claim')
