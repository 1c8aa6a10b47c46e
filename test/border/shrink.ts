import { runBatch, WHOLE } from './batch.ts'
import type { AppPlan, BatchPlan, Http2RoundPlan, RoundPlan } from './plan.ts'
import type { Finding } from './round.ts'
import { wireOf } from './round.ts'

/** How often a plan is run again, and for how long nothing may happen in it, in milliseconds. */
const MOST_RUNS = 24
const FOREVER = 1500
const LONGEST = 10_000

/** Drops what a finding does not need. */
export async function shrink (
  plan: BatchPlan, finding: Finding, bare: boolean, signature: (rule: string) => string
): Promise<{ plan: BatchPlan, times: number }> {
  const wanted = signature(finding.rule)
  const until = performance.now() + LONGEST
  let times = 0
  let runs = 0
  const fails = async (candidate: BatchPlan): Promise<boolean> => {
    if (runs >= MOST_RUNS || performance.now() > until) return false
    runs++
    const forever = finding.rule.includes('nobody takes') ? 3500 : FOREVER
    const { findings } = await runBatch(candidate, { bare, forever })
    const again = findings.some(({ rule }) => signature(rule) === wanted)
    if (again) times++
    return again
  }
  let best = plan
  const take = async (candidate: BatchPlan): Promise<boolean> => {
    if (!await fails(candidate)) return false
    best = candidate
    return true
  }
  if (finding.round !== WHOLE) {
    const at = finding.round
    const one = { ...plan, rounds: plan.rounds.slice(at, at + 1), http2: plan.http2.slice(at, at + 1) }
    if (!await take(one) && !await take(one)) await take(plan)
  } else {
    // Halves, as long as one of them does it.
    for (let whole = false; !whole;) {
      const { rounds, http2 } = best
      const many = Math.max(rounds.length, http2.length)
      if (many <= 1) break
      const half = Math.ceil(many / 2)
      whole = !await take({ ...best, rounds: rounds.slice(0, half), http2: http2.slice(0, half) }) &&
        !await take({ ...best, rounds: rounds.slice(half), http2: http2.slice(half) })
    }
  }
  if (best.rounds.length === 1) {
    const [round] = best.rounds as [RoundPlan]
    let { ops } = round
    for (let at = ops.length - 1; at >= 0; at--) {
      const fewer = ops.filter((_op, place) => place !== at)
      if (!fewer.some(({ op }) => op === 'request')) continue
      if (await take({ ...best, rounds: [{ ...round, ops: fewer }] })) ops = fewer
    }
  } else if (best.http2.length === 1) {
    const [round] = best.http2 as [Http2RoundPlan]
    let { ops } = round
    for (let at = ops.length - 1; at > 0; at--) {
      if (ops[at]?.op === 'open') continue
      const fewer = ops.filter((_op, place) => place !== at)
      if (await take({ ...best, http2: [{ ...round, ops: fewer }] })) ops = fewer
    }
  }
  return { plan: best, times }
}

/** A plan that a reader can follow: the app, and what each client does, in order. */
export function describe ({ app, rounds, http2 }: BatchPlan, only: number | undefined): string {
  const chosen = only === undefined ? rounds : rounds.slice(only, only + 1)
  const chosen2 = only === undefined ? http2 : http2.slice(only, only + 1)
  const most = 3
  return [
    `  app: ${describeApp(app)}`,
    ...chosen.slice(0, most).flatMap(round => ['  client:', ...describeRound(round, app)]),
    ...chosen2.slice(0, most).flatMap(round => [`  client of HTTP/2, window ${round.window}:`, ...describeHttp2(round, app)]),
    ...(chosen.length + chosen2.length > most ? [`  and ${chosen.length + chosen2.length - most} clients more`] : [])
  ].join('\n')
}

function describeApp ({ transport, plugin, neighbour, force, close }: AppPlan): string {
  return [
    transport, JSON.stringify(plugin), `neighbour ${neighbour}`, ...(force ? ['forceCloseConnections'] : []),
    `closed by ${close.how}${close.after === undefined ? ' at the end' : ` after ${close.after} ms`}`
  ].join(', ')
}

function describeRequest (plan: RoundPlan['ops'][number] & { op: 'request' }, app: AppPlan): string {
  const route = app.routes.find(({ url }) => url === plan.url)
  const plain = plan.kind === 'plain' || plan.kind === 'ignored'
  const does = plain
    ? plan.plain
    : route?.accept === 'manual' ? `${plan.pending}${plan.pending === 'accept' ? `, ${plan.stream}` : ''}` : plan.stream
  const hook = plan.hook === undefined ? '' : `; ${plan.hook.at} hook: ${plan.hook.does}, ${plan.hook.ms} ms, ${plan.hook.bytes} bytes`
  const limits = plain || route === undefined ? '' : ` ${route.accept} ${JSON.stringify({ ...route.limits, handlerTimeout: route.handlerTimeout })}`
  return `${plan.url}${limits}; handler: ${does}, ${plan.ms} ms, ${plan.bytes} bytes${hook}`
}

function describeRound ({ ops, leave, stalled }: RoundPlan, app: AppPlan): string[] {
  const lines = ops.map(op => {
    switch (op.op) {
      case 'request': {
        const { bytes } = wireOf(op)
        const text = JSON.stringify(bytes.toString('latin1', 0, bytes.indexOf('\r\n\r\n') + 4))
        return `    puts ${text} and ${op.body} bytes${op.whole ? '' : ', not whole'}\n      (${describeRequest(op, app)})`
      }
      case 'bytes': return `    sends ${op.count} bytes more`
      case 'wait': return `    waits ${op.ms} ms`
      case 'flush': return '    sends what it has put together'
      default: return `    ${op.op}`
    }
  })
  return [...lines, stalled === true ? '    waits, and does not read' : '    waits for the answers', `    leaves: ${leave}`]
}

function describeHttp2 ({ requests, ops, leave, stalled }: Http2RoundPlan, app: AppPlan): string[] {
  const lines = ops.map(({ op, stream, count }) => {
    const request = requests[stream]
    return op === 'open' && request !== undefined
      ? `    opens ${stream}: ${request.kind} ${request.id}, and ${request.body} bytes\n      (${describeRequest(request, app)})`
      : `    ${op} ${stream} ${count}`
  })
  return [...lines, stalled === true ? '    waits, and takes nothing' : '    waits for the answers', `    leaves: ${leave}`]
}
