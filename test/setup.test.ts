import { spawnSync } from 'node:child_process'
import { copyFile, mkdir, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'

/** Stands for npm: writes down what it is asked for, and installs as much as it takes to be asked no more. */
const NPM = `
const { appendFileSync, mkdirSync, writeFileSync } = require('node:fs')
appendFileSync('calls', process.argv.slice(2).join(' ') + '\\n')
if (process.argv[2] !== 'run') {
  mkdirSync('node_modules', { recursive: true })
  writeFileSync('node_modules/.package-lock.json', '{}')
}
process.exit(Number(process.env.FAIL_WITH ?? 0))
`

/** A checkout with the script, and what running it there asks npm for. */
async function checkout (t: Test, files: string[]): Promise<{ path: (name: string) => string, setup: (env?: object) => Promise<unknown> }> {
  const root = await mkdtemp(join(tmpdir(), 'fastify-duplex-'))
  t.teardown(() => rm(root, { recursive: true }))
  const path = (name: string): string => join(root, name)
  await mkdir(path('scripts'))
  await copyFile(new URL('../../scripts/setup.mjs', import.meta.url), path('scripts/setup.mjs'))
  await writeFile(path('npm.cjs'), NPM)
  for (const file of files) await writeFile(path(file), '{}')
  const setup = async (env = {}): Promise<unknown> => {
    await writeFile(path('calls'), '')
    // Started from elsewhere: it is the script's place that counts.
    const { status } = spawnSync(process.execPath, [path('scripts/setup.mjs')],
      { cwd: tmpdir(), env: { ...process.env, npm_execpath: path('npm.cjs'), ...env } })
    return [status, (await readFile(path('calls'), 'utf8')).trimEnd().split('\n')]
  }
  return { path, setup }
}

const BUILD = 'run --silent build:all'

t.test('setup installs from the lock on a fresh checkout, then only builds', async t => {
  const { setup } = await checkout(t, ['package.json', 'package-lock.json'])
  t.strictSame(await setup(), [0, ['ci --include=dev', BUILD]])
  t.strictSame(await setup(), [0, [BUILD]])
})

t.test('setup installs again when the lock is newer, or an installation was not finished', async t => {
  const { path, setup } = await checkout(t, ['package.json', 'package-lock.json'])
  await setup()
  const later = Date.now() / 1000 + 10
  await utimes(path('package-lock.json'), later, later)
  t.strictSame(await setup(), [0, ['ci --include=dev', BUILD]])
  await utimes(path('package-lock.json'), 1, 1)
  t.strictSame(await setup(), [0, [BUILD]])
  await rm(path('node_modules/.package-lock.json'))
  t.strictSame(await setup(), [0, ['ci --include=dev', BUILD]])
})

t.test('setup resolves the dependencies where there is no lock', async t => {
  const { setup } = await checkout(t, ['package.json'])
  t.strictSame(await setup(), [0, ['install --include=dev', BUILD]])
})

t.test('setup stops with the exit code of what failed', async t => {
  const { setup } = await checkout(t, ['package.json', 'package-lock.json'])
  t.strictSame(await setup({ FAIL_WITH: '3' }), [3, ['ci --include=dev']])
  t.strictSame(await setup({ FAIL_WITH: '4' }), [4, [BUILD]])
})
