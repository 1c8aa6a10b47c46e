import t from 'tap'
import { setImmediate as turn } from 'node:timers/promises'
import type { DuplexConnection } from '../lib/index.ts'
import { guarded, serveGuarded, until } from './fixtures/baseline.ts'
import { ask, LAST_CHUNK, piece } from './fixtures/kinds.ts'
import { request } from './fixtures/requests.ts'
import { gate, onEach, type Way } from './fixtures/server.ts'

// The timer that looks for peers is not among the active resources of Node, so it is caught where it is made.

/** Those that run, with what they do. */
const running = new Map<unknown, () => void>()
const { setInterval: set, clearInterval: clear } = globalThis
globalThis.setInterval = ((run: () => void, ...rest: [number]) => {
  const timer = set(run, ...rest)
  running.set(timer, run)
  return timer
}) as typeof setInterval
globalThis.clearInterval = timer => {
  running.delete(timer)
  clear(timer)
}

onEach(t, 'Q6 nobody looks for the client of a body that broke off, and whose rest came then', guarded(async (t, transport: Way) => {
  const broken = gate()
  let message: { complete: boolean } | undefined
  const server = await serveGuarded(t, { transport }, app => {
    app.get('/slow', () => new Promise(() => {}))
    app.post('/it', { duplex: true }, async (connection: DuplexConnection, { raw }) => {
      message = raw
      connection.writable.destroy()
      broken.open()
      await new Promise(() => {})
    })
  })
  const wire = await server.connect()
  wire.send(request('GET /slow') + ask('body') + piece('body', 'half'))
  await broken.promise
  await turn()
  wire.send(piece('body', 'the rest') + LAST_CHUNK)
  await until(() => message?.complete === true)
  wire.reset()
  await server.baseline()
  for (const look of [...running.values()]) look()
  t.equal(running.size, 0, 'the timer has ended')
}), ['tcp', 'tls'])

// The session tickets of TLS cannot be written any more, and Node tells nobody of that.
onEach(t, 'Q6 a client of TLS that resets in the tick of its requests leaves nothing, whatever was to be sent to it', guarded(async (t, transport: Way) => {
  const reason = gate<string>()
  const server = await serveGuarded(t, { transport, plugin: { finTimeout: 100 } }, app => {
    app.get('/plain', async () => {
      await turn()
      return 'plain'
    })
    app.post('/it', { duplex: true }, async ({ writable, closed }: DuplexConnection) => {
      void closed.then(closed => reason.open(closed.reason))
      writable.write('said')
    })
  })
  // Since Node 26 the reset may come before the handshake of the server has ended.
  server.app.server.on('tlsClientError', () => reason.open('none'))
  const wire = await server.connect()
  wire.send(request('GET /plain') + ask('body') + piece('body', 'half') + LAST_CHUNK)
  wire.reset()
  t.match(await reason.promise, /^(?:fin|abort|none)$/)
  await server.quiet()
}), ['tls'])
