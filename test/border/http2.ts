import { once } from 'node:events'
import http2, { type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import net from 'node:net'
import { Duplex } from 'node:stream'
import { Frames } from '../fixtures/http2-frames.ts'
import { Transcript } from '../property/harness.ts'
import { OURS } from './app.ts'
import { pattern } from './dice.ts'
import type { Entry } from './ledger.ts'
import { patience, sleep } from './patience.ts'
import type { Http2RoundPlan, RequestPlan } from './plan.ts'
import type { Finding, Setting } from './round.ts'

interface Stream {
  entry: Entry
  stream: ClientHttp2Stream
  received: Buffer[]
  headers: Record<string, unknown> | undefined
  ended: boolean
  closed: boolean
  failed: boolean
  /** By its client. */
  broken: boolean
  done: boolean
}

/** A client's end of a TCP connection that can be kept from being read. */
class Gate extends Duplex {
  readonly socket: net.Socket
  deaf = false

  constructor (socket: net.Socket) {
    super()
    this.socket = socket
    socket.on('data', (chunk: Buffer) => { if (!this.push(chunk)) socket.pause() })
    socket.on('end', () => this.push(null))
    socket.on('error', () => {})
    socket.on('close', () => this.destroy())
  }

  override _read (): void {
    if (!this.deaf) this.socket.resume()
  }

  override _write (chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.socket.write(chunk, done)
  }

  override _final (done: () => void): void {
    this.socket.end(done)
  }

  override _destroy (error: Error | null, done: (error: Error | null) => void): void {
    if (!this.deaf) this.socket.destroy()
    done(error)
  }
}

function fieldsOf (plan: RequestPlan): Record<string, string> {
  const id = { 'x-id': String(plan.id) }
  switch (plan.kind) {
    case 'upgrade': return { ':method': 'CONNECT', ':protocol': 'fuzz', ':path': `${plan.url}?n=${plan.id}`, ':scheme': 'http', ':authority': 'localhost', ...id }
    case 'connect': return { ':method': 'CONNECT', ':authority': `host-${plan.id}.test:1`, ...id }
    case 'body': return { ':method': 'POST', ':path': `${plan.url}?n=${plan.id}`, ...id }
    default: return { ':method': plan.method, ':path': `${plan.url}?n=${plan.id}`, ...id }
  }
}

/** One session, with its streams, from its beginning until nothing of it is left. */
export async function runHttp2Round (plan: Http2RoundPlan, index: number, setting: Setting): Promise<Finding[]> {
  const { world, ledger, forever } = setting
  const transcript = new Transcript()
  const findings: Finding[] = []
  const find = (rule: string): void => { findings.push({ rule: `HTTP/2: ${rule}`, round: index, transcript: transcript.toString() }) }
  const raw = net.connect({ port: world.port, host: '127.0.0.1', noDelay: true })
  try {
    await once(raw, 'connect')
  } catch {
    raw.destroy()
    if (!setting.closing()) find('no connection is to be had')
    return findings
  }
  raw.on('error', () => {})
  if (plan.theme === 'h2-half') {
    const frames = new Frames(raw)
    const block = Buffer.from([0x82, 0x86, 0x84])
    const { count } = plan.ops[0] as { count: number }
    if (count !== 3) await patience(1000, () => frames.seen.length > 1)
    if (count === 0 || count === 3) frames.frame('HEADERS', 0, 1, block)
    else if (count === 1) raw.write(Buffer.from([0, 0, 40, 1, 4, 0, 0, 0, 1, 0x82]))
    else raw.write(Buffer.from([0, 0, 40, 1]))
    if (!await patience(forever * 2, () => frames.closed || setting.closed())) find('a session with half a request outlives the drain')
    raw.destroy()
    return findings
  }
  const gate = new Gate(raw)
  const session = http2.connect('http://localhost', {
    createConnection: () => plan.theme === 'h2-deaf' ? gate : raw,
    settings: { initialWindowSize: plan.window, enablePush: false }
  })
  if (plan.theme !== 'h2-deaf') raw.removeAllListeners('data')
  session.on('error', error => transcript.note('session', String(error)))
  session.on('goaway', code => transcript.note('session', `GOAWAY ${code}`))
  if (plan.window > 65_535) session.once('connect', () => session.setLocalWindowSize(plan.window))
  await patience(1000, () => session.destroyed || session.remoteSettings.enableConnectProtocol === true)
  const streams: Stream[] = []
  let sessionBroken = false
  let sessionClosing = false
  // Node ends the streams of a session that its own client destroys, as if they were whole.
  const breakSession = (): void => {
    sessionBroken = true
    for (const one of streams) if (!one.closed) one.broken = true
    session.destroy()
  }
  for (const op of plan.ops) {
    const one = streams[op.stream]
    const live = one !== undefined && !one.stream.destroyed && !one.done
    switch (op.op) {
      case 'open': {
        const request = plan.requests[op.stream] as RequestPlan
        if (session.destroyed || session.closed) break
        streams.push(open(session, request, ledger.add(request), transcript))
        break
      }
      case 'write':
        if (live) write(one, op.count)
        break
      case 'end':
        if (live) finish(one)
        break
      case 'rst':
        if (live) {
          one.broken = one.done = true
          transcript.note('client >', `RST_STREAM ${one.entry.id}`)
          // RST_STREAM and nothing before it: Node would send END_STREAM first.
          one.stream.end = (() => one.stream) as typeof one.stream.end
          one.stream.close([0, 2, 8, 10][op.count % 4])
        }
        break
      case 'wait': await sleep(op.count); break
      case 'session-close':
        sessionClosing = true
        session.close()
        break
      case 'session-destroy':
        transcript.note('client', 'destroys its session')
        breakSession()
        break
      case 'reset':
        transcript.note('client >', 'RST')
        breakSession()
        raw.resetAndDestroy()
        break
      case 'deaf':
        gate.deaf = true
        raw.pause()
    }
  }
  const entries = streams.map(({ entry }) => entry)
  const accounts = (): void => {
    transcript.note('app', entries.join('; '))
  }
  if (plan.stalled === true) {
    // What Fastify refuses as it closes comes to no hook, and nobody is there to be told.
    const told = (entry: Entry): boolean => entry.told || (entry.reached === 0 && setting.closing())
    const freed = await patience(forever, () => entries.every(entry => told(entry) && entry.pending === undefined))
    accounts()
    if (!freed) find('a refusal that nobody takes stays')
  } else if (plan.leave === 'stay') {
    const over = (): boolean => raw.destroyed || raw.closed
    // It reads again only to hear that it is over.
    await patience(forever, () => setting.closed())
    gate.deaf = false
    raw.resume()
    await patience(forever, over)
    if (!setting.closed()) find('a session that takes nothing holds app.close()')
  } else if (!sessionBroken) {
    for (const one of streams) if (!one.done && !one.stream.destroyed) finish(one)
    // What plain Fastify breaks off while a body comes is not told to its client either.
    const waiting = ({ entry: { plan: { pending, plain, kind } } }: Stream): boolean =>
      pending === 'never' || (kind === 'plain' && (plain === 'poll' || plain === 'fail-stream'))
    const fair = (one: Stream): boolean => !one.broken && !waiting(one)
    // An answer to a body that nobody reads leaves the stream half open, with plain Fastify and with Node alone.
    const over = (one: Stream): boolean => one.closed || (one.ended && one.entry.plan.kind === 'plain')
    const ended = (): boolean => session.destroyed || streams.every(one => over(one) || !fair(one))
    const settled = await patience(plan.window < 65_535 ? 60 : forever, ended)
    accounts()
    if (!settled && !setting.closing() && plan.window >= 65_535) find('a client that waits gets no end of its stream')
    if (session.destroyed && !sessionClosing && !setting.closing()) find('the server ended a session')
  }
  for (const one of streams) if (!one.closed) one.broken = true
  if (!sessionBroken) {
    if (plan.leave === 'end' && plan.window >= 65_535) {
      session.close()
      await patience(50, () => session.destroyed)
    }
    if (!session.destroyed) session.destroy()
    if (plan.leave === 'reset' && !raw.destroyed) raw.resetAndDestroy()
  }
  raw.destroy()
  const isOver = ({ pending, reached, told }: Entry): boolean => pending === undefined && (reached === 0 || told)
  const over = await patience(forever, () => entries.every(isOver))
  accounts()
  if (!over) {
    for (const { pending, reached, told } of entries) {
      if (pending !== undefined) find(pending)
      else if (reached > 0 && !told) find('the response is not told of its end')
    }
  }
  for (const one of streams) judge(one, find)
  for (const entry of entries) {
    const [closed] = entry.closings
    if (entry.accepted && closed !== undefined && !await patience(forever, () => entry.responses === 1)) {
      find(`onResponse ran ${entry.responses} times for an accepted ${entry.plan.kind}`)
    }
    const { plan: { kind }, reached, entered, responses, closings } = entry
    if (reached > 1 || entered > 1 || responses > 1 || closings.length > 1) {
      find(`${kind}: reached ${reached}, entered ${entered}, onResponse ${responses}, closed ${closings.length} times`)
    }
  }
  return findings
}

function open (session: ClientHttp2Session, plan: RequestPlan, entry: Entry, transcript: Transcript): Stream {
  const bodiless = plan.kind === 'plain' && plan.method === 'GET'
  transcript.note('client >', JSON.stringify(fieldsOf(plan)))
  const stream = session.request(fieldsOf(plan), { endStream: bodiless })
  const one: Stream = {
    entry, stream, received: [], headers: undefined, ended: false, closed: false, failed: false, broken: false, done: bodiless
  }
  stream.on('response', headers => {
    transcript.note('client <', JSON.stringify(headers))
    one.headers = headers
  })
  stream.on('data', (chunk: Buffer) => { one.received.push(chunk) })
  stream.on('end', () => { one.ended = true })
  stream.on('error', error => {
    transcript.note('client <', `${entry.id}: ${String(error)}`)
    one.failed = true
  })
  stream.on('close', () => { one.closed = true })
  if (!bodiless && plan.body > 0) write(one, plan.body)
  return one
}

function write ({ stream, entry }: Stream, count: number): void {
  const from = entry.sent.reduce((sum, { length }) => sum + length, 0)
  const bytes = pattern(entry.id, from, count)
  entry.sent.push(bytes)
  stream.write(bytes)
}

function finish (one: Stream): void {
  one.done = true
  one.stream.end()
}

function judge ({ entry, headers, received, ended, failed, closed, stream, broken }: Stream, find: (rule: string) => void): void {
  const heard = Buffer.concat(entry.heard)
  const sent = Buffer.concat(entry.sent)
  if (heard.length > sent.length || !heard.equals(sent.subarray(0, heard.length))) find('a handler heard what was not sent')
  if (headers === undefined) return
  const status = Number(headers[':status'])
  if (status >= 300 && headers['content-type'] !== OURS) return
  const body = Buffer.concat(received)
  if (body.length > entry.said || !body.equals(pattern(entry.id, 0, body.length))) {
    find(`the bytes of a body are not the first that the handler said: ${body.length} of ${entry.said}`)
    return
  }
  if (!ended || failed || !closed || broken || stream.rstCode !== 0) return
  const [reason] = entry.closings.map(one => one.reason)
  // What Fastify breaks off by itself ends with NO_ERROR.
  if (entry.broke && !entry.accepted) return
  if (entry.broke) find(`a broken answer looks complete: ${status}, ${body.length} bytes`)
  else if ((!entry.accepted || reason === 'end') && body.length < entry.said) {
    find(`a complete answer is shorter than what was said: ${body.length} of ${entry.said}`)
  }
}
