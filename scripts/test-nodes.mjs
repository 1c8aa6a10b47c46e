// Runs the built suite on every supported Node, whose binaries come from npm, and prints one table:
// behaviour by Node and transport. `npm run test:nodes -- 22 26` runs on these alone.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

const MAJORS = process.argv.length > 2 ? process.argv.slice(2) : ['20', '22', '24', '26']
const JOBS = 2
const root = new URL('..', import.meta.url).pathname
const suite = readdirSync(join(root, '.build/test')).filter(name => name.endsWith('.test.js')).sort()
// What these check does not depend on the Node that runs them.
const ONCE = new Set(['types.test.js'])

/** The path of a Node binary, installed beside the other tools when it is not there. */
function install (major) {
  const prefix = join(root, 'node_modules/.cache/nodes', major)
  const binary = join(prefix, 'node_modules', `node-${process.platform}-${process.arch}`, 'bin/node')
  if (!existsSync(binary)) {
    const { status } = spawnSync('npm', ['install', '--no-save', '--prefix', prefix, `node-${process.platform}-${process.arch}@${major}`],
      { stdio: ['ignore', 'ignore', 'inherit'] })
    if (status !== 0) throw new Error(`Node ${major} could not be installed`)
  }
  return binary
}

function run (binary, file) {
  return new Promise(resolve => {
    const child = spawn(binary, [join('.build/test', file)], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, TAP_TIMEOUT: '180' } })
    let output = ''
    child.stdout.on('data', chunk => { output += chunk })
    child.stderr.on('data', chunk => { output += chunk })
    const timer = setTimeout(() => child.kill('SIGKILL'), 180_000)
    child.on('close', code => {
      clearTimeout(timer)
      resolve({ file, code, output })
    })
  })
}

/** Top-level results of a TAP stream. */
function results (output) {
  return [...output.matchAll(/^(not )?ok \d+ - (.*?)(?: # (?:time=.*|SKIP.*|TODO.*))?$/gm)]
    .map(([, failed, title]) => ({ title, passed: failed === undefined }))
}

/** @type {Map<string, Map<string, Map<string, boolean>>>} behaviour, Node, transport: passed */
const table = new Map()
let passed = 0
let failed = 0
const versions = []

for (const major of MAJORS) {
  const binary = install(major)
  const version = spawnSync(binary, ['-v'], { encoding: 'utf8' }).stdout.trim()
  versions.push(version)
  const queue = suite.filter(file => !ONCE.has(file) || major === MAJORS[0])
  const again = []
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const result = await run(binary, file)
      // Once more and alone, and said so: a limit of the machine is told from a fault this way.
      if (result.code === 0) report(result)
      else again.push(file)
    }
  }
  const report = ({ file, code, output }) => {
    const tests = results(output)
    for (const test of tests) {
      if (test.passed) passed++
      else failed++
      const id = /^([A-Z]+\d+)\b/.exec(test.title)?.[1] ?? 'other'
      const transport = /\[([a-z0-9]+)\]$/.exec(test.title)?.[1] ?? '-'
      const nodes = table.get(id) ?? table.set(id, new Map()).get(id)
      const cells = nodes.get(version) ?? nodes.set(version, new Map()).get(version)
      cells.set(transport, test.passed && (cells.get(transport) ?? true))
    }
    if (code !== 0) {
      if (tests.every(test => test.passed)) failed++
      console.log(`--- ${version} ${file}: exit code ${code}\n${output.split('\n').filter(line => /not ok|Error|at file/.test(line)).slice(0, 40).join('\n')}`)
    }
  }
  await Promise.all(Array.from({ length: JOBS }, worker))
  for (const file of again) {
    const result = await run(binary, file)
    console.log(`--- ${version} ${file}: failed beside another file, ${result.code === 0 ? 'passed' : 'failed'} alone`)
    report(result)
  }
}

const collator = new Intl.Collator('en', { numeric: true })
const width = 30
console.log(['behaviour'.padEnd(10), ...versions.map(version => version.padEnd(width))].join(' '))
for (const id of [...table.keys()].sort(collator.compare)) {
  const cells = versions.map(version => [...(table.get(id).get(version) ?? new Map())]
    .map(([transport, ok]) => `${transport === '-' ? '' : `${transport} `}${ok ? 'ok' : 'FAIL'}`).join(', ') || 'not run')
  console.log([id.padEnd(10), ...cells.map(cell => cell.padEnd(width))].join(' '))
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
