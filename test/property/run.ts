import { checkHead, declareHeads, headCases } from './heads.ts'
import { runRounds, serveAll } from './harness.ts'
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
    for (const server of Object.values(servers)) await server.close()
  }
  if (only !== 'heads') {
    const servers = await serveAll({ finTimeout: 20_000 }, declareStreams)
    problems.push(...await runRounds({ name: 'streams', cases: half, seed, atOnce, servers, log }, streamCases, c => checkStream(servers, c)))
    for (const server of Object.values(servers)) await server.close()
  }
  return problems
}
