import { invalidOption, type Loose } from '../check-options.ts'
import type { MessageEncoding, MessageFraming, WebSocketSettings } from '../../types/index.ts'
import { binary, ENCODINGS, frames, json, text } from './encoding.ts'
import { FRAMINGS, lines, sse } from './framing.ts'

/** The message options of a route, with defaults filled in. */
export interface MessageSettings {
  /** Schemas, or functions of the request that return them. */
  readonly in: unknown
  readonly out: unknown
  readonly websocket: WebSocketSettings | undefined
  /** The framings for streams of bytes. The first one is the default. */
  readonly streams: readonly MessageFraming[]
  readonly sse: boolean
  readonly encoding: MessageEncoding
  readonly maxLength: number
  readonly highWaterMark: number
  /** In milliseconds, 0 for none. */
  readonly heartbeat: number
  readonly onInvalid: 'close' | 'skip' | ((error: Error, connection: unknown) => unknown)
}

type Place = { route: string }

const KNOWN = ['in', 'out', 'framing', 'encoding', 'maxLength', 'highWaterMark', 'heartbeat', 'onInvalid', 'websocket']
const WEBSOCKET = ['subprotocols', 'origin', 'perMessageDeflate']
const LONGEST = 2 ** 31 - 1

/**
 * @param given the options of the route
 * @returns undefined if the route has neither `messages` nor `websocket`
 */
export function messageSettings (given: { messages?: unknown, websocket?: unknown }, route: string): MessageSettings | undefined {
  const place = { route }
  const { messages, websocket } = given
  if (messages === undefined || messages === false) {
    if (websocket === undefined || websocket === false) return undefined
    const settings = websocket === true ? {} : webSocketSettings(websocket, ['maxLength', 'highWaterMark', 'heartbeat'], place)
    return complete({ ...settings, framing: ['websocket'], encoding: frames }, settings, place)
  }
  if (websocket !== undefined) throw invalidOption('websocket', 'inside messages: { websocket } on a route that has messages', websocket, place)
  if (messages !== true && !isObject(messages)) throw invalidOption('messages', 'true or an object', messages, place)
  const options = messages === true ? {} : messages as Loose
  checkNames('messages', options, KNOWN, place)
  return complete(options, webSocketSettings(options.websocket ?? {}, [], place), place)
}

function complete (options: Loose, websocket: Loose, place: Place): MessageSettings {
  const encoding = encodingOf(options.encoding, place)
  const isText = encoding === json || encoding === text
  const framings = framingsOf(options.framing, isText, place)
  for (const framing of framings) {
    if ((framing === lines || framing === sse) && encoding === binary) {
      throw invalidOption('messages.framing', `one that holds bytes, as encoding is "binary", and not "${framing.name}"`, framing.name, place)
    }
  }
  for (const name of ['in', 'out']) {
    const schema = options[name]
    if (schema === undefined) continue
    if (typeof schema !== 'function' && !isObject(schema) && typeof schema !== 'boolean') throw invalidOption(`messages.${name}`, 'a schema', schema, place)
    if (encoding === binary) throw invalidOption(`messages.${name}`, 'left out where encoding is "binary"', schema, place)
  }
  const { onInvalid = 'close' } = options
  if (onInvalid !== 'close' && onInvalid !== 'skip' && typeof onInvalid !== 'function') {
    throw invalidOption('messages.onInvalid', '"close", "skip" or a function', onInvalid, place)
  }
  return {
    in: options.in,
    out: options.out,
    websocket: framings.includes('websocket') ? websocket : undefined,
    streams: framings.filter((framing): framing is MessageFraming => typeof framing === 'object' && framing.decoder !== undefined),
    sse: framings.includes(sse),
    encoding,
    maxLength: count('maxLength', options.maxLength, 65_536, place),
    highWaterMark: count('highWaterMark', options.highWaterMark, 16, place),
    heartbeat: options.heartbeat === 0 ? 0 : count('heartbeat', options.heartbeat, 0, place),
    onInvalid: onInvalid as MessageSettings['onInvalid']
  }
}

function encodingOf (value: unknown, place: Place): MessageEncoding {
  if (value === undefined) return json
  const named = typeof value === 'string' && Object.hasOwn(ENCODINGS, value) ? ENCODINGS[value] : undefined
  if (named !== undefined) return named
  if (isObject(value) && typeof value.encode === 'function' && typeof value.decode === 'function') return value as unknown as MessageEncoding
  throw invalidOption('messages.encoding', '"json", "text", "binary", or an object with encode and decode', value, place)
}

function framingsOf (value: unknown, isText: boolean, place: Place): ('websocket' | MessageFraming)[] {
  const list: unknown[] = value === undefined ? isText ? ['websocket', 'lines', 'sse'] : ['websocket'] : [value].flat()
  if (list.length === 0) throw invalidOption('messages.framing', 'a list with a framing in it', value, place)
  return list.map(framing => {
    if (framing === 'websocket') return framing
    const named = typeof framing === 'string' && Object.hasOwn(FRAMINGS, framing) ? FRAMINGS[framing] : undefined
    if (named !== undefined) return named
    if (isObject(framing) && typeof framing.name === 'string' && typeof framing.contentType === 'string' && typeof framing.encode === 'function') {
      return framing as unknown as MessageFraming
    }
    throw invalidOption('messages.framing', 'made of "websocket", "lines", "sse", and objects with name, contentType, decoder and encode', framing, place)
  })
}

function webSocketSettings (value: unknown, others: readonly string[], place: Place): Loose {
  if (!isObject(value)) throw invalidOption('websocket', 'true or an object', value, place)
  checkNames('websocket', value, [...WEBSOCKET, ...others], place)
  const { subprotocols, origin, perMessageDeflate } = value
  if (subprotocols !== undefined && typeof subprotocols !== 'function' && !isList(subprotocols)) {
    throw invalidOption('websocket.subprotocols', 'a function or a list of names', subprotocols, place)
  }
  if (origin !== undefined && origin !== 'same' && origin !== false && typeof origin !== 'function' && !isList(origin)) {
    throw invalidOption('websocket.origin', '"same", false, a function or a list of origins', origin, place)
  }
  if (perMessageDeflate !== undefined && typeof perMessageDeflate !== 'boolean' && !isObject(perMessageDeflate)) {
    throw invalidOption('websocket.perMessageDeflate', 'a boolean or an object', perMessageDeflate, place)
  }
  return value
}

function isList (value: unknown): boolean {
  return Array.isArray(value) && value.every(entry => typeof entry === 'string' && /^[!-~]+$/.test(entry))
}

function count (name: string, value: unknown, standard: number, place: Place): number {
  if (value === undefined) return standard
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > LONGEST) {
    throw invalidOption(`messages.${name}`, `a whole number from 1 to ${LONGEST}`, value, place)
  }
  return value as number
}

function checkNames (option: string, given: Loose, known: readonly string[], place: Place): void {
  for (const name of Object.keys(given)) {
    if (!known.includes(name) && given[name] !== undefined) throw invalidOption(option, `made of ${known.join(', ')}`, name, place)
  }
}

function isObject (value: unknown): value is Loose {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
