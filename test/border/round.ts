import { once } from 'node:events'
import net from 'node:net'
import tls from 'node:tls'
import { Client, Transcript } from '../property/harness.ts'
import type { World } from './app.ts'
import { pattern } from './dice.ts'
import type { Entry, Ledger } from './ledger.ts'
import { patience, sleep } from './patience.ts'
import { swallows, type RequestPlan, type RoundPlan } from './plan.ts'
import { judgeFair, judgeWire, readWire, type Conversation } from './wire.ts'

/** A rule that was broken. */
export interface Finding {
  rule: string
  round: number
  transcript: string
}

export interface Setting {
  world: World
  ledger: Ledger
  transport: 'tcp' | 'tls' | 'unix' | 'h2'
  /** Somebody has begun to close the server. */
  closing: () => boolean
  closed: () => boolean
  /** In milliseconds: what has not happened by then never will. */
  forever: number
}

let connections = 0

async function dial ({ world, transport }: Setting, transcript: Transcript): Promise<Client | undefined> {
  const localAddress = `127.0.0.${2 + connections++ % 200}`
  const raw = transport === 'unix'
    ? net.connect({ path: world.path, allowHalfOpen: true })
    : net.connect({ port: world.port, host: '127.0.0.1', localAddress, allowHalfOpen: true, noDelay: true })
  try {
    await once(raw, 'connect')
    raw.on('error', () => {})
    if (transport !== 'tls') return new Client(raw, raw, transcript)
    const socket = tls.connect({ socket: raw, rejectUnauthorized: false })
    socket.allowHalfOpen = true
    socket.on('error', () => {})
    await Promise.race([once(socket, 'secureConnect'), once(socket, 'close')])
    if (socket.destroyed) return undefined
    return new Client(socket, raw, transcript)
  } catch {
    raw.destroy()
    return undefined
  }
}

/** The head of a request, and what comes with it. `sent` is what of it the handler may hear. */
export function wireOf (plan: RequestPlan): { bytes: Buffer, sent: Buffer } {
  const lines = [`x-id: ${plan.id}`, 'Host: localhost']
  const target = plan.kind === 'connect' ? `host-${plan.id}.test:1` : `${plan.url}?n=${plan.id}`
  if (plan.kind === 'upgrade') lines.push('Connection: Upgrade', 'Upgrade: fuzz')
  if (plan.kind === 'ignored') {
    if (plan.id % 2 === 0) lines.push('Connection: Upgrade, HTTP2-Settings', 'Upgrade: h2c', 'HTTP2-Settings: AAMAAABkAAQAAP__')
    else lines.push('Connection: Upgrade', 'Upgrade: websocket')
  }
  if (plan.kind === 'expect') lines.push('Expect: foo')
  const carries = plan.method === 'POST'
  const sent = plan.kind === 'plain' || plan.kind === 'ignored' || plan.kind === 'head' ? Buffer.alloc(0) : pattern(plan.id, 0, plan.body)
  let body = sent
  if (carries) {
    if (hasLength(plan)) lines.push(`Content-Length: ${sent.length + (plan.whole ? 0 : 100)}`)
    else {
      lines.push('Transfer-Encoding: chunked')
      body = Buffer.concat([chunk(sent), Buffer.from(plan.whole ? '0\r\n\r\n' : '')])
    }
    lines.push('Content-Type: application/octet-stream')
  } else if (plan.kind === 'ignored' || plan.kind === 'plain' || plan.kind === 'head') {
    body = Buffer.alloc(0)
  }
  return { bytes: Buffer.concat([Buffer.from(`${plan.method} ${target} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`), body]), sent }
}

/** The body of a request is framed by a length. */
function hasLength ({ framing, kind }: RequestPlan): boolean {
  return framing === 'length' || kind === 'expect'
}

function chunk (bytes: Buffer): Buffer {
  return bytes.length === 0 ? bytes : Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')])
}

/** No duplex route has a part in it, whatever it asks for. */
function answeredPlainly ({ kind, url }: RequestPlan): boolean {
  return kind === 'plain' || kind === 'ignored' || url === '/plain'
}

/** Nobody answers it before its connection is over. */
function waits (plan: RequestPlan): boolean {
  return answeredPlainly(plan) && plan.plain === 'poll' && plan.method === 'GET'
}

function mayWait (plan: RequestPlan): boolean {
  return waits(plan) || plan.pending === 'never'
}

function saysMuch ({ plain, bytes, hook }: RequestPlan): boolean {
  return plain === 'big' || bytes > 5000 || (hook?.bytes ?? 0) > 5000
}

/** What follows it on the connection is not a request, or not yet. */
function isOpen (plan: RequestPlan): boolean {
  return swallows(plan) || (plan.method === 'POST' && !plan.whole)
}

/** Those that a client which stays gets an answer to. */
function answerable (requests: readonly RequestPlan[]): RequestPlan[] {
  const answered: RequestPlan[] = []
  for (const plan of requests) {
    if (mayWait(plan) || (plan.method === 'POST' && !plan.whole)) break
    answered.push(plan)
  }
  return answered
}

/** One connection, from its beginning until nothing of it is left. */
export async function runRound (plan: RoundPlan, index: number, setting: Setting): Promise<Finding[]> {
  const { ledger, transport, forever } = setting
  const transcript = new Transcript()
  const requests = plan.ops.filter(op => op.op === 'request')
  const taken = requests.some(({ kind }) => kind !== 'plain' && kind !== 'ignored')
  // Only a reset tells these of a client that has gone.
  const onlyReset = requests.some(({ pending }) => pending === 'never') || (taken && requests.some(waits))
  // What the server does not take in while it waits would hide the reset.
  const silent = requests.some(one => mayWait(one))
  // So does what Node stops to read behind: an answer that is too big to wait, and a request behind that.
  const stops = requests.some((one, at) => at < requests.length - 1 && requests.slice(0, at).some(mayWait) && saysMuch(one))
  const hides = silent && plan.ops.some(op => (op.op === 'request' && op.body > 3000) || (op.op === 'bytes' && op.count > 3000))
  // Unix sockets have none.
  if (hides || stops || (onlyReset && transport === 'unix')) return []
  const findings: Finding[] = []
  const find = (rule: string): void => { findings.push({ rule, round: index, transcript: transcript.toString() }) }
  const client = await dial(setting, transcript)
  if (client === undefined) {
    if (!setting.closing()) find('no connection is to be had')
    return findings
  }
  const entries: Entry[] = []
  const talk: Conversation = {
    requests,
    garbage: false,
    unfinished: requests.some(({ method, whole }) => method === 'POST' && !whole),
    over: false,
    ended: false,
    failed: false,
    clientEnded: false,
    tellsResets: transport === 'tcp'
  }
  let fair = plan.stalled !== true
  let gone = false
  let pieces: Buffer[] = []
  let current: Entry | undefined
  const flush = (): void => {
    const bytes = Buffer.concat(pieces)
    pieces = []
    if (bytes.length > 0 && !gone && !talk.clientEnded && !client.socket.destroyed) client.send(bytes)
  }
  const stream = (bytes: Buffer): void => {
    if (current === undefined || gone || talk.clientEnded) return
    current.sent.push(bytes)
    pieces.push(current.plan.method === 'POST' && !hasLength(current.plan) ? chunk(bytes) : bytes)
  }
  for (const op of plan.ops) {
    switch (op.op) {
      case 'request': {
        current = ledger.add(op)
        current.pours = op.body > 3000 || plan.ops.some(other => other.op === 'bytes' && other.count > 3000)
        current.talks = op.body > 0 || plan.ops.some(other => other.op === 'bytes' || other.op === 'smuggle')
        entries.push(current)
        const { bytes, sent } = wireOf(op)
        current.sent.push(sent)
        pieces.push(bytes)
        break
      }
      case 'bytes': {
        if (current === undefined || !isOpen(current.plan)) break
        const from = current.sent.reduce((sum, { length }) => sum + length, 0)
        // No more than a length has promised.
        const { id, method } = current.plan
        const most = method === 'POST' && hasLength(current.plan) ? Math.max(0, wireOf(current.plan).sent.length + 99 - from) : op.count
        stream(pattern(id, from, Math.min(most, op.count)))
        flush()
        break
      }
      case 'smuggle': {
        if (current === undefined || !swallows(current.plan)) break
        const hidden = ledger.add({ ...current.plan, id: op.id, kind: 'plain', url: '/plain', method: 'GET' })
        entries.push(hidden)
        stream(wireOf(hidden.plan).bytes)
        break
      }
      case 'garbage':
        talk.garbage = true
        fair = false
        pieces.push(Buffer.from('NO HTTP\r\n\r\n'))
        break
      case 'part':
        if (current !== undefined && isOpen(current.plan)) break
        fair = false
        talk.garbage = true
        pieces.push(Buffer.from('GET /plain HTTP/1.1\r\nHo'))
        break
      case 'flush': flush(); break
      case 'wait': await sleep(op.ms); break
      case 'await-answer': {
        flush()
        const before = readWire(client.received, ledger, requests).answers.length
        await patience(forever, () => client.over || readWire(client.received, ledger, requests).answers.length >= Math.max(1, before))
        break
      }
      case 'pause': client.socket.pause(); break
      case 'resume': client.socket.resume(); break
      case 'end':
        flush()
        fair = false
        talk.clientEnded = true
        if (talk.unfinished) talk.garbage = true
        client.end()
        break
      case 'reset':
      case 'destroy':
        flush()
        fair = false
        gone = true
        if (op.op === 'reset' || onlyReset) client.reset()
        else client.destroy()
    }
  }
  flush()

  const expected = answerable(requests)
  const answered = (): boolean => {
    if (client.over || gone) return true
    const { answers } = readWire(client.received, ledger, requests)
    return answers.length >= expected.length && answers.slice(0, expected.length).every(answer => answer.complete)
  }
  const accounts = (): void => {
    talk.over = client.over
    talk.ended = client.ended
    talk.failed = client.error !== undefined
  }
  const describe = (): string => entries.join('; ')
  if (plan.stalled === true) {
    // What the server refused, and nobody takes, ends in bounded time. A server that is closing by the time it comes may never hear of it.
    const over = ({ reached, entered, closings, told }: Entry): boolean => reached > 0
      ? (entered > 0 ? closings.length > 0 : told)
      : setting.closing()
    const freed = await patience(forever, () => entries.every(over))
    if (!freed) find('a refusal that nobody takes keeps its connection')
  } else if (!gone) {
    client.socket.resume()
    const came = await patience(forever, answered)
    // Over TLS Node gives a parser that it has paused what comes next, and fails. Node alone does the same.
    if (entries.some(({ socket }) => socket?.errored != null && 'code' in socket.errored && socket.errored.code === 'HPE_PAUSED')) fair = false
    transcript.note('app', describe())
    // Settled by what has been begun, the answers first.
    await patience(200, () => !client.over || entries.every(entry => entry.entered === 0 || entry.closings.length > 0))
    // Since Node 24 a response that breaks off before its turn keeps its connection, and what of it was written is sent. So it is
    // with plain Fastify.
    const next = expected[readWire(client.received, ledger, requests).answers.filter(({ complete }) => complete).length]
    const stuck = Number.parseInt(process.versions.node) >= 24 && next !== undefined && next !== expected[0] && answeredPlainly(next) &&
      ledger.entries.get(next.id)?.broke === true
    if (!came && !stuck && !setting.closing() && fair) find('a client that waits gets no answer')
    // The reset of a stream may take from its client what came before it.
    const reset = entries.some(({ plan, accepted, closings }) => swallows(plan) && accepted && closings.some(({ reason }) => reason !== 'end'))
    if (fair && !reset && !setting.closing()) {
      for (const rule of judgeFair(readWire(client.received, ledger, requests), ledger, expected, client.over)) find(rule)
    }
  }

  if (!gone && !client.closed) {
    if (plan.leave === 'stay') {
      if (!await patience(forever, () => client.closed || setting.closed())) find('a client that stays is not let go by a server that closes')
    } else if (plan.leave === 'end' && !talk.clientEnded) {
      talk.clientEnded = true
      // Fastify's page for what was cut short goes wherever the connection is.
      if (talk.unfinished) talk.garbage = true
      client.end()
    }
    if (talk.clientEnded && !client.closed) {
      // A server of Node's takes the end of a client that only waits for plain answers for its leaving.
      const sure = !onlyReset && fair && (!taken || !requests.some(mayWait))
      const closed = await patience(sure ? forever : 100, () => client.closed)
      if (!closed && sure && !setting.closing()) find('a client that has ended is not let go')
    }
  }
  const whole = client.closed
  if (!client.closed) {
    gone = true
    if (plan.leave === 'destroy' && !onlyReset && !talk.clientEnded) client.destroy()
    else client.reset()
  }

  const settled = await patience(forever, () => entries.every(({ pending }) => pending === undefined))
  transcript.note('app', describe())
  if (!settled) {
    const line = requests.map(({ kind }) => kind).join(' + ')
    for (const rule of new Set(entries.flatMap(({ pending }) => pending ?? []))) find(`${rule} [${line}]`)
  }
  accounts()
  const wire = readWire(client.received, ledger, requests)
  for (const rule of judgeWire(wire, ledger, talk)) find(rule)
  for (const entry of entries) {
    const { plan: { id, kind }, reached, entered, closings, responses } = entry
    const hidden = !requests.some(one => one.id === id)
    if (hidden && reached > 0) find('a request was smuggled')
    if (reached > 1 || entered > 1 || closings.length > 1 || responses > 1) {
      find(`${kind}: reached ${reached}, entered ${entered}, closed ${closings.length}, onResponse ${responses} times`)
    }
    const heard = Buffer.concat(entry.heard)
    const sent = Buffer.concat(entry.sent)
    if (heard.length > sent.length || !heard.equals(sent.subarray(0, heard.length))) {
      find(`a handler heard what was not sent: ${heard.length} of ${sent.length} bytes`)
    }
    const [closed] = closings
    const answer = wire.answers.find(one => one.id === id)
    const complete = answer?.framing === 'framed' && answer.complete && wire.answers.length > 0
    // Its client has all of it, and was there.
    if (entry.accepted && entry.resolved && !entry.broke && complete && whole && fair && closed?.reason === 'error') {
      find('closed says error, and the client has a complete answer')
    }
    if (entry.accepted && closed !== undefined && !entry.detached) {
      if (!await patience(forever, () => entry.responses === 1)) find(`onResponse ran ${entry.responses} times for an accepted ${kind}`)
    }
  }
  client.destroy()
  return findings
}
