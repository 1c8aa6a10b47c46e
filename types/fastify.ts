import type {
  ContextConfigDefault,
  FastifyBaseLogger,
  FastifyInstance,
  FastifyReply,
  FastifyRequest,
  FastifySchema,
  FastifyTypeProvider,
  FastifyTypeProviderDefault,
  HTTPMethods,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerBase,
  RawServerDefault,
  RouteGenericInterface,
  RouteHandlerMethod,
  RouteShorthandOptions
} from 'fastify'
import type { DuplexConnection, DuplexKind, Milliseconds, PendingDuplex } from './connection.ts'
import type { DuplexLabelled } from './governance.ts'
import type { ForwardRouteSettings } from './forward.ts'
import type { InjectDuplexOptions, InjectDuplexResponse, InjectMessagesOptions, InjectMessagesResponse } from './inject.ts'
import type {
  DuplexMessages, InferredMessages, InOf, MessageRouteOptions, OutOf, PendingMessages, WebSocketRouteOptions
} from './message-connection.ts'
import type { AsyncApiDocument, AsyncApiOptions } from './messages.ts'
import type { DuplexRouteSettings, ManualDuplexRouteSettings } from './options.ts'

/**
 * The handler of a route with `duplex: true`. Its promise owns the connection: see
 * {@link DuplexConnection}. The value of the promise is ignored.
 */
export type DuplexHandler<
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  Connection = DuplexConnection,
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> = (
  this: FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>,
  connection: Connection,
  request: FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig, Logger>
) => unknown

/**
 * The handler of a route with `duplex: { accept: 'manual' }`. If it does not accept, what it returns is
 * the response, as on any route. After acceptance that is ignored.
 */
export type ManualDuplexHandler<
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  Pending = PendingDuplex,
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> = (
  this: FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>,
  pending: Pending,
  request: FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig, Logger>
) => ReturnType<RouteHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>>

/**
 * The options of a duplex route, for `app.get()` and its like: Fastify's own, with `duplex` set.
 *
 * @typeParam Duplex `ManualDuplexRouteSettings` for a handler that accepts by itself
 */
export interface DuplexRouteShorthandOptions<
  Duplex = true | DuplexRouteSettings,
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> extends Omit<
    RouteShorthandOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>,
    'duplex'
  > {
  /** `true`, or settings of the route. */
  duplex: Duplex
}

/**
 * The options of a duplex route, for `app.route()`.
 *
 * @typeParam Duplex `ManualDuplexRouteSettings` for a handler that accepts by itself
 * @typeParam Handler `ManualDuplexHandler` then
 */
export interface DuplexRouteOptions<
  Duplex = true | DuplexRouteSettings,
  Handler = DuplexHandler,
  Method = HTTPMethods | 'CONNECT',
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> extends DuplexRouteShorthandOptions<
    Duplex, RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger
  > {
  /** One method, or several. CONNECT needs no `addHttpMethod()`. */
  method: Method | readonly Method[]
  /** As of any route; for CONNECT `*`, or a pattern for the target. */
  url: string
  /** Gets the connection and the request. Its promise owns the connection. */
  handler: Handler
}

/** The kinds that a request with this method can be. */
export type DuplexKindOf<M extends string> = [string] extends [M]
  ? DuplexKind
  : M extends string
    ? Uppercase<M> extends 'CONNECT' ? 'connect' : Exclude<DuplexKind, 'connect'>
    : never

/** `app.duplex`. */
export interface FastifyDuplex extends DuplexLabelled {
  /**
   * The live connections of all routes. A connection is in it from when its handler is entered until `closed` settles.
   * It is a view, not a copy. `accepted` says whether a connection is open or pending.
   */
  readonly connections: ReadonlySet<DuplexConnection | (PendingDuplex & { readonly accepted: false })>
  /**
   * Refuses new connections from now on (503, `FST_ERR_DUPLEX_SHUTDOWN`), aborts `draining` on the live
   * ones, and after `ms` breaks off those that are left. `app.close()` does the same.
   *
   * @param ms how long the handlers have to finish; the plugin's `drainTimeout` if left out
   * @returns a promise that resolves when no connection is left
   */
  drain (ms?: Milliseconds): Promise<void>
  /**
   * An AsyncAPI 3 document of all routes that have messages: each is a channel, with an operation for each direction and the schemas of the
   * route. Call it once the app is ready.
   */
  asyncapi (options: AsyncApiOptions): AsyncApiDocument
}

/** Who accepts: the plugin, before it enters the handler, or the handler itself. */
type Acceptance = 'auto' | 'manual'

/** The type of `duplex` on a route of bytes. */
type SettingsOf<A extends Acceptance, K extends DuplexKind, P extends string> =
  A extends 'manual' ? ManualDuplexRouteSettings<K, P> : true | DuplexRouteSettings<K, P>

/** The type of `duplex` on a route of messages. */
type MessageSettingsOf<A extends Acceptance, K extends DuplexKind, P extends string, Messages, Socket> =
  (A extends 'manual' ? ManualDuplexRouteSettings<K, P> : DuplexRouteSettings<K, P>) & InferredMessages<Messages, Socket>

/**
 * The type of `duplex`, chosen by the names of its properties. So the error of a misspelt name shows only the settings that
 * were meant. The first branch is never chosen: the compiler infers `Names` from it.
 */
type DuplexOf<A extends Acceptance, K extends DuplexKind, P extends string, Messages, Socket, Names extends string> =
  [symbol] extends [Names]
    ? { [Name in Names]?: never }
    : [Extract<Names, keyof InferredMessages<unknown, unknown>>] extends [never]
        ? SettingsOf<A, K, P>
        : MessageSettingsOf<A, K, P, Messages, Socket>

/**
 * All options of a route, chosen by the names in `duplex`: `Forwarded` if `forward` is among them, else `Handled`. If type
 * arguments are written out, the names are not known. An overload in place of this would be the fourth one, and then TypeScript
 * reports only the last.
 */
type EitherOf<A extends Acceptance, Names extends string, Handled, Forwarded> =
  A extends 'manual' ? Handled : string extends Names ? Handled | Forwarded : 'forward' extends Names ? Forwarded : Handled

/** The argument of a handler after acceptance. */
type ConnectionOf<K extends DuplexKind, P extends string, Reply, Messages, Socket, TypeProvider extends FastifyTypeProvider> =
  [Messages] extends [undefined]
    ? [Socket] extends [undefined] ? DuplexConnection<K, P, Reply> : DuplexMessages<string | Buffer, string | Uint8Array, K, P, Reply>
    : DuplexMessages<InOf<Messages, TypeProvider>, OutOf<Messages, TypeProvider>, K, P, Reply>

/** The argument of a handler before acceptance. */
type PendingOf<K extends DuplexKind, P extends string, Reply, Messages, Socket, TypeProvider extends FastifyTypeProvider> =
  [Messages] extends [undefined]
    ? [Socket] extends [undefined] ? PendingDuplex<K, P, Reply> : PendingMessages<string | Buffer, string | Uint8Array, K, P, Reply>
    : PendingMessages<InOf<Messages, TypeProvider>, OutOf<Messages, TypeProvider>, K, P, Reply>

/**
 * The handler of a route. The options alone say what the connection is (NoInfer). So a handler with a wrong annotation does not
 * compile.
 */
type HandlerOf<
  A extends Acceptance,
  K extends DuplexKind,
  P extends string,
  RouteGeneric extends RouteGenericInterface,
  RawServer extends RawServerBase,
  RawRequest extends RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer>,
  ContextConfig,
  SchemaCompiler extends FastifySchema,
  TypeProvider extends FastifyTypeProvider,
  Logger extends FastifyBaseLogger,
  Messages,
  Socket,
  Reply = NoInfer<FastifyReply<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider>>
> = A extends 'manual'
  ? ManualDuplexHandler<RouteGeneric, PendingOf<NoInfer<K>, NoInfer<P>, Reply, Messages, Socket, TypeProvider>,
    RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger>
  : DuplexHandler<RouteGeneric, ConnectionOf<NoInfer<K>, NoInfer<P>, Reply, Messages, Socket, TypeProvider>,
    RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger>

/** The options of a route whose requests go to another server. */
type ForwardedOf<
  RouteGeneric extends RouteGenericInterface,
  RawServer extends RawServerBase,
  RawRequest extends RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer>,
  ContextConfig,
  SchemaCompiler extends FastifySchema,
  TypeProvider extends FastifyTypeProvider,
  Logger extends FastifyBaseLogger
> = DuplexRouteShorthandOptions<
  ForwardRouteSettings<FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig, Logger>>,
  RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger
> & { handler?: undefined }

/**
 * The signatures of `app.get()` and its like for duplex routes: one has the handler as an argument of its own, and one has it
 * inside the options. Each is needed for `auto` and for `manual`.
 *
 * The order decides which errors users see. If no signature matches, TypeScript reports all of them up to three, and only
 * the last of four or more. With the handler as an argument there are three candidates, Fastify's own among them; with the
 * handler inside there are four. `auto` is the usual case: so it is the first of the former, and the last of the latter.
 */
export interface DuplexShorthandMethod<
  Apart extends Acceptance,
  Inside extends Acceptance,
  Kind extends DuplexKind,
  RawServer extends RawServerBase,
  RawRequest extends RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer>,
  TypeProvider extends FastifyTypeProvider,
  Logger extends FastifyBaseLogger
> {
  <
    RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
    ContextConfig = ContextConfigDefault,
    const SchemaCompiler extends FastifySchema = FastifySchema,
    const K extends Kind = Kind,
    const P extends string = string,
    const Messages extends MessageRouteOptions | undefined = undefined,
    const Socket extends true | WebSocketRouteOptions | undefined = undefined,
    const Names extends string = string
  >(
    path: string,
    opts: DuplexRouteShorthandOptions<DuplexOf<Apart, K, P, Messages, Socket, Names>,
      RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>,
    handler: HandlerOf<Apart, K, P, RouteGeneric,
      RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger, Messages, Socket>
  ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>

  <
    RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
    ContextConfig = ContextConfigDefault,
    const SchemaCompiler extends FastifySchema = FastifySchema,
    const K extends Kind = Kind,
    const P extends string = string,
    const Messages extends MessageRouteOptions | undefined = undefined,
    const Socket extends true | WebSocketRouteOptions | undefined = undefined,
    const Names extends string = string
  >(
    path: string,
    opts: EitherOf<
      Inside,
      Names,
      DuplexRouteShorthandOptions<DuplexOf<Inside, K, P, Messages, Socket, Names>,
        RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & {
          handler: HandlerOf<Inside, K, P, RouteGeneric,
            RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger, Messages, Socket>
        },
      ForwardedOf<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger>
    >
  ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
}

declare module 'fastify' {
  interface RouteShorthandOptions {
    /**
     * `true` or settings make it a duplex route: the handler gets a `DuplexConnection`, or a
     * `PendingDuplex`, and the request. The compiler must know which: a `boolean` variable is an error.
     */
    duplex?: false | undefined
  }

  // Inherited signatures come after Fastify's own: so a mistake in a plain route is reported against those first.
  interface RouteShorthandMethod<
    RawServer extends RawServerBase = RawServerDefault,
    RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
    RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
    TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
    Logger extends FastifyBaseLogger = FastifyBaseLogger
  > extends DuplexShorthandMethod<'auto', 'manual', DuplexKind, RawServer, RawRequest, RawReply, TypeProvider, Logger>,
    DuplexShorthandMethod<'manual', 'auto', DuplexKind, RawServer, RawRequest, RawReply, TypeProvider, Logger> {}

  interface FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider> {
    /** Added by fastify-duplex. */
    duplex: FastifyDuplex

    /**
     * `inject` for duplex routes: a request on a connection in memory, through Node's own HTTP and all
     * hooks. Nothing listens. It waits for `ready()`. It speaks HTTP/2 if the server does, else HTTP/1.1.
     *
     * @returns the response, which is an acceptance or a refusal; rejects if there is none
     */
    injectDuplex<In = unknown, Out = unknown> (options: InjectMessagesOptions): Promise<InjectMessagesResponse<In, Out>>
    injectDuplex (options: InjectDuplexOptions): Promise<InjectDuplexResponse>

    /**
     * Declares a CONNECT route. It is always a duplex route: only acceptance answers a CONNECT with a 2xx,
     * so a plain route could not serve one.
     */
    connect: DuplexShorthandMethod<'auto', 'manual', 'connect', RawServer, RawRequest, RawReply, TypeProvider, Logger> &
      DuplexShorthandMethod<'manual', 'auto', 'connect', RawServer, RawRequest, RawReply, TypeProvider, Logger>

    route<
      RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
      ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = FastifySchema,
      const K extends DuplexKind = DuplexKind,
      const P extends string = string,
      const M extends HTTPMethods | 'CONNECT' = HTTPMethods | 'CONNECT',
      const Messages extends MessageRouteOptions | undefined = undefined,
      const Socket extends true | WebSocketRouteOptions | undefined = undefined,
    const Names extends string = string
    >(
      opts: EitherOf<
        'auto',
        Names,
        DuplexRouteOptions<
          DuplexOf<'auto', K, P, Messages, Socket, Names>,
          HandlerOf<'auto', Extract<K, DuplexKindOf<M>>, P, RouteGeneric,
            RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger, Messages, Socket>,
          M, RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger
        >,
        ForwardedOf<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger> & {
          method: M | readonly M[]
          url: string
        }
      >
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>

    route<
      RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
      ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = FastifySchema,
      const K extends DuplexKind = DuplexKind,
      const P extends string = string,
      const M extends HTTPMethods | 'CONNECT' = HTTPMethods | 'CONNECT',
      const Messages extends MessageRouteOptions | undefined = undefined,
      const Socket extends true | WebSocketRouteOptions | undefined = undefined,
    const Names extends string = string
    >(
      opts: DuplexRouteOptions<
        DuplexOf<'manual', K, P, Messages, Socket, Names>,
        HandlerOf<'manual', Extract<K, DuplexKindOf<M>>, P, RouteGeneric,
          RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, Logger, Messages, Socket>,
        M, RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger
      >
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
  }
}
