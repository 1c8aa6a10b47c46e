import t from 'tap'
import { closeFrame, frame, nextClose, nextText, opening } from './fixtures/frames.ts'
import { room } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { gate, type Transport } from './fixtures/server.ts'

const In = { type: 'object', required: ['a'], properties: { a: { type: 'integer' } } }
const INVALID = 'FST_ERR_DUPLEX_MESSAGE_INVALID'
const GOOD = '{"a":1}'
const WRONG = '{"a":{}}'

/** One turn of the event loop, as an answer of a database takes. */
const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

const NDJSON = ['POST /room', 'Content-Type: application/x-ndjson', `Content-Length: ${GOOD.length + WRONG.length + 2}`] as const

const carried = [
  { name: 'lines over an upgrade', head: request('GET /room', 'Connection: Upgrade', 'Upgrade: chat'), answer: `${GOOD}\n` },
  { name: 'NDJSON', head: request(...NDJSON), answer: `${GOOD}\n` },
  { name: 'SSE', head: request(...NDJSON, 'Accept: text/event-stream'), answer: `data: ${GOOD}\n\n` }
]

for (const transport of ['tcp', 'tls', 'unix', 'h2'] satisfies Transport[]) {
  for (const { name, head, answer } of carried) {
    t.test(`MS4 a message is answered although a wrong one has come behind it, ${name} [${transport}]`, async t => {
      const failed = gate<unknown>()
      const { wire, connection } = await room(t, {
        transport, messages: { in: In }, duplex: { protocols: ['chat'] }, head: `${head}${GOOD}\n${WRONG}\n`
      }, async ({ readable, send }) => {
        try {
          for await (const message of readable) {
            for (let turns = 0; turns < 5; turns++) await turn()
            await send(message)
          }
        } catch (error) {
          failed.open(error)
        }
      })
      t.match(await failed.promise, { code: INVALID })
      t.match((await wire.remains()), answer)
      t.match(await connection.closed, { reason: 'error', error: { code: INVALID } })
    })
  }
  t.test(`MS4 a message is answered although a wrong one has come behind it, WebSocket [${transport}]`, async t => {
    const { wire, connection } = await room(t, { transport, messages: { in: In } }, async ({ readable, send }) => {
      for await (const message of readable) {
        for (let turns = 0; turns < 5; turns++) await turn()
        await send(message)
      }
    })
    wire.send(Buffer.concat([frame(GOOD), frame(WRONG)]))
    t.equal(await nextText(wire), GOOD)
    t.equal((await nextClose(wire)).code, 1007)
    wire.send(closeFrame(1007))
    wire.end()
    t.match(await connection.closed, { reason: 'error', error: { code: INVALID } })
  })
}
void opening
