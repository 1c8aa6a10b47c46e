// Checks and compiles all there is, for the tests and the examples, into .build/. Where nothing has changed since, it
// does nothing, and else no more than it must.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { changed, root, TOOLS } from './fresh.mjs'

const SOURCES = ['lib', 'types', 'test', 'examples', 'bench']
/** Written when all went well. */
const STAMP = '.build/built'

if (changed(...SOURCES, ...TOOLS) < changed(STAMP)) {
  console.log('build:all: .build is up to date')
} else {
  const from = Date.now()
  const { status } = spawnSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.all.json'], { cwd: root, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
  for (const directory of SOURCES) removeOrphans(directory)
  writeFileSync(join(root, STAMP), '')
  // What was changed meanwhile is newer.
  utimesSync(join(root, STAMP), from / 1000, from / 1000)
  console.log(`build:all: compiled in ${Math.round((Date.now() - from) / 1000)} s`)
}

/** What was compiled from a source that is gone would be run as well. */
function removeOrphans (directory) {
  const built = join(root, '.build', directory)
  if (!existsSync(built)) return
  for (const entry of readdirSync(built, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) removeOrphans(path)
    else if (/\.[cm]?js$/.test(entry.name) && !existsSync(join(root, path.replace(/js$/, 'ts')))) rmSync(join(root, '.build', path))
  }
}
