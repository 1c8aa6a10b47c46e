import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { commandOf, unreadable, UsageError, type Command } from './netcat-arguments.ts'
import { connect } from './connect.ts'
import { feed } from './feed.ts'
import { DuplexRefused } from './refused.ts'
import { whatHappened, type Going } from './netcat-errors.ts'
import type { ClientConnection, ClientMessageConnection } from '../../types/index.ts'

/** The parts of a process that the program uses. */
export interface Terminal {
  readonly argv: readonly string[]
  readonly env: NodeJS.ProcessEnv
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable
  readonly version: () => string
  /** Aborts when the program has to stop. The reason has the exit code. */
  readonly signal: AbortSignal
}

/** The program was told to stop. */
export class Interrupted extends Error {
  readonly exitCode: number

  constructor (exitCode: number) {
    super('interrupted')
    this.exitCode = exitCode
  }
}

class OutputLost extends Error {
  constructor (cause: Error & { code?: string }) {
    // A pipe that nobody reads any more has nothing else to say.
    super(cause.code === 'EPIPE' || cause.code?.startsWith('ERR_STREAM') === true
      ? 'standard output was closed'
      : `standard output cannot be written: ${cause.message}`)
  }
}

/** @returns the exit code. It never rejects. When it resolves, all output has left */
export async function netcat (terminal: Terminal): Promise<number> {
  const { argv, env, stdout, stderr, version } = terminal
  // A failed write is reported by that write. If standard error is closed, there is nowhere to report that.
  stdout.on('error', () => {})
  stderr.on('error', () => {})
  let going: Going | undefined
  try {
    const command = commandOf(argv, env, version)
    if (typeof command === 'string') {
      await print(stdout, command)
    } else {
      going = { secure: /^(?:https|wss):/i.test(command.url), http2: command.options.http2 === true }
      await join(terminal, command)
    }
    return 0
  } catch (error) {
    return await tell(terminal, error as Error, going)
  }
}

async function join (terminal: Terminal, { url, options, verbose, dataFromInput }: Command): Promise<void> {
  const { stdin, stdout, stderr, signal } = terminal
  const broken = once(stdout, 'error').then(([error]) => { throw new OutputLost(error as Error) })
  broken.catch(() => {})
  // A server may read the whole body before it answers, so stdin is sent at once.
  const body = dataFromInput ? await allOf(stdin, signal) : options.body === true ? stdin : options.body
  const given = { ...options, body }
  const connection = await Promise.race([connect(url, { ...given, signal }), broken])
  if (verbose) await print(stderr, headOf(connection))
  try {
    const isFed = given.body === stdin
    const speaking = options.websocket === undefined ? bytes(connection, terminal, isFed) : lines(connection as never, terminal)
    await Promise.race([speaking, broken])
  } catch (error) {
    connection.destroy(error as Error)
    throw signal.aborted ? signal.reason : error
  }
}

/** A synchronous read would fail on a pipe that is still empty, and could not be interrupted. */
async function allOf (stdin: Readable, signal: AbortSignal): Promise<Buffer> {
  const interrupted = once(signal, 'abort').then(() => { throw signal.reason })
  interrupted.catch(() => {})
  signal.throwIfAborted()
  return await Promise.race([buffer(stdin).catch((error: unknown) => { throw unreadable('standard input', error) }), interrupted])
}

/** Sends and prints until the server has ended. */
async function bytes (connection: ClientConnection, { stdin, stdout }: Terminal, isFed: boolean): Promise<void> {
  const { readable, writable } = connection
  const input = !writable.writableEnded && !isFed ? feed(stdin, writable, error => inputFailed(connection, error)) : undefined
  for await (const chunk of readable as AsyncIterable<Buffer>) await print(stdout, chunk)
  input?.stop()
  if (!writable.writableEnded) writable.end()
  await ended(connection)
}

/** Each line is sent as a message, and each message is printed as a line. */
async function lines (connection: ClientMessageConnection<string | Buffer, string>, { stdin, stdout }: Terminal): Promise<void> {
  const { readable } = connection
  // It is the end for readline, too.
  stdin.once('error', error => inputFailed(connection, error))
  const input = createInterface({ input: stdin, crlfDelay: Infinity })
  const sending = (async () => {
    for await (const line of input) await connection.send(line)
    void connection.close()
  })()
  // The other half reports this error.
  sending.catch(() => {})
  for await (const message of readable) {
    await print(stdout, typeof message === 'string' ? `${message}\n` : Buffer.concat([message, Buffer.from('\n')]))
  }
  input.close()
  const { websocket } = await ended(connection)
  if (websocket !== undefined && websocket.code !== 1000 && websocket.code !== 1001 && websocket.code !== 1005) {
    throw new Error(`the server closed the WebSocket with ${websocket.code}${websocket.reason === '' ? '' : ` ${websocket.reason}`}`)
  }
}

function inputFailed (connection: Pick<ClientConnection, 'destroy'>, error: Error): void {
  connection.destroy(new Error(`standard input cannot be read: ${error.message}`))
}

async function ended ({ closed }: Pick<ClientConnection, 'closed'>) {
  const end = await closed
  if (end.reason !== 'end') throw end.error ?? new Error('the connection broke')
  return end
}

/** Resolves when the text has left. */
function print (stream: Writable, text: string | Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, error => error == null ? resolve() : reject(new OutputLost(error)))
  })
}

function headOf ({ httpVersion, statusCode, headers }: ClientConnection): string {
  const fields = Object.entries(headers).flatMap(([name, value]) => [value ?? []].flat().map(one => `${name}: ${one}\n`))
  return oneLine(`HTTP/${httpVersion} ${statusCode}`) + `\n${fields.map(field => `${oneLine(field)}\n`).join('')}\n`
}

async function tell ({ stderr, signal }: Terminal, error: Error & { code?: string }, going: Going | undefined): Promise<number> {
  if (error instanceof Interrupted) return error.exitCode
  const lines = [`fastify-duplex: ${oneLine(whatHappened(error, going))}`]
  if (error instanceof DuplexRefused) lines.push(...await bodyOf(error))
  // The body of a refusal may take seconds.
  if (signal.reason instanceof Interrupted) return signal.reason.exitCode
  const usage = error instanceof UsageError || error instanceof TypeError || error.code === 'FST_ERR_DUPLEX_INVALID_OPTION'
  if (usage) lines.push('fastify-duplex --help tells more')
  await print(stderr, `${lines.join('\n')}\n`).catch(() => {})
  return usage ? 2 : 1
}

async function bodyOf (refused: DuplexRefused): Promise<string[]> {
  try {
    const text = (await refused.body()).toString('utf8').replace(/[^\P{Cc}\n\t]/gu, '').trimEnd()
    return text === '' ? [] : [text]
  } catch {
    return ['(its answer was cut off)']
  }
}

/** A text of the server must not control the terminal. */
function oneLine (text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ').trim()
}
