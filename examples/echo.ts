// One handler, every way in: it sends back what it gets, as it gets it.
//
// Run it:     npm start                       (or, on Node >= 22.18: node examples/echo.ts)
//             PORT=8080 HOST=0.0.0.0 npm start
// Over TLS:   openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out cert.pem
//             TLS_KEY=key.pem TLS_CERT=cert.pem npm start
// Drive it:   it prints commands to paste into another terminal, one or two for each kind of connection.
//             Then one line for each connection that has ended, with why and how much went through.
// Stop it:    Ctrl-C says goodbye to the clients and waits two seconds for theirs.
import { addAbortListener } from 'node:events'
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import Fastify from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex, { type DuplexConnection } from '../lib/index.ts'

const { PORT = '3000', HOST = 'localhost', TLS_KEY, TLS_CERT } = process.env
const https = TLS_KEY !== undefined && TLS_CERT !== undefined ? { key: readFileSync(TLS_KEY), cert: readFileSync(TLS_CERT) } : null

const app = Fastify({ https })
await app.register(duplex, { drainTimeout: 2000 })

app.get('/', () => 'A plain route. The other one is /echo.\n')
app.route({ method: ['GET', 'POST', 'PUT'], url: '/echo', duplex: true, handler: echo })
app.connect('*', { duplex: true }, echo)

/** All there is to an echo is the last line; the rest is for the demo. */
function echo (connection: DuplexConnection): Promise<void> {
  const { readable, writable, draining } = connection
  logEnd(connection)
  addAbortListener(draining, () => { void connection.close() })
  return pipeline(readable, writable)
}

let count = 0

function logEnd ({ kind, protocol, authority, closed }: DuplexConnection): void {
  const number = ++count
  const what = [kind, protocol, authority && `${authority.host}:${authority.port}`].filter(Boolean).join(' ')
  void closed.then(({ reason, error, bytesRead, bytesWritten, duration }) => {
    const why = error === undefined ? reason : `${reason} (${error.message})`
    console.log(`#${number} ${what}: ${why}, ${bytesRead} bytes in, ${bytesWritten} out, ${Math.round(duration)} ms`)
  })
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    console.log('closing: no new connections, the live ones have two seconds')
    void app.close()
  })
}

try {
  await app.listen({ port: Number(PORT), host: HOST })
} catch (error) {
  if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error
  console.error(`port ${PORT} is in use: PORT=${Number(PORT) + 1} npm start takes another one`)
  process.exit(1)
}
const { port } = app.server.address() as AddressInfo
console.log(`listening on ${https === null ? 'http' : 'https'}://localhost:${port}`)
console.log(https === null ? commands('http', port) : commands('https', port))

function commands (scheme: 'http' | 'https', port: number): string {
  const url = `${scheme}://localhost:${port}`
  const curl = scheme === 'http' ? 'curl' : 'curl -k'
  const client = scheme === 'http' ? 'npx fastify-duplex' : 'npx fastify-duplex -k'
  // Bytes as they are: no HTTP client sends more before it has seen the answer.
  const raw = (text: string): string => scheme === 'http'
    ? `printf '${text}' | curl -sN -m 1 telnet://localhost:${port}`
    : `(printf '${text}'; sleep 1) | openssl s_client -quiet -no_ign_eof -connect localhost:${port}`
  return `
A plain route, served as ever
  ${curl} ${url}/

body: a request with a body. The response streams while the request still arrives:
"one" comes back at once, "two" a second later.
  (echo one; sleep 1; echo two) | ${curl} -sN -T . ${url}/echo

upgrade: a 101, and the connection is the handler's. "hello" was sent before the 101, and comes back.
  ${raw('GET /echo HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\nhello\\n')}
The same to type into: every line comes back. Ctrl-D ends your side; the server then ends its own.
  ${client} --upgrade echo ${url}/echo

connect: a tunnel to any host:port, which here leads nowhere but back.
  ${scheme === 'http'
    ? `echo hello | curl -sN -m 1 -p -x ${url} telnet://echo.example:7`
    : raw('CONNECT echo.example:7 HTTP/1.1\\r\\nHost: echo.example:7\\r\\n\\r\\nhello\\n')}
  ${client} --connect echo.example:7 ${url}

hijack: any other request without a body. A 200, then "hello"; the response ends with the connection,
so that a browser, or curl ${url}/echo, waits until you stop it.
  ${raw('GET /echo HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\nhello\\n')}
  ${client} ${url}/echo

A line for each connection that has ended:`
}
