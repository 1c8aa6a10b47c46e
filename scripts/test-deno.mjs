// Runs on Deno what can run there of the built suite, file by file, and without the tests that are known to differ:
// deno-differences.mjs has these, with the reason. A test that fails and is not listed makes this fail.
//
//   npm run test:deno
//   npm run test:deno -- body connect        those files whose names have one of these words
//   npm run test:deno -- --all body          with the tests that differ, to see whether they still do
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { differences, notRun, onTcpAlone } from './deno-differences.mjs'
import { root } from './fresh.mjs'
import { filesIn, JOBS, runAll, seconds } from './suite.mjs'

/** By version: what was green stays green until somebody moves it. */
const VERSION = '2.9.6'
/** In milliseconds. */
const LONGEST_DOWNLOAD = 300_000
const LONGEST_FILE = 300_000

const { values, positionals } = parseArgs({ allowPositionals: true, options: { all: { type: 'boolean', default: false }, jobs: { type: 'string' } } })
const start = performance.now()
const deno = install()
const args = ['run', '--allow-all', '--no-check', '--node-modules-dir=manual', '--preload', join(root, 'scripts/deno-call-sites.mjs')]

const files = filesIn('test', positionals).filter(({ name }) => values.all || !isNotRun(name)).map(file => {
  const known = values.all ? [] : differences.flatMap(({ tests }) => tests[file.name] ?? [])
  if (!values.all && onTcpAlone.includes(file.name)) known.push(/\[(?:tls|https|h2|http2 \+ allowHTTP1|injected)\]$/)
  return { ...file, args, longest: LONGEST_FILE, env: { NO_COLOR: '1', ...known.length === 0 ? {} : { TAP_GREP: allBut(known) } } }
})
const totals = { ok: 0, skip: 0, FAIL: 0 }
const failed = []
const count = result => {
  for (const { state } of result.tests) totals[state]++
  if (!result.fine) failed.push(result)
}
const again = []
const report = result => { result.fine ? count(result) : again.push(result) }
await runAll(deno, files, { jobs: Number(values.jobs ?? JOBS), title: `Deno ${VERSION} `, start, report })
for (const { name } of values.all ? [] : again) {
  await runAll(deno, files.filter(file => file.name === name), { jobs: 1, title: 'alone ', start, report: count })
}
if (values.all) again.forEach(count)

for (const { name, how, tests } of failed) {
  const titles = tests.filter(({ state }) => state === 'FAIL').map(({ title }) => `  ${title}`)
  console.log(`\n--- ${name}: ${how}\n${titles.join('\n')}`)
}
console.log(`\nnot run on Deno:\n${notRun.map(({ why, files }) => `  ${why}: ${files.join(', ')}`).join('\n')}\n  what starts processes`)
console.log(`over TCP and Unix sockets alone:\n  ${onTcpAlone.join(', ')}`)
console.log(`different on Deno:\n${differences.map(({ why }) => `  ${why}`).join('\n')}`)
console.log(`${files.length} files in ${seconds(start)} on Deno ${VERSION}: ${totals.ok} passed, ${totals.skip} skipped, ${failed.length} files failed`)
process.exitCode = failed.length === 0 ? 0 : 1

/** By itself, or because it starts other processes, by the path of the runtime and with arguments of Node. */
function isNotRun (name) {
  if (notRun.some(({ files }) => files.includes(name))) return true
  return /process\.execPath|\bfork\(|fixtures\/program\.ts/.test(readFileSync(join(root, `test/${name}.test.ts`), 'utf8'))
}

/** A pattern for all titles that none of these matches. */
function allBut (patterns) {
  return `/^(?!.*(?:${patterns.map(({ source }) => source).join('|')}))/`
}

function install () {
  const prefix = join(root, 'node_modules/.cache/deno', VERSION)
  const binary = join(prefix, 'node_modules/.bin', process.platform === 'win32' ? 'deno.cmd' : 'deno')
  if (!existsSync(binary)) {
    console.log(`installing Deno ${VERSION}`)
    mkdirSync(prefix, { recursive: true })
    const { status } = spawnSync(`npm install --no-save --no-audit --no-fund --loglevel=error --prefix . deno@${VERSION}`,
      { cwd: prefix, shell: true, stdio: ['ignore', 'ignore', 'inherit'], timeout: LONGEST_DOWNLOAD, killSignal: 'SIGKILL' })
    if (status !== 0) throw new Error(`Deno ${VERSION} could not be installed`)
  }
  return binary
}
