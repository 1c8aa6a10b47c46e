import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import http from 'node:http'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { errors } from '../lib/index.ts'
import { start, type Program } from './fixtures/program.ts'
import { root } from './fixtures/published.ts'
import { compile, pages, program, project, read, serverOf, snippetsOf, strip } from './fixtures/snippets.ts'
import { needs, posix } from './fixtures/system.ts'

const netcat = fileURLToPath(new URL('./fixtures/netcat.js', import.meta.url))

/** What a runner of tests tells to its own processes is not for those that are started here. */
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(?:_?TAP|NODE_TEST|NODE_OPTIONS)/.test(name)))

t.test('Q38 docs/errors.md lists every error code', async t => {
  const exported = errors as unknown as Record<string, new () => Error & { code: string, statusCode?: number }>
  const rows = read('docs/errors.md').split('\n').filter(line => line.startsWith('| `'))
    .map(line => line.split('|').slice(1, -1).map(cell => cell.trim()))
  const listed = rows.flatMap(([codes = '', status = '', cause = '']) =>
    [...codes.matchAll(/`(?:FST_ERR_DUPLEX|\.\.\.)_(\w+)`/g)].map(([, name]) => ({ code: `FST_ERR_DUPLEX_${name}`, status, cause })))
  t.same(listed.map(({ code }) => code).sort(), Object.keys(exported).sort(), 'each once, and no other')
  for (const { code, status, cause } of listed) {
    const error = new (exported[code] as NonNullable<typeof exported[string]>)()
    t.equal(error.code, code)
    t.not(cause, '', `${code} has a cause`)
    // Those without are answered to no client.
    if (status !== '') t.equal(String(error.statusCode), status, code)
  }
})

t.test('Q38 every error code that a page names exists', async t => {
  for (const page of pages) {
    for (const [code] of read(page).matchAll(/\bFST_ERR_DUPLEX_[A-Z0-9_]+\b/g)) t.ok(code in errors, `${page}: ${code}`)
  }
})

t.test('Q39 README has at most 200 lines', async t => {
  t.ok(read('README.md').trimEnd().split('\n').length <= 200)
})

t.test('Q39 every snippet of the documentation compiles, in strict TypeScript', { timeout: 120_000 }, async t => {
  const snippets = pages.flatMap(snippetsOf)
  t.ok(snippets.length > 30)
  t.same(compile(t.testdir(), snippets), [])
})

t.test('Q45 every page is in the index, and every link to a heading of a page leads to one', async t => {
  const index = read('docs/README.md')
  const slugs = (page: string): string[] => [...read(page).matchAll(/^#+ (.+)$/gm)].map(([, title = '']) =>
    title.toLowerCase().replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/[^\w\- ]/g, '').replaceAll(' ', '-'))
  for (const page of [...pages, 'CONTRIBUTING.md', 'SECURITY.md']) {
    if (page.startsWith('docs/') && page !== 'docs/README.md') t.ok(index.includes(`(${page.slice('docs/'.length)})`), `${page} is in the index`)
    for (const [, target = '', heading] of read(page).matchAll(/\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)/g)) {
      const file = target === '' ? page : normalize(join(dirname(page), target))
      if (heading === undefined) t.ok(existsSync(join(root, file)), `${page}: ${file}`)
      else t.ok(slugs(file).includes(heading), `${page}: ${file}#${heading}`)
    }
  }
})

t.test('Q45 the pictures are what their texts say, and README has one', async t => {
  const { status, stderr } = spawnSync(process.execPath, [join(root, 'scripts/pictures.mjs'), '--check'], { encoding: 'utf8' })
  t.equal(status, 0, stderr)
  const [, path = ''] = /!\[[^\]]+\]\(https:\/\/raw\.githubusercontent\.com\/[\w-]+\/[\w-]+\/HEAD\/([^)]+)\)/.exec(read('README.md')) ?? []
  t.ok(path !== '' && existsSync(join(root, path)), path)
})

t.test('Q39 every id in the title of a test is in docs/behaviours.md', async t => {
  const legend = new Set([...read('docs/behaviours.md').matchAll(/^\| ([A-Z]+\d+) \|/gm)].map(([, id]) => id))
  t.ok(legend.has('Q39'))
  const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.test.ts'))
  const titles = files.flatMap(name => read(join('test', name)).match(/test\(['`](?:[A-Z]{1,2}\d+ )+/g) ?? [])
  const used = new Set(titles.join('').match(/\b[A-Z]{1,2}\d+\b/g))
  t.ok(used.size > 100)
  t.same([...used].filter(id => !legend.has(id)), [])
})

/** Starts a program of a page in a directory of its own. */
async function run (t: Test, name: string, source: string): Promise<{ served: Program, directory: string }> {
  const directory = t.testdir()
  project(directory, { [name]: source })
  return { served: await start(t, pathToFileURL(join(directory, name))), directory }
}

t.test('Q39 what README says to try in a minute works, with its client', async t => {
  // At a port that is free here.
  const server = program('README.md', 'server.mjs').replace('port: 3000', 'port: 0')
    .replace('await app.listen', '(await app.listen').replace(')}`)', ")).replace(/.*:/, 'http://localhost:')}`)")
  const { served: { port }, directory } = await run(t, 'server.mjs', server)
  const client = program('README.md', 'client.mjs').replaceAll(':3000', `:${port}`)
  project(directory, { 'client.mjs': client })
  const { stdout, stderr } = spawnSync(process.execPath, [join(directory, 'client.mjs')], { env, encoding: 'utf8', timeout: 30_000 })
  t.equal(stdout, '101 echo\nhello\n', stderr)

  const command = ['--upgrade', 'echo', `http://localhost:${port}/echo`]
  const typed = spawnSync(process.execPath, [netcat, ...command], { env, encoding: 'utf8', input: 'hello', timeout: 30_000 })
  t.match(typed, { status: 0, stdout: 'hello' }, typed.stderr)

  const upload = http.request({ port, method: 'PUT', path: '/echo' })
  upload.write('one\n')
  const [response] = await once(upload, 'response') as [http.IncomingMessage]
  t.equal(String((await once(response, 'data'))[0]), 'one\n', 'before the second was sent')
  upload.end('two\n')
  t.equal(String((await once(response, 'data'))[0]), 'two\n')
})

const noCurl = needs('curl').skip !== false ? needs('curl') : posix
t.test('Q39 with curl, as README says it, "one" comes back before "two" is sent', noCurl, async t => {
  const [, args = ''] = /\| curl (.*) http:\/\/localhost:3000\/echo /.exec(read('README.md')) ?? []
  const server = snippetsOf('README.md').find(({ file }) => file === 'server.mjs')?.source as string
  const { served: { port } } = await run(t, 'server.mjs', server.replace(/console\.log\(.*port: 3000.*\)/,
    "console.log('listening on http://localhost:' + (await app.listen({ port: 0 })).replace(/.*:/, ''))"))
  const curl = spawn('curl', [...args.split(' '), `http://localhost:${port}/echo`], { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(() => curl.kill('SIGKILL'))
  const exited = once(curl, 'exit')
  curl.stdin.write('one\n')
  t.equal(String((await once(curl.stdout, 'data'))[0]), 'one\n')
  curl.stdin.end('two\n')
  t.equal(String((await once(curl.stdout, 'data'))[0]), 'two\n')
  t.equal((await exited)[0], 0)
})

t.test('Q39 curl waits for nothing where a page or an example sends bit by bit', async t => {
  const files = [...pages, ...readdirSync(join(root, 'examples')).map(name => `examples/${name}`)]
  const commands = files.flatMap(file => read(file).split('\n').filter(line => /sleep.*\bcurl\b.*-T |\$\{curl\}.*-T |curl -NT /.test(line)))
  t.ok(commands.length >= 6, String(commands.length))
  for (const command of commands) t.match(command, /T \. /)
})

t.test('Q39 the recipes of README work', async t => {
  const recipes = snippetsOf('README.md').find(({ source }) => source.includes("'/chat'"))?.source as string
  const { served } = await run(t, 'recipes.mjs', strip(serverOf(recipes)))
  const ask = 'GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n'
  const ada = (await served.connect()).send(ask)
  t.equal((await ada.head()).status, 101)
  const bob = (await served.connect()).send(`${ask}hi, `)
  t.equal((await bob.head()).status, 101)
  t.equal(await ada.until('hi, '), 'hi, ')
  bob.send('ada')
  t.equal(await ada.until('ada'), 'ada')

  const tunnel = (await served.connect()).send(`CONNECT 127.0.0.1:${served.port} HTTP/1.1\r\nHost: a\r\n\r\n`)
  t.match(await tunnel.response(), { status: 403, body: /FST_ERR_DUPLEX_DIAL_FORBIDDEN/ })

  const upload = http.request({ port: served.port, method: 'PUT', path: '/upper' })
  upload.write('one')
  const [response] = await once(upload, 'response') as [http.IncomingMessage]
  t.equal(String((await once(response, 'data'))[0]), 'ONE')
  upload.end()
  response.resume()

  const clock = (await served.connect()).send('GET /time HTTP/1.1\r\nHost: a\r\n\r\n')
  t.equal((await clock.head()).status, 200)
  t.match(await clock.until('\n'), /^\d{4}-\d\d-\d\dT.*Z\n$/)

  const talk = ['--websocket', `ws://localhost:${served.port}/talk`]
  const said = spawnSync(process.execPath, [netcat, ...talk], { env, encoding: 'utf8', input: '{"text":"hi","more":1}\n', timeout: 30_000 })
  t.match(said, { status: 0, stdout: '{"text":"hi"}\n' }, said.stderr)
})

t.test('Q39 the chat of README ends its connections at shutdown, and nobody waits for a client that is left open', async t => {
  const recipes = snippetsOf('README.md').find(({ source }) => source.includes("'/chat'"))?.source as string
  const tried = `
    const ada = await app.injectDuplex({ url: '/chat', protocol: 'chat' })
    const from = performance.now()
    await app.close()
    console.log('closed after', Math.floor((performance.now() - from) / 1000), 's')
    process.exit()`
  const { served } = await run(t, 'recipes.mjs', strip(serverOf(recipes)) + tried)
  await served.printed(/^closed after 0 s$/m)
})

t.test('Q39 the handler of docs/messages.md serves who speaks and who only listens', async t => {
  const handler = snippetsOf('docs/messages.md').find(({ source }) => source.includes("'/rooms/:id'"))?.source as string
  const { served } = await run(t, 'rooms.mjs', strip(serverOf(handler)))
  const listener = (await served.connect()).send('GET /rooms/7 HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n')
  t.match(await listener.head(), { status: 200, headers: { 'content-type': /^text\/event-stream/ } })
  const said = spawnSync(process.execPath, [netcat, `ws://localhost:${served.port}/rooms/7`], { env, encoding: 'utf8', input: '{"text":"hi"}\n', timeout: 30_000 })
  t.match(said, { status: 0, stdout: '{"type":"said","text":"hi"}\n' }, said.stderr)
  t.match(await listener.until('"hi"}'), 'data: {"type":"said","text":"hi"}')
})

t.test('Q39 the handlers of README end, fail and refuse as they say', async t => {
  const handlers = snippetsOf('README.md').find(({ source }) => source.includes("'/manual'"))?.source as string
  const { served } = await run(t, 'handlers.mjs', strip(serverOf(handlers)))
  const ask = (url: string, ...fields: string[]): string =>
    [`GET ${url} HTTP/1.1`, 'Host: a', 'Connection: Upgrade', 'Upgrade: foo', ...fields, '', ''].join('\r\n')
  const lines = (await served.connect()).send(ask('/lines'))
  t.match(await lines.head(), { status: 101, headers: { 'x-served-by': 'a' } })
  lines.end('hello')
  t.equal(String(await lines.rest()), 'hello', 'ended')
  const long = (await served.connect()).send(ask('/lines'))
  t.equal((await long.head()).status, 101)
  long.send('x'.repeat(5000))
  await t.rejects(long.rest(), { code: 'ECONNRESET' }, 'failed')
  t.match(await (await served.connect()).send(ask('/manual')).response(), { status: 401, body: /who are you/ })
  const guest = (await served.connect()).send(ask('/manual', 'Authorization: me'))
  t.match(await guest.head(), { status: 101, headers: { 'x-served-by': 'a' } })
  t.equal(await guest.until('\n'), 'welcome\n')
  t.notOk(await served.stop())
})

t.test('Q39 the clients of docs/kinds.md work with its handlers', async t => {
  const handlers = snippetsOf('docs/kinds.md').filter(({ file, source }) => file === undefined && /'\/(?:shell|upper)'/.test(source))
  const { served: { port }, directory } = await run(t, 'server.mjs', strip(serverOf(handlers.map(({ source }) => source).join('\n'))))
  for (const [name, printed] of [['shell-client.mjs', 'you speak shell\nhello\n'], ['upper-client.mjs', 'ONE\nTWO\n']] as const) {
    project(directory, { [name]: program('docs/kinds.md', name).replaceAll(':3000', `:${port}`) })
    const { stdout, stderr } = spawnSync(process.execPath, [join(directory, name)], { env, encoding: 'utf8', timeout: 30_000 })
    t.equal(stdout, printed, stderr)
  }
})

t.test('I1 the tests in README and docs/testing.md pass, each under its own runner', async t => {
  const app = `
    import { pipeline } from 'node:stream/promises'
    import Fastify from 'fastify'
    import duplex from 'fastify-duplex'
    export async function build () {
      const app = Fastify()
      await app.register(duplex, { idleTimeout: 60_000 })
      app.addHook('onRequest', async ({ headers }, reply) => {
        if (headers.authorization === 'none') return reply.code(401).send({ error: 'Unauthorized' })
      })
      const handler = ({ readable, writable }) => pipeline(readable, writable)
      app.route({ method: ['GET', 'POST'], url: '/echo', duplex: true, handler })
      app.get('/fails', { duplex: true }, async () => { throw new Error('on purpose') })
      return app
    }`
  const page = 'docs/testing.md'
  const tests = [['README.md', 'echo.test.ts', 1], [page, 'tap.test.ts', 6], [page, 'node.test.ts', 2], [page, 'timers.test.ts', 1]] as const
  const directory = t.testdir()
  project(directory, { 'app.js': app, ...Object.fromEntries(tests.map(([page, file]) => [file.replace('.ts', '.js'), strip(program(page, file))])) })
  for (const [, file, passes] of tests) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(directory, file.replace('.ts', '.js'))], { env, encoding: 'utf8', timeout: 30_000 })
    t.equal(status, 0, stdout + stderr)
    t.match(stdout, new RegExp(`^# (?:\\{ total: ${passes}, pass: ${passes} \\}|pass ${passes})$|^ℹ pass ${passes}$`, 'm'), file)
  }
})
