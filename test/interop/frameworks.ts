// Frameworks, agents, test runners and bundlers: the programs of docs/frameworks.md, each as its page says.
import { strict as assert } from 'node:assert'
import { once } from 'node:events'
import { cp } from 'node:fs/promises'
import http, { type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { pathToFileURL } from 'node:url'
import { start, type Program } from '../fixtures/program.ts'
import { program } from '../fixtures/snippets.ts'
import { connectTcp, type Wire } from '../fixtures/wire.ts'
import { workplace, write } from './lab/workplace.ts'
import { bytes, exits, unusedPort, type Group, type Lab, type Peer } from './lab/index.ts'

const fastifyCli: Peer = { name: 'fastify-cli', required: true, npm: 'fastify-cli@8' }
const autoload: Peer = { name: '@fastify/autoload', required: true, npm: '@fastify/autoload@6' }
const fastifyVite: Peer = { name: '@fastify/vite', required: true, npm: '@fastify/vite@10' }
const vite: Peer = { name: 'vite', required: true, npm: 'vite@8' }
const sentry: Peer = { name: '@sentry/node', required: true, npm: '@sentry/node@11' }
const elastic: Peer = { name: 'elastic-apm-node', required: true, npm: 'elastic-apm-node@4' }
const jest: Peer = { name: 'Jest', required: true, npm: 'jest@30' }
const vitest: Peer = { name: 'vitest', required: true, npm: 'vitest@4' }
const esbuild: Peer = { name: 'esbuild', required: true, npm: 'esbuild@0.28' }
const rollup: Peer = { name: 'rollup', required: true, npm: 'rollup@4' }
const rollupPlugins: Peer[] = ['commonjs', 'node-resolve', 'json'].map(name => ({ name: `@rollup/plugin-${name}`, required: true, npm: `@rollup/plugin-${name}` }))

const page = 'docs/frameworks.md'
const UPGRADE = (url: string): string => `GET ${url} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n`
/** What an echo is, in an app that some tool is tried with. */
const ECHO = `
  app.get('/echo', { duplex: true }, ({ readable, writable }) => readable.pipe(writable))
  app.post('/echo', { duplex: true }, ({ readable, writable }) => readable.pipe(writable))
  app.get('/fails', { duplex: true }, async () => { throw new Error('on purpose') })
  app.get('/plain', async () => 'plain')
`

async function run (lab: Lab): Promise<void> {
  const directory = await workplace(lab)
  await cli(lab, directory)
  await withVite(lab, directory)
  await agents(lab, directory)
  await runners(lab, directory)
  await bundlers(lab, directory)
}

/** The programs of the page with these names. */
async function take (directory: string, ...names: string[]): Promise<void> {
  await write(directory, Object.fromEntries(names.map(name => [name, program(page, name)])))
}

async function connect (lab: Lab, port: number): Promise<Wire> {
  const wire = await connectTcp(port)
  lab.defer(() => wire.destroy())
  return wire
}

async function serve (lab: Lab, file: string, env: NodeJS.ProcessEnv = {}): Promise<Program> {
  return await start({ teardown: (end: () => unknown) => lab.defer(end) }, pathToFileURL(file), env)
}

/** An Upgrade that is echoed, and both sides ended. */
async function echoes (wire: Wire): Promise<void> {
  assert.equal((await wire.send(`${UPGRADE('/echo')}early`).head()).status, 101)
  assert.equal(await wire.until('early'), 'early')
  wire.end('late')
  assert.equal(String(await wire.rest()), 'late')
}

async function cli (lab: Lab, directory: string): Promise<void> {
  await take(directory, 'cli/app.mjs', 'cli/plugins/duplex.mjs', 'cli/routes/feed.mjs')
  const command = join(directory, 'node_modules/fastify-cli/cli.js')
  const started = async (app: string, ...args: string[]): Promise<{ wire: Wire, stop: () => void }> => {
    const port = await unusedPort()
    const start = ['start', '--log-level', 'info', '--port', String(port), ...args, join(directory, app)]
    const child = lab.spawn(process.execPath, [command, ...start], { cwd: directory })
    let said = ''
    child.stderr.on('data', chunk => { said += String(chunk) })
    for await (const chunk of child.stdout.iterator({ destroyOnReturn: false })) if ((said += String(chunk)).includes('Server listening')) break
    if (!said.includes('Server listening')) throw new Error(said)
    child.stdout.resume()
    return { wire: await connect(lab, port), stop: () => { child.kill() } }
  }
  await lab.check(fastifyCli, 'the app of the page: what is in hand is finished after SIGTERM, with a close delay', async () => {
    const { wire, stop } = await started('cli/app.mjs', '--close-grace-delay', '12000')
    assert.equal((await wire.send(UPGRADE('/feed')).head()).status, 101)
    await wire.until('hello')
    stop()
    assert.equal(String(await wire.rest()), 'bye')
  })
  await lab.check(fastifyCli, 'without that delay it is cut after half a second', async () => {
    const { wire, stop } = await started('cli/app.mjs')
    await wire.send(UPGRADE('/feed')).head()
    await wire.until('hello')
    stop()
    assert.equal(await wire.rest().then(String, () => ''), '')
  })
  await lab.check(autoload, 'without fp() the duplex routes of other files are an error at the start', async () => {
    await write(directory, {
      'bare/app.mjs': program(page, 'cli/app.mjs'),
      'bare/plugins/duplex.mjs': program(page, 'cli/plugins/duplex.mjs').replace('fp(', '(').replace(/import fp .*\n/, ''),
      'bare/routes/feed.mjs': program(page, 'cli/routes/feed.mjs')
    })
    await assert.rejects(started('bare/app.mjs'), /FST_ERR_DUPLEX_NOT_REGISTERED/)
  })
}

async function withVite (lab: Lab, directory: string): Promise<void> {
  await lab.check(fastifyVite, 'development: the page, HMR over WebSocket, and a duplex route on one server', async () => {
    await take(directory, 'vite/server.mjs', 'vite/vite.config.js')
    await write(directory, {
      'vite/client/index.html': '<!doctype html><script type="module" src="/main.js"></script>\n',
      'vite/client/main.js': 'import.meta.hot.accept()\n'
    })
    const served = await serve(lab, join(directory, 'vite/server.mjs'))
    const origin = `http://localhost:${served.port}`
    assert.match(await (await fetch(origin)).text(), /@vite\/client/)
    const client = await (await fetch(`${origin}/@vite/client`)).text()
    const token = /const wsToken = "([^"]+)"/.exec(client)?.[1] ?? ''
    const { WebSocket } = await import('ws')
    const hmr = new WebSocket(`ws://localhost:${served.port}/?token=${token}`, 'vite-hmr', { origin })
    lab.defer(() => hmr.terminate())
    assert.match(String((await once(hmr, 'message'))[0]), /"connected"/)
    await echoes(await served.connect())
    hmr.close()
    await once(hmr, 'close')
  })
}

async function agents (lab: Lab, directory: string): Promise<void> {
  const listen = "console.log('listening on ' + (await app.listen({ port: 0 })).replace(/\\[::1\\]|127\\.0\\.0\\.1/, 'localhost'))"
  const app = `
    const app = Fastify()
    await app.register(duplex)
    ${ECHO}
    ${listen}`
  await write(directory, {
    'traced.mjs': `import Fastify from 'fastify'\nimport duplex from 'fastify-duplex'\n${app}`,
    'traced.cjs': `const Fastify = require('fastify')\nconst duplex = require('fastify-duplex')\nasync function main () {${app}\n}\nmain()`,
    'sentry.mjs': `
      import * as Sentry from '@sentry/node'
      const tell = what => console.log('told: ' + what)
      const send = async ([, items]) => {
        for (const [{ type }, body] of items) {
          if (type === 'event') tell(body.exception.values[0].value)
          for (const { is_segment, name, attributes } of body.items ?? []) {
            if (is_segment) tell(name + ' ' + attributes['http.response.status_code'].value)
          }
        }
        return {}
      }
      Sentry.init({ dsn: 'http://key@127.0.0.1:1/1', tracesSampleRate: 1, transport: () => ({ send, flush: async () => true }) })`
  })

  await lab.check(sentry, 'one span of a whole upgrade, a body and a plain request, and what a handler throws', async () => {
    const served = await serve(lab, join(directory, 'traced.mjs'), { NODE_OPTIONS: `--import ${pathToFileURL(join(directory, 'sentry.mjs')).href}` })
    await drive(served)
    for (const wanted of ['GET /echo 101', 'POST /echo 200', 'GET /plain 200', 'GET /fails 101', 'on purpose']) await served.printed(`told: ${wanted}\n`)
    assert.equal(served.output().match(/^told: /gm)?.length, 5)
  })

  await lab.check(elastic, 'one transaction of each, and what a handler throws', async () => {
    const told: string[] = []
    let wake = (): void => {}
    const port = await lab.listening(http.createServer((request: IncomingMessage, response) => {
      const note = (body: Buffer): void => {
        const text = String(request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body)
        for (const line of request.url?.startsWith('/intake') === true ? text.split('\n').filter(Boolean) : []) {
          const { transaction, error } = JSON.parse(line) as {
            transaction?: { name: string, result: string }
            error?: { exception: { message: string } }
          }
          if (transaction !== undefined) told.push(`${transaction.name}: ${transaction.result}`)
          if (error !== undefined) told.push(error.exception.message)
        }
        wake()
        response.writeHead(request.url?.startsWith('/intake') === true ? 202 : 200, { 'content-type': 'application/json' }).end('{"version":"8.0.0"}')
      }
      void bytes(request).then(note, () => response.destroy())
    }))
    const served = await serve(lab, join(directory, 'traced.cjs'), {
      NODE_OPTIONS: `--require ${join(directory, 'node_modules/elastic-apm-node/start.js')}`,
      ELASTIC_APM_SERVER_URL: `http://localhost:${port}`,
      ELASTIC_APM_SERVICE_NAME: 'app',
      ELASTIC_APM_API_REQUEST_TIME: '1s',
      ELASTIC_APM_LOG_LEVEL: 'off'
    })
    await drive(served)
    while (told.length < 5) await new Promise<void>(resolve => { wake = resolve })
    assert.deepEqual(told.sort(), ['GET /echo: success', 'GET /fails: success', 'GET /plain: HTTP 2xx', 'POST /echo: HTTP 2xx', 'on purpose'])
  })
}

/** One connection of each: an upgrade, a body, a plain request, and an upgrade whose handler throws. */
async function drive (served: Program): Promise<void> {
  await echoes(await served.connect())
  const failing = (await served.connect()).send(UPGRADE('/fails'))
  assert.equal((await failing.head()).status, 101)
  await assert.rejects(failing.rest(), { code: 'ECONNRESET' })
  const body = (await served.connect()).send('POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello')
  assert.match(await body.remains(), /hello/)
  const plain = (await served.connect()).send('GET /plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
  assert.match(await plain.remains(), /plain$/)
}

async function runners (lab: Lab, directory: string): Promise<void> {
  const app = (load: string, give: string): string => `
    ${load}
    ${give} async function build () {
      const app = Fastify()
      await app.register(duplex, { idleTimeout: 60_000 })
      ${ECHO}
      return app
    }`
  const testing = 'docs/testing.md'
  await write(directory, {
    'jest/package.json': '{ "private": true }',
    'jest/app.cjs': app("const Fastify = require('fastify')\nconst duplex = require('fastify-duplex')", 'exports.build ='),
    'jest/echo.jest.test.cjs': program(testing, 'echo.jest.test.cjs'),
    'jest/timers.jest.test.cjs': `
      const { expect, test } = require('@jest/globals')
      const { build } = require('./app.cjs')
      test('a silent client is ended', async () => {
        const app = await build()
        jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask'] })
        const { closed } = await app.injectDuplex({ url: '/echo', protocol: 'echo' })
        jest.advanceTimersByTime(120_000)
        expect((await closed).complete).toBe(false)
        jest.useRealTimers()
        await app.close()
      })`,
    'vitest/app.js': app("import Fastify from 'fastify'\nimport duplex from 'fastify-duplex'", 'export'),
    'vitest/echo.vitest.test.mjs': program(testing, 'echo.vitest.test.mjs'),
    'vitest/timers.vitest.test.mjs': `
      import { expect, onTestFinished, test, vi } from 'vitest'
      import { build } from './app.js'
      test('a silent client is ended', async () => {
        const app = await build()
        onTestFinished(() => app.close())
        vi.useFakeTimers({ toFake: ['setTimeout', 'setInterval', 'clearTimeout', 'clearInterval'] })
        const { closed } = await app.injectDuplex({ url: '/echo', protocol: 'echo' })
        vi.advanceTimersByTime(120_000)
        expect((await closed).complete).toBe(false)
        vi.useRealTimers()
      })`
  })
  await lab.check(jest, 'the test of docs/testing.md, and fake timers', async () => {
    const finished = await lab.run(process.execPath,
      [join(directory, 'node_modules/jest/bin/jest.js'), '--rootDir', join(directory, 'jest'), '--testMatch', '**/*.test.cjs', '--no-watchman', '--runInBand'],
      { cwd: join(directory, 'jest') })
    assert.match(exits(finished).stderr, /Tests: +2 passed, 2 total/)
  })
  await lab.check(vitest, 'the same', async () => {
    const finished = await lab.run(process.execPath,
      [join(directory, 'node_modules/vitest/vitest.mjs'), 'run', '--root', join(directory, 'vitest')], { cwd: join(directory, 'vitest'), env: { NO_COLOR: '1' } })
    assert.match(String(exits(finished).stdout), /Tests +2 passed \(2\)/)
  })
}

async function bundlers (lab: Lab, directory: string): Promise<void> {
  await write(directory, {
    'bundled/app.mjs': `
      import Fastify from 'fastify'
      import duplex from 'fastify-duplex'
      async function main () {
        const app = Fastify()
        await app.register(duplex)
        ${ECHO}
        const { statusCode, writable, body } = await app.injectDuplex({ url: '/echo', protocol: 'echo', early: 'early' })
        writable.end()
        console.log(statusCode, String(await body()))
        await app.close()
      }
      main()`
  })
  const from = join(directory, 'bundled/app.mjs')
  // Where nothing is installed: what is missing in the bundle is missing.
  const away = await lab.directory()
  const runs = async (file: string): Promise<void> => {
    await cp(join(directory, 'bundled', file), join(away, file))
    assert.equal(String(exits(await lab.run(process.execPath, [join(away, file)], { cwd: away })).stdout), '101 early\n')
  }
  const banner = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)"
  await lab.check(esbuild, 'one file, in CommonJS and as ES modules', async () => {
    const command = join(directory, 'node_modules/esbuild/bin/esbuild')
    for (const [format, file, more] of [['cjs', 'esbuild.cjs', []], ['esm', 'esbuild.mjs', [`--banner:js=${banner}`]]] as const) {
      exits(await lab.run(command, [from, '--bundle', '--platform=node', `--format=${format}`, `--outfile=${join(directory, 'bundled', file)}`, ...more], { cwd: directory }))
      await runs(file)
    }
  })
  await lab.check(rollup, 'one file, as ES modules', async () => {
    const plugins = ['commonjs', 'node-resolve', 'json'].flatMap(name => ['--plugin', name])
    exits(await lab.run(process.execPath, [join(directory, 'node_modules/rollup/dist/bin/rollup'), from, ...plugins, '--format', 'es',
      '--file', join(directory, 'bundled/rollup.mjs')], { cwd: directory }))
    await runs('rollup.mjs')
  })
}

const group: Group = {
  title: 'Frameworks and tools',
  peers: [fastifyCli, autoload, fastifyVite, vite, sentry, elastic, jest, vitest, esbuild, rollup, ...rollupPlugins],
  run
}

export default group
