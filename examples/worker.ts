// One of many: a worker behind a load balancer that can be replaced while connections live on it.
//
// The protocol is lines: the client sends "N\n", the worker answers "ack N\n". On SIGTERM
//   1. /ready answers 503, and for UNREADY milliseconds everything else goes on as before: balancers ask now and then, and
//      until they have seen it they send new connections here.
//   2. app.close(): nothing new is taken, and every connection is told, by "bye\n".
//   3. A client that is told sends nothing new, waits until all it has sent is acknowledged, ends its side, and connects
//      again, to another worker. Who has not ended after DRAIN_TIMEOUT milliseconds is cut.
// The client is the first to end because not every proxy knows half-close (docs/behind-a-proxy.md): if the worker were the first,
// what is still on its way would be lost there.
//
// Run it:     PORT=3001 node examples/worker.ts & PORT=3002 node examples/worker.ts &
//             UNREADY=5000 DRAIN_TIMEOUT=30000 are the two times, and over DRAIN_SPREAD=5000 the connections are told one after
//             the other. docs/more-than-one-machine.md has the configurations of nginx, HAProxy, systemd and Kubernetes. Under
//             systemd it takes the socket that it is given (LISTEN_FDS).
//             Before Node 22.18: npm run setup, then .build/examples/worker.js in its place.
// Drive it:   curl -i http://localhost:3001/ready
//             (echo 1; sleep 5; echo 2; sleep 60) | npx fastify-duplex --upgrade lines http://localhost:3001/lines
//             kill -TERM %1      and what it says at its end
import { addAbortListener } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { pipeline } from 'node:stream/promises'
import { setTimeout as after } from 'node:timers/promises'
import Fastify, { type FastifyListenOptions } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const { PORT = '3000', HOST = '127.0.0.1', NAME = `worker ${process.pid}`, LISTEN_FDS, LISTEN_PID } = process.env
const UNREADY = Number(process.env.UNREADY ?? 0)
const DRAIN_TIMEOUT = Number(process.env.DRAIN_TIMEOUT ?? 10_000)
const DRAIN_SPREAD = Number(process.env.DRAIN_SPREAD ?? 0)
/** The first descriptor of those that systemd passes, sd_listen_fds(3). */
const LISTEN_FDS_START = 3

let ready = true
/** Connections that were told to go, those of them that then ended in order, and all that did not end so. */
const count = { told: 0, finished: 0, cut: 0 }

const app = Fastify({ logger: { level: 'error' } })
await app.register(duplex, { drainTimeout: DRAIN_TIMEOUT, drainSpread: DRAIN_SPREAD })

app.get('/', () => `${NAME}\n`)
app.get('/ready', (_request, reply) => reply.code(ready ? 200 : 503).send(ready ? 'ready\n' : 'going away\n'))

app.get('/lines', { duplex: { kinds: ['upgrade'], protocols: ['lines'] } }, async ({ readable, writable, draining, signal, closed }) => {
  addAbortListener(draining, () => {
    count.told++
    if (writable.writable) writable.write('bye\n')
  })
  void closed.then(({ reason }) => {
    if (reason !== 'end') count.cut++
    else if (draining.aborted) count.finished++
  })
  await pipeline(createInterface({ input: readable, signal }), async function * (lines: AsyncIterable<string>) {
    for await (const line of lines) yield `ack ${line}\n`
  }, writable)
})

process.once('SIGTERM', async () => {
  ready = false
  await after(UNREADY)
  await app.close()
  console.log(`${NAME} is gone: told ${count.told}, finished ${count.finished}, cut ${count.cut}`)
})

// fastify's type does not know fd, which it passes on to Node.
const socket = LISTEN_FDS === '1' && LISTEN_PID === `${process.pid}` ? { fd: LISTEN_FDS_START } : { port: Number(PORT) }
await app.listen({ host: HOST, ...socket } as FastifyListenOptions)
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}`)
