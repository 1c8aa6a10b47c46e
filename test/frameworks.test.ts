import { once } from 'node:events'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { start, type Program } from './fixtures/program.ts'
import { program, project, strip } from './fixtures/snippets.ts'
import { posix } from './fixtures/system.ts'

const ask = (url: string, ...fields: string[]): string => ['GET ' + url + ' HTTP/1.1', 'Host: a', 'Connection: Upgrade', ...fields, '', ''].join('\r\n')

/** The programs of the page with these names, of which the first is started. `edit` is for what a test needs to be shorter. */
async function serve (t: Test, names: string[], edit = (source: string) => source): Promise<Program> {
  const directory = t.testdir()
  const files = names.map(name => [name.replace(/\.ts$/, '.js'), edit(strip(program('docs/frameworks.md', name)))] as const)
  project(directory, Object.fromEntries(files))
  return await start(t, pathToFileURL(join(directory, files[0]?.[0] as string)))
}

t.test('FR1 NestJS: routes on its Fastify instance, and of a decorator, with what is injected and the drain of its shutdown hooks', posix, async t => {
  const nest = await serve(t, ['nest/main.ts', 'nest/app.module.ts', 'nest/duplex.decorator.ts'])
  const echo = (await nest.connect()).send(`${ask('/echo', 'Upgrade: echo')}early`)
  t.equal((await echo.head()).status, 101)
  echo.end('late')
  t.equal(String(await echo.rest()), 'earlylate')

  t.match(await (await nest.connect()).send('GET /plain HTTP/1.1\r\nHost: a\r\n\r\n').response(), { status: 200, body: 'hello' })
  const refused = await (await nest.connect()).send(ask('/room', 'Upgrade: talk')).response()
  t.equal(refused.status, 426, 'the options of the decorator hold')
  const room = (await nest.connect()).send(ask('/room', 'Upgrade: chat'))
  t.match(await room.head(), { status: 101, headers: { upgrade: 'chat' } })
  t.equal(await room.until('hello'), 'hello')
  const exited = once(nest.child, 'exit')
  nest.child.kill('SIGTERM')
  t.equal(String(await room.rest()), 'bye')
  room.end()
  await exited
})

t.test('FR1 close-with-grace: the handlers are told, and the process ends when they have ended', posix, async t => {
  const grace = await serve(t, ['grace.mjs'])
  const feed = (await grace.connect()).send(ask('/feed', 'Upgrade: feed'))
  t.equal((await feed.head()).status, 101)
  await feed.until('hello')
  const stopped = grace.stop()
  t.equal(String(await feed.rest()), 'bye')
  feed.end()
  t.equal(await stopped, 0)
})

t.test('FR1 close-with-grace: a client that does not end is cut by drainTimeout, and not by the end of the process', posix, async t => {
  const grace = await serve(t, ['grace.mjs'], source => source.replace('10_000', '200')
    .replace('writable.write(\'bye\')', 'await new Promise(() => {})').replace('await app.close()', "await app.close(); console.log('closed')"))
  const feed = (await grace.connect()).send(ask('/feed', 'Upgrade: feed'))
  await feed.head()
  await feed.until('hello')
  const stopped = grace.stop()
  await t.rejects(feed.rest(), { code: 'ECONNRESET' })
  t.equal(await stopped, 0)
  await grace.printed('closed')
})
