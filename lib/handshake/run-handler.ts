import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Connection } from '../connection/connection.ts'
import { kAcceptNow, kDeciding, kHandlerDone, kHandlerFailed, kHandlerLeft } from '../connection/symbols.ts'
import { FST_ERR_DUPLEX_BODY_NOT_PARSED, FST_ERR_DUPLEX_MAX_CONNECTIONS, FST_ERR_DUPLEX_NOT_ACCEPTED, FST_ERR_DUPLEX_SHUTDOWN } from '../errors.ts'
import { takeSlots } from '../routes/slots.ts'
import type { Registry } from '../shutdown/registry.ts'
import { claimOf, type Claim } from './claim.ts'
import { sayClose } from './refusal.ts'

/** A handler as Fastify and its hooks see it; the types of a duplex one are the user's side of it. */
export type Handler = (this: FastifyInstance, first: unknown, second: unknown) => unknown

/** Seconds after which a client that found all slots taken may try again. */
const RETRY_AFTER = 1

/** The handler of the Fastify route: makes the connection, accepts it, and lets the user's handler own it. */
export function enter (app: FastifyInstance, handler: Handler, request: FastifyRequest, reply: FastifyReply, registry: Registry): unknown {
  const claim = claimOf(request.raw) as Claim
  const { route } = claim
  if (claim.gone) {
    reply.hijack()
    return undefined
  }
  // A timeout has struck, and its answer is on its way through the onSend hooks.
  if (!claim.undecided) return undefined
  if (registry.draining) throw refused(claim, shutDown(reply))
  if (claim.hasBody && claim.kind === 'upgrade' && !route.settings.rawBody && !claim.req.readableEnded) {
    throw refused(claim, new FST_ERR_DUPLEX_BODY_NOT_PARSED(
      `nothing has read the body of this ${claim.req.method} when the handler is entered. A content type parser that hands on the stream ` +
      'has to read it to its end, or a preHandler hook has to'))
  }
  if (!takeSlots(route.slots, registry.slots)) {
    reply.header('retry-after', RETRY_AFTER)
    throw refused(claim, new FST_ERR_DUPLEX_MAX_CONNECTIONS())
  }
  const connection = route.messages?.connection(claim, request, reply, registry) ?? new Connection(claim, reply, registry)
  return route.settings.manual
    ? runManual(app, handler, connection, request, claim)
    : runAuto(app, handler, connection, request, claim)
}

/** A body would keep its connection, which nobody may use any more. */
export function shutDown (reply: FastifyReply): Error {
  sayClose(reply)
  return new FST_ERR_DUPLEX_SHUTDOWN()
}

function refused (claim: Claim, error: unknown): unknown {
  claim.step('answer')
  return error
}

function runAuto (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest, claim: Claim): unknown {
  let accepting: void | Promise<void>
  try {
    accepting = connection[kAcceptNow]({})
  } catch (error) {
    notAccepted(claim, error)
    return undefined
  }
  if (accepting === undefined) {
    runAccepted(app, handler, connection, request)
    return undefined
  }
  return accepting.then(
    () => runAccepted(app, handler, connection, request),
    (error: unknown) => notAccepted(claim, error)
  )
}

function runAccepted (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest): void {
  let result: unknown
  try {
    result = handler.call(app, connection, request)
  } catch (error) {
    connection[kHandlerFailed](error)
    return
  }
  own(connection, result)
}

/** When a hook threw Fastify answers; when the client went away there is nobody to answer. */
function notAccepted (claim: Claim, error: unknown): unknown {
  if (claim.undecided) throw refused(claim, error)
  return elsewhere(claim)
}

/** The handler's promise is the connection's owner. */
function own (connection: Connection, result: unknown): void {
  if (!isThenable(result)) {
    connection[kHandlerLeft]()
    return
  }
  Promise.resolve(result).then(() => connection[kHandlerDone](), (error: unknown) => connection[kHandlerFailed](error))
}

function runManual (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest, claim: Claim): unknown {
  const done = (value: unknown): unknown => {
    const deciding = connection[kDeciding]
    if (deciding !== undefined) return deciding.then(() => done(value))
    if (claim.accepted) {
      connection[kHandlerDone]()
      return undefined
    }
    if (!claim.undecided) return value !== undefined && value !== connection && !claim.gone ? value : elsewhere(claim)
    claim.step('answer')
    if (value !== undefined && value !== connection) return value
    throw new FST_ERR_DUPLEX_NOT_ACCEPTED()
  }
  const failed = (error: unknown): unknown => {
    const deciding = connection[kDeciding]
    if (deciding !== undefined) return deciding.then(() => failed(error))
    if (claim.accepted) {
      connection[kHandlerFailed](error)
      return undefined
    }
    if (claim.undecided) throw refused(claim, error)
    connection.reply.log.debug({ err: error }, 'duplex handler failed after its request was answered')
    return elsewhere(claim)
  }
  let result: unknown
  try {
    result = handler.call(app, connection, request)
  } catch (error) {
    return failed(error)
  }
  if (isThenable(result)) return Promise.resolve(result).then(done, failed)
  connection[kHandlerLeft]()
  if (claim.accepted || connection[kDeciding] !== undefined) return undefined
  if (result !== undefined) claim.step('answer')
  return result
}

/** Fastify waits for the answer that is on its way, rather than send one itself. */
function elsewhere (claim: Claim): unknown {
  return claim.gone || claim.reply?.sent === true ? undefined : claim.reply
}

function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}
