// Other runtimes: an app on Deno, with every kind and the client, and what Bun says at boot.
import { strict as assert } from 'node:assert'
import { join } from 'node:path'
import { program } from '../fixtures/snippets.ts'
import { connectTcp, type Wire } from '../fixtures/wire.ts'
import { unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'
import { cache } from './lab/peers.ts'
import { workplace, write } from './lab/workplace.ts'

const deno: Peer = { name: 'Deno', required: true, npm: 'deno@2.9.6' }
const bun: Peer = { name: 'Bun', required: true, npm: 'bun@1.4.5' }

const binary = (name: string): string => join(cache, 'node_modules/.bin', name)
const RUN = ['run', '--allow-all', '--no-check']

async function run (lab: Lab): Promise<void> {
  const directory = await workplace(lab)
  const port = await unusedPort()
  const server = program('README.md', 'server.mjs').replace('port: 3000', `port: ${port}`)
  await write(directory, {
    'server.mjs': server.replace('console.log', "app.connect('*', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))\nconsole.log"),
    'client.mjs': program('README.md', 'client.mjs').replaceAll(':3000', `:${port}`)
  })
  const connect = async (head: string): Promise<Wire> => {
    const wire = await connectTcp(port)
    lab.defer(() => wire.destroy())
    return wire.send(head)
  }

  await lab.check(deno, "README's server: an upgrade, a CONNECT, a plain GET, with early bytes and half-close", async () => {
    await lab.server(binary('deno'), [...RUN, join(directory, 'server.mjs')], port, { cwd: directory, env: { NO_COLOR: '1' } })
    const heads = [
      ['GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n', 101],
      ['CONNECT echo.example:7 HTTP/1.1\r\nHost: echo.example:7\r\n\r\n', 200],
      ['GET /echo HTTP/1.1\r\nHost: a\r\n\r\n', 200]
    ] as const
    for (const [head, status] of heads) {
      const wire = await connect(`${head}early`)
      assert.equal((await wire.head()).status, status)
      assert.equal(await wire.until('early'), 'early')
      wire.end('late')
      assert.equal(String(await wire.rest()), 'late')
    }
  })
  await lab.check(deno, 'a body that is answered while it arrives', async () => {
    const wire = await connect('PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n')
    await wire.until('one')
    wire.send('3\r\ntwo\r\n0\r\n\r\n')
    await wire.until('two\r\n0\r\n\r\n')
  })
  await lab.check(deno, "README's client", async () => {
    const finished = await lab.run(binary('deno'), [...RUN, join(directory, 'client.mjs')], { cwd: directory, env: { NO_COLOR: '1' } })
    assert.equal(String(finished.stdout), '101 echo\nhello\n', finished.stderr)
  })
  await lab.check(bun, 'the error at boot says what is missing', async () => {
    const { code, stdout, stderr } = await lab.run(binary('bun'), [join(directory, 'server.mjs')], { cwd: directory, env: { NO_COLOR: '1' } })
    assert.notEqual(code, 0)
    assert.match(`${String(stdout)}${stderr}`, /FST_ERR_DUPLEX_UNSUPPORTED_RUNTIME/)
    assert.match(`${String(stdout)}${stderr}`, /does not work on this runtime: its node:http has no _connectionListener/)
  })
}

const group: Group = { title: 'Other runtimes', peers: [deno, bun], run }

export default group
