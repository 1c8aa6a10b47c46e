// Lists the examples, by the comments that they begin with: what each is, and how it is started.
//
//   npm run examples              all of them
//   npm run examples -- voice     all that the comment of one says: its settings, and what to try with which command
//
// Such a comment is a sentence that says what the program is, then `Run it:`, and `Drive it:`, each with a command. A part of
// other examples names them instead. What has no such comment makes this fail.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './fresh.mjs'

/** From 22.18 on, Node runs TypeScript. */
const [major, minor] = process.versions.node.split('.').map(Number)
const runsTypeScript = major > 22 || (major === 22 && minor >= 18)

/** What follows a label, from the column of its first line on, until the next one. */
function section (header, label) {
  const found = new RegExp(`^${label}: +(.*(?:\\n {8,}.*)*)`, 'm').exec(header)
  return found?.[1].split('\n').map(line => line.trim()) ?? []
}

function read (name) {
  const lines = readFileSync(join(root, 'examples', `${name}.ts`), 'utf8').split('\n')
  const header = lines.slice(0, lines.findIndex(line => !line.startsWith('//'))).map(line => line.replace(/^\/\/ ?/, '')).join('\n')
  const what = header.split('\n\n')[0].replaceAll('\n', ' ').replace(/(?<=\.) +(?=[A-Z]).*/, '')
  const partOf = [...what.matchAll(/examples\/([\w-]+)\.ts/g)].map(([, other]) => other)
  const [start = ''] = section(header, 'Run it')
  return { name, header, what, partOf, start: start.replace(/ {3,}.*/, ''), drive: section(header, 'Drive it') }
}

function wrongWith ({ name, what, partOf, start, drive }) {
  if (!what.endsWith('.')) return 'its first paragraph is no sentence'
  if (partOf.length > 0) return partOf.every(other => existsSync(join(root, 'examples', `${other}.ts`))) ? undefined : 'it names no example that is there'
  if (!start.includes(name === 'echo' ? 'npm start' : `examples/${name}.ts`)) return 'it does not say how to start it'
  return drive[0] === undefined ? 'it does not say what to try' : undefined
}

/** The commands for the Node that runs this. */
const here = text => runsTypeScript
  ? text
  : text.replace(/\n *Before Node 22\.18: .*/, '').replaceAll(/(?<=\bnode )examples\/([\w-]+)\.ts/g, '.build/examples/$1.js')
const examples = readdirSync(join(root, 'examples')).filter(file => file.endsWith('.ts')).map(file => read(file.replace('.ts', '')))
const wanted = process.argv.slice(2)
for (const name of wanted) {
  const example = examples.find(example => example.name === name)
  if (example === undefined) {
    console.error(`there is no example "${name}", only ${examples.map(({ name }) => name).join(', ')}`)
    process.exit(2)
  }
  console.log(here(example.header))
}

if (wanted.length === 0) {
  const width = Math.max(...examples.map(({ name }) => name.length)) + 2
  for (const { name, what, partOf, start } of examples) {
    if (partOf.length === 0) console.log(`${name.padEnd(width)}${what}\n${''.padEnd(width)}${here(start)}`)
  }
  console.log('\nnpm run examples -- NAME says more of one: its settings, and what to try with which command.')
}

for (const example of examples) {
  const wrong = wrongWith(example)
  if (wrong === undefined) continue
  console.error(`examples/${example.name}.ts: ${wrong}`)
  process.exitCode = 1
}
