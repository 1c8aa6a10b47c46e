import { checkHead, declareHeads, headCases } from './heads.ts'
import { runRounds, serveAll } from './harness.ts'

export interface PropertySettings {
  cases: number
  seed: number
  atOnce: number
  log: (line: string) => void
}

/** All properties, one after the other. Returns what went wrong. */
export async function runProperties ({ cases, seed, atOnce, log }: PropertySettings): Promise<string[]> {
  const heads = await serveAll({}, declareHeads)
  const problems: string[] = []
  const half = Math.ceil(cases / 2)
  problems.push(...await runRounds({ name: 'heads', cases: half, seed, atOnce, servers: heads, log }, headCases, c => checkHead(heads, c)))
  for (const server of Object.values(heads)) await server.close()
  return problems
}
