import http2, { type Http2Server } from 'node:http2'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import duplex from '../lib/index.ts'
import { guarded, soon } from './fixtures/baseline.ts'
import { connectHttp2, type Http2Wire } from './fixtures/http2-wire.ts'
import { until } from './fixtures/patience.ts'
import { codeOf, request, UPGRADE } from './fixtures/requests.ts'
import { listenTogether } from './fixtures/several-apps.ts'
import { echo, within } from './fixtures/shared-server.ts'

interface Shared {
  apps: FastifyInstance[]
  server: Http2Server
  connect: () => Promise<Http2Wire>
}

/** Apps on one HTTP/2 server. Each has /NAME/..., and its CONNECT if it has the plugin. */
async function share (t: Test, names: string, plugins: string, prepare: (server: Http2Server) => void = () => {}): Promise<Shared> {
  const server = http2.createServer({ settings: { enableConnectProtocol: true } })
  prepare(server)
  const apps: FastifyInstance[] = []
  for (const name of names) {
    const app = Fastify({
      http2: true,
      serverFactory: (handler: (req: unknown, res: unknown) => void) => {
        server.on('request', (req, res) => { if (req.url?.startsWith(`/${name}`) === true) handler(req, res) })
        return server
      }
    } as never) as unknown as FastifyInstance
    app.get(`/${name}/plain`, async () => `plain${name}`)
    if (plugins.includes(name)) {
      await app.register(duplex, { extendedConnect: true, drainTimeout: 100 })
      app.route({ method: ['GET', 'POST'], url: `/${name}/it`, duplex: { protocols: ['foo'] }, handler: echo } as never)
      app.route({ method: 'CONNECT', url: `/${name}.example/:port`, duplex: true, handler: echo } as never)
    }
    apps.push(app)
  }
  return await listenTogether(t, apps, server, port => connectHttp2(port))
}

const kinds: Record<string, (name: string) => string> = {
  'an extended CONNECT': name => request(`GET /${name}/it`, ...UPGRADE),
  'a CONNECT': name => `CONNECT ${name}.example:1 HTTP/1.1\r\nHost: a\r\n\r\n`,
  'a body': name => request(`POST /${name}/it`, 'Transfer-Encoding: chunked')
}

for (const name of ['0', '1']) {
  for (const [what, ask] of Object.entries(kinds)) {
    t.test(`Q4 of two apps with the plugin on one HTTP/2 server, each has its own: ${what} of app ${name} [h2]`, guarded(async t => {
      const { apps, connect } = await share(t, '01', '01')
      const wire = await connect()
      t.equal((await within('the head', wire.send(ask(name)).head())).status, 200)
      wire.send(what === 'a body' ? '5\r\nhello\r\n' : 'hello')
      t.equal((await within('the echo', wire.until('hello'))).slice(-5), 'hello')
      t.same(apps.map(app => app.duplex.connections.size), name === '0' ? [1, 0] : [0, 1])
      wire.end(what === 'a body' ? '0\r\n\r\n' : '')
      await within('the end', wire.remains())
      await until(() => apps.every(app => app.duplex.connections.size === 0))
    }))
  }

  t.test(`Q4 of two apps on one HTTP/2 server, app ${name} refuses what is its own [h2]`, guarded(async t => {
    const { connect } = await share(t, '01', '01')
    const { status, body } = await within('an answer', (await connect()).send(request(`GET /${name}/it`, 'Connection: Upgrade', 'Upgrade: bar')).response())
    t.same([status, codeOf(body)], [400, 'FST_ERR_DUPLEX_UNSUPPORTED_PROTOCOL'])
    t.equal((await within('a plain route', (await connect()).send(request(`GET /${name}/plain`)).response())).body, `plain${name}`)
  }))

  for (const order of ['first', 'second']) {
    t.test(`Q4 an app with the plugin and one without on one HTTP/2 server, the one with it is the ${order} [h2]`, guarded(async t => {
      const plugin = order === 'first' ? '0' : '1'
      const { connect } = await share(t, '01', plugin)
      for (const [what, ask] of Object.entries(kinds)) {
        const { status } = await within(what, (await connect()).send(ask(plugin)).head())
        t.equal(status, 200, what)
      }
      for (const other of ['0', '1']) {
        t.equal((await within('a plain route', (await connect()).send(request(`GET /${other}/plain`)).response())).body, `plain${other}`)
      }
      // Nobody has these.
      const none = plugin === '0' ? '1' : '0'
      for (const what of ['an extended CONNECT', 'a CONNECT']) {
        t.equal((await within(what, (await connect()).send((kinds[what] as (name: string) => string)(none)).head())).status, 404, what)
      }
    }))
  }
}

t.test('Q4 of two apps on one HTTP/2 server, what none has is refused once [h2]', guarded(async t => {
  const { connect } = await share(t, '01', '01')
  for (const ask of [request('GET /2/it', ...UPGRADE), 'CONNECT 2.example:1 HTTP/1.1\r\nHost: a\r\n\r\n']) {
    const { status, body } = await within('an answer', (await connect()).send(ask).response())
    t.same([status, codeOf(body)], [404, 'FST_ERR_DUPLEX_NO_ROUTE'])
  }
}))

for (const order of ['the first', 'the second', 'the server']) {
  t.test(`Q11 two apps on one HTTP/2 server close, ${order} before the other, and leave nothing on it [h2]`, guarded(async t => {
    const { apps, server, connect } = await share(t, '01', '01')
    const wires: Http2Wire[] = []
    for (const name of ['0', '1']) {
      for (const ask of Object.values(kinds)) {
        const wire = await connect()
        await within('the head', wire.send(ask(name)).head())
        wires.push(wire)
      }
    }
    if (order === 'the server') server.close()
    const [one, other] = order === 'the second' ? apps.toReversed() : apps
    const closed = one?.close().then(() => other?.close()).then(() => true)
    t.equal(await soon(closed as Promise<boolean>), true, 'both close')
    for (const wire of wires) await wire.remains()
    await until(() => !Object.hasOwn(server, 'emit') && !Object.hasOwn(server, 'close'))
  }))
}

/** A listener of 'connect', or of 'stream', that serves a CONNECT to /theirs or theirs.example by itself. */
type Serves = (stream: http2.ServerHttp2Stream, url: string) => void

const theirs = (path: string): boolean => /theirs/.test(path)

const owners: Record<string, (server: Http2Server, serve: Serves) => void> = {
  'of connect': (server, serve) => {
    server.on('connect', ((req: http2.Http2ServerRequest) => {
      const path = req.headers[':path'] ?? req.authority
      if (theirs(path)) serve(req.stream as http2.ServerHttp2Stream, path)
    }) as never)
  },
  'of stream': (server, serve) => {
    server.prependListener('stream', (stream, headers) => {
      const path = headers[':path'] ?? headers[':authority'] as string
      if (headers[':method'] === 'CONNECT' && theirs(path)) serve(stream, path)
    })
  }
}

for (const [what, own] of Object.entries(owners)) {
  t.test(`Q4 an owner ${what} beside an app with the plugin has its own CONNECTs [h2]`, guarded(async t => {
    const seen: string[] = []
    const { connect } = await share(t, '0', '0', server => own(server, (stream, path) => {
      seen.push(path)
      stream.respond({ ':status': 200 })
      stream.write('theirs')
    }))
    for (const ask of [request('GET /theirs', ...UPGRADE), 'CONNECT theirs.example:1 HTTP/1.1\r\nHost: a\r\n\r\n']) {
      const wire = await connect()
      t.equal((await within('the head', wire.send(ask).head())).status, 200)
      t.equal((await within('the answer', wire.bytes(6))).toString(), 'theirs')
    }
    for (const ask of Object.values(kinds)) {
      t.equal((await within('the head', (await connect()).send(ask('0')).head())).status, 200)
    }
    t.equal(seen.length, 2)
  }))
}

t.test('Q5 an owner of connect that rewrites a path and emits it again: the duplex route has it, once [h2]', guarded(async t => {
  const { apps, server, connect } = await share(t, '01', '01')
  const seen: string[] = []
  server.on('connect', ((req: http2.Http2ServerRequest, res: http2.Http2ServerResponse) => {
    seen.push(req.url)
    req.url = req.url.replace('/base', '')
    server.emit('connect' as never, req as never, res as never)
    server.emit('connect' as never, req as never, res as never)
  }) as never)
  for (const name of ['0', '1']) {
    const wire = await connect()
    t.equal((await within('the head', wire.send(request(`GET /base/${name}/it`, ...UPGRADE)).head())).status, 200)
    t.equal((await within('the echo', wire.send('hello').bytes(5))).toString(), 'hello')
  }
  t.same(seen, ['/base/0/it', '/base/1/it'])
  t.same(apps.map(app => app.duplex.connections.size), [1, 1])
}))
