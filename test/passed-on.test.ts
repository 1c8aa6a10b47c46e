import http, { type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { until } from './fixtures/patience.ts'
import { request, UPGRADE } from './fixtures/requests.ts'
import { serve } from './fixtures/server.ts'
import { echo, echoed, owner, share, within, type SharedServer } from './fixtures/shared-server.ts'

const CONNECT = 'CONNECT ours.example:1 HTTP/1.1\r\nHost: ours.example:1\r\n\r\n'

function declare (app: FastifyInstance): void {
  app.get('/it', { duplex: true }, echo)
  app.post('/it', { duplex: true }, echo)
  app.get('/plain', async () => 'plain')
  app.post('/plain', async request => ({ got: request.body }))
  app.route({ method: 'CONNECT', url: '/ours.example/:port', duplex: true, handler: echo })
}

interface Pair {
  front: SharedServer
  back: SharedServer
}

/** Two servers, each of an app with the plugin. The first passes on what it does not take. */
async function pass (t: Test, early: boolean, then: (back: SharedServer) => void = () => {}): Promise<Pair> {
  let emit!: Server['emit']
  const back = await share(t, {
    listen: false,
    plugin: { drainTimeout: 200 },
    fastify: {
      serverFactory: (handler: RequestListener) => {
        const server = http.createServer(handler)
        emit = server.emit.bind(server)
        return server
      }
    } as never
  }, declare)
  then(back)
  if (!early) emit = back.server.emit.bind(back.server)
  const front = await share(t, { plugin: { drainTimeout: 200 } }, app => {
    app.get('/front', { duplex: true }, echo)
    for (const event of ['upgrade', 'connect']) app.server.on(event, (...args: unknown[]) => { emit(event, ...args) })
  })
  return { front, back }
}

for (const early of [false, true]) {
  const how = early ? 'past the interceptors' : 'by emit'

  t.test(`Q5 an app with the plugin passes on ${how} what it does not take to another with it`, async t => {
    const { front, back } = await pass(t, early)
    t.equal(await echoed(await front.connect(), request('GET /it', ...UPGRADE), 'early'), 'early')
    t.equal(await echoed(await front.connect(), CONNECT, 'early'), 'early')
    t.equal(back.app.duplex.connections.size, 2)
    t.equal(await echoed(await front.connect(), request('GET /front', ...UPGRADE), 'early'), 'early')
    t.equal(front.app.duplex.connections.size, 1)
    const refused = await front.connect()
    t.equal((await within('a refusal', refused.send(request('GET /nothing', ...UPGRADE)).response())).status, 404)
    await back.close()
    await front.close()
  })

  t.test(`Q5 what is passed on ${how} is shared with another owner by URL: each request has one`, async t => {
    const theirs = owner('theirs')
    const { front } = await pass(t, early, ({ server }) => {
      server.on('upgrade', (req, socket, head) => { if (req.url !== '/it') theirs.listener(req, socket as never, head) })
    })
    t.equal(await echoed(await front.connect(), request('GET /it', ...UPGRADE), 'early'), 'early')
    const wire = await front.connect()
    t.equal((await within('all', wire.send(request('GET /theirs', ...UPGRADE) + 'x').remains())), 'theirs x')
    t.same(theirs.seen, ['/theirs'])
  })

  t.test(`Q5 what is passed on ${how} twice is taken once`, async t => {
    const { front, back } = await pass(t, early)
    const events: unknown[][] = []
    front.server.on('upgrade', (...args: unknown[]) => { events.push(args) })
    const wire = await front.connect()
    t.equal(await echoed(wire, request('GET /it', ...UPGRADE), 'early'), 'early')
    for (let count = 0; count < 2; count++) back.server.emit('upgrade', ...events[0] as unknown[])
    t.equal((await within('the echo', wire.send('hello').bytes(5))).toString(), 'hello')
    t.equal(back.app.duplex.connections.size, 1)
  })
}

/** How others change `emit`, before or after the plugin. */
const emits: Record<string, (server: Server, before: Server['emit']) => void> = {
  'wraps it': server => {
    const { emit } = server
    server.emit = function (this: Server, ...args: unknown[]) { return Reflect.apply(emit, this, args) as boolean } as Server['emit']
  },
  'puts back the one from before': (server, before) => { server.emit = before },
  'deletes it': server => { Reflect.deleteProperty(server, 'emit') }
}

for (const [how, change] of Object.entries(emits)) {
  for (const others of [false, true]) {
    t.test(`Q5 somebody changes emit after the plugin and ${how}: all is answered${others ? ', beside another owner' : ''}`, async t => {
      let before!: Server['emit']
      const { app, server, connect, close } = await share(t, {
        plugin: { drainTimeout: 200, maxConnections: 1 },
        before: app => { before = app.server.emit }
      }, declare)
      change(server, before)
      if (others) server.on('upgrade', (req, socket: Duplex) => { if (req.url === '/theirs') socket.end('theirs') })
      for (const head of [request('GET /it', ...UPGRADE), CONNECT, request('GET /it')]) {
        const wire = await connect()
        t.equal(await echoed(wire, head, 'early'), 'early')
        wire.reset()
        await until(() => app.duplex.connections.size === 0)
      }
      const plain = await connect()
      t.equal((await within('a plain request', plain.send(request('GET /plain')).response())).body, 'plain')
      if (!others) t.equal((await within('an ignored Upgrade', plain.send(request('GET /plain', ...UPGRADE)).response())).body, 'plain')
      else t.equal((await within('theirs', plain.send(request('GET /theirs', ...UPGRADE)).remains())), 'theirs')
      plain.destroy()
      const body = await connect()
      body.send(request('POST /it', 'Transfer-Encoding: chunked') + '2\r\nhi\r\n0\r\n\r\n')
      t.equal((await within('a body', body.head())).status, 200)
      t.equal((await within('the echo', body.until('0\r\n\r\n'))), '2\r\nhi\r\n0\r\n\r\n')
      const refused = await connect()
      t.equal((await within('a refusal', refused.send('CONNECT other.example:1 HTTP/1.1\r\nHost: a\r\n\r\n').response())).status, 404)
      await close()
    })
  }
}

/** How an owner of these events goes on with the request. */
const goingOn: Record<string, (app: FastifyInstance, req: IncomingMessage, res: ServerResponse) => void> = {
  'emits request': ({ server }, req, res) => { server.emit('request', req, res) },
  'calls app.routing()': (app, req, res) => { app.routing(req, res) },
  'calls the listeners of request': ({ server }, req, res) => {
    for (const listener of server.listeners('request') as RequestListener[]) void listener(req, res as never)
  },
  'rewrites the URL, and emits request': ({ server }, req, res) => {
    req.url = '/plain'
    server.emit('request', req, res)
  }
}

for (const [event, expectation] of [['checkContinue', '100-continue'], ['checkExpectation', 'tea']] as const) {
  for (const [how, goOn] of Object.entries(goingOn)) {
    t.test(`Q5 an owner of ${event} ${how} for a body: it is answered, and nothing is kept`, async t => {
      const { app, server, connect, close } = await share(t, { plugin: { drainTimeout: 200, maxConnections: 1 } }, declare)
      server.on(event, (req: IncomingMessage, res: ServerResponse) => {
        if (event === 'checkContinue') res.writeContinue()
        goOn(app, req, res)
      })
      for (let count = 0; count < 2; count++) {
        const wire = await connect()
        wire.send(request('POST /it', 'Content-Type: text/plain', 'Content-Length: 2', `Expect: ${expectation}`))
        if (event === 'checkContinue') t.equal((await within('100', wire.head())).status, 100)
        const head = await within('an answer', wire.send('hi').head())
        if (how.startsWith('rewrites')) t.equal((await wire.bytes(Number(head.headers['content-length']))).toString(), '{"got":"hi"}')
        else t.equal((await within('the echo', wire.until('0\r\n\r\n'))), '2\r\nhi\r\n0\r\n\r\n')
        t.equal(head.status, 200)
        await until(() => app.duplex.connections.size === 0)
        wire.end()
        await within('the end', wire.remains())
      }
      await close()
    })
  }
}

t.test('Q6 a body that Node drops by maxRequestsPerSocket leaves nothing', async t => {
  const { app, server, connect, close } = await share(t, { plugin: { drainTimeout: 200, maxConnections: 1 } }, declare)
  server.maxRequestsPerSocket = 1
  let dropped = 0
  server.on('dropRequest', () => { dropped++ })
  const wire = await connect()
  t.equal((await within('the first', wire.send(request('GET /plain') + request('POST /it', 'Content-Length: 2') + 'hi').response())).status, 200)
  t.match(await within('the second', wire.until('0\r\n\r\n')), /^HTTP\/1\.1 503 /)
  t.equal(dropped, 1)
  wire.reset()
  t.equal(await echoed(await connect(), request('GET /it', ...UPGRADE), 'early'), 'early')
  t.equal(app.duplex.connections.size, 1)
  await close()
})

for (const event of ['upgrade', 'connect', 'request', 'connection', 'clientError', 'checkContinue', 'checkExpectation', 'dropRequest'] as const) {
  t.test(`Q4 a listener of ${event} that throws harms no other request`, async t => {
    const thrown: unknown[] = []
    const collect = (error: unknown): void => { thrown.push(error) }
    const { app, server, connect, close } = await share(t, { plugin: { drainTimeout: 200, maxConnections: 1 } }, declare)
    const listeners = process.rawListeners('uncaughtException')
    process.removeAllListeners('uncaughtException')
    process.on('uncaughtException', collect)
    let throws = true
    const listener = (): void => { if (throws) throw new Error('theirs') }
    // Without Node's own listener a connection would have no owner.
    if (event === 'connection') server.on(event, listener)
    else server.prependListener(event, listener)
    if (event === 'dropRequest') server.maxRequestsPerSocket = 1
    const trials: Record<typeof event, string> = {
      upgrade: request('GET /theirs', ...UPGRADE),
      connect: 'CONNECT theirs.example:1 HTTP/1.1\r\nHost: a\r\n\r\n',
      request: request('POST /it', 'Content-Length: 2') + 'hi',
      connection: request('GET /it', ...UPGRADE),
      clientError: 'GARBAGE\r\n\r\n',
      checkContinue: request('POST /it', 'Content-Length: 2', 'Expect: 100-continue'),
      checkExpectation: request('POST /it', 'Content-Length: 2', 'Expect: tea'),
      dropRequest: request('GET /plain') + request('POST /it', 'Content-Length: 2') + 'hi'
    }
    const hurt = await connect()
    hurt.send(trials[event])
    await until(() => thrown.length > 0)
    hurt.reset()
    throws = false
    for (const head of [request('GET /it', ...UPGRADE), CONNECT, request('GET /it')]) {
      const wire = await connect()
      t.equal(await echoed(wire, head, 'early'), 'early')
      wire.reset()
      await until(() => app.duplex.connections.size === 0)
    }
    await close()
    process.removeListener('uncaughtException', collect)
    for (const listener of listeners) process.on('uncaughtException', listener as () => void)
    t.equal((thrown[0] as Error).message, 'theirs')
    t.equal(thrown.length, 1)
  })
}

t.test('Q5 a takeover whose \'request\' a listener ends in an error is answered', async t => {
  const { app, server, connect, close } = await share(t, { plugin: { drainTimeout: 200, maxConnections: 1 } }, declare)
  server.prependListener('request', () => { throw new Error('theirs') })
  for (const head of [request('GET /it', ...UPGRADE), CONNECT, request('GET /it'), 'CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n']) {
    const wire = await connect()
    const { status } = await within('an answer', wire.send(head).response())
    t.equal(status, head.startsWith('CONNECT a') ? 404 : 500)
    await within('the end', wire.remains())
  }
  t.equal(app.duplex.connections.size, 0)
  await close()
})

for (const [what, ask, from, to, wanted] of [
  ['an extended CONNECT to a plain URL', request('GET /it', ...UPGRADE), '/it', '/plain', [500]],
  ['an extended CONNECT to nothing', request('GET /it', ...UPGRADE), '/it', '/nothing', [404]],
  ['a CONNECT to nothing', CONNECT, '/ours.example/1', '/plain', [404]],
  ['a GET to a duplex URL', request('GET /base/it'), '/base', '', [500]],
  ['a body to a plain URL', request('POST /it', 'Content-Type: text/plain', 'Content-Length: 2') + 'hi', '/it', '/plain', [200]],
  ['a body to a duplex URL', request('POST /base/it', 'Content-Type: text/plain', 'Content-Length: 2') + 'hi', '/base', '', [500]]
] as const) {
  t.test(`Q5 somebody prepends a listener of 'request' that rewrites ${what} [h2]`, async t => {
    const { app, connect } = await serve(t, { transport: 'h2', plugin: { drainTimeout: 200 } }, declare)
    app.server.prependListener('request', (req: IncomingMessage) => { req.url = req.url?.replace(from, to) as string })
    const wire = await connect()
    const { status } = await within('an answer', wire.send(ask).head())
    t.ok(wanted.includes(status as never), `status ${status}`)
    if (status === 200) t.equal((await within('the body', wire.bytes(12))).toString(), '{"got":"hi"}')
    t.equal(app.duplex.connections.size, 0)
  })
}
