// A chat room that is entered over HTTP/1.1 and HTTP/2 on one port, by one handler.
//
// The protocol is lines: what a client sends, every other one in the room gets. How a client came in is in
// `kind` and `httpVersion`, and makes no difference to the handler: an Upgrade over HTTP/1.1, an extended
// CONNECT over HTTP/2 (RFC 8441), or an upload whose response begins before it has ended, over either.
//
// Run it:     node examples/h2-chat.ts          (PORT=8080 node examples/h2-chat.ts)
//             Before Node 22.18: npm run setup, then .build/examples/h2-chat.js in its place.
//             The certificate is made at start by openssl, unless there is one in TLS_KEY and TLS_CERT.
// Drive it:   it prints a command for each way in, to paste into one terminal each. Ctrl-D leaves the room.
// Stop it:    Ctrl-C: the clients are told, and have two seconds to end their side.
import { execFileSync } from 'node:child_process'
import { addAbortListener } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Http2SecureServer } from 'node:http2'
import type { AddressInfo } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import Fastify, { type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

const { PORT = '3000', HOST = 'localhost', TLS_KEY, TLS_CERT } = process.env
const LONGEST_LINE = 4096
/** Bytes that a client may be behind, before it is given up. */
const MOST_UNSENT = 1024 * 1024

interface Chat {
  Querystring: { name: string }
}

const app = Fastify({ http2: true, https: { ...certificate(), allowHTTP1: true }, logger: true })
await app.register(duplex, { extendedConnect: true, drainTimeout: 2000 })

const room = new Set<Writable>()
const querystring = { type: 'object', required: ['name'], properties: { name: { type: 'string', minLength: 1, maxLength: 20 } } }

app.get('/', () => 'A plain route. The other one is /chat?name=ada.\n')
app.route({
  method: ['GET', 'PUT'],
  url: '/chat',
  schema: { querystring },
  duplex: { kinds: ['upgrade', 'body'], protocols: ['chat'] },
  async handler (connection, request: FastifyRequest<Chat, Http2SecureServer>) {
    const { kind, httpVersion, readable, writable, draining } = connection
    const { name } = request.query
    addAbortListener(draining, () => {
      writable.write('the server goes away\n')
      void connection.close()
    })
    writable.write(`welcome, ${name}: ${kind} over HTTP/${httpVersion}, ${room.size} others here\n`)
    say(`${name} is here`)
    room.add(writable)
    try {
      for await (const line of lines(readable)) say(`${name}: ${line}`, writable)
    } finally {
      room.delete(writable)
      say(`${name} left`)
    }
  }
})

/** To all in the room but one. */
function say (text: string, from?: Writable): void {
  for (const writable of room) {
    if (writable === from) continue
    if (writable.writableLength > MOST_UNSENT) writable.destroy()
    else writable.write(`${text}\n`)
  }
}

async function * lines (readable: Readable): AsyncGenerator<string> {
  let rest = ''
  for await (const text of readable.setEncoding('utf8') as AsyncIterable<string>) {
    const parts = (rest + text).split('\n')
    rest = parts.pop() as string
    if (rest.length > LONGEST_LINE) throw new Error(`a line of more than ${LONGEST_LINE} characters`)
    yield * parts
  }
  if (rest !== '') yield rest
}

function certificate (): { key: string | Buffer, cert: string | Buffer } {
  if (TLS_KEY !== undefined && TLS_CERT !== undefined) return { key: readFileSync(TLS_KEY), cert: readFileSync(TLS_CERT) }
  const pem = execFileSync('openssl', [
    'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '7', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
    '-keyout', '-', '-out', '-'
  ], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return { key: pem, cert: pem }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(PORT), host: HOST })
const { port } = app.server.address() as AddressInfo
const url = `https://localhost:${port}/chat?name=`
console.log(`listening on https://localhost:${port}`)
console.log(`
body over HTTP/2: an upload, and a response that streams meanwhile
  curl -ksSN --http2 -T . '${url}ada'
body over HTTP/1.1: the same, chunked
  curl -ksSN --http1.1 -T . '${url}bob'
upgrade over HTTP/1.1: a 101, and the connection is the room's
  npx fastify-duplex -k --http1 --upgrade chat '${url}cyd'
upgrade over HTTP/2: extended CONNECT, and a stream of the connection is the room's
  npx fastify-duplex -k --http2 --upgrade chat '${url}dee'
`)
