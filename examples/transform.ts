// A request body that is answered line by line while it still arrives: NDJSON in, NDJSON out.
//
// Each line has to be a JSON object and comes back with its number; a line that is none comes back as
// an error. Nothing is ever held in memory as a whole: a slow reader slows the sender down. The response is
// compressed where the client takes gzip, with every line sent as soon as it is made.
//
// Run it:     node examples/transform.ts                   (PORT=8080 node examples/transform.ts)
//             Before Node 22.18: npm run setup, then .build/examples/transform.js in its place.
// Drive it:   (echo '{"a":1}'; sleep 1; echo '{"a":2}') | curl -sN -T . http://localhost:3000/lines
//             (echo '{"a":1}'; sleep 1; echo oops) | curl -sN --compressed -T . http://localhost:3000/lines
//             seq 100000 | sed 's/.*/{"n":&}/' | gzip | curl -sN -H 'Content-Encoding: gzip' -T - http://localhost:3000/lines | tail -n 1
// A GET has no route here: curl http://localhost:3000/lines answers 404. A POST without a body is answered with no lines.
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { constants, createGunzip, createGzip } from 'node:zlib'
import Fastify from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const LONGEST_LINE = 1024 * 1024

/** Splits bytes into lines, whatever the pieces that they come in. */
async function * lines (bytes: AsyncIterable<Buffer>): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of bytes) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split('\n')
    rest = parts.pop() as string
    if (rest.length > LONGEST_LINE) throw new Error('line too long')
    yield * parts
  }
  rest += decoder.decode()
  if (rest !== '') yield rest
}

async function * numbered (source: AsyncIterable<string>): AsyncGenerator<string> {
  let line = 0
  for await (const text of source) {
    line++
    const value = parseObject(text)
    yield `${JSON.stringify(value === undefined ? { line, error: 'not a JSON object' } : { ...value, line })}\n`
  }
}

function parseObject (text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined
  } catch {
    return undefined
  }
}

const app = Fastify({ logger: true })
await app.register(duplex, { drainTimeout: 5000 })

app.route({
  method: ['POST', 'PUT'],
  url: '/lines',
  duplex: { kinds: ['body'], accept: 'manual', idleTimeout: 60_000 },
  // What a preParsing hook makes of the body is what the handler reads.
  async preParsing (request, _reply, payload) {
    return request.headers['content-encoding'] === 'gzip' ? payload.pipe(createGunzip()) : payload
  },
  async handler (pending, request) {
    const gzip = /\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/.test(String(request.headers['accept-encoding']))
    const { readable, writable } = await pending.accept({
      headers: {
        'content-type': 'application/x-ndjson',
        vary: 'accept-encoding',
        ...(gzip ? { 'content-encoding': 'gzip' } : {})
      }
    })
    if (gzip) await pipeline(readable, lines, numbered, createGzip({ flush: constants.Z_SYNC_FLUSH }), writable)
    else await pipeline(readable, lines, numbered, writable)
  }
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: process.env.HOST ?? 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}/lines`)
