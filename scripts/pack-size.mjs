// Looks at what `npm publish` would send: the size of the package, and that nothing is in it that is not for users. Fails where
// it is too large. Whoever adds something on purpose moves the limit.
import { spawnSync } from 'node:child_process'
import { parseArgs } from 'node:util'
import { root } from './fresh.mjs'

const { values: { packed, unpacked } } = parseArgs({
  options: {
    // In kB, as npm counts them.
    packed: { type: 'string', default: '900' },
    unpacked: { type: 'string', default: '3400' }
  }
})

/** Where what is published is from. Everything else is for those who work on the package. */
const PUBLISHED = /^(?:dist|lib|types|docs|examples)\/|^bench\/(?:RESULTS\.md|load\.c|results\.svg)$|^(?:package\.json|LICENSE|[A-Z_]+\.md)$/

// Under npm on Windows the command is npm.cmd, which needs a shell.
const { status, stdout, stderr } = spawnSync('npm pack --dry-run --json --ignore-scripts', { cwd: root, shell: true, encoding: 'utf8' })
if (status !== 0) throw new Error(`npm pack fails:\n${stderr}`)
const [{ size, unpackedSize, files }] = JSON.parse(stdout)
const kB = bytes => Math.ceil(bytes / 1000)
const problems = []
if (!files.some(({ path }) => path === 'dist/index.js')) problems.push('nothing is built: npm run build')
if (kB(size) > Number(packed)) problems.push(`it is larger than ${packed} kB packed`)
if (kB(unpackedSize) > Number(unpacked)) problems.push(`it is larger than ${unpacked} kB unpacked`)
for (const { path } of files) if (!PUBLISHED.test(path)) problems.push(`${path} is not for users`)

const byDirectory = new Map()
for (const { path, size } of files) {
  const directory = path.includes('/') ? path.replace(/\/.*/, '/') : 'the rest'
  byDirectory.set(directory, (byDirectory.get(directory) ?? 0) + size)
}
console.log(`${files.length} files, ${kB(size)} kB packed of at most ${packed}, ${kB(unpackedSize)} kB unpacked of at most ${unpacked}`)
console.log([...byDirectory].sort(([, a], [, b]) => b - a).map(([directory, bytes]) => `${directory} ${kB(bytes)} kB`).join(', '))
for (const problem of problems) console.error(`the package: ${problem}`)
process.exitCode = problems.length === 0 ? 0 : 1
