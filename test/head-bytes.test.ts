import t from 'tap'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { Socket } from 'node:net'
import { PassThrough, type Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { TLSSocket } from 'node:tls'
import type { DuplexClosed, DuplexConnection } from '../lib/index.ts'
import { ask, everyKind, LAST_CHUNK, onEachKind, piece, streamKinds, take } from './fixtures/kinds.ts'
import { onEveryWay, sendApart, serveLinks, turn } from './fixtures/links.ts'
import { gate, serve, type TestServer } from './fixtures/server.ts'

const echo = ({ readable, writable }: DuplexConnection): Promise<void> => pipeline(readable, writable)

/** Answers only at the end of input, and with all of it. */
async function repeat ({ readable, writable }: DuplexConnection): Promise<void> {
  const chunks: Buffer[] = []
  for await (const chunk of readable) chunks.push(chunk as Buffer)
  writable.end(Buffer.concat(chunks))
}

async function summarise ({ readable, writable }: DuplexConnection): Promise<void> {
  const hash = createHash('sha256')
  let length = 0
  for await (const chunk of readable) {
    hash.update(chunk as Buffer)
    length += (chunk as Buffer).length
  }
  writable.end(`${length} ${hash.digest('hex')}`)
}

/** The ways to read a stream to its end. */
const readers: Record<string, (readable: Readable) => Promise<string>> = {
  async iterator (readable) {
    let text = ''
    for await (const chunk of readable) text += String(chunk)
    return text
  },
  async data (readable) {
    let text = ''
    readable.on('data', chunk => { text += String(chunk) })
    await once(readable, 'end')
    return text
  },
  async pipeline (readable) {
    const through = new PassThrough()
    let text = ''
    through.on('data', chunk => { text += String(chunk) })
    await pipeline(readable, through)
    return text
  },
  async readable (readable) {
    let text = ''
    readable.on('readable', () => { for (let chunk; (chunk = readable.read()) !== null;) text += String(chunk) })
    await once(readable, 'end')
    return text
  }
}

const summaryOf = (bytes: Buffer): string => `${bytes.length} ${createHash('sha256').update(bytes).digest('hex')}`

/** Time in which a server that reads on its own would have done so: whole exchanges with it, on other connections. */
async function pass ({ connect }: TestServer): Promise<void> {
  for (let n = 0; n < 10; n++) {
    const wire = await connect()
    wire.send('GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n')
    await wire.response()
    wire.destroy()
  }
}

onEveryWay(t, 'H1 a tail in the packet of the head comes first, once, in order', async (t, way) => {
  const { link } = await serveLinks(t, way, app => take(app, repeat))
  for (const kind of streamKinds) {
    const { wire } = await link()
    wire.send(ask(kind) + 'TAIL')
    t.match((await wire.head()).line, /^HTTP\/1\.1 (?:101|200) /, kind)
    wire.send(', and more').end(', and the last')
    t.equal((await wire.rest()).toString(), 'TAIL, and more, and the last', kind)
  }
})

t.test('H1 connection.head tells what came with the head, and takes nothing from readable', async t => {
  const { connect } = await serve(t, {}, app => take(app, ({ head, readable, writable }) => {
    writable.write(`head=${head.toString()};`)
    return pipeline(readable, writable)
  }))
  for (const kind of streamKinds) {
    const wire = await connect()
    wire.send(ask(kind) + 'TAIL')
    await wire.head()
    t.equal(await wire.until(';TAIL'), 'head=TAIL;TAIL', kind)
  }
})

t.test('H1 what came with the head is counted as read, once', async t => {
  const closed: Promise<DuplexClosed>[] = []
  const { connect } = await serve(t, {}, app => take(app, connection => {
    closed.push(connection.closed)
    return pipeline(connection.readable, connection.writable)
  }))
  for (const kind of streamKinds) {
    const wire = await connect()
    wire.end(ask(kind) + 'TAIL')
    await wire.head()
    await wire.rest()
    t.match(await closed.pop(), { reason: 'end', bytesRead: 4, bytesWritten: 4 }, kind)
  }
})

t.test('H1 of the kind body, what is in the packet of the head comes first, once, in order', async t => {
  const { connect } = await serve(t, {}, app => take(app, repeat))
  const wire = await connect()
  wire.send(ask('body') + piece('body', 'TAIL'))
  await wire.head()
  wire.send(piece('body', ', and more') + LAST_CHUNK)
  t.equal(await wire.until(LAST_CHUNK), piece('body', 'TAIL, and more') + LAST_CHUNK)
})

onEveryWay(t, 'H2 a request sent one byte at a time loses nothing', async (t, way) => {
  const { link } = await serveLinks(t, way, app => take(app, repeat))
  for (const kind of streamKinds) {
    const { wire, peer } = await link()
    await sendApart({ wire, peer }, Array.from(ask(kind) + 'TAIL'))
    wire.end('.')
    await wire.head()
    t.equal((await wire.rest()).toString(), 'TAIL.', kind)
  }
})

onEveryWay(t, 'H2 an upgrade split at every offset of head and tail loses nothing', async (t, way) => {
  const { link } = await serveLinks(t, way, app => take(app, repeat))
  const bytes = ask('upgrade') + 'ABCDEFGH'
  const answers = new Set<string>()
  for (let at = 1; at < bytes.length; at++) {
    const { wire, peer } = await link()
    await sendApart({ wire, peer }, [bytes.slice(0, at)])
    wire.end(bytes.slice(at))
    await wire.head()
    answers.add((await wire.rest()).toString())
  }
  t.strictSame([...answers], ['ABCDEFGH'])
})

onEachKind(t, 'H2 split at every offset of head and tail, nothing is lost', async (t, kind) => {
  const { link } = await serveLinks(t, 'tcp', app => take(app, repeat))
  const last = kind === 'body' ? LAST_CHUNK : ''
  const bytes = ask(kind, 'X-More: of it') + piece(kind, 'ABCDEFGH') + last
  const answers = new Set<string>()
  for (let at = 1; at < bytes.length; at++) {
    const { wire, peer } = await link()
    await sendApart({ wire, peer }, [bytes.slice(0, at)])
    wire.send(bytes.slice(at))
    if (kind !== 'body') wire.end()
    await wire.head()
    answers.add(kind === 'body' ? await wire.until(LAST_CHUNK) : (await wire.rest()).toString())
    wire.destroy()
  }
  t.strictSame([...answers], [piece(kind, 'ABCDEFGH') + last])
}, everyKind, ['tcp'])

t.test('H2 split in three at every pair of offsets around the end of the head, nothing is lost', async t => {
  const { link } = await serveLinks(t, 'tcp', app => take(app, repeat))
  const bytes = ask('upgrade') + 'ABCD'
  const from = bytes.length - 8
  for (let one = from; one < bytes.length - 1; one++) {
    for (let two = one + 1; two < bytes.length; two++) {
      const { wire, peer } = await link()
      await sendApart({ wire, peer }, [bytes.slice(0, one), bytes.slice(one, two)])
      wire.end(bytes.slice(two))
      await wire.head()
      t.equal((await wire.rest()).toString(), 'ABCD', `${one}, ${two}`)
    }
  }
})

onEveryWay(t, 'H3 a tail of 1 MiB and a FIN: intact, then the end', async (t, way) => {
  const tail = randomBytes(1024 * 1024)
  const { link } = await serveLinks(t, way, app => take(app, summarise))
  for (const kind of streamKinds) {
    const { wire } = await link()
    wire.end(Buffer.concat([Buffer.from(ask(kind)), tail]))
    await wire.head()
    t.equal((await wire.rest()).toString(), summaryOf(tail), kind)
  }
})

onEveryWay(t, 'H3 a tail of 1 MiB comes back through an echo as it was', async (t, way) => {
  const tail = randomBytes(1024 * 1024)
  const { link } = await serveLinks(t, way, app => take(app, echo))
  const { wire } = await link()
  wire.end(Buffer.concat([Buffer.from(ask('upgrade')), tail]))
  await wire.head()
  t.equal(summaryOf(await wire.rest()), summaryOf(tail))
})

onEveryWay(t, 'H4 without a tail it is the socket of the server, and nothing was put into it', async (t, way) => {
  const seen: { connection: DuplexConnection, buffered: number }[] = []
  const { link } = await serveLinks(t, way, app => take(app, connection => {
    seen.push({ connection, buffered: connection.readable.readableLength })
    return repeat(connection)
  }))
  for (const kind of streamKinds) {
    const { wire, peer } = await link()
    const unshifts: unknown[] = []
    const { unshift } = peer
    peer.unshift = (...args) => {
      unshifts.push(args)
      return Reflect.apply(unshift, peer, args)
    }
    wire.send(ask(kind))
    await wire.head()
    const { connection, buffered } = seen.pop() as typeof seen[number]
    t.equal(connection.readable, peer, kind)
    t.equal(connection.writable, peer, kind)
    t.ok(peer instanceof (way === 'tls' ? TLSSocket : Socket))
    if (way !== 'injected') t.equal(peer.constructor, way === 'tls' ? TLSSocket : Socket)
    t.equal(connection.head.length, 0)
    t.equal(buffered, 0)
    t.strictSame(unshifts, [], 'nothing was unshifted')
    wire.end('late')
    t.equal((await wire.rest()).toString(), 'late')
  }
})

onEveryWay(t, 'H4 without a tail the first chunk is the first that the client sends, and none is empty', async (t, way) => {
  const { link } = await serveLinks(t, way, app => take(app, async ({ readable, writable }) => {
    const lengths: number[] = []
    for await (const chunk of readable) lengths.push((chunk as Buffer).length)
    writable.end(JSON.stringify(lengths))
  }))
  for (const sent of ['', 'four']) {
    const { wire } = await link()
    wire.send(ask('upgrade'))
    await wire.head()
    wire.end(sent)
    t.equal((await wire.rest()).toString(), sent === '' ? '[]' : '[4]')
  }
})

t.test('H4 of the kind body, the pair is the request and the response themselves', async t => {
  const { connect } = await serve(t, {}, app => take(app, async ({ readable, writable, reply, head }, request) => {
    writable.end(JSON.stringify([readable === request.raw, writable === reply.raw, head.length]))
  }))
  const wire = await connect()
  wire.send(ask('body') + LAST_CHUNK)
  await wire.head()
  t.equal(await wire.until(LAST_CHUNK), piece('body', '[true,true,0]') + LAST_CHUNK)
})

onEveryWay(t, 'H5 what arrives during slow hooks is complete and in order, tail first', async (t, way) => {
  const { link } = await serveLinks(t, way, app => {
    app.addHook('onRequest', async () => { await hooks.entered() })
    app.addHook('preHandler', async () => { await hooks.entered() })
    take(app, repeat)
  })
  const hooks = stations()
  for (const kind of streamKinds) {
    const { wire, peer } = await link()
    wire.send(ask(kind) + 'one')
    await hooks.arrival()
    await sendApart({ wire, peer }, [' two', ' three'])
    hooks.leave()
    await hooks.arrival()
    await sendApart({ wire, peer }, [' four'])
    wire.end(' five')
    hooks.leave()
    await wire.head()
    t.equal((await wire.rest()).toString(), 'one two three four five', kind)
  }
})

onEveryWay(t, 'H5 what arrives during slow hooks is bounded, and complete afterwards', async (t, way) => {
  const hook = gate()
  const entered = gate()
  const server = await serveLinks(t, way, app => {
    app.get('/nothing', async () => '')
    take(app, summarise, true, {
      onRequest: async () => {
        entered.open()
        await hook.promise
      }
    })
  })
  const flood = randomBytes(16 * 1024 * 1024)
  const { wire, peer } = await server.link()
  wire.send(ask('upgrade'))
  for (let at = 0; at < flood.length; at += 65536) wire.send(flood.subarray(at, at + 65536))
  wire.end()
  await entered.promise
  await pass(server)
  t.ok(peer.readableLength > 0, 'the tail is there')
  t.ok(peer.readableLength <= 256 * 1024, `${peer.readableLength} bytes are kept`)
  t.ok((peer as Socket).bytesRead <= 256 * 1024, `${(peer as Socket).bytesRead} bytes were read`)
  t.notOk(wire.socket.writableFinished, 'the client is held back')
  hook.open()
  await wire.head()
  t.equal((await wire.rest()).toString(), summaryOf(flood))
})

onEveryWay(t, 'H6 what lands between the accept head and the first read is not lost', async (t, way) => {
  for (const [name, read] of Object.entries(readers)) {
    const first = gate()
    const { link } = await serveLinks(t, way, app => take(app, async ({ readable, writable }) => {
      await first.promise
      writable.end(await read(readable))
    }))
    for (const tail of ['', 'tail ']) {
      const { wire, peer } = await link()
      wire.send(ask('upgrade') + tail)
      await wire.head()
      await sendApart({ wire, peer }, ['one ', 'two'])
      wire.end()
      first.open()
      t.equal((await wire.rest()).toString(), `${tail}one two`, `by ${name}, ${tail === '' ? 'no tail' : 'a tail'}`)
    }
  }
})

onEveryWay(t, 'H6 a FIN that lands between the accept head and the first read is not lost either', async (t, way) => {
  for (const [name, read] of Object.entries(readers)) {
    for (const sent of ['', 'all of it']) {
      const first = gate()
      const { link, app } = await serveLinks(t, way, app => take(app, async ({ readable, writable }) => {
        await first.promise
        writable.end(`got "${await read(readable)}"`)
      }))
      const { wire } = await link()
      wire.send(ask('upgrade'))
      await wire.head()
      await new Promise<void>(resolve => { wire.socket.end(sent, resolve) })
      for (let n = 0; n < 20; n++) await turn()
      t.equal(app.duplex.connections.size, 1, 'the handler is still waiting')
      first.open()
      t.equal((await wire.rest()).toString(), `got "${sent}"`, `by ${name}`)
    }
  }
})

onEveryWay(t, 'H7 a whole request as tail is data, and is never routed', async (t, way) => {
  let routed = 0
  const { link } = await serveLinks(t, way, app => {
    app.get('/inner', async () => { routed++ })
    take(app, repeat)
  })
  const inner = 'GET /inner HTTP/1.1\r\nHost: a\r\n\r\n'
  for (const kind of streamKinds) {
    const { wire } = await link()
    wire.send(ask(kind) + inner)
    await wire.head()
    wire.send(inner).end(ask('upgrade'))
    t.equal((await wire.rest()).toString(), inner + inner + ask('upgrade'), kind)
  }
  t.equal(routed, 0)
})

t.test('H7 what cannot be HTTP is data like any other', async t => {
  const { connect } = await serve(t, {}, app => take(app, repeat))
  const noise = Buffer.from('00ff0d0a0d0a1603010200010001fc0303', 'hex')
  for (const kind of streamKinds) {
    const wire = await connect()
    wire.end(Buffer.concat([Buffer.from(ask(kind)), noise]))
    await wire.head()
    t.strictSame(await wire.rest(), noise, kind)
  }
})

onEveryWay(t, 'H8 on the second and third request of a connection a takeover works like on the first', async (t, way) => {
  const { link } = await serveLinks(t, way, app => {
    app.get('/plain', async () => 'plain')
    take(app, repeat)
  })
  for (const kind of streamKinds) {
    for (const before of [1, 2]) {
      const { wire } = await link()
      for (let n = 0; n < before; n++) {
        wire.send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\n')
        t.equal((await wire.response()).body, 'plain')
      }
      wire.send(ask(kind) + 'TAIL')
      t.match((await wire.head()).line, /^HTTP\/1\.1 (?:101|200) /)
      wire.end(', the end')
      t.equal((await wire.rest()).toString(), 'TAIL, the end', `${kind} after ${before}`)
    }
  }
})

t.test('H8 messages follow each other on one connection, and a takeover follows them', async t => {
  const { connect } = await serve(t, {}, app => take(app, echo))
  const wire = await connect()
  for (const text of ['first', 'second']) {
    wire.send(ask('body') + piece('body', text) + LAST_CHUNK)
    t.equal((await wire.head()).status, 200)
    t.equal(await wire.until(LAST_CHUNK), piece('body', text) + LAST_CHUNK)
  }
  wire.send(ask('upgrade') + 'TAIL')
  t.equal((await wire.head()).status, 101)
  t.equal(await wire.until('TAIL'), 'TAIL')
})

onEveryWay(t, 'H9 a FIN in the packet of the request, tail or none: readable ends and the handler answers', async (t, way) => {
  const { link, quiet } = await serveLinks(t, way, app => take(app, async ({ readable, writable }) => {
    let text = ''
    for await (const chunk of readable) text += String(chunk)
    await turn()
    writable.end(`got "${text}"`)
  }))
  for (const kind of streamKinds) {
    for (const tail of ['', 'TAIL']) {
      const { wire } = await link()
      wire.end(ask(kind) + tail)
      t.match((await wire.head()).line, /^HTTP\/1\.1 (?:101|200) /)
      t.equal((await wire.rest()).toString(), `got "${tail}"`, kind)
    }
  }
  await quiet()
})

onEveryWay(t, 'H9 a FIN in the packet of the request waits for slow hooks and a late reader', async (t, way) => {
  for (const [name, read] of Object.entries(readers)) {
    const hooks = stations()
    const { link, quiet } = await serveLinks(t, way, app => {
      app.addHook('onRequest', async () => { await hooks.entered() })
      take(app, async ({ readable, writable }) => {
        await hooks.entered()
        writable.end(`got "${await read(readable)}"`)
      })
    })
    for (const tail of ['', 'TAIL']) {
      const { wire } = await link()
      wire.end(ask('upgrade') + tail)
      for (let n = 0; n < 2; n++) {
        await hooks.arrival()
        for (let turns = 0; turns < 20; turns++) await turn()
        hooks.leave()
      }
      t.equal((await wire.head()).status, 101)
      t.equal((await wire.rest()).toString(), `got "${tail}"`, `by ${name}`)
    }
    await quiet()
  }
})

t.test('H9 a whole message and a FIN in one packet are answered, however late', async t => {
  const { connect, quiet } = await serve(t, {}, app => take(app, async connection => {
    for (let turns = 0; turns < 20; turns++) await turn()
    await echo(connection)
  }, true, { onRequest: async () => { for (let turns = 0; turns < 20; turns++) await turn() } }))
  const wire = await connect()
  wire.end(ask('body') + piece('body', 'BODY') + LAST_CHUNK)
  t.equal((await wire.head()).status, 200)
  t.equal((await wire.rest()).toString(), piece('body', 'BODY') + LAST_CHUNK)
  await quiet()
})

t.test('H10 a FIN at any offset of the head: no handler runs, and nothing is left', async t => {
  let entered = 0
  const { connect, quiet, app } = await serve(t, {}, app => take(app, () => { entered++ }))
  for (const kind of everyKind) {
    const head = ask(kind)
    for (let at = 0; at < head.length; at++) {
      const wire = await connect()
      wire.end(head.slice(0, at))
      const answer = await wire.remains()
      if (!/^(?:$|HTTP\/1\.1 400 )/.test(answer)) t.fail(`${kind} at ${at}: ${answer}`)
    }
  }
  t.equal(entered, 0)
  await quiet()
  t.equal(app.duplex.connections.size, 0)
})

onEveryWay(t, 'H10 a FIN in the middle of the head: no handler runs, and nothing is left', async (t, way) => {
  let entered = 0
  const { link, quiet } = await serveLinks(t, way, app => take(app, () => { entered++ }))
  for (const kind of everyKind) {
    const { wire } = await link()
    wire.end(ask(kind).slice(0, -2))
    t.match(await wire.remains(), /^HTTP\/1\.1 400 /, kind)
  }
  t.equal(entered, 0)
  await quiet()
})

/** Places where the server waits, one after the other, until the test lets it go on. */
function stations (): { entered: () => Promise<void>, arrival: () => Promise<void>, leave: () => void } {
  let here = gate()
  let onward = gate()
  return {
    async entered () {
      const { promise } = onward
      here.open()
      await promise
    },
    async arrival () {
      await here.promise
      here = gate()
    },
    leave () {
      const { open } = onward
      onward = gate()
      open()
    }
  }
}
