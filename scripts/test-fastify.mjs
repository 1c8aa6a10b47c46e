// Runs the built suite with another version of Fastify, in a copy of the project that has that one in its node_modules:
//
//   npm run test:fastify-next                 the next major, NEXT below, on the Node that it is for
//   npm run test:fastify-next -- --fastify 5.12.8 --node 20
//   npm run test:fastify-next -- tunnel http2     those files whose names have one of these words
//
// The copy is made of links to the files, so it costs little, and what is installed here stays as it is.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from './fresh.mjs'
import { nodeOf } from './nodes.mjs'

/** By version: what was green stays green until somebody moves it. */
const NEXT = '6.0.0-alpha.4'
/** In milliseconds. */
const LONGEST_DOWNLOAD = 300_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    fastify: { type: 'string', default: NEXT },
    node: { type: 'string', default: '24' },
    jobs: { type: 'string' }
  }
})
const node = nodeOf(values.node)
const copy = mkdtempSync(join(tmpdir(), 'fastify-duplex-next-'))
process.on('exit', () => rmSync(copy, { recursive: true, force: true, maxRetries: 3 }))
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]]) process.on(signal, () => process.exit(code))

link(root, copy, new Set(['node_modules/.cache', '.git', '.tap']))
replaceFastify()
const { version } = JSON.parse(readFileSync(join(copy, 'node_modules/fastify/package.json'), 'utf8'))
console.log(`Fastify ${version}, on Node ${spawnSync(node, ['-v'], { encoding: 'utf8' }).stdout.trim()}`)
// What is compiled here is compiled against that version.
run(['node_modules/typescript/bin/tsc', '--noEmit'])
run(['scripts/build.mjs'])
run(['scripts/test.mjs', ...values.jobs === undefined ? [] : ['--jobs', values.jobs], ...positionals])

/** A tree of links to the files of another one. */
function link (from, to, without, within = '') {
  mkdirSync(to, { recursive: true })
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const path = `${within}${entry.name}`
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (without.has(path)) continue
    if (entry.isDirectory() || (path === 'node_modules' && entry.isSymbolicLink())) link(source, target, without, `${path}/`)
    else if (entry.isSymbolicLink()) symlinkSync(readlinkSync(source), target)
    // What is written again in its place, and not replaced, would be written here too.
    else if (path.startsWith('node_modules/') && !entry.name.startsWith('.')) linkOrCopy(source, target)
    else copyFileSync(source, target)
  }
}

function linkOrCopy (source, target) {
  try {
    linkSync(source, target)
  } catch {
    // Another file system, or one without links.
    copyFileSync(source, target)
  }
}

/** Its dependencies are of its own: what else is in node_modules keeps those that it has. */
function replaceFastify () {
  const installed = join(copy, 'installed')
  mkdirSync(installed)
  writeFileSync(join(installed, 'package.json'), '{ "private": true }')
  const { status } = spawnSync(`npm install --no-audit --no-fund --loglevel=error fastify@${values.fastify}`, {
    cwd: installed, shell: true, stdio: ['ignore', 'ignore', 'inherit'], timeout: LONGEST_DOWNLOAD, killSignal: 'SIGKILL'
  })
  if (status !== 0) throw new Error(`Fastify ${values.fastify} could not be installed`)
  const target = join(copy, 'node_modules/fastify')
  rmSync(target, { recursive: true })
  renameSync(join(installed, 'node_modules/fastify'), target)
  const nested = join(target, 'node_modules')
  for (const name of readdirSync(join(installed, 'node_modules')).filter(name => !name.startsWith('.'))) {
    if (name.startsWith('@')) {
      for (const scoped of readdirSync(join(installed, 'node_modules', name))) move(`${name}/${scoped}`)
    } else {
      move(name)
    }
  }

  function move (name) {
    // What it needs in a version of its own is nested already.
    if (existsSync(join(nested, name))) return
    mkdirSync(join(nested, name, '..'), { recursive: true })
    renameSync(join(installed, 'node_modules', name), join(nested, name))
  }
}

function run (args) {
  const { status } = spawnSync(node, args, { cwd: copy, stdio: 'inherit' })
  if (status === 0) return
  console.log(`${args[0]} FAILS with Fastify ${version}`)
  process.exit(1)
}
