import { pattern } from './dice.ts'
import { OURS } from './app.ts'
import type { Entry, Ledger } from './ledger.ts'
import type { RequestPlan } from './plan.ts'

/** A final response as it is on the wire, and all of it that has come. */
export interface Answer {
  status: number
  headers: Record<string, string>
  id: number | undefined
  /** `stream`: what follows the head is no HTTP any more. */
  body: Buffer
  framing: 'stream' | 'framed' | 'until-close'
  complete: boolean
}

export interface Wire {
  answers: Answer[]
  /** What is no response, where one should begin. */
  stray: Buffer
}

/** Reads responses in their order. */
export function readWire (bytes: Buffer, ledger: Ledger, requests: readonly RequestPlan[]): Wire {
  const answers: Answer[] = []
  let at = 0
  while (at < bytes.length) {
    const end = bytes.indexOf('\r\n\r\n', at)
    const start = bytes.toString('latin1', at, Math.min(bytes.length, at + 9))
    if (!'HTTP/1.1 '.startsWith(start.slice(0, 9)) && start !== 'HTTP/1.0 ') return { answers, stray: bytes.subarray(at) }
    if (end === -1) break
    const [line = '', ...fields] = bytes.toString('latin1', at, end).split('\r\n')
    const headers: Record<string, string> = {}
    for (const field of fields) {
      const colon = field.indexOf(':')
      headers[field.slice(0, colon).toLowerCase()] = field.slice(colon + 1).trim()
    }
    const status = Number(line.slice(9, 12))
    at = end + 4
    if (status < 200 && status !== 101) continue
    const id = headers['x-id'] === undefined ? undefined : Number(headers['x-id'])
    const entry = id === undefined ? undefined : ledger.entries.get(id)
    const answer: Answer = { status, headers, id, body: Buffer.alloc(0), framing: 'framed', complete: true }
    answers.push(answer)
    // What the app has no part in says no id.
    const plan = entry?.plan ?? requests[answers.length - 1]
    if (status === 101 || (plan?.kind === 'connect' && status < 300)) {
      answer.framing = 'stream'
      // Within the tunnel another server answers.
      if (entry?.foreign === true && headers['x-owner'] === undefined) continue
      answer.body = bytes.subarray(at)
      return { answers, stray: Buffer.alloc(0) }
    }
    if (plan?.kind === 'head' || status === 204 || status === 304) continue
    if (headers['transfer-encoding'] === 'chunked') {
      const { body, rest, malformed } = unchunk(bytes, at)
      if (malformed !== undefined) return { answers, stray: malformed }
      answer.body = body
      answer.complete = rest !== undefined
      at = rest ?? bytes.length
    } else if (headers['content-length'] !== undefined) {
      const length = Number(headers['content-length'])
      answer.body = bytes.subarray(at, at + length)
      answer.complete = answer.body.length === length
      at += length
    } else {
      answer.framing = plan?.kind === 'hijack' && status < 300 ? 'stream' : 'until-close'
      answer.body = bytes.subarray(at)
      return { answers, stray: Buffer.alloc(0) }
    }
  }
  return { answers, stray: Buffer.alloc(0) }
}

/** `rest` is where what follows begins, once all of it is there. */
function unchunk (bytes: Buffer, from: number): { body: Buffer, rest?: number, malformed?: Buffer } {
  const parts: Buffer[] = []
  for (let at = from; ;) {
    const line = bytes.indexOf('\r\n', at)
    if (line === -1) break
    const size = Number.parseInt(bytes.toString('latin1', at, line), 16)
    if (Number.isNaN(size)) return { body: Buffer.concat(parts), malformed: bytes.subarray(at) }
    if (size === 0) return { body: Buffer.concat(parts), ...(bytes.length >= line + 4 ? { rest: line + 4 } : {}) }
    parts.push(bytes.subarray(line + 2, Math.min(bytes.length, line + 2 + size)))
    at = line + 4 + size
    if (bytes.length < at) break
  }
  return { body: Buffer.concat(parts) }
}

/** Whether the body of this answer is what a handler of ours said, and not a page of Fastify's. */
function isOurs ({ status, headers, framing }: Answer): boolean {
  return framing === 'stream' || status < 300 || headers['content-type'] === OURS
}

export interface Conversation {
  requests: RequestPlan[]
  /** Something went over the connection that is no request. */
  garbage: boolean
  /** The body of one has not come to its end. */
  unfinished: boolean
  over: boolean
  /** The client saw a FIN, and no reset. */
  ended: boolean
  failed: boolean
  clientEnded: boolean
  /** Nothing may hide a reset of the server from this client. */
  tellsResets: boolean
}

/** What may never be on a wire, whatever the client does. */
export function judgeWire ({ answers, stray }: Wire, ledger: Ledger, talk: Conversation): string[] {
  const broken: string[] = []
  if (stray.length > 0 && !talk.garbage) broken.push(`bytes that belong to no response: ${JSON.stringify(stray.toString('latin1', 0, 60))}`)
  let last = -1
  let closing = false
  const most = talk.requests.length + (talk.garbage || talk.unfinished ? 1 : 0)
  if (answers.length > most) broken.push(`more final responses than requests: ${answers.length} for ${most}`)
  for (const answer of answers) {
    if (closing) broken.push('a response behind one that says close')
    closing = /\bclose\b/i.test(answer.headers.connection ?? '') && answer.framing !== 'stream'
    if (answer.id === undefined) continue
    const place = talk.requests.findIndex(({ id }) => id === answer.id)
    if (place === -1) broken.push(`a response to a request of another connection: ${answer.id}`)
    else if (place === last) broken.push(`two final responses to one request: ${answer.id}`)
    else if (place < last) broken.push(`responses out of order: ${answer.id}`)
    last = Math.max(last, place)
    const entry = answer.headers['x-owner'] === undefined ? ledger.entries.get(answer.id) : undefined
    if (entry !== undefined && !entry.foreign && entry.plan.kind !== 'head' && isOurs(answer) && !talk.garbage) broken.push(...judgeBody(answer, entry, talk))
  }
  return broken
}

function judgeBody ({ body, framing, complete, status }: Answer, entry: Entry, talk: Conversation): string[] {
  const broken: string[] = []
  const what = `${status} for ${entry.id}`
  if (body.length > entry.said || !body.equals(pattern(entry.id, 0, body.length))) {
    broken.push(`the bytes of a body are not the first that the handler said: ${what}, ${body.length} of ${entry.said}`)
    return broken
  }
  const [closed] = entry.closings
  if (framing === 'framed' && complete) {
    if (entry.broke) broken.push(`a broken answer looks complete: ${what}, ${body.length} bytes`)
    else if (body.length < entry.said && !entry.accepted) broken.push(`a complete answer is shorter than what was said: ${what}, ${body.length} of ${entry.said}`)
    else if (entry.accepted && closed?.reason === 'end' && body.length < entry.said) {
      broken.push(`a complete stream is shorter than what was said: ${what}, ${body.length} of ${entry.said}`)
    }
  }
  if (framing === 'stream' && talk.over && closed !== undefined) {
    const clean = talk.ended && !talk.failed
    if (closed.reason === 'end' && clean && body.length < entry.said) broken.push(`an ended stream lacks bytes: ${what}, ${body.length} of ${entry.said}`)
    if (entry.broke && clean && !talk.clientEnded && talk.tellsResets && body.length === entry.said) broken.push(`a broken stream looks like an end: ${what}`)
  }
  return broken
}

/** For a client that did nothing wrong: what was begun comes whole, and every request is answered. */
export function judgeFair ({ answers }: Wire, ledger: Ledger, expected: readonly RequestPlan[], over: boolean): string[] {
  const broken: string[] = []
  let excused = false
  let tunnel: Entry | undefined
  for (const answer of answers) {
    const entry = answer.id === undefined ? undefined : ledger.entries.get(answer.id)
    // What is said within a tunnel ends with the tunnel.
    if (entry?.foreign === true) tunnel = entry
    const lost = tunnel?.closings.some(({ reason }) => reason !== 'end' && reason !== 'detached') === true
    const cut = lost || (entry !== undefined && (entry.broke || (entry.accepted && entry.closings.some(({ reason }) => reason !== 'end'))))
    // It may wait for what its client has not sent.
    const may = !over && !expected.some(({ id }) => id === answer.id)
    if (answer.framing === 'framed' && !answer.complete && !cut && !may) {
      broken.push(`an answer is cut: ${answer.status} for ${answer.id}, ${answer.body.length} of ${entry?.said} bytes${entry?.accepted === true ? ', accepted' : ''}`)
    }
    if (cut || answer.framing !== 'framed' || /\bclose\b/i.test(answer.headers.connection ?? '')) excused = true
  }
  if (!over || excused) return broken
  const answered = answers.length
  const next = expected[answered]
  if (next === undefined) return broken
  const entry = ledger.entries.get(next.id)
  // Its connection was broken off before its head was out.
  const own = entry !== undefined && (entry.broke || entry.closings.some(({ reason }) => reason !== 'end'))
  if (!own) broken.push(`a request is not answered, and its connection is over: ${next.kind} ${next.id}`)
  return broken
}
