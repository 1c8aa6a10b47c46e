// Runs the built suite on every supported Node, whose binaries come from npm, and prints one table: a line for
// each behaviour, and for each Node the transports over which it holds. `npm run test:nodes -- 22 26` runs on
// these alone.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

const MAJORS = process.argv.length > 2 ? process.argv.slice(2) : ['20', '22', '24', '26']
const JOBS = 2
/** In milliseconds, for one file, and for the download of a Node. */
const LONGEST = 300_000
const LONGEST_DOWNLOAD = 300_000
/** How much is shown of a file that did not come to its end. */
const LAST_LINES = 30

const root = new URL('..', import.meta.url).pathname
const suite = readdirSync(join(root, '.build/test')).filter(name => name.endsWith('.test.js')).sort()
// What these check does not depend on the Node that runs them.
const ONCE = new Set(['declarations.test.js', 'types.test.js'])
const TRANSPORTS = ['tcp', 'tls', 'unix', 'injected', 'h2']
const seconds = from => `${Math.round((performance.now() - from) / 1000)} s`

/** The path of a Node binary, installed beside the other tools when it is not there. */
function install (major) {
  const prefix = join(root, 'node_modules/.cache/nodes', major)
  const binary = join(prefix, 'node_modules', `node-${process.platform}-${process.arch}`, 'bin/node')
  if (!existsSync(binary)) {
    console.log(`installing Node ${major}`)
    const { status } = spawnSync('npm', ['install', '--no-save', '--prefix', prefix, `node-${process.platform}-${process.arch}@${major}`],
      { stdio: ['ignore', 'ignore', 'inherit'], timeout: LONGEST_DOWNLOAD, killSignal: 'SIGKILL' })
    if (status !== 0) throw new Error(`Node ${major} could not be installed`)
  }
  return binary
}

const running = new Set()
process.on('exit', () => { for (const stop of running) stop() })
process.on('SIGINT', () => process.exit(130))
process.on('SIGTERM', () => process.exit(143))

function run (binary, file) {
  return new Promise(resolve => {
    const from = performance.now()
    const child = spawn(binary, [join('.build/test', file)], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, TAP_TIMEOUT: String(LONGEST / 1000) }
    })
    let output = ''
    let late = false
    // With the processes that it has started, which would hold its output open.
    const stop = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // They have ended by themselves.
      }
    }
    running.add(stop)
    child.stdout.on('data', chunk => { output += chunk })
    child.stderr.on('data', chunk => { output += chunk })
    const timer = setTimeout(() => {
      late = true
      stop()
    }, LONGEST)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      stop()
      running.delete(stop)
      const tests = results(output)
      const whole = !late && /^1\.\.\d+/m.test(output)
      const fine = code === 0 && whole && tests.every(({ state }) => state !== 'FAIL')
      resolve({ file, fine, whole, tests, output, how: late ? 'does not end' : `exit code ${code ?? signal}`, took: seconds(from) })
    })
  })
}

/** Top-level results of a TAP stream. */
function results (output) {
  return [...output.matchAll(/^(not )?ok \d+ - (.*)$/gm)].map(([, failed, line]) => {
    const [, title, skip] = /^(.*?)(?: # (?:time=.*|(SKIP|TODO).*))?$/.exec(line)
    return { title, state: failed !== undefined ? 'FAIL' : skip !== undefined ? 'skip' : 'ok' }
  })
}

/** What a file that failed has to say: what failed, or, if it did not come to its end, what it said last. */
function account ({ output, whole }) {
  const lines = output.split('\n')
  const failures = lines.filter(line => /not ok|Error|at file/.test(line)).slice(0, 40)
  return (whole && failures.length > 0 ? failures : [...failures, '...', ...lines.slice(-LAST_LINES)]).join('\n')
}

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
    if (state !== 'ok') notable.push(`${state} ${version} ${result.file}: ${title}`)
    const id = /^([A-Z]+\d+)\b/.exec(title)?.[1] ?? 'other'
    const tag = /\[([a-z0-9]+)\]$/.exec(title)?.[1]
    if (!ONCE.has(result.file)) onceAlone.delete(id)
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
    notable.push(`FAIL ${version} ${result.file}: ${result.how}`)
  }
  console.log(`--- ${version} ${result.file}: ${result.how}\n${account(result)}`)
}

const start = performance.now()
for (const major of MAJORS) {
  const binary = install(major)
  const version = spawnSync(binary, ['-v'], { encoding: 'utf8', timeout: 10_000 }).stdout.trim()
  versions.push(version)
  const files = suite.filter(file => !ONCE.has(file) || major === MAJORS[0])
  const queue = [...files]
  const again = []
  let done = 0
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const result = await run(binary, file)
      console.log(`[${seconds(start)}] ${version} ${++done}/${files.length} ${file}: ${result.fine ? 'ok' : 'FAILS'} in ${result.took}`)
      // Once more and alone, and said so: a limit of the machine is told from a fault this way.
      if (result.fine) report(version, result)
      else again.push(result)
    }
  }
  await Promise.all(Array.from({ length: JOBS }, worker))
  for (const first of again) {
    const result = await run(binary, first.file)
    console.log(`--- ${version} ${first.file}: failed beside another file, ${result.fine ? 'passed' : 'failed'} alone; the first time:\n${account(first)}`)
    report(version, result)
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
