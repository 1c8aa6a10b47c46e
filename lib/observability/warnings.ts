import type { Readable, Writable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { FST_ERR_DUPLEX_ALREADY_ACCEPTED } from '../errors.ts'
import { isRead } from '../streams/is-read.ts'
import { say } from './log.ts'

/** A route, which gets each warning once. */
interface Warned {
  readonly url: string
}

/** Routes that have had each of the warnings. */
const late = new WeakSet<Warned>()
const unawaited = new WeakSet<Warned>()
const unsent = new WeakSet<Warned>()
const replied = new WeakSet<Warned>()

type Setter = 'header' | 'headers' | 'code' | 'status' | 'type'

const SETTERS: readonly Setter[] = ['header', 'headers', 'code', 'status', 'type']

const kRoute = Symbol('fastify-duplex.route')

interface Late extends FastifyReply {
  [kRoute]?: Warned
}

/**
 * With automatic acceptance the head is sent before the handler is entered. So what the handler sets on the reply is lost, and
 * only this warning says so.
 */
export function warnOfLateHead (route: Warned, reply: FastifyReply): void {
  if (late.has(route) || Object.hasOwn(reply, kRoute)) return
  Object.assign(reply, TRAPS, { [kRoute]: route })
}

const TRAPS = Object.fromEntries(SETTERS.map(name => [name, function (this: Late, ...args: unknown[]): FastifyReply {
  const route = this[kRoute]
  if (route !== undefined && !late.has(route)) {
    late.add(route)
    say(this.log, 'warn', { route: route.url }, `reply.${name}() comes too late: this connection was accepted before its handler was ` +
      'entered. Set it in a hook, with duplex: { headers }, or accept by hand with duplex: { accept: \'manual\' }')
  }
  for (const own of SETTERS) Reflect.deleteProperty(this, own)
  return Reflect.apply(this[name] as (...all: unknown[]) => FastifyReply, this, args)
}]))

interface Acceptable {
  readonly route: Warned
  readonly accepted: boolean
}

const kSend = Symbol('fastify-duplex.send')

/**
 * After acceptance `reply.send()` reaches nobody. Fastify only says that the reply was sent already, and asks whether a `return` was
 * forgotten. This says what to do in its place.
 */
export function warnOfSend (claim: Acceptable, reply: FastifyReply): void {
  if (Object.hasOwn(reply, kSend)) return
  const { send } = reply
  const own = function (this: FastifyReply, ...payload: unknown[]): FastifyReply {
    // The onError hooks of an accepted connection run on a stand-in that does not count as sent.
    if (!claim.accepted || !this.sent) return Reflect.apply(send as (...all: unknown[]) => FastifyReply, this, payload)
    const { route } = claim
    if (!replied.has(route)) {
      replied.add(route)
      say(this.log, 'warn', { err: new FST_ERR_DUPLEX_ALREADY_ACCEPTED(), route: route.url }, 'what is passed to reply.send() is sent to nobody, ' +
        'because the connection is accepted. Write it to writable, or, in messages, pass it to the send() of the connection. Throw an error, ' +
        'or destroy() the connection with it. To answer in place of accepting, use duplex: { accept: \'manual\' }')
    }
    return this
  }
  Object.assign(reply, { send: own, [kSend]: true })
}

interface Pair {
  readonly readable: Readable
  readonly writable: Writable
  readonly inputEnded: boolean
}

/** Warns if the handler's promise, which ends the connection, resolves while somebody still reads. */
export function warnOfReader (route: Warned, { readable, writable, inputEnded }: Pair, reply: FastifyReply): void {
  if (unawaited.has(route) || inputEnded || writable.writableEnded || readable.destroyed || !isRead(readable)) return
  unawaited.add(route)
  say(reply.log, 'warn', { route: route.url }, 'the promise of a duplex handler resolved, which ends its connection, while its readable is ' +
    'still being read. Await what reads it, for instance with pipeline() of node:stream/promises, or return no promise')
}

/**
 * Warns if the handler of an accepted connection gives what a plain route would send: text or an object. Streams, lists and flags
 * are left out, because a handler may give them only because the promise that it returns has them.
 */
export function warnOfValue (route: Warned, value: unknown, reply: FastifyReply): void {
  if (unsent.has(route) || !(typeof value === 'string' || (isPlain(value) && !isResult(value)))) return
  unsent.add(route)
  say(reply.log, 'warn', { route: route.url }, 'what a duplex handler returns is sent to nobody, because its connection is accepted. Write it ' +
    'to writable, or, in messages, pass it to send()')
}

function isPlain (value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}

/** A handler may return the promise of `tunnel()`, `forward()`, `close()` or `closed`. */
function isResult (value: object): boolean {
  return 'bytesToUpstream' in value || 'bytesRead' in value
}
