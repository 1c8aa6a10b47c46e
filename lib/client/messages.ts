import { FST_ERR_DUPLEX_ABORTED, FST_ERR_DUPLEX_DESTROYED, FST_ERR_DUPLEX_UPSTREAM_INVALID } from '../errors.ts'
import { Codec } from '../messages/codec.ts'
import { ENCODINGS, frames, json } from '../messages/encoding.ts'
import { FramedMessenger } from '../messages/framed-messenger.ts'
import { lines } from '../messages/framing.ts'
import type { Bytes, Messenger, MessengerSettings } from '../messages/messenger.ts'
import { WebSocketMessenger, type CloseFrame, type WebSocketOwner } from '../messages/websocket/messenger.ts'
import { loadParts } from '../messages/websocket/parts.ts'
import { webPair } from '../streams/web-pair.ts'
import { isCloseCode, NORMAL, reasonOf } from '../syntax/close-codes.ts'
import { isToken } from '../syntax/upgrade-tokens.ts'
import { acceptOf, makeKey } from '../syntax/websocket-key.ts'
import { ByteConnection } from './byte-connection.ts'
import { events } from './server-sent-events.ts'
import type { Opened } from './open.ts'
import { invalid, type Plan } from './options.ts'
import type {
  ClientClosed, ClientMessageConnection, ClientMessageOptions, ConnectOptions, DuplexWebPair, MessageFraming
} from '../../types/index.ts'

const CLOSE_TIMEOUT = 30_000

/** A plan for a connection with messages: the head that it needs, and what to make of the answer. */
export interface PlannedMessages {
  readonly plan: Plan
  connection (opened: Opened): ClientMessageConnection
}

export async function planMessages (plan: Plan, options: ConnectOptions): Promise<PlannedMessages> {
  const given = options.messages === undefined || options.messages === true ? {} : options.messages
  checkNames('messages', given, ['framing', 'encoding', 'maxLength', 'highWaterMark'])
  const settings = settingsOf(given, options)
  if (options.websocket === undefined) {
    const framing = framingOf(given.framing)
    return {
      plan: { ...plan, headers: withTypes(plan, framing) },
      connection: opened => new MessageConnection(opened, settings, { framing })
    }
  }
  const subprotocols = subprotocolsOf(options.websocket)
  await loadParts()
  const key = makeKey()
  const headers = [...plan.headers, 'Sec-WebSocket-Version', '13', 'Sec-WebSocket-Key', key]
  if (subprotocols.length > 0) headers.push('Sec-WebSocket-Protocol', subprotocols.join(', '))
  return {
    plan: { ...plan, headers },
    connection: opened => {
      const wrong = wrongWith(opened, key, subprotocols)
      if (wrong === undefined) return new MessageConnection(opened, settings, 'websocket')
      const error = new FST_ERR_DUPLEX_UPSTREAM_INVALID(wrong)
      opened.exchange.abort(error)
      throw error
    }
  }
}

function framingOf (given: unknown = 'lines'): MessageFraming {
  if (given === 'lines') return lines
  const { name, contentType, decoder, encode } = given as Partial<MessageFraming> | null ?? {}
  const whole = typeof name === 'string' && typeof contentType === 'string' && typeof decoder === 'function' && typeof encode === 'function'
  if (!whole) throw invalid('messages.framing must be "lines", or an object with name, contentType, decoder and encode')
  return given as MessageFraming
}

function subprotocolsOf (given: NonNullable<ConnectOptions['websocket']>): readonly string[] {
  if (given === true) return []
  checkNames('websocket', given, ['subprotocols'])
  const { subprotocols = [] } = given
  const named = Array.isArray(subprotocols) && (subprotocols as unknown[]).every(name => typeof name === 'string' && isToken(name))
  if (!named) throw invalid('websocket.subprotocols must be a list of names')
  return subprotocols
}

function checkNames (option: string, given: unknown, known: readonly string[]): void {
  if (typeof given !== 'object' || given === null) throw invalid(`${option} must be true or an object`)
  for (const name of Object.keys(given)) if (!known.includes(name)) throw invalid(`there is no option ${option}.${name} of connect()`)
}

function settingsOf (given: ClientMessageOptions, { messages }: ConnectOptions): MessengerSettings {
  const { encoding, maxLength = 65_536, highWaterMark = 16 } = given
  const named = typeof encoding === 'string' && Object.hasOwn(ENCODINGS, encoding) ? ENCODINGS[encoding] : encoding
  const known = named ?? (messages === undefined ? frames : json)
  if (typeof known !== 'object' || typeof known.encode !== 'function' || typeof known.decode !== 'function') {
    throw invalid('messages.encoding must be "json", "text", "binary", or an object with encode and decode')
  }
  for (const [name, value] of Object.entries({ maxLength, highWaterMark })) {
    if (!Number.isInteger(value) || value < 1) throw invalid(`messages.${name} must be a whole number from 1`)
  }
  return { codec: new Codec(known, maxLength), maxLength, highWaterMark }
}

/** Adds Content-Type and Accept. */
function withTypes ({ headers, body }: Plan, { contentType }: MessageFraming): string[] {
  const names = headers.filter((_, at) => at % 2 === 0).map(name => name.toLowerCase())
  const added = [...headers]
  if (body !== false && !names.includes('content-type')) added.push('Content-Type', contentType)
  if (!names.includes('accept')) added.push('Accept', contentType)
  return added
}

/** RFC 6455 section 4.1: what is wrong with the answer. Over HTTP/2 few servers answer a key. */
function wrongWith ({ answer: { headers, httpVersion } }: Opened, key: string, subprotocols: readonly string[]): string | undefined {
  const accept = headers['sec-websocket-accept']
  if (accept === undefined ? httpVersion !== '2.0' : accept !== acceptOf(key)) return 'Sec-WebSocket-Accept is not that of the key'
  const subprotocol = headers['sec-websocket-protocol']
  if (subprotocol !== undefined && !subprotocols.includes(subprotocol)) return `a subprotocol that was not offered: ${subprotocol}`
  if (headers['sec-websocket-extensions'] !== undefined) return 'an extension that was not offered'
  return undefined
}

/** An accepted connection whose pair carries messages. */
class MessageConnection extends ByteConnection implements WebSocketOwner {
  readonly subprotocol: string | undefined
  readonly #messenger: Messenger
  #closing: CloseFrame = { code: NORMAL, reason: '' }

  constructor (opened: Opened, settings: MessengerSettings, by: 'websocket' | { framing: MessageFraming }) {
    super(opened)
    const { exchange, answer } = opened
    const bytes: Bytes = {
      readable: answer.readable,
      writable: answer.writable,
      end: () => super.endOutput(),
      discardInput: () => super.discardInput(),
      breakOff: error => super.breakOff('error', error),
      cut: () => exchange.abort(new FST_ERR_DUPLEX_DESTROYED())
    }
    if (by === 'websocket') {
      this.subprotocol = answer.headers['sec-websocket-protocol']
      const none = { extensions: {}, renewed: () => ({}), subprotocol: this.subprotocol }
      this.#messenger = new WebSocketMessenger(bytes, this, settings, { ...none, closeTimeout: CLOSE_TIMEOUT, client: true })
    } else {
      const { framing } = by
      const into = /^text\/event-stream\b/i.test(answer.headers['content-type'] ?? '') ? events : framing
      this.#messenger = new FramedMessenger(bytes, this, settings, { in: into, out: framing })
    }
    void exchange.over.then(({ error }) => this.#messenger.over(error ?? new FST_ERR_DUPLEX_ABORTED()))
  }

  override get readable (): Messenger['readable'] { return this.#messenger.readable }
  override get writable (): Messenger['writable'] { return this.#messenger.writable }

  readonly send = (message: unknown): Promise<void> => this.#messenger.writable.send(message)

  override web (): DuplexWebPair { return webPair(this.readable, this.writable, message => message as never) }

  override close ({ code = NORMAL, reason = '' }: { code?: number | undefined, reason?: string | undefined } = {}): Promise<ClientClosed> {
    if (!isCloseCode(code)) throw invalid(`close({ code }) must be one that RFC 6455 section 7.4 lets an endpoint send, got ${code}`)
    this.#closing = { code, reason: reasonOf(reason) }
    return super.close()
  }

  onInvalid (error: Error): never { throw error }

  failed (reason: 'error' | 'destroyed' | 'abort' | 'fin', error: Error | undefined): void {
    this.cause ??= { reason: reason === 'fin' ? 'abort' : reason, error }
    this.#messenger.breakOff(error, reason === 'error')
  }

  closing (): CloseFrame { return this.#closing }

  protected override endOutput (): void { this.#messenger.end() }
  protected override discardInput (): void { this.#messenger.discardInput() }

  protected override facts (): Pick<ClientClosed, 'websocket'> {
    const { websocket } = this.#messenger
    return websocket === undefined ? {} : { websocket }
  }
}
