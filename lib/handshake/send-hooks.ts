import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { FST_ERR_DUPLEX_ALREADY_ACCEPTED, FST_ERR_DUPLEX_ALREADY_SENT } from '../errors.ts'
import { hasNoFields, sendHooks, watchErrorHooks } from '../internals/fastify.ts'
import { appFields, type HeadFields } from './accept-head.ts'
import type { AcceptHooks, Claim } from './claim.ts'
import type { DuplexHeaders } from '../../types/index.ts'

/** Adds the fields of `duplex: { headers }` to the reply. A field that the app has set for this request is kept. */
export function addRouteHeaders (reply: FastifyReply, headers: DuplexHeaders | undefined): void {
  if (headers === undefined) return
  const fields = typeof headers === 'function' ? headers(reply.request as never) : headers
  appFields(fields)
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined && !reply.hasHeader(name)) reply.header(name, value)
  }
}

/**
 * Runs the onSend hooks of the route as for any response, and stops before Fastify would write it.
 * `reply.send()` without a payload runs them, and then calls `writeHead` and `end` of the response. These are
 * replaced here, and give the fields of the accept head. Without asynchronous hooks all of that happens in this
 * tick. If a hook throws, or a field is invalid, Fastify answers as on any route.
 */
export function runSendHooks (claim: Claim, reply: FastifyReply, status: number): HeadFields | Promise<HeadFields> {
  const res = reply.raw as ServerResponse
  const { statusCode } = res
  res.statusCode = status
  return fieldsWithoutHooks(reply) ?? runThem(claim, reply, res, statusCode)
}

/** If the plugin's own hook is the only one, there is nothing to run. */
function fieldsWithoutHooks (reply: FastifyReply): HeadFields | undefined {
  if (sendHooks(reply)?.length !== 1) return undefined
  if (hasNoFields(reply)) return []
  try {
    return appFields(reply.getHeaders() as OutgoingHttpHeaders)
  } catch {
    return undefined
  }
}

/** A value that is no text may be converted to another text each time. It is dropped, so that the error can be answered. */
function dropOddFields (reply: FastifyReply): void {
  const isText = (value: unknown): boolean => typeof value === 'string' || typeof value === 'number'
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if ([value].flat().every(isText)) continue
    reply.removeHeader(name)
    reply.raw.removeHeader(name)
  }
}

/** @param statusCode that of the reply, unless it is accepted */
function runThem (claim: Claim, reply: FastifyReply, res: ServerResponse, statusCode: number): HeadFields | Promise<HeadFields> {
  // Up to Node 24 writeHeader() is another name for writeHead(), which would not call ours.
  const { writeHead, write, end, addTrailers, flushHeaders, writeHeader } = res as ServerResponse & { writeHeader?: unknown }
  const usual = { writeHead, write, end, addTrailers, flushHeaders, ...(writeHeader === undefined ? {} : { writeHeader }) }
  let fields: HeadFields | undefined
  let failure: Error | undefined
  let settle: (() => void) | undefined
  let warned = false
  const restore = (): void => {
    claim.hooks = undefined
    Object.assign(res, usual, { statusCode })
  }
  const failing = (): void => {
    if (claim.hooks !== hooks) return
    restore()
    claim.failing = hooks
    claim.step('fail')
  }
  const fail = (error: Error): void => {
    failing()
    claim.failing = undefined
    failure ??= error
    settle?.()
  }
  const hooks: AcceptHooks = claim.hooks = { begun: false, done: false, fail }
  // The onError hooks of the app may answer, or throw. Then the plugin's own, which is the last, does not run.
  watchErrorHooks(reply, running => {
    if (running) failing()
    else if (claim.failing === hooks) fail(new FST_ERR_DUPLEX_ALREADY_SENT())
  })
  // What Fastify writes here, a payload and trailers, is dropped, because an accept head has no body of its own.
  const drop = (): void => {
    if (hooks.done || warned) return
    warned = true
    warnOfLateReply(reply)
  }
  const dropped = (): ServerResponse => {
    drop()
    return res
  }
  const head = (_status: number, given: OutgoingHttpHeaders): ServerResponse => {
    if (!hooks.done) return dropped()
    for (const name of String(given.trailer ?? '').split(' ')) reply.removeTrailer(name)
    try {
      fields = appFields({ ...res.getHeaders(), ...given })
    } catch (error) {
      dropOddFields(reply)
      fail(error as Error)
      throw error
    }
    settle?.()
    return res
  }
  const more = (): boolean => {
    drop()
    return true
  }
  Object.assign(res, { writeHead: head, write: more, end: dropped, addTrailers: drop, flushHeaders: drop })
  if (writeHeader !== undefined) Object.assign(res, { writeHeader: head })
  reply.send()
  const outcome = (): HeadFields => {
    if (failure !== undefined) throw failure
    // Not before, because Fastify calls end() in the same tick as writeHead().
    restore()
    return fields as HeadFields
  }
  if (fields !== undefined || failure !== undefined) return outcome()
  return new Promise<void>(resolve => { settle = resolve }).then(outcome)
}

/** A reply came while the connection was being accepted. It is dropped, and the log tells that, as Fastify does for a second reply. */
export function warnOfLateReply (reply: FastifyReply): void {
  try {
    reply.log.warn({ err: new FST_ERR_DUPLEX_ALREADY_ACCEPTED() }, 'a reply came after accept() had been called, and is dropped')
  } catch {
    // A logger that throws must not cost the acceptance.
  }
}

/** A stream that nobody will read is let go of. */
export function discardPayload (payload: unknown): void {
  const stream = payload as { destroy?: () => void, cancel?: () => Promise<void> } | null | undefined
  if (typeof stream !== 'object' || stream === null) return
  if (typeof stream.destroy === 'function') stream.destroy()
  else if (typeof stream.cancel === 'function') stream.cancel().catch(() => {})
}

/** The last onSend hook of a duplex route. It drops the payload while a connection is being accepted. */
export function dropPayload (claim: Claim | undefined, payload: unknown): unknown {
  if (claim?.hooks === undefined) return payload
  claim.hooks.done = true
  discardPayload(payload)
  return null
}
