import { cpus } from 'node:os'
import type { Outcome } from './contest.ts'
import type { Idle } from './idle.ts'
import type { Injections } from './protocol.ts'
import { ratios, spread, type Spread } from './statistics.ts'

export interface Bar {
  what: string
  value: number
  limit: number
  /** The limit is the most, not the least. */
  most: boolean
  met: boolean
}

export interface Section {
  title: string
  table: string
  outcomes?: Outcome[]
}

export interface Run {
  bars: Bar[]
  sections: Section[]
  started: { date: Date, load: number[] }
  ended: Date
  rounds: number
  ms: number
  go: boolean
}

const number = (value: number, digits = 0): string =>
  Number.isNaN(value) ? '-' : value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits })
const ratio = ({ median, low, high }: Spread): string =>
  Number.isNaN(median) ? '-' : `${number(median, 3)} (${number(low, 2)}-${number(high, 2)})`

/** A table that reads well as text and as Markdown. */
function table (head: string[], rows: string[][]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map(row => (row[column] as string).length)))
  const line = (cells: string[]): string =>
    `| ${cells.map((cell, column) => column === 0 ? cell.padEnd(widths[column] as number) : cell.padStart(widths[column] as number)).join(' | ')} |`
  const rule = `|${widths.map((width, column) => column === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`).join('|')}|`
  return [line(head), rule, ...rows.map(line)].join('\n')
}

export function outcomeTable (outcomes: Outcome[]): string {
  return table(['', 'operations/s', 'ratio', 'server CPU, µs', 'ratio', 'p99, µs', 'ratio', 'load, of a core'], outcomes.map(one => [
    one.label, number(one.rate.median), ratio(one.rateRatio), number(one.cpu.median, 2), ratio(one.cpuRatio),
    number(one.p99.median), ratio(one.p99Ratio), `${number(one.loadShare.median * 100)} %`
  ]))
}

/** With the memory that a server took while it relayed. */
export function grownTable (outcomes: Outcome[]): string {
  return table(['', 'operations/s', 'ratio', 'server CPU, µs', 'ratio', 'p99, µs', 'ratio', 'MiB more', 'ratio'], outcomes.map(one => [
    one.label, number(one.rate.median), ratio(one.rateRatio), number(one.cpu.median, 2), ratio(one.cpuRatio),
    number(one.p99.median), ratio(one.p99Ratio), number(one.grown.median, 1), ratio(one.grownRatio)
  ]))
}

const OURS = new Set(['fastify-duplex', 'tunnel()', 'forward', 'messages'])

/** What a reader wants to know first: a line for each comparison, server CPU as a ratio to its first contender. */
function glance (sections: Section[]): string {
  const rows = sections.flatMap(({ title, outcomes }) => {
    const [first] = outcomes ?? []
    const ours = outcomes?.find(({ label }) => OURS.has(label))
    if (first === undefined || ours === undefined) return []
    const rest = (outcomes ?? []).filter(one => one !== first && one !== ours && !Number.isNaN(one.cpuRatio.median))
    return [[title, first.label, number(ours.cpuRatio.median, 2), rest.map(one => `${one.label} ${number(one.cpuRatio.median, 2)}`).join(', ')]]
  })
  return table(['what', 'is 1', 'fastify-duplex', 'others'], rows)
}

export function injectionTable (all: Injections[]): string {
  const [first] = all as [Injections]
  return table(['', 'injections/s', 'ratio', 'CPU, µs', 'ratio'], all.map(({ label, rates, cpus }) => [
    label, number(spread(rates).median), ratio(ratios(rates, first.rates)), number(spread(cpus).median, 1), ratio(ratios(cpus, first.cpus))
  ]))
}

/** Ratios are to the first. */
export function idleTable (idles: Record<string, Idle[]>): string {
  const [base] = Object.values(idles) as [Idle[]]
  return table(['', 'RSS, bytes', 'ratio', 'heap, bytes', 'ratio', 'CPU to accept, µs'], Object.entries(idles).map(([name, runs]) => {
    const of = (what: 'rss' | 'heap' | 'cpu'): Spread => spread(runs.map(one => one[what]))
    const to = (what: 'rss' | 'heap'): Spread => spread(runs.map((one, round) => one[what] / (base[round] as Idle)[what]))
    return [name, number(of('rss').median), ratio(to('rss')), number(of('heap').median), ratio(to('heap')), number(of('cpu').median, 1)]
  }))
}

export function keptTable (kept: Record<string, Record<string, number>>): string {
  const kinds = [...new Set(Object.values(kept).flatMap(one => Object.keys(one)))]
  return table(['', ...kinds], Object.entries(kept).map(([name, counts]) =>
    [name, ...kinds.map(kind => counts[kind] === undefined ? '-' : number(counts[kind], 2))]))
}

/** Of what was sent for a client that does not read. */
export interface Unread {
  label: string
  what: string
  /** Bytes that the upstream got rid of. */
  sent: number
  /** Bytes by which the proxy's process has grown. */
  rss: number
}

export function unreadTable (rows: Unread[]): string {
  const mib = (bytes: number): string => number(bytes / 1024 / 1024, 1)
  return table(['', 'sent by the upstream, MiB', 'RSS of the proxy, MiB more'], rows.map(({ label, what, sent, rss }) => [`${label}, ${what}`, mib(sent), mib(rss)]))
}

export function growthTable (growth: { connections: number, result: Idle }[]): string {
  return table(['connections', 'CPU to accept, µs', 'RSS, bytes', 'heap, bytes', 'drain, ms'], growth.map(({ connections, result }) =>
    [number(connections), number(result.cpu, 1), number(result.rss), number(result.heap), number(result.drain as number)]))
}

export function barsTable (bars: Bar[]): string {
  return table(['bar', 'wanted', 'measured', ''], bars.map(({ what, value, limit, most, met }) =>
    [what, `${most ? '<=' : '>='} ${limit}`, number(value, 3), met ? 'met' : 'MISSED']))
}

/** @param load the average of the minute before the run */
function shared (load: number): string {
  return load > 0.5
    ? `**The machine was shared.** Its load was ${load.toFixed(1)} before the run: rates and latencies are noisy, and lower than the machine's own. Ratios, and CPU time
above all, say more than rates.`
    : `Nothing else ran on the machine: its load was ${load.toFixed(1)} before the run. It is a virtual one, so that turns differ all the same; ratios, and CPU time above all, say
more than rates.`
}

/** On Node 20 the results have a picture. */
export const OTHER_NODE = !process.versions.node.startsWith('20.')

export function markdown ({ bars, sections, started, ended, rounds, ms, go }: Run): string {
  const share = (label: string): string => {
    const [first] = sections
    return number((first?.outcomes?.find(one => one.label === label)?.loadShare.median ?? NaN) * 100)
  }
  return `# Results

Written by \`npm run bench\` on ${started.date.toISOString().slice(0, 16).replace('T', ' ')} UTC, in ${number((ended.getTime() - started.date.getTime()) / 60_000, 1)} minutes:
Node ${process.version}, ${cpus().length} cores (${cpus()[0]?.model.trim() ?? ''}), Linux, loopback.

${shared(started.load[0] as number)}

${OTHER_NODE ? 'The same on Node 20, with a picture: [RESULTS.md](RESULTS.md).' : '![Ratios](results.svg)\n\nThe same on Node 26: `bench/RESULTS-node26.md` of the repository.'}

## At a glance

Server CPU for one operation, as a ratio; less is better. All with Node's defaults, unless the title says otherwise.

${glance(sections)}

## Targets

${barsTable(bars)}

## How

Every server and the load are processes of their own. Each contender has its turn of ${ms} ms in every round, one right after the other, in an
order that is turned round each time; ${rounds} rounds (twice as many for the plain route). A ratio is that of two turns in the same round; shown are
the median of these ratios, and the quartiles in brackets. Server CPU is that of the server's process (user and system) for one operation, asked over
IPC before and after a turn. Two processes of the very same server differ for as long as they live, by how V8 has compiled what they do: each turn
of a server of Node's has a process of its own, which has practised for four turns before, for acceptance, which has the most code, for twelve.
What noise is left is to be seen where a server runs against itself (\`node again\` and the like). Opening the connections is not in
it, except where it is the subject. Echoes are \`readable.pipe(writable)\` everywhere; Bun and Deno run the
code of \`node\`${go ? ', and Go runs with GOMAXPROCS=1' : ''}.

Allocator and collector are as they are, which is how people run Node. By chance some processes are hit for as long as they live. glibc gives the top of its
heap back to the kernel as soon as 128 KiB of it are free: where that happens to be what Node has just read into, it is fetched again, page by page. And V8 counts
the memory of what was read with the heap: where both pass the limit of a small heap, chunks of 64 KiB bring about one full collection after the other, some 25 in a
second. In the tuned tables they run with \`MALLOC_TRIM_THRESHOLD_=268435456\` and \`--initial-heap-size=256\`, with which neither happens. (On Node 24 the collections come with
the flag, too.)

The app of \`fastify without plugin\` has registered a plugin that does nothing, and does by hand what the others do: an upgrade in a listener of its server, without a route.

The load is one thread of C over epoll ([load.c](load.c)); for HTTP/2 it is Node's own client. While it measures it polls and does not
sleep: to wake a sleeper is most of what the kernel does for a small write, it charges that to the server, and the slower server would pay for more of it.
That the load is not what is measured is seen in the last
column, its own share of a core: in the first table it is busy for ${share('node')} % of the time with bare Node, and looks in vain for the rest${go ? '' : '. Go was not installed'}.
For HTTP/2 the client is as busy as the server, so that there the CPU column is the one to read. In the tunnel the echo server behind it (\`net\`) shares the
cores with everybody, so that the load sleeps there, and socat has one process for each connection, of which the CPU is not counted. HAProxy runs one thread, in TCP mode; it and Go move the bytes within the kernel, which Node cannot.

${sections.map(({ title, table }) => `## ${title}\n\n${table}`).join('\n\n')}

In the tables of messages all check what comes with one schema, by Fastify's Ajv, and answer with another message in JSON. By hand that is \`JSON.parse\`, the validator, and
\`JSON.stringify\` on the socket of ws; for socket.io an event each way. In the table of their memory one message of 4 KiB was answered on each connection, a second and a half before.
A handler of \`messages\` still has the last message of its loop, some 4 KB of it; ws keeps what zlib needs for as long as a connection lives.

RSS and heap are taken after a collection, before and after the connections are opened; what bare Node keeps is the socket alone.
A connection keeps its request and reply: \`app.duplex.connections\` has it, and \`connection.reply\` is part of it; and the \`onResponse\` hooks and the last log line, which have both, come
at its end. The parser goes back to Node's pool; of those that are counted a few stay there for the next connection.

A quick run (\`npm run bench -- quick\`) takes for a bar that is known to be missed about what was measured here, and fails at 1.25 times that.

In the table of growth the server's code is still being compiled during the first thousands, so that its CPU falls.
There the handler calls \`connection.close()\` when \`draining\` aborts, and the client ends its side when it sees the end.
`
}

const escape = (text: string): string => text.replace(/&/g, '&amp;').replace(/</g, '&lt;')

interface Line { label: string, value: Spread, strong: boolean }

/** CPU for one operation, as a ratio to the first of each section: bars with their quartiles. */
export function chart (sections: Section[], bars: Bar[]): string {
  const left = 210
  const scale = 130
  const most = 4
  const out: string[] = []
  let y = 50
  const line = ({ label, value, strong }: Line): void => {
    const width = Math.min(value.median, most) * scale
    out.push(
      `<text x="${left - 8}" y="${y + 11}" text-anchor="end"${strong ? ' font-weight="bold"' : ''}>${escape(label)}</text>`,
      `<rect x="${left}" y="${y}" width="${width.toFixed(1)}" height="14" fill="${strong ? '#2f6f4f' : '#a9b8b0'}"/>`,
      `<line x1="${(left + Math.min(value.low, most) * scale).toFixed(1)}" x2="${(left + Math.min(value.high, most) * scale).toFixed(1)}" y1="${y + 7}" y2="${y + 7}" stroke="#000"/>`,
      `<text x="${(left + width + 8).toFixed(1)}" y="${y + 11}">${number(value.median, 2)}</text>`
    )
    y += 18
  }
  for (const { title, outcomes } of sections) {
    if (outcomes === undefined) continue
    out.push(`<text x="10" y="${y + 12}" font-weight="bold">${escape(title)}</text>`)
    y += 20
    for (const { label, cpuRatio } of outcomes) {
      if (!Number.isNaN(cpuRatio.median)) line({ label, value: cpuRatio, strong: OURS.has(label) })
    }
    y += 10
  }
  const missed = bars.filter(({ met }) => !met).length
  return `<svg xmlns="http://www.w3.org/2000/svg" width="800" height="${y + 20}" viewBox="0 0 800 ${y + 20}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="22" font-size="15" font-weight="bold">Server CPU for one operation, ratio to the first of each group (less is better)</text>
<text x="10" y="40">${bars.length - missed} of ${bars.length} bars met; the black line is the interquartile range</text>
<line x1="${left + scale}" x2="${left + scale}" y1="48" y2="${y}" stroke="#c33" stroke-dasharray="4 3"/>
${out.join('\n')}
</svg>
`
}
