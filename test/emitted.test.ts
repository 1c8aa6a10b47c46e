import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import https from 'node:https'
import { once } from 'node:events'
import type { AddressInfo, Socket } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import duplex from '../lib/index.ts'
import { until } from './fixtures/patience.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { tlsOptions } from './fixtures/server.ts'
import { echo, echoed, onEachServer, owner, share, shareTwice, within, type ServerKind, type SharedServer } from './fixtures/shared-server.ts'
import { connectTcp, connectTls, type Wire } from './fixtures/wire.ts'

const CONNECT = 'CONNECT ours.example:1 HTTP/1.1\r\nHost: ours.example:1\r\n\r\n'

function declare (app: FastifyInstance): void {
  app.get('/it', { duplex: true }, echo)
  app.post('/it', { duplex: true }, echo)
  app.get('/plain', async () => 'plain')
  app.route({ method: 'CONNECT', url: '/ours.example/:port', duplex: true, handler: echo })
}

/** A server in front, which speaks to the one of the app by its events. */
async function frontOf (t: Test, attach: (front: http.Server) => void, tls = false): Promise<() => Promise<Wire>> {
  const front = tls ? https.createServer(tlsOptions) : http.createServer()
  attach(front)
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  const { port } = front.address() as AddressInfo
  const wires: Wire[] = []
  t.teardown(() => {
    for (const wire of wires) wire.destroy()
    front.close()
    front.closeAllConnections()
  })
  return async () => {
    const wire = await (tls ? connectTls(port) : connectTcp(port))
    wires.push(wire)
    return wire
  }
}

/** How others pass on what their own server told them. */
const ways: Record<string, (front: http.Server, { server, early }: { server: http.Server, early: http.Server['emit'] }) => void> = {
  'by the emit that the server has then': (front, { server }) => {
    for (const event of ['upgrade', 'connect', 'request']) front.on(event, (...args) => { server.emit(event, ...args) })
  },
  'by the emit that it had at the beginning': (front, { early }) => {
    for (const event of ['upgrade', 'connect', 'request']) front.on(event, (...args) => { early(event, ...args) })
  },
  'by its own emit': (front, { server }) => {
    const { emit } = front
    front.emit = function (event: string, ...args: unknown[]) {
      return ['upgrade', 'connect', 'request'].includes(event) ? server.emit(event, ...args) : Reflect.apply(emit, front, [event, ...args]) as boolean
    } as typeof emit
    // Node looks for these before it emits.
    front.on('upgrade', () => {}).on('connect', () => {})
  }
}

interface Front {
  shared: SharedServer
  reach: () => Promise<Wire>
}

async function behind (t: Test, how: string, tls: boolean, kind: ServerKind = 'http'): Promise<Front> {
  let early!: http.Server['emit']
  const shared = await share(t, {
    server: kind,
    listen: false,
    plugin: { drainTimeout: 200 },
    ...(kind === 'http'
      ? {
          fastify: {
            serverFactory: (handler: RequestListener) => {
              const server = http.createServer(handler)
              early = server.emit.bind(server)
              return server
            }
          }
        }
      : {}),
    before: (app: FastifyInstance) => { early ??= app.server.emit.bind(app.server) }
  } as never, declare)
  const reach = await frontOf(t, front => (ways[how] as (typeof ways)[string])(front, { server: shared.server, early }), tls)
  return { shared, reach }
}

for (const how of Object.keys(ways)) {
  for (const tls of [false, true]) {
    const title = `${how} [${tls ? 'https' : 'http'}]`

    t.test(`Q5 an upgrade that a server in front passes on ${title}`, async t => {
      const { shared, reach } = await behind(t, how, tls)
      t.equal(await echoed(await reach(), request('GET /it', ...UPGRADE), 'early'), 'early')
      t.equal(await echoed(await reach(), request('GET /it', ...UPGRADE), ''), '')
      // It is a connection like all others.
      t.equal(shared.app.duplex.connections.size, 2)
      await shared.close()
      t.equal(shared.app.duplex.connections.size, 0)
    })

    t.test(`Q5 a CONNECT that a server in front passes on ${title}`, async t => {
      const { shared, reach } = await behind(t, how, tls)
      t.equal(await echoed(await reach(), CONNECT, 'early'), 'early')
      const refused = await reach()
      refused.send('CONNECT other.example:1 HTTP/1.1\r\nHost: other.example:1\r\n\r\n' + request('GET /plain'))
      t.match(await within('a refusal', refused.response()), { status: 404, headers: { connection: 'close' } })
      t.equal(await within('the end', refused.remains()), '')
      await shared.close()
    })

    for (const [what, line, fields, statuses] of [
      ['a plain route', 'GET /plain', UPGRADE, [200, 400, 501]],
      ['no route', 'GET /nothing', UPGRADE, [404, 400, 501]],
      ['a route that takes another token', 'GET /it', ['Connection: Upgrade', 'Upgrade: websocket'], [400]]
    ] as const) {
      t.test(`Q5 an upgrade to ${what} that is passed on ${title} has its answer`, async t => {
        const { shared, reach } = await behind(t, how, tls)
        const wire = await reach()
        const { status } = await within('an answer', wire.send(request(line, ...fields)).response())
        t.ok(statuses.includes(status as never), `status ${status}`)
        const another = await reach()
        another.send(request(line, ...fields))
        await within('an answer', another.head())
        another.reset()
        await shared.close()
      })
    }

    for (const [method, fields, body] of [['GET', [], ''], ['POST', ['Transfer-Encoding: chunked'], '2\r\nhi\r\n0\r\n\r\n']] as const) {
      t.test(`Q5 a ${method} to a duplex route that is passed on ${title} is not 404`, async t => {
        const { shared, reach } = await behind(t, how, tls)
        const wire = await reach()
        const head = await within('an answer', wire.send(request(`${method} /it`, ...fields) + body).head())
        if (head.status === 200) {
          // A body needs no more than its request and its response, which have come.
          t.equal(method, 'POST')
          t.equal(await within('the echo', wire.until('0\r\n\r\n')), '2\r\nhi\r\n0\r\n\r\n')
        } else {
          t.equal(codeOf((await wire.bytes(Number(head.headers['content-length']))).toString()), 'FST_ERR_DUPLEX_NO_CONNECTION')
        }
        t.equal((await within('a plain route', (await reach()).send(request('GET /plain')).head())).status, 200)
        await shared.close()
      })
    }

    t.test(`Q5 who resets what was passed on ${title} ends nothing else`, async t => {
      const { shared, reach } = await behind(t, how, tls)
      for (const head of [request('GET /it', ...UPGRADE), CONNECT]) {
        const wire = await reach()
        await within('the head', wire.send(head).head())
        wire.reset()
        await until(() => shared.app.duplex.connections.size === 0)
      }
      await shared.close()
    })
  }
}

t.test('Q5 app.routing() for a duplex route is told that there is no connection', async t => {
  const { app } = await share(t, { listen: false }, declare)
  const reach = await frontOf(t, front => front.on('request', (req: IncomingMessage, res: ServerResponse) => app.routing(req, res)))
  const { status, body } = await within('an answer', (await reach()).send(request('GET /it')).response())
  t.equal(status, 500)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_NO_CONNECTION')
})

for (const [what, head] of [['upgrade', request('GET /it', ...UPGRADE)], ['CONNECT', CONNECT], ['GET', request('GET /it')]] as const) {
  t.test(`Q5 a ${what} on the second server of localhost while an earlier onListen hook runs`, async t => {
    const app = Fastify()
    let begun = (): void => {}
    const running = new Promise<void>(resolve => { begun = resolve })
    let done = (): void => {}
    const held = new Promise<void>(resolve => { done = resolve })
    app.addHook('onListen', async () => {
      begun()
      await held
    })
    await app.register(duplex)
    declare(app)
    const connect = await shareTwice(t, app)
    await running
    t.teardown(done)
    t.equal(await echoed(await connect('second'), head, 'early'), 'early')
    const plain = await connect('second')
    plain.send(request('GET /plain', ...UPGRADE) + request('GET /plain'))
    t.equal((await within('the first', plain.response())).body, 'plain')
    t.equal((await within('the second', plain.response())).body, 'plain')
    done()
  })
}

// Where a mere listener of ours would turn a default of Node's off.

for (const which of ['main', 'second'] as const) {
  for (const [what, bytes, options] of [
    ['a parse error', 'GARBAGE\r\n\r\n', {}],
    ['a parse error behind a response', 'GET /plain HTTP/1.1\r\nHost: a\r\n\r\nGARBAGE\r\n\r\n', {}],
    ['a bad chunk', 'POST /it HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n', {}],
    ['a bad chunk at a plain route', 'POST /plain HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n', {}],
    ['a head that is too long', `GET /plain HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, {}],
    ['headersTimeout', 'GET /plain HTTP/1.1\r\nHost: a\r\n', { headersTimeout: 100, connectionsCheckingInterval: 50 }],
    ['requestTimeout', 'POST /plain HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n', { requestTimeout: 100, headersTimeout: 100, connectionsCheckingInterval: 50 }]
  ] as const) {
    t.test(`Q9 ${what} on the ${which} server of localhost ends the connection`, async t => {
      const app = Fastify({ http: options, ...('requestTimeout' in options ? { requestTimeout: 100 } : {}) })
      await app.register(duplex)
      declare(app)
      app.post('/plain', async () => 'plain')
      const connect = await shareTwice(t, app)
      const wire = await connect(which)
      wire.send(bytes)
      await within('the end of the connection', wire.remains())
    })
  }
}

onEachServer(t, 'Q9 a parse error ends the connection where the app has taken its own listener off', async (t, server) => {
  const shared = await share(t, { server }, declare)
  shared.server.removeAllListeners('clientError')
  const wire = await shared.connect()
  wire.send('GARBAGE\r\n\r\n')
  t.match(await within('the end', wire.remains()), /^HTTP\/1\.1 400 /)
})

onEachServer(t, 'Q9 without an owner of checkContinue and checkExpectation Node answers these', async (t, server) => {
  const shared = await share(t, { server }, app => {
    app.post('/plain', async request => request.body)
    app.post('/it', { duplex: true }, echo)
  })
  for (const url of ['/plain', '/it']) {
    const known = await shared.connect()
    known.send(request(`POST ${url}`, 'Content-Type: text/plain', 'Content-Length: 2', 'Expect: 100-continue'))
    t.equal((await within('100', known.head())).status, 100)
    t.equal((await within('200', known.send('hi').head())).status, 200)
    const unknown = await shared.connect()
    unknown.send(request(`POST ${url}`, 'Content-Length: 2', 'Expect: tea'))
    t.equal((await within('417', unknown.head())).status, 417)
  }
})

// An ignored Upgrade.

const OFFER = ['Connection: keep-alive, Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAAP__', 'X-Twice: a', 'x-twice: b']

interface Seen {
  headers: IncomingMessage['headers']
  rawHeaders: string[]
  distinct: IncomingMessage['headersDistinct']
  url: string
  upgrade: unknown
}

function see (seen: Seen[], duplex: boolean): (app: FastifyInstance) => void {
  const look = ({ headers, rawHeaders, headersDistinct, url, upgrade }: IncomingMessage & { upgrade?: unknown }): Seen =>
    ({ headers, rawHeaders, distinct: headersDistinct, url: url as string, upgrade })
  return app => {
    app.addHook('onRequest', async request => { seen.push(look(request.raw)) })
    app.get('/plain', async request => {
      seen.push(look(request.raw))
      return { fastify: request.headers }
    })
    app.post('/plain', async request => {
      seen.push(look(request.raw))
      return { fastify: request.headers, body: request.body }
    })
    if (duplex) app.get('/it', { duplex: true }, echo)
  }
}

for (const [method, fields, body] of [['GET', [], ''], ['POST', ['Content-Type: text/plain', 'Content-Length: 2'], 'hi']] as const) {
  for (const offer of [OFFER, [...UPGRADE], ['Connection: Upgrade', 'Upgrade: websocket']]) {
    onEachServer(t, `Q53 an ignored Upgrade is seen as it came, ${method} with ${offer[1]}`, async (t, server) => {
      const bare: Seen[] = []
      const seen: Seen[] = []
      const without = await share(t, { server, plugin: false }, see(bare, false))
      const shared = await share(t, { server }, see(seen, true))
      const said: string[] = []
      for (const { connect } of [without, shared]) {
        const wire = await connect()
        wire.send(request(`${method} /plain`, ...offer, ...fields) + body)
        said.push((await within('a response', wire.response())).body)
      }
      t.same(seen, bare)
      t.equal(seen.length, 2)
      t.equal(said[1], said[0])
      if (body !== '') t.match(said[1], /"body":"hi"/)
    })
  }
}

for (const when of ['before', 'after'] as const) {
  onEachServer(t, `Q53 others hear once of a connection, whatever it ignores, listening from ${when} the plugin on`, async (t, server) => {
    const heard: Record<string, number> = { connection: 0, secureConnection: 0 }
    const piled: number[] = []
    const listen = (app: FastifyInstance): void => {
      for (const event of Object.keys(heard)) {
        app.server.on(event, (socket: Socket) => {
          heard[event]!++
          socket.on('custom', () => {})
        })
      }
      app.server.on('request', (req: IncomingMessage) => { piled.push(req.socket.listenerCount('custom')) })
    }
    const shared = await share(t, { server, ...(when === 'before' ? { before: listen } : {}) }, app => {
      if (when === 'after') listen(app)
      declare(app)
    })
    const wire = await shared.connect()
    for (let count = 0; count < 15; count++) {
      wire.send(request('GET /plain', ...(count % 3 === 2 ? [] : UPGRADE)))
      t.equal((await within('a response', wire.response())).body, 'plain')
    }
    t.same(heard, server === 'http' ? { connection: 1, secureConnection: 0 } : { connection: 1, secureConnection: 1 })
    t.equal(piled.length, 15)
    t.same([...new Set(piled)], [1])
  })
}

t.test('Q53 nothing of ours or of Node piles up on a socket that ignores Upgrades', async t => {
  const counted: Record<string, number>[] = []
  const shared = await share(t, {}, app => {
    app.addHook('onRequest', async ({ raw: { socket } }) => {
      counted.push(Object.fromEntries(socket.eventNames().map(event => [String(event), socket.listenerCount(event)])))
    })
    declare(app)
  })
  const wire = await shared.connect()
  for (let count = 0; count < 30; count++) {
    wire.send(request('GET /plain', ...UPGRADE))
    await within('a response', wire.response())
  }
  t.same(counted[29], counted[1])
})

// An http.Server that asks the app which Upgrades leave HTTP: Node 22.21 and 24.9.

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
const asks = major > 24 || (major === 24 && minor >= 9) || (major === 22 && minor >= 21)
const unless = asks ? {} : { skip: 'this Node has no shouldUpgradeCallback' }
const note = asks ? '' : ' (skipped: this Node has no shouldUpgradeCallback)'

type Asking = http.Server & { shouldUpgradeCallback: (req: IncomingMessage) => boolean }

for (const when of ['as an option', 'set later'] as const) {
  t.test(`Q52 shouldUpgradeCallback is asked for what is not ours, ${when}${note}`, unless, async t => {
    const asked: string[] = []
    const shouldUpgradeCallback = ({ url, headers }: IncomingMessage): boolean => {
      asked.push(`${url} ${headers.upgrade}`)
      return url?.startsWith('/theirs') === true
    }
    const shared = await share(t, { fastify: when === 'as an option' ? { http: { shouldUpgradeCallback } } as never : {} }, declare)
    if (when === 'set later') (shared.server as Asking).shouldUpgradeCallback = shouldUpgradeCallback
    const { seen, listener } = owner('theirs')
    shared.server.on('upgrade', listener)
    const plain = await shared.connect()
    plain.send(request('GET /plain', ...UPGRADE))
    t.equal((await within('a refused one', plain.response())).body, 'plain')
    const theirs = await shared.connect()
    theirs.send(request('GET /theirs', ...UPGRADE) + 'TAIL')
    t.equal((await within('an allowed one', theirs.rest())).toString(), 'theirs TAIL')
    t.same(asked, ['/plain foo', '/theirs foo'])
    t.same(seen, ['/theirs'])
    t.equal(await echoed(await shared.connect(), request('GET /it', ...UPGRADE), 'x'), 'x')
    t.equal(await echoed(await shared.connect(), CONNECT, 'x'), 'x')
  })
}

for (const offer of ['h2c', 'h2', 'HTTP/2.0', 'TLS/1.2']) {
  t.test(`Q55 ${offer} stays an ordinary request beside an owner of upgrades`, async t => {
    const shared = await share(t, {}, declare)
    const { seen, listener } = owner('theirs')
    shared.server.on('upgrade', listener)
    const wire = await shared.connect()
    for (let count = 0; count < 2; count++) {
      wire.send(request('GET /plain', 'Connection: Upgrade', `Upgrade: ${offer}`))
      t.equal((await within('the plain route', wire.response())).body, 'plain')
    }
    t.same(seen, [])
  })

  t.test(`Q55 ${offer} is the owner's where shouldUpgradeCallback says so${note}`, unless, async t => {
    const fastify = { http: { shouldUpgradeCallback: ({ url }: IncomingMessage) => url === '/theirs' } }
    const shared = await share(t, { fastify: fastify as never }, declare)
    shared.server.on('upgrade', owner('theirs').listener)
    const theirs = await shared.connect()
    theirs.send(request('GET /theirs', 'Connection: Upgrade', `Upgrade: ${offer}`))
    t.equal((await within('the owner', theirs.rest())).toString(), 'theirs ')
    const wire = await shared.connect()
    wire.send(request('GET /plain', 'Connection: Upgrade', `Upgrade: ${offer}`))
    t.equal((await within('the plain route', wire.response())).body, 'plain')
  })
}
