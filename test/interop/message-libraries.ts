// Libraries that want a WebSocket of `ws`, on `asWs()`: over HTTP/1, and over HTTP/2 through a proxy. Encodings that are libraries. And the
// parser of AsyncAPI.
import { strict as assert } from 'node:assert'
import { writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import fc from 'fast-check'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { serializerCompiler, validatorCompiler } from 'fastify-type-provider-zod'
import { WebSocket, WebSocketServer } from 'ws'
import { z } from 'zod'
import { connect } from '../../lib/client/index.ts'
import duplex, { lengthPrefixed, type MessageEncoding } from '../../lib/index.ts'
import { haproxy, load, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'

const graphqlWs: Peer = { name: 'graphql-ws', required: true, npm: 'graphql-ws@6' }
const graphql: Peer = { name: 'graphql', required: true, npm: 'graphql@16' }
const yWebSocket: Peer = { name: 'y-websocket', required: true, npm: 'y-websocket@2' }
const yjs: Peer = { name: 'yjs', required: true, npm: 'yjs@13' }
const trpc: Peer = { name: 'tRPC', required: true, npm: '@trpc/server@11' }
const trpcClient: Peer = { name: 'tRPC client', required: true, npm: '@trpc/client@11' }
const cborX: Peer = { name: 'cbor-x', required: true, npm: 'cbor-x@1' }
const msgpackr: Peer = { name: 'msgpackr', required: true, npm: 'msgpackr@2' }
const parser: Peer = { name: '@asyncapi/parser', required: true, npm: '@asyncapi/parser@3' }

async function run (lab: Lab): Promise<void> {
  const libraries = await loadAll(lab)
  const plain = await serve(lab, libraries, {})
  const http2 = await serve(lab, libraries, { http2: true })
  const front = await proxy(lab, http2.port)
  for (const [way, port, { seen, until }, version] of [['HTTP/1', plain.port, plain, '1.1'], ['HTTP/2 to the app', front, http2, '2.0']] as const) {
    const origin = `ws://localhost:${port}`
    const over = async (path: string): Promise<void> => {
      const wanted = `${path} over ${version}: clean`
      await until(() => seen.some(line => line.startsWith(path)))
      assert.deepEqual(seen.splice(0), [wanted])
    }

    await lab.check(graphqlWs, `${way}: a query, a subscription, an operation that is refused`, async () => {
      const { createClient } = load<GraphqlWs>('graphql-ws')
      const client = createClient({ url: `${origin}/graphql`, webSocketImpl: WebSocket, lazy: false })
      const ask = async (query: string): Promise<unknown[]> => {
        const results: unknown[] = []
        for await (const result of client.iterate({ query })) results.push(JSON.parse(JSON.stringify(result)))
        return results
      }
      assert.deepEqual(await ask('{ hello }'), [{ data: { hello: 'world' } }])
      assert.deepEqual(await ask('subscription { count }'), [1, 2, 3].map(count => ({ data: { count } })))
      await assert.rejects(ask('{ other }'))
      await client.dispose()
      await over('graphql')
    })

    await lab.check(yWebSocket, `${way}: two documents become one, and each hears of the other`, async () => {
      const { Doc } = load<Yjs>('yjs')
      const { WebsocketProvider } = load<YWebSocket>('y-websocket')
      const [one, two] = [new Doc(), new Doc()]
      one.getText('text').insert(0, 'hello')
      const open = (doc: YDoc): YProvider => new WebsocketProvider(`${origin}/y`, `room-${port}`, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
      const [first, second] = [open(one), open(two)]
      const seenBy = async (doc: YDoc, text: string): Promise<void> => {
        while (doc.getText('text').toString() !== text) await new Promise<void>(resolve => { doc.once('update', () => resolve()) })
      }
      await seenBy(two, 'hello')
      two.getText('text').insert(5, ' world')
      await seenBy(one, 'hello world')
      second.awareness.setLocalState({ name: 'two' })
      while (![...first.awareness.getStates().values()].some(({ name }) => name === 'two')) {
        await new Promise<void>(resolve => { first.awareness.once('change', () => resolve()) })
      }
      for (const provider of [first, second]) provider.destroy()
      await until(() => seen.length === 2)
      assert.deepEqual(seen.splice(0), [`y over ${version}: clean`, `y over ${version}: clean`])
    })

    await lab.check(trpc, `${way}: a query, a mutation, a subscription, an input that does not fit`, async () => {
      const { createTRPCClient, createWSClient, wsLink } = load<TrpcClient>('@trpc/client')
      const socket = createWSClient({ url: `${origin}/trpc`, WebSocket })
      const client = createTRPCClient({ links: [wsLink({ client: socket })] })
      assert.equal(await client.hello.query('world'), 'hello world')
      assert.equal(await client.add.mutate(2), 2)
      assert.equal(await client.add.mutate(3), 5)
      await assert.rejects(client.add.mutate('x'), /a number/)
      const counted: unknown[] = []
      await new Promise<void>((resolve, reject) => {
        client.count.subscribe(3, { onData: data => { counted.push(data) }, onComplete: () => resolve(), onError: reject })
      })
      assert.deepEqual(counted, [1, 2, 3])
      await socket.close()
      await over('trpc')
    })
  }

  for (const peer of [cborX, msgpackr]) {
    await lab.check(peer, 'the encoding of docs/messages.md: round trips over WebSocket, and with a varint in front', () => roundTrips(lab, peer === cborX ? cbor() : msgpack()))
  }

  await lab.check(parser, 'a document of many routes: no error', async () => {
    const { Parser } = load<AsyncApi>('@asyncapi/parser')
    const { routes, text } = await documentOf(lab)
    const { document, diagnostics } = await new Parser().parse(text)
    assert.deepEqual(diagnostics.filter(({ severity }) => severity < 2).map(({ message, path }) => `${path.join('.')}: ${message}`), [])
    assert.equal(document?.channels().all().length, routes)
    assert.equal(document?.operations().all().length, 2 * routes)
  })

  await lab.ours('fastify-duplex', 'no connection left, and the servers close', async () => {
    for (const { app } of [plain, http2]) {
      assert.equal(app.duplex.connections.size, 0)
      await app.close()
    }
  })
}

function cbor (): MessageEncoding {
  const { encode, decode } = load<{ encode: (value: unknown) => Buffer, decode: (bytes: Buffer) => unknown }>('cbor-x')
  return { contentType: 'application/cbor', encode, decode: payload => decode(payload) }
}

function msgpack (): MessageEncoding {
  const { pack, unpack } = load<{ pack: (value: unknown) => Buffer, unpack: (bytes: Buffer) => unknown }>('msgpackr')
  return { contentType: 'application/msgpack', encode: pack, decode: payload => unpack(payload) }
}

/** Some values of JSON, sent to an app that sends them back. Neither library takes a key `__proto__`. */
async function roundTrips (lab: Lab, encoding: MessageEncoding): Promise<void> {
  const app = Fastify()
  await app.register(duplex)
  const framing = lengthPrefixed({ size: 'varint' })
  for (const [url, way] of [['/websocket', {}], ['/bytes', { protocols: ['x'] }]] as const) {
    app.get(url, { duplex: { ...way, messages: { encoding, framing: url === '/bytes' ? framing : 'websocket' } } }, async ({ readable, send }) => {
      for await (const message of readable) await send(message)
    })
  }
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  const { port } = app.server.address() as AddressInfo
  const said = fc.sample(fc.jsonValue({ noUnicodeString: false }), 300)
    .filter(value => value !== null && !JSON.stringify(value).includes('__proto__')).map(value => JSON.parse(JSON.stringify(value)) as unknown)
  for (const client of [
    await connect(`ws://localhost:${port}/websocket`, { websocket: true, messages: { encoding } }),
    await connect(`http://localhost:${port}/bytes`, { protocol: 'x', messages: { encoding, framing } })
  ]) {
    const heard: unknown[] = []
    const reading = (async () => {
      for await (const message of client.readable) if (heard.push(message) === said.length) break
    })()
    for (const message of said) await client.send(message)
    await reading
    assert.deepEqual(heard, said)
    client.destroy()
  }
  await app.close()
}

/** What is used of the libraries, which are not among the dependencies. */
interface GraphqlWs {
  createClient: (options: object) => { iterate: (query: { query: string }) => AsyncIterable<unknown>, dispose: () => Promise<void> }
}
interface YDoc {
  getText: (name: string) => { insert: (at: number, text: string) => void, toString: () => string }
  once: (event: 'update', listener: () => void) => void
}
interface Yjs { Doc: new () => YDoc }
interface YProvider {
  awareness: {
    setLocalState: (state: object) => void
    getStates: () => Map<number, { name?: string }>
    once: (event: 'change', listener: () => void) => void
  }
  destroy: () => void
}
interface YWebSocket { WebsocketProvider: new (url: string, room: string, doc: YDoc, options: object) => YProvider }
interface TrpcClient {
  createWSClient: (options: object) => { close: () => Promise<void> }
  wsLink: (options: object) => unknown
  createTRPCClient: (options: object) => {
    hello: { query: (name: string) => Promise<unknown> }
    add: { mutate: (amount: unknown) => Promise<unknown> }
    count: {
      subscribe: (to: number, on: { onData: (data: unknown) => void, onComplete: () => void, onError: (error: Error) => void }) => void
    }
  }
}
interface AsyncApi {
  Parser: new () => {
    parse: (text: string) => Promise<{
      document?: { channels: () => { all: () => unknown[] }, operations: () => { all: () => unknown[] } }
      diagnostics: { severity: number, message: string, path: string[] }[]
    }>
  }
}

/** Each gets the sockets of its path. */
interface Libraries {
  graphql?: WebSocketServer
  trpc?: WebSocketServer
  y?: (socket: unknown, request: unknown) => void
}

async function loadAll (lab: Lab): Promise<Libraries> {
  const libraries: Libraries = {}
  if (lab.has(graphqlWs) && lab.has(graphql)) libraries.graphql = serveGraphql()
  if (lab.has(yWebSocket) && lab.has(yjs)) {
    libraries.y = load<{ setupWSConnection: Required<Libraries>['y'] }>('y-websocket/bin/utils').setupWSConnection
  }
  if (lab.has(trpc) && lab.has(trpcClient)) libraries.trpc = serveTrpc()
  return libraries
}

function serveGraphql (): WebSocketServer {
  const { GraphQLInt, GraphQLObjectType, GraphQLSchema, GraphQLString } = load<typeof import('graphql')>('graphql')
  const { useServer } = load<{ useServer: (options: object, wss: WebSocketServer) => void }>('graphql-ws/use/ws')
  const wss = new WebSocketServer({ noServer: true })
  useServer({
    schema: new GraphQLSchema({
      query: new GraphQLObjectType({ name: 'Query', fields: { hello: { type: GraphQLString, resolve: () => 'world' } } }),
      subscription: new GraphQLObjectType({
        name: 'Subscription',
        fields: {
          count: {
            type: GraphQLInt,
            async * subscribe () { for (const count of [1, 2, 3]) yield { count } }
          }
        }
      })
    })
  }, wss)
  return wss
}

function serveTrpc (): WebSocketServer {
  interface Procedure {
    input: (check: (value: unknown) => unknown) => Procedure
    query: (resolve: (given: { input: string }) => unknown) => unknown
    mutation: (resolve: (given: { input: number }) => unknown) => unknown
    subscription: (resolve: (given: { input: number }) => AsyncIterable<unknown>) => unknown
  }
  const { initTRPC } = load<{ initTRPC: { create: () => { router: (procedures: object) => object, procedure: Procedure } } }>('@trpc/server')
  const { applyWSSHandler } = load<{ applyWSSHandler: (options: object) => void }>('@trpc/server/adapters/ws')
  const { router, procedure } = initTRPC.create()
  const number = (value: unknown): number => {
    if (typeof value !== 'number') throw new TypeError('it has to be a number')
    return value
  }
  const wss = new WebSocketServer({ noServer: true })
  let sum = 0
  wss.on('connection', () => { sum = 0 })
  applyWSSHandler({
    wss,
    router: router({
      hello: procedure.input(String).query(({ input }) => `hello ${input}`),
      add: procedure.input(number).mutation(({ input }) => (sum += input)),
      count: procedure.input(number).subscription(async function * ({ input }) { for (let count = 1; count <= input; count++) yield count })
    })
  })
  return wss
}

interface Served {
  app: FastifyInstance
  port: number
  seen: string[]
  until: (holds: () => boolean) => Promise<void>
}

async function serve (lab: Lab, libraries: Libraries, options: object): Promise<Served> {
  const app = Fastify(options as FastifyServerOptions) as FastifyInstance
  await app.register(duplex, { extendedConnect: 'http2' in options, drainTimeout: 1000 })
  const seen: string[] = []
  let wake = (): void => {}
  const route = (name: string, url: string, subprotocols: string[], take: (socket: WebSocket, request: object) => void): void => {
    app.get(url, { duplex: { websocket: { subprotocols } } }, connection => {
      void connection.closed.then(({ websocket }) => {
        seen.push(`${name} over ${connection.httpVersion}: ${websocket?.clean === true ? 'clean' : `not clean, ${websocket?.code}`}`)
        wake()
      })
      take(connection.asWs<WebSocket>(), connection.reply.request.raw)
    })
  }
  route('graphql', '/graphql', ['graphql-transport-ws'], (socket, request) => libraries.graphql?.emit('connection', socket, request))
  route('trpc', '/trpc', [], (socket, request) => libraries.trpc?.emit('connection', socket, request))
  route('y', '/y/:room', [], (socket, request) => libraries.y?.(socket, request))
  await app.listen({ port: 0, host: 'localhost' })
  lab.defer(() => app.close())
  return {
    app,
    port: (app.server.address() as AddressInfo).port,
    seen,
    async until (holds) { while (!holds()) await new Promise<void>(resolve => { wake = resolve }) }
  }
}

async function proxy (lab: Lab, app: number): Promise<number> {
  const front = await unusedPort()
  const file = join(await lab.directory(), 'haproxy.cfg')
  await lab.check(haproxy, 'starts', async path => {
    await writeFile(file, `
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  timeout tunnel 1h
frontend front
  bind 127.0.0.1:${front}
  default_backend app
backend app
  server app1 127.0.0.1:${app} proto h2
`)
    await lab.server(path, ['-db', '-f', file], front)
  })
  return front
}

/** Routes with all that schemas and URLs may be. */
async function documentOf (lab: Lab): Promise<{ routes: number, text: string }> {
  const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  lab.defer(() => app.close())
  await app.register(duplex)
  let routes = 0
  const route = (to: FastifyInstance, url: string, messages: object | true, method: string | string[] = 'GET'): void => {
    routes++
    to.route({ method, url, duplex: { messages }, handler: async () => {} } as never)
  }
  const plain = app as unknown as FastifyInstance
  app.addSchema({
    $id: 'common',
    type: 'object',
    definitions: { text: { type: 'string' } },
    properties: { text: { $ref: '#/definitions/text' }, children: { type: 'array', items: { $ref: '#' } } }
  })
  app.addSchema({ $id: 'https://example.com/schemas/user.json', type: 'object', properties: { name: { $ref: 'common#/definitions/text' } } })
  route(plain, '/rooms/:id', { in: { $ref: 'common#' }, out: { type: 'object', properties: { user: { $ref: 'https://example.com/schemas/user.json#' } } } })
  for (const url of ['/rooms_id', '/rooms/id', '/files/*', '/a/:from-:to/:count(^\\d+)']) route(plain, url, true)
  const local = { type: 'object', nullable: true, definitions: { a: { type: 'string' } }, properties: { a: { $ref: '#/definitions/a' } } }
  route(plain, '/both', { in: local }, ['GET', 'POST'])
  route(plain, '/voice', { framing: 'lines', in: () => local }, 'POST')
  route(plain, '/anything', { in: true, out: false })
  const typebox = Type.Object({ a: Type.Optional(Type.Union([Type.String(), Type.Null()])), b: Type.Tuple([Type.Number()]) })
  route(plain, '/typebox', { in: typebox, out: Type.Unsafe({}) })
  route(plain, '/bytes', { encoding: 'binary', framing: ['websocket', lengthPrefixed({ size: 4 })] })
  app.get('/frames', { duplex: { websocket: true } }, async () => {})
  routes++
  for (const type of ['string', 'number']) {
    await app.register(async scope => {
      scope.addSchema({ $id: 'leaf', type })
      route(scope as unknown as FastifyInstance, `/${type}`, { in: { $ref: 'leaf#' } })
    })
  }
  await app.register(async scope => {
    scope.setValidatorCompiler(validatorCompiler)
    scope.setSerializerCompiler(serializerCompiler)
    route(scope as unknown as FastifyInstance, '/zod', { in: z.object({ a: z.string().optional(), b: z.int() }), out: z.object({ b: z.string() }) })
  })
  await app.ready()
  const servers = { here: { host: 'localhost:3000', protocol: 'ws' } }
  return { routes, text: JSON.stringify(app.duplex.asyncapi({ info: { title: 'Routes', version: '1.0.0' }, servers })) }
}

const group: Group = {
  title: 'Messages and WebSocket, the libraries',
  peers: [graphqlWs, graphql, yWebSocket, yjs, trpc, trpcClient, cborX, msgpackr, parser, haproxy],
  run
}

export default group
