import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import { appFields, type HeadFields } from './accept-head.ts'
import { sendHooks } from '../internals/fastify.ts'
import { sendRefusal, silence } from '../http1/response.ts'

/** A response whose onSend hooks are running for an accept head, and how to end that. */
const running = new WeakMap<ServerResponse, { fail: (error: Error) => void, status: number }>()

/**
 * Runs the onSend hooks of the route as they run for any response, and stops where Fastify would write
 * it. `reply.send()` without a payload does all that; a response whose `writeHead` and `end` are ours
 * turns it into the fields of the accept head. Without asynchronous hooks all of it happens in this
 * tick. When a hook throws, Fastify answers that as on any route, and so it does with a field that is none.
 */
export function runSendHooks (reply: FastifyReply, status: number): HeadFields | Promise<HeadFields> {
  const res = reply.raw as ServerResponse
  const { statusCode } = res
  res.statusCode = status
  return fieldsWithoutHooks(reply) ?? runThem(reply, res, statusCode)
}

/** Where the plugin's own hook is the only one there is nothing to run. */
function fieldsWithoutHooks (reply: FastifyReply): HeadFields | undefined {
  if (sendHooks(reply)?.length !== 1) return undefined
  try {
    return appFields(reply.getHeaders() as OutgoingHttpHeaders)
  } catch {
    return undefined
  }
}

/** @param statusCode that of the reply, unless it is accepted */
function runThem (reply: FastifyReply, res: ServerResponse, statusCode: number): HeadFields | Promise<HeadFields> {
  const { writeHead, write, end, addTrailers } = res
  let fields: HeadFields | undefined
  let failure: Error | undefined
  let settle: (() => void) | undefined
  const restore = (): void => {
    running.delete(res)
    Object.assign(res, { writeHead, write, end, addTrailers, statusCode })
  }
  const fail = (error: Error): void => {
    restore()
    failure = error
    settle?.()
  }
  running.set(res, { fail, status: statusCode })
  // A payload and trailers are dropped: there is no body yet that they could belong to.
  res.write = () => true
  res.addTrailers = () => {}
  res.end = (() => res) as typeof end
  res.writeHead = ((_status: number, given: OutgoingHttpHeaders) => {
    for (const name of String(given.trailer ?? '').split(' ')) reply.removeTrailer(name)
    try {
      fields = appFields({ ...res.getHeaders(), ...given })
    } catch (error) {
      fail(error as Error)
      throw error
    }
    running.delete(res)
    settle?.()
    return res
  }) as typeof writeHead
  reply.send()
  const outcome = (): HeadFields => {
    if (failure !== undefined) throw failure
    // Only now: Fastify has called end() by this time, in the tick of writeHead().
    restore()
    return fields as HeadFields
  }
  if (fields !== undefined || failure !== undefined) return outcome()
  return new Promise<void>(resolve => { settle = resolve }).then(outcome)
}

/** The last onSend hook of a duplex route: no payload while a connection is being accepted. */
export function dropPayload (res: ServerResponse, payload: unknown): unknown {
  if (!running.has(res)) return payload
  const stream = payload as { destroy?: () => void, cancel?: () => Promise<void> } | null | undefined
  if (typeof stream === 'object' && stream !== null) {
    if (typeof stream.destroy === 'function') stream.destroy()
    else if (typeof stream.cancel === 'function') stream.cancel().catch(() => {})
  }
  return null
}

/** An onSend hook threw, and Fastify answers that now. */
export function acceptanceFailed (res: ServerResponse, error: Error): void {
  running.get(res)?.fail(error)
}

/** The client has left while the hooks run: what was not accepted is not to be logged with the status of acceptance. */
export function forgetAcceptStatus (res: ServerResponse): void {
  const hooks = running.get(res)
  if (hooks !== undefined) res.statusCode = hooks.status
}

/**
 * A timeout struck while the hooks run. They cannot run again for its answer, so that is sent
 * without them, and nothing comes of what they are doing.
 */
export function interruptSendHooks (res: ServerResponse, error: Error & { code: string, statusCode?: number }): boolean {
  const hooks = running.get(res)
  if (hooks === undefined) return false
  hooks.fail(error)
  sendRefusal(res, error)
  silence(res)
  return true
}
