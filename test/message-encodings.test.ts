import { deepStrictEqual } from 'node:assert'
import { deserialize, serialize } from 'node:v8'
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import t from 'tap'
import fc from 'fast-check'
import { lengthPrefixed, type MessageEncoding, type MessageFraming } from '../lib/index.ts'
import { frame, nextFrame, opening } from './fixtures/frames.ts'
import { echo } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { serve } from './fixtures/server.ts'

/** Bytes as text of base64, each message in parentheses. */
const parentheses: MessageFraming = {
  name: 'parentheses',
  contentType: 'text/parentheses',
  decoder () {
    let rest = ''
    return {
      * decode (chunk) {
        const parts = `${rest}${String(chunk)}`.split(')')
        rest = parts.pop() as string
        for (const part of parts) yield Buffer.from(part.slice(1), 'base64')
      },
      end () { return rest === '' ? [] : [new Error('a parenthesis is open')] }
    }
  },
  encode: payload => `(${Buffer.from(payload as Uint8Array).toString('base64')})`
}

const framings: readonly MessageFraming[] = [lengthPrefixed({ size: 2, endian: 'little' }), lengthPrefixed({ size: 'varint' }), parentheses]

/** JSON text behind its checksum. */
const summed: MessageEncoding = {
  encode (message) {
    const bytes = Buffer.from(JSON.stringify(message))
    return Buffer.concat([Buffer.of(bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0)), bytes])
  },
  decode (payload) {
    const bytes = payload.subarray(1)
    if (bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0) !== payload[0]) throw new Error('the checksum differs')
    return JSON.parse(String(bytes))
  }
}

/** JSON has no negative zero. */
const jsonMessage: fc.Arbitrary<unknown> = fc.json({ maxDepth: 3 }).map(text => JSON.parse(text)).filter(value => value !== null)

const encodings: { name: string, encoding: MessageEncoding, message: fc.Arbitrary<unknown> }[] = [
  { name: 'summed', encoding: summed, message: jsonMessage },
  {
    name: 'deflated',
    encoding: {
      encode: message => deflateRawSync(JSON.stringify(message)), decode: payload => JSON.parse(String(inflateRawSync(payload)))
    },
    message: jsonMessage
  },
  {
    name: 'structured',
    encoding: { encode: serialize, decode: deserialize },
    message: fc.anything({ maxDepth: 3, withBigInt: true, withMap: true, withSet: true, withTypedArray: true })
      .filter(value => value !== null && value !== undefined)
  }
]

function cutAt (bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map(cut => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...places].map((from, at) => bytes.subarray(from, places[at]))
}

function read ({ decoder }: MessageFraming, encoding: MessageEncoding, chunks: readonly Buffer[]): unknown[] {
  const made = decoder?.({ maxLength: 65_536 }) as ReturnType<NonNullable<MessageFraming['decoder']>>
  return [...chunks.flatMap(chunk => [...made.decode(chunk)]), ...made.end()].map(payload => {
    if (payload instanceof Error) throw payload
    return encoding.decode(Buffer.from(payload))
  })
}

for (const { name, encoding, message } of encodings) {
  const messages = fc.array(message, { maxLength: 8 })

  t.test(`MS10 round trips of an encoding of the app, ${name}: through a connection, in every framing of bytes`, async t => {
    const server = await serve(t, {}, app => {
      for (const [at, framing] of framings.entries()) {
        app.get(`/${at}`, { duplex: { protocols: ['chat'], messages: { encoding, framing } } }, echo as never)
      }
    })
    for (const [at, framing] of framings.entries()) {
      await fc.assert(fc.asyncProperty(messages, fc.array(fc.nat(), { maxLength: 6 }), async (said, cuts) => {
        const bytes = Buffer.concat(said.map(message => Buffer.from(framing.encode(encoding.encode(message)))))
        deepStrictEqual(read(framing, encoding, cutAt(bytes, cuts)), said, 'cut anywhere')
        const wire = await server.connect()
        wire.send(request(`GET /${at}`, 'Connection: Upgrade', 'Upgrade: chat'))
        for (const piece of cutAt(bytes, cuts)) wire.send(piece)
        await wire.head()
        wire.end()
        deepStrictEqual(read(framing, encoding, [await wire.rest()]), said)
      }), { numRuns: 8 })
      t.pass(framing.name)
    }
  })

  t.test(`MS10 round trips of an encoding of the app, ${name}: over WebSocket`, async t => {
    const server = await serve(t, {}, app => { app.get('/', { duplex: { messages: { encoding } } }, echo as never) })
    const wire = await server.connect()
    wire.send(opening('/'))
    t.equal((await wire.head()).status, 101)
    await fc.assert(fc.asyncProperty(messages, async said => {
      for (const message of said) wire.send(frame(Buffer.from(encoding.encode(message)), { opcode: 2 }))
      const heard: unknown[] = []
      while (heard.length < said.length) heard.push(encoding.decode((await nextFrame(wire)).payload))
      deepStrictEqual(heard, said)
    }), { numRuns: 20 })
  })
}
