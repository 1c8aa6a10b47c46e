// Runs on Deno what can run there of the built suite, file by file, and without the tests that are known to differ:
// deno-differences.mjs has these, with the reason. A test that fails and is not listed makes this fail, if it fails once more when its
// file runs alone.
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
/** Ten times what the slowest takes. */
const LONGEST_FILE = 150_000
/** In seconds: a test that hangs is named by tap, before its file is ended from here. */
const LONGEST_TEST = 120

const { values, positionals } = parseArgs({ allowPositionals: true, options: { all: { type: 'boolean', default: false }, jobs: { type: 'string' } } })
const start = performance.now()
const deno = install()
const args = ['run', '--allow-all', '--no-check', '--node-modules-dir=manual', '--preload', join(root, 'scripts/deno-call-sites.mjs')]

const files = filesIn('test', positionals).filter(({ name }) => values.all || !isNotRun(name)).map(file => {
  const known = values.all ? [] : differences.flatMap(({ tests }) => tests[file.name] ?? [])
  if (!values.all && onTcpAlone.includes(file.name)) known.push(/\[(?:tls|https|h2|http2 \+ allowHTTP1|injected)\]$/)
  return { ...file, args, longest: LONGEST_FILE, env: { NO_COLOR: '1', TAP_TIMEOUT: String(LONGEST_TEST), ...known.length === 0 ? {} : { TAP_GREP: allBut(known) } } }
})
const totals = { ok: 0, skip: 0, FAIL: 0 }
const failed = []
const count = result => {
  for (const { state } of result.tests) totals[state]++
  if (!result.fine) failed.push(result)
}
const again = []
await runAll(deno, files, {
  jobs: Number(values.jobs ?? JOBS),
  title: `Deno ${VERSION} `,
  start,
  report: result => { result.fine || values.all ? count(result) : again.push(result) }
})
// Once more and alone, and said so: a limit of the machine is told from a fault this way.
for (const first of again) {
  console.log(`\n--- ${first.name}: ${first.how} beside other files\n${first.account}`)
  await runAll(deno, files.filter(({ name }) => name === first.name), { jobs: 1, title: 'alone ', start, report: count })
}

for (const { name, how, tests, account } of failed) {
  const titles = tests.filter(({ state }) => state === 'FAIL').map(({ title }) => `  ${title}`)
  console.log(`\n--- ${name}: ${how}\n${values.all ? titles.join('\n') : account}`)
}
console.log(`\nnot run on Deno:\n${notRun.map(({ why, files }) => `  ${why}: ${files.join(', ')}`).join('\n')}\n  what starts processes`)
console.log(`over TCP and Unix sockets alone:\n  ${onTcpAlone.join(', ')}`)
console.log(`different on Deno:\n${differences.map(({ why }) => `  ${why}`).join('\n')}`)
console.log(`${files.length} files in ${seconds(start)} on Deno ${VERSION}: ${totals.ok} passed, ${totals.skip} skipped, ${failed.length} files failed${again.length === 0 ? '' : `, run twice: ${again.map(({ name }) => name).join(', ')}`}`)
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
