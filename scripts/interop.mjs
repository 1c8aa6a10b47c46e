// Drives the built examples with software that is not ours, and prints one table. What it needs it
// installs itself, from Debian (as root) and from npm; it fails when a check fails, or when a peer that
// is required cannot be had, or when a process outlives it. `npm run interop -- tunnels docker` runs these groups alone.
import { randomUUID } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as after } from 'node:timers/promises'
import { Lab } from '../.build/test/interop/lab/lab.js'
import { install } from '../.build/test/interop/lab/peers.js'

/** The whole of it, installation included, in milliseconds: whatever hangs, CI gets a table. */
const LIMIT = 30 * 60_000
const start = Date.now()
/** In the environment of every process that comes from here. */
const MARK = `INTEROP_RUN=${randomUUID()}`
process.env.INTEROP_RUN = MARK.slice('INTEROP_RUN='.length)
/** On the command lines, or among the open files, of those that have written their title over their environment. */
const files = mkdtempSync(join(tmpdir(), 'interop-'))
process.env.TMPDIR = files
process.on('exit', () => rmSync(files, { recursive: true, force: true, maxRetries: 3 }))

const directory = new URL('../.build/test/interop/', import.meta.url)
const names = readdirSync(directory).filter(name => name.endsWith('.js')).map(name => name.replace(/\.js$/, '')).sort()
const wanted = process.argv.length > 2 ? process.argv.slice(2) : names
for (const name of wanted) {
  if (!names.includes(name)) throw new Error(`there is no group "${name}", only ${names.join(', ')}`)
}

const groups = await Promise.all(wanted.map(async name => (await import(new URL(`${name}.js`, directory).href)).default))
const installed = install([...new Set(groups.flatMap(group => group.peers))], start + LIMIT / 2)
const rows = []
let running
let abandoned = false

setTimeout(() => {
  console.log(`\nnot done within ${LIMIT / 60_000} minutes`)
  abandon('the rest, for which there was no time')
}, Math.max(start + LIMIT - Date.now(), 1))
process.on('uncaughtException', error => {
  console.log(`\n${error?.stack ?? error}`)
  abandon('the rest, after an error that nobody has caught')
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => { abandon(`the rest, after ${signal}`) })

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
    rows.push(failure(group.title))
    console.log(`  FAIL      ${error?.stack ?? error}`)
  } finally {
    if (!abandoned) rows.push(...lab.rows)
    running = undefined
    await lab.end()
  }
  console.log(`  ${Math.round((performance.now() - since) / 1000)} s`)
}

if (!abandoned) await finish()

async function abandon (driven) {
  if (abandoned) return
  abandoned = true
  rows.push(...running?.rows ?? [], failure(driven))
  await Promise.race([running?.end(), after(5000)])
  await finish()
}

function failure (driven) {
  return { peer: '-', version: '-', driven, result: 'FAIL', required: true }
}

async function finish () {
  const left = await leftBehind()
  if (left.length > 0) rows.push(failure(`no process is left behind: ${left.map(({ command }) => command).join(', ')}`))
  else rows.push({ ...failure('no process is left behind'), result: 'ok' })
  const columns = ['peer', 'version', 'driven', 'result']
  const table = [Object.fromEntries(columns.map(column => [column, column])), ...rows]
  const widths = columns.map(column => Math.max(...table.map(row => row[column].length)))
  console.log()
  for (const row of table) console.log(columns.map((column, index) => row[column].padEnd(widths[index])).join('  ').trimEnd())

  const absent = rows.filter(row => row.result === 'not there')
  const failed = rows.filter(row => row.result === 'FAIL' || (row.result === 'not there' && row.required)).length
  const passed = rows.filter(row => row.result === 'ok').length
  if (absent.length > 0) console.log(`\nnot there: ${absent.map(row => `${row.peer}${row.required ? ', which is required' : ''}`).join('; ')}`)
  console.log(`\n${Math.round((Date.now() - start) / 1000)} s`)
  console.log(`${passed} passed, ${failed} failed`)
  process.exit(failed === 0 ? 0 : 1)
}

/** Processes of this run that are still there, which then are killed. What is ending has a few seconds. */
async function leftBehind () {
  for (let attempt = 0; ; attempt++) {
    const left = readdirSync('/proc').filter(name => /^\d+$/.test(name) && Number(name) !== process.pid).flatMap(pid => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
        return isOurs(pid, command) ? [{ pid: Number(pid), command: command.slice(0, 60) }] : []
      } catch {
        // It has ended, or belongs to somebody else.
        return []
      }
    })
    if (left.length === 0 || attempt === 50) {
      for (const { pid } of left) {
        try {
          process.kill(pid, 'SIGKILL')
        } catch {
          // It has ended now.
        }
      }
      return left
    }
    await after(100)
  }
}

function isOurs (pid, command) {
  return command.includes(files) || readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(MARK) ||
    readdirSync(`/proc/${pid}/fd`).some(fd => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith(files)
      } catch {
        // It was closed meanwhile.
        return false
      }
    })
}
