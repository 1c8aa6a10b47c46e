// Runs the built suite, or those of its files whose names have one of the words in them:
//
//   npm test
//   npm test -- tunnel http2
//   npm run test:slow             those of test/slow
//
// `npx tap` runs the same files. This starts nothing beside them, and says one line for each when it ends.
import { parseArgs } from 'node:util'
import { filesIn, JOBS, runAll, seconds } from './suite.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    in: { type: 'string', default: 'test' },
    jobs: { type: 'string', default: String(JOBS) }
  }
})
const start = performance.now()
const files = filesIn(values.in, positionals)
if (files.length === 0) {
  console.error(`no test file has ${positionals.join(' or ')} in its name`)
  process.exit(1)
}

const totals = { ok: 0, skip: 0, FAIL: 0 }
const failed = []
const count = result => {
  for (const { state } of result.tests) totals[state]++
  if (result.fine) return
  if (result.tests.every(({ state }) => state !== 'FAIL')) totals.FAIL++
  failed.push(result)
}
const again = []
await runAll(process.execPath, files, {
  jobs: Number(values.jobs),
  start,
  report: result => { result.fine ? count(result) : again.push(result) }
})
// Once more and alone, and said so: a limit of the machine is told from a fault this way.
for (const first of again) {
  console.log(`\n--- ${first.name}: ${first.how} beside other files\n${first.account}`)
  await runAll(process.execPath, files.filter(({ name }) => name === first.name), { jobs: 1, title: 'alone ', start, report: count })
}

for (const { name, how, account } of failed) console.log(`\n--- ${name}: ${how}\n${account}`)
console.log(`${files.length} files in ${seconds(start)}: ${totals.ok} passed, ${totals.skip} skipped, ${totals.FAIL} failed`)
process.exitCode = failed.length === 0 ? 0 : 1
