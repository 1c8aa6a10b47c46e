// A client for what curl cannot do: it sends one request, and when that is accepted joins the
// connection with stdin and stdout. The response head goes to stderr. The end of stdin (Ctrl-D) ends
// our side of the connection and leaves the other open; the server's end ends the program.
//
// Run it, against examples/echo.ts and examples/exec.ts (before Node 22.18: npm run setup, then .build/examples/client.js):
//   node examples/client.ts --upgrade echo http://localhost:3000/echo
//   node examples/client.ts --connect echo.example:7 http://localhost:3000
//   node examples/client.ts http://localhost:3000/echo
//   node examples/client.ts --upgrade exec --json '{"cmd":"wc","args":["-c"]}' http://localhost:3000/exec
// With -k it takes any certificate of an https server.
//
// It exits with 0 when the connection was accepted and ended in order.
import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { parseArgs } from 'node:util'

const { values, positionals: [address] } = parseArgs({
  allowPositionals: true,
  options: {
    upgrade: { type: 'string', short: 'u' },
    connect: { type: 'string', short: 'c' },
    json: { type: 'string', short: 'j' },
    insecure: { type: 'boolean', short: 'k', default: false }
  }
})
if (address === undefined) {
  console.error('usage: client [-k] [--upgrade TOKEN [--json BODY] | --connect HOST:PORT] URL')
  process.exit(2)
}
const url = new URL(address)

const socket = await dial().catch(fail)
socket.write(request())
try {
  const head = await readHead()
  process.stderr.write(head)
  const accepted = /^HTTP\/1\.1 (?:101|2\d\d) /.test(head)
  if (!accepted) process.exitCode = 1
  if (accepted) process.stdin.pipe(socket)
  else socket.end()
  socket.pipe(process.stdout)
  await once(socket, 'end')
} catch (error) {
  fail(error as Error)
}
process.stdin.destroy()
socket.end()

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
async function readHead (): Promise<string> {
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
