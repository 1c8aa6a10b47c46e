import { FST_ERR_DUPLEX_MESSAGE_CUT, FST_ERR_DUPLEX_MESSAGE_TOO_LONG } from '../errors.ts'
import type { LengthPrefixedOptions, MessageDecoder, MessageFraming, MessageLimits } from '../../types/messages.ts'
import { ByteQueue } from './byte-queue.ts'

const LF = 0x0a
const CR = 0x0d
const BOM = Buffer.from([0xef, 0xbb, 0xbf])

/** One message in each line, as in NDJSON. Empty lines are skipped. The last line needs no line end. */
export const lines: MessageFraming = {
  name: 'lines',
  contentType: 'application/x-ndjson',
  decoder: limits => new LineDecoder(limits),
  encode (payload) {
    if (payload.length === 0) throw new TypeError('a line cannot hold an empty message')
    if (typeof payload === 'string') {
      if (payload.includes('\n') || payload.endsWith('\r')) throw new TypeError('a line cannot hold the end of a line')
      return `${payload}\n`
    }
    if (payload.includes(LF) || payload[payload.length - 1] === CR) throw new TypeError('a line cannot hold the end of a line')
    return Buffer.concat([payload, Buffer.of(LF)])
  },
  heartbeat: '\n'
}

class LineDecoder implements MessageDecoder {
  readonly #maxLength: number
  #held: Buffer[] = []
  #heldLength = 0
  /** The line is too long, and the error was given. The rest of the line is dropped. */
  #skipping = false
  #first = true

  constructor ({ maxLength }: MessageLimits) {
    this.#maxLength = maxLength
  }

  * decode (chunk: Buffer): Generator<Buffer | Error> {
    for (let at = 0; at < chunk.length;) {
      const end = chunk.indexOf(LF, at)
      const piece = chunk.subarray(at, end === -1 ? chunk.length : end)
      at = end === -1 ? chunk.length : end + 1
      if (!this.#skipping && this.#heldLength + piece.length > this.#mostHeld) {
        this.#drop()
        this.#skipping = true
        yield new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
      }
      if (end === -1) {
        if (!this.#skipping) this.#hold(piece)
      } else if (this.#skipping) {
        this.#skipping = false
        this.#first = false
      } else {
        yield * this.#line(piece)
      }
    }
  }

  * end (): Generator<Buffer | Error> {
    if (!this.#skipping) yield * this.#line(Buffer.alloc(0))
  }

  /** A line may have a CR at its end. The first line may have a BOM at its start. */
  get #mostHeld (): number { return this.#maxLength + 1 + (this.#first ? BOM.length : 0) }

  * #line (last: Buffer): Generator<Buffer | Error> {
    let line = this.#held.length === 0 ? last : Buffer.concat([...this.#held, last])
    this.#drop()
    if (this.#first) {
      this.#first = false
      line = withoutBom(line)
    }
    if (line[line.length - 1] === CR) line = line.subarray(0, -1)
    if (line.length > this.#maxLength) yield new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
    else if (line.length > 0) yield line
  }

  #hold (piece: Buffer): void {
    // This is a copy, because a few bytes would keep the whole chunk in memory. Small pieces are joined, because a line that
    // arrives byte by byte would be as many objects.
    const latest = this.#held[this.#held.length - 1]
    if (latest !== undefined && latest.length + piece.length <= 4096) this.#held[this.#held.length - 1] = Buffer.concat([latest, piece])
    else this.#held.push(Buffer.from(piece))
    this.#heldLength += piece.length
  }

  #drop (): void {
    this.#held = []
    this.#heldLength = 0
  }
}

function withoutBom (bytes: Buffer): Buffer {
  return bytes.length >= BOM.length && bytes.subarray(0, BOM.length).equals(BOM) ? bytes.subarray(BOM.length) : bytes
}

/** Server-Sent Events, for output only. Each message is one event, and each line of it is a `data` field. */
export const sse: MessageFraming = {
  name: 'sse',
  contentType: 'text/event-stream',
  encode (payload) {
    const text = typeof payload === 'string' ? payload : new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(payload)
    // Any of these three ends a field of an event.
    return /[\r\n]/.test(text) ? `${text.split(/\r\n|\r|\n/).map(line => `data: ${line}\n`).join('')}\n` : `data: ${text}\n\n`
  },
  heartbeat: ':\n\n'
}

/** The framings that an option can name. 'websocket' is no framing of a stream of bytes. */
export const FRAMINGS: Readonly<Record<string, MessageFraming>> = { lines, sse }

/** The whole body is one message. */
export const single: MessageFraming = {
  name: 'single',
  contentType: 'application/json',
  decoder: limits => new SingleDecoder(limits),
  encode: payload => payload
}

class SingleDecoder implements MessageDecoder {
  readonly #maxLength: number
  readonly #queue = new ByteQueue()

  constructor ({ maxLength }: MessageLimits) {
    this.#maxLength = maxLength
  }

  decode (chunk: Buffer): Iterable<Buffer> {
    if (this.#queue.length + chunk.length > this.#maxLength) throw new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
    this.#queue.push(chunk)
    return []
  }

  end (): Iterable<Buffer> {
    return this.#queue.length === 0 ? [] : [withoutBom(this.#queue.take(this.#queue.length))]
  }
}

/** The most bytes that a varint length may have: 32 bits, seven in each byte. */
const LONGEST_VARINT = 5

/**
 * Each message follows its length in bytes. What the bytes are is left to the encoding of the route: MessagePack behind four bytes
 * is `framing: lengthPrefixed({ size: 4, contentType })`, with an `encoding` of the app.
 */
export function lengthPrefixed (options: LengthPrefixedOptions): MessageFraming {
  const { size, endian = 'big', contentType = 'application/octet-stream' } = options
  const most = size === 'varint' ? 2 ** 32 - 1 : 2 ** (8 * size) - 1
  return {
    name: 'lengthPrefixed',
    contentType,
    decoder: limits => new PrefixDecoder(limits, size, endian),
    encode (payload) {
      const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload
      if (bytes.length > most) throw new RangeError(`a length of ${size} byte${size === 1 ? '' : 's'} cannot tell ${bytes.length}`)
      return Buffer.concat([prefixOf(bytes.length, size, endian), bytes])
    }
  }
}

function prefixOf (length: number, size: LengthPrefixedOptions['size'], endian: 'big' | 'little'): Buffer {
  if (size === 'varint') {
    const bytes: number[] = []
    let left = length
    while (left >= 0x80) {
      bytes.push(left % 0x80 + 0x80)
      left = Math.floor(left / 0x80)
    }
    return Buffer.from([...bytes, left])
  }
  const prefix = Buffer.alloc(size)
  if (endian === 'big') prefix.writeUIntBE(length, 0, size)
  else prefix.writeUIntLE(length, 0, size)
  return prefix
}

class PrefixDecoder implements MessageDecoder {
  readonly #maxLength: number
  readonly #size: LengthPrefixedOptions['size']
  readonly #endian: 'big' | 'little'
  readonly #queue = new ByteQueue()
  /** The length of the message that is arriving, once it is known. */
  #length: number | undefined
  /** How many bytes of a message that is too long are still to be dropped. */
  #left = 0

  constructor ({ maxLength }: MessageLimits, size: LengthPrefixedOptions['size'], endian: 'big' | 'little') {
    this.#maxLength = maxLength
    this.#size = size
    this.#endian = endian
  }

  * decode (chunk: Buffer): Generator<Buffer | Error> {
    const queue = this.#queue
    queue.push(chunk)
    for (;;) {
      if (this.#left > 0) this.#left -= queue.skip(this.#left)
      this.#length ??= this.#left > 0 ? undefined : this.#readLength()
      if (this.#length === undefined) return
      if (this.#length > this.#maxLength) {
        this.#left = this.#length
        this.#length = undefined
        yield new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
        continue
      }
      if (queue.length < this.#length) return
      const payload = queue.take(this.#length)
      this.#length = undefined
      yield payload
    }
  }

  end (): Iterable<Buffer> {
    if (this.#length !== undefined || this.#left > 0 || this.#queue.length > 0) throw new FST_ERR_DUPLEX_MESSAGE_CUT()
    return []
  }

  #readLength (): number | undefined {
    const queue = this.#queue
    if (this.#size === 'varint') return this.#readVarint()
    if (queue.length < this.#size) return undefined
    const prefix = queue.take(this.#size)
    return this.#endian === 'big' ? prefix.readUIntBE(0, this.#size) : prefix.readUIntLE(0, this.#size)
  }

  #readVarint (): number | undefined {
    const queue = this.#queue
    let value = 0
    for (let at = 0; at < LONGEST_VARINT; at++) {
      if (at === queue.length) return undefined
      const byte = queue.at(at)
      value += (byte & 0x7f) * 2 ** (7 * at)
      if (byte >= 0x80) continue
      queue.skip(at + 1)
      return value
    }
    throw new FST_ERR_DUPLEX_MESSAGE_TOO_LONG(this.#maxLength)
  }
}
