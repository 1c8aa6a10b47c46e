import { checkHead, declareHeads, headCases } from './heads.ts'
import { runRounds, serveAll, type Servers } from './harness.ts'
import { checkStream, declareStreams, streamCases } from './streams.ts'

export interface PropertySettings {
  cases: number
  seed: number
  atOnce: number
  log: (line: string) => void
  /** Both, unless one is named. */
  only?: string | undefined
}

/** Half of the cases are request heads, and half are streams. Returns what went wrong. */
export async function runProperties ({ cases, seed, atOnce, log, only }: PropertySettings): Promise<string[]> {
  const problems: string[] = []
  const half = Math.ceil(cases / (only === undefined ? 2 : 1))
  if (only !== 'streams') {
    const servers = await serveAll({}, declareHeads)
    problems.push(...await runRounds({ name: 'heads', cases: half, seed, atOnce, servers, log }, headCases, c => checkHead(servers, c)))
    problems.push(...await closeAll(servers, log))
  }
  if (only !== 'heads') {
    const servers = await serveAll({ finTimeout: 20_000 }, declareStreams)
    problems.push(...await runRounds({ name: 'streams', cases: half, seed, atOnce, servers, log }, streamCases, c => checkStream(servers, c)))
    problems.push(...await closeAll(servers, log))
  }
  return problems
}

/** In milliseconds. More than the drain of a server that has something left. */
const LONGEST_CLOSE = 30_000

/** Closes the servers, and tells those that do not come to an end. */
async function closeAll (servers: Servers, log: (line: string) => void): Promise<string[]> {
  const problems: string[] = []
  for (const [transport, server] of Object.entries(servers)) {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<string>(resolve => {
      timer = setTimeout(resolve, LONGEST_CLOSE, `${transport}: app.close() does not come to its end`)
    })
    const problem = await Promise.race([server.close(), late])
    clearTimeout(timer)
    if (problem === undefined) continue
    problems.push(problem)
    log(problem)
  }
  return problems
}
