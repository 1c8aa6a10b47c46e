import 'reflect-metadata'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { Controller, Get, Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication } from '@nestjs/platform-fastify'
import { WsAdapter } from '@nestjs/platform-ws'
import { MessageBody, SubscribeMessage, WebSocketGateway } from '@nestjs/websockets'
import t, { type Test } from 'tap'
import duplex, { type DuplexConnection } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, piece, take } from './fixtures/kinds.ts'
import { exchange, request, UPGRADE } from './fixtures/requests.ts'
import { echo, watchSockets, within } from './fixtures/shared-server.ts'
import { watchUncaught } from './fixtures/uncaught.ts'
import { openWebSocket, type WebSocketClient } from './fixtures/websocket.ts'
import { connectTcp, type Wire } from './fixtures/wire.ts'

class Gateway {
  say (text: string): object {
    return { event: 'said', data: text }
  }
}

class Pages {
  plain (): string {
    return 'plain'
  }
}

class App {}

// What a decorator would do: where there is no syntax for it, it is called.
function decorate (decorator: MethodDecorator, { prototype }: { prototype: object }, name: string): void {
  decorator(prototype, name, Object.getOwnPropertyDescriptor(prototype, name) as PropertyDescriptor)
}
decorate(SubscribeMessage('say'), Gateway, 'say')
MessageBody()(Gateway.prototype, 'say', 0)
WebSocketGateway({ path: '/gateway' })(Gateway)
decorate(Get('plain'), Pages, 'plain')
Controller()(Pages)
Module({ providers: [Gateway], controllers: [Pages] })(App)

interface Nest {
  app: NestFastifyApplication
  connect: () => Promise<Wire>
  openGateway: () => Promise<WebSocketClient>
  /** app.close() of Nest, which has to resolve. */
  close: () => Promise<void>
}

/** A listening app of Nest, with a gateway and routes of every kind. */
async function nest (t: Test, handler: (connection: DuplexConnection) => unknown, drainTimeout = 60_000): Promise<Nest> {
  watchUncaught(t)
  const sockets = watchSockets(t)
  const app = await NestFactory.create<NestFastifyApplication>(App, new FastifyAdapter(), { logger: false })
  const close = (): Promise<void> => within('app.close()', app.close())
  const wires: Wire[] = []
  t.teardown(async () => {
    for (const wire of wires) wire.destroy()
    for (const socket of sockets) socket.destroy()
    await close()
  })
  app.useWebSocketAdapter(new WsAdapter(app))
  await app.register(duplex, { drainTimeout })
  take(app.getHttpAdapter().getInstance(), handler)
  await app.listen(0, '127.0.0.1')
  const { port } = app.getHttpServer().address() as AddressInfo
  return {
    app,
    close,
    connect: async () => {
      const wire = await connectTcp(port)
      wires.push(wire)
      return wire
    },
    openGateway: () => openWebSocket(t, `ws://127.0.0.1:${port}/gateway`)
  }
}

/** Says something to the gateway, which says it again. */
async function said (gateway: WebSocketClient, text: string): Promise<unknown> {
  return JSON.parse(await gateway.ask(JSON.stringify({ event: 'say', data: text })))
}

t.test('Q4 a gateway of NestJS has its own, and every kind its', async t => {
  const { connect, openGateway, close } = await nest(t, echo)
  const gateway = await openGateway()
  for (const kind of everyKind) {
    const wire = await connect()
    await within('the accept head', wire.send(ask(kind) + piece(kind, 'early')).head())
    t.equal(await within('the echo', hear(wire, kind, 'early')), 'early')
    t.same(await said(gateway, kind), { event: 'said', data: kind })
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    await within('the end', kind === 'body' ? wire.until(LAST_CHUNK) : wire.gone())
  }
  t.equal((await within('a controller', exchange(await connect(), 'GET /plain'))).body, 'plain')
  // The adapter destroys what asks for none of its gateways.
  const nobodys = await connect()
  nobodys.send(request('GET /plain', ...UPGRADE))
  t.equal(await within('the end', nobodys.remains()), '')
  await close()
  await within('the end of the gateway', gateway.closed)
})

t.test('Q11 app.close() of NestJS with a gateway begins the drain, and resolves when it is over', async t => {
  const entered: DuplexConnection[] = []
  const { connect, openGateway, close, app } = await nest(t, async connection => {
    entered.push(connection)
    connection.writable.write('hello')
    await once(connection.draining, 'abort')
    connection.writable.write('bye')
  })
  const gateway = await openGateway()
  const keptAlive = await connect()
  await exchange(keptAlive, 'GET /plain')
  const wires: Wire[] = []
  for (const kind of everyKind) {
    const wire = await connect()
    await within('the accept head', wire.send(ask(kind)).head())
    t.equal(await within('hello', hear(wire, kind, 'hello')), 'hello')
    wires.push(wire)
  }
  const closing = close()
  for (const [at, kind] of everyKind.entries()) {
    const wire = wires[at] as Wire
    t.equal(await within('bye', hear(wire, kind, 'bye')), 'bye')
    t.match((entered[at] as DuplexConnection).draining.reason, { code: 'FST_ERR_DUPLEX_SHUTDOWN' })
    wire.end(kind === 'body' ? LAST_CHUNK : '')
    t.match(await within('closed', (entered[at] as DuplexConnection).closed), { reason: 'end' })
  }
  await closing
  await within('the end of the gateway', gateway.closed)
  await within('the end of what carries nothing', keptAlive.remains())
  t.equal(app.getHttpServer().listening, false)
})

t.test('Q11 app.close() of NestJS with a gateway ends what does not heed the drain', async t => {
  const entered: DuplexConnection[] = []
  const { connect, openGateway, close } = await nest(t, async connection => {
    entered.push(connection)
    await new Promise(() => {})
  }, 200)
  await openGateway()
  for (const kind of everyKind) await within('the accept head', (await connect()).send(ask(kind)).head())
  await close()
  for (const connection of entered) t.match(await within('closed', connection.closed), { reason: 'shutdown' })
  t.equal(entered.length, everyKind.length)
})
