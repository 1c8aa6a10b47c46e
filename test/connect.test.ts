import t from 'tap'
import net from 'node:net'
import { once } from 'node:events'
import { pipeline } from 'node:stream/promises'
import type { FastifyInstance } from 'fastify'
import { tunnel, type DuplexConnection } from '../lib/index.ts'
import { turn } from './fixtures/links.ts'
import { codeOf, exchange, request } from './fixtures/requests.ts'
import { onEach, serve, ways } from './fixtures/server.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** A proxy that tells where it was asked to go, then echoes; and a record of every request that was routed. */
function declare (ran: string[] = []): (app: FastifyInstance) => void {
  return app => {
    app.addHook('onRequest', async ({ method, url }) => { ran.push(`${method} ${url}`) })
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: true,
      handler: async connection => {
        connection.writable.write(`${JSON.stringify(connection.authority)}\n`)
        await echo(connection)
      }
    })
    app.get('/admin', async () => 'admin')
    app.get('/ran', async () => 'ran')
    app.post('/ran', async () => 'ran')
  }
}

onEach(t, 'C3 a CONNECT is 200 without any field that frames, and the first byte after it is the tunnel\'s', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.send(request('CONNECT a.example:443') + 'TAIL')
  const head = await wire.head()
  t.equal(head.line, 'HTTP/1.1 200 OK')
  for (const name of ['content-length', 'transfer-encoding', 'connection', 'upgrade', 'keep-alive']) t.notOk(name in head.headers, name)
  t.equal(await wire.until('\n'), '{"host":"a.example","port":443}\n')
  t.equal(await wire.until('TAIL'), 'TAIL')
  wire.end(' AND MORE')
  t.equal((await wire.rest()).toString(), ' AND MORE')
}, ways)

// Targets.

for (const [target, host, port] of [
  ['host:443', 'host', 443],
  ['[::1]:443', '::1', 443],
  ['[2001:DB8::ABCD]:1', '2001:db8::abcd', 1],
  ['[::ffff:127.0.0.1]:80', '::ffff:127.0.0.1', 80],
  ['1.2.3.4:80', '1.2.3.4', 80],
  ['UPPER.Example:65535', 'upper.example', 65535],
  ['under_score-dash.example.:1', 'under_score-dash.example.', 1],
  ['host:00443', 'host', 443]
] as const) {
  onEach(t, `R10 ${target} is ${host} and ${port}, in authority and in the parameters`, async (t, transport) => {
    const { connect } = await serve(t, { transport }, app => {
      app.route({
        method: 'CONNECT',
        url: '/:host/:port',
        duplex: true,
        handler: async ({ authority, writable }, { params, originalUrl }) => {
          writable.write(JSON.stringify({ authority, params, originalUrl }))
        }
      })
    })
    const wire = await connect()
    wire.end(request(`CONNECT ${target}`))
    t.equal((await wire.head()).status, 200)
    t.same(JSON.parse((await wire.rest()).toString()), {
      authority: { host, port }, params: { host, port: String(port) }, originalUrl: target
    })
  })
}

for (const [what, target] of [
  ['no port', 'a'], ['an empty port', 'a:'], ['port 0', 'a:0'], ['port 65536', 'a:65536'], ['port 99999', 'a:99999'],
  ['a port of six digits', 'a:000080'], ['a signed port', 'a:+1'], ['a port with a letter', 'a:1x'], ['an empty host', ':443'],
  ['a path', '/admin'], ['a path behind', 'a:1/admin'], ['a path that looks like host and port', '/a/1'], ['a URL', 'http://a:1/'],
  ['an asterisk', '*'], ['an asterisk and a port', '*:1'], ['userinfo', 'u:p@a:1'], ['percent', 'a%2e:1'], ['a zone', '[fe80::1%25eth0]:1'],
  ['a query', 'a:1?x'], ['a fragment', 'a:1#x'], ['brackets without a port', '[::1]'], ['no IPv6 in brackets', '[zz]:1'],
  ['IPv4 in brackets', '[1.2.3.4]:1'], ['empty brackets', '[]:1'], ['IPv6 without brackets', '::1:443'], ['two hosts', 'a:1,b:2'],
  ['a byte above ASCII', 'h\xe9:1']
] as const) {
  onEach(t, `R10 a target with ${what} is 400 and closed, and nothing is routed`, async (t, transport) => {
    const ran: string[] = []
    const { connect, quiet } = await serve(t, { transport }, declare(ran))
    const wire = await connect()
    wire.send(Buffer.from(request(`CONNECT ${target}`) + request('GET /ran'), 'latin1'))
    t.equal((await wire.head()).status, 400)
    t.notMatch(await wire.remains(), 'HTTP/1.1')
    wire.end()
    await quiet()
    t.same(ran, [])
  })
}

onEach(t, 'R10 a bad target is told by its code, and Connection: close', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  const answer = await exchange(wire, 'CONNECT a')
  t.match(answer, { status: 400, headers: { connection: 'close' } })
  t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_BAD_TARGET')
  t.equal((await wire.rest()).length, 0)
})

onEach(t, 'R10 routes for CONNECT choose by host and port', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    const say = (text: string) => async ({ writable }: DuplexConnection) => { writable.write(text) }
    app.route({ method: 'CONNECT', url: '/internal.example/:port', duplex: true, handler: say('internal') })
    app.route({ method: 'CONNECT', url: '/:host/443', duplex: true, handler: say('https') })
  })
  for (const [target, said] of [['internal.example:80', 'internal'], ['INTERNAL.example:443', 'internal'], ['b:443', 'https'], ['b:80', '']] as const) {
    const wire = await connect()
    wire.end(request(`CONNECT ${target}`))
    t.equal((await wire.head()).status, said === '' ? 404 : 200, target)
    if (said !== '') t.equal((await wire.rest()).toString(), said)
  }
})

// Refused.

for (const [why, status, hook] of [
  ['at once', 403, async () => {}],
  ['by a slow hook', 407, async () => { for (let turns = 20; turns > 0; turns--) await turn() }]
] as const) {
  onEach(t, `R8 a CONNECT refused ${why} is closed, though the client did not say close, and its tail never parsed`, async (t, transport) => {
    const ran: string[] = []
    const { connect, quiet, sockets } = await serve(t, { transport }, app => {
      declare(ran)(app)
      app.addHook('preHandler', async ({ method }, reply) => {
        await hook()
        if (method === 'CONNECT') return reply.code(status).header('proxy-authenticate', 'Basic').send('no')
      })
    })
    const wire = await connect()
    wire.send(request('CONNECT deny:1') + request('POST /ran', 'Content-Length: 0'))
    t.match(await wire.response(), { status, body: 'no', headers: { connection: 'close', 'proxy-authenticate': 'Basic' } })
    t.equal((await wire.rest()).length, 0)
    wire.end(request('POST /ran', 'Content-Length: 0'))
    await quiet()
    t.equal(await sockets(), 0)
    t.same(ran, ['CONNECT /deny/1'])
  }, ways)
}

t.test('O3 nothing of the tail of a refused CONNECT is logged or given to anybody', async t => {
  const lines: string[] = []
  const { connect, quiet } = await serve(t, { fastify: { logger: { level: 'trace', stream: { write: line => lines.push(line) } } } }, app => {
    app.route({ method: 'CONNECT', url: '*', duplex: true, onRequest: async (_request, reply) => reply.code(403).send('no'), handler: echo })
  })
  const wire = await connect()
  wire.send(request('CONNECT deny:1', 'Proxy-Authorization: Basic SECRET') + 'PASSWORD')
  t.equal((await wire.response()).status, 403)
  wire.end('PASSWORD')
  await quiet()
  t.ok(lines.length > 0)
  t.notMatch(lines.join(''), /PASSWORD|SECRET/)
})

t.test('R8 100 refused CONNECTs that never close leave no socket', async t => {
  const { connect, quiet, sockets } = await serve(t, {}, () => {})
  const wires = await Promise.all(Array.from({ length: 100 }, () => connect()))
  for (const wire of wires) t.equal((await exchange(wire, 'CONNECT a:1')).status, 404)
  t.ok(await sockets() > 0)
  await quiet()
  t.equal(await sockets(), 0)
})

t.test('C7 without a route for CONNECT every one is 404 and closed', async t => {
  const { connect } = await serve(t, {}, app => { app.get('/a/1', { duplex: true }, echo) })
  for (const target of ['a:1', '127.0.0.1:22', '[::ffff:127.0.0.1]:22', '169.254.169.254:80', '2130706433:80']) {
    const wire = await connect()
    const answer = await exchange(wire, `CONNECT ${target}`)
    t.match(answer, { status: 404, headers: { connection: 'close' } }, target)
    t.equal(codeOf(answer.body), 'FST_ERR_DUPLEX_NO_ROUTE')
    t.equal((await wire.rest()).length, 0)
  }
})

for (const [what, fields, body] of [
  ['Content-Length', ['Content-Length: 40'], ''],
  ['Transfer-Encoding: chunked', ['Transfer-Encoding: chunked'], '0\r\n\r\n'],
  ['Transfer-Encoding: gzip', ['Transfer-Encoding: gzip'], ''],
  ['both', ['Content-Length: 5', 'Transfer-Encoding: chunked'], '0\r\n\r\n']
] as const) {
  for (const version of ['1.0', '1.1']) {
    onEach(t, `R11 a CONNECT with ${what}, HTTP/${version}, is 400 and closed, and no request inside it runs`, async (t, transport) => {
      const ran: string[] = []
      const { connect, quiet } = await serve(t, { transport }, declare(ran))
      const wire = await connect()
      const head = request('CONNECT a:1', ...fields).replace('HTTP/1.1', `HTTP/${version}`)
      wire.send(head + body + request('GET /ran')).send(request('GET /ran'))
      t.equal((await wire.head()).status, 400)
      t.notMatch(await wire.remains(), 'HTTP/1.1')
      wire.end()
      await quiet()
      t.same(ran, [])
    }, ways)
  }
}

// Only acceptance says 2xx.

onEach(t, 'R19 a CONNECT that only plain routes or a notFound handler would match is never 2xx', async (t, transport) => {
  const ran: string[] = []
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onRequest', async ({ method, url }) => { ran.push(`${method} ${url}`) })
    app.setNotFoundHandler(async (_request, reply) => reply.code(200).send('the app'))
    app.all('*', async () => 'all')
    app.route({ method: 'CONNECT', url: '/other/1', duplex: true, handler: echo })
  })
  const wire = await connect()
  wire.send(request('CONNECT h:1') + request('GET /ran'))
  t.match(await wire.response(), { status: 404, headers: { connection: 'close' } })
  t.equal(await wire.remains(), '')
  t.same(ran, [])
}, ways)

t.test('R19 a route that takes no connect is no route for CONNECT', async t => {
  const { connect } = await serve(t, {}, app => {
    app.setNotFoundHandler(async (_request, reply) => reply.code(200).send('the app'))
    app.route({ method: ['GET', 'CONNECT'], url: '*', duplex: { kinds: ['upgrade'] } as never, handler: echo as never })
  })
  const wire = await connect()
  t.match(await exchange(wire, 'CONNECT h:1'), { status: 404, headers: { connection: 'close' } })
  t.equal((await wire.rest()).length, 0)
})

for (const [what, declare] of [
  ['a manual handler that returns a value', app => {
    app.route({ method: 'CONNECT', url: '*', duplex: { accept: 'manual' }, handler: async () => 'a value' })
  }],
  ['a manual handler that sends', app => {
    app.route({ method: 'CONNECT', url: '*', duplex: { accept: 'manual' }, handler: async ({ reply }) => reply.code(201).send('sent') })
  }],
  ['a manual handler that does nothing', app => {
    app.route({ method: 'CONNECT', url: '*', duplex: { accept: 'manual' }, handler: async () => {} })
  }],
  ['an onRequest hook', app => {
    app.route({ method: 'CONNECT', url: '*', duplex: true, onRequest: async (_request, reply) => reply.send('ok'), handler: echo })
  }],
  ['a preHandler hook with 204', app => {
    app.route({ method: 'CONNECT', url: '*', duplex: true, preHandler: async (_request, reply) => reply.code(204).send(), handler: echo })
  }],
  ['an error handler', app => {
    app.setErrorHandler(async (_error, _request, reply) => reply.code(200).send('all is well'))
    app.route({ method: 'CONNECT', url: '*', duplex: true, onRequest: async () => { throw new Error('no') }, handler: echo })
  }],
  ['an onSend hook that changes the status', app => {
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: true,
      onRequest: async (_request, reply) => reply.code(403).send('no'),
      onSend: async (_request, reply) => { reply.code(200) },
      handler: echo
    })
  }],
  ['a notFound handler that a hook calls', app => {
    app.setNotFoundHandler(async (_request, reply) => reply.code(200).send('the app'))
    app.route({ method: 'CONNECT', url: '*', duplex: true, onRequest: async (_request, reply) => { reply.callNotFound(); return reply }, handler: echo })
  }]
] as [string, (app: FastifyInstance) => void][]) {
  t.test(`R19 a 2xx by ${what} becomes 500, FST_ERR_DUPLEX_NOT_ACCEPTED, closed`, async t => {
    let ran = 0
    const { connect, quiet } = await serve(t, {}, app => {
      declare(app)
      app.get('/ran', async () => { ran++ })
    })
    const wire = await connect()
    wire.send(request('CONNECT h:1') + request('GET /ran'))
    const head = await wire.head()
    t.match(head, { status: 500, headers: { connection: 'close' } })
    const body = await wire.remains()
    t.equal(codeOf(body), 'FST_ERR_DUPLEX_NOT_ACCEPTED', body)
    wire.end()
    await quiet()
    t.equal(ran, 0)
  })
}

t.test('R19 a 2xx that is written to the raw response is no 2xx on the wire either, and closed', async t => {
  const { connect } = await serve(t, {}, app => {
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual' },
      handler: async ({ reply }) => { reply.hijack().raw.writeHead(200, 'Fine', { 'x-a': '1' }).end('raw') }
    })
  })
  const wire = await connect()
  wire.send(request('CONNECT h:1'))
  t.match(await wire.head(), { status: 500, line: 'HTTP/1.1 500 Internal Server Error', headers: { connection: 'close' } })
  t.match(await wire.remains(), /raw/)
})

t.test('R19 an answer other than 2xx is the handler\'s to give', async t => {
  const { connect } = await serve(t, {}, app => {
    app.route({ method: 'CONNECT', url: '*', duplex: { accept: 'manual' }, handler: async ({ reply }) => reply.code(302).header('location', '/').send('there') })
  })
  const wire = await connect()
  t.match(await exchange(wire, 'CONNECT h:1'), { status: 302, body: 'there', headers: { location: '/', connection: 'close' } })
  t.equal((await wire.rest()).length, 0)
})

// Versions and Host.

onEach(t, 'R14 HTTP/1.0 CONNECT works without Host', async (t, transport) => {
  const { connect } = await serve(t, { transport }, declare())
  const wire = await connect()
  wire.send('CONNECT h:1 HTTP/1.0\r\n\r\nTAIL')
  t.equal((await wire.head()).status, 200)
  t.equal(await wire.until('TAIL'), '{"host":"h","port":1}\nTAIL')
  wire.end()
  t.equal((await wire.rest()).length, 0)
}, ways)

for (const [what, hosts] of [
  ['no Host', ''],
  ['two Hosts', 'Host: a\r\nHost: a\r\n'],
  ['two Hosts in different spelling', 'HOST: a\r\nhost: b\r\n'],
  ['a Host that is none', 'Host: a b\r\n'],
  ['a Host with a path', 'Host: a/b\r\n'],
  ['a Host with userinfo', 'Host: u@a\r\n'],
  ['a Host that is a list', 'Host: a, b\r\n']
] as const) {
  t.test(`R14 HTTP/1.1 with ${what}: 400 and closed, for each takeover`, async t => {
    const ran: string[] = []
    const { connect } = await serve(t, {}, app => {
      declare(ran)(app)
      app.route({ method: ['GET', 'POST'], url: '/it', duplex: true, handler: echo })
    })
    for (const [line, fields] of [
      ['CONNECT h:1', ''],
      ['GET /it', 'Connection: Upgrade\r\nUpgrade: foo\r\n'],
      ['POST /it', 'Connection: Upgrade\r\nUpgrade: foo\r\nContent-Length: 5\r\n'],
      ['GET /it', '']
    ] as const) {
      const wire = await connect()
      wire.send(`${line} HTTP/1.1\r\n${hosts}${fields}\r\n${request('GET /ran')}`)
      t.equal((await wire.head()).status, 400, `${line} ${fields}`)
      await wire.remains()
    }
    t.same(ran, [])
  })
}

t.test('R14 an empty Host, and any host with a port, are fine', async t => {
  const { connect } = await serve(t, {}, declare())
  for (const host of ['', 'a', 'a.example:80', '[::1]:80', '127.0.0.1', 'under_score', 'a:', 'caf%C3%A9.example']) {
    const wire = await connect()
    wire.send(`CONNECT h:1 HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
    t.equal((await wire.head()).status, 200, host)
  }
})

// A tunnel to somewhere.

for (const side of ['upstream', 'client'] as const) {
  onEach(t, `C6 what the ${side} sent before it closed arrives whole, then the end`, async (t, transport) => {
    const size = 10 * 1024 * 1024
    const target = net.createServer({ allowHalfOpen: true }, socket => {
      if (side === 'upstream') {
        socket.end(Buffer.alloc(size, 'x'))
        socket.resume()
      } else {
        let got = 0
        socket.on('data', chunk => { got += chunk.length })
        socket.on('end', () => socket.end(`got ${got}`))
      }
    })
    target.listen(0, '127.0.0.1')
    await once(target, 'listening')
    t.teardown(() => target.close())
    const { connect } = await serve(t, { transport }, app => {
      app.route({
        method: 'CONNECT',
        url: '*',
        duplex: { accept: 'manual' },
        handler: async pending => {
          const { host, port } = pending.authority
          const upstream = net.connect({ host, port, allowHalfOpen: true })
          await once(upstream, 'connect')
          await tunnel(await pending.accept(), upstream)
        }
      })
    })
    const wire = await connect()
    wire.send(request(`CONNECT 127.0.0.1:${(target.address() as net.AddressInfo).port}`))
    t.equal((await wire.head()).status, 200)
    if (side === 'upstream') {
      t.equal((await wire.rest()).length, size)
      wire.end()
    } else {
      wire.end(Buffer.alloc(size, 'x'))
      t.equal((await wire.rest()).toString(), `got ${size}`)
    }
  }, ways)
}

t.test('C7 a target that cannot be reached is the handler\'s 502, and nothing was accepted', async t => {
  const free = net.createServer().listen(0, '127.0.0.1')
  await once(free, 'listening')
  const { port } = free.address() as net.AddressInfo
  free.close()
  await once(free, 'close')
  const { connect } = await serve(t, {}, app => {
    app.setErrorHandler(async (_error, _request, reply) => reply.code(502).send('unreachable'))
    app.route({
      method: 'CONNECT',
      url: '*',
      duplex: { accept: 'manual' },
      handler: async pending => {
        const upstream = net.connect(pending.authority)
        await once(upstream, 'connect')
        await tunnel(await pending.accept(), upstream)
      }
    })
  })
  const wire = await connect()
  t.match(await exchange(wire, `CONNECT 127.0.0.1:${port}`), { status: 502, body: 'unreachable', headers: { connection: 'close' } })
  t.equal((await wire.rest()).length, 0)
})

t.test('C4 any plain 2xx opens the tunnel', async t => {
  const { connect } = await serve(t, {}, app => {
    app.route({
      method: 'CONNECT',
      url: '/:host/:port',
      duplex: { accept: 'manual' },
      handler: async pending => echo(await pending.accept({ statusCode: Number((pending.reply.request.params as { port: string }).port) }))
    })
  })
  for (const status of [200, 201, 299]) {
    const wire = await connect()
    wire.end(request(`CONNECT h:${status}`) + 'TAIL')
    t.equal((await wire.head()).status, status)
    t.equal((await wire.rest()).toString(), 'TAIL')
  }
})
