import t from 'tap'
import { once } from 'node:events'
import net from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import duplex from '../lib/index.ts'

const COUNT = 10_000
/** Each is measured so often, in turn with what it is compared with. */
const TIMES = 3
const ANSWER = 'HTTP/1.1 '
/** In milliseconds. */
const LONG = 3000

interface Measured {
  /** Milliseconds of the processor from the write to the last answer, of the server and of its client. */
  took: number
  /** The longest that the event loop stood still meanwhile. */
  stood: number
}

/** One write of many requests, until this many answers have come or the connection is over. */
async function flood (app: FastifyInstance, requests: Buffer, answers: number): Promise<Measured> {
  const socket = net.connect((app.server.address() as net.AddressInfo).port, '127.0.0.1')
  await once(socket, 'connect')
  const found = { over: false, answers: 0 }
  socket.on('error', () => {})
  let before = ''
  socket.on('data', (bytes: Buffer) => {
    // An answer may begin in one chunk and go on in the next.
    const text = before + bytes.toString('latin1')
    for (let at = text.indexOf(ANSWER); at !== -1; at = text.indexOf(ANSWER, at + ANSWER.length)) found.answers++
    before = text.slice(1 - ANSWER.length)
  })
  socket.on('close', () => { found.over = true })
  const from = performance.now()
  let last = from
  let stood = 0
  const used = process.cpuUsage()
  socket.write(requests)
  // One that is as slow as that fails, and need not be waited for.
  while (!found.over && found.answers < answers && last - from < LONG) {
    await turn()
    const now = performance.now()
    stood = Math.max(stood, now - last)
    last = now
  }
  const { user, system } = process.cpuUsage(used)
  socket.destroy()
  return { took: (user + system) / 1000, stood }
}

async function listen (t: Test, withPlugin: boolean): Promise<FastifyInstance> {
  const app = Fastify()
  if (withPlugin) {
    await app.register(duplex)
    app.get('/it', { duplex: { kinds: ['upgrade'], protocols: ['foo'] } }, () => {})
  } else {
    app.get('/it', async (_request, reply) => reply.code(426).header('connection', 'close').send('no'))
  }
  app.get('/pong', async () => 'pong')
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => app.close())
  return app
}

const requests = (line: string, ...fields: string[]): Buffer =>
  Buffer.from([`GET ${line} HTTP/1.1`, 'Host: a', ...fields, '', ''].join('\r\n').repeat(COUNT))

/** What is written, what an app without the plugin is given that costs Node as much, and how many answers come. */
const floods: Record<string, { ours: Buffer, bare: Buffer, answers: number, times: number }> = {
  'that are ignored': {
    times: 2,
    ours: requests('/pong', 'Connection: Upgrade', 'Upgrade: foo'),
    bare: requests('/pong', 'Connection: Keep-Up', 'X-Nothing: foo'),
    answers: COUNT
  },
  'that are refused': {
    times: 2,
    ours: requests('/it', 'Connection: Upgrade', 'Upgrade: bar'),
    bare: requests('/it', 'Connection: Keep-Up', 'X-Nothing: bar'),
    answers: 1
  }
}

for (const [what, { ours, bare, answers, times: most }] of Object.entries(floods)) {
  t.test(`Q71 ten thousand upgrades ${what} in one write cost no more than ${most} times what plain requests do, and stand in the way no longer than twice`, async t => {
    const [app, plain] = [await listen(t, true), await listen(t, false)]
    const found: { ours: Measured[], bare: Measured[] } = { ours: [], bare: [] }
    for (let times = 0; times < TIMES; times++) {
      found.ours.push(await flood(app, ours, answers))
      found.bare.push(await flood(plain, bare, answers))
    }
    for (const [what, times, slack] of [['took', most, 100], ['stood', 2, 50]] as const) {
      // The least of them: other processes can only add to it.
      const [mine, theirs] = [Math.min(...found.ours.map(one => one[what])), Math.min(...found.bare.map(one => one[what]))]
      t.ok(mine <= times * theirs + slack, `${what} ${mine.toFixed(1)} ms, without the plugin ${theirs.toFixed(1)} ms`)
    }
  })
}
