import t from 'tap'
import { closeFrame, frame, nextClose, nextText } from './fixtures/frames.ts'
import { room, type MessageHandler } from './fixtures/messages.ts'
import { request } from './fixtures/requests.ts'
import { gate, possible, type Transport } from './fixtures/server.ts'

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

const wrongFrames = [
  { name: 'not of the schema', wrong: frame(WRONG), code: 1007, error: INVALID },
  { name: 'too long', wrong: frame(JSON.stringify({ a: 1, b: 'x'.repeat(100) })), code: 1009, error: 'FST_ERR_DUPLEX_MESSAGE_TOO_LONG' },
  { name: 'no UTF-8', wrong: frame(Buffer.of(0xff)), code: 1007, error: INVALID },
  { name: 'a broken frame', wrong: frame(GOOD, { rsv: 4 }), code: 1002, error: 'FST_ERR_DUPLEX_WEBSOCKET_PROTOCOL' }
]

const chat = { messages: { in: In }, duplex: { protocols: ['chat'] }, head: request('GET /room', 'Connection: Upgrade', 'Upgrade: chat') }

const answersLate: MessageHandler = async ({ readable, send }) => {
  for await (const message of readable) {
    for (let turns = 0; turns < 5; turns++) await turn()
    await send(message)
  }
}

for (const transport of ['tcp', 'tls', 'unix', 'h2'] satisfies Transport[]) {
  for (const { name, head, answer } of carried) {
    t.test(`MS4 a message is answered although a wrong one has come behind it, ${name} [${transport}]`, possible(transport), async t => {
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
      t.match(await wire.remains(), answer)
      t.match(await connection.closed, { reason: 'error', error: { code: INVALID } })
    })
  }

  for (const { name, wrong, code, error } of wrongFrames) {
    t.test(`MS4 a message is answered although a wrong one has come behind it, WebSocket, ${name} [${transport}]`, async t => {
      const { wire, connection } = await room(t, { transport, messages: { in: In, maxLength: 100 } }, answersLate)
      wire.send(Buffer.concat([frame(GOOD), wrong]))
      t.equal(await nextText(wire), GOOD)
      t.equal((await nextClose(wire)).code, code)
      wire.send(closeFrame(code))
      wire.end()
      t.match(await connection.closed, { reason: 'error', error: { code: error } })
    })
  }

  for (const { name, head, answer } of carried) {
    t.test(`MS4 what a listener has sent before a wrong message leaves, and nothing after it, ${name} [${transport}]`, async t => {
      const late = gate<unknown>()
      const { wire, connection } = await room(t, {
        transport, messages: { in: In }, duplex: { protocols: ['chat'] }, head: `${head}${GOOD}\n${WRONG}\n`
      }, async ({ readable, send, writable }) => {
        readable.on('data', message => {
          void send(message)
          writable.write(message)
        })
        await new Promise<void>(resolve => readable.once('close', resolve))
        await send('too late').catch((error: unknown) => late.open(error))
      })
      t.match(await late.promise, { code: 'FST_ERR_DUPLEX_MESSAGE_NOT_SENT', cause: { code: INVALID } })
      const heard = await wire.remains()
      t.equal(heard.split(answer.trim()).length - 1, 2, heard)
      t.notMatch(heard, 'too late')
      t.match(await connection.closed, { reason: 'error', error: { code: INVALID } })
    })
  }
}

t.test('MS4 a handler that does not come back for more: the connection ends with the error, and sends no longer', async t => {
  const back = gate<unknown>()
  const { wire, connection } = await room(t, { messages: { in: In } }, async ({ readable, send, closed }) => {
    for await (const message of readable) {
      await send(message)
      await closed
      await send(message).catch((error: unknown) => back.open(error))
    }
  })
  wire.send(Buffer.concat([frame(GOOD), frame(Buffer.of(0xff))]))
  t.equal(await nextText(wire), GOOD)
  t.equal((await nextClose(wire)).code, 1007)
  wire.send(closeFrame(1007))
  wire.end()
  t.match(await connection.closed, { reason: 'error', error: { code: INVALID } })
  t.match(await back.promise, { code: 'FST_ERR_DUPLEX_MESSAGE_NOT_SENT', cause: { code: INVALID } })
})

t.test('MS4 a peer that is gone while a message before a wrong one is handled: the handler is told at once', async t => {
  const told = gate<unknown>()
  const { wire, connection } = await room(t, { ...chat, head: `${chat.head}${GOOD}\n${WRONG}\n` }, async ({ readable, closed }) => {
    try {
      for await (const message of readable) if (message !== undefined) await closed
    } catch (error) {
      told.open(error)
    }
  })
  wire.reset()
  t.match(await connection.closed, { reason: 'error', error: { code: INVALID } }, 'the wrong message came first')
  t.match(await told.promise, { code: INVALID })
})

t.test('MS4 a handler that leaves its loop and is done has not failed', async t => {
  const { wire, connection } = await room(t, { messages: { in: In } }, async ({ readable, send }) => {
    for await (const message of readable) {
      await turn()
      await send(message)
      if (message !== undefined) break
    }
  })
  wire.send(Buffer.concat([frame(GOOD), frame(WRONG)]))
  t.equal(await nextText(wire), GOOD)
  t.equal((await nextClose(wire)).code, 1000)
  wire.send(closeFrame(1000))
  wire.end()
  t.match(await connection.closed, { reason: 'end', websocket: { clean: true } })
})
