// Random requests and random streams against their models:
//
//   npm run test:property -- [CASES] [SEED] [heads | streams]
//
// A failing case is made smaller, and told with its seed and what went over the wire.
import { randomInt } from 'node:crypto'
import { runProperties } from './run.ts'

const cases = Number(process.argv[2] ?? 24_000)
const seed = Number(process.argv[3] ?? randomInt(2 ** 31))
const from = performance.now()
console.log(`${cases} cases, seed ${seed}, Node ${process.versions.node}`)
const problems = await runProperties({ cases, seed, atOnce: 16, only: process.argv[4], log: line => console.log(line) })
console.log(`${problems.length} problems in ${Math.round((performance.now() - from) / 1000)} s`)
// A server that did not close would keep the process.
process.exit(problems.length === 0 ? 0 : 1)
