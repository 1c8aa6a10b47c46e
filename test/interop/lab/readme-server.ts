import { strict as assert } from 'node:assert'
import { program } from '../../fixtures/snippets.ts'
import { connectTcp, type Wire } from '../../fixtures/wire.ts'
import type { Lab } from './lab.ts'

/** README's server on another port, which takes a CONNECT, too, and its client. */
export function readmeFiles (port: number): Record<'server.mjs' | 'client.mjs', string> {
  const server = program('README.md', 'server.mjs').replace('port: 3000', `port: ${port}`)
  return {
    'server.mjs': server.replace('console.log', "app.connect('*', { duplex: true }, ({ readable, writable }) => pipeline(readable, writable))\nconsole.log"),
    'client.mjs': program('README.md', 'client.mjs').replaceAll(':3000', `:${port}`)
  }
}

async function connect (lab: Lab, port: number, head: string): Promise<Wire> {
  const wire = await connectTcp(port)
  lab.defer(() => wire.destroy())
  return wire.send(head)
}

/** An upgrade, a CONNECT, and a GET, which is a `body`: with early bytes, and more behind the end of input. */
export async function seeStreams (lab: Lab, port: number): Promise<void> {
  const heads = [
    ['GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n', 101],
    ['CONNECT echo.example:7 HTTP/1.1\r\nHost: echo.example:7\r\n\r\n', 200],
    ['GET /echo HTTP/1.1\r\nHost: a\r\n\r\n', 200]
  ] as const
  for (const [head, status] of heads) {
    const wire = await connect(lab, port, `${head}early`)
    assert.equal((await wire.head()).status, status)
    assert.equal(await wire.until('early'), 'early')
    wire.end('late')
    assert.equal(String(await wire.rest()), 'late')
  }
}

export async function seeBody (lab: Lab, port: number): Promise<void> {
  const wire = await connect(lab, port, 'PUT /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n')
  await wire.until('one')
  wire.send('3\r\ntwo\r\n0\r\n\r\n')
  await wire.until('two\r\n0\r\n\r\n')
}
