// A program at the other end of an upgraded connection, as in `docker exec`.
//
// The request is a POST with `Upgrade: exec` and a JSON body that says what to run. The body goes
// through Fastify's parser and the route's schema like any other; the stream begins after it:
//
//   client to server   stdin, as it is; ending your side ends stdin
//   server to client   "out LENGTH\n" and as many bytes of stdout,
//                      "err LENGTH\n" and as many bytes of stderr,
//                      and last "exit CODE\n" or "killed SIGNAL\n"
//
// When the connection dies the program is killed. (A client that has ended its side and then vanishes
// shows only when something is written to it, or by the idleTimeout.)
//
// Only the commands below may be run, with the arguments listed there. ALLOW names more, with any
// arguments. There is no authentication: it listens on the loopback address, and an onRequest hook
// is where it would go.
//
// Run it:     node examples/exec.ts                        (PORT=8080 ALLOW=sh,ls node examples/exec.ts)
//             Before Node 22.18: npm run setup, then .build/examples/exec.js in its place.
// Drive it:   echo 'b a' | tr ' ' '\n' | npx fastify-duplex -X POST -u exec -H content-type:application/json -d '{"cmd":"sort"}' http://localhost:3000/exec
//             npx fastify-duplex -X POST -u exec -H content-type:application/json -d '{"cmd":"cat"}' http://localhost:3000/exec
//             npx fastify-duplex -X POST -u exec -H content-type:application/json -d '{"cmd":"rm","args":["-r","/"]}' http://localhost:3000/exec
//             With ALLOW=sh: echo 'ls nowhere; exit 3' | npx fastify-duplex -X POST -u exec -H content-type:application/json -d '{"cmd":"sh"}' http://localhost:3000/exec
import { spawn, type ChildProcess } from 'node:child_process'
import { addAbortListener, once } from 'node:events'
import type { AddressInfo } from 'node:net'
import type { Readable, Writable } from 'node:stream'
import Fastify, { type FastifyRequest } from 'fastify'
// In an app of your own: from 'fastify-duplex'
import duplex from '../lib/index.ts'

/** What may be run, with which arguments: `sort -o` would write files, and `cat` with a name read any. */
const allowed = new Map<string, readonly string[] | 'any'>([
  ['cat', []],
  ['date', ['-u']],
  ['sort', ['-n', '-r', '-u']],
  ['wc', ['-c', '-l', '-w']]
])
for (const name of (process.env.ALLOW ?? '').split(',')) if (name !== '') allowed.set(name, 'any')

interface Exec {
  Body: { cmd: string, args: string[] }
}

const body = {
  type: 'object',
  required: ['cmd'],
  properties: {
    cmd: { type: 'string', maxLength: 100 },
    args: { type: 'array', items: { type: 'string', maxLength: 1000 }, maxItems: 100, default: [] }
  }
}

const app = Fastify({ logger: true })
await app.register(duplex, { drainTimeout: 5000, maxConnections: 100 })

app.post('/exec', {
  schema: { body },
  async preHandler (request: FastifyRequest<Exec>) {
    const { cmd, args } = request.body
    const may = allowed.get(cmd)
    if (may !== 'any' && (may === undefined || !args.every(argument => may.includes(argument)))) {
      throw Object.assign(new Error(`"${[cmd, ...args].join(' ')}" is not allowed here`), { statusCode: 403 })
    }
  },
  duplex: { protocols: ['exec'], accept: 'manual', idleTimeout: 600_000 }
}, async (pending, request: FastifyRequest<Exec>) => {
  const { cmd, args } = request.body
  const { signal, draining } = pending
  // A process group of its own, so that what the program starts dies with it.
  const child = spawn(cmd, args, { env: { PATH: process.env.PATH }, detached: true })
  // Not accepted yet: a program that cannot be started is answered as an ordinary error.
  await once(child, 'spawn')
  addAbortListener(draining, () => killGroup(child, 'SIGTERM'))
  addAbortListener(signal, () => killGroup(child, 'SIGKILL'))
  try {
    const { readable, writable } = await pending.accept()
    // Not pipeline(): a program that leaves its stdin unread would cost the connection, and so its output.
    child.stdin.on('error', () => {})
    readable.pipe(child.stdin)
    const [[code, killedBy]] = await Promise.all([
      once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>,
      sendFrames('out', child.stdout, writable, signal),
      sendFrames('err', child.stderr, writable, signal)
    ])
    writable.end(code === null ? `killed ${killedBy}\n` : `exit ${code}\n`)
  } catch (error) {
    killGroup(child, 'SIGKILL')
    throw error
  }
})

function killGroup ({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-(pid as number), signal)
  } catch {
    // All of it has ended.
  }
}

/** A frame is one write, so that stdout and stderr never get into each other. */
async function sendFrames (name: string, from: Readable, to: Writable, signal: AbortSignal): Promise<void> {
  for await (const chunk of from as AsyncIterable<Buffer>) {
    const frame = Buffer.concat([Buffer.from(`${name} ${chunk.length}\n`), chunk])
    if (!to.write(frame)) await once(to, 'drain', { signal })
  }
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

await app.listen({ port: Number(process.env.PORT ?? 3000), host: 'localhost' })
console.log(`listening on http://localhost:${(app.server.address() as AddressInfo).port}, allowed: ${[...allowed.keys()].join(', ')}`)
