// The oldest Fastify that the package asks for: every kind, messages, and connections in memory, on the package as it is published.
import { strict as assert } from 'node:assert'
import { rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'
import { cache } from './lab/peers.ts'
import { readmeFiles, seeBody, seeStreams } from './lab/readme-server.ts'
import { workplace, write } from './lab/workplace.ts'

const NAME = 'fastify-oldest'
/** The lower end of `peerDependencies`. */
const oldest: Peer = { name: 'Fastify', required: true, npm: `${NAME}@npm:fastify@5.0.0` }

async function run (lab: Lab): Promise<void> {
  const directory = await workplace(lab)
  const fastify = join(directory, 'node_modules/fastify')
  await rm(fastify)
  await symlink(join(cache, 'node_modules', NAME), fastify, 'junction')
  const port = await unusedPort()
  await write(directory, { ...readmeFiles(port), 'messages.mjs': MESSAGES })

  await lab.check(oldest, "README's server: an upgrade, a CONNECT, a plain GET, with early bytes and half-close", async () => {
    await lab.server(process.execPath, [join(directory, 'server.mjs')], port, { cwd: directory })
    await seeStreams(lab, port)
  })
  await lab.check(oldest, 'a body that is answered while it arrives', () => seeBody(lab, port))
  await lab.check(oldest, "README's client", async () => {
    const { stdout, stderr } = await lab.run(process.execPath, [join(directory, 'client.mjs')], { cwd: directory })
    assert.equal(String(stdout), '101 echo\nhello\n', stderr)
  })
  await lab.check(oldest, 'messages over WebSocket and HTTP/2, and in memory; a drain', async () => {
    const { stdout, stderr } = await lab.run(process.execPath, [join(directory, 'messages.mjs')], { cwd: directory })
    assert.equal(String(stdout), '5.0.0\nHTTP/1.1 hello\nHTTP/2.0 hello\nin memory hello\nclosed\n', stderr)
  })
}

const MESSAGES = `
import Fastify from 'fastify'
import duplex from 'fastify-duplex'
import { connect } from 'fastify-duplex/client'

async function serve (options) {
  const app = Fastify(options)
  await app.register(duplex, { extendedConnect: options.http2 === true })
  app.get('/talk', {
    duplex: { messages: { in: { type: 'string' }, out: { type: 'string' } } }
  }, async ({ readable, send }) => {
    for await (const message of readable) await send(message)
  })
  await app.listen({ port: 0 })
  return app
}

async function ask (client) {
  await client.send('hello')
  for await (const message of client.readable) return message
}

const [one, two] = [await serve({}), await serve({ http2: true })]
console.log(one.version)
const port = ({ server }) => server.address().port
console.log('HTTP/1.1', await ask(await connect(\`ws://localhost:\${port(one)}/talk\`, { websocket: true, messages: true })))
console.log('HTTP/2.0', await ask(await connect(\`ws://localhost:\${port(two)}/talk\`, { websocket: true, messages: true, http2: true })))
console.log('in memory', await ask(await one.injectDuplex({ url: '/talk', websocket: true, messages: true })))
await Promise.all([one.close(), two.close()])
console.log('closed')
`

const group: Group = { title: 'The oldest Fastify', peers: [oldest], run }

export default group
