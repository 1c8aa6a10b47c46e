// Breaks the sources in one place after the other, in a copy, and shows that the suite sees it:
//
//   npm run test:mutation                    all of mutation-list.mjs
//   npm run test:mutation -- ci              those that CI runs: at least one for each mechanism
//   npm run test:mutation -- head gate       those whose name, file or line has one of the words in it
//   npm run test:mutation -- --suite         the whole suite for what the likely files let pass
//   npm run test:mutation -- --check         only whether each one can still be applied, and compiles
//   npm run test:mutation -- --border        those that the fuzzer of the borders has to find, by that alone
//   npm run test:mutation -- --red           goes on where tests fail without a mutation; they kill none then
//
// The exit code is 0 when each mutation made a test fail, or is listed with the reason why it does not.
// A mutation that ends the process of its tests, or that lets them wait for ever, has to be listed as one.
// StrykerJS and its runner for TAP do work here, but run every file that covers a line from end to end, for every
// operator on it: the 169 mutants of two small modules were not done in seven minutes, and most say nothing.
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import ts from 'typescript'
import { root } from './fresh.mjs'
import { mutations } from './mutation-list.mjs'

const JOBS = 2
/** In milliseconds: the longest that a test file may take, and what it may always take. */
const LONGEST = 120_000
const SHORTEST = 15_000
/** A file that is slower than this many times its usual time hangs. */
const PATIENCE = 3
/** In milliseconds: what a failed test has to say about itself has come by then. */
const ACCOUNT = 500

const major = Number(process.versions.node.split('.')[0])
const flags = process.argv.slice(2).filter(word => word.startsWith('--'))
const words = process.argv.slice(2).filter(word => !word.startsWith('--') && word !== 'ci')
const inCi = process.argv.includes('ci')
const suite = readdirSync(join(root, '.build/test')).filter(name => name.endsWith('.test.js'))
  // These run the toolchain or other programs, and see the sources rather than the copy, or nothing of it.
  .filter(name => !['packaging.test.js', 'types.test.js', 'setup.test.js', 'property.test.js', 'layers.test.js'].includes(name))
  .map(name => name.replace('.test.js', ''))
const { options } = ts.parseJsonConfigFileContent(
  ts.readConfigFile(join(root, 'tsconfig.all.json'), ts.sys.readFile).config, ts.sys, root)
// Alone a file does not tell that it is a module.
Object.assign(options, { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler })

const base = mkdtempSync(join(tmpdir(), 'mutation-'))
/** The test files that run now, for when this script is stopped. */
const running = new Set()
process.on('exit', () => {
  for (const stop of running) stop()
  rmSync(base, { recursive: true, force: true, maxRetries: 3 })
})
process.on('SIGINT', () => process.exit(130))
process.on('SIGTERM', () => process.exit(143))

/** A copy of the built project for one worker. */
function workshop (name) {
  const directory = join(base, name)
  cpSync(join(root, '.build'), join(directory, '.build'), { recursive: true })
  for (const name of ['package.json', 'README.md']) cpSync(join(root, name), join(directory, name))
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'))
  return directory
}

/** `NAME`, or `NAME /REGEX/` for those tests alone whose title matches. */
function program (test) {
  const [, name, grep] = /^(\S+)(?: (.*))?$/.exec(test)
  return { args: [`.build/test/${name}.test.js`], env: grep === undefined ? {} : { TAP_GREP: grep } }
}

/** The fuzzer. It begins with the same seed each time, and looks for nothing smaller than what it has found. */
function fuzzer ([themes, minutes]) {
  return { args: ['.build/test/border/main.js', String(minutes), '1', '--only', themes, '--no-shrink'], env: {} }
}

/** Of the lines that a program writes: the failures, without those that are known. A finding of the fuzzer is one as well. */
function failures (known) {
  const seen = []
  const titles = new Set()
  let rest = ''
  let within = ''
  const see = line => {
    const [, finding] = /^# (?!Subtest: |\{ total: |time=)(.*)$/.exec(line) ?? []
    const [, indent, said] = /^( *)not ok \d+ - (.*)$/.exec(line) ?? []
    const text = finding ?? said
    if (/^# Subtest: /.test(line)) within = line.slice('# Subtest: '.length)
    if (text === undefined) return
    const title = finding?.replace(/\d+/g, '#') ?? (indent === '' ? text.replace(/ # time=.*/, '') : within)
    titles.add(title)
    if (!known.has(title)) seen.push(line)
  }
  return {
    titles,
    /** The first of them. */
    get first () { return seen[0] },
    add (chunk) {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()
      for (const line of lines) see(line)
    }
  }
}

const NONE = new Set()

/** Runs a program of the copy until its first test fails that does not fail anyway, or it ends, or its time is over. */
function run (directory, { args, env }, limit, known = NONE, toItsEnd = false) {
  return new Promise(resolve => {
    const from = performance.now()
    const child = spawn(process.execPath, args, {
      cwd: directory,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, TAP_TIMEOUT: String(LONGEST / 1000), ...env }
    })
    let output = ''
    let errors = ''
    let failed = false
    let late = false
    const failing = failures(known)
    // With the processes that it has started.
    const stop = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // They have ended by themselves.
      }
    }
    running.add(stop)
    child.stdout.on('data', chunk => {
      output += chunk
      failing.add(chunk)
      if (failed || failing.first === undefined) return
      failed = true
      if (toItsEnd) return
      // The first one tells enough, and what comes after it may wait for ever.
      setTimeout(stop, ACCOUNT)
    })
    child.stderr.on('data', chunk => { errors = (errors + chunk).slice(-2000) })
    const timer = setTimeout(() => {
      late = true
      stop()
    }, limit)
    child.on('close', code => {
      clearTimeout(timer)
      stop()
      running.delete(stop)
      // Where tests fail anyway, that is its exit code.
      const passed = !failed && !late && (code === 0 || (known.size > 0 && code === 1))
      resolve({ passed, took: performance.now() - from, titles: failing.titles, ...account(output, failing.first, late, errors) })
    })
  })
}

/** What the first failed test of a TAP stream says. */
function account (output, first, late, errors) {
  if (first?.startsWith('# ')) return { how: 'assertion', title: first.slice(2) }
  const from = first === undefined ? output.length : output.indexOf(`${first}\n`)
  const found = /^( *)not ok \d+ - (.*)\n/m.exec(output.slice(from))
  const at = found === null ? null : Object.assign(found, { index: found.index + from })
  if (at === null) return { how: late ? 'hang' : 'crash', title: late ? 'does not end' : errors.trim().split('\n').at(-1) ?? '' }
  const diagnostics = output.slice(at.index + at[0].length).split(`\n${at[1]}  ...`, 1)[0]
  // The test within which it failed is named by the comment before it.
  const within = [...output.slice(0, at.index).matchAll(/^ *# Subtest: (.*)$/gm)].at(-1)?.[1] ?? ''
  const title = within === '' || at[2].startsWith(within) ? at[2] : `${within}: ${at[2]}`
  if (/^ *not ok \d+ - timeout!/.test(at[0]) || /signal: SIG|expired: /.test(diagnostics)) return { how: 'hang', title }
  const crash = /^ *(?:type: (?:ReferenceError|SyntaxError)|tapCaught: (?:uncaughtException|unhandledRejection))/m.test(diagnostics)
  return { how: crash ? 'crash' : 'assertion', title }
}

/** The text of the mutated module, or what is wrong with the mutation. */
function mutate ({ file, find, replace, everywhere }) {
  const path = join(root, 'lib', file)
  let source
  try {
    source = readFileSync(path, 'utf8')
  } catch {
    return { wrong: 'the file is not there any more' }
  }
  const places = source.split(find).length - 1
  if (places === 0) return { wrong: 'the text is not there any more' }
  if (places > 1 && everywhere !== true) return { wrong: `the text is there ${places} times` }
  source = source.replaceAll(find, () => replace)
  const { outputText, diagnostics } = ts.transpileModule(source, { compilerOptions: options, fileName: path, reportDiagnostics: true })
  return diagnostics.length === 0 ? { outputText } : { wrong: 'it does not compile' }
}

/** By test: how long it takes without a mutation, and what fails then. */
const usual = new Map()
const red = new Map()
const limitOf = test => Math.min(LONGEST, Math.max(SHORTEST, PATIENCE * (usual.get(test) ?? LONGEST)))
/** What the fuzzer may take: it goes on until a batch is over, and then waits for what is left. */
const limitOfFuzzer = ([, minutes]) => minutes * 60_000 + LONGEST
const nameOf = ([themes, minutes]) => `border: ${themes}, ${minutes} minutes`

/** By what a mutation should be seen. */
function killers ({ tests, border }) {
  const byFuzzer = border === undefined ? [] : [{ name: nameOf(border), program: fuzzer(border), limit: limitOfFuzzer(border) }]
  if (flags.includes('--border')) return byFuzzer
  const all = flags.includes('--suite') ? [...tests, ...suite.filter(name => !tests.includes(name))] : tests
  return [...all.map(test => ({ name: test, program: program(test), limit: limitOf(test) })), ...byFuzzer]
}

async function verdict (directory, mutation) {
  const target = join(directory, '.build/lib', mutation.file.replace(/\.ts$/, '.js'))
  const before = readFileSync(target)
  writeFileSync(target, mutate(mutation).outputText)
  try {
    // What breaks every import proves nothing.
    if (!(await run(directory, { args: ['.build/lib/index.js'], env: {} }, LONGEST)).passed) return { wrong: 'nothing can be imported any more' }
    for (const { name, program, limit } of killers(mutation)) {
      const { passed, how, title, took } = await run(directory, program, limit, red.get(name))
      if (!passed) return { file: name, how, title: `${title} (${(took / 1000).toFixed(1)} s)` }
    }
    return {}
  } finally {
    writeFileSync(target, before)
  }
}

async function inParallel (queue, work) {
  const left = [...queue]
  await Promise.all(workshops.map(async directory => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await work(directory, next)
  }))
}

const seconds = () => `${Math.round(performance.now() / 1000)} s`
const rows = []
function row (mutation, verdict, by) {
  rows.push([verdict, mutation.file, mutation.breaks, by])
  console.log(`[${rows.length} of ${chosen.length}, ${seconds()}] ${verdict}: ${mutation.file}, ${mutation.breaks}`)
}

let failed = 0
const wrongWith = mutation => mutate(mutation).wrong ??
  (mutation.tests.every(test => suite.includes(test.split(' ')[0])) ? undefined : 'one of its test files is not there')
const stale = mutations.map(mutation => [mutation, wrongWith(mutation)]).filter(([, wrong]) => wrong !== undefined)
for (const [{ file, breaks, find }, wrong] of stale) console.log(`${file}, ${breaks}: ${wrong}: ${find}`)
if (stale.length > 0 || flags.includes('--check')) {
  console.log(`${mutations.length - stale.length} passed, ${stale.length} failed`)
  process.exit(stale.length === 0 ? 0 : 1)
}

const chosen = mutations.filter(({ nodes, file, find, breaks, ci, border }) => (nodes === undefined || nodes.includes(major)) &&
  (!inCi || ci === true) && (!flags.includes('--border') || border !== undefined) && (words.length === 0 || words.some(word => `${file} ${find} ${breaks}`.includes(word))))
const needed = new Map(chosen.flatMap(killers).map(one => [one.name, one]))
const workshops = Array.from({ length: JOBS }, (_, at) => workshop(`workshop-${at}`))

await inParallel(needed.values(), async (directory, { name, program }) => {
  let result = await run(directory, program, LONGEST, NONE, true)
  if (!result.passed && !flags.includes('--red')) result = await run(directory, program, LONGEST, NONE, true)
  usual.set(name, result.took)
  if (result.passed) return
  failed++
  red.set(name, result.titles)
  console.log(`${name} fails without any mutation: ${[...result.titles].join('\n  ')}`)
})
if (failed > 0 && !flags.includes('--red')) {
  console.log(`0 passed, ${failed} failed`)
  process.exit(1)
}
console.log(`[${seconds()}] ${needed.size} programs run without a mutation; ${chosen.length} mutations, Node ${process.versions.node}`)

const totals = { assertion: 0, crash: 0, hang: 0, explained: 0 }
await inParallel(chosen, async (directory, mutation) => {
  const { wrong, file, how, title } = await verdict(directory, mutation)
  const by = `${file}: ${title}`
  if (wrong !== undefined) {
    failed++
    row(mutation, 'BROKEN', wrong)
  } else if (file === undefined && mutation.survives !== undefined) {
    totals.explained++
    row(mutation, 'survives', mutation.survives)
  } else if (file === undefined) {
    failed++
    row(mutation, 'SURVIVES', mutation.find)
  } else if (mutation.survives !== undefined) {
    failed++
    row(mutation, 'KILLED, and listed as one that survives', by)
  } else if (how !== 'assertion' && mutation.by !== how) {
    failed++
    row(mutation, how === 'crash' ? 'ENDS ITS PROCESS, and is not listed as such' : 'DOES NOT END, and is not listed as such', by)
  } else {
    totals[how]++
    row(mutation, how === 'assertion' ? 'killed' : how === 'crash' ? 'killed, ends the process' : 'killed, does not end', by)
  }
})

console.log()
for (const [verdict, file, breaks, by] of rows.sort(([, a], [, b]) => a < b ? -1 : a > b ? 1 : 0)) {
  console.log(`${verdict.padEnd(24)} ${file.padEnd(28)} ${breaks}\n${' '.repeat(25)}${by}`)
}
console.log(`${chosen.length} mutations in ${seconds()}: ${totals.assertion} killed by a failing test, ${totals.crash} by the end of the process, ` +
  `${totals.hang} by a test that does not end, ${totals.explained} survive for the reason given`)
console.log(`${chosen.length + red.size - failed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
