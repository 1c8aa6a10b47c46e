// Breaks the sources in one place after the other, in a copy, and shows that the suite sees it:
//
//   npm run test:mutation                    all of mutation-list.mjs
//   npm run test:mutation -- head gate       those whose name, file or line has one of the words in it
//   npm run test:mutation -- --suite         the whole suite for what the likely files let pass
//
// The exit code is 0 when each mutation made a test fail, or is listed with the reason why it does not.
// StrykerJS and its runner for TAP do work here, but run every file that covers a line from end to end, for every
// operator on it: the 169 mutants of two small modules were not done in seven minutes, and most say nothing.
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import ts from 'typescript'
import { mutations } from './mutation-list.mjs'

const JOBS = 2
/** In milliseconds: the longest that a test file may take, and what it may always take. */
const LONGEST = 120_000
const SHORTEST = 10_000
/** A file that is slower than this many times its usual time hangs. */
const PATIENCE = 3

const root = new URL('..', import.meta.url).pathname
const major = Number(process.versions.node.split('.')[0])
const words = process.argv.slice(2).filter(word => !word.startsWith('--'))
const wholeSuite = process.argv.includes('--suite')
const suite = readdirSync(join(root, '.build/test')).filter(name => name.endsWith('.test.js'))
  // These run the toolchain or other programs, and see the sources rather than the copy, or nothing of it.
  .filter(name => !['types.test.js', 'setup.test.js', 'property.test.js'].includes(name))
const { options } = ts.parseJsonConfigFileContent(
  ts.readConfigFile(join(root, 'tsconfig.all.json'), ts.sys.readFile).config, ts.sys, root)
// Alone a file does not tell that it is a module.
Object.assign(options, { module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler })

const base = mkdtempSync(join(tmpdir(), 'mutation-'))
process.on('exit', () => rmSync(base, { recursive: true, force: true }))
process.on('SIGINT', () => process.exit(130))
process.on('SIGTERM', () => process.exit(143))

/** A copy of the built project for one worker. */
function workshop (name) {
  const directory = join(base, name)
  cpSync(join(root, '.build'), join(directory, '.build'), { recursive: true })
  cpSync(join(root, 'package.json'), join(directory, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'))
  return directory
}

function run (directory, args, limit) {
  return new Promise(resolve => {
    const from = performance.now()
    const child = spawn(process.execPath, args, {
      cwd: directory,
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
      env: { ...process.env, TAP_TIMEOUT: String(LONGEST / 1000) }
    })
    let output = ''
    let failed
    let late = false
    // With the processes that it has started.
    const stop = () => {
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {
        // They have ended by themselves.
      }
    }
    child.stdout.on('data', chunk => {
      output += chunk
      if (failed !== undefined) return
      failed = /^ *not ok \d+ - (.*)\n/m.exec(output)?.[1]
      // The first one tells enough, and what comes after it may wait for ever.
      if (failed !== undefined) stop()
    })
    const timer = setTimeout(() => {
      late = true
      stop()
    }, limit)
    child.on('close', code => {
      clearTimeout(timer)
      resolve({ passed: code === 0, late, took: performance.now() - from, failed })
    })
  })
}

/** The text of the mutated module, or what is wrong with the mutation. */
function mutate ({ file, find, replace, everywhere }) {
  const path = join(root, 'lib', file)
  let source = readFileSync(path, 'utf8')
  const places = source.split(find).length - 1
  if (places === 0) return { wrong: 'the text is not there any more' }
  if (places > 1 && everywhere !== true) return { wrong: `the text is there ${places} times` }
  source = source.replaceAll(find, () => replace)
  const { outputText, diagnostics } = ts.transpileModule(source, { compilerOptions: options, fileName: path, reportDiagnostics: true })
  return diagnostics.length === 0 ? { outputText } : { wrong: 'it does not compile' }
}

const usual = new Map()
const limitOf = file => Math.min(LONGEST, Math.max(SHORTEST, PATIENCE * (usual.get(file) ?? LONGEST)))

async function verdict (directory, mutation) {
  const { outputText, wrong } = mutate(mutation)
  if (wrong !== undefined) return { wrong }
  const target = join(directory, '.build/lib', mutation.file.replace(/\.ts$/, '.js'))
  const before = readFileSync(target)
  writeFileSync(target, outputText)
  try {
    // What breaks every import proves nothing.
    if (!(await run(directory, ['.build/lib/index.js'], LONGEST)).passed) return { wrong: 'nothing can be imported any more' }
    const rest = wholeSuite ? suite.filter(file => !mutation.tests.includes(file.replace('.test.js', ''))) : []
    for (const file of [...mutation.tests.map(name => `${name}.test.js`), ...rest]) {
      const { passed, late, failed } = await run(directory, [join('.build/test', file)], limitOf(file))
      if (!passed) return { killed: `${file.replace('.test.js', '')}: ${failed ?? (late ? 'does not end' : 'ends the process')}` }
    }
    return {}
  } finally {
    writeFileSync(target, before)
  }
}

async function inParallel (queue, work) {
  const left = [...queue]
  await Promise.all(Array.from({ length: JOBS }, async (_, at) => {
    const directory = workshops[at]
    for (let next = left.shift(); next !== undefined; next = left.shift()) await work(directory, next)
  }))
}

const chosen = mutations.filter(({ nodes, file, find, breaks }) => (nodes === undefined || nodes.includes(major)) &&
  (words.length === 0 || words.some(word => `${file} ${find} ${breaks}`.includes(word))))
const files = [...new Set(chosen.flatMap(({ tests }) => tests))].map(name => `${name}.test.js`)
const workshops = Array.from({ length: JOBS }, (_, at) => workshop(`workshop-${at}`))

let problems = 0
await inParallel(files, async (directory, file) => {
  let result = await run(directory, [join('.build/test', file)], LONGEST)
  if (!result.passed) result = await run(directory, [join('.build/test', file)], LONGEST)
  usual.set(file, result.took)
  if (result.passed) return
  problems++
  console.log(`${file} fails without any mutation: ${result.failed ?? 'it does not end'}`)
})
if (problems > 0) process.exit(1)
console.log(`${files.length} test files pass without a mutation; ${chosen.length} mutations, Node ${process.versions.node}`)

const totals = { killed: 0, explained: 0 }
await inParallel(chosen, async (directory, mutation) => {
  const { killed, wrong } = await verdict(directory, mutation)
  const name = `${mutation.file}: ${mutation.breaks}`.padEnd(100)
  if (wrong !== undefined) {
    problems++
    console.log(`${name} BROKEN, ${wrong}: ${mutation.find}`)
  } else if (killed !== undefined) {
    totals.killed++
    console.log(`${name} killed by ${killed}`)
  } else if (mutation.survives !== undefined) {
    totals.explained++
    console.log(`${name} survived, as expected: ${mutation.survives}`)
  } else {
    problems++
    console.log(`${name} SURVIVED: ${mutation.find}`)
  }
})
console.log(`${chosen.length} mutations: ${totals.killed} killed, ${totals.explained} survived as explained, ${problems} problems`)
process.exitCode = problems === 0 ? 0 : 1
