// Random apps, and clients that do what clients do at the worst moment:
//
//   npm run test:border -- MINUTES [SEED] [--only THEME,THEME] [--batch N] [--round N] [--bare]
//
// Every finding is told with its seed, made smaller, and with what went over the wire. `--batch` and `--round`
// run one again; `--bare` runs the same clients without the plugin, to see what Fastify does by itself.
import { randomInt } from 'node:crypto'
import { parseArgs } from 'node:util'
import Fastify from 'fastify'
import duplex from '../../lib/index.ts'
import { runBatch, WHOLE } from './batch.ts'
import { runningTimers, watchTimers } from './leftovers.ts'
import { patience } from './patience.ts'
import { plainOnly, planBatch, themes, type BatchPlan, type Theme } from './plan.ts'
import type { Finding } from './round.ts'
import { describe, shrink } from './shrink.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    only: { type: 'string' },
    batch: { type: 'string' },
    round: { type: 'string' },
    bare: { type: 'boolean' },
    shrink: { type: 'boolean', default: true }
  },
  allowNegative: true
})
const minutes = Number(positionals[0] ?? 1)
const seed = Number(positionals[1] ?? randomInt(2 ** 31))
const bare = values.bare === true
const only = (values.only?.split(',') ?? []) as Theme[]
for (const theme of only) if (!(theme in themes)) throw new Error(`no such theme: ${theme}; there are ${Object.keys(themes).join(', ')}`)

/** Whether this build knows the option. */
async function knows (option: string): Promise<boolean> {
  const app = Fastify()
  try {
    await app.register(duplex, { [option]: 1000 })
    return true
  } catch {
    return false
  } finally {
    await app.close()
  }
}

interface Known { rule: string, theme: Theme, count: number, after: number }

const known = new Map<string, Known>()
const from = performance.now()
let shrinking = 0
/** Without the search for smaller plans. */
const seconds = (): number => (performance.now() - from - shrinking) / 1000
let rounds = 0
const late: Promise<void>[] = []
let queue = Promise.resolve()

/** Findings that differ by numbers alone are one. */
function signature (rule: string): string {
  return rule.replace(/\d+/g, '#')
}

async function report (plan: BatchPlan, batch: number, findings: readonly Finding[]): Promise<void> {
  for (const finding of findings) {
    const theme = finding.round === WHOLE ? plan.theme : plan.rounds[finding.round]?.theme ?? plan.theme
    const key = `${theme} ${signature(finding.rule)}`
    const before = known.get(key)
    if (before !== undefined) {
      before.count++
      continue
    }
    known.set(key, { rule: finding.rule, theme, count: 1, after: seconds() })
    console.log(`\n# ${finding.rule}\n  theme ${theme}, after ${seconds().toFixed(1)} s; again: ${again(batch, finding.round)}`)
    const start = performance.now()
    const { plan: smaller, times } = values.shrink === false || finding.rule.startsWith('a timer') ? { plan, times: 0 } : await shrink(plan, finding, bare, signature)
    shrinking += performance.now() - start
    console.log(times > 0 ? `  seen again ${times} times, at last with` : '  as it was found')
    console.log(describe(smaller, times > 0 || finding.round === WHOLE ? undefined : finding.round))
    if (finding.transcript !== '') console.log(brief(finding.transcript))
  }
}

function brief (transcript: string): string {
  const most = 24
  const lines = transcript.split('\n').map(line => line.length > 300 ? `${line.slice(0, 300)}...` : line)
  return lines.length > most ? [...lines.slice(0, most / 2), `  (${lines.length - most} lines more)`, ...lines.slice(-most / 2)].join('\n') : lines.join('\n')
}

function again (batch: number, round: number): string {
  return `npm run test:border -- 1 ${seed}${only.length > 0 ? ` --only ${only.join()}` : ''} --batch ${batch}${round === WHOLE ? '' : ` --round ${round}`}`
}

console.log(`${minutes} minutes, seed ${seed}, Node ${process.versions.node}${bare ? ', without the plugin' : ''}`)
const readTimeout = await knows('readTimeout')
watchTimers()
const { batch: single } = values
const chosen = values.round === undefined ? undefined : [Number(values.round)]
for (let batch = single === undefined ? 0 : Number(single); seconds() < minutes * 60; batch++) {
  const planned = planBatch(seed, batch, only, readTimeout)
  const plan = bare ? plainOnly(planned) : planned
  const { findings, later } = await runBatch(plan, { bare, only: chosen })
  rounds += chosen?.length ?? (plan.rounds.length + plan.http2.length)
  await report(plan, batch, findings)
  late.push(later().then(left => {
    queue = queue.then(() => report(plan, batch, left))
  }))
  if (late.length > 100) late.splice(0, 50)
  if (single !== undefined) break
}
await Promise.all(late)
await queue
if (known.size === 0 && !await patience(3500, () => runningTimers().size === 0)) {
  for (const line of new Set(runningTimers().values())) {
    const rule = `a timer is left: ${line}`
    console.log(`\n# ${rule}`)
    known.set(rule, { rule, theme: 'any', count: 1, after: seconds() })
  }
}
console.log(`\n${rounds} rounds in ${Math.round(seconds())} s, seed ${seed}, ${known.size} findings`)
const table = [...known.values()].sort((a, b) => a.theme.localeCompare(b.theme) || b.count - a.count)
for (const { rule, theme, count, after } of table) console.log(`${theme.padEnd(12)} ${String(count).padStart(5)} times, first after ${after.toFixed(1).padStart(5)} s  ${rule}`)
// A server that did not close would keep the process.
process.exit(known.size === 0 ? 0 : 1)
