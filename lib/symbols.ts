// Properties of objects that users get, which the plugin needs and users do not see.

/** On a raw request: the claim of a duplex route. */
export const kClaim = Symbol('fastify-duplex.claim')

// On a connection:

/** One of the sides has ended, or all is over. */
export const kProgressed = Symbol('fastify-duplex.progressed')
/** Breaks the connection off, with this reason: a limit is over, or a WebSocket failed. */
export const kEndBecause = Symbol('fastify-duplex.endBecause')
/** The connection is to end soon: the server is going away, or the connection has expired or was revoked. */
export const kDrain = Symbol('fastify-duplex.drain')
/** The connection was extended: it goes on after all. */
export const kUndrain = Symbol('fastify-duplex.undrain')
/** The labels, the expiry and the rates of the connection: a `ConnectionGovernance`. */
export const kGovernance = Symbol('fastify-duplex.governance')
/** The connection has expired, or was revoked: breaks it off. A pending one is answered with the error. */
export const kEndByGovernance = Symbol('fastify-duplex.endByGovernance')
/** The drain is over. */
export const kShutDown = Symbol('fastify-duplex.shutDown')
/** The request was refused, or its client has left: it will not become a connection. */
export const kRefused = Symbol('fastify-duplex.refused')
/** Accepts, in the same tick if no hook is asynchronous. */
export const kAcceptNow = Symbol('fastify-duplex.acceptNow')
/** A promise that resolves when the onSend hooks of an `accept()` have run. It never rejects. */
export const kDeciding = Symbol('fastify-duplex.deciding')
/** The handler's promise resolved. */
export const kHandlerDone = Symbol('fastify-duplex.handlerDone')
/** The handler returned no promise. */
export const kHandlerReturned = Symbol('fastify-duplex.handlerReturned')
/** The handler threw, or its promise was rejected, after acceptance. */
export const kHandlerFailed = Symbol('fastify-duplex.handlerFailed')
/** The connection is a second old, and gets its TCP keep-alive. */
export const kSetKeepAlive = Symbol('fastify-duplex.setKeepAlive')
/** Its place among the connections of the app, and among those that wait for TCP keep-alive. */
export const kPlace = Symbol('fastify-duplex.place')
export const kAgingPlace = Symbol('fastify-duplex.agingPlace')
/** Adds a listener that is called with the reason with which `signal` aborts. A signal costs far more. */
export const kHearEnd = Symbol('fastify-duplex.hearEnd')
/** Removes it. */
export const kUnhearEnd = Symbol('fastify-duplex.unhearEnd')
/** Whether the server is going away. */
export const kIsDraining = Symbol('fastify-duplex.isDraining')
