import type { FastifyInstance, FastifyRequest } from 'fastify'
import fc from 'fast-check'
import type { DuplexClosed, DuplexConnection, DuplexKind, PendingDuplex } from '../../lib/index.ts'
import type { Transport } from '../fixtures/server.ts'
import { FOREVER, transport, Transcript, turns, type Client, type Servers } from './harness.ts'

/** What one side does, one after the other. Times are turns of the event loop. */
type Op =
  | { do: 'write', bytes: number }
  | { do: 'wait', turns: number }
  | { do: 'read' | 'pause' | 'end' | 'reset' | 'destroy' | 'close' }

export interface StreamCase {
  transport: Transport
  kind: DuplexKind
  manual: boolean
  /** Turns that a hook takes. */
  slow: number
  /** Bytes in the segment of the head. */
  early: number
  /** The client does not wait for the accept head. */
  eager: boolean
  client: Op[]
  handler: Op[]
  /** How the handler ends. `leave` returns no promise, and lets the streams run. */
  finish: 'return' | 'throw' | 'drain' | 'leave'
  /** The handler does not wait for what it has written to arrive before it breaks off. */
  abrupt: boolean
}

const wait = fc.record({ do: fc.constant('wait' as const), turns: fc.integer({ min: 1, max: 8 }) })
const writing = fc.record({
  do: fc.constant('write' as const),
  bytes: fc.oneof(fc.integer({ min: 0, max: 20 }), fc.integer({ min: 0, max: 3000 }), fc.constantFrom(16_384, 65_536, 100_000))
})
const simple = <D extends 'read' | 'pause' | 'end' | 'reset' | 'destroy' | 'close'>(what: D): fc.Arbitrary<{ do: D }> => fc.record({ do: fc.constant(what) })

export const streamCases: fc.Arbitrary<StreamCase> = fc.record({
  transport,
  kind: fc.constantFrom<DuplexKind>('upgrade', 'connect', 'hijack', 'body'),
  manual: fc.boolean(),
  slow: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 6 })),
  early: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 2000 })),
  eager: fc.boolean(),
  client: fc.array(fc.oneof<fc.WeightedArbitrary<Op>[]>(
    { weight: 6, arbitrary: writing },
    { weight: 4, arbitrary: wait },
    { weight: 1, arbitrary: simple('end') },
    { weight: 1, arbitrary: simple('pause') },
    { weight: 1, arbitrary: simple('read') },
    { weight: 1, arbitrary: simple('reset') }
  ), { maxLength: 8 }),
  handler: fc.array(fc.oneof<fc.WeightedArbitrary<Op>[]>(
    { weight: 6, arbitrary: writing },
    { weight: 4, arbitrary: wait },
    { weight: 3, arbitrary: simple('read') },
    { weight: 1, arbitrary: simple('pause') },
    { weight: 1, arbitrary: simple('end') },
    { weight: 1, arbitrary: simple('close') },
    { weight: 1, arbitrary: simple('destroy') }
  ), { maxLength: 8 }),
  finish: fc.constantFrom('return', 'drain', 'drain', 'leave', 'throw'),
  abrupt: fc.boolean()
})

/** Bytes of one direction, told by their place. */
function pattern (from: number, bytes: number, step: number): Buffer {
  const result = Buffer.alloc(bytes)
  for (let at = 0; at < bytes; at++) result[at] = ((from + at) * step + ((from + at) >> 8)) & 0xff
  return result
}

const CLIENT = 31
const HANDLER = 17

/** What is known of one case on the side of the server. */
class Ledger {
  readonly c: StreamCase
  readonly transcript: Transcript
  connection: DuplexConnection | undefined
  heard: Buffer[] = []
  said = 0
  ended = false
  broke: 'destroyed' | 'error' | undefined
  /** The client had read everything when the handler broke off. */
  quiet = false
  hasArrived: () => boolean = () => false
  closings: DuplexClosed[] = []
  settled: DuplexClosed | undefined
  failure: unknown

  constructor (c: StreamCase, transcript: Transcript) {
    this.c = c
    this.transcript = transcript
  }
}

const ledgers = new Map<string, Ledger>()

export function declareStreams (app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers }) => turns(Number(headers['x-slow'] ?? 0)))
  const ledgerOf = ({ headers }: FastifyRequest): Ledger | undefined => ledgers.get(String(headers['x-case']))
  const run = (connection: DuplexConnection, request: FastifyRequest): unknown => {
    const ledger = ledgerOf(request)
    // The client was gone before, and its case is over.
    if (ledger === undefined) return connection.destroy()
    const running = perform(connection, ledger)
    if (ledger.c.finish !== 'leave') return running
    running.catch(error => { ledger.failure = error })
    return undefined
  }
  const manually = async (pending: PendingDuplex, request: FastifyRequest): Promise<unknown> => {
    await turns(2)
    const connection = await pending.accept()
    const ledger = ledgerOf(request)
    // This function has a promise, whose end is the end of the stream.
    if (ledger?.c.finish === 'leave') ledger.ended = true
    return run(connection, request)
  }
  for (const [host, handler, duplex] of [['auto', run, true], ['manual', manually, { accept: 'manual' }]] as const) {
    app.route({ method: ['GET', 'POST'], url: `/${host}`, duplex, handler } as never)
    app.route({ method: 'CONNECT', url: `/${host}/:port`, duplex, handler } as never)
  }
}

async function perform (connection: DuplexConnection, ledger: Ledger): Promise<void> {
  const { c, transcript } = ledger
  const { readable, writable } = connection
  const note = (what: string): void => transcript.note('handler', what)
  ledger.connection = connection
  void connection.closed.then(closed => {
    note(`closed: ${closed.reason}`)
    ledger.closings.push(closed)
  })
  note('is entered')
  let reading = false
  const read = (): void => {
    // A stream that was paused is not resumed by a listener.
    readable.resume()
    if (reading) return
    reading = true
    readable.on('data', (chunk: Buffer) => {
      note(`reads ${chunk.length} bytes`)
      ledger.heard.push(chunk)
    })
  }
  // A client on libuv takes a reset that comes together with data for an end behind them.
  const settle = async (): Promise<void> => {
    if (ledger.broke !== undefined || c.abrupt) return
    for (let turn = 0; turn < 50 && !ledger.hasArrived(); turn++) await turns(1)
    ledger.quiet = ledger.hasArrived()
    await turns(1)
  }
  for (const op of c.handler) {
    switch (op.do) {
      case 'write':
        if (writable.writableEnded || writable.destroyed) break
        note(`writes ${op.bytes} bytes`)
        writable.write(pattern(ledger.said, op.bytes, HANDLER))
        ledger.said += op.bytes
        break
      case 'wait':
        await turns(op.turns)
        break
      case 'end':
        if (writable.writableEnded || writable.destroyed) break
        note('ends')
        ledger.ended = true
        writable.end()
        break
      case 'close':
        note('close()')
        ledger.ended = true
        void connection.close()
        break
      case 'destroy':
        await settle()
        note('destroy()')
        ledger.broke ??= 'destroyed'
        connection.destroy()
        break
      case 'read':
        read()
        break
      case 'pause':
        readable.pause()
    }
  }
  note(c.finish)
  // Who pauses and never reads again waits for finTimeout.
  if (reading) read()
  switch (c.finish) {
    case 'throw':
      await settle()
      ledger.broke ??= 'error'
      throw new Error('thrown by the case')
    case 'drain':
      read()
      if (!readable.readableEnded && !readable.destroyed) {
        await new Promise<void>(resolve => readable.once('end', resolve).once('close', resolve).once('error', () => resolve()))
      }
      note('returns')
      break
    case 'leave':
      read()
      if (!writable.writableEnded && !writable.destroyed) writable.end()
  }
  ledger.ended = true
}

let cases = 0

/** Runs both scripts and fails when what comes of them is not what the contract says. */
export async function checkStream (servers: Servers, c: StreamCase): Promise<void> {
  const id = String(cases++)
  const transcript = new Transcript()
  const ledger = new Ledger(c, transcript)
  ledgers.set(id, ledger)
  let client: Client | undefined
  try {
    client = await servers[c.transport].connect(transcript)
    await converse(client, c, ledger, id)
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${transcript}`)
  } finally {
    client?.destroy()
    ledgers.delete(id)
  }
}

function must (holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what)
}

function headOf (c: StreamCase, id: string): string {
  const host = c.manual ? 'manual' : 'auto'
  const line = c.kind === 'connect' ? `CONNECT ${host}:1` : `${c.kind === 'body' ? 'POST' : 'GET'} /${host}`
  const fields = { upgrade: 'Connection: Upgrade\r\nUpgrade: foo\r\n', connect: '', hijack: '', body: 'Transfer-Encoding: chunked\r\n' }[c.kind]
  return `${line} HTTP/1.1\r\nHost: a\r\nX-Case: ${id}\r\nX-Slow: ${c.slow}\r\n${fields}\r\n`
}

/** What has come of the stream, and whether its end has. */
function streamIn (client: Client, kind: DuplexKind): { bytes: Buffer, ended: boolean } {
  const { received } = client
  const start = received.indexOf('\r\n\r\n')
  const rest = start === -1 ? Buffer.alloc(0) : received.subarray(start + 4)
  if (kind !== 'body') return { bytes: rest, ended: client.ended && client.error === undefined }
  const chunks: Buffer[] = []
  for (let at = 0; ;) {
    const line = rest.indexOf('\r\n', at)
    const size = line === -1 ? Number.NaN : Number.parseInt(rest.subarray(at, line).toString('latin1'), 16)
    if (size === 0) return { bytes: Buffer.concat(chunks), ended: true }
    if (Number.isNaN(size)) return { bytes: Buffer.concat(chunks), ended: false }
    chunks.push(rest.subarray(line + 2, line + 2 + size))
    at = line + 4 + size
    if (rest.length < at) return { bytes: Buffer.concat(chunks), ended: false }
  }
}

async function converse (client: Client, c: StreamCase, ledger: Ledger, id: string): Promise<void> {
  let sent = 0
  let ended = false
  let reset = false
  const framed = (bytes: Buffer): Buffer => c.kind !== 'body' || bytes.length === 0
    ? bytes
    : Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')])
  const next = (count: number): Buffer => {
    const bytes = pattern(sent, count, CLIENT)
    sent += count
    return framed(bytes)
  }
  const end = (): void => {
    if (ended || reset) return
    ended = true
    if (c.kind === 'body') client.send(Buffer.from('0\r\n\r\n'))
    else client.end()
  }
  client.send(Buffer.concat([Buffer.from(headOf(c, id)), next(c.early)]))
  ledger.hasArrived = () => client.received.includes('\r\n\r\n') && streamIn(client, c.kind).bytes.length === ledger.said
  const accepted = (): boolean => client.over || client.received.includes('\r\n\r\n')
  if (!c.eager) must(await client.until(accepted), 'it hangs: it is not accepted')
  for (const op of c.client) {
    switch (op.do) {
      case 'write':
        if (!ended && !reset && !client.socket.destroyed) client.send(next(op.bytes))
        break
      case 'wait':
        await turns(op.turns)
        break
      case 'end':
        end()
        break
      case 'pause':
        client.socket.pause()
        break
      case 'read':
        client.socket.resume()
        break
      case 'reset':
        if (!reset) client.reset()
        reset = true
    }
  }
  client.socket.resume()
  // A client that ends at the moment of a reset is not told of that by its kernel.
  const breaks = c.finish === 'throw' || c.handler.some(op => op.do === 'destroy')
  if (breaks && !ended && !reset) must(await client.until(() => client.over), 'it hangs: it is not broken off')
  const endedBefore = ended && c.kind !== 'body'
  end()
  if (!reset) {
    if (c.kind === 'body') {
      must(await client.until(() => client.over || streamIn(client, c.kind).ended), 'it hangs: the message does not end')
      client.end()
    }
    must(await client.until(() => client.closed), 'it hangs: the connection does not end')
    must(ledger.connection !== undefined, 'the handler was not entered')
  }
  const deadline = performance.now() + FOREVER
  while (ledger.connection !== undefined && ledger.closings.length === 0 && performance.now() < deadline) await turns(1)
  const { connection, transcript } = ledger
  if (connection === undefined) return

  must(ledger.closings.length === 1, 'closed does not settle')
  const [{ reason, error, bytesRead, bytesWritten }] = ledger.closings as [DuplexClosed]
  transcript.note('closed', `${reason}, ${bytesRead} bytes read, ${bytesWritten} bytes written, ${String(error)}`)
  must(ledger.failure === undefined, `the handler failed: ${String(ledger.failure)}`)
  must(await connection.closed === ledger.closings[0], 'closed settles in two ways')
  const reasons: string[] = [
    'end',
    ...(ledger.broke === undefined ? [] : [ledger.broke]),
    ...(reset ? ['abort'] : [])
  ]
  must(reasons.includes(reason), `closed says ${reason}, and may say ${reasons.join(', ')}`)
  must(connection.signal.aborted === (reason !== 'end'), `closed says ${reason}, and signal is ${connection.signal.aborted ? '' : 'not '}aborted`)
  must((error === undefined) === (reason === 'end'), `closed says ${reason} with the error ${String(error)}`)

  const heard = Buffer.concat(ledger.heard)
  // What comes behind a close(), or the end of the handler, and finds no reader, is nobody's.
  // So is that of a message which was answered before anybody began to read it.
  const late = c.kind === 'body' && c.handler.some(op => op.do === 'end')
  const discards = late || c.handler.some(op => op.do === 'close') || (c.finish === 'leave' && c.manual)
  must(heard.length <= sent && (discards || heard.equals(pattern(0, heard.length, CLIENT))), `the ${heard.length} bytes that the handler read are not the first of ${sent}`)
  const { bytes, ended: whole } = streamIn(client, c.kind)
  must(bytes.length <= ledger.said && bytes.equals(pattern(0, bytes.length, HANDLER)),
    `the ${bytes.length} bytes that the client got are not the first of ${ledger.said}`)
  if (reset) return
  if (reason === 'end') {
    must(whole, 'the end looks broken to the client')
    must(bytes.length === ledger.said, `${bytes.length} of ${ledger.said} bytes reached the client`)
    must(bytesWritten === ledger.said, `${bytesWritten} of ${ledger.said} bytes were counted as written`)
    if (!discards && (c.finish === 'drain' || c.finish === 'leave')) must(heard.length === sent, `${heard.length} of ${sent} bytes reached the handler`)
    must(bytesRead === sent, `${bytesRead} of ${sent} bytes were counted as read`)
  } else if (!ledger.ended && !endedBefore && (c.kind === 'body' || (c.transport !== 'unix' && ledger.quiet))) {
    must(!whole, `closed says ${reason}, and to the client it looks like an end`)
  }
}
