import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import type { DuplexKind } from '../lib/index.ts'
import { ask, everyKind, hear, LAST_CHUNK, piece, statusOf } from './fixtures/kinds.ts'
import { request } from './fixtures/requests.ts'
import { connectTo, within } from './fixtures/shared-server.ts'
import type { Traced, TracedSpan } from './fixtures/traced-process.ts'
import type { Wire } from './fixtures/wire.ts'

/** Both modules are instrumented, each by itself. */
const servers = ['http', 'https'] as const
type Server = typeof servers[number]

// As they are numbered in its API.
const SERVER = 1
const UNSET = 0

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c'
const PARENT_ID = 'b7ad6b7169203331'
const TRACEPARENT = `Traceparent: 00-${TRACE_ID}-${PARENT_ID}-01`

const methods: Record<DuplexKind, string> = { upgrade: 'GET', connect: 'CONNECT', hijack: 'GET', body: 'POST' }

const child = fork(fileURLToPath(new URL('fixtures/traced-process.js', import.meta.url)))
t.teardown(async () => {
  child.disconnect()
  await once(child, 'exit')
})
const [ports] = await within('the start of the process', once(child, 'message'), 30_000) as [Record<Server, number>]

/** What is traced so far, or in the end: when there is no connection any more. */
async function traced (when: 'so far' | 'in the end'): Promise<Traced> {
  child.send(when)
  const [answer] = await within(`what is traced ${when}`, once(child, 'message')) as [Traced]
  return answer
}

/** What is traced of all that a client does on one connection. */
async function tracing (server: Server, client: (wire: Wire) => Promise<unknown>): Promise<Traced> {
  const wire = await connectTo(server, ports[server])
  try {
    await client(wire)
  } finally {
    wire.destroy()
  }
  return await traced('in the end')
}

/** What is traced of a request to a plain route. */
async function plain (server: Server, kind: DuplexKind, ...fields: string[]): Promise<Traced> {
  const head = request(`${kind === 'body' ? 'POST' : 'GET'} /plain`, 'Connection: close', TRACEPARENT, ...fields)
  return await tracing(server, async wire => {
    await within('a response', wire.send(head).response())
    wire.end()
    await within('the end', wire.gone())
  })
}

/** The one span of a request, in the trace that the client began. */
function only (t: Test, { spans, started }: Traced): TracedSpan {
  t.equal(started, 1)
  t.equal(spans.length, 1)
  const span = spans[0] as TracedSpan
  t.match(span, { kind: SERVER, traceId: TRACE_ID, parentSpanId: PARENT_ID, status: { code: UNSET } })
  return span
}

/** It says the same things as the other, which differ in what they say as the requests do. */
function likePlain (t: Test, kind: DuplexKind, { attributes }: TracedSpan, plain: TracedSpan): void {
  const differing = ['http.request.method', 'http.response.status_code', 'url.path', 'network.peer.port', 'server.address', 'server.port']
  const same = (of: TracedSpan['attributes']): object =>
    Object.fromEntries(Object.entries(of).filter(([name]) => !differing.includes(name)))
  t.same(same(attributes), same(plain.attributes))
  // The target of a CONNECT has no path, and a port.
  if (kind !== 'connect') t.same(Object.keys(attributes).sort(), Object.keys(plain.attributes).sort())
  t.equal(attributes['http.request.method'], methods[kind])
}

for (const server of servers) {
  for (const kind of everyKind) {
    t.test(`Q31 OpenTelemetry has one span of what is accepted, from its beginning to its end [${kind}] [${server}]`, async t => {
      const status = statusOf(kind)
      let inside: string | undefined
      const usual = only(t, await plain(server, kind))
      const span = only(t, await tracing(server, async wire => {
        t.equal((await within('the accept head', wire.send(ask(kind, TRACEPARENT)).head())).status, status)
        t.equal(await within('the echo', hear(wire.send(piece(kind, 'hello')), kind, 'hello')), 'hello')
        t.match(await traced('so far'), { started: 1, spans: { length: 0 }, active: { length: 1 } })
        wire.end(kind === 'body' ? LAST_CHUNK : '')
        await within('the end', kind === 'body' ? wire.until(LAST_CHUNK) : wire.gone())
        // The handler wrote it behind all that it awaited.
        const { active } = await traced('so far')
        t.equal(active.length, 2)
        t.equal(active[0], active[1])
        inside = active[0]
      }))
      t.equal(inside, span.spanId, 'the handler was in it')
      t.equal(span.attributes['http.response.status_code'], status)
      likePlain(t, kind, span, usual)
    })

    t.test(`Q31 OpenTelemetry has one span of what a hook refuses [${kind}] [${server}]`, async t => {
      const usual = only(t, await plain(server, kind, 'How: refuse'))
      const refused = await tracing(server, async wire => {
        const { status, body } = await within('a response', wire.send(ask(kind, TRACEPARENT, 'How: refuse')).response())
        t.same({ status, body }, { status: 401, body: 'no' })
        wire.end(kind === 'body' ? LAST_CHUNK : '')
        if (kind !== 'body') await within('the end', wire.gone())
      })
      const span = only(t, refused)
      t.same(refused.active, [span.spanId], 'the hook was in it')
      t.equal(span.attributes['http.response.status_code'], 401)
      t.equal(usual.attributes['http.response.status_code'], 401)
      likePlain(t, kind, span, usual)
    })

    t.test(`Q31 OpenTelemetry has one span of what the client breaks off [${kind}] [${server}]`, async t => {
      const span = only(t, await tracing(server, async wire => {
        await within('the accept head', wire.send(ask(kind, TRACEPARENT)).head())
        wire.reset()
        await within('the end', wire.gone())
      }))
      t.equal(span.attributes['http.response.status_code'], statusOf(kind))
    })
  }
}
