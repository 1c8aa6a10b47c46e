// Makes a fresh checkout ready: installs what package-lock.json says, unless that is there, and builds.
// It imports nothing but Node itself, because at first there is nothing else.
//
//   node scripts/setup.mjs        (npm start and npm run verify begin with it)
import { spawnSync } from 'node:child_process'
import { statSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`setup: Node ${process.versions.node} is too old, at least 20.19 is needed`)
  process.exit(1)
}

const lock = modified('package-lock.json')
// npm writes this file last: without it an installation was not finished.
const installed = modified('node_modules/.package-lock.json')
if (installed === undefined || installed < (lock ?? 0)) {
  const command = lock === undefined ? 'install' : 'ci'
  console.log(`setup: npm ${command}, because ${installed === undefined ? 'nothing is installed' : 'package-lock.json is newer than node_modules'}`)
  // The tools that build are among the devDependencies, which NODE_ENV=production would leave out.
  npm(command, '--include=dev')
} else {
  console.log('setup: node_modules is up to date')
}
npm('run', '--silent', 'build:all')

/** @returns {number | undefined} milliseconds, or undefined where there is no such file */
function modified (path) {
  return statSync(`${root}/${path}`, { throwIfNoEntry: false })?.mtimeMs
}

function npm (...args) {
  // Under npm this is the npm that runs us; it needs no shell, which npm.cmd on Windows does.
  const cli = process.env.npm_execpath
  const { status, error } = cli !== undefined && /\.c?js$/.test(cli)
    ? spawnSync(process.execPath, [cli, ...args], { cwd: root, stdio: 'inherit' })
    : spawnSync(['npm', ...args].join(' '), { cwd: root, stdio: 'inherit', shell: true })
  if (error !== undefined) console.error(`setup: ${error.message}`)
  if (status !== 0) process.exit(status ?? 1)
}
