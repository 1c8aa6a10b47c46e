// Other runtimes: an app on Deno, with every kind and the client, and what Bun says at boot.
import { strict as assert } from 'node:assert'
import { join } from 'node:path'
import { unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'
import { cache } from './lab/peers.ts'
import { readmeFiles, seeBody, seeStreams } from './lab/readme-server.ts'
import { workplace, write } from './lab/workplace.ts'

const deno: Peer = { name: 'Deno', required: true, npm: 'deno@2.9.6' }
const bun: Peer = { name: 'Bun', required: true, npm: 'bun@1.4.5' }

const binary = (name: string): string => join(cache, 'node_modules/.bin', name)
const RUN = ['run', '--allow-all', '--no-check']

async function run (lab: Lab): Promise<void> {
  const directory = await workplace(lab)
  const port = await unusedPort()
  await write(directory, readmeFiles(port))

  await lab.check(deno, "README's server: an upgrade, a CONNECT, a plain GET, with early bytes and half-close", async () => {
    await lab.server(binary('deno'), [...RUN, join(directory, 'server.mjs')], port, { cwd: directory, env: { NO_COLOR: '1' } })
    await seeStreams(lab, port)
  })
  await lab.check(deno, 'a body that is answered while it arrives', () => seeBody(lab, port))
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
