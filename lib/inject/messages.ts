import type { IncomingHttpHeaders } from 'node:http'
import type { Readable, Writable } from 'node:stream'
import { randomBytes } from 'node:crypto'
import { events } from '../client/server-sent-events.ts'
import { Codec } from '../messages/codec.ts'
import { json } from '../messages/encoding.ts'
import { FramedMessenger } from '../messages/framed-messenger.ts'
import { lines, sse } from '../messages/framing.ts'
import { kEncoding } from '../messages/message-connection.ts'
import type { Bytes, Messenger, MessengerOwner } from '../messages/messenger.ts'
import { WebSocketMessenger } from '../messages/websocket/messenger.ts'
import { loadParts } from '../messages/websocket/parts.ts'
import { channels } from '../observability/channels.ts'
import { invalid, type Injected } from './options.ts'
import type { InjectDuplexClosed, MessageEncoding } from '../../types/index.ts'

export interface InMessages {
  readonly options: object
  readonly websocket: boolean
}

/** Reads `messages` and `websocket`, and makes a request of them. */
export function inMessages (given: object): InMessages | undefined {
  const { messages, websocket, ...options } = given as {
    messages?: unknown, websocket?: unknown, headers?: Record<string, unknown>, [option: string]: unknown
  }
  if (messages !== undefined && typeof messages !== 'boolean') throw invalid('messages is no boolean')
  if (websocket !== undefined && typeof websocket !== 'boolean') throw invalid('websocket is no boolean')
  if (websocket === true) {
    return {
      websocket,
      options: {
        protocol: 'websocket',
        ...options,
        headers: { 'sec-websocket-version': '13', 'sec-websocket-key': randomBytes(16).toString('base64'), ...options.headers }
      }
    }
  }
  if (messages !== true) return undefined
  const { method = 'GET', protocol, payload, headers } = options
  const isStream = protocol !== undefined || payload !== undefined || String(method).toUpperCase() === 'CONNECT'
  const body = { 'content-type': lines.contentType, 'transfer-encoding': 'chunked' }
  return { websocket: false, options: { ...options, headers: { ...isStream ? {} : body, ...headers } } }
}

/** Finds out how the route of this request encodes its messages. That is known when it accepts. */
export function watchEncoding (url: unknown): { readonly encoding: MessageEncoding, stop (): void } {
  let encoding = json
  const hear = (message: unknown): void => {
    const { connection, request } = message as { connection: { [kEncoding]?: MessageEncoding }, request: { originalUrl: string } }
    if (request.originalUrl === url) encoding = connection[kEncoding] ?? encoding
  }
  channels.accept.subscribe(hear)
  return { get encoding () { return encoding }, stop: () => channels.accept.unsubscribe(hear) }
}

/** The client's side of an injected connection, in messages. A refusal is still read as bytes. */
export async function messagesOf (injected: Injected, websocket: boolean, encoding: MessageEncoding): Promise<object> {
  const { statusCode, headers, readable, writable, closed } = injected
  if (statusCode !== 101 && (statusCode < 200 || statusCode > 299)) return injected
  if (websocket) await loadParts()
  const messenger = messengerOn(readable, writable, headers, websocket, encoding)
  readable.once('close', () => setImmediate(() => messenger.over(new Error('the connection is closed'))))
  return {
    ...injected,
    readable: messenger.readable,
    writable: messenger.writable,
    send: (message: unknown) => messenger.writable.send(message),
    closed: closed.then((ended: InjectDuplexClosed) => {
      const { websocket } = messenger
      return websocket === undefined ? ended : { ...ended, websocket }
    })
  }
}

const NO_LIMIT = 2 ** 31 - 1

function messengerOn (
  readable: Readable, writable: Writable, headers: IncomingHttpHeaders, websocket: boolean, encoding: MessageEncoding
): Messenger {
  const bytes: Bytes = {
    readable,
    writable,
    end: () => { if (!writable.writableEnded) writable.end() },
    discardInput: () => readable.resume(),
    breakOff: error => {
      readable.destroy(error)
      writable.destroy(error)
    },
    cut: () => readable.destroy()
  }
  const owner: MessengerOwner = {
    onInvalid: error => { throw error },
    failed: (_reason, error) => messenger.breakOff(error, false)
  }
  const settings = { codec: new Codec(encoding, NO_LIMIT), maxLength: NO_LIMIT, highWaterMark: 16 }
  const messenger: Messenger = websocket
    ? new WebSocketMessenger(bytes, { ...owner, closing: () => ({ code: 1000, reason: '' }) }, settings, {
      extensions: {}, renewed: () => ({}), subprotocol: undefined, closeTimeout: 30_000, client: true
    })
    : new FramedMessenger(bytes, owner, settings, { in: isEvents(headers) ? events : lines, out: lines })
  return messenger
}

function isEvents (headers: IncomingHttpHeaders): boolean {
  return headers['content-type']?.startsWith(sse.contentType) === true
}
