import { pipeline } from 'node:stream/promises'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fc from 'fast-check'
import type { DuplexConnection, PendingDuplex } from '../../lib/index.ts'
import { parseHead, type Head } from '../fixtures/wire.ts'
import { flaws, framings, judge, routes, type HeadCase } from './heads-model.ts'
import { cut, secret, transport, Transcript, turns, type Client, type Servers } from './harness.ts'

// The server.

const transcripts = new Map<string, Transcript>()
/** How often a request ran that was found somewhere in the bytes of a case. */
const ran = new Map<string, number>()

function greeting (kind: string, protocol: string | undefined, authority: string | undefined): string {
  return `${secret} ${kind} ${protocol ?? '-'} ${authority ?? '-'}\n`
}

function greet (connection: DuplexConnection, { headers }: FastifyRequest): void {
  const { kind, protocol, authority, closed } = connection
  const transcript = transcripts.get(String(headers['x-case']))
  transcript?.note('handler', `takes it over: ${kind}`)
  void closed.then(({ reason }) => transcript?.note('handler', `closed: ${reason}`))
  connection.writable.write(greeting(kind, protocol, authority && `${authority.host} ${authority.port}`))
}

export function declareHeads (app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers }) => turns(Number(headers['x-slow'] ?? 0)))
  const loop = async (connection: DuplexConnection, request: FastifyRequest): Promise<void> => {
    greet(connection, request)
    for await (const chunk of connection.readable) connection.writable.write(chunk)
  }
  const piped = (connection: DuplexConnection, request: FastifyRequest): Promise<void> => {
    greet(connection, request)
    return pipeline(connection.readable, connection.writable)
  }
  for (const [url, { methods, kinds, protocols, refuses, shared }] of Object.entries(routes)) {
    const duplex = { kinds, ...(protocols === undefined ? {} : { protocols }) }
    const onRequest = async (): Promise<void> => {
      await turns(2)
      if (refuses !== undefined) throw Object.assign(new Error('refused'), { statusCode: refuses })
    }
    if (url === '/manual') {
      const handler = async (pending: PendingDuplex, request: FastifyRequest): Promise<void> => {
        await turns(2)
        await loop(await pending.accept(), request)
      }
      app.route({ method: methods as 'GET'[], url, duplex: { kinds, accept: 'manual' }, handler: handler as never })
    } else {
      app.route({ method: methods as 'GET'[], url, onRequest, duplex, handler: (url === '/any' ? loop : piped) as never })
    }
    if (shared === true) app.route({ method: methods as 'GET'[], url, handler: async () => 'plain' })
  }
  app.route({ method: 'CONNECT', url: '*', duplex: true, handler: loop })
  app.route({ method: ['GET', 'POST'], url: '/plain', handler: async () => 'plain' })
  app.get<{ Params: { id: string } }>('/canary/:id', async ({ params: { id } }) => {
    ran.set(id, (ran.get(id) ?? 0) + 1)
    transcripts.get(id.slice(0, 8))?.note('server', `runs the request ${id}`)
    await turns(1)
    return 'canary'
  })
}

// The cases.

const member = (texts: string[]): fc.Arbitrary<string> => fc.tuple(
  fc.constantFrom('', '', ' ', '\t', '  '), fc.constantFrom(...texts), fc.constantFrom('', '', ' ', ' \t')
).map(parts => parts.join(''))

const list = (texts: string[], most: number): fc.Arbitrary<string[]> =>
  fc.array(fc.array(member(texts), { minLength: 1, maxLength: 4 }).map(members => members.join(',')), { maxLength: most })

const tokens = ['foo', 'FOO', 'foo/2', 'Foo/1.0', 'bar', 'bar/2', 'BAR/2', 'baz', 'websocket', 'WebSocket', 'h2c', 'HTTP/2.0', 'TLS/1.2',
  '', 'a b', 'foo/', '/2', '"foo"', 'foo;q=1', 'x!#$%&\'*+-.^_`|~', '__proto__', 'constructor']

const connection = fc.oneof(
  { weight: 4, arbitrary: fc.constant<string[]>(['Upgrade']) },
  { weight: 2, arbitrary: fc.constant<string[]>([]) },
  { weight: 4, arbitrary: list(['Upgrade', 'upgrade', 'UPGRADE', 'keep-alive', 'close', 'upgrade-insecure', 'x-y', ''], 2) }
)

const upgrade = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom<string[][]>(['foo'], ['bar/2'], ['websocket'], ['baz']) },
  { weight: 3, arbitrary: fc.constant<string[]>([]) },
  { weight: 4, arbitrary: list(tokens, 2) }
)

const paths = fc.tuple(
  fc.constantFrom(...Object.keys(routes), '/any', '/any', '/plain', '/nowhere'),
  fc.constantFrom((path: string) => path, (path: string) => path, (path: string) => path, (path: string) => `${path}?a=b`,
    (path: string) => `http://a${path}`, (path: string) => path.replaceAll('a', '%61'))
).map(([path, form]) => form(path))

const authorities = fc.constantFrom('a.example:443', 'A.Example:443', '[::1]:443', '1.2.3.4:80', 'h_1:65535', 'h:65536', 'h:0', 'h:', 'h', ':1',
  '[zz]:1', '[1:2]:3', 'u@h:1', 'h:1/x', 'h:1?x', 'h%41:1', '/any', 'http://h:1/', '*', 'h:+1', 'h:1x')

const request: fc.Arbitrary<{ method: string, target: string }> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      method: fc.constantFrom('GET', 'GET', 'GET', 'POST', 'POST', 'HEAD', 'PUT', 'DELETE', 'OPTIONS'),
      target: fc.oneof({ weight: 20, arbitrary: paths }, { weight: 1, arbitrary: fc.constant('/%zz') })
    })
  },
  { weight: 2, arbitrary: fc.record({ method: fc.constant('CONNECT'), target: authorities }) }
)

const usually = <T>(value: T, weight: number, others: fc.Arbitrary<T>): fc.Arbitrary<T> =>
  fc.oneof({ weight, arbitrary: fc.constant(value) }, { weight: 1, arbitrary: others })

export const headCases: fc.Arbitrary<HeadCase> = fc.record({
  transport,
  before: usually(0, 4, fc.integer({ min: 1, max: 3 })),
  request,
  version: usually<'1.1' | '1.0'>('1.1', 6, fc.constant('1.0')),
  hosts: usually(['a'], 8, fc.array(fc.constantFrom('a', 'a:80', '', 'a b', 'a/b', '[::1]:8'), { maxLength: 2 })),
  connection,
  upgrade,
  framing: usually<HeadCase['framing']>('none', 1, fc.constantFrom(...framings, 'length', 'length', 'chunked', 'chunked')),
  body: fc.constantFrom('', 'hello', 'REQUEST', 'REQUEST', 'x'.repeat(3000)),
  contentType: usually(true, 6, fc.constant(false)),
  expect: usually<string | undefined>(undefined, 8, fc.constantFrom('100-continue', '100-Continue', 'nonsense')),
  slow: usually(0, 2, fc.integer({ min: 1, max: 5 })),
  flaw: usually<HeadCase['flaw']>(undefined, 12, fc.constantFrom(...flaws)),
  order: fc.nat(1000),
  casing: fc.nat(3),
  spaces: fc.nat(3),
  fillers: usually(0, 3, fc.integer({ min: 1, max: 40 })),
  tail: fc.array(fc.constantFrom('request', 'request', 'garbage', 'text'), { maxLength: 3 }) as fc.Arbitrary<HeadCase['tail']>,
  cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 }),
  eager: usually(false, 3, fc.constant(true))
}).map(({ request, framing, expect, ...rest }) => ({
  ...rest,
  ...request,
  // HTTP/1.0 has no transfer codings, and what a tunnel should make of an expectation nobody says.
  framing: rest.version === '1.0' && (framing === 'chunked' || framing === 'gzip') ? 'length' : framing,
  expect: request.method === 'CONNECT' ? undefined : expect
}))

// A case as bytes.

function canary (id: string): string {
  return `GET /canary/${id} HTTP/1.1\r\nHost: a\r\n\r\n`
}

function cased (name: string, casing: number): string {
  if (casing === 1) return name.toLowerCase()
  if (casing === 2) return name.toUpperCase()
  if (casing === 3) return [...name].map((letter, at) => at % 2 === 0 ? letter.toLowerCase() : letter.toUpperCase()).join('')
  return name
}

interface Wire {
  bytes: Buffer
  /** What a handler is to read. */
  body: string
  tail: string
}

function write (c: HeadCase, id: string): Wire {
  const body = c.body.replace('REQUEST', canary(`${id}-body`))
  const chunked = `${body === '' ? '' : `${body.length.toString(16)}\r\n${body}\r\n`}0\r\n\r\n`
  const fields: [string, string][] = [
    ...c.hosts.map((host): [string, string] => ['Host', host]),
    ...c.connection.map((value): [string, string] => ['Connection', value]),
    ...c.upgrade.map((value): [string, string] => ['Upgrade', value]),
    ...(c.contentType ? [['Content-Type', 'text/plain'] as [string, string]] : []),
    ...(c.expect === undefined ? [] : [['Expect', c.expect] as [string, string]]),
    ...(c.slow === 0 ? [] : [['X-Slow', String(c.slow)] as [string, string]]),
    ...Array.from({ length: c.fillers }, (_, at): [string, string] => [`X-${at}`, 'y'.repeat(at)]),
    ['X-Case', id]
  ]
  let payload = ''
  switch (c.framing) {
    case 'none': break
    case 'length':
      fields.push(['Content-Length', String(body.length)])
      payload = body
      break
    case 'zero': fields.push(['Content-Length', '0']); break
    case 'chunked':
      fields.push(['Transfer-Encoding', 'chunked'])
      payload = chunked
      break
    case 'gzip':
      fields.push(['Transfer-Encoding', 'gzip'])
      payload = body
      break
    case 'bad length':
      fields.push(['Content-Length', '+5'])
      payload = body
      break
    case 'two lengths':
      fields.push(['Content-Length', '5'], ['Content-Length', '6'])
      payload = body
      break
    case 'both':
      fields.push(['Content-Length', String(body.length)], ['Transfer-Encoding', 'chunked'])
      payload = chunked
  }
  // Lines of one name keep their order among themselves: they are one list.
  const rank = new Map([...new Set(fields.map(([name]) => name))].map((name, at) => [name, (at + 1) * (c.order + 1) % 17]))
  fields.sort(([a], [b]) => (rank.get(a) as number) - (rank.get(b) as number))
  const before = ['', ' ', '\t', '  '][c.spaces] as string
  const after = ['', '', ' ', '\t '][c.spaces] as string
  const lines = fields.map(([name, value]) => {
    const line = `${cased(name, c.casing)}:${before}${value}${after}`
    // Behind these Node does not know a tab for the white space that it is.
    const strict = /^(?:content-length|transfer-encoding|connection:.*(?:close|keep-alive))/i.test(line)
    return strict || (/^connection/i.test(line) && c.framing !== 'none' && c.framing !== 'zero') ? line.replaceAll('\t', ' ') : line
  })
  let line = `${c.method} ${c.target} HTTP/${c.version}`
  let newline = '\r\n'
  switch (c.flaw) {
    case undefined: break
    case 'bare LF': newline = '\n'; break
    case 'space before colon': lines.unshift('X-Odd : y'); break
    case 'NUL': lines.unshift('X-Odd: y\0'); break
    case 'no name': lines.unshift(': y'); break
    case 'bare CR': lines.unshift('X-Odd: y\rz'); break
    case 'version': line = `${c.method} ${c.target} HTTP/1.7`; break
    case 'method': line = `${c.method.toLowerCase()} ${c.target} HTTP/${c.version}`; break
    case 'space in target': line = `${c.method} ${c.target} x HTTP/${c.version}`
  }
  const head = [line, ...lines, '', ''].join(newline)
  const tail = c.tail.map(piece => piece === 'request' ? canary(`${id}-tail`) : piece === 'text' ? 'some text' : '\0{').join('')
  const first = canary(`${id}-before`).repeat(c.before)
  return { bytes: Buffer.from(first + head + payload + tail, 'latin1'), body, tail }
}

// What comes back.

interface Response extends Head {
  body: string
  complete: boolean
  framed: boolean
}

/** Responses one after the other; interim ones are left out. The last may not be complete. */
function responses (received: Buffer, bodyless: (at: number) => boolean, over: boolean): Response[] {
  const found: Response[] = []
  let text = received.toString('latin1')
  while (text !== '') {
    const end = text.indexOf('\r\n\r\n')
    if (end === -1) break
    const head = parseHead(text.slice(0, end + 4))
    text = text.slice(end + 4)
    if (head.status === 100) continue
    const length = head.headers['content-length']
    const framed = length !== undefined || head.headers['transfer-encoding'] !== undefined
    let body = ''
    let complete = true
    if (bodyless(found.length)) {
      // Nothing follows the answer to a HEAD.
    } else if (length !== undefined) {
      body = text.slice(0, Number(length))
      complete = body.length === Number(length)
      text = text.slice(body.length)
    } else if (framed) {
      complete = false
      for (;;) {
        const line = text.indexOf('\r\n')
        const size = line === -1 ? Number.NaN : Number.parseInt(text.slice(0, line), 16)
        if (Number.isNaN(size) || text.length < line + 4 + size) break
        body += text.slice(line + 2, line + 2 + size)
        text = text.slice(line + 4 + size)
        complete = size === 0
        if (complete) break
      }
      if (!complete) text = ''
    } else {
      body = text
      complete = over
      text = ''
    }
    found.push({ ...head, body, complete, framed })
  }
  return found
}

let cases = 0

/** Sends a case and fails when what comes of it is not what the contract says. */
export async function checkHead (servers: Servers, c: HeadCase): Promise<void> {
  const id = String(cases++).padStart(8, '0')
  const transcript = new Transcript()
  transcripts.set(id, transcript)
  let client: Client | undefined
  try {
    client = await servers[c.transport].connect(transcript)
    await exchange(client, c, id)
  } catch (error) {
    throw new Error(`${(error as Error).message}; expected was ${JSON.stringify(judge(c))}\n${transcript}`)
  } finally {
    client?.destroy()
    transcripts.delete(id)
    for (const place of ['before', 'body', 'tail']) ran.delete(`${id}-${place}`)
  }
}

function must (holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what)
}

async function exchange (client: Client, c: HeadCase, id: string): Promise<void> {
  const verdict = judge(c)
  const { bytes, body, tail } = write(c, id)
  for (const piece of cut(bytes, c.cuts)) {
    client.send(piece)
    await turns(1)
  }
  if (c.eager) client.end()
  const seen = (): Response[] => responses(client.received, at => at === c.before && c.method === 'HEAD', client.over)
  const complete = (count: number): boolean => seen().filter(response => response.complete).length >= count
  const hasHead = (): boolean => seen().length > c.before
  const firstOther = c.tail.findIndex(piece => piece !== 'request')
  const behind = firstOther === -1 ? c.tail.length : firstOther
  // What Node cannot read behind a request, or does not want to, it answers in place of that request.
  const remainsHttp = verdict.then === 'answer' || (verdict.then === 'take' && verdict.kind === 'body')
  const disturbed = remainsHttp && (verdict.persists ? behind < c.tail.length : c.tail.length > 0)

  let awaited: () => boolean
  let least = 0
  let most = 0
  switch (verdict.then) {
    case 'take':
      if (verdict.kind === 'body') {
        // In HTTP/1.0 its end is that of the connection, which Node learns when it has read what follows.
        most = verdict.persists ? behind : 0
        least = c.eager || disturbed || c.version === '1.0' ? 0 : most
        awaited = () => complete(c.before + 1 + least)
      } else {
        awaited = hasHead
      }
      break
    case 'close':
      awaited = () => false
      break
    case 'answer':
      most = verdict.persists ? behind : 0
      least = verdict.sure && !c.eager && !disturbed ? most : 0
      awaited = () => verdict.persists && complete(c.before + 1 + least)
      break
    case 'flawed':
      await turns(10)
      awaited = () => true
  }
  must(await client.until(() => client.over || awaited()), 'it hangs: there is neither the answer nor the end')
  // What should not come has this long to come all the same.
  if (most > least) await turns(5)
  client.end()
  must(await client.until(() => client.closed), 'it hangs: the connection does not end behind that of the client')

  const runs = (place: string): number => ran.get(`${id}-${place}`) ?? 0
  must(runs('body') === 0, 'a request ran that is in the body of another')
  must(runs('tail') <= most, `${runs('tail')} requests ran that follow, and ${most} may`)
  must(runs('tail') >= least, `${runs('tail')} requests ran that follow, and ${least} must`)
  const taken = client.received.includes(secret)
  must(!taken || verdict.then === 'take', 'it was taken over')
  if (disturbed) return
  must(taken || verdict.then !== 'take', 'it was not taken over')
  if (verdict.then === 'flawed') {
    const odd = seen().find((response, at) => at >= c.before && response.status < 400)
    must(odd === undefined, `a flawed request was answered with ${odd?.status}`)
    return
  }
  const all = seen()
  const ordinary = verdict.then === 'answer'
  const maybeLost = ordinary && c.eager
  // On a Unix socket a write to who has closed fails at once, and Node then throws away what it has not read yet.
  const unread = verdict.then !== 'take' && c.transport === 'unix' && client.error?.code === 'EPIPE'
  must(maybeLost || runs('before') === c.before, `${runs('before')} of ${c.before} requests ran that come before`)
  must(all.slice(0, c.before).every(({ body }) => body === 'canary'), 'the requests before have other answers than theirs')
  const answer = all[c.before]
  if (answer === undefined) {
    must(maybeLost || unread, 'there is no answer')
    return
  }
  must(!/ 100 /.test(client.received.toString('latin1').slice(0, 30)) || c.expect !== undefined, 'there is a 100 that nobody expected')
  if (verdict.then !== 'take') {
    must(verdict.statuses.includes(answer.status), `the status is ${answer.status}`)
    must(maybeLost || unread || answer.complete, 'the answer is not complete')
    if (verdict.then === 'close') must(/close/i.test(answer.headers.connection ?? ''), 'a refusal does not say close')
    return
  }
  checkAccepted(c, answer, verdict)
  const { kind, protocol, authority } = verdict
  must(answer.complete && client.error === undefined && client.ended, 'a whole stream looks broken')
  must(answer.body === greeting(kind, protocol, authority) + (kind === 'body' ? (c.framing === 'zero' || c.framing === 'none' ? '' : body) : tail),
    `the handler has heard ${JSON.stringify(answer.body.slice(0, 300))}`)
}

/** The fields of an accept head that are the plugin's. */
function checkAccepted (c: HeadCase, { status, headers, framed }: Response, verdict: { kind: string, protocol: string | undefined }): void {
  const { kind, protocol } = verdict
  must(status === (kind === 'upgrade' ? 101 : 200), `it was accepted with ${status}`)
  must(framed === (kind === 'body' && c.version === '1.1'), `a ${kind} is ${framed ? '' : 'not '}framed`)
  switch (kind) {
    case 'upgrade':
      must(headers.connection === 'Upgrade' && headers.upgrade === protocol, `the 101 says ${headers.connection}, ${headers.upgrade}`)
      break
    case 'hijack':
      must(headers.connection === 'close', 'a hijack does not say close')
      break
    case 'body':
      must(headers['x-accel-buffering'] === 'no' && headers.incremental === '?1', 'a message may be buffered')
  }
}
