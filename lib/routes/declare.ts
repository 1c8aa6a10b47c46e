import type { ServerResponse } from 'node:http'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { acceptanceFailed, dropPayload, interruptSendHooks } from '../handshake/send-hooks.ts'
import type { Carrier } from '../connection/carrier.ts'
import { Http2Carrier } from '../http2/stream-carrier.ts'
import { BodyCarrier } from '../http1/body-carrier.ts'
import { Claim, claimOf } from '../handshake/claim.ts'
import { Connection } from '../connection/connection.ts'
import type { DuplexRoute, DuplexRoutes } from './find.ts'
import {
  FST_ERR_DUPLEX_BODY_NOT_PARSED, FST_ERR_DUPLEX_BODY_SCHEMA, FST_ERR_DUPLEX_INVALID_OPTION, FST_ERR_DUPLEX_LENGTH_REQUIRED,
  FST_ERR_DUPLEX_MAX_CONNECTIONS,
  FST_ERR_DUPLEX_NO_CONNECTION, FST_ERR_DUPLEX_NOT_ACCEPTED, FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED, FST_ERR_DUPLEX_SHUTDOWN,
  FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL, FST_ERR_DUPLEX_UPGRADE_REQUIRED
} from '../errors.ts'
import { routeSettings, type PluginSettings, type RouteSettings } from '../options.ts'
import { RefusalResponse, sayClose } from '../http1/response.ts'
import type { Registry } from '../shutdown/registry.ts'
import { Slots, takeSlots } from './slots.ts'
import { wasOffered } from '../handshake/tokens.ts'

/** A handler as Fastify and its hooks see it; the types of a duplex one are the user's side of it. */
type Handler = (this: FastifyInstance, first: unknown, second: unknown) => unknown

/** Seconds after which a client that found all slots taken may try again. */
const RETRY_AFTER = 1

/** Turns the declaration of a duplex route into a Fastify route with the plugin's hooks around it. */
export function declareRoute (
  app: FastifyInstance, options: RouteOptions, plugin: PluginSettings, routes: DuplexRoutes, registry: Registry
): void {
  const settings = kindsForBody(routeSettings((options as { duplex?: unknown }).duplex, plugin), options)
  const methods = [options.method].flat().map(method => method.toUpperCase())
  assertReachable(settings, methods)
  const handlerTimeout = options.handlerTimeout ?? (app.initialConfig as { handlerTimeout?: number }).handlerTimeout
  const route = routes.add({
    url: options.url,
    methods,
    constraints: { ...options.constraints },
    settings,
    slots: new Slots(settings.maxConnections),
    handshakeTimeout: settings.handshakeTimeout ?? handlerTimeout ?? 0,
    handshakeYields: settings.handshakeTimeout === undefined
  })
  options.constraints = routes.constraintsFor(route) as never
  const handler = options.handler as unknown as Handler
  options.handler = function (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply) {
    return enter(this, handler, request, reply, registry)
  } as RouteOptions['handler']
  // Last among the hooks of the route: after those that other plugins add to it for this declaration.
  app.after(() => addHooks(options, settings, registry))
}

/** A route that no request can reach is a mistake of its declaration. */
function assertReachable ({ kinds, protocols, chooser }: RouteSettings, methods: readonly string[]): void {
  const tunnels = methods.map(method => method === 'CONNECT')
  if (!kinds.some(kind => tunnels.includes(kind === 'connect'))) {
    throw new FST_ERR_DUPLEX_INVALID_OPTION('kinds', `such that ${methods.join(', ')} can have one`, JSON.stringify(kinds))
  }
  if (!kinds.includes('upgrade') && (protocols ?? chooser) !== undefined) {
    throw new FST_ERR_DUPLEX_INVALID_OPTION('protocols', 'left out where no upgrade is taken', JSON.stringify(protocols) ?? 'a function')
  }
}

function hasBodySchema (options: RouteOptions): boolean {
  return (options.schema as { body?: unknown } | undefined)?.body !== undefined
}

/** schema.body is for the body parser, and a message's body does not go there. */
function kindsForBody (settings: RouteSettings, options: RouteOptions): RouteSettings {
  if (!hasBodySchema(options)) return settings
  if (settings.kindsNamed) {
    const wrong = settings.kinds.find(kind => kind === 'body' || kind === 'hijack')
    if (wrong !== undefined) throw new FST_ERR_DUPLEX_BODY_SCHEMA(options.url, `"${wrong}"`)
    return settings
  }
  return { ...settings, kinds: ['upgrade'] }
}

function addHooks (options: RouteOptions, { kinds }: RouteSettings, registry: Registry): void {
  const append = (name: 'onRequest' | 'preParsing' | 'onSend' | 'onError', hook: unknown): void => {
    const hooks = [options[name] ?? []].flat()
    ;(options as unknown as Record<string, unknown>)[name] = [...hooks, hook]
  }
  append('onRequest', (request: FastifyRequest, reply: FastifyReply, done: Done) => negotiate(request, reply, registry, done))
  if (kinds.includes('body')) append('preParsing', keepBody)
  append('onSend', (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: (error: Error | null, payload?: unknown) => void) => {
    const res = reply.raw as ServerResponse
    // A 2xx to a CONNECT is a tunnel, and 101 a switch: no answer but acceptance may say so.
    if (claimOf(request.raw)?.impliesTakeover(res.statusCode) === true && dropPayload(res, undefined) === undefined) {
      done(new FST_ERR_DUPLEX_NOT_ACCEPTED())
    } else {
      done(null, dropPayload(res, payload))
    }
  })
  append('onError', (request: FastifyRequest, reply: FastifyReply, error: Error & { code: string, statusCode?: number }, done: () => void) => {
    const claim = claimOf(request.raw)
    // After acceptance there is nobody to answer: the hooks were all that was wanted.
    if (claim?.accepted === true) return
    const res = reply.raw as ServerResponse
    if (error.code === 'FST_ERR_HANDLER_TIMEOUT' && interruptSendHooks(res, error)) return
    acceptanceFailed(res, error)
    done()
  })
}

type Done = (error?: Error) => void

/** The last onRequest hook: what the head alone could not decide. */
function negotiate (request: FastifyRequest, reply: FastifyReply, registry: Registry, done: Done): void {
  const claim = claimOf(request.raw)
  if (claim === undefined) {
    done(new FST_ERR_DUPLEX_NO_CONNECTION())
    return
  }
  claim.reply = reply
  if (registry.draining) {
    done(shutDown(reply))
    return
  }
  switch (claim.instead) {
    case 'head':
      reply.code(200).send()
      return
    case 'not-found':
      reply.callNotFound()
      return
    case 'upgrade-required':
      done(upgradeRequired(claim.route, reply))
      return
  }
  if (claim.kind === 'upgrade' && claim.route.settings.chooser !== undefined) {
    choose(claim, request, reply).then(() => done(), done)
  } else {
    promiseBody(claim, reply)
    done()
  }
}

/** A message would keep its connection, which nobody may use any more. */
function shutDown (reply: FastifyReply): Error {
  sayClose(reply)
  return new FST_ERR_DUPLEX_SHUTDOWN()
}

async function choose (claim: Claim, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const { chooser, kinds } = claim.route.settings
  const choice = await (chooser as NonNullable<typeof chooser>)([...claim.offered], request as never)
  if (choice !== false) {
    if (typeof choice !== 'string' || !wasOffered(choice, claim.offered)) throw new FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED(String(choice))
    // Only now is it known that this body stands before a stream, which needs its exact length.
    if (claim.req.headers['transfer-encoding'] !== undefined) throw new FST_ERR_DUPLEX_LENGTH_REQUIRED()
    claim.protocol = choice
  } else if (claim.hasBody && kinds.includes('body')) {
    claim.kind = 'body'
  } else {
    throw upgradeRequired(claim.route, reply)
  }
  promiseBody(claim, reply)
}

/** RFC 9110 section 7.8: with `Expect: 100-continue` the 100 comes before the 101. On a message it is Node's. */
function promiseBody (claim: Claim, reply: FastifyReply): void {
  if (claim.carrier instanceof Http2Carrier) return
  if (claim.carrier === undefined && claim.kind === 'body' && !(claim.res instanceof RefusalResponse)) return
  const { expect } = claim.req.headers
  if (expect !== undefined && /^100-continue$/i.test(expect) && claim.kind !== 'hijack' && claim.kind !== 'connect') {
    (reply.raw as ServerResponse).writeContinue()
  }
}

function upgradeRequired (route: DuplexRoute, reply: FastifyReply): Error {
  // RFC 9113 section 8.6: HTTP/2 has no Upgrade, which a 426 would have to name.
  if (reply.request.raw.httpVersionMajor > 1) return new FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL()
  const { protocols } = route.settings
  // RFC 9110 section 15.5.22 wants the protocols named; a route that takes any has none to name.
  if (protocols !== undefined) {
    // Node closes for a client that wants it only where its own or this field says so.
    const { httpVersion } = reply.request.raw
    const persists = (reply.raw as ServerResponse).shouldKeepAlive && httpVersion !== '1.0'
    reply.header('upgrade', protocols.join(', ')).header('connection', persists ? 'Upgrade' : 'Upgrade, close')
  }
  return new FST_ERR_DUPLEX_UPGRADE_REQUIRED()
}

/** The last preParsing hook: on a message the stream that it gets is the body, and nothing parses it. */
function keepBody (
  request: FastifyRequest, _reply: FastifyReply, payload: Readable, done: (error: Error | null, payload: Readable) => void
): void {
  const claim = claimOf(request.raw)
  if (claim?.kind === 'body') {
    claim.body = payload
    // Fastify looks for a body once, right after this, and then everybody sees the headers again.
    const headers = request as { headers: unknown }
    headers.headers = {
      get 'content-type' () {
        headers.headers = undefined
        return undefined
      },
      'content-length': undefined,
      'transfer-encoding': undefined
    }
  }
  done(null, payload)
}

/** The handler of the Fastify route: makes the connection, accepts it, and lets the user's handler own it. */
function enter (app: FastifyInstance, handler: Handler, request: FastifyRequest, reply: FastifyReply, registry: Registry): unknown {
  const claim = claimOf(request.raw) as Claim
  const { route } = claim
  if (claim.gone) {
    reply.hijack()
    return
  }
  // A timeout has struck, and its answer is on its way through the onSend hooks.
  if (claim.over) return
  if (registry.draining) throw shutDown(reply)
  const carrier = carrierOf(claim, reply)
  if (carrier === undefined || (claim.hasBody && claim.kind === 'upgrade' && !claim.req.readableEnded)) {
    throw new FST_ERR_DUPLEX_BODY_NOT_PARSED(claim.req.method as string)
  }
  if (!takeSlots(route.slots, registry.slots)) {
    reply.header('retry-after', RETRY_AFTER)
    throw new FST_ERR_DUPLEX_MAX_CONNECTIONS()
  }
  const connection = new Connection(claim, reply, carrier, registry)
  return route.settings.manual
    ? runManual(app, handler, connection, request, claim)
    : runAuto(app, handler, connection, request)
}

function carrierOf (claim: Claim, reply: FastifyReply): Carrier | undefined {
  const { carrier, kind, req, body } = claim
  if (kind === 'body' && carrier === undefined) return new BodyCarrier(req, reply.raw as ServerResponse, body)
  // Over HTTP/2 the request is Node's reader of the stream, which is the pair itself.
  if (carrier instanceof Http2Carrier && body !== req) carrier.readFrom(body)
  return carrier
}

function runAuto (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest): unknown {
  let accepting: void | Promise<void>
  try {
    accepting = connection.acceptNow({})
  } catch (error) {
    notAccepted(connection, error)
    return undefined
  }
  if (accepting === undefined) {
    runAccepted(app, handler, connection, request)
    return undefined
  }
  return accepting.then(
    () => runAccepted(app, handler, connection, request),
    (error: unknown) => notAccepted(connection, error)
  )
}

function runAccepted (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest): void {
  let result: unknown
  try {
    result = handler.call(app, connection, request)
  } catch (error) {
    connection.handlerFailed(error)
    return
  }
  own(connection, result)
}

/** When a hook threw Fastify answers; when the client went away there is nobody to answer. */
function notAccepted (connection: Connection, error: unknown): unknown {
  if (!connection.answered) throw error
  return elsewhere(connection)
}

/** The handler's promise is the connection's owner. */
function own (connection: Connection, result: unknown): void {
  if (!isThenable(result)) {
    connection.handlerLeft()
    return
  }
  Promise.resolve(result).then(() => connection.handlerDone(), (error: unknown) => connection.handlerFailed(error))
}

function runManual (app: FastifyInstance, handler: Handler, connection: Connection, request: FastifyRequest, claim: Claim): unknown {
  // Nothing shows that a reply is on its way, through hooks that take their time, but that it was sent.
  const { reply } = connection
  const { send } = reply
  reply.send = function (this: FastifyReply, payload?: unknown) {
    connection.replying()
    return Reflect.apply(send, this, [payload]) as FastifyReply
  }
  const done = (value: unknown): unknown => {
    if (connection.deciding !== undefined) return connection.deciding.then(() => done(value))
    if (claim.accepted) {
      connection.handlerDone()
      return undefined
    }
    if (value !== undefined && value !== connection) return value
    if (!reply.sent && !connection.answered) throw new FST_ERR_DUPLEX_NOT_ACCEPTED()
    return elsewhere(connection)
  }
  const failed = (error: unknown): unknown => {
    if (connection.deciding !== undefined) return connection.deciding.then(() => failed(error))
    if (claim.accepted) {
      connection.handlerFailed(error)
      return undefined
    }
    if (!connection.answered) throw error
    reply.log.debug({ err: error }, 'duplex handler failed after its request was answered')
    return elsewhere(connection)
  }
  let result: unknown
  try {
    result = handler.call(app, connection, request)
  } catch (error) {
    return failed(error)
  }
  if (isThenable(result)) return Promise.resolve(result).then(done, failed)
  connection.handlerLeft()
  return !claim.accepted && connection.deciding === undefined ? result : undefined
}

/** Fastify waits for the answer that is on its way, rather than send one itself. */
function elsewhere ({ gone, reply }: Connection): unknown {
  return gone || reply.sent ? undefined : reply
}

function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}
