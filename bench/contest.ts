import { Client, type LoadOptions, type Target } from './processes.ts'
import { ratios, spread, type Spread } from './statistics.ts'

export interface Contender {
  label: string
  /** A function starts a process of its own for every turn. */
  target: Target | (() => Promise<Target>)
  /** How many turns such a process has that do not count, before the one that does. */
  practice?: number
  load: LoadOptions
}

export interface Outcome {
  label: string
  /** Operations per second, of each round. */
  rates: number[]
  rate: Spread
  /** Microseconds of the server's processor for one operation, of each round. */
  cpus: number[]
  cpu: Spread
  p99: Spread
  /** Of one processor, what the load itself took. */
  loadShare: Spread
  rateRatio: Spread
  cpuRatio: Spread
  /** The least of each to the least of the first: others on the machine can only add to what a turn costs. */
  leastCpuRatio: number
  p99Ratio: Spread
  /** Page faults of the server for one operation. */
  faults: Spread
  /** MiB by which a server in a process of its own had grown since it was started, and the ratios. */
  grown: Spread
  grownRatio: Spread
}

interface Round { rate: number, cpu: number, faults: number, p99: number, loadShare: number, grown: number }

async function turn ({ label, target, practice = 1, load }: Contender): Promise<Round> {
  if (typeof target !== 'function') return once(label, target, load)
  const own = await target()
  try {
    const before = await own.used()
    for (let time = 0; time < practice; time++) await once(label, own, load)
    return await once(label, own, load, before?.rss)
  } finally {
    own.stop()
  }
}

/** A turn in which nothing was answered is repeated so often: on a machine with other work a process may not come to run. */
const ATTEMPTS = 3

async function once (label: string, target: Target, load: LoadOptions, rss = NaN): Promise<Round> {
  for (let attempt = 1; ; attempt++) {
    const client = await Client.start(target.port, load)
    const before = await target.used()
    const { operations, seconds, cpu, p99, failures } = await client.go()
    const after = await target.used()
    await client.stop()
    if (operations === 0 && attempt < ATTEMPTS) continue
    if (operations === 0 || failures > operations / 100) throw new Error(`${label}: ${operations} operations, ${failures} failures`)
    return {
      rate: operations / seconds,
      cpu: before === undefined || after === undefined ? NaN : (after.cpu - before.cpu) / operations,
      faults: before === undefined || after === undefined ? NaN : (after.faults - before.faults) / operations,
      p99,
      loadShare: cpu / seconds / 1e6,
      grown: after === undefined ? NaN : (after.rss - rss) / 1024 / 1024
    }
  }
}

/**
 * Lets all have their turn in each round, in an order that is turned round every time. Ratios are to the first.
 * Before that come rounds that do not count, until what is measured has been compiled.
 */
export async function contest (contenders: Contender[], rounds: number, warmUp = 2): Promise<Outcome[]> {
  const results = contenders.map((): Round[] => [])
  for (let warm = 0; warm < warmUp; warm++) for (const contender of contenders) if (typeof contender.target !== 'function') await turn(contender)
  for (let round = 0; round < rounds; round++) {
    const order = contenders.map((_, at) => at)
    if (round % 2 === 1) order.reverse()
    for (const at of order) results[at]?.push(await turn(contenders[at] as Contender))
  }
  const values = (at: number, what: keyof Round): number[] => (results[at] ?? []).map(one => one[what])
  return contenders.map(({ label }, at) => ({
    label,
    rates: values(at, 'rate'),
    rate: spread(values(at, 'rate')),
    cpus: values(at, 'cpu'),
    cpu: spread(values(at, 'cpu')),
    p99: spread(values(at, 'p99')),
    loadShare: spread(values(at, 'loadShare')),
    rateRatio: ratios(values(at, 'rate'), values(0, 'rate')),
    leastCpuRatio: Math.min(...values(at, 'cpu')) / Math.min(...values(0, 'cpu')),
    cpuRatio: ratios(values(at, 'cpu'), values(0, 'cpu')),
    p99Ratio: ratios(values(at, 'p99'), values(0, 'p99')),
    faults: spread(values(at, 'faults')),
    grown: spread(values(at, 'grown')),
    grownRatio: ratios(values(at, 'grown'), values(0, 'grown'))
  }))
}
