import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { FST_ERR_DUPLEX_BODY_NOT_PARSED, FST_ERR_DUPLEX_MAX_CONNECTIONS, FST_ERR_DUPLEX_NOT_ACCEPTED } from '../errors.ts'
import type { RequestGovernance } from '../governance/request-governance.ts'
import { takeSlots } from '../governance/slots.ts'
import { claimOf, type Claim } from '../handshake/claim.ts'
import { RETRY_AFTER, shutdownError } from '../handshake/refusal.ts'
import { say } from '../observability/log.ts'
import type { Registry } from '../shutdown/registry.ts'
import { kAcceptNow, kDeciding, kGovernance, kHandlerDone, kHandlerFailed, kHandlerReturned } from '../symbols.ts'
import { isThenable } from '../tools/thenable.ts'
import { Connection } from './connection.ts'

/** A handler as Fastify and its hooks see it. Users see the types of a duplex handler. */
export type Handler = (this: FastifyInstance, first: unknown, second: unknown) => unknown

/** The handler of the Fastify route. It makes the connection, accepts it, and calls the user's handler, which then owns it. */
export function runHandler (
  app: FastifyInstance, handler: Handler, request: FastifyRequest, reply: FastifyReply, registry: Registry
): unknown {
  const claim = claimOf(request.raw) as Claim
  const { route } = claim
  if (claim.gone) {
    reply.hijack()
    return undefined
  }
  // A time limit was over, and the onSend hooks of its answer still run. Or a hook has called back twice, and Fastify comes again.
  if (!claim.undecided || claim.entered) return undefined
  claim.entered = true
  if (registry.draining) throw refused(claim, shutdownError(reply))
  if (claim.hasBody && claim.kind === 'upgrade' && !route.settings.rawBody && !claim.req.readableEnded) {
    throw refused(claim, new FST_ERR_DUPLEX_BODY_NOT_PARSED(
      `nothing has read the body of this ${claim.req.method} when the handler is entered. A content type parser that hands on the stream ` +
      'has to read it to its end, or a preHandler hook has to'))
  }
  let begin: ReturnType<RequestGovernance['ask']>
  try {
    begin = claim.governance?.ask(request)
  } catch (error) {
    throw refused(claim, error)
  }
  if (!takeSlots(route.slots, registry.slots)) {
    reply.header('retry-after', RETRY_AFTER)
    throw refused(claim, new FST_ERR_DUPLEX_MAX_CONNECTIONS())
  }
  const connection = route.messages?.connection(claim, request, reply, registry) ?? new Connection(claim, reply, registry)
  begin?.(connection[kGovernance])
  return route.settings.manual
    ? runManual(app, handler, connection, request, claim)
    : runAuto(app, handler, connection, request, claim)
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
  endWithPromise(connection, result)
}

/** If a hook threw, Fastify answers. If the client went away, nobody is left to answer. */
function notAccepted (claim: Claim, error: unknown): unknown {
  if (claim.undecided) throw refused(claim, error)
  return waitForOtherAnswer(claim)
}

/** The handler's promise owns the connection. */
function endWithPromise (connection: Connection, result: unknown): void {
  if (!isThenable(result)) {
    connection[kHandlerReturned](result)
    return
  }
  Promise.resolve(result).then(value => connection[kHandlerDone](value), (error: unknown) => connection[kHandlerFailed](error))
}

function runManual (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest, claim: Claim): unknown {
  const done = (value: unknown): unknown => {
    const deciding = connection[kDeciding]
    if (deciding !== undefined) return deciding.then(() => done(value))
    if (claim.accepted) {
      connection[kHandlerDone](value)
      return undefined
    }
    if (!claim.undecided) return value !== undefined && value !== connection && !claim.gone ? value : waitForOtherAnswer(claim)
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
    say(connection.reply.log, 'debug', { err: error }, 'duplex handler failed after its request was answered')
    return waitForOtherAnswer(claim)
  }
  let result: unknown
  try {
    result = handler.call(app, connection, request)
  } catch (error) {
    return failed(error)
  }
  if (isThenable(result)) return Promise.resolve(result).then(done, failed)
  connection[kHandlerReturned](result)
  if (claim.accepted || connection[kDeciding] !== undefined) return undefined
  if (result !== undefined) claim.step('answer')
  return result
}

/** Fastify waits for the answer that is under way, if the handler returns the reply. It then sends no other answer. */
function waitForOtherAnswer (claim: Claim): unknown {
  return claim.gone || claim.reply?.sent === true ? undefined : claim.reply
}
