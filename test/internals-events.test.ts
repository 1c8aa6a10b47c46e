import t from 'tap'
import { EventEmitter, once } from 'node:events'
import http, { type IncomingMessage, type Server } from 'node:http'
import { Duplex } from 'node:stream'
import Fastify from 'fastify'
import duplex from '../lib/index.ts'
import { onRequestHead, sawUpgrade, takeOver } from '../lib/internals/http-parser.ts'
import { probeTakeover } from '../lib/internals/probe.ts'
import { intercept, override } from '../lib/internals/server-events.ts'
import type { HttpSocket } from '../lib/internals/sockets.ts'
import { connectionEvent, listen, onBoth, requests } from './fixtures/bare.ts'
import { gate } from './fixtures/server.ts'

// What lib/internals/server-events.ts and lib/internals/probe.ts rely on, on a bare server.

interface Left {
  url: string | undefined
  head: string
}

onBoth('intercept: Node emits what is expected, though nobody listens, and the interceptor alone hears it', async (t, carrying) => {
  const { server, connect } = await listen(t, carrying)
  const left = gate<Left>()
  const { expect, undo } = intercept(server, {
    upgrade: (req, socket, head) => {
      left.open({ url: (req as IncomingMessage).url, head: String(head) })
      ;(socket as Duplex).end('taken')
      return true
    }
  }, [])
  server.on(connectionEvent(carrying), (socket: HttpSocket) => {
    onRequestHead(socket, req => {
      t.equal(server.listenerCount('upgrade'), 0)
      expect('upgrade')
      t.equal(server.listenerCount('upgrade'), 1)
      return takeOver(req)
    })
  })
  const wire = await connect()
  wire.send('GET /it HTTP/1.1\r\nHost: a\r\n\r\nTAIL')
  t.strictSame(await left.promise, { url: '/it', head: 'TAIL' })
  t.equal((await wire.rest()).toString(), 'taken')
  t.equal(server.listenerCount('upgrade'), 0, 'expected once')
  undo()
})

onBoth('intercept: without an expectation Node takes an Upgrade for the ordinary request that it also is', async (t, carrying) => {
  const { server, connect } = await listen(t, carrying, (_req, res) => { res.end('ordinary') })
  const watch = (socket: HttpSocket): void => { onRequestHead(socket, req => t.ok(sawUpgrade(req)) ? undefined : 0) }
  const { undo } = intercept(server, { upgrade: () => t.fail('nobody listens for it') }, [
    { event: connectionEvent(carrying), listener: watch }
  ])
  const wire = await connect()
  wire.send(String(requests['an Upgrade']))
  t.equal((await wire.response()).body, 'ordinary')
  undo()
})

t.test('intercept: what the interceptor leaves goes to the listeners, with all that was emitted', async t => {
  const server = new EventEmitter()
  const heard: unknown[] = []
  const asked: unknown[] = []
  server.on('upgrade', function (this: unknown, ...args: unknown[]) { heard.push(this === server, ...args) })
  const { pass } = intercept(server, {
    upgrade: (...args) => {
      asked.push(...args)
      return args[0] === 'mine' ? true : undefined
    }
  }, [])
  t.equal(server.emit('upgrade', 'mine', 2, 3), true)
  t.strictSame(heard, [])
  t.equal(server.emit('upgrade', 'theirs', 2, 3, 4), true)
  t.strictSame(heard, [true, 'theirs', 2, 3, 4])
  t.strictSame(asked, ['mine', 2, 3, 'theirs', 2, 3])
  t.equal(server.emit('other', 1), false)
  t.equal(pass('upgrade', 'mine'), true)
  t.strictSame(heard.slice(5), [true, 'mine'], 'past the interceptor')
  t.equal(asked.length, 6)
})

t.test('Q4 intercept: nobody sees the hidden listeners, and they hear what is emitted past the interceptors', async t => {
  const server = new EventEmitter()
  const emitBefore = server.emit.bind(server)
  const heard: string[] = []
  const theirs = (): void => { heard.push('theirs') }
  const ours = (): void => { heard.push('hidden') }
  intercept(server, { upgrade: () => true }, [{ event: 'upgrade', listener: ours }, { event: 'connect', listener: ours }])
  const see = (): unknown => [server.listenerCount('upgrade'), server.listeners('upgrade'), server.rawListeners('upgrade'), server.eventNames()]
  t.strictSame(see(), [0, [], [], []])
  server.on('upgrade', theirs)
  t.strictSame(see(), [1, [theirs], [theirs], ['upgrade']])
  t.equal(server.listenerCount('upgrade', theirs), 1)
  emitBefore('upgrade')
  t.strictSame(heard.splice(0), ['hidden', 'theirs'])
  server.emit('upgrade')
  t.strictSame(heard, [], 'the interceptor has it')
  server.removeAllListeners('upgrade')
  t.strictSame(see(), [0, [], [], []])
  emitBefore('upgrade')
  t.strictSame(heard.splice(0), ['hidden'], 'still there')
  server.removeAllListeners()
  emitBefore('connect')
  t.strictSame(heard.splice(0), ['hidden'])
  const one = (): void => {}
  server.once('connect', one)
  t.strictSame(server.listeners('connect'), [one])
  t.equal((server.rawListeners('connect')[0] as unknown as { listener: unknown }).listener, one)
})

t.test('intercept: what a tracer patches later, on the prototype, and what another has put there before, is called', async t => {
  class Emitter extends EventEmitter {}
  const server = new Emitter()
  const seen: string[] = []
  intercept(server, {}, [])
  const { emit } = EventEmitter.prototype
  Emitter.prototype.emit = function (this: EventEmitter, ...args: Parameters<typeof emit>) {
    seen.push(`patched ${String(args[0])}`)
    return emit.apply(this, args)
  }
  server.emit('request')
  t.strictSame(seen, ['patched request'])
  const other = new EventEmitter()
  other.emit = function (...args: Parameters<typeof emit>) {
    seen.push(`own ${String(args[0])}`)
    return emit.apply(this, args)
  }
  intercept(other, {}, [])
  other.emit('request')
  t.strictSame(seen, ['patched request', 'own request'])
})

t.test('intercept: undo leaves nothing behind, on a server of Node\'s', async t => {
  const server = http.createServer()
  const own = Object.getOwnPropertyNames(server)
  const count = server.listenerCount('connection')
  const { undo } = intercept(server, { request: () => true }, [{ event: 'connection', listener: () => {} }])
  t.notSame(Object.getOwnPropertyNames(server), own)
  undo()
  t.same(Object.getOwnPropertyNames(server), own)
  t.equal(server.listenerCount('connection'), count)
  t.equal(server.emit, EventEmitter.prototype.emit)
})

t.test('intercept: undo leaves to others what they have put in its place, and intercepts no more', async t => {
  const server = new EventEmitter()
  let intercepted = 0
  const { undo } = intercept(server, { request: () => { intercepted++; return true } }, [])
  const { emit } = server
  const wrapped = (...args: Parameters<typeof emit>): boolean => Reflect.apply(emit, server, args)
  server.emit = wrapped
  undo()
  t.equal(server.emit, wrapped)
  t.equal(server.emit('request'), false)
  t.equal(intercepted, 0)
  const before = new EventEmitter()
  before.emit = wrapped
  intercept(before, {}, []).undo()
  t.equal(before.emit, wrapped, 'what was there before is there again')
})

t.test('override replaces a method of one object, and takes that away again', async t => {
  const server = http.createServer()
  const { close } = server
  let asked = 0
  const undo = override(server, 'close', usual => function (this: Server, ...args) {
    asked++
    return usual.apply(this, args)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const closed = once(server, 'close')
  server.close()
  await closed
  t.equal(asked, 1)
  undo()
  t.equal(server.close, close)
  t.notOk(Object.hasOwn(server, 'close'))
})

t.test('override gives back what the object had itself, and leaves alone what another has put there since', async t => {
  const mine = (): string => 'mine'
  const target = { name: mine }
  const undo = override(target, 'name', usual => () => `not ${usual()}`)
  t.equal(target.name(), 'not mine')
  undo()
  t.equal(target.name, mine)
  t.same(Object.keys(target), ['name'])
  const again = override(target, 'name', () => () => 'ours')
  const theirs = (): string => 'theirs'
  target.name = theirs
  again()
  t.equal(target.name, theirs)
})

t.test('probeTakeover finds nothing wrong with this Node', async t => {
  t.equal(probeTakeover(), undefined)
})

type Listener = (this: Server, socket: HttpSocket) => void

/** Node's own, with which a socket speaks HTTP. */
const node = http as unknown as { _connectionListener: Listener }
const usual = node._connectionListener

/** Nodes that have changed, and what is said of each. */
const changed: Record<string, { listener: Listener | undefined, says: RegExp }> = {
  'has a server that is not made of sockets': {
    listener: undefined,
    says: /its node:http has no _connectionListener$/
  },
  'puts no parser on a socket': {
    listener () {},
    says: /has no parser\.onIncoming on the socket$/
  },
  'calls its parser otherwise': {
    listener (socket) {
      usual.call(this, socket)
      Object.assign(socket.parser as object, { onIncoming: undefined })
    },
    says: /has no parser\.onIncoming on the socket$/
  },
  'reads past the head of what leaves HTTP': {
    listener (socket) {
      usual.call(this, socket)
      socket.removeAllListeners('data')
    },
    says: /does not let go of a connection when it should$/
  },
  'keeps what follows the head': {
    listener (socket) {
      const emit = this.emit as (...args: unknown[]) => boolean
      this.emit = ((event: string, req: unknown, from: unknown) => emit.call(this, event, req, from, Buffer.alloc(0))) as typeof this.emit
      usual.call(this, socket)
    },
    says: /does not hand out what follows a request head$/
  },
  'takes no stream of memory': {
    listener () { throw new Error('this is no socket') },
    says: /cannot be fed from memory: this is no socket$/
  }
}

for (const [how, { listener, says }] of Object.entries(changed)) {
  t.test(`probeTakeover finds a Node that ${how}, and registration fails with that`, async t => {
    node._connectionListener = listener as Listener
    const app = Fastify()
    t.teardown(() => app.close())
    try {
      t.match(probeTakeover(), says)
      await t.rejects(async () => { await app.register(duplex) }, { code: 'FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME' })
    } finally {
      node._connectionListener = usual
    }
    t.equal(probeTakeover(), undefined)
  })
}
