import type { FastifyDuplexOptions } from '../../lib/index.ts'
import { Dice } from './dice.ts'

/** A hook of one request that does more than look. */
export interface HookPlan {
  at: 'onRequest' | 'preHandler' | 'onSend'
  does: 'slow' | 'throw' | 'answer' | 'raw' | 'stream'
  ms: number
  bytes: number
}

/** What a handler does with a connection that it has. */
export const STREAM_DEEDS = [
  'echo', 'echo', 'echo', 'say', 'say', 'fail', 'destroy', 'leave', 'wait', 'deaf', 'close', 'half', 'pipeline-part', 'iterator', 'pipeline-fail', 'tunnel',
  'tunnel-part', 'tunnel-late'
] as const
export type StreamDeed = typeof STREAM_DEEDS[number] | 'inner'

/** What the handler of a manual route does first. */
export const PENDING_DEEDS = [
  'accept', 'accept', 'accept', 'answer', 'answer-stream', 'throw', 'nothing', 'raw', 'detach-refuse', 'detach-echo', 'never'
] as const
export type PendingDeed = typeof PENDING_DEEDS[number] | 'detach-inner'

/** What the handler of a plain route does. */
export const PLAIN_DEEDS = ['now', 'now', 'slow', 'big', 'stream', 'poll', 'throw', 'raw', 'fail-stream'] as const
export type PlainDeed = typeof PLAIN_DEEDS[number]

export type RequestKind = 'upgrade' | 'connect' | 'hijack' | 'body' | 'plain' | 'ignored' | 'head' | 'expect'

export interface RequestPlan {
  op: 'request'
  id: number
  kind: RequestKind
  url: string
  method: string
  hook?: HookPlan
  plain: PlainDeed
  pending: PendingDeed
  stream: StreamDeed
  ms: number
  /** What the handler says, in bytes. */
  bytes: number
  /** The body of the request, or what follows the head of a takeover in the same packet. */
  body: number
  framing: 'length' | 'chunked'
  /** The end of the body comes with it. */
  whole: boolean
}

export type Op =
  | RequestPlan
  /** What was put together so far leaves in one packet. */
  | { op: 'flush' }
  | { op: 'wait', ms: number }
  /** Until so many responses have begun. */
  | { op: 'await-answer' }
  | { op: 'bytes', count: number }
  /** A whole request, in a place where it is none. */
  | { op: 'smuggle', id: number }
  | { op: 'garbage' }
  | { op: 'part' }
  | { op: 'pause' | 'resume' | 'end' | 'reset' | 'destroy' }

/** How the client leaves, when all that it waits for has come. `stay`: when the server ends it. */
export type Leave = 'end' | 'reset' | 'destroy' | 'stay'

export interface RoundPlan {
  theme: Theme
  ops: Op[]
  leave: Leave
  /** The client does not read, and the server is to let go of it by itself. */
  stalled?: boolean
}

export interface Http2Op {
  op: 'open' | 'write' | 'end' | 'rst' | 'wait' | 'session-close' | 'session-destroy' | 'reset' | 'deaf' | 'half-block'
  stream: number
  count: number
}

export interface Http2RoundPlan {
  theme: Theme
  requests: RequestPlan[]
  ops: Http2Op[]
  window: number
  leave: Leave
  stalled?: boolean
}

export interface RouteLimits {
  handshakeTimeout?: number
  idleTimeout?: number
  finTimeout?: number
  halfOpenTimeout?: number
  maxLifetime?: number
  maxConnections?: number
  readTimeout?: number
}

export interface RoutePlan {
  url: string
  methods: string[]
  accept: 'auto' | 'manual'
  kinds?: ('upgrade' | 'connect' | 'hijack' | 'body')[]
  limits: RouteLimits
  handlerTimeout?: number
  shared?: boolean
}

export interface ClosePlan {
  /** `server` closes the server of Node first, and then the app; `hook` does so in a preClose hook that comes before all others. */
  how: 'app' | 'server' | 'twice' | 'hook'
  /** In milliseconds from the beginning; without it when all clients are gone. */
  after?: number
}

export interface AppPlan {
  transport: 'tcp' | 'tls' | 'unix' | 'h2'
  plugin: FastifyDuplexOptions & { drainTimeout: number }
  routes: RoutePlan[]
  neighbour: 'none' | 'owner' | 'counts'
  force: boolean
  close: ClosePlan
}

export interface BatchPlan {
  theme: Theme
  app: AppPlan
  rounds: RoundPlan[]
  http2: Http2RoundPlan[]
}

/** What a batch is mostly about, and how often that comes. */
export const themes = {
  any: 12,
  pipeline: 10,
  'body-behind': 4,
  answers: 5,
  stalled: 2,
  owners: 3,
  'given-away': 4,
  utilities: 4,
  expect: 2,
  closing: 4,
  'h2-any': 8,
  'h2-answers': 3,
  'h2-window': 2,
  'h2-deaf': 1,
  'h2-half': 1
} as const
export type Theme = keyof typeof themes

const ROUNDS = 60

export function planBatch (seed: number, batch: number, only: readonly Theme[], readTimeout: boolean): BatchPlan {
  const dice = new Dice(seed, batch)
  const bag = (Object.keys(themes) as Theme[])
    .filter(theme => only.length === 0 || only.includes(theme))
    .flatMap(theme => Array<Theme>(themes[theme]).fill(theme))
  const theme = dice.pick(bag)
  const app = planApp(dice, theme, readTimeout)
  const ids = { next: 1 }
  if (theme.startsWith('h2')) {
    const count = theme === 'h2-window' || theme === 'h2-deaf' || theme === 'h2-half' ? 5 : 24
    return { theme, app, rounds: [], http2: Array.from({ length: count }, () => planHttp2(dice, theme, app, ids)) }
  }
  const count = theme === 'stalled' ? 6 : ROUNDS
  const rounds = Array.from({ length: count }, () => planRound(dice, theme === 'stalled' || dice.chance(65) ? theme : 'any', app, ids))
  return { theme, app, rounds, http2: [] }
}

function planLimits (dice: Dice, readTimeout: boolean): RouteLimits {
  const limits: RouteLimits = { finTimeout: dice.pick([60, 150]) }
  const some: [keyof RouteLimits, number[]][] = [
    ['handshakeTimeout', [20, 40]], ['idleTimeout', [30, 60]], ['halfOpenTimeout', [30, 60]], ['maxLifetime', [40, 80]]
  ]
  if (readTimeout) some.push(['readTimeout', [30, 60]])
  for (const [name, values] of some) if (dice.chance(25)) limits[name] = dice.pick(values)
  return limits
}

function planApp (dice: Dice, theme: Theme, readTimeout: boolean): AppPlan {
  const http2 = theme.startsWith('h2')
  const limits = (): RouteLimits => planLimits(dice, readTimeout)
  const early = (): RouteLimits => ({ ...limits(), handshakeTimeout: dice.pick([15, 30]) })
  const all = ['GET', 'POST']
  const routes: RoutePlan[] = [
    { url: '/auto', methods: all, accept: 'auto', limits: limits() },
    { url: '/manual', methods: all, accept: 'manual', limits: limits() },
    { url: '/free', methods: all, accept: dice.pick(['auto', 'manual']), limits: {} },
    { url: '/body', methods: ['POST'], accept: dice.pick(['auto', 'manual']), kinds: ['body'], limits: limits() },
    { url: '/shared', methods: ['GET'], accept: 'auto', kinds: ['upgrade'], limits: {}, shared: true },
    { url: '/few', methods: all, accept: 'manual', limits: { finTimeout: 100, maxConnections: 4 } },
    { url: '/early', methods: all, accept: 'manual', limits: early() },
    { url: '/early-auto', methods: all, accept: 'auto', limits: early() },
    { url: '/handler', methods: all, accept: 'manual', limits: {}, handlerTimeout: dice.pick([15, 30]) },
    { url: '/patient', methods: all, accept: dice.pick(['auto', 'manual']), limits: { handshakeTimeout: 60_000, finTimeout: 100 } },
    { url: '/deaf', methods: all, accept: 'auto', limits: { finTimeout: 60, idleTimeout: 60, maxLifetime: 80 } },
    { url: '*', methods: ['CONNECT'], accept: dice.pick(['auto', 'manual']), limits: dice.chance(50) ? limits() : {} }
  ]
  const stays = theme === 'h2-deaf' || theme === 'h2-half'
  const closing = theme === 'closing' || stays || dice.chance(15)
  return {
    transport: http2 ? 'h2' : theme === 'stalled' ? 'tcp' : dice.pick(['tcp', 'tcp', 'tcp', 'tcp', 'tcp', 'tcp', 'tls', 'unix']),
    plugin: { drainTimeout: dice.pick([100, 250]), finTimeout: 150, ...(dice.chance(20) ? { maxConnections: 1000 } : {}) },
    routes,
    neighbour: theme === 'owners' ? dice.pick(['owner', 'counts', 'counts']) : http2 || dice.chance(80) ? 'none' : dice.pick(['owner', 'counts']),
    force: dice.chance(15),
    close: { how: dice.pick(http2 ? ['app', 'app', 'twice'] : ['app', 'app', 'twice', 'server', 'hook']), ...(closing ? { after: dice.between(0, 70) + (stays ? 100 : 0) } : {}) }
  }
}

interface Ids { next: number }

function planHook (dice: Dice): HookPlan {
  return {
    at: dice.pick(['onRequest', 'onRequest', 'preHandler', 'onSend']),
    does: dice.pick(['slow', 'slow', 'throw', 'answer', 'raw', 'stream']),
    ms: dice.pick([0, 1, 5, 15, 25, 40]),
    bytes: dice.pick([0, 10, 1000, 100_000])
  }
}

/** Whether what follows this request on its connection is never a request. */
export function swallows ({ kind }: RequestPlan): boolean {
  return kind === 'upgrade' || kind === 'connect' || kind === 'hijack'
}

/** @param alone nothing was asked for before it */
function planRequest (dice: Dice, kind: RequestKind, app: AppPlan, ids: Ids, alone = false): RequestPlan {
  const duplexUrls = ['/auto', '/manual', '/free', '/few', '/early', '/early-auto', '/handler', '/patient']
  const url = kind === 'plain' || kind === 'ignored'
    ? dice.pick(['/plain', '/plain', '/shared'])
    : kind === 'body' || kind === 'expect'
      ? dice.pick([...duplexUrls, '/body', '/body'])
      : kind === 'connect' ? '*' : kind === 'upgrade' ? dice.pick([...duplexUrls, '/shared']) : dice.pick(duplexUrls)
  const method = kind === 'connect' ? 'CONNECT' : kind === 'head' ? 'HEAD' : kind === 'body' || kind === 'expect' ? 'POST' : 'GET'
  const hook = dice.chance(kind === 'expect' ? 0 : 25) ? planHook(dice) : undefined
  // A neighbour takes it from before the responses that are still to come.
  if (kind === 'ignored' && app.neighbour !== 'none' && !alone) return planRequest(dice, 'plain', app, ids)
  const posts = kind === 'plain' && dice.chance(25)
  return {
    op: 'request',
    id: ids.next++,
    kind: url === '/shared' && kind === 'ignored' ? 'upgrade' : kind,
    url,
    method: posts ? 'POST' : method,
    ...(hook === undefined ? {} : { hook }),
    plain: dice.pick(PLAIN_DEEDS),
    pending: dice.pick(PENDING_DEEDS),
    stream: dice.pick(STREAM_DEEDS),
    ms: dice.pick([0, 0, 1, 5, 10, 25, 45]),
    bytes: dice.pick([0, 1, 100, 5000, 70_000]),
    body: dice.pick([0, 0, 1, 50, 3000, 70_000]),
    framing: dice.pick(['length', 'chunked']),
    whole: dice.chance(80)
  }
}

const shortWait = (dice: Dice): Op[] => dice.chance(50) ? [{ op: 'wait', ms: dice.pick([0, 1, 2, 5, 15, 30]) }] : []

function planRound (dice: Dice, theme: Theme, app: AppPlan, ids: Ids): RoundPlan {
  const request = (kind: RequestKind, facts: Partial<RequestPlan> = {}): RequestPlan => {
    return { ...planRequest(dice, kind, app, ids, theme === 'owners'), ...facts }
  }
  const without = ({ hook: _hook, ...rest }: RequestPlan): RequestPlan => rest
  const leave = dice.pick<Leave>(['end', 'end', 'reset', 'destroy'])
  switch (theme) {
    case 'pipeline': {
      const ops: Op[] = []
      const count = dice.pick([1, 1, 2, 3])
      for (let at = 0; at < count; at++) {
        const kind = at === 0 ? 'plain' : dice.pick<RequestKind>(['plain', 'plain', 'body', app.neighbour === 'none' ? 'ignored' : 'plain'])
        const facts = kind === 'body' ? {} : { kind, url: '/plain', body: 0, method: 'GET' }
        const plain = dice.pick<PlainDeed>(at === 0 ? ['poll', 'poll', 'poll', 'slow'] : ['poll', 'slow', 'now'])
        ops.push(without(request(kind, { plain, whole: true, body: dice.pick([0, 50]), ...facts })))
      }
      const last = dice.pick<RequestKind | 'none'>(['none', 'upgrade', 'ignored', 'connect', 'hijack', 'body', 'body'])
      // More than the server takes in while it waits would hide the reset behind it.
      if (last !== 'none') ops.push(without(request(last, { whole: true, body: dice.pick([0, 50, 3000]) })))
      return { theme, ops: [...ops, { op: 'flush' }, ...shortWait(dice)], leave: dice.pick(['reset', 'reset', 'destroy', 'end']) }
    }
    case 'body-behind': {
      const before = without(request('plain', { plain: dice.pick(['stream', 'big', 'slow']), bytes: 70_000, ms: dice.pick([5, 25]), body: 0, method: 'GET' }))
      const behind = without(request('body', {
        url: dice.pick(['/free', '/body', '/auto']), pending: 'accept', stream: dice.pick(['fail', 'destroy', 'pipeline-fail']), bytes: 100, ms: 0, body: 50
      }))
      return { theme, ops: [before, behind, { op: 'flush' }], leave: 'end' }
    }
    case 'answers': {
      const kind = dice.pick<RequestKind>(['upgrade', 'hijack', 'body', 'connect'])
      const url = kind === 'connect' ? '*' : dice.pick(['/early', '/early', '/early-auto', '/handler', '/manual'])
      const facts = { url, pending: dice.pick<PendingDeed>(['raw', 'answer-stream', 'answer', 'accept', 'never']), ms: dice.pick([10, 25, 45, 60]), bytes: dice.pick([1000, 70_000]) }
      const plan = request(kind, facts)
      if (plan.pending === 'never') plan.body = Math.min(plan.body, 3000)
      if (dice.chance(50)) delete plan.hook
      else plan.hook = { at: dice.pick(['onRequest', 'preHandler', 'onSend']), does: dice.pick(['raw', 'stream', 'slow', 'answer']), ms: dice.pick([10, 30, 50]), bytes: 20_000 }
      return { theme, ops: [plan, { op: 'flush' }], leave }
    }
    case 'stalled': {
      const kind = dice.pick<RequestKind>(['body', 'body', 'upgrade'])
      const plan = without(request(kind, { url: '/few', pending: 'answer', bytes: 24_000_000, ms: 0, body: kind === 'body' ? dice.pick([0, 50]) : 0, whole: true }))
      return { theme, ops: [{ op: 'pause' }, plan, { op: 'flush' }], leave: 'reset', stalled: true }
    }
    case 'owners': {
      const ignored = without(request('ignored', { kind: 'ignored', url: '/plain', plain: dice.pick(['now', 'slow', 'poll']) }))
      const more = app.neighbour === 'counts' && dice.chance(30) ? [without(request('plain', { plain: 'now' }))] : []
      return { theme, ops: [ignored, ...more, { op: 'flush' }, ...shortWait(dice)], leave: dice.pick(['reset', 'reset', 'end', 'destroy']) }
    }
    case 'given-away': {
      const connect = without(request('connect', { pending: dice.pick(['accept', 'detach-inner', 'detach-refuse', 'detach-echo']), stream: dice.pick(['inner', 'inner', 'echo']), body: 0, ms: 0 }))
      const inner = without(request(dice.pick(['upgrade', 'hijack', 'body', 'plain']), { url: dice.pick(['/free', '/auto', '/plain']), whole: true }))
      // Nobody takes it over there, and what follows would be the next request.
      if (inner.url === '/plain' && inner.kind !== 'body') inner.body = 0
      const manual = app.routes.some(({ url, accept }) => url === '*' && accept === 'manual')
      const away = manual
        ? connect.pending === 'detach-inner' || (connect.pending === 'accept' && connect.stream === 'inner')
        : connect.stream === 'inner'
      const refuse = without(request(dice.pick(['upgrade', 'hijack']), { url: dice.pick(['/few', '/manual']), pending: 'detach-refuse', body: 0 }))
      if (dice.chance(30)) return { theme, ops: [refuse, { op: 'flush' }, { op: 'end' }], leave }
      return { theme, ops: [connect, { op: 'flush' }, { op: 'await-answer' }, ...(away ? [inner, { op: 'flush' } as const, { op: 'await-answer' } as const] : [])], leave }
    }
    case 'utilities': {
      const kind = dice.pick<RequestKind>(['body', 'body', 'body', 'upgrade', 'hijack'])
      const plan = without(request(kind, { url: '/free', pending: 'accept', stream: dice.pick(['pipeline-part', 'iterator', 'tunnel', 'tunnel-part', 'tunnel-late', 'pipeline-fail']), ms: 0, body: dice.pick([50, 3000]) }))
      const more = kind === 'body' && plan.whole && dice.chance(30) ? [without(request('plain', { plain: 'now' }))] : []
      return { theme, ops: [plan, ...more, { op: 'flush' }, ...shortWait(dice)], leave: dice.pick(['end', 'end', 'reset']) }
    }
    case 'expect':
      return { theme, ops: [request('expect', { url: dice.pick(['/patient', '/patient', '/body']), whole: true, body: 50 }), { op: 'flush' }], leave }
    case 'closing': {
      const plan = without(request(dice.pick(['upgrade', 'hijack', 'connect', 'body']), { pending: 'accept', stream: dice.pick(['wait', 'wait', 'echo', 'half']), ms: 0, whole: dice.chance(50) }))
      if (plan.url !== '*') plan.url = dice.pick(['/free', '/auto', '/manual'])
      return { theme, ops: [...(dice.chance(20) ? [{ op: 'wait', ms: dice.between(0, 40) } as const] : []), plan, { op: 'flush' }], leave: dice.pick(['stay', 'stay', 'end', 'reset']) }
    }
    default:
      return planAny(dice, app, ids, leave)
  }
}

function planAny (dice: Dice, app: AppPlan, ids: Ids, leave: Leave): RoundPlan {
  const ops: Op[] = []
  const kinds: RequestKind[] = ['upgrade', 'upgrade', 'connect', 'hijack', 'body', 'body', 'body', 'plain', 'plain', 'plain', 'ignored', 'head', 'expect']
  const count = dice.between(1, 4)
  for (let at = 0; at < count; at++) {
    if (dice.chance(3)) {
      ops.push({ op: 'garbage' })
      break
    }
    const plan = planRequest(dice, dice.pick(kinds), app, ids)
    ops.push(plan)
    if (dice.chance(40)) ops.push({ op: 'flush' }, ...shortWait(dice))
    if (plan.method === 'POST' && !plan.whole) {
      if (dice.chance(50)) ops.push({ op: 'flush' }, ...shortWait(dice), { op: 'bytes', count: dice.pick([1, 100, 5000]) })
      break
    }
    if (swallows(plan)) {
      if (dice.chance(40)) ops.push({ op: 'smuggle', id: ids.next++ })
      else if (dice.chance(60)) ops.push({ op: 'flush' }, ...shortWait(dice), { op: 'bytes', count: dice.pick([1, 100, 5000, 70_000]) })
      break
    }
  }
  if (dice.chance(6)) ops.push({ op: 'part' })
  ops.push({ op: 'flush' }, ...shortWait(dice))
  const moment = dice.below(100)
  if (moment < 12) ops.splice(dice.between(1, ops.length), 0, { op: 'flush' }, { op: dice.pick(['reset', 'destroy', 'end']) })
  else if (moment < 20) ops.splice(dice.between(0, ops.length - 1), 0, { op: 'pause' }, { op: 'wait', ms: 20 }, { op: 'resume' })
  return { theme: 'any', ops, leave }
}

function planHttp2 (dice: Dice, theme: Theme, app: AppPlan, ids: Ids): Http2RoundPlan {
  const kinds: RequestKind[] = ['upgrade', 'upgrade', 'connect', 'body', 'body', 'plain', 'plain']
  const leave = dice.pick<Leave>(['end', 'reset', 'destroy'])
  const one = (kind: RequestKind, facts: Partial<RequestPlan>): RequestPlan[] => [{ ...planRequest(dice, kind, app, ids), ...facts }]
  const open: Http2Op[] = [{ op: 'open', stream: 0, count: 0 }]
  switch (theme) {
    case 'h2-answers': {
      const url = dice.pick(['/early', '/early-auto', '/handler'])
      const requests = one(dice.pick(['upgrade', 'body']), { url, pending: dice.pick(['answer', 'answer-stream', 'raw']), bytes: 100_000, ms: dice.pick([0, 10, 25, 45]) })
      const plan = requests[0] as RequestPlan
      if (dice.chance(70)) plan.hook = { at: dice.pick(['onRequest', 'preHandler']), does: dice.pick(['answer', 'stream', 'raw']), ms: dice.pick([0, 10, 30]), bytes: 100_000 }
      return { theme, requests, ops: [...open, { op: 'wait', stream: 0, count: 50 }], window: dice.pick([0, 0, 65_535]), leave: 'destroy' }
    }
    case 'h2-window': {
      const requests = one(dice.pick(['upgrade', 'body', 'connect']), { pending: 'answer', bytes: 70_000, ms: 0 })
      const plan = requests[0] as RequestPlan
      plan.url = plan.kind === 'connect' ? '*' : '/few'
      plan.hook = { at: 'onRequest', does: dice.pick(['answer', 'throw']), ms: 0, bytes: 70_000 }
      return { theme, requests, ops: open, window: 0, leave: 'destroy', stalled: true }
    }
    case 'h2-deaf': {
      const requests = one('upgrade', { url: '/deaf', stream: 'say', bytes: 20_000_000, ms: 0, body: 0 })
      delete (requests[0] as RequestPlan).hook
      return { theme, requests, ops: [...open, { op: 'wait', stream: 0, count: 30 }, { op: 'deaf', stream: 0, count: 0 }], window: 2 ** 31 - 1, leave: 'stay' }
    }
    case 'h2-half':
      return { theme, requests: [], ops: [{ op: 'half-block', stream: 0, count: dice.below(4) }], window: 65_535, leave: 'stay' }
    default: {
      const count = dice.between(1, 4)
      const requests = Array.from({ length: count }, () => planRequest(dice, dice.pick(kinds), app, ids))
      const ops: Http2Op[] = []
      for (let stream = 0; stream < count; stream++) {
        ops.push({ op: 'open', stream, count: 0 })
        const acts = dice.between(0, 3)
        for (let act = 0; act < acts; act++) {
          ops.push({ op: dice.pick(['write', 'write', 'end', 'rst', 'wait', 'wait']), stream: dice.between(0, stream), count: dice.pick([1, 5, 20, 5000]) })
        }
      }
      for (const op of ops) if (op.op === 'wait') op.count = Math.min(op.count, 25)
      if (dice.chance(15)) ops.splice(dice.between(1, ops.length), 0, { op: dice.pick(['session-close', 'session-destroy', 'reset']), stream: 0, count: 0 })
      return { theme: 'h2-any', requests, ops, window: dice.pick([0, 100, 65_535, 65_535, 65_535]), leave }
    }
  }
}

/** The rounds in which a server without the plugin has nothing to do with a takeover. */
export function plainOnly (plan: BatchPlan): BatchPlan {
  const rounds = plan.rounds.map(round => ({
    ...round,
    ops: round.ops.filter(op => op.op === 'request' ? op.kind === 'plain' : op.op !== 'bytes' && op.op !== 'smuggle' && op.op !== 'await-answer')
  })).filter(({ ops, stalled, leave }) => ops.some(({ op }) => op === 'request') && stalled !== true && leave !== 'stay')
  const http2 = plan.http2.filter(({ requests, leave }) => leave !== 'stay' && requests.every(({ kind }) => kind === 'plain'))
  return { ...plan, rounds, http2 }
}
