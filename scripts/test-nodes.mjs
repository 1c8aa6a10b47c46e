// Runs the built suite on every supported Node, whose binaries come from npm, and prints one table: a line for
// each behaviour, and for each Node the transports over which it holds. `npm run test:nodes -- 22 26` runs on
// these alone.
import { spawnSync } from 'node:child_process'
import { installNode } from './nodes.mjs'
import { filesIn, JOBS, runAll, seconds } from './suite.mjs'

const MAJORS = process.argv.length > 2 ? process.argv.slice(2) : ['20', '22', '24', '26']
const suite = filesIn('test')
// What these check does not depend on the Node that runs them.
const ONCE = new Set(['documents', 'packaging', 'readme', 'setup', 'type-docs', 'types'])
const TRANSPORTS = ['tcp', 'tls', 'unix', 'injected', 'h2']

/** @type {Map<string, Map<string, Map<string, { ok: number, skip: number, FAIL: number }>>>} behaviour, Node, transport */
const table = new Map()
const totals = { ok: 0, skip: 0, FAIL: 0 }
/** Failures and skips, each by name. */
const notable = []
const versions = []
/** Behaviours that are tested by nothing else than what runs once. */
const onceAlone = new Set()

function report (version, result) {
  for (const { title, state } of result.tests) {
    totals[state]++
    if (state !== 'ok') notable.push(`${state} ${version} ${result.name}: ${title}`)
    const id = /^([A-Z]+\d+)\b/.exec(title)?.[1] ?? 'other'
    const tag = /\[([a-z0-9]+)\]$/.exec(title)?.[1]
    if (!ONCE.has(result.name)) onceAlone.delete(id)
    else if (!table.has(id)) onceAlone.add(id)
    const transport = TRANSPORTS.includes(tag) ? tag : 'one'
    const nodes = table.get(id) ?? table.set(id, new Map()).get(id)
    const cells = nodes.get(version) ?? nodes.set(version, new Map()).get(version)
    const cell = cells.get(transport) ?? cells.set(transport, { ok: 0, skip: 0, FAIL: 0 }).get(transport)
    cell[state]++
  }
  if (result.fine) return
  if (result.tests.every(({ state }) => state !== 'FAIL')) {
    totals.FAIL++
    notable.push(`FAIL ${version} ${result.name}: ${result.how}`)
  }
  console.log(`--- ${version} ${result.name}: ${result.how}\n${result.account}`)
}

const start = performance.now()
for (const major of MAJORS) {
  const binary = installNode(major)
  const version = spawnSync(binary, ['-v'], { encoding: 'utf8', timeout: 10_000 }).stdout.trim()
  versions.push(version)
  const files = suite.filter(({ name }) => !ONCE.has(name) || major === MAJORS[0])
  const again = []
  await runAll(binary, files, {
    jobs: JOBS,
    title: `${version} `,
    start,
    // Once more and alone, and said so: a limit of the machine is told from a fault this way.
    report: result => {
      if (result.fine) report(version, result)
      else again.push(result)
    }
  })
  for (const first of again) {
    console.log(`--- ${version} ${first.name}: failed beside others, and is run alone; the first time:\n${first.account}`)
    await runAll(binary, files.filter(({ name }) => name === first.name), { jobs: 1, title: `${version} `, start, report: result => report(version, result) })
  }
}

/** The transports of a cell: `tcp tls unix inj h2`, and `+n` for tests that are about one alone. */
function cellOf (cells) {
  if (cells === undefined) return 'NOT RUN'
  const told = [...TRANSPORTS, 'one'].filter(transport => cells.has(transport)).map(transport => {
    const { ok, skip, FAIL } = cells.get(transport)
    const name = transport === 'injected' ? 'inj' : transport === 'one' ? `+${ok + skip + FAIL}` : transport
    return FAIL > 0 ? `${name}:FAIL(${FAIL})` : ok === 0 ? `${name}:skip` : name
  })
  return told.join(' ')
}

const collator = new Intl.Collator('en', { numeric: true })
const ids = [...table.keys()].sort(collator.compare)
const rows = ids.map(id => [id, ...versions.map(version => onceAlone.has(id) && version !== versions[0]
  ? 'not of Node'
  : cellOf(table.get(id).get(version)))])
const heads = ['behaviour', ...versions]
const widths = heads.map((head, at) => Math.max(head.length, ...rows.map(row => row[at].length)))
console.log()
for (const row of [heads, ...rows]) console.log(row.map((cell, at) => cell.padEnd(widths[at])).join('  ').trimEnd())
console.log('\ninj: injected, in memory; h2: HTTP/2; +n: tests that are about one transport, or none')
for (const line of notable) console.log(line)
console.log(`${totals.ok} ok, ${totals.skip} skipped, ${totals.FAIL} failed, on ${versions.join(', ')}, in ${seconds(start)}`)
console.log(`${totals.ok + totals.skip} passed, ${totals.FAIL} failed`)
process.exitCode = totals.FAIL === 0 ? 0 : 1
