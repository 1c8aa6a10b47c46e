import t from 'tap'
import { chunk, LAST_CHUNK, nextChunk } from './fixtures/chunked.ts'
import { closeFrame, frame, nextClose, nextText, opening, OPCODE } from './fixtures/frames.ts'
import { start, type Program } from './fixtures/program.ts'
import { exchange, request } from './fixtures/requests.ts'
import { posix } from './fixtures/system.ts'
import type { Wire } from './fixtures/wire.ts'

const example = new URL('../examples/voice.js', import.meta.url)

/** 16 bit PCM at 16 kHz. */
function sound (milliseconds: number, loud: boolean): Buffer {
  const samples = Int16Array.from({ length: milliseconds * 16 }, (_, at) => loud ? (at % 2 === 0 ? 4000 : -4000) : 0)
  return Buffer.from(samples.buffer)
}

/** Behind its length. */
function prefixed (bytes: Buffer): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(bytes.length)
  return Buffer.concat([length, bytes])
}

const say = (wire: Wire, milliseconds: number, loud: boolean): Wire => wire.send(chunk(prefixed(sound(milliseconds, loud))))

async function post (voice: Program, accept: string, query = ''): Promise<Wire> {
  const wire = await voice.connect()
  wire.send(request(`POST /voice${query}`, 'Content-Type: audio/x-chunks', `Accept: ${accept}`, 'Transfer-Encoding: chunked'))
  t.match(await wire.head(), { status: 200, headers: { 'content-type': accept } })
  return wire
}

t.test('MS10 voice: sound behind its length in, JSON out while it arrives, stopped by either side', async t => {
  const voice = await start(t, example)
  const hears = async (wire: Wire, event: object): Promise<void> => {
    t.equal(String(await nextChunk(wire)), `${JSON.stringify(event)}\n`)
  }

  await t.test('the client ends', async () => {
    const wire = await post(voice, 'application/x-ndjson')
    // A chunk of the body is none of the sound.
    const bytes = prefixed(sound(20, true))
    wire.send(chunk(bytes.subarray(0, 3)))
    wire.send(chunk(bytes.subarray(3, 100)))
    wire.send(chunk(bytes.subarray(100)))
    await hears(wire, { type: 'speech', at: 0 })
    say(wire, 20, false)
    await hears(wire, { type: 'silence', at: 20 })
    say(wire, 20, true)
    await hears(wire, { type: 'speech', at: 40 })
    wire.send(LAST_CHUNK)
    await hears(wire, { type: 'end', at: 60, because: 'the sound is over' })
    t.equal((await nextChunk(wire)).length, 0)
  })

  await t.test('the server has heard enough, and the client goes on', async t => {
    const wire = await post(voice, 'text/event-stream', '?pause=100')
    say(wire, 20, true)
    t.equal(String(await nextChunk(wire)), 'data: {"type":"speech","at":0}\n\n')
    for (let piece = 0; piece < 10; piece++) say(wire, 20, false)
    t.equal(String(await nextChunk(wire)), 'data: {"type":"silence","at":20}\n\n')
    t.equal(String(await nextChunk(wire)), 'data: {"type":"end","at":120,"because":"a pause"}\n\n')
    t.equal((await nextChunk(wire)).length, 0)
    say(wire, 20, true).send(LAST_CHUNK)
    t.equal((await exchange(wire, 'GET /other')).status, 404, 'and may ask for something else')
  })

  await t.test('the client goes away', async () => {
    const wire = await post(voice, 'application/x-ndjson')
    say(wire, 40, true)
    await hears(wire, { type: 'speech', at: 0 })
    wire.reset()
    await voice.printed('gone after 40 ms')
  })

  await t.test('the sound is cut, or half a sample', async t => {
    for (const [what, bytes, code] of [
      ['cut', prefixed(sound(20, true)).subarray(0, -1), 'FST_ERR_DUPLEX_MESSAGE_CUT'],
      ['half a sample', prefixed(Buffer.alloc(3)), 'FST_ERR_DUPLEX_MESSAGE_INVALID'],
      ['too much', prefixed(Buffer.alloc(64_002)), 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG']
    ] as const) {
      const wire = await post(voice, 'application/x-ndjson')
      wire.send(chunk(bytes)).send(LAST_CHUNK)
      await t.rejects(nextChunk(wire), what)
      await voice.printed(`"code":"${code}"`)
    }
  })

  await t.test('a WebSocket, and no sound at all', async t => {
    const wire = await voice.connect()
    wire.send(opening('/voice?pause=100'))
    t.equal((await wire.head()).status, 101)
    wire.send(frame(sound(20, true), { opcode: OPCODE.binary }))
    t.equal(await nextText(wire), '{"type":"speech","at":0}')
    wire.send(frame(sound(100, false), { opcode: OPCODE.binary }))
    t.equal(await nextText(wire), '{"type":"silence","at":20}')
    t.equal(await nextText(wire), '{"type":"end","at":120,"because":"a pause"}')
    t.equal((await nextClose(wire)).code, 1000)
    wire.send(closeFrame(1000)).end()
    const refused = await voice.connect()
    refused.send(request('POST /voice', 'Content-Type: audio/mpeg', 'Content-Length: 0'))
    t.equal((await refused.head()).status, 415)
  })

  await t.test('the server goes', posix, async t => {
    const wire = await post(voice, 'application/x-ndjson')
    say(wire, 20, true)
    await hears(wire, { type: 'speech', at: 0 })
    const stopped = voice.stop()
    // It does not say when: it hears of it with the next sound.
    const feed = setInterval(() => { if (!wire.ended) say(wire, 20, true) }, 10)
    t.teardown(() => clearInterval(feed))
    const event = JSON.parse(String(await nextChunk(wire))) as object
    clearInterval(feed)
    t.match(event, { type: 'end', because: 'the server goes' })
    wire.end(LAST_CHUNK)
    t.equal(await stopped, 0)
  })
})
