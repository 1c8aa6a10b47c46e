// Drives the built examples with software that is not ours, and prints one table. What it needs it
// installs itself, from Debian (as root) and from npm; it fails when a check fails, or when a peer that
// is required cannot be had. `npm run interop -- tunnels docker` runs these groups alone.
import { readdirSync } from 'node:fs'
import { Lab } from '../.build/test/interop/lab/lab.js'
import { install } from '../.build/test/interop/lab/peers.js'

const directory = new URL('../.build/test/interop/', import.meta.url)
const names = readdirSync(directory).filter(name => name.endsWith('.js')).map(name => name.replace(/\.js$/, '')).sort()
const wanted = process.argv.length > 2 ? process.argv.slice(2) : names
for (const name of wanted) {
  if (!names.includes(name)) throw new Error(`there is no group "${name}", only ${names.join(', ')}`)
}

const groups = await Promise.all(wanted.map(async name => (await import(new URL(`${name}.js`, directory).href)).default))
const installed = install([...new Set(groups.flatMap(group => group.peers))])
const rows = []
let running

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    const end = running?.end()
    Promise.resolve(end).finally(() => process.exit(1))
  })
}

for (const group of groups) {
  const since = performance.now()
  console.log(`\n${group.title}`)
  const lab = running = new Lab(installed, row => {
    console.log(`  ${row.result.padEnd(9)} ${row.peer}: ${row.driven}`)
    if (row.error !== undefined) console.log(String(row.error?.stack ?? row.error).slice(0, 3000).replace(/^/gm, '    '))
  })
  try {
    await group.run(lab)
  } catch (error) {
    rows.push({ peer: '-', version: '-', driven: group.title, result: 'FAIL', required: true })
    console.log(`  FAIL      ${error?.stack ?? error}`)
  } finally {
    rows.push(...lab.rows)
    await lab.end()
  }
  console.log(`  ${Math.round((performance.now() - since) / 1000)} s`)
}

const columns = ['peer', 'version', 'driven', 'result']
const table = [Object.fromEntries(columns.map(column => [column, column])), ...rows]
const widths = columns.map(column => Math.max(...table.map(row => row[column].length)))
console.log()
for (const row of table) console.log(columns.map((column, index) => row[column].padEnd(widths[index])).join('  ').trimEnd())

const failed = rows.filter(row => row.result === 'FAIL').length
const absent = rows.filter(row => row.result === 'not there')
const missed = absent.filter(row => row.required).length
console.log(`\n${rows.length - failed - absent.length} ok, ${failed} failed, ${absent.length} not there${missed > 0 ? `, of which ${missed} are required` : ''}`)
process.exit(failed + missed === 0 ? 0 : 1)
