import t from 'tap'
import fc from 'fast-check'
import { lengthPrefixed } from '../lib/index.ts'
import { binary, frames, json, text } from '../lib/messages/encoding.ts'
import { lines, single, sse } from '../lib/messages/framing.ts'
import type { MessageEncoding, MessageFraming } from '../lib/index.ts'

/** What a decoder makes of these chunks: payloads as text, errors by their code, and what it throws behind them. */
function decode (framing: MessageFraming, chunks: readonly Buffer[], maxLength = 1000): string[] {
  const decoder = framing.decoder?.({ maxLength })
  if (decoder === undefined) throw new TypeError(`${framing.name} decodes nothing`)
  const found: string[] = []
  const add = (payloads: Iterable<Uint8Array | Error>): void => {
    for (const payload of payloads) found.push(payload instanceof Error ? codeOf(payload) : Buffer.from(payload).toString('latin1'))
  }
  try {
    for (const chunk of chunks) add(decoder.decode(chunk))
    add(decoder.end())
  } catch (error) {
    found.push(`threw ${codeOf(error as Error)}`)
  }
  return found
}

const codeOf = (error: Error): string => ((error as { code?: string }).code ?? error.name).replace('FST_ERR_DUPLEX_', '')

/** The bytes in two pieces, for each place between them. */
function * splits (bytes: Buffer): Generator<Buffer[]> {
  for (let at = 0; at <= bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)]
}

t.test('MS5 lines: every split, empty lines, CRLF, a BOM, NUL, UTF-8 in pieces, no end of the last line', t => {
  const input = Buffer.from('\ufeff{"a":1}\r\n\n\r\n"\u00e4\u20ac\ud83d\ude00"\n"\0"\n\n[2]')
  const expected = ['{"a":1}', Buffer.from('"\u00e4\u20ac\ud83d\ude00"').toString('latin1'), '"\0"', '[2]']
  for (const chunks of splits(input)) t.strictSame(decode(lines, chunks), expected)
  t.strictSame(decode(lines, [...input].map(byte => Buffer.of(byte))), expected)
  t.end()
})

t.test('MS5 lines: 10 000 of them in one chunk, and in chunks of seven bytes', t => {
  const messages = Array.from({ length: 10_000 }, (_, at) => `${at}`)
  const input = Buffer.from(messages.map(message => `${message}\n`).join(''))
  t.strictSame(decode(lines, [input]), messages)
  const chunks: Buffer[] = []
  for (let at = 0; at < input.length; at += 7) chunks.push(input.subarray(at, at + 7))
  t.strictSame(decode(lines, chunks), messages)
  t.end()
})

t.test('MS4 a line that is too long is told of once, as soon as that is known, and the next one is read', t => {
  const decoder = lines.decoder?.({ maxLength: 4 })
  t.strictSame([...decoder?.decode(Buffer.from('1234\n12345678')) ?? []].map(payload => payload instanceof Error ? codeOf(payload) : String(payload)),
    ['1234', 'MESSAGE_TOO_LONG'])
  t.strictSame([...decoder?.decode(Buffer.alloc(1000, 'x')) ?? []], [])
  t.strictSame([...decoder?.decode(Buffer.from('\nafter')) ?? []], [])
  t.strictSame([...decoder?.end() ?? []].map(payload => payload instanceof Error && codeOf(payload)), ['MESSAGE_TOO_LONG'], 'five bytes, of four')
  for (const chunks of splits(Buffer.from('\ufeff1234\r\n12345\r\n1234'))) t.strictSame(decode(lines, chunks, 4), ['1234', 'MESSAGE_TOO_LONG', '1234'])
  t.end()
})

t.test('MS5 lines, sse: what does not fit a line is not sent', t => {
  for (const payload of ['', 'a\nb', 'a\r', Buffer.from('a\nb'), Buffer.from('a\r'), Buffer.alloc(0)]) t.throws(() => lines.encode(payload), TypeError)
  t.equal(lines.encode('{}'), '{}\n')
  t.equal(String(lines.encode(Buffer.from('{}'))), '{}\n')
  t.equal(sse.encode('{}'), 'data: {}\n\n')
  t.equal(sse.encode('a\nb\r\nc\rd'), 'data: a\ndata: b\ndata: c\ndata: d\n\n')
  t.equal(sse.encode(Buffer.from('{}')), 'data: {}\n\n')
  t.throws(() => sse.encode(Buffer.of(0xff)), TypeError)
  t.equal(sse.decoder, undefined)
  t.end()
})

t.test('MS5 one message that is the whole body', t => {
  for (const chunks of splits(Buffer.from('{"a":1}'))) t.strictSame(decode(single, chunks), ['{"a":1}'])
  t.strictSame(decode(single, []), [])
  for (const chunks of splits(Buffer.from('12345'))) t.strictSame(decode(single, chunks, 4), ['threw MESSAGE_TOO_LONG'])
  t.end()
})

const prefixes: [string, MessageFraming, Buffer][] = [
  ['1 byte', lengthPrefixed({ size: 1 }), Buffer.from('\x03abc\x00\x01d', 'latin1')],
  ['2 bytes', lengthPrefixed({ size: 2 }), Buffer.from('\0\x03abc\0\0\0\x01d', 'latin1')],
  ['2 bytes, little', lengthPrefixed({ size: 2, endian: 'little' }), Buffer.from('\x03\0abc\0\0\x01\0d', 'latin1')],
  ['4 bytes', lengthPrefixed({ size: 4 }), Buffer.from('\0\0\0\x03abc\0\0\0\0\0\0\0\x01d', 'latin1')],
  ['4 bytes, little', lengthPrefixed({ size: 4, endian: 'little' }), Buffer.from('\x03\0\0\0abc\0\0\0\0\x01\0\0\0d', 'latin1')],
  ['a varint', lengthPrefixed({ size: 'varint' }), Buffer.from('\x03abc\x00\x01d', 'latin1')]
]

for (const [name, framing, bytes] of prefixes) {
  t.test(`MS10 lengths of ${name}: what they look like, and every split of them`, t => {
    t.strictSame(Buffer.concat(['abc', '', 'd'].map(message => Buffer.from(framing.encode(message)))), bytes)
    for (const chunks of splits(bytes)) t.strictSame(decode(framing, chunks), ['abc', '', 'd'])
    t.strictSame(decode(framing, [bytes.subarray(0, -1)]), ['abc', '', 'threw MESSAGE_CUT'])
    t.strictSame(decode(framing, [bytes], 2), ['MESSAGE_TOO_LONG', '', 'd'], 'a message that is too long is passed over')
    for (const chunks of splits(bytes)) t.strictSame(decode(framing, chunks, 2), ['MESSAGE_TOO_LONG', '', 'd'])
    t.end()
  })
}

t.test('MS10 a varint of many bytes, one that is longer than a length, and lengths that do not fit', t => {
  const framing = lengthPrefixed({ size: 'varint', contentType: 'application/x-protobuf' })
  t.equal(framing.contentType, 'application/x-protobuf')
  t.strictSame(Buffer.from(framing.encode('x'.repeat(300))).subarray(0, 2), Buffer.of(0xac, 0x02))
  t.strictSame(decode(framing, [Buffer.alloc(6, 0x80)]), ['threw MESSAGE_TOO_LONG'])
  t.strictSame(decode(framing, [Buffer.of(0xff, 0xff, 0xff, 0xff, 0x0f), Buffer.alloc(10)]), ['MESSAGE_TOO_LONG', 'threw MESSAGE_CUT'])
  t.strictSame(decode(framing, [Buffer.of(0x80)]), ['threw MESSAGE_CUT'])
  t.throws(() => lengthPrefixed({ size: 1 }).encode('x'.repeat(256)), RangeError)
  t.end()
})

t.test('MS10 round trips: any messages, in any framing that holds them, cut anywhere', t => {
  const payloads = fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 20 })
  const cuts = fc.array(fc.nat(), { maxLength: 20 })
  for (const size of [2, 4, 'varint'] as const) {
    const framing = lengthPrefixed({ size })
    fc.assert(fc.property(payloads, cuts, (messages, cuts) => {
      const bytes = Buffer.concat(messages.map(message => Buffer.from(framing.encode(message))))
      t.strictSame(decode(framing, cutAt(bytes, cuts)), messages.map(message => Buffer.from(message).toString('latin1')))
    }), { numRuns: 30 })
  }
  fc.assert(fc.property(fc.array(fc.json(), { maxLength: 20 }), cuts, (messages, cuts) => {
    const bytes = Buffer.from(messages.map(message => lines.encode(message) as string).join(''))
    t.strictSame(decode(lines, cutAt(bytes, cuts), 100_000), messages.map(message => Buffer.from(message).toString('latin1')))
  }), { numRuns: 30 })
  t.end()
})

function cutAt (bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map(cut => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...places].map((from, at) => bytes.subarray(from, places[at]))
}

t.test('MS5 encodings: what each takes and gives', t => {
  const give = (encoding: MessageEncoding, message: unknown, isText?: boolean): unknown =>
    encoding.decode(Buffer.from(encoding.encode(message) as string), isText)
  t.strictSame(give(json, { a: [1, null, '\u20ac\0'] }), { a: [1, null, '\u20ac\0'] })
  t.throws(() => json.encode(undefined), TypeError)
  t.throws(() => json.encode(1n), TypeError)
  t.throws(() => json.decode(Buffer.of(0x22, 0xff, 0x22)), SyntaxError)
  t.throws(() => json.decode(Buffer.from('{')), SyntaxError)
  t.equal(give(text, '\u20ac'), '\u20ac')
  t.throws(() => text.encode(1), TypeError)
  t.throws(() => text.decode(Buffer.of(0xc3)), SyntaxError)
  t.strictSame(give(binary, new Uint16Array([1])), Buffer.of(1, 0))
  t.strictSame(give(binary, new Uint8Array([1, 2]).buffer), Buffer.of(1, 2))
  t.throws(() => binary.encode('text'), TypeError)
  t.equal(give(frames, 'text', true), 'text')
  t.strictSame(give(frames, Buffer.from('bytes'), false), Buffer.from('bytes'))
  t.throws(() => frames.encode({}), TypeError)
  t.end()
})
