import t, { type Test } from 'tap'
import { once } from 'node:events'
import net from 'node:net'
import { pipeline } from 'node:stream/promises'
import type { DuplexAcceptOptions, DuplexConnection, DuplexKind, PendingDuplex } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, onEachKind, piece, statusOf, streamKinds, takeManually } from './fixtures/kinds.ts'
import { turn } from './fixtures/links.ts'
import { everywhere, gate, onEach, serve, ways, type Way } from './fixtures/server.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** The end of the request, where it has one of its own. */
const lastOf = (kind: DuplexKind): string => kind === 'body' ? LAST_CHUNK : ''

/** Kinds that an ordinary answer of any status may be given to: a 2xx to a CONNECT would be a tunnel. */
const answerable: readonly DuplexKind[] = ['upgrade', 'hijack', 'body']

const codeOf = (body: string): unknown => (JSON.parse(body) as { code?: string }).code

/** One overload for all kinds. */
const accept = (pending: PendingDuplex, options?: DuplexAcceptOptions): Promise<DuplexConnection> => pending.accept(options as never)

/** The code of what is thrown. */
async function codeThrown (run: () => unknown): Promise<string | undefined> {
  try {
    await run()
    return undefined
  } catch (error) {
    return (error as { code?: string }).code
  }
}

onEachKind(t, 'A9 a second accept is a coded error, and the first one lives', async (t, kind, transport) => {
  const codes: unknown[] = []
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    const connection = await accept(pending)
    codes.push(await codeThrown(() => accept(pending)), await codeThrown(() => pending.detach()))
    await echo(connection)
  }))
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'TAIL') + lastOf(kind))
  t.equal((await wire.head()).status, statusOf(kind, transport))
  t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
  t.equal(await wire.until(lastOf(kind)), lastOf(kind))
  t.strictSame(codes, ['FST_ERR_DUPLEX_ALREADY_ACCEPTED', 'FST_ERR_DUPLEX_ALREADY_ACCEPTED'])
})

onEachKind(t, 'A9 a second accept while the hooks of the first one run is a coded error too', async (t, kind, transport) => {
  let ran = 0
  const codes: unknown[] = []
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onSend', async () => {
      ran++
      await turn()
    })
    takeManually(app, async pending => {
      const first = accept(pending)
      codes.push(await codeThrown(() => accept(pending, { headers: { 'x-second': 'yes' } })))
      if (kind !== 'body') codes.push(await codeThrown(() => pending.detach()))
      await echo(await first)
    })
  })
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'TAIL'))
  const { status, headers } = await wire.head()
  t.equal(status, statusOf(kind, transport))
  t.notOk('x-second' in headers)
  t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
  t.equal(ran, 1)
  for (const code of codes) t.equal(code, 'FST_ERR_DUPLEX_ALREADY_ACCEPTED')
})

onEachKind(t, 'A9 accept after a reply was sent is a coded error, and the reply arrives', async (t, kind, transport) => {
  const codes: unknown[] = []
  const { connect, quiet } = await serve(t, { transport }, app => takeManually(app, async pending => {
    pending.reply.code(403).send({ no: true })
    codes.push(await codeThrown(() => accept(pending)), await codeThrown(() => pending.detach()))
  }))
  const wire = await connect()
  wire.end(ask(kind) + lastOf(kind))
  const { status, body } = await wire.response()
  t.equal(status, 403)
  t.equal(body, '{"no":true}')
  t.equal(await wire.remains(), '')
  t.strictSame(codes, ['FST_ERR_DUPLEX_ALREADY_SENT', 'FST_ERR_DUPLEX_ALREADY_SENT'])
  await quiet()
})

onEachKind(t, 'A9 the same while the hooks of the reply still run', async (t, kind, transport) => {
  let ran = 0
  const codes: unknown[] = []
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      ran++
      await turn()
      return payload
    })
    takeManually(app, async pending => {
      pending.reply.code(403).send({ no: true })
      codes.push(await codeThrown(() => accept(pending)))
      return pending.reply
    })
  })
  const wire = await connect()
  wire.end(ask(kind) + lastOf(kind))
  const { status, body } = await wire.response()
  t.equal(status, 403)
  t.equal(body, '{"no":true}')
  t.equal(await wire.remains(), '')
  t.strictSame(codes, ['FST_ERR_DUPLEX_ALREADY_SENT'])
  t.equal(ran, 1)
  await quiet()
})

onEachKind(t, 'A9 a reply in the midst of an accept leaves the accept as it is', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      await turn()
      return payload
    })
    takeManually(app, async pending => {
      const accepting = accept(pending)
      pending.reply.send('SENT')
      await echo(await accepting)
    })
  })
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'TAIL'))
  const { status, headers } = await wire.head()
  t.equal(status, statusOf(kind, transport))
  t.notOk('content-length' in headers)
  t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
}, streamKinds)

onEachKind(t, 'A9 the end of the handler in the midst of its accept is the end of the stream', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => {
    app.addHook('onSend', async () => { await turn() })
    takeManually(app, async pending => { void accept(pending) })
  })
  const wire = await connect()
  wire.send(ask(kind) + lastOf(kind))
  t.equal((await wire.head()).status, statusOf(kind, transport))
  if (kind === 'body') wire.end()
  t.equal((await wire.rest()).toString(), lastOf(kind))
})

onEachKind(t, 'A9 a handler that throws in the midst of its accept is an error of the accepted connection', async (t, kind, transport) => {
  let handled = 0
  let closed: PendingDuplex['closed'] | undefined
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.setErrorHandler(async () => { handled++ })
    app.addHook('onSend', async () => { await turn() })
    takeManually(app, async pending => {
      closed = pending.closed
      void accept(pending)
      throw new Error('in the midst')
    })
  })
  const wire = await connect()
  wire.send(ask(kind))
  t.equal((await wire.head()).status, statusOf(kind, transport))
  t.equal(await wire.remains(), '')
  t.match(await closed, { reason: 'error', error: { message: 'in the midst' } })
  t.equal(handled, 0)
  wire.destroy()
  await quiet()
})

onEachKind(t, 'A9 accept after the client went away is a coded error', async (t, kind, transport) => {
  const entered = gate()
  const code = gate<unknown>()
  const { connect, quiet } = await serve(t, { transport }, app => takeManually(app, async pending => {
    entered.open()
    await once(pending.signal, 'abort')
    code.open(await codeThrown(() => accept(pending)))
  }))
  const wire = await connect()
  wire.send(ask(kind))
  await entered.promise
  wire.reset()
  t.equal(await code.promise, 'FST_ERR_DUPLEX_ABORTED')
  await quiet()
}, everyKind, ['tcp', 'tls', 'injected', 'h2'])

onEachKind(t, 'S4 a manual handler is not entered for a client that went away before', async (t, kind, transport) => {
  let entered = 0
  const waiting = gate()
  const left = gate()
  const { connect, quiet } = await serve(t, { transport }, app => takeManually(app, () => { entered++ }, {
    preHandler: async () => {
      waiting.open()
      await left.promise
    }
  }))
  const wire = await connect()
  wire.send(ask(kind))
  await waiting.promise
  wire.reset()
  await quiet()
  left.open()
  await turn()
  t.equal(entered, 0)
}, everyKind, ['tcp', 'tls', 'injected', 'h2'])

onEachKind(t, 'A9 accept after detach is a coded error', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    const { socket, head } = pending.detach()
    socket.end(`own answer, ${String(await codeThrown(() => accept(pending)))}, ${head.toString()}`)
    socket.resume()
  }))
  const wire = await connect()
  wire.send(ask(kind) + 'TAIL').end()
  t.equal((await wire.rest()).toString(), 'own answer, FST_ERR_DUPLEX_ALREADY_ACCEPTED, TAIL')
}, streamKinds, ways)

onEach(t, 'A9 a body cannot be detached, and can still be accepted', async (t, transport) => {
  let code: unknown
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    code = await codeThrown(() => pending.detach())
    await echo(await accept(pending))
  }))
  const wire = await connect()
  wire.send(ask('body') + piece('body', 'BODY') + LAST_CHUNK)
  t.equal((await wire.head()).status, 200)
  t.equal(await hear(wire, 'body', 'BODY'), 'BODY')
  t.equal(await wire.until(LAST_CHUNK), LAST_CHUNK)
  t.equal(code, 'FST_ERR_DUPLEX_CANNOT_DETACH')
}, ways)

onEachKind(t, 'A10 what a manual handler sends or returns after accept puts no byte into the stream', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    const { readable, writable } = await accept(pending)
    pending.reply.code(500).send('SENT')
    writable.write('mine')
    for await (const chunk of readable) writable.write(chunk)
    return 'RETURNED'
  }))
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'yours') + lastOf(kind))
  if (kind !== 'body') wire.end()
  await wire.head()
  t.equal(await hear(wire, kind, 'mineyours'), 'mineyours')
  t.equal(await wire.until(lastOf(kind)), lastOf(kind))
  wire.end()
  t.equal(await wire.remains(), '')
})

for (const [way, handler] of Object.entries<(pending: PendingDuplex) => unknown>({
  'throws at once': () => { throw Object.assign(new Error('upstream is down'), { statusCode: 502 }) },
  rejects: async () => {
    await turn()
    throw Object.assign(new Error('upstream is down'), { statusCode: 502 })
  },
  'sends an error': ({ reply }) => { reply.send(Object.assign(new Error('upstream is down'), { statusCode: 502 })) }
})) {
  onEachKind(t, `A11 a manual handler that ${way} is answered for by the error handler of the app`, async (t, kind, transport) => {
    const { connect, quiet, app } = await serve(t, { transport }, app => {
      app.addHook('onSend', async (_request, reply) => { reply.header('x-on-send', 'yes') })
      app.setErrorHandler(async (error: Error & { statusCode: number }, _request, reply) => {
        reply.code(error.statusCode)
        return { handled: error.message }
      })
      takeManually(app, handler)
    })
    const wire = await connect()
    wire.end(ask(kind) + piece(kind, 'TAIL') + lastOf(kind))
    const { status, headers, body } = await wire.response()
    t.equal(status, 502)
    t.equal(body, '{"handled":"upstream is down"}')
    t.equal(headers['x-on-send'], 'yes')
    if (kind !== 'body' && transport !== 'h2') t.equal(headers.connection, 'close')
    t.equal(await wire.remains(), '')
    await quiet()
    t.equal(app.duplex.connections.size, 0)
  })
}

for (const [way, handler] of Object.entries<(pending: PendingDuplex) => unknown>({
  'returns a value': async () => ({ kept: 1, dropped: 2 }),
  'calls reply.send': ({ reply }) => { reply.send({ kept: 1, dropped: 2 }) },
  'calls reply.send later': async ({ reply }) => {
    setImmediate(() => reply.send({ kept: 1, dropped: 2 }))
    return reply
  }
})) {
  const title = `A11 a manual handler that ${way} answers through the serializer and onSend`
  const run = async (t: Test, kind: DuplexKind, transport: Way): Promise<void> => {
    const { connect, quiet } = await serve(t, { transport }, app => {
      takeManually(app, handler, {
        schema: { response: { '2xx': { type: 'object', properties: { kept: { type: 'number' } } } } },
        onSend: async (_request, reply, payload) => {
          reply.header('x-on-send', 'yes')
          return `${String(payload)} `
        }
      })
    })
    const wire = await connect()
    wire.end(ask(kind) + lastOf(kind))
    const { status, headers, body } = await wire.response()
    t.equal(status, 200)
    t.equal(body, '{"kept":1} ')
    t.equal(headers['x-on-send'], 'yes')
    t.match(headers['content-type'], /^application\/json/)
    t.equal(await wire.remains(), '')
    await quiet()
  }
  onEachKind(t, title, run, answerable, ways)
  // Over HTTP/2 an upgrade is a CONNECT, too.
  onEachKind(t, title, run, ['body'], ['h2'])
}

onEachKind(t, 'A11 a manual handler may leave a reply to its slow hooks, which run once', async (t, kind, transport) => {
  let ran = 0
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      ran++
      await turn()
      return payload
    })
    takeManually(app, async ({ reply }) => { reply.code(403).send({ no: true }) })
  })
  const wire = await connect()
  wire.end(ask(kind) + lastOf(kind))
  const { status, body } = await wire.response()
  t.equal(status, 403)
  t.equal(body, '{"no":true}')
  t.equal(await wire.remains(), '')
  t.equal(ran, 1)
  await quiet()
})

onEachKind(t, 'A11 what an onSend hook throws during accept is answered once, and accept rejects with it', async (t, kind, transport) => {
  let handled = 0
  let message: string | undefined
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.setErrorHandler(async (error: Error, _request, reply) => {
      handled++
      await turn()
      reply.code(418)
      return { handled: error.message }
    })
    app.addHook('onSend', async () => {
      await turn()
      if (handled === 0) throw new Error('not now')
    })
    takeManually(app, async pending => {
      try {
        await accept(pending)
      } catch (error) {
        message = (error as Error).message
        throw error
      }
    })
  })
  const wire = await connect()
  wire.end(ask(kind) + lastOf(kind))
  const { status, body } = await wire.response()
  t.equal(status, 418)
  t.equal(body, '{"handled":"not now"}')
  t.equal(await wire.remains(), '')
  t.equal(message, 'not now')
  t.equal(handled, 1)
  await quiet()
})

onEach(t, 'A11 a body that a manual handler answers keeps its connection', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async () => 'an answer'))
  const wire = await connect()
  for (let n = 0; n < 3; n++) {
    wire.send(ask('body') + piece('body', 'BODY') + LAST_CHUNK)
    const { status, body } = await wire.response()
    t.equal(status, 200)
    t.equal(body, 'an answer')
  }
}, ways)

onEachKind(t, 'A12 a manual handler that is done without accept and without reply is a 500', async (t, kind, transport) => {
  const { connect, quiet, app } = await serve(t, { transport }, app => takeManually(app, async () => { await turn() }))
  const wire = await connect()
  wire.end(ask(kind) + piece(kind, 'TAIL') + lastOf(kind))
  const { status, body } = await wire.response()
  t.equal(status, 500)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_NOT_ACCEPTED')
  t.equal(await wire.remains(), '')
  await quiet()
  t.equal(app.duplex.connections.size, 0)
})

onEachKind(t, 'A12 a manual handler without a promise may accept later', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, pending => {
    setImmediate(() => { void accept(pending).then(echo).catch(() => {}) })
  }))
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'TAIL'))
  t.equal((await wire.head()).status, statusOf(kind, transport))
  t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
})

onEach(t, 'A12 the upstream is dialled first: a refused one is a 502, and nothing was accepted', async (t, transport) => {
  const closed = net.createServer().listen(0, '127.0.0.1')
  await once(closed, 'listening')
  const { port } = closed.address() as net.AddressInfo
  await new Promise(resolve => closed.close(resolve))
  const { connect, quiet } = await serve(t, { transport }, app => {
    app.setErrorHandler((error: Error & { code: string }, _request, reply) => {
      reply.code(error.code === 'ECONNREFUSED' ? 502 : 500).send({ code: error.code })
    })
    takeManually(app, async pending => {
      const upstream = net.connect(port, '127.0.0.1')
      await once(upstream, 'connect')
      await accept(pending)
    })
  })
  const wire = await connect()
  wire.send(ask('connect') + 'TAIL')
  const { status, headers, body } = await wire.response()
  t.equal(status, 502)
  t.equal(codeOf(body), 'ECONNREFUSED')
  t.equal(headers.connection, 'close')
  t.equal((await wire.rest()).toString(), '')
  wire.end()
  await quiet()
}, ways)

onEachKind(t, 'A14 what follows accept at once comes after the accept head', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    const { writable } = await accept(pending)
    writable.end('first')
  }))
  const wire = await connect()
  wire.send(ask(kind) + lastOf(kind))
  t.equal((await wire.head()).status, statusOf(kind, transport))
  t.equal(await hear(wire, kind, 'first'), 'first')
  t.equal(await wire.until(lastOf(kind)), lastOf(kind))
})

for (const status of [201, 202, 203, 207, 299]) {
  onEachKind(t, `A15 accept with status ${status} is kept`, async (t, kind, transport) => {
    const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
      await echo(await accept(pending, { statusCode: status }))
    }))
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'TAIL'))
    t.equal((await wire.head()).status, status)
    t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
  }, ['connect', 'hijack', 'body'], status === 201 ? everywhere : ['tcp'])
}

onEachKind(t, 'A15 a 2xx that was set on the reply is kept, any other status is not', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async (pending, request) => {
    pending.reply.code(Number(request.headers['x-status']))
    await echo(await accept(pending))
  }))
  for (const [set, sent] of [[201, 201], [204, 200], [206, 200], [304, 200], [404, 200], [500, 200]] as const) {
    const wire = await connect()
    wire.send(ask(kind, `X-Status: ${set}`))
    t.equal((await wire.head()).status, kind === 'upgrade' && transport !== 'h2' ? 101 : sent, String(set))
  }
})

for (const status of [100, 101, 200, 204, 205, 206, 300, 304, 400, 404, 500, 99, 1000, NaN, 200.5]) {
  const kindsOf = everyKind.filter(kind => kind === 'upgrade' ? status !== 101 : status !== 200)
  onEachKind(t, `A15 accept with status ${status} is a coded error, and accept can be called again`, async (t, kind, transport) => {
    const codes: unknown[] = []
    const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
      codes.push(await codeThrown(() => accept(pending, { statusCode: status, headers: { 'x-first': 'yes' } })))
      await echo(await accept(pending))
    }))
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'TAIL'))
    const head = await wire.head()
    t.equal(head.status, statusOf(kind, transport))
    t.notOk('x-first' in head.headers)
    t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
    t.strictSame(codes, ['FST_ERR_DUPLEX_INVALID_STATUS'])
  }, kindsOf, status === 204 ? everywhere : ['tcp'])
}

onEach(t, 'A15 accept with status 101 is fine on an upgrade', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    await echo(await accept(pending, { statusCode: 101 }))
  }))
  const wire = await connect()
  wire.send(ask('upgrade'))
  t.equal((await wire.head()).status, 101)
}, ways)

const wrongHeaders: Record<string, Record<string, string | string[]>> = {
  'CR and LF in a value': { 'x-mine': 'a\r\nX-Evil: 1' },
  'LF in a value': { 'x-mine': 'a\nX-Evil: 1' },
  'NUL in a value': { 'x-mine': 'a\0b' },
  'CR in one of several values': { 'x-mine': ['fine', 'a\rb'] },
  'CR and LF in a name': { 'x-mine\r\nX-Evil': '1' },
  'a space in a name': { 'x mine': '1' },
  'an empty name': { '': '1' },
  'a value beyond one byte': { 'x-mine': '\u20ac' }
}

for (const [what, headers] of Object.entries(wrongHeaders)) {
  onEachKind(t, `A4 ${what} given to accept is a coded error, and accept can be called again`, async (t, kind, transport) => {
    const codes: unknown[] = []
    const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
      codes.push(await codeThrown(() => accept(pending, { headers: { 'x-first': 'yes', ...headers } })))
      await echo(await accept(pending, { headers: { 'x-second': 'yes' } }))
    }))
    const wire = await connect()
    wire.send(ask(kind) + piece(kind, 'TAIL'))
    const head = await wire.head()
    t.equal(head.status, statusOf(kind, transport))
    t.equal(head.headers['x-second'], 'yes')
    t.notMatch(head.raw, /x-evil|x-mine|x-first/i)
    t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
    t.strictSame(codes, ['FST_ERR_DUPLEX_INVALID_HEADER'])
  }, everyKind, what === 'CR and LF in a value' ? everywhere : ['tcp', 'h2'])
}

onEachKind(t, 'A4 what accept throws for a header is an ordinary 500 when the handler lets it pass', async (t, kind, transport) => {
  const { connect, quiet } = await serve(t, { transport }, app => takeManually(app, async pending => {
    await accept(pending, { headers: { 'x-mine': 'a\r\nX-Evil: 1' } })
  }))
  const wire = await connect()
  wire.end(ask(kind) + lastOf(kind))
  const { status, body, raw } = await wire.response()
  t.equal(status, 500)
  t.equal(codeOf(body), 'FST_ERR_DUPLEX_INVALID_HEADER')
  t.notMatch(raw, /evil/i)
  t.equal(await wire.remains(), '')
  await quiet()
})

for (const protocol of ['foo\r\nX-Evil: 1', 'foo\n', 'foo\0', 'baz', '', 'foo/2', 'foo, bar']) {
  onEach(t, `A4 accept with the protocol ${JSON.stringify(protocol)}, which was not offered, is a coded error`, async (t, transport) => {
    const codes: unknown[] = []
    const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
      codes.push(await codeThrown(() => accept(pending, { protocol })))
      await echo(await accept(pending))
    }))
    const wire = await connect()
    wire.send('GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo, bar\r\n\r\n')
    const { headers, raw } = await wire.head()
    t.equal(headers.upgrade, 'foo')
    t.notMatch(raw, /evil/i)
    t.strictSame(codes, ['FST_ERR_DUPLEX_PROTOCOL_NOT_OFFERED'])
  }, ways)
}

onEach(t, 'A5 accept may choose another protocol among those that were offered', async (t, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    const { writable, protocol } = await accept(pending, { protocol: 'bar' })
    writable.end(String(protocol))
  }))
  const wire = await connect()
  wire.send('GET /it HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: foo, bar/1\r\n\r\n')
  t.equal((await wire.head()).headers.upgrade, 'bar/1')
  t.equal((await wire.rest()).toString(), 'bar/1')
}, ways)

onEachKind(t, 'A3 what accept is given about framing and switching is not on the accept head', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    await echo(await accept(pending, {
      headers: { Connection: 'x-mine', UPGRADE: 'bar', 'Content-Length': 5, 'Transfer-Encoding': 'gzip', 'x-fine': ['1', '2'], 'x-none': undefined }
    }))
  }))
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'longer than five'))
  const { headers, raw } = await wire.head()
  t.equal(headers['x-fine'], '1, 2')
  t.notOk('x-none' in headers)
  t.notOk('content-length' in headers)
  t.notMatch(raw, /x-mine|gzip|bar/)
  t.equal(await hear(wire, kind, 'longer than five'), 'longer than five')
})

onEachKind(t, 'A2 headers of the reply and of accept are on the accept head, those of accept in place of the reply\'s', async (t, kind, transport) => {
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    pending.reply.header('x-both', 'reply').header('x-reply', ['1', '2'])
    await echo(await accept(pending, { headers: { 'X-Both': 'accept', 'X-Number': 7 } }))
  }))
  const wire = await connect()
  wire.send(ask(kind))
  const { headers } = await wire.head()
  t.equal(headers['x-both'], 'accept')
  t.equal(headers['x-number'], '7')
  t.equal(headers['x-reply'], '1, 2')
})

onEachKind(t, 'A11 the pair is there after accept, and not before', async (t, kind, transport) => {
  const seen: unknown[] = []
  const { connect } = await serve(t, { transport }, app => takeManually(app, async pending => {
    seen.push('readable' in pending && pending.readable !== undefined, pending.accepted, pending.kind, pending.bytesWritten)
    const connection = await accept(pending)
    seen.push(connection === pending as unknown, connection.accepted, connection.readable !== undefined)
    await echo(connection)
  }))
  const wire = await connect()
  wire.send(ask(kind) + piece(kind, 'TAIL'))
  await wire.head()
  t.equal(await hear(wire, kind, 'TAIL'), 'TAIL')
  // The input of a body can be read before.
  t.strictSame(seen, [kind === 'body', false, kind, 0, true, true, true])
})
