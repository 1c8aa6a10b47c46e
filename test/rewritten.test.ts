import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { until } from './fixtures/patience.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { echo, echoed, onEachServer, owner, share, within, type ServerKind, type SharedServer } from './fixtures/shared-server.ts'

type Listener = (req: IncomingMessage, socket: Duplex, head: Buffer) => void

const FOO = request('GET /base/it', ...UPGRADE)

function declare (app: FastifyInstance): void {
  app.get('/it', { duplex: { protocols: ['foo'] } }, echo)
  app.post('/it', { duplex: { protocols: ['foo'] } }, echo)
  app.post('/body', { duplex: { kinds: ['body'] } }, echo)
  app.post('/other', { duplex: { kinds: ['body'] } }, echo)
  app.route({ method: 'CONNECT', url: '/ours.example/:port', duplex: true, handler: echo })
  app.get('/plain', async () => 'plain')
  app.post('/plain', async request => ({ got: request.body }))
}

/** Whether there was a prefix to take off. */
function strip (req: IncomingMessage): boolean {
  const { url } = req
  req.url = url?.replace(/^\/base|^base\./, '') as string
  return req.url !== url
}

/** How others take a prefix off the URL of an Upgrade, and let the owner of the rest have it. */
const rewriters: Record<string, (server: Server, event: string) => void> = {
  'emits the event again': (server, event) => {
    server.on(event, ((req, socket, head) => { if (strip(req)) server.emit(event, req, socket, head) }) as Listener)
  },
  'emits the event again, later': (server, event) => {
    server.on(event, ((req, socket, head) => { if (strip(req)) setImmediate(() => server.emit(event, req, socket, head)) }) as Listener)
  },
  'emits the event again, and listens once': (server, event) => {
    server.once(event, ((req, socket, head) => {
      strip(req)
      server.emit(event, req, socket, head)
    }) as Listener)
  },
  'calls the listeners again': (server, event) => {
    const rewrite: Listener = (req, socket, head) => {
      if (!strip(req)) return
      for (const listener of server.listeners(event) as Listener[]) if (listener !== rewrite) listener.call(server, req, socket, head)
    }
    server.on(event, rewrite)
  },
  'stands in for the listeners that were there': (server, event) => {
    const before = server.listeners(event) as Listener[]
    server.removeAllListeners(event)
    server.on(event, ((req, socket, head) => {
      strip(req)
      for (const listener of before) listener.call(server, req, socket, head)
    }) as Listener)
  },
  'leaves it to the listeners behind it': (server, event) => { server.prependListener(event, strip) },
  'wraps emit': (server, event) => {
    const { emit } = server
    server.emit = function (this: Server, name: string, ...args: unknown[]) {
      if (name === event) strip(args[0] as IncomingMessage)
      return Reflect.apply(emit, this, [name, ...args]) as boolean
    } as Server['emit']
    server.on(event, () => {})
  },
  'emits the event again by an emit that was bound before': (server, event) => {
    const early = (server as Server & { early?: Server['emit'] }).early ?? server.emit.bind(server)
    server.on(event, ((req, socket, head) => { if (strip(req)) early(event, req, socket, head) }) as Listener)
  }
}

async function rewriting (
  t: Test, how: string, when: 'before' | 'after', kind: ServerKind = 'http', event = 'upgrade', fastify: FastifyServerOptions = {}
): Promise<SharedServer> {
  const rewrite = rewriters[how] as (typeof rewriters)[string]
  return await share(t, {
    server: kind,
    fastify,
    plugin: { drainTimeout: 200, maxConnections: 1 },
    before: ({ server }: FastifyInstance) => {
      Object.assign(server, { early: server.emit.bind(server) })
      if (when === 'before') rewrite(server, event)
    }
  }, app => {
    declare(app)
    if (when === 'after') rewrite(app.server, event)
  })
}

for (const how of Object.keys(rewriters)) {
  for (const when of ['before', 'after'] as const) {
    const title = `an owner of 'upgrade' from ${when} the plugin rewrites a URL and ${how}`

    onEachServer(t, `Q5 ${title}: the duplex route of the new URL has it`, async (t, kind) => {
      const { app, connect } = await rewriting(t, how, when, kind)
      t.equal(await echoed(await connect(), FOO, 'early'), 'early')
      t.equal(app.duplex.connections.size, 1)
    })

    t.test(`Q5 ${title}: with a body before the stream`, async t => {
      const { connect } = await rewriting(t, how, when)
      const wire = await connect()
      wire.send(request('POST /base/it', ...UPGRADE, 'Content-Type: application/json', 'Content-Length: 2') + '{}early')
      t.equal((await within('the head', wire.head())).status, 101)
      t.equal((await within('the echo', wire.bytes(5))).toString(), 'early')
    })
  }

  t.test(`Q5 an owner of 'upgrade' rewrites a URL and ${how}: reset, its slot is free, and close() resolves`, async t => {
    const { app, connect, close } = await rewriting(t, how, 'after')
    const wire = await connect()
    t.equal(await echoed(wire, FOO, 'early'), 'early')
    wire.reset()
    await until(() => app.duplex.connections.size === 0)
    if (!how.includes('once')) t.equal(await echoed(await connect(), FOO, 'again'), 'again')
    await close()
  })

  t.test(`Q5 an owner of 'connect' rewrites a target and ${how}`, async t => {
    const { connect } = await rewriting(t, how, 'after', 'http', 'connect')
    t.equal(await echoed(await connect(), 'CONNECT base.ours.example:1 HTTP/1.1\r\nHost: a\r\n\r\n', 'early'), 'early')
  })

  t.test(`Q5 an owner of 'upgrade' rewrites a URL and ${how}: an earlier response is sent before`, async t => {
    const { connect } = await rewriting(t, how, 'after')
    const wire = await connect()
    wire.send(request('GET /plain') + FOO + 'early')
    t.equal((await within('the first', wire.response())).body, 'plain')
    t.equal((await within('the head', wire.head())).status, 101)
    t.equal((await within('the echo', wire.bytes(5))).toString(), 'early')
  })
}

for (const [what, line, fields, status] of [
  ['a plain route', 'GET /base/plain', UPGRADE, 200],
  ['no route', 'GET /base/nothing', UPGRADE, 404],
  ['a duplex route that takes another token', 'GET /base/it', ['Connection: Upgrade', 'Upgrade: websocket'], 426]
] as const) {
  for (const how of ['emits the event again, and listens once', 'wraps emit without a listener'] as const) {
    t.test(`Q5 somebody rewrites a URL to that of ${what}, and ${how}: ${status}`, async t => {
      const { server, connect } = await share(t, {}, declare)
      if (how === 'wraps emit without a listener') {
        const { emit } = server
        server.emit = function (this: Server, event: string, req: IncomingMessage, ...args: unknown[]) {
          if (event === 'upgrade') strip(req)
          return Reflect.apply(emit, this, [event, req, ...args]) as boolean
        } as Server['emit']
      } else {
        (rewriters[how] as (typeof rewriters)[string])(server, 'upgrade')
      }
      const wire = await connect()
      t.equal((await within('an answer', wire.send(request(line, ...fields)).response())).status, status)
    })
  }
}

t.test('Q5 who wraps emit and rewrites the URL of a duplex route to another: that one has it, and nothing is left of the first', async t => {
  const seen: string[] = []
  const { app, server, connect } = await share(t, { plugin: { drainTimeout: 200, handshakeTimeout: 200 } }, app => {
    declare(app)
    app.get('/base/it', { duplex: { maxConnections: 1 } }, () => { seen.push('/base/it') })
    app.get('/base/plain', { duplex: { maxConnections: 1 } }, () => { seen.push('/base/plain') })
  })
  const { emit } = server
  server.emit = function (this: Server, event: string, req: IncomingMessage, ...args: unknown[]) {
    if (event === 'upgrade') strip(req)
    return Reflect.apply(emit, this, [event, req, ...args]) as boolean
  } as Server['emit']
  t.equal(await echoed(await connect(), FOO, 'early'), 'early')
  const wire = await connect()
  wire.send(request('GET /base/plain', ...UPGRADE) + request('GET /plain'))
  for (let count = 0; count < 2; count++) t.equal((await within('the plain route', wire.response())).body, 'plain')
  t.equal(app.duplex.connections.size, 1)
  t.same(seen, [])
})

t.test('Q5 an event that is emitted again after the takeover, or after its refusal, is nobody\'s', async t => {
  const { server, connect } = await share(t, {}, declare)
  const { emit } = server
  const events: unknown[][] = []
  server.emit = function (this: Server, ...args: unknown[]) {
    if (args[0] === 'upgrade' || args[0] === 'connect') events.push(args)
    return Reflect.apply(emit, this, args) as boolean
  } as Server['emit']
  const theirs = owner('theirs')
  const wires = []
  for (const [head, status] of [
    [request('GET /it', ...UPGRADE), 101],
    ['CONNECT ours.example:1 HTTP/1.1\r\nHost: a\r\n\r\n', 200],
    ['CONNECT other.example:1 HTTP/1.1\r\nHost: a\r\n\r\n', 404]
  ] as const) {
    const wire = await connect()
    t.equal((await within('the head', wire.send(head).head())).status, status)
    wires.push(wire)
  }
  server.on('upgrade', theirs.listener).on('connect', theirs.listener)
  for (const args of events.splice(0)) {
    ;(args[1] as IncomingMessage).url = '/other'
    Reflect.apply(emit, server, args)
    Reflect.apply(emit, server, args)
  }
  t.same(theirs.seen, [])
  for (const wire of wires.slice(0, 2)) t.equal((await within('the echo', wire.send('hello').bytes(5))).toString(), 'hello')
})

for (const [what, touch] of Object.entries<(socket: Duplex) => void>({
  answers: socket => { socket.end('theirs') },
  listens: socket => {
    socket.on('data', () => {})
    setImmediate(() => socket.end('theirs'))
  },
  'sets a timeout': socket => {
    (socket as Duplex & { setTimeout: (ms: number) => void }).setTimeout(10_000)
    setImmediate(() => socket.end('theirs'))
  }
})) {
  t.test(`Q5 an owner that rewrites a URL for itself and ${what} is the only one`, async t => {
    const { app, server, connect } = await share(t, {}, declare)
    server.on('upgrade', (req, socket) => {
      strip(req)
      touch(socket)
    })
    const wire = await connect()
    t.equal((await within('all', wire.send(FOO + 'x').remains())), 'theirs')
    t.equal(app.duplex.connections.size, 0)
  })
}

// A 'request' listener before that of Fastify.

type Rewrites = (req: IncomingMessage, res: ServerResponse) => void

/** How others come before Fastify with a 'request'. */
const prepending: Record<string, (server: Server, rewrite: Rewrites) => void> = {
  prepends: (server, rewrite) => { server.prependListener('request', rewrite) },
  'wraps emit': (server, rewrite) => {
    const { emit } = server
    server.emit = function (this: Server, event: string, ...args: unknown[]) {
      if (event === 'request') rewrite(args[0] as IncomingMessage, args[1] as ServerResponse)
      return Reflect.apply(emit, this, [event, ...args]) as boolean
    } as Server['emit']
  },
  'calls the listener of Fastify': (server, rewrite) => {
    const listeners = server.listeners('request') as Rewrites[]
    server.removeAllListeners('request')
    server.on('request', (req, res) => {
      rewrite(req, res)
      for (const listener of listeners) listener.call(server, req, res)
    })
  }
}

/** An app's own `rewriteUrl` sees what the listener has made of the URL. */
const rewriteUrl = (req: { url?: string | undefined }): string => req.url?.replace(/^\/v1/, '') ?? '/'

for (const [how, prepend] of Object.entries(prepending)) {
  for (const [option, fastify, prefix] of [['', {}, ''], [', beside rewriteUrl', { rewriteUrl }, '/v1']] as const) {
    const started = async (t: Test, from: string, to: string): Promise<SharedServer> => {
      const shared = await share(t, { fastify, plugin: { drainTimeout: 200, maxConnections: 1 } }, declare)
      prepend(shared.server, req => { req.url = req.url?.replace(from, to) as string })
      return shared
    }

    for (const [what, head] of [
      ['a GET', request(`GET ${prefix}/base/it`)],
      ['an ignored Upgrade', request(`GET ${prefix}/base/it`, 'Connection: Upgrade', 'Upgrade: h2c')],
      ['a POST', request(`POST ${prefix}/base/body`, 'Content-Type: text/plain', 'Content-Length: 2') + 'hi']
    ] as const) {
      t.test(`Q5 ${what} that somebody who ${how} rewrites to a duplex URL is not 404${option}`, async t => {
        const { connect } = await started(t, '/base', '')
        const { status, body } = await within('an answer', (await connect()).send(head).response())
        t.same([status, codeOf(body)], [500, 'FST_ERR_DUPLEX_NO_CONNECTION'])
      })
    }

    for (const [what, head, url, closes] of [
      ['an Upgrade', request(`GET ${prefix}/it`, ...UPGRADE), '/it', true],
      ['an Upgrade with a body', request(`POST ${prefix}/it`, ...UPGRADE, 'Content-Type: text/plain', 'Content-Length: 2') + 'hi', '/it', true],
      ['a hijack', request(`GET ${prefix}/it`), '/it', true],
      ['a body', request(`POST ${prefix}/body`, 'Content-Type: text/plain', 'Content-Length: 2') + 'hi', '/body', false],
      ['a chunked body', request(`POST ${prefix}/body`, 'Content-Type: text/plain', 'Transfer-Encoding: chunked') + '2\r\nhi\r\n0\r\n\r\n', '/body', false]
    ] as const) {
      t.test(`Q5 ${what} that somebody who ${how} rewrites from a duplex URL to a plain one is that route's${option}`, async t => {
        const { app, connect, close } = await started(t, url, '/plain')
        const wire = await connect()
        for (let count = 0; count < (closes ? 1 : 3); count++) {
          const { status, body } = await within('an answer', wire.send(head).response())
          t.same([status, body], [200, head.includes('hi') ? '{"got":"hi"}' : 'plain'])
        }
        if (closes) await within('the end', wire.remains())
        t.equal(app.duplex.connections.size, 0)
        await close()
      })
    }

    t.test(`Q5 a body that somebody who ${how} rewrites to another duplex URL has an answer${option}`, async t => {
      const { connect } = await started(t, '/body', '/other')
      const wire = await connect()
      wire.send(request(`POST ${prefix}/body`, 'Content-Type: text/plain', 'Content-Length: 2') + 'hi')
      const { status, body } = await within('an answer', wire.response())
      t.same([status, codeOf(body)], [500, 'FST_ERR_DUPLEX_NO_CONNECTION'])
    })

    t.test(`Q5 a URL that somebody who ${how} rewrites to another of the same route stays that route's${option}`, async t => {
      const { connect } = await started(t, '?x', '')
      t.equal(await echoed(await connect(), request(`GET ${prefix}/it?x`, ...UPGRADE), 'early'), 'early')
    })
  }
}
