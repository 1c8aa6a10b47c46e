// Speech in, events out while it still arrives: chunks of sound in a body, each behind its length, and JSON back.
//
// The server hears when somebody speaks and when not, and stops by itself once there was a pause behind the speech, as a voice
// assistant does. The client may end, or go, at any time. The same handler takes the chunks in frames of a WebSocket.
// Sound is 16 bit PCM, little-endian, one channel, 16 000 samples in a second.
//
// Run it:     node examples/voice.ts        (PORT=8080 node examples/voice.ts)
//             Before Node 22.18: npm run setup, then .build/examples/voice.js in its place.
// Drive it:   with a tone, and a pause behind it (perl writes a length in 4 bytes in front of 20 ms of sound):
//             tone () { perl -e '$|=1; for $i (0..199) { $v = $i % 100 < 30 ? 8000 : 0; select undef, undef, undef, .02;
//               print pack "N/a*", pack "s<*", map { $v * sin $_/5 } 1..320 }'; }
//             POST='curl -sN -X POST -T . -H Content-Type:audio/x-chunks http://localhost:3000/voice'
//             tone | $POST -H Accept:application/x-ndjson      lines, until the server has heard enough
//             tone | $POST -H Accept:text/event-stream         events
//             tone | $POST?pause=60000 -H Accept:application/x-ndjson      until the client ends; or press Ctrl+C
//             With a microphone: arecord -qt raw -f S16_LE -r 16000 | perl -e '$|=1; print pack "N/a*", $_ while read STDIN, $_, 640' | ...
import type { AddressInfo } from 'node:net'
import { Type, type Static, type TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex, { lengthPrefixed } from '../lib/index.ts'

/** Bytes in a millisecond of sound. */
const RATE = 32
/** The mean of the samples from which on it is speech. */
const LOUD = 500

const Heard = Type.Object({
  type: Type.Union([Type.Literal('speech'), Type.Literal('silence'), Type.Literal('end')]),
  /** Milliseconds of sound since the beginning. */
  at: Type.Number(),
  because: Type.Optional(Type.String())
})

/** Tells speech from silence; a real one would be a model. */
class Ear {
  speaking = false
  #bytes = 0
  #since = 0

  get at (): number { return this.#bytes / RATE }

  /** How long nobody has spoken who has before. */
  get pause (): number { return this.speaking || this.#since === 0 ? 0 : this.at - this.#since }

  hear (chunk: Buffer): Static<typeof Heard> | undefined {
    let sum = 0
    for (let at = 0; at < chunk.length; at += 2) sum += Math.abs(chunk.readInt16LE(at))
    const { at } = this
    const loud = sum / (chunk.length / 2) >= LOUD
    this.#bytes += chunk.length
    if (loud) this.#since = this.at
    if (loud === this.speaking) return undefined
    this.speaking = loud
    return { type: loud ? 'speech' : 'silence', at }
  }
}

/** Bytes in, JSON out. What is thrown here is an invalid message, which ends the connection. */
const sound = {
  contentType: 'application/json',
  encode: (event: unknown) => JSON.stringify(event),
  decode (payload: Buffer): Buffer {
    if (payload.length % 2 !== 0) throw new TypeError('half a sample')
    return payload
  }
}

const app = Fastify({ logger: { level: process.env.LOG ?? 'info' } }).withTypeProvider<TypeBoxTypeProvider>()
await app.register(duplex, { drainTimeout: 5000 })

app.route({
  method: ['GET', 'POST'],
  url: '/voice',
  schema: { querystring: Type.Object({ pause: Type.Integer({ minimum: 100, default: 1000 }) }) },
  duplex: {
    // Whoever sends nothing has hung up.
    idleTimeout: 30_000,
    messages: {
      in: Type.Unsafe<Buffer>({}),
      out: Heard,
      encoding: sound,
      framing: ['websocket', lengthPrefixed({ size: 4, contentType: 'audio/x-chunks' }), 'lines', 'sse'],
      // Two seconds in one chunk.
      maxLength: 2000 * RATE
    }
  },
  async handler ({ readable, send, draining, signal }, request) {
    const { pause } = request.query as { pause: number }
    const ear = new Ear()
    // A recogniser that works aside would be given `signal`.
    signal.addEventListener('abort', () => { request.log.info(`gone after ${ear.at} ms`) }, { once: true })
    let because = 'the sound is over'
    for await (const chunk of readable) {
      const event = ear.hear(chunk)
      if (event !== undefined) await send(event)
      if (ear.pause >= pause) because = 'a pause'
      else if (draining.aborted) because = 'the server goes'
      else continue
      break
    }
    // The answer ends with it, and what still comes is dropped.
    await send({ type: 'end', at: ear.at, because })
  }
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: process.env.HOST ?? 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}/voice`)
