import { buildLoad } from './processes.ts'
import { messageContest, messageIdle } from './messages.ts'
import { idleTable, outcomeTable } from './report.ts'
buildLoad(false)
const [what = '', rounds = '4'] = process.argv.slice(2)
if (what.includes('a')) console.log(outcomeTable(await messageContest('small', { connections: 64, ms: 400 }, Number(rounds), 4)))
if (what.includes('b')) console.log(outcomeTable(await messageContest('small', { connections: 8, depth: 16, ms: 400 }, Number(rounds), 4)))
if (what.includes('c')) console.log(outcomeTable(await messageContest('large', { connections: 16, depth: 4, ms: 400 }, Number(rounds), 4)))
if (what.includes('i')) console.log(idleTable(await messageIdle(1000, 2)))
