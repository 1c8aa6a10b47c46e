import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { DuplexClosed, DuplexConnection, PendingDuplex } from '../../lib/index.ts'
import { pattern } from './dice.ts'
import type { RequestPlan } from './plan.ts'

/** What became of one request, as the app saw it. */
export class Entry {
  readonly plan: RequestPlan
  /** How often it came to the hooks. */
  reached = 0
  socket: Socket | undefined
  /** By `close` of the response, or by `aborted` or `close` of the request. */
  told = false
  reply: FastifyReply | undefined
  /** How often onResponse hooks ran. */
  responses = 0
  /** A long poll waits. */
  polling = false
  connection: DuplexConnection | PendingDuplex | undefined
  /** How often the handler of a duplex route ran. */
  entered = 0
  closings: DuplexClosed[] = []
  accepted = false
  detached = false
  /** The streams are in other hands, or the bytes cannot be counted. */
  foreign = false
  /** Its client sends more than the head of the request. */
  talks = false
  /** Its client sends more than one chunk. */
  pours = false
  /** Bytes of the pattern. */
  said = 0
  /** The handler ended its side. */
  ended = false
  /** The handler broke its own answer off. */
  broke = false
  resolved = false
  failure: unknown
  heard: Buffer[] = []
  /** What the client has sent for it, without framing. */
  sent: Buffer[] = []

  constructor (plan: RequestPlan) {
    this.plan = plan
  }

  get id (): number { return this.plan.id }

  reach (request: FastifyRequest, reply: FastifyReply): void {
    this.reached++
    this.reply = reply
    this.socket = request.raw.socket
    const tell = (): void => { this.told = true }
    request.raw.once('aborted', tell)
    request.raw.once('close', tell)
    reply.raw.once('close', tell)
    reply.raw.once('finish', tell)
    if (request.routeOptions.handlerTimeout > 0) request.signal.addEventListener('abort', () => this.#timedOut(request.signal, reply))
  }

  /** Fastify destroys a response that is under way then, on any route. */
  #timedOut ({ reason }: AbortSignal, { raw }: FastifyReply): void {
    if ((reason as { code?: string }).code === 'FST_ERR_HANDLER_TIMEOUT' && raw.headersSent && !raw.writableEnded) this.broke = true
  }

  enter (connection: DuplexConnection | PendingDuplex): void {
    this.entered++
    this.connection = connection
    void connection.closed.then(closed => { this.closings.push(closed) })
  }

  next (count: number): Buffer {
    const bytes = pattern(this.id, this.said, count)
    this.said += count
    return bytes
  }

  /** In words, for a finding. */
  toString (): string {
    const { plan: { kind, id, url }, reached, entered, accepted, closings, told } = this
    const end = closings.map(({ reason }) => reason).join() || 'open'
    return `${kind} ${id} ${url}: reached ${reached}, entered ${entered}${accepted ? ', accepted' : ''}, ${end}${told ? ', told' : ''}`
  }

  /** Why it is not over, or undefined. */
  get pending (): string | undefined {
    const { entered, accepted, closings, detached, polling, told, plan } = this
    if (entered > 0 && closings.length === 0) {
      return `closed does not settle: ${plan.kind}, ${detached ? plan.pending : accepted ? plan.stream : 'not accepted'}`
    }
    if (polling && !told) return 'a waiting handler is not told that its client is gone'
    return undefined
  }
}

export class Ledger {
  readonly entries = new Map<number, Entry>()

  add (plan: RequestPlan): Entry {
    const entry = new Entry(plan)
    this.entries.set(plan.id, entry)
    return entry
  }

  /** Those whose connections are open, in words. */
  left (): string {
    return [...this.entries.values()].filter(({ socket }) => socket?.destroyed === false).map(entry => `  left    ${entry}`).join('\n')
  }

  /** What a request says of itself. */
  of (request: FastifyRequest): Entry | undefined {
    return this.entries.get(Number(request.headers['x-id']))
  }
}
