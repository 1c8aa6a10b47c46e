// A client for what curl cannot do: it sends one request, and when that is accepted joins the
// connection with stdin and stdout. The response head goes to stderr. The end of stdin (Ctrl-D) ends
// our side of the connection and leaves the other open; the server's end ends the program.
//
// Run it, against other examples (before Node 22.18: npm run setup, then .build/examples/client.js):
//   node examples/client.ts --upgrade echo http://localhost:3000/echo
//   node examples/client.ts --connect echo.example:7 http://localhost:3000
//   node examples/client.ts http://localhost:3000/echo
//   node examples/client.ts --upgrade exec --json '{"cmd":"wc","args":["-c"]}' http://localhost:3000/exec
//   node examples/client.ts -k --http2 --upgrade chat https://localhost:3000/chat?name=ada
// With -k it takes any certificate of an https server; with --http2 the upgrade is an extended CONNECT.
//
// It exits with 0 when the connection was accepted and ended in order.
import { once } from 'node:events'
import http2, { type ClientHttp2Stream } from 'node:http2'
import net from 'node:net'
import tls from 'node:tls'
import { parseArgs } from 'node:util'

const { values, positionals: [address] } = parseArgs({
  allowPositionals: true,
  options: {
    upgrade: { type: 'string', short: 'u' },
    connect: { type: 'string', short: 'c' },
    json: { type: 'string', short: 'j' },
    insecure: { type: 'boolean', short: 'k', default: false },
    http2: { type: 'boolean', default: false }
  }
})
if (address === undefined) {
  console.error('usage: client [-k] [--http2] [--upgrade TOKEN [--json BODY] | --connect HOST:PORT] URL')
  process.exit(2)
}
const url = new URL(address)

if (values.http2) await overHttp2().catch(fail)
else await overHttp1().catch(fail)

async function overHttp1 (): Promise<void> {
  const socket = await dial()
  socket.write(request())
  const head = await readHead(socket)
  process.stderr.write(head)
  const accepted = /^HTTP\/1\.1 (?:101|2\d\d) /.test(head)
  if (!accepted) process.exitCode = 1
  if (accepted) process.stdin.pipe(socket)
  else socket.end()
  socket.pipe(process.stdout)
  await once(socket, 'end')
  process.stdin.destroy()
  socket.end()
}

async function overHttp2 (): Promise<void> {
  const session = http2.connect(url.origin, { rejectUnauthorized: !values.insecure })
  const [settings] = await once(session, 'remoteSettings') as [http2.Settings]
  if (values.connect === undefined && settings.enableConnectProtocol !== true) throw new Error('the server does not offer extended CONNECT')
  const stream: ClientHttp2Stream = session.request(values.connect === undefined
    ? { ':method': 'CONNECT', ':protocol': values.upgrade ?? '', ':scheme': url.protocol.slice(0, -1), ':authority': url.host, ':path': url.pathname + url.search }
    : { ':method': 'CONNECT', ':authority': values.connect })
  const [head] = await once(stream, 'response') as [http2.IncomingHttpHeaders & http2.IncomingHttpStatusHeader]
  const status = head[':status'] ?? 0
  process.stderr.write(`HTTP/2 ${status}\n\n`)
  const accepted = status >= 200 && status < 300
  if (!accepted) process.exitCode = 1
  if (accepted) process.stdin.pipe(stream)
  else stream.end()
  stream.pipe(process.stdout)
  // Node ends a stream that was reset like one that has ended; its code tells.
  await once(stream, 'close')
  if (accepted && stream.rstCode !== 0) throw new Error(`the stream was reset with code ${stream.rstCode}`)
  process.stdin.destroy()
  session.close()
}

function fail (error: Error & { code?: string }): never {
  console.error(error.code ?? error.message)
  process.exit(1)
}

async function dial (): Promise<net.Socket> {
  const secure = url.protocol === 'https:'
  const host = url.hostname.replace(/^\[|\]$/g, '')
  const port = Number(url.port) || (secure ? 443 : 80)
  const raw = net.connect({ host, port, allowHalfOpen: true })
  if (!secure) {
    await once(raw, 'connect')
    return raw
  }
  const socket = tls.connect({ socket: raw, servername: net.isIP(host) === 0 ? host : '', rejectUnauthorized: !values.insecure })
  // tls.connect() has this as an option only where it makes the socket itself.
  socket.allowHalfOpen = true
  await once(socket, 'secureConnect')
  return socket
}

function request (): string {
  const body = values.json ?? ''
  const method = values.connect !== undefined ? 'CONNECT' : body === '' ? 'GET' : 'POST'
  const head = [
    `${method} ${values.connect ?? url.pathname + url.search} HTTP/1.1`,
    `Host: ${values.connect ?? url.host}`
  ]
  if (values.upgrade !== undefined) head.push('Connection: Upgrade', `Upgrade: ${values.upgrade}`)
  if (body !== '') head.push('Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`)
  return `${head.join('\r\n')}\r\n\r\n${body}`
}

/** Takes the response head from the connection and leaves what follows it. */
async function readHead (socket: net.Socket): Promise<string> {
  let received = Buffer.alloc(0)
  // A loop over the socket itself would destroy it at its end.
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    received = Buffer.concat([received, chunk as Buffer])
    const end = received.indexOf('\r\n\r\n') + 4
    if (end < 4) continue
    if (received.length > end) socket.unshift(received.subarray(end))
    return received.toString('latin1', 0, end)
  }
  throw new Error('the server closed the connection without an answer')
}
