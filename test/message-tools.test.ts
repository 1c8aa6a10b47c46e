import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { GraphQLObjectType, GraphQLSchema, GraphQLString } from 'graphql'
import { createClient } from 'graphql-ws'
import { useServer } from 'graphql-ws/use/ws'
import t from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import duplex from '../lib/index.ts'
import { OPCODE, closeFrame, frame, nextClose, nextFrame, nextText, opening } from './fixtures/frames.ts'
import { declareRoom, echo, room } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { serve } from './fixtures/server.ts'

const websocket = { websocket: true } as const

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`WS6 asWs(): a WebSocket of ws, with what came before [${transport}]`, async t => {
    const { wire, connection } = await room(t, { transport, duplex: websocket }, async connection => {
      // What has come is not lost, and neither is a ping that was answered.
      await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
      const ws = connection.asWs<WebSocket>()
      ws.on('message', (data: Buffer) => ws.send(`${String(data)}!`))
      await t.rejects(connection.send('x'), { code: 'FST_ERR_DUPLEX_MESSAGE_NOT_SENT' })
      await once(ws, 'close')
    })
    wire.send(Buffer.concat([frame('1'), frame('2')]))
    t.equal(await nextText(wire), '1!')
    t.equal(await nextText(wire), '2!')
    wire.send(closeFrame(3000, 'why'))
    t.strictSame(await nextClose(wire), { code: 3000, reason: 'why' })
    wire.end()
    t.match(await connection.closed, { reason: 'end', websocket: { code: 3000, reason: 'why', clean: true } })
  })

  t.test(`WS6 asWs(): limits and shutdown still hold [${transport}]`, async t => {
    const { wire, app, connection } = await room(t, { transport, duplex: websocket }, async connection => {
      connection.asWs<WebSocket>()
      await new Promise(resolve => connection.draining.addEventListener('abort', resolve))
    })
    void app.close()
    t.equal((await nextClose(wire)).code, 1001)
    wire.send(closeFrame(1001))
    wire.end()
    t.match(await connection.closed, { reason: 'end' })
  })
}

t.test('WS6 asWs(): after a first read, and of what is no WebSocket, it is a coded error', async t => {
  const { wire } = await room(t, { duplex: websocket }, async connection => {
    for await (const message of connection.readable) {
      t.throws(() => connection.asWs(), { code: 'FST_ERR_DUPLEX_CANNOT_HAND_OVER' })
      await connection.send(message)
    }
  })
  wire.send(frame('a'))
  t.equal(await nextText(wire), 'a')
  const lines = await room(t, { head: request('GET /room'), messages: {} }, async connection => {
    t.throws(() => connection.asWs(), { code: 'FST_ERR_DUPLEX_CANNOT_HAND_OVER' })
  })
  t.equal(lines.head.status, 200)
})

t.test('WS6 graphql-ws on it', async t => {
  const schema = new GraphQLSchema({
    query: new GraphQLObjectType({ name: 'Query', fields: { hello: { type: GraphQLString, resolve: () => 'world' } } })
  })
  // It listens to the server of ws, which here only hands on.
  const wss = new WebSocketServer({ noServer: true })
  useServer({ schema }, wss)
  const server = await serve(t, {}, app => {
    app.get('/graphql', { duplex: { websocket: { subprotocols: ['graphql-transport-ws'] } } }, (connection, request) => {
      wss.emit('connection', connection.asWs(), request.raw)
    })
  })
  const client = createClient({ url: `ws://127.0.0.1:${server.port}/graphql`, webSocketImpl: WebSocket })
  const results: unknown[] = []
  for await (const result of client.iterate({ query: '{ hello }' })) results.push(result)
  t.match(results, [{ data: { hello: 'world' } }])
  await client.dispose()
  await server.quiet()
})

t.test('WS2 a client of ws, whole: a large message, pings, a close', async t => {
  const duplex = { websocket: { perMessageDeflate: true, maxLength: 1024 * 1024 } }
  const server = await serve(t, {}, app => declareRoom(app, { duplex }, echo))
  const client = new WebSocket(`ws://127.0.0.1:${server.port}/room`)
  await once(client, 'open')
  const text = 'x'.repeat(500_000)
  client.send(text)
  const [data] = await once(client, 'message') as [Buffer]
  t.equal(data.length, text.length)
  client.ping('p')
  t.strictSame((await once(client, 'pong'))[0], Buffer.from('p'))
  client.close(3000, 'bye')
  t.match(await once(client, 'close'), [3000, Buffer.from('bye')])
  await server.quiet()
})

for (const transport of ['tcp', 'h2'] as const) {
  t.test(`MS12 injectDuplex in messages: lines, events, WebSocket, refusals [${transport}]`, async t => {
    const { app } = await serve(t, { transport }, app => {
      declareRoom(app, { messages: { in: { type: 'object' } } }, echo)
      app.get('/frames', { duplex: websocket }, echo as never)
      app.get('/refused', { duplex: websocket, onRequest: async () => { throw Object.assign(new Error('no'), { statusCode: 401 }) } }, echo as never)
    })
    const said = { text: 'a' }
    for (const options of [
      { url: '/room', messages: true },
      { url: '/room', messages: true, headers: { accept: 'text/event-stream' } },
      { url: '/room', websocket: true }
    ] as const) {
      const { readable, send, writable, closed } = await app.injectDuplex(options)
      const messages = readable[Symbol.asyncIterator]()
      for (let at = 0; at < 2; at++) {
        await send(said)
        t.strictSame((await messages.next()).value, said, JSON.stringify(options))
      }
      writable.end()
      t.equal((await messages.next()).done, true)
      t.match(await closed, 'websocket' in options ? { complete: true, websocket: { code: 1000, clean: true } } : { complete: true })
    }
    const frames = await app.injectDuplex({ url: '/frames', websocket: true })
    await frames.send('text')
    // eslint-disable-next-line no-unreachable-loop
    for await (const message of frames.readable) {
      t.equal(message, 'text')
      break
    }
    frames.writable.end()
    const refused = await app.injectDuplex({ url: '/refused', websocket: true })
    t.equal(refused.statusCode, 401)
    t.match(String(await refused.body()), /"message":"no"/)
    await t.rejects(app.injectDuplex({ url: '/room', messages: 1 } as never), { code: 'FST_ERR_DUPLEX_INVALID_INJECTION' })
  })
}

t.test('MS12 injectDuplex: the data lines of one event are one message', async t => {
  const { app } = await serve(t, {}, app => {
    app.get('/room', { duplex: { messages: { encoding: 'text' } } }, async ({ writable }) => {
      writable.write('one\ntwo')
      writable.write('three')
    })
  })
  const { readable, writable } = await app.injectDuplex({ url: '/room', messages: true, headers: { accept: 'text/event-stream' } })
  writable.end()
  const messages: unknown[] = []
  for await (const message of readable) messages.push(message)
  t.strictSame(messages, ['one\ntwo', 'three'])
})

t.test('MS11 asyncapi(): each route once, both directions, schemas that are in the document', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  app.addSchema({ $id: 'common', type: 'object', definitions: { text: { type: 'string' } } })
  const out = { type: 'object', properties: { text: { $ref: 'common#/definitions/text' } } }
  app.get('/rooms/:id', { duplex: { messages: { in: { $ref: 'common#' }, out } } }, async () => {})
  app.post('/voice', { duplex: { messages: { framing: 'lines', in: () => out } } }, async () => {})
  app.get('/bytes', { duplex: true }, () => {})
  await app.ready()
  const info = { title: 'Rooms', version: '1.0.0' }
  const document = app.duplex.asyncapi({ info, servers: { here: { host: 'a', protocol: 'ws' } } })
  t.strictSame(JSON.parse(JSON.stringify(document)), document, 'nothing in it that is no JSON')
  t.match(document, { asyncapi: '3.0.0', info, servers: { here: { host: 'a' } } })
  t.strictSame(Object.keys(document.channels), ['GET_rooms_id', 'POST_voice'])
  t.match(document.channels.GET_rooms_id, {
    address: '/rooms/{id}',
    parameters: { id: {} },
    bindings: { ws: {} },
    messages: {
      in: { contentType: 'application/json', payload: { $ref: '#/components/schemas/common' } },
      out: { payload: { properties: { text: { $ref: '#/components/schemas/common/definitions/text' } } } }
    }
  })
  t.strictSame(Object.keys(document.operations), ['GET_rooms_id.receive', 'GET_rooms_id.send', 'POST_voice.receive', 'POST_voice.send'])
  for (const [, reference] of JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)) {
    let found: unknown = document
    for (const part of (reference as string).split('/')) found = (found as Record<string, unknown> | undefined)?.[part]
    t.ok(found, `#/${reference as string} is there`)
  }
})

t.test('MS11 asyncapi(): URLs of one name, schemas that refer to themselves, scopes with another schema of the same $id', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(duplex)
  const route = (app: FastifyInstance, url: string, into: unknown): unknown =>
    app.get(url, { duplex: { messages: { in: into as object } } }, async () => {})
  const tree = { $id: 'tree', type: 'object', properties: { children: { type: 'array', items: { $ref: '#' } }, next: { $ref: 'tree#' } } }
  app.addSchema(tree)
  for (const url of ['/a/b', '/a_b', '/a/:b']) route(app, url, { $ref: 'tree#' })
  const local = { $id: 'local', type: 'object', definitions: { text: { type: 'string' } }, properties: { $id: { $ref: '#/definitions/text' } } }
  route(app, '/local', local)
  route(app, '/anything', true)
  route(app, '/nothing', false)
  for (const type of ['string', 'number']) {
    await app.register(async app => {
      app.addSchema({ $id: 'leaf', type })
      app.addSchema({ $id: 'branch', type: 'object', properties: { leaf: { $ref: 'leaf#' } } })
      route(app, `/${type}`, { $ref: 'branch#' })
    })
  }
  await app.ready()
  const document = app.duplex.asyncapi({ info: { title: 'Names', version: '1.0.0' } })
  const find = (reference: string): unknown =>
    reference.slice('#/'.length).split('/').reduce<unknown>((within, part) => (within as Record<string, unknown> | undefined)?.[part], document)
  type Payload = { $ref: string, properties: Record<string, { $ref: string, items: { $ref: string } }> }
  const payloadOf = (address: string): Payload => {
    const channels = Object.values(document.channels) as { address: string, messages: { in: { payload: Payload } } }[]
    return channels.find(channel => channel.address === address)?.messages.in.payload as Payload
  }
  t.strictSame(Object.keys(document.channels).slice(0, 3), ['GET_a_b', 'GET_a_b_2', 'GET_a_b_3'])
  t.equal(Object.keys(document.operations).length, 16)
  const common = payloadOf('/a/{b}')
  t.strictSame(payloadOf('/a_b'), common)
  const there = find(common.$ref) as Payload
  t.equal(there.properties.children?.items.$ref, common.$ref)
  t.equal(there.properties.next?.$ref, common.$ref)
  const own = payloadOf('/local')
  t.strictSame(find(own.properties.$id?.$ref as string), { type: 'string' })
  t.equal(payloadOf('/anything'), undefined)
  t.strictSame(payloadOf('/nothing'), { not: {} })
  for (const type of ['string', 'number']) {
    const branch = find(payloadOf(`/${type}`).$ref) as Payload
    t.strictSame(find(branch.properties.leaf?.$ref as string), { type })
  }
  t.strictSame(Object.keys(document.components?.schemas ?? {}), ['tree', 'leaf', 'branch', 'leaf_2', 'branch_2'])
})

t.test('WS7 beside ws on the same server: each has its own', async t => {
  const server = await serve(t, {}, app => {
    declareRoom(app, { duplex: websocket }, echo)
    const wss = new WebSocketServer({ noServer: true })
    app.server.on('upgrade', (req, socket, head) => {
      if (req.url !== '/theirs') return
      wss.handleUpgrade(req, socket, head, ws => ws.send('theirs'))
    })
  })
  const theirs = await server.connect()
  theirs.send(opening('/theirs'))
  t.equal((await theirs.head()).status, 101)
  t.equal(await nextText(theirs), 'theirs')
  theirs.destroy()
  const ours = await server.connect()
  ours.send(opening('/room'))
  await ours.head()
  ours.send(frame('p', { opcode: OPCODE.ping }))
  t.equal((await nextFrame(ours)).opcode, OPCODE.pong)
})
