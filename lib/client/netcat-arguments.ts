import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { isToken } from '../syntax/upgrade-tokens.ts'
import type { ClientHeaders, ConnectOptions } from '../../types/index.ts'

export const HELP = `fastify-duplex - standard input and output as the two ends of an HTTP connection

  fastify-duplex [options] URL

The URL is http: or https:, or ws: or wss: for a WebSocket. Without one of the first four options it is a plain GET:
what comes is printed, and where the server takes the connection over, what is typed is sent.

  -u, --upgrade TOKEN      upgrade to this protocol; may be repeated, the most wanted first
  -c, --connect HOST:PORT  a tunnel to there, by CONNECT to the server of the URL
  -b, --body               standard input is the body of a POST, the answer is printed while it is sent
  -w, --websocket          a WebSocket, as ws: and wss: are: each line of standard input is a message, each message
                           a line of standard output; with --upgrade TOKEN, a subprotocol to offer

  -X, --method METHOD      another method
  -d, --data TEXT|@FILE    a body that is known, also in front of an upgrade; @- is standard input
  -H, --header 'NAME: VALUE'|@FILE   a field of the request, or a file with one on each line; repeatable
      --http2              HTTP/2 alone: over TLS, or by prior knowledge
      --http1              HTTP/1.1 alone
  -x, --proxy URL          through this proxy, by CONNECT
      --unix PATH          to this Unix socket, whatever host the URL says
  -k, --insecure           takes any certificate
      --ca FILE            trusts the certificates in this file
  -t, --timeout SECONDS    until the answer; 30 by default, 0 for ever
  -v, --verbose            the head of the answer, on standard error
  -h, --help               this
      --version

Environment, for what should not be seen in the list of processes:
  FASTIFY_DUPLEX_HEADERS   fields, one on each line
  FASTIFY_DUPLEX_PROXY     as --proxy

The end of standard input ends our side of the connection, and the other one goes on. The server's end ends the
program. Exit code:
  0  the connection was accepted, and the server ended it in order; all of it was printed
  1  it was refused (the status and the answer are on standard error), could not be made, or broke
  2  the command line is wrong
  129, 130, 143  hung up, interrupted, terminated
`

/** A mistake in the command line. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

export interface Command {
  readonly url: string
  readonly options: ConnectOptions & { websocket?: { subprotocols: string[] } }
  readonly verbose: boolean
  /** All of standard input is the body, and it is read before the request is sent. */
  readonly dataFromInput: boolean
}

/** @returns what to do, or a text to print instead */
export function commandOf (argv: readonly string[], env: NodeJS.ProcessEnv, version: () => string): Command | string {
  const { values, positionals } = parse(argv)
  if (values.help === true) return HELP
  if (values.version === true) return `${version()}\n`
  const [url] = positionals
  if (url === undefined) throw new UsageError('a URL is missing')
  if (positionals.length > 1) throw new UsageError(`one URL is enough: ${positionals[1]}`)
  const { upgrade = [], connect, body = false, websocket = /^wss?:/i.test(url) } = values
  if ([connect !== undefined, body, websocket || upgrade.length > 0].filter(Boolean).length > 1) {
    throw new UsageError('--upgrade, --connect, --body and --websocket exclude one another')
  }
  if (values.http2 === true && values.http1 === true) throw new UsageError('--http1 and --http2 exclude one another')
  if (body && values.data !== undefined) throw new UsageError('--body is for standard input, and --data for a body that is known')
  const timeout = Number(values.timeout ?? 30)
  if (!(timeout >= 0 && timeout <= 2_000_000)) throw new UsageError(`--timeout is a number of seconds: ${values.timeout}`)
  const dataFromInput = values.data === '@-'
  const known = values.data === undefined || dataFromInput ? {} : { body: dataOf(values.data) }
  const given = { ...known, ...body ? { body: true as const } : {} }
  const ca = values.ca === undefined ? {} : { ca: certificates(values.ca) }
  return {
    url,
    verbose: values.verbose === true,
    dataFromInput,
    options: {
      ...given,
      headers: headersOf(values.header ?? [], env.FASTIFY_DUPLEX_HEADERS ?? ''),
      method: values.method,
      target: connect,
      timeout: Math.round(timeout * 1000),
      http2: values.http2 === true ? true : values.http1 === true ? false : undefined,
      // A Unix socket was asked for in this command, and the proxy of the environment was not.
      proxy: values.proxy ?? (values.unix !== undefined || env.FASTIFY_DUPLEX_PROXY === '' ? undefined : env.FASTIFY_DUPLEX_PROXY),
      socketPath: values.unix,
      tls: { ...values.insecure === true ? { rejectUnauthorized: false } : {}, ...ca },
      ...websocket ? { websocket: { subprotocols: upgrade } } : upgrade.length > 0 ? { protocol: upgrade } : {}
    }
  }
}

function parse (argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        upgrade: { type: 'string', short: 'u', multiple: true },
        connect: { type: 'string', short: 'c' },
        body: { type: 'boolean', short: 'b' },
        websocket: { type: 'boolean', short: 'w' },
        method: { type: 'string', short: 'X' },
        data: { type: 'string', short: 'd' },
        header: { type: 'string', short: 'H', multiple: true },
        http2: { type: 'boolean' },
        http1: { type: 'boolean' },
        proxy: { type: 'string', short: 'x' },
        unix: { type: 'string' },
        insecure: { type: 'boolean', short: 'k' },
        ca: { type: 'string' },
        timeout: { type: 'string', short: 't' },
        verbose: { type: 'boolean', short: 'v' },
        help: { type: 'boolean', short: 'h' },
        version: { type: 'boolean' }
      }
    })
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

/** A line, and how it is called. It may be a secret, so that it is not repeated. */
type Line = readonly [line: string, called: string]

function headersOf (given: readonly string[], ofEnvironment: string): ClientHeaders {
  const headers = new Map<string, { name: string, values: string[] }>()
  const lines = given.flatMap((one, at) => one.startsWith('@')
    ? linesOf(read(one.slice(1)).toString('utf8'), one.slice(1))
    : [[one, given.length === 1 ? '--header' : `--header number ${at + 1}`] as const])
  for (const [line, called] of [...lines, ...linesOf(ofEnvironment, 'FASTIFY_DUPLEX_HEADERS')]) {
    const text = line.trim()
    if (text === '') continue
    const colon = text.indexOf(':')
    if (colon < 1 || !isToken(text.slice(0, colon))) throw new UsageError(`a header has the form "name: value", and ${called} has not`)
    const name = text.slice(0, colon)
    const value = text.slice(colon + 1).trim()
    const known = headers.get(name.toLowerCase())
    if (known === undefined) headers.set(name.toLowerCase(), { name, values: [value] })
    else known.values.push(value)
  }
  return Object.fromEntries([...headers.values()].map(({ name, values }) => [name, values]))
}

function linesOf (text: string, of: string): Line[] {
  return text.split('\n').map((line, at) => [line, `line ${at + 1} of ${of}`])
}

function certificates (file: string): Buffer {
  const pem = read(file)
  try {
    // OpenSSL passes over what is none.
    if (pem.includes('-----BEGIN ') && new X509Certificate(pem).raw.length > 0) return pem
  } catch {}
  throw new UsageError(`there is no certificate in ${file}`)
}

function dataOf (data: string): string | Buffer {
  return data.startsWith('@') ? read(data.slice(1)) : data
}

function read (file: string): Buffer {
  try {
    return readFileSync(file)
  } catch (error) {
    throw unreadable(file, error)
  }
}

export function unreadable (what: string, error: unknown): UsageError {
  return new UsageError(`${what} cannot be read (${(error as { code?: string }).code ?? 'unknown'})`)
}
